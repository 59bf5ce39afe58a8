//! The article's format against another implementation of it, with Python's `cryptography`, and on its way through brokers.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;
use veilmq_client::e2e::{
    ArticleKey, ArticleKeys, Authentication, EnvelopeOptions, EpochTiming, Keyring, MasterSecret, Scope,
    ScopeConfig, sequence_number,
};
use veilmq_client::{Builder, Client, Message, QoS, Received, Subscription};
use veilmq_protocol::TopicName;
use veilmq_protocol::veil::channel::Secret32;
use veilmq_tests::carrier::Carrier;
use veilmq_tests::tools::{require_installed, workspace_root};

const SCOPE: &str = "factory/#";
const TOPIC: &str = "factory/line-3/sensor/temperature";
const MASTER: [u8; 32] = [0x42; 32];
const WAIT: Duration = Duration::from_secs(40);

/// Asks the other implementation; one answer for each request. None where it is not installed.
fn ask(requests: &[Value]) -> Option<Vec<String>> {
    let python = require_installed(".venv/bin/python")?;
    let mut command = Command::new(python);
    command.arg(workspace_root().join("tests/interop/article.py"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String = requests.iter().map(|request| format!("{request}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the other implementation fails");
    let answers: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(answers.len(), requests.len());
    Some(answers)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// The kinds of keys there are, each with how the other implementation is told of it.
fn kinds() -> Vec<(ArticleKeys, Value)> {
    let master = || json!({ "master": hex(&MASTER), "salt": "" });
    let salted = json!({ "master": hex(&MASTER), "salt": hex(b"salt of the plant") });
    vec![
        (ArticleKeys::new(ArticleKey::master(&MASTER)), master()),
        (ArticleKeys::new(ArticleKey::master_with_salt(&MASTER, b"salt of the plant")), salted),
        (ArticleKeys::new(ArticleKey::Raw(Secret32::new(&[7; 32]))), json!({ "raw": hex(&[7; 32]) })),
    ]
}

fn request(key: &Value, more: &Value) -> Value {
    let mut request = key.clone();
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

#[test]
fn both_implementations_write_the_same_bytes_and_read_each_other() {
    for (keys, key) in kinds() {
        let (mut requests, mut sealed, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        for length in 0..40_u8 {
            let topic = format!("factory/line-{length}/Öl/druck");
            let text = json!({ "text": "ö".repeat(usize::from(length)) }).to_string();
            let iv = [length; 16];
            let name = TopicName::new(&topic).unwrap();
            let payload = keys.encrypt(name, text.as_bytes(), iv).unwrap();
            requests
                .push(request(&key, &json!({ "op": "seal", "topic": topic, "text": text, "iv": hex(&iv) })));
            requests.push(request(&key, &json!({ "op": "open", "topic": topic, "payload": hex(&payload) })));
            assert_eq!(keys.decrypt(name, &payload, 0).unwrap(), text.as_bytes());
            sealed.push(hex(&payload));
            texts.push(text);
        }

        let Some(answers) = ask(&requests) else { return };

        for (pair, (sealed, text)) in answers.chunks(2).zip(sealed.iter().zip(&texts)) {
            assert_eq!(pair, [sealed.as_str(), text], "{key}");
        }
    }
}

async fn connected(builder: Builder) -> Client {
    timeout(WAIT, builder.connect()).await.unwrap().unwrap()
}

async fn subscribed(client: &Client, filter: &str) -> Subscription {
    timeout(WAIT, client.subscribe(filter).qos(QoS::AtLeastOnce).into_future()).await.unwrap().unwrap()
}

async fn message(messages: &mut Subscription) -> Message {
    match timeout(WAIT, messages.next()).await.expect("something arrives") {
        Some(Received::Message(message)) => message,
        Some(Received::Refused { topic, error }) => panic!("{topic}: {error}"),
        Some(Received::Missed { .. }) | None => panic!("no message"),
    }
}

async fn publish(client: &Client, topic: &str, payload: impl AsRef<[u8]>) {
    let publication = client.publish(topic, payload).qos(QoS::AtLeastOnce);
    timeout(WAIT, publication.send()).await.unwrap().unwrap();
}

fn open(topic: &str, payload: &[u8]) -> Option<String> {
    let key = json!({ "master": hex(&MASTER), "salt": "" });
    ask(&[request(&key, &json!({ "op": "open", "topic": topic, "payload": hex(payload) }))])?.pop()
}

fn carriers() -> impl Iterator<Item = Carrier> {
    [Some(Carrier::veilmq()), Carrier::mosquitto_over_tls()].into_iter().flatten()
}

#[tokio::test]
async fn devices_of_the_article_and_ours_understand_each_other_through_any_broker() {
    let sealed =
        json!({ "op": "seal", "topic": TOPIC, "text": "{\"seq\":1,\"t\":21.5}", "iv": hex(&[9; 16]) });
    let key = json!({ "master": hex(&MASTER), "salt": "" });
    let Some(theirs) = ask(&[request(&key, &sealed)]) else { return };
    for carrier in carriers() {
        let scope = Scope::new(SCOPE).unwrap();
        let keys = ArticleKeys::new(ArticleKey::master(&MASTER)).numbering();
        let ours =
            connected(carrier.client().client_id("ours").scope(ScopeConfig::article(scope, keys))).await;
        let other = connected(carrier.client().client_id("theirs")).await;
        let mut read = subscribed(&ours, SCOPE).await;

        publish(&other, TOPIC, unhex(&theirs[0])).await;
        let opened = message(&mut read).await;
        assert_eq!(opened.payload, &b"{\"seq\":1,\"t\":21.5}"[..]);
        assert_eq!(opened.sealed.unwrap().authentication, Authentication::None);

        let mut seen = subscribed(&other, SCOPE).await;
        for number in 0..2 {
            publish(&ours, TOPIC, format!("{{\"t\":{number}}}")).await;
        }
        let first = open(TOPIC, &message(&mut seen).await.payload).unwrap();
        let second = open(TOPIC, &message(&mut seen).await.payload).unwrap();
        let numbers = [&first, &second].map(|text| sequence_number(text.as_bytes()).unwrap());
        assert_eq!(numbers[0] + 1, numbers[1], "{first} {second}");
        assert!(second.ends_with(",\"t\":1}"), "{second}");
    }
}

#[tokio::test]
async fn while_readers_move_each_reads_the_form_it_knows_and_nobody_reads_twice() {
    if open(TOPIC, &kinds()[0].0.encrypt(TopicName::new(TOPIC).unwrap(), b"{}", [1; 16]).unwrap()).is_none() {
        return;
    }
    for carrier in carriers() {
        let dual = |name: &str| {
            let keyring = Keyring::master(MasterSecret::new(b"the new key"), 1, EpochTiming::default());
            let scope = Scope::new(SCOPE).unwrap();
            let builder = carrier.client().client_id(name);
            let builder = builder.scope(ScopeConfig::envelope(scope, keyring, EnvelopeOptions::default()));
            builder.copy_to_legacy(SCOPE, ArticleKeys::new(ArticleKey::master(&MASTER))).unwrap()
        };
        let (press, lake) = (connected(dual("press")).await, connected(dual("lake")).await);
        let legacy = connected(carrier.client().client_id("legacy")).await;
        let mut new_form = subscribed(&lake, SCOPE).await;
        let copy = format!("{TOPIC}/legacy");
        let mut old_form = subscribed(&legacy, &copy).await;

        for text in ["{\"t\":1}", "{\"t\":2}"] {
            publish(&press, TOPIC, text).await;

            let read = message(&mut new_form).await;
            assert_eq!((read.topic.as_str(), read.payload.as_ref()), (TOPIC, text.as_bytes()));
            assert_eq!(read.sealed.unwrap().authentication, Authentication::Group);
            assert_eq!(open(&copy, &message(&mut old_form).await.payload).as_deref(), Some(text));
        }
    }
}
