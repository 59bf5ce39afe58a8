//! Keys that are asked for with CONNECT: WAIT, and what CONNACK brings (VEIL-1 section 9.1). What is asked and answered passes unread.

use veilmq_client::session::Handshake;
use veilmq_protocol::veil::{
    channel::ClientExpectation,
    hello::{ClientHello, JoinStatus, Wait},
};

use super::*;

const SKEW_MS: u64 = 120_000;

/// A client whose CONNECT is on its way, with a request if `asks`.
fn connecting(handshake: Handshake, asks: bool) -> Rig {
    let mut options = options(Suite::Aes256Gcm, Scheme::Four);
    if let Some(channel) = &mut options.channel {
        channel.handshake = handshake;
    }
    let mut rig = Rig::new(options);
    if asks {
        rig.session.ask_with_connect(b"a request".to_vec());
    }
    rig.connect();
    rig
}

/// The broker answers a CONNECT of COMPACT, with a CONNACK that says `join` of the request, which is returned.
fn answer_to(rig: &mut Rig, connect_bytes: &[u8], join: Option<(JoinStatus, Vec<u8>)>) -> Option<Vec<u8>> {
    let Packet::Connect(connect) = decode(connect_bytes) else { panic!("CONNECT") };
    let hello = connect.properties.authentication_data.unwrap();
    let request = ClientHello::parse(hello).unwrap().join_request.map(<[u8]>::to_vec);
    let (trust, broker) = (trust(), identity(20, Roles::BROKER, "broker-a"));
    let policy = ServerPolicy { schemes: Schemes::ALL, ..ServerPolicy::default() };
    let expected = ClientExpectation { trust: &trust, client_id: connect.client_id, now_unix_ms: UNIX_MS };
    let client = ServerStart.compact(connect_bytes, hello, &broker, &policy, &expected, SKEW_MS).unwrap();
    let accepted = client.answer(&broker, UNIX_MS, &mut |bytes| bytes.fill(99)).unwrap();
    let (data, sealing) =
        accepted.server_finish(ServerFinishParams { join, ..ServerFinishParams::default() }).unwrap();
    let mut packet = encode(&Packet::ConnAck(connack(ConnAckProperties {
        authentication_method: Some(AUTHENTICATION_METHOD),
        authentication_data: Some(&data),
        ..ConnAckProperties::default()
    })));
    drop(sealing.seal_connack(&mut packet).unwrap());
    rig.session.receive(&packet);
    assert!(matches!(rig.poll(), Some(Event::Connected { .. })));
    request
}

#[test]
fn a_client_that_asks_waits_and_is_told_what_became_of_it() {
    for (join, expected) in [
        (Some((JoinStatus::Done, b"an answer".to_vec())), (JoinStatus::Done, b"an answer".to_vec())),
        (Some((JoinStatus::Pending, Vec::new())), (JoinStatus::Pending, Vec::new())),
        (Some((JoinStatus::None, Vec::new())), (JoinStatus::None, Vec::new())),
        (None, (JoinStatus::None, Vec::new())),
    ] {
        let mut rig = connecting(Handshake::Compact, true);
        let connect = rig.sent();
        rig.receive(&auth(&Wait::Asked.to_bytes()));
        assert!(rig.poll().is_none(), "it waits");
        assert_eq!(rig.sent(), encode(&auth(&[0x0B, 1])), "and says so");

        let request = answer_to(&mut rig, &connect, join);

        assert_eq!(request.as_deref(), Some(b"a request".as_slice()));
        let Some(Event::Join { status, response }) = rig.poll() else { panic!("nothing is said of it") };
        assert_eq!((status, response), expected);
    }
}

#[test]
fn a_request_goes_with_one_connect_alone() {
    let mut rig = connecting(Handshake::Compact, true);
    rig.session.connection_lost();

    rig.connect();

    let connect = rig.sent();
    assert_eq!(answer_to(&mut rig, &connect, None), None);
    assert!(!matches!(rig.poll(), Some(Event::Join { .. })));
}

#[test]
fn before_it_has_shown_who_it_is_and_without_a_request_a_client_waits_for_nobody() {
    for (handshake, asks) in [(Handshake::Sigma, true), (Handshake::Compact, false)] {
        let mut rig = connecting(handshake, asks);
        rig.receive(&auth(&Wait::Asked.to_bytes()));

        assert!(matches!(rig.poll(), Some(Event::Closed(_))), "{handshake:?}");
    }
}
