//! Ways around what the broker enforces that are closed (VEIL-1 sections 9 and 13.1): roles, and Will Messages.

use veilmq_core::{Access, DistributionRule, Policies, Policy};
use veilmq_protocol::veil::distribution::scope_tag;
use veilmq_protocol::veil::envelope::{EnvelopeFlags, EnvelopeHeader};
use veilmq_protocol::{Publish, PublishProperties, TopicName, Will};

use super::*;

const HEAD_TOPIC: &str = "_veil/1/kp/950537d600000000/0123456789abcdef";

fn govern(realm: &mut Realm, policies: Vec<Policy>, rule: DistributionRule) {
    let policies = Policies::new(policies).unwrap().with_distribution(rule);
    realm.world.set_access(Access { policies, ..Access::open_to(true) });
}

fn retain(realm: &mut Realm, connection: Conn, payload: &[u8]) {
    let publish = Publish { payload, retain: true, ..publish("f/t", "", QoS::AtMostOnce, 0) };
    realm.world.send(connection, &Packet::Publish(publish));
}

#[test]
fn a_reader_clears_nothing_of_what_publishers_have_had_retained() {
    let policy = ServerPolicy { schemes: Schemes::ALL, ..ServerPolicy::default() };
    let mut realm = realm_with(Settings::default(), policy, OneTrip::default());
    govern(&mut realm, vec![Policy::requiring("f", "f/#")], DistributionRule::Observe);
    let reader = identity(11, "reader", Roles::SUBSCRIBER, Some(&realm.authority));
    let scheme = Schemes::of(&[Scheme::One]);
    let press = realm.join("press", 10, scheme, Suite::Aes256Gcm).connection;
    let reader = realm.join_as(&reader, connect_v5("reader", true, 0), scheme, Suite::Aes256Gcm).connection;
    let header = EnvelopeHeader {
        suite: Suite::Aes256Gcm,
        flags: EnvelopeFlags::default(),
        scope_tag: scope_tag("f/#"),
        epoch: 1,
        sender: realm.identity(10, "press").kid(),
        session: 1 << 16,
        seq: 0,
        timestamp_ms: None,
        chunk: None,
    };
    let mut sealed = Vec::new();
    header.encode(&mut sealed);
    sealed.resize(sealed.len() + 32, 0xA5);
    retain(&mut realm, press, &sealed);
    assert_eq!(realm.world.shared.retained_totals().0, 1);

    retain(&mut realm, reader, b"");

    assert_eq!(realm.world.shared.retained_totals().0, 1, "it has no publisher's role");
    assert_eq!(realm.world.policy_sample("veilmq_e2e_rejected_total", "f", "clear"), 1);
    retain(&mut realm, press, b"");
    assert_eq!(realm.world.shared.retained_totals().0, 0);
}

fn will(payload: &[u8]) -> Option<Will<'_>> {
    Some(Will {
        topic: TopicName::new(HEAD_TOPIC).unwrap(),
        payload,
        qos: QoS::AtMostOnce,
        retain: true,
        delay_seconds: 0,
        properties: PublishProperties::default(),
    })
}

#[test]
fn a_will_message_says_nothing_of_key_distribution_where_that_is_verified() {
    for (rule, payload, is_refused) in [
        (DistributionRule::Observe, &b"no head"[..], false),
        (DistributionRule::Verify, b"no head", true),
        (DistributionRule::Verify, b"", true),
        (DistributionRule::Enforce, b"no head", true),
    ] {
        let mut realm = realm(Settings::default());
        govern(&mut realm, Vec::new(), rule);

        let client = realm.world.connect(&Connect { will: will(payload), ..connect_v5("c", true, 0) });

        let code = realm.world.bytes(client)[3];
        assert_eq!(code, if is_refused { 0x87 } else { 0 }, "{rule:?} {payload:?}");
    }
}

#[test]
fn a_will_message_that_came_before_the_rule_says_nothing_either() {
    for (rule, retained) in [(DistributionRule::Observe, 1), (DistributionRule::Verify, 0)] {
        let mut realm = realm(Settings::default());
        let client = realm.world.connect(&Connect { will: will(b"no head"), ..connect_v5("c", true, 0) });
        realm.world.bytes(client);
        govern(&mut realm, Vec::new(), rule);

        realm.world.cut(client);

        assert_eq!(realm.world.shared.retained_totals().0, retained, "{rule:?}");
    }
}

#[test]
fn subscriptions_that_read_the_keys_of_others_end_when_that_is_enforced() {
    let own = IdentityKeys::from_seeds(&[11; 32], &[11 ^ 0xFF; 32]).kid();
    let other = IdentityKeys::from_seeds(&[10; 32], &[10 ^ 0xFF; 32]).kid();
    let filters =
        [format!("_veil/1/jr/{own}"), format!("_veil/1/jr/{other}"), "#".to_owned(), "f/#".to_owned()];
    for (is_there, rule, kept) in [
        (true, DistributionRule::Observe, 4),
        (true, DistributionRule::Enforce, 2),
        (false, DistributionRule::Enforce, 2),
    ] {
        let mut realm = realm(Settings::default());
        let mut reader = realm.join_for("reader", 11, 600);
        for filter in &filters {
            realm.subscribe(&mut reader, filter);
        }
        if !is_there {
            realm.world.cut(reader.connection);
        }

        govern(&mut realm, Vec::new(), rule);

        if !is_there {
            realm.join_for("reader", 11, 600);
        }
        let session = realm.world.shard(0).session("reader", 10).unwrap();
        assert_eq!(session.subscriptions.len(), kept, "{rule:?}, connected: {is_there}");
    }
}
