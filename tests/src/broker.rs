//! The real `veilmq` program as a child process on free loopback ports, with a data directory of its own.
//!
//! Refuses to guess: it waits until `/readyz` answers 200, and fails with the broker's log where it does not.
//! Invariant: the process is killed and reaped when the handle is dropped.

use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::http::{self, Response};
use crate::ports::ReservedPort;
use crate::tools::built_program;
use crate::waiting::wait_until;

const READY_SECONDS_MAX: u64 = 60;

/// One broker under test. It survives [`Broker::kill`] and [`Broker::terminate`] as a stopped broker that can be
/// started again on the same ports and the same data directory.
#[derive(Debug)]
pub struct Broker {
    child: Option<Child>,
    arguments: Vec<String>,
    /// The program and its arguments that the broker is run by, if any.
    wrapper: Vec<String>,
    /// Whether the listener is in a configuration file; otherwise it is an argument.
    is_configured: bool,
    mqtt: ReservedPort,
    admin: ReservedPort,
    directory: TempDir,
}

impl Broker {
    /// Starts a broker without a configuration file and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a broker with further command-line arguments and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut broker = Self::stopped(arguments.iter().map(ToString::to_string).collect());
        broker.restart();
        broker
    }

    /// Starts a broker with the configuration file that `configuration` writes for its MQTT address, and waits until it is
    /// ready.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start_configured(configuration: impl FnOnce(SocketAddr) -> String) -> Self {
        let mut broker = Self::configured(configuration);
        broker.restart();
        broker
    }

    /// Makes a broker with the configuration file that `configuration` writes for its MQTT address, and does not start it.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    pub fn configured(configuration: impl FnOnce(SocketAddr) -> String) -> Self {
        let mut broker = Self::stopped(Vec::new());
        let path = broker.directory().join("veilmq.toml");
        std::fs::write(&path, configuration(broker.address()))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        broker.arguments = vec!["-c".to_owned(), path.display().to_string()];
        broker.is_configured = true;
        broker
    }

    /// Sends SIGHUP and waits until the broker has obeyed; tells whether what it read came into force.
    ///
    /// # Panics
    /// If it is not running or takes too long.
    #[must_use]
    pub fn reload(&self) -> bool {
        let lines = || self.log().matches("SIGHUP").count();
        let before = lines();
        let process = self.process_id().and_then(|process| i32::try_from(process).ok());
        let process = process.map(Pid::from_raw).expect("the broker is running");
        kill(process, Signal::SIGHUP).expect("it can be sent a signal");
        wait_until("the broker says what became of the reload", || lines() > before);
        self.metric("veilmq_config_last_reload_successful") == Some(1.0)
    }

    /// Prepares a broker without a configuration file; [`Broker::restart`] starts it. Its data directory does not exist yet.
    #[must_use]
    pub fn not_started() -> Self {
        Self::stopped(Vec::new())
    }

    fn stopped(arguments: Vec<String>) -> Self {
        Self {
            child: None,
            arguments,
            wrapper: Vec::new(),
            is_configured: false,
            mqtt: ReservedPort::new(),
            admin: ReservedPort::new(),
            directory: TempDir::new().expect("the temporary directory is writable"),
        }
    }

    /// Has the following starts done by `wrapper`: a program with its arguments that gets the broker's command behind them and
    /// turns into it.
    pub fn run_under(&mut self, wrapper: Vec<String>) {
        self.wrapper = wrapper;
    }

    /// Starts the stopped broker again on its ports and data directory and waits until it is ready.
    ///
    /// # Panics
    /// If it is running, or does not become ready.
    pub fn restart(&mut self) {
        self.try_restart().unwrap_or_else(|reason| panic!("{reason}:\n{}", self.log()));
    }

    /// Does what [`Broker::restart`] does, for a broker that may have a reason not to become ready.
    ///
    /// # Errors
    /// How it ended instead, or that it took too long.
    ///
    /// # Panics
    /// If it is running, or cannot be started at all.
    pub fn try_restart(&mut self) -> Result<(), String> {
        self.restart_until(|readyz| readyz.status == 200)
    }

    /// Does what [`Broker::restart`] does, and is content with a broker that serves clients but cannot store anything.
    ///
    /// # Panics
    /// If it is running, or does not come to serve clients.
    pub fn restart_impaired(&mut self) {
        let serves =
            |readyz: &Response| readyz.status == 200 || readyz.body.contains("\"status\":\"impaired\"");
        self.restart_until(serves).unwrap_or_else(|reason| panic!("{reason}:\n{}", self.log()));
    }

    fn restart_until(&mut self, is_started: fn(&Response) -> bool) -> Result<(), String> {
        self.spawn();
        let deadline = Instant::now() + Duration::from_secs(READY_SECONDS_MAX);
        while Instant::now() < deadline {
            if http::get(self.admin.address(), "/readyz").is_ok_and(|readyz| is_started(&readyz)) {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                return Err(format!("the broker ended with {status} instead of becoming ready"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err(format!("the broker was not ready after {READY_SECONDS_MAX} s"))
    }

    /// Starts the stopped broker and does not wait for it.
    ///
    /// # Panics
    /// If it is running, or cannot be started.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the broker is running");
        let log = self.log_file();
        let copy = log.try_clone().expect("a file handle can be copied");
        let mut broker = if self.is_configured {
            command_without_port(&self.data_dir(), self.admin())
        } else {
            command(self.port(), &self.data_dir(), self.admin())
        };
        broker.args(&self.arguments);
        let mut command = match self.wrapper.split_first() {
            None => broker,
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(broker.get_program()).args(broker.get_args());
                command
            }
        };
        if !self.is_configured {
            // What goes between shards is to be tested on machines of few cores too.
            command.env("VEILMQ__SHARDS__COUNT", "2");
        }
        command.stdin(Stdio::null()).stdout(log).stderr(copy);
        self.child =
            Some(command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")));
    }

    /// Kills the broker at once, as `kill -9` does, and reaps it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends SIGTERM and returns how the broker ended.
    ///
    /// # Panics
    /// If it is not running or has not ended after `seconds_max`.
    pub fn terminate(&mut self, seconds_max: u64) -> ExitStatus {
        let child = self.child.as_mut().expect("the broker is running");
        let pid = i32::try_from(child.id()).expect("process identifiers are positive 32-bit numbers");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("the broker can be signalled");
        let deadline = Instant::now() + Duration::from_secs(seconds_max);
        while Instant::now() < deadline {
            if let Some(status) = child.try_wait().expect("the broker can be waited for") {
                self.child = None;
                return status;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the broker still runs {seconds_max} s after SIGTERM:\n{}", self.log());
    }

    /// The process identifier of the running broker.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether the broker was started and neither killed nor terminated since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The MQTT address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.mqtt.address()
    }

    /// The MQTT port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.mqtt.number()
    }

    /// The address of the admin listener.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Fetches a path from the admin listener.
    ///
    /// # Panics
    /// If the admin listener does not answer.
    #[must_use]
    pub fn get(&self, path: &str) -> Response {
        http::get(self.admin(), path).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// The value of one sample of `/metrics`, given as it is written there, with its labels.
    #[must_use]
    pub fn metric(&self, sample: &str) -> Option<f64> {
        self.get("/metrics").body.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok())
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A directory for other files of the test, removed with the broker.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Everything the broker has logged so far, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn log_file(&self) -> File {
        let path = self.directory.path().join("log");
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
    }
}

/// The command that starts `veilmq` on 127.0.0.1:`port`.
///
/// # Panics
/// If the program was not built.
#[must_use]
pub fn command(port: u16, data_dir: &Path, admin: SocketAddr) -> Command {
    let mut command = command_without_port(data_dir, admin);
    command.arg("-p").arg(port.to_string());
    command
}

fn command_without_port(data_dir: &Path, admin: SocketAddr) -> Command {
    let mut command = Command::new(built_program("veilmq"));
    command.arg("--data-dir").arg(data_dir).arg("--admin").arg(admin.to_string());
    command
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- log of the broker ---\n{}--- end of the log ---", self.log());
        }
    }
}
