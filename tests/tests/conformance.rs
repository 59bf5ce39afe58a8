//! The scenarios of `tests/conformance` hold: in the pure core with one shard and with four, and in the real broker.
//!
//! `tests/conformance/README.md` says how to run one file or one scenario.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use veilmq_tests::conformance::{
    Failure, Network, OverTls, OverWebSocket, Scenario, Simulated, Tcp, Transport, Version, load, run,
};
use veilmq_tests::tools::workspace_root;

/// Most of the time a scenario waits for the network or for time to pass.
const THREADS: usize = 12;

/// The scenarios that the environment variable `SCENARIOS` asks for: those whose title, with its file and line, contains it.
fn scenarios() -> Vec<Scenario> {
    let mut all = load(&workspace_root().join("tests/conformance")).unwrap_or_else(|error| panic!("{error}"));
    if let Ok(wanted) = std::env::var("SCENARIOS") {
        all.retain(|scenario| scenario.to_string().contains(&wanted));
    }
    assert!(!all.is_empty(), "there is no such scenario");
    all
}

/// Runs each scenario in each of its versions, on several threads, and fails with every failure.
fn assert_all_hold<T: Transport>(start: impl Fn(&Scenario) -> T + Sync) {
    let scenarios = scenarios();
    let each = |scenario: &'_ Scenario| scenario.versions.clone();
    let runs: Vec<(&Scenario, Version)> = scenarios
        .iter()
        .flat_map(|scenario| each(scenario).into_iter().map(move |version| (scenario, version)))
        .collect();
    let next = AtomicUsize::new(0);
    let failures: Mutex<Vec<(usize, Failure)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((scenario, version)) = runs.get(index) else { return };
                    if let Err(failure) = run(scenario, *version, &mut start(scenario)) {
                        failures.lock().unwrap_or_else(PoisonError::into_inner).push((index, failure));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by_key(|(index, _)| *index);
    let shown: Vec<String> = failures.iter().map(|(_, failure)| failure.to_string()).collect();
    assert!(shown.is_empty(), "{} of {} do not hold:\n\n{}\n", shown.len(), runs.len(), shown.join("\n\n"));
}

#[test]
fn every_scenario_holds_in_the_pure_core() {
    for shards in [1, 4] {
        println!("{shards} shards");
        assert_all_hold(|scenario| Simulated::start(shards, &scenario.changes));
    }
}

/// [MQTT-4.2-1], [MQTT311-7.1.1-1]
#[test]
fn every_scenario_holds_over_tcp() {
    assert_all_hold(|scenario| Network::start(Tcp, &scenario.changes));
}

/// [MQTT-6.0.0-2], [MQTT311-6.0.0-2]
#[test]
fn every_scenario_holds_over_websocket() {
    assert_all_hold(|scenario| Network::start(OverWebSocket, &scenario.changes));
}

#[test]
fn every_scenario_holds_over_tls() {
    let tls = OverTls::default();
    assert_all_hold(|scenario| Network::start(tls.clone(), &scenario.changes));
}
