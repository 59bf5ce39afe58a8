//! Listeners of one `mosquitto.conf` that differ: who may connect, what is offered, and which topics there are.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use veilmq_tests::certificates::Authority;
use veilmq_tests::drop_in::{Place, Running, answers_at, connect, heard, v3, v5};
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tls::TlsClient;
use veilmq_tests::tools::{built_program, run};
use veilmq_tests::waiting::wait_for_text;
use veilmq_tests::wire::packet;

/// A broker with two listeners, the second one with options of its own.
struct Two {
    place: Place,
    second: ReservedPort,
    running: Running,
}

impl Two {
    /// `DIR` in the texts stands for the directory of the configuration.
    fn start(global: &str, first: &str, second: &str, files: &[(&str, &str)]) -> Self {
        let (place, port) = (Place::new(), ReservedPort::new());
        for (name, content) in files {
            fs::write(place.path(name), content).unwrap();
        }
        let text = format!(
            "{global}user root\nlistener {} 127.0.0.1\n{first}listener {} 127.0.0.1\n{second}",
            place.port.number(),
            port.number()
        );
        let conf = place.path("mosquitto.conf");
        fs::write(&conf, text.replace("DIR", place.directory.path().to_str().unwrap())).unwrap();
        let running = Running::start(&built_program("veilmq"), &conf, place.port.number());
        Self { place, second: port, running }
    }

    fn first(&self, packets: &[Vec<u8>]) -> Vec<String> {
        self.running.answers(packets)
    }

    fn second(&self, packets: &[Vec<u8>]) -> Vec<String> {
        answers_at(self.second_address(), packets)
    }

    /// Waits until the log says so.
    fn wait_for(&self, text: &str) {
        wait_for_text(&self.place.path("mosquitto.log"), text);
    }

    fn second_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.second.number()).into()
    }
}

/// The line of a password file for this user and password.
fn line(user: &str, password: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("passwd");
    let mut command = Command::new(built_program("veilmq"));
    command.args(["passwd", "-c", "-b", "-H", "sha512"]).arg(&path).args([user, password]);
    let output = run(&mut command, 60);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(path).unwrap()
}

/// A CONNECT of MQTT 3.1.1 with user name and password.
fn login(user: &str, password: &str) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0xC2, 0, 60, 0, 1, b'c'];
    for text in [user, password] {
        body.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        body.extend(text.as_bytes());
    }
    packet(0x10, &body)
}

fn subscribe(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1, 0, u8::try_from(filter.len()).unwrap()];
    body.extend(filter.as_bytes());
    body.push(0);
    packet(0x82, &body)
}

fn publish(topic: &str, payload: &str) -> Vec<u8> {
    let mut body = vec![0, u8::try_from(topic.len()).unwrap()];
    body.extend([topic.as_bytes(), payload.as_bytes()].concat());
    packet(0x30, &body)
}

/// What a subscriber sees of such a message.
fn seen(topic: &str, payload: &str) -> String {
    publish(topic, payload).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn each_listener_lets_in_its_own_users() {
    let files = [("ann", &*line("ann", "secret")), ("bob", &*line("bob", "secret"))];
    let two = Two::start(
        "per_listener_settings true\n",
        "password_file DIR/ann\n",
        "password_file DIR/bob\nallow_anonymous true\n",
        &files,
    );

    for (packet, first, second) in [
        (login("ann", "secret"), "20020000", "20020005closed"),
        (login("bob", "secret"), "20020005closed", "20020000"),
        (login("ann", "wrong"), "20020005closed", "20020005closed"),
        (v3("c", true), "20020005closed", "20020000"),
    ] {
        let packets = [packet];
        assert_eq!((&*two.first(&packets)[0], &*two.second(&packets)[0]), (first, second));
    }
}

#[test]
fn a_reload_changes_the_users_of_each_listener_and_nothing_if_one_file_is_wrong() {
    let (ann, bob) = (line("ann", "secret"), line("bob", "secret"));
    let two = Two::start(
        "per_listener_settings true\n",
        "password_file DIR/first\n",
        "password_file DIR/second\n",
        &[("first", &ann), ("second", &bob)],
    );
    let let_in = |first: &str, second: &str| {
        (two.first(&[login(first, "secret")]).remove(0), two.second(&[login(second, "secret")]).remove(0))
    };
    let (yes, no) = ("20020000".to_owned(), "20020005closed".to_owned());
    assert_eq!(let_in("ann", "bob"), (yes.clone(), yes.clone()));

    fs::write(two.place.path("first"), &bob).unwrap();
    fs::write(two.place.path("second"), "no colon\n").unwrap();
    two.running.signal(Signal::SIGHUP);
    two.wait_for("SIGHUP: ");
    two.wait_for("nothing has changed");
    assert_eq!(let_in("ann", "bob"), (yes.clone(), yes.clone()), "the broken file keeps both as they are");

    fs::write(two.place.path("second"), &ann).unwrap();
    two.running.signal(Signal::SIGHUP);
    let deadline = Instant::now() + Duration::from_secs(20);
    while let_in("bob", "ann") != (yes.clone(), yes.clone()) {
        assert!(Instant::now() < deadline, "the new files do not come into force");
    }
    assert_eq!(let_in("ann", "bob"), (no.clone(), no));
}

#[test]
fn a_file_that_changes_is_read_again_without_being_told() {
    let (ann, bob) = (line("ann", "secret"), line("bob", "secret"));
    let two = Two::start(
        "per_listener_settings true\n",
        "password_file DIR/first\n",
        "password_file DIR/second\n",
        &[("first", &ann), ("second", &ann)],
    );
    assert_eq!(two.second(&[login("ann", "secret")]), ["20020000"]);

    fs::write(two.place.path("second"), &bob).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while two.second(&[login("bob", "secret")]) != ["20020000"] {
        assert!(Instant::now() < deadline, "the new file does not come into force");
        // Who is wrong too often is banned.
        sleep(Duration::from_millis(900));
    }

    assert_eq!(two.second(&[login("ann", "secret")]), ["20020005closed"]);
    assert_eq!(two.first(&[login("ann", "secret")]), ["20020000"], "the other file is as it was");
}

#[test]
fn each_listener_has_its_own_rules() {
    let two = Two::start(
        "per_listener_settings true\n",
        "allow_anonymous true\nacl_file DIR/rules\n",
        "allow_anonymous true\n",
        &[("rules", "topic read open\n")],
    );
    let mut bound = TcpStream::connect(two.running.address).unwrap();
    bound.write_all(&[v3("bound", true), subscribe("#")].concat()).unwrap();
    assert_eq!(heard(&mut bound), "200200009003000100");

    let free = two.second(&[
        v3("free", true),
        subscribe("#"),
        [publish("closed", "1"), publish("open", "2")].concat(),
    ]);

    assert_eq!(free[2], seen("closed", "1") + &seen("open", "2"));
    assert_eq!(heard(&mut bound), seen("open", "2"));
    bound.write_all(&publish("open", "3")).unwrap();
    assert_eq!(heard(&mut bound), "", "it may not write");
}

#[test]
fn what_was_retained_by_a_listener_is_sent_as_long_as_its_rules_allow_that_over_restarts_too() {
    let mut two = Two::start(
        "per_listener_settings true\npersistence true\npersistence_location DIR\n",
        "allow_anonymous true\nacl_file DIR/rules\n",
        "allow_anonymous true\n",
        &[("rules", "topic readwrite #\n")],
    );
    // RETAIN, QoS 1, so that it is stored when the answer comes.
    let retain = packet(0x33, b"\0\x01t\0\x07m");
    assert_eq!(two.first(&[v3("a", true), retain])[1], "40020007");
    let what_comes = |two: &Two| two.second(&[v3("s", true), subscribe("t")])[1].clone();
    assert_eq!(what_comes(&two), "900300010031040001746d");

    for (rules, expected) in
        [("topic read #\n", "9003000100"), ("topic readwrite t\n", "900300010031040001746d")]
    {
        two.running.signal(Signal::SIGTERM);
        two.running.child.wait().unwrap();
        fs::write(two.place.path("rules"), rules).unwrap();
        let conf = two.place.path("mosquitto.conf");
        two.running = Running::start(&built_program("veilmq"), &conf, two.place.port.number());

        assert_eq!(what_comes(&two), expected);
    }
}

#[test]
fn what_is_offered_is_said_for_each_listener() {
    let two = Two::start(
        "allow_anonymous true\nauto_id_prefix all-\n",
        "max_qos 1\nmax_topic_alias 3\naccept_protocol_versions 5\n",
        "listener_auto_id_prefix own-\naccept_protocol_versions 3,4\n",
        &[],
    );

    // Topic Alias Maximum 3, Maximum Packet Size 2000000, Receive Maximum 20, Maximum QoS 1.
    assert_eq!(two.first(&[v5("a")]), ["201000000d22000327001e84802100142401"]);
    assert_eq!(two.first(&[v3("a", true)]), ["20020001closed"]);
    assert_eq!(two.second(&[v3("a", true)]), ["20020000"]);
    assert!(two.second(&[v5("a")])[0].starts_with("20030084"));
    let assigned = two.first(&[v5("")]).remove(0);
    let prefix: String = b"all-".iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(assigned.contains(&prefix), "{assigned}");
}

#[test]
fn clients_behind_a_mount_point_are_among_themselves() {
    let two = Two::start("allow_anonymous true\n", "mount_point site/\n", "", &[]);
    let mut outer = TcpStream::connect(two.second_address()).unwrap();
    outer.write_all(&[v3("outer", true), subscribe("site/#")].concat()).unwrap();
    assert_eq!(heard(&mut outer), "200200009003000100");

    let inner = two.first(&[v3("inner", true), subscribe("#"), publish("a", "up")]);
    let others = two.second(&[v3("other", true), publish("a", "no"), publish("site/b", "down")]);

    assert_eq!(inner[1..], ["9003000100".to_owned(), seen("a", "up")]);
    assert_eq!(others[0], "20020000");
    assert_eq!(heard(&mut outer), seen("site/a", "up") + &seen("site/b", "down"));
}

#[test]
fn a_client_without_identifier_is_refused_by_the_listener_that_wants_one() {
    let two = Two::start(
        "per_listener_settings true\n",
        "allow_anonymous true\nallow_zero_length_clientid false\n",
        "allow_anonymous true\n",
        &[],
    );

    assert_eq!(two.first(&[v3("", true)]), ["20020002closed"]);
    assert!(two.first(&[connect(5, "", true, 60, &[])])[0].starts_with("20030080"));
    assert_eq!(two.second(&[v3("", true)]), ["20020000"]);
}

#[test]
fn a_listener_on_an_interface_that_is_not_there_is_named() {
    let (place, port) = (Place::new(), ReservedPort::new());
    let conf = place.path("mosquitto.conf");
    let text = format!("listener {} 127.0.0.1\nbind_interface absent0\n", port.number());
    fs::write(&conf, text).unwrap();

    let output = run(Command::new(built_program("veilmq")).arg("-c").arg(&conf), 30);

    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("cannot listen on 127.0.0.1"), "{said}");
}

#[test]
fn where_certificates_name_users_and_nobody_is_asked_for_one_nobody_is_let_in() {
    let authority = Authority::new();
    let certificate = authority.issue_for_this_machine();
    let tls = format!(
        "certfile {}\nkeyfile {}\nuse_identity_as_username true\n",
        certificate.certificate.display(),
        certificate.key.display()
    );
    let two = Two::start("allow_anonymous true\n", "", &tls, &[]);

    for (packet, connack) in [
        (v3("c", true), &[0x20, 2, 0, 4][..]),
        (login("ann", "secret"), &[0x20, 2, 0, 4]),
        (v5("c"), &[0x20, 3, 0, 0x86, 0]),
    ] {
        let mut stream = TlsClient::new(&authority, None).open(two.second_address()).unwrap();
        stream.write_all(&packet).unwrap();
        let mut answer = vec![0; connack.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, connack);
    }
    assert_eq!(two.first(&[v3("c", true)]), ["20020000"]);
}

/// A header of version 2 from 192.0.2.7:12345, with what the proxy says of the client's TLS.
fn proxied(common_name: Option<&str>) -> Vec<u8> {
    let tls = common_name.map(|name| {
        let name = [&[0x22, 0, u8::try_from(name.len()).unwrap()], name.as_bytes()].concat();
        let content = [&[3, 0, 0, 0, 0], name.as_slice()].concat();
        [&[0x20, 0, u8::try_from(content.len()).unwrap()], content.as_slice()].concat()
    });
    let content =
        [&[192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x07, 0x5b][..], &tls.unwrap_or_default()].concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11".as_slice(), &length, &content].concat()
}

#[test]
fn who_comes_by_a_proxy_is_who_its_certificate_says() {
    let two = Two::start(
        "per_listener_settings true\n",
        "enable_proxy_protocol 2\nrequire_certificate true\nuse_identity_as_username true\nacl_file DIR/rules\n",
        "enable_proxy_protocol 2\nproxy_protocol_v2_require_tls true\nallow_anonymous true\n",
        &[("rules", "user lamp\ntopic readwrite lamp/#\n")],
    );
    let with = |header: Vec<u8>, packet: Vec<u8>| [header, packet].concat();

    let lamp = two.first(&[
        with(proxied(Some("lamp")), v3("c", true)),
        subscribe("#"),
        publish("other", "1"),
        publish("lamp/state", "2"),
    ]);

    assert_eq!(lamp, ["20020000", "9003000100", "", &seen("lamp/state", "2")]);
    assert_eq!(two.first(&[with(proxied(None), v3("c", true))]), ["closed"]);
    assert_eq!(two.first(&[with(proxied(Some("")), v3("c", true))]), ["20020004closed"]);
    assert_eq!(two.first(&[v3("c", true)]), ["closed"]);
    assert_eq!(two.second(&[with(proxied(Some("lamp")), v3("c", true))]), ["20020000"]);
    assert_eq!(two.second(&[with(proxied(None), v3("c", true))]), ["closed"]);
    let old = b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 1883\r\n".to_vec();
    assert_eq!(two.second(&[with(old, v3("c", true))]), ["closed"]);
}
