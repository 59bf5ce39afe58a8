//! The VEIL-1 channel through a whole broker: handshake, records, fan-out, re-keying, re-authentication, refusals.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod bypasses;
mod distribution;
mod groups;
mod join;
mod one_trip;
mod operations;
mod paper;
mod property_mode;
mod reauthentication;
mod revocation;
mod wraps;

use veilmq_core::{FanOut, Input, OneTrip, Settings, VeilServer};
use veilmq_protocol::veil::channel::{
    AwaitServerHello, ClientHelloConfig, ClientStart, Content, Established, Identity, IdentityKeys,
    Predecessor, RecordOpener, RecordSealer, ServerPolicy, TrustAnchors,
};
use veilmq_protocol::veil::hello::ChannelForm;
use veilmq_protocol::veil::registry::{AUTHENTICATION_METHOD, Scheme, Schemes, Suite};
use veilmq_protocol::veil::vmc::{Certificate, CertificateFields, Roles};
use veilmq_protocol::{
    Auth, Connect, ConnectProperties, Packet, ProtocolVersion, QoS, ReasonCode, Subscribe,
    SubscribeFiltersBuf, TopicFilter, UserProperties, next_frame,
};
use veilmq_simulator::{Conn, World, connect_v5, describe_all, id, options, publish};

/// A body above the limit below which ordinary records serve better than FAN-D.
const LONG: &str = "a reading that is sealed end to end is longer than one hundred and twenty-eight bytes, so the broker \
                    authenticates it with one digest for all subscribers";

fn identity(seed: u8, subject: &str, roles: Roles, issuer: Option<&IdentityKeys>) -> Identity {
    identity_until(1_900_000_000, seed, subject, roles, issuer)
}

/// An identity whose certificate ends at `not_after`, in unix seconds.
fn identity_until(
    not_after: u64,
    seed: u8,
    subject: &str,
    roles: Roles,
    issuer: Option<&IdentityKeys>,
) -> Identity {
    let keys = IdentityKeys::from_seeds(&[seed; 32], &[seed ^ 0xFF; 32]);
    let fields = CertificateFields {
        roles,
        serial: u64::from(seed),
        not_before: 1_700_000_000,
        not_after,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: subject.to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    };
    let certificate = fields.sign(issuer.unwrap_or(&keys)).unwrap();
    Identity::new(certificate, keys).unwrap()
}

/// A certificate authority, a broker that trusts it, and the anchors of its clients.
struct Realm {
    authority: IdentityKeys,
    world: World,
    anchors: TrustAnchors,
    broker: Certificate,
}

fn realm(settings: Settings) -> Realm {
    realm_with(settings, ServerPolicy::default(), OneTrip::default())
}

fn realm_with(settings: Settings, policy: ServerPolicy, one_trip: OneTrip) -> Realm {
    realm_fanning(settings, policy, one_trip, FanOut::default())
}

fn realm_fanning(settings: Settings, policy: ServerPolicy, one_trip: OneTrip, fan_out: FanOut) -> Realm {
    realm_serving(settings, policy, one_trip, fan_out, true)
}

fn realm_serving(
    settings: Settings,
    policy: ServerPolicy,
    one_trip: OneTrip,
    fan_out: FanOut,
    property_requires_tls: bool,
) -> Realm {
    realm_changing(settings, |veil| {
        (veil.policy, veil.one_trip, veil.fan_out) = (policy, one_trip, fan_out);
        veil.property_requires_tls = property_requires_tls;
    })
}

/// A broker whose channel is served otherwise than by default.
fn realm_changing(settings: Settings, change: impl FnOnce(&mut VeilServer)) -> Realm {
    let authority = identity(1, "authority", Roles::CA, None);
    let authority_keys = IdentityKeys::from_seeds(&[1; 32], &[1 ^ 0xFF; 32]);
    let broker = identity(2, "broker", Roles::BROKER, None);
    let broker_certificate = broker.certificate().clone();
    let mut veil = VeilServer::new(broker);
    change(&mut veil);
    let world = World::with_veil(settings, veil);
    world.shared.trust().write().unwrap().add(authority.certificate().clone()).unwrap();
    let mut anchors = TrustAnchors::default();
    anchors.add(broker_certificate.clone()).unwrap();
    Realm { authority: authority_keys, world, anchors, broker: broker_certificate }
}

/// One client with its channel.
struct Client {
    connection: Conn,
    sealer: RecordSealer,
    opener: RecordOpener,
    predecessor: Predecessor,
}

impl Realm {
    fn identity(&self, seed: u8, subject: &str) -> Identity {
        identity(seed, subject, Roles::PUBLISHER, Some(&self.authority))
    }

    /// Sends CONNECT with a ClientHello and returns what the broker answers with.
    fn begin(&mut self, client_id: &str, schemes: Schemes, suite: Suite) -> (Conn, AwaitServerHello) {
        self.begin_with(connect_v5(client_id, true, 0), schemes, suite)
    }

    /// Sends `connect` with a ClientHello added and returns what the broker answers with.
    fn begin_with(
        &mut self,
        connect: Connect<'_>,
        schemes: Schemes,
        suite: Suite,
    ) -> (Conn, AwaitServerHello) {
        self.begin_in(ChannelForm::Records, connect, schemes, suite)
    }

    /// Does the same as a client that can do this after CONNACK.
    fn begin_in(
        &mut self,
        form: ChannelForm,
        connect: Connect<'_>,
        schemes: Schemes,
        suite: Suite,
    ) -> (Conn, AwaitServerHello) {
        let config = ClientHelloConfig {
            schemes,
            suites: &[suite],
            anchor: self.broker.kid(),
            now_unix_ms: Some(self.world.now().milliseconds()),
            form,
            join_request: None,
        };
        let (start, hello) = ClientStart::new(&config, &mut |bytes| bytes.fill(0x33)).unwrap();
        let connect = Packet::Connect(Connect {
            properties: ConnectProperties {
                authentication_method: Some(AUTHENTICATION_METHOD),
                authentication_data: Some(&hello),
                ..connect.properties
            },
            ..connect
        });
        let mut bytes = Vec::new();
        connect.encode(ProtocolVersion::V5, &mut bytes).unwrap();
        let connection = self.world.accept(0, ProtocolVersion::V5);
        self.world.send_bytes(connection, &bytes);
        (connection, start.sent_connect(&bytes))
    }

    fn finish(&mut self, connection: Conn, data: &[u8]) {
        self.world.send(
            connection,
            &Packet::Auth(Auth {
                reason: ReasonCode::ContinueAuthentication,
                method: Some(AUTHENTICATION_METHOD),
                data: Some(data),
                ..Auth::default()
            }),
        );
    }

    fn join(&mut self, client_id: &str, seed: u8, schemes: Schemes, suite: Suite) -> Client {
        self.join_with(connect_v5(client_id, true, 0), seed, schemes, suite)
    }

    /// Joins without Clean Start, for a session that outlives the connection.
    fn join_for(&mut self, client_id: &str, seed: u8, expiry_seconds: u32) -> Client {
        self.join_with(connect_v5(client_id, false, expiry_seconds), seed, Schemes::ALL, Suite::Aes256Gcm)
    }

    fn join_with(&mut self, connect: Connect<'_>, seed: u8, schemes: Schemes, suite: Suite) -> Client {
        let identity = self.identity(seed, connect.client_id);
        self.join_as(&identity, connect, schemes, suite)
    }

    fn join_as(
        &mut self,
        identity: &Identity,
        connect: Connect<'_>,
        schemes: Schemes,
        suite: Suite,
    ) -> Client {
        let (connection, awaiting) = self.begin_with(connect, schemes, suite);
        let established = self.conclude(identity, connection, awaiting);
        let (sealer, opener, predecessor) = established.into_parts();
        Client { connection, sealer, opener, predecessor }
    }

    /// Goes on from the broker's AUTH to CONNACK.
    fn conclude(&mut self, identity: &Identity, connection: Conn, awaiting: AwaitServerHello) -> Established {
        let bytes = self.world.bytes(connection);
        let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
        let Packet::Auth(auth) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
            panic!("expected AUTH, got {bytes:02x?}");
        };
        let (finish, awaiting) = awaiting
            .handle(auth.data.unwrap(), identity, &self.anchors, Some("broker"), Some(1_800_000_000))
            .unwrap();
        self.finish(connection, &finish);
        let connack = self.world.bytes(connection);
        awaiting.handle(&connack).unwrap()
    }

    fn send(&mut self, client: &mut Client, packets: &[Packet<'_>]) {
        let mut bytes = Vec::new();
        let open = client.sealer.begin(&mut bytes);
        for packet in packets {
            packet.encode(ProtocolVersion::V5, &mut bytes).unwrap();
        }
        client.sealer.finish(&mut bytes, open);
        self.world.send_bytes(client.connection, &bytes);
    }

    fn subscribe(&mut self, client: &mut Client, filter: &str) {
        let mut filters = SubscribeFiltersBuf::default();
        filters.push(TopicFilter::new(filter).unwrap(), options(QoS::AtLeastOnce)).unwrap();
        self.send(
            client,
            &[Packet::Subscribe(Subscribe {
                packet_id: id(9),
                subscription_id: None,
                user: UserProperties::default(),
                filters: filters.as_filters(),
            })],
        );
    }

    /// Opens the records a client has received; a fan-out message is marked with its record type, and operations are in words.
    fn received(&mut self, client: &mut Client) -> Vec<String> {
        self.operated(client, |_| {})
    }
}

#[test]
fn sealed_and_ordinary_clients_talk_to_each_other_in_every_suite_and_scheme() {
    for shards in [1, 3] {
        for suite in Suite::ALL {
            for scheme in [Scheme::Four, Scheme::Two] {
                let mut realm = realm(Settings { shards, ..Settings::default() });
                let schemes = Schemes::of(&[scheme]);
                let mut press = realm.join("press-07", 10, schemes, suite);
                let mut lake = realm.join("lake-1", 11, schemes, suite);
                let (plain, _) = realm.world.join("plain", true, 0);
                realm.subscribe(&mut lake, "f/#");
                realm.world.subscribe(plain, "f/#", QoS::AtMostOnce);
                assert_eq!(realm.received(&mut lake), ["SUBACK [01]"]);
                realm.world.bytes(plain);

                let messages = [
                    Packet::Publish(publish("f/t", LONG, QoS::AtLeastOnce, 1)),
                    Packet::Publish(publish("f/t", "short", QoS::AtLeastOnce, 2)),
                ];
                realm.send(&mut press, &messages);

                let kind = if scheme == Scheme::Four { "FAN" } else { "PUBLISH" };
                let identifier = if scheme == Scheme::Four { "" } else { " id1" };
                assert_eq!(
                    realm.received(&mut lake),
                    [
                        format!("{kind} f/t {LONG:?} qos1{identifier}"),
                        "PUBLISH f/t \"short\" qos1 id2".to_owned()
                    ],
                    "{suite:?} {scheme:?}"
                );
                assert_eq!(realm.received(&mut press), ["PUBACK id1", "PUBACK id2"]);
                assert_eq!(
                    realm.world.received(plain),
                    [format!("PUBLISH f/t {LONG:?} qos0"), "PUBLISH f/t \"short\" qos0".to_owned()]
                );
            }
        }
    }
}

#[test]
fn a_fan_out_record_names_its_topic_and_leaves_the_aliases_alone() {
    let mut realm = realm(Settings::default());
    let connect = connect_v5("lake-1", true, 0);
    let properties = ConnectProperties { topic_alias_maximum: 9, ..connect.properties };
    let connect = Connect { properties, ..connect };
    let mut lake = realm.join_with(connect, 11, Schemes::of(&[Scheme::Four]), Suite::Aes256Gcm);
    realm.subscribe(&mut lake, "plant/#");
    realm.received(&mut lake);
    let (press, _) = realm.world.join("press-07", true, 0);

    for payload in [LONG, "1", LONG, "2"] {
        realm.world.publish(press, "plant/press", payload, QoS::AtMostOnce, 0);
    }

    let fan = format!("FAN plant/press {LONG:?} qos0");
    assert_eq!(
        realm.received(&mut lake),
        [fan.as_str(), "PUBLISH plant/press \"1\" qos0 alias1", fan.as_str(), "PUBLISH  \"2\" qos0 alias1",]
    );
}

#[test]
fn a_flipped_bit_anywhere_in_a_record_ends_the_connection_without_an_answer() {
    let mut bytes = Vec::new();
    let mut sealed = realm(Settings::default());
    let mut client = sealed.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
    let open = client.sealer.begin(&mut bytes);
    Packet::PingReq.encode(ProtocolVersion::V5, &mut bytes).unwrap();
    client.sealer.finish(&mut bytes, open);
    sealed.world.send_bytes(client.connection, &bytes);
    assert_eq!(sealed.received(&mut client), ["PINGRESP"]);

    for bit in 0..8 * bytes.len() {
        let mut realm = realm(Settings { packet_bytes_max: 100_000, ..Settings::default() });
        let mut client = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
        let mut record = Vec::new();
        let open = client.sealer.begin(&mut record);
        Packet::PingReq.encode(ProtocolVersion::V5, &mut record).unwrap();
        client.sealer.finish(&mut record, open);
        record[bit / 8] ^= 1 << (bit % 8);
        // A record that claims to be longer, within the limit, is judged when it is whole.
        let claimed = 5 + u32::from_be_bytes(record[1..5].try_into().unwrap()) as usize;
        if claimed < 200_000 {
            record.resize(record.len().max(claimed), 0);
        }

        realm.world.send_bytes(client.connection, &record);

        assert!(realm.world.is_closed(client.connection), "bit {bit}");
        assert!(realm.world.bytes(client.connection).is_empty(), "bit {bit}");
        assert_eq!(realm.world.sample("veilmq_channel_record_auth_failures_total", ""), 1);
    }
}

#[test]
fn a_client_whose_certificate_is_refused_gets_connack_0x87_and_no_detail() {
    type Make = fn(&Realm) -> Identity;
    let cases: &[(&str, Make)] = &[
        ("another subject", |realm| realm.identity(10, "someone-else")),
        ("self-signed", |_| identity(10, "press-07", Roles::PUBLISHER, None)),
        ("another authority", |_| {
            let other = IdentityKeys::from_seeds(&[99; 32], &[98; 32]);
            identity(10, "press-07", Roles::PUBLISHER, Some(&other))
        }),
    ];
    for (name, make) in cases {
        let mut realm = realm(Settings::default());
        let identity = make(&realm);
        let (connection, awaiting) = realm.begin("press-07", Schemes::ALL, Suite::Aes256Gcm);
        let bytes = realm.world.bytes(connection);
        let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
        let Packet::Auth(auth) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
            panic!("no AUTH")
        };
        let (finish, _) = awaiting
            .handle(auth.data.unwrap(), &identity, &realm.anchors, None, Some(1_800_000_000))
            .unwrap();

        realm.finish(connection, &finish);

        assert_eq!(realm.world.bytes(connection), [0x20, 3, 0, 0x87, 0], "{name}");
        assert!(realm.world.is_closed(connection), "{name}");
        assert_eq!(realm.world.sample("veilmq_channel_handshakes_total", "failure"), 1, "{name}");
    }
}

#[test]
fn anything_but_auth_during_the_handshake_is_refused() {
    // [MQTT-3.1.2-30]
    let mut realm = realm(Settings { reason_strings: false, ..Settings::default() });
    let (connection, _) = realm.begin("press-07", Schemes::ALL, Suite::Aes256Gcm);
    realm.world.bytes(connection);

    realm.world.send(connection, &Packet::PingReq);

    assert_eq!(realm.world.bytes(connection), [0x20, 3, 0, 0x82, 0]);
}

#[test]
fn auth_and_connack_of_the_broker_carry_the_method_of_connect() {
    let mut realm = realm(Settings::default());
    let (connection, awaiting) = realm.begin("press-07", Schemes::ALL, Suite::Aes256Gcm);
    let bytes = realm.world.bytes(connection);
    let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
    let Packet::Auth(auth) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else { panic!("no AUTH") };

    // [MQTT-4.12.0-2], [MQTT-4.12.0-5]
    assert_eq!(auth.reason, ReasonCode::ContinueAuthentication);
    assert_eq!(auth.method, Some(AUTHENTICATION_METHOD));
    // [MQTT-3.15.2-2], [MQTT-3.15.2-3]
    assert_eq!((auth.reason_string, auth.user.is_empty()), (None, true));

    let identity = realm.identity(10, "press-07");
    let (finish, _) =
        awaiting.handle(auth.data.unwrap(), &identity, &realm.anchors, None, Some(1_800_000_000)).unwrap();
    realm.finish(connection, &finish);

    let bytes = realm.world.bytes(connection);
    let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
    let Packet::ConnAck(connack) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
        panic!("no CONNACK")
    };
    assert_eq!(connack.reason, ReasonCode::Success);
    assert_eq!(connack.properties.authentication_method, Some(AUTHENTICATION_METHOD));
}

#[test]
fn auth_that_does_not_continue_the_method_is_refused() {
    // [MQTT-4.12.0-3], [MQTT-4.12.0-4], [MQTT-4.12.0-5]
    let rows = [
        (ReasonCode::ReAuthenticate, AUTHENTICATION_METHOD),
        (ReasonCode::Success, AUTHENTICATION_METHOD),
        (ReasonCode::ContinueAuthentication, "another"),
    ];
    for (reason, method) in rows {
        let mut realm = realm(Settings { reason_strings: false, ..Settings::default() });
        let (connection, _) = realm.begin("press-07", Schemes::ALL, Suite::Aes256Gcm);
        realm.world.bytes(connection);

        let auth = Auth { reason, method: Some(method), data: Some(b"x"), ..Auth::default() };
        realm.world.send(connection, &Packet::Auth(auth));

        assert_eq!(realm.world.bytes(connection), [0x20, 3, 0, 0x82, 0], "{reason} {method}");
        assert!(realm.world.is_closed(connection), "{reason} {method}");
    }
}

#[test]
fn plain_packets_after_the_handshake_break_the_channel() {
    let mut realm = realm(Settings::default());
    let client = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);

    realm.world.send(client.connection, &Packet::Publish(publish("f/t", LONG, QoS::AtMostOnce, 0)));

    assert!(realm.world.is_closed(client.connection));
    assert!(realm.world.bytes(client.connection).is_empty());
}

#[test]
fn while_many_handshakes_are_half_open_an_address_begins_four_a_second() {
    // [A13]
    let mut realm = realm(Settings { half_open_max: 1, reason_strings: false, ..Settings::default() });
    let is_refused = |realm: &mut Realm| {
        let (connection, _) = realm.begin("a", Schemes::ALL, Suite::Aes256Gcm);
        realm.world.bytes(connection) == [0x20, 3, 0, 0x97, 0]
    };

    assert_eq!([(); 6].map(|()| is_refused(&mut realm)), [false, false, false, false, false, true]);

    realm.world.pass(1_000);
    assert!(!is_refused(&mut realm));
}

#[test]
fn a_handshake_counts_as_half_open_once_however_it_ends() {
    let mut realm = realm(Settings { half_open_max: 1, ..Settings::default() });
    let cut_short = [0xF0, 2, 0x18, 9];
    let not_auth = [0xC0, 0];
    let too_large = [0xF0, 0xFF, 0xFF, 0x7F];
    for ending in [&cut_short[..], &not_auth, &too_large, &[]].repeat(3) {
        let (connection, _) = realm.begin("a", Schemes::ALL, Suite::Aes256Gcm);
        assert_eq!(realm.world.bytes(connection)[0], 0xF0, "AUTH");
        if ending.is_empty() {
            realm.world.cut(connection);
        } else {
            realm.world.send_bytes(connection, ending);
        }
        assert!(realm.world.is_closed(connection), "{ending:02x?}");
    }
    assert_eq!(realm.world.sample("veilmq_channel_handshakes_total", "failure"), 12);

    realm.join("c", 12, Schemes::ALL, Suite::Aes256Gcm);
}

#[test]
fn a_client_without_an_identity_cannot_have_the_session_of_one_with() {
    for shards in [1, 3] {
        let mut realm = realm(Settings { shards, ..Settings::default() });
        let mut press = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
        for clean_start in [false, true] {
            let thief = realm.world.connect(&connect_v5("press-07", clean_start, 60));
            assert_eq!(realm.world.bytes(thief), [0x20, 3, 0, 0x87, 0]);
            assert!(realm.world.is_closed(thief));
        }
        realm.send(&mut press, &[Packet::PingReq]);

        assert_eq!(realm.received(&mut press), ["PINGRESP"], "it is still connected");
        realm.join("press-07", 11, Schemes::ALL, Suite::Aes256Gcm);
        assert!(realm.world.is_closed(press.connection), "who proves the name takes over");
    }
}

#[test]
fn a_stored_session_is_for_its_identity_after_a_restart_too() {
    let mut realm = realm(Settings::default());
    realm.join_for("press-07", 10, 600);

    let (mut world, _) = realm.world.crash(1);
    let thief = world.connect(&connect_v5("press-07", false, 60));

    assert_eq!(world.bytes(thief), [0x20, 3, 0, 0x87, 0]);
}

#[test]
fn an_identity_does_not_inherit_what_a_stranger_did_under_its_name() {
    let mut realm = realm(Settings::default());
    let (stranger, _) = realm.world.join("press-07", true, 600);
    realm.world.subscribe(stranger, "f/#", QoS::AtLeastOnce);

    let mut press = realm.join_for("press-07", 10, 600);

    assert!(realm.world.is_closed(stranger));
    let (other, _) = realm.world.join("other", true, 0);
    realm.world.send(other, &Packet::Publish(publish("f/t", "x", QoS::AtMostOnce, 0)));
    assert_eq!(realm.received(&mut press), Vec::<String>::new());
}

#[test]
fn a_connection_ends_five_minutes_after_the_certificate_it_was_made_under() {
    let one_trip = OneTrip { ticket_milliseconds: 0, ..OneTrip::default() };
    let mut realm = realm_with(Settings::default(), ServerPolicy::default(), one_trip);
    let mut press = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
    let (plain, _) = realm.world.join("plain", true, 0);
    let left_ms = (1_900_000_000 * 1_000) - realm.world.now().milliseconds();

    realm.world.pass(left_ms + 299_999);
    assert!(!realm.world.is_closed(press.connection));
    realm.world.pass(1);

    assert!(realm.world.is_closed(press.connection));
    assert_eq!(realm.received(&mut press), ["DISCONNECT 0x87"]);
    assert!(!realm.world.is_closed(plain));
}
