//! What a head's signature does not cover: the wraps behind it.

use veilmq_core::{Access, DistributionRule, Policies};
use veilmq_protocol::veil::distribution::{Wrap, put_bundle};

use super::distribution::{
    ISSUER, NO_SUBSCRIBERS, READER, arrive, code, enforcing, fields, head, head_topic, keys, wrap_for,
};
use super::*;

const STRANGER: u8 = 12;

#[test]
fn the_wraps_behind_a_head_that_is_retained_are_changed_by_its_issuer_alone() {
    let mut realm = enforcing(Vec::new());
    let policies = Policies::new(Vec::new()).unwrap().with_distribution(DistributionRule::Verify);
    realm.world.set_access(Access { policies, ..Access::open_to(true) });
    let issuer = arrive(&mut realm, "issuer", ISSUER);
    let stranger = arrive(&mut realm, "stranger", STRANGER);
    let plain = realm.world.connect(&connect_v5("plain", true, 0));
    realm.world.bytes(plain);
    let first = fields(&realm, 1, 1_000);
    let genuine = head(&first);
    let with = |wraps: &[Wrap]| {
        let mut payload = first.sign(&keys(ISSUER)).unwrap().as_bytes().to_vec();
        put_bundle(&mut payload, wraps);
        payload
    };
    let for_itself = with(&[wrap_for(STRANGER)]);
    let broken = with(&[Wrap { ciphertext: vec![8; 53], ..wrap_for(READER) }]);

    for (writer, payload, expected) in [
        // Whoever brings the first one, or the same again.
        (plain, &genuine, NO_SUBSCRIBERS),
        (stranger, &genuine, NO_SUBSCRIBERS),
        (stranger, &for_itself, 0x87),
        (plain, &broken, 0x87),
        (issuer, &broken, NO_SUBSCRIBERS),
    ] {
        assert_eq!(code(&mut realm, writer, &head_topic(), payload, true), expected);
    }
    realm.world.subscribe(plain, &head_topic(), QoS::AtMostOnce);
    assert!(realm.world.bytes(plain).ends_with(&broken), "what its issuer has said last is retained");
}
