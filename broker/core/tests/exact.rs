//! Random runs of the core, compared packet by packet with a whole broker that is written as plainly as possible.
//!
//! Every commit succeeds at once here; `model.rs` is for what happens when commits are late or fail. `VEILMQ_SEQUENCES` sets
//! the number of runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod broker_model;

use broker_model::Run;
use broker_model::action::{Action, action};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

fn config() -> ProptestConfig {
    let asked = std::env::var("VEILMQ_SEQUENCES").ok();
    let cases = asked.map_or(300, |number| number.parse().expect("VEILMQ_SEQUENCES is a number"));
    let failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("seeds")) as _);
    ProptestConfig { cases, failure_persistence, ..ProptestConfig::default() }
}

/// Two runs of three let queues spill: all of what waits, or all but a message or two.
fn memory_bytes(actions: &[Action]) -> usize {
    [0, 600, 1 << 20][actions.len() % 3]
}

/// In half of the runs messages of QoS 0 wait for absent clients.
fn queues_qos0(actions: &[Action]) -> bool {
    actions.len() % 2 == 1
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_client_receives_what_the_model_says(
        shards in 1..4_u16,
        actions in prop::collection::vec(action(), 1..150),
    ) {
    // [C06]
        let mut run = Run::new(shards, memory_bytes(&actions), queues_qos0(&actions));
        for action in &actions {
            run.step(action);
        }
    }
}
