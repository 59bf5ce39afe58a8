//! The whole path with the real programs: `veil` seals, `veilmq` carries and stores, `veil` opens.
//!
//! What passes the wire and what lies on the disk is searched for the plaintext, as `strings` would.

use std::process::{Command, Output};

use veilmq_tests::broker::Broker;
use veilmq_tests::carrier::contents;
use veilmq_tests::parties::Parties;
use veilmq_tests::ports::ReservedPort;
use veilmq_tests::search::{holds, text};
use veilmq_tests::tap::Tap;
use veilmq_tests::tools::{built_program, run};
use veilmq_tests::websocket::bridge;
use veilmq_tests::wire::{Published, Wire, publish_packet};

const SCOPE: &str = "readings/#";
const TOPIC: &str = "readings/room";
const PLAINTEXT: &str = "the temperature of the room is 21.5";
/// No record fits into one frame.
const FRAME_BYTES: usize = 11;
const PINGREQ: [u8; 2] = [0xc0, 0];
/// The first byte of the answer.
const PINGRESP: u8 = 0xd0;
/// `veil sub -W` ran out.
const TIMED_OUT: Option<i32> = Some(27);

/// The parties, with a broker in development mode.
fn parties() -> Parties {
    let broker = Broker::start();
    let tap = Tap::start(broker.address());
    Parties::meet(broker, tap)
}

/// The same with a broker that speaks WebSocket; the frames are made behind the tap.
fn parties_over_websocket() -> Parties {
    let broker = Broker::start_configured(|address| {
        format!("[[listeners]]\naddress = \"{address}\"\nprotocol = \"websocket\"\n")
    });
    let tap = Tap::start(bridge(broker.address(), FRAME_BYTES));
    Parties::meet(broker, tap)
}

fn publish(parties: &Parties, subject: &str) -> Output {
    parties.exchange("pub", subject, "key", SCOPE, &["-t", TOPIC, "-m", PLAINTEXT, "--retain", "--sign"])
}

fn read(parties: &Parties, key: &str, more: &[&str]) -> Output {
    let sender = parties.path("device/device.vmc");
    parties.exchange(
        "sub",
        "reader",
        key,
        SCOPE,
        &[&["-t", "readings/#", "--sender", &sender, "-v"], more].concat(),
    )
}

#[test]
fn a_sealed_message_reaches_its_reader_and_its_plaintext_neither_wire_nor_disk() {
    let mut parties = parties();
    let away = read(&parties, "key", &["-c", "-W", "1"]);
    assert_eq!(away.status.code(), TIMED_OUT, "{}", text(&away.stderr));

    let published = publish(&parties, "device");
    assert!(published.status.success(), "{}", text(&published.stderr));
    parties.broker.kill();

    let files = contents(&parties.broker.data_dir());
    assert!(files.iter().any(|(_, bytes)| holds(bytes, TOPIC)), "the stored message is searched");
    for (path, bytes) in &files {
        assert!(!holds(bytes, PLAINTEXT), "{} holds the plaintext", path.display());
    }

    parties.broker.restart();
    let read = read(&parties, "key", &["-c", "-C", "1", "-W", "20"]);
    assert_eq!(text(&read.stdout), format!("{TOPIC} {PLAINTEXT}\n"), "{}", text(&read.stderr));
    let captured = parties.tap.captured();
    assert!(holds(&captured, TOPIC), "the exchange is searched");
    assert!(!holds(&captured, PLAINTEXT), "the plaintext passed the wire");
    assert!(!parties.broker.log().contains(PLAINTEXT));
}

#[test]
fn a_sealed_message_travels_in_a_channel_over_websocket() {
    let parties = parties_over_websocket();

    let published = publish(&parties, "device");
    let read = read(&parties, "key", &["-C", "1", "-W", "20"]);

    assert!(published.status.success(), "{}", text(&published.stderr));
    assert_eq!(text(&read.stdout), format!("{TOPIC} {PLAINTEXT}\n"), "{}", text(&read.stderr));
}

#[test]
fn a_wrong_key_and_a_flipped_bit_are_clear_errors() {
    let parties = parties();
    parties.made(&["key", "new", &parties.path("another-key")]);
    assert!(publish(&parties, "device").status.success());

    let wrong_key = read(&parties, "another-key", &["-C", "1", "-W", "2"]);

    assert_eq!((wrong_key.status.code(), text(&wrong_key.stdout)), (TIMED_OUT, String::new()));
    assert!(
        text(&wrong_key.stderr).contains(&format!("{TOPIC}: message refused")),
        "{}",
        text(&wrong_key.stderr)
    );

    let (mut wire, _) = Wire::connect(parties.broker.address(), "meddler", true);
    wire.subscribe(TOPIC, 0);
    let retained = wire.packet().expect("the retained envelope arrives");
    let mut envelope = Published::read(&retained).expect("it is a PUBLISH").payload;
    *envelope.last_mut().expect("an envelope is not empty") ^= 1;
    let mut publish = publish_packet(TOPIC, 1, 1, false, &envelope);
    publish[0] |= 1;
    wire.send(&publish).expect("PUBLISH can be sent");

    let flipped = read(&parties, "key", &["-C", "1", "-W", "2"]);

    assert_eq!((flipped.status.code(), text(&flipped.stdout)), (TIMED_OUT, String::new()));
    assert!(
        text(&flipped.stderr).contains(&format!("{TOPIC}: message refused")),
        "{}",
        text(&flipped.stderr)
    );
}

#[test]
fn who_names_senders_or_asks_for_signatures_takes_no_message_without_one() {
    let parties = parties();
    let unsigned = ["-t", TOPIC, "-m", PLAINTEXT, "--retain"];
    assert!(parties.exchange("pub", "device", "key", SCOPE, &unsigned).status.success());
    let plain = ["-t", TOPIC, "-C", "1", "-W", "2"];
    let asking = |more: &[&str]| {
        let output = parties.exchange("sub", "reader", "key", SCOPE, &[&plain, more].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let sender = parties.path("device/device.vmc");

    let (status, shown, _) = asking(&[]);
    assert_eq!((status, shown), (Some(0), format!("{PLAINTEXT}\n")));
    for more in [["--sender", &sender].as_slice(), &["--require-signatures"]] {
        let (status, shown, complaint) = asking(more);
        assert_eq!((status, shown), (TIMED_OUT, String::new()), "{more:?}");
        assert!(complaint.contains("message refused"), "{complaint}");
    }

    assert!(publish(&parties, "device").status.success());
    let (status, _, complaint) = asking(&[]);
    assert_eq!(status, TIMED_OUT, "a signature is not believed without a certificate");
    assert!(complaint.contains("give its certificate with --sender"), "{complaint}");
    assert_eq!(asking(&["--sender", &sender]).0, Some(0));
}

#[test]
fn a_device_that_no_trusted_authority_certified_is_refused() {
    let parties = parties();
    parties.make_authority("stranger");
    parties.issue("stranger", "impostor", "publisher");

    let refused = publish(&parties, "impostor");

    assert_eq!(refused.status.code(), Some(0x87), "not authorized: {}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("certificate"), "{}", text(&refused.stderr));
    assert!(publish(&parties, "device").status.success(), "the certified one is still welcome");
}

#[test]
fn every_claim_of_the_demo_holds_and_its_readings_are_on_neither_wire_nor_disk() {
    // Names that stand in the plaintext of readings. The demo forges a reading of the load in the clear, to show
    // that it is refused, so its fields do pass the wire.
    const FIELDS: [&str; 2] = ["\"available_kib\"", "\"total_kib\""];
    let mut broker = Broker::start();
    let tap = Tap::start(broker.address());
    let (port, admin) = (tap.address().port().to_string(), broker.admin().to_string());
    let mut demo = Command::new(built_program("veil"));
    demo.args(["demo", "-h", "127.0.0.1", "-p", &port, "--admin", &admin]);

    let output = run(&mut demo, 60);
    broker.kill();

    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}\n{}", text(&output.stderr));
    let captured = tap.captured();
    assert!(holds(&captured, "veil-demo/"), "the exchange is searched");
    for field in FIELDS {
        assert!(shown.contains(field), "the subscriber read {field}: {shown}");
        assert!(!holds(&captured, field), "{field} passed the wire");
        for (path, bytes) in contents(&broker.data_dir()) {
            assert!(!holds(&bytes, field), "{} holds {field}", path.display());
        }
    }
}

#[test]
fn every_scheme_is_shown_end_to_end_and_every_claim_of_it_holds() {
    let mut broker = Broker::not_started();
    let schemes = "VEILMQ__VEIL__SCHEMES=scheme-4,scheme-3,scheme-2,scheme-1".to_owned();
    let modes = "VEILMQ__VEIL__PAPER_MODES=paper-1,paper-2,paper-3,paper-4".to_owned();
    broker.run_under(vec!["env".to_owned(), schemes, modes]);
    broker.restart();
    let (port, admin) = (broker.port().to_string(), broker.admin().to_string());

    let once = "record FAN-GE (one body, encrypted once)";
    for (scheme, is_paper, crossed) in [
        ("1", false, "PUBLISH"),
        ("2", false, "record EI (packets, encrypted)"),
        ("3", false, once),
        ("4", false, "record FAN-D (one body, a tag for each)"),
        ("1", true, "AUTH"),
        ("2", true, "AUTH"),
        ("3", true, once),
        ("4", true, "record FAN-G ("),
        ("veil", false, "record FAN-D (one body, a tag for each)"),
        ("article", false, "PUBLISH"),
    ] {
        let mut demo = Command::new(built_program("veil"));
        demo.args(["demo", "--scheme", scheme, "--count", "3", "-p", &port, "--admin", &admin]);
        if is_paper {
            demo.arg("--paper");
        }

        let output = run(&mut demo, 120);

        let shown = text(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{scheme}: {shown}\n{}", text(&output.stderr));
        assert!(shown.contains("broker -> subscriber: "), "{scheme}: {shown}");
        assert!(shown.contains(crossed), "{scheme}: {shown}");
        assert!(shown.contains(" claims hold."), "{scheme}: {shown}");
    }
    let (mut wire, _) = Wire::connect(broker.address(), "afterwards", true);
    wire.subscribe("#", 0);
    wire.send(&PINGREQ).expect("PINGREQ can be sent");
    let next = wire.packet().expect("an answer");
    assert_eq!(
        next.first,
        PINGRESP,
        "the demonstration leaves nothing retained: {:?}",
        Published::read(&next)
    );
    let trust = broker.data_dir().join("trust");
    assert_eq!(std::fs::read_dir(trust).map_or(0, Iterator::count), 0, "nor an authority that is trusted");
}

#[test]
fn the_demo_says_how_the_broker_comes_to_offer_what_is_to_be_shown() {
    let broker = Broker::start();
    let (port, admin) = (broker.port().to_string(), broker.admin().to_string());
    for (scheme, mode) in [("1", ""), ("3", " and VEILMQ__VEIL__PAPER_MODES=paper-3")] {
        let mut demo = Command::new(built_program("veil"));
        demo.args(["demo", "--scheme", scheme, "-p", &port, "--admin", &admin]);
        demo.args((!mode.is_empty()).then_some("--paper"));

        let output = run(&mut demo, 60);

        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        let advice =
            format!("started with VEILMQ__VEIL__SCHEMES=scheme-4,scheme-3,scheme-2,scheme-1{mode}\n");
        assert!(text(&output.stderr).ends_with(&advice), "{}", text(&output.stderr));
    }
}

#[test]
fn the_demo_fails_where_no_broker_answers_and_names_the_address() {
    let (mqtt, admin) = (ReservedPort::new(), ReservedPort::new());
    let mut demo = Command::new(built_program("veil"));
    demo.args(["demo", "-p", &mqtt.number().to_string(), "--admin", &admin.address().to_string()]);

    let output = run(&mut demo, 60);

    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&admin.address().to_string()), "{}", text(&output.stderr));
}
