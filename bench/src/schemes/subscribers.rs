//! The subscribers' process: opens their connections one after the other, and opens every message that arrives on any.

use std::time::Instant;

use tokio::task::JoinSet;
use veilmq_client::e2e::E2e;
use veilmq_protocol::veil::channel::Operations;
use veilmq_protocol::{Acknowledgement, Packet, ReasonCode};

use super::part::{Connected, Done, Part, say, shared_nanos, wait_for_end};
use super::publisher::unix_ms;
use crate::Failure;
use crate::link::{Link, unexpected};
use crate::stamp::Stamp;
use crate::stats::Histogram;
use crate::subscribe::subscribe;

/// Plays the part to its end.
///
/// # Errors
/// The broker ends a connection, or a message is not what was published.
pub(crate) async fn play(part: &Part) -> Result<(), Failure> {
    let transport = part.transport()?;
    let mut micros = Vec::with_capacity(usize::from(part.subscribers));
    let mut ready = Vec::with_capacity(usize::from(part.subscribers));
    for index in 0..part.subscribers {
        let client_id = format!("subscriber-{index}");
        let start = Instant::now();
        let mut link = Link::open(&part.link_options(&transport, &client_id)).await?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
        subscribe(&mut link, &[part.contestant.topic(index)], part.qos()?).await?;
        let keys = part.contestant.subscribing(part.suite()?, index)?;
        ready.push(Subscriber { link, keys, latency: Histogram::new(), received: 0 });
    }
    say(&Connected { micros })?;

    // The first message is not measured.
    let mut subscribers = receive(ready, 1).await?;
    for subscriber in &mut subscribers {
        let _ = subscriber.take_operations();
        subscriber.latency = Histogram::new();
    }
    say(&())?;
    if part.interval.is_none() {
        for messages in 2..=part.messages {
            subscribers = receive(subscribers, messages).await?;
            say(&())?;
        }
    }
    let mut subscribers = receive(subscribers, part.messages + 1).await?;
    let (mut operations, mut latency) = (Operations::default(), Histogram::new());
    for subscriber in &mut subscribers {
        operations += subscriber.take_operations();
        latency.merge(&subscriber.latency);
    }
    let summary = latency.summary().ok_or("nothing arrived")?;
    let latency_micros = Some([summary.p50_micros, summary.p99_micros]);
    say(&Done { operations: operations.into(), latency_micros })?;
    wait_for_end().await?;
    for subscriber in subscribers {
        subscriber.link.close().await?;
    }
    Ok(())
}

/// Has all of them receive until each has had so many messages.
async fn receive(subscribers: Vec<Subscriber>, messages: u64) -> Result<Vec<Subscriber>, Failure> {
    let mut receiving = JoinSet::new();
    for subscriber in subscribers {
        receiving.spawn(async move { subscriber.receive(messages).await.map_err(|error| error.to_string()) });
    }
    let mut received = Vec::with_capacity(receiving.len());
    while let Some(joined) = receiving.join_next().await {
        received.push(joined??);
    }
    Ok(received)
}

struct Subscriber {
    link: Link,
    keys: Option<E2e>,
    latency: Histogram,
    received: u64,
}

impl Subscriber {
    /// On channel and envelopes, since they were last taken.
    fn take_operations(&mut self) -> Operations {
        let mut made = self.link.take_operations();
        made += self.keys.as_mut().map_or_else(Operations::default, E2e::take_operations);
        made
    }

    /// Receives until there were so many messages, each once and in order.
    async fn receive(mut self, messages: u64) -> Result<Self, Failure> {
        while self.received < messages {
            self.link.turn().await?;
            self.take_messages()?;
        }
        while self.link.backlog_bytes() > 0 {
            self.link.turn().await?;
        }
        Ok(self)
    }

    fn take_messages(&mut self) -> Result<(), Failure> {
        while let Some(packet) = self.link.inbox.next()? {
            let Packet::Publish(publish) = packet else { return Err(unexpected(&packet, "PUBLISH").into()) };
            let opened = match (&mut self.keys, publish.topic) {
                (Some(keys), Some(topic)) => {
                    Some(keys.open(topic, publish.payload, false, &publish.properties, unix_ms())?)
                }
                _ => None,
            };
            let plaintext = opened.as_ref().map_or(publish.payload, |opened| &opened.plaintext);
            let stamp = Stamp::decode(plaintext).ok_or("a message is too short")?;
            if stamp.sequence != self.received {
                return Err(format!("message {} came where {} was due", stamp.sequence, self.received).into());
            }
            self.received += 1;
            self.latency.record(shared_nanos().saturating_sub(stamp.due_nanos));
            if let Some(packet_id) = publish.packet_id {
                let answer = Acknowledgement::new(packet_id, ReasonCode::Success);
                self.link.outbox.push(&Packet::PubAck(answer))?;
            }
        }
        Ok(self.link.flush()?)
    }
}
