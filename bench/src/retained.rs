//! Retained messages: many of them, each on a topic of its own, to one subscriber of all of them.
//!
//! They are stored with at least QoS 1, so that all are there before the subscriber comes; its messages have the QoS of the
//! plan. Their order is not the subject: the standard promises none between topics. They are cleared in the end.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tokio::time::timeout;
use veilmq_protocol::{QoS, RetainHandling};

use crate::board::Board;
use crate::link::{Link, LinkError};
use crate::load::{CpuReading, LoadError, Phase, Plan, run_name};
use crate::procfs::Memory;
use crate::publisher::{self, Task};
use crate::report::{Counts, RunReport, Stored};
use crate::scenario::Scenario;
use crate::workload::Workload;
use crate::{subscribe, subscriber};

/// Topics that share a level, so that the tree has some depth.
const TOPICS_PER_BRANCH: u32 = 100;

/// Stores `count` retained messages, takes them with one subscription, and clears them.
///
/// # Errors
/// A connection fails, the broker refuses something, or its process cannot be read.
pub(crate) async fn run(plan: &Plan, count: u32) -> Result<RunReport, LoadError> {
    let root = format!("bench/{}", run_name());
    let topics: Vec<String> =
        (0..count).map(|number| format!("{root}/{}/{number}", number / TOPICS_PER_BRANCH)).collect();
    let mut publisher = open(plan, &root, 'p').await?;
    let started = Instant::now();
    let stored = publish(plan, &mut publisher, topics.clone(), plan.payload_bytes).await?;
    let acknowledged_per_second = stored.published as f64 / started.elapsed().as_secs_f64();

    let cpu = CpuReading::take(plan.broker_pid)?;
    let taken = take(plan, &root, count).await;
    let (broker_cpu, generator_cpu) = cpu.since(plan.broker_pid)?;
    let broker_memory = plan.broker_pid.and_then(|pid| Memory::of(pid).ok());
    publish(plan, &mut publisher, topics, 0).await?;
    publisher.close().await?;

    let (counts, elapsed) = taken?;
    let report = RunReport::empty(plan, Workload::Retained(count).to_string());
    Ok(RunReport {
        broker_memory,
        stored: Some(Stored::of_messages(acknowledged_per_second)),
        ..report.measured(counts, elapsed, broker_cpu, generator_cpu)
    })
}

async fn open(plan: &Plan, root: &str, role: char) -> Result<Link, LinkError> {
    Link::open(&plan.link_options(&format!("{}{role}", root.replace('/', "-")), 64 * 1024)).await
}

async fn publish(
    plan: &Plan,
    link: &mut Link,
    topics: Vec<String>,
    payload_bytes: usize,
) -> Result<publisher::Outcome, LoadError> {
    let messages = topics.len() as u64;
    let task = Task {
        index: 0,
        messages: Some(messages),
        topics,
        qos: plan.qos.max(QoS::AtLeastOnce),
        retain: true,
        payload_bytes,
        until: None,
        schedule: None,
        window: messages,
        inflight_max: plan.inflight_max,
        stall: plan.stall,
    };
    let outcome = publisher::publish(link, Arc::new(Board::without_audience()), task).await?;
    if outcome.stalled { Err(LinkError::Late("PUBACK", plan.stall).into()) } else { Ok(outcome) }
}

/// Subscribes and receives until all is there or nothing comes any more.
async fn take(plan: &Plan, root: &str, count: u32) -> Result<(Counts, std::time::Duration), LoadError> {
    // A group of one, whose account is kept by count rather than by number.
    let board = Arc::new(Board::new(Scenario::shared(1, 1)));
    board.announce(0, count.into());
    let mut link = open(plan, root, 's').await?;
    let (phase, phase_seen) = watch::channel(Phase::Publish(Instant::now()));
    let started = Instant::now();
    subscribe::push(&mut link, &[format!("{root}/#")], plan.qos, RetainHandling::Send)?;
    let receive = subscriber::receive(&mut link, Arc::clone(&board), 0, Some(plan.qos), phase_seen);
    let finish = async {
        let mut seen = 0;
        while timeout(plan.stall, board.wait_seen(0, count.into())).await.is_err() {
            if std::mem::replace(&mut seen, board.seen_by_all(0)) == board.seen_by_all(0) {
                break;
            }
        }
        phase.send_replace(Phase::Finish);
    };
    let (outcome, ()) = tokio::join!(receive, finish);
    let outcome = outcome?;
    link.close().await?;

    let mut counts = Counts { published: count.into(), foreign: outcome.foreign, ..Counts::default() };
    board.take_group_ledgers().iter().for_each(|ledger| counts.add(ledger, count.into()));
    counts.late = 0;
    Ok((counts, outcome.last.unwrap_or(started).saturating_duration_since(started)))
}
