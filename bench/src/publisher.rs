//! One publishing client: numbered messages within a window, at full speed or on a schedule.
//!
//! Invariant: `flights` holds exactly the Packet Identifiers that wait for an acknowledgement; at most
//! `inflight_max` of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval};
use veilmq_protocol::{
    Acknowledgement, Packet, PacketId, Publish, PublishProperties, QoS, ReasonCode, TopicName,
};

use crate::board::Board;
use crate::link::{Link, LinkError, unexpected};
use crate::load::LoadError;
use crate::pacer::{Pacer, Schedule};
use crate::stamp::{SEQUENCE_LIMIT, Stamp};

/// Bytes gathered for one write.
const BATCH_BYTES: usize = 64 * 1024;
/// How often a waiting publisher looks whether anything moves at all.
const TICK: Duration = Duration::from_millis(100);

/// What one publisher has to do.
pub(crate) struct Task {
    pub(crate) index: u16,
    /// Taken in turn; at least one.
    pub(crate) topics: Vec<String>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Below the length of a stamp, the payload carries none.
    pub(crate) payload_bytes: usize,
    /// Messages to publish; `None` for as many as fit before `until`.
    pub(crate) messages: Option<u64>,
    pub(crate) until: Option<Instant>,
    pub(crate) schedule: Option<Schedule>,
    /// Messages that the audience may lag behind.
    pub(crate) window: u64,
    /// QoS 1 and 2 messages that may wait for acknowledgement.
    pub(crate) inflight_max: u16,
    /// The publisher gives up when nothing has moved for so long.
    pub(crate) stall: Duration,
}

/// What one publisher did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) published: u64,
    /// It gave up waiting for acknowledgements or deliveries.
    pub(crate) stalled: bool,
}

/// Publishes until the task is done and all of its audience has everything, or nothing moves any more.
///
/// # Errors
/// The connection breaks, or the broker refuses a message or acknowledges one that is not in flight.
pub(crate) async fn publish(link: &mut Link, board: Arc<Board>, task: Task) -> Result<Outcome, LoadError> {
    let mut pacer = task.schedule.as_ref().map(Pacer::start).transpose().map_err(LinkError::from)?;
    let mut publisher = Publisher::new(link, board, task)?;
    let mut watch = Watch::new(publisher.task.stall);
    loop {
        publisher.fill()?;
        publisher.link.flush()?;
        if publisher.is_done() {
            break;
        }
        if publisher.may_send(Instant::now()) && publisher.link.backlog_bytes() == 0 {
            tokio::task::yield_now().await;
            continue;
        }
        let lag = publisher.lag();
        tokio::select! {
            turned = publisher.link.turn() => turned?,
            () = publisher.board.wait_seen(publisher.task.index, lag.unwrap_or(0)), if lag.is_some() => {}
            due = tick(pacer.as_mut()) => due.map_err(LinkError::from)?,
            _ = watch.ticks.tick() => {
                if watch.is_stalled(publisher.waits_for_broker(), publisher.progress()) {
                    return Ok(publisher.outcome(true));
                }
            }
        }
        publisher.take_acknowledgements()?;
    }
    Ok(publisher.outcome(false))
}

async fn tick(pacer: Option<&mut Pacer>) -> std::io::Result<()> {
    match pacer {
        Some(pacer) => pacer.tick().await,
        None => std::future::pending().await,
    }
}

struct Publisher<'a> {
    link: &'a mut Link,
    board: Arc<Board>,
    task: Task,
    payload: Vec<u8>,
    sent: u64,
    /// What the whole audience has seen, when last looked at.
    seen: u64,
    flights: Flights,
    /// The window was full: nothing is sent before the audience has seen so many. Waiting for half a window
    /// rather than one message keeps batches large and wakes few.
    held_until: Option<u64>,
}

impl<'a> Publisher<'a> {
    fn new(link: &'a mut Link, board: Arc<Board>, task: Task) -> Result<Self, LoadError> {
        for topic in &task.topics {
            TopicName::new(topic).map_err(|_| LoadError::Topic(topic.clone()))?;
        }
        let flights = Flights::new(task.inflight_max.min(link.receive_maximum()));
        let payload = vec![b'.'; task.payload_bytes];
        Ok(Self { link, board, task, payload, sent: 0, seen: 0, flights, held_until: None })
    }

    /// Queues what may be sent now, up to one batch.
    fn fill(&mut self) -> Result<(), LoadError> {
        let first = self.sent;
        let now = Instant::now();
        self.hold_or_release();
        while self.link.backlog_bytes() < BATCH_BYTES && self.may_send(now) {
            self.push(now)?;
            self.hold_or_release();
        }
        if self.sent > first {
            self.board.announce(self.task.index, self.sent);
        }
        Ok(())
    }

    fn hold_or_release(&mut self) {
        let limit = self.held_until.unwrap_or(self.sent.saturating_sub(self.task.window - 1));
        if self.is_seen(limit) {
            self.held_until = None;
        } else if self.held_until.is_none() {
            self.held_until = Some(self.sent - self.task.window / 2);
        }
    }

    fn is_seen(&mut self, count: u64) -> bool {
        if self.seen < count {
            self.seen = self.board.seen_by_all(self.task.index);
        }
        self.seen >= count
    }

    /// What the audience must have seen before this publisher can go on or end; `None` if it waits for
    /// something else.
    fn lag(&mut self) -> Option<u64> {
        let count = self.held_until.or_else(|| self.has_sent_all().then_some(self.sent))?;
        (!self.is_seen(count)).then_some(count)
    }

    fn may_send(&self, now: Instant) -> bool {
        self.held_until.is_none()
            && self.sent < self.limit(now)
            && (self.task.qos == QoS::AtMostOnce || self.flights.has_room())
    }

    /// How many messages may have been sent by `now`.
    fn limit(&self, now: Instant) -> u64 {
        let ended = self.task.until.is_some_and(|until| now >= until);
        let total = if ended { self.sent } else { self.task.messages.unwrap_or(SEQUENCE_LIMIT) };
        let due = self.task.schedule.as_ref().map_or(u64::MAX, |schedule| schedule.due_count(now));
        total.min(due)
    }

    fn push(&mut self, now: Instant) -> Result<(), LoadError> {
        let due = self.task.schedule.as_ref().map_or(now, |schedule| schedule.due(self.sent));
        let due_nanos = due.saturating_duration_since(self.board.epoch).as_nanos() as u64;
        let stamp = Stamp { publisher: self.task.index, sequence: self.sent, due_nanos }.encode();
        if let Some(head) = self.payload.first_chunk_mut() {
            *head = stamp;
        }
        let packet_id = match self.task.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => self.flights.begin(Awaits::PubAck),
            QoS::ExactlyOnce => self.flights.begin(Awaits::PubRec),
        };
        let topic = self.task.topics.get(self.sent as usize % self.task.topics.len().max(1));
        self.link.outbox.push(&Packet::Publish(Publish {
            dup: false,
            qos: self.task.qos,
            retain: self.task.retain,
            topic: topic.and_then(|topic| TopicName::new(topic).ok()),
            packet_id,
            properties: PublishProperties::default(),
            payload: &self.payload,
        }))?;
        self.sent += 1;
        Ok(())
    }

    fn take_acknowledgements(&mut self) -> Result<(), LoadError> {
        while let Some(packet) = self.link.inbox.next()? {
            match packet {
                Packet::PubAck(answer) => self.flights.end(Awaits::PubAck, &answer)?,
                Packet::PubRec(answer) => {
                    self.flights.continue_to_release(&answer)?;
                    let release = Acknowledgement::new(answer.packet_id, ReasonCode::Success);
                    self.link.outbox.push(&Packet::PubRel(release))?;
                }
                Packet::PubComp(answer) => self.flights.end(Awaits::PubComp, &answer)?,
                other => return Err(unexpected(&other, "an acknowledgement").into()),
            }
        }
        Ok(())
    }

    fn has_sent_all(&self) -> bool {
        self.task.messages == Some(self.sent) || self.task.until.is_some_and(|until| Instant::now() >= until)
    }

    fn is_done(&mut self) -> bool {
        self.has_sent_all() && self.flights.is_empty() && self.is_seen(self.sent)
    }

    fn waits_for_broker(&mut self) -> bool {
        !(self.link.backlog_bytes() == 0 && self.flights.is_empty() && self.is_seen(self.sent))
    }

    /// Numbers that change whenever anything moves.
    fn progress(&self) -> (u64, u64, u64) {
        (self.sent, self.flights.ended, self.seen)
    }

    fn outcome(&self, stalled: bool) -> Outcome {
        Outcome { published: self.sent, stalled }
    }
}

/// Looks now and then whether anything has changed.
struct Watch {
    ticks: Interval,
    stall: Duration,
    progress: (u64, u64, u64),
    since: Instant,
}

impl Watch {
    fn new(stall: Duration) -> Self {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { ticks, stall, progress: (0, 0, 0), since: Instant::now() }
    }

    /// A publisher that waits for nothing but its schedule is not stalled.
    fn is_stalled(&mut self, waits_for_broker: bool, progress: (u64, u64, u64)) -> bool {
        if !waits_for_broker || progress != self.progress {
            self.progress = progress;
            self.since = Instant::now();
        }
        self.since.elapsed() >= self.stall
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Nothing,
    PubAck,
    PubRec,
    PubComp,
}

/// The QoS 1 and 2 messages of one publisher that are not acknowledged yet.
struct Flights {
    free: VecDeque<PacketId>,
    awaits: Vec<Awaits>,
    ended: u64,
}

impl Flights {
    fn new(inflight_max: u16) -> Self {
        let free: VecDeque<_> = (1..=inflight_max).filter_map(PacketId::new).collect();
        Self { awaits: vec![Awaits::Nothing; free.len() + 1], free, ended: 0 }
    }

    fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.free.len() + 1 == self.awaits.len()
    }

    fn begin(&mut self, awaits: Awaits) -> Option<PacketId> {
        let packet_id = self.free.pop_front()?;
        *self.awaits.get_mut(usize::from(packet_id.value()))? = awaits;
        Some(packet_id)
    }

    fn end(&mut self, awaited: Awaits, answer: &Acknowledgement<'_>) -> Result<(), LoadError> {
        self.advance(awaited, Awaits::Nothing, answer)?;
        self.free.push_back(answer.packet_id);
        self.ended += 1;
        Ok(())
    }

    fn continue_to_release(&mut self, answer: &Acknowledgement<'_>) -> Result<(), LoadError> {
        self.advance(Awaits::PubRec, Awaits::PubComp, answer)
    }

    fn advance(&mut self, from: Awaits, to: Awaits, answer: &Acknowledgement<'_>) -> Result<(), LoadError> {
        if answer.reason.is_error() {
            return Err(LoadError::PublishRefused(answer.reason));
        }
        let place = self.awaits.get_mut(usize::from(answer.packet_id.value()));
        match place {
            Some(awaits) if *awaits == from => *awaits = to,
            _ => return Err(LoadError::NotInFlight(answer.packet_id.value())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(packet_id: u16) -> Acknowledgement<'static> {
        Acknowledgement::new(PacketId::new(packet_id).unwrap(), ReasonCode::Success)
    }

    #[tokio::test]
    async fn a_publisher_is_stalled_only_while_it_waits_for_the_broker_in_vain() {
        let mut watch = Watch::new(Duration::from_millis(3_600));
        let long_ago = Instant::now() - Duration::from_millis(3_600);

        watch.since = long_ago;
        assert!(watch.is_stalled(true, (0, 0, 0)));
        assert!(!watch.is_stalled(true, (1, 0, 0)));
        watch.since = long_ago;
        assert!(!watch.is_stalled(false, (1, 0, 0)));
    }

    #[test]
    fn no_more_than_inflight_max_messages_are_in_flight() {
        let mut flights = Flights::new(2);

        let first = flights.begin(Awaits::PubAck).unwrap();
        let second = flights.begin(Awaits::PubAck).unwrap();
        assert_ne!(first, second);
        assert!(!flights.has_room());
        assert!(flights.begin(Awaits::PubAck).is_none());

        flights.end(Awaits::PubAck, &answer(second.value())).unwrap();
        assert_eq!(flights.begin(Awaits::PubAck), Some(second));
    }

    #[test]
    fn qos_2_holds_its_packet_id_until_pubcomp() {
        let mut flights = Flights::new(1);
        flights.begin(Awaits::PubRec).unwrap();

        flights.continue_to_release(&answer(1)).unwrap();
        assert!(!flights.has_room());
        flights.end(Awaits::PubComp, &answer(1)).unwrap();

        assert!(flights.is_empty());
        assert_eq!(flights.ended, 1);
    }

    #[test]
    fn an_acknowledgement_that_was_not_due_is_refused_by_its_packet_id() {
        let mut flights = Flights::new(2);
        flights.begin(Awaits::PubRec).unwrap();

        for (packet_id, awaited) in
            [(1, Awaits::PubAck), (1, Awaits::PubComp), (2, Awaits::PubAck), (9, Awaits::PubAck)]
        {
            let error = flights.end(awaited, &answer(packet_id)).unwrap_err();

            assert!(matches!(error, LoadError::NotInFlight(named) if named == packet_id), "{error}");
        }
    }

    #[test]
    fn a_refused_message_ends_the_run_with_its_reason() {
        let mut flights = Flights::new(1);
        let packet_id = flights.begin(Awaits::PubAck).unwrap();

        let refusal = Acknowledgement::new(packet_id, ReasonCode::QuotaExceeded);
        let error = flights.end(Awaits::PubAck, &refusal).unwrap_err();

        assert!(matches!(error, LoadError::PublishRefused(ReasonCode::QuotaExceeded)), "{error}");
    }
}
