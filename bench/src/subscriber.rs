//! One subscribing client: acknowledges what arrives, accounts for every number, measures latencies.
//!
//! All messages of one read count as arrived when the read returned, and are answered with one write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio::time::timeout;
use veilmq_protocol::{
    Acknowledgement, Packet, PacketId, Publish, QoS, ReasonCode, RetainHandling, Subscribe,
    SubscribeFiltersBuf, SubscribeOptions, TopicFilter, UserProperties,
};

use crate::board::Board;
use crate::ledger::Ledger;
use crate::link::{ANSWER_SECONDS_MAX, Link, LinkError, unexpected};
use crate::load::{LoadError, Phase};
use crate::stamp::Stamp;
use crate::stats::Histogram;

/// What one subscriber received.
pub(crate) struct Outcome {
    /// The ledger of every publisher by its number.
    pub(crate) ledgers: Vec<Ledger>,
    /// Messages that no publisher of this run has sent to this subscriber.
    pub(crate) foreign: u64,
    pub(crate) latency: Histogram,
    /// When the last message arrived.
    pub(crate) last: Option<Instant>,
}

/// Subscribes to `topic` and waits for the broker to grant exactly `qos`.
///
/// # Errors
/// The broker refuses the subscription, grants less, or does not answer in time.
pub(crate) async fn subscribe(link: &mut Link, topic: &str, qos: QoS) -> Result<(), LoadError> {
    let filter = TopicFilter::new(topic).map_err(|_| LoadError::Topic(topic.to_owned()))?;
    let packet_id = PacketId::new(1).ok_or(LoadError::NotInFlight(1))?;
    let mut filters = SubscribeFiltersBuf::default();
    let options = SubscribeOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::DoNotSend,
    };
    filters.push(filter, options).map_err(LinkError::from)?;
    link.outbox.push(&Packet::Subscribe(Subscribe {
        packet_id,
        subscription_id: None,
        user: UserProperties::default(),
        filters: filters.as_filters(),
    }))?;
    let answered = timeout(ANSWER_SECONDS_MAX, async {
        loop {
            link.turn().await?;
            match link.inbox.next()? {
                None => {}
                Some(Packet::SubAck(answer)) => return Ok(answer.reasons.first().copied()),
                Some(other) => return Err(unexpected(&other, "SUBACK")),
            }
        }
    });
    let granted = answered.await.unwrap_or(Err(LinkError::Late("SUBACK", ANSWER_SECONDS_MAX)))?;
    if granted == Some(qos as u8) { Ok(()) } else { Err(LoadError::NotGranted { asked: qos as u8, granted }) }
}

/// Receives until the run is in its last phase, then until the broker has answered a PINGREQ: what it had to
/// deliver has arrived by then, and so has any duplicate.
///
/// # Errors
/// The connection breaks, or the broker sends a packet that is not due.
pub(crate) async fn receive(
    link: &mut Link,
    board: Arc<Board>,
    index: u16,
    mut phase: watch::Receiver<Phase>,
) -> Result<Outcome, LoadError> {
    let mut subscriber = Subscriber::new(link, board, index);
    loop {
        tokio::select! {
            turned = subscriber.link.turn() => turned?,
            _ = phase.wait_for(|phase| *phase == Phase::Finish) => break,
        }
        subscriber.take_packets()?;
    }
    subscriber.link.outbox.push(&Packet::PingReq)?;
    let drained = timeout(ANSWER_SECONDS_MAX, async {
        while !subscriber.take_packets()? {
            subscriber.link.turn().await?;
        }
        Ok::<_, LoadError>(())
    });
    drained.await.unwrap_or(Err(LinkError::Late("PINGRESP", ANSWER_SECONDS_MAX).into()))?;
    Ok(subscriber.outcome)
}

struct Subscriber<'a> {
    link: &'a mut Link,
    board: Arc<Board>,
    index: u16,
    outcome: Outcome,
    /// Publishers heard in the current batch.
    heard: BTreeSet<u16>,
}

impl<'a> Subscriber<'a> {
    fn new(link: &'a mut Link, board: Arc<Board>, index: u16) -> Self {
        let ledgers = (0..board.publishers()).map(|_| Ledger::default()).collect();
        let outcome = Outcome { ledgers, foreign: 0, latency: Histogram::new(), last: None };
        Self { link, board, index, outcome, heard: BTreeSet::new() }
    }

    /// Handles everything that has arrived; tells whether a PINGRESP was among it.
    fn take_packets(&mut self) -> Result<bool, LoadError> {
        let now = Instant::now();
        let nanos = now.saturating_duration_since(self.board.epoch).as_nanos() as u64;
        let mut answered = false;
        while let Some(packet) = self.link.inbox.next()? {
            match packet {
                Packet::Publish(publish) => {
                    let answer = acknowledgement(&publish);
                    match enter(&mut self.outcome, &self.board, self.index, publish.payload, nanos) {
                        Some(publisher) => {
                            self.heard.insert(publisher);
                        }
                        None => self.outcome.foreign += 1,
                    }
                    if let Some(answer) = answer {
                        self.link.outbox.push(&answer)?;
                    }
                }
                Packet::PubRel(release) => {
                    let complete = Acknowledgement::new(release.packet_id, ReasonCode::Success);
                    self.link.outbox.push(&Packet::PubComp(complete))?;
                }
                Packet::PingResp => answered = true,
                other => return Err(unexpected(&other, "PUBLISH").into()),
            }
        }
        self.link.flush()?;
        self.report(now);
        Ok(answered)
    }

    fn report(&mut self, now: Instant) {
        if !self.heard.is_empty() {
            self.outcome.last = Some(now);
        }
        while let Some(publisher) = self.heard.pop_first() {
            if let Some(ledger) = self.outcome.ledgers.get(usize::from(publisher)) {
                self.board.report(publisher, self.index, ledger.next());
            }
        }
    }
}

/// Enters one message into the ledger of its publisher, which it returns; `None` for a message that no
/// publisher of this run has sent to this subscriber.
fn enter(
    outcome: &mut Outcome,
    board: &Board,
    subscriber: u16,
    payload: &[u8],
    now_nanos: u64,
) -> Option<u16> {
    let stamp = Stamp::decode(payload).filter(|stamp| stamp.sequence < board.published(stamp.publisher))?;
    if !board.audience(stamp.publisher).contains(&subscriber) {
        return None;
    }
    outcome.ledgers.get_mut(usize::from(stamp.publisher))?.record(stamp.sequence);
    outcome.latency.record(now_nanos.saturating_sub(stamp.due_nanos));
    Some(stamp.publisher)
}

fn acknowledgement(publish: &Publish<'_>) -> Option<Packet<'static>> {
    let answer = Acknowledgement::new(publish.packet_id?, ReasonCode::Success);
    match publish.qos {
        QoS::AtMostOnce => None,
        QoS::AtLeastOnce => Some(Packet::PubAck(answer)),
        QoS::ExactlyOnce => Some(Packet::PubRec(answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    fn outcome(publishers: usize) -> Outcome {
        let ledgers = (0..publishers).map(|_| Ledger::default()).collect();
        Outcome { ledgers, foreign: 0, latency: Histogram::new(), last: None }
    }

    #[test]
    fn only_messages_that_a_publisher_has_announced_to_this_subscriber_are_entered() {
        let board = Board::new(Scenario::Pairs(2));
        board.announce(0, 5);
        board.announce(1, 5);
        let mut outcome = outcome(2);

        let stamp = |publisher, sequence| Stamp { publisher, sequence, due_nanos: 1_000 }.encode();
        assert_eq!(enter(&mut outcome, &board, 1, &stamp(1, 4), 1_090), Some(1));
        for (publisher, sequence) in [(1, 5), (0, 0), (2, 0), (u16::MAX, 0)] {
            assert_eq!(enter(&mut outcome, &board, 1, &stamp(publisher, sequence), 1_090), None);
        }
        assert_eq!(enter(&mut outcome, &board, 1, b"too short", 1_090), None);

        assert_eq!((outcome.ledgers[0].delivered(), outcome.ledgers[1].delivered()), (0, 1));
        assert_eq!(outcome.latency.percentile(100.0), Some(90));
    }
}
