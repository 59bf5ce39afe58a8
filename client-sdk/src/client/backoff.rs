//! How long to wait before connecting again: doubling, capped, with jitter so that a fleet does not come as one. A connection
//! that has lasted as long as the cap begins anew; a broker that takes each one and ends it at once is not asked ever again at once.

use std::time::Duration;

/// The pauses between attempts to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The pause before the first attempt.
    pub first: Duration,
    /// The longest pause, and how long a connection has to last for the next one to be the first pause again.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_millis(250), max: Duration::from_secs(30) }
    }
}

impl Backoff {
    /// The pause before attempt `attempt` (from 0); `random` picks a point in its upper half.
    pub(super) fn pause(self, attempt: u32, random: u32) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX));
        let half = doubled.min(self.max) / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap_and_jitter_spans_their_upper_half() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_millis(1_000) };
        let rows =
            [(0, 50, 100), (1, 100, 200), (2, 200, 400), (3, 400, 800), (4, 500, 1_000), (400, 500, 1_000)];
        for (attempt, shortest, longest) in rows {
            assert_eq!(backoff.pause(attempt, 0), Duration::from_millis(shortest), "{attempt}");
            assert_eq!(backoff.pause(attempt, u32::MAX), Duration::from_millis(longest), "{attempt}");
        }
    }
}
