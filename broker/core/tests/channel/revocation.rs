//! A revoked certificate opens no channel and keeps none (VEIL-1 section 3.2): lists that clients bring, and those of the driver.

use veilmq_core::RevocationError;
use veilmq_protocol::veil::distribution::{Crl, CrlFields, DistributionTopic, RevocationReason, Revoked};
use veilmq_protocol::{Publish, Will};

use super::*;

/// A list of the authority of the realm, or of whoever has this seed and says to be an authority.
fn list(seed: u8, number: u64, serials: &[u64]) -> Crl {
    let issuer = identity(seed, "authority", Roles::CA, None);
    let entry = |serial: &u64| Revoked { serial: *serial, reason: RevocationReason::Unspecified };
    let fields = CrlFields {
        number,
        this_update: 1_800_000_000,
        next_update: 1_900_000_000,
        issuer: issuer.certificate().clone(),
        revoked: serials.iter().map(entry).collect(),
    };
    fields.sign(issuer.keys()).unwrap()
}

/// Has a client bring a list, retained, and returns the Reason Code of PUBACK.
fn bring(realm: &mut Realm, connection: Conn, list: &Crl) -> u8 {
    let topic = DistributionTopic::Revocations { authority: list.issuer.kid() }.to_string();
    let publish =
        Publish { payload: list.as_bytes(), retain: true, ..publish(&topic, "", QoS::AtLeastOnce, 1) };
    realm.world.send(connection, &Packet::Publish(publish));
    realm.world.bytes(connection)[4]
}

/// What the broker answers to a handshake of this identity in SIGMA.
fn handshake(realm: &mut Realm, client_id: &str, seed: u8) -> Vec<u8> {
    let (connection, awaiting) = realm.begin(client_id, Schemes::ALL, Suite::Aes256Gcm);
    let bytes = realm.world.bytes(connection);
    let (frame, _) = next_frame(&bytes, usize::MAX).unwrap().unwrap();
    let Packet::Auth(auth) = Packet::decode(frame, ProtocolVersion::V5).unwrap() else { panic!("no AUTH") };
    let identity = realm.identity(seed, client_id);
    let (finish, _) =
        awaiting.handle(auth.data.unwrap(), &identity, &realm.anchors, None, Some(1_800_000_000)).unwrap();
    realm.finish(connection, &finish);
    realm.world.bytes(connection)
}

#[test]
fn a_list_that_anybody_brings_ends_the_connections_it_names_and_lets_none_of_them_in_again() {
    for shards in [1, 3] {
        let mut realm = realm(Settings { shards, ..Settings::default() });
        let mut thief = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
        let mut lake = realm.join("lake-1", 11, Schemes::ALL, Suite::Aes256Gcm);
        let (mut proving, resumption) = realm.open(10, connect_v5("press-08", true, 0), 1);
        let (bearer, _) = realm.world.join("anybody", true, 0);

        assert_eq!(bring(&mut realm, bearer, &list(1, 1, &[10])), 0x10);

        assert_eq!(realm.received(&mut thief), ["DISCONNECT 0x87"], "and no detail");
        assert!(realm.world.is_closed(thief.connection));
        assert_eq!(realm.world.sample("veilmq_connections_closed_total", "revoked"), 1);
        realm.send(&mut lake, &[Packet::PingReq]);
        assert_eq!(realm.received(&mut lake), ["PINGRESP"]);
        assert_eq!(handshake(&mut realm, "press-07", 10), [0x20, 3, 0, 0x87, 0]);
        assert!(handshake(&mut realm, "lake-2", 11).len() > 100, "CONNACK with ServerFinish");
        // Who has not shown yet that it is there.
        realm.send(&mut proving, &[Packet::PingReq]);
        assert_eq!(realm.received(&mut proving), ["DISCONNECT 0x87"]);
        // A ticket is good for nothing: the broker goes on with SIGMA, which asks for the certificate.
        let (connect, _) = realm.resume(connect_v5("press-08", true, 0), resumption.unwrap());
        let connection = realm.send_connect(&connect);
        assert_eq!(realm.world.bytes(connection)[0], 0xF0, "AUTH");
    }
}

#[test]
fn a_list_counts_if_its_authority_is_trusted_and_it_is_not_older_than_the_last() {
    let mut realm = realm(Settings::default());
    let client = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
    let (bearer, _) = realm.world.join("anybody", true, 0);

    // Where nothing is enforced it is passed on all the same; whoever reads it verifies it.
    assert_eq!(bring(&mut realm, bearer, &list(7, 1, &[10])), 0x10, "of a stranger");
    assert!(!realm.world.is_closed(client.connection));
    assert_eq!(bring(&mut realm, bearer, &list(1, 3, &[])), 0x10);
    assert_eq!(bring(&mut realm, bearer, &list(1, 2, &[10])), 0x10, "older");
    assert_eq!(bring(&mut realm, bearer, &list(1, 3, &[10])), 0x10, "another under the same number");
    assert!(!realm.world.is_closed(client.connection));
    let shared = &realm.world.shared;
    assert!(matches!(shared.revoke(&list(1, 2, &[10])), Err(RevocationError::Rollback { known: 3, .. })));
    assert!(matches!(shared.revoke(&list(7, 9, &[10])), Err(RevocationError::Object(_))));
    assert_eq!(shared.revoke(&list(1, 3, &[])), Ok(false), "the one that is known");
    assert_eq!(shared.revocations(), [list(1, 3, &[])]);

    assert_eq!(bring(&mut realm, bearer, &list(1, 4, &[10])), 0x10);
    assert!(realm.world.is_closed(client.connection));
}

#[test]
fn a_list_of_the_driver_and_one_that_is_retained_count_too() {
    let mut realm = realm(Settings { shards: 2, ..Settings::default() });
    let press = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
    let lake = realm.join("lake-1", 11, Schemes::ALL, Suite::Aes256Gcm);
    let stranger = identity(7, "authority", Roles::CA, None);
    let (bearer, _) = realm.world.join("anybody", true, 0);
    bring(&mut realm, bearer, &list(7, 1, &[3]));

    assert_eq!(realm.world.shared.revoke(&list(1, 1, &[11])), Ok(true));
    assert!(!realm.world.is_closed(lake.connection), "the shards have to be told");
    realm.world.tell_access();
    assert!(realm.world.is_closed(lake.connection) && !realm.world.is_closed(press.connection));

    assert!(!realm.world.shared.revoke_retained(), "its authority is not trusted");
    realm.world.shared.trust().write().unwrap().add(stranger.certificate().clone()).unwrap();
    assert!(realm.world.shared.revoke_retained());
    assert!(!realm.world.shared.revoke_retained(), "nothing is new");
    assert_eq!(realm.world.shared.revocations().len(), 2);
}

#[test]
fn an_authority_that_is_trusted_no_more_takes_its_clients_along() {
    let mut realm = realm(Settings::default());
    let press = realm.join("press-07", 10, Schemes::ALL, Suite::Aes256Gcm);
    let (plain, _) = realm.world.join("plain", true, 0);
    let authority = realm.authority.kid();

    realm.world.shared.trust().write().unwrap().remove(authority);
    realm.world.tell_access();

    assert!(realm.world.is_closed(press.connection));
    assert!(!realm.world.is_closed(plain));
}

#[test]
fn nobody_says_the_will_of_a_revoked_client() {
    let mut realm = realm(Settings::default());
    let (watcher, _) = realm.world.join("watcher", true, 0);
    realm.world.subscribe(watcher, "wills/#", QoS::AtMostOnce);
    realm.world.bytes(watcher);
    let will = |topic| Will {
        qos: QoS::AtMostOnce,
        retain: false,
        topic: veilmq_protocol::TopicName::new(topic).unwrap(),
        payload: b"gone",
        delay_seconds: 0,
        properties: veilmq_protocol::PublishProperties::default(),
    };
    for (client_id, seed, topic) in [("press-07", 10, "wills/press"), ("lake-1", 11, "wills/lake")] {
        let connect = Connect { will: Some(will(topic)), ..connect_v5(client_id, true, 0) };
        let client = realm.join_with(connect, seed, Schemes::ALL, Suite::Aes256Gcm);
        if seed == 10 {
            assert_eq!(bring(&mut realm, watcher, &list(1, 1, &[10])), 0x10);
            assert!(realm.world.is_closed(client.connection));
        } else {
            realm.world.cut(client.connection);
        }
    }

    assert_eq!(realm.world.received(watcher), ["PUBLISH wills/lake \"gone\" qos0"]);
}
