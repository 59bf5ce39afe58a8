//! A running broker is told another configuration: listeners come, go and change, other things are offered and allowed, and whoever is
//! connected by one that is still there stays connected and keeps what CONNACK has promised.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::Authority;
use veilmq_tests::drop_in::{Place, heard, v3};
use veilmq_tests::http::{self, Response};
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::tls::TlsClient;
use veilmq_tests::tools::built_program;
use veilmq_tests::waiting::wait_until;
use veilmq_tests::wire::{
    Published, RawPacket, Wire, acknowledgement, connect_packet, connect_packet_v5, packet, publish_packet,
    publish_packet_v5,
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const PINGREQ: &[u8] = &[0xc0, 0];
/// The largest `storage.reserve_bytes`.
const LARGEST_RESERVE: u64 = 1 << 40;

/// A broker whose configuration a test writes again and again.
struct Rig {
    broker: Broker,
}

impl Rig {
    /// Starts a broker of two shards that is told `said`, in which `ADDRESS` and `DIR` stand for its address and its directory.
    fn start(said: &str) -> Self {
        let mut rig = Self { broker: Broker::configured(|_| String::new()) };
        fs::write(rig.path("token"), TOKEN).unwrap();
        rig.say(said);
        rig.broker.restart();
        rig
    }

    /// A listener for anybody, and what stands before and behind it.
    fn open(before: &str, behind: &str) -> Self {
        Self::start(&listening(before, "ADDRESS", behind))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.broker.directory().join(name)
    }

    fn address(&self) -> SocketAddr {
        self.broker.address()
    }

    fn say(&self, said: &str) {
        let said = said
            .replace("ADDRESS", &self.address().to_string())
            .replace("DIR", &self.broker.directory().display().to_string());
        let head = format!("admin.token_file = {:?}\n", self.path("token"));
        fs::write(self.path("veilmq.toml"), head + &said).unwrap();
    }

    fn call(&self) -> Response {
        let authorization = format!("Authorization: Bearer {TOKEN}");
        http::request(self.broker.admin(), "POST", "/api/v1/reload", &[&authorization], "").unwrap()
    }

    /// Tells the broker something else, which it has to take, and returns what it answers.
    fn reload(&self, said: &str) -> Value {
        self.say(said);
        let answer = self.call();
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Tells the broker something else, which it has to refuse, and returns why.
    fn refused(&self, said: &str) -> String {
        self.say(said);
        let answer = self.call();
        assert_eq!(answer.status, 409, "{}", answer.body);
        assert_eq!(self.broker.metric("veilmq_config_last_reload_successful"), Some(0.0));
        answer.body
    }
}

/// A configuration with a listener that lets everybody in.
fn listening(before: &str, address: &str, behind: &str) -> String {
    format!(
        "{before}\naccess.anonymous = true\nshards.count = 2\n[[listeners]]\naddress = \"{address}\"\n{behind}"
    )
}

fn changed(changed: &[&str]) -> Value {
    json!({ "reloaded": true, "changed": changed, "next_start": [] })
}

fn is_served(wire: &mut Wire) -> bool {
    wire.send(PINGREQ).is_ok() && wire.packet().is_ok_and(|packet| packet.first == 0xd0)
}

/// Connects with MQTT 5 and returns the connection and what CONNACK announces, by the number of the property.
fn connect_v5(address: SocketAddr, client_id: &str) -> (Wire, BTreeMap<u8, u32>) {
    let mut wire = Wire::open(address);
    wire.send(&connect_packet_v5(client_id, 0)).unwrap();
    let RawPacket { first, body } = wire.packet().unwrap();
    assert_eq!((first, body[1]), (0x20, 0), "{body:?}");
    let mut announced = BTreeMap::new();
    let mut rest = &body[3..];
    while let [number, following @ ..] = rest {
        let width = match number {
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x21 | 0x22 => 2,
            0x11 | 0x27 => 4,
            other => panic!("property {other:#x} in {body:?}"),
        };
        let (value, following) = following.split_at(width);
        announced.insert(*number, value.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)));
        rest = following;
    }
    (wire, announced)
}

#[test]
fn listeners_come_and_go_and_clients_of_those_that_are_gone_go_with_them() {
    let second = ReservedPort::new();
    let also = format!("[[listeners]]\naddress = \"{}\"\nprotocol = \"mqtt\"\n", second.address());
    let rig = Rig::open("", "");
    let (mut early, _) = Wire::connect(rig.address(), "early", true);
    early.subscribe("news", 0);

    let answer = rig.reload(&listening("", "ADDRESS", &also));

    let added = format!("listener {} added", second.address());
    assert_eq!(answer["changed"][0], *added);
    assert!(rig.broker.log().contains(&added), "{}", rig.broker.log());
    let (mut late, _) = Wire::connect(second.address(), "late", true);
    late.subscribe("news", 0);
    let (mut lasting, _) = connect_v5(rig.address(), "lasting");
    let mut undecided = Wire::open(rig.address());
    let mut undecided_v5 = Wire::open(rig.address());
    wait_until("they are accepted", || rig.broker.metric("veilmq_connections") == Some(5.0));

    let answer = rig.reload(&listening("", &second.address().to_string(), ""));

    assert_eq!(answer["changed"][0], *format!("listener {} removed", rig.address()));
    assert_eq!(early.until_closed(), b"", "MQTT 3 has no words for it");
    let farewell = lasting.packet().unwrap();
    assert_eq!((farewell.first, farewell.body[0]), (0xe0, 0x98), "administrative action");
    undecided.send(&connect_packet("undecided", true)).unwrap();
    assert_eq!(undecided.until_closed(), [0x20, 2, 0, 3], "server unavailable");
    undecided_v5.send(&connect_packet_v5("undecided", 0)).unwrap();
    let refusal = undecided_v5.packet().unwrap();
    assert_eq!((refusal.first, refusal.body[1]), (0x20, 0x88), "server unavailable");
    wait_until("nobody is let in any more", || TcpStream::connect(rig.address()).is_err());
    let (mut publisher, _) = Wire::connect(second.address(), "publisher", true);
    publisher.send(&publish_packet("news", 7, 1, false, b"still here")).unwrap();
    assert_eq!(publisher.packet().unwrap().first, 0x40);
    assert_eq!(Published::read(&late.packet().unwrap()).unwrap().payload, b"still here");
    assert!(is_served(&mut late));
    assert_eq!(rig.broker.metric("veilmq_config_last_reload_successful"), Some(1.0));

    rig.reload(&listening("", "ADDRESS", &also));
    assert!(is_served(&mut Wire::connect(rig.address(), "again", true).0));
}

#[test]
fn what_cannot_be_bound_changes_nothing_at_all() {
    let rig = Rig::open("limits.receive_maximum = 10", "");
    let third = ReservedPort::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap();
    let (mut early, _) = Wire::connect(rig.address(), "early", true);
    let said = format!(
        "limits.receive_maximum = 20\naccess.anonymous = false\nshards.count = 2\n\
         [[listeners]]\naddress = \"{}\"\n[[listeners]]\naddress = \"{taken_address}\"\n",
        third.address()
    );

    let error = rig.refused(&said);

    assert!(error.contains(&format!("cannot listen on {taken_address}")), "{error}");
    assert!(rig.broker.log().contains("nothing has changed"));
    assert!(is_served(&mut early));
    assert!(TcpStream::connect(third.address()).is_err(), "the one that could be bound is not");
    assert_eq!(connect_v5(rig.address(), "late").1[&0x21], 10, "and everybody may connect as before");

    drop(taken);
    rig.reload(&said.replace("anonymous = false", "anonymous = true"));
    assert_eq!(connect_v5(taken_address, "late").1[&0x21], 20);
    assert!(!is_served(&mut early), "its listener is gone now");
}

#[test]
fn connack_announces_what_is_in_force_and_who_was_told_something_else_has_it_still() {
    // [MQTT-3.2.2-9] [MQTT-3.2.2-11] [MQTT-3.2.2-14] [MQTT-3.2.2-21]
    let rig = Rig::open("limits.packet_bytes_max = 2000\nlimits.receive_maximum = 5", "");
    let (mut early, told) = connect_v5(rig.address(), "early");
    assert_eq!((told[&0x27], told[&0x21], told.get(&0x25)), (2000, 5, None));

    let answer = rig.reload(&listening(
        "limits.packet_bytes_max = 300\nlimits.receive_maximum = 2\nlimits.topic_alias_maximum = 3\n\
         limits.keep_alive_seconds_max = 30\nlimits.session_queue_bytes_max = 4096\n\
         mqtt.maximum_qos = 1\nmqtt.retain_available = false\nmqtt.wildcard_subscription_available = false\n\
         mqtt.subscription_identifier_available = false\nmqtt.shared_subscription_available = false",
        "ADDRESS",
        "",
    ));

    assert_eq!(answer["next_start"], json!([]));
    let named = answer["changed"].as_array().unwrap();
    for key in ["mqtt.maximum_qos", "limits.receive_maximum", "limits.keep_alive_seconds_max"] {
        assert!(named.contains(&json!(key)), "{key} in {named:?}");
    }
    let (mut late, told) = connect_v5(rig.address(), "late");
    let expected = [
        (0x13, 30),
        (0x21, 2),
        (0x22, 3),
        (0x24, 1),
        (0x25, 0),
        (0x27, 300),
        (0x28, 0),
        (0x29, 0),
        (0x2a, 0),
    ];
    assert_eq!(told, BTreeMap::from(expected));

    // Retained, at QoS 2, larger than a packet may be now, and more of them than may be on their way now.
    for packet_id in 1..=5 {
        let mut large = publish_packet_v5("large", packet_id, 2, &[b'x'; 1_000]);
        large[0] |= 1;
        early.send(&large).unwrap();
        assert_eq!(early.packet().unwrap().first, 0x50);
    }
    early.send(&packet(0x82, b"\0\x07\x02\x0b\x09\0\x01#\0")).unwrap();
    assert_eq!(early.packet().unwrap().body[3..], [0], "a wildcard, with a Subscription Identifier");
    late.send(&publish_packet_v5("t", 1, 2, b"x")).unwrap();
    let farewell = late.packet().unwrap();
    assert_eq!((farewell.first, farewell.body[0]), (0xe0, 0x9b));
    let (mut late, _) = connect_v5(rig.address(), "late");
    late.send(&publish_packet_v5("t", 1, 1, &[b'x'; 300])).unwrap();
    let farewell = late.packet().unwrap();
    assert_eq!((farewell.first, farewell.body[0]), (0xe0, 0x95));
    assert!(is_served(&mut Wire::connect(rig.address(), "other", true).0));
}

#[test]
fn a_larger_reserve_of_the_disk_refuses_what_is_new_and_a_smaller_one_takes_it_again() {
    let keeping = |bytes: u64| listening(&format!("storage.reserve_bytes = {bytes}"), "ADDRESS", "");
    let rig = Rig::start(&keeping(1));
    let mut wire = Wire::open(rig.address());
    wire.send(&connect_packet_v5("c", 0)).unwrap();
    assert_eq!(wire.packet().unwrap().first, 0x20);
    let mut retain = |topic: &str| {
        let mut packet = publish_packet_v5(topic, 7, 1, b"m");
        packet[0] |= 1;
        wire.send(&packet).unwrap();
        let puback = wire.packet().unwrap();
        assert_eq!(puback.first, 0x40);
        puback.body.get(2).copied().unwrap_or(0)
    };
    assert!(retain("a") < 0x80);
    if rig.broker.metric("veilmq_storage_free_bytes") >= Some(LARGEST_RESERVE as f64) {
        println!("skipped: more is free than can be kept in reserve");
        return;
    }

    assert_eq!(rig.reload(&keeping(LARGEST_RESERVE)), changed(&["storage.reserve_bytes"]));
    wait_until("what is new is refused", || retain("b") == 0x97);

    assert_eq!(rig.reload(&keeping(1)), changed(&["storage.reserve_bytes"]));
    wait_until("what is new is taken", || retain("b") < 0x80);
}

#[test]
fn what_waits_for_the_next_start_is_named_and_does_nothing() {
    let rig = Rig::open("", "");
    let (mut early, _) = Wire::connect(rig.address(), "early", true);
    let said = listening(
        "storage.cache_bytes = 1048576\nprocess.pid_file = \"DIR/pid\"\nveil.enabled = false\nlimits.inflight_max = 3",
        "ADDRESS",
        "",
    );

    let answer = rig.reload(&said.replace("shards.count = 2", "shards.count = 3"));

    let next_start = ["process.pid_file", "shards.count", "storage.cache_bytes", "veil.enabled"];
    assert_eq!(
        answer,
        json!({ "reloaded": true, "changed": ["limits.inflight_max"], "next_start": next_start })
    );
    let log = rig.broker.log();
    assert!(log.contains(&format!("at the next start only: {}", next_start.join(", "))), "{log}");
    assert!(is_served(&mut early) && !rig.path("pid").exists());
    let answer = rig.reload(&listening("", "ADDRESS", ""));
    assert_eq!(answer, changed(&["limits.inflight_max"]));
    let answer = rig.reload(&listening("", "ADDRESS", ""));
    assert_eq!(answer, changed(&[]));
}

#[test]
fn a_listener_gets_tls_and_loses_it_again_and_no_connection_notices() {
    let authority = Authority::new();
    let own = authority.issue_for_this_machine();
    let tls = format!("[listeners.tls]\nminimum_version = \"1.2\"\n{}", own.on_listener());
    let rig = Rig::open("", "");
    let (mut plain, _) = Wire::connect(rig.address(), "plain", true);
    let client = TlsClient::new(&authority, None);

    let answer = rig.reload(&listening("", "ADDRESS", &tls));

    assert_eq!(answer["changed"][0], *format!("listener {} changed", rig.address()));
    let mut sealed = client.open(rig.address()).expect("TLS");
    sealed.write_all(&connect_packet("sealed", true)).unwrap();
    let mut connack = [0; 4];
    sealed.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let mut stranger = Wire::open(rig.address());
    stranger.send(&connect_packet("stranger", true)).unwrap();
    let is_let_in = stranger.packet().is_ok_and(|packet| packet.first == 0x20);
    assert!(!is_let_in, "who does not speak TLS is not heard");
    assert!(is_served(&mut plain));

    let broken = tls.replace("certificate_file", "certificate_file = \"/nowhere/crt\"\n#");
    let error = rig.refused(&listening("limits.inflight_max = 3", "ADDRESS", &broken));
    assert!(error.contains("/nowhere/crt"), "{error}");
    assert!(client.open(rig.address()).is_ok());

    let demanding = format!(
        "[listeners.tls]\nclient_certificate = \"required\"\nclient_ca_file = {:?}\n{}",
        authority.certificate(),
        own.on_listener()
    );
    rig.reload(&listening("", "ADDRESS", &demanding));
    let mut without = client.open(rig.address());
    let refused = without.as_mut().map(|stream| stream.read(&mut connack));
    assert!(matches!(refused, Err(_) | Ok(Err(_) | Ok(0))), "a certificate is asked for now");

    rig.reload(&listening("", "ADDRESS", ""));
    assert!(is_served(&mut Wire::connect(rig.address(), "late", true).0) && is_served(&mut plain));
    sealed.write_all(PINGREQ).unwrap();
    let mut answer = [0; 2];
    sealed.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0xd0, 0]);
}

#[test]
fn limits_on_connections_hold_for_who_comes_then() {
    let rig = Rig::open("", "");
    let mut early: Vec<Wire> =
        (0..3).map(|number| Wire::connect(rig.address(), &format!("early{number}"), true).0).collect();
    let is_let_in = |client_id: &str| {
        let mut wire = Wire::open(rig.address());
        (wire.send(&connect_packet(client_id, true)).is_ok() && wire.packet().is_ok()).then_some(wire)
    };

    for limits in ["limits.connections_max = 3", "limits.connections_per_address_max = 1"] {
        rig.reload(&listening(limits, "ADDRESS", ""));
        let first = is_let_in("late");
        let second = is_let_in("later");
        assert!(second.is_none(), "{limits}");
        // Nobody has counted the connections of an address before there was a limit.
        assert_eq!(first.is_some(), limits.contains("address"), "{limits}");
        assert!(early.iter_mut().all(is_served), "{limits}");
    }
    rig.reload(&listening("", "ADDRESS", "connections_max = 1"));
    let _first = is_let_in("late").expect("the first since the listener has a limit");
    assert!(is_let_in("later").is_none());
    rig.reload(&listening("rates.client_messages_per_second = 1", "ADDRESS", ""));
    let mut late = is_let_in("late").unwrap();
    let flood: Vec<u8> = (0..40).flat_map(|_| packet(0x30, b"\0\x01tx")).collect();
    late.send(&flood).unwrap();
    assert!(late.until_closed().is_empty(), "too much ahead of its rate");
    early[0].send(&flood).unwrap();
    assert!(early.iter_mut().all(is_served), "who was there is not measured");
}

#[test]
fn the_log_goes_elsewhere_and_reports_come_at_another_interval() {
    let rig = Rig::open("sys.interval_seconds = 0", "");
    let (mut watcher, _) = Wire::connect(rig.address(), "watcher", true);
    watcher.subscribe("$SYS/broker/uptime", 0);

    let log = "log.destinations = [\"DIR/other.log\"]\nlog.format = \"json\"\nlog.level = \"debug\"";
    let answer = rig.reload(&listening(&format!("sys.interval_seconds = 1\n{log}"), "ADDRESS", ""));

    let options = ["log.format", "log.level", "log.destinations", "sys.interval_seconds"];
    assert_eq!(answer, changed(&options));
    for _ in 0..2 {
        let report = Published::read(&watcher.packet().unwrap()).unwrap();
        assert_eq!(report.topic, "$SYS/broker/uptime");
    }
    let _late = Wire::connect(rig.address(), "somebody-else", true);
    wait_until("the line is in the other file", || {
        let lines = fs::read_to_string(rig.path("other.log")).unwrap_or_default();
        lines.lines().any(|line| line.starts_with('{') && line.contains("somebody-else"))
    });
    assert!(!rig.broker.log().contains("somebody-else"));
    let error = rig.refused(&listening("log.destinations = [\"/nowhere/log\"]", "ADDRESS", ""));
    assert!(error.contains("/nowhere/log"), "{error}");
}

#[test]
fn users_and_rules_of_a_listener_go_with_it_and_its_sessions_keep_theirs() {
    let second = ReservedPort::new();
    // A filter that takes in more than it may read is taken there.
    let compat = "acl.subscribe = \"compat\"";
    let rig = Rig::open(compat, "");
    fs::write(rig.path("rules"), "topic read mine\n").unwrap();
    let also = |file: &str| {
        let address = second.address();
        format!(
            "[[listeners]]\naddress = \"{address}\"\n[listeners.access]\nanonymous = true\nmosquitto_acl_file = \"DIR/{file}\"\n"
        )
    };
    rig.reload(&listening(compat, "ADDRESS", &also("rules")));
    let (mut guest, _) = Wire::connect(second.address(), "guest", false);
    guest.subscribe("+", 1);
    let (mut publisher, _) = Wire::connect(rig.address(), "publisher", true);
    // Both are published in this order, and the first that it may read comes first.
    let mut publish_both = || {
        for (topic, packet_id) in [("other", 1), ("mine", 2)] {
            publisher.send(&publish_packet(topic, packet_id, 1, false, b"x")).unwrap();
            assert_eq!(publisher.packet().unwrap().first, 0x40);
        }
    };
    let take = |guest: &mut Wire| {
        let published = Published::read(&guest.packet().unwrap()).unwrap();
        guest.send(&acknowledgement(0x40, published.packet_id)).unwrap();
        published.topic
    };
    publish_both();
    assert_eq!(take(&mut guest), "mine");

    rig.reload(&listening(compat, "ADDRESS", ""));
    assert_eq!(guest.until_closed(), b"");
    fs::remove_file(rig.path("rules")).unwrap();
    rig.reload(&listening(&format!("{compat}\nlimits.inflight_max = 9"), "ADDRESS", ""));
    publish_both();
    fs::write(rig.path("all"), "topic read #\n").unwrap();
    rig.reload(&listening(compat, "ADDRESS", &also("all")));
    let (mut guest, _) = Wire::connect(second.address(), "guest", false);

    assert_eq!(take(&mut guest), "mine", "what waits went by the rules that the session came under");
    publish_both();
    assert_eq!(
        take(&mut guest),
        "other",
        "what comes goes by those of its listener when that is there again"
    );
}

#[test]
fn a_mosquitto_conf_is_followed_where_listeners_are_concerned_too() {
    let place = Place::new();
    let second = ReservedPort::new();
    let state = place.persistence();
    let broker = place.start(&built_program("veilmq"), &state);
    let mut early = TcpStream::connect(broker.address).unwrap();
    early.write_all(&v3("early", true)).unwrap();
    assert_eq!(heard(&mut early), "20020000");

    let more =
        format!("{state}max_packet_size 200\nlistener {} 127.0.0.1\nmax_connections 1\n", second.number());
    let _ = place.write(&more);
    broker.signal(Signal::SIGHUP);

    wait_until("it listens", || TcpStream::connect(second.address()).is_ok());
    let mut late = None;
    wait_until("the probes are gone", || {
        let mut socket = TcpStream::connect(second.address()).unwrap();
        socket.write_all(&v3("late", true)).unwrap();
        let is_in = heard(&mut socket) == "20020000";
        late = Some(socket);
        is_in
    });
    let mut one_too_many = TcpStream::connect(second.address()).unwrap();
    let _ = one_too_many.write_all(&v3("later", true));
    assert_eq!(heard(&mut one_too_many), "closed");
    early.write_all(PINGREQ).unwrap();
    assert_eq!(heard(&mut early), "d000");

    let _ = place.write(&state);
    broker.signal(Signal::SIGHUP);

    wait_until("it does not listen any more", || TcpStream::connect(second.address()).is_err());
    assert_eq!(heard(&mut late.unwrap()), "closed", "its clients go with it");
    early.write_all(PINGREQ).unwrap();
    assert_eq!(heard(&mut early), "d000");
}

#[test]
fn who_connects_right_after_sighup_is_served_by_what_the_configuration_says_then() {
    let place = Place::new();
    let says = |anonymous: bool| format!("allow_anonymous {anonymous}\n");
    let broker = place.start(&built_program("veilmq"), &says(true));

    for round in 0..40 {
        let anonymous = round % 2 == 1;
        let _ = place.write(&says(anonymous));
        broker.signal(Signal::SIGHUP);
        let mut socket = TcpStream::connect(broker.address).unwrap();
        socket.write_all(&v3("c", true)).unwrap();

        assert_eq!(
            heard(&mut socket),
            if anonymous { "20020000" } else { "20020005closed" },
            "round {round}"
        );
    }
}
