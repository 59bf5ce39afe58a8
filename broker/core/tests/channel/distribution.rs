//! What an identity is good for beyond the channel: objects of key distribution, epochs, source signatures, membership.

use veilmq_core::{Access, DistributionRule, Policies, Policy};
use veilmq_protocol::veil::binding::associated_data;
use veilmq_protocol::veil::channel::{hash, sign};
use veilmq_protocol::veil::distribution::{
    DistributionTopic, KeyHeadFields, KeyHeadFlags, Pair, Prekey, PrekeyFields, Wrap, WrapKind, WrapSuite,
    put_bundle, scope_hash, scope_tag,
};
use veilmq_protocol::veil::envelope::{EnvelopeFlags, EnvelopeHeader};
use veilmq_protocol::{Publish, PublishProperties};

use super::*;

const SCOPE: &str = "f/#";
pub(super) const NO_SUBSCRIBERS: u8 = 0x10;
pub(super) const ISSUER: u8 = 10;
pub(super) const READER: u8 = 11;

pub(super) fn enforcing(policies: Vec<Policy>) -> Realm {
    let policy = ServerPolicy { schemes: Schemes::ALL, ..ServerPolicy::default() };
    let mut realm = realm_with(Settings::default(), policy, OneTrip::default());
    let policies = Policies::new(policies).unwrap().with_distribution(DistributionRule::Enforce);
    realm.world.set_access(Access { policies, ..Access::open_to(true) });
    realm
}

pub(super) fn keys(seed: u8) -> IdentityKeys {
    IdentityKeys::from_seeds(&[seed; 32], &[seed ^ 0xFF; 32])
}

/// Connects with an identity; Scheme 1 carries plain packets.
pub(super) fn arrive(realm: &mut Realm, client_id: &str, seed: u8) -> Conn {
    realm.join(client_id, seed, Schemes::of(&[Scheme::One]), Suite::Aes256Gcm).connection
}

/// Publishes at QoS 1 and returns the Reason Code of PUBACK.
pub(super) fn code(realm: &mut Realm, connection: Conn, topic: &str, payload: &[u8], retain: bool) -> u8 {
    let publish = Publish { payload, retain, ..publish(topic, "", QoS::AtLeastOnce, 1) };
    realm.world.send(connection, &Packet::Publish(publish));
    let puback = realm.world.bytes(connection);
    assert_eq!(puback[0], 0x40, "{puback:02x?}");
    puback.get(4).copied().unwrap_or(0)
}

pub(super) fn fields(realm: &Realm, epoch: u32, created_ms: u64) -> KeyHeadFields {
    KeyHeadFields {
        wrap_suite: WrapSuite::Aes256Gcm,
        flags: KeyHeadFlags::BUNDLE,
        scope_tag: scope_tag(SCOPE),
        epoch,
        issuer: keys(ISSUER).kid(),
        created_ms,
        activate_ms: realm.world.now().milliseconds(),
        retire_ms: u64::MAX - 1,
        drop_ms: u64::MAX,
        message_suites: vec![Suite::Aes256Gcm],
        scope: SCOPE.to_owned(),
        commitment: [epoch as u8; 32],
        previous: [0; 32],
        roster_root: [0; 32],
        member_count: 1,
        certificate: realm.identity(ISSUER, "issuer").certificate().clone(),
    }
}

pub(super) fn wrap_for(seed: u8) -> Wrap {
    Wrap {
        kid: keys(seed).kid(),
        kind: WrapKind::Static,
        prekey_id: 0,
        encapsulated: [7; 32],
        ciphertext: vec![9; 53],
    }
}

pub(super) fn head(fields: &KeyHeadFields) -> Vec<u8> {
    let mut payload = fields.sign(&keys(ISSUER)).unwrap().as_bytes().to_vec();
    if fields.flags.contains(KeyHeadFlags::BUNDLE) {
        put_bundle(&mut payload, &[wrap_for(READER)]);
    }
    payload
}

/// A prekey of the reader.
fn prekey(realm: &Realm, id: u32) -> Prekey {
    let certificate = realm.identity(READER, "member").certificate().clone();
    let fields = PrekeyFields { id, not_after_ms: u64::MAX, x25519: [5; 32], certificate };
    fields.sign(&keys(READER)).unwrap()
}

pub(super) fn head_topic() -> String {
    DistributionTopic::KeyHead { scope: scope_hash(SCOPE), issuer: keys(ISSUER).kid() }.to_string()
}

/// The first head of the issuer, with a wrap for the reader, and its topic.
pub(super) fn head_of(realm: &Realm) -> (String, Vec<u8>) {
    (head_topic(), head(&fields(realm, 1, 1_000)))
}

fn envelope(seed: u8, epoch: u32, seq: u32) -> EnvelopeHeader {
    EnvelopeHeader {
        suite: Suite::Aes256Gcm,
        flags: EnvelopeFlags::default(),
        scope_tag: scope_tag(SCOPE),
        epoch,
        sender: keys(seed).kid(),
        session: 1 << 16,
        seq,
        timestamp_ms: None,
        chunk: None,
    }
}

fn sealed(header: &EnvelopeHeader) -> Vec<u8> {
    let mut payload = Vec::new();
    header.encode(&mut payload);
    payload.resize(payload.len() + 32, 0xA5);
    payload
}

#[test]
fn a_head_is_taken_from_its_issuer_and_goes_on_from_the_one_before() {
    let mut realm = enforcing(Vec::new());
    let issuer = arrive(&mut realm, "issuer", ISSUER);
    let stranger = arrive(&mut realm, "stranger", 12);
    let anonymous = realm.world.connect(&connect_v5("anonymous", true, 0));
    realm.world.bytes(anonymous);
    let first = fields(&realm, 1, 1_000);
    let again = KeyHeadFields { created_ms: 2_000, ..first.clone() };
    let second = KeyHeadFields { previous: first.link(), ..fields(&realm, 2, 3_000) };
    let mut forged = head(&first);
    let signature = forged.len() - 2 - 98 - 1;
    forged[signature] ^= 1;
    let topic = head_topic();
    let elsewhere =
        DistributionTopic::KeyHead { scope: scope_hash("g/#"), issuer: keys(ISSUER).kid() }.to_string();
    let of_stranger = {
        let certificate = realm.identity(12, "stranger").certificate().clone();
        let fields = KeyHeadFields { issuer: keys(12).kid(), certificate, ..first.clone() };
        fields.sign(&keys(12)).unwrap().as_bytes().to_vec()
    };

    for (what, writer, topic, payload, retain, expected) in [
        ("a stranger writes", stranger, &topic, head(&first), true, 0x87),
        ("nobody writes", anonymous, &topic, head(&first), true, 0x87),
        ("the signature is forged", issuer, &topic, forged, true, 0x87),
        ("another issuer's head", issuer, &topic, of_stranger, true, 0x99),
        ("it is not retained", issuer, &topic, head(&first), false, 0x99),
        ("it is for another scope", issuer, &elsewhere, head(&first), true, 0x99),
        ("it is none", issuer, &topic, b"plain".to_vec(), true, 0x99),
        ("the first", issuer, &topic, head(&first), true, NO_SUBSCRIBERS),
        ("the same again", issuer, &topic, head(&first), true, NO_SUBSCRIBERS),
        ("a stranger clears", stranger, &topic, Vec::new(), true, 0x87),
        ("issued again", issuer, &topic, head(&again), true, NO_SUBSCRIBERS),
        ("the earlier issue", issuer, &topic, head(&first), true, 0x99),
        (
            "a key that changed",
            issuer,
            &topic,
            head(&KeyHeadFields { commitment: [9; 32], created_ms: 9_000, ..first.clone() }),
            true,
            0x99,
        ),
        ("an epoch left out", issuer, &topic, head(&fields(&realm, 3, 4_000)), true, 0x99),
        ("no link", issuer, &topic, head(&fields(&realm, 2, 4_000)), true, 0x99),
        ("the next", issuer, &topic, head(&second), true, NO_SUBSCRIBERS),
        ("the epoch before", issuer, &topic, head(&again), true, 0x99),
        ("the issuer clears", issuer, &topic, Vec::new(), true, NO_SUBSCRIBERS),
        ("the epoch before, once more", issuer, &topic, head(&again), true, 0x99),
    ] {
        assert_eq!(code(&mut realm, writer, topic, &payload, retain), expected, "{what}");
    }
    assert_eq!(realm.world.sample("veilmq_keyhead_total", "accepted"), 3);
    assert_eq!(realm.world.sample("veilmq_distribution_rejected_total", "rollback"), 3);
    assert_eq!(realm.world.sample("veilmq_distribution_rejected_total", "writer"), 3);
}

#[test]
fn every_topic_of_key_distribution_has_its_writer_and_its_object() {
    let mut realm = enforcing(Vec::new());
    let member = arrive(&mut realm, "member", READER);
    let prekey = prekey(&realm, 1);
    let (own, other) = (keys(READER).kid(), keys(ISSUER).kid());
    let mut wrap = Vec::new();
    wrap_for(ISSUER).encode(&mut wrap);
    let topic = |topic: DistributionTopic| topic.to_string();
    let scope = scope_hash(SCOPE);

    for (topic, payload, retain, expected) in [
        (topic(DistributionTopic::Prekey { member: own }), prekey.as_bytes(), true, NO_SUBSCRIBERS),
        (topic(DistributionTopic::Prekey { member: own }), b"", true, NO_SUBSCRIBERS),
        (topic(DistributionTopic::Prekey { member: own }), b"x", true, 0x99),
        (topic(DistributionTopic::Prekey { member: other }), prekey.as_bytes(), true, 0x87),
        (topic(DistributionTopic::Wrap { scope, issuer: own, member: other }), &wrap, true, NO_SUBSCRIBERS),
        (topic(DistributionTopic::Wrap { scope, issuer: own, member: own }), &wrap, true, 0x99),
        (topic(DistributionTopic::Wrap { scope, issuer: other, member: own }), &wrap, true, 0x87),
        (topic(DistributionTopic::Join { issuer: other }), b"x", false, 0x99),
        (topic(DistributionTopic::JoinResponse { member: other }), b"x", false, 0x99),
        (topic(DistributionTopic::Revocations { authority: other }), b"", true, 0x99),
        ("_veil/1/ctl/0123456789abcdef".to_owned(), b"x", false, 0x87),
        ("_veil/1/pre/0123456789ABCDEF".to_owned(), b"x", true, 0x87),
        ("_veil/2/x".to_owned(), b"x", false, NO_SUBSCRIBERS),
    ] {
        assert_eq!(code(&mut realm, member, &topic, payload, retain), expected, "{topic} {payload:02x?}");
    }
}

#[test]
fn where_nothing_is_enforced_everything_passes_and_heads_that_verify_count() {
    let mut realm = enforcing(Vec::new());
    let policies = Policies::new(vec![Policy { sender_binding: false, ..Policy::requiring("f", SCOPE) }]);
    realm.world.set_access(Access { policies: policies.unwrap(), ..Access::open_to(true) });
    let issuer = arrive(&mut realm, "issuer", ISSUER);
    let first = fields(&realm, 4, 1_000);

    assert_eq!(code(&mut realm, issuer, &head_topic(), b"plain", true), NO_SUBSCRIBERS);
    assert_eq!(code(&mut realm, issuer, "f/t", &sealed(&envelope(ISSUER, 1, 0)), false), NO_SUBSCRIBERS);
    assert_eq!(code(&mut realm, issuer, &head_topic(), &head(&first), true), NO_SUBSCRIBERS);

    assert_eq!(code(&mut realm, issuer, "f/t", &sealed(&envelope(ISSUER, 1, 1)), false), 0x99);
    assert_eq!(code(&mut realm, issuer, "f/t", &sealed(&envelope(ISSUER, 4, 2)), false), NO_SUBSCRIBERS);
}

#[test]
fn an_envelope_has_an_epoch_that_a_verified_head_says_is_in_use() {
    let policy = Policy { epoch_milliseconds_max: Some(7_200_000), ..Policy::requiring("f", SCOPE) };
    let mut realm = enforcing(vec![policy.clone()]);
    let issuer = arrive(&mut realm, "issuer", ISSUER);
    let first = fields(&realm, 1, 1_000);
    let mut seq = 0;
    let mut publish = |realm: &mut Realm, connection: Conn, epoch: u32| {
        seq += 1;
        code(realm, connection, "f/t", &sealed(&envelope(ISSUER, epoch, seq)), false)
    };

    assert_eq!(publish(&mut realm, issuer, 1), 0x99, "nobody says how old it is");
    assert_eq!(code(&mut realm, issuer, &head_topic(), &head(&first), true), NO_SUBSCRIBERS);
    assert_eq!(publish(&mut realm, issuer, 1), NO_SUBSCRIBERS);
    assert_eq!(publish(&mut realm, issuer, 2), 0x99, "no head has it");
    let activate_ms = realm.world.now().milliseconds() + 3_600_000;
    let second = KeyHeadFields { previous: first.link(), activate_ms, ..fields(&realm, 2, 2_000) };
    assert_eq!(code(&mut realm, issuer, &head_topic(), &head(&second), true), NO_SUBSCRIBERS);
    assert_eq!(publish(&mut realm, issuer, 2), 0x99, "it has not begun");
    realm.world.pass(3_600_000);
    assert_eq!(publish(&mut realm, issuer, 2), NO_SUBSCRIBERS);
    assert_eq!(publish(&mut realm, issuer, 1), NO_SUBSCRIBERS, "the transition lasts");
    realm.world.pass(600_000);
    assert_eq!(publish(&mut realm, issuer, 1), 0x99, "the transition is over");
    assert_eq!(realm.world.policy_sample("veilmq_e2e_rejected_total", "f", "epoch"), 3);
    assert_eq!(realm.world.policy_sample("veilmq_e2e_rejected_total", "f", "epoch_age"), 1);
    realm.world.pass(6_600_001);
    assert_eq!(publish(&mut realm, issuer, 2), 0x99, "the epoch is too old");
}

#[test]
fn a_head_that_ends_all_others_ends_them_at_once() {
    let mut realm = enforcing(vec![Policy::requiring("f", SCOPE)]);
    let issuer = arrive(&mut realm, "issuer", ISSUER);
    let first = fields(&realm, 1, 1_000);
    let flags = KeyHeadFlags::BUNDLE.with(KeyHeadFlags::NO_TRANSITION, true);
    let second = KeyHeadFields { previous: first.link(), flags, ..fields(&realm, 2, 2_000) };
    code(&mut realm, issuer, &head_topic(), &head(&first), true);

    assert_eq!(code(&mut realm, issuer, "f/t", &sealed(&envelope(ISSUER, 1, 0)), false), NO_SUBSCRIBERS);
    code(&mut realm, issuer, &head_topic(), &head(&second), true);

    assert_eq!(code(&mut realm, issuer, "f/t", &sealed(&envelope(ISSUER, 1, 1)), false), 0x99);
}

#[test]
fn an_epoch_without_any_head_may_not_go_back_after_the_transition() {
    let mut realm = enforcing(vec![Policy::requiring("f", SCOPE)]);
    let issuer = arrive(&mut realm, "issuer", ISSUER);
    let publish = |realm: &mut Realm, epoch: u32, seq: u32| {
        code(realm, issuer, "f/t", &sealed(&envelope(ISSUER, epoch, seq)), false)
    };

    assert_eq!(publish(&mut realm, 5, 0), NO_SUBSCRIBERS);
    assert_eq!(publish(&mut realm, 4, 1), NO_SUBSCRIBERS);
    realm.world.pass(600_000);
    assert_eq!(publish(&mut realm, 4, 2), 0x99);
    assert_eq!(publish(&mut realm, 5, 3), NO_SUBSCRIBERS);
}

#[test]
fn a_source_signature_is_verified_where_it_is_asked_for() {
    let mut realm = enforcing(vec![Policy { verify_signature: true, ..Policy::requiring("f", SCOPE) }]);
    let issuer = arrive(&mut realm, "issuer", ISSUER);
    let signed = |seq: u32, topic: &str, scope: &str, signer: u8| {
        let flags = EnvelopeFlags::SIGNED.with(EnvelopeFlags::BOUND, true);
        let mut payload = sealed(&EnvelopeHeader { flags, ..envelope(ISSUER, 1, seq) });
        let mut associated = Vec::new();
        let properties = PublishProperties { content_type: Some("json"), ..PublishProperties::default() };
        associated_data(&mut associated, &payload[..33], scope, topic, Some(&properties)).unwrap();
        let signature = sign(&keys(signer), "source", &hash(&[&associated, &payload[33..]]));
        payload.extend_from_slice(&signature);
        payload
    };
    let send = |realm: &mut Realm, payload: &[u8], content_type: Option<&'static str>| {
        let properties = PublishProperties { content_type, ..PublishProperties::default() };
        let publish = Publish { payload, properties, ..publish("f/t", "", QoS::AtLeastOnce, 1) };
        realm.world.send(issuer, &Packet::Publish(publish));
        realm.world.bytes(issuer)[4]
    };

    for (what, payload, content_type, expected) in [
        ("its own", signed(0, "f/t", SCOPE, ISSUER), Some("json"), NO_SUBSCRIBERS),
        ("another topic", signed(1, "f/u", SCOPE, ISSUER), Some("json"), 0x87),
        ("another scope", signed(2, "f/t", "f/+", ISSUER), Some("json"), 0x87),
        ("another signer", signed(3, "f/t", SCOPE, READER), Some("json"), 0x87),
        ("another property", signed(4, "f/t", SCOPE, ISSUER), Some("text"), 0x87),
        ("a property less", signed(5, "f/t", SCOPE, ISSUER), None, 0x87),
        ("no signature", sealed(&envelope(ISSUER, 1, 6)), None, NO_SUBSCRIBERS),
    ] {
        assert_eq!(send(&mut realm, &payload, content_type), expected, "{what}");
    }
    assert_eq!(realm.world.policy_sample("veilmq_e2e_rejected_total", "f", "signature"), 5);
}

#[test]
fn what_another_has_sealed_passes_on_a_bridge_and_is_verified_by_its_prekey() {
    let bridge = |senders: Vec<_>| Policy {
        verify_signature: true,
        bridges: vec!["bridge".into()],
        bridged_senders: senders,
        ..Policy::requiring("f", SCOPE)
    };
    let mut realm = enforcing(vec![bridge(vec![keys(READER).kid()])]);
    let passes_on = arrive(&mut realm, "bridge", 20);
    let other = arrive(&mut realm, "other", 21);
    let flags = EnvelopeFlags::SIGNED;
    let mut payload = sealed(&EnvelopeHeader { flags, ..envelope(READER, 1, 0) });
    let mut associated = Vec::new();
    associated_data(&mut associated, &payload[..33], SCOPE, "f/t", None).unwrap();
    let signature = sign(&keys(READER), "source", &hash(&[&associated, &payload[33..]]));
    payload.extend_from_slice(&signature);

    assert_eq!(code(&mut realm, other, "f/t", &payload, false), 0x87, "it is no bridge");
    assert_eq!(code(&mut realm, passes_on, "f/t", &payload, false), 0x87, "the sender is not known here");
    let member = arrive(&mut realm, "member", READER);
    let certificate = realm.identity(READER, "member").certificate().clone();
    let prekey = PrekeyFields { id: 1, not_after_ms: u64::MAX, x25519: [5; 32], certificate };
    let prekey = prekey.sign(&keys(READER)).unwrap();
    let topic = DistributionTopic::Prekey { member: keys(READER).kid() }.to_string();
    code(&mut realm, member, &topic, prekey.as_bytes(), true);
    assert_eq!(code(&mut realm, passes_on, "f/t", &payload, false), NO_SUBSCRIBERS);
    let stranger = sealed(&envelope(ISSUER, 1, 0));
    assert_eq!(code(&mut realm, passes_on, "f/t", &stranger, false), 0x87, "not on its list");
}

#[test]
fn only_members_may_subscribe_where_that_is_asked_for() {
    let mut realm = enforcing(vec![Policy { members_only: true, ..Policy::requiring("f", SCOPE) }]);
    let issuer = arrive(&mut realm, "issuer", ISSUER);
    let reader = arrive(&mut realm, "reader", READER);
    let stranger = arrive(&mut realm, "stranger", 12);
    let subscribe = |realm: &mut Realm, connection: Conn, filter: &str| {
        realm.world.subscribe(connection, filter, QoS::AtMostOnce);
        *realm.world.bytes(connection).last().unwrap()
    };

    assert_eq!(subscribe(&mut realm, reader, "f/#"), 0x87, "no head has it yet");
    let first = fields(&realm, 1, 1_000);
    code(&mut realm, issuer, &head_topic(), &head(&first), true);

    for (connection, filter, expected) in [
        (reader, "f/#", 0),
        (reader, "$share/g/f/t", 0),
        (issuer, "f/t", 0),
        (stranger, "f/t", 0x87),
        (stranger, "#", 0x87),
        (stranger, "+/t", 0x87),
        (stranger, "$share/g/f/#", 0x87),
        (stranger, "g/#", 0),
    ] {
        assert_eq!(subscribe(&mut realm, connection, filter), expected, "{filter}");
    }
    let flags = KeyHeadFlags::SHARDED;
    let second = KeyHeadFields { previous: first.link(), flags, ..fields(&realm, 2, 2_000) };
    code(&mut realm, issuer, &head_topic(), &head(&second), true);
    assert_eq!(subscribe(&mut realm, reader, "f/x"), 0x87, "it has no wrap of its own");
    let (scope, member) = (scope_hash(SCOPE), keys(READER).kid());
    let topic = DistributionTopic::Wrap { scope, issuer: keys(ISSUER).kid(), member }.to_string();
    let mut wrap = Vec::new();
    wrap_for(READER).encode(&mut wrap);
    assert_eq!(code(&mut realm, issuer, &topic, &wrap, true), NO_SUBSCRIBERS);
    assert_eq!(subscribe(&mut realm, reader, "f/x"), 0);
    // What `#` would show of keys is refused first.
    assert_eq!(realm.world.policy_sample("veilmq_e2e_rejected_total", "f", "member"), 5);
}

#[test]
fn on_a_topic_of_a_pair_its_publisher_writes_and_its_subscriber_hears() {
    let mut realm = enforcing(Vec::new());
    let press = arrive(&mut realm, "press", ISSUER);
    let (publisher, subscriber) = (keys(ISSUER).kid(), keys(READER).kid());
    let pair = Pair { publisher, subscriber };
    let sealed_for = |seed: u8, pair: Pair, flags: EnvelopeFlags| {
        let scope = if flags == EnvelopeFlags::PAIRWISE { pair.to_string() } else { pair.filter() };
        sealed(&EnvelopeHeader { flags, scope_tag: scope_tag(&scope), ..envelope(seed, 1, 0) })
    };
    let paired = sealed_for(ISSUER, pair, EnvelopeFlags::PAIRWISE);
    let topic = Pair::topic(subscriber, "line-3/t");
    let elsewhere = Pair { subscriber: publisher, ..pair };

    for (topic, payload, retain, expected) in [
        (topic.as_str(), paired.clone(), false, NO_SUBSCRIBERS),
        (&topic, paired.clone(), true, NO_SUBSCRIBERS),
        (&topic, Vec::new(), true, NO_SUBSCRIBERS),
        (&topic, sealed_for(ISSUER, pair, EnvelopeFlags::default()), false, NO_SUBSCRIBERS),
        (&topic, b"plain".to_vec(), false, 0x99),
        (&topic, Vec::new(), false, 0x99),
        (&topic, sealed_for(READER, pair, EnvelopeFlags::PAIRWISE), false, 0x87),
        (&topic, sealed_for(ISSUER, elsewhere, EnvelopeFlags::PAIRWISE), false, 0x99),
        (&topic, sealed(&envelope(ISSUER, 1, 0)), false, 0x99),
        ("_veil/1/p2p/x/t", paired.clone(), false, 0x87),
    ] {
        assert_eq!(code(&mut realm, press, topic, &payload, retain), expected, "{topic} {payload:02x?}");
    }

    let reader = arrive(&mut realm, "reader", READER);
    for (connection, filter, expected) in [
        (reader, pair.filter(), 1),
        (reader, topic.clone(), 1),
        (reader, format!("$share/g/{}", pair.filter()), 1),
        (reader, format!("{}#", Pair::TOPICS), 0x87),
        (reader, format!("{}+/t", Pair::TOPICS), 0x87),
        (press, pair.filter(), 0x87),
        (press, format!("$share/g/{topic}"), 0x87),
        (press, "f/#".to_owned(), 1),
    ] {
        realm.world.subscribe(connection, &filter, QoS::AtLeastOnce);
        let suback = realm.world.bytes(connection);
        assert_eq!(*suback.last().unwrap(), expected, "{filter}");
    }
    code(&mut realm, press, &topic, &paired, false);
    assert!(realm.world.bytes(reader).windows(paired.len()).any(|window| window == paired));
}

#[test]
fn an_envelope_of_a_pair_is_none_of_a_group() {
    let mut realm = enforcing(vec![Policy::requiring("f", SCOPE)]);
    let press = arrive(&mut realm, "press", ISSUER);
    let flags = EnvelopeFlags::PAIRWISE;

    let paired = sealed(&EnvelopeHeader { flags, ..envelope(ISSUER, 1, 0) });

    assert_eq!(code(&mut realm, press, "f/t", &paired, false), 0x99);
    assert_eq!(code(&mut realm, press, "f/t", &sealed(&envelope(ISSUER, 1, 0)), false), NO_SUBSCRIBERS);
}

#[test]
fn heads_count_again_after_a_restart_and_do_not_go_back() {
    let mut realm = enforcing(Vec::new());
    let issuer = arrive(&mut realm, "issuer", ISSUER);
    let first = fields(&realm, 1, 1_000);
    let again = KeyHeadFields { created_ms: 2_000, ..first.clone() };
    code(&mut realm, issuer, &head_topic(), &head(&again), true);
    let Realm { world, authority, anchors, broker } = realm;
    let now = world.now();
    let (world, _) = world.restart(Settings::default());
    assert!(world.now() >= now);
    let mut realm = Realm { world, authority, anchors, broker };
    let ca = identity(1, "authority", Roles::CA, None);
    realm.world.shared.trust().write().unwrap().add(ca.certificate().clone()).unwrap();
    let policies = Policies::new(vec![Policy { sender_binding: false, ..Policy::requiring("f", SCOPE) }]);
    let policies = policies.unwrap().with_distribution(DistributionRule::Enforce);
    realm.world.set_access(Access { policies, ..Access::open_to(true) });
    let anybody = realm.world.connect(&connect_v5("anybody", true, 0));
    realm.world.bytes(anybody);

    assert_eq!(code(&mut realm, anybody, "f/t", &sealed(&envelope(ISSUER, 2, 0)), false), 0x99);
    assert_eq!(code(&mut realm, anybody, "f/t", &sealed(&envelope(ISSUER, 1, 1)), false), NO_SUBSCRIBERS);
}

#[test]
fn objects_are_verified_whoever_brings_them_where_nothing_more_is_asked_for() {
    let mut realm = enforcing(Vec::new());
    let policies = Policies::new(Vec::new()).unwrap().with_distribution(DistributionRule::Verify);
    realm.world.set_access(Access { policies, ..Access::open_to(true) });
    let anybody = realm.world.connect(&connect_v5("anybody", true, 0));
    realm.world.bytes(anybody);
    let first = fields(&realm, 1, 1_000);
    let again = KeyHeadFields { created_ms: 2_000, ..first.clone() };
    let mut forged = head(&first);
    let signature = forged.len() - 2 - 98 - 1;
    forged[signature] ^= 1;
    let foreign = identity(ISSUER, "issuer", Roles::PUBLISHER, Some(&keys(99))).certificate().clone();
    let foreign = KeyHeadFields { certificate: foreign, ..fields(&realm, 9, 9_000) };
    let topic = head_topic();

    for (what, payload, expected) in [
        ("a head that somebody else brings", head(&again), NO_SUBSCRIBERS),
        ("one that was rolled back", head(&first), 0x99),
        ("one that was changed", forged, 0x87),
        ("plaintext", b"plain".to_vec(), 0x99),
        ("one of an authority that is not trusted here", head(&foreign), NO_SUBSCRIBERS),
    ] {
        assert_eq!(code(&mut realm, anybody, &topic, &payload, true), expected, "{what}");
    }
    assert_eq!(realm.world.sample("veilmq_keyhead_total", "accepted"), 1);
    realm.world.subscribe(anybody, "#", QoS::AtMostOnce);
    assert_eq!(realm.world.bytes(anybody)[5], 0, "everybody reads");
}

#[test]
fn only_who_wrote_an_object_of_key_distribution_takes_it_away() {
    for (rule, by_others) in [
        (DistributionRule::Observe, NO_SUBSCRIBERS),
        (DistributionRule::Verify, 0x87),
        (DistributionRule::Enforce, 0x87),
    ] {
        let mut realm = enforcing(Vec::new());
        let policies = vec![Policy::requiring("f", SCOPE)];
        let policies = Policies::new(policies).unwrap().with_distribution(rule);
        realm.world.set_access(Access { policies, ..Access::open_to(true) });
        let issuer = arrive(&mut realm, "issuer", ISSUER);
        let member = arrive(&mut realm, "member", READER);
        let anonymous = realm.world.connect(&connect_v5("anonymous", true, 0));
        realm.world.bytes(anonymous);
        let (scope, of_issuer, of_member) = (scope_hash(SCOPE), keys(ISSUER).kid(), keys(READER).kid());
        let mut wrap = Vec::new();
        wrap_for(READER).encode(&mut wrap);
        let wraps = DistributionTopic::Wrap { scope, issuer: of_issuer, member: of_member }.to_string();
        let prekeys = DistributionTopic::Prekey { member: of_member }.to_string();
        let prekey = prekey(&realm, 1).as_bytes().to_vec();

        for (topic, payload, writer, other) in [
            (head_topic(), head_of(&realm).1, issuer, member),
            (wraps, wrap, issuer, member),
            (prekeys, prekey, member, issuer),
        ] {
            let mut put = |writer, payload: &[u8]| code(&mut realm, writer, &topic, payload, true);
            assert_eq!(put(writer, &payload), NO_SUBSCRIBERS, "{rule:?} {topic}");
            assert_eq!(put(anonymous, b""), by_others, "{rule:?} {topic}");
            assert_eq!(put(other, b""), by_others, "{rule:?} {topic}");
            assert_eq!(put(writer, b""), NO_SUBSCRIBERS, "{rule:?} {topic}");
        }
    }
}

#[test]
fn a_prekey_takes_the_place_of_no_later_one() {
    let mut realm = enforcing(Vec::new());
    let policies = Policies::new(Vec::new()).unwrap().with_distribution(DistributionRule::Verify);
    realm.world.set_access(Access { policies, ..Access::open_to(true) });
    let anybody = realm.world.connect(&connect_v5("anybody", true, 0));
    realm.world.bytes(anybody);
    let topic = DistributionTopic::Prekey { member: keys(READER).kid() }.to_string();

    for (id, expected) in [
        (1_000, NO_SUBSCRIBERS),
        (2_000, NO_SUBSCRIBERS),
        (1_000, 0x99),
        (2_000, NO_SUBSCRIBERS),
        (2_001, NO_SUBSCRIBERS),
    ] {
        let payload = prekey(&realm, id).as_bytes().to_vec();
        assert_eq!(code(&mut realm, anybody, &topic, &payload, true), expected, "{id}");
    }
}

#[test]
fn what_is_for_one_client_alone_is_read_by_that_client_alone() {
    let mut realm = enforcing(Vec::new());
    let reader = arrive(&mut realm, "reader", READER);
    let anonymous = realm.world.connect(&connect_v5("anonymous", true, 0));
    realm.world.bytes(anonymous);
    let (own, other, scope) = (keys(READER).kid(), keys(ISSUER).kid(), "950537d600000000");
    let rows = [
        (format!("_veil/1/kp/{scope}/+"), 0, 0x87),
        (format!("_veil/1/kp/{scope}/+/w/{own}"), 0, 0x87),
        (format!("_veil/1/kp/{scope}/+/w/{other}"), 0x87, 0x87),
        (format!("_veil/1/kp/{scope}/+/w/+"), 0x87, 0x87),
        ("_veil/1/kp/#".to_owned(), 0x87, 0x87),
        ("_veil/1/pre/+".to_owned(), 0, 0x87),
        (format!("_veil/1/jr/{own}"), 0, 0x87),
        (format!("_veil/1/jr/{other}"), 0x87, 0x87),
        (format!("_veil/1/jn/{own}"), 0, 0x87),
        (format!("_veil/1/jn/{other}"), 0x87, 0x87),
        (format!("$share/g/_veil/1/jn/{other}"), 0x87, 0x87),
        (format!("_veil/1/ctl/{own}"), 0, 0x87),
        (format!("_veil/1/crl/{other}"), 0, 0),
        ("#".to_owned(), 0x87, 0x87),
        ("+/1/#".to_owned(), 0x87, 0x87),
        ("f/#".to_owned(), 0, 0),
        ("_veil/2/#".to_owned(), 0, 0),
    ];

    for (filter, of_reader, of_anonymous) in &rows {
        for (connection, expected) in [(reader, of_reader), (anonymous, of_anonymous)] {
            realm.world.subscribe(connection, filter, QoS::AtMostOnce);
            assert_eq!(realm.world.bytes(connection).last(), Some(expected), "{filter}");
        }
    }
    let refused = rows.iter().map(|(_, a, b)| u64::from(*a > 0) + u64::from(*b > 0)).sum::<u64>();
    assert_eq!(realm.world.sample("veilmq_distribution_rejected_total", "reader"), refused);
}
