//! Users that somebody vouches for, for a while.

use veilmq_core::{Access, Verdict};
use veilmq_protocol::{Connect, QoS};
use veilmq_simulator::{Conn, World};

use super::{connect_as, users, will};

fn access(authorities: &[u64]) -> Access {
    Access { authorities: authorities.into(), users: users(&[("file", 1)]), ..Access::open_to(true) }
}

/// Connects as ann, for whom somebody vouches for so long; takes CONNACK.
fn join(world: &mut World, client_id: &str, authority: u64, milliseconds: u64) -> (Conn, Vec<String>) {
    let connect = Connect { will: will("w", 0), ..connect_as(client_id, "ann", 60) };
    let connection = world.connect(&connect);
    let until = world.now() + milliseconds;
    world.judge(Verdict::Vouched { authority, until });
    let answer = world.received(connection);
    (connection, answer)
}

#[test]
fn a_connection_ends_with_the_voucher_and_its_will_is_still_published() {
    let mut world = World::new(1);
    world.set_access(access(&[7]));
    let (watcher, _) = world.join("watcher", true, 0);
    world.subscribe(watcher, "w", QoS::AtMostOnce);
    world.received(watcher);
    let (ann, connack) = join(&mut world, "a", 7, 10_000);
    assert!(connack[0].starts_with("CONNACK 0x00"), "{connack:?}");

    world.pass(9_999);
    assert!(!world.is_closed(ann));
    world.pass(2);

    assert_eq!(world.received(ann), ["DISCONNECT 0x87"]);
    assert!(world.is_closed(ann));
    assert_eq!(world.received(watcher).len(), 1);
}

#[test]
fn a_voucher_is_worth_nothing_once_who_gave_it_is_not_believed() {
    // [B07]
    let mut world = World::new(1);
    world.set_access(access(&[7, 8]));
    let (first, _) = join(&mut world, "a", 7, 10_000);
    let (second, _) = join(&mut world, "b", 8, 10_000);

    world.set_access(access(&[8]));

    assert_eq!(world.received(first), ["DISCONNECT 0x87"]);
    assert!(!world.is_closed(second));
    let (_, connack) = join(&mut world, "a", 7, 10_000);
    assert_eq!(connack, ["CONNACK 0x86"]);
    let (_, connack) = join(&mut world, "a", 8, 10_000);
    assert!(connack[0].starts_with("CONNACK 0x00"), "{connack:?}");
}
