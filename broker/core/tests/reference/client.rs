//! What a client of the random runs remembers: its connection, its session, and what it sent.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use veilmq_protocol::QoS;

use veilmq_simulator::Conn;

/// A session, told apart from later ones of the same client.
pub(super) type Incarnation = u64;

#[derive(Default)]
pub(super) struct Client {
    pub(super) name: &'static str,
    pub(super) connection: Option<Network>,
    pub(super) session: Option<Session>,
    /// A crash may have brought a session back that had ended.
    pub(super) may_have_returned: bool,
    /// What it publishes and has no final answer for.
    pub(super) outgoing: Vec<Outgoing>,
    pub(super) last_id: u16,
}

pub(super) struct Network {
    pub(super) id: Conn,
    /// CONNACK arrived.
    pub(super) is_ready: bool,
    /// There was a session when it connected.
    pub(super) resumes: bool,
    pub(super) expiry_seconds: u32,
    pub(super) receive_maximum: usize,
    /// Packet Identifiers of PUBLISH packets that the client has not answered in full.
    pub(super) holding: BTreeSet<u16>,
    /// Answers that it has yet to send.
    pub(super) owes: VecDeque<(Answer, u16)>,
    pub(super) subscribing: VecDeque<(usize, QoS)>,
    pub(super) unsubscribing: VecDeque<usize>,
}

#[derive(Clone, Copy)]
pub(super) enum Answer {
    /// PUBACK
    Taken,
    /// PUBREC
    Received,
    /// PUBCOMP
    Complete,
}

pub(super) struct Session {
    pub(super) incarnation: Incarnation,
    /// The client was told of it, as it now is.
    pub(super) is_confirmed: bool,
    pub(super) ends_at_ms: Option<u64>,
    /// A crash may have undone the end of its connection, so it may end later.
    pub(super) may_end_late: bool,
    /// Nothing is known of its subscriptions.
    pub(super) is_wild: bool,
    pub(super) subscriptions: BTreeMap<usize, Subscription>,
    /// Filters whose end was not acknowledged: a crash may bring them back.
    pub(super) leaving: BTreeMap<usize, QoS>,
    /// Received QoS 2 identifiers and the message that each stands for.
    pub(super) received: HashMap<u16, u64>,
    /// Identifiers of messages that the client has not answered.
    pub(super) unanswered: HashMap<u16, u64>,
    /// What the broker had begun to send may have been lost on the way, so DUP may come with what never arrived.
    pub(super) may_repeat_lost: bool,
    pub(super) seen: BTreeSet<u64>,
    /// By publisher, topic, and both qualities: the newest message.
    pub(super) newest: HashMap<(u64, usize, QoS, QoS), u64>,
    pub(super) twice: BTreeSet<u64>,
}

#[derive(Clone, Copy)]
pub(super) struct Subscription {
    pub(super) qos: QoS,
    pub(super) certainty: Certainty,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Certainty {
    /// SUBACK arrived.
    Told,
    /// In force as long as the broker runs.
    InForce,
    /// A crash may or may not have undone it.
    Unknown,
}

pub(super) struct Outgoing {
    pub(super) packet_id: u16,
    pub(super) number: u64,
    pub(super) topic: usize,
    pub(super) qos: QoS,
    pub(super) is_released: bool,
}

impl Session {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            is_confirmed: false,
            ends_at_ms: None,
            may_end_late: false,
            is_wild: false,
            subscriptions: BTreeMap::new(),
            leaving: BTreeMap::new(),
            received: HashMap::new(),
            unanswered: HashMap::new(),
            may_repeat_lost: false,
            seen: BTreeSet::new(),
            newest: HashMap::new(),
            twice: BTreeSet::new(),
        }
    }

    /// A session of which nothing is known: any subscription may be there.
    pub(super) fn returned(incarnation: Incarnation) -> Self {
        Self { is_wild: true, may_repeat_lost: true, ..Self::new(incarnation) }
    }

    pub(super) fn survives_a_crash(&mut self) {
        self.may_repeat_lost = true;
        for subscription in self.subscriptions.values_mut() {
            if subscription.certainty == Certainty::InForce {
                subscription.certainty = Certainty::Unknown;
            }
        }
        for (filter, qos) in std::mem::take(&mut self.leaving) {
            self.subscriptions.entry(filter).or_insert(Subscription { qos, certainty: Certainty::Unknown });
        }
        // Only QoS 2 identifiers are durable before they are used.
        let received = &self.received;
        self.unanswered.retain(|packet_id, _| received.contains_key(packet_id));
    }
}
