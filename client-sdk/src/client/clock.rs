//! Time and randomness of the operating system, which everything below the driver takes as arguments.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::session::Now;

pub(super) fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

/// Fills a buffer with random bytes.
///
/// # Panics
/// When the operating system has no randomness to give: going on would mean predictable keys.
pub(super) fn entropy(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system provides randomness");
}

pub(super) fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    entropy(&mut bytes);
    u32::from_be_bytes(bytes)
}

/// Counts monotonic milliseconds from the start of a client.
#[derive(Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> Now {
        let monotonic_ms = u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { monotonic_ms, unix_ms: unix_ms() }
    }

    /// The moment of a deadline in monotonic milliseconds.
    pub(super) fn instant(self, monotonic_ms: u64) -> tokio::time::Instant {
        (self.0 + std::time::Duration::from_millis(monotonic_ms)).into()
    }
}
