//! Progress: a line on standard error every two seconds, so that a long run shows that it is one.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::tally::Tally;

/// The time between two lines.
const INTERVAL: Duration = Duration::from_secs(2);
/// The records between two looks at the clock.
const STRIDE: u32 = 256;

/// A run that takes a while.
pub(crate) struct Progress {
    verb: &'static str,
    due: Instant,
    unseen: u32,
}

impl Progress {
    /// Begins; `verb` is what happens to records, in the past tense.
    pub(crate) fn start(verb: &'static str) -> Self {
        Self { verb, due: Instant::now() + INTERVAL, unseen: 0 }
    }

    /// Goes on with another thing that happens to the same records.
    pub(crate) fn turn_to(&mut self, verb: &'static str) {
        self.verb = verb;
    }

    /// Writes a line if it is time for one; called once for each record.
    pub(crate) fn report(&mut self, tally: &Tally) {
        self.unseen += 1;
        if self.unseen < STRIDE {
            return;
        }
        self.unseen = 0;
        let now = Instant::now();
        if now >= self.due {
            self.due = now + INTERVAL;
            let megabytes = tally.message_bytes / 1_000_000;
            // Nobody may be there to see it; the work goes on all the same.
            let _ = writeln!(
                io::stderr(),
                "veilmq: {} {} records, {megabytes} MB of messages",
                self.verb,
                tally.records()
            );
        }
    }
}
