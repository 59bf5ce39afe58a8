//! The session on a VEIL-1 channel, against the broker's side of the handshake and of the records in memory.
#![allow(clippy::unwrap_used, reason = "test code")]

mod driver;
mod join;
mod one_trip;
mod operations;
mod reauthentication;
#[path = "../sdk_support/mod.rs"]
mod sdk_support;

use std::sync::Arc;

use sdk_support::{
    Rig, UNIX_MS, acknowledgement, closed, connack, describe, encode, incoming, publish_bytes,
};
use veilmq_client::{
    QoS, ReasonCode,
    session::{Channel, ChannelOptions, CloseReason, Event, SessionOptions},
};
use veilmq_protocol::{
    Auth, ConnAck, ConnAckProperties, Packet, ProtocolVersion, PublishHead, next_frame,
    veil::{
        Certificate, CertificateError, CertificateFields, Roles, Scheme, Schemes, Suite,
        channel::{
            Content, GroupSealer, HandshakeError, Identity, IdentityKeys, Predecessor, RecordError,
            RecordOpener, RecordSealer, Secret32, ServerPolicy, ServerStart, TrustAnchors, gbody_digest,
        },
        fanout::put_subscriber_header,
        hello::ServerFinishParams,
        record::{ControlOp, RecordType, SharedBody},
        registry::AUTHENTICATION_METHOD,
    },
};

const NOW: u64 = UNIX_MS / 1_000;
const RECORD_BYTES_MAX: usize = 1 << 16;

fn keys(seed: u8) -> IdentityKeys {
    IdentityKeys::from_seeds(&[seed; 32], &[seed + 1; 32])
}

fn certificate(keys: &IdentityKeys, roles: Roles, subject: &str, issuer: &IdentityKeys) -> Certificate {
    certificate_with(1, keys, roles, subject, issuer)
}

fn certificate_with(
    serial: u64,
    keys: &IdentityKeys,
    roles: Roles,
    subject: &str,
    issuer: &IdentityKeys,
) -> Certificate {
    let fields = CertificateFields {
        roles,
        serial,
        not_before: NOW - 60,
        not_after: NOW + 3_600,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: subject.to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    };
    fields.sign(issuer).unwrap()
}

fn authority() -> IdentityKeys {
    keys(1)
}

fn trust() -> TrustAnchors {
    let mut anchors = TrustAnchors::new();
    anchors.add(certificate(&authority(), Roles::CA, "ca", &authority())).unwrap();
    anchors
}

fn identity(seed: u8, roles: Roles, subject: &str) -> Identity {
    Identity::new(certificate(&keys(seed), roles, subject, &authority()), keys(seed)).unwrap()
}

fn options(suite: Suite, scheme: Scheme) -> SessionOptions {
    let client = Arc::new(identity(10, Roles::PUBLISHER, "press-07"));
    let channel = ChannelOptions {
        suites: vec![suite],
        schemes: Schemes::of(&[scheme]),
        broker: Some("broker-a".to_owned()),
        ..ChannelOptions::new(client, Arc::new(trust()))
    };
    SessionOptions { channel: Some(channel), ..SessionOptions::new("press-07") }
}

/// The broker's end of a channel.
struct Server {
    sealer: RecordSealer,
    opener: RecordOpener,
    predecessor: Predecessor,
}

/// Takes the single packet in `bytes`.
fn decode(bytes: &[u8]) -> Packet<'_> {
    let (frame, len) = next_frame(bytes, bytes.len()).unwrap().unwrap();
    assert_eq!(len, bytes.len(), "one packet");
    Packet::decode(frame, ProtocolVersion::V5).unwrap()
}

fn auth(data: &[u8]) -> Packet<'_> {
    let reason = ReasonCode::ContinueAuthentication;
    Packet::Auth(Auth { reason, method: Some(AUTHENTICATION_METHOD), data: Some(data), ..Auth::default() })
}

/// Runs the handshake up to the CONNACK, which the test may change before the client gets it.
fn handshake(rig: &mut Rig, broker: &Identity, touch: impl FnOnce(&mut Vec<u8>)) -> Option<Server> {
    handshake_with(rig, broker, ServerFinishParams::default(), touch)
}

/// Does the same with what the broker says in its ServerFinish.
fn handshake_with(
    rig: &mut Rig,
    broker: &Identity,
    params: ServerFinishParams,
    touch: impl FnOnce(&mut Vec<u8>),
) -> Option<Server> {
    rig.connect();
    let connect_bytes = rig.sent();
    let Packet::Connect(connect) = decode(&connect_bytes) else { panic!("CONNECT") };
    assert_eq!(connect.properties.authentication_method, Some(AUTHENTICATION_METHOD));
    let policy = ServerPolicy { schemes: Schemes::ALL, ..ServerPolicy::default() };
    let hello = connect.properties.authentication_data.unwrap();
    let mut entropy = |bytes: &mut [u8]| bytes.fill(99);
    let (server_hello, server) =
        ServerStart.handle(&connect_bytes, hello, broker, &policy, UNIX_MS, &mut entropy).unwrap();

    rig.receive(&auth(&server_hello));
    if let Some(event) = rig.poll() {
        rig.session.receive(b"");
        panic!("{}", describe(Some(&event)));
    }
    let finish_bytes = rig.sent();
    let Packet::Auth(finish) = decode(&finish_bytes) else { panic!("AUTH") };
    assert_eq!(finish.reason, ReasonCode::ContinueAuthentication);
    let accepted = server.handle(finish.data.unwrap(), &trust(), connect.client_id, NOW).ok()?;
    let (data, server) = accepted.server_finish(params).unwrap();
    let mut connack = encode(&Packet::ConnAck(connack(ConnAckProperties {
        authentication_method: Some(AUTHENTICATION_METHOD),
        authentication_data: Some(&data),
        ..ConnAckProperties::default()
    })));
    let established = server.seal_connack(&mut connack).unwrap();
    touch(&mut connack);
    rig.session.receive(&connack);
    let (sealer, opener, predecessor) = established.into_parts();
    Some(Server { sealer, opener, predecessor })
}

/// A session on a channel, and the broker's end of it.
fn connected(suite: Suite, scheme: Scheme) -> (Rig, Server) {
    let mut rig = Rig::new(options(suite, scheme));
    let broker = identity(20, Roles::BROKER, "broker-a");
    let server = handshake(&mut rig, &broker, |_| {}).unwrap();
    let Some(Event::Connected { session_present: false, channel: Some(channel) }) = rig.poll() else {
        panic!("not connected");
    };
    let expected = Channel { scheme, suite, broker: "broker-a".to_owned(), broker_kid: broker.kid() };
    assert_eq!(channel, expected);
    (rig, server)
}

/// Opens everything the client sent; gives the packets of each record.
fn open(server: &mut Server, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let record = server.opener.next(&mut bytes, RECORD_BYTES_MAX).unwrap().unwrap();
        if let Content::Packets(range) = record.content {
            records.push(bytes[range].to_vec());
        }
        bytes.drain(..record.consumed);
    }
    records
}

fn seal(server: &mut Server, packets: &[Packet<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let record = server.sealer.begin(&mut out);
    for packet in packets {
        packet.encode(ProtocolVersion::V5, &mut out).unwrap();
    }
    server.sealer.finish(&mut out, record);
    out
}

#[test]
fn packets_travel_in_records_in_every_suite_and_scheme() {
    for suite in Suite::ALL {
        for (scheme, record_type) in
            [(Scheme::Two, RecordType::Encrypted), (Scheme::Four, RecordType::Integrity)]
        {
            let (mut rig, mut server) = connected(suite, scheme);

            rig.publish("one", QoS::AtLeastOnce);
            rig.publish("two", QoS::AtLeastOnce);
            let sent = rig.sent();
            assert_eq!(sent[0], record_type as u8, "{suite:?} {scheme:?}");
            let packets = [publish_bytes(0x32, 1, "one"), publish_bytes(0x32, 2, "two")].concat();
            assert_eq!(open(&mut server, sent), [packets], "both share a record");

            let answer = [
                Packet::PubAck(acknowledgement(1)),
                incoming("hello", QoS::AtMostOnce, 0, false),
                Packet::PubAck(acknowledgement(2)),
            ];
            let bytes = seal(&mut server, &answer);
            let (first, second) = bytes.split_at(bytes.len() / 2);
            rig.session.receive(first);
            assert!(rig.poll().is_none(), "nothing is believed before its tag");
            rig.session.receive(second);

            assert!(matches!(rig.poll(), Some(Event::Published { outcome: Ok(_), .. })));
            assert!(
                matches!(rig.poll(), Some(Event::Message { message, .. }) if &message.payload[..] == b"hello")
            );
            assert!(matches!(rig.poll(), Some(Event::Published { outcome: Ok(_), .. })));
            assert!(rig.poll().is_none());
        }
    }
}

#[test]
fn a_fan_out_record_becomes_the_publish_it_stands_for() {
    let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
    let mut body = Vec::new();
    // Content Type "a".
    let shared = SharedBody { stamp: None, topic: b"factory/t", properties: b"\x03\x00\x01a", payload: b"" };
    shared.encode_head(&mut body).unwrap();
    body.extend_from_slice(b"21.5");
    let head = PublishHead {
        dup: false,
        qos: QoS::AtLeastOnce,
        retain: true,
        packet_id: Some(sdk_support::id(8)),
        topic: b"factory/t",
        topic_alias: None,
        message_expiry_seconds: Some(30),
        subscription_ids: &[],
        application_properties: b"",
        payload_len: 4,
    };
    let mut header = Vec::new();
    put_subscriber_header(&head, &mut header).unwrap();
    let mut record = Vec::new();
    let tag = server.sealer.fan_d(&mut record, &header, &gbody_digest(&[&body]), body.len()).unwrap();
    record.extend_from_slice(&body);
    record.extend_from_slice(tag.as_ref());

    rig.session.receive(&record);

    let Some(Event::Message { message, receipt }) = rig.poll() else { panic!("no message") };
    assert_eq!((message.topic.as_str(), &message.payload[..]), ("factory/t", &b"21.5"[..]));
    assert_eq!((message.qos, message.retain), (QoS::AtLeastOnce, true));
    assert_eq!(message.properties.content_type.as_deref(), Some("a"));
    assert_eq!(message.properties.message_expiry_seconds, Some(30));
    rig.session.acknowledge(receipt.unwrap());
    let sent = rig.sent();
    assert_eq!(open(&mut server, sent), [b"\x40\x02\x00\x08".to_vec()]);
}

#[test]
fn every_flipped_bit_of_a_record_breaks_the_channel_without_an_answer() {
    for scheme in [Scheme::Two, Scheme::Four] {
        let (mut rig, mut server) = connected(Suite::ChaCha20Poly1305, scheme);
        let record = seal(&mut server, &[incoming("hello", QoS::AtMostOnce, 0, false)]);
        for bit in 0..record.len() * 8 {
            let (mut rig_again, mut server_again) = connected(Suite::ChaCha20Poly1305, scheme);
            let mut record = seal(&mut server_again, &[incoming("hello", QoS::AtMostOnce, 0, false)]);
            record[bit / 8] ^= 1 << (bit % 8);

            rig_again.session.receive(&record);

            match rig_again.poll() {
                Some(Event::Closed(CloseReason::ChannelBroken(_))) => assert!(rig_again.sent().is_empty()),
                // A longer length waits for bytes that never come.
                None => assert!((1..5).contains(&(bit / 8)), "bit {bit}"),
                other => panic!("bit {bit}: {}", describe(other.as_ref())),
            }
        }
        rig.session.receive(&record);
        assert!(matches!(rig.poll(), Some(Event::Message { .. })), "{scheme:?}: the untouched record");
    }
}

#[test]
fn plain_packets_after_the_handshake_break_the_channel() {
    let (mut rig, _server) = connected(Suite::Aes256Gcm, Scheme::Four);

    rig.receive(&incoming("forged", QoS::AtMostOnce, 0, false));

    assert!(matches!(closed(rig.poll()), CloseReason::ChannelBroken(_)));
}

#[test]
fn a_replayed_record_breaks_the_channel() {
    let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
    let record = seal(&mut server, &[incoming("hello", QoS::AtMostOnce, 0, false)]);
    rig.session.receive(&record);
    assert!(matches!(rig.poll(), Some(Event::Message { .. })));

    rig.session.receive(&record);

    assert_eq!(closed(rig.poll()), CloseReason::ChannelBroken(RecordError::Authentication));
}

#[test]
fn a_record_that_ends_inside_a_packet_is_refused() {
    let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
    let mut out = Vec::new();
    let record = server.sealer.begin(&mut out);
    out.extend_from_slice(b"\x30\x07\x00\x01t");
    server.sealer.finish(&mut out, record);

    rig.session.receive(&out);

    assert_eq!(closed(rig.poll()), CloseReason::SplitPacket);
}

#[test]
fn keys_change_on_either_side_without_losing_a_packet() {
    let (mut rig, mut server) = connected(Suite::Aes256CbcHmacSha256, Scheme::Four);

    rig.publish("before", QoS::AtLeastOnce);
    rig.pass(3_600_000);
    rig.publish("after", QoS::AtLeastOnce);
    let sent = rig.sent();
    let packets = open(&mut server, sent).concat();
    let published = [publish_bytes(0x32, 1, "before"), publish_bytes(0x32, 2, "after")].concat();
    let pings = packets.len() - published.len();
    assert!(packets.starts_with(&publish_bytes(0x32, 1, "before")));
    assert!(packets.ends_with(&publish_bytes(0x32, 2, "after")), "{pings} bytes of PINGREQ between");

    let mut bytes = seal(&mut server, &[Packet::PubAck(acknowledgement(1))]);
    server.sealer.key_update(&mut bytes);
    bytes.extend_from_slice(&seal(&mut server, &[Packet::PubAck(acknowledgement(2))]));
    rig.session.receive(&bytes);
    for _ in 0..2 {
        assert!(matches!(rig.poll(), Some(Event::Published { outcome: Ok(_), .. })));
    }
}

#[test]
fn a_notice_of_the_broker_is_told() {
    let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
    let mut bytes = Vec::new();
    server.sealer.control(&mut bytes, &ControlOp::Notice("epoch too old on factory/#")).unwrap();

    rig.session.receive(&bytes);

    assert!(matches!(rig.poll(), Some(Event::Notice(text)) if text == "epoch too old on factory/#"));
}

#[test]
fn records_stay_below_what_the_broker_takes() {
    let mut rig = Rig::new(options(Suite::Aes256Gcm, Scheme::Four));
    let broker = identity(20, Roles::BROKER, "broker-a");
    let mut server = handshake(&mut rig, &broker, |_| {}).unwrap();
    rig.poll();
    for _ in 0..20 {
        rig.publish(&"x".repeat(1_500), QoS::AtLeastOnce);
    }

    let sent = rig.sent();
    let records = open(&mut server, sent);

    assert_eq!(records.len(), 2, "twenty packets of 1.5 kB share two records");
    assert!(records.iter().all(|record| record.len() <= 16_384));
}

#[test]
fn a_changed_connack_is_not_believed() {
    let broker = identity(20, Roles::BROKER, "broker-a");
    let mut rig = Rig::new(options(Suite::Aes256Gcm, Scheme::Four));

    // The last byte belongs to the tag, which covers every other byte.
    handshake(&mut rig, &broker, |connack| *connack.last_mut().unwrap() ^= 1).unwrap();

    assert_eq!(closed(rig.poll()), CloseReason::Handshake(HandshakeError::FinishTag));
    assert!(rig.sent().is_empty());
}

#[test]
fn a_broker_that_is_not_trusted_is_not_given_the_clients_certificate() {
    let stranger = keys(40);
    let rows = [
        (
            Identity::new(certificate(&stranger, Roles::BROKER, "broker-a", &stranger), keys(40)).unwrap(),
            CertificateError::UnknownIssuer(stranger.kid()),
        ),
        (identity(20, Roles::BROKER, "broker-b"), CertificateError::WrongSubject),
        (identity(20, Roles::PUBLISHER, "broker-a"), CertificateError::Role { needed: Roles::BROKER }),
    ];
    for (broker, error) in rows {
        let mut rig = Rig::new(options(Suite::Aes256Gcm, Scheme::Four));
        rig.connect();
        let connect_bytes = rig.sent();
        let Packet::Connect(connect) = decode(&connect_bytes) else { panic!("CONNECT") };
        let hello = connect.properties.authentication_data.unwrap();
        let policy = ServerPolicy::default();
        let (server_hello, _) = ServerStart
            .handle(&connect_bytes, hello, &broker, &policy, UNIX_MS, &mut |bytes| bytes.fill(99))
            .unwrap();

        rig.receive(&auth(&server_hello));

        assert_eq!(closed(rig.poll()), CloseReason::Handshake(HandshakeError::Certificate(error)));
        assert!(rig.sent().is_empty());
    }
}

#[test]
fn a_broker_that_skips_the_handshake_is_not_believed() {
    let mut rig = Rig::new(options(Suite::Aes256Gcm, Scheme::Four));
    rig.connect();
    rig.sent();

    rig.receive(&Packet::ConnAck(ConnAck::default()));

    assert_eq!(closed(rig.poll()), CloseReason::NotAuthenticated);
}

#[test]
fn a_refusal_is_told_as_a_refusal_at_any_point() {
    let mut rig = Rig::new(options(Suite::Aes256Gcm, Scheme::Four));
    rig.connect();
    rig.sent();

    rig.receive(&Packet::ConnAck(ConnAck {
        reason: ReasonCode::BadAuthenticationMethod,
        ..ConnAck::default()
    }));

    let reason = CloseReason::Refused { reason: ReasonCode::BadAuthenticationMethod, text: None };
    assert_eq!(closed(rig.poll()), reason);
}

#[test]
fn a_group_key_without_a_tag_of_ones_own_is_accepted_only_when_told_to() {
    for weak_groups in [false, true] {
        let mut options = options(Suite::Aes256Gcm, Scheme::Four);
        if let Some(channel) = &mut options.channel {
            channel.weak_groups = weak_groups;
        }
        let mut rig = Rig::new(options);
        let mut server = handshake(&mut rig, &identity(20, Roles::BROKER, "broker-a"), |_| {}).unwrap();
        assert!(matches!(rig.poll(), Some(Event::Connected { .. })));
        let group = GroupSealer::new(1, 1, Suite::Aes256Gcm, false, Secret32::new(&[7; 32]));
        let mut record = Vec::new();
        server.sealer.control(&mut record, &group.grant(1_000, b"f/t")).unwrap();

        rig.session.receive(&record);

        match rig.poll() {
            None => assert!(weak_groups),
            event => assert_eq!((weak_groups, closed(event)), (false, CloseReason::WeakGroup)),
        }
    }
}
