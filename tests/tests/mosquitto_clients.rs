//! `mosquitto_pub`, `mosquitto_sub` and `mosquitto_rr`, in MQTT 3.1.1 and 5, against the real broker.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::fs;

use veilmq_tests::broker::Broker;
use veilmq_tests::mosquitto::Mosquitto;
use veilmq_tests::puppet::Version;

/// The broker and the clients; none where the clients are not installed, before a broker is started.
fn side(version: Version) -> Option<(Broker, Mosquitto)> {
    Mosquitto::new(version, 0)?;
    let broker = Broker::start();
    let clients = Mosquitto::new(version, broker.port())?;
    Some((broker, clients))
}

/// The names below `$SYS/broker/` that dashboards and scripts made for Mosquitto look for.
const SYS_VALUES: [&str; 29] = [
    "bytes/received",
    "bytes/sent",
    "clients/active",
    "clients/connected",
    "clients/disconnected",
    "clients/expired",
    "clients/inactive",
    "clients/maximum",
    "clients/total",
    "connections/socket/count",
    "heap/current",
    "heap/maximum",
    "messages/received",
    "messages/sent",
    "messages/stored",
    "packet/out/bytes",
    "packet/out/count",
    "publish/bytes/received",
    "publish/bytes/sent",
    "publish/messages/dropped",
    "publish/messages/received",
    "publish/messages/sent",
    "retained messages/count",
    "shared_subscriptions/count",
    "store/messages/bytes",
    "store/messages/count",
    "subscriptions/count",
    "uptime",
    "version",
];
/// Those below `$SYS/broker/load/`, each once a window.
const SYS_LOADS: [&str; 9] = [
    "bytes/received",
    "bytes/sent",
    "connections",
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "sockets",
];

fn the_broker_reports_itself_under_the_names_of_mosquitto(version: Version) {
    let Some(_) = Mosquitto::new(version, 0) else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("veilmq.toml");
    fs::write(&file, "[access]\nanonymous = true\n[sys]\ninterval_seconds = 1\n").unwrap();
    let broker = Broker::start_with(&["-c", file.to_str().unwrap()]);
    let clients = Mosquitto::new(version, broker.port()).unwrap();
    let mut expected: Vec<String> = SYS_VALUES.iter().map(|name| format!("$SYS/broker/{name}")).collect();
    for load in SYS_LOADS {
        expected.extend(["1min", "5min", "15min"].map(|window| format!("$SYS/broker/load/{load}/{window}")));
    }
    expected.sort();

    let count = expected.len().to_string();
    let retained = clients.subscribe_to_end(&["-t", "$SYS/#", "-q", "2", "-C", &count, "-F", "%r %t"]);
    let mut names: Vec<&str> = retained.lines().map(|line| line.strip_prefix("1 ").unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, expected);

    let own = ["-t", "$SYS/broker/version", "-C", "1"];
    assert!(clients.subscribe_to_end(&own).starts_with("veilmq version "));
    let uptime = clients.subscribe(&["-t", "$SYS/broker/uptime", "-q", "2", "-R"]);
    for _ in 0..2 {
        let message = uptime.message();
        let seconds = message.strip_prefix("$SYS/broker/uptime q2 r0 ").unwrap().strip_suffix(" seconds");
        assert!(seconds.unwrap().parse::<u64>().unwrap() > 0, "{message}");
    }
    let clients_now = clients.subscribe(&["-t", "$SYS/broker/clients/connected"]);
    while clients_now.message().rsplit(' ').next() != Some("2") {}
}

/// Session options: in MQTT 5 a session outlives its connection only with an expiry interval.
fn persistent(version: Version, id: &str) -> Vec<&str> {
    match version {
        Version::V311 => vec!["-c", "-i", id],
        Version::V5 => vec!["-c", "-i", id, "-x", "3600"],
    }
}

fn messages_arrive_at_qos_0_1_and_2(version: Version) {
    let Some((_broker, clients)) = side(version) else { return };
    for qos in ["0", "1", "2"] {
        let subscriber = clients.subscribe(&["-i", "subscriber", "-t", "a/b", "-q", qos]);

        clients.publish(&["-t", "a/b", "-q", qos, "-m", "hello"]);

        assert_eq!(subscriber.message(), format!("a/b q{qos} r0 hello"));
    }
}

fn a_retained_message_is_there_for_a_later_subscriber_and_can_be_cleared(version: Version) {
    let Some((_broker, clients)) = side(version) else { return };
    clients.publish(&["-t", "state/lamp", "-q", "1", "-r", "-m", "on"]);

    let lamp = clients.subscribe(&["-t", "state/#", "-q", "1"]);
    assert_eq!(lamp.message(), "state/lamp q1 r1 on");

    clients.publish(&["-t", "state/lamp", "-q", "1", "-r", "-n"]);
    clients.publish(&["-t", "state/end", "-q", "1", "-r", "-m", "marker"]);
    let after = clients.subscribe(&["-t", "state/#", "-q", "1"]);
    assert_eq!(after.message(), "state/end q1 r1 marker");
}

fn a_will_is_published_when_the_client_is_killed(version: Version) {
    let Some((_broker, clients)) = side(version) else { return };
    let witness = clients.subscribe(&["-t", "will/#", "-q", "1"]);
    let will = ["--will-topic", "will/a", "--will-payload", "gone", "--will-qos", "1"];
    let mortal = clients.subscribe(&[&["-i", "mortal", "-t", "none"], will.as_slice()].concat());

    drop(mortal);

    assert_eq!(witness.message(), "will/a q1 r0 gone");
}

fn a_persistent_session_gets_what_was_published_while_it_was_away(version: Version) {
    let Some((_broker, clients)) = side(version) else { return };
    let session = [persistent(version, "sleeper"), vec!["-t", "mail/#", "-q", "1"]].concat();
    let _ = clients.subscribe_to_end(&[session.as_slice(), &["-E"]].concat());

    for number in 0..10 {
        clients.publish(&["-t", "mail/a", "-q", "1", "-m", &format!("letter {number}")]);
    }

    let output = clients.subscribe_to_end(&[session.as_slice(), &["-C", "10"]].concat());
    let expected: Vec<String> = (0..10).map(|number| format!("letter {number}")).collect();
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
}

fn wildcards_match_whole_levels(version: Version) {
    let Some((_broker, clients)) = side(version) else { return };
    let subscriber = clients.subscribe(&["-t", "house/+/temperature", "-t", "garden/#", "-q", "1"]);

    for topic in
        ["house/temperature", "house/attic/box/temperature", "gardens", "house/attic/temperature", "garden"]
    {
        clients.publish(&["-t", topic, "-q", "1", "-m", "x"]);
    }

    assert_eq!(subscriber.message(), "house/attic/temperature q1 r0 x");
    assert_eq!(subscriber.message(), "garden q1 r0 x");
}

fn a_second_client_with_the_same_identifier_takes_the_session_over(version: Version) {
    let Some((_broker, clients)) = side(version) else { return };
    let first = clients.subscribe(&["-i", "twin", "-t", "twin/first"]);

    clients.publish(&["-i", "twin", "-t", "twin/first", "-m", "x"]);

    match version {
        Version::V311 => first.wait_for("Client twin sending CONNECT"),
        Version::V5 => first.wait_for("Received DISCONNECT (142)"),
    };
}

fn a_file_of_about_the_maximum_packet_size_arrives_unchanged_at_every_qos(version: Version) {
    let Some((broker, clients)) = side(version) else { return };
    // The head of the packet has 13 bytes at most, of the 16 that these leave of 16 MiB.
    let text: String = (0..(1 << 21) - 2).map(|number| format!("{number:07} ")).collect();
    let file = broker.directory().join("big");
    fs::write(&file, &text).unwrap();
    for qos in ["0", "1", "2"] {
        let subscriber = clients.subscribe(&["-t", "big", "-q", qos]);

        clients.publish(&["-t", "big", "-q", qos, "-f", file.to_str().unwrap()]);

        let received = subscriber.message();
        assert!(received == format!("big q{qos} r0 {text}"), "{} bytes arrived at QoS {qos}", received.len());
    }
}

fn a_request_gets_its_response(version: Version) {
    let Some((_broker, clients)) = side(version) else { return };
    // MQTT 3.1.1 has no properties: there both sides have to know where the response goes.
    let (format, correlation) = match version {
        Version::V311 => ("answers/1 q%q", vec![]),
        Version::V5 => ("%R q%q %D", vec!["-D", "publish", "correlation-data", "number7"]),
    };
    let responder = clients.subscribe_showing(format, &["-t", "questions", "-q", "1"]);
    let question = ["-t", "questions", "-e", "answers/1", "-q", "1", "-m", "what?", "-W", "30"];

    let answer = clients.request(&[question.as_slice(), &correlation].concat(), || {
        let request = responder.message();
        let mut parts = request.split(' ');
        let topic = parts.next().unwrap();
        assert_eq!((topic, parts.next()), ("answers/1", Some("q1")));
        assert_eq!(parts.next(), (version == Version::V5).then_some("number7"));
        clients.publish(&[&["-t", topic, "-q", "1", "-m", "that!"], correlation.as_slice()].concat());
    });

    assert_eq!(answer.lines().last(), Some("that!"));
}

fn a_shared_subscription_gives_each_message_to_one_member(version: Version) {
    let Some((_broker, clients)) = side(version) else { return };
    let filters = ["-t", "$share/workers/jobs", "-t", "end", "-q", "1"];
    let members =
        ["first", "second"].map(|id| clients.subscribe(&[&["-i", id], filters.as_slice()].concat()));

    for number in 0..6 {
        clients.publish(&["-t", "jobs", "-q", "1", "-m", &number.to_string()]);
    }
    clients.publish(&["-t", "end", "-q", "1", "-m", "x"]);

    let mut jobs = Vec::new();
    for member in &members {
        jobs.extend(
            std::iter::repeat_with(|| member.message()).take_while(|message| message != "end q1 r0 x"),
        );
    }
    jobs.sort_unstable();
    assert_eq!(jobs, [0, 1, 2, 3, 4, 5].map(|number| format!("jobs q1 r0 {number}")));
}

fn properties_arrive_as_they_were_sent(version: Version) {
    let Some((_broker, clients)) = side(version) else { return };
    let identifier = ["-D", "subscribe", "subscription-identifier", "300000"];
    let subscriber = clients.subscribe_showing(
        "%C %F %R %D %S %P",
        &[&["-t", "properties", "-q", "2"], identifier.as_slice()].concat(),
    );

    let mut publish = vec!["-t", "properties", "-q", "2", "-m", "x"];
    for property in [
        ["content-type", "text/plain"].as_slice(),
        &["payload-format-indicator", "1"],
        &["response-topic", "answers/1"],
        &["correlation-data", "number7"],
        &["user-property", "name", "first"],
        &["user-property", "name", "second"],
    ] {
        publish.extend(["-D", "publish"]);
        publish.extend(property);
    }
    clients.publish(&publish);

    let message = subscriber.message();
    assert_eq!(message, "text/plain 1 answers/1 number7 300000 name:first name:second");
}

/// Makes a test of each function for both protocol versions, and of those after the semicolon for MQTT 5.
macro_rules! in_both_versions {
    ($($function:ident)* ; $($only_in_v5:ident)*) => {
        mod mqtt_3_1_1 {
            $(#[test]
            fn $function() {
                super::$function(super::Version::V311);
            })*
        }

        mod mqtt_5 {
            $(#[test]
            fn $function() {
                super::$function(super::Version::V5);
            })*

            $(#[test]
            fn $only_in_v5() {
                super::$only_in_v5(super::Version::V5);
            })*
        }
    };
}

in_both_versions! {
    messages_arrive_at_qos_0_1_and_2
    a_retained_message_is_there_for_a_later_subscriber_and_can_be_cleared
    a_will_is_published_when_the_client_is_killed
    a_persistent_session_gets_what_was_published_while_it_was_away
    wildcards_match_whole_levels
    a_second_client_with_the_same_identifier_takes_the_session_over
    a_file_of_about_the_maximum_packet_size_arrives_unchanged_at_every_qos
    the_broker_reports_itself_under_the_names_of_mosquitto
    a_request_gets_its_response
    a_shared_subscription_gives_each_message_to_one_member
    ; properties_arrive_as_they_were_sent
}
