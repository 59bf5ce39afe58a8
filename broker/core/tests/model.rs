//! Random runs of a whole broker against a model that is obviously right.
//!
//! The clients obey MQTT, and remember what they were promised. Whatever happens on the way (lost connections, takeovers,
//! commits that are late or fail, crashes between any two effects), an acknowledged message reaches every session that wanted it and is still there,
//! in order, QoS 2 exactly once, and in the end nothing is left over. `VEILMQ_SEQUENCES` sets the number of runs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod reference;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use reference::{FILTERS, Model, TOPICS};
use veilmq_protocol::QoS;

/// Something that a client, the network, the store or time does.
#[derive(Clone, Debug)]
enum Action {
    Connect {
        client: usize,
        clean_start: bool,
        expiry_seconds: u32,
        receive_maximum: u16,
    },
    Disconnect {
        client: usize,
    },
    Cut {
        client: usize,
    },
    Subscribe {
        client: usize,
        filter: usize,
        qos: QoS,
    },
    Unsubscribe {
        client: usize,
        filter: usize,
    },
    Publish {
        client: usize,
        topic: usize,
        qos: QoS,
    },
    Acknowledge {
        client: usize,
        count: usize,
    },
    Pass {
        seconds: u64,
    },
    HoldCommits,
    Commit {
        batches: usize,
    },
    FailCommit {
        batches: usize,
        is_written: bool,
    },
    Crash {
        shards: u16,
    },
    /// The next action is the last of this broker: it dies after so many effects of it.
    DieWithin {
        effects: usize,
        shards: u16,
    },
}

const CLIENTS: usize = 3;

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn action(failures: bool) -> impl Strategy<Value = Action> {
    let connect = (0..CLIENTS, prop::bool::weighted(0.15), 0..4_usize, 1..5_u16).prop_map(
        |(client, clean_start, expiry, receive_maximum)| Action::Connect {
            client,
            clean_start,
            expiry_seconds: [0, 30, 300, u32::MAX][expiry],
            receive_maximum,
        },
    );
    let publish = (0..CLIENTS, 0..TOPICS.len(), qos());
    let subscribe = (0..CLIENTS, 0..FILTERS.len(), qos());
    prop_oneof![
        12 => connect,
        2 => (0..CLIENTS).prop_map(|client| Action::Disconnect { client }),
        6 => (0..CLIENTS).prop_map(|client| Action::Cut { client }),
        10 => subscribe.prop_map(|(client, filter, qos)| Action::Subscribe { client, filter, qos }),
        3 => (0..CLIENTS, 0..FILTERS.len())
            .prop_map(|(client, filter)| Action::Unsubscribe { client, filter }),
        40 => publish.prop_map(|(client, topic, qos)| Action::Publish { client, topic, qos }),
        25 => (0..CLIENTS, 1..6_usize).prop_map(|(client, count)| Action::Acknowledge { client, count }),
        2 => (1..100_u64).prop_map(|seconds| Action::Pass { seconds }),
        4 => Just(Action::HoldCommits),
        8 => (1..9_usize).prop_map(|batches| Action::Commit { batches }),
        4 => (1..5_usize, any::<bool>()).prop_map(move |(batches, is_written)| {
            if failures { Action::FailCommit { batches, is_written } } else { Action::Commit { batches } }
        }),
        2 => (1..4_u16).prop_map(|shards| Action::Crash { shards }),
        3 => (0..9_usize, 1..4_u16).prop_map(|(effects, shards)| Action::DieWithin { effects, shards }),
    ]
}

fn run(shards: u16, actions: &[Action]) {
    // Two runs of three let queues spill.
    let memory_bytes = [0, 600, 1 << 20][actions.len() % 3];
    let mut model = Model::new(shards, CLIENTS, memory_bytes);
    let mut dies = None;
    for action in actions {
        let crash = dies.take();
        match *action {
            Action::Connect { client, clean_start, expiry_seconds, receive_maximum } => {
                model.connect(client, clean_start, expiry_seconds, receive_maximum);
            }
            Action::Disconnect { client } => model.disconnect(client),
            Action::Cut { client } => model.cut(client),
            Action::Subscribe { client, filter, qos } => model.subscribe(client, filter, qos),
            Action::Unsubscribe { client, filter } => model.unsubscribe(client, filter),
            Action::Publish { client, topic, qos } => model.publish(client, topic, qos),
            Action::Acknowledge { client, count } => model.acknowledge(client, count),
            Action::Pass { seconds } => model.pass(seconds),
            Action::HoldCommits => model.hold_commits(),
            Action::Commit { batches } => model.commit(batches),
            Action::FailCommit { batches, is_written } => model.fail_commits(batches, is_written),
            Action::Crash { shards } => model.crash(shards),
            Action::DieWithin { effects, shards } => {
                model.die_after(effects);
                dies = Some(shards);
            }
        }
        model.read_everything();
        if let Some(shards) = crash {
            model.crash(shards);
        }
    }
    if let Some(shards) = dies {
        model.crash(shards);
    }
    model.conclude();
}

fn config() -> ProptestConfig {
    let asked = std::env::var("VEILMQ_SEQUENCES").ok();
    let cases = asked.map_or(256, |number| number.parse().expect("VEILMQ_SEQUENCES is a number"));
    let failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("seeds")) as _);
    ProptestConfig { cases, failure_persistence, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_acknowledged_message_arrives_whatever_breaks(
        shards in 1..4_u16,
        actions in prop::collection::vec(action(false), 1..120),
    ) {
    // [C06]
        run(shards, &actions);
    }

    #[test]
    fn a_store_that_fails_now_and_then_breaks_no_promise(
        shards in 1..4_u16,
        actions in prop::collection::vec(action(true), 1..120),
    ) {
        run(shards, &actions);
    }
}
