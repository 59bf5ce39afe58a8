//! `veil demo`: readings of this machine, sealed end to end, through a running broker in development mode.
//!
//! Everything it shows it also checks; the exit status is 0 only if every claim held.

mod cast;
mod http;
mod readings;
mod report;
mod schemes;
mod wire;

use std::{sync::Arc, time::Duration};

use clap::{ArgAction, Args, ValueEnum};
use tokio::time::timeout;
use veilmq_client::{
    Client, Message, PublishError, QoS, Received, Status, Subscription,
    e2e::{Authentication, OpenError, Provenance},
};
use veilmq_protocol::veil::{
    Kid, Roles, Scheme,
    channel::Identity,
    envelope::{Envelope, EnvelopeFlags},
    record::RecordType,
};

use self::{
    cast::Cast,
    readings::{Reading, Readings},
    report::{Report, column_titles, heading},
    schemes::Shown,
    wire::Wire,
};
use crate::failure::Failure;

/// No step of the demonstration takes longer than this.
const STEP: Duration = Duration::from_secs(10);
/// Shorter runs of equal bytes occur by chance.
const LEAK_BYTES: usize = 6;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
    /// The broker's host
    #[arg(short = 'h', long, default_value = "localhost")]
    pub(crate) host: String,
    /// The broker's port
    #[arg(short = 'p', long, default_value_t = 1883)]
    pub(crate) port: u16,
    /// The broker's admin listener
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9464")]
    pub(crate) admin: String,
    /// What to show: a scheme of the paper (the broker must offer it, see veil.schemes), what VEIL-1 makes of the fourth, or the
    /// article's format
    #[arg(long, value_enum, default_value = "veil")]
    scheme: SchemeName,
    /// With a scheme of the paper: to the letter, and subscribers ask for their keys while they connect (the broker must serve it, see
    /// veil.paper_modes)
    #[arg(long)]
    paper: bool,
    /// How many readings to publish
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) count: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemeName {
    /// A key for each pair; packets are plain after an authenticated CONNECT
    #[value(name = "1")]
    One,
    /// A key for each pair; every packet is encrypted on the way
    #[value(name = "2")]
    Two,
    /// A key for the group; messages are encrypted once for all subscribers
    #[value(name = "3")]
    Three,
    /// A key for the group; packets are authenticated on the way
    #[value(name = "4")]
    Four,
    /// The fourth with signatures, and tags that no other subscriber can forge
    Veil,
    /// A master key, and neither authentication nor a channel
    Article,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let shown = match arguments.scheme {
        SchemeName::Article | SchemeName::Veil if arguments.paper => {
            return Err(Failure::new("--paper goes with --scheme 1, 2, 3 or 4".to_owned()));
        }
        SchemeName::One => Some(Shown::Paper(Scheme::One)),
        SchemeName::Two => Some(Shown::Paper(Scheme::Two)),
        SchemeName::Three => Some(Shown::Paper(Scheme::Three)),
        SchemeName::Four => Some(Shown::Paper(Scheme::Four)),
        SchemeName::Article => Some(Shown::Article),
        SchemeName::Veil => None,
    };
    let cast = Cast::assemble(&arguments).await?;
    let outcome = match shown {
        Some(shown) => schemes::run(&cast, shown, arguments.paper, arguments.count).await,
        None => show_veil(&cast, arguments.count).await,
    };
    let left = cast.leave().await;
    outcome.and(left)
}

async fn show_veil(cast: &Cast, count: u32) -> Result<(), Failure> {
    heading("1. A certificate authority, a device and a subscriber, in a temporary folder");
    let mut stage = Stage::set(cast).await?;
    heading(&format!("2. {count} readings of this machine, sealed by the device"));
    let last = stage.publish_readings(count).await?;
    heading("3. What the broker keeps: a retained message, asked for by a newcomer without a key");
    stage.show_stored().await?;
    heading("4. What must not work");
    stage.wrong_key(count).await?;
    stage.changed_messages(&last).await?;
    stage.plaintext().await?;
    heading("5. What crossed the wire");
    stage.show_wires();
    stage.finish().await
}

/// The connections of the demonstration.
struct Stage<'a> {
    cast: &'a Cast,
    report: Report,
    device_identity: Arc<Identity>,
    device: Client,
    device_wire: Wire,
    reader: Client,
    reader_wire: Wire,
    reads: Subscription,
    /// An ordinary MQTT client without a key: it sees what the broker sees.
    ordinary: Client,
    sees: Subscription,
    stranger: Client,
    strange: Subscription,
}

impl<'a> Stage<'a> {
    async fn set(cast: &'a Cast) -> Result<Self, Failure> {
        let mut report = Report::default();
        let (device_identity, reader_identity) =
            (cast.identity("device", Roles::PUBLISHER)?, cast.identity("reader", Roles::SUBSCRIBER)?);
        say!("  {} (removed at the end)", cast.folder().display());
        let broker = cast.broker();
        say!("  broker {:?}, key identifier {}, pinned", broker.subject, broker.kid());
        say!("  device {}, subscriber {}", device_identity.kid(), reader_identity.kid());
        let senders: [&Identity; 1] = [&device_identity];
        let (device_wire, reader_wire) = (cast.wire().await?, cast.wire().await?);
        let device = cast.connect(&device_wire, &device_identity, &[]).await?;
        let reader = cast.connect(&reader_wire, &reader_identity, &senders).await?;
        let on_channel = [&device, &reader].into_iter().all(|client| has_channel_to(client, broker.kid()));
        report.claim(
            "device and subscriber have integrity-only VEIL-1 channels to the pinned broker",
            on_channel,
        );
        let ordinary = cast.connect_ordinary("ordinary").await?;
        let stranger = cast.connect_with_wrong_key("stranger", &senders).await?;
        let scope = cast.scope();
        let reads = reader.subscribe(&scope).qos(QoS::AtLeastOnce).await?;
        let sees = ordinary.subscribe(&scope).qos(QoS::AtLeastOnce).await?;
        let strange = stranger.subscribe(&scope).qos(QoS::AtLeastOnce).await?;
        Ok(Self {
            cast,
            report,
            device_identity,
            device,
            device_wire,
            reader,
            reader_wire,
            reads,
            ordinary,
            sees,
            stranger,
            strange,
        })
    }

    /// Publishes readings one by one and compares what arrives where; gives the last message as the broker saw it.
    async fn publish_readings(&mut self, count: u32) -> Result<Message, Failure> {
        column_titles();
        let mut tally = Tally::default();
        let mut last = None;
        let mut readings = Readings::default();
        for _ in 0..count {
            let reading = readings.next().await?;
            last = Some(self.publish_reading(&reading, &mut tally).await?);
        }
        self.report.claim("the broker acknowledged every reading (QoS 1)", tally.acknowledged == count);
        self.report
            .claim("the subscriber read every reading exactly as the device took it", tally.read == count);
        self.report.claim("each came with the device's signature", tally.signed == count);
        self.report.claim("the broker forwarded sealed envelopes of the device only", tally.sealed == count);
        self.report.claim("no part of any reading was in what the broker forwarded", tally.hidden == count);
        last.ok_or_else(|| Failure::new("nothing was published"))
    }

    async fn publish_reading(&mut self, reading: &Reading, tally: &mut Tally) -> Result<Message, Failure> {
        let topic = self.cast.topic(reading.name);
        let publication = self.device.publish(&topic, &reading.text).qos(QoS::AtLeastOnce);
        within("PUBACK", publication.send()).await??;
        tally.acknowledged += 1;
        let read = message(&mut self.reads, "the subscriber").await?;
        let seen = message(&mut self.sees, "the ordinary client").await?;
        let header = describe(&seen);
        report::message(&header, &seen.payload, &String::from_utf8_lossy(&read.payload));
        tally.read += u32::from(read.topic == topic && read.payload == reading.text.as_bytes());
        tally.signed += u32::from(is_signed_by(&read, &self.device_identity));
        tally.sealed += u32::from(is_sealed_by(&seen, &self.device_identity));
        tally.hidden += u32::from(!leaks(&seen.payload, reading.text.as_bytes()));
        Ok(seen)
    }

    async fn show_stored(&mut self) -> Result<(), Failure> {
        let topic = self.cast.topic("last");
        let text = format!("{{\"last_reading_of\":\"{}\"}}", self.device_identity.certificate().subject);
        let publication = self.device.publish(&topic, &text).qos(QoS::AtLeastOnce).retain(true);
        within("PUBACK", publication.send()).await??;
        let read = message(&mut self.reads, "the subscriber").await?;
        let seen = message(&mut self.sees, "the ordinary client").await?;
        let newcomer = self.cast.connect_ordinary("newcomer").await?;
        let mut stored = newcomer.subscribe(&topic).qos(QoS::AtLeastOnce).await?;
        let stored = message(&mut stored, "the newcomer").await?;
        column_titles();
        report::message(&describe(&stored), &stored.payload, &String::from_utf8_lossy(&read.payload));
        self.report.claim(
            "what the broker keeps is the envelope the device sealed, byte for byte",
            stored.retain && stored.payload == seen.payload && is_sealed_by(&stored, &self.device_identity),
        );
        let hidden = !leaks(&stored.payload, text.as_bytes()) && read.payload == text.as_bytes();
        self.report.claim("no part of the message is in what the broker keeps", hidden);
        // Leaves nothing behind; anyone may clear a retained message, so the subscriber learns it as a tombstone.
        within("PUBACK", newcomer.publish(&topic, "").qos(QoS::AtLeastOnce).retain(true).send()).await??;
        newcomer.disconnect().await?;
        message(&mut self.sees, "the ordinary client").await.map(drop)?;
        next(&mut self.reads, "the subscriber").await.map(drop)
    }

    /// Everything so far also went to a client with another key.
    async fn wrong_key(&mut self, count: u32) -> Result<(), Failure> {
        let mut refused = 0;
        let mut example = None;
        for _ in 0..=count {
            match next(&mut self.strange, "the client with the wrong key").await? {
                Received::Refused { topic, error: OpenError::BadTag } => {
                    refused += 1;
                    example.get_or_insert(topic);
                }
                Received::Refused { .. } | Received::Message(_) | Received::Missed { .. } => {}
            }
        }
        if let Some(topic) = example {
            say!("  wrong key:   {topic}: message refused: {}", OpenError::BadTag);
        }
        self.report.claim("a wrong key opens none of the messages, and says so", refused == count + 1);
        Ok(())
    }

    /// The ordinary client sends again what it saw, changed by one bit and unchanged; a second subscriber with
    /// the right key, who has not seen the original, shows that the change itself is noticed.
    async fn changed_messages(&mut self, seen: &Message) -> Result<(), Failure> {
        let identity = self.cast.identity("second-reader", Roles::SUBSCRIBER)?;
        let wire = self.cast.wire().await?;
        let second = self.cast.connect(&wire, &identity, &[&self.device_identity]).await?;
        let mut second_reads = second.subscribe(&seen.topic).qos(QoS::AtLeastOnce).await?;
        let mut flipped = seen.payload.to_vec();
        let middle = flipped.len() / 2;
        if let Some(byte) = flipped.get_mut(middle) {
            *byte ^= 1;
        }
        let at_first = self.inject(&seen.topic, &flipped).await?;
        let at_second = refusal(&next(&mut second_reads, "the second subscriber").await?);
        say!("  flipped bit: {}: {}", seen.topic, outcome(at_second));
        let refused = at_first.is_some() && at_second == Some(OpenError::BadTag);
        self.report.claim("a message changed by one bit is refused", refused);
        within("DISCONNECT", second.disconnect()).await??;
        let error = self.inject(&seen.topic, &seen.payload).await?;
        say!("  replay:      {}: {}", seen.topic, outcome(error));
        self.report.claim("a message sent a second time is refused", error == Some(OpenError::Replay));
        Ok(())
    }

    async fn plaintext(&mut self) -> Result<(), Failure> {
        let topic = self.cast.topic("load");
        let error = self.inject(&topic, b"{\"load_1min\":0.0}").await?;
        say!("  plaintext:   {topic}: {}", outcome(error));
        self.report.claim("plaintext on the scope is refused", error == Some(OpenError::NotEncrypted));
        let refused = self.device.publish_plain(&topic, b"21.5").send().await;
        if let Err(error) = &refused {
            say!("  plaintext:   {error}");
        }
        let is_refused = matches!(refused, Err(PublishError::ScopeIsSealed { .. }));
        self.report.claim("the device cannot publish plaintext on the scope", is_refused);
        Ok(())
    }

    /// Publishes as the ordinary client and says how the subscriber refused it, if it did.
    async fn inject(&mut self, topic: &str, payload: &[u8]) -> Result<Option<OpenError>, Failure> {
        within("PUBACK", self.ordinary.publish(topic, payload).qos(QoS::AtLeastOnce).send()).await??;
        Ok(refusal(&next(&mut self.reads, "the subscriber").await?))
    }

    fn show_wires(&mut self) {
        self.device_wire.print("device");
        self.reader_wire.print("subscriber");
        let by_tag = self.reader_wire.has_brought(RecordType::FanDigest);
        self.report.claim("each message had a tag for this subscriber alone", by_tag);
    }

    async fn finish(self) -> Result<(), Failure> {
        for client in [&self.device, &self.reader, &self.ordinary, &self.stranger] {
            within("DISCONNECT", client.disconnect()).await??;
        }
        self.report.finish()
    }
}

/// Whether a client's packets travel in integrity-only records to the broker with this key.
fn has_channel_to(client: &Client, broker: Kid) -> bool {
    match client.status() {
        Status::Connected { channel: Some(channel), .. } => {
            channel.scheme == Scheme::Four && channel.broker_kid == broker
        }
        Status::Connected { channel: None, .. }
        | Status::Connecting
        | Status::Disconnected(_)
        | Status::Closed(_) => false,
    }
}

/// How many readings passed which check.
#[derive(Default)]
struct Tally {
    acknowledged: u32,
    read: u32,
    signed: u32,
    sealed: u32,
    hidden: u32,
}

async fn within<T>(what: &str, step: impl Future<Output = T>) -> Result<T, Failure> {
    timeout(STEP, step).await.map_err(|_| Failure::new(format!("{what} did not come in time")))
}

async fn next(subscription: &mut Subscription, who: &str) -> Result<Received, Failure> {
    let received = within(&format!("the next message for {who}"), subscription.next()).await?;
    received.ok_or_else(|| Failure::new(format!("{who} lost the connection")))
}

async fn message(subscription: &mut Subscription, who: &str) -> Result<Message, Failure> {
    match next(subscription, who).await? {
        Received::Message(message) => Ok(message),
        Received::Refused { topic, error } => Err(Failure::new(format!("{who} refused {topic}: {error}"))),
        Received::Missed { count } => Err(Failure::new(format!("{who} missed {count} messages"))),
    }
}

/// What anyone can tell from an envelope.
fn describe(seen: &Message) -> Vec<String> {
    let Ok(envelope) = Envelope::parse(&seen.payload) else {
        return vec![seen.topic.clone(), "not an envelope".to_owned()];
    };
    let header = &envelope.header;
    let signed = if header.flags.contains(EnvelopeFlags::SIGNED) { "signed" } else { "not signed" };
    vec![
        seen.topic.clone(),
        format!("{:?}, epoch {}, {signed}", header.suite, header.epoch),
        format!("sender {}, seq {}", header.sender, header.seq),
        format!("session {}, {} bytes:", header.session, seen.payload.len()),
    ]
}

fn is_sealed_by(seen: &Message, sender: &Identity) -> bool {
    Envelope::parse(&seen.payload).is_ok_and(|envelope| envelope.header.sender == sender.kid())
}

fn is_signed_by(read: &Message, sender: &Identity) -> bool {
    read.sealed.is_some_and(|sealed| {
        let by_sender =
            matches!(sealed.provenance, Provenance::Envelope(origin) if origin.sender == sender.kid());
        by_sender && sealed.authentication == Authentication::Signed
    })
}

/// Whether any piece of `secret` lies open in `payload`.
fn leaks(payload: &[u8], secret: &[u8]) -> bool {
    let pieces = secret.windows(LEAK_BYTES.min(secret.len()).max(1));
    pieces.into_iter().any(|piece| payload.windows(piece.len()).any(|window| window == piece))
}

fn refusal(received: &Received) -> Option<OpenError> {
    match received {
        Received::Refused { error, .. } => Some(*error),
        Received::Message(_) | Received::Missed { .. } => None,
    }
}

fn outcome(error: Option<OpenError>) -> String {
    error.map_or_else(|| "ACCEPTED".to_owned(), |error| format!("message refused: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_any_piece_of_the_secret_in_the_payload() {
        assert!(leaks(b"..abcdef..", b"xxabcdefyy"));
        assert!(leaks(b"..abc..", b"abc"));
        assert!(!leaks(b"..abcde.f", b"xxabcdefyy"));
        assert!(!leaks(b"", b"abcdef"));
    }
}
