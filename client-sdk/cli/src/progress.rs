//! Progress of long work on standard error, only when a person looks at it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_millis(500);

pub(crate) struct Progress {
    verb: &'static str,
    total: Option<u64>,
    done: u64,
    last: Instant,
    shown: bool,
    wanted: bool,
}

impl Progress {
    /// `total` is `None` when nobody knows how much there is.
    pub(crate) fn new(verb: &'static str, total: Option<u64>, quiet: bool) -> Self {
        let wanted = !quiet && io::stderr().is_terminal();
        Self { verb, total, done: 0, last: Instant::now(), shown: false, wanted }
    }

    pub(crate) fn step(&mut self) {
        self.done += 1;
        if !self.wanted || self.last.elapsed() < INTERVAL {
            return;
        }
        self.last = Instant::now();
        self.shown = true;
        let of = self.total.map(|total| format!(" of {total}")).unwrap_or_default();
        // Progress that cannot be shown is not worth failing for.
        let _ = write!(io::stderr(), "\r{} {}{of} messages ", self.verb, self.done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = writeln!(io::stderr(), "\r{} {} messages      ", self.verb, self.done);
        }
    }
}
