//! The two clocks of the daemon. The core gets their readings as arguments and never reads them itself.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use veilmq_core::Moment;

/// The start of the process on both clocks.
static START: OnceLock<(u64, Instant)> = OnceLock::new();

/// Returns the monotonic moment: the wall clock as it was at the first call, and the time that has passed since.
pub fn now() -> Moment {
    let (start_ms, instant) = START.get_or_init(|| (unix_ms(), Instant::now()));
    let elapsed = u64::try_from(instant.elapsed().as_millis()).unwrap_or(u64::MAX);
    Moment::from_milliseconds(*start_ms) + elapsed
}

/// Returns the wall clock in unix milliseconds; 0 if it is set before 1970.
pub fn unix_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the wall clock in unix seconds.
pub fn unix_seconds() -> u64 {
    unix_ms() / 1_000
}

/// Writes unix seconds as a date and time in UTC (RFC 3339), or as they are beyond the year 9999.
pub fn rfc3339(unix_seconds: u64) -> String {
    let timestamp = i64::try_from(unix_seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(|| unix_seconds.to_string(), |timestamp| timestamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_never_go_back_and_stay_near_the_wall_clock() {
        let first = now();
        let second = now();

        assert!(second >= first);
        assert!(unix_ms().abs_diff(second.milliseconds()) < 60_000);
    }

    #[test]
    fn dates_are_those_of_the_gregorian_calendar() {
        for (unix_seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_800_000_000, "2027-01-15T08:00:00Z"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(rfc3339(unix_seconds), expected);
        }
    }
}
