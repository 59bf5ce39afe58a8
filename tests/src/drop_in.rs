//! A broker in Mosquitto's place, as scripts made for that one start it: a `mosquitto.conf`, bytes out, bytes in.
//!
//! Invariant: what is started is gone when it is dropped, and so are its files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::ports::ReservedPort;
use crate::wire::packet;

const START_SECONDS_MAX: u64 = 60;
/// The time within which the packets of one answer follow each other.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a broker may think about an answer; one that does not come by then does not come.
const SILENCE: Duration = Duration::from_secs(5);

/// A broker that runs from a `mosquitto.conf`: Mosquitto itself, or ours in its place.
pub struct Running {
    /// The process.
    pub child: Child,
    /// Where it listens first.
    pub address: SocketAddr,
}

impl Running {
    /// Starts `program` and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start(program: &Path, conf: &Path, port: u16) -> Self {
        let mut command = Command::new(program);
        command.arg("-v").arg("-c").arg(conf);
        Self::of(command, port, &conf.with_extension("log"))
    }

    /// Starts what `command` says and waits until it listens; standard error goes to a file.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn of(mut command: Command, port: u16, log_file: &Path) -> Self {
        let log = fs::File::create(log_file).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let deadline = Instant::now() + Duration::from_secs(START_SECONDS_MAX);
        while TcpStream::connect(address).is_err() {
            let ended = child.try_wait().unwrap();
            let log = || fs::read_to_string(log_file).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "{command:?} does not start: {}", log());
            thread::sleep(Duration::from_millis(10));
        }
        Self { child, address }
    }

    /// Sends each packet on one connection and returns what came back after each, in hexadecimal digits.
    ///
    /// # Panics
    /// If it does not listen.
    #[must_use]
    pub fn answers(&self, packets: &[Vec<u8>]) -> Vec<String> {
        answers_at(self.address, packets)
    }

    /// Tells it to end, and returns how it did.
    ///
    /// # Panics
    /// If it has ended before.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

/// Sends each packet on one connection to this address and returns what came back after each, in hexadecimal digits.
///
/// # Panics
/// If nobody listens there.
#[must_use]
pub fn answers_at(address: SocketAddr, packets: &[Vec<u8>]) -> Vec<String> {
    let mut socket = TcpStream::connect(address).unwrap();
    packets
        .iter()
        .map(|packet| socket.write_all(packet).map_or_else(|_| "closed".into(), |()| heard(&mut socket)))
        .collect()
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Hears what comes until nothing more does, in hexadecimal digits.
///
/// # Panics
/// If the socket is none any more.
#[must_use]
pub fn heard(socket: &mut TcpStream) -> String {
    let mut heard = String::new();
    let mut bytes = [0; 4_096];
    for patience in [SILENCE, PAUSE, PAUSE, PAUSE] {
        socket.set_read_timeout(Some(patience)).unwrap();
        match socket.read(&mut bytes) {
            Ok(0) => return heard + "closed",
            Ok(length) => heard.extend(bytes[..length].iter().map(|byte| format!("{byte:02x}"))),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return heard + "closed",
            Err(_) => break,
        }
    }
    heard
}

/// A `mosquitto.conf` in a directory of its own, and a port.
pub struct Place {
    /// The directory.
    pub directory: TempDir,
    /// The port of the first listener.
    pub port: ReservedPort,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// Makes it.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), port: ReservedPort::new() }
    }

    /// A path in the directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the file; Mosquitto must not become somebody who cannot read it.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn write(&self, text: &str) -> PathBuf {
        let conf = self.path("mosquitto.conf");
        fs::write(&conf, format!("user root\nlistener {} 127.0.0.1\n{text}", self.port.number())).unwrap();
        conf
    }

    /// Writes the file and starts `program` from it.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(&self, program: &Path, text: &str) -> Running {
        Running::start(program, &self.write(text), self.port.number())
    }

    /// What keeps state in the directory, and lets everybody in.
    #[must_use]
    pub fn persistence(&self) -> String {
        format!(
            "allow_anonymous true\npersistence true\npersistence_location {}\n",
            self.directory.path().display()
        )
    }
}

/// A CONNECT of MQTT 3.1.1, or of 5 with these properties.
///
/// # Panics
/// If a field is too long.
#[must_use]
pub fn connect(version: u8, client_id: &str, clean: bool, keep_alive: u16, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', version, if clean { 2 } else { 0 }];
    body.extend(keep_alive.to_be_bytes());
    if version == 5 {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend(properties);
    }
    body.extend(u16::try_from(client_id.len()).unwrap().to_be_bytes());
    body.extend(client_id.as_bytes());
    packet(0x10, &body)
}

/// A CONNECT of MQTT 3.1.1.
#[must_use]
pub fn v3(client_id: &str, clean: bool) -> Vec<u8> {
    connect(4, client_id, clean, 60, &[])
}

/// A CONNECT of MQTT 5.
#[must_use]
pub fn v5(client_id: &str) -> Vec<u8> {
    connect(5, client_id, true, 60, &[])
}
