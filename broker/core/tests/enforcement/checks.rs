//! Each check of a policy, on each QoS and version of MQTT.

use veilmq_core::{BridgeErrand, Enforcement, Input, MessageFormat, Policy, RequiredChannel, Settings};
use veilmq_protocol::veil::Suite;
use veilmq_protocol::veil::envelope::{EnvelopeFlags, EnvelopeHeader};
use veilmq_protocol::{
    Connect, ConnectProperties, Packet, ProtocolVersion, PublishProperties, QoS, TopicName, Will,
};
use veilmq_simulator::{World, connect_v5, connect_v311};

use super::{
    REJECTED, SENDER, accept, article, code, enforce, envelope, header, join, policy, retain, send,
    world_with,
};

const NO_SUBSCRIBERS: u8 = 0x10;

#[test]
fn plaintext_is_refused_at_every_qos_and_reaches_nobody() {
    let mut world = world_with(vec![policy()]);
    let reader = join(&mut world, "reader");
    world.subscribe(reader, "#", QoS::ExactlyOnce);
    world.subscribe(reader, "$share/g/f/#", QoS::ExactlyOnce);
    world.bytes(reader);
    let writer = join(&mut world, "writer");

    send(&mut world, writer, "f/t", b"plain", QoS::AtMostOnce, 0);
    send(&mut world, writer, "f/t", b"plain", QoS::AtLeastOnce, 1);
    send(&mut world, writer, "f/t", b"plain", QoS::ExactlyOnce, 2);
    retain(&mut world, writer, "f/t", b"plain");

    // [MQTT-4.3.3-9] The identifier of a refused QoS 2 message is free.
    let expected = |first: u8, packet_id: u8| {
        let head = [first, 43, 0, packet_id, 0x99, 39, 0x1f, 0, 36];
        [head.as_slice(), b"the payload is not sealed end to end"].concat()
    };
    assert_eq!(world.bytes(writer), [expected(0x40, 1), expected(0x50, 2)].concat());
    assert_eq!(world.received(reader), [""; 0]);
    assert_eq!(world.policy_sample(REJECTED, "factory", "plaintext"), 4);
    assert_eq!(world.sample("veilmq_messages_dropped_total", "e2e_policy"), 4);
    assert_eq!(world.shared.retained_totals(), (0, 0));
}

#[test]
fn a_client_that_takes_no_problem_information_gets_the_code_alone() {
    let mut world = world_with(vec![policy()]);
    let properties = ConnectProperties { request_problem_information: false, ..ConnectProperties::default() };
    let terse = world.connect(&Connect { properties, ..connect_v5("c", true, 0) });
    world.bytes(terse);

    send(&mut world, terse, "f/t", b"plain", QoS::AtLeastOnce, 1);

    assert_eq!(world.bytes(terse), [0x40, 3, 0, 1, 0x99]);
    let mut silent = World::with(Settings { reason_strings: false, ..Settings::default() });
    enforce(&mut silent, vec![policy()]);
    let client = join(&mut silent, "c");
    send(&mut silent, client, "f/t", b"plain", QoS::ExactlyOnce, 1);
    assert_eq!(silent.bytes(client), [0x50, 3, 0, 1, 0x99]);
}

#[test]
fn a_client_of_mqtt_3_is_acknowledged_and_its_message_goes_nowhere() {
    // [MQTT311-3.3.5-2]
    let mut world = world_with(vec![policy()]);
    let reader = join(&mut world, "reader");
    world.subscribe(reader, "#", QoS::ExactlyOnce);
    world.bytes(reader);
    let old = accept(&mut world, ProtocolVersion::V311);
    world.send(old, &Packet::Connect(connect_v311("old", true)));
    world.bytes(old);

    send(&mut world, old, "f/t", b"plain", QoS::AtMostOnce, 0);
    send(&mut world, old, "f/t", b"plain", QoS::AtLeastOnce, 1);
    send(&mut world, old, "f/t", b"plain", QoS::ExactlyOnce, 2);
    world.ack(old, Packet::PubRel, 2);
    send(&mut world, old, "f/t", &envelope(&header(0)), QoS::AtLeastOnce, 3);

    assert_eq!(
        world.bytes(old),
        [[0x40, 2, 0, 1], [0x50, 2, 0, 2], [0x70, 2, 0, 2], [0x40, 2, 0, 3]].concat()
    );
    assert_eq!(world.received(reader).len(), 1);
    assert_eq!(world.policy_sample(REJECTED, "factory", "plaintext"), 3);
}

#[test]
fn every_check_of_form_has_its_code_and_its_count() {
    let strict =
        Policy { suites: vec![Suite::Aes256Gcm], require_signed: true, payload_bytes_max: 200, ..policy() };
    let signed = EnvelopeHeader { flags: EnvelopeFlags::SIGNED, ..header(0) };
    let changed = |offset: usize, value: u8| {
        let mut payload = envelope(&signed);
        payload[offset] = value;
        payload
    };
    let mut long = envelope(&signed);
    long.resize(201, 1);
    let rows: &[(&[u8], u8, &str)] = &[
        (&envelope(&signed), NO_SUBSCRIBERS, ""),
        (b"", 0x99, "plaintext"),
        (b"plain", 0x99, "plaintext"),
        (b"VE", 0x99, "plaintext"),
        (&changed(0, b'X'), 0x99, "plaintext"),
        (&changed(2, 0x20), 0x99, "plaintext"),
        (&changed(2, 0x15), 0x99, "malformed"),
        (&changed(3, 9), 0x99, "malformed"),
        (&changed(4, 0x41), 0x99, "malformed"),
        (&envelope(&signed)[..60], 0x99, "malformed"),
        (&changed(5, 0), 0x99, "scope"),
        (&envelope(&EnvelopeHeader { suite: Suite::ChaCha20Poly1305, ..signed }), 0x99, "suite"),
        (&envelope(&header(0)), 0x99, "unsigned"),
        (&long, 0x83, "size"),
        (&article(), 0x99, "format"),
    ];
    for (payload, expected, reason) in rows {
        let mut world = world_with(vec![strict.clone()]);
        let client = join(&mut world, "c");

        assert_eq!(code(&mut world, client, "f/t", payload), *expected, "{reason} {payload:02x?}");

        for name in ["plaintext", "malformed", "scope", "suite", "unsigned", "size", "format"] {
            let counted = world.policy_sample(REJECTED, "factory", name);
            assert_eq!(counted, u64::from(name == *reason), "{name} of {payload:02x?}");
        }
        let result = if reason.is_empty() { "accepted" } else { "rejected" };
        assert_eq!(world.policy_sample("veilmq_e2e_messages_total", "factory", result), 1);
    }
}

#[test]
fn the_articles_format_is_taken_where_it_is_allowed_and_looks_like_it() {
    let mut world = world_with(vec![
        Policy { formats: vec![MessageFormat::Article], ..policy() },
        Policy {
            formats: vec![MessageFormat::Ve1, MessageFormat::Article],
            sender_binding: false,
            ..Policy::requiring("both", "g/#")
        },
    ]);
    let client = join(&mut world, "c");
    let like_an_envelope = [b"VE\x10\xff".as_slice(), &article()[4..]].concat();

    for (topic, payload, expected) in [
        ("f/t", article(), NO_SUBSCRIBERS),
        ("f/t", [article(), article()].concat(), NO_SUBSCRIBERS),
        ("f/t", article()[..16].to_vec(), 0x99),
        ("f/t", article()[..31].to_vec(), 0x99),
        ("f/t", b"thirty-two bytes that are a text".to_vec(), 0x99),
        ("f/t", envelope(&header(0)), 0x99),
        ("g/t", article(), NO_SUBSCRIBERS),
        ("g/t", like_an_envelope, NO_SUBSCRIBERS),
        ("g/t", envelope(&header(0)), 0x99),
    ] {
        assert_eq!(code(&mut world, client, topic, &payload), expected, "{topic} {payload:02x?}");
    }
}

#[test]
fn what_is_only_preferred_is_counted_and_let_through() {
    let mut world = world_with(vec![Policy { enforcement: Enforcement::Prefer, ..policy() }]);
    let client = join(&mut world, "c");

    assert_eq!(code(&mut world, client, "f/t", b"plain"), NO_SUBSCRIBERS);
    assert_eq!(code(&mut world, client, "f/t", &envelope(&header(0))), NO_SUBSCRIBERS);

    assert_eq!(world.policy_sample(REJECTED, "factory", "plaintext"), 0);
    assert_eq!(world.policy_sample("veilmq_e2e_tolerated_total", "factory", "plaintext"), 1);
    assert_eq!(world.policy_sample("veilmq_e2e_messages_total", "factory", "tolerated"), 1);
    assert_eq!(world.policy_sample("veilmq_e2e_messages_total", "factory", "accepted"), 1);
}

#[test]
fn a_policy_concerns_its_topics_alone_and_the_most_specific_counts() {
    let mut world = world_with(vec![
        policy(),
        Policy { enforcement: Enforcement::Off, ..Policy::requiring("open", "f/open/+") },
    ]);
    let client = join(&mut world, "c");

    for (topic, expected) in [
        ("g", NO_SUBSCRIBERS),
        ("f", 0x99),
        ("f/open", 0x99),
        ("f/open/x", NO_SUBSCRIBERS),
        ("f/open/x/y", 0x99),
    ] {
        assert_eq!(code(&mut world, client, topic, b"plain"), expected, "{topic}");
    }
}

#[test]
fn the_time_in_an_envelope_is_compared_where_it_is_asked_for() {
    let mut world = world_with(vec![Policy { skew_milliseconds_max: Some(1_000), ..policy() }]);
    let client = join(&mut world, "c");
    let now = world.now().milliseconds();

    for (seq, (timestamp_ms, expected)) in (0..).zip([
        (Some(now), NO_SUBSCRIBERS),
        (Some(now - 1_000), NO_SUBSCRIBERS),
        (Some(now + 1_000), NO_SUBSCRIBERS),
        (Some(now - 1_001), 0x99),
        (Some(now + 1_001), 0x99),
        (Some(u64::MAX), 0x99),
        (None, 0x99),
    ]) {
        let payload = envelope(&EnvelopeHeader { timestamp_ms, ..header(seq) });
        assert_eq!(code(&mut world, client, "f/t", &payload), expected, "{timestamp_ms:?}");
    }
    assert_eq!(world.policy_sample(REJECTED, "factory", "time"), 4);
}

#[test]
fn the_same_envelope_is_delivered_once_and_another_under_its_number_is_refused() {
    let mut world = world_with(vec![policy()]);
    let reader = join(&mut world, "reader");
    world.subscribe(reader, "#", QoS::AtMostOnce);
    world.bytes(reader);
    let writer = join(&mut world, "writer");
    let mut other = envelope(&header(0));
    *other.last_mut().unwrap() ^= 1;

    assert_eq!(code(&mut world, writer, "f/t", &envelope(&header(0))), 0);
    assert_eq!(code(&mut world, writer, "f/t", &envelope(&header(0))), 0);
    assert_eq!(code(&mut world, writer, "f/t", &other), 0x99);
    assert_eq!(code(&mut world, writer, "f/u", &other), 0);
    assert_eq!(world.received(reader).len(), 2);

    // A whole QoS 2 exchange that repeats what was sent before ends as any other.
    send(&mut world, writer, "f/t", &envelope(&header(0)), QoS::ExactlyOnce, 7);
    world.ack(writer, Packet::PubRel, 7);
    assert_eq!(world.received(writer), ["PUBREC id7", "PUBCOMP id7"]);
    assert_eq!(world.received(reader), [""; 0]);
    assert_eq!(world.policy_sample("veilmq_e2e_messages_total", "factory", "duplicate"), 2);
    assert_eq!(world.policy_sample(REJECTED, "factory", "replay"), 1);
}

#[test]
fn a_sender_that_is_not_the_client_is_refused_and_so_is_an_unprotected_connection() {
    let mut world = world_with(vec![
        Policy::requiring("bound", "b/#"),
        Policy { channel: RequiredChannel::Tls, sender_binding: false, ..Policy::requiring("tls", "t/#") },
        Policy { channel: RequiredChannel::Veil, sender_binding: false, ..Policy::requiring("veil", "v/#") },
    ]);
    let plain = join(&mut world, "plain");
    world.is_encrypted = true;
    let encrypted = join(&mut world, "encrypted");
    let sealed = |scope: &str| {
        let scope_tag = veilmq_protocol::veil::distribution::scope_tag(scope);
        envelope(&EnvelopeHeader { scope_tag, ..header(0) })
    };

    assert_eq!(code(&mut world, plain, "b/x", &sealed("b/#")), 0x87);
    assert_eq!(code(&mut world, plain, "t/x", &sealed("t/#")), 0x87);
    assert_eq!(code(&mut world, encrypted, "t/x", &sealed("t/#")), NO_SUBSCRIBERS);
    assert_eq!(code(&mut world, encrypted, "v/x", &sealed("v/#")), 0x87);
    assert_eq!(world.policy_sample(REJECTED, "bound", "sender"), 1);
    assert_eq!(world.policy_sample(REJECTED, "tls", "channel"), 1);
    assert_eq!(world.policy_sample(REJECTED, "veil", "channel"), 1);
}

#[test]
fn a_will_passes_the_same_checks_when_its_client_connects() {
    let mut world = world_with(vec![policy(), Policy::requiring("bound", "b/#")]);
    let sealed = envelope(&header(0));
    for (topic, payload, expected) in [
        ("f/t", b"plain".as_slice(), 0x99),
        ("f/t", &sealed, 0),
        ("b/t", &sealed, 0x99),
        ("g/t", b"plain", 0),
    ] {
        let will = || {
            Some(Will {
                topic: TopicName::new(topic).unwrap(),
                payload,
                qos: QoS::AtMostOnce,
                retain: false,
                delay_seconds: 0,
                properties: PublishProperties::default(),
            })
        };
        let client = world.connect(&Connect { will: will(), ..connect_v5("c", true, 0) });
        assert_eq!(world.bytes(client)[3], expected, "{topic}");

        let old = accept(&mut world, ProtocolVersion::V311);
        world.send(old, &Packet::Connect(Connect { will: will(), ..connect_v311("c", true) }));
        assert_eq!(world.bytes(old), [0x20, 2, 0, if expected == 0 { 0 } else { 5 }], "{topic}");
    }
    assert_eq!(world.policy_sample(REJECTED, "factory", "plaintext"), 2);
}

#[test]
fn bridges_of_this_broker_are_named_by_their_client_identifiers() {
    let bridged = Policy {
        bridges: vec!["local.b".into()],
        bridged_senders: vec![SENDER],
        ..Policy::requiring("f", "f/#")
    };
    let mut world = world_with(vec![bridged]);

    for (client_id, expected) in [("local.b", NO_SUBSCRIBERS), ("local.c", 0x87)] {
        let bridge = accept(&mut world, ProtocolVersion::V5);
        world.turn(
            0,
            Input::Bridged { connection: bridge, errand: BridgeErrand::default(), is_encrypted: false },
        );
        world.send(bridge, &Packet::Connect(connect_v5(client_id, true, 0)));
        world.bytes(bridge);

        assert_eq!(code(&mut world, bridge, "f/t", &envelope(&header(0))), expected, "{client_id}");
    }
}

#[test]
fn a_bridge_of_this_broker_is_as_encrypted_as_its_connection_to_the_other() {
    for (channel, is_encrypted, expected) in [
        (RequiredChannel::Tls, false, 0x87),
        (RequiredChannel::Tls, true, NO_SUBSCRIBERS),
        (RequiredChannel::Veil, true, 0x87),
    ] {
        let mut world = world_with(vec![Policy { channel, ..policy() }]);
        let bridge = accept(&mut world, ProtocolVersion::V5);
        world.turn(0, Input::Bridged { connection: bridge, errand: BridgeErrand::default(), is_encrypted });
        world.send(bridge, &Packet::Connect(connect_v5("local.b", true, 0)));
        world.bytes(bridge);

        assert_eq!(
            code(&mut world, bridge, "f/t", &envelope(&header(0))),
            expected,
            "{channel:?} {is_encrypted}"
        );
    }
}
