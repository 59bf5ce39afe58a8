//! An authority and what it has certified, and the programs that these run.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output};

use tempfile::TempDir;
use veilmq_tests::carrier::Carrier;
use veilmq_tests::tools::{built_program, run};
use veilmq_tests::waiting::wait_until;

pub(crate) const SCOPE: &str = "factory/#";
pub(crate) const TOPIC: &str = "factory/line-3/t";
pub(crate) const SECRET: &str = "the recipe is 21 parts of flour";

/// A process that ends with the test.
pub(crate) struct Running(Child);

impl Running {
    /// How long it has kept a processor busy, in hundredths of a second.
    pub(crate) fn busy(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A broker, and a folder with an authority and what it has certified.
pub(crate) struct Plant {
    /// The arguments by which the program connects.
    broker: Vec<String>,
    _carrier: Option<Carrier>,
    folder: TempDir,
}

impl Plant {
    pub(crate) fn new(carrier: Carrier) -> Self {
        Self::make(carrier.arguments(), Some(carrier))
    }

    /// The same with a broker, or what stands before it, on this port.
    pub(crate) fn at(port: u16) -> Self {
        Self::make(["-h", "127.0.0.1", "-p", &port.to_string()].map(str::to_owned).to_vec(), None)
    }

    fn make(broker: Vec<String>, carrier: Option<Carrier>) -> Self {
        let plant = Self { broker, _carrier: carrier, folder: tempfile::tempdir().unwrap() };
        plant.made(&["ca", "init", "--dir", "ca"]);
        plant.certify("press", "publisher", "--publish-scope");
        for reader in ["lake", "hill"] {
            plant.certify(reader, "subscriber", "--subscribe-scope");
        }
        plant
    }

    pub(crate) fn certify(&self, name: &str, role: &str, scopes: &str) {
        let who = ["--subject", name, "--role", role, scopes, SCOPE];
        self.made(&[&["ca", "issue", "--dir", "ca"], &who[..], &["--out", "."]].concat());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built_program("veil"));
        command.current_dir(self.folder.path()).args(arguments);
        command
    }

    pub(crate) fn made(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = run(&mut self.command(arguments), 60);
        assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// What the program says where it must not succeed.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let output = run(&mut self.command(arguments), 60);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The program with the arguments by which `name` connects.
    pub(crate) fn asking(&self, verb: &[&str], name: &str, more: &[&str]) -> Command {
        let who = ["--no-channel", "--trust", "ca/ca.vmc", "--identity", name];
        let mut command = self.command(verb);
        command.args(&self.broker).args(who).args(more);
        command
    }

    /// The same with its keys in a file that outlives the process.
    pub(crate) fn connecting(&self, verb: &[&str], name: &str, more: &[&str]) -> Command {
        let state = format!("{name}.state");
        self.asking(verb, name, &[&["--state", &state], more].concat())
    }

    /// Runs one of the programs to its end and gives what it printed.
    pub(crate) fn run(&self, verb: &str, name: &str, more: &[&str]) -> String {
        let output = run(&mut self.connecting(&[verb], name, more), 60);
        assert!(output.status.success(), "{verb} {more:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts one of the programs; what it prints goes to `NAME.out` and `NAME.err`.
    pub(crate) fn start(&self, verb: &[&str], name: &str, more: &[&str]) -> Running {
        self.spawn(self.connecting(verb, name, more), name)
    }

    /// The same where the system lets it have so many files open.
    pub(crate) fn start_with_files(&self, files: u32, verb: &[&str], name: &str, more: &[&str]) -> Running {
        let command = self.connecting(verb, name, more);
        let mut shell = Command::new("sh");
        shell.current_dir(self.folder.path());
        shell.args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")]);
        shell.arg(command.get_program()).args(command.get_args());
        self.spawn(shell, name)
    }

    fn spawn(&self, mut command: Command, name: &str) -> Running {
        let file = |kind: &str| File::create(self.path(&format!("{name}.{kind}"))).unwrap();
        Running(command.stdout(file("out")).stderr(file("err")).spawn().unwrap())
    }

    /// What a program that was started has printed.
    pub(crate) fn printed(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.out"))).unwrap_or_default()
    }

    /// What it has complained of.
    pub(crate) fn complaints(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.err"))).unwrap_or_default()
    }

    pub(crate) fn read(&self, name: &str) -> Running {
        self.start(&["sub"], name, &["--join", SCOPE, "-t", SCOPE, "-q", "1"])
    }

    pub(crate) fn has_printed(&self, name: &str, line: &str) -> bool {
        self.printed(name).lines().any(|printed| printed == line)
    }

    pub(crate) fn wait_for(&self, name: &str, line: &str) {
        wait_until(&format!("{name}: {line}"), || self.has_printed(name, line));
    }

    pub(crate) fn kid(&self, name: &str) -> String {
        let shown = self.made(&["show", &format!("{name}.vmc")]);
        let line = shown.lines().find(|line| line.starts_with("key identifier")).unwrap();
        line.split_whitespace().last().unwrap().to_owned()
    }
}
