//! The options of `schemes`.

use std::path::PathBuf;

use clap::Args;
use veilmq_protocol::veil::Suite;

use crate::broker::BrokerSpec;
use crate::schemes::Experiment;
use crate::stamp::STAMP_BYTES;

#[derive(Debug, Args)]
pub(crate) struct SchemesArguments {
    /// Our broker, as NAME=PATH; without it, the veilmq that is installed.
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) veilmq: Option<BrokerSpec>,
    /// The broker of the conventional case, as NAME=PATH; without it, the mosquitto that is installed.
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) mosquitto: Option<BrokerSpec>,
    /// Leave the conventional case out.
    #[arg(long)]
    pub(crate) without_mosquitto: bool,
    /// Numbers of subscribers of the topic.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "10,20,50,100,200",
          value_parser = clap::value_parser!(u16).range(1..=1_000))]
    subscribers: Vec<u16>,
    /// Messages of a run.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    messages: u64,
    /// Suites of channels and envelopes: 1 is AES-CBC with HMAC, 2 AES-GCM, 3 ChaCha20-Poly1305.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,2,3", value_parser = parse_suite)]
    suites: Vec<Suite>,
    /// Rounds to take medians of.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// Bytes of each plaintext.
    #[arg(long, value_name = "BYTES", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(STAMP_BYTES as i64..=1_000_000))]
    payload: u32,
    /// Quality of service.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    /// Messages that the publisher sends in a second, at most.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Deliveries to all subscribers in a second, at most.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    deliveries_per_second: u32,
    /// Write tables and plots to this directory as well.
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl SchemesArguments {
    /// What was asked for, with these brokers.
    pub(crate) fn experiment(&self, veilmq: BrokerSpec, mosquitto: Option<BrokerSpec>) -> Experiment {
        Experiment {
            veilmq,
            mosquitto,
            suites: self.suites.clone(),
            subscribers: self.subscribers.clone(),
            messages: self.messages,
            rounds: self.rounds,
            payload_bytes: self.payload as usize,
            qos: self.qos,
            deliveries_per_second: self.deliveries_per_second,
            messages_per_second: self.rate,
        }
    }
}

fn parse_suite(text: &str) -> Result<Suite, String> {
    let suite = text.parse::<u8>().ok().and_then(|id| Suite::try_from(id).ok());
    suite.ok_or_else(|| format!("{text:?} is not 1, 2 or 3"))
}
