//! Blind topics: the tokens are those of an independent implementation, filters work as ever, and messages stay where they belong.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

mod e2e_support;

use std::collections::HashSet;
use std::sync::Arc;

use e2e_support::{JSON, NOW, SCOPE, TOPIC, counter, hex, keyring, member_with, plain, topic, unsigned};
use proptest::prelude::*;
use serde_json::Value;
use veilmq_client::TopicFilter;
use veilmq_client::e2e::{
    ArticleKey, ArticleKeys, ConfigError, E2e, EnvelopeOptions, EpochTiming, GroupKey, Keyring, MasterSecret,
    Naming, NamingError, OpenError, Scope, ScopeConfig, SealError,
};
use veilmq_protocol::PublishProperties;

const TIMING: EpochTiming =
    EpochTiming { clock_skew_ms: 120_000, transition_window_ms: 600_000, history_ms: 1_000_000 };
/// When the second epoch of names begins.
const NEXT: u64 = NOW + 3_600_000;
const OTHER: &str = "factory/line-3/other";

fn blind_vectors() -> Value {
    serde_json::from_str(include_str!("data/blind-topics-vectors.json")).unwrap()
}

fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::new(text).unwrap()
}

fn naming(prefix: &str, epoch: u32, key: &[u8; 32]) -> Naming {
    let mut keys = Keyring::explicit(EpochTiming::default());
    keys.insert(epoch, GroupKey::new(key), 0).unwrap();
    Naming::new(prefix, keys).unwrap()
}

/// Names of epoch 1, and of epoch 2 from [`NEXT`] on.
fn two_epochs() -> Arc<Naming> {
    let mut keys = Keyring::explicit(TIMING);
    keys.insert(1, GroupKey::new(&[1; 32]), 0).unwrap();
    let naming = Naming::new("", keys).unwrap();
    naming.insert(2, GroupKey::new(&[2; 32]), NEXT).unwrap();
    Arc::new(naming)
}

fn blind_member(kid: u8, naming: &Arc<Naming>) -> E2e {
    let mut e2e = member_with(unsigned(kid), SCOPE, keyring(), EnvelopeOptions::default());
    e2e.make_blind(&Scope::new(SCOPE).unwrap(), Arc::clone(naming)).unwrap();
    e2e
}

/// The name on the wire and the envelope.
fn publish(sender: &mut E2e, name: &str, now: u64) -> (String, Vec<u8>) {
    let wire = sender.wire_topic(topic(name), now).unwrap().unwrap();
    (wire, sender.seal(topic(name), JSON, &plain(), now, &mut counter()).unwrap())
}

fn receive(
    reader: &mut E2e,
    wire: &str,
    payload: &[u8],
    retained: bool,
    now: u64,
) -> Result<String, OpenError> {
    let opened = reader.open(topic(wire), payload, retained, &plain(), now)?;
    assert_eq!(opened.plaintext, JSON);
    Ok(opened.topic.unwrap())
}

#[test]
fn names_are_those_of_the_reference_implementation() {
    let vectors = blind_vectors();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let key: [u8; 32] = hex(&vectors["key"]).try_into().unwrap();
    for case in vectors["names"].as_array().unwrap() {
        let epoch = u32::try_from(case["epoch"].as_u64().unwrap()).unwrap();
        let (prefix, name, wire) = (text(&case["prefix"]), text(&case["name"]), text(&case["wire"]));
        let naming = naming(&prefix, epoch, &key);

        assert_eq!(naming.filters(filter(&name), NOW).unwrap(), std::slice::from_ref(&wire), "{name}");
        if !filter(&name).has_wildcards() && filter(&name).shared().is_none() {
            assert_eq!(naming.topic(topic(&name), NOW).unwrap(), wire, "{name}");
        }
    }
    for case in vectors["from_master"].as_array().unwrap() {
        let epoch = u32::try_from(case["epoch"].as_u64().unwrap()).unwrap();
        let master = MasterSecret::new(&hex(&vectors["master"]));
        let keys = Keyring::master(master, epoch, EpochTiming::default());
        let derived = Naming::new(&text(&case["prefix"]), keys).unwrap();

        assert_eq!(derived.topic(topic(&text(&case["name"])), NOW).unwrap(), text(&case["wire"]));
    }
}

fn level() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("a"), Just("b"), Just(""), Just("a b"), Just("temperature"), Just("°")]
}

fn topic_text() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic", |name| !name.is_empty())
}

fn filter_text() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 2 => Just("+")];
    let levels = (prop::collection::vec(level, 0..5), any::<bool>(), any::<bool>());
    let text = levels.prop_map(|(mut levels, rest, shared)| {
        if rest || levels.is_empty() {
            levels.push("#");
        }
        let filter = levels.join("/");
        if shared && !filter.is_empty() { format!("$share/group/{filter}") } else { filter }
    });
    text.prop_filter("a filter", |filter| !filter.is_empty())
}

proptest! {
    #[test]
    fn a_filter_matches_a_topic_exactly_if_its_tokens_match_those_of_the_topic(
        filter_text in filter_text(),
        name in topic_text(),
        prefix in prop_oneof![Just(""), Just("p"), Just("p/_vt"), Just("a/b")],
        epochs in (1_u32..3, 1_u32..3),
        key in prop::array::uniform32(any::<u8>()),
    ) {
        let (ours, theirs) = (naming(prefix, epochs.0, &key), naming(prefix, epochs.1, &key));

        let wire_filter = ours.filter_in(epochs.0, filter(&filter_text)).unwrap();
        let wire_topic = theirs.topic_in(epochs.1, topic(&name)).unwrap();

        let matches = filter(&filter_text).matches(topic(&name)) && epochs.0 == epochs.1;
        prop_assert_eq!(filter(&wire_filter).matches(topic(&wire_topic)), matches);
        prop_assert_eq!(filter(&wire_filter).shared().map(|shared| shared.share_name), filter(&filter_text).shared().map(|shared| shared.share_name));
        // Nothing that was written for real names reaches tokens, but for what reaches everything.
        let level_names = ["a", "b", "a b", "temperature", "°"];
        prop_assert!(wire_topic.strip_prefix(prefix).unwrap().split('/').all(|level| !level_names.contains(&level)));
    }

    #[test]
    fn names_with_another_key_or_prefix_are_never_matched(name in topic_text(), filter_text in filter_text()) {
        let ours = naming("p", 1, &[1; 32]).filter_in(1, filter(&filter_text)).unwrap();
        let elsewhere = naming("q", 1, &[1; 32]).topic_in(1, topic(&name)).unwrap();
        let unrelated = naming("p", 1, &[2; 32]).topic_in(1, topic(&name)).unwrap();

        prop_assert!(!filter(&ours).matches(topic(&elsewhere)));
        // A level of the filter that is no wildcard keeps it to its own key.
        let literal = filter(&filter_text).inner().as_str().split('/').any(|level| !matches!(level, "+" | "#"));
        prop_assert!(!literal || !filter(&ours).matches(topic(&unrelated)));
    }
}

#[test]
fn equal_names_at_one_depth_have_equal_tokens_and_no_others_do() {
    let naming = naming("", 1, &[9; 32]);
    let wire = naming.topic(topic("a/a/b/a"), NOW).unwrap();
    let tokens: Vec<&str> = wire.split('/').skip(2).collect();
    assert_eq!(tokens.iter().collect::<HashSet<_>>().len(), 4, "the same level at four depths");
    assert_eq!(naming.topic(topic("x/a"), NOW).unwrap().split('/').next_back(), Some(tokens[1]));

    let names = (0..20_000).map(|number| naming.topic(topic(&format!("device-{number}")), NOW).unwrap());
    assert_eq!(names.collect::<HashSet<_>>().len(), 20_000);
    assert!(
        tokens
            .iter()
            .all(|token| token.len() == 16 && token.bytes().all(|c| matches!(c, b'a'..=b'z' | b'2'..=b'7')))
    );
}

#[test]
fn what_has_no_tokens_is_refused_by_name() {
    let naming_of = |prefix: &str| naming(prefix, 1, &[1; 32]);
    let deep = |levels: usize| vec!["d"; levels].join("/");
    let long = "p".repeat(65_535 - "/_vt/0001/".len() - 16);

    assert_eq!(naming_of("").topic(topic(&deep(255)), NOW).map(|name| name.len()), Ok(8 + 255 * 17));
    assert_eq!(naming_of("").topic(topic(&deep(256)), NOW), Err(NamingError::TooDeep));
    assert_eq!(naming_of(&long).topic(topic("a"), NOW).map(|name| name.len()), Ok(65_535));
    assert_eq!(naming_of(&long).topic(topic("a/b"), NOW), Err(NamingError::TooLong));
    assert_eq!(naming_of("").topic(topic(&"x".repeat(65_535)), NOW).map(|name| name.len()), Ok(25));
    assert_eq!(naming_of("").topic(topic("$SYS/a"), NOW), Err(NamingError::Dollar));
    assert_eq!(naming_of("").filters(filter("$SYS/#"), NOW), Err(NamingError::Dollar));
    assert_eq!(naming_of("").topic_in(2, topic("a")), Err(NamingError::NoKey));
    for prefix in ["$p", "a/+", "#"] {
        let keys = Keyring::explicit(EpochTiming::default());
        assert_eq!(Naming::new(prefix, keys).err(), Some(ConfigError::InvalidPrefix), "{prefix}");
    }
}

#[test]
fn a_message_travels_under_tokens_and_gets_its_name_back() {
    let naming = two_epochs();
    let (mut sender, mut reader) = (blind_member(2, &naming), blind_member(1, &naming));

    let (wire, payload) = publish(&mut sender, TOPIC, NOW);

    assert!(reader.opens(topic(&wire), &payload));
    assert_eq!(receive(&mut reader, &wire, &payload, false, NOW).unwrap(), TOPIC);
    assert_eq!(receive(&mut reader, &wire, &payload, false, NOW), Err(OpenError::Replay));
    for level in TOPIC.split('/') {
        assert!(
            !wire.contains(level) && !payload.windows(level.len()).any(|window| window == level.as_bytes())
        );
    }
    // The hint of the scope is that of its tokens: who tries names finds nothing without the topic key.
    assert_ne!(payload[5..9], Scope::new(SCOPE).unwrap().tag());
    let wire_scope = naming.filter_in(1, filter(SCOPE)).unwrap();
    assert_eq!(payload[5..9], Scope::new(&wire_scope).unwrap().tag());
}

#[test]
fn a_message_that_is_moved_or_says_nothing_of_its_topic_is_refused() {
    let naming = two_epochs();
    let (mut sender, mut reader) = (blind_member(2, &naming), blind_member(1, &naming));
    let (wire, payload) = publish(&mut sender, TOPIC, NOW);
    let other = naming.topic(topic(OTHER), NOW).unwrap();
    let later = naming.topic_in(2, topic(TOPIC)).unwrap();
    let unknown = "_vt/0009/aaaaaaaaaaaaaaaa".to_owned();
    // A member that names the scope by its tokens gets the right tag, and has the name outside.
    let wire_scope = naming.filter_in(1, filter(SCOPE)).unwrap();
    let mut insider = member_with(unsigned(3), &wire_scope, keyring(), EnvelopeOptions::default());
    let outside = insider.seal(topic(&wire), JSON, &plain(), NOW, &mut counter()).unwrap();
    // One without blind topics says the name inside, on the right topic, under the tag of the real name.
    let options = EnvelopeOptions { inner_topic: true, ..EnvelopeOptions::default() };
    let mut naive = member_with(unsigned(4), SCOPE, keyring(), options);
    let inside = naive.seal(topic(TOPIC), JSON, &plain(), NOW, &mut counter()).unwrap();

    for (name, payload, expected) in [
        (&other, &payload, OpenError::TopicMismatch),
        (&later, &payload, OpenError::TopicMismatch),
        (&TOPIC.to_owned(), &payload, OpenError::TopicMismatch),
        (&wire, &outside, OpenError::TopicMismatch),
        (&wire, &inside, OpenError::TopicMismatch),
        (&TOPIC.to_owned(), &inside, OpenError::TopicMismatch),
        (&unknown, &payload, OpenError::UnknownName),
        (&wire, &b"plaintext".to_vec(), OpenError::NotEncrypted),
        (&wire, &Vec::new(), OpenError::NotEncrypted),
    ] {
        assert!(reader.opens(topic(name), payload), "{name}");
        assert_eq!(receive(&mut reader, name, payload, false, NOW), Err(expected), "{name}");
    }
    assert_eq!(
        receive(&mut reader, &wire, &payload, false, NOW).unwrap(),
        TOPIC,
        "nothing of it was remembered"
    );
}

#[test]
fn retained_messages_and_wills_are_told_apart_by_their_real_topics() {
    let naming = two_epochs();
    let (mut sender, mut reader) = (blind_member(2, &naming), blind_member(1, &naming));
    let (first_wire, first) = publish(&mut sender, TOPIC, NOW);
    let (second_wire, second) = publish(&mut sender, OTHER, NOW);
    let (_, newer) = publish(&mut sender, TOPIC, NOW);
    let will = sender.seal_will(topic(TOPIC), JSON, &plain(), NOW, &mut counter()).unwrap();

    // They share their numbers, and come in any order.
    assert_eq!(receive(&mut reader, &second_wire, &second, true, NOW).unwrap(), OTHER);
    assert_eq!(receive(&mut reader, &first_wire, &first, true, NOW).unwrap(), TOPIC);
    assert_eq!(receive(&mut reader, &first_wire, &newer, true, NOW).unwrap(), TOPIC);
    assert_eq!(receive(&mut reader, &first_wire, &first, true, NOW), Err(OpenError::RetainedRollback));
    let opened = reader.open(topic(&first_wire), &will, false, &plain(), NOW).unwrap();
    assert!(opened.origin().unwrap().will);
    assert_eq!(opened.topic.as_deref(), Some(TOPIC));
}

#[test]
fn names_of_two_epochs_are_in_use_until_the_transition_is_over() {
    let naming = two_epochs();
    let (mut sender, mut reader) = (blind_member(2, &naming), blind_member(1, &naming));
    let skew = TIMING.clock_skew_ms;
    for (now, sending, in_use) in [
        (NOW, 1, vec![1]),
        (NEXT - skew - 1, 1, vec![1]),
        // Whose clock is ahead names by the next epoch already.
        (NEXT - skew, 1, vec![1, 2]),
        (NEXT, 2, vec![1, 2]),
        (NEXT + TIMING.transition_window_ms - 1, 2, vec![1, 2]),
        (NEXT + TIMING.transition_window_ms, 2, vec![2]),
    ] {
        assert_eq!(naming.epochs(now), in_use, "{now}");
        let filters = reader.wire_filters(filter("factory/line-3/+/#"), now).unwrap();
        assert_eq!(filters.len(), in_use.len(), "what is not blind is in no other scope");
        let (wire, payload) = publish(&mut sender, TOPIC, now);
        assert_eq!(wire, naming.topic_in(sending, topic(TOPIC)).unwrap());
        assert!(filters.iter().any(|text| filter(text).matches(topic(&wire))));
        assert_eq!(receive(&mut reader, &wire, &payload, false, now).unwrap(), TOPIC);
    }
    let late = naming.topic_in(1, topic(TOPIC)).unwrap();
    let (_, payload) = publish(&mut sender, TOPIC, NEXT);
    assert_eq!(receive(&mut reader, &late, &payload, false, NEXT), Err(OpenError::TopicMismatch));
}

#[test]
fn a_filter_brings_what_is_blind_and_what_is_not_and_nothing_twice() {
    let naming = Arc::new(naming("", 1, &[1; 32]));
    let e2e = blind_member(1, &naming);
    let tokens = |text: &str| naming.filter_in(1, filter(text)).unwrap();
    for (text, expected) in [
        (TOPIC, vec![tokens(TOPIC)]),
        (SCOPE, vec![tokens(SCOPE)]),
        ("factory/line-3/+/#", vec![tokens("factory/line-3/+/#")]),
        ("office/door", vec!["office/door".to_owned()]),
        ("factory/+/t", vec!["factory/+/t".to_owned(), tokens("factory/+/t")]),
        ("$share/g/factory/line-3/t", vec![tokens("$share/g/factory/line-3/t")]),
        ("$share/g/+/+/t", vec!["$share/g/+/+/t".to_owned(), tokens("$share/g/+/+/t")]),
        // This one has all names on the wire as it is.
        ("#", vec!["#".to_owned()]),
    ] {
        assert_eq!(e2e.wire_filters(filter(text), NOW).unwrap(), expected, "{text}");
    }
    let mut everything = member_with(unsigned(1), "#", keyring(), EnvelopeOptions::default());
    everything.make_blind(&Scope::new("#").unwrap(), Arc::clone(&naming)).unwrap();
    assert_eq!(everything.wire_filters(filter("#"), NOW).unwrap(), ["_vt/0001/#"]);
    assert_eq!(everything.wire_filters(filter("$SYS/#"), NOW).unwrap(), ["$SYS/#"]);
}

#[test]
fn no_real_name_can_be_shown_by_mistake() {
    let naming = two_epochs();
    let mut sender = blind_member(2, &naming);
    let wire = naming.topic(topic(TOPIC), NOW).unwrap();
    let answer = PublishProperties { response_topic: Some(topic(OTHER)), ..PublishProperties::default() };
    let keys = || ArticleKeys::new(ArticleKey::master(b"legacy"));
    let scope = Scope::new(SCOPE).unwrap();

    let mut seal = |name: &str, properties: &PublishProperties<'_>| {
        sender.seal(topic(name), JSON, properties, NOW, &mut counter())
    };
    assert_eq!(seal(&wire, &plain()), Err(SealError::BlindName));
    assert_eq!(seal(TOPIC, &answer), Err(SealError::ResponseTopic));
    assert!(sender.publishes_sealed(topic(&wire)), "nor does anything leave there in the clear");
    assert_eq!(sender.copy_to_legacy(&scope, keys()), Err(ConfigError::BlindCopies));
    let mut copying = member_with(unsigned(1), SCOPE, keyring(), EnvelopeOptions::default());
    copying.copy_to_legacy(&scope, keys()).unwrap();
    assert_eq!(copying.make_blind(&scope, Arc::clone(&naming)), Err(ConfigError::BlindCopies));
    let article = Scope::new("office/#").unwrap();
    copying.add_scope(ScopeConfig::article(article.clone(), keys())).unwrap();
    assert_eq!(copying.make_blind(&article, naming), Err(ConfigError::NotAnEnvelopeScope));
}
