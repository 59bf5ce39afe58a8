//! What policies count, by policy and never by topic (VEIL-1 section 13.3).
//!
//! All shards add to the same counters, which outlive a reload: a policy is known by its name.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{MessageFormat, Refusal};

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Accepted,
    /// It broke a rule that is preferred and not required.
    Tolerated,
    /// It is the same as one before, byte by byte, and goes to nobody.
    Duplicate,
    Rejected,
    /// It was retained before the policy came, and is kept from subscribers.
    Withheld,
}

impl Outcome {
    const NAMES: [&'static str; 5] = ["accepted", "tolerated", "duplicate", "rejected", "withheld"];
}

/// What one policy has counted.
#[derive(Debug, Default)]
pub(crate) struct PolicyCounters {
    /// By format and outcome.
    messages: [[AtomicU64; Outcome::NAMES.len()]; MessageFormat::LABELS.len()],
    rejected: [AtomicU64; Refusal::NAMES.len()],
    tolerated: [AtomicU64; Refusal::NAMES.len()],
}

impl PolicyCounters {
    pub(crate) fn message(&self, format: Option<MessageFormat>, outcome: Outcome) {
        let row = format.map_or(MessageFormat::NONE, |format| format as usize);
        self.messages[row][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self, refusal: Refusal) {
        self.rejected[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn tolerated(&self, refusal: Refusal) {
        self.tolerated[refusal as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// One counter of a policy, named as Prometheus shows it.
#[derive(Clone, Copy, Debug)]
pub struct PolicySample<'a> {
    /// The metric's name.
    pub name: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// The labels and their values.
    pub labels: &'a [(&'static str, &'a str)],
    /// The value, which only grows.
    pub value: u64,
}

/// The counters of every policy there has been since the start.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    by_name: Mutex<BTreeMap<Arc<str>, Arc<PolicyCounters>>>,
}

impl Registry {
    /// Returns the counters of a policy, those of an earlier one of the same name if there was one.
    pub(crate) fn of(&self, name: &Arc<str>) -> Arc<PolicyCounters> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(by_name.entry(Arc::clone(name)).or_default())
    }

    /// Visits every counter.
    pub(crate) fn visit(&self, visit: &mut dyn FnMut(PolicySample<'_>)) {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        for (policy, counters) in by_name.iter() {
            visit_policy(policy, counters, visit);
        }
    }
}

fn visit_policy(policy: &str, counters: &PolicyCounters, visit: &mut dyn FnMut(PolicySample<'_>)) {
    let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
    for (format, outcomes) in MessageFormat::LABELS.iter().zip(&counters.messages) {
        for (result, cell) in Outcome::NAMES.iter().zip(outcomes) {
            visit(PolicySample {
                name: "veilmq_e2e_messages_total",
                help: "Messages that a policy on end-to-end encryption looked at.",
                labels: &[("policy", policy), ("format", format), ("result", result)],
                value: read(cell),
            });
        }
    }
    let families = [
        (
            "veilmq_e2e_rejected_total",
            "Messages that a policy on end-to-end encryption refused.",
            &counters.rejected,
        ),
        (
            "veilmq_e2e_tolerated_total",
            "Messages that a policy would have refused, were it required.",
            &counters.tolerated,
        ),
    ];
    for (name, help, cells) in families {
        for (reason, cell) in Refusal::NAMES.iter().zip(cells) {
            let labels = &[("policy", policy), ("reason", reason)];
            visit(PolicySample { name, help, labels, value: read(cell) });
        }
    }
}
