//! The configurations of Mosquitto that people really use, in `deploy/mosquitto`: our program is started from each of them as it
//! is, but for where files and ports are, and used with the clients of Mosquitto.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use veilmq_tests::certificates::Authority;
use veilmq_tests::drop_in::Running;
use veilmq_tests::mosquitto::Mosquitto;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::puppet::Version;
use veilmq_tests::tools::{built_program, require_tool, run, workspace_root};

/// Where the files of a sample lie instead of in the root directory.
struct Root {
    folder: tempfile::TempDir,
    ports: Vec<(&'static str, ReservedPort)>,
}

impl Root {
    fn new(ports: &[&'static str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, ports: ports.iter().map(|port| (*port, ReservedPort::new())).collect() }
    }

    fn path(&self, absolute: &str) -> String {
        format!("{}{absolute}", self.folder.path().display())
    }

    fn write(&self, absolute: &str, content: impl AsRef<[u8]>) {
        let path = self.path(absolute);
        fs::create_dir_all(Path::new(&path).parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn copy(&self, from: &Path, absolute: &str) {
        self.write(absolute, fs::read(from).unwrap());
    }

    fn port(&self, original: &str) -> u16 {
        self.ports.iter().find(|(port, _)| *port == original).unwrap().1.number()
    }

    /// Adds a user with the tool of Mosquitto.
    fn add_user(&self, tool: &Path, absolute: &str, user: &str, password: &str) {
        if !Path::new(&self.path(absolute)).exists() {
            self.write(absolute, "");
        }
        let output = run(Command::new(tool).args(["-b", &self.path(absolute), user, password]), 60);
        assert!(output.status.success(), "{output:?}");
    }

    /// Starts our program from a sample.
    fn start(&self, sample: &str) -> Running {
        let text = fs::read_to_string(workspace_root().join("deploy/mosquitto").join(sample)).unwrap();
        let lines = text.lines().map(|line| {
            let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            if let Some(path) = words.iter_mut().find(|word| word.starts_with('/')) {
                *path = self.path(path);
            }
            if words[0] == "listener" {
                words[1] = self.port(&words[1]).to_string();
            }
            words.join(" ")
        });
        let lines: Vec<String> = lines.collect();
        self.write("/mosquitto.conf", lines.join("\n"));
        Running::start(
            &built_program("veilmq"),
            Path::new(&self.path("/mosquitto.conf")),
            self.ports[0].1.number(),
        )
    }
}

/// Publishes a retained message by one listener and receives it by another.
fn goes_through(writer: Mosquitto, write: &[&str], reader: Mosquitto, read: &[&str], topic: &str) {
    writer.publish(&[write, &["-q", "1", "-r", "-t", topic, "-m", topic]].concat());

    let heard = reader.subscribe_to_end(&[read, &["-q", "1", "-C", "1", "-W", "20", "-t", topic]].concat());

    assert_eq!(heard, format!("{topic}\n"));
}

#[test]
fn a_broker_beside_zigbee2mqtt_serves_mqtt_and_websocket_to_everybody() {
    if Mosquitto::new(Version::V5, 0).is_none() {
        return;
    }
    let root = Root::new(&["1883", "9001"]);
    root.write("/mosquitto/data/keep", "");
    root.write("/mosquitto/log/keep", "");
    let running = root.start("zigbee2mqtt.conf");
    let clients = |version| Mosquitto::new(version, root.port("1883")).unwrap();

    goes_through(clients(Version::V311), &[], clients(Version::V5), &[], "zigbee2mqtt/lamp");
    goes_through(clients(Version::V5), &[], clients(Version::V311), &[], "zigbee2mqtt/bridge/state");

    assert!(TcpStream::connect(("127.0.0.1", root.port("9001"))).is_ok());
    assert_eq!(running.terminate().code(), Some(0));
    assert!(Path::new(&root.path("/mosquitto/data/mosquitto.db")).exists());
    let log = fs::read_to_string(root.path("/mosquitto/log/mosquitto.log")).unwrap();
    assert!(log.contains("connected"), "{log}");
    let again = root.start("zigbee2mqtt.conf");
    let kept = clients(Version::V5).subscribe_to_end(&["-C", "1", "-W", "20", "-t", "zigbee2mqtt/lamp"]);
    assert_eq!(kept, "zigbee2mqtt/lamp\n", "what is retained is there after a restart");
    assert_eq!(again.terminate().code(), Some(0));
}

#[test]
fn an_add_on_of_home_assistant_serves_its_users_and_what_is_added_in_its_folder() {
    let (Some(passwd), Some(_)) = (require_tool("mosquitto_passwd"), Mosquitto::new(Version::V5, 0)) else {
        return;
    };
    let root = Root::new(&["1883", "1884", "8883", "8884"]);
    let authority = Authority::new();
    let own = authority.issue_for_this_machine();
    root.copy(&own.certificate, "/ssl/fullchain.pem");
    root.copy(&own.key, "/ssl/privkey.pem");
    root.write("/share/mosquitto/limits.conf", "message_size_limit 1000\n");
    root.add_user(&passwd, "/data/users", "homeassistant", "secret");
    let running = root.start("home-assistant.conf");
    let user = ["-u", "homeassistant", "-P", "secret"];
    let authority = authority.certificate();
    let secured = [&user[..], &["--cafile", authority.to_str().unwrap()]].concat();
    let clients = |version, port| Mosquitto::new(version, root.port(port)).unwrap();

    goes_through(
        clients(Version::V5, "1883"),
        &user,
        clients(Version::V311, "8883"),
        &secured,
        "homeassistant/status",
    );
    let secret = clients(Version::V5, "1883");
    let responder = secret.subscribe_showing("%R", &[&user[..], &["-t", "echo"]].concat());
    let asking = [&user[..], &["-W", "20", "-t", "echo", "-e", "answer", "-m", "x"]].concat();
    let answered = secret.request(&asking, || {
        let asked = responder.message();
        secret.publish(&[&user[..], &["-t", &asked, "-m", "answered"]].concat());
    });
    assert_eq!(answered, "answered\n");
    for wrong in
        [vec!["-t", "t", "-m", "x"], vec!["-u", "homeassistant", "-P", "wrong", "-t", "t", "-m", "x"]]
    {
        let mut refused = Command::new("mosquitto_pub");
        refused.args(["-h", "127.0.0.1", "-p", &root.port("1883").to_string()]).args(wrong);
        assert!(!run(&mut refused, 60).status.success());
    }
    assert_eq!(running.terminate().code(), Some(0));
}

#[test]
fn two_listeners_with_tls_let_devices_in_by_certificate_and_people_by_password_each_with_rules() {
    let (Some(passwd), Some(_)) = (require_tool("mosquitto_passwd"), Mosquitto::new(Version::V5, 0)) else {
        return;
    };
    let root = Root::new(&["8883", "8884", "9443"]);
    let authority = Authority::new();
    let own = authority.issue_for_this_machine();
    let (lamp, lost) = (authority.issue("lamp", 2, &[]), authority.issue("lost", 3, &[]));
    authority.revoke(&[3]);
    root.copy(&own.certificate, "/etc/mosquitto/certs/broker.crt");
    root.copy(&own.key, "/etc/mosquitto/certs/broker.key");
    root.copy(&authority.certificate(), "/etc/mosquitto/certs/devices.crt");
    root.copy(&authority.revocations(), "/etc/mosquitto/certs/devices.crl");
    for rules in ["devices.acl", "people.acl"] {
        let from = workspace_root().join("deploy/mosquitto").join(rules);
        root.copy(&from, &format!("/etc/mosquitto/{rules}"));
    }
    root.write("/run/mosquitto/keep", "");
    root.write("/var/lib/mosquitto/keep", "");
    for user in ["ann", "bob"] {
        root.add_user(&passwd, "/etc/mosquitto/people.passwd", user, "secret");
    }
    let running = root.start("two-tls-listeners.conf");
    let ca = authority.certificate();
    let trust = ["--cafile", ca.to_str().unwrap()];
    let device = |certificate: &veilmq_tests::certificates::Certificate| -> Vec<String> {
        let (certificate, key) = (certificate.certificate.display(), certificate.key.display());
        trust
            .iter()
            .map(|word| (*word).to_owned())
            .chain(["--cert".into(), certificate.to_string(), "--key".into(), key.to_string()])
            .collect()
    };
    let (lamp, lost) = (device(&lamp), device(&lost));
    let (lamp, lost): (Vec<&str>, Vec<&str>) =
        (lamp.iter().map(String::as_str).collect(), lost.iter().map(String::as_str).collect());
    let person = |name| [&trust[..], &["-u", name, "-P", "secret"]].concat();
    let devices = Mosquitto::new(Version::V5, root.port("8883")).unwrap();
    let people = Mosquitto::new(Version::V5, root.port("8884")).unwrap();

    goes_through(devices, &lamp, people, &person("bob"), "devices/lamp/state");
    goes_through(people, &person("ann"), devices, &lamp, "devices/lamp/set");

    for (name, port, arguments, topic) in [
        ("a device in another's place", "8883", lamp.clone(), "devices/other/state"),
        ("who may only read", "8884", person("bob"), "devices/lamp/set"),
        ("a device whose certificate is revoked", "8883", lost, "devices/lost/state"),
        ("a person where devices come in", "8883", person("ann"), "devices/lamp/set"),
        ("a device where people come in", "8884", lamp, "devices/lamp/state"),
    ] {
        let mut refused = Command::new("mosquitto_pub");
        refused.args([
            "-h",
            "127.0.0.1",
            "-V",
            "5",
            "-q",
            "1",
            "-t",
            topic,
            "-m",
            "x",
            "-p",
            &root.port(port).to_string(),
        ]);
        let output = run(refused.args(arguments), 60);
        let said = [output.stdout, output.stderr].concat();
        assert!(!output.status.success() || !said.is_empty(), "{name} was let in");
    }
    assert_eq!(running.terminate().code(), Some(0));
}
