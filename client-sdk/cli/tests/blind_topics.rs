//! Rules and policies for blind topics as the program compiles them, and the names it shows.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "test code")]

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
};

const KEY: [&str; 2] = ["--topic-key", "topic.key"];

/// A folder with a topic key.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for key in ["topic.key", "next.key", "master.key"] {
        assert!(veil(folder.path(), &["key", "new", key], "").status.success());
    }
    folder
}

fn veil(folder: &Path, arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veil"));
    command.current_dir(folder).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = veil(folder, arguments, "");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn complaint(folder: &Path, arguments: &[&str]) -> String {
    let output = veil(folder, arguments, "");
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty(), "nothing is written that is not whole");
    String::from_utf8(output.stderr).unwrap()
}

/// What the broker sees in place of a name.
fn wire(folder: &Path, name: &str, keys: &[&str]) -> String {
    let shown = succeed(folder, &[&["topic", "blind", name], keys].concat());
    shown.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Compiles a source; the first line says who made it.
fn compile(folder: &Path, name: &str, source: &str, more: &[&str]) -> String {
    fs::write(folder.join(name), source).unwrap();
    let compiled = succeed(folder, &[&["acl", "compile", name], more].concat());
    let (head, rest) = compiled.split_once('\n').unwrap();
    assert!(head.starts_with("# Made by `veil acl compile` for names of epoch 0001"), "{head}");
    rest.to_owned()
}

#[test]
fn rules_of_mosquitto_keep_their_meaning_and_lose_their_names() {
    let folder = folder();
    let folder = folder.path();
    let blind = |name: &str| wire(folder, name, &KEY);

    let source = "# secret plans\n\ntopic read open/door\nuser ann\ntopic factory/+/t\n topic deny factory/secret/#\npattern read $SYS/%c/#\npattern write factory/all\ntopic read #\n";
    let compiled = compile(folder, "acl", source, &KEY);

    let expected = format!(
        "topic read {}\nuser ann\ntopic readwrite {}\ntopic deny {}\npattern read $SYS/%c/#\npattern write {}\ntopic read _veil/#\ntopic read _vt/0001/#\n",
        blind("open/door"),
        blind("factory/+/t"),
        blind("factory/secret/#"),
        blind("factory/all"),
    );
    assert_eq!(compiled, expected);
}

#[test]
fn what_is_in_no_blind_scope_stays_and_what_is_in_part_becomes_both() {
    let folder = folder();
    let folder = folder.path();
    let more = [KEY.as_slice(), &["--scope", "factory/#", "--topic-prefix", "p"]].concat();
    let keys = [KEY.as_slice(), &["--topic-prefix", "p"]].concat();

    let compiled = compile(
        folder,
        "acl",
        "topic read office/#\npattern read office/%u\ntopic deny +/t\ntopic factory/t\n",
        &more,
    );

    let (both, inside) = (wire(folder, "+/t", &keys), wire(folder, "factory/t", &keys));
    assert!(inside.starts_with("p/_vt/0001/"));
    assert_eq!(
        compiled,
        format!(
            "topic read office/#\npattern read office/%u\ntopic deny +/t\ntopic deny {both}\ntopic readwrite {inside}\n"
        )
    );
}

#[test]
fn rules_and_policies_in_toml_are_compiled_for_every_epoch_in_use() {
    let folder = folder();
    let folder = folder.path();
    let both = ["--topic-key", "topic.key", "--topic-key", "2:next.key"];
    let names = |name: &str| wire(folder, name, &both).lines().map(str::to_owned).collect::<Vec<_>>();

    let rules = compile(
        folder,
        "rules.toml",
        "# secret\n[users.ann]\npublish = [\"factory/t\", \"$SYS/x\"]\nroles = [\"r\"]\n[roles.r]\ndeny_subscribe = [\"factory/secret\"]\n[groups.g]\nusers = [\"ann\"]\nroles = [\"r\"]\n",
        &both,
    );
    let configuration = compile(
        folder,
        "veilmq.toml",
        "[limits]\npacket_bytes_max = 1000\n[[e2e.policies]]\nname = \"p\"\ntopics = \"factory/line/#\"\nscope = \"factory/#\"\n",
        &both,
    );

    let rules: toml::Table = toml::from_str(&rules).unwrap();
    let list = |names: Vec<String>| toml::Value::from(names);
    let allowed = [names("factory/t"), vec!["$SYS/x".to_owned()]].concat();
    assert_eq!(rules["users"]["ann"]["publish"], list(allowed));
    assert_eq!(rules["roles"]["r"]["deny_subscribe"], list(names("factory/secret")));
    assert_eq!(rules["groups"]["g"]["users"][0].as_str(), Some("ann"));
    let configuration: toml::Table = toml::from_str(&configuration).unwrap();
    assert_eq!(configuration["limits"]["packet_bytes_max"].as_integer(), Some(1_000));
    let policies = configuration["e2e"]["policies"].as_array().unwrap();
    let (topics, scopes) = (names("factory/line/#"), names("factory/#"));
    for (index, name) in ["p-0001", "p-0002"].into_iter().enumerate() {
        assert_eq!(policies[index]["name"].as_str(), Some(name));
        assert_eq!(policies[index]["topics"].as_str(), Some(&*topics[index]));
        assert_eq!(policies[index]["scope"].as_str(), Some(&*scopes[index]));
    }
    assert_eq!(policies.len(), 2);
}

#[test]
fn what_cannot_be_compiled_is_one_error_that_names_its_line() {
    let folder = folder();
    let folder = folder.path();
    let deep = format!("topic {}", ["d"; 256].join("/"));
    for (name, source, complained) in [
        (
            "acl",
            "user ann\n\npattern read factory/%u/t\n",
            "acl:3: \"factory/%u/t\" cannot be compiled: what `%u`, `%c` and fields of certificates stand for",
        ),
        ("acl", "topic a\npattern %c\n", "acl:2: \"%c\" cannot be compiled: "),
        ("acl", deep.as_str(), "acl:1: \"d/d/"),
        ("acl", "topic reed a\n", "acl:1: before the topic stands"),
        ("acl", "topics a\n", "acl:1: a line begins with `user`, `topic` or `pattern`"),
        ("acl", "topic $share/g/a\n", "acl:1: \"$share/g/a\" names a group"),
        ("acl", "topic a/#/b\n", "acl:1: \"a/#/b\" cannot be used: "),
        ("r.toml", "[everyone]\npublish = [\n\"a\",\n\"m/%u\"]\n", "r.toml:4: \"m/%u\" cannot be compiled: "),
        ("r.toml", "[limits]\n", "r.toml:1: there are neither rules nor policies in it"),
        ("r.toml", "[everyone]\npublish = \n", "r.toml:2: "),
    ] {
        fs::write(folder.join(name), source).unwrap();
        let complaint = complaint(folder, &[&["acl", "compile", name], KEY.as_slice()].concat());
        assert!(complaint.starts_with(&format!("veil: {complained}")), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
    let without = ["acl", "compile", "acl"];
    assert!(complaint(folder, &without).contains("required"), "a key is needed");
    let twice = ["topic", "blind", "a", "--topic-key", "topic.key", "--topic-key", "1:next.key"];
    assert!(complaint(folder, &twice).contains("there is another key of epoch 1"));
    assert!(complaint(folder, &["topic", "blind", "$SYS/a", KEY[0], KEY[1]]).contains("begins with `$`"));
}

#[test]
fn whoever_has_the_key_finds_the_topic_behind_a_name_by_trying_topics() {
    let folder = folder();
    let folder = folder.path();
    let master = ["--master-key", "master.key", "--epoch", "1", "--epoch", "2"];
    let shown = wire(folder, "factory/t", &master);
    let (first, second) = shown.split_once('\n').unwrap();
    assert!(first.starts_with("_vt/0001/") && second.starts_with("_vt/0002/"));
    assert_ne!(first[9..], second[9..], "every epoch has its own key");

    let found = veil(folder, &[&["topic", "find", second], master.as_slice()].concat(), "a\n#\nfactory/t\n");
    let other = veil(folder, &[&["topic", "find", second], KEY.as_slice()].concat(), "a\nfactory/t\n");

    assert_eq!(String::from_utf8(found.stdout).unwrap(), format!("{second} factory/t\n"));
    assert_eq!(String::from_utf8(other.stderr).unwrap(), "veil: 1 of 1 names are none of these topics\n");
}
