//! Starting, stopping and refusing to start: one clear line that names the thing at fault, and nothing is lost.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::unistd::Uid;
use tempfile::TempDir;
use veilmq_tests::broker::{self, Broker};
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tools::{built_program, require_tool, run, skip, spawn};
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{Wire, packet};

/// An MQTT 5 CONNECT with Clean Start, a Keep Alive of 60 seconds and no properties.
fn connect_v5(client_id: &str) -> Vec<u8> {
    let length = u8::try_from(client_id.len()).expect("a short Client Identifier");
    packet(0x10, &[b"\0\x04MQTT\x05\x02\0\x3c\0\0".as_slice(), &[length], client_id.as_bytes()].concat())
}

/// Runs `command`, which must fail with `status`, and returns the one line it printed to standard error last.
fn failure(command: &mut Command, status: i32) -> String {
    let output = run(command, 30);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn assert_names(text: &str, facts: &[&str]) {
    for fact in facts {
        assert!(text.contains(fact), "{fact:?} should be in: {text}");
    }
}

/// The command that starts a broker on free ports and its own data directory.
struct Spare {
    mqtt: ReservedPort,
    admin: ReservedPort,
    directory: TempDir,
}

impl Spare {
    fn new() -> Self {
        let directory = TempDir::new().expect("the temporary directory is writable");
        Self { mqtt: ReservedPort::new(), admin: ReservedPort::new(), directory }
    }

    fn command(&self, data_dir: &Path) -> Command {
        broker::command(self.mqtt.number(), data_dir, self.admin.address())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }
}

#[test]
fn sigterm_ends_it_at_once_with_status_0_while_clients_are_connected() {
    let mut broker = Broker::start();
    let (old, _) = Wire::connect(broker.address(), "old", true);
    let mut new = Wire::open(broker.address());
    new.send(&connect_v5("new")).unwrap();
    assert_eq!(new.packet().unwrap().first, 0x20);
    let unfinished = Wire::open(broker.address());
    let clients = [old, new, unfinished].map(|client| thread::spawn(|| client.until_closed()));

    let status = broker.terminate(3);

    assert_eq!(status.code(), Some(0), "{}", broker.log());
    let [old, new, unfinished] = clients.map(|client| client.join().unwrap());
    assert_eq!(old, [0u8; 0], "MQTT 3.1.1 has no DISCONNECT from the server");
    assert_eq!((new[0], new[2]), (0xe0, 0x8b), "server shutting down");
    assert_eq!(unfinished, [0u8; 0]);
}

#[test]
fn sigterm_is_not_held_up_for_long_by_a_client_that_neither_reads_nor_closes() {
    let mut broker = Broker::start();
    let (_deaf, _) = Wire::connect(broker.address(), "deaf", true);

    let status = broker.terminate(10);

    assert_eq!(status.code(), Some(0), "{}", broker.log());
}

#[test]
fn a_second_broker_on_the_same_data_directory_is_refused_and_harms_nothing() {
    let broker = Broker::start();
    let spare = Spare::new();

    let error = failure(&mut spare.command(&broker.data_dir()), 1);

    assert_names(&error, &[broker.data_dir().to_str().unwrap()]);
    assert_eq!(broker.get("/readyz").status, 200);
    let _ = Wire::connect(broker.address(), "still-served", true);
}

#[test]
fn a_port_in_use_is_named() {
    let spare = Spare::new();
    let _taken = TcpListener::bind(spare.mqtt.address()).unwrap();

    let error = failure(&mut spare.command(&spare.path("data")), 1);

    assert_names(&error, &[&spare.mqtt.address().to_string()]);
}

#[test]
fn an_admin_port_in_use_is_named() {
    let spare = Spare::new();
    let _taken = TcpListener::bind(spare.admin.address()).unwrap();

    let error = failure(&mut spare.command(&spare.path("data")), 1);

    assert_names(&error, &[&spare.admin.address().to_string()]);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let spare = Spare::new();
    fs::write(spare.path("file"), "not a directory").unwrap();
    let data_dir = spare.path("file").join("data");

    let error = failure(&mut spare.command(&data_dir), 1);

    assert_names(&error, &[spare.path("file").to_str().unwrap()]);
}

#[test]
fn an_unknown_flag_is_named() {
    let error = failure(Command::new(built_program("veilmq")).arg("--listn"), 2);

    assert_names(&error, &["--listn"]);
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let spare = Spare::new();
    let absent = spare.path("absent.toml");

    let error = failure(spare.command(&spare.path("data")).arg("-c").arg(&absent), 1);

    assert_names(&error, &[absent.to_str().unwrap()]);
}

#[test]
fn what_is_wrong_in_a_configuration_file_is_named_and_nothing_is_started() {
    let cases = [
        ("port = 1883\n", "port"),
        ("[limits]\npacket_bytes_max = \"large\"\n", "packet_bytes_max"),
        ("[limits\n", ":1"),
        ("master_secret = \"00\"\n", "master_secret"),
    ];
    let spare = Spare::new();
    let file = spare.path("veilmq.toml");
    for (text, fact) in cases {
        fs::write(&file, text).unwrap();

        let checked =
            failure(Command::new(built_program("veilmq")).arg("check-config").arg("-c").arg(&file), 1);
        let started = failure(spare.command(&spare.path("data")).arg("-c").arg(&file), 1);

        assert_names(&checked, &[file.to_str().unwrap(), fact]);
        assert_eq!(started, checked, "starting and checking say the same");
        assert!(!spare.path("data").exists(), "nothing was made for a configuration that is refused");
    }
}

#[test]
fn a_valid_configuration_file_passes_the_check_and_is_shown_as_it_takes_effect() {
    let spare = Spare::new();
    let file = spare.path("veilmq.toml");
    fs::write(&file, "[[listeners]]\naddress = \"127.0.0.1:2883\"\n[limits]\nreceive_maximum = 77\n")
        .unwrap();
    let veilmq =
        |command: &str| run(Command::new(built_program("veilmq")).arg(command).arg("-c").arg(&file), 30);

    assert_eq!(veilmq("check-config").status.code(), Some(0));

    let shown = veilmq("show-config");
    assert_eq!(shown.status.code(), Some(0));
    assert_names(&String::from_utf8_lossy(&shown.stdout), &["127.0.0.1:2883", "receive_maximum = 77"]);
}

/// The program where every user may run it, and how somebody runs it there.
fn as_user(setpriv: &Path, spare: &Spare, user: u32, data_dir: &Path) -> Command {
    let everybody = fs::Permissions::from_mode(0o755);
    fs::set_permissions(spare.directory.path(), everybody).expect("it is ours");
    let program = spare.path("veilmq");
    if !program.exists() {
        fs::copy(built_program("veilmq"), &program).expect("there is room");
    }
    let broker = spare.command(data_dir);
    let id = user.to_string();
    let mut command = Command::new(setpriv);
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&program).args(broker.get_args());
    command.envs(broker.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir("/");
    command
}

#[test]
fn any_user_runs_it_who_has_a_data_directory_and_who_has_not_is_told_so() {
    const NOBODY_IN_PARTICULAR: u32 = 12_345;
    if !Uid::effective().is_root() {
        return skip("becoming another user", "run as root").unwrap_or_default();
    }
    let Some(setpriv) = require_tool("setpriv") else { return };
    let spare = Spare::new();
    let (own, foreign) = (spare.path("own"), spare.path("foreign"));
    for (folder, owner) in [(&own, NOBODY_IN_PARTICULAR), (&foreign, 0)] {
        fs::create_dir(folder).expect("it is not there yet");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("it is ours");
        chown(folder, Some(owner), Some(owner)).expect("root may");
    }

    let refused = failure(&mut as_user(&setpriv, &spare, NOBODY_IN_PARTICULAR, &foreign), 1);
    assert_names(&refused, &[&foreign.display().to_string(), "Permission denied"]);
    let refused = failure(&mut as_user(&setpriv, &spare, NOBODY_IN_PARTICULAR, &foreign.join("below")), 1);
    assert_names(&refused, &[&foreign.join("below").display().to_string(), "Permission denied"]);
    assert_eq!(fs::read_dir(&foreign).expect("root may").count(), 0, "nothing was left there");

    let mut running = spawn(&mut as_user(&setpriv, &spare, NOBODY_IN_PARTICULAR, &own));
    wait_until("it serves", || Wire::try_open(spare.mqtt.address()).is_ok());
    let (mut wire, _) = Wire::connect(spare.mqtt.address(), "c", false);
    wire.send(&packet(0x33, b"\0\x01t\0\x01kept")).expect("PUBLISH can be sent");
    assert_eq!(wire.packet().expect("a PUBACK arrives").first, 0x40);
    running.kill().expect("it runs");
    running.wait().expect("it has ended");
    let metadata = fs::metadata(own.join("store")).expect("there is a store");
    assert_eq!(metadata.uid(), NOBODY_IN_PARTICULAR);
}
