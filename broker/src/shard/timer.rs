//! When a shard ticks: at its next deadline, and again at once while there are more.
//!
//! A shard that is late has been stopped, as a virtual machine is, or has too much to do. Before it takes anybody for dead it hears what
//! was said meanwhile. Invariant: while a shard works off deadlines that it is late with, it hears for less than a tenth of the time.

use std::rc::Rc;
use std::time::Duration;

use veilmq_core::Moment;

use super::worker::Worker;
use crate::clock;

/// A shard that is later than this hears first.
const LATE_MILLISECONDS_MAX: u64 = 500;
const HEARING: Duration = Duration::from_millis(50);

/// Ticks when the core or a slow connection has a deadline.
pub(super) async fn keep_time(worker: Rc<Worker>) {
    let mut heard = Heard::default();
    loop {
        match worker.next_due() {
            None => worker.wait_for_earlier_deadline().await,
            Some(due) => {
                let left = due.since(clock::now());
                if left > 0 {
                    let wait = Duration::from_millis(left);
                    // Whichever comes first: both mean looking again.
                    let _ = tokio::time::timeout(wait, worker.wait_for_earlier_deadline()).await;
                }
                if heard.is_too_little(due, clock::now()) {
                    tokio::time::sleep(HEARING).await;
                }
            }
        }
        worker.tick();
        // Of many deadlines some are left for later, and what is ready is not to wait for all of them.
        tokio::task::yield_now().await;
    }
}

/// Until when a shard has heard what was said.
#[derive(Debug, Default)]
struct Heard(Option<Moment>);

impl Heard {
    /// Tells whether a shard has to hear before it acts on a deadline, which it then does: `now` it is late, and has not heard since
    /// the deadline passed. Who has heard once has heard for all deadlines that had passed by then, however long they take.
    fn is_too_little(&mut self, due: Moment, now: Moment) -> bool {
        let is_late = now.since(due) > LATE_MILLISECONDS_MAX;
        let hears = is_late && self.0.is_none_or(|heard| heard < due);
        if hears {
            self.0 = Some(now);
        }
        hears
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Works deadlines off, each of which takes `milliseconds`; returns how often the shard heard, and when it was through.
    fn work_off(heard: &mut Heard, dues: &[u64], milliseconds: u64, mut now: u64) -> (usize, u64) {
        let mut hearings = 0;
        for due in dues {
            now = now.max(*due);
            if heard.is_too_little(Moment::from_milliseconds(*due), Moment::from_milliseconds(now)) {
                hearings += 1;
                now += u64::try_from(HEARING.as_millis()).unwrap();
            }
            now += milliseconds;
        }
        (hearings, now)
    }

    #[test]
    fn a_backlog_of_deadlines_is_heard_for_once_and_then_worked_off_without_a_pause() {
        // [D04]
        let mut heard = Heard::default();

        assert_eq!(work_off(&mut heard, &[1_000; 800], 2, 9_000), (1, 9_000 + 50 + 1_600));
    }

    #[test]
    fn a_shard_that_is_stopped_again_hears_again() {
        let mut heard = Heard::default();

        assert_eq!(work_off(&mut heard, &[1_000, 2_000], 1, 3_000).0, 1);
        assert_eq!(work_off(&mut heard, &[2_500, 10_000, 11_000], 1, 20_000).0, 1);
    }

    #[test]
    fn a_shard_that_stays_late_hears_for_less_than_a_tenth_of_the_time() {
        let dues: Vec<u64> = (0..10_000).collect();

        let (hearings, until) = work_off(&mut Heard::default(), &dues, 2, 1_000);

        assert!(hearings > 1 && hearings as u64 * 500 < until, "{hearings} until {until}");
    }

    #[test]
    fn a_shard_in_time_hears_nothing_first() {
        let dues: Vec<u64> = (0..1_000).collect();

        assert_eq!(work_off(&mut Heard::default(), &dues, 1, 0), (0, 1_000));
        assert_eq!(work_off(&mut Heard::default(), &[1_000], 1, 1_500).0, 0);
    }
}
