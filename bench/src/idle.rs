//! Memory per idle connection: opens connections that do nothing and weighs the broker before and after.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::time::timeout;
use veilmq_protocol::ProtocolVersion;

use crate::link::{Link, LinkError, LinkOptions};
use crate::procfs::{Memory, ProcError};
use crate::report::{IdleMemory, IdleReport};

/// Files that this process needs besides its connections.
const OTHER_FILES: u64 = 64;

/// What to open where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdlePlan {
    pub(crate) address: SocketAddr,
    pub(crate) version: ProtocolVersion,
    /// At least 1.
    pub(crate) connections: u32,
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
    #[error("the connections were not open within {0:?}")]
    Overran(Duration),
}

/// Opens the connections, weighs the broker and closes them again.
///
/// # Errors
/// The open-file limit is too low, a connection fails, or the broker process cannot be read.
pub(crate) async fn measure(plan: &IdlePlan) -> Result<IdleReport, IdleError> {
    allow_open_files(plan.connections)?;
    timeout(plan.limit, weigh(plan)).await.unwrap_or(Err(IdleError::Overran(plan.limit)))
}

async fn weigh(plan: &IdlePlan) -> Result<IdleReport, IdleError> {
    // The first connection pays for what the broker sets up once.
    let first = open(plan, 0).await?;
    first.close().await.map_err(|source| IdleError::Link { number: 0, source })?;
    let before = plan.broker_pid.map(Memory::of).transpose()?;

    let start = Instant::now();
    let mut streams = Vec::with_capacity(plan.connections as usize);
    for number in 1..=plan.connections {
        streams.push(open(plan, number).await?.into_stream());
    }
    let connect_seconds = start.elapsed().as_secs_f64();

    let after = plan.broker_pid.map(Memory::of).transpose()?;
    drop(streams);
    let memory = before.zip(after).map(|(before, after)| IdleMemory::new(before, after, plan.connections));
    Ok(IdleReport { connections: plan.connections, connect_seconds, memory })
}

async fn open(plan: &IdlePlan, number: u32) -> Result<Link, IdleError> {
    let client_id = format!("idle{:x}.{number}", std::process::id());
    let options = LinkOptions {
        address: plan.address,
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
}
