//! The publisher's process: opens its connection, seals each message as the contestant asks for, and publishes it.

use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::time::{Instant as TimerInstant, sleep_until};
use veilmq_client::e2e::E2e;
use veilmq_protocol::veil::channel::Operations;
use veilmq_protocol::{Packet, PacketId, Publish, PublishProperties, QoS, TopicName};

use super::contestant::EndToEnd;
use super::part::{Connected, Done, Part, hear, say, shared_nanos, wait_for_end};
use crate::Failure;
use crate::link::{Link, unexpected};
use crate::stamp::{STAMP_BYTES, Stamp};

/// Connections that are opened for their latency; the last one stays.
const CONNECTIONS: usize = 10;
/// Messages that may be unacknowledged.
const INFLIGHT_MAX: u16 = 1_000;

/// Plays the part to its end.
///
/// # Errors
/// The broker ends the connection or refuses a message.
pub(crate) async fn play(part: &Part) -> Result<(), Failure> {
    let (link, connected) = connect(part).await?;
    let mut publisher = Publisher {
        inflight_max: link.receive_maximum().min(INFLIGHT_MAX),
        link,
        qos: part.qos()?,
        keys: part.contestant.publishing(part.suite()?, part.subscribers)?,
        topics: topics(part),
        in_flight: 0,
        last_id: 0,
    };
    say(&connected)?;
    // The first message brings keys along and has streams derived; it is not measured.
    hear::<()>().await?;
    publisher.publish_all(part, 0..1, Duration::ZERO).await?;
    let _ = publisher.take_operations();
    match part.interval {
        Some(interval) => {
            hear::<()>().await?;
            publisher.publish_all(part, 1..part.messages + 1, interval).await?;
        }
        None => {
            for sequence in 1..=part.messages {
                hear::<()>().await?;
                publisher.publish_all(part, sequence..sequence + 1, Duration::ZERO).await?;
            }
        }
    }
    say(&Done { operations: publisher.take_operations().into(), latency_micros: None })?;
    wait_for_end().await?;
    Ok(publisher.link.close().await?)
}

async fn connect(part: &Part) -> Result<(Link, Connected), Failure> {
    let transport = part.transport()?;
    let mut micros = Vec::with_capacity(CONNECTIONS);
    loop {
        let client_id = format!("publisher-{}", micros.len());
        let start = Instant::now();
        let link = Link::open(&part.link_options(&transport, &client_id)).await?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
        if micros.len() == CONNECTIONS {
            return Ok((link, Connected { micros }));
        }
        link.close().await?;
    }
}

/// One for each copy of a message.
fn topics(part: &Part) -> Vec<String> {
    let copies = match part.contestant.end_to_end() {
        EndToEnd::Pairs => part.subscribers,
        EndToEnd::None | EndToEnd::Group => 1,
    };
    (0..copies).map(|index| part.contestant.topic(index)).collect()
}

struct Publisher {
    link: Link,
    qos: QoS,
    /// For each topic; empty if nothing is sealed.
    keys: Vec<E2e>,
    topics: Vec<String>,
    inflight_max: u16,
    in_flight: u16,
    last_id: u16,
}

impl Publisher {
    /// On channel and envelopes, since they were last taken.
    fn take_operations(&mut self) -> Operations {
        let mut made = self.link.take_operations();
        for keys in &mut self.keys {
            made += keys.take_operations();
        }
        made
    }

    async fn publish_all(
        &mut self,
        part: &Part,
        sequences: Range<u64>,
        interval: Duration,
    ) -> Result<(), Failure> {
        let mut payload = vec![0; part.payload_bytes.max(STAMP_BYTES)];
        let mut due = TimerInstant::now();
        for sequence in sequences {
            due += interval;
            self.wait_until(due).await?;
            let stamp = Stamp { publisher: 0, sequence, due_nanos: shared_nanos() };
            payload[..STAMP_BYTES].copy_from_slice(&stamp.encode());
            for copy in 0..self.topics.len() {
                while self.in_flight >= self.inflight_max {
                    self.link.turn().await?;
                    self.take_acknowledgements()?;
                }
                self.publish(copy, &payload)?;
                // Every copy leaves in a record of its own, as messages that are published one after the other do.
                self.link.flush()?;
            }
        }
        while self.in_flight > 0 || self.link.backlog_bytes() > 0 {
            self.link.turn().await?;
            self.take_acknowledgements()?;
        }
        Ok(())
    }

    async fn wait_until(&mut self, due: TimerInstant) -> Result<(), Failure> {
        loop {
            tokio::select! {
                () = sleep_until(due) => return Ok(()),
                turned = self.link.turn() => turned?,
            }
            self.take_acknowledgements()?;
        }
    }

    fn publish(&mut self, copy: usize, payload: &[u8]) -> Result<(), Failure> {
        let text = self.topics.get(copy).ok_or("there is no such copy")?;
        let topic = TopicName::new(text).map_err(|_| format!("{text:?} is no topic"))?;
        let properties = PublishProperties::default();
        let sealed = match self.keys.get_mut(copy) {
            None => None,
            Some(keys) => {
                let mut failed = Ok(());
                let mut entropy = |bytes: &mut [u8]| failed = failed.and(getrandom::fill(bytes));
                let sealed = keys.seal(topic, payload, &properties, unix_ms(), &mut entropy)?;
                failed?;
                Some(sealed)
            }
        };
        let packet_id = match self.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                self.last_id = self.last_id.checked_add(1).unwrap_or(1);
                self.in_flight += 1;
                PacketId::new(self.last_id)
            }
        };
        Ok(self.link.outbox.push(&Packet::Publish(Publish {
            dup: false,
            qos: self.qos,
            retain: false,
            topic: Some(topic),
            packet_id,
            properties,
            payload: sealed.as_deref().unwrap_or(payload),
        }))?)
    }

    fn take_acknowledgements(&mut self) -> Result<(), Failure> {
        while let Some(packet) = self.link.inbox.next()? {
            match packet {
                Packet::PubAck(answer) if answer.reason.is_error() => {
                    return Err(format!("a message was refused: {}", answer.reason).into());
                }
                Packet::PubAck(_) => self.in_flight = self.in_flight.saturating_sub(1),
                other => return Err(unexpected(&other, "PUBACK").into()),
            }
        }
        Ok(())
    }
}

/// Now, in milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
