//! COMPACT and RESUME through a whole broker: deferred takeover, replays, tickets (VEIL-1 sections 4.6 and 4.7).

use veilmq_protocol::Will;
use veilmq_protocol::veil::channel::{
    AwaitCompactAnswer, AwaitResumeAnswer, CompactStart, ResumeStart, Resumption,
};

use super::*;

/// A CONNACK with this Reason Code and nothing else.
fn refusal(reason: u8) -> [u8; 5] {
    [0x20, 3, 0, reason, 0]
}

pub(super) fn with_hello(connect: Connect<'_>, hello: &[u8]) -> Vec<u8> {
    let properties = ConnectProperties {
        authentication_method: Some(AUTHENTICATION_METHOD),
        authentication_data: Some(hello),
        ..connect.properties
    };
    let mut bytes = Vec::new();
    Packet::Connect(Connect { properties, ..connect }).encode(ProtocolVersion::V5, &mut bytes).unwrap();
    bytes
}

impl Realm {
    fn config<'a>(&self, schemes: Schemes, suites: &'a [Suite]) -> ClientHelloConfig<'a> {
        let now_unix_ms = Some(self.world.now().milliseconds());
        ClientHelloConfig {
            schemes,
            suites,
            anchor: self.broker.kid(),
            now_unix_ms,
            form: ChannelForm::Records,
            join_request: None,
        }
    }

    /// The CONNECT of COMPACT; `nonce` makes it another one.
    pub(super) fn compact(
        &self,
        seed: u8,
        connect: Connect<'_>,
        schemes: Schemes,
        suite: Suite,
        nonce: u8,
    ) -> (Vec<u8>, AwaitCompactAnswer) {
        let identity = self.identity(seed, connect.client_id);
        let suites = [suite];
        let config = self.config(schemes, &suites);
        let (start, hello) =
            CompactStart::new(&config, &identity, "broker", &mut |bytes| bytes.fill(nonce)).unwrap();
        let mut bytes = with_hello(connect, &hello);
        let awaiting = start.sign_connect(&identity, &mut bytes).unwrap();
        (bytes, awaiting)
    }

    /// Sends a CONNECT as it is, from whoever.
    pub(super) fn send_connect(&mut self, bytes: &[u8]) -> Conn {
        let connection = self.world.accept(0, ProtocolVersion::V5);
        self.world.send_bytes(connection, bytes);
        connection
    }

    /// Connects with COMPACT as far as CONNACK; gives what else came with it to the opener.
    pub(super) fn open(&mut self, seed: u8, connect: Connect<'_>, nonce: u8) -> (Client, Option<Resumption>) {
        let (bytes, awaiting) = self.compact(seed, connect, Schemes::ALL, Suite::Aes256Gcm, nonce);
        let connection = self.send_connect(&bytes);
        let connack = self.world.bytes(connection);
        let established = awaiting.handle(&connack, &self.anchors, Some(1_800_000_000)).unwrap();
        client(connection, established)
    }

    /// The CONNECT of RESUME.
    pub(super) fn resume(
        &self,
        connect: Connect<'_>,
        resumption: Resumption,
    ) -> (Vec<u8>, AwaitResumeAnswer) {
        let config = self.config(Schemes::ALL, &Suite::ALL);
        let (start, hello) = ResumeStart::new(&config, resumption, &mut |bytes| bytes.fill(0x44)).unwrap();
        let mut bytes = with_hello(connect, &hello);
        let awaiting = start.bind_connect(&mut bytes).unwrap();
        (bytes, awaiting)
    }

    fn failures(&self) -> u64 {
        self.world.sample("veilmq_channel_handshakes_total", "failure")
    }

    fn successes(&self) -> u64 {
        self.world.sample("veilmq_channel_handshakes_total", "success")
    }
}

pub(super) fn client(connection: Conn, mut established: Established) -> (Client, Option<Resumption>) {
    let resumption = established.take_resumption();
    let (sealer, opener, predecessor) = established.into_parts();
    (Client { connection, sealer, opener, predecessor }, resumption)
}

/// Where the last byte of the client's proof is in a CONNECT.
fn end_of_proof(connect: &[u8]) -> usize {
    let (frame, _) = next_frame(connect, usize::MAX).unwrap().unwrap();
    let Packet::Connect(decoded) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
        panic!("CONNECT")
    };
    let data = decoded.properties.authentication_data.unwrap();
    data.as_ptr().addr() - connect.as_ptr().addr() + data.len() - 1
}

/// The type of the first packet that arrived.
fn first_packet(bytes: &[u8]) -> u8 {
    bytes[0] >> 4
}

#[test]
fn a_client_that_cannot_send_auth_connects_in_every_suite_and_scheme() {
    for shards in [1, 3] {
        for suite in Suite::ALL {
            for scheme in [Scheme::Four, Scheme::Two] {
                let mut realm = realm(Settings { shards, ..Settings::default() });
                let connect = connect_v5("press-07", true, 0);
                let (bytes, awaiting) = realm.compact(10, connect, Schemes::of(&[scheme]), suite, 1);
                let connection = realm.send_connect(&bytes);
                let connack = realm.world.bytes(connection);
                let established = awaiting.handle(&connack, &realm.anchors, Some(1_800_000_000)).unwrap();
                assert_eq!((established.scheme, established.suite), (scheme, suite));
                let (mut press, _) = client(connection, established);

                realm.subscribe(&mut press, "f/#");
                assert_eq!(realm.received(&mut press), ["SUBACK [01]"]);
                assert_eq!((realm.successes(), realm.failures()), (1, 0));
            }
        }
    }
}

#[test]
fn a_stolen_and_replayed_connect_evicts_nobody() {
    for shards in [1, 3] {
        let mut realm = realm(Settings { shards, reason_strings: false, ..Settings::default() });
        let (stolen, awaiting) =
            realm.compact(10, connect_v5("press-07", false, 600), Schemes::ALL, Suite::Aes256Gcm, 1);
        let connection = realm.send_connect(&stolen);
        let connack = realm.world.bytes(connection);
        let established = awaiting.handle(&connack, &realm.anchors, Some(1_800_000_000)).unwrap();
        let (mut press, _) = client(connection, established);
        realm.send(&mut press, &[Packet::PingReq]);
        assert_eq!(realm.received(&mut press), ["PINGRESP"]);

        // As long as the broker remembers it, and longer than it is good for.
        for wait in [0, 60_000, 60_000, 60_000, 60_000, 1, 600_000] {
            realm.world.pass(wait);
            let thief = realm.send_connect(&stolen);
            assert_eq!(realm.world.bytes(thief), refusal(0x87), "after {wait} ms");
            assert!(realm.world.is_closed(thief));
        }

        realm.send(&mut press, &[Packet::PingReq]);
        assert_eq!(realm.received(&mut press), ["PINGRESP"]);
    }
}

#[test]
fn a_connect_replayed_to_a_broker_that_has_not_seen_it_evicts_nobody_either() {
    for shards in [1, 3] {
        let mut realm = realm(Settings { shards, ..Settings::default() });
        // It never arrived, or before a restart.
        let (stolen, _) =
            realm.compact(10, connect_v5("press-07", true, 600), Schemes::ALL, Suite::Aes256Gcm, 1);
        let mut press = realm.join_for("press-07", 10, 600);
        realm.subscribe(&mut press, "f/#");
        realm.received(&mut press);

        let thief = realm.send_connect(&stolen);
        assert_eq!(first_packet(&realm.world.bytes(thief)), 2, "CONNACK");
        let (other, _) = realm.world.join("other", true, 0);
        realm.world.publish(other, "f/t", "for the client alone", QoS::AtLeastOnce, 1);
        assert!(realm.world.bytes(thief).is_empty());
        realm.world.send_bytes(
            thief,
            &[1, 0, 0, 0, 18, 0xC0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        );

        assert!(realm.world.is_closed(thief));
        assert!(realm.world.bytes(thief).is_empty(), "nothing is said to who does not know the keys");
        assert_eq!(realm.received(&mut press), ["PUBLISH f/t \"for the client alone\" qos1 id1"]);
        assert!(!realm.world.is_closed(press.connection));
        assert_eq!(realm.failures(), 1);
    }
}

#[test]
fn before_the_first_record_nothing_changes_and_with_it_the_session_is_taken_over() {
    let mut realm = realm(Settings::default());
    let (watcher, _) = realm.world.join("watcher", true, 0);
    realm.world.subscribe(watcher, "#", QoS::AtMostOnce);
    realm.world.bytes(watcher);
    let connect = connect_v5("press-07", false, 600);
    let will = Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: veilmq_protocol::TopicName::new("will").unwrap(),
        payload: b"gone",
        delay_seconds: 0,
        properties: veilmq_protocol::PublishProperties::default(),
    };
    let mut old =
        realm.join_with(Connect { will: Some(will), ..connect }, 10, Schemes::ALL, Suite::Aes256Gcm);
    realm.subscribe(&mut old, "f/#");
    realm.received(&mut old);

    let (mut new, _) = realm.open(10, connect, 1);
    realm.world.publish(watcher, "f/t", "one", QoS::AtMostOnce, 0);
    assert_eq!(realm.world.received(watcher), ["PUBLISH f/t \"one\" qos0"]);
    assert_eq!(realm.received(&mut old), ["PUBLISH f/t \"one\" qos0"]);
    assert_eq!(realm.received(&mut new), Vec::<String>::new());

    realm.send(&mut new, &[Packet::PingReq]);
    assert_eq!(realm.received(&mut old), ["DISCONNECT 0x8e"]);
    assert!(realm.world.is_closed(old.connection));
    assert_eq!(realm.world.received(watcher), ["PUBLISH will \"gone\" qos0"]);
    realm.world.publish(watcher, "f/t", "two", QoS::AtMostOnce, 0);
    assert_eq!(realm.received(&mut new), ["PINGRESP", "PUBLISH f/t \"two\" qos0"]);
}

#[test]
fn what_waits_comes_after_the_first_record() {
    let mut realm = realm(Settings::default());
    let mut old = realm.join_for("press-07", 10, 600);
    realm.subscribe(&mut old, "f/#");
    realm.world.cut(old.connection);
    let (other, _) = realm.world.join("other", true, 0);
    realm.world.publish(other, "f/t", "waiting", QoS::AtLeastOnce, 1);

    let (mut new, _) = realm.open(10, connect_v5("press-07", false, 600), 1);
    assert_eq!(realm.received(&mut new), Vec::<String>::new());
    realm.send(&mut new, &[Packet::PingReq]);

    assert_eq!(realm.received(&mut new), ["PUBLISH f/t \"waiting\" qos1 id1", "PINGRESP"]);
}

#[test]
fn who_sends_no_record_in_time_is_let_go_without_a_word() {
    let mut realm = realm(Settings::default());
    let (client, _) = realm.open(10, connect_v5("press-07", true, 0), 1);

    realm.world.pass(4_999);
    assert!(!realm.world.is_closed(client.connection));
    realm.world.pass(1);

    assert!(realm.world.is_closed(client.connection));
    assert!(realm.world.bytes(client.connection).is_empty());
    assert_eq!((realm.successes(), realm.failures()), (0, 1));
    assert_eq!(realm.world.sample("veilmq_connections_closed_total", "connect_timeout"), 1);
}

#[test]
fn a_session_that_is_no_longer_what_connack_said_is_not_given() {
    let mut realm = realm(Settings { reason_strings: false, ..Settings::default() });
    let (mut press, _) = realm.open(10, connect_v5("press-07", false, 600), 1);
    let meanwhile = realm.join_for("press-07", 10, 600);

    realm.send(&mut press, &[Packet::PingReq]);

    assert_eq!(realm.received(&mut press), ["goodbye 0x89", "DISCONNECT 0x89"]);
    assert!(realm.world.is_closed(press.connection));
    assert!(!realm.world.is_closed(meanwhile.connection));
}

#[test]
fn compact_is_refused_with_the_codes_of_section_16() {
    type Make = fn(&mut Realm) -> Vec<u8>;
    let good: Make =
        |realm| realm.compact(10, connect_v5("press-07", true, 0), Schemes::ALL, Suite::Aes256Gcm, 1).0;
    let old: Make = |realm| {
        let connect = connect_v5("press-07", true, 0);
        let (bytes, _) = realm.compact(10, connect, Schemes::ALL, Suite::Aes256Gcm, 1);
        realm.world.pass(120_001);
        bytes
    };
    let off = OneTrip { compact: false, ..OneTrip::default() };
    let full = OneTrip { replays_max: 0, ..OneTrip::default() };
    let rows: [(&str, OneTrip, Make, u8); 3] = [
        ("not served", off, good, 0x8C),
        ("too old", OneTrip::default(), old, 0x87),
        ("nothing more can be remembered", full, good, 0x97),
    ];
    for (name, one_trip, make, reason) in rows {
        let settings = Settings { reason_strings: false, ..Settings::default() };
        let mut realm = realm_with(settings, ServerPolicy::default(), one_trip);
        let bytes = make(&mut realm);

        let connection = realm.send_connect(&bytes);

        assert_eq!(realm.world.bytes(connection), refusal(reason), "{name}");
        assert!(realm.world.is_closed(connection), "{name}");
    }
}

#[test]
fn a_changed_connect_of_compact_is_refused() {
    let mut realm = realm(Settings { reason_strings: false, ..Settings::default() });
    let connect = connect_v5("press-07", true, 0);
    let (bytes, _) = realm.compact(10, connect, Schemes::ALL, Suite::Aes256Gcm, 1);
    let flags = bytes.windows(4).position(|window| window == b"MQTT").unwrap() + 5;
    let clean_start = 2;
    for (at, bit) in [(flags, clean_start), (end_of_proof(&bytes), 1)] {
        let mut changed = bytes.clone();
        changed[at] ^= bit;

        let connection = realm.send_connect(&changed);

        assert_eq!(realm.world.bytes(connection), refusal(0x87), "byte {at}");
        assert!(realm.world.is_closed(connection), "byte {at}");
    }
}

#[test]
fn a_client_comes_back_with_its_ticket_once() {
    let mut realm = realm(Settings { reason_strings: false, ..Settings::default() });
    let connect = connect_v5("press-07", false, 600);
    let (mut first, ticket) = realm.open(10, connect, 1);
    realm.subscribe(&mut first, "f/#");
    realm.world.cut(first.connection);

    let (bytes, awaiting) = realm.resume(connect, ticket.unwrap());
    let connection = realm.send_connect(&bytes);
    let connack = realm.world.bytes(connection);
    assert_eq!(connack[..2], [0x20, connack[1]]);
    let (mut second, ticket) = client(connection, awaiting.handle(&connack).unwrap());
    realm.send(&mut second, &[Packet::PingReq]);
    assert_eq!(realm.received(&mut second), ["PINGRESP"]);
    assert!(ticket.is_some(), "for the next time");

    let again = realm.send_connect(&bytes);
    assert_eq!(first_packet(&realm.world.bytes(again)), 15, "AUTH: SIGMA is asked for");
    assert!(!realm.world.is_closed(second.connection));
}

#[test]
fn a_ticket_without_its_secret_is_refused_and_a_revoked_client_is_not_resumed() {
    let mut realm = realm(Settings { reason_strings: false, ..Settings::default() });
    let connect = connect_v5("press-07", true, 0);
    let (_, ticket) = realm.open(10, connect, 1);
    let (bytes, _) = realm.resume(connect, ticket.unwrap());
    let mut changed = bytes.clone();
    let end = end_of_proof(&changed);
    changed[end] ^= 1;

    let guesser = realm.send_connect(&changed);
    assert_eq!(realm.world.bytes(guesser), refusal(0x87));

    let authority = realm.authority.kid();
    realm.world.shared.trust().write().unwrap().revoke(authority, 10);
    let revoked = realm.send_connect(&bytes);
    assert_eq!(first_packet(&realm.world.bytes(revoked)), 15, "SIGMA is asked for, and will fail");
}

#[test]
fn a_broker_that_gives_no_tickets_says_so_by_giving_none() {
    let one_trip = OneTrip { ticket_milliseconds: 0, ..OneTrip::default() };
    let mut realm = realm_with(Settings::default(), ServerPolicy::default(), one_trip);

    let (_, ticket) = realm.open(10, connect_v5("press-07", true, 0), 1);

    assert!(ticket.is_none());
}

#[test]
fn a_handshake_of_one_trip_is_half_open_until_the_first_record() {
    let settings = Settings { half_open_max: 1, reason_strings: false, ..Settings::default() };
    let mut realm = realm(settings);
    let open = |realm: &mut Realm, nonce: u8| {
        let connect = connect_v5("press-07", true, 0);
        let (bytes, _) = realm.compact(10, connect, Schemes::ALL, Suite::Aes256Gcm, nonce);
        let connection = realm.send_connect(&bytes);
        realm.world.bytes(connection) == refusal(0x97)
    };

    let refused: Vec<bool> = (1..=6).map(|nonce| open(&mut realm, nonce)).collect();
    assert_eq!(refused, [false, false, false, false, false, true]);

    realm.world.pass(5_000);
    assert!(!open(&mut realm, 7));
}
