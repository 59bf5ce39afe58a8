//! The experiment of the paper with few messages: every contestant runs to its end, and the operations that the code counts are
//! those of the paper's Table 2.
//!
//! A broker that is not there is skipped with a line that says so, except where `CI` is set: there its absence is a failure.

#![expect(clippy::unwrap_used, reason = "every failure here is a failed test")]

mod support;

use serde_json::{Value, json};
use support::{bench, mosquitto, text, veilmq};

const SUBSCRIBERS: u64 = 3;

/// Encryptions, MACs, tags over digests, digests.
fn operations([encryptions, macs, digest_tags, digests]: [u64; 4]) -> Value {
    let count = |count: u64| json!(count as f64);
    json!({
        "encryptions": count(encryptions),
        "macs": count(macs),
        "digest_tags": count(digest_tags),
        "digests": count(digests),
    })
}

#[test]
fn operations_counted_at_run_time_are_those_of_the_papers_table_2_in_every_suite() {
    let (Some(veilmq), Some(mosquitto)) = (veilmq(), mosquitto()) else { return };
    const N: u64 = SUBSCRIBERS;
    // T_E and T_H of section 7 of the protocol document for one message, by publisher, broker and each subscriber; `veil` has digests
    // as well.
    let table_2 = [
        ("scheme1", [[N, N, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]),
        ("scheme2", [[2 * N, 2 * N, 0, 0], [2 * N, 2 * N, 0, 0], [2, 2, 0, 0]]),
        ("scheme3", [[2, 2, 0, 0], [2, 2, 0, 0], [2, 2, 0, 0]]),
        ("scheme4", [[1, 2, 0, 0], [0, 2, 0, 0], [1, 2, 0, 0]]),
        ("veil", [[1, 2, 0, 0], [0, 1, N, 1], [1, 1, 1, 1]]),
    ];

    let plots = tempfile::tempdir().unwrap();
    let output = bench(&[
        "schemes",
        "--json",
        "--rounds=1",
        "--messages=20",
        &format!("--subscribers={N}"),
        &format!("--veilmq=veilmq={}", veilmq.display()),
        &format!("--mosquitto=mosquitto={}", mosquitto.display()),
        &format!("--plots={}", plots.path().display()),
    ]);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();

    let counted = report["counted"].as_array().unwrap();
    assert_eq!(counted.len(), 3 * table_2.len());
    for suite in 1..=3 {
        for (contestant, parties) in &table_2 {
            let row =
                counted.iter().find(|row| row["contestant"] == *contestant && row["suite"] == suite).unwrap();
            let found = [&row["publisher"], &row["broker"], &row["each_subscriber"]];
            assert_eq!(found, parties.map(operations).each_ref(), "{contestant}, suite {suite}");
        }
    }

    let measured = report["measured"].as_array().unwrap();
    assert_eq!(measured.len(), 3 * 7, "every contestant in every suite");
    for run in measured {
        for figure in
            ["publisher_connect_micros", "p50_micros", "broker_cpu_micros", "subscribers_cpu_micros"]
        {
            assert!(run[figure].as_f64().unwrap() > 0.0, "{figure}: {run}");
        }
    }
    let page = std::fs::read_to_string(plots.path().join("figures.md")).unwrap();
    assert!(page.contains("## Operations per message") && !page.contains("differs"), "{page}");
}

#[test]
fn a_broker_that_is_missing_is_named() {
    let output =
        bench(&["schemes", "--veilmq=veilmq=/nonexistent/veilmq", "--without-mosquitto", "--subscribers=1"]);

    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("/nonexistent/veilmq"), "{}", text(&output.stderr));
}
