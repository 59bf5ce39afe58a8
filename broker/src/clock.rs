//! The two clocks of the daemon. The core gets their readings as arguments and never reads them itself.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

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

/// Writes unix seconds as a date and time in UTC (RFC 3339).
pub fn rfc3339(unix_seconds: u64) -> String {
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Converts days since 1970-01-01 to a date of the Gregorian calendar, counting years from March so that the leap day is last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days.saturating_add(719_468);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
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
        ] {
            assert_eq!(rfc3339(unix_seconds), expected);
        }
    }
}
