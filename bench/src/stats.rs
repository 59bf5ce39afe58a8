//! Arithmetic on measurements: medians of rounds, ratios, and a histogram of latencies.
//!
//! The histogram has a fixed size: a value is kept to within 1/64 of itself, however many are recorded.

use std::fmt;

use serde::Serialize;

/// The median; the mean of the middle two for an even count; `None` for no values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some(f64::midpoint(lower, upper))
}

/// `value` as a multiple of `baseline`; `None` where the baseline is zero.
pub(crate) fn ratio(value: f64, baseline: f64) -> Option<f64> {
    (baseline != 0.0).then(|| value / baseline)
}

/// Values below this have a bucket of their own.
const EXACT: u64 = 128;
/// Buckets for each further doubling.
const STEPS: usize = 64;
const BUCKETS: usize = EXACT as usize + STEPS * (64 - EXACT.trailing_zeros() as usize);

/// Counts of nanosecond values in buckets of at most 1/64 relative width.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }

    pub(crate) fn record(&mut self, nanos: u64) {
        if let Some(count) = self.counts.get_mut(bucket(nanos)) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// Adds what `other` has recorded.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The value at or below which `percent` of all values lie (nearest rank, 0 < percent <= 100), rounded
    /// up to the end of its bucket; `None` if nothing was recorded.
    pub(crate) fn percentile(&self, percent: f64) -> Option<u64> {
        let rank = ((percent / 100.0 * self.total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(bucket_last(found).min(self.max))
    }

    /// The percentiles that a report shows; `None` if nothing was recorded.
    pub(crate) fn summary(&self) -> Option<LatencySummary> {
        let micros = |percent| self.percentile(percent).map(|nanos| nanos as f64 / 1_000.0);
        Some(LatencySummary {
            p50_micros: micros(50.0)?,
            p90_micros: micros(90.0)?,
            p99_micros: micros(99.0)?,
            p999_micros: micros(99.9)?,
            max_micros: micros(100.0)?,
        })
    }
}

/// Latency percentiles in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LatencySummary {
    pub(crate) p50_micros: f64,
    pub(crate) p90_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) p999_micros: f64,
    pub(crate) max_micros: f64,
}

impl fmt::Display for LatencySummary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50_micros, p90_micros, p99_micros, p999_micros, max_micros } = self;
        write!(
            out,
            "p50 {p50_micros:.0} us, p90 {p90_micros:.0} us, p99 {p99_micros:.0} us, p99.9 {p999_micros:.0} us, \
             max {max_micros:.0} us"
        )
    }
}

fn bucket(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    // The top seven bits name the bucket: the leading one by its position, the six below it by their value.
    let shift = value.ilog2() - STEPS.ilog2();
    let step = (value >> shift) as usize - STEPS;
    EXACT as usize + (shift as usize - 1) * STEPS + step
}

/// The largest value that falls into bucket `index`.
fn bucket_last(index: usize) -> u64 {
    if index < EXACT as usize {
        return index as u64;
    }
    let beyond = index - EXACT as usize;
    let shift = beyond / STEPS + 1;
    let first = ((beyond % STEPS + STEPS) as u64) << shift;
    first + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_value_or_the_mean_of_the_middle_two() {
        let rows: &[(&[f64], Option<f64>)] = &[
            (&[], None),
            (&[4.0], Some(4.0)),
            (&[9.0, 1.0], Some(5.0)),
            (&[3.0, 1.0, 2.0], Some(2.0)),
            (&[10.0, 1.0, 2.0, 3.0], Some(2.5)),
        ];

        for (values, expected) in rows {
            assert_eq!(median(values), *expected, "{values:?}");
        }
    }

    #[test]
    fn ratio_to_a_baseline_of_zero_is_unknown() {
        assert_eq!(ratio(1.0, 4.0), Some(0.25));
        assert_eq!(ratio(1.0, 0.0), None);
    }

    #[test]
    fn percentiles_of_small_values_are_exact_nearest_ranks() {
        let mut histogram = Histogram::new();
        for value in 1..=100 {
            histogram.record(value);
        }

        for (percent, expected) in [(0.1, 1), (50.0, 50), (90.0, 90), (99.0, 99), (99.9, 100), (100.0, 100)] {
            assert_eq!(histogram.percentile(percent), Some(expected), "p{percent}");
        }
    }

    #[test]
    fn an_empty_histogram_has_no_percentiles() {
        assert_eq!(Histogram::new().percentile(50.0), None);
        assert!(Histogram::new().summary().is_none());
    }

    #[test]
    fn a_bucket_is_at_most_one_part_in_64_wide_and_buckets_are_in_order() {
        let mut previous = 0;
        for power in 0..64 {
            for value in [1_u64 << power, (1 << power) + (1 << power) / 3, (1 << power) | ((1 << power) - 1)]
            {
                let index = bucket(value);
                let last = bucket_last(index);

                assert!(index < BUCKETS, "{value}");
                assert!(last >= value && last - value <= value / 64, "{value} is reported as {last}");
                assert!(index >= previous, "{value}");
                previous = index;
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_last(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn merged_histograms_count_the_values_of_both() {
        let (mut low, mut high) = (Histogram::new(), Histogram::new());
        for value in 1..=50 {
            low.record(value);
            high.record(value + 50);
        }

        low.merge(&high);

        assert_eq!(low.percentile(50.0), Some(50));
        assert_eq!(low.percentile(100.0), Some(100));
    }
}
