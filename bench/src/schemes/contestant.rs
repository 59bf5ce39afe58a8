//! The ways of protecting a message that the experiment compares, and what each consists of.

use std::fmt;

use serde::{Deserialize, Serialize};
use veilmq_client::e2e::{
    E2e, EnvelopeOptions, EpochTiming, Keyring, Limits, MasterSecret, Member, Scope, ScopeConfig,
};
use veilmq_protocol::veil::channel::Operations;
use veilmq_protocol::veil::{Kid, Scheme, Suite};

use crate::Failure;

/// The epoch of every key.
const EPOCH: u32 = 1;
/// Who publishes.
const PUBLISHER: Kid = Kid::from_bytes([1; Kid::LEN]);
/// Who subscribes; receivers seal nothing, so they need no names of their own.
const SUBSCRIBER: Kid = Kid::from_bytes([2; Kid::LEN]);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    /// Nothing is protected.
    Plain,
    /// The paper's schemes, with fan-out under group keys where the paper has it.
    Scheme1,
    Scheme2,
    Scheme3,
    Scheme4,
    /// What VeilMQ does unless told otherwise: Scheme 4 with FAN-D.
    Veil,
    /// TLS to Debian's mosquitto, with envelopes under a group key.
    Conventional,
}

/// Who holds the keys of the envelopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndToEnd {
    None,
    /// Publisher and each subscriber have one of their own, so that each gets a message of its own.
    Pairs,
    Group,
}

impl Contestant {
    /// In the order in which they are shown.
    pub(crate) const ALL: [Self; 7] = [
        Self::Plain,
        Self::Scheme1,
        Self::Scheme2,
        Self::Scheme3,
        Self::Scheme4,
        Self::Veil,
        Self::Conventional,
    ];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Scheme1 => "Scheme 1",
            Self::Scheme2 => "Scheme 2",
            Self::Scheme3 => "Scheme 3",
            Self::Scheme4 => "Scheme 4",
            Self::Veil => "veil",
            Self::Conventional => "TLS + E2E",
        }
    }

    /// The scheme of its channel; None without one.
    pub(crate) fn scheme(self) -> Option<Scheme> {
        match self {
            Self::Plain | Self::Conventional => None,
            Self::Scheme1 => Some(Scheme::One),
            Self::Scheme2 => Some(Scheme::Two),
            Self::Scheme3 => Some(Scheme::Three),
            Self::Scheme4 | Self::Veil => Some(Scheme::Four),
        }
    }

    /// What `veil.fan_out` is for it.
    pub(crate) fn fan_out(self) -> &'static str {
        match self {
            Self::Scheme1 | Self::Scheme2 | Self::Scheme3 | Self::Scheme4 => "group",
            Self::Plain | Self::Veil | Self::Conventional => "digest",
        }
    }

    pub(crate) fn end_to_end(self) -> EndToEnd {
        match self {
            Self::Plain => EndToEnd::None,
            Self::Scheme1 | Self::Scheme2 => EndToEnd::Pairs,
            Self::Scheme3 | Self::Scheme4 | Self::Veil | Self::Conventional => EndToEnd::Group,
        }
    }

    /// The topic on which subscriber `index` gets its messages.
    pub(crate) fn topic(self, index: u16) -> String {
        match self.end_to_end() {
            EndToEnd::Pairs => format!("pairs/{index}/line-3/reading"),
            EndToEnd::None | EndToEnd::Group => "factory/line-3/reading".to_owned(),
        }
    }

    /// The keys of the publisher: one set for each message that it sends; none if nothing is sealed.
    ///
    /// # Errors
    /// A topic is none; not with those that there are.
    pub(crate) fn publishing(self, suite: Suite, subscribers: u16) -> Result<Vec<E2e>, Failure> {
        match self.end_to_end() {
            EndToEnd::None => Ok(Vec::new()),
            EndToEnd::Pairs => (0..subscribers).map(|index| self.keys(suite, index, PUBLISHER)).collect(),
            EndToEnd::Group => Ok(vec![self.keys(suite, 0, PUBLISHER)?]),
        }
    }

    /// The keys of subscriber `index`; None if nothing is sealed.
    ///
    /// # Errors
    /// A topic is none; not with those that there are.
    pub(crate) fn subscribing(self, suite: Suite, index: u16) -> Result<Option<E2e>, Failure> {
        match self.end_to_end() {
            EndToEnd::None => Ok(None),
            EndToEnd::Pairs | EndToEnd::Group => Ok(Some(self.keys(suite, index, SUBSCRIBER)?)),
        }
    }

    fn keys(self, suite: Suite, index: u16, kid: Kid) -> Result<E2e, Failure> {
        let topic = self.topic(index);
        let keyring = Keyring::master(MasterSecret::new(topic.as_bytes()), EPOCH, EpochTiming::default());
        let options = EnvelopeOptions { suite, ..EnvelopeOptions::default() };
        let mut e2e = E2e::new(Member::Unsigned(kid), Limits::default());
        e2e.add_scope(ScopeConfig::envelope(Scope::new(&topic)?, keyring, options))?;
        Ok(e2e)
    }

    /// What the paper's Table 2 comes to for one message to `n` subscribers, as the protocol document derives it (VEIL-1
    /// section 7): publisher, broker, one subscriber. None where there is no such row.
    pub(crate) fn table_2(self, n: u64) -> Option<[Operations; 3]> {
        let sealed = |count| Operations { encryptions: count, macs: count, ..Operations::default() };
        let authentic = Operations { encryptions: 1, macs: 2, ..Operations::default() };
        let rows = match self {
            Self::Plain | Self::Conventional => return None,
            Self::Scheme1 => [sealed(n), sealed(0), sealed(1)],
            Self::Scheme2 => [sealed(2 * n), sealed(2 * n), sealed(2)],
            Self::Scheme3 => [sealed(2), sealed(2), sealed(2)],
            Self::Scheme4 => [authentic, Operations { macs: 2, ..Operations::default() }, authentic],
            Self::Veil => [
                authentic,
                Operations { encryptions: 0, macs: 1, digest_tags: n, digests: 1 },
                Operations { encryptions: 1, macs: 1, digest_tags: 1, digests: 1 },
            ],
        };
        Some(rows)
    }
}

impl fmt::Display for Contestant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.name())
    }
}
