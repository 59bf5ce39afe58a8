//! Memory per idle connection: opens connections that do nothing and weighs the broker before and after.
//!
//! One process opens as many as its limit of open files allows; more are spread over several processes of this program.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use veilmq_protocol::ProtocolVersion;

use crate::link::{Link, LinkError, LinkOptions, Transport};
use crate::procfs::{Memory, ProcError};
use crate::report::{Connections, IdleMemory, protocol_name};

/// Files that this process needs besides its connections.
const OTHER_FILES: u64 = 64;

/// What to open where.
#[derive(Clone, Debug)]
pub(crate) struct IdlePlan {
    pub(crate) address: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) version: ProtocolVersion,
    /// At least 1.
    pub(crate) connections: u32,
    /// Processes that hold them; `None` for the fewest that the limit of open files allows.
    pub(crate) processes: Option<u32>,
    pub(crate) broker_pid: Option<u32>,
    /// The measurement fails if it takes longer.
    pub(crate) limit: Duration,
}

/// Why an idle measurement has no result.
#[derive(Debug, Error)]
pub(crate) enum IdleError {
    #[error("connection {number}: {source}")]
    Link {
        number: u32,
        #[source]
        source: LinkError,
    },
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error("{wanted} connections need {needed} open files, the hard limit (ulimit -Hn) is {hard}")]
    OpenFiles { wanted: u32, needed: u64, hard: u64 },
    #[error("cannot raise the limit of open files: {0}")]
    Limit(#[from] nix::Error),
    #[error("cannot start another process: {0}")]
    Process(#[source] std::io::Error),
    #[error("a process that was to hold connections has ended")]
    Holder,
    #[error("the connections were not open within {0:?}")]
    Overran(Duration),
}

/// Opens the connections, weighs the broker and closes them again.
///
/// # Errors
/// The open-file limit is too low, a connection fails, or the broker process cannot be read.
pub(crate) async fn measure(plan: &IdlePlan) -> Result<Connections, IdleError> {
    let processes = plan.processes.map_or_else(|| processes_for(plan.connections), Ok)?;
    timeout(plan.limit, weigh(plan, processes)).await.unwrap_or(Err(IdleError::Overran(plan.limit)))
}

async fn weigh(plan: &IdlePlan, processes: u32) -> Result<Connections, IdleError> {
    // The first connection pays for what the broker sets up once.
    let first = open(plan, 0).await?;
    first.close().await.map_err(|source| IdleError::Link { number: 0, source })?;
    let before = plan.broker_pid.map(Memory::of).transpose()?;

    let start = Instant::now();
    let held = if processes == 1 {
        Held::Here { _streams: hold(plan).await? }
    } else {
        Held::Elsewhere { _holders: hold_elsewhere(plan, processes).await? }
    };
    let elapsed = start.elapsed();

    let after = plan.broker_pid.map(Memory::of).transpose()?;
    drop(held);
    let memory = before.zip(after).map(|(before, after)| IdleMemory::new(before, after, plan.connections));
    Ok(Connections { memory, ..Connections::new(plan.connections, elapsed) })
}

/// Connections that stay open until this is dropped.
enum Held {
    Here { _streams: Vec<TcpStream> },
    Elsewhere { _holders: Vec<Holder> },
}

/// Opens all connections from this process.
///
/// # Errors
/// The open-file limit is too low, or a connection fails.
pub(crate) async fn hold(plan: &IdlePlan) -> Result<Vec<TcpStream>, IdleError> {
    allow_open_files(plan.connections)?;
    let mut streams = Vec::with_capacity(plan.connections as usize);
    for number in 1..=plan.connections {
        streams.push(open(plan, number).await?.into_stream());
    }
    Ok(streams)
}

/// Another process of this program that holds connections; it is killed and reaped when this is dropped.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only for a child that has been reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has `processes` processes open the connections, all at a time.
async fn hold_elsewhere(plan: &IdlePlan, processes: u32) -> Result<Vec<Holder>, IdleError> {
    let program = std::env::current_exe().map_err(IdleError::Process)?;
    let mut holders = Vec::new();
    for index in 0..processes {
        let connections = plan.connections / processes + u32::from(index < plan.connections % processes);
        let child = Command::new(&program)
            .args(["hold", "--target", &plan.address.to_string()])
            .args(["--connections", &connections.to_string()])
            .args(["--protocol", protocol_name(plan.version)])
            .args(plan.transport.words())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        holders.push(Holder(child.map_err(IdleError::Process)?));
    }
    for holder in &mut holders {
        let Some(stdout) = holder.0.stdout.take() else { continue };
        let line = tokio::task::spawn_blocking(|| BufReader::new(stdout).lines().next());
        // A process that cannot hold its connections says why on standard error and ends.
        match line.await {
            Ok(Some(Ok(line))) if line == HELD => {}
            _ => return Err(IdleError::Holder),
        }
    }
    Ok(holders)
}

/// What a holder prints when all of its connections are open.
pub(crate) const HELD: &str = "held";

/// Holds connections for another process, until that one ends or closes this one's standard input.
///
/// # Errors
/// A connection fails.
pub(crate) async fn hold_for_another(plan: &IdlePlan) -> Result<(), IdleError> {
    let streams = hold(plan).await?;
    println!("{HELD}");
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = ended.await;
    drop(streams);
    Ok(())
}

/// The fewest processes that the limit of open files allows.
fn processes_for(connections: u32) -> Result<u32, IdleError> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let each = hard.saturating_sub(OTHER_FILES).max(1);
    Ok(u64::from(connections).div_ceil(each).max(1).try_into().unwrap_or(u32::MAX))
}

async fn open(plan: &IdlePlan, number: u32) -> Result<Link, IdleError> {
    let client_id = format!("idle{:x}.{number}", std::process::id());
    let options = LinkOptions {
        address: plan.address,
        transport: &plan.transport,
        version: plan.version,
        client_id: &client_id,
        is_durable: false,
        packet_bytes_max: 4096,
        inbox_bytes: 64,
    };
    Link::open(&options).await.map_err(|source| IdleError::Link { number, source })
}

/// Raises this process's limit of open files, which brokers started by it inherit, as far as `connections` need.
///
/// # Errors
/// The hard limit is lower.
pub(crate) fn allow_open_files(connections: u32) -> Result<(), IdleError> {
    let needed = u64::from(connections) + OTHER_FILES;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if needed > hard {
        return Err(IdleError::OpenFiles { wanted: connections, needed, hard });
    }
    if needed > soft {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_the_hard_limit_allows_are_refused_with_both_numbers() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if hard >= u64::from(u32::MAX) {
            return;
        }

        let error = allow_open_files(u32::MAX).unwrap_err().to_string();

        assert!(error.contains("4294967295 connections") && error.contains(&hard.to_string()), "{error}");
    }

    #[test]
    fn connections_that_fit_into_one_process_stay_in_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let each = u32::try_from(hard - OTHER_FILES).unwrap_or(u32::MAX - 1);

        assert_eq!([1, each].map(|connections| processes_for(connections).unwrap()), [1, 1]);
        assert_eq!(processes_for(each + 1).unwrap(), 2);
    }
}
