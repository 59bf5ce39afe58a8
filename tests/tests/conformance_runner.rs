//! The runner of conformance scripts can fail: a wrong script is refused with its line, a wrong expectation with what came.
//!
//! Everything here runs against the pure core.

#![allow(clippy::unwrap_used, reason = "tests may fail by panicking")]

use veilmq_tests::conformance::{Failure, Simulated, parse, run};

fn error(text: &str) -> String {
    parse("x.mqtt", text).expect_err("the script is wrong").to_string()
}

/// Runs the steps in MQTT 5, or in the versions of their `versions` line.
fn outcome(steps: &str) -> Result<(), Failure> {
    let scenarios = parse("x.mqtt", &format!("[MQTT-3.1.0-1] sentence\n{steps}")).unwrap();
    let scenario = &scenarios[0];
    let start = || Simulated::start(1, &scenario.changes);
    scenario.versions.iter().try_for_each(|version| run(scenario, *version, &mut start()))
}

#[test]
fn a_script_that_is_wrong_is_refused_with_its_line() {
    let rows = [
        ("a > PINGREQ", "x.mqtt:1: a scenario begins with a tag such as [MQTT-3.1.4-3]"),
        ("[MQTT-3.1.4] s\na ! open", "x.mqtt:1: [MQTT-3.1.4] is not a tag"),
        ("[MQTT-3.1.4-3]", "x.mqtt:1: the sentence is missing"),
        ("[MQTT-3.1.4-3] s\n\n[MQTT-3.1.4-3] s\na ! open", "x.mqtt:1: the scenario has no steps"),
        ("[MQTT311-3.1.4-2] s\na ! open", "x.mqtt:1: [MQTT311-3.1.4-2] needs 3.1.1 among the versions"),
        ("[MQTT-3.1.4-3] s\nversions 4\na ! open", "x.mqtt:2: 4 is no version"),
        ("[MQTT-3.1.4-3] s\na ! open\nversions 5", "x.mqtt:3: versions comes before the first step"),
        ("[MQTT-3.1.4-3] s\n3.1.1: a ! open", "x.mqtt:2: the scenario does not run in 3.1.1"),
        ("[MQTT-3.1.4-3] s\nwith colour=1", "x.mqtt:2: colour is not one of"),
        ("[MQTT-3.1.4-3] s\na ? open", "x.mqtt:2: a step is"),
        ("[MQTT-3.1.4-3] s\na ! opened", "x.mqtt:2: `!` takes one of open, cut, closed, alive"),
        ("[MQTT-3.1.4-3] s\na > CONNACK", "x.mqtt:2: a client sends no CONNACK"),
        ("[MQTT-3.1.4-3] s\na < SUBSCRIBE id=1", "x.mqtt:2: a broker sends no SUBSCRIBE"),
        ("[MQTT-3.1.4-3] s\na > PUBLISH clean_start=1", "x.mqtt:2: PUBLISH has no field clean_start"),
        ("[MQTT-3.1.4-3] s\na > PUBLISH qos=256", "x.mqtt:2: qos: 256 is above 255"),
        ("[MQTT-3.1.4-3] s\na > PUBLISH qos=1", "x.mqtt:2: this PUBLISH needs id="),
        ("[MQTT-3.1.4-3] s\na < SUBACK id=1", "x.mqtt:2: SUBACK needs codes="),
        ("[MQTT-3.1.4-3] s\na < UNSUBACK id=1", "x.mqtt:2: UNSUBACK needs codes="),
        ("[MQTT-3.1.4-3] s\na < CONNACK fine", "x.mqtt:2: fine is neither a Reason Code nor field=value"),
        ("[MQTT-3.1.4-3] s\na < PUBLISH alias=1 alias=2", "x.mqtt:2: PUBLISH names alias twice"),
        ("[MQTT-3.1.4-3] s\na > PUBLISH payload=\"x", "x.mqtt:2: payload: the closing quote is missing"),
        ("[MQTT-3.1.4-3] s\na > bytes 1", "x.mqtt:2: 1 is not pairs of hexadecimal digits"),
        ("[MQTT-3.1.4-3] s\nwait 1", "x.mqtt:2: 1 is not a time such as 1500ms or 2s"),
        ("[MQTT-3.1.4-3] s\nwait 3s\nwait 2s", "x.mqtt:1: the scenario waits longer than 4 s"),
        (
            "[MQTT-3.1.4-3] s\nversions 5 3.1.1\na > SUBSCRIBE id=1 filter=a nl",
            "x.mqtt:3: nl is an option of MQTT 5 only: prefix the line with `5:`",
        ),
    ];

    for (text, expected) in rows {
        let error = error(text);
        assert!(error.starts_with(expected), "{text}\n{error}");
    }
}

#[test]
fn an_expectation_that_does_not_hold_fails_with_what_came() {
    const JOIN: &str = "a > CONNECT client=x\na < CONNACK\n";
    const SUBSCRIBED: &str = "a > SUBSCRIBE id=1 filter=t qos=1\na < SUBACK id=1 codes=0x01\n";
    let rows = [
        ("a > CONNECT client=x\na < CONNACK not-authorized", "x.mqtt:3", "CONNACK success"),
        ("a > CONNECT client=x\na < CONNACK session_present=1", "x.mqtt:3", "(session_present is missing"),
        (
            "a > CONNECT client=x\na < CONNACK assigned_client_id=x",
            "x.mqtt:3",
            "(assigned_client_id is missing",
        ),
        (
            "a > CONNECT\na < CONNACK assigned_client_id=absent",
            "x.mqtt:3",
            "(assigned_client_id was not expected",
        ),
        (
            "a > CONNECT client=x\na < CONNACK receive_maximum=7..9",
            "x.mqtt:3",
            "(receive_maximum is not 7..9)",
        ),
        ("a > CONNECT client=x\na < PINGRESP", "x.mqtt:3", "another packet than PINGRESP"),
        ("a > CONNECT client=x\na < nothing", "x.mqtt:3", "CONNACK success"),
        ("a > CONNECT client=x\na ! closed", "x.mqtt:3", "the connection is open"),
        ("a > CONNECT client=x\na ! cut", "x.mqtt:3", "CONNACK success"),
        ("a > CONNECT client=x\ncrash", "x.mqtt:3", "a: CONNACK success"),
        ("a > CONNECT client=x", "x.mqtt:2", "a: CONNACK success"),
        ("a ! open\na < CONNACK", "x.mqtt:3", "nothing"),
        ("a ! open\na > PINGREQ\na < CONNACK", "x.mqtt:4", "nothing, and the broker closed the connection"),
        ("a ! open\na > PINGREQ\na ! alive", "x.mqtt:4", "the broker closed the connection"),
        ("a ! open\na > PINGREQ", "x.mqtt:3", "the broker closed a, and no line says so"),
        ("a > PINGREQ", "x.mqtt:2", "there is no connection a"),
        ("a ! open\na ! open", "x.mqtt:3", "a is open already"),
        ("a ! open\na > PUBREL id=$p", "x.mqtt:3", "$p has no value yet"),
        (&format!("{JOIN}a > PINGREQ\na ! closed"), "x.mqtt:5", "the connection is open"),
        (
            &format!("{JOIN}{SUBSCRIBED}a > PUBLISH topic=t payload=1"),
            "x.mqtt:6",
            "a: PUBLISH topic=t payload=1",
        ),
        (
            &format!("{JOIN}{SUBSCRIBED}a > PUBLISH topic=t payload=1\na < PUBLISH topic=t payload=2"),
            "x.mqtt:7",
            "(payload is not 2)",
        ),
        (
            &format!("{JOIN}{SUBSCRIBED}a > PUBLISH topic=t user=k:1\na < PUBLISH topic=t"),
            "x.mqtt:7",
            "(user was not expected",
        ),
        (
            &format!(
                "{JOIN}{SUBSCRIBED}a > PUBLISH topic=t user=k:1 user=k:2\na < PUBLISH topic=t user=k:2 user=k:1"
            ),
            "x.mqtt:7",
            "(user is not k:2)",
        ),
        (
            &format!("{JOIN}{SUBSCRIBED}a > PUBLISH topic=t\na > PINGREQ\na <* PINGRESP\na <* PINGRESP"),
            "x.mqtt:8",
            "PUBLISH topic=t, which is none of PINGRESP; PINGRESP",
        ),
    ];

    for (steps, place, got) in rows {
        let failure = outcome(steps).expect_err(steps);
        assert_eq!(failure.place, place, "{steps}\n{failure}");
        assert!(failure.got.contains(got), "{steps}\n{failure}");
    }
}

#[test]
fn a_scenario_that_holds_passes() {
    let rows = [
        "a > CONNECT client=x\na < CONNACK success session_present=0 receive_maximum=1..2000 reason_string=absent",
        "a > CONNECT client=x\na < CONNACK\na > SUBSCRIBE id=1 filter=t qos=1\na > PINGREQ\n\
         a <* PINGRESP\na <* SUBACK id=1 codes=granted-qos-1",
        "a > CONNECT client=x\na < CONNACK\na > SUBSCRIBE id=1 filter=t qos=1\na < SUBACK id=1 codes=0x01\n\
         a > PUBLISH topic=t qos=1 id=5\na <* PUBLISH topic=t qos=1 id=$p\na <* PUBACK id=5\na > PUBACK id=$p",
        "a > CONNECT client=x\na < CONNACK\na > DISCONNECT\na > CONNECT client=x\na < CONNACK",
        "a > CONNECT client=x version=3.1.1\na < CONNACK 0x00\na > PINGREQ\na < PINGRESP\na ! alive\na ! cut",
        "versions 5 3.1.1\na > CONNECT client=x session_expiry=5\na < CONNACK\n3.1.1: a > PINGREQ\n3.1.1: a < PINGRESP",
    ];

    for steps in rows {
        if let Err(failure) = outcome(steps) {
            panic!("{failure}");
        }
    }
}
