//! Which sessions wait for which messages, as far as a dump says so or leaves no doubt.
//!
//! Mosquitto 2.1 prints the Subscription Identifier where the number of the message should stand. A message that a client has sent is
//! known all the same, by its publisher and Packet Identifier. Those that a session waits for are taken to be the messages
//! that are not retained and that it has subscribed to, if there are exactly as many of the same Qualities of Service; what is in
//! doubt is left out and counted. Invariant: nothing is delivered that the dump does not have as stored.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use veilmq_core::{Reference, SessionId, Stage, SubscriptionRecord};
use veilmq_protocol::{PacketId, QoS, TopicFilter, TopicName};

use super::dump::{self, BaseMessage, ClientMessage, Dump, DumpFault, Wrong, at};

/// The list that is read here.
const LIST: &str = "client-messages";
/// `direction` of a message that goes to the client.
const OUT: u8 = 1;
/// The bits of RETAIN in `retain-dup`.
const RETAIN: u8 = 0xF0;

/// What a session has subscribed to.
pub(super) type Subscriptions<'d> = BTreeMap<SessionId, Vec<(TopicFilter<'d>, SubscriptionRecord)>>;

/// What is known of sessions before their messages are looked at.
pub(super) struct Known<'d> {
    pub(super) sessions: HashMap<&'d str, SessionId>,
    pub(super) subscriptions: Subscriptions<'d>,
}

/// Who waits for what.
#[derive(Default)]
pub(super) struct Deliveries {
    /// By the place of the message in its list.
    pub(super) references: BTreeMap<usize, BTreeMap<SessionId, Reference>>,
    /// QoS 2 identifiers of clients that await PUBREL.
    pub(super) received: BTreeSet<(SessionId, PacketId)>,
    /// Messages that become retained when they are delivered.
    pub(super) retained: Vec<usize>,
    /// How many the dump does not identify.
    pub(super) left_out: u64,
}

/// A message on its way to a client that the dump does not identify.
struct Unknown<'d> {
    sent: &'d ClientMessage,
    qos: QoS,
    stage: Stage,
}

/// Finds out who waits for what.
///
/// # Errors
/// [`DumpFault`], naming the field.
pub(super) fn find(dump: &Dump, known: &Known<'_>) -> Result<Deliveries, DumpFault> {
    let by_number: HashMap<u64, usize> =
        dump.base_messages.iter().enumerate().map(|(index, message)| (message.storeid, index)).collect();
    let mut deliveries = Deliveries::default();
    let mut unknown: BTreeMap<SessionId, Vec<Unknown<'_>>> = BTreeMap::new();
    for (index, sent) in dump.client_messages.iter().enumerate() {
        let fault = at(LIST, index);
        let session = known.sessions.get(sent.clientid.as_str()).copied();
        let session = session.ok_or_else(|| fault(("clientid", "no such client is in `clients`".into())))?;
        let qos = dump::qos(sent.qos).map_err(&fault)?;
        let is_named = sent.storeid != u64::from(sent.subscription_identifier);
        let named = by_number.get(&sent.storeid).copied().filter(|_| is_named);
        if sent.direction != OUT {
            let of_client = |message: &BaseMessage| {
                message.clientid.as_deref() == Some(sent.clientid.as_str())
                    && message.source_mid == sent.mid
                    && message.qos == sent.qos
            };
            let place = named.or_else(|| dump.base_messages.iter().position(of_client));
            deliveries.take_in(dump, known, session, sent, place);
            continue;
        }
        if qos == QoS::AtMostOnce {
            deliveries.left_out += 1;
            continue;
        }
        let stage = stage(sent).map_err(&fault)?;
        match named {
            Some(place) => deliveries.add(place, reference(session, sent, qos, stage)),
            None => unknown.entry(session).or_default().push(Unknown { sent, qos, stage }),
        }
    }
    for (session, sent) in unknown {
        deliveries.guess(dump, known, session, &sent);
    }
    Ok(deliveries)
}

impl Deliveries {
    fn add(&mut self, place: usize, reference: Reference) {
        match self.references.entry(place).or_default().entry(reference.session) {
            Entry::Vacant(free) => {
                free.insert(reference);
            }
            Entry::Occupied(_) => self.left_out += 1,
        }
    }

    /// Takes in a QoS 2 message whose client has not sent PUBREL: this broker would have delivered it already.
    fn take_in(
        &mut self,
        dump: &Dump,
        known: &Known<'_>,
        session: SessionId,
        sent: &ClientMessage,
        place: Option<usize>,
    ) {
        let message = place.and_then(|place| Some((place, dump.base_messages.get(place)?)));
        let (Some((place, message)), Some(packet_id)) = (message, PacketId::new(sent.mid)) else {
            self.left_out += 1;
            return;
        };
        self.received.insert((session, packet_id));
        if message.retain > 0 {
            self.retained.push(place);
        }
        let Ok(topic) = message.topic() else { return };
        let mut served: HashSet<TopicFilter<'_>> = HashSet::new();
        for (subscriber, subscriptions) in &known.subscriptions {
            let Some((filter, wanted)) = wanted(subscriptions, topic, *subscriber == session) else {
                continue;
            };
            // One member of each group is enough; others get it if that one does not come back.
            let is_served = filter.shared().is_some() && !served.insert(filter);
            if is_served || wanted.options.qos == QoS::AtMostOnce {
                continue;
            }
            let reference = Reference {
                session: *subscriber,
                qos: wanted.options.qos,
                retain: message.retain > 0 && wanted.options.retain_as_published,
                subscription_ids: wanted.subscription_id.into_iter().collect(),
                share: share(filter),
                stage: Stage::Queued,
            };
            self.add(place, reference);
        }
    }

    /// Finds the messages of a session that the dump does not identify, if there is no doubt which they are.
    fn guess(&mut self, dump: &Dump, known: &Known<'_>, session: SessionId, sent: &[Unknown<'_>]) {
        let retained: HashSet<u64> = dump.retained_messages.iter().map(|message| message.storeid).collect();
        let subscriptions = known.subscriptions.get(&session).map_or(&[][..], Vec::as_slice);
        let has = |place: &usize| self.references.get(place).is_some_and(|held| held.contains_key(&session));
        let mut candidates: Vec<(u64, usize, TopicFilter<'_>, QoS)> = Vec::new();
        for (place, message) in dump.base_messages.iter().enumerate() {
            let (Ok(topic), Ok(qos)) = (message.topic(), dump::qos(message.qos)) else { continue };
            let publisher = message.clientid.as_deref().and_then(|client| known.sessions.get(client));
            let wanted = wanted(subscriptions, topic, publisher == Some(&session));
            let Some((filter, wanted)) = wanted else { continue };
            let qos = wanted.options.qos.min(qos);
            if qos > QoS::AtMostOnce && !retained.contains(&message.storeid) && !has(&place) {
                candidates.push((message.storeid, place, filter, qos));
            }
        }
        // Mosquitto numbers messages as they come, and keeps those of a client in that order.
        candidates.sort_unstable_by_key(|(number, ..)| *number);
        let fits = candidates.len() == sent.len()
            && candidates.iter().zip(sent).all(|((.., qos), unknown)| *qos == unknown.qos);
        if !fits {
            self.left_out += sent.len() as u64;
            return;
        }
        for ((_, place, filter, _), Unknown { sent, qos, stage }) in candidates.into_iter().zip(sent) {
            let share = share(filter);
            self.add(place, Reference { share, ..reference(session, sent, *qos, *stage) });
        }
    }
}

/// Returns the subscription of a session that a message goes to it for, the one with the highest QoS.
fn wanted<'d>(
    subscriptions: &[(TopicFilter<'d>, SubscriptionRecord)],
    topic: TopicName<'_>,
    is_own: bool,
) -> Option<(TopicFilter<'d>, SubscriptionRecord)> {
    let matching = subscriptions
        .iter()
        .filter(|(filter, held)| filter.matches(topic) && !(is_own && held.options.no_local));
    matching.max_by_key(|(_, held)| held.options.qos).copied()
}

fn share(filter: TopicFilter<'_>) -> Option<Arc<str>> {
    filter.shared().map(|_| Arc::from(filter.as_str()))
}

fn reference(session: SessionId, sent: &ClientMessage, qos: QoS, stage: Stage) -> Reference {
    let subscription_ids = Some(sent.subscription_identifier).filter(|id| *id > 0).into_iter().collect();
    Reference { session, qos, retain: sent.retain_dup & RETAIN != 0, subscription_ids, share: None, stage }
}

/// Reads the stage of a message on its way to a client.
fn stage(sent: &ClientMessage) -> Result<Stage, Wrong> {
    let packet_id = || {
        let wrong = || ("mid", "it is 0, and the message has been sent".to_owned());
        PacketId::new(sent.mid).ok_or_else(wrong)
    };
    match sent.state {
        // It awaits PUBACK or PUBREC.
        3 | 5 => packet_id().map(Stage::Published),
        // PUBREL is due, or it awaits PUBCOMP.
        6 | 9 => packet_id().map(Stage::Released),
        // It is to be sent, or is queued.
        2 | 4 | 11 => Ok(Stage::Queued),
        other => Err(("state", format!("{other} is none of a message on its way to a client"))),
    }
}
