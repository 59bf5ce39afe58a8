//! What one process of the experiment does, as it is told on its standard input, and what it answers on its standard output.
//!
//! Each message is a line of JSON. The process that asked knows the CPU time of the others from outside.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use veilmq_protocol::veil::Suite;
use veilmq_protocol::veil::channel::Operations;
use veilmq_protocol::{ProtocolVersion, QoS};

use super::contestant::Contestant;
use crate::Failure;
use crate::broker::TLS_NAME;
use crate::link::{LinkOptions, TlsTransport, Transport, VeilTransport};

/// Which process it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Publisher,
    Subscribers,
}

/// What clients prove and check the other end with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Carrier {
    Tcp,
    Tls { certificate: PathBuf },
    Veil { authority: PathBuf, broker: PathBuf },
}

/// One run of one contestant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) role: Role,
    pub(crate) contestant: Contestant,
    pub(crate) suite: u8,
    pub(crate) subscribers: u16,
    pub(crate) messages: u64,
    /// Between one message and the next; None to wait for a word each time, until all subscribers have had the last.
    pub(crate) interval: Option<Duration>,
    pub(crate) payload_bytes: usize,
    pub(crate) qos: u8,
    pub(crate) address: SocketAddr,
    pub(crate) carrier: Carrier,
}

/// How long the connections of a process took to open, until CONNACK; publishers open several, one after the other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Connected {
    pub(crate) micros: Vec<f64>,
}

/// What a process has done when its part is over.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// On channels and envelopes.
    pub(crate) operations: Counts,
    /// From publish to receive, median and 99th percentile; none in a publisher.
    pub(crate) latency_micros: Option<[f64; 2]>,
}

/// [`Operations`] as they travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) encryptions: f64,
    pub(crate) macs: f64,
    pub(crate) digest_tags: f64,
    pub(crate) digests: f64,
}

impl From<[f64; 4]> for Counts {
    fn from([encryptions, macs, digest_tags, digests]: [f64; 4]) -> Self {
        Self { encryptions, macs, digest_tags, digests }
    }
}

impl From<Operations> for Counts {
    fn from(made: Operations) -> Self {
        made.counts().map(|count| count as f64).into()
    }
}

impl Counts {
    pub(crate) fn all(self) -> [f64; 4] {
        [self.encryptions, self.macs, self.digest_tags, self.digests]
    }

    /// The same for each of `count`.
    pub(crate) fn each_of(self, count: u64) -> Self {
        self.all().map(|total| total / count as f64).into()
    }
}

impl Part {
    pub(crate) fn suite(&self) -> Result<Suite, Failure> {
        Suite::try_from(self.suite).map_err(|_| format!("{} is not a suite", self.suite).into())
    }

    pub(crate) fn qos(&self) -> Result<QoS, Failure> {
        QoS::try_from(self.qos).map_err(|_| format!("{} is not a QoS", self.qos).into())
    }

    /// How clients of this part reach the broker.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(crate) fn transport(&self) -> Result<Transport, Failure> {
        match (&self.carrier, self.contestant.scheme()) {
            (Carrier::Tls { certificate }, _) => {
                Ok(Transport::Tls(Arc::new(TlsTransport::load(certificate, TLS_NAME, false)?)))
            }
            (Carrier::Veil { authority, broker }, Some(scheme)) => {
                let veil = VeilTransport::load(authority, broker)?.only(scheme, self.suite()?);
                Ok(Transport::Veil(Arc::new(veil)))
            }
            (Carrier::Tcp | Carrier::Veil { .. }, _) => Ok(Transport::Tcp),
        }
    }

    pub(crate) fn link_options<'a>(&self, transport: &'a Transport, client_id: &'a str) -> LinkOptions<'a> {
        LinkOptions {
            address: self.address,
            transport,
            version: ProtocolVersion::V5,
            client_id,
            is_durable: false,
            packet_bytes_max: self.payload_bytes + 4_096,
            inbox_bytes: self.payload_bytes + 1_024,
        }
    }
}

/// Nanoseconds of a clock that all processes of this machine share.
pub(crate) fn shared_nanos() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Says something to the process that asked.
pub(crate) fn say(answer: &impl Serialize) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    Ok(out.flush()?)
}

/// Waits for the next line of standard input.
///
/// # Errors
/// There is none, or it is not what is due.
pub(crate) async fn hear<T: DeserializeOwned + Send + 'static>() -> Result<T, Failure> {
    let line = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    Ok(serde_json::from_str(&line.await??)?)
}

/// Waits until the process that asked closes standard input, or ends.
pub(crate) async fn wait_for_end() -> Result<(), Failure> {
    let ended =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
    ended.await??;
    Ok(())
}
