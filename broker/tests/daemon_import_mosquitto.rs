//! `veilmq store import-mosquitto`: what `mosquitto_db_dump --json` prints becomes a store.
#![allow(clippy::unwrap_used, reason = "test code")]

mod daemon_command;

use std::fs;
use std::process::Output;

use daemon_command::{error, out, veilmq};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

/// A database as Mosquitto 2.1 dumps it: one client with a queue, one that is connected, and retained messages.
fn dump() -> Value {
    let message = |storeid: u64, topic: &str, qos: u8, retain: u8| {
        json!({
            "storeid": storeid, "expiry-time": 0, "source-mid": 7, "source-port": 1883, "qos": qos, "retain": retain,
            "topic": topic, "clientid": "publisher", "username": "ann", "payload": "bQ=="
        })
    };
    let mut rich = message(273_732_462_748_327, "rich/a", 1, 1);
    rich["expiry-time"] = json!(4_000_000_000_u64);
    rich["properties"] = json!([
        {"identifier": "content-type", "value": "text/plain"},
        {"identifier": "correlation-data", "value": "636F72"},
        {"identifier": "payload-format-indicator", "value": 1},
        {"identifier": "response-topic", "value": "answers"},
        {"identifier": "user-property", "name": "key", "value": "value"}
    ]);
    let mut sent = message(50, "s/1", 2, 0);
    sent["clientid"] = json!("online");
    json!({
        "base-messages": [
            rich,
            message(20, "q/2", 2, 0),
            message(10, "q/1", 1, 0),
            message(30, "n/1", 1, 0),
            sent,
            message(40, "$SYS/broker/uptime", 2, 1)
        ],
        "clients": [
            {"clientid": "away", "username": "bob", "session-expiry-time": 1_700_000_060, "session-expiry-interval": 60,
             "last-mid": 3, "listener-port": 1883},
            {"clientid": "online", "session-expiry-time": 0, "session-expiry-interval": 4_294_967_295_u64,
             "last-mid": 0, "listener-port": 0}
        ],
        "client-messages": [
            // As 2.1 writes them: the number is that of the subscription.
            {"clientid": "away", "storeid": 0, "mid": 3, "qos": 1, "state": 3, "retain-dup": 0, "direction": 1,
             "subscription-identifier": 0},
            {"clientid": "away", "storeid": 0, "mid": 0, "qos": 2, "state": 11, "retain-dup": 16, "direction": 1,
             "subscription-identifier": 0},
            // It says which message it is.
            {"clientid": "online", "storeid": 30, "mid": 9, "qos": 1, "state": 3, "retain-dup": 0, "direction": 1,
             "subscription-identifier": 12},
            // From the client, which has not sent PUBREL.
            {"clientid": "online", "storeid": 0, "mid": 7, "qos": 2, "state": 7, "retain-dup": 0, "direction": 0,
             "subscription-identifier": 0}
        ],
        "retained-messages": [{"storeid": 273_732_462_748_327_u64}, {"storeid": 40}],
        "subscriptions": [
            {"clientid": "away", "topic": "q/#", "qos": 2, "options": 0, "identifier": 0},
            {"clientid": "online", "topic": "n/+", "qos": 1, "options": 0x2C, "identifier": 12},
            {"clientid": "online", "topic": "s/+", "qos": 1, "options": 4, "identifier": 0},
            {"clientid": "away", "topic": "s/#", "qos": 1, "options": 8, "identifier": 5}
        ]
    })
}

fn import(dump: &str, arguments: &[&str]) -> (TempDir, Output) {
    let data = tempdir().unwrap();
    let file = data.path().join("dump.json");
    fs::write(&file, dump).unwrap();
    let command = ["store", "import-mosquitto", "--input", file.to_str().unwrap()];
    let output = veilmq(&data.path().join("data"), &[&command[..], arguments].concat());
    (data, output)
}

/// The lines of an export of what was imported.
fn exported(data: &TempDir) -> Vec<Value> {
    let export = out(&veilmq(&data.path().join("data"), &["store", "export"]));
    export.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn everything_in_a_dump_becomes_what_this_broker_would_have_stored() {
    let (data, output) = import(&dump().to_string(), &[]);

    assert!(out(&output).starts_with(
        "imported 2 sessions, 4 subscriptions, 4 messages, 4 deliveries, 1 received, 1 retained"
    ));
    let lines = exported(&data);
    let expected = json!([
        {"kind": "session", "session": 1, "client_id": "away", "authenticated": true, "user": "bob", "expiry_seconds": 60,
         "disconnected_at_ms": 1_700_000_000_000_u64, "will": null, "last_packet_id": 0},
        {"kind": "session", "session": 2, "client_id": "online", "authenticated": false, "user": null,
         "expiry_seconds": 4_294_967_295_u64, "disconnected_at_ms": null, "will": null, "last_packet_id": 0},
    ]);
    assert_eq!(lines[1..3], *expected.as_array().unwrap());
    let mut subscriptions = lines[3..7].to_vec();
    subscriptions.sort_by_key(|line| line["filter"].to_string());
    assert_eq!(
        subscriptions[0],
        json!({"kind": "subscription", "session": 2, "filter": "n/+", "qos": 1, "no_local": true, "retain_as_published": true,
               "retain_handling": 2, "subscription_id": 12})
    );
    let message = |number: u64, topic: &str, qos: u8| {
        json!({"kind": "message", "message": number, "topic": topic, "qos": qos, "retain": false, "expires_at_ms": null,
               "expiry_seconds": null, "properties": "", "payload": "bQ=="})
    };
    let delivery = |number: u64, session: u64, qos: u8, more: Value| {
        let mut line = json!({"kind": "delivery", "message": number, "session": session, "qos": qos, "retain": false,
                              "subscription_ids": [], "share": null, "stage": "queued", "packet_id": null});
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        line
    };
    let expected = [
        message(1, "q/1", 1),
        delivery(1, 1, 1, json!({"stage": "published", "packet_id": 3})),
        message(2, "q/2", 2),
        delivery(2, 1, 2, json!({"retain": true})),
        message(3, "n/1", 1),
        delivery(3, 2, 1, json!({"stage": "published", "packet_id": 9, "subscription_ids": [12]})),
        message(4, "s/1", 2),
        // Its publisher subscribed with No Local.
        delivery(4, 1, 1, json!({"subscription_ids": [5]})),
        json!({"kind": "received", "session": 2, "packet_id": 7}),
    ];
    assert_eq!(lines[7..16], expected);
    let retained = &lines[16];
    assert_eq!((&retained["topic"], &retained["payload"]), (&json!("rich/a"), &json!("bQ==")));
    assert_eq!(retained["expires_at_ms"], json!(4_000_000_000_000_u64));
    assert_eq!(
        retained["source"],
        json!({"client_id": "publisher", "user": "ann", "listener": null, "vouched": false, "certificate": null})
    );
    let properties = retained["properties"].as_str().unwrap();
    // Payload Format Indicator 1, Content Type, Response Topic, Correlation Data, User Property.
    assert_eq!(properties, "AQEDAAp0ZXh0L3BsYWluCAAHYW5zd2VycwkAA2NvciYAA2tleQAFdmFsdWU=");
}

#[test]
fn user_names_that_prove_nothing_bind_no_session() {
    let (data, output) = import(&dump().to_string(), &["--unproven"]);

    out(&output);
    let away = &exported(&data)[1];
    assert_eq!((&away["user"], &away["authenticated"]), (&json!("bob"), &json!(false)));
}

#[test]
fn what_a_dump_does_not_identify_is_left_out_and_counted() {
    let mut doubtful = dump();
    // A third message for the filter, so that nobody knows which two of them wait.
    let mut another = doubtful["base-messages"][1].clone();
    another["storeid"] = json!(21);
    doubtful["base-messages"].as_array_mut().unwrap().push(another);

    let (data, output) = import(&doubtful.to_string(), &[]);

    assert!(out(&output).ends_with("left out: 2 deliveries that the dump does not identify\n"));
    let is_queued =
        |line: &&Value| line["kind"] == "message" && line["topic"].as_str().unwrap().starts_with("q/");
    assert_eq!(exported(&data).iter().filter(is_queued).count(), 0);
}

#[test]
fn a_field_that_is_wrong_is_named_and_nothing_is_made() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 8] = [
        (
            |dump| dump["base-messages"][1]["topic"] = json!("a/#"),
            "base-messages[1], field `topic`: it is not a Topic Name",
        ),
        (
            |dump| dump["base-messages"][0]["payload"] = json!("?"),
            "base-messages[0], field `payload`: it is not base64",
        ),
        (
            |dump| dump["base-messages"][2]["storeid"] = json!(20),
            "base-messages[2], field `storeid`: it is there twice",
        ),
        (
            |dump| dump["clients"][1]["clientid"] = json!("away"),
            "clients[1], field `clientid`: it is there twice",
        ),
        (
            |dump| dump["subscriptions"][0]["clientid"] = json!("x"),
            "subscriptions[0], field `clientid`: no such client",
        ),
        (
            |dump| dump["subscriptions"][0]["qos"] = json!(3),
            "subscriptions[0], field `qos`: it is not 0, 1 or 2",
        ),
        (
            |dump| dump["retained-messages"][0]["storeid"] = json!(1),
            "retained-messages[0], field `storeid`: no such message",
        ),
        (
            |dump| dump["client-messages"][2]["state"] = json!(7),
            "client-messages[2], field `state`: 7 is none",
        ),
    ];
    for (change, expected) in cases {
        let mut dump = dump();
        change(&mut dump);

        let (data, output) = import(&dump.to_string(), &[]);

        let text = error(&output, 1);
        assert!(text.contains(&format!("dump.json: {expected}")), "{text}");
        assert!(!data.path().join("data/store").exists());
    }
    let mut incomplete = dump();
    incomplete["clients"][0].as_object_mut().unwrap().remove("clientid");
    let text = error(&import(&serde_json::to_string_pretty(&incomplete).unwrap(), &[]).1, 1);
    assert!(text.contains("missing field `clientid` at line "), "{text}");
}

#[test]
fn a_directory_with_a_store_is_left_alone() {
    let (data, output) = import(&dump().to_string(), &[]);
    out(&output);
    let before = exported(&data);

    let file = data.path().join("dump.json");
    let again =
        veilmq(&data.path().join("data"), &["store", "import-mosquitto", "-i", file.to_str().unwrap()]);

    error(&again, 1);
    assert_eq!(exported(&data), before);
}
