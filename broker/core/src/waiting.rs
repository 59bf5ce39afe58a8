//! What is on its way to one session: a delivery with its message, or the stub of one whose message is in the store alone.
//!
//! Invariant: a stub has everything that can be decided without the message (its size, expiry, QoS, who needs it still), so
//! that a message is only read back to be sent. A stub is only made of a message that is durable.

use core::sync::atomic::AtomicU32;
use std::sync::Arc;

use veilmq_protocol::QoS;

use crate::id::{MessageId, SessionId};
use crate::message::{Message, release_absent};
use crate::record::{Reference, Stage};
use crate::time::Moment;

/// One message on its way to one session.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Arc<Message>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Box<[u32]>,
    /// The store holds a reference that must be settled.
    pub(crate) stored: bool,
    /// The filter as subscribed, if this is the copy of a group whose member the session is.
    pub(crate) share: Option<Arc<str>>,
}

impl Delivery {
    /// Returns the durable form of this delivery at `stage`.
    pub(crate) fn reference(&self, session: SessionId, stage: Stage) -> Reference {
        Reference {
            session,
            qos: self.qos,
            retain: self.retain,
            subscription_ids: self.subscription_ids.to_vec(),
            share: self.share.clone(),
            stage,
        }
    }

    /// Returns the identity of the stored body, if the store holds a reference that must be settled.
    pub(crate) fn stored_id(&self) -> Option<MessageId> {
        self.message.id().filter(|_| self.stored)
    }

    /// Returns the bytes that it takes while it waits in memory: those of its message, and of the Subscription Identifiers, of which
    /// filters that overlap can bring thousands.
    pub(crate) fn size_bytes(&self) -> usize {
        self.message.size_bytes() + size_of_val(&*self.subscription_ids)
    }
}

/// The head of a stored message, which is all that a stub keeps of it.
#[derive(Clone, Debug)]
pub(crate) struct StoredHead {
    pub(crate) id: MessageId,
    /// The bytes that the message occupies where it is in memory.
    pub(crate) bytes: usize,
    pub(crate) expires_at: Option<Moment>,
}

impl StoredHead {
    /// Returns the head of a message that has an identity.
    pub(crate) fn of(message: &Message) -> Option<Self> {
        Some(Self { id: message.id()?, bytes: message.size_bytes(), expires_at: message.expires_at() })
    }
}

/// A delivery without its message, which is in the store.
#[derive(Debug)]
pub(crate) struct Stub {
    id: MessageId,
    /// Counts those who need the message; None if that is this session alone.
    absent: Option<Arc<AtomicU32>>,
    /// The end of time if it never expires.
    expires_at: Moment,
    bytes: u32,
    qos: QoS,
    retain: bool,
    rare: Option<Box<Rare>>,
}

/// What few deliveries have.
#[derive(Debug)]
struct Rare {
    subscription_ids: Box<[u32]>,
    share: Option<Arc<str>>,
}

const NEVER: Moment = Moment::from_milliseconds(u64::MAX);

impl Stub {
    /// Makes the stub of a recovered reference; `absent` counts all who need the message, if there are others.
    pub(crate) fn recovered(head: &StoredHead, absent: Option<Arc<AtomicU32>>, reference: Reference) -> Self {
        let Reference { session: _, qos, retain, subscription_ids, share, stage: _ } = reference;
        Self::new(head, absent, (qos, retain), subscription_ids.into(), share)
    }

    /// Lets go of the message of a delivery; None, and nothing changes, if it is not stored.
    fn of(delivery: &mut Delivery) -> Option<Self> {
        let head = StoredHead::of(&delivery.message).filter(|_| delivery.stored)?;
        let absent = delivery.message.leave();
        let subscription_ids = std::mem::take(&mut delivery.subscription_ids);
        let flags = (delivery.qos, delivery.retain);
        Some(Self::new(&head, absent, flags, subscription_ids, delivery.share.take()))
    }

    fn new(
        head: &StoredHead,
        absent: Option<Arc<AtomicU32>>,
        (qos, retain): (QoS, bool),
        subscription_ids: Box<[u32]>,
        share: Option<Arc<str>>,
    ) -> Self {
        let is_plain = subscription_ids.is_empty() && share.is_none();
        let bytes = head.bytes + size_of_val(&*subscription_ids);
        Self {
            id: head.id,
            absent,
            expires_at: head.expires_at.unwrap_or(NEVER),
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            qos,
            retain,
            rare: (!is_plain).then(|| Box::new(Rare { subscription_ids, share })),
        }
    }

    /// Returns the identity of the message.
    pub(crate) fn id(&self) -> MessageId {
        self.id
    }

    /// Returns the bytes that stay in memory without the message.
    fn memory_bytes(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| size_of_val(&*rare.subscription_ids))
    }

    /// Makes the delivery again, with the message that was read back.
    fn delivery(&mut self, message: Arc<Message>) -> Delivery {
        let rare = self.rare.take().map(|rare| *rare);
        let (subscription_ids, share) =
            rare.map_or_else(Default::default, |rare| (rare.subscription_ids, rare.share));
        Delivery {
            message: Message::read_back(message, self.absent.take()),
            qos: self.qos,
            retain: self.retain,
            subscription_ids,
            stored: true,
            share,
        }
    }
}

/// A delivery, or what is left of it.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// Its message is in memory.
    Whole(Delivery),
    /// Its message has to be read back.
    Stub(Stub),
}

impl From<Delivery> for Waiting {
    fn from(delivery: Delivery) -> Self {
        Self::Whole(delivery)
    }
}

impl From<Stub> for Waiting {
    fn from(stub: Stub) -> Self {
        Self::Stub(stub)
    }
}

impl Waiting {
    /// Returns the Quality of Service of the delivery.
    pub(crate) fn qos(&self) -> QoS {
        match self {
            Self::Whole(delivery) => delivery.qos,
            Self::Stub(stub) => stub.qos,
        }
    }

    /// Returns the bytes that it takes where the message is in memory.
    pub(crate) fn size_bytes(&self) -> usize {
        match self {
            Self::Whole(delivery) => delivery.size_bytes(),
            Self::Stub(stub) => stub.bytes as usize,
        }
    }

    /// Returns the bytes of the payload; of a message that is in the store alone a little more.
    pub(crate) fn payload_bytes(&self) -> usize {
        match self {
            Self::Whole(delivery) => delivery.message.payload().len(),
            Self::Stub(stub) => stub.bytes as usize,
        }
    }

    /// Returns the bytes that it keeps in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        match self {
            Self::Whole(delivery) => delivery.size_bytes(),
            Self::Stub(stub) => stub.memory_bytes(),
        }
    }

    /// Returns when the message stops being deliverable.
    pub(crate) fn expires_at(&self) -> Option<Moment> {
        match self {
            Self::Whole(delivery) => delivery.message.expires_at(),
            Self::Stub(stub) => Some(stub.expires_at).filter(|at| *at != NEVER),
        }
    }

    /// Tells whether delivery must not begin any more ([MQTT-3.3.2-5]).
    pub(crate) fn is_expired(&self, now: Moment) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }

    /// Returns the identity of the stored body, if the store holds a reference that must be settled.
    pub(crate) fn stored_id(&self) -> Option<MessageId> {
        match self {
            Self::Whole(delivery) => delivery.stored_id(),
            Self::Stub(stub) => Some(stub.id),
        }
    }

    /// Returns the filter as subscribed, if this is the copy of a group.
    pub(crate) fn share(&self) -> Option<&Arc<str>> {
        match self {
            Self::Whole(delivery) => delivery.share.as_ref(),
            Self::Stub(stub) => stub.rare.as_ref()?.share.as_ref(),
        }
    }

    /// Returns the durable form of the delivery at `stage`.
    pub(crate) fn reference(&self, session: SessionId, stage: Stage) -> Reference {
        match self {
            Self::Whole(delivery) => delivery.reference(session, stage),
            Self::Stub(stub) => {
                let rare = stub.rare.as_ref();
                Reference {
                    session,
                    qos: stub.qos,
                    retain: stub.retain,
                    subscription_ids: rare.map_or_else(Vec::new, |rare| rare.subscription_ids.to_vec()),
                    share: rare.and_then(|rare| rare.share.clone()),
                    stage,
                }
            }
        }
    }

    /// Gives up the durable reference; true if it was the last and the stored body can be forgotten.
    pub(crate) fn release_reference(&self) -> bool {
        match self {
            Self::Whole(delivery) => delivery.message.release_reference(),
            Self::Stub(stub) => stub.absent.as_deref().is_none_or(release_absent),
        }
    }

    /// Lets go of the message, if a reference to it is stored; it has to be durable.
    pub(crate) fn let_go(&mut self) {
        if let Self::Whole(delivery) = self
            && let Some(stub) = Stub::of(delivery)
        {
            *self = Self::Stub(stub);
        }
    }

    /// Takes the message that was read back, if it is missing here.
    pub(crate) fn fill(&mut self, message: Arc<Message>) {
        if let Self::Stub(stub) = self {
            *self = Self::Whole(stub.delivery(message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageParts;

    fn delivery(message: &Arc<Message>) -> Waiting {
        Waiting::Whole(Delivery {
            message: Arc::clone(message),
            qos: QoS::AtLeastOnce,
            retain: true,
            subscription_ids: [7].into(),
            stored: true,
            share: Some("$share/g/t".into()),
        })
    }

    fn message(references: u32) -> Arc<Message> {
        let parts = MessageParts {
            id: Some(MessageId(5)),
            publisher: None,
            source: None,
            qos: QoS::AtLeastOnce,
            retain: true,
            topic: "t",
            application_properties: &[],
            payload: &[1; 1_000],
            expiry: None,
        };
        Message::new(&parts, references)
    }

    #[test]
    fn a_stub_takes_little_memory() {
        assert!(size_of::<Waiting>() <= 48, "{} bytes", size_of::<Waiting>());
    }

    #[test]
    fn a_delivery_is_the_same_after_its_message_was_away() {
        let message = message(1);
        let mut waiting = delivery(&message);
        let reference = waiting.reference(SessionId(1), Stage::Queued);
        let bytes = waiting.size_bytes();

        waiting.let_go();
        assert_eq!(Arc::strong_count(&message), 1);
        assert_eq!((waiting.size_bytes(), waiting.memory_bytes()), (bytes, 4), "the identifiers stay");
        assert_eq!(waiting.reference(SessionId(1), Stage::Queued), reference);
        waiting.fill(message);

        assert_eq!(waiting.reference(SessionId(1), Stage::Queued), reference);
        assert_eq!((waiting.size_bytes(), waiting.memory_bytes()), (bytes, bytes));
    }

    #[test]
    fn the_last_of_those_who_need_a_message_is_told_so_whoever_holds_it() {
        // Each step: which of three sessions lets go, reads back, or is done.
        let orders = [
            "go0 go1 go2 done0 done1 done2",
            "go0 done1 done0 go2 done2",
            "done0 done1 go2 done2",
            "go0 go1 done2 read0 done0 done1",
            "go0 read0 go0 go1 done1 done0 go2 read2 done2",
            "done0 done1 done2",
            "go0 done0 done1 go2 read2 go2 done2",
        ];
        for order in orders {
            let message = message(3);
            let mut sessions: Vec<Waiting> = (0..3).map(|_| delivery(&message)).collect();
            let mut told = Vec::new();
            for step in order.split(' ') {
                let (act, session) = step.split_at(step.len() - 1);
                let waiting = &mut sessions[session.parse::<usize>().unwrap()];
                match act {
                    "go" => waiting.let_go(),
                    "read" => waiting.fill(Arc::clone(&message)),
                    _ => told.push(waiting.release_reference()),
                }
            }
            assert_eq!(told, [false, false, true], "{order}");
        }
    }
}
