//! Load generator for any MQTT broker: throughput, losses, latency, CPU time and memory, alone or compared.
//!
//! Exit status: 0 if every message arrived exactly once and in order, 1 if not, 2 if there is no result.

mod args;
mod board;
mod broker;
mod compare;
mod connects;
mod durable;
mod growth;
mod idle;
mod ledger;
mod link;
mod load;
mod pacer;
mod page;
mod procfs;
mod publisher;
mod report;
mod retained;
mod scenario;
mod schemes;
mod stamp;
mod stats;
mod subscribe;
mod subscriber;
mod svg;
mod table;
mod target;
mod workload;

use std::error::Error;
use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Arguments, Command, CompareArguments, GrowthArguments, RunArguments, SchemesArguments};
use crate::broker::{BrokerKind, BrokerSpec, Persistence, RunningBroker, Secrets};
use crate::compare::Comparison;
use crate::load::Plan;
use crate::report::RunReport;
use crate::table::Style;
use crate::workload::Workload;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result =
        runtime.map_err(Failure::from).and_then(|runtime| runtime.block_on(until_signal(arguments.command)));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("veilmq-bench: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs `command`; an interrupt drops it, and with it every broker it has started.
async fn until_signal(command: Command) -> Result<bool, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = execute(command) => result,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

/// Tells whether everything arrived as it should.
async fn execute(command: Command) -> Result<bool, Failure> {
    match command {
        Command::Run(arguments) => run(&arguments).await,
        Command::Idle(arguments) => run(&arguments.into_run()).await,
        Command::Hold(arguments) => {
            idle::hold_for_another(&arguments.plan()?).await?;
            Ok(true)
        }
        Command::Scenarios => {
            print!("{}", table::scenarios());
            Ok(true)
        }
        Command::Compare(arguments) => compare(arguments).await,
        Command::Growth(arguments) => growth(&arguments).await,
        Command::Schemes(arguments) => schemes(&arguments).await,
        Command::Part => Ok(schemes::play().await.map(|()| true)?),
    }
}

async fn run(arguments: &RunArguments) -> Result<bool, Failure> {
    let plan = arguments.plan()?;
    let report = measure(arguments, &plan).await?;
    print_report(&report, arguments.target.json)?;
    Ok(report.is_faultless())
}

async fn measure(arguments: &RunArguments, plan: &Plan) -> Result<RunReport, Failure> {
    match arguments.workload() {
        Workload::Traffic(scenario) => {
            idle::allow_open_files(scenario.clients())?;
            Ok(RunReport::new(plan, &load::run(plan).await?))
        }
        Workload::Retained(count) => Ok(retained::run(plan, count).await?),
        Workload::Connects(count) => Ok(connects::run(plan, count).await?),
        Workload::Idle(count) => {
            let opened = idle::measure(&arguments.idle_plan(count)?).await?;
            let name = Workload::Idle(count).to_string();
            Ok(RunReport { connections: Some(opened), ..RunReport::empty(plan, name) })
        }
        Workload::Away(sessions) => {
            idle::allow_open_files(sessions.into())?;
            Ok(durable::run(plan, sessions, arguments.messages()).await?)
        }
    }
}

async fn compare(arguments: CompareArguments) -> Result<bool, Failure> {
    let comparison = comparison(&arguments).await?;
    let report = compare::compare(&comparison, |step| eprintln!("{step}")).await?;
    if let Some(file) = &arguments.json_file {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(file, json + "\n")
            .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    if let Some(directory) = &arguments.plots {
        page::write(&report, directory)?;
    }
    if arguments.json {
        print_json(&report)?;
    } else {
        let style = if arguments.markdown { Style::Markdown } else { Style::Text };
        print!("{}", table::render(&report, style));
    }
    Ok(report.faults.is_empty())
}

async fn growth(arguments: &GrowthArguments) -> Result<bool, Failure> {
    let spec = arguments.broker.clone().or_else(|| installed(BrokerKind::VeilMq));
    let spec = spec.ok_or("no veilmq is installed here: name a broker with --broker")?;
    // Brokers inherit the limit, so it is raised before the first one starts.
    idle::allow_open_files(arguments.connections_max())?;
    let report = growth::measure(&arguments.growth(spec), |step| eprintln!("{step}")).await?;
    if let Some(directory) = &arguments.plots {
        report.write(directory)?;
    }
    print_report(&report, arguments.json)?;
    Ok(report.is_flat())
}

async fn schemes(arguments: &SchemesArguments) -> Result<bool, Failure> {
    let veilmq = arguments.veilmq.clone().or_else(|| installed(BrokerKind::VeilMq));
    let veilmq = veilmq.ok_or("no veilmq is installed here: name one with --veilmq")?;
    let mosquitto = arguments.mosquitto.clone().or_else(|| installed(BrokerKind::Mosquitto));
    if mosquitto.is_none() && !arguments.without_mosquitto {
        return Err(
            "no mosquitto is installed here: name one with --mosquitto, or say --without-mosquitto".into()
        );
    }
    let mosquitto = mosquitto.filter(|_| !arguments.without_mosquitto);
    let report = arguments.experiment(veilmq, mosquitto).measure(|step| eprintln!("{step}")).await?;
    if let Some(directory) = &arguments.plots {
        report.write(directory)?;
    }
    print_report(&report, arguments.json)?;
    Ok(report.is_as_in_table_2())
}

fn installed(kind: BrokerKind) -> Option<BrokerSpec> {
    broker::installed().into_iter().find(|spec| spec.kind == kind)
}

async fn comparison(arguments: &CompareArguments) -> Result<Comparison, Failure> {
    let brokers = if arguments.brokers.is_empty() { working().await } else { arguments.brokers.clone() };
    let clients = arguments.scenarios.iter().map(|scenario| scenario.clients()).max();
    // Brokers inherit the limit, so it is raised before the first one starts.
    let away = arguments.away.iter().max().copied().unwrap_or(0);
    idle::allow_open_files(arguments.connections.max(clients.unwrap_or(0)).max(away.into()))?;
    Ok(Comparison {
        baseline: baseline(&brokers, arguments.baseline.as_deref())?,
        brokers,
        rounds: arguments.rounds,
        scenarios: arguments.scenarios.clone(),
        qos: arguments.qos.clone(),
        deliveries: arguments.deliveries,
        latency_per_second: (arguments.latency_rate > 0).then_some(arguments.latency_rate),
        latency_time: Duration::from_secs(arguments.latency_seconds),
        idle_connections: (arguments.connections > 0).then_some(arguments.connections),
        connects: (arguments.connects > 0).then_some(arguments.connects),
        retained: (arguments.retained > 0).then_some(arguments.retained),
        secrets: if arguments.plain { None } else { Some(Arc::new(Secrets::make()?)) },
        away: arguments.away.clone(),
        away_messages: arguments.away_messages,
        common: arguments.common_plan(),
    })
}

/// Those of the installed brokers that start; the others are named.
async fn working() -> Vec<BrokerSpec> {
    let mut working = Vec::new();
    for spec in broker::installed() {
        match RunningBroker::start(&spec, Persistence::Off).await {
            Ok(_) => working.push(spec),
            Err(error) => eprintln!("left out: {error}"),
        }
    }
    working
}

/// The place of the broker that ratios are taken to.
fn baseline(brokers: &[BrokerSpec], name: Option<&str>) -> Result<usize, Failure> {
    if brokers.is_empty() {
        return Err("no broker is installed here: name one with --brokers".into());
    }
    match name {
        Some(name) => brokers
            .iter()
            .position(|spec| spec.label == name)
            .ok_or_else(|| format!("--baseline {name:?} is not one of the brokers").into()),
        None => Ok(brokers.iter().position(|spec| spec.kind == BrokerKind::Mosquitto).unwrap_or(0)),
    }
}

/// Prints a report for programs, or for people.
fn print_report(report: &(impl Serialize + fmt::Display), json: bool) -> Result<(), Failure> {
    if json {
        return print_json(report);
    }
    print!("{report}");
    Ok(())
}

fn print_json(report: &impl Serialize) -> Result<(), Failure> {
    println!("{}", serde_json::to_string_pretty(report)?);
    Ok(())
}

#[cfg(test)]
fn test_plan(scenario: &str) -> Plan {
    Plan {
        address: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        transport: link::Transport::Tcp,
        version: veilmq_protocol::ProtocolVersion::V311,
        is_durable: false,
        scenario: scenario.parse().unwrap(),
        qos: veilmq_protocol::QoS::AtMostOnce,
        payload_bytes: 100,
        amount: load::Amount::Messages(1),
        per_second: None,
        window: 1,
        inflight_max: 1,
        threads: 1,
        broker_pid: None,
        stall: Duration::from_secs(1),
        limit: Duration::from_secs(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(list: &[&str]) -> Vec<BrokerSpec> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_baseline_is_the_named_broker_or_the_first_mosquitto_or_the_first() {
        let both = specs(&["veilmq=/v", "mosquitto=/m"]);
        let ours = specs(&["veilmq-before=/a", "veilmq-after=/b"]);

        assert_eq!(baseline(&both, None).unwrap(), 1);
        assert_eq!(baseline(&both, Some("veilmq")).unwrap(), 0);
        assert_eq!(baseline(&ours, None).unwrap(), 0);
        assert!(baseline(&ours, Some("mosquitto")).unwrap_err().to_string().contains("mosquitto"));
        assert!(baseline(&[], None).unwrap_err().to_string().contains("--brokers"));
    }
}
