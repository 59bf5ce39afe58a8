//! What a shard is put to work with.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use veilmq_core::Shard;

use super::Mail;
use super::counters::Counters;
use super::gate::Admission;
use super::mailbox::Exchange;
use crate::access::{Control, Reply, Verifier};
use crate::gate::Gate;
use crate::store::StorageHandle;

/// What a shard needs to work; it is made on the main thread and moved to the shard's.
pub struct WorkerParts {
    /// The core's shard.
    pub shard: Shard,
    /// The mailboxes of all shards.
    pub exchange: Arc<Exchange<Mail>>,
    /// Where batches of records go.
    pub storage: StorageHandle,
    /// The bytes waiting for storage above which no more is read, if some of them are this shard's.
    pub storage_backlog_bytes_max: usize,
    /// Who may have a connection.
    pub gate: Admission,
    /// Opens when clients are let in.
    pub opens: Gate,
    /// Where connections get their numbers.
    pub connection_ids: Arc<AtomicU64>,
    /// Who checks passwords.
    pub verifier: Arc<Verifier>,
    /// Where it sends what it finds.
    pub reply: Arc<Reply>,
    /// Who carries out commands.
    pub control: Arc<Control>,
    /// What is counted.
    pub counters: Arc<Counters>,
}
