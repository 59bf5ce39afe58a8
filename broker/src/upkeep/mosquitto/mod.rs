//! Import of Mosquitto's database: what `mosquitto_db_dump --json` prints becomes the store of a data directory that has none.
//!
//! The whole dump is in memory meanwhile. Invariant: the directory has all of it but what is counted as left out, or nothing.

mod deliveries;
mod dump;

use std::collections::{BTreeMap, HashMap};
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use veilmq_core::{
    Expiry, Message, MessageId, MessageParts, Moment, Record, SessionId, SessionRecord, Source,
    SubscriptionRecord,
};
use veilmq_protocol::{RetainHandling, SubscribeOptions, TopicFilter};

use self::deliveries::{Deliveries, Known, Subscriptions};
pub(crate) use self::dump::DumpFault;
use self::dump::{BaseMessage, Client, Dump, Subscription, Wrong, at};
use super::UpkeepError;
use super::import::{lock_without_store, open_input};
use super::progress::Progress;
use super::rebuild::Rebuild;
use super::tally::Tally;
use crate::clock;

const NO_LOCAL: u8 = 1 << 2;
const RETAIN_AS_PUBLISHED: u8 = 1 << 3;
const RETAIN_HANDLING_SHIFT: u8 = 4;
/// The largest Subscription Identifier (section 3.8.2.1.2).
const SUBSCRIPTION_ID_MAX: u32 = 268_435_455;
/// The longest Client Identifier or user name (section 1.5.4).
const TEXT_BYTES_MAX: usize = 65_535;

/// Whether those who come with a user name have to prove it on this broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Users {
    /// They have to; a session is its user's alone.
    Proven,
    /// They do not.
    Claimed,
}

/// What an import came to.
#[derive(Debug)]
pub(crate) struct Imported {
    /// What was taken over.
    pub(crate) tally: Tally,
    /// How many deliveries were not, because the dump does not identify them.
    pub(crate) left_out: u64,
}

/// Reads a dump from a file, or from standard input (`-`), into a data directory without a store.
///
/// # Errors
/// There is a store already, a field is wrong, or the new store could not be made; the directory has no store then.
pub(crate) fn import_mosquitto(data_dir: &Path, input: &Path, users: Users) -> Result<Imported, UpkeepError> {
    let wrong = |fault| UpkeepError::Dump { input: input.to_owned(), fault };
    let reader = BufReader::new(open_input(input)?);
    let dump = serde_json::from_reader(reader).map_err(|error| wrong(error.into()))?;
    let Converted { records, left_out } = convert(&dump, users, clock::now()).map_err(wrong)?;
    drop(dump);
    let directory = lock_without_store(data_dir)?;
    let mut progress = Progress::start("imported");
    let mut rebuild = Rebuild::begin(&directory)?;
    for record in records {
        rebuild.push(record)?;
        progress.report(rebuild.tally());
    }
    let tally = *rebuild.tally();
    rebuild.adopt(&mut progress)?;
    Ok(Imported { tally, left_out })
}

/// What a dump comes to.
struct Converted {
    /// In an order in which each refers only to earlier ones.
    records: Vec<Record>,
    left_out: u64,
}

fn convert(dump: &Dump, users: Users, now: Moment) -> Result<Converted, DumpFault> {
    let mut records = Vec::new();
    let sessions = sessions(dump, users, &mut records)?;
    let subscriptions = subscriptions(dump, &sessions)?;
    for (session, held) in &subscriptions {
        records.extend(held.iter().map(|(filter, subscription)| Record::Subscribed {
            session: *session,
            filter: Arc::from(filter.as_str()),
            subscription: *subscription,
        }));
    }
    let mut retained = retained(dump)?;
    let Deliveries { references, received, retained: due, left_out } =
        deliveries::find(dump, &Known { sessions, subscriptions })?;
    retained.extend(due);
    // Messages are numbered in the order in which Mosquitto got them.
    let mut waiting: Vec<_> = references.into_iter().collect();
    waiting.sort_by_key(|(place, _)| dump.base_messages.get(*place).map(|message| message.storeid));
    for (id, (place, references)) in (1..).map(MessageId).zip(waiting) {
        let message = message(dump, place, Some(id), now)?;
        records.push(Record::Published { message, references: references.into_values().collect() });
    }
    records.extend(received.into_iter().map(|(session, packet_id)| Record::Received { session, packet_id }));
    // Of several for one topic the last one holds.
    let mut by_topic = BTreeMap::new();
    for place in retained {
        let message = message(dump, place, None, now)?;
        by_topic.insert(message.topic().to_owned(), message);
    }
    let is_kept =
        |message: &Arc<Message>| !message.payload().is_empty() && !message.topic().starts_with("$SYS/");
    let kept = by_topic.into_values().filter(is_kept);
    records.extend(kept.map(|message| Record::Retained { message }));
    Ok(Converted { records, left_out })
}

/// Takes the sessions over, and returns their numbers.
fn sessions<'d>(
    dump: &'d Dump,
    users: Users,
    records: &mut Vec<Record>,
) -> Result<HashMap<&'d str, SessionId>, DumpFault> {
    let mut sessions = HashMap::new();
    for (index, client) in dump.clients.iter().enumerate() {
        let session = SessionId(index as u64 + 1);
        let known = sessions.insert(client.clientid.as_str(), session).is_some();
        let head = session_head(client, session, users, known).map_err(at("clients", index))?;
        records.push(Record::Session(head));
    }
    Ok(sessions)
}

fn session_head(
    client: &Client,
    session: SessionId,
    users: Users,
    is_known: bool,
) -> Result<SessionRecord, Wrong> {
    let Client { clientid, username, session_expiry_time, session_expiry_interval } = client;
    match clientid.len() {
        1..=TEXT_BYTES_MAX if is_known => return Err(("clientid", "it is there twice".to_owned())),
        1..=TEXT_BYTES_MAX => {}
        _ => return Err(("clientid", format!("it does not have 1 to {TEXT_BYTES_MAX} bytes"))),
    }
    if username.as_ref().is_some_and(|name| name.len() > TEXT_BYTES_MAX) {
        return Err(("username", format!("it has more than {TEXT_BYTES_MAX} bytes")));
    }
    // When it ends says when its connection was closed; without that its client was connected, or it never ends.
    let ends_at = u64::try_from(*session_expiry_time).ok().filter(|seconds| *seconds > 0);
    let closed_at = ends_at.map(|seconds| seconds.saturating_sub(u64::from(*session_expiry_interval)));
    Ok(SessionRecord {
        session,
        client_id: Arc::from(clientid.as_str()),
        authenticated: username.is_some() && users == Users::Proven,
        user: username.as_deref().map(Arc::from),
        expiry_seconds: *session_expiry_interval,
        disconnected_at: closed_at.map(|seconds| Moment::from_milliseconds(seconds.saturating_mul(1_000))),
        will: None,
        last_identifier: 0,
    })
}

fn subscriptions<'d>(
    dump: &'d Dump,
    sessions: &HashMap<&str, SessionId>,
) -> Result<Subscriptions<'d>, DumpFault> {
    // Of several for one filter the last one holds.
    let mut held: BTreeMap<(SessionId, TopicFilter<'d>), SubscriptionRecord> = BTreeMap::new();
    for (index, subscription) in dump.subscriptions.iter().enumerate() {
        let fault = at("subscriptions", index);
        let session = sessions.get(subscription.clientid.as_str()).copied();
        let session =
            session.ok_or_else(|| fault(("clientid", "no such client is in `clients`".to_owned())))?;
        let record = subscription_record(subscription).map_err(&fault)?;
        held.insert((session, subscription.filter().map_err(&fault)?), record);
    }
    let mut subscriptions = Subscriptions::new();
    for ((session, filter), record) in held {
        subscriptions.entry(session).or_default().push((filter, record));
    }
    Ok(subscriptions)
}

fn subscription_record(subscription: &Subscription) -> Result<SubscriptionRecord, Wrong> {
    let Subscription { clientid: _, topic: _, qos, options, identifier } = subscription;
    let retain_handling = match options >> RETAIN_HANDLING_SHIFT & 0b11 {
        0 => RetainHandling::Send,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::DoNotSend,
        _ => return Err(("options", "there is no Retain Handling 3".to_owned())),
    };
    if *identifier > SUBSCRIPTION_ID_MAX {
        return Err(("identifier", format!("it is larger than {SUBSCRIPTION_ID_MAX}")));
    }
    let options = SubscribeOptions {
        qos: dump::qos(*qos)?,
        no_local: options & NO_LOCAL != 0,
        retain_as_published: options & RETAIN_AS_PUBLISHED != 0,
        retain_handling,
    };
    Ok(SubscriptionRecord {
        options,
        subscription_id: Some(*identifier).filter(|identifier| *identifier > 0),
    })
}

/// Returns the places of the messages that are retained.
fn retained(dump: &Dump) -> Result<Vec<usize>, DumpFault> {
    let mut places: HashMap<u64, usize> = HashMap::new();
    for (index, message) in dump.base_messages.iter().enumerate() {
        let fault = at("base-messages", index);
        if places.insert(message.storeid, index).is_some() {
            return Err(fault(("storeid", "it is there twice".to_owned())));
        }
        message.topic().map_err(&fault)?;
        dump::qos(message.qos).map_err(&fault)?;
    }
    let place = |(index, message): (usize, &dump::RetainedMessage)| {
        let wrong =
            || at("retained-messages", index)(("storeid", "no such message is in `base-messages`".into()));
        places.get(&message.storeid).copied().ok_or_else(wrong)
    };
    dump.retained_messages.iter().enumerate().map(place).collect()
}

/// Makes the message at a place in the list.
fn message(dump: &Dump, place: usize, id: Option<MessageId>, now: Moment) -> Result<Arc<Message>, DumpFault> {
    let fault = at("base-messages", place);
    let base =
        dump.base_messages.get(place).ok_or_else(|| fault(("storeid", "it is not there".to_owned())))?;
    let (topic, payload) = (base.topic().map_err(&fault)?, base.payload().map_err(&fault)?);
    let properties = base.application_properties().map_err(&fault)?;
    let source = source(base).filter(|_| id.is_none());
    let parts = MessageParts {
        id,
        publisher: None,
        source: source.as_ref(),
        qos: dump::qos(base.qos).map_err(&fault)?,
        retain: base.retain > 0,
        topic: topic.as_str(),
        application_properties: &properties,
        payload: &payload,
        expiry: expiry(base, now),
    };
    Ok(Message::new(&parts, 0))
}

fn source(base: &BaseMessage) -> Option<Arc<Source>> {
    let client_id = base.clientid.as_deref().filter(|client_id| !client_id.is_empty())?;
    // Its listener is known by port alone, which is no name of one of ours.
    let user = base.username.as_deref().map(Arc::from);
    Some(Arc::new(Source {
        client_id: Arc::from(client_id),
        user,
        listener: None,
        is_vouched: false,
        certificate: None,
    }))
}

/// Mosquitto keeps when a message expires, and not the interval that was given: what is left of that takes its place.
fn expiry(base: &BaseMessage, now: Moment) -> Option<Expiry> {
    let seconds = u64::try_from(base.expiry_time).ok().filter(|seconds| *seconds > 0)?;
    let at = Moment::from_milliseconds(seconds.saturating_mul(1_000));
    let left = at.since(now).div_ceil(1_000);
    Some(Expiry { at, interval_seconds: u32::try_from(left).unwrap_or(u32::MAX) })
}
