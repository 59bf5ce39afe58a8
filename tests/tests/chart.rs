//! The Helm chart as Helm renders it: with its default values and with every value changed, each object is what a cluster is given.
//!
//! Whether a cluster takes the objects is not shown: the schemas of Kubernetes are not at hand.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use veilmq_tests::broker::Broker;
use veilmq_tests::tools::{built_program, require_installed, run, workspace_root};

const HELM: &str = "node/node_modules/.helm/helm/helm";
/// Objects are read by the YAML of Python and handed on as JSON.
const TO_JSON: &str = "import json, sys, yaml; json.dump([one for one in yaml.safe_load_all(open(sys.argv[1])) if one], sys.stdout)";

fn chart() -> PathBuf {
    workspace_root().join("deploy/helm/veilmq")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// What Helm makes of the chart for a release named `plant`.
struct Rendered(Vec<Value>);

/// Renders the chart with `values`, a YAML document, over its own; nothing where Helm is not installed.
fn render(values: &str) -> Option<Rendered> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    fs::write(&file, values).unwrap();
    let mut helm = Command::new(require_installed(HELM)?);
    helm.args([
        "template",
        "plant",
        "--kube-version",
        "1.30.0",
        "--api-versions",
        "monitoring.coreos.com/v1",
        "--values",
    ]);
    let output = run(helm.arg(&file).arg(chart()), 60);
    assert!(output.status.success(), "{}", text(&output));
    read_yaml(folder.path(), &output.stdout)
}

fn read_yaml(folder: &Path, yaml: &[u8]) -> Option<Rendered> {
    let file = folder.join("rendered.yaml");
    fs::write(&file, yaml).unwrap();
    let python = require_installed(".venv/bin/python")?;
    let output = run(Command::new(python).args(["-c", TO_JSON]).arg(&file), 60);
    assert!(output.status.success(), "{}", text(&output));
    Some(Rendered(serde_json::from_slice(&output.stdout).unwrap()))
}

impl Rendered {
    /// The kinds and names of all objects, as `Service/plant-veilmq`.
    fn names(&self) -> BTreeSet<String> {
        let part =
            |object: &Value, pointer| object.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
        let name = |object| format!("{}/{}", part(object, "/kind"), part(object, "/metadata/name"));
        let names: BTreeSet<String> = self.0.iter().map(name).collect();
        assert_eq!(names.len(), self.0.len(), "two objects have one name");
        names
    }

    fn object(&self, kind: &str, name: &str) -> &Value {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        self.0.iter().find(is_it).unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    /// The value at `pointer` of the pod's specification.
    fn pod(&self, pointer: &str) -> Value {
        let set = self.object("StatefulSet", "plant-veilmq");
        set.pointer(&format!("/spec/template/spec{pointer}")).cloned().unwrap_or(Value::Null)
    }

    /// The value at `pointer` of its one container.
    fn container(&self, pointer: &str) -> Value {
        assert_eq!(self.pod("/containers").as_array().unwrap().len(), 1);
        self.pod(&format!("/containers/0{pointer}"))
    }

    /// The configuration that the broker is given.
    fn configuration(&self) -> String {
        self.object("ConfigMap", "plant-veilmq")["data"]["veilmq.toml"].as_str().unwrap().to_owned()
    }
}

fn check_configuration(configuration: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("veilmq.toml");
    fs::write(&file, configuration).unwrap();
    let checked = run(Command::new(built_program("veilmq")).arg("check-config").arg("-c").arg(&file), 30);
    assert!(checked.status.success(), "{}", text(&checked));
}

#[test]
fn helm_finds_no_fault_with_the_chart() {
    let Some(helm) = require_installed(HELM) else { return };

    let linted = run(Command::new(helm).args(["lint", "--strict"]).arg(chart()), 60);

    assert!(linted.status.success(), "{}", text(&linted));
}

#[test]
fn the_default_values_make_one_broker_with_a_volume_and_nothing_that_a_bare_cluster_lacks() {
    let Some(rendered) = render("{}") else { return };

    let names = [
        "ConfigMap/plant-veilmq",
        "Service/plant-veilmq",
        "Service/plant-veilmq-admin",
        "ServiceAccount/plant-veilmq",
        "StatefulSet/plant-veilmq",
    ];
    assert_eq!(rendered.names(), names.map(str::to_owned).into());
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(rendered.container("/image"), json!(format!("veilmq:{version}")));
    assert_eq!(rendered.container("/args"), json!(["-c", "/etc/veilmq/veilmq.toml"]));
    let set = rendered.object("StatefulSet", "plant-veilmq");
    assert_eq!(set["spec"]["replicas"], 1);
    let claim = &set["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["metadata"]["name"], "data");
    assert_eq!(
        claim["spec"],
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Gi"}}})
    );
    let service = rendered.object("Service", "plant-veilmq");
    assert_eq!(service["spec"]["ports"], json!([{"name": "mqtt", "port": 1883, "targetPort": 1883}]));
    let selected = &set["spec"]["template"]["metadata"]["labels"];
    for (key, value) in service["spec"]["selector"].as_object().unwrap() {
        assert_eq!(&selected[key], value, "the service finds the pod by {key}");
        assert_eq!(&set["spec"]["selector"]["matchLabels"][key], value);
    }
}

#[test]
fn the_pod_may_do_nothing_that_the_broker_does_not_need() {
    let Some(rendered) = render("{}") else { return };

    assert_eq!(rendered.pod("/securityContext/runAsNonRoot"), true);
    assert_eq!(rendered.pod("/securityContext/runAsUser"), 1883);
    assert_eq!(rendered.pod("/securityContext/seccompProfile/type"), "RuntimeDefault");
    assert_eq!(rendered.pod("/automountServiceAccountToken"), false);
    let rights = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    assert_eq!(rendered.container("/securityContext"), rights);
}

/// The variable by which the broker knows how much memory its container has.
fn memory_variable() -> Value {
    json!({
        "name": "VEILMQ__LIMITS__MEMORY_BYTES",
        "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}},
    })
}

#[test]
fn the_broker_knows_how_much_memory_its_container_has() {
    for (values, expected) in [("{}", json!([memory_variable()])), ("resources: {limits: null}", Value::Null)]
    {
        let Some(rendered) = render(values) else { return };
        assert_eq!(rendered.container("/env"), expected, "{values}");
    }
}

#[test]
fn an_upgrade_reaches_a_broker_that_is_not_ready() {
    // Pods that are managed in order are not replaced before they are ready.
    let Some(rendered) = render("{}") else { return };

    let policy = &rendered.object("StatefulSet", "plant-veilmq")["spec"]["podManagementPolicy"];

    assert_eq!(policy, "Parallel");
}

#[test]
fn the_configuration_of_the_chart_is_valid_and_its_probes_ask_the_paths_that_answer() {
    let Some(rendered) = render("{}") else { return };

    check_configuration(&rendered.configuration());
    let broker = Broker::start();
    for (probe, path) in [
        ("startupProbe", "/readyz/clients"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz/clients"),
    ] {
        let asks = rendered.container(&format!("/{probe}/httpGet"));
        assert_eq!(asks, json!({"path": path, "port": "admin"}), "{probe}");
        assert_eq!(broker.get(path).status, 200);
    }
    let ports = rendered.container("/ports");
    assert!(ports.as_array().unwrap().contains(&json!({"name": "admin", "containerPort": 9464})), "{ports}");
    let mounts = rendered.container("/volumeMounts");
    assert_eq!(mounts[0]["mountPath"], "/etc/veilmq/veilmq.toml");
    assert_eq!(mounts[1], json!({"name": "data", "mountPath": "/var/lib/veilmq"}));
}

/// Changes every value of the chart that the tests above leave alone.
const CHANGED: &str = r#"
image: {repository: example.test/veilmq, tag: "9", pullPolicy: Always}
imagePullSecrets: [{name: pull}]
config: |
  data_dir = "/var/lib/veilmq"
  [[listeners]]
  address = "[::]:8883"
  [admin]
  address = "[::]:9464"
env: [{name: VEILMQ__LOG__LEVEL, value: debug}]
secrets: [tls, acl]
adminTokenSecret: operators
service: {type: LoadBalancer, annotations: {a: b}, ports: [{name: mqtts, port: 8883, targetPort: 8883}]}
persistence: {enabled: true, existingClaim: old, storageClass: "", accessModes: [ReadWriteOnce], size: 1Gi}
resources: {requests: {cpu: 2, memory: 1Gi}, limits: {memory: 2Gi}}
terminationGracePeriodSeconds: 7
podAnnotations: {c: d}
podLabels: {e: f}
nodeSelector: {g: h}
tolerations: [{key: i, operator: Exists}]
affinity: {nodeAffinity: {}}
priorityClassName: high
serviceAccount: {annotations: {j: k}}
serviceMonitor: {enabled: true, interval: 5s, labels: {l: m}}
networkPolicy: {enabled: true, adminFrom: [{podSelector: {matchLabels: {who: asks}}}]}
"#;

#[test]
fn every_value_reaches_the_object_that_it_is_for() {
    let Some(rendered) = render(CHANGED) else { return };

    let set = rendered.object("StatefulSet", "plant-veilmq");
    let pod = &set["spec"]["template"];
    assert_eq!(rendered.container("/image"), "example.test/veilmq:9");
    assert_eq!(rendered.container("/imagePullPolicy"), "Always");
    assert_eq!(rendered.pod("/imagePullSecrets"), json!([{"name": "pull"}]));
    assert!(rendered.configuration().contains("[::]:8883"));
    check_configuration(&rendered.configuration());
    let token = json!({"name": "VEILMQ__ADMIN__TOKEN_FILE", "value": "/etc/veilmq/admin/token"});
    let level = json!({"name": "VEILMQ__LOG__LEVEL", "value": "debug"});
    assert_eq!(rendered.container("/env"), json!([token, memory_variable(), level]));
    let mounts: Vec<Value> = serde_json::from_value(rendered.container("/volumeMounts")).unwrap();
    let mounted: Vec<&str> = mounts.iter().map(|mount| mount["mountPath"].as_str().unwrap()).collect();
    assert_eq!(mounted[2..], ["/etc/veilmq/admin", "/etc/veilmq/secrets/tls", "/etc/veilmq/secrets/acl"]);
    let volumes = rendered.pod("/volumes");
    for mount in &mounts {
        let is_it = |volume: &&Value| volume["name"] == mount["name"];
        assert!(volumes.as_array().unwrap().iter().any(|volume| is_it(&volume)), "no volume for {mount}");
    }
    assert!(
        volumes
            .as_array()
            .unwrap()
            .contains(&json!({"name": "data", "persistentVolumeClaim": {"claimName": "old"}}))
    );
    assert_eq!(set["spec"]["volumeClaimTemplates"], Value::Null, "the claim is there already");
    let service = rendered.object("Service", "plant-veilmq");
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    assert_eq!(service["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(service["spec"]["ports"], json!([{"name": "mqtts", "port": 8883, "targetPort": 8883}]));
    assert!(
        rendered
            .container("/ports")
            .as_array()
            .unwrap()
            .contains(&json!({"name": "mqtts", "containerPort": 8883}))
    );
    let resources = json!({"requests": {"cpu": 2, "memory": "1Gi"}, "limits": {"memory": "2Gi"}});
    assert_eq!(rendered.container("/resources"), resources);
    assert_eq!(rendered.pod("/terminationGracePeriodSeconds"), 7);
    assert_eq!(pod["metadata"]["annotations"]["c"], "d");
    assert_eq!(pod["metadata"]["labels"]["e"], "f");
    assert_eq!(rendered.pod("/nodeSelector"), json!({"g": "h"}));
    assert_eq!(rendered.pod("/tolerations"), json!([{"key": "i", "operator": "Exists"}]));
    assert_eq!(rendered.pod("/affinity"), json!({"nodeAffinity": {}}));
    assert_eq!(rendered.pod("/priorityClassName"), "high");
    let account = rendered.object("ServiceAccount", "plant-veilmq");
    assert_eq!(account["metadata"]["annotations"], json!({"j": "k"}));
    let monitor = rendered.object("ServiceMonitor", "plant-veilmq");
    assert_eq!(
        monitor["spec"]["endpoints"],
        json!([{"port": "admin", "path": "/metrics", "interval": "5s"}])
    );
    assert_eq!(monitor["metadata"]["labels"]["l"], "m");
    let policy = rendered.object("NetworkPolicy", "plant-veilmq");
    let may = json!([
        {"ports": [{"port": 8883}]},
        {"from": [{"podSelector": {"matchLabels": {"who": "asks"}}}], "ports": [{"port": 9464}]},
    ]);
    assert_eq!(policy["spec"]["ingress"], may);
}

#[test]
fn without_persistence_the_data_is_as_short_lived_as_the_pod() {
    let Some(rendered) = render("persistence: {enabled: false}") else { return };

    let volumes = rendered.pod("/volumes");
    assert!(volumes.as_array().unwrap().contains(&json!({"name": "data", "emptyDir": {}})), "{volumes}");
    let set = rendered.object("StatefulSet", "plant-veilmq");
    assert_eq!(set["spec"]["volumeClaimTemplates"], Value::Null);
}

#[test]
fn every_value_that_the_chart_uses_has_a_default_and_every_default_is_used() {
    let paths = value_paths();
    let mut used = BTreeSet::new();
    for (path, text) in templates() {
        for piece in text.split(".Values.").skip(1) {
            let name: String = piece
                .chars()
                .take_while(|character| character.is_ascii_alphanumeric() || *character == '.')
                .collect();
            assert!(paths.contains(&name), "{}: {name} is not in values.yaml", path.display());
            used.insert(name);
        }
    }
    let is_used = |path: &String| {
        used.iter().any(|name| path.starts_with(name.as_str()) || name.starts_with(&format!("{path}.")))
    };
    let unused: Vec<_> = paths.iter().filter(|path| !is_used(path)).collect();
    assert!(unused.is_empty(), "nothing uses {unused:?}");
}

fn templates() -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(chart().join("templates")).unwrap().map(|entry| entry.unwrap().path());
    let templates: Vec<_> = entries.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect();
    assert!(templates.len() >= 7);
    templates
}

/// The paths of `values.yaml`, such as `image.tag`: the file has one key in a line, indented by two.
fn value_paths() -> BTreeSet<String> {
    let mut above: Vec<String> = Vec::new();
    let mut paths = BTreeSet::new();
    for line in fs::read_to_string(chart().join("values.yaml")).unwrap().lines() {
        let depth = line.len() - line.trim_start().len();
        let Some((key, _)) = line.trim_start().split_once(':') else { continue };
        if key.chars().all(|character| character.is_ascii_alphanumeric()) && depth / 2 <= above.len() {
            above.truncate(depth / 2);
            above.push(key.to_owned());
            paths.insert(above.join("."));
        }
    }
    paths
}
