//! The four schemes of the paper and the article's format, each end to end: a device, two subscribers, and what crossed the
//! wire between them and the broker.
//!
//! Schemes 1 and 2 have a key for each pair of device and subscriber and one publication for each; 3 and 4 have one key for
//! the group and one publication. The article's format has a master key and ordinary connections.

use std::sync::Arc;

use veilmq_client::{
    Builder, Client, ConnectError, QoS, ReasonCode, Status, Subscription,
    e2e::{
        ArticleKey, ArticleKeys, Authentication, EnvelopeOptions, Scope, ScopeConfig, SenderPolicy,
        distribution::{Admission, IssuePolicy},
    },
    session::CloseReason,
};
use veilmq_protocol::veil::{Kid, Roles, Scheme, channel::Identity, distribution::Pair, record::RecordType};

use super::{
    LEAK_BYTES,
    cast::Cast,
    message,
    readings::Readings,
    report::{Report, heading},
    wire::Wire,
    within,
};
use crate::failure::Failure;

const ALL_SCHEMES: &str = "VEILMQ__VEIL__SCHEMES=scheme-4,scheme-3,scheme-2,scheme-1";

/// A scheme, or the article's format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Paper(Scheme),
    Article,
}

/// A client and the wire it is at.
struct Party {
    name: &'static str,
    identity: Arc<Identity>,
    client: Client,
    wire: Wire,
}

pub(super) async fn run(cast: &Cast, shown: Shown, to_the_letter: bool, count: u32) -> Result<(), Failure> {
    let mut report = Report::default();
    heading("1. A device and two subscribers");
    let identities = [
        ("subscriber", cast.identity("reader", Roles::SUBSCRIBER)?),
        ("second subscriber", cast.identity("second-reader", Roles::SUBSCRIBER)?),
    ];
    let kids: Vec<Kid> = identities.iter().map(|(_, identity)| identity.kid()).collect();
    let mut stage = Stage { cast, shown, to_the_letter, issuer: None };
    let certificates: Vec<&Identity> = identities.iter().map(|(_, identity)| &**identity).collect();
    let device =
        stage.connect("device", cast.identity("device", Roles::PUBLISHER)?, Some(&certificates)).await?;
    stage.issuer = Some(device.identity.kid());
    let (mut readers, mut subscriptions) = (Vec::new(), Vec::new());
    for (name, identity) in identities {
        let reader = stage.connect(name, identity, None).await?;
        let filter = stage.filter(reader.identity.kid());
        let reads = within("SUBACK", async { reader.client.subscribe(&filter).qos(QoS::AtLeastOnce).await });
        subscriptions.push(reads.await??);
        readers.push(reader);
    }
    let parties = || std::iter::once(&device).chain(&readers);
    report.claim(stage.connections(), parties().all(|party| stage.is_connected(&party.client)));

    heading(&format!("2. {count} readings of this machine"));
    let mut texts = Vec::new();
    let (mut read, mut authenticated) = (0, 0);
    let mut readings = Readings::default();
    let mut sensor = "";
    for number in 1..=count {
        let reading = readings.next().await?;
        let text = stage.text(&reading.text, u64::from(number))?;
        for topic in stage.topics(reading.name, &kids) {
            let publication = device.client.publish(&topic, &text).qos(QoS::AtLeastOnce);
            within("PUBACK", publication.send()).await??;
        }
        sensor = reading.name;
        say!("  {sensor}: {text}");
        for (reads, reader) in subscriptions.iter_mut().zip(&readers) {
            let got = message(reads, reader.name).await?;
            read += u32::from(got.payload == text.as_bytes());
            authenticated +=
                u32::from(got.sealed.is_some_and(|sealed| sealed.authentication == stage.authentication()));
        }
        texts.push(text);
    }
    let expected = count * u32::try_from(readers.len()).unwrap_or(u32::MAX);
    report.claim("each subscriber read every reading exactly as the device took it", read == expected);
    report.claim(stage.authenticity(), authenticated == expected);
    if shown == Shown::Article {
        stage.change_unnoticed(&mut report, &mut subscriptions).await?;
    }

    heading("3. What crossed the wire");
    for party in parties() {
        party.wire.print(party.name);
    }
    let hidden = parties().all(|party| texts.iter().all(|text| !shows_any_part(&party.wire, text)));
    report.claim("no part of any reading crossed the wire in clear", hidden);
    stage.claim_forms(&mut report, &device, &readers, sensor);
    for reader in &readers {
        within("DISCONNECT", reader.client.disconnect()).await??;
    }
    within("DISCONNECT", device.client.disconnect()).await??;
    report.finish()
}

fn shows_any_part(wire: &Wire, text: &str) -> bool {
    // Names of fields and of sensors recur in topics; what is measured does not.
    text.as_bytes().windows(2 * LEAK_BYTES).any(|piece| wire.has_shown(piece))
}

#[derive(Clone, Copy)]
struct Stage<'a> {
    cast: &'a Cast,
    shown: Shown,
    /// As in the paper, with its handshake and its join.
    to_the_letter: bool,
    /// Who issues the keys, once it is connected.
    issuer: Option<Kid>,
}

impl Stage<'_> {
    /// Whether every pair has a key of its own.
    const fn is_pairwise(&self) -> bool {
        matches!(self.shown, Shown::Paper(Scheme::One | Scheme::Two))
    }

    /// What `reader` subscribes to.
    fn filter(&self, reader: Kid) -> String {
        if self.is_pairwise() { format!("{}{reader}/#", Pair::TOPICS) } else { self.cast.scope() }
    }

    /// Where a reading goes.
    fn topics(&self, name: &str, readers: &[Kid]) -> Vec<String> {
        let topic = self.cast.topic(name);
        if self.is_pairwise() {
            readers.iter().map(|reader| Pair::topic(*reader, &topic)).collect()
        } else {
            vec![topic]
        }
    }

    async fn connect(
        &self,
        name: &'static str,
        identity: Arc<Identity>,
        issues_for: Option<&[&Identity]>,
    ) -> Result<Party, Failure> {
        let wire = self.cast.wire().await?;
        let builder = match self.shown {
            Shown::Article => self.with_article_keys(self.cast.ordinary(&wire, name))?,
            Shown::Paper(scheme) => {
                let mut builder = self.cast.on_channel(&wire, &identity, scheme)?;
                if self.to_the_letter {
                    builder = builder.paper(scheme);
                }
                match issues_for {
                    None => self.joined(builder)?,
                    Some(members) => self.issuing(builder, members)?,
                }
            }
        };
        let client = within("CONNACK", builder.connect()).await?.map_err(|error| self.refusal(error))?;
        say!("  {name}: {}, {}", identity.kid(), describe(&client));
        Ok(Party { name, identity, client, wire })
    }

    /// Says what the broker lacks, where it does not offer what is to be shown.
    fn refusal(&self, error: ConnectError) -> Failure {
        let is_not_offered = matches!(
            error,
            ConnectError::Failed {
                reason: CloseReason::Refused { reason: ReasonCode::BadAuthenticationMethod, .. },
                ..
            }
        );
        match self.shown {
            Shown::Paper(scheme) if is_not_offered => {
                let mode = format!(" and VEILMQ__VEIL__PAPER_MODES=paper-{}", scheme.value());
                Failure::new(format!(
                    "the broker does not offer this scheme; it does when it is started with {ALL_SCHEMES}{}",
                    if self.to_the_letter { &mode } else { "" }
                ))
            }
            Shown::Paper(_) | Shown::Article => error.into(),
        }
    }

    fn with_article_keys(&self, builder: Builder) -> Result<Builder, Failure> {
        let scope = Scope::new(&self.cast.scope()).map_err(|error| Failure::new(error.to_string()))?;
        let keys = ArticleKeys::new(ArticleKey::master(self.cast.master()?.as_slice()));
        Ok(builder.scope(ScopeConfig::article(scope, keys)))
    }

    fn joined(&self, builder: Builder) -> Result<Builder, Failure> {
        let options = EnvelopeOptions {
            require_signature: true,
            senders: SenderPolicy::Known,
            ..EnvelopeOptions::default()
        };
        let failed = |error: veilmq_client::e2e::ConfigError| Failure::new(error.to_string());
        let asked = self.issuer.filter(|_| self.to_the_letter);
        if let (true, Some(publisher)) = (self.is_pairwise(), self.issuer) {
            let builder = builder.join_pair_with(publisher, options);
            return Ok(if asked.is_some() { builder.ask_pair_with_connect(publisher) } else { builder });
        }
        let scope = self.cast.scope();
        let builder = builder.join_scope_with(&scope, options).map_err(failed)?;
        match asked {
            None => Ok(builder),
            Some(issuer) => builder.ask_with_connect(&scope, issuer).map_err(failed),
        }
    }

    /// Gives each pair a key, or the group.
    fn issuing(&self, mut builder: Builder, members: &[&Identity]) -> Result<Builder, Failure> {
        let failed = |error: veilmq_client::e2e::ConfigError| Failure::new(error.to_string());
        let options = EnvelopeOptions { sign: true, ..EnvelopeOptions::default() };
        let policy = IssuePolicy { admission: Admission::Named, ..IssuePolicy::default() };
        if self.is_pairwise() {
            let builder = builder.issue_pairs_with(policy, options);
            let certificates = members.iter().map(|member| member.certificate().clone());
            return Ok(certificates.fold(builder, Builder::admit_to_pairs));
        }
        let scope = self.cast.scope();
        builder = builder.issue_scope_with(&scope, policy, options).map_err(failed)?;
        for member in members {
            builder = builder.admit(&scope, member.certificate().clone()).map_err(failed)?;
        }
        Ok(builder)
    }

    const fn connections(&self) -> &'static str {
        match self.shown {
            Shown::Paper(_) => "all three have a channel of this scheme to the pinned broker",
            Shown::Article => "all three have ordinary MQTT connections",
        }
    }

    fn is_connected(&self, client: &Client) -> bool {
        let Status::Connected { channel, .. } = client.status() else { return false };
        match self.shown {
            Shown::Article => channel.is_none(),
            Shown::Paper(scheme) => channel.is_some_and(|channel| {
                channel.scheme == scheme && channel.broker_kid == self.cast.broker().kid()
            }),
        }
    }

    /// What is published: in the article's format with a sequence number.
    fn text(&self, reading: &str, number: u64) -> Result<String, Failure> {
        match self.shown {
            Shown::Paper(_) => Ok(reading.to_owned()),
            Shown::Article => veilmq_client::e2e::with_sequence_number(reading, number)
                .map_err(|error| Failure::new(error.to_string())),
        }
    }

    const fn authentication(&self) -> Authentication {
        match self.shown {
            Shown::Paper(_) => Authentication::Signed,
            Shown::Article => Authentication::None,
        }
    }

    const fn authenticity(&self) -> &'static str {
        match self.shown {
            Shown::Paper(_) => "each came with the device's signature",
            Shown::Article => "each was marked as not authenticated",
        }
    }

    /// The weakness of the article's format: a bit of the IV changes the sequence number, and nobody can tell.
    async fn change_unnoticed(
        &self,
        report: &mut Report,
        subscriptions: &mut [Subscription],
    ) -> Result<(), Failure> {
        let topic = self.cast.topic("flipped");
        let wire = self.cast.wire().await?;
        let ordinary = within("CONNACK", self.cast.ordinary(&wire, "meddler").connect()).await??;
        let name =
            veilmq_protocol::TopicName::new(&topic).map_err(|error| Failure::new(error.to_string()))?;
        let keys = ArticleKeys::new(ArticleKey::master(self.cast.master()?.as_slice()));
        let mut iv = [0; 16];
        crate::secret::random(&mut iv)?;
        let sealed = keys.encrypt(name, br#"{"seq":42}"#, iv);
        let mut changed = sealed.map_err(|error| Failure::new(error.to_string()))?;
        // The last digit stands at offset 8 of the first block: 2 becomes 9.
        if let Some(byte) = changed.get_mut(8) {
            *byte ^= b'2' ^ b'9';
        }
        within("PUBACK", ordinary.publish(&topic, &changed).qos(QoS::AtLeastOnce).send()).await??;
        let mut accepted = true;
        for reads in subscriptions {
            let got = message(reads, "a subscriber").await?;
            say!("  without any key {{\"seq\":42}} became {}", String::from_utf8_lossy(&got.payload));
            accepted &= got.payload.as_ref() == br#"{"seq":49}"#;
        }
        report.claim(
            "a change by someone without the key goes unnoticed, which is why it is so marked",
            accepted,
        );
        within("DISCONNECT", ordinary.disconnect()).await??;
        Ok(())
    }

    /// What an observer of the wire can and cannot tell.
    fn claim_forms(&self, report: &mut Report, device: &Party, readers: &[Party], sensor: &str) {
        // COMPACT shows certificates, and the scopes in them, whatever becomes of the packets behind CONNECT.
        let (name, hidden) = match self.to_the_letter {
            true => (sensor, "the names of topics did not either, but for the scope in CONNECT"),
            false => ("", "the names of topics did not either"),
        };
        let shows_topics = device.wire.has_shown(self.cast.topic(name).as_bytes());
        let brought = |records: &[RecordType]| {
            readers.iter().all(|reader| records.iter().any(|record| reader.wire.has_brought(*record)))
        };
        match self.shown {
            Shown::Article => {
                report.claim("the names of topics did: the format hides payloads alone", shows_topics);
            }
            Shown::Paper(Scheme::One) => {
                let suite = if self.to_the_letter { 0x01 } else { 0x02 };
                // A VE1 message with its flags b0 and b7.
                let of_a_pair = [b'V', b'E', 0x10, suite, 0x81];
                let is_pairwise = readers.iter().all(|reader| reader.wire.has_shown(&of_a_pair));
                report.claim("each was under the key of one pair, and signed", is_pairwise);
                report.claim("the names of topics did: packets are plain after CONNECT", shows_topics);
            }
            Shown::Paper(Scheme::Two) => {
                report.claim(hidden, !shows_topics);
                report.claim(
                    "every packet was encrypted for one connection",
                    brought(&[RecordType::Encrypted]),
                );
            }
            Shown::Paper(Scheme::Three) => {
                report.claim(hidden, !shows_topics);
                let once = brought(&[RecordType::FanGroupEncrypted]);
                report.claim("messages were encrypted once for all subscribers", once);
            }
            Shown::Paper(Scheme::Four) => {
                report
                    .claim("the names of topics did: records are authenticated, not encrypted", shows_topics);
                let (claim, types): (_, &[_]) = match self.to_the_letter {
                    true => (
                        "a group key alone made messages authentic (it does if veil.paper_modes of the broker has paper-4)",
                        &[RecordType::FanGroup],
                    ),
                    false => (
                        "each message had one body for all subscribers, with a tag that makes it authentic",
                        &[RecordType::FanGroup, RecordType::FanDigest],
                    ),
                };
                report.claim(claim, brought(types));
            }
        }
    }
}

fn describe(client: &Client) -> String {
    match client.status() {
        Status::Connected { channel: Some(channel), .. } => {
            format!("channel of scheme {}, {:?}", channel.scheme.value(), channel.suite)
        }
        Status::Connected { channel: None, .. } => "an ordinary MQTT connection".to_owned(),
        Status::Connecting | Status::Disconnected(_) | Status::Closed(_) => "no connection".to_owned(),
    }
}
