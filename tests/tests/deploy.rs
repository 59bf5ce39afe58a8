//! What is shipped beside the broker says what the broker does: alerts, dashboard and handbook name metrics that exist.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use veilmq_tests::broker::Broker;
use veilmq_tests::certificates::Authority;
use veilmq_tests::tools::{require_tool, run, workspace_root};
use veilmq_tests::wire::{Wire, publish_packet};

fn read(path: &str) -> String {
    let path = workspace_root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs promtool, which must be content.
fn promtool(arguments: &[&str], file: &Path) {
    let Some(promtool) = require_tool("promtool") else { return };
    let checked = run(Command::new(promtool).args(arguments).arg(file), 60);
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// The names of metrics in a text, those of the series of a histogram as that of the histogram.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_of_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !is_of_name(character))
        .filter(|word| word.starts_with("veilmq_") || word.starts_with("process_"))
        .filter(|word| !word.ends_with('_'))
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned())
        .collect()
}

/// The values of the label `name` in a text.
fn values_in(text: &str, name: &str) -> BTreeSet<String> {
    let mut values = BTreeSet::new();
    for operator in ["=\"", "=~\"", "!=\""] {
        for behind in text.split(&format!("{name}{operator}")).skip(1) {
            values.extend(behind.split('"').next().unwrap().split('|').map(str::to_owned));
        }
    }
    values
}

/// The metrics of a broker that serves TLS, has a policy on end-to-end encryption and has stored something.
fn page_of_a_broker() -> String {
    let authority = Authority::new();
    let certificate = authority.issue_for_this_machine();
    let mut broker = Broker::configured(|address| {
        format!(
            "access.anonymous = true\n[[listeners]]\naddress = \"{address}\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{}\
             [[e2e.policies]]\nname = \"home\"\ntopics = \"sealed/#\"\n",
            certificate.on_listener()
        )
    });
    broker.restart();
    let (mut wire, _) = Wire::connect(broker.address(), "publisher", false);
    wire.subscribe("a", 1);
    wire.send(&publish_packet("a", 1, 1, false, b"payload")).unwrap();
    while wire.packet().expect("PUBACK arrives").first != 0x40 {}
    broker.get("/metrics").body
}

fn metrics_of(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("deploy/grafana-dashboard.json")).expect("the dashboard is JSON")
}

/// The expressions of the dashboard, with values for what Grafana fills in.
fn expressions() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let annotations = dashboard["annotations"]["list"].as_array().expect("annotations").iter();
    let expressions =
        targets.chain(annotations).map(|target| target["expr"].as_str().expect("an expression"));
    expressions.map(|text| text.replace("$__rate_interval", "5m").replace("$instance", ".*")).collect()
}

#[test]
fn every_metric_that_alerts_dashboard_and_handbook_name_is_one_of_the_broker() {
    let page = page_of_a_broker();
    let exist = metrics_of(&page);
    let dashboard = expressions().join("\n");
    for (place, text) in [
        ("deploy/alerts.yml", read("deploy/alerts.yml")),
        ("deploy/grafana-dashboard.json", dashboard),
        ("docs/operations.md", read("docs/operations.md")),
    ] {
        let named = metrics_in(&text);
        assert!(named.len() > 10, "{place}: {named:?}");
        // It is there once certificates were read again.
        let absent: Vec<_> =
            named.difference(&exist).filter(|name| *name != "veilmq_tls_reloads_total").collect();
        assert!(absent.is_empty(), "{place} names {absent:?}, which the broker does not have: {exist:?}");
        for label in ["result", "reason", "state", "level", "kind", "action"] {
            let named = values_in(&text, label);
            let absent: Vec<_> = named.difference(&values_in(&page, label)).cloned().collect();
            assert!(absent.is_empty(), "{place}: {label} is never {absent:?}");
        }
    }
}

/// The labels of each metric of end-to-end encryption and of channels on a page.
fn veil_metrics_of(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let families = ["e2e_", "keyhead_", "distribution_", "join_", "channel_"];
    let is_veil = |name: &str| {
        name.strip_prefix("veilmq_")
            .is_some_and(|rest| families.iter().any(|family| rest.starts_with(family)))
    };
    let mut metrics: BTreeMap<_, _> = metrics_of(page)
        .into_iter()
        .filter(|name| is_veil(name))
        .map(|name| (name, BTreeSet::new()))
        .collect();
    for (name, labels) in page.lines().filter_map(|line| line.split_once('{')) {
        let labels = labels.split("=\"").filter_map(|before| before.rsplit(['"', ',']).next());
        if let Some(known) = metrics.get_mut(name) {
            known.extend(labels.filter(|label| !label.starts_with('}')).map(str::to_owned));
        }
    }
    metrics
}

#[test]
fn the_protocol_names_every_metric_of_its_own_with_its_labels_and_no_other() {
    let protocol = read("docs/veil1-protocol.md");
    let section = protocol.split("### 13.3").nth(1).unwrap().split("### 13.4").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let documented: BTreeMap<String, BTreeSet<String>> = rows
        .map(|row| {
            let mut cells = row.split('|');
            let name = cells.next().unwrap().trim().trim_end_matches('`').to_owned();
            (name, quoted(cells.next().unwrap()))
        })
        .collect();

    assert_eq!(documented, veil_metrics_of(&page_of_a_broker()));
}

#[test]
fn the_alerts_are_rules_and_each_is_seen_to_fire_and_to_be_quiet() {
    let rules = read("deploy/alerts.yml");
    let tests = read("deploy/alerts.test.yml");
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        for test in ["fires", "is quiet"] {
            assert!(tests.contains(&format!("- name: {alert} {test}\n")), "no test: {alert} {test}");
        }
    }

    promtool(&["check", "rules"], &workspace_root().join("deploy/alerts.yml"));
    promtool(&["test", "rules"], &workspace_root().join("deploy/alerts.test.yml"));
}

#[test]
fn every_expression_of_the_dashboard_is_one_that_prometheus_takes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dashboard.yml");
    let rules = expressions().into_iter().enumerate().map(|(number, expression)| {
        let expression = serde_json::to_string(&expression).unwrap();
        format!("      - {{record: 'panel:{number}', expr: {expression}}}\n")
    });
    fs::write(&file, format!("groups:\n  - name: dashboard\n    rules:\n{}", rules.collect::<String>()))
        .unwrap();

    promtool(&["check", "rules"], &file);
}

#[test]
fn the_panels_of_the_dashboard_do_not_overlap_and_have_numbers_of_their_own() {
    let dashboard = dashboard();
    let mut numbers = BTreeSet::new();
    let mut places = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(numbers.insert(panel["id"].as_u64().unwrap()), "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(x < 24 && places.insert((x, y)), "{} lies on another", panel["title"]);
            }
        }
    }
}
