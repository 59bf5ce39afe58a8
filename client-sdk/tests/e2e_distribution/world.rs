//! A world for key distribution: an authority, parties with identities, and a broker that only keeps retained messages.

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use veilmq_client::e2e::{
    E2e, EnvelopeOptions, Limits, Member, OpenError, Opened, Scope, SenderPolicy,
    distribution::{Distribution, IssuePolicy, KeyEvent, Outgoing},
};
use veilmq_protocol::{
    PublishProperties, TopicFilter, TopicName,
    veil::{
        Certificate, CertificateFields, Kid, Roles,
        channel::{Identity, IdentityKeys, TrustAnchors, hash},
        distribution::{Crl, CrlFields, RevocationReason, Revoked},
    },
};

pub(crate) const SCOPE: &str = "factory/#";
pub(crate) const TOPIC: &str = "factory/line-3/t";
/// Unix milliseconds at which everything begins.
pub(crate) const START: u64 = 1_790_000_000_000;
pub(crate) const SECOND: u64 = 1_000;
pub(crate) const DAY: u64 = 24 * 3_600 * SECOND;

/// Randomness that is the same in every run and never repeats within one.
pub(crate) fn entropy() -> impl FnMut(&mut [u8]) {
    thread_local!(static COUNTER: Cell<u64> = const { Cell::new(0) });
    |bytes| {
        for chunk in bytes.chunks_mut(32) {
            let count = COUNTER.with(|counter| counter.replace(counter.get() + 1));
            let block = hash(&[b"entropy of the test world", &count.to_be_bytes()]);
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

fn keys(name: &str) -> IdentityKeys {
    let seed = |purpose: &str| hash(&[name.as_bytes(), purpose.as_bytes()]);
    IdentityKeys::from_seeds(&seed("ed25519"), &seed("x25519"))
}

fn fields(keys: &IdentityKeys, roles: Roles, name: &str) -> CertificateFields {
    let [a, b, c, d, e, f, g, h, ..] = hash(&[b"serial", name.as_bytes()]);
    CertificateFields {
        roles,
        serial: u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        not_before: 0,
        not_after: u64::MAX,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: name.to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    }
}

fn root() -> Certificate {
    fields(&keys("root"), Roles::CA, "root").sign(&keys("root")).unwrap()
}

pub(crate) fn anchors() -> TrustAnchors {
    let mut anchors = TrustAnchors::new();
    anchors.add(root()).unwrap();
    anchors
}

/// An authority below the root, and an identity that it has certified for the scope.
pub(crate) fn below(authority: &str, name: &str) -> (Arc<Identity>, Arc<Identity>) {
    let signing = keys(authority);
    let issuing = fields(&signing, Roles::CA, authority).sign(&keys("root")).unwrap();
    let own = keys(name);
    let mut fields = fields(&own, Roles::SUBSCRIBER, name);
    fields.subscribe_scopes = vec![SCOPE.to_owned()];
    let certificate = fields.sign(&signing).unwrap();
    let issuing = Identity::new(issuing, signing).unwrap();
    (Arc::new(issuing), Arc::new(Identity::new(certificate, own).unwrap()))
}

/// The same identity with a certificate of another number.
pub(crate) fn renewed(identity: &Identity) -> Arc<Identity> {
    let name = &identity.certificate().subject;
    let fields = CertificateFields {
        roles: identity.certificate().roles,
        publish_scopes: identity.certificate().publish_scopes.clone(),
        subscribe_scopes: identity.certificate().subscribe_scopes.clone(),
        serial: identity.certificate().serial ^ 1,
        not_before: 1,
        ..fields(&keys(name), Roles::NONE, name)
    };
    Arc::new(Identity::new(fields.sign(&keys("root")).unwrap(), keys(name)).unwrap())
}

/// An identity with these roles for these scopes.
pub(crate) fn identity(name: &str, roles: Roles, scopes: &[&str]) -> Arc<Identity> {
    let keys = keys(name);
    let scopes: Vec<String> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    let mut fields = fields(&keys, roles, name);
    if roles.intersects(Roles::PUBLISHER | Roles::KEY_AUTHORITY) {
        fields.publish_scopes.clone_from(&scopes);
    }
    if roles.contains(Roles::SUBSCRIBER) {
        fields.subscribe_scopes = scopes;
    }
    let certificate = fields.sign(&self::keys("root")).unwrap();
    Arc::new(Identity::new(certificate, keys).unwrap())
}

/// The list of what the root has revoked.
pub(crate) fn crl(number: u64, revoked: &[&Identity], reason: RevocationReason) -> Crl {
    let mut revoked: Vec<Revoked> =
        revoked.iter().map(|identity| Revoked { serial: identity.certificate().serial, reason }).collect();
    revoked.sort_by_key(|entry| entry.serial);
    let fields = CrlFields { number, this_update: 0, next_update: u64::MAX, issuer: root(), revoked };
    fields.sign(&keys("root")).unwrap()
}

pub(crate) fn crl_topic() -> String {
    format!("_veil/1/crl/{}", root().kid())
}

pub(crate) fn scope() -> Scope {
    Scope::new(SCOPE).unwrap()
}

/// What messages of the scope must look like for a member.
pub(crate) fn options() -> EnvelopeOptions {
    EnvelopeOptions { senders: SenderPolicy::Known, ..EnvelopeOptions::default() }
}

/// Keeps retained messages, and a record of the others.
#[derive(Default)]
pub(crate) struct Broker {
    pub(crate) retained: BTreeMap<String, Vec<u8>>,
    /// What was published and not retained, oldest first.
    pub(crate) passing: Vec<(String, Vec<u8>)>,
}

impl Broker {
    pub(crate) fn publish(&mut self, messages: Vec<Outgoing>) {
        for Outgoing { topic, payload, retain, .. } in messages {
            if !retain {
                self.passing.push((topic, payload));
            } else if payload.is_empty() {
                self.retained.remove(&topic);
            } else {
                self.retained.insert(topic, payload);
            }
        }
    }

    /// The only retained message below `prefix`.
    pub(crate) fn only(&self, prefix: &str) -> (String, Vec<u8>) {
        let mut found = self.retained.iter().filter(|(topic, _)| topic.starts_with(prefix));
        let (topic, payload) = found.next().unwrap();
        assert!(found.next().is_none(), "several below {prefix}");
        (topic.clone(), payload.clone())
    }
}

/// A program with an identity.
pub(crate) struct Party {
    pub(crate) identity: Arc<Identity>,
    pub(crate) e2e: E2e,
    pub(crate) keys: Distribution,
    /// What it subscribed to when it was there last.
    filters: Vec<String>,
}

impl Party {
    fn new(identity: Arc<Identity>) -> Self {
        let e2e = E2e::new(Member::Identity(Arc::clone(&identity)), Limits::default());
        let keys = Distribution::new(Arc::clone(&identity), anchors());
        Self { identity, e2e, keys, filters: Vec::new() }
    }

    /// A publisher that issues the keys for what it sends.
    pub(crate) fn publisher(name: &str, policy: IssuePolicy) -> Self {
        Self::issuing(identity(name, Roles::PUBLISHER, &[SCOPE]), policy)
    }

    pub(crate) fn issuing(identity: Arc<Identity>, policy: IssuePolicy) -> Self {
        Self::issuing_to(anchors(), identity, policy)
    }

    /// An issuer that believes these authorities.
    pub(crate) fn issuing_to(anchors: TrustAnchors, identity: Arc<Identity>, policy: IssuePolicy) -> Self {
        let mut party = Self::new(identity);
        party.keys = Distribution::new(Arc::clone(&party.identity), anchors);
        party.keys.issue(&mut party.e2e, scope(), options(), policy).unwrap();
        party
    }

    /// A subscriber whose certificate names the scope.
    pub(crate) fn subscriber(name: &str) -> Self {
        Self::joining(identity(name, Roles::SUBSCRIBER, &[SCOPE]))
    }

    pub(crate) fn joining(identity: Arc<Identity>) -> Self {
        Self::joining_with(identity, options())
    }

    pub(crate) fn joining_with(identity: Arc<Identity>, options: EnvelopeOptions) -> Self {
        let mut party = Self::new(identity);
        party.keys.join(&mut party.e2e, scope(), options).unwrap();
        party
    }

    /// A publisher that gives each subscriber a key of its own.
    pub(crate) fn giving_pairs(identity: Arc<Identity>, policy: IssuePolicy) -> Self {
        let mut party = Self::new(identity);
        party.keys.issue_pairs(&mut party.e2e, options(), policy).unwrap();
        party
    }

    /// A subscriber that gets messages of its own from a publisher.
    pub(crate) fn paired(identity: Arc<Identity>, publisher: Kid) -> Self {
        let mut party = Self::new(identity);
        party.keys.join_pair(&mut party.e2e, publisher, options()).unwrap();
        party
    }

    /// The same program, started again from what it had saved.
    pub(crate) fn restarted(self, again: impl FnOnce(Arc<Identity>) -> Self) -> Self {
        let saved = self.keys.export(&self.e2e);
        let mut party = again(Arc::clone(&self.identity));
        party.keys.import(&mut party.e2e, &saved, &mut entropy()).unwrap();
        party
    }

    pub(crate) fn kid(&self) -> Kid {
        self.identity.kid()
    }

    pub(crate) fn certificate(&self) -> Certificate {
        self.identity.certificate().clone()
    }

    /// Connects for a moment: receives what is retained, then publishes what is due.
    pub(crate) fn visit(&mut self, broker: &mut Broker, now: u64) -> Vec<KeyEvent> {
        let filters = self.keys.filters();
        let is_told = self.keys.take_filters_changed();
        assert!(is_told || filters == self.filters, "other filters that nobody was told of: {filters:?}");
        self.filters.clone_from(&filters);
        let wanted = |topic: &str| {
            let topic = TopicName::new(topic).unwrap();
            filters.iter().any(|filter| TopicFilter::new(filter).unwrap().matches(topic))
        };
        self.keys.connected();
        self.keys.advance(&mut self.e2e, now, &mut entropy());
        for (topic, payload) in broker.retained.clone() {
            if wanted(&topic) {
                self.keys.handle(&mut self.e2e, &topic, &payload, now, &mut entropy());
            }
        }
        self.keys.all_is_heard();
        broker.publish(self.keys.outgoing(now, &mut entropy()));
        self.keys.announced(&mut self.e2e);
        self.keys.take_events()
    }

    /// Hands one message to this party.
    pub(crate) fn hear(&mut self, (topic, payload): &(String, Vec<u8>), now: u64) -> Vec<KeyEvent> {
        self.keys.handle(&mut self.e2e, topic, payload, now, &mut entropy());
        self.keys.take_events()
    }

    pub(crate) fn seal(&mut self, now: u64) -> Vec<u8> {
        let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
        self.e2e.seal(topic, b"21.5", &none, now, &mut entropy()).unwrap()
    }

    pub(crate) fn open(&mut self, payload: &[u8], now: u64) -> Result<Opened, OpenError> {
        let (topic, none) = (TopicName::new(TOPIC).unwrap(), PublishProperties::default());
        self.e2e.open(topic, payload, false, &none, now)
    }

    pub(crate) fn reads(&mut self, payload: &[u8], now: u64) -> bool {
        self.open(payload, now).is_ok_and(|opened| opened.plaintext == b"21.5")
    }
}
