//! Topic Names that mean something elsewhere, to databases, shells, browsers or other message systems, are names like any other here:
//! each is its own topic, live, retained, over a crash, and in what operators see.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use serde_json::Value;
use veilmq_tests::broker::Broker;
use veilmq_tests::http;
use veilmq_tests::wire::{Published, Wire, acknowledgement, publish_packet};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Names that some system or other would take for one another, or for a command.
const NAMES: &[&str] = &[
    "a/*/b",
    "a/>",
    "a/*",
    "a.b",
    "a/b",
    "A/b",
    "a b",
    "a/ b",
    "a /b",
    "a//b",
    "/a/b",
    "a/b/",
    "a,b",
    "a;b",
    "a%2fb",
    "a%2Fb",
    "a\\b",
    "a/..",
    "a/../b",
    "a/.",
    "~",
    "*",
    ">",
    "{a}",
    "%u",
    "%c",
    "a${a}",
    "a$(a)",
    "'a'",
    "\"a\"",
    "`a`",
    "<b>a</b>",
    "&amp;",
    "a=b",
    "a:b",
    "a|b",
    "a&b",
    "a?b",
    "é",
    "e\u{301}",
    "ａ",
    "😀",
    "\u{feff}a",
    "a/$share/g/b",
    "a/$SYS",
    "--",
    "0",
    "null",
];

fn retained(topic: &str, packet_id: u16) -> Vec<u8> {
    let mut bytes = publish_packet(topic, packet_id, 1, false, topic.as_bytes());
    bytes[0] |= 1;
    bytes
}

/// The next message, acknowledged.
fn message(wire: &mut Wire) -> Published {
    let message = Published::read(&wire.packet().unwrap()).unwrap();
    wire.send(&acknowledgement(0x40, message.packet_id)).unwrap();
    message
}

/// What a new subscriber to everything is given: each name with its own payload.
fn all_retained(broker: &Broker) -> BTreeSet<String> {
    let (mut wire, _) = Wire::connect(broker.address(), "all", true);
    wire.subscribe("#", 1);
    let messages = NAMES.iter().map(|_| message(&mut wire));
    messages
        .map(|message| {
            assert_eq!(message.topic.as_bytes(), message.payload);
            message.topic
        })
        .collect()
}

#[test]
fn every_name_is_its_own_topic_whatever_it_means_elsewhere() {
    // [B18]
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, TOKEN).unwrap();
    let mut broker = Broker::start_configured(|address| {
        format!(
            "access.anonymous = true\nshards.count = 2\nadmin.token_file = {token:?}\n[[listeners]]\naddress = \"{address}\"\n"
        )
    });
    let expected: BTreeSet<String> = NAMES.iter().map(ToString::to_string).collect();
    assert_eq!(expected.len(), NAMES.len(), "they differ");
    let (mut publisher, _) = Wire::connect(broker.address(), "publisher", true);

    for name in NAMES {
        let (mut exact, _) = Wire::connect(broker.address(), "exact", false);
        exact.subscribe(name, 1);
        for other in NAMES.iter().filter(|other| *other != name) {
            publisher.send(&publish_packet(other, 1, 1, false, b"not yours")).unwrap();
            publisher.packet().unwrap();
        }
        publisher.send(&retained(name, 1)).unwrap();
        publisher.packet().unwrap();

        let heard = message(&mut exact);

        assert_eq!((heard.topic.as_str(), heard.payload.as_slice()), (*name, name.as_bytes()));
        drop(exact);
        let _ = Wire::connect(broker.address(), "exact", true);
    }
    assert_eq!(all_retained(&broker), expected);
    broker.kill();
    broker.restart();

    assert_eq!(all_retained(&broker), expected, "after a crash");
    let authorization = format!("Authorization: Bearer {TOKEN}");
    let path = "/api/v1/retained?limit=1000";
    let listed = http::request(broker.admin(), "GET", path, &[&authorization], "").unwrap();
    let listed: Value = serde_json::from_str(&listed.body).unwrap();
    let listed = listed["retained"].as_array().unwrap().iter();
    let listed: BTreeSet<String> = listed.map(|entry| entry["topic"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, expected, "and for operators");
}
