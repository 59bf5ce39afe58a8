//! One subscribing client: acknowledges what arrives, accounts for every number, measures latencies.
//!
//! All messages of one read count as arrived when the read returned, and are answered with one write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio::time::timeout;
use veilmq_protocol::{Acknowledgement, Packet, Publish, QoS, ReasonCode};

use crate::board::Board;
use crate::ledger::{Ledger, Order};
use crate::link::{ANSWER_SECONDS_MAX, Link, LinkError, unexpected};
use crate::load::{LoadError, Phase};
use crate::scenario::{Reach, Scenario};
use crate::stamp::Stamp;
use crate::stats::Histogram;
use crate::subscribe::check_granted;

/// What one subscriber received.
pub(crate) struct Outcome {
    pub(crate) accounts: Accounts,
    /// Messages that no publisher of this run has sent to this subscriber.
    pub(crate) foreign: u64,
    pub(crate) latency: Histogram,
    /// When the last message arrived.
    pub(crate) last: Option<Instant>,
}

/// The accounts of the publishers that one client hears, in their order.
pub(crate) enum Accounts {
    /// It is due every message of theirs.
    Each(Vec<Ledger>),
    /// It is a member of a group, whose other members are due the rest.
    Member(Vec<Order>),
}

impl Accounts {
    fn new(scenario: Scenario, index: u16) -> Self {
        let sources = scenario.sources(index);
        match scenario.reach {
            Reach::AnyOne => Self::Member(sources.map(|_| Order::default()).collect()),
            Reach::All | Reach::Own => Self::Each(sources.map(|_| Ledger::default()).collect()),
        }
    }
}

/// Receives until the run is in its last phase, then until the broker has answered a PINGREQ: what it had to
/// deliver has arrived by then, and so has any duplicate. `due_grant` is the QoS of a SUBSCRIBE that is not answered yet.
///
/// # Errors
/// The connection breaks, or the broker sends a packet that is not due.
pub(crate) async fn receive(
    link: &mut Link,
    board: Arc<Board>,
    index: u16,
    due_grant: Option<QoS>,
    mut phase: watch::Receiver<Phase>,
) -> Result<Outcome, LoadError> {
    let mut subscriber = Subscriber::new(link, board, index, due_grant);
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
    due_grant: Option<QoS>,
}

impl<'a> Subscriber<'a> {
    fn new(link: &'a mut Link, board: Arc<Board>, index: u16, due_grant: Option<QoS>) -> Self {
        let accounts = Accounts::new(board.scenario, index);
        let outcome = Outcome { accounts, foreign: 0, latency: Histogram::new(), last: None };
        Self { link, board, index, outcome, heard: BTreeSet::new(), due_grant }
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
                Packet::SubAck(answer) if self.due_grant.is_some() => {
                    self.due_grant.take().map_or(Ok(()), |qos| check_granted(answer.reasons, qos))?;
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
            let place = publisher - self.board.scenario.sources(self.index).start;
            let next = match &self.outcome.accounts {
                Accounts::Each(ledgers) => ledgers.get(usize::from(place)).map_or(0, Ledger::next),
                Accounts::Member(_) => self.board.delivered_to_group(publisher),
            };
            self.board.report(publisher, self.index, next);
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
    let sources = board.scenario.sources(subscriber);
    if !sources.contains(&stamp.publisher) {
        return None;
    }
    let place = usize::from(stamp.publisher - sources.start);
    match &mut outcome.accounts {
        Accounts::Each(ledgers) => ledgers.get_mut(place)?.record(stamp.sequence),
        Accounts::Member(orders) => {
            orders.get_mut(place)?.record(stamp.sequence);
            board.enter_for_group(stamp.publisher, stamp.sequence);
        }
    }
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

    fn outcome(scenario: Scenario, index: u16) -> Outcome {
        let accounts = Accounts::new(scenario, index);
        Outcome { accounts, foreign: 0, latency: Histogram::new(), last: None }
    }

    #[test]
    fn only_messages_that_a_publisher_has_announced_to_this_subscriber_are_entered() {
        let board = Board::new(Scenario::pairs(2));
        board.announce(0, 5);
        board.announce(1, 5);
        let mut outcome = outcome(Scenario::pairs(2), 1);

        let stamp = |publisher, sequence| Stamp { publisher, sequence, due_nanos: 1_000 }.encode();
        assert_eq!(enter(&mut outcome, &board, 1, &stamp(1, 4), 1_090), Some(1));
        for (publisher, sequence) in [(1, 5), (0, 0), (2, 0), (u16::MAX, 0)] {
            assert_eq!(enter(&mut outcome, &board, 1, &stamp(publisher, sequence), 1_090), None);
        }
        assert_eq!(enter(&mut outcome, &board, 1, b"too short", 1_090), None);

        let Accounts::Each(ledgers) = &outcome.accounts else { panic!("a pair is no group") };
        assert_eq!(ledgers.iter().map(Ledger::delivered).collect::<Vec<_>>(), [1]);
        assert_eq!(outcome.latency.percentile(100.0), Some(90));
    }

    #[test]
    fn what_a_bystander_gets_is_foreign() {
        let scenario = Scenario::subscriptions(1);
        let board = Board::new(scenario);
        board.announce(0, 1);
        let bystander = scenario.subscribers;

        let stamp = Stamp { publisher: 0, sequence: 0, due_nanos: 0 }.encode();

        assert_eq!(enter(&mut outcome(scenario, bystander), &board, bystander, &stamp, 0), None);
        assert_eq!(enter(&mut outcome(scenario, 0), &board, 0, &stamp, 0), Some(0));
    }
}
