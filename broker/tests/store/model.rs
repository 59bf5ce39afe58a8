//! What a store should hold, kept in plain maps, and records to fill it with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use veilmq::store::{OpenReport, SledLimits, SledStore};
use veilmq_core::{
    Expiry, Job, Message, MessageId, MessageParts, Moment, Record, Recovery, Reference, SessionId,
    SessionRecord, Settings, Shared, Stage, Store, SubscriptionRecord,
};
use veilmq_protocol::{PacketId, QoS, RetainHandling, SubscribeOptions};

const LIMITS: SledLimits =
    SledLimits { cache_bytes: 16 * 1024 * 1024, spare_bytes: SledLimits::SPARE_BYTES, threads: 3 };

pub(crate) fn open(directory: &Path) -> (SledStore, OpenReport) {
    SledStore::open(directory, LIMITS).unwrap()
}

/// Opens a store that is compacted as soon as it has more than `spare_bytes` of no use.
pub(crate) fn open_with_spare(directory: &Path, spare_bytes: u64) -> (SledStore, OpenReport) {
    SledStore::open(directory, SledLimits { spare_bytes, ..LIMITS }).unwrap()
}

pub(crate) fn open_error(directory: &Path) -> String {
    SledStore::open(directory, LIMITS).err().unwrap().to_string()
}

/// What a replay gives, each reference with its body; every reference comes with its body or after it.
pub(crate) fn replayed(store: &mut SledStore) -> Vec<Record> {
    let mut records = Vec::new();
    let mut bodies = HashMap::new();
    store
        .replay(&mut |record| {
            if let Record::Advanced { reference, message } = record {
                let Record::Published { references, .. } = &mut records[bodies[&message]] else { panic!() };
                references.push(reference);
                return;
            }
            if let Record::Published { message, .. } = &record {
                assert_eq!(bodies.insert(message.id().unwrap(), records.len()), None, "a body came twice");
            }
            records.push(record);
        })
        .unwrap();
    records
}

/// Checks that a store which fills the parts of a recovery itself brings back what its replay does.
pub(crate) fn assert_recovers_in_parts(store: &mut SledStore, name: &str) {
    let outcome = |recovery: Recovery| {
        let shared = Shared::new(Settings { shards: 2, ..Settings::default() }, [1; 16], None);
        let mut work = |jobs: Vec<Job<'_>>| jobs.into_iter().for_each(|job| job());
        let (_, cleanup, summary) = recovery.into_shards(&shared, Moment::from_milliseconds(9), &mut work);
        (summary, sorted_texts(&cleanup))
    };
    let mut whole = Recovery::new(1);
    store.replay(&mut |record| whole.apply(record)).unwrap();
    let expected = outcome(whole);
    for parts in [1, 3] {
        let mut recovery = Recovery::new(parts);
        store.recover(&mut recovery).unwrap();

        assert_eq!(outcome(recovery), expected, "{name}, {parts} parts");
    }
}

/// A record with all that it says, payloads included; equal texts are equal records.
pub(crate) fn text(record: &Record) -> String {
    let parts = |message: &Message| {
        let parts = message.parts();
        let MessageParts {
            id,
            publisher: _,
            source,
            qos,
            retain,
            topic,
            application_properties,
            payload,
            expiry,
        } = parts;
        format!(
            "{id:?} {source:?} {qos:?} {retain} {topic} {application_properties:?} {payload:?} {expiry:?}"
        )
    };
    match record {
        Record::Published { message, references } => {
            let mut references = references.clone();
            references.sort_by_key(|reference| reference.session);
            format!("Published {} {references:?}", parts(message))
        }
        Record::Retained { message } => format!("Retained {}", parts(&message.with_id(MessageId(0), 0))),
        Record::Session(_)
        | Record::SessionEnded { .. }
        | Record::Subscribed { .. }
        | Record::Unsubscribed { .. }
        | Record::Forgotten { .. }
        | Record::Advanced { .. }
        | Record::Settled { .. }
        | Record::Received { .. }
        | Record::Released { .. }
        | Record::RetainedCleared { .. } => format!("{record:?}"),
    }
}

pub(crate) fn sorted_texts(records: &[Record]) -> Vec<String> {
    let mut texts: Vec<String> = records.iter().map(text).collect();
    texts.sort();
    texts
}

/// The meaning of records, without any storage.
#[derive(Default)]
pub(crate) struct Model {
    sessions: BTreeMap<SessionId, SessionRecord>,
    subscriptions: BTreeMap<(SessionId, Arc<str>), SubscriptionRecord>,
    bodies: BTreeMap<MessageId, Arc<Message>>,
    references: BTreeMap<(MessageId, SessionId), Reference>,
    received: BTreeSet<(SessionId, PacketId)>,
    retained: BTreeMap<String, Arc<Message>>,
}

impl Model {
    pub(crate) fn apply(&mut self, record: &Record) {
        match record.clone() {
            Record::Session(head) => drop(self.sessions.insert(head.session, head)),
            Record::SessionEnded { session } => {
                self.sessions.remove(&session);
                self.subscriptions.retain(|(of, _), _| *of != session);
                self.references.retain(|(_, of), reference| *of != session || reference.share.is_some());
                self.received.retain(|(of, _)| *of != session);
            }
            Record::Subscribed { session, filter, subscription } => {
                self.subscriptions.insert((session, filter), subscription);
            }
            Record::Unsubscribed { session, filter } => drop(self.subscriptions.remove(&(session, filter))),
            Record::Published { message, references } => {
                let id = message.id().unwrap();
                self.bodies.insert(id, message);
                self.references
                    .extend(references.into_iter().map(|reference| ((id, reference.session), reference)));
            }
            Record::Forgotten { message } => drop(self.bodies.remove(&message)),
            Record::Advanced { reference, message } => {
                self.references.insert((message, reference.session), reference);
            }
            Record::Settled { session, message } => drop(self.references.remove(&(message, session))),
            Record::Received { session, packet_id } => drop(self.received.insert((session, packet_id))),
            Record::Released { session, packet_id } => drop(self.received.remove(&(session, packet_id))),
            Record::Retained { message } => drop(self.retained.insert(message.topic().to_owned(), message)),
            Record::RetainedCleared { topic } => drop(self.retained.remove(&*topic)),
        }
    }

    /// What a replay should give; what refers to a session or body that is not there is left out, but for what others of a
    /// group may have.
    pub(crate) fn records(&self) -> Vec<Record> {
        let known = |session: &SessionId| self.sessions.contains_key(session);
        let mut records: Vec<Record> = self.sessions.values().cloned().map(Record::Session).collect();
        for ((session, filter), subscription) in
            self.subscriptions.iter().filter(|((session, _), _)| known(session))
        {
            let (session, filter, subscription) = (*session, filter.clone(), *subscription);
            records.push(Record::Subscribed { session, filter, subscription });
        }
        for (id, message) in &self.bodies {
            let range = (*id, SessionId(0))..=(*id, SessionId(u64::MAX));
            let references = self.references.range(range).map(|(_, reference)| reference.clone());
            let is_of_use = |reference: &Reference| known(&reference.session) || reference.share.is_some();
            let references = references.filter(is_of_use).collect();
            records.push(Record::Published { message: Arc::clone(message), references });
        }
        for (session, packet_id) in self.received.iter().copied().filter(|(session, _)| known(session)) {
            records.push(Record::Received { session, packet_id });
        }
        records
            .extend(self.retained.values().map(|message| Record::Retained { message: Arc::clone(message) }));
        records
    }
}

pub(crate) fn session(number: u64, expiry_seconds: u32) -> Record {
    Record::Session(SessionRecord {
        session: SessionId(number),
        client_id: format!("client {number}").into(),
        authenticated: number.is_multiple_of(2),
        user: number.is_multiple_of(3).then(|| format!("user {number}").into()),
        expiry_seconds,
        disconnected_at: None,
        will: None,
        last_identifier: 0,
    })
}

pub(crate) fn ended(number: u64) -> Record {
    Record::SessionEnded { session: SessionId(number) }
}

pub(crate) fn subscribed(session: u64, filter: &str, subscription_id: Option<u32>) -> Record {
    let options = SubscribeOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: false,
        retain_handling: RetainHandling::SendIfNew,
    };
    let subscription = SubscriptionRecord { options, subscription_id };
    Record::Subscribed { session: SessionId(session), filter: filter.into(), subscription }
}

pub(crate) fn unsubscribed(session: u64, filter: &str) -> Record {
    Record::Unsubscribed { session: SessionId(session), filter: filter.into() }
}

pub(crate) fn packet_id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

pub(crate) fn reference(session: u64, stage: Stage) -> Reference {
    Reference {
        session: SessionId(session),
        qos: QoS::ExactlyOnce,
        retain: false,
        subscription_ids: vec![1, 268_435_455],
        share: None,
        stage,
    }
}

/// A reference to one of many messages, some of which sessions have as members of groups.
fn reference_to(message: u64, session: u64, stage: Stage) -> Reference {
    let share = (message % 5 == 3).then(|| "$share/g/sensors/+".into());
    Reference { share, ..reference(session, stage) }
}

pub(crate) fn message(id: Option<u64>, topic: &str, payload: &[u8]) -> Arc<Message> {
    let parts = MessageParts {
        id: id.map(MessageId),
        publisher: None,
        source: None,
        qos: QoS::AtLeastOnce,
        retain: id.is_none(),
        topic,
        application_properties: &[0x01, 0x01],
        payload,
        expiry: Some(Expiry { at: Moment::from_milliseconds(1_800_000_000_000), interval_seconds: 60 }),
    };
    Message::new(&parts, 0)
}

pub(crate) fn published(id: u64, payload: &[u8], sessions: &[u64]) -> Record {
    let references = sessions.iter().map(|session| reference_to(id, *session, Stage::Queued)).collect();
    Record::Published { message: message(Some(id), "sensors/a", payload), references }
}

pub(crate) fn settled(session: u64, message: u64) -> Record {
    Record::Settled { session: SessionId(session), message: MessageId(message) }
}

pub(crate) fn forgotten(message: u64) -> Record {
    Record::Forgotten { message: MessageId(message) }
}

pub(crate) fn advanced(session: u64, message: u64, stage: Stage) -> Record {
    Record::Advanced { reference: reference_to(message, session, stage), message: MessageId(message) }
}

pub(crate) fn received(session: u64, number: u16) -> Record {
    Record::Received { session: SessionId(session), packet_id: packet_id(number) }
}

pub(crate) fn released(session: u64, number: u16) -> Record {
    Record::Released { session: SessionId(session), packet_id: packet_id(number) }
}

pub(crate) fn retained(topic: &str, payload: &[u8]) -> Record {
    Record::Retained { message: message(None, topic, payload) }
}

pub(crate) fn cleared(topic: &str) -> Record {
    Record::RetainedCleared { topic: topic.into() }
}
