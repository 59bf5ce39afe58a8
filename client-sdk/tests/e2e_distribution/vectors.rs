//! The online join against another implementation, `data/join.py`, which was written from the text alone (VEIL-1 section 9.1).

use std::sync::Arc;

use serde_json::Value;
use veilmq_client::e2e::{
    Authentication, E2e, EnvelopeOptions, Limits, Member, Scope,
    distribution::{Admission, Distribution, IssuePolicy, JoinError, KeyEvent},
};
use veilmq_protocol::{
    PublishProperties, TopicName,
    veil::{
        Certificate, CertificateFields, Kid, Roles,
        channel::{Identity, IdentityKeys, TrustAnchors, hash},
        distribution::Pair,
        hello::JoinStatus,
    },
};

use super::world::entropy;

const NOW: u64 = 1_790_000_300_000;
const SCOPE: &str = "factory/line-3/#";

fn bytes(part: &str, name: &str) -> Vec<u8> {
    let vectors: Value = serde_json::from_str(include_str!("../data/veil1-join-vectors.json")).unwrap();
    let text = vectors[part][name].as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn seed(name: &str) -> [u8; 32] {
    hash(&[b"veil1 test seed ", name.as_bytes()])
}

fn trust() -> TrustAnchors {
    let keys = IdentityKeys::from_seeds(&seed("ca"), &seed("ca x"));
    let fields = CertificateFields {
        roles: Roles::CA,
        serial: 1,
        not_before: 0,
        not_after: u64::MAX,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: "ca".to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    };
    let mut anchors = TrustAnchors::new();
    anchors.add(fields.sign(&keys).unwrap()).unwrap();
    anchors
}

/// Randomness that is drawn from these seeds, one after the other, and no more.
fn drawing(names: &[&str]) -> impl FnMut(&mut [u8]) {
    let mut seeds: Vec<[u8; 32]> = names.iter().rev().map(|name| seed(name)).collect();
    move |out| out.copy_from_slice(&seeds.pop().expect("no more is drawn")[..out.len()])
}

/// The issuer of the vectors, whose first key is in use and whose members are named, after it has heard the request: the
/// certificate in it has no scopes, and admits to none.
struct Answering {
    e2e: E2e,
    keys: Distribution,
}

impl Answering {
    fn after_the_request(admitted: Option<Certificate>) -> Self {
        let keys = IdentityKeys::from_seeds(&seed("pub ed"), &seed("pub x"));
        let certificate = Certificate::parse(&bytes("common", "cert_p")).unwrap();
        let issuer = Arc::new(Identity::new(certificate, keys).unwrap());
        let mut e2e = E2e::new(Member::Identity(Arc::clone(&issuer)), Limits::default());
        let mut keys = Distribution::new(issuer, trust());
        let policy = IssuePolicy { admission: Admission::Named, ..IssuePolicy::default() };
        let scope = Scope::new(SCOPE).unwrap();
        keys.issue(&mut e2e, scope.clone(), EnvelopeOptions::default(), policy).unwrap();
        // An issuer is a member too, with a prekey of its own.
        let mut draw = drawing(&["prekey", "group key"]);
        keys.advance(&mut e2e, NOW, &mut draw);
        keys.outgoing(NOW, &mut draw);
        keys.announced(&mut e2e);
        if let Some(member) = admitted {
            assert_eq!(keys.admit(&scope, member, NOW, &mut draw), Ok(true));
        }
        let mut answering = Self { e2e, keys };
        answering.hears(&bytes("common", "request"), &["join np", "join eph p"]);
        answering
    }

    fn hears(&mut self, payload: &[u8], drawn: &[&str]) {
        let issuer = Certificate::parse(&bytes("common", "cert_p")).unwrap().kid();
        let topic = format!("_veil/1/jn/{issuer}");
        self.keys.handle(&mut self.e2e, &topic, payload, NOW + 20, &mut drawing(drawn));
    }

    /// What the issuer has answered.
    fn response(&mut self) -> Vec<u8> {
        let outgoing = self.keys.outgoing(NOW + 20, &mut drawing(&[]));
        self.keys.announced(&mut self.e2e);
        let member = Certificate::parse(&bytes("common", "cert_s")).unwrap().kid();
        let answers: Vec<_> =
            outgoing.into_iter().filter(|message| message.topic == format!("_veil/1/jr/{member}")).collect();
        assert_eq!(answers.len(), 1);
        answers[0].payload.clone()
    }
}

/// The member of the vectors after it has asked, and what it asked.
struct Asked {
    e2e: E2e,
    keys: Distribution,
    issuer: Kid,
    request: Vec<u8>,
}

fn asked() -> Asked {
    let scope = Scope::new(SCOPE).unwrap();
    asked_for(&scope, |keys, e2e, _| keys.join(e2e, scope.clone(), EnvelopeOptions::default()).unwrap())
}

fn asked_for(scope: &Scope, join: impl FnOnce(&mut Distribution, &mut E2e, Kid)) -> Asked {
    let keys = IdentityKeys::from_seeds(&seed("sub ed"), &seed("sub x"));
    let certificate = Certificate::parse(&bytes("common", "cert_s")).unwrap();
    let member = Arc::new(Identity::new(certificate, keys).unwrap());
    let mut e2e = E2e::new(Member::Identity(Arc::clone(&member)), Limits::default());
    let mut keys = Distribution::new(member, trust());
    let issuer = Certificate::parse(&bytes("common", "cert_p")).unwrap().kid();
    join(&mut keys, &mut e2e, issuer);
    let request =
        keys.ask_with_connect(scope, issuer, NOW, &mut drawing(&["join ns", "join eph s"])).unwrap();
    Asked { e2e, keys, issuer, request }
}

impl Asked {
    /// What the member says to a response.
    fn hears(&mut self, response: &[u8]) -> Vec<KeyEvent> {
        self.keys.handle_connack(&mut self.e2e, JoinStatus::Done, response, NOW);
        self.keys.take_events()
    }
}

#[test]
fn a_member_makes_and_takes_the_bytes_of_another_implementation() {
    let mut asked = asked();
    assert_eq!(asked.request, bytes("common", "request"));

    let events = asked.hears(&bytes("group", "response"));

    // The head commits to the key, so that no other would do.
    assert_eq!(events, [KeyEvent::Installed { scope: SCOPE.to_owned(), issuer: asked.issuer, epoch: 1 }]);
    let outgoing = asked.keys.outgoing(NOW, &mut entropy());
    assert_eq!(outgoing[0].payload, bytes("group", "finish"));
    assert_eq!(outgoing[0].topic, format!("_veil/1/jn/{}", asked.issuer));
}

#[test]
fn an_issuer_makes_and_takes_the_bytes_of_another_implementation() {
    let certificate = Certificate::parse(&bytes("common", "cert_s")).unwrap();
    let member = certificate.kid();
    let mut answering = Answering::after_the_request(Some(certificate));

    assert_eq!(answering.response(), bytes("group", "response"));

    answering.keys.take_events();
    let mut changed = bytes("group", "finish");
    changed[10] ^= 1;
    answering.hears(&changed, &[]);
    let events = answering.keys.take_events();
    assert!(matches!(&*events, [KeyEvent::RequestRefused { .. }]), "{events:?}");
    answering.hears(&bytes("group", "finish"), &[]);
    assert_eq!(answering.keys.take_events(), [KeyEvent::Joined { scope: SCOPE.to_owned(), member }]);
}

#[test]
fn an_issuer_refuses_in_the_bytes_of_another_implementation() {
    let mut answering = Answering::after_the_request(None);

    assert_eq!(answering.response(), bytes("refusal", "response"));
}

#[test]
fn a_pair_comes_to_the_key_of_another_implementation_and_opens_what_that_has_sealed() {
    let (publisher, subscriber) = ("cert_p", "cert_s");
    let kid = |name| Certificate::parse(&bytes("common", name)).unwrap().kid();
    let pair = Pair { publisher: kid(publisher), subscriber: kid(subscriber) };
    let scope = Scope::new(&pair.to_string()).unwrap();
    let options = EnvelopeOptions { require_signature: true, ..EnvelopeOptions::default() };
    let mut asked = asked_for(&scope, |keys, e2e, issuer| keys.join_pair(e2e, issuer, options).unwrap());
    assert_eq!(asked.request, bytes("pair", "request"));

    let events = asked.hears(&bytes("pair", "response"));

    let epoch = u32::try_from(NOW / 1_000).unwrap();
    assert_eq!(events, [KeyEvent::Installed { scope: pair.to_string(), issuer: asked.issuer, epoch }]);
    let outgoing = asked.keys.outgoing(NOW, &mut entropy());
    assert_eq!(outgoing[0].payload, bytes("pair", "finish"));
    let topic = String::from_utf8(bytes("pair", "topic")).unwrap();
    let (topic, none) = (TopicName::new(&topic).unwrap(), PublishProperties::default());
    let opened = asked.e2e.open(topic, &bytes("pair", "message"), false, &none, NOW).unwrap();
    assert_eq!(
        (opened.plaintext.as_slice(), opened.authentication()),
        (&b"for one alone"[..], Authentication::Signed)
    );
}

#[test]
fn a_refusal_of_another_implementation_is_authentic_and_says_why() {
    let mut asked = asked();

    let events = asked.hears(&bytes("refusal", "response"));

    assert_eq!(events, [KeyEvent::JoinFailed { issuer: asked.issuer, error: JoinError::Refused(1) }]);
}

#[test]
fn a_change_of_any_byte_of_an_answer_is_noticed() {
    for part in ["group", "refusal"] {
        let response = bytes(part, "response");
        for at in 0..response.len() {
            let mut changed = response.clone();
            changed[at] ^= 1 << (at % 8);
            let events = asked().hears(&changed);
            let is_noticed = matches!(
                &*events,
                [KeyEvent::JoinFailed { error, .. }] if !matches!(error, JoinError::Refused(_))
            );
            assert!(is_noticed, "{part}, byte {at}: {events:?}");
        }
    }
}
