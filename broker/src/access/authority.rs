//! The numbers of those who vouch for users: keys of tokens, and services.
//!
//! Invariant: no number is given twice while the broker runs.

use std::sync::atomic::{AtomicU64, Ordering};

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Returns a number that nobody else has.
pub(super) fn next() -> u64 {
    NUMBERS.fetch_add(1, Ordering::Relaxed)
}
