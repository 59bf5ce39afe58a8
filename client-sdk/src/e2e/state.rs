//! What an [`E2e`] has to remember over a restart, as bytes.
//!
//! The layout is ours and versioned; a checksum (SHA-256) tells a damaged state from a good one. It holds key
//! identifiers, hashes of topics and counters, and no key.

use std::collections::BTreeSet;

use veilmq_protocol::veil::{
    channel::hash,
    layout::{LayoutError, Reader},
};

use super::{E2e, error::StateError, replay::Arrival};

const MAGIC: [u8; 4] = *b"VE2E";
const VERSION: u8 = 2;

/// When a state was saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Saved {
    /// In passing: messages may have been received after it.
    InPassing = 0,
    /// At shutdown: nothing was received or sent after it.
    AtShutdown = 1,
}

impl E2e {
    /// Returns the replay state and the sender session as bytes.
    ///
    /// ```
    /// use veilmq_client::e2e::{E2e, Limits, Member, Saved};
    ///
    /// let kid = "9de50bb148ef83cd".parse().unwrap();
    /// let bytes = E2e::new(Member::Unsigned(kid), Limits::default()).export_state(Saved::AtShutdown);
    ///
    /// let mut restarted = E2e::new(Member::Unsigned(kid), Limits::default());
    /// restarted.import_state(&bytes, 1_790_000_000_000, false)?;
    /// # Ok::<(), veilmq_client::e2e::StateError>(())
    /// ```
    pub fn export_state(&self, saved: Saved) -> Vec<u8> {
        self.export_state_without(saved, &[])
    }

    /// Does the same as if what is `untaken` had not been received: it has not reached the application yet, and must be taken for new
    /// when it comes again.
    pub(crate) fn export_state_without(&self, saved: Saved, untaken: &[Arrival]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[VERSION, saved as u8]);
        out.extend_from_slice(&self.sender.newest_session_ms().to_be_bytes());
        self.receiver.replay.encode(untaken, &mut out);
        let checksum = hash(&[&out]);
        out.extend_from_slice(&checksum);
        out
    }

    /// What counts as received since the message that was opened last.
    pub(crate) fn newest_received(&self) -> Option<Arrival> {
        self.receiver.replay.newest()
    }

    /// The number of the message that the part opened last belongs to, once; none if the message opened last was no part of one.
    pub(crate) fn take_newest_part(&mut self) -> Option<u64> {
        self.receiver.chunks.take_newest()
    }

    /// The numbers of the messages of which parts are missing.
    pub(crate) fn incomplete_messages(&self) -> BTreeSet<u64> {
        self.receiver.chunks.incomplete()
    }

    /// Gives up messages whose parts take too long. Returns when the next is due, in unix milliseconds.
    pub(crate) fn forget_late_parts(&mut self, now_unix_ms: u64) -> Option<u64> {
        self.receiver.chunks.forget_late(now_unix_ms);
        self.receiver.chunks.next_due()
    }

    /// Takes back what [`E2e::export_state`] gave, before anything is sealed or opened.
    ///
    /// If the state was saved in passing, the program ended without saving another, so messages may have been received since. Unless
    /// `accept_replay_after_crash`, whatever may be one of them is refused: only messages above the saved marks and sessions newer than
    /// `now_unix_ms` are accepted then (VEIL-1 section 12.2).
    ///
    /// # Errors
    /// [`StateError`]; this object is unchanged then.
    pub fn import_state(
        &mut self,
        bytes: &[u8],
        now_unix_ms: u64,
        accept_replay_after_crash: bool,
    ) -> Result<(), StateError> {
        let (saved, session_ms, streams) = open_state(bytes)?;
        self.receiver.replay.decode(streams)?;
        self.sender.resume_after(session_ms);
        if saved == Saved::InPassing && !accept_replay_after_crash {
            self.receiver.replay.distrust(now_unix_ms.saturating_mul(1 << 16));
        }
        Ok(())
    }
}

fn open_state(bytes: &[u8]) -> Result<(Saved, u64, Reader<'_>), StateError> {
    let (content, checksum) = bytes.split_last_chunk::<32>().ok_or(StateError::NotState)?;
    let mut reader = Reader::new(content);
    if reader.array("magic").map_err(|_| StateError::NotState)? != MAGIC {
        return Err(StateError::NotState);
    }
    let version = reader.u8("version").map_err(|_| StateError::NotState)?;
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    if hash(&[content]) != *checksum {
        return Err(StateError::Checksum);
    }
    let saved = match reader.u8("circumstance")? {
        0 => Saved::InPassing,
        1 => Saved::AtShutdown,
        2.. => return Err(LayoutError::Value("circumstance").into()),
    };
    Ok((saved, reader.u64("session")?, reader))
}
