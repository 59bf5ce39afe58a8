//! What the tests of the load generator share: brokers on free loopback ports and the program itself.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use veilmq_client::identity;
use veilmq_protocol::veil::channel::IdentityKeys;
use veilmq_protocol::veil::{CertificateFields, Roles};

/// A broker of a test, killed and reaped when it is dropped.
pub struct Broker {
    pub child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl Broker {
    /// Starts Debian's mosquitto.
    pub fn start(mosquitto: &Path) -> Self {
        Self::start_with(mosquitto, "")
    }

    /// Starts Debian's mosquitto with further lines of configuration.
    pub fn start_with(mosquitto: &Path, options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("mosquitto.conf");
        let port = free_port();
        let listener = format!("listener {port} 127.0.0.1\nallow_anonymous true\nlog_type error\n");
        let queues = "max_inflight_messages 0\nmax_queued_messages 0\n";
        std::fs::write(&file, format!("{listener}{queues}{options}")).unwrap();
        let child = Command::new(mosquitto).arg("-c").arg(&file).spawn().unwrap();
        Self::wait_for(child, port, directory)
    }

    /// Starts our own broker.
    pub fn start_veilmq(veilmq: &Path) -> Self {
        let port = free_port();
        Self::start_veilmq_with(veilmq, port, &[], &["-p", &port.to_string()])
    }

    /// Starts our own broker with a TLS listener alone.
    pub fn start_veilmq_with_tls(veilmq: &Path, certificate: &Certificate) -> Self {
        let port = free_port();
        let environment = [
            ("VEILMQ__LISTENERS", format!("mqtts://127.0.0.1:{port}")),
            ("VEILMQ__TLS__CERTIFICATE_FILE", certificate.chain.display().to_string()),
            ("VEILMQ__TLS__KEY_FILE", certificate.key.display().to_string()),
        ];
        Self::start_veilmq_with(veilmq, port, &environment, &[])
    }

    /// Starts our own broker, which trusts the authority of the channel.
    pub fn start_veilmq_with_channel(veilmq: &Path) -> (Self, Channel) {
        let authority = tempfile::tempdir().unwrap();
        let name = authority.path().join("ca");
        make_authority(&name);
        let port = free_port();
        let trusted = name.with_extension("vmc").display().to_string();
        let environment = [("VEILMQ__VEIL__TRUST", trusted)];
        let broker = Self::start_veilmq_with(veilmq, port, &environment, &["-p", &port.to_string()]);
        let certificate = broker.directory.path().join("data/identity/broker.vmc");
        let words = vec![
            "--transport=veil".to_owned(),
            format!("--veil-authority={}", name.display()),
            format!("--veil-broker={}", certificate.display()),
        ];
        (broker, Channel { words, _authority: authority })
    }

    fn start_veilmq_with(
        veilmq: &Path,
        port: u16,
        environment: &[(&str, String)],
        arguments: &[&str],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new(veilmq)
            .envs(environment.iter().cloned())
            .args(arguments)
            .args(["--admin", &format!("127.0.0.1:{}", free_port())])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self::wait_for(child.unwrap(), port, directory)
    }

    fn wait_for(mut child: Child, port: u16, directory: tempfile::TempDir) -> Self {
        // A port that nobody listens on yet can be given to the connection itself.
        let is_there = |stream: &TcpStream| stream.local_addr().unwrap().port() != port;
        while !TcpStream::connect(("127.0.0.1", port)).is_ok_and(|stream| is_there(&stream)) {
            assert!(child.try_wait().unwrap().is_none(), "the broker ended at once");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Self { child, port, directory }
    }

    /// Where it listens.
    pub fn target(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The report of a `run` that succeeds.
    pub fn run(&self, arguments: &[&str]) -> Value {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What a `run` prints, and how it ends.
    pub fn output(&self, arguments: &[&str]) -> Output {
        let (target, pid) = (self.target(), self.child.id().to_string());
        bench(&[&["run", "--json", "--target", &target, "--broker-pid", &pid], arguments].concat())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a VEIL-1 channel to a broker is asked for.
pub struct Channel {
    pub words: Vec<String>,
    _authority: tempfile::TempDir,
}

/// Makes an authority that certifies the clients of a test: `NAME.vmc` and `NAME.key`.
fn make_authority(name: &Path) {
    let mut seeds = [0; IdentityKeys::LEN];
    getrandom::fill(&mut seeds).unwrap();
    let keys = IdentityKeys::from_bytes(&seeds);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let fields = CertificateFields {
        roles: Roles::CA,
        serial: now,
        not_before: now - 60,
        not_after: now + 3_600,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: "authority".to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: Some(0),
        revocation_topic: None,
    };
    identity::save_keys(&name.with_extension("key"), &keys).unwrap();
    identity::save_certificate(&name.with_extension("vmc"), &fields.sign(&keys).unwrap()).unwrap();
}

/// A certificate of a TLS server that vouches for itself, as PEM files.
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
    _directory: tempfile::TempDir,
}

impl Certificate {
    /// Makes one with the `openssl` of Debian.
    pub fn make(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
            ])
            .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&chain)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        Self { chain, key, _directory: directory }
    }

    /// The option that trusts it.
    pub fn ca(&self) -> String {
        format!("--ca={}", self.chain.display())
    }
}

/// Runs the load generator.
pub fn bench(arguments: &[&str]) -> Output {
    bench_command(arguments).output().unwrap()
}

/// A command of the load generator.
pub fn bench_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veilmq-bench"));
    command.args(arguments);
    command
}

/// What a program has printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Debian's mosquitto; `None` where it is not installed.
pub fn mosquitto() -> Option<PathBuf> {
    let found = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.is_file());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "CI needs mosquitto");
    if found.is_none() {
        eprintln!("skipped: mosquitto is not installed");
    }
    found
}

/// Our own broker, which the workspace builds beside the load generator; `None` where it was not built.
pub fn veilmq() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_veilmq-bench")).with_file_name("veilmq");
    let found = path.is_file().then_some(path);
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "CI needs veilmq: cargo build --workspace");
    if found.is_none() {
        eprintln!("skipped: veilmq is not built");
    }
    found
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
