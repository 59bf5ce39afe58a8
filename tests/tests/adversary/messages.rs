//! What an adversary does to messages between press and lake, who share a group key.

use std::sync::{Arc, Mutex};

use veilmq_client::e2e::{
    Authentication, E2e, EnvelopeOptions, Limits, Member, OpenError, Opened, Provenance,
};
use veilmq_protocol::veil::Kid;
use veilmq_protocol::{PublishProperties, TopicName};

use crate::proxy::Carried;
use crate::world::{Heard, SCOPE, Scene, TOPIC, group_key, press, run, scope, signed, text, unix_ms};

/// Gives everything on as it is, and keeps a copy.
fn keeping() -> (Arc<Mutex<Vec<Carried>>>, impl FnMut(Carried) -> Vec<Carried> + Send + 'static) {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keeper = Arc::clone(&kept);
    let keep = move |carried: Carried| {
        keeper.lock().unwrap().push(carried.clone());
        vec![carried]
    };
    (kept, keep)
}

/// A subscriber without a connection, to which the adversary hands messages.
fn lake(options: EnvelopeOptions) -> E2e {
    let mut lake = E2e::new(Member::Unsigned(Kid::from_bytes([2; 8])), Limits::default());
    lake.directory_mut().pin(press().certificate().clone());
    lake.add_scope(scope(group_key(), options)).unwrap();
    lake
}

fn seal(sender: &mut E2e, plaintext: &str) -> Vec<u8> {
    let mut count = 0;
    let mut entropy = |bytes: &mut [u8]| {
        for byte in bytes {
            count += 1;
            *byte = count;
        }
    };
    let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
    sender.seal(topic, plaintext.as_bytes(), &none, unix_ms(), &mut entropy).unwrap()
}

fn open(reader: &mut E2e, payload: &[u8], retained: bool) -> Result<Opened, OpenError> {
    let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
    reader.open(topic, payload, retained, &none, unix_ms())
}

#[test]
fn neither_the_broker_nor_the_network_sees_a_payload_and_without_the_key_nobody_reads_it() {
    run(async {
        let (kept, keep) = keeping();
        let mut scene = Scene::start_with(EnvelopeOptions::default(), [9; 32], keep).await;

        scene.say("the recipe is flour").await;

        assert_eq!(scene.heard().await, [Heard::Refused(OpenError::BadTag)], "lake has another key");
        let seen = [scene.proxy.seen(), kept.lock().unwrap()[0].payload.clone()].concat();
        let holds = |secret: &[u8]| seen.windows(secret.len()).any(|window| window == secret);
        assert!(!holds(b"recipe") && !holds(&group_key()));
        assert!(holds(TOPIC.as_bytes()), "the capture holds what is not secret");
    });
}

#[test]
fn a_message_that_was_changed_anywhere_is_refused() {
    run(async {
        let mut position = 0;
        let mut scene = Scene::start(move |mut carried| {
            carried.payload[position] ^= 1;
            position += 1;
            vec![carried]
        })
        .await;
        // Header, five bytes of text, tag: every message has another byte changed.
        let bytes = 33 + 5 + 16;

        for _ in 0..bytes {
            scene.say("21.50").await;
        }

        let heard = scene.heard().await;
        assert_eq!(heard.len(), bytes);
        assert!(heard.iter().all(|heard| matches!(heard, Heard::Refused(_))), "{heard:?}");
    });
}

#[test]
fn a_message_that_was_moved_to_another_topic_is_refused() {
    run(async {
        let mut scene = Scene::start(|mut carried| {
            carried.topic = "factory/line-4/temperature".to_owned();
            vec![carried]
        })
        .await;

        scene.say("21.5").await;

        assert_eq!(scene.heard().await, [Heard::Refused(OpenError::BadTag)]);
    });
}

#[test]
fn who_holds_the_group_key_cannot_write_as_another_where_messages_are_signed() {
    let mut lake = lake(signed());
    // Mallory is a member, and gives press as the sender.
    let mut mallory = E2e::new(Member::Unsigned(press().kid()), Limits::default());
    mallory.add_scope(scope(group_key(), EnvelopeOptions::default())).unwrap();
    let mut press = E2e::new(Member::Identity(press()), Limits::default());
    press.add_scope(scope(group_key(), signed())).unwrap();

    let forged = seal(&mut mallory, "open the gate");
    assert_eq!(open(&mut lake, &forged, false).err(), Some(OpenError::BadTag));
    // A signature of press's for another message does not help.
    let genuine = seal(&mut press, "shut the gate");
    let mut spliced = forged.clone();
    spliced[4] |= 1;
    spliced.extend_from_slice(&genuine[genuine.len() - 64..]);
    assert_eq!(open(&mut lake, &spliced, false).err(), Some(OpenError::BadTag));

    let opened = open(&mut lake, &genuine, false).unwrap();
    assert_eq!(opened.plaintext, b"shut the gate");
    let mut lenient = self::lake(EnvelopeOptions::default());
    let opened = open(&mut lenient, &forged, false).unwrap();
    let Provenance::Envelope(origin) = opened.provenance else { panic!("{opened:?}") };
    assert!(!origin.signed && opened.authentication() == Authentication::Group, "as documented");
}

#[test]
fn a_message_that_is_replayed_is_delivered_once() {
    run(async {
        let mut before: Vec<Carried> = Vec::new();
        let mut scene = Scene::start(move |carried| {
            // Everything once more, the newest twice.
            before.push(carried.clone());
            let mut all = vec![carried];
            all.extend(before.iter().cloned());
            all
        })
        .await;

        for message in ["1", "2", "3"] {
            scene.say(message).await;
        }

        let heard = scene.heard().await;
        let texts: Vec<&Heard> = heard.iter().filter(|heard| matches!(heard, Heard::Text(..))).collect();
        assert_eq!(texts, [&text("1"), &text("2"), &text("3")], "{heard:?}");
        assert!(
            heard.iter().all(|heard| matches!(heard, Heard::Text(..) | Heard::Refused(OpenError::Replay)))
        );
    });
}

#[test]
fn a_message_that_was_dropped_is_noticed_with_the_next_and_a_delayed_one_arrives_once() {
    run(async {
        let mut held = None;
        let mut count = 0;
        let mut scene = Scene::start(move |carried| {
            count += 1;
            match count {
                2 | 3 => Vec::new(),
                5 => {
                    held = Some(carried);
                    Vec::new()
                }
                _ => std::iter::once(carried).chain(held.take()).collect(),
            }
        })
        .await;

        for message in ["1", "2", "3", "4", "5", "6"] {
            scene.say(message).await;
        }

        let after_a_gap = |text: &str, gap| Heard::Text(text.to_owned(), gap);
        let expected = [text("1"), after_a_gap("4", 2), after_a_gap("6", 1), text("5")];
        assert_eq!(scene.heard().await, expected);
    });
}

#[test]
fn a_retained_message_that_was_rolled_back_is_refused() {
    let mut lake = lake(EnvelopeOptions::default());
    let mut press = E2e::new(Member::Identity(press()), Limits::default());
    press.add_scope(scope(group_key(), EnvelopeOptions::default())).unwrap();
    let (old, new) = (seal(&mut press, "the gate is open"), seal(&mut press, "the gate is shut"));

    assert_eq!(open(&mut lake, &new, true).unwrap().plaintext, b"the gate is shut");

    assert_eq!(open(&mut lake, &old, true).err(), Some(OpenError::RetainedRollback));
    assert_eq!(
        open(&mut lake, &new, true).unwrap().plaintext,
        b"the gate is shut",
        "as often as it is asked for"
    );
}

#[test]
fn plaintext_on_an_end_to_end_topic_reaches_nobody() {
    run(async {
        let injected = |topic: &str| Carried {
            topic: topic.to_owned(),
            payload: b"open the gate".to_vec(),
            retain: false,
        };
        let mut scene =
            Scene::start(move |carried| vec![injected(TOPIC), injected("factory/new"), carried]).await;

        scene.say("21.5").await;

        let refused = Heard::Refused(OpenError::NotEncrypted);
        assert_eq!(scene.heard().await, [refused.clone(), refused, text("21.5")]);
        assert!(SCOPE.starts_with("factory/"), "both topics are of the scope");
    });
}
