//! Runs `mosquitto_pub`, `mosquitto_sub` and `mosquitto_rr` against a broker.
//!
//! Output is forced to be line-buffered, so that a test sees each line when it is printed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::puppet::Version;
use crate::tools::{finish, require_tool, run, spawn};

const LINE_SECONDS_MAX: u64 = 40;
const RUN_SECONDS_MAX: u64 = 60;

/// The Mosquitto clients, with the version and the broker they shall use.
#[derive(Debug, Clone, Copy)]
pub struct Mosquitto {
    version: Version,
    port: u16,
}

impl Mosquitto {
    /// Clients for the broker on 127.0.0.1:`port`; none if they are not installed.
    #[must_use]
    pub fn new(version: Version, port: u16) -> Option<Self> {
        for tool in ["mosquitto_pub", "mosquitto_sub", "mosquitto_rr", "stdbuf"] {
            require_tool(tool)?;
        }
        Some(Self { version, port })
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let version = match self.version {
            Version::V311 => "mqttv311",
            Version::V5 => "mqttv5",
        };
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "-eL", program, "-h", "127.0.0.1", "-p"]).arg(self.port.to_string());
        command.args(["-V", version]).args(arguments);
        command
    }

    /// Runs `mosquitto_pub` with `arguments` to its end.
    ///
    /// # Panics
    /// If it fails.
    pub fn publish(&self, arguments: &[&str]) {
        succeeded(&run(&mut self.command("mosquitto_pub", arguments), RUN_SECONDS_MAX), arguments);
    }

    /// Runs `mosquitto_pub` or another of the clients with `arguments` to its end, and returns what it printed and how it ended.
    #[must_use]
    pub fn attempt(&self, program: &str, arguments: &[&str]) -> Output {
        run(&mut self.command(program, arguments), RUN_SECONDS_MAX)
    }

    /// Runs `mosquitto_sub` with `arguments` to its end (`-C` or `-E` must be among them) and returns its output.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn subscribe_to_end(&self, arguments: &[&str]) -> String {
        let output = run(&mut self.command("mosquitto_sub", arguments), RUN_SECONDS_MAX);
        succeeded(&output, arguments);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts `mosquitto_rr` with `arguments`, lets `respond` answer, and returns what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn request(&self, arguments: &[&str], respond: impl FnOnce()) -> String {
        let request = spawn(&mut self.command("mosquitto_rr", arguments));
        respond();
        let output = finish(request, RUN_SECONDS_MAX, "mosquitto_rr");
        succeeded(&output, arguments);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts `mosquitto_sub` with `arguments` and waits until its subscription is granted.
    ///
    /// # Panics
    /// If it is not granted.
    #[must_use]
    pub fn subscribe(&self, arguments: &[&str]) -> Subscriber {
        self.subscribe_showing("%t q%q r%r %p", arguments)
    }

    /// Starts `mosquitto_sub` as [`Mosquitto::subscribe`] does; `format` says how it shows a message.
    ///
    /// # Panics
    /// If the subscription is not granted.
    #[must_use]
    pub fn subscribe_showing(&self, format: &str, arguments: &[&str]) -> Subscriber {
        let mut command = self.command("mosquitto_sub", arguments);
        command.args(["-d", "-F", &format!("message {format}")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let subscriber = Subscriber { child, lines };
        subscriber.wait_for("Subscribed ");
        subscriber
    }
}

fn succeeded(output: &Output, arguments: &[&str]) {
    assert!(output.status.success(), "{arguments:?} failed: {}", String::from_utf8_lossy(&output.stderr));
}

/// A running Mosquitto client; killed when dropped.
#[derive(Debug)]
pub struct Subscriber {
    child: Child,
    lines: Receiver<String>,
}

impl Subscriber {
    /// Waits for the next message, written as `TOPIC qQOS rRETAIN PAYLOAD` unless another format was asked for.
    ///
    /// # Panics
    /// If none arrives.
    #[must_use]
    pub fn message(&self) -> String {
        self.wait_for("message ")
    }

    /// Waits for a line that starts with `start` and returns the rest of it.
    ///
    /// # Panics
    /// If none arrives.
    pub fn wait_for(&self, start: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(LINE_SECONDS_MAX);
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => match line.strip_prefix(start) {
                    Some(rest) => return rest.to_owned(),
                    None => seen.push(line),
                },
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no line {start:?} in {LINE_SECONDS_MAX} s, but {seen:#?}")
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without a line {start:?}, but {seen:#?}")
                }
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        // It may have ended by itself; it is reaped either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
