//! When messages at a fixed rate are due, and a wait that is exact to microseconds.
//!
//! The runtime's own timer counts milliseconds, which is longer than the latencies measured here; hence a
//! kernel timer. Due times depend on the schedule alone, so a slow broker cannot postpone them.

use std::io;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Due times of one publisher: `first`, then one every `interval`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) first: Instant,
    pub(crate) interval: Duration,
}

impl Schedule {
    /// The schedule of publisher `index` of `publishers` that together send `per_second` messages, evenly spread.
    pub(crate) fn new(start: Instant, per_second: u32, publishers: u16, index: u16) -> Self {
        let together = Duration::from_secs(1) / per_second.max(1);
        Self {
            first: start + together * (u32::from(index) + 1),
            interval: together * u32::from(publishers.max(1)),
        }
    }

    /// How many messages are due at `now`.
    pub(crate) fn due_count(&self, now: Instant) -> u64 {
        let Some(elapsed) = now.checked_duration_since(self.first) else { return 0 };
        1 + (elapsed.as_nanos() / self.interval.as_nanos().max(1)) as u64
    }

    /// When message `sequence` is due.
    pub(crate) fn due(&self, sequence: u64) -> Instant {
        let nanos = u128::from(sequence) * self.interval.as_nanos();
        self.first + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
    }
}

/// Wakes its owner at every due time of a schedule.
pub(crate) struct Pacer {
    /// A timer that is read like a pipe: eight bytes whenever it has fired.
    timer: pipe::Receiver,
}

impl Pacer {
    /// Starts a timer on `schedule`.
    ///
    /// # Errors
    /// The system has no timer left.
    pub(crate) fn start(schedule: &Schedule) -> io::Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // A delay of zero would switch the timer off.
        let delay = schedule.first.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let expiration = Expiration::IntervalDelayed(
            TimeSpec::from_duration(delay),
            TimeSpec::from_duration(schedule.interval),
        );
        timer.set(expiration, TimerSetTimeFlags::empty())?;
        Ok(Self { timer: pipe::Receiver::from_owned_fd_unchecked(timer.into())? })
    }

    /// Waits for the next due time; due times that have passed count as one. Cancel safe.
    pub(crate) async fn tick(&mut self) -> io::Result<()> {
        let mut expirations = [0; 8];
        self.timer.read(&mut expirations).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_take_turns_at_the_common_rate() {
        let start = Instant::now();
        let schedules: Vec<_> = (0..4).map(|index| Schedule::new(start, 1_000, 4, index)).collect();

        let mut due: Vec<_> =
            schedules.iter().flat_map(|schedule| (0..25).map(|sequence| schedule.due(sequence))).collect();
        due.sort();

        let expected: Vec<_> = (1..=100).map(|millis| start + Duration::from_millis(millis)).collect();
        assert_eq!(due, expected);
    }

    #[test]
    fn a_message_counts_from_its_due_time_on() {
        let schedule = Schedule::new(Instant::now(), 2_000, 1, 0);

        for sequence in [0, 1, 2, 1_000_000] {
            let due = schedule.due(sequence);

            assert_eq!(schedule.due_count(due), sequence + 1);
            assert_eq!(schedule.due_count(due - Duration::from_nanos(1)), sequence);
        }
    }

    #[tokio::test]
    async fn a_pacer_wakes_when_messages_are_due() {
        let schedule = Schedule::new(Instant::now(), 1_000, 1, 0);
        let mut pacer = Pacer::start(&schedule).unwrap();

        for woken in 1..=20 {
            pacer.tick().await.unwrap();

            assert!(schedule.due_count(Instant::now()) >= woken);
        }
    }
}
