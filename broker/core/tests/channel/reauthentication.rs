//! Re-authentication on a VEIL-1 channel (section 4.12.1; VEIL-1 section 4.8): the exchange, the change of keys, every refusal.

use veilmq_protocol::veil::channel::{AwaitServerFinish, AwaitServerHello};

use super::*;

fn encode(packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(ProtocolVersion::V5, &mut bytes).unwrap();
    bytes
}

fn auth(reason: ReasonCode, data: &[u8]) -> Packet<'_> {
    Packet::Auth(Auth { reason, method: Some(AUTHENTICATION_METHOD), data: Some(data), ..Auth::default() })
}

/// DISCONNECT with a Reason Code and nothing else.
fn farewell(reason: u8) -> Vec<u8> {
    vec![0xE0, 1, reason]
}

/// A broker that says no more than it has to, and a client on a channel.
fn joined() -> (Realm, Client) {
    let mut realm = realm(Settings { reason_strings: false, ..Settings::default() });
    let client = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
    (realm, client)
}

impl Client {
    /// Seals `packets` as one record, whatever they are.
    fn seal(&mut self, packets: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let open = self.sealer.begin(&mut bytes);
        bytes.extend_from_slice(packets);
        self.sealer.finish(&mut bytes, open);
        bytes
    }
}

impl Realm {
    fn send_sealed(&mut self, client: &mut Client, packets: &[u8]) {
        let record = client.seal(packets);
        self.world.send_bytes(client.connection, &record);
    }

    /// Opens the one record a client has received, and returns its packets.
    fn packets(&mut self, client: &mut Client) -> Vec<u8> {
        let mut bytes = self.world.bytes(client.connection);
        let record = client.opener.next(&mut bytes, 1 << 20).unwrap().unwrap();
        assert_eq!(record.consumed, bytes.len(), "one record");
        let Content::Packets(range) = record.content else { panic!("{:?}", record.content) };
        bytes[range].to_vec()
    }

    /// Lets a client begin with AUTH 0x19.
    fn begin_again(&mut self, client: &mut Client) -> AwaitServerHello {
        let now = Some(self.world.now().milliseconds());
        let (start, hello) =
            ClientStart::again(&client.predecessor, self.broker.kid(), now, &mut |bytes| bytes.fill(0x44))
                .unwrap();
        let packet = encode(&auth(ReasonCode::ReAuthenticate, &hello));
        self.send_sealed(client, &packet);
        start.sent_auth(&client.predecessor, &packet)
    }

    /// Takes the broker's AUTH 0x18 and makes the ClientFinish.
    fn prove(
        &mut self,
        client: &mut Client,
        identity: &Identity,
        awaiting: AwaitServerHello,
    ) -> (Vec<u8>, AwaitServerFinish) {
        let bytes = self.packets(client);
        let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
        let Packet::Auth(hello) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else {
            panic!("expected AUTH, got {bytes:02x?}");
        };
        // [MQTT-4.12.0-5]; [MQTT-3.15.2-2], [MQTT-3.15.2-3]
        assert_eq!((hello.reason, hello.method), (ReasonCode::ContinueAuthentication, Some("VEIL-1")));
        assert_eq!((hello.reason_string, hello.user.is_empty()), (None, true));
        let seconds = Some(self.world.now().milliseconds() / 1_000);
        awaiting.handle(hello.data.unwrap(), identity, &self.anchors, Some("broker"), seconds).unwrap()
    }

    /// Gets as far as the broker's AUTH 0x00, which the client has not received yet.
    fn prove_again(&mut self, client: &mut Client, identity: &Identity) -> AwaitServerFinish {
        let awaiting = self.begin_again(client);
        let (finish, awaiting) = self.prove(client, identity, awaiting);
        self.send_sealed(client, &encode(&auth(ReasonCode::ContinueAuthentication, &finish)));
        awaiting
    }

    fn reauthenticate(&mut self, client: &mut Client, identity: &Identity) {
        let awaiting = self.prove_again(client, identity);
        let done = self.packets(client);
        client.switch(awaiting, &done);
    }

    /// Asserts that the connection ended with exactly these bytes in a record, and how many handshakes have failed.
    fn ended_with(&mut self, client: &mut Client, farewell: &[u8], failures: u64, what: &str) {
        assert!(self.world.is_closed(client.connection), "{what}");
        assert_eq!(self.packets(client), farewell, "{what}");
        assert_eq!(self.world.sample("veilmq_channel_handshakes_total", "failure"), failures, "{what}");
    }
}

impl Client {
    /// Verifies AUTH 0x00 and changes keys.
    fn switch(&mut self, awaiting: AwaitServerFinish, done: &[u8]) {
        let (sealer, opener, predecessor) = awaiting.handle_auth(done).unwrap().into_parts();
        self.sealer.switch_to(sealer);
        self.opener.switch_to(opener).unwrap();
        self.predecessor = predecessor;
    }
}

#[test]
fn messages_flow_both_ways_before_during_and_after_in_every_suite_and_scheme() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Four, Scheme::Two] {
            let mut realm = realm(Settings::default());
            let mut press = realm.join("press-07", 10, Schemes::of(&[scheme]), suite);
            let (plain, _) = realm.world.join("plain", true, 0);
            realm.subscribe(&mut press, "f/#");
            realm.received(&mut press);
            realm.world.subscribe(plain, "g/#", QoS::AtMostOnce);
            realm.world.bytes(plain);
            let identity = realm.identity(10, "press-07");
            let mut packet_id = 0;
            let mut talk = |realm: &mut Realm, press: &mut Client, payload: &str| {
                packet_id += 1;
                let message = publish("g/t", payload, QoS::AtLeastOnce, packet_id);
                realm.send(press, &[Packet::Publish(message)]);
                realm.world.publish(plain, "f/t", payload, QoS::AtMostOnce, 0);
                assert_eq!(
                    realm.received(press),
                    [format!("PUBACK id{packet_id}"), format!("PUBLISH f/t {payload:?} qos0")],
                    "{suite:?} {scheme:?}"
                );
                assert_eq!(realm.world.received(plain), [format!("PUBLISH g/t {payload:?} qos0")]);
            };
            talk(&mut realm, &mut press, "before");

            let awaiting = realm.begin_again(&mut press);
            let (finish, awaiting) = realm.prove(&mut press, &identity, awaiting);
            talk(&mut realm, &mut press, "during");
            realm.send_sealed(&mut press, &encode(&auth(ReasonCode::ContinueAuthentication, &finish)));
            let done = realm.packets(&mut press);
            assert_eq!(describe_all(&done, ProtocolVersion::V5), ["Auth"]);
            press.switch(awaiting, &done);

            talk(&mut realm, &mut press, "after");
            realm.reauthenticate(&mut press, &identity);
            talk(&mut realm, &mut press, "after the second");
            assert_eq!(realm.world.sample("veilmq_channel_handshakes_total", "success"), 3);
            assert_eq!(realm.world.sample("veilmq_channel_handshakes_total", "failure"), 0);
        }
    }
}

#[test]
fn each_side_changes_keys_with_its_first_record_after_success() {
    let (mut realm, mut client) = joined();
    let identity = realm.identity(10, "press-07");
    let awaiting = realm.prove_again(&mut client, &identity);
    let mut done = realm.world.bytes(client.connection);
    assert_eq!(done[0] & 0x80, 0, "AUTH itself is under the previous keys");

    // What the client sent before it knew still opens.
    realm.send(&mut client, &[Packet::PingReq]);
    let answer = realm.world.bytes(client.connection);
    assert_eq!(answer[0] & 0x80, 0x80);

    let record = client.opener.next(&mut done, 1 << 20).unwrap().unwrap();
    let Content::Packets(range) = record.content else { panic!("no packets") };
    client.switch(awaiting, &done[range]);
    let mut answer = answer;
    assert!(client.opener.next(&mut answer, 1 << 20).unwrap().is_some());
    realm.send(&mut client, &[Packet::PingReq]);
    assert_eq!(realm.received(&mut client), ["PINGRESP"]);
}

#[test]
fn a_record_under_the_previous_keys_breaks_the_channel_after_the_first_under_the_new() {
    let (mut realm, mut client) = joined();
    let identity = realm.identity(10, "press-07");
    let awaiting = realm.prove_again(&mut client, &identity);
    let done = realm.packets(&mut client);
    let late = client.seal(&[0xC0, 0]);
    client.switch(awaiting, &done);
    realm.send(&mut client, &[Packet::PingReq]);
    assert_eq!(realm.received(&mut client), ["PINGRESP"]);

    realm.world.send_bytes(client.connection, &late);

    assert!(realm.world.is_closed(client.connection));
    assert!(realm.world.bytes(client.connection).is_empty());
}

#[test]
fn a_key_update_is_barred_from_the_clients_proof_to_its_first_record_under_the_new_keys() {
    let (mut realm, mut client) = joined();
    let identity = realm.identity(10, "press-07");
    let update = |realm: &mut Realm, client: &mut Client| {
        let mut bytes = Vec::new();
        client.sealer.key_update(&mut bytes);
        realm.world.send_bytes(client.connection, &bytes);
    };
    let awaiting = realm.begin_again(&mut client);
    update(&mut realm, &mut client);
    let (finish, awaiting) = realm.prove(&mut client, &identity, awaiting);
    realm.send_sealed(&mut client, &encode(&auth(ReasonCode::ContinueAuthentication, &finish)));
    let done = realm.packets(&mut client);
    client.switch(awaiting, &done);
    update(&mut realm, &mut client);
    realm.send(&mut client, &[Packet::PingReq]);
    assert_eq!(realm.received(&mut client), ["PINGRESP"], "before and after it may");

    realm.prove_again(&mut client, &identity);
    realm.packets(&mut client);
    update(&mut realm, &mut client);

    assert!(realm.world.is_closed(client.connection));
    assert!(realm.world.bytes(client.connection).is_empty());
}

#[test]
fn an_auth_that_is_not_due_ends_the_connection_with_its_reason() {
    let other_method = Packet::Auth(Auth {
        reason: ReasonCode::ReAuthenticate,
        method: Some("another"),
        data: Some(b"x"),
        ..Auth::default()
    });
    // [MQTT-4.12.1-1], [MQTT-4.12.1-2]
    let rows: [(&str, Vec<u8>, u64); 6] = [
        ("another method", encode(&other_method), 0),
        ("no method", vec![0xF0, 2, 0x19, 0], 0),
        ("success", encode(&auth(ReasonCode::Success, b"x")), 0),
        ("nothing at all", vec![0xF0, 0], 0),
        ("continues what was not begun", encode(&auth(ReasonCode::ContinueAuthentication, b"x")), 0),
        ("no ClientHello", encode(&auth(ReasonCode::ReAuthenticate, b"x")), 1),
    ];
    for (name, packet, failures) in rows {
        let (mut realm, mut client) = joined();

        realm.send_sealed(&mut client, &packet);

        realm.ended_with(&mut client, &farewell(0x82), failures, name);
    }
}

#[test]
fn only_one_re_authentication_is_under_way() {
    // [A13]
    let (mut realm, mut client) = joined();
    realm.begin_again(&mut client);
    realm.packets(&mut client);
    realm.begin_again(&mut client);
    realm.ended_with(&mut client, &farewell(0x82), 1, "before the client's proof");

    let (mut realm, mut client) = joined();
    let identity = realm.identity(10, "press-07");
    let awaiting = realm.prove_again(&mut client, &identity);
    let done = realm.packets(&mut client);
    let second = client.seal(&encode(&auth(ReasonCode::ReAuthenticate, b"x")));
    realm.world.send_bytes(client.connection, &second);
    client.switch(awaiting, &done);
    realm.ended_with(&mut client, &farewell(0x82), 0, "before the client's first record under the new keys");
}

#[test]
fn a_client_hello_that_is_not_for_this_channel_is_refused() {
    // Byte 2 is the mode, byte 4 the schemes, byte 6 the suite.
    for (name, at, value) in [("a mode", 2, 9), ("another scheme", 4, 2), ("another suite", 6, 3)] {
        let (mut realm, mut client) = joined();
        let (_, mut hello) =
            ClientStart::again(&client.predecessor, realm.broker.kid(), None, &mut |bytes| bytes.fill(1))
                .unwrap();
        hello[at] = value;

        realm.send_sealed(&mut client, &encode(&auth(ReasonCode::ReAuthenticate, &hello)));

        realm.ended_with(&mut client, &farewell(0x8C), 1, name);
    }
}

#[test]
fn who_is_not_the_one_that_connected_is_refused_without_detail() {
    type Make = fn(&Realm) -> Identity;
    let rows: [(&str, Make); 4] = [
        ("another key for the same name", |realm| realm.identity(11, "press-07")),
        ("another name", |realm| realm.identity(10, "lake-1")),
        ("self-signed", |_| identity(10, "press-07", Roles::PUBLISHER, None)),
        ("expired", |realm| {
            identity_until(1_799_999_999, 10, "press-07", Roles::PUBLISHER, Some(&realm.authority))
        }),
    ];
    for (name, make) in rows {
        let mut realm = realm(Settings::default());
        let mut client = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
        let identity = make(&realm);

        realm.prove_again(&mut client, &identity);

        realm.ended_with(&mut client, &farewell(0x87), 1, name);
    }
}

#[test]
fn a_proof_that_was_changed_or_made_for_another_channel_is_refused() {
    let (mut realm, mut client) = joined();
    let identity = realm.identity(10, "press-07");
    let awaiting = realm.begin_again(&mut client);
    let (mut finish, _) = realm.prove(&mut client, &identity, awaiting);
    *finish.last_mut().unwrap() ^= 1;
    realm.send_sealed(&mut client, &encode(&auth(ReasonCode::ContinueAuthentication, &finish)));
    realm.ended_with(&mut client, &farewell(0x87), 1, "changed");

    let (mut realm, mut client) = joined();
    let identity = realm.identity(11, "lake-1");
    let mut other = realm.join("lake-1", 11, Schemes::ALL, Suite::Aes256Gcm);
    std::mem::swap(&mut client.predecessor, &mut other.predecessor);
    let awaiting = realm.begin_again(&mut client);
    let bytes = realm.packets(&mut client);
    let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
    let Packet::Auth(hello) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else { panic!("no AUTH") };
    let refused =
        awaiting.handle(hello.data.unwrap(), &identity, &realm.anchors, None, Some(1_800_000_000)).err();
    assert!(refused.is_some(), "the broker's answer is for the channel it came on");
}

#[test]
fn an_exchange_that_takes_too_long_ends_the_connection() {
    // [A13]
    let (mut realm, mut client) = joined();
    let identity = realm.identity(10, "press-07");
    realm.reauthenticate(&mut client, &identity);
    realm.world.pass(60_000);
    assert!(!realm.world.is_closed(client.connection), "one that is over has no deadline");

    realm.begin_again(&mut client);
    realm.packets(&mut client);
    realm.world.pass(9_999);
    assert!(!realm.world.is_closed(client.connection));
    realm.world.pass(1);

    realm.ended_with(&mut client, &farewell(0x97), 1, "late");
}

#[test]
fn a_connection_lives_as_long_as_the_certificate_it_was_renewed_with() {
    let until = |realm: &Realm, not_after| {
        identity_until(not_after, 10, "press-07", Roles::PUBLISHER, Some(&realm.authority))
    };
    let mut realm = realm(Settings { reason_strings: false, ..Settings::default() });
    let short = until(&realm, 1_800_000_060);
    let connect = connect_v5("press-07", true, 0);
    let mut client = realm.join_as(&short, connect, Schemes::ALL, Suite::Aes256Gcm);
    realm.world.pass(30_000);
    let longer = until(&realm, 1_800_000_600);

    realm.reauthenticate(&mut client, &longer);

    realm.world.pass(400_000);
    realm.send(&mut client, &[Packet::PingReq]);
    assert_eq!(realm.received(&mut client), ["PINGRESP"], "past the end of the first");
    realm.world.pass(469_999);
    assert!(!realm.world.is_closed(client.connection));
    realm.world.pass(1);
    realm.ended_with(&mut client, &farewell(0x87), 0, "five minutes after the end of the second");
}

#[test]
fn a_certificate_that_ends_earlier_ends_the_connection_earlier() {
    let (mut realm, mut client) = joined();
    let short = identity_until(1_800_000_060, 10, "press-07", Roles::PUBLISHER, Some(&realm.authority));

    realm.reauthenticate(&mut client, &short);
    realm.world.pass(359_999);
    assert!(!realm.world.is_closed(client.connection));
    realm.world.pass(1);

    realm.ended_with(&mut client, &farewell(0x87), 0, "five minutes after its end");
}

#[test]
fn a_re_authentication_counts_among_the_half_open_handshakes() {
    let mut realm = realm(Settings { half_open_max: 1, reason_strings: false, ..Settings::default() });
    let mut client = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
    let identity = realm.identity(10, "press-07");
    realm.reauthenticate(&mut client, &identity);
    let (held, _) = realm.begin("a", Schemes::ALL, Suite::Aes256Gcm);
    for _ in 0..4 {
        realm.begin("a", Schemes::ALL, Suite::Aes256Gcm);
    }

    realm.begin_again(&mut client);

    realm.ended_with(&mut client, &farewell(0x97), 0, "too many");
    assert!(!realm.world.is_closed(held));
}

#[test]
fn an_exchange_that_is_cut_short_has_failed_and_is_not_half_open_any_more() {
    let mut realm = realm(Settings { half_open_max: 1, ..Settings::default() });
    for round in 1..10 {
        let mut client = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
        realm.begin_again(&mut client);
        realm.packets(&mut client);

        realm.world.cut(client.connection);

        assert_eq!(realm.world.sample("veilmq_channel_handshakes_total", "failure"), round);
    }
}

#[test]
fn keys_change_when_they_are_old_and_the_client_follows() {
    let mut realm = realm(Settings { rekey_seconds: 60, ..Settings::default() });
    let mut client = realm.join("press-07", 10, Schemes::ALL, Suite::ChaCha20Poly1305);
    realm.world.pass(60_000);

    realm.send(&mut client, &[Packet::PingReq]);
    assert_eq!(realm.received(&mut client), ["PINGRESP", "KeyUpdate"]);
    let mut update = Vec::new();
    client.sealer.key_update(&mut update);
    realm.world.send_bytes(client.connection, &update);
    realm.send(&mut client, &[Packet::PingReq]);

    assert_eq!(realm.received(&mut client), ["PINGRESP"]);
}

#[test]
fn keys_change_after_as_many_records_as_configured() {
    let mut realm = realm(Settings { rekey_records: 3, ..Settings::default() });
    let mut client = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);

    let answers: Vec<_> = (0..7)
        .map(|_| {
            realm.send(&mut client, &[Packet::PingReq]);
            realm.received(&mut client).join(" ")
        })
        .collect();

    let (plain, last) = ("PINGRESP", "PINGRESP KeyUpdate");
    assert_eq!(answers, [plain, plain, last, plain, plain, last, plain]);
}
