//! The shape of the workspace, proved on its dependency graph: what the broker cannot reach, it cannot do.
//!
//! The graph is the one Cargo resolves with every feature of every package on, for all platforms.

#![allow(clippy::unwrap_used, reason = "helpers of tests may fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;
use veilmq_tests::tools::{run, workspace_root};

/// Everything on the broker's side of the boundary.
const BROKER_SIDE: [&str; 5] =
    ["veilmq", "veilmq-bridge", "veilmq-core", "veilmq-config", "veilmq-simulator"];
/// Everything that holds or uses end-to-end keys.
const CLIENT_SIDE: [&str; 2] = ["veilmq-client", "veilmq-cli"];
/// What `veilmq-core` may depend on. It asks for time, randomness, network and disk; it never fetches them.
const CORE_DEPENDENCIES: [&str; 6] =
    ["dashmap", "siphasher", "thiserror", "tracing", "veilmq-protocol", "zeroize"];
/// Packages whose purpose is time, randomness, network, disk or threads.
const EFFECTS: [&str; 14] = [
    "async-std",
    "axum",
    "chrono",
    "getrandom",
    "hyper",
    "mio",
    "nix",
    "rand",
    "rustix",
    "sled",
    "smol",
    "socket2",
    "time",
    "tokio",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    /// What a built program contains, and what builds it.
    Shipped,
    /// Tests of workspace members as well.
    All,
}

/// The resolved dependency graph. Nodes are package ids: two versions of a package are two nodes.
struct Graph {
    names: BTreeMap<String, String>,
    shipped: BTreeMap<String, BTreeSet<String>>,
    all: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn load() -> Self {
        let mut command = Command::new(env!("CARGO"));
        command.args(["metadata", "--all-features", "--locked", "--format-version", "1"]);
        let output = run(command.current_dir(workspace_root()), 120);
        assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();

        let packages = list(&metadata["packages"]).iter();
        let names = packages.map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let mut graph = Self { names, shipped: BTreeMap::new(), all: BTreeMap::new() };
        for node in list(&metadata["resolve"]["nodes"]) {
            for edge in list(&node["deps"]) {
                let (from, to) = (text(&node["id"]), text(&edge["pkg"]));
                if list(&edge["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev") {
                    graph.shipped.entry(from.clone()).or_default().insert(to.clone());
                }
                graph.all.entry(from).or_default().insert(to);
            }
        }
        graph
    }

    /// The id of a package of this workspace.
    fn id(&self, name: &str) -> String {
        let mut found = self.names.iter().filter(|(_, candidate)| *candidate == name);
        found.next().unwrap_or_else(|| panic!("the workspace has no package {name}")).0.clone()
    }

    fn edges(&self, id: &str, kinds: Kinds) -> BTreeSet<String> {
        let edges = if kinds == Kinds::Shipped { &self.shipped } else { &self.all };
        edges.get(id).cloned().unwrap_or_default()
    }

    /// The names of the packages that `package` depends on directly.
    fn direct(&self, package: &str, kinds: Kinds) -> BTreeSet<String> {
        self.edges(&self.id(package), kinds).iter().map(|id| self.names[id].clone()).collect()
    }

    /// The names of the packages on a shortest path from `from` to `to`, both included.
    fn path(&self, from: &str, to: &str, kinds: Kinds) -> Option<Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut paths = vec![vec![self.id(from)]];
        while !paths.is_empty() {
            let mut longer = Vec::new();
            for path in paths {
                let last = path.last().unwrap();
                if self.names[last] == to {
                    return Some(path.iter().map(|id| self.names[id].clone()).collect());
                }
                for next in self.edges(last, kinds) {
                    if seen.insert(next.clone()) {
                        longer.push([path.clone(), vec![next]].concat());
                    }
                }
            }
            paths = longer;
        }
        None
    }

    /// The names of the packages of this workspace.
    fn ours(&self) -> impl Iterator<Item = &String> {
        self.names.values().filter(|name| name.starts_with("veilmq"))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

#[test]
fn no_dependency_path_leads_from_the_broker_to_end_to_end_keys() {
    let graph = Graph::load();

    for broker in BROKER_SIDE {
        for client in CLIENT_SIDE {
            assert_eq!(graph.path(broker, client, Kinds::All), None, "{broker} must not reach {client}");
        }
    }

    let shown = graph.path("veilmq-cli", "veilmq-client", Kinds::Shipped);
    assert_eq!(shown.map(|path| path.len()), Some(2), "the walk finds paths that exist");
}

#[test]
fn the_broker_that_enforces_links_nothing_that_unwraps_a_group_key() {
    let graph = Graph::load();

    for broker in BROKER_SIDE {
        assert_eq!(graph.path(broker, "hpke", Kinds::All), None, "{broker} must not reach hpke");
    }
    assert!(graph.path("veilmq-client", "hpke", Kinds::Shipped).is_some(), "the client unwraps with it");
}

#[test]
fn no_dependency_path_leads_from_the_client_to_the_broker() {
    let graph = Graph::load();

    for client in CLIENT_SIDE {
        for broker in BROKER_SIDE {
            assert_eq!(graph.path(client, broker, Kinds::All), None, "{client} must not reach {broker}");
        }
    }
}

#[test]
fn the_core_depends_on_nothing_that_reaches_the_world() {
    let graph = Graph::load();

    let allowed: BTreeSet<String> = CORE_DEPENDENCIES.map(str::to_owned).into();
    let direct = graph.direct("veilmq-core", Kinds::Shipped);
    assert!(direct.is_subset(&allowed), "{direct:?} should be among {allowed:?}");
    for effect in EFFECTS {
        assert_eq!(
            graph.path("veilmq-core", effect, Kinds::Shipped),
            None,
            "the core must not reach {effect}"
        );
    }
    assert!(graph.path("veilmq", "tokio", Kinds::Shipped).is_some(), "the walk finds paths that exist");
}

#[test]
fn the_protocol_package_depends_on_no_other_package_of_the_workspace() {
    let graph = Graph::load();

    let ours =
        graph.direct("veilmq-protocol", Kinds::All).into_iter().filter(|name| name.starts_with("veilmq"));

    assert_eq!(ours.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn mqttbytes_is_an_oracle_of_tests_and_reaches_no_program() {
    let graph = Graph::load();

    for package in graph.ours() {
        assert_eq!(
            graph.path(package, "mqttbytes", Kinds::Shipped),
            None,
            "{package} must not ship mqttbytes"
        );
    }
    assert!(graph.direct("veilmq-protocol", Kinds::All).contains("mqttbytes"), "the oracle is still in use");
}

#[test]
fn no_program_of_the_broker_contains_the_simulator() {
    let graph = Graph::load();

    for package in ["veilmq", "veilmq-core"] {
        assert_eq!(graph.path(package, "veilmq-simulator", Kinds::Shipped), None, "{package}");
    }
    assert!(graph.direct("veilmq-core", Kinds::All).contains("veilmq-simulator"), "tests of the core use it");
}
