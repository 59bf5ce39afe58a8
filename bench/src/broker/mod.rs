//! Brokers that `compare` starts: found or named, configured alike, on a free loopback port, always reaped.
//!
//! A broker is up when it answers CONNECT. Invariant: the process and its directory live as long as
//! [`RunningBroker`] and no longer.

mod kind;
mod secrets;

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::time::Duration;

use tempfile::TempDir;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use veilmq_protocol::ProtocolVersion;

use self::kind::Setup;
pub(crate) use self::kind::{Abilities, BrokerKind};
pub(crate) use self::secrets::{Secrets, TLS_NAME};
use crate::link::{Link, LinkOptions, Transport};

/// How long a broker may take until it answers CONNECT.
const START_SECONDS_MAX: Duration = Duration::from_secs(20);
/// How long a broker may take to print its version.
const VERSION_SECONDS_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks at a process that is on its way.
const RETRY: Duration = Duration::from_millis(10);
/// A free port may be taken by somebody else before the broker listens on it; then another one is tried.
const START_ATTEMPTS: usize = 3;
/// How much of a broker's last words an error repeats.
const LAST_WORDS_BYTES: u64 = 600;

/// Where a broker keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// As [`BrokerKind::settings`] says.
    Off,
    /// On disk; mosquitto saves every second, which is as often as it can be told to.
    Disk,
}

/// One broker of a comparison: `veilmq=PATH`, or `veilmq-before=PATH` for a second build of the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerSpec {
    pub(crate) label: String,
    pub(crate) kind: BrokerKind,
    pub(crate) path: PathBuf,
}

/// A broker argument that names no broker.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum BrokerSpecError {
    #[error("expected NAME=PATH, got {0:?}")]
    Form(String),
    #[error(
        "{0:?} is not a broker this program can start: use veilmq, mosquitto, nats-server, rumqttd, rmqttd or nanomq, or one of \
             them with a -SUFFIX"
    )]
    Unknown(String),
}

impl FromStr for BrokerSpec {
    type Err = BrokerSpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (label, path) = text
            .split_once('=')
            .filter(|(label, path)| !label.is_empty() && !path.is_empty())
            .ok_or_else(|| BrokerSpecError::Form(text.to_owned()))?;
        let names = |kind: &BrokerKind| {
            label.strip_prefix(kind.name()).is_some_and(|suffix| suffix.is_empty() || suffix.starts_with('-'))
        };
        let kind = BrokerKind::ALL
            .into_iter()
            .find(names)
            .ok_or_else(|| BrokerSpecError::Unknown(label.to_owned()))?;
        Ok(Self { label: label.to_owned(), kind, path: path.into() })
    }
}

/// Finds the brokers of this machine: next to this program, on the search path, and where Debian keeps daemons.
pub(crate) fn installed() -> Vec<BrokerSpec> {
    let own = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = own
        .into_iter()
        .chain(std::env::split_paths(&search_path))
        .chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .collect();
    let find = |kind: BrokerKind| {
        let path = places.iter().map(|place| place.join(kind.name())).find(|path| path.is_file())?;
        Some(BrokerSpec { label: kind.name().to_owned(), kind, path })
    };
    BrokerKind::ALL.into_iter().filter_map(find).collect()
}

/// Why a broker does not run.
#[derive(Debug, Error)]
pub(crate) enum BrokerError {
    #[error("cannot start {path}: {source}")]
    Spawn {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot prepare to start {label}: {source}")]
    Prepare {
        label: String,
        #[source]
        source: io::Error,
    },
    #[error("{label} ended at once with {status}: {last_words}")]
    Ended { label: String, status: ExitStatus, last_words: String },
    #[error("{label} did not answer CONNECT within {START_SECONDS_MAX:?}: {last_words}")]
    Silent { label: String, last_words: String },
}

/// A broker process that answers on `address`.
pub(crate) struct RunningBroker {
    process: Process,
    pub(crate) address: SocketAddr,
    /// Where it speaks TLS, if it was given secrets and can.
    pub(crate) tls_address: SocketAddr,
    /// Where it answers operators, if it has such a place.
    pub(crate) admin_address: SocketAddr,
    /// Holds its configuration, data and log.
    directory: TempDir,
    persistence: Persistence,
}

impl fmt::Debug for RunningBroker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "RunningBroker({}, {})", self.pid(), self.address)
    }
}

impl RunningBroker {
    /// Starts `spec` on a free loopback port and waits until it answers CONNECT.
    ///
    /// # Errors
    /// The program cannot be run, ends, or does not answer in time; the error repeats its last words.
    pub(crate) async fn start(spec: &BrokerSpec, persistence: Persistence) -> Result<Self, BrokerError> {
        Self::start_with(spec, persistence, None, &[]).await
    }

    /// The same with what it takes to speak TLS and VEIL-1, and with options of ours, by the names that they have in the
    /// environment.
    ///
    /// # Errors
    /// As those of [`RunningBroker::start`].
    pub(crate) async fn start_with(
        spec: &BrokerSpec,
        persistence: Persistence,
        secrets: Option<&Secrets>,
        options: &[(&str, &str)],
    ) -> Result<Self, BrokerError> {
        let mut attempt = 1;
        loop {
            let directory = tempfile::Builder::new().prefix("veilmq-bench-").tempdir();
            let directory =
                directory.map_err(|source| BrokerError::Prepare { label: spec.label.clone(), source })?;
            match Self::start_once(spec, persistence, secrets, options, directory).await {
                Err(BrokerError::Ended { .. }) if attempt < START_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    /// Kills the broker and starts it again on what it left.
    ///
    /// # Errors
    /// As those of [`RunningBroker::start`].
    pub(crate) async fn kill_and_restart(self, spec: &BrokerSpec) -> Result<Self, BrokerError> {
        let Self { process, directory, persistence, address: _, tls_address: _, admin_address: _ } = self;
        drop(process);
        Self::start_once(spec, persistence, None, &[], directory).await
    }

    /// Returns the bytes that its directory takes up on disk.
    ///
    /// # Errors
    /// A file went away meanwhile, or cannot be looked at.
    pub(crate) fn stored_bytes(&self) -> io::Result<u64> {
        disk_bytes(self.directory.path())
    }

    async fn start_once(
        spec: &BrokerSpec,
        persistence: Persistence,
        secrets: Option<&Secrets>,
        options: &[(&str, &str)],
        directory: TempDir,
    ) -> Result<Self, BrokerError> {
        let prepared = |source| BrokerError::Prepare { label: spec.label.clone(), source };
        let [port, other_port, tls_port] = free_ports().map_err(prepared)?;
        let mut log = tempfile::tempfile().map_err(prepared)?;
        let directory_path = directory.path();
        let setup =
            Setup { directory: directory_path, persistence, secrets, port, other_port, tls_port, options };
        let mut command = spec.kind.command(&spec.path, &setup).map_err(prepared)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.try_clone().map_err(prepared)?);
        let child =
            command.spawn().map_err(|source| BrokerError::Spawn { path: spec.path.clone(), source })?;
        let mut process = Process(child);

        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let tls_address = SocketAddr::from((Ipv4Addr::LOCALHOST, tls_port));
        let admin_address = SocketAddr::from((Ipv4Addr::LOCALHOST, other_port));
        let deadline = Instant::now() + START_SECONDS_MAX;
        while !answers(address).await {
            if let Some(status) = process.ended().map_err(prepared)? {
                return Err(BrokerError::Ended {
                    label: spec.label.clone(),
                    status,
                    last_words: tail(&mut log),
                });
            }
            if Instant::now() >= deadline {
                return Err(BrokerError::Silent { label: spec.label.clone(), last_words: tail(&mut log) });
            }
            sleep(RETRY).await;
        }
        // Whoever answered may have been somebody else on the same port.
        if let Some(status) = process.ended().map_err(prepared)? {
            return Err(BrokerError::Ended { label: spec.label.clone(), status, last_words: tail(&mut log) });
        }
        Ok(Self { process, address, tls_address, admin_address, directory, persistence })
    }

    /// The certificate by which clients of VEIL-1 channels know our broker.
    pub(crate) fn veil_certificate(&self) -> PathBuf {
        self.directory.path().join("data/identity/broker.vmc")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// The first line that tells the version of `spec`; empty if it does not say.
pub(crate) async fn version(spec: &BrokerSpec) -> String {
    let asked = async {
        let mut output = tempfile::tempfile()?;
        let child = Command::new(&spec.path)
            .arg(spec.kind.version_flag())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(Stdio::null())
            .spawn()?;
        let mut process = Process(child);
        while process.ended()?.is_none() {
            sleep(RETRY).await;
        }
        let mut text = String::new();
        output.seek(SeekFrom::Start(0))?;
        output.take(LAST_WORDS_BYTES).read_to_string(&mut text)?;
        io::Result::Ok(text.lines().next().unwrap_or_default().trim().to_owned())
    };
    timeout(VERSION_SECONDS_MAX, asked).await.map_or_else(|_| String::new(), Result::unwrap_or_default)
}

/// A child that is killed and reaped when it is dropped.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.try_wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that has been reaped already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The bytes that all files below `directory` take up on disk.
fn disk_bytes(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += match metadata.is_dir() {
            true => disk_bytes(&entry.path())?,
            // Blocks of 512 bytes, whatever the file system's are: stat(2).
            false => metadata.blocks() * 512,
        };
    }
    Ok(bytes)
}

/// Different ports that nobody listens on.
fn free_ports() -> io::Result<[u16; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let (first, second, third) = (bind()?, bind()?, bind()?);
    Ok([first.local_addr()?.port(), second.local_addr()?.port(), third.local_addr()?.port()])
}

async fn answers(address: SocketAddr) -> bool {
    let options = LinkOptions {
        address,
        transport: &Transport::Tcp,
        version: ProtocolVersion::V311,
        client_id: "veilmq-bench-probe",
        is_durable: false,
        packet_bytes_max: 4096,
        inbox_bytes: 64,
    };
    match Link::open(&options).await {
        Ok(link) => link.close().await.is_ok(),
        Err(_) => false,
    }
}

fn tail(log: &mut File) -> String {
    let mut read = || {
        let length = log.seek(SeekFrom::End(0))?;
        log.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS_BYTES)))?;
        let mut bytes = Vec::new();
        log.take(LAST_WORDS_BYTES).read_to_end(&mut bytes)?;
        io::Result::Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().replace('\n', " | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_named_by_its_kind_with_or_without_a_suffix() {
        let rows = [
            ("veilmq=/a/b", BrokerKind::VeilMq, "veilmq", "/a/b"),
            ("veilmq-before=x=y", BrokerKind::VeilMq, "veilmq-before", "x=y"),
            ("mosquitto-2.1=/m", BrokerKind::Mosquitto, "mosquitto-2.1", "/m"),
        ];

        for (text, kind, label, path) in rows {
            let spec: BrokerSpec = text.parse().unwrap();
            assert_eq!(spec, BrokerSpec { label: label.to_owned(), kind, path: path.into() });
        }
    }

    #[test]
    fn what_names_no_broker_is_refused() {
        for text in ["", "veilmq", "=path", "veilmq="] {
            assert_eq!(text.parse::<BrokerSpec>(), Err(BrokerSpecError::Form(text.to_owned())));
        }
        for label in ["emqx", "veilmqtt", "Mosquitto"] {
            let parsed = format!("{label}=/bin/x").parse::<BrokerSpec>();
            assert_eq!(parsed, Err(BrokerSpecError::Unknown(label.to_owned())));
        }
    }

    #[tokio::test]
    async fn a_broker_that_ends_at_once_is_named_with_its_last_words() {
        // A program that does not know the options it is started with.
        let spec: BrokerSpec = "veilmq=/bin/ls".parse().unwrap();

        let error = RunningBroker::start(&spec, Persistence::Off).await.unwrap_err().to_string();

        assert!(error.contains("veilmq ended at once") && error.contains("--data-dir"), "{error}");
    }

    #[tokio::test]
    async fn a_program_that_does_not_exist_is_named() {
        let spec: BrokerSpec = "mosquitto=/nonexistent/mosquitto".parse().unwrap();

        let error = RunningBroker::start(&spec, Persistence::Off).await.unwrap_err().to_string();

        assert!(error.contains("/nonexistent/mosquitto"), "{error}");
        assert_eq!(version(&spec).await, "");
    }
}
