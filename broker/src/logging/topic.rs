//! Log lines as messages below `$SYS/broker/log`, as Mosquitto publishes them: `E`, `W` and `N` for errors, warnings and all else.
//!
//! Lines wait in a bounded channel for the shard that publishes them; what finds it full is lost. Invariant: no line comes of
//! publishing one. What is for finding faults only (`debug`) is not published, as it is about every message.

use std::cell::Cell;
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc::{Receiver, Sender, channel};
use tracing::Level;

/// The lines that wait at most.
const LINES_MAX: usize = 1_024;

thread_local! {
    /// A line is being published here.
    static IS_PUBLISHING: Cell<bool> = const { Cell::new(false) };
}

/// A line and the topic it is for.
pub(crate) struct TopicLine {
    /// The Topic Name.
    pub(crate) topic: &'static str,
    /// What it says.
    pub(crate) text: String,
}

/// Where lines wait for their shard.
pub(super) struct TopicLines {
    sender: Sender<TopicLine>,
    /// None once somebody has taken it.
    receiver: Mutex<Option<Receiver<TopicLine>>>,
}

impl TopicLines {
    pub(super) fn new() -> Self {
        let (sender, receiver) = channel(LINES_MAX);
        Self { sender, receiver: Mutex::new(Some(receiver)) }
    }

    /// Lets a line wait, unless it comes of publishing another.
    pub(super) fn send(&self, level: Level, line: &str) {
        let topic = match level {
            Level::ERROR => "$SYS/broker/log/E",
            Level::WARN => "$SYS/broker/log/W",
            Level::INFO => "$SYS/broker/log/N",
            Level::DEBUG | Level::TRACE => return,
        };
        if !IS_PUBLISHING.get() {
            // Whoever reads the other destinations has it still.
            let _ = self.sender.try_send(TopicLine { topic, text: line.trim_end().to_owned() });
        }
    }

    /// Returns the end that lines come out of, to the first who asks.
    pub(super) fn take(&self) -> Option<Receiver<TopicLine>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Publishes a line; what is logged meanwhile on this thread is not published.
pub(crate) fn publish_quietly(publish: impl FnOnce()) {
    IS_PUBLISHING.set(true);
    publish();
    IS_PUBLISHING.set(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_by_their_level_and_none_comes_of_publishing_one() {
        let lines = TopicLines::new();
        let mut receiver = lines.take().unwrap();
        assert!(lines.take().is_none());

        for level in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
            lines.send(level, "line\n");
        }
        publish_quietly(|| lines.send(Level::ERROR, "refused"));

        for topic in ["E", "W", "N"] {
            let line = receiver.try_recv().unwrap();
            assert_eq!((line.topic, &*line.text), (&*format!("$SYS/broker/log/{topic}"), "line"));
        }
        assert!(receiver.try_recv().is_err());
        for _ in 0..LINES_MAX + 10 {
            lines.send(Level::INFO, "many");
        }
        assert_eq!(receiver.len(), LINES_MAX);
    }
}
