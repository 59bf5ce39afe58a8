//! Replay: from rows in the order of their keys to records in the order of the storage trait.
//!
//! Damaged rows, and rows that refer to something that is not there, are skipped, counted, and listed for removal.
//! Invariant: every record that is visited refers only to records visited before it; only a reference that names a group may
//! be left over from a session.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use veilmq_core::{MessageId, Record, Reference, SessionId};
use veilmq_protocol::PacketId;

use super::rows::{Assembled, Assembler, Damage, Key, RowFault, Table};
use super::values::{decode_message, decode_reference, decode_session, decode_subscription};

/// What a pass over the stored rows found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// The rows that were read, usable or not.
    pub rows: u64,
    /// The rows that were not what had been written; they were skipped.
    pub damaged_rows: u64,
    /// The values that referred to a session or message that is not there; they were skipped.
    pub orphans: u64,
    /// The batches that were durable once and are missing at the end; 0 unless the medium lost or damaged them.
    pub lost_batches: u64,
}

/// What a pass leaves for the store to work with.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) report: ReplayReport,
    /// The highest sequence number of any intact row.
    pub(crate) sequence_max: u64,
    /// The values of more than one row, with the number of their rows.
    pub(crate) row_counts: BTreeMap<Key, u16>,
    /// The keys of rows that are of no use.
    pub(crate) useless: Vec<Vec<u8>>,
}

/// An intact row has a version that this broker does not know.
#[derive(Debug)]
pub(crate) struct UnknownRowVersion(pub(crate) u8);

/// A pass over all rows.
pub(crate) struct Replay<'v> {
    assembler: Assembler,
    state: State<'v>,
}

struct State<'v> {
    visit: &'v mut dyn FnMut(Record),
    outcome: Outcome,
    unknown_version: Option<u8>,
    /// The number of the last batch as its own row gives it.
    last_batch: Option<u64>,
    sessions: HashSet<SessionId>,
    /// References whose body has not come yet.
    references: HashMap<MessageId, Vec<Reference>>,
}

impl<'v> Replay<'v> {
    /// Starts a pass that gives each record to `visit`.
    pub(crate) fn new(visit: &'v mut dyn FnMut(Record)) -> Self {
        let state = State {
            visit,
            outcome: Outcome::default(),
            unknown_version: None,
            last_batch: None,
            sessions: HashSet::new(),
            references: HashMap::new(),
        };
        Self { assembler: Assembler::default(), state }
    }

    /// Takes the next row.
    pub(crate) fn row(&mut self, row_key: &[u8], row: &[u8]) {
        let state = &mut self.state;
        state.outcome.report.rows += 1;
        match self.assembler.push(row_key, row, &mut |damage| state.damaged(damage)) {
            Assembled::Incomplete => {}
            Assembled::Value { key, sequence, chunks, bytes } => {
                self.state.value(&key, sequence, chunks, bytes);
            }
        }
    }

    /// Ends the pass.
    ///
    /// # Errors
    /// [`UnknownRowVersion`]: the store must be left alone.
    pub(crate) fn finish(mut self) -> Result<Outcome, UnknownRowVersion> {
        let state = &mut self.state;
        self.assembler.finish(&mut |damage| state.damaged(damage));
        if let Some(version) = state.unknown_version {
            return Err(UnknownRowVersion(version));
        }
        for (message, references) in core::mem::take(&mut state.references) {
            for reference in references {
                state.orphan(&Key::reference(reference.session, message));
            }
        }
        state.outcome.sequence_max = self.assembler.sequence_max();
        // Batches are atomic, so no row can be newer than the row that every batch writes.
        let missing = state.last_batch.map_or(0, |last| state.outcome.sequence_max.saturating_sub(last));
        state.outcome.report.lost_batches = missing;
        Ok(self.state.outcome)
    }
}

impl State<'_> {
    fn value(&mut self, key: &Key, sequence: u64, chunks: u16, bytes: &[u8]) {
        if chunks > 1 {
            self.outcome.row_counts.insert(*key, chunks);
        }
        if self.record(key, sequence, bytes).is_none() {
            self.outcome.report.damaged_rows += u64::from(chunks);
            self.discard(key);
        }
    }

    /// Turns a value into a record; None if its bytes are not one.
    fn record(&mut self, key: &Key, sequence: u64, bytes: &[u8]) -> Option<()> {
        match key.table()? {
            Table::Sequence => self.last_batch = Some(sequence),
            Table::Session => {
                let session = decode_session(SessionId(key.number()?), bytes)?;
                self.sessions.insert(session.session);
                (self.visit)(Record::Session(session));
            }
            Table::Subscription => {
                let (filter, subscription) = decode_subscription(bytes)?;
                let filter = Arc::from(filter);
                self.of_session(key, |session| Record::Subscribed { session, filter, subscription })?;
            }
            Table::Reference => self.reference(key, bytes)?,
            Table::Body => self.body(MessageId(key.number()?), bytes)?,
            Table::Received => {
                let packet_id = PacketId::new(u16::from_be_bytes(key.second()?))?;
                self.of_session(key, |session| Record::Received { session, packet_id })?;
            }
            Table::Retained => (self.visit)(Record::Retained { message: decode_message(None, 0, bytes)? }),
        }
        Some(())
    }

    fn of_session(&mut self, key: &Key, record: impl FnOnce(SessionId) -> Record) -> Option<()> {
        let session = SessionId(key.number()?);
        if self.sessions.contains(&session) {
            (self.visit)(record(session));
        } else {
            self.orphan(key);
        }
        Some(())
    }

    fn reference(&mut self, key: &Key, bytes: &[u8]) -> Option<()> {
        let session = SessionId(key.number()?);
        let message = MessageId(u64::from_be_bytes(key.second()?));
        let reference = decode_reference(session, bytes)?;
        // What a session had as a member of a group is for another member when the session is gone.
        if self.sessions.contains(&session) || reference.share.is_some() {
            self.references.entry(message).or_default().push(reference);
        } else {
            self.orphan(key);
        }
        Some(())
    }

    fn body(&mut self, id: MessageId, bytes: &[u8]) -> Option<()> {
        let count = self.references.get(&id).map_or(0, Vec::len);
        let message = decode_message(Some(id), u32::try_from(count).unwrap_or(u32::MAX), bytes)?;
        let references = self.references.remove(&id).unwrap_or_default();
        (self.visit)(Record::Published { message, references });
        Some(())
    }

    fn damaged(&mut self, damage: Damage) {
        match damage.fault {
            RowFault::Damaged => {
                self.outcome.report.damaged_rows += 1;
                self.outcome.useless.push(damage.row_key);
            }
            RowFault::UnknownVersion(version) => self.unknown_version = Some(version),
        }
    }

    fn orphan(&mut self, key: &Key) {
        self.outcome.report.orphans += 1;
        self.discard(key);
    }

    fn discard(&mut self, key: &Key) {
        let chunks = self.outcome.row_counts.remove(key).unwrap_or(1);
        self.outcome.useless.extend((0..chunks).map(|chunk| key.row(chunk)));
    }
}
