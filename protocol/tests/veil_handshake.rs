//! The SIGMA handshake of VEIL-1 sections 4.1 to 4.5, both sides in memory.
#![cfg(feature = "channel")]
#![allow(clippy::unwrap_used, reason = "test code")]

mod veil_common;

use proptest::prelude::*;
use veil_common::{
    NOT_AFTER, bytes, ca_keys, fields,
    handshake::{self, Failure, Message, NOW_MS, Setup, connack, encode, entropy},
    hex, identity, keys, publisher, subscriber, text, trust, vectors,
};
use veilmq_protocol::{
    ConnAck, Packet, ReasonCode,
    veil::{
        CertificateError, Roles, Scheme, Schemes, Suite,
        channel::{
            ClientHelloConfig, ClientStart, HandshakeError, Identity, ServerPolicy, ServerStart, TrustAnchors,
        },
        hello::{
            ChannelForm, ClientFinish, ClientHello, Flight, HelloError, JoinStatus, Opening, ServerAnswer,
            ServerFinish, ServerFinishParams, ServerHello,
        },
    },
};

const SUITES: [Suite; 3] = Suite::ALL;

#[test]
fn handshake_messages_are_those_of_the_vectors_byte_for_byte() {
    let vectors = vectors();
    let connect = bytes(&vectors, "/handshake/CONNECT");
    let config = ClientHelloConfig {
        schemes: Schemes::ALL,
        suites: &[Suite::Aes256Gcm, Suite::Aes256CbcHmacSha256],
        anchor: ca_keys().kid(),
        now_unix_ms: Some(NOW_MS),
        form: ChannelForm::Records,
        join_request: None,
    };
    let policy = ServerPolicy { suites: SUITES.into(), schemes: Schemes::ALL, property_mode: false };

    let (client, hello) = ClientStart::new(&config, &mut entropy(&["nc", "eph c"])).unwrap();
    assert_eq!(hello.len(), vectors["handshake"]["sizes"]["CH"]);
    assert!(connect.windows(hello.len()).any(|window| window == hello));
    let client = client.sent_connect(&connect);
    let mut random = entropy(&["nb", "eph b"]);
    let (server_hello, server) = ServerStart
        .handle(&connect, &hello, &veil_common::broker(), &policy, NOW_MS + 10, &mut random)
        .unwrap();
    assert_eq!(hex(&server_hello), text(&vectors, "/handshake/SH"));
    let (finish, client) =
        client.handle(&server_hello, &publisher(), &trust(), Some("broker-a"), None).unwrap();
    assert_eq!(hex(&finish), text(&vectors, "/handshake/CF"));
    let accepted = server.handle(&finish, &trust(), "press-07", NOW_MS / 1000).unwrap();
    let (data, server) = accepted.server_finish(ServerFinishParams::default()).unwrap();
    let established = server.seal_connack(&mut connack(&data)).unwrap();
    assert_eq!(hex(established.exporter.as_bytes()), text(&vectors, "/handshake/exporter"));
    assert_eq!((established.scheme, established.suite), (Scheme::Four, Suite::Aes256Gcm));
    let established = client.handle(&bytes(&vectors, "/handshake/CONNACK")).unwrap();
    assert_eq!(hex(established.exporter.as_bytes()), text(&vectors, "/handshake/exporter"));
    assert_eq!(established.params.record_bytes_max, Some(65_536));
    assert_eq!(established.params.time_unix_ms, Some(NOW_MS + 20));
}

#[test]
fn both_sides_agree_in_every_suite_and_scheme() {
    for suite in SUITES {
        for scheme in [Scheme::One, Scheme::Two, Scheme::Three, Scheme::Four] {
            let setup = Setup::new(suite, scheme);

            let (client, broker) = setup.run(|_, _| {}).unwrap();

            assert!(client.exporter == broker.exporter);
            assert_eq!((client.suite, client.scheme), (suite, scheme));
            assert_eq!((broker.suite, broker.scheme), (suite, scheme));
            assert_eq!(client.peer, *setup.broker.certificate());
            assert_eq!(broker.peer, *setup.client.certificate());
            assert_eq!(client.params, setup.params);
        }
    }
}

/// Flips every bit of one message in turn.
fn every_flipped_bit_fails(message: Message) {
    let setup = Setup::new(Suite::Aes256Gcm, Scheme::Four);
    handshake::every_flipped_bit_fails(message, |touch| setup.run(touch));
}

#[test]
fn every_flipped_bit_of_connect_makes_the_handshake_fail() {
    every_flipped_bit_fails(Message::Connect);
}

#[test]
fn every_flipped_bit_of_server_hello_makes_the_handshake_fail() {
    every_flipped_bit_fails(Message::ServerHello);
}

#[test]
fn every_flipped_bit_of_client_finish_makes_the_handshake_fail() {
    every_flipped_bit_fails(Message::ClientFinish);
}

#[test]
fn every_flipped_bit_of_connack_makes_the_handshake_fail() {
    every_flipped_bit_fails(Message::ConnAck);
}

#[test]
fn every_truncation_makes_the_handshake_fail() {
    let setup = Setup::new(Suite::Aes256Gcm, Scheme::Four);
    for message in [Message::Connect, Message::ServerHello, Message::ClientFinish, Message::ConnAck] {
        for keep in [0, 1, 2, 3, 5, 40, 60] {
            let outcome = setup.run(|seen, bytes| {
                if seen == message {
                    bytes.truncate(keep);
                }
            });
            assert!(outcome.is_err(), "{message:?} cut to {keep}");
        }
    }
}

fn changed(change: impl FnOnce(&mut Setup)) -> Result<(), Failure> {
    let mut setup = Setup::new(Suite::ChaCha20Poly1305, Scheme::Four);
    change(&mut setup);
    setup.run(|_, _| {}).map(drop)
}

fn client_with(roles: Roles, not_after: u64) -> Identity {
    let mut fields = fields(&keys("pub ed", "pub x"), roles, 1, "press-07");
    fields.not_after = not_after;
    identity("pub ed", "pub x", &fields)
}

fn broker_with(roles: Roles, not_after: u64) -> Identity {
    let mut fields = fields(&keys("broker ed", "broker x"), roles, 3, "broker-a");
    fields.not_after = not_after;
    identity("broker ed", "broker x", &fields)
}

#[test]
fn parties_that_are_not_who_they_should_be_are_refused() {
    use CertificateError::{Expired, Revoked, Role, UnknownIssuer, WrongSubject};
    let issuer = ca_keys().kid();
    type Row = (&'static str, fn(&mut Setup), fn(HandshakeError) -> Failure, CertificateError);
    let rows: [Row; 11] = [
        ("client id is not the subject", |s| s.client_id = "press-08", Failure::Broker, WrongSubject),
        ("another client's certificate", |s| s.client = subscriber(), Failure::Broker, WrongSubject),
        (
            "client expired",
            |s| s.client = client_with(Roles::PUBLISHER, veil_common::NOW - 1),
            Failure::Broker,
            Expired,
        ),
        (
            "client is only a CA",
            |s| s.client = client_with(Roles::CA, NOT_AFTER),
            Failure::Broker,
            Role { needed: Roles::CLIENT },
        ),
        (
            "client is only a broker",
            |s| s.client = client_with(Roles::BROKER, NOT_AFTER),
            Failure::Broker,
            Role { needed: Roles::CLIENT },
        ),
        (
            "client of an unknown issuer",
            |s| s.broker_trust = TrustAnchors::new(),
            Failure::Broker,
            UnknownIssuer(issuer),
        ),
        (
            "client revoked",
            |s| s.broker_trust.revoke(ca_keys().kid(), 1),
            Failure::Broker,
            Revoked { issuer, serial: 1 },
        ),
        ("broker has another name", |s| s.expected_broker = "broker-b", Failure::Client, WrongSubject),
        (
            "broker expired",
            |s| s.broker = broker_with(Roles::BROKER, veil_common::NOW - 1),
            Failure::Client,
            Expired,
        ),
        (
            "broker without the role",
            |s| s.broker = broker_with(Roles::PUBLISHER, NOT_AFTER),
            Failure::Client,
            Role { needed: Roles::BROKER },
        ),
        (
            "broker of an unknown issuer",
            |s| s.client_trust = TrustAnchors::new(),
            Failure::Client,
            UnknownIssuer(issuer),
        ),
    ];
    for (name, change, side, error) in rows {
        assert_eq!(changed(change), Err(side(HandshakeError::Certificate(error.clone()))), "{name}");
        assert_eq!(HandshakeError::Certificate(error).reason(), ReasonCode::NotAuthorized, "{name}");
    }
}

#[test]
fn nothing_in_common_is_refused_with_bad_authentication_method() {
    let suites = changed(|setup| setup.policy.suites = vec![Suite::Aes256Gcm]);
    let schemes = changed(|setup| setup.policy.schemes = Schemes::of(&[Scheme::Two]));

    assert_eq!(suites, Err(Failure::Broker(HandshakeError::NoCommonSuite)));
    assert_eq!(schemes, Err(Failure::Broker(HandshakeError::NoCommonScheme)));
    assert_eq!(HandshakeError::NoCommonSuite.reason(), ReasonCode::BadAuthenticationMethod);
    assert_eq!(HandshakeError::NoCommonScheme.reason(), ReasonCode::BadAuthenticationMethod);
}

/// Byte 4 is the scheme set, byte 2 the mode, byte 1 the version, byte 3 the flags.
#[test]
fn malformed_hellos_have_the_reason_code_of_section_16() {
    let setup = Setup::new(Suite::Aes256Gcm, Scheme::Four);
    let (_, good) = setup.start();
    let rows: [(usize, u8, HelloError, ReasonCode); 4] = [
        (0, 2, HelloError::MessageType { got: 2, expected: 1 }, ReasonCode::ProtocolError),
        (1, 2, HelloError::Version(2), ReasonCode::BadAuthenticationMethod),
        (2, 9, HelloError::Mode(9), ReasonCode::BadAuthenticationMethod),
        (3, 0x21, HelloError::Flags(0x21), ReasonCode::ProtocolError),
    ];
    for (at, value, error, reason) in rows {
        let mut bad = good.clone();
        bad[at] = value;
        let mut random = entropy(&["nb", "eph b"]);
        let outcome = ServerStart.handle(&[], &bad, &setup.broker, &setup.policy, NOW_MS, &mut random);
        let refused = outcome.err().unwrap();
        assert_eq!(refused, HandshakeError::Hello(error));
        assert_eq!(refused.reason(), reason);
    }
}

#[test]
fn small_order_share_is_refused_by_either_side() {
    let setup = Setup::new(Suite::Aes256Gcm, Scheme::Four);
    let (_, mut hello) = setup.start();
    let at = hello.len() - 32;
    hello[at..].fill(0);
    let mut random = entropy(&["nb", "eph b"]);
    let broker = ServerStart.handle(&[], &hello, &setup.broker, &setup.policy, NOW_MS, &mut random);
    assert_eq!(broker.err(), Some(HandshakeError::SmallOrderShare));

    let client = setup.run(|message, bytes| {
        if message == Message::ServerHello {
            bytes[ServerHello::HEAD_LEN - 32..ServerHello::HEAD_LEN].fill(0);
        }
    });
    assert_eq!(client.err(), Some(Failure::Client(HandshakeError::SmallOrderShare)));
}

#[test]
fn choice_that_was_not_offered_is_refused() {
    let setup = Setup::new(Suite::Aes256Gcm, Scheme::Four);
    let choose = |at: usize, value: u8| {
        setup.run(|message, bytes| {
            if message == Message::ServerHello {
                bytes[at] = value;
            }
        })
    };

    let scheme = choose(3, 2).err();
    let suite = choose(4, 3).err();
    let flags = choose(2, 0).err();

    assert_eq!(scheme, Some(Failure::Client(HandshakeError::SchemeNotOffered(Scheme::Two))));
    assert_eq!(suite, Some(Failure::Client(HandshakeError::SuiteNotOffered(Suite::ChaCha20Poly1305))));
    assert_eq!(flags, Some(Failure::Client(HandshakeError::SchemeNotOffered(Scheme::Four))));
}

#[test]
fn client_preference_decides_the_suite_and_the_highest_common_scheme_wins() {
    let mut setup = Setup::new(Suite::ChaCha20Poly1305, Scheme::Four);
    setup.suites = vec![Suite::ChaCha20Poly1305, Suite::Aes256Gcm];
    setup.schemes = Schemes::of(&[Scheme::Two, Scheme::Four]);
    setup.policy.suites = vec![Suite::Aes256Gcm, Suite::ChaCha20Poly1305];

    let (client, _) = setup.run(|_, _| {}).unwrap();

    assert_eq!((client.suite, client.scheme), (Suite::ChaCha20Poly1305, Scheme::Four));
}

#[test]
fn connack_that_refuses_or_lacks_server_finish_establishes_nothing() {
    let setup = Setup::new(Suite::Aes256Gcm, Scheme::Four);
    let with = |packet: ConnAck<'static>| {
        setup.run(|message, bytes| {
            if message == Message::ConnAck {
                *bytes = encode(&Packet::ConnAck(packet));
            }
        })
    };

    let refused = with(ConnAck { reason: ReasonCode::Banned, ..ConnAck::default() }).err();
    let bare = with(ConnAck::default()).err();
    let trailing = setup.run(|message, bytes| {
        if message == Message::ConnAck {
            bytes.push(0);
        }
    });

    assert_eq!(refused, Some(Failure::Client(HandshakeError::Refused(ReasonCode::Banned))));
    assert_eq!(bare, Some(Failure::Client(HandshakeError::FinishMissing)));
    assert_eq!(trailing.err(), Some(Failure::Client(HandshakeError::NotCarrier)));
}

/// A man in the middle who answers with its own share can speak neither side's language.
#[test]
fn messages_of_another_session_are_refused() {
    let setup = Setup::new(Suite::Aes256Gcm, Scheme::Four);
    let mut recorded = Vec::new();
    setup
        .run(|message, bytes| {
            if message == Message::ClientFinish {
                recorded.clone_from(bytes);
            }
        })
        .unwrap();
    let mut other = Setup::new(Suite::Aes256Gcm, Scheme::Four);
    other.suites.push(Suite::ChaCha20Poly1305);

    let replayed = other.run(|message, bytes| {
        if message == Message::ClientFinish {
            bytes.clone_from(&recorded);
        }
    });

    assert_eq!(replayed.err(), Some(Failure::Broker(HandshakeError::Sealed("client flight"))));
}

#[test]
fn finish_params_survive_the_wire_in_every_combination() {
    let full = ServerFinishParams {
        ticket: Some(vec![1, 2, 3]),
        record_bytes_max: Some(7),
        join: Some((JoinStatus::Done, vec![4])),
        time_unix_ms: Some(8),
        group_grants: vec![vec![5, 6], vec![]],
        policy_digest: Some([1; 32]),
    };
    let printed = format!("{full:?}");
    assert!(["[1, 2, 3]", "[4]", "[5, 6]"].iter().all(|secret| !printed.contains(secret)), "{printed}");
    let pending = Some((JoinStatus::Pending, Vec::new()));
    let some = ServerFinishParams { join: pending, ..ServerFinishParams::default() };

    for params in [full, some, ServerFinishParams::default()] {
        assert_eq!(ServerFinishParams::parse(&params.encode().unwrap()), Ok(params));
    }
    for wrong in [
        &b"\x02\x00\x03abc"[..],
        b"\x03\x00\x01\x03",
        b"\x04\x00\x08abcdefgh\x04\x00\x08abcdefgh",
        b"\x01\x00",
    ] {
        assert!(ServerFinishParams::parse(wrong).is_err(), "{wrong:?}");
    }
    assert_eq!(ServerFinishParams::parse(b"\x7f\x00\x01x"), Ok(ServerFinishParams::default()));
}

proptest! {
    #[test]
    fn parsing_arbitrary_handshake_bytes_does_not_panic(
        kind in 1..5_u8, mut bytes in prop::collection::vec(any::<u8>(), 2..500),
    ) {
        bytes[0] = kind;
        bytes[1] = 1;
        let _ = ClientHello::parse(&bytes);
        let _ = ServerHello::parse(&bytes);
        let _ = ClientFinish::parse(&bytes);
        let _ = ServerFinish::parse(&bytes);
        let _ = ServerAnswer::parse_compact(&bytes);
        let _ = ServerAnswer::parse_resume(&bytes);
        let _ = Flight::parse(&bytes);
        let _ = ServerFinishParams::parse(&bytes);
    }

    #[test]
    fn client_hello_survives_the_wire(
        schemes in 0..16_u8, suites in prop::collection::vec(any::<u8>(), 0..255),
        nonce in any::<[u8; 16]>(), time_unix_ms in any::<u64>(), share in any::<[u8; 32]>(),
        hybrid in prop::option::of(prop::collection::vec(any::<u8>(), 0..1200)),
        join in prop::option::of(prop::collection::vec(any::<u8>(), 0..300)),
        mode in 0..3_usize,
    ) {
        let sent = ClientHello {
            flags: Default::default(),
            schemes: Schemes::try_from(schemes).unwrap(),
            suites: &suites,
            nonce,
            time_unix_ms,
            anchor: ca_keys().kid(),
            share,
            hybrid_share: hybrid.as_deref(),
            join_request: join.as_deref(),
            opening: [
                Opening::Sigma,
                Opening::Compact { certificate: &suites, signature: [7; 64] },
                Opening::Resume { ticket: &suites, binder: [8; 32] },
            ][mode],
        };
        let bytes = sent.encode().unwrap();
        let mut received = ClientHello::parse(&bytes).unwrap();
        received.flags = sent.flags;
        prop_assert_eq!(received, sent);
    }
}
