//! Who is honest in these tests: an authority, a publisher called press and a subscriber called lake, with the SDK's client.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use veilmq_client::e2e::{
    Directory, EnvelopeOptions, EpochTiming, GroupKey, Keyring, OpenError, Provenance, Scope, ScopeConfig,
};
use veilmq_client::{Builder, Client, QoS, Received, Subscription, identity};
use veilmq_protocol::veil::Roles;
use veilmq_protocol::veil::channel::{Identity, TrustAnchors, hash};
use veilmq_tests::broker::Broker;
use veilmq_tests::members::{self, anchors};

use crate::proxy::{Carried, Proxy};

pub(crate) const SCOPE: &str = "factory/#";
pub(crate) const TOPIC: &str = "factory/line-3/temperature";
/// What press says last.
const END: &str = "that is all";
const WAIT: Duration = Duration::from_secs(30);
/// The epoch of the group key.
pub(crate) const EPOCH: u32 = 7;

/// A party that the authority certified for [`SCOPE`].
pub(crate) fn identity_of(name: &str, roles: Roles) -> Arc<Identity> {
    members::identity(name, roles, &[SCOPE])
}

pub(crate) fn press() -> Arc<Identity> {
    identity_of("press", Roles::PUBLISHER)
}

pub(crate) fn lake() -> Arc<Identity> {
    identity_of("lake", Roles::PUBLISHER | Roles::SUBSCRIBER)
}

pub(crate) fn group_key() -> [u8; 32] {
    hash(&[b"the group's key"])
}

/// The scope under a group key.
pub(crate) fn scope(key: [u8; 32], options: EnvelopeOptions) -> ScopeConfig {
    let mut keyring = Keyring::explicit(EpochTiming::default());
    keyring.insert(EPOCH, GroupKey::new(&key), 0).unwrap();
    ScopeConfig::envelope(Scope::new(SCOPE).unwrap(), keyring, options)
}

/// Messages carry a source signature, and lake demands it.
pub(crate) fn signed() -> EnvelopeOptions {
    EnvelopeOptions { sign: true, require_signature: true, ..EnvelopeOptions::default() }
}

pub(crate) fn builder(address: SocketAddr, identity: Arc<Identity>) -> Builder {
    Client::builder("127.0.0.1", address.port()).identity(identity).reconnect(false)
}

/// A broker that trusts the authority, and what clients know it by: the file with its certificate.
pub(crate) fn channel_broker() -> (Broker, TrustAnchors, String) {
    let directory = tempfile::tempdir().unwrap().keep();
    let trusted = directory.join("authority.vmc");
    identity::save_certificate(&trusted, anchors().iter().next().unwrap()).unwrap();
    let broker = Broker::start_configured(|address| {
        format!(
            "[[listeners]]\naddress = \"{address}\"\n[veil]\ntrust = [\"{}\"]\n\
             schemes = [\"scheme-4\", \"scheme-3\", \"scheme-2\"]\n",
            trusted.display()
        )
    });
    let (anchors, name) = known_by(&broker.data_dir().join("identity/broker.vmc"));
    (broker, anchors, name)
}

fn known_by(file: &Path) -> (TrustAnchors, String) {
    (identity::load_anchors([file]).unwrap(), identity::load_certificate(file).unwrap().subject.clone())
}

/// What lake was told of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Its text, and how many are missing before it.
    Text(String, u32),
    Refused(OpenError),
}

/// Press publishes through an honest broker; what lake gets of it passes through the adversary's hands.
pub(crate) struct Scene {
    _broker: Broker,
    pub(crate) proxy: Proxy,
    press: Client,
    _lake: Client,
    messages: Subscription,
}

impl Scene {
    pub(crate) async fn start(change: impl FnMut(Carried) -> Vec<Carried> + Send + 'static) -> Self {
        Self::start_with(EnvelopeOptions::default(), group_key(), change).await
    }

    /// The same with other options, and with a subscriber that has `key`.
    pub(crate) async fn start_with(
        options: EnvelopeOptions,
        key: [u8; 32],
        mut change: impl FnMut(Carried) -> Vec<Carried> + Send + 'static,
    ) -> Self {
        let broker = Broker::start();
        let proxy = Proxy::changing_messages(broker.address(), move |carried| {
            // The adversary leaves the end alone, so that a test knows when lake has heard everything.
            if carried.topic.ends_with("/end") { vec![carried] } else { change(carried) }
        });
        let press = builder(broker.address(), press()).without_channel();
        let press = press.scope(scope(group_key(), options.clone())).connect().await.unwrap();
        let mut directory = Directory::default();
        directory.introduce(self::press().certificate().clone(), &anchors(), unix_ms()).unwrap();
        let lake = builder(proxy.address(), lake()).without_channel().directory(directory);
        let lake = lake.scope(scope(key, options)).connect().await.unwrap();
        let messages = lake.subscribe(SCOPE).and("end/#").await.unwrap();
        Self { _broker: broker, proxy, press, _lake: lake, messages }
    }

    pub(crate) async fn say(&self, text: &str) {
        self.say_on(TOPIC, text).await;
    }

    pub(crate) async fn say_on(&self, topic: &str, text: &str) {
        self.press.publish(topic, text).qos(QoS::AtLeastOnce).send().await.unwrap();
    }

    /// Everything that lake hears until press has nothing more to say.
    pub(crate) async fn heard(&mut self) -> Vec<Heard> {
        self.press.publish_plain("end/end", END).qos(QoS::AtLeastOnce).send().await.unwrap();
        let mut heard = Vec::new();
        loop {
            match timeout(WAIT, self.messages.next()).await.expect("lake hears the end").unwrap() {
                Received::Message(message) if message.topic == "end/end" => return heard,
                Received::Message(message) => {
                    let text = String::from_utf8(message.payload.to_vec()).unwrap();
                    let gap = match message.sealed.unwrap().provenance {
                        Provenance::Envelope(origin) => origin.gap,
                        other => panic!("{other:?}"),
                    };
                    heard.push(Heard::Text(text, gap));
                }
                Received::Refused { error, .. } => heard.push(Heard::Refused(error)),
                other => panic!("{}", matches!(other, Received::Missed { .. })),
            }
        }
    }
}

pub(crate) fn text(text: &str) -> Heard {
    Heard::Text(text.to_owned(), 0)
}

pub(crate) fn unix_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

/// Runs a test of asynchronous clients.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { timeout(3 * WAIT, test).await.expect("the test ends in time") });
}
