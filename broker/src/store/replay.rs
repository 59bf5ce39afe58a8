//! Reading a log: everything that is live, for a recovery or in the order of the storage trait, or the bodies of some messages.
//!
//! A recovery is one pass over the rows, with a thread for each of its parts. A replay is two, since what a record refers to may be
//! younger in the log than the record itself. Invariant: every record that a replay visits refers only to records visited before it;
//! only a reference that names a group may be left over from a session.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use veilmq_core::{Message, MessageId, Record, RecoveryPart, Reference};

use super::apart::{Rows, share_out};
use super::entry::{Effect, Entries, Entry, Key};
use super::index::Index;
use super::log::{Log, RowSource, UnknownRowVersion};
use super::opening::Progress;
use super::rows::{Assembler, Contents, Row, RowFault, RowKey};
use super::values::{decode, decode_message};

impl Log {
    /// Visits everything that is live: sessions, then what belongs to them and retained messages, then bodies and references.
    ///
    /// # Errors
    /// What the source answered.
    pub(crate) fn replay<S: RowSource>(
        &self,
        source: &S,
        visit: &mut dyn FnMut(Record),
    ) -> Result<(), S::Error> {
        let mut sessions = Sessions { index: &self.index, visit: &mut *visit, waiting: Vec::new() };
        let mut not_understood =
            self.pass(source, "replaying sessions", &mut |key, entry| sessions.entry(key, entry))?;
        sessions.finish();
        let mut messages =
            Messages { index: &self.index, visit, bodies: HashSet::new(), waiting: HashMap::new() };
        not_understood +=
            self.pass(source, "replaying messages", &mut |key, entry| messages.entry(key, entry))?;
        tell_not_understood(not_understood);
        Ok(())
    }

    /// Takes everything that is live into the parts of a recovery, each on a thread of its own.
    ///
    /// # Errors
    /// What the source answered.
    pub(crate) fn recover<S: RowSource>(
        &self,
        source: &S,
        parts: &mut [RecoveryPart],
    ) -> Result<(), S::Error> {
        let mut progress = Progress::new("recovering");
        let mut each = |_: &[u8], _: &[u8]| {
            progress.row();
            Ok(())
        };
        let readers = parts.iter_mut().map(|part| |rows: Rows<S::Bytes>| self.fill(part, rows));
        let not_understood = share_out(source, &self.oldest.bytes(), &mut each, readers)?;
        tell_not_understood(not_understood.iter().sum());
        Ok(())
    }

    /// Takes into a part what is its own; returns how many values it did not understand.
    fn fill<B: AsRef<[u8]>>(&self, part: &mut RecoveryPart, rows: Rows<B>) -> u64 {
        let own = part.part();
        self.index.heads().filter(|session| own.has(session.0)).for_each(|session| part.expect(session));
        let (mut assembler, mut not_understood) = (Assembler::default(), 0);
        rows.for_each(|key, row| {
            // No row had an unknown version when the log was opened.
            let Ok(Some(Contents { place, entries })) = read(key, row, &mut assembler) else { return };
            for entry in Entries::new(entries).map_while(Result::ok) {
                let Effect::Put { key, .. } = entry.effect else { continue };
                if own.has(key.number()) && self.index.sequence_of(key) == Some(place.sequence) {
                    match decode(key, entry.value) {
                        Some(record) => part.apply(record),
                        None => not_understood += 1,
                    }
                }
            }
        });
        not_understood
    }

    /// Passes each live entry to `take`; returns how many of them it did not understand.
    fn pass<S: RowSource>(
        &self,
        source: &S,
        what: &'static str,
        take: &mut dyn FnMut(Key, &Entry<'_>) -> Option<()>,
    ) -> Result<u64, S::Error> {
        let mut progress = Progress::new(what);
        let (mut assembler, mut not_understood) = (Assembler::default(), 0);
        for row in source.rows(&self.oldest.bytes()) {
            let (key, row) = row?;
            progress.row();
            let Some(Contents { place, entries }) = read(key.as_ref(), row.as_ref(), &mut assembler)? else {
                continue;
            };
            for entry in Entries::new(entries).map_while(Result::ok) {
                if let Effect::Put { key, .. } = entry.effect
                    && self.index.sequence_of(key) == Some(place.sequence)
                    && take(key, &entry).is_none()
                {
                    not_understood += 1;
                }
            }
        }
        Ok(not_understood)
    }

    /// Reads the bodies of messages, in the order asked. What is not stored is left out, and so is, loudly, what cannot be read any more.
    ///
    /// # Errors
    /// What the source answered.
    pub(crate) fn fetch<S: RowSource>(
        &self,
        source: &S,
        messages: &[MessageId],
    ) -> Result<Vec<Arc<Message>>, S::Error> {
        let mut found = Vec::with_capacity(messages.len());
        for message in messages {
            let Some(place) = self.index.row_of(*message) else { continue };
            match body(source, place, *message)? {
                Some(body) => found.push(body),
                None => tracing::error!(%message, "a stored message cannot be read"),
            }
        }
        Ok(found)
    }
}

/// Reads the body of a message from the rows that hold it; None if they are damaged.
fn body<S: RowSource>(
    source: &S,
    place: RowKey,
    message: MessageId,
) -> Result<Option<Arc<Message>>, S::Error> {
    let mut assembler = Assembler::default();
    for row in source.rows(&place.bytes()) {
        let (key, row) = row?;
        if let Some(contents) = read(key.as_ref(), row.as_ref(), &mut assembler)? {
            let is_body = |entry: &Entry<'_>| matches!(entry.effect, Effect::Put { key: Key::Body(id), .. } if id == message);
            let mut entries = Entries::new(contents.entries).map_while(Result::ok);
            return Ok(entries.find(is_body).and_then(|entry| decode_message(message, entry.value)));
        }
        if !assembler.is_incomplete() {
            break;
        }
    }
    Ok(None)
}

fn tell_not_understood(values: u64) {
    if values > 0 {
        tracing::error!(values, "stored values are not what they should be; they were skipped");
    }
}

/// Takes a row; returns the entries that it completes. Damage was reported when the log was opened.
pub(super) fn read<'a>(
    key: &[u8],
    row: &'a [u8],
    assembler: &'a mut Assembler,
) -> Result<Option<Contents<'a>>, UnknownRowVersion> {
    let mut stray = 0;
    match Row::open(key, row) {
        Ok(row) => Ok(assembler.push(&row, &mut stray)),
        Err(RowFault::Damaged) => {
            assembler.give_up(&mut stray);
            Ok(None)
        }
        Err(RowFault::UnknownVersion(version)) => Err(UnknownRowVersion(version)),
    }
}

/// The pass for everything but messages to sessions.
struct Sessions<'a> {
    index: &'a Index,
    visit: &'a mut dyn FnMut(Record),
    /// What belongs to sessions, until all of these are known.
    waiting: Vec<Record>,
}

impl Sessions<'_> {
    /// None if the value is not what it should be.
    fn entry(&mut self, key: Key, entry: &Entry<'_>) -> Option<()> {
        match key {
            Key::Session(_) | Key::Retained(_) => (self.visit)(decode(key, entry.value)?),
            Key::Subscription(session, _) | Key::Received(session, _) => {
                let record = decode(key, entry.value)?;
                if self.index.has_head(session) {
                    self.waiting.push(record);
                }
            }
            Key::Reference(..) | Key::Body(_) => {}
        }
        Some(())
    }

    fn finish(self) {
        self.waiting.into_iter().for_each(self.visit);
    }
}

/// The pass for messages to sessions.
struct Messages<'a> {
    index: &'a Index,
    visit: &'a mut dyn FnMut(Record),
    /// The bodies that were visited.
    bodies: HashSet<MessageId>,
    /// References whose body has not come yet: usually those of the same batch.
    waiting: HashMap<MessageId, Vec<Reference>>,
}

impl Messages<'_> {
    /// None if the value is not what it should be.
    fn entry(&mut self, key: Key, entry: &Entry<'_>) -> Option<()> {
        if !matches!(key, Key::Reference(..) | Key::Body(_)) {
            return Some(());
        }
        match decode(key, entry.value)? {
            Record::Advanced { reference, message } => {
                if !self.index.has_head(reference.session) && reference.share.is_none() {
                    return Some(());
                }
                if self.bodies.contains(&message) {
                    (self.visit)(Record::Advanced { reference, message });
                } else {
                    self.waiting.entry(message).or_default().push(reference);
                }
            }
            Record::Published { message, .. } => {
                let id = message.id()?;
                let references = self.waiting.remove(&id).unwrap_or_default();
                self.bodies.insert(id);
                (self.visit)(Record::Published { message, references });
            }
            Record::Session(_)
            | Record::SessionEnded { .. }
            | Record::Subscribed { .. }
            | Record::Unsubscribed { .. }
            | Record::Forgotten { .. }
            | Record::Settled { .. }
            | Record::Received { .. }
            | Record::Released { .. }
            | Record::Retained { .. }
            | Record::RetainedCleared { .. } => {}
        }
        Some(())
    }
}
