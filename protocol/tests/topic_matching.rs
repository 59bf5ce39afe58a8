//! Which Topic Names and Topic Filters are valid, and which match (MQTT 5.0 sections 4.7 and 4.8.2, MQTT 3.1.1 section 4.7).
#![allow(clippy::unwrap_used, reason = "test code")]

use veilmq_protocol::{SharedFilter, TopicError, TopicFilter, TopicName};

#[test]
fn filters_match_as_the_standard_says() {
    // (filter, topic, whether it matches)
    let table = [
        ("a", "a", true),
        ("a", "b", false),
        // [MQTT-4.7.3-4], [MQTT311-4.7.3-4]
        ("a", "A", false),
        ("a/b", "a/b", true),
        ("a/b", "a", false),
        ("a", "a/b", false),
        ("a/", "a", false),
        ("a", "a/", false),
        ("/a", "a", false),
        ("/a", "/a", true),
        ("/", "/", true),
        ("a//b", "a//b", true),
        ("a//b", "a/b", false),
        // Multi-level wildcard (section 4.7.1.2)
        ("#", "a", true),
        ("#", "a/b/c", true),
        ("#", "/", true),
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("sport/#", "sports", false),
        ("sport/#", "sport/", true),
        ("/#", "a", false),
        ("/#", "/a", true),
        // Single-level wildcard (section 4.7.1.3)
        ("+", "a", true),
        ("+", "a/b", false),
        ("+", "/finance", false),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+/+", "a/b", true),
        ("+/+", "a", false),
        ("+/+", "a/b/c", false),
        ("+/+", "/", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("sport/+/player1", "sport/tennis/player1", true),
        ("sport/+/player1", "sport/tennis/player2", false),
        ("+/tennis/#", "sport/tennis", true),
        ("+/tennis/#", "sport/tennis/a/b", true),
        ("+/b/+", "a//c", false),
        ("a/+/c", "a//c", true),
        ("+/#", "a", true),
        ("+/#", "a/b", true),
        // Topics beginning with $ ([MQTT-4.7.2-1], [MQTT311-4.7.2-1])
        ("#", "$SYS/uptime", false),
        ("+/uptime", "$SYS/uptime", false),
        ("+", "$SYS", false),
        ("+/#", "$SYS/uptime", false),
        ("$SYS/#", "$SYS/uptime", true),
        ("$SYS/#", "$SYS", true),
        ("$SYS/+", "$SYS/uptime", true),
        ("a/+", "a/$b", true),
        ("a/#", "a/$b", true),
        // Case, spaces, several bytes per character
        ("a b", "a b", true),
        ("é/+", "é/漢", true),
        ("Accounts", "ACCOUNTS", false),
        // Shared Subscriptions match by their inner filter (section 4.8.2)
        ("$share/g/a/+", "a/b", true),
        ("$share/g/#", "a/b", true),
        ("$share/g/#", "$SYS/uptime", false),
        ("$share/g/a", "$share/g/a", false),
        ("$share/g//a", "/a", true),
        ("$shared/g/a", "$shared/g/a", true),
    ];
    for (filter, topic, expected) in table {
        let matches = TopicFilter::new(filter).unwrap().matches(TopicName::new(topic).unwrap());
        assert_eq!(matches, expected, "filter {filter:?}, topic {topic:?}");
    }
}

#[test]
fn topic_names_have_no_wildcards_and_are_not_empty() {
    // [MQTT-4.7.0-1], [MQTT-4.7.3-1], [MQTT-4.7.3-2], [MQTT-4.7.3-3],
    // [MQTT311-4.7.1-1], [MQTT311-4.7.3-1], [MQTT311-4.7.3-2], [MQTT311-4.7.3-3]
    let longest = "a".repeat(65_535);
    for valid in ["a", "/", "//", "a/b", " ", "$SYS", "$share/g/a", "é", "\u{feff}", &longest] {
        assert_eq!(TopicName::new(valid).map(TopicName::as_str), Ok(valid));
    }
    let too_long = "a".repeat(65_536);
    let table = [
        ("", TopicError::Empty),
        (too_long.as_str(), TopicError::TooLong),
        ("a\0b", TopicError::HoldsNul),
        ("+", TopicError::Wildcard),
        ("a/#", TopicError::Wildcard),
        ("a+b", TopicError::Wildcard),
        ("a#", TopicError::Wildcard),
    ];
    for (invalid, error) in table {
        assert_eq!(TopicName::new(invalid), Err(error), "{invalid:.20?}");
    }
}

#[test]
fn a_forbidden_character_is_found_at_every_position_among_any_other_byte() {
    for len in 1..=20 {
        for position in 0..len {
            for (neighbour, bad, error) in [
                ('a', '+', TopicError::Wildcard),
                ('"', '#', TopicError::Wildcard),
                ('\u{1}', '\0', TopicError::HoldsNul),
                (',', '+', TopicError::Wildcard),
            ] {
                let clean: String = core::iter::repeat_n(neighbour, len).collect();
                let mut spoilt = clean.clone();
                spoilt.replace_range(position..=position, bad.encode_utf8(&mut [0; 4]));

                assert_eq!(TopicName::new(&clean).map(TopicName::as_str), Ok(clean.as_str()));
                assert_eq!(TopicName::new(&spoilt), Err(error), "{spoilt:?}");
            }
        }
    }
    // Every other character, alone and eight times over.
    for character in ('\u{1}'..='\u{7ff}').filter(|character| !['+', '#'].contains(character)) {
        let name: String = core::iter::repeat_n(character, 8).collect();
        assert!(TopicName::new(&name).is_ok(), "{name:?}");
    }
}

#[test]
fn topic_filters_have_wildcards_only_where_they_may() {
    let longest = "+/".repeat(32_767) + "#";
    for valid in [
        "#",
        "+",
        "+/#",
        "a/#",
        "+/a/+",
        "/",
        "a//b",
        "$SYS/#",
        "$shared/x",
        "a/$share",
        "$share/g/a",
        &longest,
    ] {
        assert_eq!(TopicFilter::new(valid).map(TopicFilter::as_str), Ok(valid));
    }
    let too_long = "a".repeat(65_536);
    let table = [
        ("", TopicError::Empty),
        (too_long.as_str(), TopicError::TooLong),
        ("a\0b", TopicError::HoldsNul),
        // [MQTT-4.7.1-1], [MQTT311-4.7.1-2]
        ("a#", TopicError::Wildcard),
        ("#a", TopicError::Wildcard),
        ("#/a", TopicError::Wildcard),
        ("a/#/b", TopicError::Wildcard),
        ("##", TopicError::Wildcard),
        ("a/##", TopicError::Wildcard),
        // [MQTT-4.7.1-2], [MQTT311-4.7.1-3]
        ("a+", TopicError::Wildcard),
        ("+a", TopicError::Wildcard),
        ("a/b+/c", TopicError::Wildcard),
        ("++", TopicError::Wildcard),
        ("+#", TopicError::Wildcard),
        // [MQTT-4.8.2-1], [MQTT-4.8.2-2]
        ("$share", TopicError::ShareName),
        ("$share/", TopicError::ShareName),
        ("$share/g", TopicError::ShareName),
        ("$share/g/", TopicError::ShareName),
        ("$share//a", TopicError::ShareName),
        ("$share/+/a", TopicError::ShareName),
        ("$share/g#/a", TopicError::ShareName),
        ("$share/#", TopicError::ShareName),
        ("$share/g/a#", TopicError::Wildcard),
        ("$share/g/#/a", TopicError::Wildcard),
    ];
    for (invalid, error) in table {
        assert_eq!(TopicFilter::new(invalid), Err(error), "{invalid:.20?}");
    }
}

#[test]
fn a_shared_subscription_splits_into_share_name_and_filter() {
    let shared = TopicFilter::new("$share/group/a/+/c").unwrap().shared();

    assert_eq!(
        shared,
        Some(SharedFilter { share_name: "group", filter: TopicFilter::new("a/+/c").unwrap() })
    );
    assert_eq!(TopicFilter::new("a/b").unwrap().shared(), None);
    assert_eq!(TopicFilter::new("$shared/a/b").unwrap().shared(), None);
}

#[test]
fn levels_include_empty_ones_and_wildcards_are_seen() {
    let name = TopicName::new("/a//b/").unwrap();
    assert_eq!(name.levels().collect::<Vec<_>>(), ["", "a", "", "b", ""]);
    assert!(!name.is_dollar());
    assert!(TopicName::new("$SYS").unwrap().is_dollar());
    assert!(TopicFilter::new("a/+").unwrap().has_wildcards());
    assert!(TopicFilter::new("#").unwrap().has_wildcards());
    assert!(!TopicFilter::new("a/b").unwrap().has_wildcards());
}
