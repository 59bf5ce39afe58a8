//! Where log lines go and what they look like: standard error, as text or as JSON.
//!
//! Only our own crates write at the configured level; libraries are heard from `warn` upwards.

use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};
use veilmq_config::{LogConfig, LogFormat, LogLevel};

/// All crates of the broker are called `veilmq` or `veilmq_*`.
const OWN_CRATES: &str = "veilmq";

/// Begins to log. A second call in one process changes nothing.
pub fn start(config: &LogConfig) {
    let level = level(config.level);
    let filter = Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(OWN_CRATES, level);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let lines = match config.format {
        LogFormat::Text => lines.with_target(level >= LevelFilter::DEBUG).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // It fails only if a subscriber is set already, as in a test that starts several brokers.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
}

/// Makes a panic on a thread that owns sessions end the process: what it leaves behind would not be consistent, and what was
/// acknowledged is on disk. Panics elsewhere are logged and handled by whoever watches that thread.
pub fn end_process_when_a_shard_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        tracing::error!(thread = name, at = %place(panic), "bug in the broker: {}", text(panic));
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

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
