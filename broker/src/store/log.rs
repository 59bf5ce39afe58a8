//! The log: batches of packed entries, one after the other, with an index of what in them is live.
//!
//! [`Log::prepare`] makes the rows of a commit, [`Log::applied`] takes note once they are durable; in between the log is as before, so a
//! commit that fails leaves nothing to undo. This file knows no engine: it reads rows through [`RowSource`] and hands rows out.
//! Invariant: the batches from the oldest row to the newest batch have consecutive numbers, and only an entry that the index gives is live.

use veilmq_core::MessageId;

use super::batch::Batch;
use super::compaction::{self, Taken};
use super::entry::{Effect, Key, encode};
use super::index::Index;
use super::rows::{Packer, RowKey};

/// Where rows are read from.
pub(crate) trait RowSource {
    /// The bytes of a key or a row.
    type Bytes: AsRef<[u8]> + Clone + Send + Sync;
    /// Why rows cannot be read.
    type Error: From<UnknownRowVersion>;

    /// Returns the rows from a key on, in the order of the keys.
    fn rows(
        &self,
        from: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Self::Bytes, Self::Bytes), Self::Error>>;
}

/// An intact row has a version that this broker does not know; the store must be left alone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownRowVersion(pub(crate) u8);

/// A key that nothing has: messages count from 1.
const NOTHING: Key = Key::Body(MessageId(0));

/// The state of a log.
pub(crate) struct Log {
    /// Where the live entries are.
    pub(super) index: Index,
    /// The bytes of all rows from the oldest on, keys included.
    pub(super) bytes: u64,
    /// The first row that counts.
    pub(super) oldest: RowKey,
    /// The number of the last batch; 0 if there is none.
    pub(super) newest: u64,
    /// The keys of rows outside the log that are of no use; the next commit removes them.
    pub(super) junk: Vec<Vec<u8>>,
    /// Keys whose values refer to nothing; the next commit says that they are removed.
    pub(super) orphans: Vec<Key>,
    /// The last batch that was found damaged or missing: up to it the log is rewritten whatever its size, so that damage, once reported,
    /// is not met again.
    pub(super) damaged_until: u64,
    /// How many bytes the log may have above twice those of its live entries.
    pub(super) spare_bytes: u64,
    /// How many bytes there is room for; less is not asked for than [`Log::bytes_max`] says.
    pub(super) room_bytes: u64,
}

/// What the log may have above a quarter more than its live entries, however little room there is.
const SPARE_BYTES_MIN: u64 = 64 * 1024;

/// A commit that has not happened yet.
pub(crate) struct Commit<B> {
    /// The rows to write.
    pub(crate) rows: Vec<(RowKey, Vec<u8>)>,
    /// The keys of rows to remove first, besides those that compaction takes out.
    pub(crate) junk: Vec<Vec<u8>>,
    placed: Vec<Placed>,
    bytes: u64,
    taken: Taken<B>,
}

/// What takes a commit back that failed, should it be on disk all the same: nobody was told that it is, so nothing may be built on it.
pub(crate) struct Undo<B> {
    /// The number of the batch.
    pub(crate) sequence: u64,
    /// The keys of the rows to remove.
    pub(crate) written: Vec<RowKey>,
    /// The rows to write again.
    pub(crate) taken: Vec<(B, B)>,
}

impl<B: Clone> Commit<B> {
    /// Returns the keys of the rows that compaction takes out.
    pub(crate) fn taken(&self) -> impl Iterator<Item = &B> {
        self.taken.rows.iter().map(|(key, _)| key)
    }

    /// Returns what takes the commit back.
    pub(crate) fn undo(&self) -> Undo<B> {
        let written: Vec<RowKey> = self.rows.iter().map(|(key, _)| *key).collect();
        let sequence = written.first().map_or(0, |key| key.sequence);
        Undo { sequence, written, taken: self.taken.rows.clone() }
    }
}

/// An entry in its row.
struct Placed {
    effect: Effect,
    place: RowKey,
    bytes: usize,
}

/// The batch that is being written.
pub(super) struct Writing {
    packer: Packer,
    placed: Vec<Placed>,
}

impl Writing {
    /// Adds an entry.
    pub(super) fn append(&mut self, effect: Effect, entry: &[u8]) {
        let place = self.packer.push(entry);
        self.placed.push(Placed { effect, place, bytes: entry.len() });
    }

    /// Returns the bytes of its rows so far.
    pub(super) fn bytes(&self) -> u64 {
        self.packer.bytes()
    }

    /// Returns the number of the batch.
    pub(super) fn sequence(&self) -> u64 {
        self.packer.sequence()
    }
}

impl Log {
    /// Returns the number of the last batch; 0 if there is none.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Returns the bytes of the rows.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Says how many bytes there is room for. True if the log has more that it can do without: commits take that out.
    pub(crate) fn confine(&mut self, room_bytes: u64) -> bool {
        self.room_bytes = room_bytes;
        self.bytes > self.bytes_max()
    }

    /// Returns the bytes from which on the log is compacted: where there is much room, so many that most entries die before they are
    /// written for the second time; where there is little, so few that what is dead takes no room from what is to be stored.
    pub(super) fn bytes_max(&self) -> u64 {
        let live_bytes = self.index.live_bytes();
        let least = live_bytes + live_bytes / 4 + SPARE_BYTES_MIN;
        (2 * live_bytes + self.spare_bytes).min(self.room_bytes.max(least))
    }

    /// Returns the bytes of the log once so many were added and taken. A damaged engine may give rows that it did not give when
    /// they were counted.
    pub(super) fn bytes_after(&self, added: u64, taken: u64) -> u64 {
        (self.bytes + added).saturating_sub(taken)
    }

    /// Makes the rows of a batch, and of what compaction moves with it; None if nothing would change. A batch without any record has a
    /// row all the same: it asks whether the medium takes one.
    ///
    /// # Errors
    /// What the source answered.
    pub(crate) fn prepare<S: RowSource>(
        &self,
        source: &S,
        batch: &Batch<'_>,
    ) -> Result<Option<Commit<S::Bytes>>, S::Error> {
        let mut writing = Writing { packer: Packer::new(self.newest + 1), placed: Vec::new() };
        self.append_changes(batch, &mut writing);
        if batch.is_empty() {
            append(Effect::Removed(NOTHING), &[], &mut Vec::new(), &mut writing);
        }
        if writing.placed.is_empty() {
            return Ok(None);
        }
        let mut entry = Vec::new();
        for key in self.orphans.iter().filter(|key| !batch.changes_key(**key)) {
            append(Effect::Removed(*key), &[], &mut entry, &mut writing);
        }
        let taken = compaction::compact(self, source, batch, &mut writing)?;
        let Writing { packer, placed } = writing;
        let bytes = packer.bytes();
        let rows = packer.seal(taken.oldest);
        Ok(Some(Commit { rows, junk: self.junk.clone(), placed, bytes, taken }))
    }

    /// Adds what changes something. The end of a session comes before what it has anew.
    fn append_changes(&self, batch: &Batch<'_>, writing: &mut Writing) {
        let mut entry = Vec::new();
        for session in batch.ended() {
            if self.index.has_session(session) {
                append(Effect::SessionEnded(session), &[], &mut entry, writing);
            }
        }
        let mut bytes = Vec::new();
        for (key, value) in batch.changes() {
            match value {
                Some(value) => {
                    bytes.clear();
                    value.encode(&mut bytes);
                    append(Effect::Put { key, shared: value.is_shared() }, &bytes, &mut entry, writing);
                }
                None if self.index.sequence_of(key).is_some() => {
                    append(Effect::Removed(key), &[], &mut entry, writing);
                }
                None => {}
            }
        }
    }

    /// Takes note that a commit has happened.
    pub(crate) fn applied<B>(&mut self, commit: Commit<B>) {
        let Commit { rows: _, junk: _, placed, bytes, taken } = commit;
        for Placed { effect, place, bytes } in placed {
            self.index.apply(effect, place, bytes);
        }
        self.bytes = self.bytes_after(bytes, taken.bytes);
        self.oldest = taken.oldest;
        self.newest += 1;
        self.junk.clear();
        self.orphans.clear();
    }
}

fn append(effect: Effect, value: &[u8], entry: &mut Vec<u8>, writing: &mut Writing) {
    entry.clear();
    encode(effect, value, entry);
    writing.append(effect, entry);
}
