//! The article's format: what it can do, what it cannot, and that Node.js agrees (VEIL-1 section 11).

mod e2e_support;

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    process::{Command, Stdio},
};

use e2e_support::{JSON, NOW, SCOPE, TOPIC, counter, plain, to_hex, topic, unsigned};
use proptest::prelude::*;
use serde_json::{Value, json};
use veilmq_client::e2e::{
    ArticleKey, ArticleKeys, Authentication, E2e, Limits, OpenError, Scope, ScopeConfig, SealError,
    sequence_number, with_sequence_number,
};
use veilmq_protocol::veil::channel::Secret32;

const MASTER: &[u8] = b"the master secret of the article";

fn member(keys: ArticleKeys) -> E2e {
    let mut e2e = E2e::new(unsigned(1), Limits::default());
    e2e.add_scope(ScopeConfig::article(Scope::new(SCOPE).expect("a valid filter"), keys))
        .expect("the first scope");
    e2e
}

fn master() -> ArticleKeys {
    ArticleKeys::new(ArticleKey::master(MASTER))
}

fn sealed(keys: ArticleKeys, json: &[u8]) -> Vec<u8> {
    member(keys).seal(topic(TOPIC), json, &plain(), NOW, &mut counter()).expect("JSON seals")
}

fn open(keys: ArticleKeys, payload: &[u8], now: u64) -> Result<Vec<u8>, OpenError> {
    member(keys).open(topic(TOPIC), payload, false, &plain(), now).map(|opened| opened.plaintext)
}

#[test]
fn messages_are_labelled_as_unauthenticated() {
    let payload = sealed(master(), JSON);

    let opened = member(master()).open(topic(TOPIC), &payload, false, &plain(), NOW).unwrap();

    assert_eq!(opened.plaintext, JSON);
    assert_eq!(opened.authentication(), Authentication::None);
    assert_eq!(opened.origin(), None);
}

#[test]
fn a_flipped_iv_byte_changes_the_sequence_number_and_nothing_notices() {
    let mut payload = sealed(master(), JSON);
    let last_digit = JSON.windows(2).position(|digits| digits == b"42").unwrap() + 1;
    payload[last_digit] ^= b'2' ^ b'9';

    let opened = member(master()).open(topic(TOPIC), &payload, false, &plain(), NOW).unwrap();

    assert_eq!(sequence_number(&opened.plaintext), Some(49));
    assert_eq!(opened.authentication(), Authentication::None);
}

#[test]
fn every_failure_is_the_same_error() {
    let payload = sealed(master(), JSON);
    let raw = || ArticleKeys::new(ArticleKey::Raw(Secret32::new(&[7; 32])));
    let not_json = {
        // A raw key makes it possible to encrypt something that is no JSON with the same cipher.
        let longer = sealed(raw(), b"{\"padding\":\"0123456789012345678\"}");
        longer[16..].to_vec()
    };
    let mut wrong_padding = payload.clone();
    *wrong_padding.last_mut().unwrap() ^= 1;
    let rows: [(&str, &[u8], ArticleKeys); 7] = [
        ("only an IV", &payload[..16], master()),
        ("not whole blocks", &payload[..40], master()),
        ("plaintext JSON", JSON, master()),
        ("wrong padding", &wrong_padding, master()),
        ("wrong key", &payload, raw()),
        ("no JSON", &not_json, raw()),
        ("other salt", &payload, ArticleKeys::new(ArticleKey::master_with_salt(MASTER, b"salt"))),
    ];
    for (name, payload, keys) in rows {
        assert_eq!(open(keys, payload, NOW), Err(OpenError::BadLegacy), "{name}");
    }
}

#[test]
fn topics_have_keys_of_their_own() {
    let payload = sealed(master(), JSON);

    let moved = member(master()).open(topic("factory/line-3/other"), &payload, false, &plain(), NOW);

    assert_eq!(moved, Err(OpenError::BadLegacy));
}

#[test]
fn both_keys_open_during_the_transition_and_only_the_new_one_after_it() {
    let renewed =
        || ArticleKeys::new(ArticleKey::master(b"new")).accepting(ArticleKey::master(MASTER), NOW + 10);
    let old = sealed(master(), JSON);
    let new = sealed(renewed(), JSON);

    assert_eq!(open(renewed(), &old, NOW + 9).unwrap(), JSON);
    assert_eq!(open(renewed(), &new, NOW + 9).unwrap(), JSON);
    assert_eq!(open(renewed(), &old, NOW + 10), Err(OpenError::BadLegacy));
    assert_eq!(open(renewed(), &new, NOW + 10).unwrap(), JSON);
    assert_eq!(open(master(), &new, NOW), Err(OpenError::BadLegacy));

    let mut e2e = member(renewed());
    assert_eq!(e2e.advance(NOW), Some(NOW + 10));
    assert_eq!(e2e.advance(NOW + 10), None);
    assert_eq!(
        e2e.open(topic(TOPIC), &old, false, &plain(), NOW),
        Err(OpenError::BadLegacy),
        "the previous key is erased, so an earlier clock does not bring it back"
    );
}

#[test]
fn only_json_can_be_sealed() {
    let seal = |json: &[u8]| member(master()).seal(topic(TOPIC), json, &plain(), NOW, &mut counter());

    assert_eq!(seal(b"21.5 degrees"), Err(SealError::NotJson));
    assert_eq!(seal(b""), Err(SealError::NotJson));
    assert!(seal(b"21.5").is_ok());
}

#[test]
fn sequence_numbers_go_into_objects_that_have_none() {
    let rows = [
        ("{}", Some(r#"{"seq":7}"#)),
        (r#" { "t" : 1 }"#, Some(r#"{"seq":7, "t" : 1 }"#)),
        (r#"{"seq":1}"#, None),
        ("[]", None),
        ("{", None),
    ];
    for (json, expected) in rows {
        assert_eq!(with_sequence_number(json, 7).ok().as_deref(), expected, "{json}");
    }
    assert_eq!(sequence_number(br#"{"seq":"7"}"#), None);
}

proptest! {
    #[test]
    fn what_is_sealed_opens(text in ".{0,200}", number in any::<i64>(), salt in any::<Vec<u8>>()) {
        let json = json!({ "text": text, "number": number }).to_string();
        let keys = || ArticleKeys::new(ArticleKey::master_with_salt(MASTER, &salt));

        let payload = sealed(keys(), json.as_bytes());

        prop_assert_eq!(payload.len(), 16 + (json.len() / 16 + 1) * 16);
        prop_assert_eq!(open(keys(), &payload, NOW).unwrap(), json.into_bytes());
    }
}

/// Sends requests to the article's own code and returns its answers, or `None` where there is no Node.js.
fn ask_counterpart(requests: &[Value]) -> Option<Vec<Value>> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/article/counterpart.mjs");
    let child = Command::new("node").arg(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            println!("skipped: there is no `node` on this machine");
            return None;
        }
        Err(error) => panic!("cannot run node: {error}"),
    };
    let mut input = child.stdin.take().expect("stdin is a pipe");
    for request in requests {
        writeln!(input, "{request}").expect("node reads its requests");
    }
    drop(input);
    let output = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
    let answers =
        output.lines().map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON")).collect();
    assert!(child.wait().expect("node ends").success());
    Some(answers)
}

/// Values whose JSON text is not obvious: numbers, escapes, Unicode, and every padding length.
fn values() -> Vec<Value> {
    let mut values = vec![
        json!({ "seq": 42, "t": 21.5, "unit": "C" }),
        json!({ "text": "ü✓ \"quoted\"\n", "nested": { "list": [1, -2.5e-7, null, true] } }),
        json!(null),
        json!([]),
    ];
    values.extend((0..33).map(|length| json!("x".repeat(length))));
    values
}

fn request(what: &str, salt: &[u8]) -> Value {
    json!({ "do": what, "master": to_hex(MASTER), "topic": TOPIC, "salt": to_hex(salt) })
}

#[test]
fn the_articles_own_code_decrypts_what_we_seal() {
    for salt in [&b""[..], b"configured salt"] {
        let keys = || ArticleKeys::new(ArticleKey::master_with_salt(MASTER, salt));
        let requests: Vec<Value> = values()
            .iter()
            .map(|value| {
                let mut request = request("decrypt", salt);
                request["payload"] = to_hex(&sealed(keys(), value.to_string().as_bytes())).into();
                request
            })
            .collect();

        let Some(answers) = ask_counterpart(&requests) else { return };

        let expected: Vec<Value> = values().into_iter().map(|data| json!({ "data": data })).collect();
        assert_eq!(answers, expected);
    }
}

#[test]
fn we_open_what_the_articles_own_code_encrypts() {
    for salt in [&b""[..], b"configured salt"] {
        let requests: Vec<Value> = values()
            .into_iter()
            .map(|value| {
                let mut request = request("encrypt", salt);
                request["data"] = value;
                request
            })
            .collect();

        let Some(answers) = ask_counterpart(&requests) else { return };

        assert_eq!(answers.len(), values().len());
        for (answer, expected) in answers.iter().zip(values()) {
            let payload = e2e_support::hex(&answer["payload"]);
            let keys = ArticleKeys::new(ArticleKey::master_with_salt(MASTER, salt));
            let plaintext = open(keys, &payload, NOW).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&plaintext).unwrap(), expected);
        }
    }
}

#[test]
fn the_articles_own_code_refuses_another_key() {
    let mut wrong = request("decrypt", b"another salt");
    wrong["payload"] = to_hex(&sealed(master(), JSON)).into();

    let Some(answers) = ask_counterpart(&[wrong]) else { return };

    assert!(answers[0]["error"].is_string(), "{answers:?}");
}

#[test]
fn keys_follow_each_other_with_a_window_in_which_both_are_accepted() {
    const AT: u64 = 1_790_000_000_000;
    const WINDOW: u64 = 600_000;
    let (old, new) = ([1; 32], [2; 32]);
    let name = topic(TOPIC);
    let scope = || Scope::new(SCOPE).unwrap();
    let rotating = || {
        let mut keys = ArticleKeys::new(ArticleKey::master(&old));
        keys.rotate(ArticleKey::master(&new), AT, WINDOW);
        let mut e2e = E2e::new(unsigned(1), Limits::default());
        e2e.add_scope(ScopeConfig::article(scope(), keys)).unwrap();
        e2e
    };
    let sealed =
        |key: &[u8; 32]| ArticleKeys::new(ArticleKey::master(key)).encrypt(name, b"{}", [3; 16]).unwrap();
    let none = plain();

    for (now, old_opens) in
        [(0, true), (AT - 1, true), (AT, true), (AT + WINDOW - 1, true), (AT + WINDOW, false)]
    {
        for told_of_time in [false, true] {
            let mut e2e = rotating();
            if told_of_time {
                e2e.advance(now);
            }
            assert!(e2e.open(name, &sealed(&new), false, &none, now).is_ok(), "{now}");
            assert_eq!(e2e.open(name, &sealed(&old), false, &none, now).is_ok(), old_opens, "{now}");
        }
        let payload = rotating().seal(name, b"{}", &none, now, &mut |bytes| bytes.fill(3)).unwrap();
        assert_eq!(payload, sealed(if now < AT { &old } else { &new }), "{now}");
    }
}

#[test]
fn numbers_begin_with_the_time_and_leave_what_is_numbered_alone() {
    const NOW: u64 = 1_790_000_000_000;
    let name = topic("a");
    let numbering = ArticleKeys::new(ArticleKey::master(&[1; 32])).numbering();
    let mut e2e = E2e::new(unsigned(1), Limits::default());
    e2e.add_scope(ScopeConfig::article(Scope::new("a").unwrap(), numbering)).unwrap();
    let none = plain();
    let mut text = |json: &str| {
        let sealed = e2e.seal(name, json.as_bytes(), &none, NOW, &mut |bytes| bytes.fill(3)).unwrap();
        String::from_utf8(e2e.open(name, &sealed, false, &none, NOW).unwrap().plaintext).unwrap()
    };

    assert_eq!(text(r#"{"t":1}"#), format!(r#"{{"seq":{NOW},"t":1}}"#));
    assert_eq!(text(r#"{"t":2}"#), format!(r#"{{"seq":{},"t":2}}"#, NOW + 1));
    assert_eq!(text(r#"{"seq":7}"#), r#"{"seq":7}"#);
    assert_eq!(text("21.5"), "21.5");
}
