//! Connection rate: connections that are opened, accepted and closed, some at a time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::{JoinSet, LocalSet};

use crate::link::{Link, LinkError};
use crate::load::{CpuReading, LoadError, Plan, run_name};
use crate::report::{Connections, Counts, RunReport};
use crate::stats::{Histogram, ratio};
use crate::workload::Workload;

/// Clients that open connections at the same time, one after the other each.
const AT_A_TIME: usize = 32;

/// Opens and closes `count` connections; the report's latency is that of opening one, CONNACK included.
///
/// # Errors
/// A connection fails, or a process cannot be read.
pub(crate) async fn run(plan: &Plan, count: u32) -> Result<RunReport, LoadError> {
    let cpu = CpuReading::take(plan.broker_pid)?;
    let started = Instant::now();
    let opened = LocalSet::new().run_until(open_all(plan, count)).await?;
    let elapsed = started.elapsed();
    let (broker_cpu, generator_cpu) = cpu.since(plan.broker_pid)?;

    let report = RunReport::empty(plan, Workload::Connects(count).to_string());
    Ok(RunReport {
        latency: opened.latency.summary(),
        connections: Some(Connections {
            broker_cpu_micros: broker_cpu.and_then(|cpu| ratio(cpu.total_seconds * 1e6, count.into())),
            resumed: opened.resumed,
            ..Connections::new(count, elapsed)
        }),
        ..report.measured(Counts::default(), elapsed, broker_cpu, generator_cpu)
    })
}

#[derive(Default)]
struct Opened {
    latency: Histogram,
    /// Connections whose handshake took over the keys of an earlier one.
    resumed: u32,
}

async fn open_all(plan: &Plan, count: u32) -> Result<Opened, LoadError> {
    let next = Rc::new(Cell::new(0));
    let run = run_name();
    let mut clients = JoinSet::new();
    for _ in 0..AT_A_TIME {
        let (next, run) = (Rc::clone(&next), run.clone());
        let plan = Plan { transport: plan.transport.for_one_client(), ..plan.clone() };
        clients.spawn_local(async move {
            let mut opened = Opened::default();
            while next.get() < count {
                let number = next.replace(next.get() + 1);
                open_one(&plan, &format!("bench{run}c{number}"), &mut opened).await?;
            }
            Ok::<_, LinkError>(opened)
        });
    }
    let mut all = Opened::default();
    while let Some(client) = clients.join_next().await {
        let opened = client.map_err(|_| LoadError::ClientLost)??;
        all.latency.merge(&opened.latency);
        all.resumed += opened.resumed;
    }
    Ok(all)
}

async fn open_one(plan: &Plan, client_id: &str, opened: &mut Opened) -> Result<(), LinkError> {
    let started = Instant::now();
    let link = Link::open(&plan.link_options(client_id, 1024)).await?;
    opened.latency.record(started.elapsed().as_nanos() as u64);
    opened.resumed += u32::from(link.is_resumed());
    link.close().await
}
