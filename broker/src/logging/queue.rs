//! Whoever logs never waits for whoever reads: a line that cannot be written at once waits for a thread that writes it.
//!
//! Invariants: lines are written in the order in which they came; what finds no room is dropped and counted, and the line that tells
//! of it has room.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use veilmq_core::{Sample, SampleKind};

use super::Lines;
use crate::admin::metrics::MetricSource;

/// The bytes that wait at most: some thousand lines. As many may be with the system.
const BYTES_MAX: usize = 1024 * 1024;
/// What the thread that writes may add beyond that, to tell of lost lines.
const TELLING_BYTES: usize = 4 * 1024;
/// How long the end of the program waits for whoever reads.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);
/// When a destination that does not block is tried again.
const PAUSE: Duration = Duration::from_millis(10);
const THREAD_NAME: &str = "veilmq-log";
/// How often a thread that panics tries to get at the queue, which it may hold itself.
const TRIES_WHEN_PANICKING: u32 = 20;

thread_local! {
    /// This is the thread that writes.
    static IS_WRITER: Cell<bool> = const { Cell::new(false) };
}

/// The lines of this process.
pub(super) static QUEUE: LineQueue = LineQueue::new();

/// Lines that wait.
pub(super) struct LineQueue {
    waiting: Mutex<Waiting>,
    came: Condvar,
    is_empty: Condvar,
    dropped: AtomicU64,
}

struct Waiting {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// What was dropped since this was last told.
    lost: u64,
    writer: Writer,
}

/// What the thread that writes does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// It has not been started.
    Absent,
    /// It waits for lines.
    Idle,
    Busy,
}

/// Lines with the same destinations.
struct Batch {
    lines: Arc<Lines>,
    text: Vec<u8>,
}

impl LineQueue {
    const fn new() -> Self {
        let waiting = Waiting { batches: VecDeque::new(), bytes: 0, lost: 0, writer: Writer::Absent };
        Self {
            waiting: Mutex::new(waiting),
            came: Condvar::new(),
            is_empty: Condvar::new(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Writes a line, or lets it wait if there is room.
    pub(super) fn push(&self, lines: &Arc<Lines>, line: &[u8]) {
        let Some(mut waiting) = self.lock_unless_held() else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let is_next = waiting.batches.is_empty() && waiting.writer != Writer::Busy;
        if is_next && lines.outputs.iter().all(|output| output.takes(line.len())) {
            // The lock is held, so that what another thread logs comes behind it.
            self.write(lines, line);
            return;
        }
        let bytes_max = if IS_WRITER.get() { BYTES_MAX + TELLING_BYTES } else { BYTES_MAX };
        if waiting.bytes + line.len() > bytes_max {
            waiting.lost += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes += line.len();
        match waiting.batches.back_mut() {
            Some(last) if Arc::ptr_eq(&last.lines, lines) => last.text.extend_from_slice(line),
            _ => waiting.batches.push_back(Batch { lines: Arc::clone(lines), text: line.to_vec() }),
        }
        if waiting.writer == Writer::Idle {
            // Whoever comes next need not wake it again.
            waiting.writer = Writer::Busy;
            self.came.notify_one();
        }
    }

    /// Starts the thread that writes, which says with `tell` how many lines were lost.
    ///
    /// # Errors
    /// There may be no more threads.
    pub(super) fn start(&'static self, tell: fn(u64)) -> io::Result<()> {
        let mut waiting = self.lock();
        if waiting.writer == Writer::Absent {
            // A panic costs the lines that were being written, not those to come.
            let serve =
                move || while catch_unwind(AssertUnwindSafe(|| self.write_for_ever(tell))).is_err() {};
            thread::Builder::new().name(THREAD_NAME.into()).spawn(serve)?;
            waiting.writer = Writer::Busy;
        }
        Ok(())
    }

    /// Waits until everything is written, but not for long. Before there is a thread for it, what waits is written by this one.
    pub(super) fn flush(&self) {
        let Some(mut waiting) = self.lock_unless_held() else { return };
        if waiting.writer == Writer::Absent {
            waiting.bytes = 0;
            let batches = mem::take(&mut waiting.batches);
            drop(waiting);
            self.write_all(&batches);
            return;
        }
        let is_busy = |waiting: &mut Waiting| waiting.writer == Writer::Busy;
        drop(self.is_empty.wait_timeout_while(waiting, FLUSH_PATIENCE, is_busy));
    }

    fn write_for_ever(&self, tell: fn(u64)) {
        IS_WRITER.set(true);
        loop {
            let (batches, lost) = self.take();
            if lost > 0 {
                // It waits behind the lines that were there before the lost ones.
                tell(lost);
            }
            self.write_all(&batches);
        }
    }

    /// Waits for lines.
    fn take(&self) -> (VecDeque<Batch>, u64) {
        let mut waiting = self.lock();
        if waiting.batches.is_empty() {
            waiting.writer = Writer::Idle;
            self.is_empty.notify_all();
            let is_empty = |waiting: &mut Waiting| waiting.batches.is_empty();
            waiting = self.came.wait_while(waiting, is_empty).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.writer = Writer::Busy;
        waiting.bytes = 0;
        (mem::take(&mut waiting.batches), mem::take(&mut waiting.lost))
    }

    fn write_all(&self, batches: &VecDeque<Batch>) {
        for Batch { lines, text } in batches {
            self.write(lines, text);
        }
    }

    fn write(&self, lines: &Lines, text: &[u8]) {
        for output in &lines.outputs {
            let unwritten = write_patiently(&*output.file(), text);
            self.dropped.fetch_add(unwritten, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the same, unless this thread panics and has the lock itself.
    fn lock_unless_held(&self) -> Option<MutexGuard<'_, Waiting>> {
        if !thread::panicking() {
            return Some(self.lock());
        }
        (0..TRIES_WHEN_PANICKING).find_map(|_| match self.waiting.try_lock() {
            Ok(waiting) => Some(waiting),
            Err(TryLockError::Poisoned(waiting)) => Some(waiting.into_inner()),
            Err(TryLockError::WouldBlock) => {
                thread::sleep(PAUSE);
                None
            }
        })
    }
}

/// Writes lines, and waits where somebody has made the destination one that does not block. Returns how many lines could not be
/// written.
fn write_patiently(mut out: impl Write, mut text: &[u8]) -> u64 {
    while !text.is_empty() {
        match out.write(text) {
            Ok(0) => break,
            Ok(written) => text = text.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(_) => break,
        }
    }
    text.split_inclusive(|byte| *byte == b'\n').count() as u64
}

/// How many lines were dropped.
pub(crate) struct LogMetrics;

impl MetricSource for LogMetrics {
    fn visit(&self, visit: &mut dyn FnMut(Sample)) {
        visit(Sample {
            name: "veilmq_log_lines_dropped_total",
            help: "Log lines that were dropped, because they came faster than they could be written, or could not be written.",
            kind: SampleKind::Counter,
            label: None,
            value: QUEUE.dropped.load(Ordering::Relaxed),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{PipeReader, Read};
    use std::os::fd::OwnedFd;
    use std::sync::{OnceLock, mpsc};

    use super::*;
    use crate::logging::Output;

    /// A queue that nobody serves yet, and a pipe to write to.
    fn queue() -> (&'static LineQueue, Arc<Lines>, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let file = File::from(OwnedFd::from(writer));
        let lines = Lines { outputs: vec![Output::new(None, file)], syslog: None, topic: false };
        (Box::leak(Box::new(LineQueue::new())), Arc::new(lines), reader)
    }

    fn read(reader: &mut PipeReader, length: usize) -> String {
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_is_written_before_who_logs_goes_on_unless_that_may_block_or_others_wait() {
        let (queue, lines, mut reader) = queue();
        let long = format!("{}\n", "x".repeat(5_000));

        queue.push(&lines, b"one\n");
        assert_eq!(read(&mut reader, 4), "one\n");
        queue.push(&lines, long.as_bytes());
        queue.push(&lines, b"two\n");
        assert_eq!(queue.lock().bytes, long.len() + 4);
        queue.flush();
        assert_eq!(read(&mut reader, long.len() + 4), format!("{long}two\n"), "at the end of a program");
        queue.push(&lines, long.as_bytes());
        queue.start(|_| {}).unwrap();
        queue.push(&lines, b"three\n");
        queue.flush();

        assert_eq!(read(&mut reader, long.len() + 6), format!("{long}three\n"), "by the thread");
    }

    /// [D08]
    #[test]
    fn who_logs_waits_for_no_reader_and_what_finds_no_room_is_counted_and_told() {
        static TOLD: AtomicU64 = AtomicU64::new(0);
        let (queue, lines, mut reader) = queue();
        queue.start(|lost| TOLD.store(lost, Ordering::Relaxed)).unwrap();
        let line = format!("{}\n", "x".repeat(1_023));

        for _ in 0..4 * BYTES_MAX / line.len() {
            queue.push(&lines, line.as_bytes());
        }
        queue.flush();
        let dropped = queue.dropped.load(Ordering::Relaxed);
        assert!(dropped >= 1_000, "{dropped}");
        let kept = 4 * BYTES_MAX / line.len() - dropped as usize;
        assert_eq!(read(&mut reader, kept * line.len()), line.repeat(kept));
        queue.flush();

        assert_eq!(TOLD.load(Ordering::Relaxed), dropped);
        queue.push(&lines, b"again\n");
        assert_eq!(read(&mut reader, 6), "again\n");
    }

    #[test]
    fn the_line_that_tells_of_lost_lines_is_not_lost_itself() {
        static QUEUE: OnceLock<(&LineQueue, Arc<Lines>)> = OnceLock::new();
        static FIRST: OnceLock<u64> = OnceLock::new();
        fn fill() {
            let (queue, lines) = QUEUE.get().unwrap();
            for line in [&[b'\n'; 1_000][..], b"\n"] {
                let before = queue.dropped.load(Ordering::Relaxed);
                while queue.dropped.load(Ordering::Relaxed) == before {
                    queue.push(lines, line);
                }
            }
        }
        let (queue, lines, mut reader) = queue();
        let _ = QUEUE.set((queue, lines));
        let tell = |lost: u64| {
            let _ = FIRST.set(lost);
            // Others are faster.
            thread::spawn(fill).join().unwrap();
            let (queue, lines) = QUEUE.get().unwrap();
            queue.push(lines, format!("{lost} lost\n").as_bytes());
        };
        queue.start(tell).unwrap();
        fill();

        let mut text = String::new();
        let mut piece = [0; 65_536];
        while !text.contains(" lost\n") {
            let read = reader.read(&mut piece).unwrap();
            text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
            assert!(text.len() < 4 * BYTES_MAX, "nothing is told");
        }
        let told = text.lines().find(|line| line.ends_with(" lost"));
        assert_eq!(told, FIRST.get().map(|lost| format!("{lost} lost")).as_deref());
    }

    #[test]
    fn a_panic_of_the_thread_that_writes_ends_no_log() {
        let (queue, lines, mut reader) = queue();
        queue.start(|lost| panic!("{lost} lines are lost")).unwrap();
        let line = [b'\n'; 1_024];

        while queue.dropped.load(Ordering::Relaxed) == 0 {
            queue.push(&lines, &line);
        }
        let (heard, hears) = mpsc::sync_channel(1);
        thread::spawn(move || {
            let mut piece = [0; 65_536];
            while let Ok(read) = reader.read(&mut piece) {
                if piece[..read].ends_with(b"again") {
                    let _ = heard.try_send(());
                }
            }
        });
        // What waited at the panic is lost, and so may this be until then.
        let is_heard = (0..2_000).any(|_| {
            queue.push(&lines, b"again");
            hears.recv_timeout(PAUSE).is_ok()
        });
        assert!(is_heard, "nothing is written any more");
    }

    #[test]
    fn a_panic_of_a_thread_that_holds_the_queue_does_not_wait_for_itself() {
        struct Logs(&'static LineQueue, Arc<Lines>);
        impl Drop for Logs {
            fn drop(&mut self) {
                self.0.push(&self.1, b"one\n");
                self.0.flush();
            }
        }
        let (queue, lines, _reader) = queue();
        let panics = thread::spawn(move || {
            let _held = queue.lock();
            let _logs = Logs(queue, lines);
            panic!("while the queue is held");
        });

        assert!(panics.join().is_err());
        assert_eq!(queue.dropped.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn lines_that_a_destination_does_not_take_are_counted() {
        let (queue, lines, reader) = queue();
        drop(reader);

        queue.push(&lines, b"one\n");
        queue.push(&lines, b"two\n");
        queue.flush();

        assert_eq!(queue.dropped.load(Ordering::Relaxed), 2);
    }
}
