//! Names with characters that MQTT advises against, where the broker refuses them: no client gets a message that it would end with.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use veilmq_core::Settings;
use veilmq_protocol::{Connect, PublishProperties, QoS, TopicName, Will};
use veilmq_simulator::{World, connect_v5, connect_v311};

/// Those that MQTT 5.0 section 1.5.4 names, at both ends of their ranges.
const ODD: [char; 10] = [
    '\u{1}',
    '\n',
    '\u{1f}',
    '\u{7f}',
    '\u{9f}',
    '\u{fdd0}',
    '\u{fdef}',
    '\u{fffe}',
    '\u{1ffff}',
    '\u{10ffff}',
];
/// Their neighbours.
const PLAIN: [char; 8] = [' ', '~', '\u{a0}', '\u{fdcf}', '\u{fdf0}', '\u{fffd}', '\u{202e}', 'é'];

fn world(refuse_control_characters: bool) -> World {
    World::with(Settings { refuse_control_characters, ..Settings::default() })
}

/// Does something with a name, and tells whether the broker took it.
type Use = fn(&mut World, &str) -> bool;

const USES: &[(&str, Use)] = &[
    ("Client Identifier", |world, name| connects(world, &connect_v5(name, true, 0))),
    ("Client Identifier of MQTT 3.1.1", |world, name| connects(world, &connect_v311(name, true))),
    ("User Name", |world, name| {
        connects(world, &Connect { username: Some(name), ..connect_v5("x", true, 0) })
    }),
    ("Will Topic", |world, name| {
        let will = Will {
            qos: QoS::AtMostOnce,
            retain: false,
            topic: TopicName::new(name).unwrap(),
            payload: b"",
            delay_seconds: 0,
            properties: PublishProperties::default(),
        };
        connects(world, &Connect { will: Some(will), ..connect_v5("x", true, 0) })
    }),
    ("Topic Name", |world, name| {
        let (connection, _) = world.join("x", true, 0);
        world.publish(connection, name, "x", QoS::AtLeastOnce, 1);
        !world.is_closed(connection)
    }),
    ("Topic Filter", |world, name| {
        let (connection, _) = world.join("x", true, 0);
        world.subscribe(connection, name, QoS::AtLeastOnce);
        !world.is_closed(connection)
    }),
    ("Topic Filter of UNSUBSCRIBE", |world, name| {
        let (connection, _) = world.join("x", true, 0);
        // One filter in UNSUBSCRIBE 7.
        let filter = [&(name.len() as u16).to_be_bytes()[..], name.as_bytes()].concat();
        let packet = [&[0xa2, 3 + filter.len() as u8, 0, 7, 0][..], &filter].concat();
        world.send_bytes(connection, &packet);
        !world.is_closed(connection)
    }),
];

fn connects(world: &mut World, connect: &Connect<'_>) -> bool {
    let connection = world.connect(connect);
    !world.is_closed(connection)
}

#[test]
fn names_with_control_characters_are_malformed_where_that_is_wanted() {
    for (what, takes) in USES {
        for char in ODD {
            let name = format!("a{char}b");
            assert!(!takes(&mut world(true), &name), "{what} with {char:?}");
            assert!(takes(&mut world(false), &name), "{what} with {char:?}, where it is not");
        }
        for char in PLAIN {
            assert!(takes(&mut world(true), &format!("a{char}b")), "{what} with {char:?}");
        }
    }
}

#[test]
fn a_client_is_told_that_its_packet_is_malformed() {
    let mut world = world(true);
    let (connection, _) = world.join("x", true, 0);

    world.publish(connection, "a\u{1}", "x", QoS::AtLeastOnce, 1);

    let told = world.received(connection);
    assert!(told.last().is_some_and(|last| last.starts_with("DISCONNECT 0x81")), "{told:?}");
}
