//! Log lines for the system's logger, as syslog(3) sends them (RFC 3164): one datagram each, to the socket of whoever logs here.
//!
//! Invariant: the broker never waits for the logger. A line that it does not take is lost.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tracing::Level;
use veilmq_config::SyslogFacility;

/// Where the system's logger listens.
pub(super) const SOCKET: &str = "/dev/log";
/// Longer lines are cut: some loggers refuse them.
const LINE_BYTES_MAX: usize = 8 * 1024;
/// The name that lines have.
const TAG: &str = "veilmq";

/// A way to the system's logger.
pub(super) struct Syslog {
    path: PathBuf,
    facility: u8,
    socket: Mutex<UnixDatagram>,
}

impl Syslog {
    /// Finds the logger at a path.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn open(path: &Path, facility: SyslogFacility) -> io::Result<Self> {
        let socket = Mutex::new(connect(path)?);
        Ok(Self { path: path.to_owned(), facility: facility.code(), socket })
    }

    /// Sends a line.
    pub(super) fn send(&self, level: Level, line: &str) {
        let packet = self.packet(level, line);
        let mut socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let is_gone = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotConnected)
        };
        if socket.send(&packet).is_err_and(|error| is_gone(&error))
            && let Ok(anew) = connect(&self.path)
        {
            // The logger was started again meanwhile.
            *socket = anew;
            let _ = socket.send(&packet);
        }
    }

    fn packet(&self, level: Level, line: &str) -> Vec<u8> {
        let line = line.trim_end();
        let line = line.get(..line.floor_char_boundary(LINE_BYTES_MAX)).unwrap_or(line);
        let priority = self.facility << 3 | severity(level);
        let time = Timestamp::now().strftime("%b %e %H:%M:%S").to_string();
        format!("<{priority}>{time} {TAG}[{}]: {line}", std::process::id()).into_bytes()
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}

/// RFC 3164 section 4.1.1.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        // What Mosquitto calls a notice.
        Level::INFO => 5,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn logger(path: &Path) -> UnixDatagram {
        let logger = UnixDatagram::bind(path).unwrap();
        logger.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        logger
    }

    fn heard(logger: &UnixDatagram) -> String {
        let mut bytes = vec![0; 65_536];
        let length = logger.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_line_has_facility_severity_time_and_name_and_reaches_a_logger_that_was_started_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(Syslog::open(&path, SyslogFacility::Daemon).is_err());
        let first = logger(&path);
        let syslog = Syslog::open(&path, SyslogFacility::Local7).unwrap();

        syslog.send(Level::WARN, "something is odd\n");
        let line = heard(&first);

        // 23 * 8 + 4
        let rest = line.strip_prefix("<188>").unwrap();
        assert_eq!(rest.as_bytes()[3], b' ');
        assert_eq!(rest[16..], *format!("veilmq[{}]: something is odd", std::process::id()));
        drop(first);
        std::fs::remove_file(&path).unwrap();
        let second = logger(&path);
        syslog.send(Level::INFO, &"ä".repeat(10_000));
        let line = heard(&second);
        assert!(line.starts_with("<189>") && line.len() < LINE_BYTES_MAX + 100, "{}", line.len());
    }
}
