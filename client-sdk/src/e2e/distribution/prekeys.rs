//! The prekeys of this member: made, replaced, and their private halves erased (VEIL-1 section 9.3).
//!
//! Invariant: at most two private halves exist, and that of the older one only for a transition window.

use veilmq_protocol::veil::{
    channel::{Identity, Secret32},
    distribution::{DistributionError, Prekey, PrekeyFields},
};

use crate::e2e::{Entropy, wrapping};

const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// A prekey is replaced after this long, and issuers may use it twice as long: its owner may be away.
const REPLACE_MS: u64 = 7 * DAY_MS;
/// How long the private half outlives its replacement.
const TRANSITION_MS: u64 = 600_000;

#[derive(Default)]
pub(super) struct Prekeys {
    pub(super) current: Option<OwnPrekey>,
    pub(super) previous: Option<OwnPrekey>,
    pub(super) last_id: u32,
}

pub(super) struct OwnPrekey {
    pub(super) id: u32,
    pub(super) secret: Secret32,
    pub(super) public: [u8; 32],
    pub(super) made_ms: u64,
}

impl Prekeys {
    /// Replaces the prekey when it is time. Returns whether there is another one to be published.
    pub(super) fn advance(&mut self, now_unix_ms: u64, entropy: Entropy<'_>) -> bool {
        let since = self.current.as_ref().map(|current| current.made_ms);
        if self.previous.is_some()
            && since.is_none_or(|made| made.saturating_add(TRANSITION_MS) <= now_unix_ms)
        {
            self.previous = None;
        }
        if since.is_some_and(|made| made.saturating_add(REPLACE_MS) > now_unix_ms) {
            return false;
        }
        let (secret, public) = wrapping::new_key_pair(entropy);
        // Issuers take no older number than they know, also of a member that has lost its state.
        let by_time = u32::try_from(now_unix_ms / 1_000).unwrap_or_default();
        self.last_id = self.last_id.saturating_add(1).max(by_time);
        let made = OwnPrekey { id: self.last_id, secret, public, made_ms: now_unix_ms };
        self.previous = self.current.replace(made);
        true
    }

    /// When [`advance`](Self::advance) has something to do, in unix milliseconds.
    pub(super) fn next_due(&self) -> u64 {
        let Some(current) = &self.current else { return 0 };
        let wait = if self.previous.is_some() { TRANSITION_MS } else { REPLACE_MS };
        current.made_ms.saturating_add(wait)
    }

    /// The private half of a prekey that a wrap names.
    pub(super) fn secret(&self, id: u32) -> Option<&Secret32> {
        let own = [&self.current, &self.previous];
        own.into_iter().flatten().find(|prekey| prekey.id == id).map(|prekey| &prekey.secret)
    }

    /// The current prekey, signed.
    ///
    /// # Errors
    /// [`DistributionError`] about shape.
    pub(super) fn signed(&self, identity: &Identity) -> Result<Option<Prekey>, DistributionError> {
        let Some(OwnPrekey { id, public, made_ms, .. }) = &self.current else { return Ok(None) };
        let fields = PrekeyFields {
            id: *id,
            not_after_ms: made_ms.saturating_add(2 * REPLACE_MS),
            x25519: *public,
            certificate: identity.certificate().clone(),
        };
        fields.sign(identity.keys()).map(Some)
    }
}
