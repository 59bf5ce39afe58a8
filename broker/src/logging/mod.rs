//! Where log lines go and what they look like: standard error, standard output, files, the system's logger or topics, as text or as JSON.
//!
//! Only our own crates write at the configured level; libraries are heard from `warn` upwards.

mod mosquitto;
mod queue;
mod syslog;
mod topic;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::mpsc::Receiver;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};
use veilmq_config::{LogConfig, LogFormat, LogLevel};
use veilmq_core::CONNECTION_LINES;

use self::mosquitto::MosquittoLines;
pub(crate) use self::queue::LogMetrics;
use self::queue::QUEUE;
use self::syslog::Syslog;
use self::topic::TopicLines;
pub(crate) use self::topic::{TopicLine, publish_quietly};
use crate::files::check_folder_of;

/// All crates of the broker are called `veilmq` or `veilmq_*`.
const OWN_CRATES: &str = "veilmq";
/// The most bytes of a line; what is longer is cut.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// What a pipe takes at once if it takes anything: a page.
const PIPE_BYTES_MIN: usize = 4096;

/// Events that only a broker in Mosquitto's place has a line for.
pub(crate) const MOSQUITTOS_LINES: &str = "veilmq_mosquitto";

/// Whose words lines of text are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wording {
    /// Our own.
    Own,
    /// Mosquitto's, where that one has any.
    Mosquitto,
}

/// How this process logs, so that it can be changed.
static LOGGING: OnceLock<Mutex<Logging>> = OnceLock::new();

/// The lines that are to be published.
static TOPIC: LazyLock<TopicLines> = LazyLock::new(TopicLines::new);

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

struct Logging {
    /// What the configuration says; an operator may have chosen another level since.
    config: LogConfig,
    wording: Wording,
    level: LogLevel,
    lines: Arc<Lines>,
    filter: reload::Handle<Targets, Registry>,
    layers: reload::Handle<Vec<BoxedLayer>, Registry>,
}

/// Another way to log, whose destinations are open.
pub struct PreparedLog {
    config: LogConfig,
    lines: Arc<Lines>,
}

/// Somewhere that lines should go, and cannot.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {}: {source}", path.display())]
pub struct LogError {
    path: PathBuf,
    source: io::Error,
}

impl LogError {
    /// Returns the file at fault.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Looks whether the folders are there in which the files of a log are to be.
///
/// # Errors
/// [`LogError`].
pub fn check(config: &LogConfig) -> Result<(), LogError> {
    for destination in &config.destinations {
        if matches!(destination.as_str(), "stderr" | "stdout" | "topic" | "syslog") {
            continue;
        }
        let path = Path::new(destination);
        check_folder_of(path).map_err(|source| LogError { path: path.into(), source })?;
    }
    Ok(())
}

/// Begins to log; what cannot be written at once waits for [`start_writing`]. A second call in one process changes nothing.
///
/// # Errors
/// [`LogError`] if a file cannot be opened; the other destinations are in use all the same.
pub fn start(config: &LogConfig, wording: Wording) -> Result<(), LogError> {
    let (lines, failure) = Lines::open(config);
    let lines = Arc::new(lines);
    let (filter, filter_handle) = reload::Layer::new(targets(config.level, config.connections, wording));
    let (layers, layers_handle) = reload::Layer::new(layers(config, wording, &lines));
    let logging = Logging {
        config: config.clone(),
        wording,
        level: config.level,
        lines,
        filter: filter_handle,
        layers: layers_handle,
    };
    // A second call leaves what the first one has made in place.
    let _ = LOGGING.set(Mutex::new(logging));
    // It fails only if a subscriber is set already, as in a test that starts several brokers.
    let _ = tracing_subscriber::registry().with(layers.with_filter(filter)).try_init();
    failure.map_or(Ok(()), Err)
}

/// Starts the thread that writes the lines that wait. A process that is to go into the background, become another user or block signals has to do
/// so before.
///
/// # Errors
/// There may be no more threads.
pub fn start_writing() -> io::Result<()> {
    QUEUE.start(|lost| tracing::warn!(lost, "log lines were dropped: they came faster than they were read"))
}

/// Waits until all lines are written, for a moment at the most.
pub fn flush() {
    QUEUE.flush();
}

/// Opens the destinations of another configuration; None if it says nothing new.
///
/// # Errors
/// [`LogError`] if a file cannot be opened.
pub fn prepare(config: &LogConfig) -> Result<Option<PreparedLog>, LogError> {
    let Some(logging) = logging() else { return Ok(None) };
    if logging.config == *config {
        return Ok(None);
    }
    if logging.config.destinations == config.destinations
        && logging.config.syslog_facility == config.syslog_facility
    {
        return Ok(Some(PreparedLog { config: config.clone(), lines: Arc::clone(&logging.lines) }));
    }
    drop(logging);
    match Lines::open(config) {
        (_, Some(error)) => Err(error),
        (lines, None) => Ok(Some(PreparedLog { config: config.clone(), lines: Arc::new(lines) })),
    }
}

impl PreparedLog {
    /// Logs like this from now on. The level that an operator has chosen stays, unless the configuration says another one than before.
    pub fn apply(self) {
        let Some(mut logging) = logging() else { return };
        let Self { config, lines } = self;
        if logging.config.level != config.level {
            logging.level = config.level;
        }
        // Both fail only once nobody logs any more.
        let _ = logging.layers.reload(layers(&config, logging.wording, &lines));
        let _ = logging.filter.reload(targets(logging.level, config.connections, logging.wording));
        (logging.config, logging.lines) = (config, lines);
    }
}

/// Makes what writes lines to all destinations.
fn layers(config: &LogConfig, wording: Wording, lines: &Arc<Lines>) -> Vec<BoxedLayer> {
    let is_terminal = config.destinations == ["stderr"] && io::stderr().is_terminal();
    let mut layers =
        vec![layer(config, wording, Together(Arc::clone(lines)), is_terminal, config.timestamps)];
    if lines.syslog.is_some() || lines.topic {
        // The logger is told the time, and a message is heard at once.
        layers.push(layer(config, wording, Apart(Arc::clone(lines)), false, false));
    }
    layers
}

/// Makes what writes lines in the form that is configured.
fn layer<W>(
    config: &LogConfig,
    wording: Wording,
    writer: W,
    is_terminal: bool,
    timestamps: bool,
) -> BoxedLayer
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    if (wording, config.format) == (Wording::Mosquitto, LogFormat::Text) {
        let timestamps = timestamps.then(|| config.timestamp_format.clone());
        let lines = MosquittoLines { timestamps };
        return tracing_subscriber::fmt::layer()
            .with_writer(writer)
            .with_ansi(false)
            .event_format(lines)
            .boxed();
    }
    let stamp = Stamp { format: config.timestamp_format.clone() };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(is_terminal).with_timer(stamp);
    let with_target = config.level >= LogLevel::Debug;
    match (config.format, timestamps) {
        (LogFormat::Text, true) => layer.with_target(with_target).boxed(),
        (LogFormat::Text, false) => layer.with_target(with_target).without_time().boxed(),
        (LogFormat::Json, true) => layer.json().flatten_event(true).boxed(),
        (LogFormat::Json, false) => layer.json().flatten_event(true).without_time().boxed(),
    }
}

/// Returns the lines that are to be published, to the first who asks.
pub(crate) fn take_topic_lines() -> Option<Receiver<TopicLine>> {
    TOPIC.take()
}

/// Returns the least severe level that is written.
pub fn current_level() -> Option<LogLevel> {
    logging().map(|logging| logging.level)
}

/// Writes lines of this level and more severe ones from now on.
pub fn change_level(level: LogLevel) {
    let Some(mut logging) = logging() else { return };
    let earlier = std::mem::replace(&mut logging.level, level);
    // It fails only once nobody logs any more.
    let _ = logging.filter.reload(targets(level, logging.config.connections, logging.wording));
    drop(logging);
    tracing::info!(?earlier, now = ?level, "an operator changed the log level");
}

fn logging() -> Option<MutexGuard<'static, Logging>> {
    LOGGING.get().map(|logging| logging.lock().unwrap_or_else(PoisonError::into_inner))
}

fn targets(level: LogLevel, connections: bool, wording: Wording) -> Targets {
    let level = level_filter(level);
    let targets = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(OWN_CRATES, level);
    let targets = match connections {
        true => targets,
        false => targets.with_target(CONNECTION_LINES, LevelFilter::OFF),
    };
    match (wording, connections) {
        (Wording::Mosquitto, true) => targets,
        (Wording::Own, _) | (Wording::Mosquitto, false) => {
            targets.with_target(MOSQUITTOS_LINES, LevelFilter::OFF)
        }
    }
}

/// Opens the files among the destinations anew, after somebody has moved them away. One that cannot be opened stays as it is.
pub fn reopen_files() {
    let Some(lines) = logging().map(|logging| Arc::clone(&logging.lines)) else { return };
    for output in &lines.outputs {
        let Some(path) = &output.path else { continue };
        match append_to(path) {
            Ok(anew) => output.replace(anew),
            Err(error) => tracing::error!("{error}"),
        }
    }
}

/// Where every line goes.
struct Lines {
    outputs: Vec<Output>,
    syslog: Option<Syslog>,
    topic: bool,
}

/// What lines are written to.
struct Output {
    /// That of a file.
    path: Option<PathBuf>,
    /// It is locked to be found or replaced only, never while somebody writes, which may take any time.
    file: Mutex<Arc<File>>,
    kind: OutputKind,
}

/// Whether somebody has to read what is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputKind {
    /// Nobody.
    File,
    /// Somebody, and if there is room it is for a page.
    Pipe,
    /// Such as a terminal, which is ready as long as it takes one byte.
    Other,
}

impl Output {
    fn new(path: Option<&Path>, file: File) -> Self {
        let kind = match file.metadata().map(|data| data.file_type()) {
            Ok(kind) if kind.is_file() => OutputKind::File,
            Ok(kind) if kind.is_fifo() => OutputKind::Pipe,
            Ok(_) | Err(_) => OutputKind::Other,
        };
        Self { path: path.map(Path::to_owned), file: Mutex::new(Arc::new(file)), kind }
    }

    /// Tells whether so many bytes can be written now without waiting for anybody.
    fn takes(&self, bytes: usize) -> bool {
        match self.kind {
            OutputKind::File => true,
            OutputKind::Pipe => {
                let file = self.file();
                let mut output = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                bytes <= PIPE_BYTES_MIN
                    && matches!(poll(&mut output, PollTimeout::ZERO), Ok(ready) if ready > 0)
            }
            OutputKind::Other => false,
        }
    }

    /// Shares one of the standard streams. What the standard library has for it is locked while somebody writes, and the end of the
    /// program would wait for that.
    fn stream(name: &str, stream: BorrowedFd<'_>) -> Result<Self, LogError> {
        let shared = stream.try_clone_to_owned();
        let shared = shared.map_err(|source| LogError { path: name.into(), source })?;
        Ok(Self::new(None, shared.into()))
    }

    fn file(&self) -> Arc<File> {
        Arc::clone(&self.file.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, anew: File) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(anew);
    }
}

impl Lines {
    /// Opens the destinations, and says which of them that is not possible for. Somewhere that has to be said: if no other destination is
    /// left, on standard error.
    fn open(config: &LogConfig) -> (Self, Option<LogError>) {
        let mut lines = Self { outputs: Vec::new(), syslog: None, topic: false };
        let mut failure = None;
        let destinations: BTreeSet<_> = config.destinations.iter().collect();
        for destination in destinations {
            if let Err(error) = lines.add(destination, config) {
                failure = Some(error);
            }
        }
        if failure.is_some() && lines.outputs.is_empty() && lines.syslog.is_none() {
            // Nobody could be told that even this is not possible.
            lines.outputs.extend(Output::stream("stderr", io::stderr().as_fd()));
        }
        (lines, failure)
    }

    fn add(&mut self, destination: &str, config: &LogConfig) -> Result<(), LogError> {
        match destination {
            "stderr" => self.outputs.push(Output::stream(destination, io::stderr().as_fd())?),
            "stdout" => self.outputs.push(Output::stream(destination, io::stdout().as_fd())?),
            "topic" => self.topic = true,
            "syslog" => {
                let syslog = Syslog::open(Path::new(syslog::SOCKET), config.syslog_facility);
                self.syslog =
                    Some(syslog.map_err(|source| LogError { path: syslog::SOCKET.into(), source })?);
            }
            path => {
                let path = Path::new(path);
                self.outputs.push(Output::new(Some(path), append_to(path)?));
            }
        }
        Ok(())
    }
}

/// Opens a file to append to. One that is not there yet is its user's alone, as Mosquitto's is: lines have names and addresses.
fn append_to(path: &Path) -> Result<File, LogError> {
    let opened = File::options().create(true).append(true).mode(0o600).open(path);
    opened.map_err(|source| LogError { path: path.to_owned(), source })
}

/// The destinations that lines are written to.
struct Together(Arc<Lines>);

/// A line for them.
struct TogetherLine<'l>(&'l Arc<Lines>);

impl<'w> MakeWriter<'w> for Together {
    type Writer = TogetherLine<'w>;

    fn make_writer(&'w self) -> TogetherLine<'w> {
        TogetherLine(&self.0)
    }
}

impl Write for TogetherLine<'_> {
    /// The whole line comes at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !self.0.outputs.is_empty() {
            QUEUE.push(self.0, &bounded(line));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Cuts a line that is longer than any has to be: a few with a Client Identifier of 64 KiB would leave no room for others.
fn bounded(line: &[u8]) -> Cow<'_, [u8]> {
    match line.get(..LINE_BYTES_MAX) {
        None => Cow::Borrowed(line),
        Some(front) => Cow::Owned(format!("{}…\n", String::from_utf8_lossy(front)).into_bytes()),
    }
}

/// The destinations that take lines one by one, with their level.
struct Apart(Arc<Lines>);

/// A line for them.
struct ApartLine<'l> {
    lines: &'l Lines,
    level: Level,
}

impl<'w> MakeWriter<'w> for Apart {
    type Writer = ApartLine<'w>;

    fn make_writer(&'w self) -> ApartLine<'w> {
        ApartLine { lines: &self.0, level: Level::INFO }
    }

    fn make_writer_for(&'w self, metadata: &Metadata<'_>) -> ApartLine<'w> {
        ApartLine { lines: &self.0, level: *metadata.level() }
    }
}

impl Write for ApartLine<'_> {
    /// The whole line comes at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        if let Some(syslog) = &self.lines.syslog {
            syslog.send(self.level, &text);
        }
        if self.lines.topic {
            TOPIC.send(self.level, &text);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The time of a line, in UTC.
struct Stamp {
    /// Fields of `strftime`; without them it is written as RFC 3339 says.
    format: Option<String>,
}

impl FormatTime for Stamp {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        match &self.format {
            None => SystemTime.format_time(out),
            Some(format) => write!(out, "{}", Timestamp::now().strftime(format)),
        }
    }
}

/// Makes a panic on a thread that owns sessions end the process: what it leaves behind would not be consistent, and what was
/// acknowledged is on disk. Panics elsewhere are logged and handled by whoever watches that thread.
pub fn end_process_when_a_shard_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        tracing::error!(thread = name, at = %place(panic), "bug in the broker: {}", text(panic));
        // On the main thread this is the last line too.
        flush();
        if name.starts_with(crate::shard::THREAD_NAME_PREFIX) {
            std::process::exit(101);
        }
    }));
}

fn place(panic: &PanicHookInfo<'_>) -> String {
    panic.location().map_or_else(|| "unknown place".into(), ToString::to_string)
}

fn text<'a>(panic: &'a PanicHookInfo<'_>) -> &'a str {
    let payload = panic.payload();
    let owned = payload.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("panic")
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_to_wait_for_a_reader_is_not_written_by_who_logs() {
        let terminal = nix::pty::openpty(None, None).unwrap();
        let (_reader, pipe) = io::pipe().unwrap();
        let outputs = [
            (File::from(terminal.slave), [false, false]),
            (File::from(std::os::fd::OwnedFd::from(pipe)), [true, false]),
            (tempfile::tempfile().unwrap(), [true, true]),
        ];

        for (file, expected) in outputs {
            let output = Output::new(None, file);
            assert_eq!([1, PIPE_BYTES_MIN + 1].map(|bytes| output.takes(bytes)), expected);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        assert_eq!(&*bounded(b"short\n"), b"short\n");

        let cut = bounded(&vec![b'x'; LINE_BYTES_MAX + 1]).into_owned();

        assert_eq!(cut.len(), LINE_BYTES_MAX + "…\n".len());
        assert!(cut.ends_with("x…\n".as_bytes()));
    }
}
