//! Re-authentication by the session (VEIL-1 section 4.8), against the broker's side of it in memory.

use veilmq_client::session::ReauthenticationError;
use veilmq_protocol::{Disconnect, veil::channel::AwaitClientFinish};

use super::*;

/// The only packet the client sent, which is in one record.
fn only_packet(rig: &mut Rig, server: &mut Server) -> Vec<u8> {
    let sent = rig.sent();
    let [packet] = open(server, sent).try_into().unwrap();
    packet
}

fn authentication_data(packet: &[u8], reason: ReasonCode) -> Vec<u8> {
    let Packet::Auth(auth) = decode(packet) else { panic!("AUTH") };
    // [MQTT-4.12.0-5], [MQTT-4.12.1-1]
    assert_eq!((auth.reason, auth.method), (reason, Some(AUTHENTICATION_METHOD)));
    auth.data.unwrap().to_vec()
}

fn begin(rig: &mut Rig) -> Result<(), ReauthenticationError> {
    let now = rig.now();
    rig.session.reauthenticate(None, now, &mut |bytes| bytes.fill(8))
}

/// Answers the AUTH 0x19 in `packet` as `broker`.
pub(super) fn answer(server: &mut Server, broker: &Identity, packet: &[u8]) -> (Vec<u8>, AwaitClientFinish) {
    let hello = authentication_data(packet, ReasonCode::ReAuthenticate);
    let mut entropy = |bytes: &mut [u8]| bytes.fill(98);
    let (server_hello, next) =
        ServerStart.handle_again(&server.predecessor, packet, &hello, broker, UNIX_MS, &mut entropy).unwrap();
    (seal(server, &[auth(&server_hello)]), next)
}

/// Verifies the client's AUTH 0x18, switches, and gives the record with AUTH 0x00 and the serial of the client's certificate.
pub(super) fn finish(server: &mut Server, next: AwaitClientFinish, packet: &[u8]) -> (Vec<u8>, u64) {
    finish_with(server, next, packet, ServerFinishParams::default())
}

/// Does the same with what the broker says in its ServerFinish.
fn finish_with(
    server: &mut Server,
    next: AwaitClientFinish,
    packet: &[u8],
    params: ServerFinishParams,
) -> (Vec<u8>, u64) {
    let data = authentication_data(packet, ReasonCode::ContinueAuthentication);
    let accepted = next.handle(&data, &trust(), "press-07", NOW).unwrap();
    let serial = accepted.client.serial;
    let (data, sealing) = accepted.server_finish(params).unwrap();
    let mut done = encode(&Packet::Auth(Auth {
        method: Some(AUTHENTICATION_METHOD),
        data: Some(&data),
        ..Auth::default()
    }));
    let (sealer, opener, predecessor) = sealing.seal_auth(&mut done).unwrap().into_parts();
    let mut record = Vec::new();
    let open = server.sealer.begin(&mut record);
    record.extend_from_slice(&done);
    server.sealer.finish(&mut record, open);
    server.sealer.switch_to(sealer);
    server.opener.switch_to(opener).unwrap();
    server.predecessor = predecessor;
    (record, serial)
}

/// Gets as far as the client's proof.
fn prove(rig: &mut Rig, server: &mut Server) -> (AwaitClientFinish, Vec<u8>) {
    begin(rig).unwrap();
    let packet = only_packet(rig, server);
    let (record, next) = answer(server, &identity(20, Roles::BROKER, "broker-a"), &packet);
    rig.session.receive(&record);
    assert!(rig.poll().is_none());
    (next, only_packet(rig, server))
}

fn is_new_phase(record: &[u8]) -> bool {
    record[0] & 0x80 != 0
}

#[test]
fn keys_change_while_packets_flow_in_every_suite_and_scheme() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Two, Scheme::Four] {
            let (mut rig, mut server) = connected(suite, scheme);
            let (next, proof) = prove(&mut rig, &mut server);
            rig.publish("during", QoS::AtLeastOnce);
            let late = rig.sent();
            assert!(!is_new_phase(&late), "the client has not verified the broker yet");
            let (mut bytes, serial) = finish(&mut server, next, &proof);
            assert_eq!(serial, 1);
            assert_eq!(open(&mut server, late), [publish_bytes(0x32, 1, "during")]);
            bytes.extend_from_slice(&seal(&mut server, &[Packet::PubAck(acknowledgement(1))]));

            rig.session.receive(&bytes);

            assert!(matches!(rig.poll(), Some(Event::Reauthenticated)), "{suite:?} {scheme:?}");
            assert!(matches!(rig.poll(), Some(Event::Published { outcome: Ok(_), .. })));
            rig.publish("after", QoS::AtLeastOnce);
            let sent = rig.sent();
            assert!(is_new_phase(&sent));
            assert_eq!(open(&mut server, sent), [publish_bytes(0x32, 2, "after")]);
            let again = prove(&mut rig, &mut server);
            let (record, _) = finish(&mut server, again.0, &again.1);
            rig.session.receive(&record);
            assert!(matches!(rig.poll(), Some(Event::Reauthenticated)), "and once more");
        }
    }
}

#[test]
fn the_light_change_of_keys_waits_from_the_proof_to_the_switch() {
    let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
    rig.pass(3_595_000);
    let sent = rig.sent();
    open(&mut server, sent);
    let record = seal(&mut server, &[Packet::PingResp]);
    rig.session.receive(&record);
    assert!(rig.poll().is_none());
    let (next, proof) = prove(&mut rig, &mut server);
    assert!(rig.session.awaits_answers());

    rig.pass(8_000);

    assert!(rig.sent().is_empty(), "an hour has passed");
    let (record, _) = finish(&mut server, next, &proof);
    rig.session.receive(&record);
    assert!(matches!(rig.poll(), Some(Event::Reauthenticated)));
    assert!(!rig.session.awaits_answers());
    assert_eq!(rig.session.next_timeout(), Some(rig.now_ms - 8_000 + 60_000), "the keys are an hour good");
}

#[test]
fn a_renewed_certificate_is_shown_now_and_later() {
    let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
    let renewed = certificate_with(2, &keys(10), Roles::PUBLISHER, "press-07", &authority());
    let renewed = Arc::new(Identity::new(renewed, keys(10)).unwrap());
    let now = rig.now();
    rig.session.reauthenticate(Some(renewed), now, &mut |bytes| bytes.fill(8)).unwrap();
    let packet = only_packet(&mut rig, &mut server);
    let (record, next) = answer(&mut server, &identity(20, Roles::BROKER, "broker-a"), &packet);
    rig.session.receive(&record);
    assert!(rig.poll().is_none());
    let proof = only_packet(&mut rig, &mut server);

    let (record, serial) = finish(&mut server, next, &proof);

    assert_eq!(serial, 2);
    rig.session.receive(&record);
    assert!(matches!(rig.poll(), Some(Event::Reauthenticated)));
    let (next, proof) = prove(&mut rig, &mut server);
    assert_eq!(finish(&mut server, next, &proof).1, 2);
}

#[test]
fn a_broker_that_is_not_the_one_that_connected_is_left_with_a_word() {
    // [MQTT-4.12.1-2]
    let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
    let other = identity(30, Roles::BROKER, "broker-a");
    begin(&mut rig).unwrap();
    let packet = only_packet(&mut rig, &mut server);
    let (record, _) = answer(&mut server, &other, &packet);

    rig.session.receive(&record);

    let expected = identity(20, Roles::BROKER, "broker-a").kid();
    let error = HandshakeError::OtherIdentity { got: other.kid(), expected };
    assert_eq!(closed(rig.poll()), CloseReason::Handshake(error));
    assert_eq!(only_packet(&mut rig, &mut server), [0xE0, 1, 0x80]);
}

#[test]
fn an_auth_that_is_not_due_or_of_another_method_ends_the_connection() {
    let other_method = Packet::Auth(Auth {
        reason: ReasonCode::ContinueAuthentication,
        method: Some("another"),
        data: Some(b"x"),
        ..Auth::default()
    });
    for (begun, packet) in [(false, auth(b"x")), (true, other_method), (true, Packet::Auth(Auth::default()))]
    {
        let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
        if begun {
            begin(&mut rig).unwrap();
            only_packet(&mut rig, &mut server);
        }
        let record = seal(&mut server, &[packet]);

        rig.session.receive(&record);

        assert_eq!(closed(rig.poll()), CloseReason::Unexpected(veilmq_protocol::PacketType::Auth));
        assert_eq!(only_packet(&mut rig, &mut server), [0xE0, 1, 0x82]);
    }
}

#[test]
fn a_refusal_and_a_silence_of_the_broker_end_the_connection() {
    let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
    prove(&mut rig, &mut server);
    let record = seal(&mut server, &[Packet::Disconnect(Disconnect::new(ReasonCode::NotAuthorized))]);
    rig.session.receive(&record);
    let reason = CloseReason::Disconnected { reason: ReasonCode::NotAuthorized, text: None };
    assert_eq!(closed(rig.poll()), reason);

    let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
    prove(&mut rig, &mut server);
    rig.pass(10_000);
    assert_eq!(closed(rig.poll()), CloseReason::Timeout("AUTH"));
}

#[test]
fn what_cannot_begin_says_why_and_changes_nothing() {
    let mut plain = Rig::connected(SessionOptions::new("press-07"));
    assert_eq!(begin(&mut plain), Err(ReauthenticationError::NoChannel));
    let mut down = Rig::new(options(Suite::Aes256Gcm, Scheme::Four));
    assert_eq!(begin(&mut down), Err(ReauthenticationError::NotConnected));
    let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
    let stranger = Arc::new(identity(50, Roles::PUBLISHER, "press-07"));
    let error = ReauthenticationError::OtherIdentity { got: stranger.kid(), expected: keys(10).kid() };
    let now = rig.now();
    assert_eq!(rig.session.reauthenticate(Some(stranger), now, &mut |_| {}), Err(error));
    assert!(rig.sent().is_empty());

    let (next, proof) = prove(&mut rig, &mut server);
    assert_eq!(begin(&mut rig), Err(ReauthenticationError::UnderWay));
    assert!(rig.sent().is_empty());

    let (record, _) = finish(&mut server, next, &proof);
    rig.session.receive(&record);
    assert!(matches!(rig.poll(), Some(Event::Reauthenticated)));
}

#[test]
fn a_group_key_that_alone_authenticates_is_no_better_for_coming_later() {
    for outer_tag in [true, false] {
        let (mut rig, mut server) = connected(Suite::Aes256Gcm, Scheme::Four);
        let (next, proof) = prove(&mut rig, &mut server);
        let group = GroupSealer::new(1, 1, Suite::Aes256Gcm, outer_tag, Secret32::new(&[7; 32]));
        let mut grant = Vec::new();
        group.grant(1_000, b"f/t").encode_content(&mut grant).unwrap();
        let params = ServerFinishParams { group_grants: vec![grant], ..ServerFinishParams::default() };

        let (record, _) = finish_with(&mut server, next, &proof, params);
        rig.session.receive(&record);

        match rig.poll() {
            Some(Event::Reauthenticated) => assert!(outer_tag),
            event => assert_eq!((outer_tag, closed(event)), (false, CloseReason::WeakGroup)),
        }
    }
}

#[test]
fn a_broker_that_was_revoked_loses_its_channel_and_gets_no_other() {
    let broker = identity(20, Roles::BROKER, "broker-a");
    let (issuer, serial) = (authority().kid(), broker.certificate().serial);
    let revoked = || CloseReason::Handshake(CertificateError::Revoked { issuer, serial }.into());
    for scheme in [Scheme::One, Scheme::Two, Scheme::Three, Scheme::Four] {
        let (mut rig, mut server) = connected(Suite::Aes256Gcm, scheme);

        rig.session.revoke(&[(issuer, serial + 1)]);
        let answer = match scheme {
            // Packets go as they are.
            Scheme::One => encode(&Packet::PingResp),
            Scheme::Two | Scheme::Three | Scheme::Four => seal(&mut server, &[Packet::PingResp]),
        };
        rig.session.receive(&answer);
        assert!(rig.poll().is_none(), "{scheme:?}: it was another one");
        rig.session.revoke(&[(issuer, serial)]);
        assert_eq!(closed(rig.poll()), revoked(), "{scheme:?}");

        rig.connect();
        let connect_bytes = rig.sent();
        let Packet::Connect(connect) = decode(&connect_bytes) else { panic!("CONNECT") };
        let hello = connect.properties.authentication_data.unwrap();
        let policy = ServerPolicy { schemes: Schemes::ALL, ..ServerPolicy::default() };
        let mut entropy = |bytes: &mut [u8]| bytes.fill(97);
        let (server_hello, _) =
            ServerStart.handle(&connect_bytes, hello, &broker, &policy, UNIX_MS, &mut entropy).unwrap();
        rig.receive(&auth(&server_hello));
        assert_eq!(closed(rig.poll()), revoked(), "{scheme:?}");
    }
}
