//! The modes of the paper: what a client gets that asks for one, beside others that do not (VEIL-1 section 7).

use veilmq_protocol::veil::record::ControlOp;

use super::one_trip::client;
use super::*;

const SUITE: Suite = Suite::Aes256CbcHmacSha256;

/// A broker that serves Schemes 2 and 4, and all of them as in the paper.
fn paper() -> Realm {
    realm_changing(Settings { reason_strings: false, ..Settings::default() }, |veil| {
        veil.paper_modes = Schemes::ALL;
    })
}

impl Realm {
    /// Connects by COMPACT; None if the broker refuses.
    fn compact_client(&mut self, name: &str, seed: u8, schemes: &[Scheme], suite: Suite) -> Option<Client> {
        let connect = connect_v5(name, true, 0);
        let (bytes, awaiting) = self.compact(seed, connect, Schemes::of(schemes), suite, seed);
        let connection = self.send_connect(&bytes);
        let connack = self.world.bytes(connection);
        let established = awaiting.handle(&connack, &self.anchors, Some(1_800_000_000)).ok()?;
        Some(client(connection, established).0)
    }
}

#[test]
fn who_asks_for_a_mode_of_the_paper_shares_weak_keys_with_others_that_do_and_nobody_else_does() {
    for (scheme, record_type) in [(Scheme::Three, 5), (Scheme::Four, 4)] {
        let mut realm = paper();
        let mut paper = realm.compact_client("lake-1", 11, &[scheme], SUITE).unwrap();
        let mut other = realm.join("lake-2", 12, Schemes::of(&[Scheme::Four]), SUITE);
        for subscriber in [&mut paper, &mut other] {
            realm.subscribe(subscriber, "f/#");
            realm.received(subscriber);
        }
        let (press, _) = realm.world.join("press-07", true, 0);
        realm.world.publish(press, "f/t", LONG, QoS::AtMostOnce, 0);

        let mut bytes = realm.world.bytes(paper.connection);
        let grant = paper.opener.next(&mut bytes, 1 << 20).unwrap().unwrap();
        let Content::Control(range) = grant.content else { panic!("a key comes first") };
        let ControlOp::GroupGrant { outer_tag, suite, .. } = ControlOp::parse(&bytes[range]).unwrap() else {
            panic!("a key comes first")
        };
        assert_eq!((outer_tag, suite), (false, SUITE), "{scheme:?}");
        assert_eq!(bytes[grant.consumed], record_type);
        assert_eq!(realm.received(&mut other), [format!("FAN f/t {LONG:?} qos0")], "it has FAN-D");
    }
}

#[test]
fn schemes_that_are_served_in_modes_of_the_paper_alone_are_refused_to_everybody_else() {
    for scheme in [Scheme::One, Scheme::Three] {
        let mut realm = paper();
        assert!(realm.compact_client("lake-1", 11, &[scheme], SUITE).is_some(), "{scheme:?}");
        assert!(realm.compact_client("lake-2", 12, &[scheme], Suite::Aes256Gcm).is_none(), "another suite");
        let (sigma, _) = realm.begin("lake-3", Schemes::of(&[scheme]), SUITE);
        assert_eq!(realm.world.bytes(sigma), [0x20, 3, 0, 0x8C, 0], "another handshake");
        let mut plain = realm_changing(Settings::default(), |_| {});
        assert!(plain.compact_client("lake-1", 11, &[scheme], SUITE).is_none(), "not served");
    }
}
