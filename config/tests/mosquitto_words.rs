//! What is said of a `mosquitto.conf` that cannot be used, in Mosquitto's words too, and when.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use veilmq_config::{BrokerConfig, ConfigError, Outside, Overrides, Sources};

fn load(text: impl AsRef<[u8]>) -> Result<BrokerConfig, ConfigError> {
    load_in(&tempfile::tempdir().unwrap(), text)
}

fn load_in(directory: &TempDir, text: impl AsRef<[u8]>) -> Result<BrokerConfig, ConfigError> {
    let path = directory.path().join("mosquitto.conf");
    fs::write(&path, text).unwrap();
    BrokerConfig::load(Sources { file: Some(&path), overrides: Overrides::default(), environment: [] })
}

/// The error of a file, with `FILE` for its path and `DIR` for its directory.
fn error(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let error = load_in(&directory, text).expect_err(text).to_string();
    let path = directory.path().to_str().unwrap();
    error.replace(&format!("{path}/mosquitto.conf"), "FILE").replace(path, "DIR")
}

#[test]
fn faults_are_also_told_in_mosquittos_words() {
    let said = |text: &str| {
        let error = load(text).expect_err(text);
        let said = error.in_mosquitto.unwrap_or_else(|| panic!("{text}"));
        (said.words, said.status)
    };
    for (text, words) in [
        ("foo bar\n", "Unknown configuration variable 'foo'."),
        ("user  \n", "Empty 'user' value in configuration."),
        ("listener\n", "Empty 'listener port' value in configuration."),
        ("pid_file /a\npid_file /a\n", "Duplicate 'pid_file' value in configuration."),
        (
            "log_timestamp_format %s\nlog_timestamp_format %s\n",
            "Duplicate 'log_timestamp_format' value in configuration.",
        ),
        (
            "auto_id_prefix a\nlistener 1\nauto_id_prefix b\n",
            "Duplicate 'auto_id_prefix' value in configuration.",
        ),
        (
            "listener 1\nlistener_auto_id_prefix a\nlistener_auto_id_prefix b\n",
            "Duplicate 'listener_auto_id_prefix' value in configuration.",
        ),
        (
            "bind_address ::1\nbind_address ::1\n",
            "Duplicate 'default listener bind_address' value in configuration.",
        ),
        ("listener 1\nhttp_dir /\nhttp_dir /\n", "Duplicate 'http_dir' value in configuration."),
        (
            "connection a\nclientid b\nremote_clientid b\n",
            "Duplicate 'bridge remote clientid' value in configuration.",
        ),
        (
            "connection a\nremote_password b\npassword b\n",
            "Duplicate 'bridge remote_password' value in configuration.",
        ),
        (
            "connection a\nusername b\nremote_username b\n",
            "Duplicate 'bridge remote_username' value in configuration.",
        ),
        ("allow_anonymous maybe\n", "Invalid 'allow_anonymous' value (maybe)."),
        ("autosave_interval x\n", "'autosave_interval' value not a number."),
        ("sys_interval 65536\n", "Invalid 'sys_interval' value (65536)."),
        ("listener 0\n", "A listener with port 0 must provide a Unix socket path."),
        ("listener 100000\n", "Invalid 'port' value (100000)."),
        ("mount_point a/\n", "The 'mount_point' option requires a listener to be defined first."),
        ("try_private true\n", "The 'try_private' option requires a bridge to be defined first."),
        (
            "plugin_opt_x y\n",
            "The 'plugin_opt_x' option requires plugin/global_plugin/plugin_load to be defined first.",
        ),
        ("plugin a.so\nplugin_opt_ y\n", "Invalid 'plugin_opt_' config option."),
        ("plugin a.so\nplugin_opt_x\n", "Empty 'x' value in configuration."),
        ("auth_plugin a.so\nauth_opt_ y\n", "Invalid 'auth_opt_' config option."),
        ("connection a\naddress b\ntopic c\nconnection a\n", "Duplicate bridge name 'a'."),
        ("plugin_use a\n", "The 'plugin_use' option requires a listener to be defined first."),
        ("listener 1\nplugin_use a\n", "Plugin 'a' not previously loaded."),
        (
            "plugin_load a /x/mosquitto_acl_file.so\nplugin_load a /x/mosquitto_acl_file.so\n",
            "Duplicate plugin name 'a'.",
        ),
        ("log_dest file /a\nlog_dest stdout\nlog_dest file /a\n", "Duplicate \"log_dest file\" value."),
        ("connection a\n", "Invalid bridge configuration: no remote addresses defined."),
        ("connection a\naddress b\n", "Invalid bridge configuration: no topics defined."),
        ("connection a\ntopic \"b c\n", "Missing closing quote in topic value (c)."),
        ("bridge_psk 01\n", "The 'bridge_psk' option requires a bridge to be defined first."),
        ("connection a\nbridge_psk\n", "Empty 'bridge_psk' value in configuration."),
        (
            "connection a\naddress b\ntopic c\nbridge_psk 01\n",
            "Invalid bridge configuration: missing bridge_identity.",
        ),
        (
            "connection a\naddress b\ntopic c\nbridge_identity d\n",
            "Invalid bridge configuration: missing bridge_psk.",
        ),
        (
            "listener 1\nenable_proxy_protocol 2\nuse_subject_as_username true\n",
            "use_subject_as_username cannot be used with `enable_proxy_protocol 2`.",
        ),
    ] {
        assert_eq!(said(text), (words.to_owned(), 3), "{text}");
    }
    let tls = "listener 1\ncertfile /b.crt\nkeyfile /b.key\n";
    for (line, words) in [
        ("tls_version tlsv9", "tls_version must be tlsv1.2 or tlsv1.3."),
        ("ciphers nonsense", "ciphers names no suite."),
        ("crlfile /absent", "crlfile names a file that is not there."),
        ("cafile /", "cafile names a directory; `capath` takes one."),
    ] {
        assert_eq!(said(&format!("{tls}{line}\n")), (words.to_owned(), 1), "noticed when the listener opens");
    }
}

#[test]
fn each_listener_has_its_own_prefix_where_settings_are_per_listener() {
    let own = "listener 1\nauto_id_prefix a\nlistener 2\nauto_id_prefix b\n";

    assert!(load(format!("per_listener_settings true\n{own}")).is_ok());
    assert!(load(own).is_err(), "they share it");
    assert!(load("listener 1\nlistener_auto_id_prefix a\nlistener 2\nlistener_auto_id_prefix b\n").is_ok());
}

fn said_first(text: &str) -> String {
    load(text).expect_err(text).to_string()
}

#[test]
fn a_plugin_that_cannot_be_loaded_is_told_after_what_is_wrong_elsewhere() {
    assert!(said_first("plugin /a.so\nplugin_opt_x y\nfoo bar\n").contains(".conf:3: unknown option foo"));
    assert!(said_first("auth_plugin /a.so\nauth_opt_x y\n").contains(".conf:1: auth_plugin = /a.so is not"));
    assert!(said_first("plugin /a.so\nplugin_opt_x y\n").contains(".conf:1: plugin = /a.so is not allowed"));
}

#[test]
fn what_is_found_late_is_said_of_the_line_where_it_stands() {
    for (text, expected) in [
        ("listener 1\nlistener 1\n", ".conf:2: listener listens on 0.0.0.0:1 as that of "),
        (
            "listener 1 127.0.0.1\nlistener 1 127.0.0.1\nbind_interface lo\nlistener 1 127.0.0.1\n",
            ".conf:4: ",
        ),
        ("listener 1\n\ntls_version old\ncertfile /a\nkeyfile /b\n", ".conf:3: tls_version must be"),
        (
            "listener 1\ncertfile /a\nrequire_certificate true\nkeyfile /b\n",
            ".conf:3: require_certificate needs",
        ),
        ("listener 1\n\nkeyfile /b\n", ".conf:3: keyfile needs"),
        ("connection a\naddress b\ntopic c\nconnection a\n", ".conf:4: connection a stands above already"),
    ] {
        let said = said_first(text);
        assert!(said.contains(expected), "{text:?}: {said}");
    }
}

#[test]
fn each_line_that_names_what_is_elsewhere_is_known_by_it() {
    let config = load(
        "listener 1\ncafile /ca\npassword_file /pw\nauth_plugin mosquitto_dynamic_security.so\nauth_opt_config_file /ds\nbind_interface lo\nuser somebody\n",
    );
    let named = config.unwrap().named;
    let named: Vec<_> = named
        .iter()
        .map(|named| {
            let origin = named.origin.to_string();
            (origin.rsplit(':').next().unwrap().to_owned(), named.option.clone(), named.outside.clone())
        })
        .collect();

    let line = |number: &str, option: &str, outside: Outside| (number.to_owned(), option.to_owned(), outside);
    let path = |path: &str| Outside::Path(path.into());
    assert_eq!(
        named,
        [
            line("2", "cafile", path("/ca")),
            line("3", "password_file", path("/pw")),
            line("5", "auth_opt_config_file", path("/ds")),
            line("6", "bind_interface", Outside::Interface("lo".into())),
            line("7", "user", Outside::User("somebody".into())),
        ]
    );
}

#[test]
fn the_pattern_of_a_bridge_may_stand_in_quotation_marks() {
    let config =
        load("connection a\naddress b\ntopic \"with space/#\" both 1 l/ r/\ntopic \"\" out 0 x y\n").unwrap();

    let [spaced, empty] = config.bridges[0].topics.as_slice() else { panic!("{:?}", config.bridges[0]) };
    assert_eq!(
        (spaced.pattern.as_str(), spaced.qos, spaced.remote_prefix.as_str()),
        ("with space/#", 1, "r/")
    );
    assert_eq!((empty.pattern.as_str(), empty.local_prefix.as_str()), ("", "x"));
}

#[test]
fn comments_may_be_in_another_encoding_and_nothing_else() {
    let addresses: Vec<String> = load(b"# caf\xe9\nlistener 1884 127.0.0.1\n#\xff\n")
        .unwrap()
        .listeners
        .iter()
        .map(|listener| listener.address.to_string())
        .collect();
    assert_eq!(addresses, ["127.0.0.1:1884"]);

    let error = load(b"listener 1884\npassword_file /etc/caf\xe9\n").unwrap_err().to_string();
    assert!(error.ends_with("cannot be read: line 2 is not UTF-8"), "{error}");
}

#[test]
fn every_error_names_file_line_and_option() {
    for (text, expected) in [
        (
            "listener 1883\nfoo bar\n",
            "FILE:2: unknown option foo; docs/mosquitto.md lists every option of Mosquitto",
        ),
        ("\n\nlistener\n", "FILE:3: listener needs a value"),
        (
            "listener 1\nenable_proxy_protocol 1\nproxy_protocol_v2_require_tls true\n",
            "FILE:2: enable_proxy_protocol must be 2 for what the proxy says of TLS",
        ),
        ("allow_anonymous\n", "FILE:1: allow_anonymous needs a value"),
        ("allow_anonymous maybe\n", "FILE:1: allow_anonymous = maybe is not allowed; allowed: true or false"),
        (
            "max_keepalive 70000\n",
            "FILE:1: max_keepalive = 70000 is not allowed; allowed: a whole number from 0 to 65535",
        ),
        (
            "max_keepalive 60x\n",
            "FILE:1: max_keepalive = 60x is not allowed; allowed: a whole number from 0 to 65535",
        ),
        (
            "max_packet_size 19\n",
            "FILE:1: max_packet_size = 19 is not allowed; allowed: a whole number from 20 to 268435460",
        ),
        ("maximum_qos 3\n", "FILE:1: maximum_qos = 3 is not allowed; allowed: a whole number from 0 to 2"),
        (
            "listener 99999\n",
            "FILE:1: listener = 99999 is not allowed; allowed: a port from 1 to 65535, and an address or host name behind it if it is not for all interfaces; or 0 and the path of a Unix socket",
        ),
        (
            "log_type foo\n",
            "FILE:1: log_type = foo is not allowed; allowed: debug, error, warning, notice, information, subscribe, unsubscribe, websockets, none or all",
        ),
        (
            "persistent_client_expiration 3x\n",
            "FILE:1: persistent_client_expiration = 3x is not allowed; allowed: a whole number above 0 and one of s, h, d, w, m, y, such as 14d",
        ),
        (
            "allow_anonymous true\nper_listener_settings true\n",
            "FILE:2: per_listener_settings must stand above every security option",
        ),
        (
            "listener 1\ncertfile /b.crt\n",
            "FILE:2: certfile needs `keyfile` beside it; nothing would be encrypted",
        ),
        (
            "listener 1\ncertfile /b.crt\nkeyfile /b.key\nrequire_certificate true\n",
            "FILE:4: require_certificate needs `cafile` or `capath`: the authorities that issue the certificates",
        ),
        (
            "listener 1\ncertfile /b.crt\nkeyfile /b.key\nrequire_certificate true\ncafile /a\ncapath /b\n",
            "FILE:6: capath cannot be used with `cafile`; copy that file into the directory",
        ),
        (
            "listener 1\ncertfile /b.crt\nkeyfile /b.key\nenable_proxy_protocol 2\n",
            "FILE:2: certfile cannot be used with `enable_proxy_protocol`",
        ),
        (
            "listener 1\nmount_point a/#\n",
            "FILE:2: mount_point = a/# is not allowed; allowed: a Topic Name that does not begin with $",
        ),
        (
            "listener 1\naccept_protocol_versions  ,4 , 6\n",
            "FILE:2: accept_protocol_versions = ,4 , 6 is not allowed; allowed: a list of some of 3, 4 and 5, separated by commas",
        ),
        (
            "connection a\naddress b\ntopic c sideways\n",
            "FILE:3: topic = c sideways is not allowed; allowed: a pattern, perhaps with in, out or both behind it, then a QoS from 0 to 2, then what stands before it here and there; \"\" is nothing",
        ),
        (
            "connection a\naddress b\nrestart_timeout 9 3\n",
            "FILE:3: restart_timeout = 9 3 is not allowed; allowed: one or two whole numbers from 1 to 3600, the second not less than the first and up to 7200",
        ),
        ("connection a\ntopic b\n", "FILE:1: connection needs `address` below it"),
        (
            "connection a\naddress b\ntopic c\nbridge_psk 01\n",
            "FILE:4: bridge_psk is not supported: pre-shared keys of TLS are not available; use certificates",
        ),
        (
            "listener 1\npsk_hint here\n",
            "FILE:2: psk_hint is not supported: pre-shared keys of TLS are not available; use certificates",
        ),
        (
            "listener 1\npsk_file /psk\n",
            "FILE:2: psk_file is not supported: pre-shared keys of TLS are not available; use certificates",
        ),
        (
            "listener 1\nprotocol websockets\nhttp_dir /www\n",
            "FILE:3: http_dir needs `protocol http_api` beside it; no other listener serves files",
        ),
        (
            "connection a\naddress b\nbridge_require_ocsp true\n",
            "FILE:3: bridge_require_ocsp = true is not allowed; allowed: false: answers of OCSP are not looked at",
        ),
        ("topic a\n", "FILE:1: topic belongs to a bridge, so `connection NAME` must stand above it"),
        (
            "include_dir DIR/absent\n",
            "FILE:1: include_dir DIR/absent: No such file or directory (os error 2)",
        ),
    ] {
        assert_eq!(error(text), expected);
    }
}

#[test]
fn an_address_that_cannot_be_resolved_is_said_with_the_line_that_names_it() {
    for (text, expected) in [
        (
            "max_inflight_messages 3\nbind_address 300.1.1.1\n",
            ":2: bind_address: 300.1.1.1 cannot be resolved: ",
        ),
        ("listener 1883 300.1.1.1\n", ":1: listener: 300.1.1.1 cannot be resolved: "),
    ] {
        let told = load(text).expect_err(text).to_string();

        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn what_mosquitto_takes_once_is_taken_once_and_of_all_else_the_last_one_counts() {
    const BRIDGE: &str = "connection a\naddress b\ntopic c\n";
    for (context, options) in [
        (
            "",
            &["bind_address 127.0.0.1", "log_timestamp_format %s", "persistence_file a.db", "pid_file /a"][..],
        ),
        ("", &["persistence_location /a/", "auto_id_prefix a"]),
        ("listener 1\n", &["bind_interface lo", "tls_version tlsv1.3", "listener_auto_id_prefix a"]),
        ("listener 1\nprotocol http_api\n", &["http_dir /"]),
        (BRIDGE, &["bridge_cafile /a", "bridge_alpn a", "bridge_ciphers A", "bridge_ciphers_tls1.3 A"]),
        (BRIDGE, &["bridge_bind_address 127.0.0.1", "bridge_tls_version tlsv1.3", "notification_topic a"]),
        (BRIDGE, &["remote_clientid a", "local_clientid a", "local_username a", "remote_username a"]),
        ("connection a\naddress b\ntopic c\nusername u\n", &["remote_password a"]),
    ] {
        for option in options {
            assert!(load(format!("{context}{option}\n")).is_ok(), "{option}");
            let error = load(format!("{context}{option}\n{option}\n")).unwrap_err().to_string();
            assert!(error.contains("stands above already"), "{option}: {error}");
        }
    }

    let config = load(
        "user a\nuser b\nclientid_prefixes a\nclientid_prefixes b\nacl_file /a\nacl_file /b\n\
         password_file /a\npassword_file /b\nlistener 1\nmount_point a/\nmount_point b/\n\
         certfile /a\ncertfile /b\nkeyfile /a\nkeyfile /b\ncafile /a\ncafile /b\n\
         require_certificate true\ncrlfile /a\ncrlfile /b\nciphers A\nciphers B\n",
    )
    .unwrap();
    let path = |path: &str| Some(Path::new(path).to_owned());
    let listener = &config.listeners[0];
    let tls = listener.tls.as_ref().unwrap();
    assert_eq!(
        (config.process.user.as_deref(), config.access.client_id_prefix.as_deref()),
        (Some("b"), Some("b"))
    );
    assert_eq!((config.acl.mosquitto_file, config.access.password_file), (path("/b"), path("/b")));
    assert_eq!(listener.mqtt.mount_point.as_deref(), Some("b/"));
    let pair = &tls.certificates[0];
    assert_eq!([&pair.certificate_file, &pair.key_file], [Path::new("/b"); 2]);
    assert_eq!((&tls.client_ca_file, &tls.crl_file), (&path("/b"), &path("/b")));
}
