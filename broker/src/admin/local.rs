//! The door of the health check on this machine: a Unix socket that needs neither folder nor port, so that a broker whose admin
//! listener is off, as under a `mosquitto.conf`, can be asked as well.
//!
//! The socket has an abstract name with the namespace of processes in it: the brokers of other containers are not found, even where
//! the network is shared. Whoever connects is told how ready the broker is and which configuration it has, and nothing else; nothing
//! is read.

use std::fs;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tracing::warn;

use super::health::HealthError;
use super::state::AdminState;

const PREFIX: &str = "veilmq-health/";
const TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
const PAUSE: Duration = Duration::from_millis(100);

/// Answers health checks until the process ends. `config` is the configuration file.
///
/// # Errors
/// What the operating system answered; the broker can do without.
pub fn open(state: Arc<AdminState>, config: Option<&Path>) -> io::Result<()> {
    let config = config.and_then(|path| fs::canonicalize(path).ok());
    let name = format!("{}{}", names_of_namespace()?, std::process::id());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    let serve = move || {
        for stream in listener.incoming() {
            let answer = json!({ "config": config, "readiness": state.readiness() });
            // Whoever does not read is not waited for.
            let sent = stream.and_then(|mut stream| {
                stream.set_write_timeout(Some(TIMEOUT))?;
                stream.write_all(answer.to_string().as_bytes())
            });
            if let Err(error) = sent
                && !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::WouldBlock)
            {
                warn!(%error, "a health check on this machine was not answered");
                std::thread::sleep(PAUSE);
            }
        }
    };
    std::thread::Builder::new().name("health".into()).spawn(serve).map(drop)
}

/// Asks the broker that runs here, or of several the one with this configuration file; None if there is none.
///
/// # Errors
/// [`HealthError`] if it is not ready, or if there are several.
pub fn ask(config: Option<&Path>) -> Result<Option<String>, HealthError> {
    let wanted = config.and_then(|path| fs::canonicalize(path).ok());
    let mut found: Vec<Value> =
        sockets().unwrap_or_default().iter().filter_map(|name| answer_of(name)).collect();
    if config.is_some() {
        found.retain(|answer| answer["config"].as_str().map(PathBuf::from) == wanted);
    }
    let answer = match found.as_slice() {
        [] => return Ok(None),
        [answer] => &answer["readiness"],
        several => return Err(HealthError::Several(several.len())),
    };
    match answer["status"].as_str() {
        Some("ready") => Ok(Some(answer.to_string())),
        _ => Err(HealthError::NotReadyHere(answer.to_string())),
    }
}

/// How the names of the brokers in this namespace of processes begin.
fn names_of_namespace() -> io::Result<String> {
    let link = fs::read_link("/proc/self/ns/pid")?;
    let number: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    Ok(format!("{PREFIX}{number}/"))
}

/// Lists the sockets that there are.
fn sockets() -> io::Result<Vec<String>> {
    let prefix = format!("@{}", names_of_namespace()?);
    let table = fs::read_to_string("/proc/net/unix")?;
    let mut names: Vec<String> = table
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().last())
        .filter(|name| name.starts_with(&prefix))
        .filter_map(|name| name.strip_prefix('@').map(str::to_owned))
        .collect();
    // One that is just being asked stands there twice.
    names.sort();
    names.dedup();
    Ok(names)
}

/// Asks one; None if it has ended meanwhile.
fn answer_of(name: &str) -> Option<Value> {
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).ok()?;
    serde_json::from_slice(&answer).ok()
}
