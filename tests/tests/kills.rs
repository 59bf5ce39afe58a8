//! `kill -9` at random moments under load: whatever was acknowledged is there when the broker is back.
//!
//! `VEILMQ_KILLS` is the number of kills, `VEILMQ_SEED` repeats the choices of an earlier run.

use std::thread;
use std::time::Duration;

use veilmq_tests::broker::Broker;
use veilmq_tests::crash::dice::{Dice, from_environment, seed};
use veilmq_tests::crash::fleet::Fleet;

const WILL_DELAY_SECONDS: u32 = 1;
/// After so many kills everything that is owed must arrive.
const KILLS_BETWEEN_SETTLEMENTS: u64 = 10;

/// Kills `broker` so many times; returns what it had acknowledged and broke.
fn kill_under_load(mut broker: Broker, kills: u64, settle_limit: Duration) -> Vec<String> {
    let mut dice = Dice::new(seed());
    let mut fleet = Fleet::new(dice.split(), WILL_DELAY_SECONDS);
    fleet.enlist(broker.address()).expect("the broker takes subscriptions");
    for kill in 1..=kills {
        fleet.work(&mut broker, Duration::from_micros(20_000 + dice.below(500_000)));
        while dice.chance(30) {
            fleet.broker_starts();
            broker.spawn();
            thread::sleep(Duration::from_micros(dice.below(50_000)));
            broker.kill();
        }
        start(&mut fleet, &mut broker);
        if kill % KILLS_BETWEEN_SETTLEMENTS == 0 || kill == kills {
            fleet.settle(&mut broker, settle_limit);
            start(&mut fleet, &mut broker);
            println!("{kill} kills: {} messages acknowledged", fleet.acknowledged());
        }
        if !fleet.faults().is_empty() {
            println!("broken after {kill} kills");
            break;
        }
    }
    fleet.faults()
}

fn start(fleet: &mut Fleet, broker: &mut Broker) {
    fleet.broker_starts();
    broker.restart();
    if !broker.get("/readyz").body.contains("\"storage_quarantined\":null") {
        fleet.fault("the store was set aside".to_owned());
    }
    fleet.audit(broker.address());
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_at_qos_2_comes_twice_over_kills_at_random_moments() {
    // [C12], [E01]
    let kills = from_environment("VEILMQ_KILLS", 8);

    let faults = kill_under_load(Broker::start(), kills, Duration::from_secs(30));

    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn a_store_in_memory_is_found_to_lose_messages_sessions_and_retained_messages() {
    // A kill may come before a client has anything to lose, so that one kill may not show all of it.
    let mut expected =
        vec!["acknowledged and lost", "the session of live is lost", "was acknowledged", "Will"];
    for _ in 0..10 {
        let broker = Broker::start_configured(|address| {
            format!(
                "access.anonymous = true\nstorage.durability = \"memory\"\n[[listeners]]\naddress = \"{address}\"\n"
            )
        });
        let faults = kill_under_load(broker, 1, Duration::from_secs(1)).join("\n");
        expected.retain(|loss| !faults.contains(loss));
        if expected.is_empty() {
            return;
        }
    }
    panic!("never found: {expected:?}");
}
