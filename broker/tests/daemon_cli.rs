//! The command line: what it prints, and one line that names what is at fault.
#![allow(clippy::unwrap_used, reason = "test code")]

mod daemon_command;
mod daemon_support;

use std::fs;
use std::path::Path;
use std::process::Command;

use daemon_command::{error, out, veilmq};
use daemon_support::{authority, certificate};
use tempfile::TempDir;
use veilmq::identity::IdentityFolder;
use veilmq_protocol::veil::Roles;

fn data() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Asserts how the line begins that says what is at fault with a configuration, for who looks at it and for who starts with it, whose log
/// stands before.
fn assert_both_say(directory: &Path, file: &str, expected: &str) {
    for arguments in [&["check-config", "-c", file][..], &["-c", file]] {
        let output = veilmq(directory, arguments);

        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        let told = said.lines().rfind(|line| line.starts_with("veilmq: ")).unwrap_or(&said);
        assert!(told.starts_with(expected), "{arguments:?}: {told}, not {expected}");
    }
}

#[test]
fn a_wrong_command_line_has_status_2_and_help_has_0() {
    let data = data();
    for arguments in
        [&["--no-such-flag"][..], &["-p", "70000"], &["trust", "remove", "xyz"], &["--admin", "9464"]]
    {
        assert_eq!(veilmq(data.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert!(out(&veilmq(data.path(), &["--help"])).contains("check-config"));
    assert!(out(&veilmq(data.path(), &["--version"])).starts_with("veilmq "));
}

#[test]
fn a_valid_configuration_is_confirmed_and_shown() {
    let data = data();
    let file = data.path().join("veilmq.toml");
    fs::write(&file, "[[listeners]]\naddress = \"127.0.0.1:18999\"\n").unwrap();
    let file = file.to_str().unwrap();

    let checked = out(&veilmq(data.path(), &["check-config", "-c", file]));
    let shown = out(&veilmq(data.path(), &["show-config", "-c", file]));

    assert_eq!(checked, format!("{file}: the configuration is valid\n"));
    assert!(shown.contains("127.0.0.1:18999") && shown.contains(data.path().to_str().unwrap()), "{shown}");
}

#[test]
fn a_wrong_configuration_is_one_line_with_file_and_line() {
    let data = data();
    let file = data.path().join("veilmq.toml");
    fs::write(&file, "[access]\nanonimous = true\n").unwrap();
    let file = file.to_str().unwrap();

    for arguments in [&["check-config", "-c", file][..], &["-c", file]] {
        let error = error(&veilmq(data.path(), arguments), 1);

        assert!(error.starts_with(&format!("veilmq: {file}:2: ")) && error.contains("anonimous"), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_the_line_of_mosquitto_conf_that_names_it() {
    let data = data();
    let at = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    let (conf, bad) = (at("mosquitto.conf"), at("bad"));
    fs::write(&bad, "no colon in this line\n").unwrap();
    for (lines, expected) in [
        ("password_file ABSENT", "password_file: cannot read ABSENT: No such file"),
        ("password_file BAD", "password_file: BAD:1: "),
        ("acl_file ABSENT", "acl_file: cannot read ABSENT: No such file"),
        (
            "plugin mosquitto_password_file.so\nplugin_opt_password_file ABSENT",
            "plugin_opt_password_file: cannot read ABSENT: No such file",
        ),
        (
            "plugin mosquitto_acl_file.so\nplugin_opt_acl_file ABSENT",
            "plugin_opt_acl_file: cannot read ABSENT: No such file",
        ),
        ("certfile BAD\nkeyfile BAD", "certfile: BAD holds no certificate: "),
        ("pid_file ABSENT/pid", "pid_file: cannot write ABSENT/pid: No such file"),
        (
            "listener 9\nprotocol http_api\nhttp_dir ABSENT",
            "http_dir: cannot read folder ABSENT: No such file",
        ),
        ("listener 9\nprotocol http_api\nhttp_dir BAD", "http_dir: cannot read folder BAD: Not a directory"),
        (
            "connection a\naddress b\ntopic c\nbridge_cafile ABSENT",
            "bridge_cafile: bridge a: cannot read ABSENT: ",
        ),
    ] {
        let filled = |text: &str| text.replace("ABSENT", &at("absent")).replace("BAD", &bad);
        fs::write(&conf, format!("listener 0 {}\n{}\n", at("socket"), filled(lines))).unwrap();
        let (option, _) = expected.split_once(':').unwrap();
        let line = 2 + lines.lines().position(|line| line.starts_with(option)).unwrap();

        assert_both_say(data.path(), &conf, &format!("veilmq: {conf}:{line}: {}", filled(expected)));
    }
}

#[test]
fn what_is_wrong_with_what_the_configuration_names_is_said_with_its_place() {
    let data = data();
    let at = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    let (file, bad) = (at("veilmq.toml"), at("bad"));
    fs::write(&bad, "no colon in this line\n").unwrap();
    let certificate = |certificate: &str, key: &str| {
        format!(
            "listeners = [{{ address = \"127.0.0.1:1\", tls = {{\n\
             certificates = [{{ certificate_file = \"{certificate}\",\n key_file = \"{key}\" }}] }} }}]"
        )
    };
    for (options, line, expected) in [
        ("access.password_file = \"ABSENT\"", 2, "access.password_file: cannot read ABSENT: No such"),
        ("access.password_file = \"BAD\"", 2, "access.password_file: BAD:1: "),
        ("acl.file = \"ABSENT\"", 2, "acl.file: cannot read ABSENT: No such"),
        ("admin.token_file = \"ABSENT\"", 2, "admin.token_file: cannot read ABSENT: No such"),
        ("admin.token_file = \"BAD\"", 2, "admin.token_file: BAD must hold one token"),
        ("access.jwt.key_files = [\"ABSENT\"]", 2, "access.jwt.key_files: cannot read ABSENT: No such"),
        ("access.jwt.key_files = [\"BAD\"]", 2, "access.jwt.key_files: BAD: "),
        (
            "[access.http]\nurl = \"https://localhost/\"\nca = \"ABSENT\"",
            4,
            "access.http.ca: cannot read ABSENT: No such",
        ),
        ("process.pid_file = \"ABSENT/pid\"", 2, "process.pid_file: cannot write ABSENT/pid: No such"),
        ("log.destinations = [\"ABSENT/log\"]", 2, "log.destinations: cannot open ABSENT/log: No such"),
        ("veil.trust = [\"ABSENT\"]", 2, "veil.trust: cannot read ABSENT: No such"),
        ("veil.trust = [\"BAD\"]", 2, "veil.trust: BAD: "),
        ("veil.revocations = [\"ABSENT\"]", 2, "veil.revocations: cannot read ABSENT: No such"),
        ("veil.certificate = \"ABSENT\"", 2, "veil.certificate: cannot read ABSENT: No such"),
        (
            &certificate("ABSENT", "ABSENT"),
            2,
            "listeners[].tls.certificates[].certificate_file: cannot read ABSENT: No such",
        ),
        (
            &certificate("BAD", "ABSENT"),
            2,
            "listeners[].tls.certificates[].certificate_file: BAD holds no certificate",
        ),
        (
            "listeners = [{ address = \"127.0.0.1:1\", interface = \"absent0\" }]",
            1,
            "listeners[].interface: cannot listen on 127.0.0.1:1 by the network interface absent0: No such device",
        ),
        (
            "[[bridges]]\nname = \"b\"\naddresses = [\"localhost\"]\ntls.ca = \"ABSENT\"\n\
             [[bridges.topics]]\npattern = \"#\"",
            5,
            "bridges[].tls.ca: bridge b: cannot read ABSENT: No such",
        ),
    ] {
        let filled = |text: &str| text.replace("ABSENT", &at("absent")).replace("BAD", &bad);
        let socket = at("socket");
        let listeners = match options.contains("listeners") {
            true => String::new(),
            false => format!("listeners = [{{ address = \"unix:{socket}\" }}]\n"),
        };
        fs::write(&file, format!("{listeners}{}\n", filled(options))).unwrap();

        assert_both_say(data.path(), &file, &format!("veilmq: {file}:{line}: {}", filled(expected)));
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_is_said_with_its_place() {
    let data = data();
    let at = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    let (own, conf, bad) = (at("veilmq.toml"), at("mosquitto.conf"), at("bad"));
    fs::write(&bad, "a file").unwrap();
    fs::write(&own, format!("data_dir = \"{bad}/d\"\nlisteners = [{{ address = \"unix:{}\" }}]\n", at("s")))
        .unwrap();
    fs::write(&conf, format!("listener 0 {}\npersistence true\npersistence_location {bad}/\n", at("s")))
        .unwrap();

    for (file, expected) in [
        (&own, format!("veilmq: {own}:1: data_dir: cannot create folder {bad}/d: ")),
        (&conf, format!("veilmq: {conf}:3: persistence_location: cannot create folder {bad}/")),
    ] {
        // No flag names another one.
        let output = Command::new(env!("CARGO_BIN_EXE_veilmq")).args(["-c", file]).output().unwrap();

        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.lines().any(|line| line.starts_with(&expected)), "{told}");
        assert_eq!(output.status.code(), Some(1));
    }
}

#[test]
fn a_user_that_is_not_there_is_said_with_its_place() {
    let data = data();
    let at = |name: &str| data.path().join(name).to_str().unwrap().to_owned();
    for (file, text, expected) in [
        (
            at("veilmq.toml"),
            "process.user = \"nobody-has-this-name\"\nlisteners = [{ address = \"127.0.0.1:1\" }]\n",
            ":1: process.user: there is no user nobody-has-this-name",
        ),
        (
            at("mosquitto.conf"),
            "listener 1\nuser nobody-has-this-name\n",
            ":2: user: there is no user nobody-has-this-name",
        ),
    ] {
        fs::write(&file, text).unwrap();

        let told = error(&veilmq(data.path(), &["check-config", "-c", &file]), 1);

        assert!(told.contains(&format!("{file}{expected}")), "{told}");
    }
}

#[test]
fn check_config_without_a_file_says_how_to_give_one() {
    let error = error(&veilmq(data().path(), &["check-config"]), 1);

    assert_eq!(error, "veilmq: check-config needs a file: veilmq check-config -c FILE\n");
}

#[test]
fn authorities_are_added_listed_and_removed() {
    let data = data();
    let file = data.path().join("ca.vmc");
    fs::write(&file, authority(1).as_bytes()).unwrap();
    let kid = authority(1).kid().to_string();

    let added = out(&veilmq(data.path(), &["trust", "add", file.to_str().unwrap()]));
    let listed = out(&veilmq(data.path(), &["trust", "list"]));
    let removed = out(&veilmq(data.path(), &["trust", "remove", &kid]));

    assert!(added.contains(&kid) && added.contains("authority-1"), "{added}");
    assert!(listed.starts_with(&format!("{kid}  authority-1  until ")), "{listed}");
    assert!(removed.contains(&kid), "{removed}");
    assert_eq!(out(&veilmq(data.path(), &["trust", "list"])), "");
}

#[test]
fn what_cannot_be_trusted_is_named() {
    let data = data();
    let device = data.path().join("device.vmc");
    fs::write(&device, certificate("device-7", 2, 1, Roles::PUBLISHER).as_bytes()).unwrap();
    let device = device.to_str().unwrap();
    let missing = data.path().join("missing.vmc");
    let missing = missing.to_str().unwrap();

    for (arguments, expected) in [
        (&["trust", "add", device][..], format!("veilmq: {device}: the certificate of \"device-7\"")),
        (&["trust", "add", missing], format!("veilmq: cannot read {missing}: ")),
        (
            &["trust", "remove", "0011223344556677"],
            "veilmq: no certificate with key identifier 0011223344556677".into(),
        ),
    ] {
        let error = error(&veilmq(data.path(), arguments), 1);

        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn an_authority_from_the_configuration_is_listed_and_not_removed() {
    let data = data();
    let authority_file = data.path().join("ca.vmc");
    fs::write(&authority_file, authority(1).as_bytes()).unwrap();
    let file = data.path().join("veilmq.toml");
    let trust = format!("[veil]\ntrust = [{:?}]\n", authority_file.to_str().unwrap());
    fs::write(&file, format!("[[listeners]]\naddress = \"127.0.0.1:18999\"\n{trust}")).unwrap();
    let (file, kid) = (file.to_str().unwrap(), authority(1).kid().to_string());

    let listed = out(&veilmq(data.path(), &["trust", "list", "-c", file]));
    let refused = error(&veilmq(data.path(), &["trust", "remove", &kid, "-c", file]), 1);

    assert!(listed.starts_with(&kid), "{listed}");
    assert!(refused.contains("veil.trust"), "{refused}");
}

#[test]
fn the_identity_is_printed_once_there_is_one() {
    let data = data();
    let absent = error(&veilmq(data.path(), &["identity"]), 1);
    let folder = IdentityFolder::in_data_dir(data.path(), None);
    let identity = folder.load_or_create(1_800_000_000).unwrap();

    let printed = out(&veilmq(data.path(), &["identity"]));

    assert!(absent.contains("there is no identity"), "{absent}");
    assert!(printed.contains(&identity.kid().to_string()), "{printed}");
    assert!(printed.contains(&folder.certificate_path().display().to_string()), "{printed}");
}

#[test]
fn health_of_nobody_names_the_address() {
    let error = error(&veilmq(data().path(), &["health", "--admin", "127.0.0.1:1"]), 1);

    assert!(error.starts_with("veilmq: no answer from the broker at 127.0.0.1:1: "), "{error}");
}
