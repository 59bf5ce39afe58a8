//! What a broker answers when a channel fails: one row for each line of VEIL-1 section 16 that concerns the channel.

use super::*;

/// What the client saw in the end.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// CONNACK with this Reason Code and nothing else, and the end of the connection.
    ConnAck(u8),
    /// DISCONNECT with this Reason Code and nothing else, in a record, and the end of the connection.
    Disconnect(u8),
    /// The end of the connection without a word.
    Silence,
}

fn terse() -> Realm {
    realm(Settings { reason_strings: false, ..Settings::default() })
}

/// The answer to what was sent before CONNACK.
fn before(mut realm: Realm, connection: Conn) -> Answer {
    assert!(realm.world.is_closed(connection));
    let bytes = realm.world.bytes(connection);
    match bytes.as_slice() {
        [] => Answer::Silence,
        // What came before the refusal is none of our business here.
        [.., 0x20, 3, 0, reason, 0] => Answer::ConnAck(*reason),
        other => panic!("{other:02x?}"),
    }
}

/// The answer to what was sent on a channel.
fn after(mut realm: Realm, mut client: Client) -> Answer {
    assert!(realm.world.is_closed(client.connection));
    match realm.received(&mut client).as_slice() {
        [] => Answer::Silence,
        [farewell] => {
            let code = farewell.strip_prefix("DISCONNECT 0x").expect("a farewell");
            Answer::Disconnect(u8::from_str_radix(code, 16).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

/// Sends a CONNECT with these Authentication Data.
fn connect_with(method: &str, data: &[u8]) -> Answer {
    let mut realm = terse();
    let connect = connect_v5("press-07", true, 0);
    let properties = ConnectProperties {
        authentication_method: Some(method),
        authentication_data: Some(data),
        ..connect.properties
    };
    let connection = realm.world.connect(&Connect { properties, ..connect });
    before(realm, connection)
}

/// The ClientHello of a client that accepts this, with one byte changed.
fn hello(schemes: Schemes, suites: &[Suite], change: impl FnOnce(&mut Vec<u8>)) -> Answer {
    let realm = terse();
    let config = ClientHelloConfig {
        schemes,
        suites,
        anchor: realm.broker.kid(),
        now_unix_ms: Some(1_800_000_000_000),
        form: ChannelForm::Records,
        join_request: None,
    };
    let (_, mut hello) = ClientStart::new(&config, &mut |bytes| bytes.fill(0x33)).unwrap();
    change(&mut hello);
    connect_with(AUTHENTICATION_METHOD, &hello)
}

/// Sends a packet that is not due where ClientFinish is.
fn instead_of_a_proof(packet: &[u8]) -> Answer {
    let mut realm = terse();
    let (connection, _) = realm.begin("press-07", Schemes::ALL, Suite::Aes256Gcm);
    realm.world.bytes(connection);
    realm.world.send_bytes(connection, packet);
    before(realm, connection)
}

/// Proves with a changed ClientFinish.
fn finish(change: impl FnOnce(&mut Vec<u8>)) -> Answer {
    let mut realm = terse();
    let identity = realm.identity(10, "press-07");
    let (connection, awaiting) = realm.begin("press-07", Schemes::ALL, Suite::Aes256Gcm);
    let bytes = realm.world.bytes(connection);
    let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
    let Packet::Auth(auth) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else { panic!("no AUTH") };
    let (mut finish, _) =
        awaiting.handle(auth.data.unwrap(), &identity, &realm.anchors, None, Some(1_800_000_000)).unwrap();
    change(&mut finish);
    realm.finish(connection, &finish);
    before(realm, connection)
}

/// Sends these bytes on a channel.
fn on_a_channel(bytes: impl FnOnce(&mut Client) -> Vec<u8>) -> Answer {
    let mut realm = terse();
    let mut client = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
    let bytes = bytes(&mut client);
    realm.world.send_bytes(client.connection, &bytes);
    after(realm, client)
}

fn sealed(client: &mut Client, packets: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let open = client.sealer.begin(&mut bytes);
    bytes.extend_from_slice(packets);
    client.sealer.finish(&mut bytes, open);
    bytes
}

fn begins_again(data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Packet::Auth(Auth {
        reason: ReasonCode::ReAuthenticate,
        method: Some(AUTHENTICATION_METHOD),
        data: Some(data),
        ..Auth::default()
    })
    .encode(ProtocolVersion::V5, &mut bytes)
    .unwrap();
    bytes
}

#[test]
fn every_failure_of_the_channel_has_the_answer_of_section_16() {
    let gcm = &[Suite::Aes256Gcm];
    let rows: &[(&str, &dyn Fn() -> Answer, Answer)] = &[
        ("another method", &|| connect_with("SCRAM-SHA-256", b"x"), Answer::ConnAck(0x8C)),
        ("no common scheme", &|| hello(Schemes::of(&[Scheme::Three]), gcm, |_| {}), Answer::ConnAck(0x8C)),
        ("no suite", &|| hello(Schemes::ALL, &[], |_| {}), Answer::ConnAck(0x8C)),
        ("another version", &|| hello(Schemes::ALL, gcm, |hello| hello[1] = 2), Answer::ConnAck(0x8C)),
        ("another mode", &|| hello(Schemes::ALL, gcm, |hello| hello[2] = 4), Answer::ConnAck(0x8C)),
        ("no Authentication Data", &|| connect_with(AUTHENTICATION_METHOD, b""), Answer::ConnAck(0x82)),
        ("another message", &|| hello(Schemes::ALL, gcm, |hello| hello[0] = 3), Answer::ConnAck(0x82)),
        ("reserved flags", &|| hello(Schemes::ALL, gcm, |hello| hello[3] |= 0x80), Answer::ConnAck(0x82)),
        ("reserved schemes", &|| hello(Schemes::ALL, gcm, |hello| hello[4] |= 0x80), Answer::ConnAck(0x82)),
        ("PINGREQ before CONNACK", &|| instead_of_a_proof(&[0xC0, 0]), Answer::ConnAck(0x82)),
        ("DISCONNECT before CONNACK", &|| instead_of_a_proof(&[0xE0, 0]), Answer::Silence),
        ("a hello cut short", &|| hello(Schemes::ALL, gcm, |hello| _ = hello.pop()), Answer::ConnAck(0x82)),
        ("a hello with more", &|| hello(Schemes::ALL, gcm, |hello| hello.push(0)), Answer::ConnAck(0x82)),
        (
            "COMPACT without a proof",
            &|| hello(Schemes::ALL, gcm, |hello| hello[2] = 2),
            Answer::ConnAck(0x82),
        ),
        (
            "RESUME without a ticket",
            &|| hello(Schemes::ALL, gcm, |hello| hello[2] = 3),
            Answer::ConnAck(0x82),
        ),
        (
            "a share of small order",
            &|| {
                hello(Schemes::ALL, gcm, |hello| {
                    let share = hello.len() - 32;
                    hello[share..].fill(0);
                })
            },
            Answer::ConnAck(0x87),
        ),
        ("a changed proof", &|| finish(|finish| finish[20] ^= 1), Answer::ConnAck(0x87)),
        ("a proof cut short", &|| finish(|finish| _ = finish.pop()), Answer::ConnAck(0x82)),
        ("a proof of another type", &|| finish(|finish| finish[0] = 1), Answer::ConnAck(0x82)),
        ("a wrong tag", &|| on_a_channel(|client| flipped(sealed(client, &[0xC0, 0]))), Answer::Silence),
        ("plain MQTT", &|| on_a_channel(|_| vec![0xC0, 0, 0xC0, 0, 0xC0]), Answer::Silence),
        ("an unknown record", &|| on_a_channel(|_| vec![7, 0, 0, 0, 20]), Answer::Silence),
        ("a record of another scheme", &|| on_a_channel(|_| vec![2, 0, 0, 0, 20]), Answer::Silence),
        ("a record that is too short", &|| on_a_channel(|_| vec![1, 0, 0, 0, 16]), Answer::Silence),
        ("a record that is too long", &|| on_a_channel(|_| vec![1, 2, 0, 0, 0]), Answer::Silence),
        ("another key phase", &|| on_a_channel(|_| vec![0x81, 0, 0, 0, 20]), Answer::Silence),
        ("half a packet", &|| on_a_channel(|client| sealed(client, &[0xC0])), Answer::Disconnect(0x82)),
        (
            "re-authentication with a malformed hello",
            &|| on_a_channel(|client| sealed(client, &begins_again(b"x"))),
            Answer::Disconnect(0x82),
        ),
    ];
    for (name, deed, answer) in rows {
        assert_eq!(deed(), *answer, "{name}");
    }
}

fn flipped(mut record: Vec<u8>) -> Vec<u8> {
    let last = record.len() - 1;
    record[last] ^= 1;
    record
}
