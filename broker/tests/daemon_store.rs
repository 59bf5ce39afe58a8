//! `veilmq store`: what was stored is checked, exported, imported and compacted, and never half of it.
#![allow(clippy::unwrap_used, reason = "test code")]

mod daemon_command;
mod daemon_process;
mod daemon_store_support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use daemon_command::{error, out, veilmq};
use daemon_process::{Broker, packet, subscribe};
use daemon_store_support::{churn, export, fill};
use tempfile::{TempDir, tempdir};

/// A directory with one of everything in its store.
fn filled() -> TempDir {
    let data = tempdir().unwrap();
    fill(data.path());
    data
}

/// The contents of all files but the lock, whose contents mean nothing.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            let inner = self::files(&entry.path()).into_iter();
            files.extend(inner.map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if name != "lock" {
            files.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    files
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Writes an export and imports it.
fn import(data: &Path, export: &[u8]) -> std::process::Output {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), export).unwrap();
    veilmq(data, &["store", "import", "--input", file.path().to_str().unwrap()])
}

#[test]
fn an_imported_export_is_exported_the_same_byte_by_byte() {
    let original = filled();
    let copy = tempdir().unwrap();

    let first = export(original.path());
    let imported = out(&import(copy.path(), &first));
    let second = export(copy.path());

    assert_eq!(String::from_utf8(first).unwrap(), String::from_utf8(second).unwrap());
    assert!(
        imported.starts_with("imported 2 sessions, 3 subscriptions, 3 messages, 4 deliveries"),
        "{imported}"
    );
    assert_eq!(names(copy.path()), ["format", "lock", "store", "watermark"]);
}

#[test]
fn the_example_of_the_documentation_is_an_export() {
    let documentation = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/store-export.md");
    let text = fs::read_to_string(documentation).unwrap();
    let (_, example) = text.split_once("```json\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let data = tempdir().unwrap();

    out(&import(data.path(), example.as_bytes()));

    assert_eq!(String::from_utf8(export(data.path())).unwrap(), example);
    for kind in ["session", "subscription", "message", "delivery", "received", "retained", "end"] {
        assert!(example.contains(&format!("{{\"kind\":\"{kind}\"")), "the example has no {kind}");
    }
}

#[test]
fn an_export_goes_to_a_new_file_of_its_owner_or_to_standard_output() {
    use std::os::unix::fs::PermissionsExt;

    let data = filled();
    let file = data.path().join("export.jsonl");
    let arguments = ["store", "export", "--output", file.to_str().unwrap()];

    out(&veilmq(data.path(), &arguments));
    let second = error(&veilmq(data.path(), &arguments), 1);

    assert_eq!(fs::read(&file).unwrap(), export(data.path()));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(second.starts_with(&format!("veilmq: cannot create {}: ", file.display())), "{second}");
}

#[test]
fn a_store_of_which_less_can_be_read_than_was_stored_is_kept_as_it_was_found() {
    // [E01] The engine goes on behind the last batch that it can read, and overwrites what stands behind that.
    let data = tempdir().unwrap();
    (0..20).for_each(|_| fill(data.path()));
    let db = data.path().join("store/db");
    let open = || veilmq::store::open(data.path(), &veilmq_config::StorageConfig::default(), 1).unwrap().1;
    assert!(!open().is_damaged() && names(data.path()) == ["format", "lock", "store", "watermark"]);
    let mut bytes = fs::read(&db).unwrap();
    let payload = b"queued for alpha";
    let place = bytes.windows(payload.len()).rposition(|window| window == payload).unwrap();
    bytes[place] ^= 1;
    fs::write(&db, &bytes).unwrap();

    let report = open();

    assert!(report.is_damaged(), "{report:?}");
    let kept = report.quarantined.or(report.set_aside).expect("a copy is kept");
    assert!(fs::read(kept.join("as-found/db")).unwrap() == bytes, "it is as it was found");
    let copies =
        || names(data.path()).iter().filter(|name| data.path().join(name).join("as-found").exists()).count();
    (0..4).for_each(|_| drop(open()));
    assert!((1..=3).contains(&copies()), "however often it is met before anything is stored");
    fill(data.path());
    open();
    assert!(!open().is_damaged(), "what is stored ends it");
    assert!(kept.join("as-found/db").exists());
}

#[test]
fn nobody_else_can_look_into_the_store_whatever_the_directory_lets_them() {
    use std::os::unix::fs::PermissionsExt;

    let data = tempdir().unwrap();
    let mode = |name: &str| fs::metadata(data.path().join(name)).unwrap().permissions().mode() & 0o7777;
    fs::set_permissions(data.path(), fs::Permissions::from_mode(0o755)).unwrap();

    fill(data.path());
    assert_eq!((mode(""), mode("store")), (0o755, 0o700));

    // One that an earlier broker made, or that a volume came with.
    fs::set_permissions(data.path().join("store"), fs::Permissions::from_mode(0o2775)).unwrap();
    fill(data.path());
    assert_eq!(mode("store"), 0o2770);

    out(&veilmq(data.path(), &["store", "compact"]));
    assert_eq!(mode("store"), 0o700);
}

/// A CONNECT of MQTT 5 for a session that stays.
fn resume(client_id: &str) -> Vec<u8> {
    let mut packet = vec![0x10, 18 + client_id.len() as u8, 0, 4];
    packet.extend_from_slice(b"MQTT\x05\x00\x00\x00\x05\x11\xff\xff\xff\xff");
    packet.extend_from_slice(&[0, client_id.len() as u8]);
    packet.extend_from_slice(client_id.as_bytes());
    packet
}

fn contains(packet: &[u8], text: &[u8]) -> bool {
    packet.windows(text.len()).any(|window| window == text)
}

/// Asserts that a broker on this directory has everything that `fill` has stored.
fn assert_served(data: TempDir) {
    let broker = Broker::start_on(data, "");
    let mut alpha = broker.socket();

    alpha.write_all(&resume("alpha")).unwrap();
    let connack = packet(&mut alpha).unwrap();
    let waiting: Vec<Vec<u8>> = (0..3).map(|_| packet(&mut alpha).unwrap()).collect();
    let mut other = broker.client("other");
    other.write_all(&subscribe("r/#")).unwrap();
    packet(&mut other).unwrap();
    let retained = packet(&mut other).unwrap();
    other.write_all(&[0x30, 8, 0, 3, b'a', b'/', b'x', 0, b'h', b'i']).unwrap();
    let live = packet(&mut alpha).unwrap();

    assert_eq!((connack[0], connack[2], connack[3]), (0x20, 1, 0), "the session is present: {connack:x?}");
    assert_eq!(waiting[0][..2], [0x3A, 0x9A], "what was in flight is sent again, and first");
    assert!(contains(&waiting[1], b"queued for alpha"));
    assert!(contains(&waiting[2], b"for a member"), "what a session that is gone had as a member");
    assert!(contains(&retained, b"kept"), "{retained:x?}");
    assert!(contains(&live, b"hi"), "the subscription is there: {live:x?}");
}

#[test]
fn a_broker_on_an_imported_directory_serves_what_was_exported() {
    let copy = tempdir().unwrap();

    out(&import(copy.path(), &export(filled().path())));

    assert_served(copy);
}

#[test]
fn a_wrong_line_is_named_and_nothing_is_imported() {
    let good = String::from_utf8(export(filled().path())).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let number = |kind: &str| {
        1 + lines.iter().position(|line| line.starts_with(&format!("{{\"kind\":\"{kind}\""))).unwrap()
    };
    // Replaces a text on the first line of a kind.
    let on = |kind: &str, from: &str, to: &str| {
        let at = number(kind);
        assert!(lines[at - 1].contains(from), "{}", lines[at - 1]);
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        lines[at - 1] = lines[at - 1].replacen(from, to, 1);
        (lines.join("\n") + "\n", at)
    };
    let twice = |kind: &str| {
        let at = number(kind);
        let mut lines = lines.clone();
        lines.insert(at, lines[at - 1]);
        (lines.join("\n") + "\n", at + 1)
    };
    let cases: Vec<((String, usize), &str)> = vec![
        ((String::new(), 1), "it was cut"),
        ((good.replacen("veilmq-export", "other", 1), 1), "field `format`: it is not \"veilmq-export\""),
        ((good.replacen("\"version\":1", "\"version\":2", 1), 1), "field `version`: it is 2"),
        ((lines[..lines.len() - 1].join("\n") + "\n", lines.len()), "it was cut"),
        ((good[..good.len() - 20].to_owned(), lines.len()), "it is not JSON"),
        ((good.clone() + lines[1] + "\n", lines.len() + 1), "nothing may follow the end"),
        (on("end", "\"messages\":3", "\"messages\":4"), "lines are missing"),
        (on("session", "\"session\":1", "\"session\":-1"), "field `session`: it is not a whole number"),
        (on("session", "\"authenticated\":false,", ""), "field `authenticated`: it is missing"),
        (on("session", "\"authenticated\":", "\"new\":1,\"authenticated\":"), "field \"new\" is not known"),
        (on("session", "\"kind\":\"session\"", "\"kind\":\"ship\""), "field `kind`: there is no \"ship\""),
        (on("subscription", "\"session\":1", "\"session\":7"), "field `session`: there is no session 7"),
        (on("subscription", "\"filter\":\"", "\"filter\":\"#/"), "field `filter`: it is not a Topic Filter"),
        (on("message", "\"payload\":\"", "\"payload\":\"*"), "field `payload`: it is not base64"),
        (on("message", "\"topic\":\"", "\"topic\":\"#"), "field `topic`: it is not a Topic Name"),
        (on("message", "\"qos\":1", "\"qos\":3"), "field `qos`: it is not 0, 1 or 2"),
        (on("message", "\"properties\":\"", "\"properties\":\"/w=="), "field `properties`: "),
        (on("delivery", "\"message\":10", "\"message\":11"), "field `message`: it is not the message"),
        (
            on("delivery", "\"packet_id\":null", "\"packet_id\":4"),
            "field `packet_id`: a queued delivery has none",
        ),
        (on("received", "\"packet_id\":5", "\"packet_id\":0"), "field `packet_id`: it is not a whole number"),
        (twice("session"), "field `session`: it is a duplicate"),
        (twice("subscription"), "field `filter`: "),
        (twice("message"), "field `message`: it is a duplicate"),
        (twice("delivery"), "field `session`: it is a duplicate"),
        (twice("received"), "field `packet_id`: it is a duplicate"),
        (twice("retained"), "field `topic`: it has a retained message already"),
    ];
    let data = tempdir().unwrap();
    for ((text, line), what) in cases {
        let error = error(&import(data.path(), text.as_bytes()), 1);

        assert!(
            error.contains(&format!(": line {line}")) && error.contains(what),
            "line {line}, {what}: {error}"
        );
        assert_eq!(names(data.path()), ["lock"], "{what}");
    }
    out(&import(data.path(), good.as_bytes()));
}

#[test]
fn kinds_out_of_order_are_refused() {
    let good = String::from_utf8(export(filled().path())).unwrap();
    let mut lines: Vec<&str> = good.lines().collect();
    let at = lines.iter().position(|line| line.contains("\"kind\":\"retained\"")).unwrap();
    let session = lines.remove(1);
    lines.insert(at, session);

    let data = tempdir().unwrap();
    let error = error(&import(data.path(), (lines.join("\n") + "\n").as_bytes()), 1);

    // The first line that misses the session comes before the session itself.
    assert!(error.contains("field `session`: there is no session 1"), "{error}");
    assert_eq!(names(data.path()), ["lock"]);
}

#[test]
fn an_import_into_a_directory_with_a_store_is_refused_and_changes_nothing() {
    let data = filled();
    let text = export(data.path());
    let before = files(data.path());

    let error = error(&import(data.path(), &text), 1);

    assert!(
        error.contains(data.path().to_str().unwrap()) && error.contains("a store in it already"),
        "{error}"
    );
    assert_eq!(files(data.path()), before);
}

#[test]
fn a_check_of_a_clean_store_counts_and_changes_nothing() {
    let data = filled();
    let before = files(data.path());

    let text = out(&veilmq(data.path(), &["store", "check"]));
    let json = out(&veilmq(data.path(), &["store", "check", "--json"]));

    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(text.contains("sessions      2\n") && text.ends_with("clean\n"), "{text}");
    assert_eq!(
        (&json["clean"], &json["sessions"], &json["deliveries"]),
        (&true.into(), &2.into(), &4.into())
    );
    assert_eq!(files(data.path()), before);
}

#[test]
fn a_check_of_a_damaged_store_says_so_with_status_1_and_changes_nothing() {
    type Damage = (&'static str, fn(&Path));
    let damage: [Damage; 3] = [
        ("batches missing", |data| {
            // The files as they were some batches ago, as a disk that loses writes gives them.
            let earlier = files(&data.join("store"));
            churn(data);
            fs::remove_dir_all(data.join("store")).unwrap();
            fs::create_dir_all(data.join("store/blobs")).unwrap();
            earlier.iter().for_each(|(name, bytes)| fs::write(data.join("store").join(name), bytes).unwrap());
        }),
        ("cannot be read", |data| {
            for entry in fs::read_dir(data.join("store")).unwrap().map(Result::unwrap) {
                if entry.file_name().to_string_lossy().starts_with("snap.") {
                    fs::write(entry.path(), [0; 64]).unwrap();
                }
            }
        }),
        ("format file is missing or damaged", |data| fs::write(data.join("format"), [0; 9]).unwrap()),
    ];
    for (what, damage) in damage {
        let data = tempdir().unwrap();
        churn(data.path());
        damage(data.path());
        let before = files(data.path());

        let checked = veilmq(data.path(), &["store", "check"]);
        let json = veilmq(data.path(), &["store", "check", "--json"]);
        let compacted = veilmq(data.path(), &["store", "compact"]);
        let exported = veilmq(data.path(), &["store", "export"]);

        let text = String::from_utf8(checked.stdout).unwrap();
        assert_eq!(checked.status.code(), Some(1), "{what}: {text}");
        assert!(text.contains("damaged: ") && text.contains(what), "{what}: {text}");
        let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json["clean"], false, "{what}");
        for refused in [compacted, exported] {
            assert_eq!(refused.status.code(), Some(1), "{what}");
            let error = String::from_utf8(refused.stderr).unwrap();
            assert!(error.contains(data.path().to_str().unwrap()) && error.contains(what), "{what}: {error}");
        }
        assert_eq!(files(data.path()), before, "{what}");
    }
}

#[test]
fn what_cannot_be_checked_has_status_2() {
    let empty = tempdir().unwrap();
    let newer = filled();
    fs::write(newer.path().join("format"), "veilmq-store 999\n").unwrap();

    for (data, what) in [
        (empty.path(), "there is no store in it"),
        (&empty.path().join("nowhere"), "there is no store in it"),
        (newer.path(), "it has format 999"),
    ] {
        let error = error(&veilmq(data, &["store", "check"]), 2);

        assert!(error.contains(data.to_str().unwrap()) && error.contains(what), "{error}");
    }
    assert_eq!(names(empty.path()), [""; 0]);
}

#[test]
fn a_store_that_a_broker_uses_is_refused_by_name_of_the_directory() {
    let broker = Broker::start_on(filled(), "");
    let data = broker.data.path();

    for (arguments, status) in [
        (&["store", "check"][..], 2),
        (&["store", "export"], 1),
        (&["store", "import"], 1),
        (&["store", "compact"], 1),
    ] {
        let error = error(&veilmq(data, arguments), status);

        assert!(error.contains(data.to_str().unwrap()) && error.contains("another broker"), "{error}");
    }
}

#[test]
fn compaction_keeps_everything_and_gives_the_space_of_the_rest_back() {
    let data = tempdir().unwrap();
    churn(data.path());
    let before = export(data.path());

    let said = out(&veilmq(data.path(), &["store", "compact"]));

    let bytes: Vec<u64> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(bytes[1] * 2 < bytes[0], "{said}");
    assert_eq!(export(data.path()), before);
    assert_eq!(names(data.path()), ["format", "lock", "store", "watermark"]);
    assert!(out(&veilmq(data.path(), &["store", "check"])).ends_with("clean\n"));
}

#[test]
fn a_broker_serves_a_compacted_store() {
    let data = filled();

    out(&veilmq(data.path(), &["store", "compact"]));

    assert_served(data);
}

#[test]
fn a_compaction_that_is_killed_loses_nothing_and_leaves_nothing() {
    let data = tempdir().unwrap();
    churn(data.path());
    let before = export(data.path());
    for attempt in 0..12 {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_veilmq"))
            .args(["store", "compact", "--data-dir"])
            .arg(data.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(attempt * 15));
        child.kill().unwrap();
        child.wait().unwrap();

        assert_eq!(export(data.path()), before, "killed after {} ms", attempt * 15);
    }

    out(&veilmq(data.path(), &["store", "compact"]));

    assert_eq!(export(data.path()), before);
    assert_eq!(names(data.path()), ["format", "lock", "store", "watermark"]);
}

#[test]
fn a_store_that_was_about_to_be_replaced_is_found_by_every_command_and_by_the_broker() {
    let moved = || {
        let data = filled();
        fs::create_dir(data.path().join("rebuild")).unwrap();
        fs::rename(data.path().join("store"), data.path().join("rebuild/replaced")).unwrap();
        data
    };
    let expected = export(filled().path());

    let data = moved();
    assert!(out(&veilmq(data.path(), &["store", "check"])).ends_with("clean\n"));
    assert_eq!(export(data.path()), expected);
    out(&veilmq(data.path(), &["store", "compact"]));
    assert_eq!(export(data.path()), expected);
    assert!(error(&import(moved().path(), &expected), 1).contains("a store in it already"));
    assert_served(moved());
}
