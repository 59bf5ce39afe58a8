//! Blind topics through the real broker: it routes, retains and enforces by tokens, and learns no name.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use veilmq_client::e2e::{
    EnvelopeOptions, EpochTiming, GroupKey, Keyring, MasterSecret, Naming, Scope, ScopeConfig,
};
use veilmq_client::{Builder, Client, Message, QoS, Received, Subscription, Will};
use veilmq_tests::broker::Broker;
use veilmq_tests::carrier::{Carrier, contents};
use veilmq_tests::parties::Parties;
use veilmq_tests::search::{holds, text};
use veilmq_tests::tap::Tap;
use veilmq_tests::tools::{built_program, run, workspace_root};
use veilmq_tests::wire::{Wire, connect_packet_v5, publish_packet_v5};

const SCOPE: &str = "brewery/#";
const TOPIC: &str = "brewery/kettle-3/pressure";
const LEVELS: [&str; 5] = ["brewery", "kettle-3", "pressure", "kettle-9", "lastwords"];
/// `veil sub -W` ran out.
const TIMED_OUT: Option<i32> = Some(27);
const NOT_AUTHORIZED: Option<i32> = Some(0x87);
const WAIT: Duration = Duration::from_secs(40);

/// A folder with the key of a scope, and the programs that use it.
struct Kit {
    folder: TempDir,
}

impl Kit {
    fn new() -> Self {
        let kit = Self { folder: tempfile::tempdir().unwrap() };
        kit.succeed(&["key", "new", "key"]);
        kit
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn veil(&self, arguments: &[&str]) -> Output {
        run(Command::new(built_program("veil")).current_dir(self.path()).args(arguments), 60)
    }

    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.veil(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Writes a source and compiles it.
    fn compile(&self, name: &str, source: &str) -> String {
        std::fs::write(self.path().join(name), source).unwrap();
        self.succeed(&["acl", "compile", name, "--master-key", "key"])
    }

    fn wire(&self, name: &str) -> String {
        let shown = self.succeed(&["topic", "blind", name, "--master-key", "key"]);
        shown.split(' ').next().unwrap().to_owned()
    }

    /// Runs `veil pub` or `veil sub` as a user, with blind topics.
    fn exchange(&self, broker: &Broker, command: &str, user: &str, more: &[&str]) -> Output {
        let port = broker.port().to_string();
        let base = [command, "-h", "127.0.0.1", "-p", &port, "-q", "1", "-u", user, "-i", user];
        let keys = ["--scope", SCOPE, "--master-key", "key", "--blind"];
        self.veil(&[&base, keys.as_slice(), more].concat())
    }
}

#[test]
fn neither_packets_nor_files_hold_a_level_of_a_blind_topic_and_filters_work_as_ever() {
    let broker = Broker::start();
    let tap = Tap::start(broker.address());
    let mut parties = Parties::meet(broker, tap);
    let exchange = |parties: &Parties, command: &str, subject: &str, more: &[&str]| {
        parties.exchange(command, subject, "key", SCOPE, &[&["--blind"], more].concat())
    };
    let filters = ["-t", "brewery/+/pressure", "-v"];
    let away = exchange(&parties, "sub", "reader", &[filters.as_slice(), &["-c", "-W", "1"]].concat());
    assert_eq!(away.status.code(), TIMED_OUT, "{}", text(&away.stderr));

    let will = ["--will-topic", "brewery/lastwords", "--will-payload", "gone"];
    let message = ["-t", TOPIC, "-m", "1.5 bar", "--retain"];
    let published = exchange(&parties, "pub", "device", &[message.as_slice(), &will].concat());
    assert!(published.status.success(), "{}", text(&published.stderr));
    parties.broker.kill();

    let files = contents(&parties.broker.data_dir());
    assert!(files.iter().any(|(_, bytes)| holds(bytes, "_vt/0001/")), "the stored message is searched");
    parties.broker.restart();
    let read =
        exchange(&parties, "sub", "reader", &[filters.as_slice(), &["-c", "-C", "1", "-W", "20"]].concat());
    assert_eq!(text(&read.stdout), format!("{TOPIC} 1.5 bar\n"), "{}", text(&read.stderr));
    for filter in [SCOPE, TOPIC, "brewery/+/#", "brewery/kettle-3/+"] {
        let late = exchange(&parties, "sub", "reader", &["-t", filter, "-v", "-C", "1", "-W", "20"]);
        assert_eq!(text(&late.stdout), format!("{TOPIC} 1.5 bar\n"), "{filter}: {}", text(&late.stderr));
    }
    let elsewhere = exchange(&parties, "sub", "reader", &["-t", "brewery/+/level", "-W", "1"]);
    assert_eq!((elsewhere.status.code(), text(&elsewhere.stdout)), (TIMED_OUT, String::new()));

    let captured = parties.tap.captured();
    assert!(holds(&captured, "_vt/0001/"), "the exchange is searched");
    for level in LEVELS {
        assert!(!holds(&captured, level), "{level} passed the wire");
        for (path, bytes) in &files {
            assert!(!holds(bytes, level), "{} holds {level}", path.display());
        }
        assert!(!parties.broker.log().contains(level));
    }
}

#[test]
fn compiled_rules_allow_and_deny_what_they_did_with_real_names() {
    let kit = Kit::new();
    let mosquitto = "# everything of the brewery\nuser ann\ntopic write brewery/+/pressure\ntopic deny brewery/kettle-9/#\n\
user bob\ntopic read brewery/#\n";
    let ours = "[users.ann]\npublish = [\"brewery/+/pressure\"]\ndeny_publish = [\"brewery/kettle-9/#\"]\n\
                [users.bob]\nsubscribe = [\"brewery/#\"]\n";
    for (source, name, option) in [(mosquitto, "acl", "mosquitto_file"), (ours, "acl.toml", "file")] {
        let compiled = kit.compile(&format!("source-{name}"), source);
        for level in LEVELS {
            assert!(!compiled.contains(level), "{compiled}");
        }
        let file = kit.path().join(name);
        std::fs::write(&file, compiled).unwrap();
        let broker = Broker::start_configured(|address| {
            let file = file.display();
            format!(
                "access.anonymous = true\nacl.{option} = \"{file}\"\n[[listeners]]\naddress = \"{address}\"\n"
            )
        });
        let exchange = |command: &str, user: &str, more: &[&str]| kit.exchange(&broker, command, user, more);

        let allowed = exchange("pub", "ann", &["-t", TOPIC, "-m", "1.5", "-r"]);
        assert!(allowed.status.success(), "{name}: {}", text(&allowed.stderr));
        for denied in ["brewery/kettle-9/pressure", "brewery/kettle-3/level"] {
            let refused = exchange("pub", "ann", &["-t", denied, "-m", "1.5", "-r"]);
            assert!(text(&refused.stderr).contains("Not authorized"), "{denied}: {}", text(&refused.stderr));
        }
        let read = exchange("sub", "bob", &["-t", SCOPE, "-v", "-C", "1", "-W", "20"]);
        assert_eq!(text(&read.stdout), format!("{TOPIC} 1.5\n"), "{}", text(&read.stderr));
        let refused = exchange("sub", "ann", &["-t", TOPIC, "-C", "1", "-W", "20"]);
        assert_eq!(refused.status.code(), NOT_AUTHORIZED, "{}", text(&refused.stderr));
        let foreign = exchange("pub", "bob", &["-t", TOPIC, "-m", "1.5"]);
        assert!(!foreign.status.success());
    }
}

#[test]
fn a_policy_over_compiled_filters_keeps_plaintext_away() {
    let kit = Kit::new();
    let policies = kit.compile(
        "policies.toml",
        "[[e2e.policies]]\nname = \"one kettle\"\ntopics = \"brewery/kettle-3/#\"\nscope = \"brewery/#\"\nsender_binding = false\n",
    );
    let broker = Broker::start_configured(|address| {
        format!("access.anonymous = true\n[[listeners]]\naddress = \"{address}\"\n{policies}")
    });
    let (wire, other) = (kit.wire(TOPIC), kit.wire("brewery/kettle-9/pressure"));
    let mut stranger = Wire::open(broker.address());
    stranger.send(&connect_packet_v5("stranger", 0)).unwrap();
    assert_eq!(stranger.packet().unwrap().body[1], 0);
    let mut code = |topic: &str, payload: &[u8]| {
        stranger.send(&publish_packet_v5(topic, 1, 1, payload)).unwrap();
        stranger.packet().unwrap().body.get(2).copied().unwrap_or(0)
    };

    assert_eq!(code(&wire, b"1.5 bar"), 0x99);
    assert_eq!(code(&other, b"1.5 bar"), 0x10, "the policy is for one kettle");
    let rejected = "veilmq_e2e_rejected_total{policy=\"one kettle\",reason=\"plaintext\"}";
    assert_eq!(broker.metric(rejected), Some(1.0));

    let sealed = kit.exchange(&broker, "pub", "ann", &["-t", TOPIC, "-m", "1.5", "-r"]);
    assert!(sealed.status.success(), "{}", text(&sealed.stderr));
    let read =
        kit.exchange(&broker, "sub", "bob", &["-t", "brewery/kettle-3/+", "-v", "-C", "1", "-W", "20"]);
    assert_eq!(text(&read.stdout), format!("{TOPIC} 1.5\n"), "{}", text(&read.stderr));
    // An envelope under the name of the scope itself belongs to another one.
    let port = broker.port().to_string();
    let base = ["pub", "-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", &wire, "-m", "x"];
    let foreign = kit.veil(&[&base, ["--scope", "_vt/#", "--master-key", "key"].as_slice()].concat());
    assert!(!foreign.status.success(), "{}", text(&foreign.stderr));
}

#[test]
fn no_source_of_the_broker_makes_tokens() {
    let holds_label = |folder: &str| {
        let files = contents(&workspace_root().join(folder));
        assert!(files.len() > 10, "{folder} is searched");
        files.iter().any(|(_, bytes)| holds(bytes, "veil1 level"))
    };

    for folder in ["protocol/src", "config/src", "broker/src", "broker/core/src", "broker/bridge/src"] {
        assert!(!holds_label(folder), "{folder} derives tokens, for which it would need a topic key");
    }
    assert!(holds_label("client-sdk/src"), "the label is the one in use");
}

/// Names of epoch 1, with short times.
fn naming() -> Arc<Naming> {
    let timing = EpochTiming { clock_skew_ms: 1_500, transition_window_ms: 2_500, history_ms: 60_000 };
    let mut keys = Keyring::explicit(timing);
    keys.insert(1, GroupKey::new(&[1; 32]), 0).unwrap();
    Arc::new(Naming::new("plant-7", keys).unwrap())
}

fn member(carrier: &Carrier, name: &str, naming: &Arc<Naming>) -> Builder {
    let keyring = Keyring::master(MasterSecret::new(b"known to every member"), 1, EpochTiming::default());
    let scope = ScopeConfig::envelope(Scope::new(SCOPE).unwrap(), keyring, EnvelopeOptions::default());
    carrier.client().client_id(name).scope(scope).blind(SCOPE, Arc::clone(naming)).unwrap()
}

async fn subscribe(client: &Client, filter: &str) -> Subscription {
    client.subscribe(filter).qos(QoS::AtLeastOnce).await.unwrap()
}

async fn publish(client: &Client, topic: &str, payload: &str, retain: bool) {
    client.publish(topic, payload).qos(QoS::AtLeastOnce).retain(retain).send().await.unwrap();
}

async fn message(messages: &mut Subscription) -> Message {
    match timeout(WAIT, messages.next()).await.expect("something arrives").expect("the client is open") {
        Received::Message(message) => message,
        Received::Refused { topic, error } => panic!("{topic} was refused: {error}"),
        Received::Missed { count } => panic!("{count} messages were missed"),
    }
}

fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

async fn names_change(carrier: Carrier) {
    let naming = naming();
    let press = member(&carrier, "press", &naming).connect().await.unwrap();
    let lake = member(&carrier, "lake", &naming).connect().await.unwrap();
    let meddler = carrier.client().client_id("meddler").connect().await.unwrap();
    let mut seen = subscribe(&meddler, "plant-7/#").await;
    let mut messages = subscribe(&lake, "brewery/+/pressure").await;
    publish(&press, TOPIC, "first", true).await;
    assert_eq!(&*message(&mut messages).await.payload, b"first");
    let first_name = message(&mut seen).await.topic;
    assert!(first_name.starts_with("plant-7/_vt/0001/"), "{first_name}");

    naming.insert(2, GroupKey::new(&[2; 32]), unix_ms() + 2_000).unwrap();
    publish(&press, TOPIC, "second", true).await;
    assert_eq!(&*message(&mut messages).await.payload, b"second");
    assert_eq!(message(&mut seen).await.topic, first_name);

    // What was retained moves to the new name by itself: sealed anew there, and cleared under the old one.
    let refreshed = message(&mut messages).await;
    assert_eq!((refreshed.topic.as_str(), &*refreshed.payload), (TOPIC, b"second".as_slice()));
    let moved = message(&mut seen).await;
    assert!(moved.topic.starts_with("plant-7/_vt/0002/"), "{}", moved.topic);
    let cleared = message(&mut seen).await;
    assert_eq!((cleared.topic, cleared.payload.len()), (first_name.clone(), 0));
    publish(&press, TOPIC, "third", true).await;
    assert_eq!(&*message(&mut messages).await.payload, b"third");
    assert_eq!(message(&mut seen).await.topic, moved.topic);

    sleep(Duration::from_secs(3)).await;
    let mut late = subscribe(&lake, TOPIC).await;
    let retained = message(&mut late).await;
    assert_eq!((retained.topic.as_str(), &*retained.payload), (TOPIC, b"third".as_slice()));
    // Nobody listens to the old name any more, and nothing is left there.
    publish(&meddler, &first_name, "an old name", false).await;
    publish(&press, TOPIC, "fourth", false).await;
    assert_eq!(&*message(&mut late).await.payload, b"fourth");
}

#[tokio::test]
async fn names_change_while_clients_are_connected() {
    names_change(Carrier::veilmq()).await;
}

#[tokio::test]
async fn names_change_while_clients_are_connected_to_mosquitto() {
    let Some(carrier) = Carrier::mosquitto_over_tls() else { return };
    names_change(carrier).await;
}

#[tokio::test]
async fn shared_subscriptions_and_wills_work_with_blind_topics() {
    let carrier = Carrier::veilmq();
    let naming = naming();
    let press = member(&carrier, "press", &naming).connect().await.unwrap();
    let (one, two) = (member(&carrier, "one", &naming), member(&carrier, "two", &naming));
    let (one, two) = (one.connect().await.unwrap(), two.connect().await.unwrap());
    let mut first = subscribe(&one, "$share/readers/brewery/#").await;
    let mut second = subscribe(&two, "$share/readers/brewery/#").await;
    for number in 0..10 {
        publish(&press, &format!("brewery/kettle-{number}/pressure"), "x", false).await;
    }
    let mut topics = Vec::new();
    while topics.len() < 10 {
        let received = timeout(WAIT, async {
            tokio::select! { received = first.next() => received, received = second.next() => received }
        });
        let Some(Received::Message(message)) = received.await.unwrap() else {
            panic!("a message is refused")
        };
        topics.push(message.topic);
    }
    topics.sort();
    let expected: Vec<String> = (0..10).map(|number| format!("brewery/kettle-{number}/pressure")).collect();
    assert_eq!(topics, expected, "each of them once");

    let mut wills = subscribe(&press, "brewery/lastwords").await;
    let will = Will::new("brewery/lastwords", "gone").qos(QoS::AtLeastOnce);
    let doomed = member(&carrier, "doomed", &naming).will(will).connect().await.unwrap();
    doomed.disconnect_with_will().await.unwrap();
    let will = message(&mut wills).await;
    assert_eq!((will.topic.as_str(), &*will.payload), ("brewery/lastwords", b"gone".as_slice()));

    let plainly = press.publish_plain(TOPIC, "x").send().await;
    assert!(plainly.is_err(), "nothing leaves in the clear under a real name");
    let wire = naming.topic(veilmq_client::TopicName::new(TOPIC).unwrap(), unix_ms()).unwrap();
    let wire_name = press.publish(&wire, "x").send().await;
    assert!(wire_name.is_err(), "nor under a blind one");
    drop((first, second));
}
