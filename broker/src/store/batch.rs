//! A batch under construction: the last value of each key, and nothing that a later record of the batch undoes.
//!
//! Most messages are stored, sent and acknowledged within moments. If all of that falls into one batch, nothing
//! of it reaches the disk.

use core::ops::Bound;
use std::collections::BTreeMap;

use veilmq_core::{Record, SessionId};

use super::rows::{Key, RowFormat, SESSION_TABLES, Table};
use super::values::Value;

/// The changes that a sequence of records amounts to.
pub(crate) struct Batch<'a> {
    changes: BTreeMap<Key, Change<'a>>,
    ended: Vec<SessionId>,
    /// Whether a value that was first put in this batch is known to be in no earlier one.
    may_cancel: bool,
}

/// What happens to one key.
struct Change<'a> {
    /// The value to store; None removes it.
    value: Option<Value<'a>>,
    /// Whether nothing can be stored under the key yet, so that removing the value leaves nothing to do.
    fresh: bool,
}

impl<'a> Batch<'a> {
    /// Collects records in their order. `may_cancel` is false after a failed commit, which may have stored some
    /// of the same records: then whatever is removed is removed on disk too.
    pub(crate) fn collect(records: &'a [Record], may_cancel: bool) -> Self {
        let mut batch = Self { changes: BTreeMap::new(), ended: Vec::new(), may_cancel };
        for record in records {
            batch.add(record);
        }
        batch
    }

    /// Tells whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.ended.is_empty()
    }

    /// Returns the sessions whose stored rows go, before any change is made.
    pub(crate) fn ended(&self) -> &[SessionId] {
        &self.ended
    }

    /// Visits each key with its new value, or None if it is to be removed.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (&Key, Option<Value<'a>>)> {
        self.changes.iter().map(|(key, change)| (key, change.value))
    }

    fn add(&mut self, record: &'a Record) {
        match record {
            Record::Session(head) => self.put(Key::session(head.session), Value::Session(head), false),
            Record::SessionEnded { session } => self.end_session(*session),
            Record::Subscribed { session, filter, subscription } => {
                self.put(
                    Key::subscription(*session, filter),
                    Value::Subscription(filter, subscription),
                    false,
                );
            }
            Record::Unsubscribed { session, filter } => self.remove(Key::subscription(*session, filter)),
            Record::Published { message, references } => {
                // Identities are never used again, so what they name is new. A message without one is not stored.
                let Some(id) = message.id() else { return };
                self.put(Key::body(id), Value::Message(message), true);
                for reference in references {
                    self.put(Key::reference(reference.session, id), Value::Reference(reference), true);
                }
            }
            Record::Forgotten { message } => self.remove(Key::body(*message)),
            Record::Advanced { reference, message } => {
                self.put(Key::reference(reference.session, *message), Value::Reference(reference), false);
            }
            Record::Settled { session, message } => self.remove(Key::reference(*session, *message)),
            Record::Received { session, packet_id } => {
                self.put(Key::received(*session, *packet_id), Value::Received, false);
            }
            Record::Released { session, packet_id } => self.remove(Key::received(*session, *packet_id)),
            Record::Retained { message } => {
                self.put(Key::retained(message.topic()), Value::Message(message), false);
            }
            Record::RetainedCleared { topic } => self.remove(Key::retained(topic)),
        }
    }

    fn put(&mut self, key: Key, value: Value<'a>, fresh: bool) {
        let fresh = fresh && self.may_cancel;
        self.changes
            .entry(key)
            .and_modify(|change| change.value = Some(value))
            .or_insert(Change { value: Some(value), fresh });
    }

    fn remove(&mut self, key: Key) {
        if self.changes.get(&key).is_some_and(|change| change.fresh) {
            self.changes.remove(&key);
        } else {
            self.changes.insert(key, Change { value: None, fresh: false });
        }
    }

    /// Forgets what this batch was going to store for the session; what is stored already is the store's to find. References of
    /// groups outlive the session, and so does the removal of what may be one.
    fn end_session(&mut self, session: SessionId) {
        for table in SESSION_TABLES {
            let prefix = Key::session_prefix(table, session);
            let from = (Bound::Included(prefix.as_bytes()), Bound::Unbounded);
            let keys: Vec<Key> = self
                .changes
                .range::<[u8], _>(from)
                .take_while(|(key, _)| key.as_bytes().starts_with(prefix.as_bytes()))
                .filter(|(_, change)| !may_outlive_session(table, change.value))
                .map(|(key, _)| *key)
                .collect();
            for key in keys {
                self.changes.remove(&key);
            }
        }
        self.ended.push(session);
    }
}

fn may_outlive_session(table: Table, value: Option<Value<'_>>) -> bool {
    match value {
        Some(value) => value.format() == RowFormat::Shared,
        None => table == Table::Reference,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use veilmq_core::{Message, MessageId, MessageParts, Reference, Stage};
    use veilmq_protocol::{PacketId, QoS};

    use super::*;

    const SESSION: SessionId = SessionId(9);
    const MESSAGE: MessageId = MessageId(1);

    fn reference(stage: Stage) -> Reference {
        Reference {
            session: SESSION,
            qos: QoS::AtLeastOnce,
            retain: false,
            subscription_ids: vec![],
            share: None,
            stage,
        }
    }

    fn published() -> Record {
        let parts = MessageParts {
            id: Some(MESSAGE),
            publisher: None,
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: "a",
            application_properties: &[],
            payload: b"x",
            expiry: None,
        };
        Record::Published { message: Message::new(&parts, 1), references: vec![reference(Stage::Queued)] }
    }

    fn advanced() -> Record {
        let stage = Stage::Published(PacketId::new(1).unwrap());
        Record::Advanced { reference: reference(stage), message: MESSAGE }
    }

    fn settled() -> [Record; 2] {
        [Record::Settled { session: SESSION, message: MESSAGE }, Record::Forgotten { message: MESSAGE }]
    }

    /// One letter per change in the order of the keys: `+` puts, `-` removes.
    fn outline(records: &[Record], may_cancel: bool) -> String {
        let batch = Batch::collect(records, may_cancel);
        batch.changes().map(|(_, value)| if value.is_some() { '+' } else { '-' }).collect()
    }

    #[test]
    fn a_message_settled_in_the_batch_that_stores_it_leaves_no_change() {
        let [settled, forgotten] = settled();

        let batch = [published(), advanced(), settled, forgotten];

        assert!(Batch::collect(&batch, true).is_empty());
        assert_eq!(outline(&batch, false), "--", "after a failed commit the removals stay");
    }

    #[test]
    fn a_message_settled_in_a_later_batch_is_removed() {
        let [settled, forgotten] = settled();

        assert_eq!(outline(&[published()], true), "++");
        assert_eq!(outline(&[advanced(), settled, forgotten], true), "--");
    }

    #[test]
    fn the_last_value_of_a_key_wins() {
        let batch = [published(), advanced()];

        let collected = Batch::collect(&batch, true);

        let stages: Vec<Stage> = collected
            .changes()
            .filter_map(|(_, value)| if let Some(Value::Reference(r)) = value { Some(r.stage) } else { None })
            .collect();
        assert_eq!(stages, [Stage::Published(PacketId::new(1).unwrap())]);
    }

    #[test]
    fn the_end_of_a_session_cancels_its_changes_and_no_others() {
        let filter: Arc<str> = Arc::from("a/#");
        let other = SessionId(10);
        let received = |session| Record::Received { session, packet_id: PacketId::new(1).unwrap() };
        let batch = [
            published(),
            Record::Unsubscribed { session: SESSION, filter },
            received(SESSION),
            received(other),
            Record::SessionEnded { session: SESSION },
        ];

        let collected = Batch::collect(&batch, true);

        assert_eq!(collected.ended(), [SESSION]);
        let keys: Vec<Key> = collected.changes().map(|(key, _)| *key).collect();
        assert_eq!(keys, [Key::body(MESSAGE), Key::received(other, PacketId::new(1).unwrap())]);
    }

    #[test]
    fn a_session_that_begins_again_after_its_end_is_stored() {
        let subscribed = Record::Received { session: SESSION, packet_id: PacketId::new(1).unwrap() };
        let batch = [Record::SessionEnded { session: SESSION }, subscribed];

        assert_eq!(outline(&batch, true), "+");
    }
}
