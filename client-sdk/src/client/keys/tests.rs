//! When keys are asked for, at which QoS, and what waits for them; a connection that the test plays. Time is an argument.

use std::sync::Arc;

use veilmq_protocol::{
    QoS::{AtLeastOnce, AtMostOnce},
    veil::{
        Certificate, CertificateFields, Roles,
        channel::{Identity, IdentityKeys, TrustAnchors},
        distribution::CrlFields,
    },
};

use super::*;
use crate::{
    e2e::{EnvelopeOptions, Limits, Member, distribution::IssuePolicy},
    message::Properties,
};

const START: u64 = 1_790_000_000_000;

fn fields(keys: &IdentityKeys, roles: Roles) -> CertificateFields {
    CertificateFields {
        roles,
        serial: 1,
        not_before: 0,
        not_after: u64::MAX,
        ed25519: keys.ed25519_public(),
        x25519: keys.x25519_public(),
        subject: "press".to_owned(),
        publish_scopes: Vec::new(),
        subscribe_scopes: Vec::new(),
        path_length: None,
        revocation_topic: None,
    }
}

fn ca(keys: &IdentityKeys) -> Certificate {
    fields(keys, Roles::CA).sign(keys).unwrap()
}

/// A party with its keys.
struct Party {
    e2e: E2e,
    keys: Keys,
}

impl Party {
    fn new(start: impl FnOnce(&mut Distribution, &mut E2e, Scope)) -> Self {
        let own = IdentityKeys::from_seeds(&[1; 32], &[2; 32]);
        let certificate = fields(&own, Roles::PUBLISHER | Roles::SUBSCRIBER).sign(&own).unwrap();
        let identity = Arc::new(Identity::new(certificate, own).unwrap());
        let mut anchors = TrustAnchors::new();
        anchors.add(ca(&IdentityKeys::from_seeds(&[3; 32], &[4; 32]))).unwrap();
        let mut e2e = E2e::new(Member::Identity(Arc::clone(&identity)), Limits::default());
        let mut distribution = Distribution::new(identity, anchors);
        start(&mut distribution, &mut e2e, Scope::new("f/#").unwrap());
        let mut keys = Keys::new(distribution, None, 4);
        keys.connected(START);
        Self { e2e, keys }
    }

    fn member() -> Self {
        Self::new(|keys, e2e, scope| keys.join(e2e, scope, EnvelopeOptions::default()).unwrap())
    }

    fn issuer() -> Self {
        let (options, policy) = (EnvelopeOptions::default(), IssuePolicy::default());
        Self::new(|keys, e2e, scope| keys.issue(e2e, scope, options, policy).unwrap())
    }

    fn work(&mut self, now_unix_ms: u64) -> KeyWork {
        self.keys.work(&mut self.e2e, now_unix_ms, |_, _| Ok(()))
    }

    /// Has the broker answer every subscription; what is published then has been acknowledged.
    fn is_answered(&mut self, subscriptions: usize, now_unix_ms: u64) -> KeyWork {
        (0..subscriptions).for_each(|_| self.keys.subscribed());
        let work = self.work(now_unix_ms);
        self.keys.published();
        work
    }

    /// Takes a message that waits for its key, at QoS 1 if it has a receipt.
    fn park(&mut self, receipt: Option<Receipt>, now_unix_ms: u64) -> Option<Parked> {
        let message = Message {
            topic: "f/t".to_owned(),
            payload: bytes::Bytes::new(),
            qos: AtLeastOnce,
            retain: false,
            dup: false,
            properties: Properties::default(),
            sealed: None,
        };
        self.keys.park(message, receipt, now_unix_ms)
    }
}

fn asked(work: &KeyWork) -> Vec<QoS> {
    work.filters.iter().map(|(_, qos)| *qos).collect()
}

#[test]
fn a_state_that_cannot_be_saved_is_saved_a_second_later_however_far_the_connection_is() {
    let mut issuer = Party::issuer();
    let full = |_: &Distribution, _: &E2e| Err("full".to_owned());
    let work = issuer.keys.work(&mut issuer.e2e, START, full);
    assert_eq!(work.unsaved.as_deref(), Some("full"));
    assert_eq!(issuer.keys.next_due(), START + RETRY_MS);

    (0..work.filters.len()).for_each(|_| issuer.keys.subscribed());
    assert!(issuer.work(START + 1).publications.is_empty(), "not before it is saved");
    assert_eq!(issuer.keys.next_due(), START + RETRY_MS);

    assert_eq!(issuer.work(START + RETRY_MS).publications.len(), 1);
}

#[test]
fn keys_come_at_qos_0_while_messages_wait_for_them_and_at_qos_1_afterwards() {
    let mut member = Party::member();
    let subscriptions = member.work(START).filters.len();
    member.is_answered(subscriptions, START);

    let receipts = (0..5).map(Receipt::numbered);
    let asked_for: Vec<Vec<QoS>> = receipts
        .map(|receipt| {
            assert!(member.park(Some(receipt), START).is_none(), "nothing is given up");
            asked(&member.work(START))
        })
        .collect();
    assert_eq!(asked_for, [vec![], vec![], vec![AtMostOnce; 3], vec![], vec![]]);

    member.keys.take_parked();
    assert!(member.work(START + 1).filters.is_empty(), "not to and fro");
    assert_eq!(member.keys.next_due(), START + PARKED_MS);
    assert_eq!(asked(&member.work(START + PARKED_MS)), [AtLeastOnce; 3]);
}

#[test]
fn only_messages_without_an_acknowledgement_are_given_up_when_many_wait() {
    let mut member = Party::member();
    member.park(Some(Receipt::numbered(0)), START);

    let given_up = (0..=PARKED_MAX).filter_map(|_| member.park(None, START));

    assert_eq!(given_up.map(|parked| parked.receipt).collect::<Vec<_>>(), [None]);
}

#[test]
fn a_message_waits_for_its_key_as_long_as_ever_once_there_is_a_connection_again() {
    let mut member = Party::member();
    member.park(None, START);
    member.keys.disconnected();

    let back = START + 60 * PARKED_MS;
    assert_eq!(member.keys.overdue(back).len(), 0, "no key could come");
    assert_eq!(member.keys.next_due(), u64::MAX);
    member.keys.connected(back);

    assert_eq!(member.keys.overdue(back + PARKED_MS - 1).len(), 0);
    assert_eq!(member.keys.next_due(), back + PARKED_MS);
    assert_eq!(member.keys.overdue(back + PARKED_MS).len(), 1);
}

#[test]
fn a_list_past_its_time_is_told_of_once_the_broker_has_had_time_to_send_a_newer_one() {
    let mut member = Party::member();
    let authority = IdentityKeys::from_seeds(&[3; 32], &[4; 32]);
    let issuer = ca(&authority);
    let topic = format!("_veil/1/crl/{}", issuer.kid());
    let list =
        CrlFields { number: 1, this_update: 0, next_update: START / 1_000, issuer, revoked: Vec::new() };
    let list = list.sign(&authority).unwrap();
    let Party { e2e, keys } = &mut member;
    keys.distribution.handle(e2e, &topic, list.as_bytes(), START, &mut entropy);
    let subscriptions = member.work(START).filters.len();
    member.is_answered(subscriptions, START);
    assert_ne!(member.keys.distribution.stale_due(), u64::MAX, "it was taken");

    let due = START + HEARD_MS;
    assert_eq!(member.keys.stale_due(), due);
    member.work(due - 1);
    assert_eq!(member.keys.stale_due(), due);
    assert!(member.keys.next_due() <= due);
    member.work(due);

    assert_eq!(member.keys.stale_due(), u64::MAX, "once");
}

#[test]
fn a_turn_makes_up_no_filters_unless_there_may_be_others() {
    let mut member = Party::member();
    let first = member.work(START).filters.len();
    member.is_answered(first, START);

    // What a comparison would find.
    member.keys.subscribed.insert("gone".to_owned());
    assert!(member.work(START).gone.is_empty());

    member.keys.distribution.want_certificate(Kid::from_bytes([9; 8]));
    let work = member.work(START);
    assert_eq!((work.filters.len(), work.gone.len()), (1, 1));
    member.keys.connected(START);
    assert_eq!(member.work(START).filters.len(), first + 1);
}

#[test]
fn an_issuer_that_hears_nothing_asks_at_qos_0_and_goes_on_after_ten_seconds() {
    let mut issuer = Party::issuer();
    let first = issuer.work(START);
    assert!(asked(&first).iter().all(|qos| *qos == AtLeastOnce));
    let introduction = issuer.is_answered(first.filters.len(), START).publications;
    assert_eq!(introduction.len(), 1);
    assert!(!issuer.keys.is_ready() && issuer.work(START + LISTENING_MS - 1).publications.is_empty());

    // What comes at last is waited for.
    let later = START + LISTENING_MS - 1;
    let head = DistributionTopic::parse(&format!("_veil/1/kp/{0}/{0}", "aa".repeat(8))).unwrap();
    issuer.keys.heard(&head, true, later);
    assert!(issuer.work(START + LISTENING_MS).filters.is_empty());
    assert_eq!(issuer.keys.next_due(), later + LISTENING_MS);

    let again = issuer.work(later + LISTENING_MS);
    assert_eq!(asked(&again), vec![AtMostOnce; first.filters.len()]);
    issuer.is_answered(again.filters.len(), later + LISTENING_MS);
    assert!(!issuer.keys.is_ready());

    let open = issuer.work(later + 2 * LISTENING_MS);
    assert!(issuer.keys.is_ready());
    assert_eq!(asked(&open), vec![AtLeastOnce; first.filters.len()]);
    assert!(open.publications.iter().any(|publication| publication.topic.starts_with("_veil/1/kp/")));
}
