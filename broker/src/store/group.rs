//! What the next commit will store, and what is kept of it when it fails.
//!
//! A batch that a client waits for is dropped with its failure, because the client still has what it sent. What nobody waits for,
//! and what only frees or settles something, is owed to the store, which would otherwise bring back what is over.
//! Invariant: a commit that fails keeps as many records at most as were promised, as there are things stored to be freed, and as
//! shards make of their own accord while they refuse what clients want stored.

use std::collections::HashSet;
use std::time::Instant;

use veilmq_core::{MessageId, Record, Reference, ShardIndex, Ticket};

use super::writer::Submission;

/// What the next commit will store.
#[derive(Default)]
pub(super) struct Group {
    pub(super) records: Vec<Record>,
    pub(super) bytes: usize,
    /// The tickets that wait for the commit, in the order of arrival.
    tickets: Vec<Waiting>,
    /// How much of the group must not be dropped, because it was acknowledged on arrival or is owed: records, bytes.
    promised: (usize, usize),
    /// When it must be committed, unless tickets wait for it.
    pub(super) due: Option<Instant>,
    /// Messages in the memory of shards whose bodies were dropped with a failed commit: no reference to them is stored either.
    bodiless: HashSet<MessageId>,
}

struct Waiting {
    shard: ShardIndex,
    ticket: Ticket,
    /// How many records it waits for.
    records: usize,
    /// Whether somebody gives up when they are not stored.
    awaited: bool,
}

impl Group {
    /// Adds records that nobody waits for and that must not be dropped.
    pub(super) fn owe(&mut self, records: Vec<Record>) {
        self.records.extend(records);
        self.promise_all();
    }

    /// Adds a batch.
    pub(super) fn add(&mut self, submission: &Submission, records: Vec<Record>) {
        let &Submission { shard, ticket, bytes, awaited, .. } = submission;
        let start = self.records.len();
        if self.bodiless.is_empty() {
            self.records.extend(records);
        } else {
            self.add_with_bodies(records);
        }
        self.bytes += bytes;
        self.tickets.push(Waiting { shard, ticket, records: self.records.len() - start, awaited });
    }

    fn add_with_bodies(&mut self, records: Vec<Record>) {
        for record in records {
            match &record {
                Record::Advanced { message, .. } if self.bodiless.contains(message) => continue,
                Record::Forgotten { message } => drop(self.bodiless.remove(message)),
                _ => {}
            }
            self.records.push(record);
        }
    }

    /// Tells whether a ticket waits.
    pub(super) fn is_awaited(&self) -> bool {
        !self.tickets.is_empty()
    }

    /// Keeps all records that there are until they are stored.
    pub(super) fn promise_all(&mut self) {
        self.promised = (self.records.len(), self.bytes);
    }

    /// Lets go of the records, which are stored.
    pub(super) fn stored(&mut self) {
        let bodiless = std::mem::take(&mut self.bodiless);
        *self = Self { bodiless, ..Self::default() };
    }

    /// Lets go of the tickets; returns the last one of each shard.
    pub(super) fn take_last_tickets(&mut self) -> Vec<(ShardIndex, Ticket)> {
        let mut last: Vec<(ShardIndex, Ticket)> = Vec::new();
        for Waiting { shard, ticket, .. } in self.tickets.drain(..) {
            match last.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, known)) => *known = ticket,
                None => last.push((shard, ticket)),
            }
        }
        last
    }

    /// Keeps, of a group that could not be stored, what was promised and what is owed; returns the tickets in vain, and the
    /// batches that store bodies and were dropped.
    pub(super) fn failed(&mut self) -> (Vec<(ShardIndex, Ticket)>, Vec<Record>) {
        let (promised, mut bytes) = self.promised;
        let failed = self.records.split_off(promised.min(self.records.len()));
        let mut failed = failed.into_iter();
        let (mut tickets, mut dropped) = (Vec::new(), Vec::new());
        for Waiting { shard, ticket, records, awaited } in self.tickets.drain(..) {
            let batch: Vec<Record> = failed.by_ref().take(records).collect();
            // A batch that passes something on stores it anew and frees the old: it is kept as a whole or not at all.
            let is_whole = !awaited || batch.iter().all(|record| body(record).is_none());
            if is_whole {
                let owed = batch.into_iter().filter(|record| !awaited || frees(record));
                self.records.extend(owed.inspect(|record| bytes += record_bytes(record)));
            } else {
                self.bodiless.extend(batch.iter().filter_map(body));
                dropped.extend(batch);
            }
            tickets.push((shard, ticket));
        }
        self.bytes = bytes;
        self.promise_all();
        (tickets, dropped)
    }
}

/// Tells whether a record makes the store hold less.
fn frees(record: &Record) -> bool {
    match record {
        Record::SessionEnded { .. }
        | Record::Unsubscribed { .. }
        | Record::Forgotten { .. }
        | Record::Settled { .. }
        | Record::Released { .. }
        | Record::RetainedCleared { .. } => true,
        Record::Session(_)
        | Record::Subscribed { .. }
        | Record::Published { .. }
        | Record::Advanced { .. }
        | Record::Received { .. }
        | Record::Retained { .. } => false,
    }
}

/// Returns the message whose body a record stores.
fn body(record: &Record) -> Option<MessageId> {
    if let Record::Published { message, .. } = record { message.id() } else { None }
}

/// The bytes that a record keeps in memory while it waits.
pub(crate) fn record_bytes(record: &Record) -> usize {
    let reference_bytes =
        |reference: &Reference| size_of::<Reference>() + 4 * reference.subscription_ids.len();
    size_of::<Record>()
        + match record {
            Record::Session(head) => {
                let will = head.will.as_ref();
                head.client_id.len()
                    + will.map_or(0, |will| {
                        will.topic.len() + will.payload.len() + will.application_properties.len()
                    })
            }
            Record::Subscribed { filter: name, .. }
            | Record::Unsubscribed { filter: name, .. }
            | Record::RetainedCleared { topic: name } => name.len(),
            Record::Published { message, references } => {
                message.size_bytes() + references.iter().map(reference_bytes).sum::<usize>()
            }
            Record::Advanced { reference, .. } => reference_bytes(reference),
            Record::Retained { message } => message.size_bytes(),
            Record::SessionEnded { .. }
            | Record::Forgotten { .. }
            | Record::Settled { .. }
            | Record::Received { .. }
            | Record::Released { .. } => 0,
        }
}
