//! Random lives of a bridge: published on both sides, its connections cut after any byte or left for want of messages, either broker
//! killed or set up anew.
//!
//! Afterwards every QoS 1 message has crossed at least once and every QoS 2 message exactly once, each QoS in the order of publishing
//! ([MQTT-4.6.0-6] promises no more).

use proptest::collection::vec;
use proptest::prelude::*;
use veilmq_bridge::{Direction, Side};
use veilmq_protocol::{ProtocolVersion, QoS};

use crate::rig::{Rig, mapping, settings};

#[derive(Clone, Debug)]
enum Step {
    Publish(Side, QoS),
    Connect,
    Move(usize),
    Cut,
    Leave,
    Crash(Side),
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Local), Just(Side::Remote)]
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop_oneof![Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)];
    prop_oneof![
        6 => (side(), qos).prop_map(|(side, qos)| Step::Publish(side, qos)),
        4 => Just(Step::Connect),
        6 => (1_usize..200).prop_map(Step::Move),
        1 => Just(Step::Cut),
        2 => Just(Step::Leave),
        1 => side().prop_map(Step::Crash),
    ]
}

fn live(version: ProtocolVersion, steps: &[Step]) -> Result<(), TestCaseError> {
    // Each direction has topics of its own, so that nothing can come back.
    let mappings = vec![
        mapping("out/#", Direction::Out, QoS::ExactlyOnce),
        mapping("in/#", Direction::In, QoS::ExactlyOnce),
    ];
    let mut settings = settings(version, mappings);
    settings.idle_milliseconds = Some(1_000);
    let mut rig = Rig::new(settings);
    rig.listen(Side::Local);
    rig.listen(Side::Remote);
    // Both sessions exist from the beginning.
    rig.up();
    rig.cut();
    let mut published = [Vec::new(), Vec::new()];
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Publish(side, qos) => {
                let (topic, list) = match side {
                    Side::Local => ("out/t", &mut published[0]),
                    Side::Remote => ("in/t", &mut published[1]),
                };
                rig.publish(*side, topic, &number.to_string(), *qos);
                list.push((format!("{topic} {number}"), *qos));
            }
            Step::Connect if rig.is_up() => {}
            Step::Connect => rig.begin(),
            Step::Move(bytes) => drop(rig.pump_bytes(*bytes).unwrap()),
            Step::Cut => rig.cut(),
            Step::Leave => rig.leave(),
            Step::Crash(side) => rig.crash(*side),
        }
    }
    rig.cut();
    rig.up();
    for (side, published) in [(Side::Remote, &published[0]), (Side::Local, &published[1])] {
        let own = if side == Side::Remote { "in/" } else { "out/" };
        let mut heard = rig.heard(side);
        heard.retain(|heard| !heard.starts_with(own));
        for (message, qos) in published {
            let times = heard.iter().filter(|heard| *heard == message).count();
            prop_assert!(times >= 1, "{message} is lost: {heard:?}");
            prop_assert!(times == 1 || *qos == QoS::AtLeastOnce, "{message} came {times} times");
        }
        for level in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let of_level = |(message, qos): &(String, QoS)| (*qos == level).then(|| message.clone());
            let expected: Vec<String> = published.iter().filter_map(of_level).collect();
            let mut first: Vec<String> = Vec::new();
            for heard in heard.iter().filter(|heard| expected.contains(heard)) {
                if !first.contains(heard) {
                    first.push(heard.clone());
                }
            }
            prop_assert_eq!(first, expected);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_nothing_at_qos_2_crosses_twice_in_mqtt_5(steps in vec(step(), 1..60)) {
        live(ProtocolVersion::V5, &steps)?;
    }

    #[test]
    fn nothing_is_lost_and_nothing_at_qos_2_crosses_twice_in_mqtt_3_1_1(steps in vec(step(), 1..60)) {
        live(ProtocolVersion::V311, &steps)?;
    }
}

#[test]
fn a_broker_that_was_set_up_anew_takes_no_new_message_for_a_repeat() {
    for (anew, from, topic) in [(Side::Local, Side::Local, "out/t"), (Side::Remote, Side::Remote, "in/t")] {
        let mappings = vec![
            mapping("out/#", Direction::Out, QoS::ExactlyOnce),
            mapping("in/#", Direction::In, QoS::ExactlyOnce),
        ];
        let mut rig = Rig::new(settings(ProtocolVersion::V5, mappings));
        rig.listen(from.other());
        rig.up();
        // Step by step until the receiver has the message and its sender does not know.
        rig.publish(from, topic, "first", QoS::ExactlyOnce);
        while rig.identifiers_taken(from.other()) == 0 {
            assert!(rig.pump_bytes(1).unwrap() == 1, "the message does not arrive");
        }
        rig.reset(anew);

        rig.park();
        rig.publish(from, topic, "second", QoS::ExactlyOnce);
        rig.up();
        if anew == Side::Remote {
            // Its subscription is new too.
            rig.publish(from, topic, "third", QoS::ExactlyOnce);
            rig.pump().unwrap();
        }

        let expected = match anew {
            Side::Local => ["out/t first", "out/t second"],
            Side::Remote => ["in/t first", "in/t third"],
        };
        assert_eq!(rig.heard(from.other()), expected);
    }
}
