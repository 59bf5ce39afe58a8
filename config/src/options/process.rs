//! The options of the process: the admin listener, logs, `$SYS` topics, threads.

use super::{OptionSpec, integer, option, unset};
use crate::kind::Kind;

pub(super) const OPTIONS: &[OptionSpec] = &[
    option("admin.address", Kind::AddressOrOff, "HTTP address of metrics and health."),
    unset(
        option(
            "admin.token_file",
            Kind::Path,
            "File with the token that operators show on the admin listener: 16 or more visible ASCII characters; read again with a reload.",
        ),
        "nobody can administer the broker there",
    ),
    option("log.format", Kind::Choice(&["text", "json"]), "How a log line is written."),
    option(
        "log.level",
        Kind::Choice(&["off", "error", "warn", "info", "debug", "trace"]),
        "Least severe level that is written.",
    ),
    option(
        "log.destinations",
        Kind::Paths,
        "Where log lines go: `stderr`, `stdout`, `syslog` (`/dev/log`), `topic` (`$SYS/broker/log/…`), or files that they are appended to, which are made for the user of the broker alone and opened anew on SIGHUP.",
    ),
    option(
        "log.syslog_facility",
        Kind::Choice(&[
            "daemon", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
        ]),
        "As what the system's logger gets them.",
    ),
    option("log.timestamps", Kind::Boolean, "Whether a log line has the time."),
    unset(
        option("log.timestamp_format", Kind::Text { bytes_max: 256 }, "UTC with the fields of `strftime`."),
        "as in RFC 3339",
    ),
    option("log.connections", Kind::Boolean, "Whether clients that connect and disconnect are logged."),
    unset(
        option("process.pid_file", Kind::Path, "File that has the number of the process while it runs."),
        "no file is written",
    ),
    unset(
        option("process.user", Kind::User, "User that root's process becomes."),
        "the process stays who it is",
    ),
    integer(
        "sys.interval_seconds",
        0,
        65_535,
        "From one report on `$SYS` topics to the next, in seconds; 0 makes none.",
    ),
    integer(
        "shards.count",
        0,
        64,
        "Threads that share the work; 0 is one for each two available cores, at least 1 and at most 64.",
    ),
];
