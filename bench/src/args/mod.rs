//! The command line: what the user typed, checked as far as it can be without looking at the machine.

mod growth;
mod schemes;
mod transport;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use thiserror::Error;
use veilmq_protocol::{ProtocolVersion, QoS};

pub(crate) use self::growth::GrowthArguments;
pub(crate) use self::schemes::SchemesArguments;
use self::transport::TransportArguments;
use crate::broker::BrokerSpec;
use crate::idle::IdlePlan;
use crate::link::{TlsError, Transport, VeilError};
use crate::load::{Amount, Plan};
use crate::scenario::Scenario;
use crate::stamp::STAMP_BYTES;
use crate::target::{TargetError, resolve};
use crate::workload::{PAYLOAD_BYTES, Preset, Workload};

/// Load generator for MQTT brokers.
#[derive(Debug, Parser)]
#[command(name = "veilmq-bench", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send numbered messages through a broker and account for every delivery.
    Run(RunArguments),
    /// List the named scenarios.
    Scenarios,
    /// Weigh the memory of a broker per idle connection.
    Idle(IdleArguments),
    /// Hold idle connections until standard input ends; what `idle` spreads over processes.
    #[command(hide = true)]
    Hold(HoldArguments),
    /// Start several brokers, measure all of them alike in interleaved rounds and print medians and ratios.
    Compare(CompareArguments),
    /// Measure how the costs of one broker grow, and fail if one grows that should be flat or linear.
    Growth(GrowthArguments),
    /// Measure the paper's four schemes, `veil` and TLS side by side: latency, CPU of each party, counted operations.
    Schemes(SchemesArguments),
    /// Play the publisher or the subscribers of `schemes`, as standard input tells.
    #[command(hide = true)]
    Part,
}

#[derive(Debug, Args)]
pub(crate) struct TargetArguments {
    /// The broker to load.
    #[arg(long, value_name = "HOST:PORT")]
    target: String,
    /// Allow a target that is not a loopback address.
    #[arg(long)]
    allow_remote: bool,
    /// Process of the broker, to read its CPU time or memory.
    #[arg(long, visible_alias = "pid", value_name = "PID")]
    pub(crate) broker_pid: Option<u32>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

impl TargetArguments {
    /// The address to load.
    ///
    /// # Errors
    /// It does not resolve, or is not loopback without permission.
    pub(crate) fn address(&self) -> Result<std::net::SocketAddr, TargetError> {
        resolve(&self.target, self.allow_remote)
    }
}

/// What was typed and cannot be run.
#[derive(Debug, Error)]
pub(crate) enum ArgumentError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Veil(#[from] VeilError),
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) target: TargetArguments,
    /// A name that `scenarios` lists, or 1-N, N-1, pairs-N, shared-N-M, wildcards-N, subscriptions-N, retained-N, connects-N,
    /// idle-N, away-N.
    #[arg(long, default_value = "1-1")]
    scenario: Preset,
    /// Quality of service of publishers and subscriptions; without it, that of the scenario.
    #[arg(long, value_parser = parse_qos)]
    qos: Option<QoS>,
    /// Messages to publish, by all publishers together; without it, as many as the scenario has.
    #[arg(long, value_name = "N", conflicts_with = "seconds",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    messages: Option<u64>,
    /// Publish for so long instead.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,
    /// Messages per second of all publishers together, to measure latency; without it, that of the scenario.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Processes that idle connections are spread over; without it, as many as the limit of open files asks for.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    processes: Option<u32>,
    #[command(flatten)]
    transport: TransportArguments,
    #[command(flatten)]
    shape: ShapeArguments,
}

impl RunArguments {
    /// What the run does.
    pub(crate) fn workload(&self) -> Workload {
        self.scenario.workload
    }

    /// The run that was asked for; its scenario is that of the workload, where it has one.
    ///
    /// # Errors
    /// The target is not acceptable, or a file of the transport is not.
    pub(crate) fn plan(&self) -> Result<Plan, ArgumentError> {
        let preset = &self.scenario;
        let shape = self.shape.plan(self.target.address()?);
        Ok(Plan {
            transport: self.transport.transport()?,
            version: self.transport.version(self.shape.protocol),
            scenario: match preset.workload {
                Workload::Traffic(scenario) => scenario,
                _ => shape.scenario,
            },
            qos: self.qos.unwrap_or(preset.qos),
            payload_bytes: self.shape.payload.unwrap_or(preset.payload_bytes) as usize,
            amount: match self.seconds {
                Some(seconds) => Amount::Time(Duration::from_secs(seconds)),
                None => Amount::Messages(self.messages()),
            },
            per_second: self.rate.or(preset.per_second),
            broker_pid: self.target.broker_pid,
            ..shape
        })
    }

    /// How many messages are published where that is what ends the run.
    pub(crate) fn messages(&self) -> u64 {
        self.messages.unwrap_or(self.scenario.messages).max(1)
    }

    /// The same for idle connections.
    ///
    /// # Errors
    /// The target is not acceptable, or a file of the transport is not.
    pub(crate) fn idle_plan(&self, connections: u32) -> Result<IdlePlan, ArgumentError> {
        Ok(IdlePlan {
            address: self.target.address()?,
            transport: self.transport.transport()?,
            version: self.transport.version(self.shape.protocol),
            connections,
            processes: self.processes,
            broker_pid: self.target.broker_pid,
            limit: Duration::from_secs(self.shape.limit_seconds),
        })
    }
}

/// What runs of all kinds have in common.
#[derive(Debug, Args)]
pub(crate) struct ShapeArguments {
    /// Bytes of each payload, of which the first 16 number the message; without it, 100.
    #[arg(long, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(STAMP_BYTES as i64..=16 * 1024 * 1024))]
    payload: Option<u32>,
    /// Protocol version of all clients; without it, 3.1.1, and 5 for VEIL-1 channels, which need it.
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// Messages of all publishers together that the slowest subscriber may lag behind.
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    window: u64,
    /// Unacknowledged QoS 1 and 2 messages of each publisher; less if the broker's Receive Maximum is less.
    #[arg(long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(1..=65_535))]
    inflight: u16,
    /// Threads that the clients are spread over.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Give up a run in which nothing has moved for so long.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    stall_seconds: u64,
    /// Fail a run that takes so much longer than --seconds or --rate ask for.
    #[arg(long, value_name = "S", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    limit_seconds: u64,
}

impl ShapeArguments {
    fn plan(&self, address: std::net::SocketAddr) -> Plan {
        Plan {
            address,
            transport: Transport::Tcp,
            version: self.protocol.unwrap_or(Protocol::V311).version(),
            is_durable: false,
            scenario: Scenario::fan_out(1),
            qos: QoS::AtMostOnce,
            payload_bytes: self.payload.unwrap_or(PAYLOAD_BYTES) as usize,
            amount: Amount::Messages(1),
            per_second: None,
            window: self.window,
            inflight_max: self.inflight,
            threads: self.threads,
            broker_pid: None,
            stall: Duration::from_secs(self.stall_seconds),
            limit: Duration::from_secs(self.limit_seconds),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct IdleArguments {
    #[command(flatten)]
    target: TargetArguments,
    /// Connections to open.
    #[arg(long, value_name = "N", default_value_t = 1_000,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Processes to spread them over; without it, as many as the limit of open files asks for.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    processes: Option<u32>,
    #[command(flatten)]
    transport: TransportArguments,
    #[command(flatten)]
    shape: ShapeArguments,
}

impl IdleArguments {
    /// This command is a name for one scenario of `run`.
    pub(crate) fn into_run(self) -> RunArguments {
        RunArguments {
            target: self.target,
            scenario: Preset::idle(self.connections),
            qos: None,
            messages: None,
            seconds: None,
            rate: None,
            processes: self.processes,
            transport: self.transport,
            shape: self.shape,
        }
    }
}

/// What one of several processes holds.
#[derive(Debug, Args)]
pub(crate) struct HoldArguments {
    #[arg(long)]
    pub(crate) target: std::net::SocketAddr,
    #[arg(long)]
    pub(crate) connections: u32,
    #[arg(long, value_enum)]
    protocol: Protocol,
    #[command(flatten)]
    transport: TransportArguments,
}

impl HoldArguments {
    /// The connections to hold in this process.
    ///
    /// # Errors
    /// A file of the transport cannot be used.
    pub(crate) fn plan(&self) -> Result<IdlePlan, ArgumentError> {
        Ok(IdlePlan {
            address: self.target,
            transport: self.transport.transport()?,
            version: self.protocol.version(),
            connections: self.connections,
            processes: Some(1),
            broker_pid: None,
            limit: Duration::MAX,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct CompareArguments {
    /// Brokers to start, as NAME=PATH with NAME one of veilmq, mosquitto, nats-server, rumqttd, rmqttd and nanomq; a suffix
    /// tells two of a kind apart (veilmq-before=PATH); without it, those that are installed.
    #[arg(long, value_name = "NAME=PATH", value_delimiter = ',')]
    pub(crate) brokers: Vec<BrokerSpec>,
    /// Name of the broker that ratios are taken to; without it, the first mosquitto or else the first.
    #[arg(long, value_name = "NAME")]
    pub(crate) baseline: Option<String>,
    /// Rounds to take medians of.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// Scenarios to run.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1-1,pairs-10,1-100,100-1,shared-100-10,wildcards-10000"
    )]
    pub(crate) scenarios: Vec<Scenario>,
    /// Qualities of service to run each scenario with.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "0,1,2", value_parser = parse_qos)]
    pub(crate) qos: Vec<QoS>,
    /// Deliveries of each run.
    #[arg(long, value_name = "N", default_value_t = 100_000,
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) deliveries: u64,
    /// Messages per second of the latency rows; 0 leaves them out.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) latency_rate: u32,
    /// Length of each latency run.
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) latency_seconds: u64,
    /// Connections of the memory row; 0 leaves it out.
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) connections: u32,
    /// Connections of the rows about their rate; 0 leaves them out.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) connects: u32,
    /// Retained messages of their row; 0 leaves it out.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) retained: u32,
    /// Leave out the rows over TLS, which need `openssl`, and over VEIL-1.
    #[arg(long)]
    pub(crate) plain: bool,
    /// Numbers of durable sessions to store messages for while they are away, on a broker that keeps its state on disk.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) away: Vec<u16>,
    /// Messages that are stored for each of these sessions.
    #[arg(long, value_name = "N", default_value_t = 20_000,
          value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub(crate) away_messages: u64,
    #[command(flatten)]
    shape: ShapeArguments,
    /// Print the table as Markdown.
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write plots, and a page with them and the table, to this directory as well.
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
    /// Write JSON to this file as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) json_file: Option<PathBuf>,
}

impl CompareArguments {
    /// What all runs have in common; each run fills in its broker, scenario, QoS and amount.
    pub(crate) fn common_plan(&self) -> Plan {
        self.shape.plan((std::net::Ipv4Addr::LOCALHOST, 0).into())
    }
}

/// Protocol versions that the generator's clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// MQTT 3.1.1.
    #[value(name = "3.1.1")]
    V311,
    /// MQTT 5.0.
    #[value(name = "5")]
    V5,
}

impl Protocol {
    pub(crate) fn version(self) -> ProtocolVersion {
        match self {
            Self::V311 => ProtocolVersion::V311,
            Self::V5 => ProtocolVersion::V5,
        }
    }
}

fn parse_qos(text: &str) -> Result<QoS, String> {
    let digit = text.parse::<u8>().ok().and_then(|value| QoS::try_from(value).ok());
    digit.ok_or_else(|| format!("{text:?} is not 0, 1 or 2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, String> {
        let words = std::iter::once("veilmq-bench").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| arguments.command).map_err(|error| error.to_string())
    }

    fn plan(line: &str) -> Plan {
        match parse(line).unwrap() {
            Command::Run(arguments) => arguments.plan().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_run_is_what_its_flags_say() {
        let plan = plan(
            "run --target 127.0.0.1:1 --scenario 100-1 --qos 2 --payload 16 --seconds 7 --rate 50 --protocol 5 \
             --window 9 --inflight 8 --threads 3 --broker-pid 4 --stall-seconds 6 --limit-seconds 5",
        );

        assert_eq!(plan.address, "127.0.0.1:1".parse().unwrap());
        assert_eq!(
            (plan.scenario, plan.qos, plan.version),
            (Scenario::fan_in(100), QoS::ExactlyOnce, ProtocolVersion::V5)
        );
        assert!(matches!(plan.amount, Amount::Time(time) if time == Duration::from_secs(7)));
        assert_eq!((plan.payload_bytes, plan.per_second, plan.broker_pid), (16, Some(50), Some(4)));
        assert_eq!((plan.window, plan.inflight_max, plan.threads), (9, 8, 3));
        assert_eq!((plan.stall, plan.limit), (Duration::from_secs(6), Duration::from_secs(5)));
    }

    #[test]
    fn a_run_needs_nothing_but_a_target() {
        let plan = plan("run --target 127.0.0.1:1883");

        assert_eq!(
            (plan.scenario, plan.qos, plan.version),
            (Scenario::fan_out(1), QoS::AtMostOnce, ProtocolVersion::V311)
        );
        assert!(matches!(plan.amount, Amount::Messages(100_000)));
        assert_eq!((plan.payload_bytes, plan.per_second, plan.broker_pid), (100, None, None));
    }

    #[test]
    fn bad_input_is_refused_by_the_name_of_its_flag() {
        let rows = [
            ("run", "--target"),
            ("run --target h:1 --scenario 2-2", "--scenario"),
            ("run --target h:1 --qos 3", "--qos"),
            ("run --target h:1 --payload 15", "--payload"),
            ("run --target h:1 --messages 0", "--messages"),
            ("run --target h:1 --messages 5 --seconds 5", "--seconds"),
            ("run --target h:1 --rate 0", "--rate"),
            ("run --target h:1 --transport quic", "--transport"),
            ("run --target h:1 --transport tls", "--ca"),
            ("run --target h:1 --transport veil --veil-broker b", "--veil-authority"),
            ("run --target h:1 --transport veil --veil-authority a", "--veil-broker"),
            ("run --target h:1 --protocol 4", "--protocol"),
            ("run --target h:1 --inflight 65536", "--inflight"),
            ("run --target h:1 --window 0", "--window"),
            ("run --target h:1 --threads 0", "--threads"),
            ("run --target h:1 --broker-pid x", "--broker-pid"),
            ("idle --target h:1 --connections 0", "--connections"),
            ("compare --brokers emqx=/x", "--brokers"),
            ("compare --rounds 0", "--rounds"),
            ("compare --scenarios 1-1,x", "--scenarios"),
            ("compare --qos 0,9", "--qos"),
            ("compare --json --markdown", "--markdown"),
        ];

        for (line, flag) in rows {
            let error = parse(line).unwrap_err();
            assert!(error.contains(flag), "{line}: {error}");
        }
    }

    #[test]
    fn lists_are_separated_by_commas() {
        let line = "compare --brokers veilmq=/v,mosquitto=/m --scenarios 1-1,pairs-10 --qos 0,2";

        let Command::Compare(arguments) = parse(line).unwrap() else { panic!("{line}") };

        let labels: Vec<_> = arguments.brokers.iter().map(|spec| spec.label.as_str()).collect();
        assert_eq!(labels, ["veilmq", "mosquitto"]);
        assert_eq!(arguments.scenarios, [Scenario::fan_out(1), Scenario::pairs(10)]);
        assert_eq!(arguments.qos, [QoS::AtMostOnce, QoS::ExactlyOnce]);
    }

    #[test]
    fn a_remote_target_is_refused_without_permission() {
        let Command::Run(refused) = parse("run --target 192.0.2.1:1883").unwrap() else { panic!() };
        let Command::Run(allowed) = parse("run --target 192.0.2.1:1883 --allow-remote").unwrap() else {
            panic!()
        };

        assert!(matches!(refused.plan(), Err(ArgumentError::Target(TargetError::Remote { .. }))));
        assert!(allowed.plan().is_ok());
    }
}
