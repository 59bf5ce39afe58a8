//! Keeps log lines that clients can provoke from filling the log: a few are written, the others are counted.

use crate::time::Moment;

/// The lines of one kind in one interval.
const LINES_MAX: u32 = 20;
const INTERVAL_MILLISECONDS: u64 = 10_000;

/// The lines of one kind.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    since: Option<Moment>,
    written: u32,
    suppressed: u64,
}

impl LogLimit {
    /// Tells whether a line may be written, and how many were not written since the last one that was.
    pub(crate) fn admit(&mut self, now: Moment) -> Option<u64> {
        if self.since.is_none_or(|since| now.since(since) >= INTERVAL_MILLISECONDS) {
            self.since = Some(now);
            self.written = 0;
        }
        if self.written == LINES_MAX {
            self.suppressed += 1;
            return None;
        }
        self.written += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_few_lines_and_the_next_interval_tells_how_many_are_missing() {
        // [D08]
        let mut limit = LogLimit::default();
        let start = Moment::from_milliseconds(1_000);

        let written = (0..1_000).filter(|_| limit.admit(start).is_some()).count();

        assert_eq!(written, 20);
        assert_eq!(limit.admit(start + 9_999), None);
        assert_eq!(limit.admit(start + 10_000), Some(981));
        assert_eq!(limit.admit(start + 10_000), Some(0));
    }
}
