//! Asks a running broker whether it is ready; the container's health check, with no shell and no other program.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::local;

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Why the broker does not count as ready.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// There is nobody to ask.
    #[error("the admin listener is off (admin.address), and no broker with this configuration runs here")]
    Off,
    /// More than one broker runs here, and nobody has said which is meant.
    #[error("{0} brokers run here: name the configuration of one with -c, or its admin address with --admin")]
    Several(usize),
    /// The broker on this machine says that it is not ready.
    #[error("the broker is not ready: {0}")]
    NotReadyHere(String),
    /// Nobody answers, or not in time.
    #[error("no answer from the broker at {address}: {source}")]
    NoAnswer {
        /// The address that was asked.
        address: SocketAddr,
        /// What the operating system answered.
        source: io::Error,
    },
    /// Something answers that is not a broker.
    #[error("the answer from {0} is not HTTP: is that the admin address of a broker?")]
    NotHttp(SocketAddr),
    /// The broker says that it is not ready.
    #[error("the broker at {address} is not ready: {detail}")]
    NotReady {
        /// The address that was asked.
        address: SocketAddr,
        /// What it answered.
        detail: String,
    },
}

/// Asks a broker: at the admin address where one is named, or else the one that runs on this machine, with this configuration file
/// if one is named. `usual` is where the admin listener is if nothing is said.
///
/// # Errors
/// [`HealthError`] unless it says that it is ready.
pub fn ask(asked: &Asked<'_>, usual: Option<SocketAddr>) -> Result<String, HealthError> {
    match (asked.admin, asked.config) {
        (Some(address), _) => ask_at(Some(address)),
        (None, Some(config)) => match usual {
            Some(address) => ask_at(Some(address)),
            None => local::ask(Some(config))?.ok_or(HealthError::Off),
        },
        (None, None) => match local::ask(None)? {
            Some(answer) => Ok(answer),
            None => ask_at(usual),
        },
    }
}

/// Whom a command line wants to be asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The admin address.
    pub admin: Option<SocketAddr>,
    /// The configuration file.
    pub config: Option<&'a Path>,
}

/// Asks the broker with this admin address and returns what it says about itself.
///
/// # Errors
/// [`HealthError`] unless it says that it is ready.
pub fn ask_at(admin: Option<SocketAddr>) -> Result<String, HealthError> {
    let address = reachable(admin.ok_or(HealthError::Off)?);
    let answer = request(address).map_err(|source| HealthError::NoAnswer { address, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(HealthError::NotHttp(address))?;
    let status = head.strip_prefix("HTTP/1.").and_then(|line| line.split(' ').nth(1));
    let detail = body.trim().to_owned();
    match status.ok_or(HealthError::NotHttp(address))? {
        "200" => Ok(detail),
        _ => Err(HealthError::NotReady { address, detail }),
    }
}

/// A broker that listens on all interfaces is asked through loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

fn request(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    // HTTP/1.0, so that the answer is neither chunked nor followed by another.
    stream.write_all(format!("GET /readyz HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
