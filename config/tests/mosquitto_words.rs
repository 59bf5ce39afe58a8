//! What is said of a `mosquitto.conf` that cannot be used, in Mosquitto's words too, and when.
#![allow(clippy::unwrap_used)]

use std::fs;

use veilmq_config::{BrokerConfig, ConfigError, Overrides, Sources};

fn load(text: &str) -> Result<BrokerConfig, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mosquitto.conf");
    fs::write(&path, text).unwrap();
    BrokerConfig::load(Sources { file: Some(&path), overrides: Overrides::default(), environment: [] })
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
        ("connection a\n", "Invalid bridge configuration: no remote addresses defined."),
        ("connection a\naddress b\n", "Invalid bridge configuration: no topics defined."),
        ("connection a\ntopic \"b c\n", "Missing closing quote in topic value (c)."),
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
    ] {
        assert_eq!(said(&format!("{tls}{line}\n")), (words.to_owned(), 1), "noticed when the listener opens");
    }
}

fn said_first(text: &str) -> String {
    load(text).expect_err(text).to_string()
}

#[test]
fn a_plugin_that_cannot_be_loaded_is_told_after_what_is_wrong_elsewhere() {
    assert!(said_first("plugin /a.so\nplugin_opt_x y\nfoo bar\n").contains(".conf:3: unknown option foo"));
    assert!(said_first("plugin /a.so\nplugin_opt_x y\n").contains(".conf:1: plugin = /a.so is not allowed"));
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
