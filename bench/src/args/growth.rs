//! The options of `growth`.

use std::path::PathBuf;

use clap::Args;

use super::ShapeArguments;
use crate::broker::BrokerSpec;
use crate::growth::{Dimension, Growth};

#[derive(Debug, Args)]
pub(crate) struct GrowthArguments {
    /// The broker to start, as NAME=PATH; without it, the veilmq that is installed.
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) broker: Option<BrokerSpec>,
    /// Numbers of connections, ten of them with traffic.
    #[arg(long, value_name = "LIST", value_delimiter = ',', num_args = 0.., default_value = "10,100,1000,10000",
          value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    connections: Vec<u32>,
    /// Numbers of subscriptions beside the traffic.
    #[arg(long, value_name = "LIST", value_delimiter = ',', num_args = 0.., default_value = "1,1000,10000,100000",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    subscriptions: Vec<u32>,
    /// Numbers of subscribers of one topic.
    #[arg(long, value_name = "LIST", value_delimiter = ',', num_args = 0.., default_value = "1,10,100,1000",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    fan_out: Vec<u32>,
    /// Numbers of idle connections.
    #[arg(long, value_name = "LIST", value_delimiter = ',', num_args = 0.., default_value = "1000,5000,15000",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    idle: Vec<u32>,
    /// Numbers of stored messages to start with.
    #[arg(long, value_name = "LIST", value_delimiter = ',', num_args = 0.., default_value = "10000,100000,1000000",
          value_parser = clap::value_parser!(u32).range(10..=100_000_000))]
    rows: Vec<u32>,
    /// Deliveries of each run.
    #[arg(long, value_name = "N", default_value_t = 200_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    deliveries: u64,
    /// Rounds to take medians of.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// What a unit may cost at most, as a multiple of what it costs where there is least.
    #[arg(long, value_name = "FACTOR", default_value_t = 2.0)]
    tolerance: f64,
    #[command(flatten)]
    shape: ShapeArguments,
    /// Write plots, and a page with them, to this directory as well.
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl GrowthArguments {
    /// What was asked for, of `broker`.
    pub(crate) fn growth(&self, broker: BrokerSpec) -> Growth {
        let sizes = [
            (Dimension::Connections, &self.connections),
            (Dimension::Subscriptions, &self.subscriptions),
            (Dimension::FanOut, &self.fan_out),
            (Dimension::Idle, &self.idle),
            (Dimension::Rows, &self.rows),
        ];
        let asked = sizes.into_iter().filter(|(_, sizes)| !sizes.is_empty());
        Growth {
            broker,
            sizes: asked.map(|(dimension, sizes)| (dimension, sizes.clone())).collect(),
            deliveries: self.deliveries,
            rounds: self.rounds,
            tolerance: self.tolerance,
            common: self.shape.plan((std::net::Ipv4Addr::LOCALHOST, 0).into()),
        }
    }

    /// The most connections that a point asks for.
    pub(crate) fn connections_max(&self) -> u32 {
        let all = self.connections.iter().chain(&self.fan_out).chain(&self.idle);
        all.copied().max().unwrap_or(0)
    }
}
