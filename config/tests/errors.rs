//! What an operator reads when a configuration is wrong: where, which key, what is allowed.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use veilmq_config::{BrokerConfig, Overrides, Sources};

const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:1883\"\n";

fn error(file: Option<&Path>, overrides: Overrides, environment: &[(&str, &str)]) -> String {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    BrokerConfig::load(Sources { file, overrides, environment }).unwrap_err().to_string()
}

/// The error for a file with this text, which is called FILE in it.
fn error_in_file(text: &str, environment: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("veilmq.toml");
    std::fs::write(&file, text).unwrap();
    error(Some(&file), Overrides::default(), environment).replace(file.to_str().unwrap(), "FILE")
}

#[test]
fn error_names_file_line_key_value_and_what_is_allowed() {
    for (text, expected) in [
        (
            "\n[limits]\nreceive_maximum = 70_000\n",
            "FILE:3: limits.receive_maximum = 70000 is not allowed; allowed: a whole number from 1 to 65535",
        ),
        (
            "[limits]\nreceive_maximum = \"12\"\n",
            "FILE:2: limits.receive_maximum = \"12\" is not allowed; allowed: a whole number from 1 to 65535",
        ),
        (
            "limits.receive_maximum = 1.5",
            "FILE:1: limits.receive_maximum = 1.5 is not allowed; allowed: a whole number from 1 to 65535",
        ),
        (
            "limits.connections_max = 99999999999999999999",
            "FILE:1: limits.connections_max = 99999999999999999999 is not allowed; allowed: a whole number from 1 to 10000000",
        ),
        (
            "access = { anonymous = \"yes\" }",
            "FILE:1: access.anonymous = \"yes\" is not allowed; allowed: true or false",
        ),
        (
            "log.level = \"loud\"",
            "FILE:1: log.level = \"loud\" is not allowed; allowed: one of off, error, warn, info, debug, trace",
        ),
        (
            "admin.address = \"localhost:9464\"",
            "FILE:1: admin.address = \"localhost:9464\" is not allowed; allowed: an IP address with a port, such as 127.0.0.1:9464, or off",
        ),
        ("data_dir = \"\"", "FILE:1: data_dir = \"\" is not allowed; allowed: a path in UTF-8"),
        (
            "veil.trust = [\"/a.vmc\", 7]",
            "FILE:1: veil.trust = [\"/a.vmc\", 7] is not allowed; allowed: a list of paths in UTF-8",
        ),
        (
            "veil.schemes = [\"scheme-4\", \"scheme-4\"]",
            "FILE:1: veil.schemes = [\"scheme-4\", \"scheme-4\"] is not allowed; allowed: a list of some of scheme-4, scheme-3, scheme-2, scheme-1, none twice",
        ),
        (
            "veil.schemes = []",
            "FILE:1: veil.schemes = [] is not allowed; allowed: a list of some of scheme-4, scheme-3, scheme-2, scheme-1, none twice",
        ),
        (
            "[[listeners]]\naddress = \"127.0.0.1:1\"\n[[listeners]]\naddress = 1883\n",
            "FILE:4: listeners[].address = 1883 is not allowed; allowed: an IP address with a port, such as 127.0.0.1:1883 or [::1]:1883, or unix: with a path of at most 107 bytes",
        ),
        ("limits = 5", "FILE:1: limits = 5 is not allowed; allowed: a table"),
        (
            "[[listeners]]\naddress = \"127.0.0.1:1\"\nprotocol = \"ws\"\n",
            "FILE:3: listeners[].protocol = \"ws\" is not allowed; allowed: one of mqtt, websocket, http_api",
        ),
        ("listeners = 5", "FILE:1: listeners = 5 is not allowed; allowed: a list of tables"),
        (
            "listeners = [\"127.0.0.1:1883\"]",
            "FILE:1: listeners = [\"127.0.0.1:1883\"] is not allowed; allowed: a list of tables",
        ),
        (
            "[[listeners]]\naddress = \"127.0.0.1:1\"\n[[listeners.tls.certificates]]\ncertificate_file = \"a\"\n",
            "FILE:3: listeners[].tls.certificates[].key_file must be given; each table of the list needs it",
        ),
        (
            "[[listeners]]\naddress = \"127.0.0.1:1\"\nproxy_protocol.trusted = [\"10.0.0.0/33\"]\n",
            "FILE:3: listeners[].proxy_protocol.trusted = [\"10.0.0.0/33\"] is not allowed; allowed: a list of IP addresses and networks, such as 10.0.0.0/8",
        ),
        (
            "[[listeners]]\naddress = \"unix:/a\"\nmode = \"rw\"\n",
            "FILE:3: listeners[].mode = \"rw\" is not allowed; allowed: permissions as an octal number, such as \"0660\"",
        ),
        (
            "[[listeners]]\naddress = \"127.0.0.1:1\"\ntls = { minimum_version = \"1.1\" }\n",
            "FILE:3: listeners[].tls.minimum_version = \"1.1\" is not allowed; allowed: one of 1.2, 1.3",
        ),
        ("\n[[listeners]]\n", "FILE:2: listeners[].address must be given; each table of the list needs it"),
        (
            "",
            "FILE: listeners[].address must be given; write [[listeners]] with an address, such as address = \"127.0.0.1:1883\"",
        ),
        ("log.level = [\n", "FILE:1: not valid TOML: unclosed array, expected `]`"),
        ("log.level = \"warn\"\nlog.level = \"info\"\n", "FILE:2: not valid TOML: duplicate key"),
    ] {
        assert_eq!(error_in_file(text, &[]), expected, "{text}");
    }
}

#[test]
fn unknown_key_is_an_error_that_suggests_the_nearest_key() {
    for (text, expected) in [
        (
            "[limits]\nrecieve_maximum = 1\n",
            "FILE:2: unknown key limits.recieve_maximum; did you mean limits.receive_maximum?",
        ),
        ("[limit]\nreceive_maximum = 1\n", "FILE:1: unknown key limit; did you mean limits?"),
        ("inflight_max = 1", "FILE:1: unknown key inflight_max; did you mean limits.inflight_max?"),
        (
            "[[listeners]]\nadress = \"127.0.0.1:1\"\n",
            "FILE:2: unknown key listeners[].adress; did you mean listeners[].address?",
        ),
        ("bridge = \"x\"", "FILE:1: unknown key bridge; did you mean bridges?"),
        ("cluster = \"x\"", "FILE:1: unknown key cluster; docs/configuration.md lists every key"),
        ("mode = \"development\"", "FILE:1: unknown key mode; did you mean listeners[].mode?"),
        ("\"log.level\" = \"info\"", "FILE:1: unknown key \"log.level\"; did you mean log.level?"),
    ] {
        assert_eq!(error_in_file(text, &[]), expected, "{text}");
    }
}

#[test]
fn end_to_end_keys_are_refused_by_name_and_their_values_never_repeated() {
    let secret = "5ec2e7";
    for (key, line) in [
        ("master_secret", format!("master_secret = \"{secret}\"")),
        ("veil.group_key", format!("[veil]\ngroup_key = \"{secret}\"")),
        ("veil.group-keys", format!("[veil]\ngroup-keys = [\"{secret}\"]")),
        ("GK", format!("GK = \"{secret}\"")),
        ("topic_key", format!("[topic_key]\nx = \"{secret}\"")),
    ] {
        let error = error_in_file(&line, &[]);

        let fact = format!("{key} is an end-to-end key, and a broker never holds one");
        assert!(error.starts_with("FILE:") && error.contains(&fact), "{error}");
        assert!(!error.contains(secret), "{error}");
    }
}

#[test]
fn value_of_an_unknown_key_is_never_repeated() {
    let error = error_in_file("passwrd = \"5ec2e7\"", &[("VEILMQ__PASSWRD", "5ec2e7")]);

    assert!(!error.contains("5ec2e7"), "{error}");
}

#[test]
fn relations_between_options_name_both_and_where_each_is_set() {
    for (text, expected) in [
        (
            "[limits]\nsession_queue_bytes_max = 2048\n",
            "FILE:2: limits.session_queue_bytes_max = 2048 is not allowed; allowed: at least 16777216, because limits.packet_bytes_max is 16777216 (built-in default): the largest packet must fit into an empty queue",
        ),
        (
            "[limits]\nclient_id_bytes_max = 65_535\n",
            "built-in default: limits.connect_packet_bytes_max = 65536 is not allowed; allowed: at least 65791, because limits.client_id_bytes_max is 65535 (FILE:2): a CONNECT with the longest Client Identifier must fit",
        ),
        (
            "[limits]\nqueue_bytes_max = 2048\n",
            "FILE:2: limits.queue_bytes_max = 2048 is not allowed; allowed: at least 67108864, because limits.session_queue_bytes_max is 67108864 (built-in default): one session may use all of it",
        ),
        (
            "[limits]\nmailbox_bytes_max = 2048\n",
            "FILE:2: limits.mailbox_bytes_max = 2048 is not allowed; allowed: at least 16777216, because limits.packet_bytes_max is 16777216 (built-in default): the largest packet must fit into an empty mailbox",
        ),
        (
            "[limits]\nretained_bytes_max = 2048\n",
            "FILE:2: limits.retained_bytes_max = 2048 is not allowed; allowed: at least 16777216, because limits.packet_bytes_max is 16777216 (built-in default): the largest packet may be a retained message",
        ),
        (
            "storage.interval_topics = [\"a/#/b\"]",
            "FILE:1: storage.interval_topics = [\"a/#/b\"] is not allowed; allowed: a list of Topic Filters without $share",
        ),
        (
            "[storage]\ndurability = \"interval\"\ninterval_topics = [\"a\"]\n",
            "FILE:3: storage.interval_topics = [\"a\"] is not allowed; allowed: no topic, because storage.durability promises no more than that for any topic (FILE:2)",
        ),
        (
            "[storage]\ndurability = \"memory\"\nmemory_topics = [\"a\"]\n",
            "FILE:3: storage.memory_topics = [\"a\"] is not allowed; allowed: no topic, because storage.durability promises no more than that for any topic (FILE:2)",
        ),
        (
            "[storage]\ndurability = \"memory\"\n[[listeners]]\naddress = \"127.0.0.1:1\"\ndurability = \"interval\"\n",
            "FILE:5: listeners[].durability = \"interval\" is not allowed; allowed: no value, because storage.durability is not \"commit\" (FILE:2)",
        ),
        (
            "[storage]\ninterval_milliseconds = 5\n",
            "FILE:2: storage.interval_milliseconds = 5 is not allowed; allowed: no value, because storage.durability is not \"interval\" (built-in default)",
        ),
        (
            "veil.enabled = false",
            "FILE:1: veil.enabled = false is not allowed; allowed: true, because access.anonymous is false (built-in default): no client could connect",
        ),
        (
            "admin.address = \"127.0.0.1:1883\"",
            "FILE:1: admin.address = \"127.0.0.1:1883\" is not allowed; allowed: an address nobody else uses, because listeners[].address is the same (FILE:3)",
        ),
        (
            "[[listeners]]\naddress = \"127.0.0.1:8883\"\ntls = {}\n",
            "FILE:2: listeners[].tls.certificates[].certificate_file must be given; a listener with TLS needs one, or tls.certificate_file and tls.key_file for all listeners",
        ),
        (
            "[[listeners]]\naddress = \"127.0.0.1:8883\"\nmode = \"0660\"\n",
            "FILE:3: listeners[].mode = \"0660\" is not allowed; allowed: no such value, because 127.0.0.1:8883 is no Unix socket",
        ),
        (
            "[[listeners]]\naddress = \"127.0.0.1:8883\"\nproxy_protocol.trusted = []\n",
            "FILE:3: listeners[].proxy_protocol.trusted = [] is not allowed; allowed: no such value, because nobody could connect; name the addresses of the proxies",
        ),
        (
            "[[listeners]]\naddress = \"unix:/a\"\nproxy_protocol.trusted = [\"::1\"]\n",
            "FILE:3: listeners[].proxy_protocol.trusted = [\"::1\"] is not allowed; allowed: no such value, because whoever may write to a Unix socket is trusted; an empty list is allowed",
        ),
        (
            "[[listeners]]\naddress = \"unix:/a\"\n[[listeners]]\naddress = \"unix:/a\"\n",
            "FILE:4: listeners[].address = \"unix:/a\" is not allowed; allowed: an address nobody else uses, because it is listed twice",
        ),
        (
            "[access.http]\nrenew_url = \"http://a\"\n",
            "FILE:2: access.http.renew_url = \"http://a\" is not allowed; allowed: no such value, because access.http.url is not given",
        ),
        (
            "tls.certificate_file = \"a.crt\"",
            "FILE:1: tls.key_file must be given; a certificate is of no use without its key, nor a key without its certificate",
        ),
        (
            "tls.key_file = \"a.key\"",
            "FILE:1: tls.certificate_file must be given; a certificate is of no use without its key, nor a key without its certificate",
        ),
        (
            "[[listeners]]\naddress = \"127.0.0.1:8883\"\n[listeners.tls]\nclient_certificate = \"optional\"\n",
            "FILE:4: listeners[].tls.client_ca_file must be given; client certificates cannot be verified without the authorities that issue them",
        ),
        (
            "[[listeners]]\naddress = \"127.0.0.1:8883\"\n[listeners.tls]\ncrl_file = \"a.crl\"\n",
            "FILE:4: listeners[].tls.crl_file = \"a.crl\" is not allowed; allowed: no value, because listeners[].tls.client_certificate is \"off\": clients are not asked for a certificate",
        ),
        (
            "[[listeners]]\naddress = \"127.0.0.1:8883\"\n[listeners.tls]\nidentity = \"cn\"\n",
            "FILE:4: listeners[].tls.identity = \"cn\" is not allowed; allowed: no value, because listeners[].tls.client_certificate is \"off\": clients are not asked for a certificate",
        ),
        (
            LISTENER,
            "FILE:4: listeners[].address = \"127.0.0.1:1883\" is not allowed; allowed: an address nobody else uses, because it is listed twice",
        ),
    ] {
        assert_eq!(error_in_file(&format!("{}\n{LISTENER}", text.trim_end()), &[]), expected, "{text}");
    }
}

#[test]
fn the_table_of_a_list_that_is_at_fault_has_its_line_and_value() {
    const TWO: &str =
        "[[listeners]]\naddress = \"127.0.0.1:1\"\nMEMBER\n[[listeners]]\naddress = \"unix:/run/s\"\nOTHER\n";
    for (member, other, expected) in [
        (
            "mode = \"0600\"",
            "mode = \"0660\"",
            "FILE:3: listeners[].mode = \"0600\" is not allowed; allowed: no such value, because 127.0.0.1:1 is no Unix socket",
        ),
        (
            "access = { jwt = true }",
            "access = { anonymous = true, jwt = false }",
            "FILE:3: listeners[].access.jwt = true is not allowed; allowed: no such value, because neither access.jwt.jwks_file nor access.jwt.key_files is given",
        ),
        (
            "tls = { certificates = [] }",
            "",
            "FILE:2: listeners[].tls.certificates[].certificate_file must be given; a listener with TLS needs one, or tls.certificate_file and tls.key_file for all listeners",
        ),
    ] {
        let text = TWO.replace("MEMBER", member).replace("OTHER", other);
        assert_eq!(error_in_file(&format!("{text}[access]\nanonymous = true\n"), &[]), expected);
    }

    for rule in ["observe", "verify"] {
        let text = format!(
            "[[listeners]]\naddress = \"127.0.0.1:1\"\n[e2e]\ndistribution = \"{rule}\"\n\
             [[e2e.policies]]\nname = \"a\"\ntopics = \"a/#\"\n\
             [[e2e.policies]]\nname = \"b\"\ntopics = \"b/#\"\nmembers_only = true\n"
        );
        let expected = format!(
            "FILE:4: e2e.distribution = \"{rule}\" is not allowed; allowed: \"enforce\", because e2e.policies[].members_only is true (FILE:11) and goes by wraps, which have no signature"
        );
        assert_eq!(error_in_file(&text, &[]), expected);
    }

    const BRIDGES: &str = "[[listeners]]\naddress = \"127.0.0.1:1\"\n[[bridges]]\nname = \"b\"\naddresses = [\"h\"]\n\
        [[bridges.topics]]\npattern = \"a#\"\n[[bridges.topics]]\npattern = \"b\"\n\
        [[bridges]]\nname = \"c\"\naddresses = [\"h\"]\n[[bridges.topics]]\npattern = \"c\"\n";
    assert_eq!(
        error_in_file(BRIDGES, &[]),
        "FILE:7: bridges[].topics[].pattern = \"a#\" is not allowed; allowed: no such value, because \"a#\" is no Topic Filter without $share"
    );
    // What a variable replaces has no line any more.
    let replaced = error_in_file(
        "[[listeners]]\naddress = \"127.0.0.1:1\"\n",
        &[("VEILMQ__LISTENERS", "tls://127.0.0.1:2")],
    );
    assert!(replaced.starts_with("environment variable VEILMQ__LISTENERS: "), "{replaced}");
}

#[test]
fn a_bridge_that_cannot_work_is_named() {
    const BRIDGE: &str =
        "[[listeners]]\naddress = \"127.0.0.1:1883\"\n[[bridges]]\nname = \"b\"\naddresses = [\"h\"]\n";
    for (text, expected) in [
        (
            "[[bridges.topics]]\npattern = \"a#\"\n".to_owned(),
            "FILE:7: bridges[].topics[].pattern = \"a#\" is not allowed; allowed: no such value, because \"a#\" is no Topic Filter without $share",
        ),
        (
            "restart_seconds_max = 4\n".to_owned(),
            "FILE:6: bridges[].restart_seconds_max = \"4\" is not allowed; allowed: no such value, because bridges[].restart_seconds_min is 5",
        ),
        (
            "tls = { key_file = \"k\" }\n".to_owned(),
            "FILE:6: bridges[].tls.certificate_file must be given; a certificate is of no use without its key, nor a key without its certificate",
        ),
        (
            "protocol = \"3.1.1\"\npassword = \"p\"\n".to_owned(),
            "FILE:7: bridges[].username must be given; MQTT 3 knows no password without a user name",
        ),
        (
            "protocol = \"3.1.1\"\npassword_file = \"f\"\n".to_owned(),
            "FILE:7: bridges[].username must be given; MQTT 3 knows no password without a user name",
        ),
        (
            "password_file = \"f\"\npassword = \"p\"\n".to_owned(),
            "FILE:6: bridges[].password_file = \"f\" is not allowed; allowed: no such value, because bridges[].password is given too",
        ),
        (
            "[[bridges]]\nname = \"b\"\naddresses = [\"i\"]\n".to_owned(),
            "FILE:7: bridges[].name = \"b\" is not allowed; allowed: no such value, because another bridge has this name",
        ),
        (
            "[[bridges]]\nname = \"c\"\n".to_owned(),
            "FILE:6: bridges[].addresses must be given; each table of the list needs it",
        ),
    ] {
        assert_eq!(error_in_file(&format!("{BRIDGE}{text}"), &[]), expected);
    }
}

#[test]
fn error_in_the_environment_names_the_variable() {
    for (variable, value, expected) in [
        (
            "VEILMQ__LIMITS__INFLIGHT_MAX",
            "many",
            "environment variable VEILMQ__LIMITS__INFLIGHT_MAX: limits.inflight_max = \"many\" is not allowed; allowed: a whole number from 1 to 65535",
        ),
        (
            "VEILMQ__LISTENERS",
            "127.0.0.1:1883,nowhere",
            "environment variable VEILMQ__LISTENERS: listeners[].address = \"nowhere\" is not allowed; allowed: an IP address with a port, such as 127.0.0.1:1883 or [::1]:1883, or unix: with a path of at most 107 bytes; before it may stand mqtts://, ws://, wss://",
        ),
        (
            "VEILMQ__ACCESS__ANONYMOUS",
            "",
            "environment variable VEILMQ__ACCESS__ANONYMOUS: access.anonymous = \"\" is not allowed; allowed: true or false",
        ),
        (
            "VEILMQ__LIMIT__INFLIGHT_MAX",
            "5",
            "environment variable VEILMQ__LIMIT__INFLIGHT_MAX: sets no option; did you mean VEILMQ__LIMITS__INFLIGHT_MAX?",
        ),
        (
            "VEILMQ__limits__inflight_max",
            "5",
            "environment variable VEILMQ__limits__inflight_max: sets no option; did you mean VEILMQ__LIMITS__INFLIGHT_MAX?",
        ),
        (
            "VEILMQ__LISTENER",
            "127.0.0.1:1883",
            "environment variable VEILMQ__LISTENER: sets no option; did you mean VEILMQ__LISTENERS?",
        ),
        (
            "VEILMQ__LOG",
            "debug",
            "environment variable VEILMQ__LOG: sets no option; log is a section of options, each with its own variable, such as VEILMQ__LOG__FORMAT",
        ),
        (
            "VEILMQ__LISTENERS__0__ADDRESS",
            "127.0.0.1:1883",
            "environment variable VEILMQ__LISTENERS__0__ADDRESS: sets no option; listeners is set in the configuration file, or as a list by VEILMQ__LISTENERS",
        ),
        (
            "VEILMQ__BRIDGES",
            "other",
            "environment variable VEILMQ__BRIDGES: sets no option; bridges is set in the configuration file",
        ),
        (
            "VEILMQ__CLUSTER",
            "other",
            "environment variable VEILMQ__CLUSTER: sets no option; docs/configuration.md lists every option",
        ),
        (
            "VEILMQ__LOG__LEVEL_FILE",
            "/nowhere/level",
            "/nowhere/level (named by environment variable VEILMQ__LOG__LEVEL_FILE): cannot be read: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(error_in_file(LISTENER, &[(variable, value)]), expected);
    }
    let error = error_in_file(LISTENER, &[("VEILMQ__VEIL__GROUP_KEY_FILE", "/run/secrets/group")]);
    assert!(
        error.contains("VEILMQ__VEIL__GROUP_KEY_FILE: veil.group_key_file is an end-to-end key"),
        "{error}"
    );
}

#[test]
fn variable_and_its_file_variable_exclude_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = folder.path().join("level");
    std::fs::write(&mounted, "loud").unwrap();
    let mounted = mounted.to_str().unwrap();

    let wrong = error_in_file(LISTENER, &[("VEILMQ__LOG__LEVEL_FILE", mounted)]);
    std::fs::write(mounted, "info").unwrap();
    let twice =
        error_in_file(LISTENER, &[("VEILMQ__LOG__LEVEL", "info"), ("VEILMQ__LOG__LEVEL_FILE", mounted)]);

    let place = format!("{mounted} (named by environment variable VEILMQ__LOG__LEVEL_FILE)");
    assert_eq!(
        wrong,
        format!(
            "{place}: log.level = \"loud\" is not allowed; allowed: one of off, error, warn, info, debug, trace"
        )
    );
    assert_eq!(
        twice,
        format!("{place}: log.level is also set by environment variable VEILMQ__LOG__LEVEL; set one of them")
    );
}

#[test]
fn broker_without_a_file_refuses_to_leave_loopback() {
    let reason = "allowed: a loopback address, because without a configuration file (-c FILE) the broker can be reached from this machine only";

    let by_environment = error(None, Overrides::default(), &[("VEILMQ__LISTENERS", "0.0.0.0:1883")]);
    let admin = Overrides { admin: Some("0.0.0.0:9464".parse().unwrap()), ..Overrides::default() };
    let by_flag = error(None, admin, &[]);

    assert_eq!(
        by_environment,
        format!(
            "environment variable VEILMQ__LISTENERS: listeners[].address = \"0.0.0.0:1883\" is not allowed; {reason}"
        )
    );
    assert_eq!(
        by_flag,
        format!("command line --admin: admin.address = \"0.0.0.0:9464\" is not allowed; {reason}")
    );
}

#[test]
fn file_that_cannot_be_read_is_named_with_the_reason() {
    let missing =
        error(Some(Path::new("/nowhere/veilmq.toml")), Overrides::default(), &[("HOME", "/home/you")]);
    let endless = error(Some(Path::new("/dev/zero")), Overrides::default(), &[]);

    assert_eq!(missing, "/nowhere/veilmq.toml: cannot be read: No such file or directory (os error 2)");
    assert_eq!(endless, "/dev/zero: cannot be read: larger than 1048576 bytes");
}

#[cfg(unix)]
#[test]
fn data_directory_that_is_not_utf_8_is_refused() {
    use std::os::unix::ffi::OsStringExt;

    let data_dir = std::ffi::OsString::from_vec(b"/srv/\xFF".to_vec()).into();
    let overrides = Overrides { data_dir: Some(data_dir), ..Overrides::default() };

    assert_eq!(
        error(None, overrides, &[]),
        "command line --data-dir: data_dir = /srv/\u{FFFD} is not allowed; allowed: a path in UTF-8"
    );
}
