//! What an adversary does to a VEIL-1 channel: on the network, as another subscriber, and with stolen keys.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use veilmq_client::session::Handshake;
use veilmq_client::{Client, QoS, Received, Status, Subscription};
use veilmq_protocol::next_frame;
use veilmq_protocol::veil::channel::{
    ClientHelloConfig, ClientStart, Content, Established, GroupSealer, HandshakeError, RecordError,
    RecordOpener, RecordSealer, Secret32, ServerPolicy, ServerStart, Side,
};
use veilmq_protocol::veil::hello::ChannelForm;
use veilmq_protocol::veil::record::{ControlOp, SharedBody};
use veilmq_protocol::veil::{Roles, Scheme, Schemes, Suite};
use veilmq_tests::members::{anchors, keys};

use crate::proxy::Proxy;
use crate::world::{builder, channel_broker, identity_of, lake, press, run};

const RECORD_BYTES_MAX: usize = 1 << 20;
const TOPIC: &str = "office/temperature";

async fn next_text(messages: &mut Subscription) -> String {
    match messages.next().await.unwrap() {
        Received::Message(message) => String::from_utf8(message.payload.to_vec()).unwrap(),
        _ => panic!("not a message"),
    }
}

fn is_connected(client: &Client) -> bool {
    matches!(client.status(), Status::Connected { .. })
}

#[test]
fn a_connect_that_was_stolen_and_replayed_evicts_nobody() {
    run(async {
        let (broker, trust, name) = channel_broker();
        let proxy = Proxy::silent(broker.address());
        let builder = builder(proxy.address(), lake()).trust(trust).broker_name(&name);
        let lake = builder.handshake(Handshake::Compact).connect().await.unwrap();
        let mut messages = lake.subscribe(TOPIC).qos(QoS::AtLeastOnce).await.unwrap();
        let sent = proxy.sent();
        let (_, connect_bytes) = next_frame(&sent, RECORD_BYTES_MAX).unwrap().unwrap();

        for _ in 0..3 {
            let mut thief = TcpStream::connect(broker.address()).unwrap();
            thief.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            thief.write_all(&sent[..connect_bytes]).unwrap();
            let mut answer = Vec::new();
            let _ = thief.read_to_end(&mut answer);
            let reason = answer.get(3).copied();
            assert_eq!((answer.first().copied(), reason), (Some(0x20), Some(0x87)), "{answer:?}");
        }

        lake.publish(TOPIC, "21.5").qos(QoS::AtLeastOnce).send().await.unwrap();
        assert_eq!(next_text(&mut messages).await, "21.5");
        assert!(is_connected(&lake));
    });
}

#[test]
fn a_record_that_was_changed_dropped_replayed_or_moved_ends_the_channel_and_nothing_of_it_arrives() {
    type Change = fn(usize, Vec<u8>) -> Vec<Vec<u8>>;
    let changes: [(&str, Change); 4] = [
        ("changed", |number, mut record| {
            if number == 2 {
                let last = record.len() - 20;
                record[last] ^= 1;
            }
            vec![record]
        }),
        ("dropped", |number, record| if number == 2 { vec![] } else { vec![record] }),
        ("replayed", |number, record| if number == 2 { vec![record.clone(), record] } else { vec![record] }),
        ("cut off", |number, mut record| {
            if number == 2 {
                record.truncate(record.len() - 1);
                record[4] -= 1;
            }
            vec![record]
        }),
    ];
    for (what, change) in changes {
        run(async {
            let (broker, trust, _) = channel_broker();
            let proxy = Proxy::changing_records(broker.address(), change);
            let client = builder(proxy.address(), lake()).trust(trust).connect().await.unwrap();
            let mut messages = client.subscribe(TOPIC).await.unwrap();

            let mut sent = 0;
            // A record that is missing is noticed with the next, so there is always a next.
            while client.publish(TOPIC, format!("{sent}")).qos(QoS::AtLeastOnce).submit().await.is_ok() {
                sent += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }

            let mut heard = 0;
            while let Some(Received::Message(message)) = messages.next().await {
                assert_eq!(
                    message.payload,
                    format!("{heard}"),
                    "{what}: each once, and none of what is wrong"
                );
                heard += 1;
            }
            assert!(heard <= sent, "{what}: {heard} of {sent}");
            assert!(matches!(client.status(), Status::Closed(_)), "{what}");
        });
    }
}

#[test]
fn the_topic_is_secret_under_scheme_2_and_as_documented_not_under_scheme_4() {
    for (scheme, is_secret) in [(Scheme::Two, true), (Scheme::Four, false)] {
        run(async move {
            let (broker, trust, _) = channel_broker();
            let proxy = Proxy::silent(broker.address());
            let client = builder(proxy.address(), lake()).trust(trust).schemes(Schemes::of(&[scheme]));
            let client = client.connect().await.unwrap();
            let mut messages = client.subscribe(TOPIC).await.unwrap();

            client.publish(TOPIC, "21.5").qos(QoS::AtLeastOnce).send().await.unwrap();
            assert_eq!(next_text(&mut messages).await, "21.5");

            let seen = proxy.seen();
            let holds = |text: &str| seen.windows(text.len()).any(|window| window == text.as_bytes());
            assert_eq!(!holds(TOPIC), is_secret, "{scheme:?}");
        });
    }
}

#[test]
fn who_talks_to_the_broker_is_as_documented_no_secret() {
    run(async {
        let (broker, trust, _) = channel_broker();
        let proxy = Proxy::silent(broker.address());
        let client = builder(proxy.address(), lake()).trust(trust).schemes(Schemes::of(&[Scheme::Two]));
        let client = client.connect().await.unwrap();

        assert!(
            proxy.sent().windows(4).any(|window| window == b"lake"),
            "the Client Identifier is in CONNECT"
        );
        assert!(is_connected(&client));
    });
}

/// The broker's end of a channel to a subscriber, and the subscriber's.
fn channel(suite: Suite, scheme: Scheme, name: &str) -> (RecordSealer, RecordOpener) {
    let secret = || Secret32::new(&veilmq_protocol::veil::channel::hash(&[name.as_bytes()]));
    (RecordSealer::new(suite, scheme, secret()), RecordOpener::new(Side::Client, suite, scheme, secret()))
}

/// A record of the group `group` for who has `own` as the broker's end of its channel.
fn fan_out(group: &mut GroupSealer, own: &mut RecordSealer, scheme: Scheme, payload: &[u8]) -> Vec<u8> {
    let body = SharedBody { stamp: None, topic: b"office/gate", properties: &[], payload };
    let mut shared = Vec::new();
    let (fan, tag) = if scheme == Scheme::Three {
        (group.encrypt(body, 0, &mut shared).unwrap(), None)
    } else {
        let (fan, tag) = group.authenticate(body, 0, &mut shared).unwrap();
        shared.extend_from_slice(payload);
        (fan, Some(tag))
    };
    let mut record = Vec::new();
    let outer = own.fan_group(&mut record, &[0, 0, 0], &fan).unwrap();
    record.extend_from_slice(&shared);
    record.extend_from_slice(tag.as_ref().map_or(&[][..], |tag| tag));
    record.extend_from_slice(outer.as_ref().map_or(&[][..], AsRef::as_ref));
    record
}

#[test]
fn a_subscriber_with_the_group_key_makes_nobody_accept_a_forged_message() {
    for suite in Suite::ALL {
        for scheme in [Scheme::Three, Scheme::Four] {
            for outer_tag in [true, false] {
                let group_key = || Secret32::new(&[7; 32]);
                let mut group = GroupSealer::new(1, 1, suite, outer_tag, group_key());
                let (mut to_lake, mut lake) = channel(suite, scheme, "lake");
                let mut granted = Vec::new();
                to_lake.control(&mut granted, &group.grant(60_000, b"office/gate")).unwrap();
                let content = lake.next(&mut granted, RECORD_BYTES_MAX).unwrap().unwrap().content;
                assert!(matches!(content, Content::Control(_)), "lake is a member");
                let mut genuine = fan_out(&mut group, &mut to_lake, scheme, b"shut the gate");
                assert!(lake.next(&mut genuine, RECORD_BYTES_MAX).unwrap().is_some());

                // Mallory was granted the same key on a channel of its own, and tags as the broker would.
                let mut forging = GroupSealer::new(1, 1, suite, outer_tag, group_key());
                let (mut to_mallory, _) = channel(suite, scheme, "mallory");
                // The numbers that the broker has used so far, on both.
                fan_out(&mut forging, &mut to_mallory, scheme, b"-");
                to_mallory.control(&mut Vec::new(), &ControlOp::Notice("-")).unwrap();
                let mut forged = fan_out(&mut forging, &mut to_mallory, scheme, b"open the gate");

                let accepted = lake.next(&mut forged, RECORD_BYTES_MAX);
                match outer_tag {
                    true => assert_eq!(accepted, Err(RecordError::Authentication), "{suite:?} {scheme:?}"),
                    // The paper's form, which the broker and the client each warn of and refuse unless told otherwise.
                    false => assert!(accepted.unwrap().is_some(), "as documented: {suite:?} {scheme:?}"),
                }
            }
        }
    }
}

#[test]
fn a_digest_tag_of_another_subscriber_is_worthless() {
    for suite in Suite::ALL {
        let (mut to_mallory, _) = channel(suite, Scheme::Four, "mallory");
        let (mut to_lake, mut lake) = channel(suite, Scheme::Four, "lake");
        let record = |sealer: &mut RecordSealer, payload: &[u8]| {
            let mut body = Vec::new();
            SharedBody { stamp: None, topic: b"office/gate", properties: &[], payload }
                .encode_head(&mut body)
                .unwrap();
            body.extend_from_slice(payload);
            let (mut record, digest) = (Vec::new(), sealer.digest(&[&body]));
            let tag = sealer.fan_d(&mut record, &[0, 0, 0], &digest, body.len()).unwrap();
            record.extend_from_slice(&body);
            record.extend_from_slice(tag.as_ref());
            record
        };
        let mut genuine = record(&mut to_lake, b"shut the gate");
        assert!(lake.next(&mut genuine, RECORD_BYTES_MAX).unwrap().is_some());
        record(&mut to_mallory, b"-");

        let mut forged = record(&mut to_mallory, b"open the gate");

        assert_eq!(lake.next(&mut forged, RECORD_BYTES_MAX), Err(RecordError::Authentication), "{suite:?}");
    }
}

/// Everything random that a party draws is this byte.
fn drawing(byte: u8) -> impl FnMut(&mut [u8]) {
    move |bytes: &mut [u8]| bytes.fill(byte)
}

fn client_hello(byte: u8) -> (ClientStart, Vec<u8>) {
    let config = ClientHelloConfig {
        schemes: Schemes::of(&[Scheme::Four]),
        suites: &[Suite::Aes256Gcm],
        anchor: keys("authority").kid(),
        now_unix_ms: Some(1_000),
        form: ChannelForm::Records,
        join_request: None,
    };
    ClientStart::new(&config, &mut drawing(byte)).unwrap()
}

#[test]
fn who_recorded_a_handshake_and_stole_all_keys_afterwards_does_not_get_the_channels_keys() {
    let broker = identity_of("broker-a", Roles::BROKER);
    // What the network saw. The packet stands for CONNECT; the handshake takes its bytes as they are.
    let (_, hello) = client_hello(1);
    let (server_hello, _) = ServerStart
        .handle(&hello, &hello, &broker, &ServerPolicy::default(), 1_000, &mut drawing(2))
        .unwrap();
    // Everything that lasts is stolen: the identities of both. The client's share was thrown away, so that there is another.
    let replayed = |share: u8| -> Result<Option<Established>, HandshakeError> {
        let (start, _) = client_hello(share);
        start.sent_connect(&hello).handle(&server_hello, &press(), &anchors(), None, Some(1)).map(|_| None)
    };

    assert!(replayed(9).is_err(), "the broker's flight does not open");

    assert!(replayed(1).is_ok(), "with the share it would");
}
