//! A batch under construction: the last value of each key, and nothing that a later record of the batch undoes.
//!
//! Most messages are stored, sent and acknowledged within moments. If all of that falls into one batch, nothing
//! of it reaches the disk: what is left says that keys are removed which the log does not have.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use veilmq_core::{Record, SessionId};

use super::entry::{Key, Name};
use super::values::Value;

/// The changes that a sequence of records amounts to.
#[derive(Default)]
pub(crate) struct Batch<'a> {
    /// In the order of the keys, each once; while records are collected in theirs.
    changes: Vec<Change<'a>>,
    /// The sessions that end, and how many changes come before.
    ended: BTreeMap<SessionId, usize>,
}

/// The value that a key gets; None removes it.
struct Change<'a> {
    key: Key,
    value: Option<Value<'a>>,
    /// How many changes come before.
    at: usize,
}

impl<'a> Batch<'a> {
    /// Collects records in their order.
    pub(crate) fn collect(records: &'a [Record]) -> Self {
        let mut batch = Self::default();
        for record in records {
            batch.add(record);
        }
        batch.settle();
        batch
    }

    /// Keeps the last change of each key, and of a session that ends none from before.
    fn settle(&mut self) {
        let Self { changes, ended } = self;
        changes.sort_unstable_by_key(|change| (change.key, Reverse(change.at)));
        changes.dedup_by_key(|change| change.key);
        if !ended.is_empty() {
            changes.retain(|change| {
                let end = change.key.session().and_then(|session| ended.get(&session));
                end.is_none_or(|end| change.at >= *end) || may_outlive_session(change.key, change.value)
            });
        }
    }

    /// Tells whether nothing changes.
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.ended.is_empty()
    }

    /// Returns the sessions whose stored entries go, before any change is made.
    pub(crate) fn ended(&self) -> impl Iterator<Item = SessionId> {
        self.ended.keys().copied()
    }

    /// Visits each key with its new value, or None if it is to be removed.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (Key, Option<Value<'a>>)> {
        self.changes.iter().map(|change| (change.key, change.value))
    }

    /// Tells whether the batch changes the key itself.
    pub(crate) fn changes_key(&self, key: Key) -> bool {
        self.changes.binary_search_by_key(&key, |change| change.key).is_ok()
    }

    /// Tells whether what is stored under the key before the batch is of no use after it; `shared` as in its entry.
    pub(crate) fn supersedes(&self, key: Key, shared: bool) -> bool {
        self.changes_key(key)
            || !shared && key.session().is_some_and(|session| self.ended.contains_key(&session))
    }

    fn add(&mut self, record: &'a Record) {
        match record {
            Record::Session(head) => self.put(Key::Session(head.session), Value::Session(head)),
            Record::SessionEnded { session } => {
                self.ended.insert(*session, self.changes.len());
            }
            Record::Subscribed { session, filter, subscription } => {
                let key = Key::Subscription(*session, Name::of(filter));
                self.put(key, Value::Subscription(filter, subscription));
            }
            Record::Unsubscribed { session, filter } => {
                self.remove(Key::Subscription(*session, Name::of(filter)));
            }
            Record::Published { message, references } => {
                // A message without an identity is not stored.
                let Some(id) = message.id() else { return };
                self.put(Key::Body(id), Value::Message(message));
                for reference in references {
                    self.put(Key::Reference(reference.session, id), Value::Reference(reference));
                }
            }
            Record::Forgotten { message } => self.remove(Key::Body(*message)),
            Record::Advanced { reference, message } => {
                self.put(Key::Reference(reference.session, *message), Value::Reference(reference));
            }
            Record::Settled { session, message } => self.remove(Key::Reference(*session, *message)),
            Record::Received { session, packet_id } => {
                self.put(Key::Received(*session, *packet_id), Value::Received);
            }
            Record::Released { session, packet_id } => self.remove(Key::Received(*session, *packet_id)),
            Record::Retained { message } => {
                self.put(Key::Retained(Name::of(message.topic())), Value::Retained(message));
            }
            Record::RetainedCleared { topic } => self.remove(Key::Retained(Name::of(topic))),
        }
    }

    fn put(&mut self, key: Key, value: Value<'a>) {
        self.changes.push(Change { key, value: Some(value), at: self.changes.len() });
    }

    fn remove(&mut self, key: Key) {
        self.changes.push(Change { key, value: None, at: self.changes.len() });
    }
}

/// Tells whether a change counts although the session ends after it. References of groups outlive their session, and so does the
/// removal of what may be one; what is stored already is the log's to find.
fn may_outlive_session(key: Key, value: Option<Value<'_>>) -> bool {
    match value {
        Some(value) => value.is_shared(),
        None => matches!(key, Key::Reference(..)),
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
            source: None,
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
    fn outline(records: &[Record]) -> String {
        let batch = Batch::collect(records);
        batch.changes().map(|(_, value)| if value.is_some() { '+' } else { '-' }).collect()
    }

    #[test]
    fn a_message_settled_in_the_batch_that_stores_it_is_not_stored() {
        let [settled, forgotten] = settled();

        assert_eq!(outline(&[published()]), "++");
        assert_eq!(outline(&[published(), advanced(), settled, forgotten]), "--");
    }

    #[test]
    fn the_last_value_of_a_key_wins() {
        let batch = [published(), advanced()];

        let collected = Batch::collect(&batch);

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

        let collected = Batch::collect(&batch);

        assert_eq!(collected.ended().collect::<Vec<_>>(), [SESSION]);
        let keys: Vec<Key> = collected.changes().map(|(key, _)| key).collect();
        assert_eq!(keys, [Key::Received(other, PacketId::new(1).unwrap()), Key::Body(MESSAGE)]);
        let reference = Key::Reference(SESSION, MessageId(77));
        assert_eq!([false, true].map(|shared| collected.supersedes(reference, shared)), [true, false]);
    }

    #[test]
    fn a_session_that_begins_again_after_its_end_is_stored() {
        let subscribed = Record::Received { session: SESSION, packet_id: PacketId::new(1).unwrap() };
        let batch = [Record::SessionEnded { session: SESSION }, subscribed];

        assert_eq!(outline(&batch), "+");
    }
}
