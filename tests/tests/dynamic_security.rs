//! Mosquitto's dynamic security in the real broker: started from `mosquitto.conf`, administered by the real `mosquitto_ctrl`.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tools::{built_program, require_tool, run};
use veilmq_tests::waiting::wait_until_or;
use veilmq_tests::wire::{Published, RawPacket, Wire, packet, push_string};

const CONTROL: &str = "$CONTROL/dynamic-security/v1";
const RESPONSE: &str = "$CONTROL/dynamic-security/v1/response";

/// A broker with a file of dynamic security that `mosquitto_ctrl` has made, with the client `admin` and the password `pw`.
struct Side {
    child: Child,
    port: ReservedPort,
    folder: TempDir,
    ctrl: PathBuf,
}

impl Side {
    /// Starts it; none if `mosquitto_ctrl` is missing here.
    fn start(rest: &str) -> Option<Self> {
        let ctrl = require_tool("mosquitto_ctrl")?;
        let (folder, port) = (tempfile::tempdir().unwrap(), ReservedPort::new());
        let file = folder.path().join("ds.json");
        let output = run(Command::new(&ctrl).args(["dynsec", "init"]).arg(&file).args(["admin", "pw"]), 60);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = format!(
            "listener {} 127.0.0.1\nplugin /usr/lib/mosquitto_dynamic_security.so\nplugin_opt_config_file {}\n{rest}",
            port.number(),
            file.display()
        );
        Some(Self::start_with(folder, port, ctrl, &text))
    }

    fn start_with(folder: TempDir, port: ReservedPort, ctrl: PathBuf, text: &str) -> Self {
        fs::write(folder.path().join("mosquitto.conf"), text).unwrap();
        let child = Self::run(folder.path());
        let side = Self { child, port, folder, ctrl };
        side.wait_until_it_listens();
        side
    }

    fn run(folder: &Path) -> Child {
        let log = fs::OpenOptions::new().append(true).create(true).open(folder.join("log")).unwrap();
        let mut command = Command::new(built_program("veilmq"));
        command.arg("-c").arg(folder.join("mosquitto.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn wait_until_it_listens(&self) {
        let listens = || Wire::try_open(self.address()).is_ok();
        wait_until_or(listens, || format!("the broker does not start: {}", self.log()));
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::run(self.folder.path());
        self.wait_until_it_listens();
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port.number()).into()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ds.json")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Runs `mosquitto_ctrl dynsec` as admin and returns what it prints.
    fn ctrl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.ctrl);
        command.args(["-h", "127.0.0.1", "-p"]).arg(self.port.number().to_string());
        let output = run(command.args(["-u", "admin", "-P", "pw", "dynsec"]).args(arguments), 60);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {stdout}{stderr}{}", self.log());
        format!("{stdout}{stderr}")
    }

    fn connect(&self, client_id: &str, credentials: Option<(&str, &str)>) -> (Wire, u8) {
        connect_to(self.address(), client_id, credentials)
    }

    fn join(&self, client_id: &str, user: &str, password: &str) -> Client {
        let (wire, code) = self.connect(client_id, Some((user, password)));
        assert_eq!(code, 0, "{user}: {}", self.log());
        Client { wire }
    }
}

/// Connects with MQTT 5 and returns the connection and the Reason Code.
fn connect_to(address: SocketAddr, client_id: &str, credentials: Option<(&str, &str)>) -> (Wire, u8) {
    let mut body = Vec::new();
    push_string(&mut body, "MQTT");
    body.extend([5, if credentials.is_some() { 0b1100_0010 } else { 0b10 }, 0, 0, 0]);
    push_string(&mut body, client_id);
    for text in credentials.into_iter().flat_map(|(user, password)| [user, password]) {
        push_string(&mut body, text);
    }
    let mut wire = Wire::open(address);
    wire.send(&packet(0x10, &body)).unwrap();
    let connack = wire.packet().unwrap();
    (wire, connack.body[1])
}

impl Drop for Side {
    fn drop(&mut self) {
        // It may have ended by itself; it is reaped either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that has connected with MQTT 5.
struct Client {
    wire: Wire,
}

impl Client {
    /// Subscribes and returns the Reason Code.
    fn subscribe(&mut self, filter: &str) -> u8 {
        self.send(0x82, &[0, 1, 0], filter, &[0])
    }

    /// Unsubscribes and returns the Reason Code.
    fn unsubscribe(&mut self, filter: &str) -> u8 {
        self.send(0xA2, &[0, 2, 0], filter, &[])
    }

    fn send(&mut self, first: u8, head: &[u8], filter: &str, tail: &[u8]) -> u8 {
        let mut body = head.to_vec();
        push_string(&mut body, filter);
        body.extend(tail);
        self.wire.send(&packet(first, &body)).unwrap();
        *self.wire.packet().unwrap().body.last().unwrap()
    }

    /// Publishes at QoS 1 and returns the Reason Code.
    fn publish(&mut self, topic: &str, payload: &[u8]) -> u8 {
        let mut body = Vec::new();
        push_string(&mut body, topic);
        body.extend([0, 9, 0]);
        body.extend(payload);
        self.wire.send(&packet(0x32, &body)).unwrap();
        let puback = self.wire.packet().unwrap();
        assert_eq!(puback.first, 0x40, "{puback:?}");
        puback.body.get(2).copied().unwrap_or(0)
    }

    /// Sends a message of commands and returns the answers.
    fn command(&mut self, payload: &[u8]) -> Value {
        assert_eq!(self.publish(CONTROL, payload), 0);
        let packet = self.wire.packet().unwrap();
        let published = Published::read(&packet).unwrap_or_else(|| panic!("{packet:?}"));
        assert_eq!((published.topic.as_str(), published.qos), (RESPONSE, 0));
        // The properties are empty.
        serde_json::from_slice(&published.payload[1..]).unwrap()
    }

    fn next(&mut self) -> RawPacket {
        self.wire.packet().unwrap()
    }
}

const DISCONNECT: u8 = 0xE0;
const ADMINISTRATIVE_ACTION: u8 = 0x98;

#[test]
fn mosquitto_ctrl_administers_clients_groups_and_roles_and_a_restart_keeps_them() {
    let Some(mut side) = Side::start("") else { return };
    assert_eq!(side.connect("c", Some(("ann", "one"))).1, 0x87);
    assert_eq!(side.connect("c", None).1, 0x87);

    side.ctrl(&["createRole", "reader"]);
    side.ctrl(&["addRoleACL", "reader", "subscribePattern", "news/#", "allow"]);
    side.ctrl(&["createGroup", "readers"]);
    side.ctrl(&["addGroupRole", "readers", "reader"]);
    side.ctrl(&["createClient", "ann", "-p", "one"]);
    side.ctrl(&["addGroupClient", "readers", "ann"]);

    for _ in 0..2 {
        assert!(side.ctrl(&["listClients"]).contains("ann"));
        assert!(side.ctrl(&["getGroup", "readers"]).contains("ann"));
        assert!(side.ctrl(&["getRole", "reader"]).contains("news/#"));
        let mut ann = side.join("a", "ann", "one");
        assert_eq!((ann.subscribe("news/#"), ann.subscribe("other")), (0, 0x87));
        assert_eq!(ann.publish("news/x", b"m"), 0x87);
        assert_eq!(side.connect("c", Some(("ann", "two"))).1, 0x87);
        side.restart();
    }
    let log = side.log();
    assert!(log.contains("createClient") && !log.contains("one\""), "a password is in the log: {log}");
}

#[test]
fn what_an_administrator_takes_back_reaches_clients_that_are_connected() {
    // [B07]
    let Some(side) = Side::start("") else { return };
    side.ctrl(&["createRole", "all"]);
    for kind in ["publishClientSend", "subscribePattern"] {
        side.ctrl(&["addRoleACL", "all", kind, "#", "allow"]);
    }
    for user in ["ann", "bob", "cy"] {
        side.ctrl(&["createClient", user, "-p", "one"]);
        side.ctrl(&["addClientRole", user, "all"]);
    }
    let mut clients = ["ann", "bob", "cy"].map(|user| side.join(user, user, "one"));
    let [ann, bob, cy] = &mut clients;
    for client in [&mut *ann, &mut *bob, &mut *cy] {
        assert_eq!(client.subscribe("t"), 0);
    }

    side.ctrl(&["disableClient", "ann"]);
    let farewell = ann.next();
    assert_eq!((farewell.first, farewell.body[0]), (DISCONNECT, ADMINISTRATIVE_ACTION));
    assert_eq!(side.connect("ann", Some(("ann", "one"))).1, 0x87);
    side.ctrl(&["enableClient", "ann"]);
    assert_eq!(side.connect("ann", Some(("ann", "one"))).1, 0);

    side.ctrl(&["deleteClient", "bob"]);
    assert_eq!(bob.next().body[0], ADMINISTRATIVE_ACTION);
    assert_eq!(side.connect("bob", Some(("bob", "one"))).1, 0x87);

    side.ctrl(&["addRoleACL", "all", "publishClientSend", "secret", "deny", "5"]);
    assert_eq!(cy.next().body[0], ADMINISTRATIVE_ACTION);
    let mut cy = side.join("cy", "cy", "one");
    assert_eq!((cy.publish("secret", b"m"), cy.publish("open", b"m")), (0x87, 0x10));

    side.ctrl(&["setClientId", "cy", "only"]);
    assert_eq!(cy.next().body[0], ADMINISTRATIVE_ACTION);
    assert_eq!(side.connect("cy", Some(("cy", "one"))).1, 0x87);
    assert_eq!(side.connect("only", Some(("cy", "one"))).1, 0);
}

#[test]
fn whoever_acts_after_a_command_was_answered_is_held_against_what_it_has_changed() {
    let Some(side) = Side::start("") else { return };
    let mut admin = side.join("a", "admin", "pw");
    assert_eq!(admin.subscribe("$CONTROL/dynamic-security/#"), 0);
    side.ctrl(&["createClient", "ann", "-p", "one"]);
    let mut clients: Vec<_> = (0..8).map(|index| side.join(&format!("ann{index}"), "ann", "one")).collect();

    for round in 0..40 {
        let allow = round % 2 == 0;
        let acls = json!([{ "acltype": "subscribe", "allow": allow }]);
        let command = json!({ "commands": [{ "command": "setDefaultACLAccess", "acls": acls }] });
        admin.command(command.to_string().as_bytes());

        let codes: Vec<u8> = clients.iter_mut().map(|client| client.subscribe("t")).collect();

        assert_eq!(codes, [if allow { 0 } else { 0x87 }; 8], "round {round}");
        for client in clients.iter_mut().filter(|_| allow) {
            client.unsubscribe("t");
        }
    }
}

#[test]
fn commands_are_answered_to_who_may_give_them_and_to_nobody_else() {
    // [B02]
    let Some(side) = Side::start("allow_anonymous true\n") else { return };
    let mut admin = side.join("a", "admin", "pw");
    assert_eq!(admin.subscribe("$CONTROL/#"), 0x87, "the file allows less than that");
    assert_eq!(admin.subscribe("$CONTROL/dynamic-security/#"), 0);

    let answers = admin.command(
        json!({"commands": [
            {"command": "createRole", "rolename": "all", "acls": [
                {"acltype": "publishClientSend", "topic": "#", "allow": true},
                {"acltype": "subscribePattern", "topic": "#", "allow": true},
                {"acltype": "unsubscribeLiteral", "topic": "kept", "allow": false}]},
            {"command": "createGroup", "groupname": "guests", "roles": [{"rolename": "all"}]},
            {"command": "setAnonymousGroup", "groupname": "guests", "correlationData": "c"},
            {"command": "getClient", "username": "admin"}]})
        .to_string()
        .as_bytes(),
    );
    assert_eq!(answers["responses"][2], json!({"command": "setAnonymousGroup", "correlationData": "c"}));
    assert_eq!(answers["responses"][3]["data"]["client"]["connections"], json!([{"address": "127.0.0.1"}]));

    let (wire, code) = side.connect("guest", None);
    assert_eq!(code, 0);
    let mut guest = Client { wire };
    assert_eq!(
        guest.publish(CONTROL, br#"{"commands":[{"command":"deleteClient","username":"admin"}]}"#),
        0x87
    );
    assert_eq!(guest.subscribe("$CONTROL/dynamic-security/v1/response"), 0x87);
    assert_eq!(
        (guest.subscribe("kept"), guest.unsubscribe("kept"), guest.unsubscribe("other")),
        (0, 0x87, 0x11)
    );
    assert_eq!(guest.publish("x", b"m"), 0x10);

    for payload in
        [&b"\xff\xfe"[..], b"", b"[[[[", &[b'['; 100_000], b"{\"commands\":[null,{\"command\":\"\"}]}"]
    {
        let answer = admin.command(payload);
        assert!(answer["responses"][0]["error"].is_string(), "{answer}");
    }
    // Who takes its own rights learns first that it was done.
    let answer = admin
        .command(br#"{"commands":[{"command":"removeClientRole","username":"admin","rolename":"admin"}]}"#);
    assert_eq!(answer, json!({"responses": [{"command": "removeClientRole"}]}));
    assert_eq!(admin.next().body[0], ADMINISTRATIVE_ACTION);
    let mut admin = side.join("a", "admin", "pw");
    assert_eq!(admin.publish(CONTROL, b"{}"), 0x87);
}

#[test]
fn a_file_that_cannot_be_written_changes_nothing() {
    let Some(side) = Side::start("") else { return };
    let before = fs::read(side.file()).unwrap();
    let mut admin = side.join("a", "admin", "pw");
    assert_eq!(admin.subscribe("$CONTROL/dynamic-security/#"), 0);
    // What takes the place of the file cannot be made in a folder that is not there.
    let away = side.folder.path().with_extension("away");
    fs::rename(side.folder.path(), &away).unwrap();

    let answers = admin.command(
        br#"{"commands":[{"command":"createClient","username":"ann","password":"one"},{"command":"listClients"}]}"#,
    );
    fs::rename(&away, side.folder.path()).unwrap();

    assert_eq!(answers["responses"][0], json!({"command": "createClient", "error": "Internal error"}));
    assert_eq!(side.connect("c", Some(("ann", "one"))).1, 0x87);
    assert_eq!(fs::read(side.file()).unwrap(), before);
}

#[test]
fn a_file_that_is_missing_is_made_and_counts_where_the_plugin_is_named() {
    let Some(ctrl) = require_tool("mosquitto_ctrl") else { return };
    let (folder, port, open) = (tempfile::tempdir().unwrap(), ReservedPort::new(), ReservedPort::new());
    fs::write(folder.path().join("first"), "pw\n").unwrap();
    let text = format!(
        "per_listener_settings true\nlistener {} 127.0.0.1\nplugin /lib/mosquitto_dynamic_security.so\n\
         plugin_opt_config_file {1}/ds.json\nplugin_opt_password_init_file {1}/first\n\
         listener {2} 127.0.0.1\nallow_anonymous true\n",
        port.number(),
        folder.path().display(),
        open.number()
    );
    let side = Side::start_with(folder, port, ctrl, &text);

    side.ctrl(&["createClient", "ann", "-p", "one"]);
    let (wire, code) = connect_to(([127, 0, 0, 1], open.number()).into(), "guest", None);

    assert_eq!(code, 0);
    let mut guest = Client { wire };
    assert_eq!((guest.subscribe("$CONTROL/#"), guest.publish("any", b"m")), (0, 0x10));
    assert_eq!(guest.publish(CONTROL, b"{}"), 0x87, "no command is taken there");
    assert_eq!((side.connect("a", None).1, side.connect("a", Some(("ann", "two"))).1), (0x87, 0x87));
    assert_eq!(side.join("a", "ann", "one").publish("any", b"m"), 0x87);
    // What was connected elsewhere is not touched by what is administered here.
    side.ctrl(&["deleteClient", "ann"]);
    assert_eq!(guest.publish("any", b"m"), 0x10);
}

#[test]
fn the_broker_tells_what_it_consists_of_if_it_may() {
    let Some(side) = Side::start("enable_control_api true\n") else { return };
    side.ctrl(&["addRoleACL", "admin", "publishClientSend", "$CONTROL/broker/#", "allow"]);
    side.ctrl(&["addRoleACL", "admin", "publishClientReceive", "$CONTROL/broker/#", "allow"]);
    side.ctrl(&["addRoleACL", "admin", "subscribePattern", "$CONTROL/broker/#", "allow"]);
    let mut admin = side.join("a", "admin", "pw");
    assert_eq!(admin.subscribe("$CONTROL/broker/v1/response"), 0);

    assert_eq!(admin.publish("$CONTROL/broker/v1", br#"{"commands":[{"command":"listListeners"}]}"#), 0);

    let published = Published::read(&admin.next()).unwrap();
    let answer: Value = serde_json::from_slice(&published.payload[1..]).unwrap();
    let port = &answer["responses"][0]["data"]["listeners"][0]["port"];
    assert_eq!(*port, json!(side.port.number()), "{answer}");
}
