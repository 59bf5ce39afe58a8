//! Brokers that carry sealed messages: ours, and Debian's Mosquitto over TLS, which knows nothing of them.
//!
//! Both keep what they are given in a folder that can be searched. Invariant: the process is gone when the handle is.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use veilmq_client::{Builder, Client, Tls};

use crate::broker::Broker;
use crate::certificates::Authority;
use crate::ports::ReservedPort;
use crate::tools::require_tool;
use crate::waiting::wait_until_or;

/// Whoever carries and keeps messages.
pub enum Carrier {
    /// Our broker.
    VeilMq(Box<Broker>),
    /// Mosquitto behind TLS.
    Mosquitto(Box<MosquittoOverTls>),
}

/// A running Mosquitto with a listener for TLS and one without, for taps and for adversaries.
pub struct MosquittoOverTls {
    process: Child,
    plain: ReservedPort,
    tls: ReservedPort,
    authority: Authority,
    folder: TempDir,
}

impl Carrier {
    /// Starts our broker.
    #[must_use]
    pub fn veilmq() -> Self {
        Self::VeilMq(Box::new(Broker::start()))
    }

    /// Starts Mosquitto; none where it is not installed.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    pub fn mosquitto_over_tls() -> Option<Self> {
        let program = require_tool("mosquitto")?;
        Some(Self::Mosquitto(Box::new(MosquittoOverTls::start(&program))))
    }

    /// Describes a client as which nobody in particular connects.
    ///
    /// # Panics
    /// If the certificate of the authority cannot be read.
    pub fn client(&self) -> Builder {
        match self {
            Self::VeilMq(broker) => Client::builder("127.0.0.1", broker.port()),
            Self::Mosquitto(mosquitto) => {
                let tls = Tls::trusting(&mosquitto.authority.certificate());
                let tls = tls.unwrap_or_else(|error| panic!("{error}"));
                Client::builder("localhost", mosquitto.tls.number()).tls(tls)
            }
        }
    }

    /// The arguments by which the program `veil` connects.
    ///
    /// # Panics
    /// If a temporary path is not UTF-8.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let words = |host: &str, port: u16| ["-h", host, "-p", &port.to_string()].map(str::to_owned).to_vec();
        match self {
            Self::VeilMq(broker) => words("127.0.0.1", broker.port()),
            Self::Mosquitto(mosquitto) => {
                let authority = mosquitto.authority.certificate().display().to_string();
                [words("localhost", mosquitto.tls.number()), vec!["--cafile".to_owned(), authority]].concat()
            }
        }
    }

    /// Where the broker speaks MQTT without TLS.
    #[must_use]
    pub fn plain(&self) -> SocketAddr {
        match self {
            Self::VeilMq(broker) => broker.address(),
            Self::Mosquitto(mosquitto) => mosquitto.plain.address(),
        }
    }

    /// Ends the broker as an administrator does and returns every file it has left.
    ///
    /// # Panics
    /// If it does not end, or its files cannot be read.
    #[must_use]
    pub fn end(mut self) -> Vec<(PathBuf, Vec<u8>)> {
        match &mut self {
            Self::VeilMq(broker) => {
                broker.terminate(30);
                contents(&broker.data_dir())
            }
            Self::Mosquitto(mosquitto) => {
                mosquitto.terminate();
                contents(&mosquitto.data())
            }
        }
    }
}

impl MosquittoOverTls {
    fn start(program: &Path) -> Self {
        let (plain, tls) = (ReservedPort::new(), ReservedPort::new());
        let (authority, folder) =
            (Authority::new(), TempDir::new().expect("the temporary directory is writable"));
        let shown = authority.issue_for_this_machine();
        let data = folder.path().join("data");
        fs::create_dir(&data).expect("the folder can be made");
        let configuration = format!(
            "allow_anonymous true\npersistence true\npersistence_location {}/\n{}\
             listener {} 127.0.0.1\nlistener {} 127.0.0.1\ncafile {}\ncertfile {}\nkeyfile {}\n",
            data.display(),
            // As root it would become another user, who cannot read these files.
            if nix::unistd::Uid::effective().is_root() { "user root\n" } else { "" },
            plain.number(),
            tls.number(),
            authority.certificate().display(),
            shown.certificate.display(),
            shown.key.display(),
        );
        let file = folder.path().join("mosquitto.conf");
        fs::write(&file, configuration).expect("the file can be written");
        let log = fs::File::create(folder.path().join("log")).expect("the file can be made");
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let process = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mosquitto = Self { process, plain, tls, authority, folder };
        let listens = || TcpStream::connect(mosquitto.tls.address()).is_ok();
        wait_until_or(listens, || format!("mosquitto does not listen: {}", mosquitto.log()));
        mosquitto
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn terminate(&mut self) {
        let pid = i32::try_from(self.process.id()).expect("process identifiers are positive 32-bit numbers");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("mosquitto can be signalled");
        self.process.wait().expect("mosquitto can be waited for");
    }
}

impl Drop for MosquittoOverTls {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The contents of every file below `folder`.
///
/// # Panics
/// If one cannot be read.
#[must_use]
pub fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read").map_while(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).expect("the file can be read");
            found.push((path, bytes));
        }
    }
    found
}
