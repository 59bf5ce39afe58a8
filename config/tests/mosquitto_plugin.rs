//! The plugins that `mosquitto.conf` may name: those that are built in.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use veilmq_config::{BrokerConfig, ConfigError, Overrides, Sources};

fn try_load(text: &str) -> Result<BrokerConfig, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mosquitto.conf");
    fs::write(&path, text).unwrap();
    BrokerConfig::load(Sources {
        file: Some(&path),
        overrides: Overrides::default(),
        environment: std::iter::empty(),
    })
}

fn load(text: &str) -> BrokerConfig {
    try_load(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// Returns what the operator is warned of: the option, where it stands, and what is said.
fn warnings(text: &str) -> Vec<(String, String, String)> {
    let notes = load(text).mosquitto.notes.into_iter().filter(|note| note.is_warning);
    notes.map(|note| (note.option, note.origin.to_string(), note.text)).collect()
}

#[test]
fn the_plugin_that_is_built_in_is_found_under_every_name_it_has() {
    let so = "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so";
    for head in [
        format!("plugin {so}"),
        format!("global_plugin {so}"),
        format!("auth_plugin {so}"),
        format!("plugin_load ds {so}\nlistener 1884\nplugin_use ds"),
        format!("per_listener_settings true\nlistener 1884\nplugin {so}"),
    ] {
        let config =
            load(&format!("{head}\nplugin_opt_config_file /ds.json\nplugin_opt_config_format json\n"));

        assert_eq!(config.access.dynamic_security_file, Some(PathBuf::from("/ds.json")), "{head}");
        assert!(config.listeners.iter().all(|listener| listener.access.is_none()), "{head}");
    }
    assert!(load("enable_control_api true\n").access.control_api);
}

#[test]
fn roles_count_on_the_listeners_that_name_the_plugin() {
    let plugin = "plugin /lib/mosquitto_dynamic_security.so\nplugin_opt_config_file /ds.json\n";
    let config = load(&format!(
        "per_listener_settings true\nlistener 1884 127.0.0.1\nacl_file /acl\nlistener 1885 127.0.0.1\n{plugin}\
         plugin_opt_password_init_file /pw\nlistener 1886 127.0.0.1\nallow_anonymous true\n{plugin}"
    ));

    assert_eq!(config.access.dynamic_security_file, Some(PathBuf::from("/ds.json")));
    assert_eq!(config.access.dynamic_security_password_file, Some(PathBuf::from("/pw")));
    assert_eq!(config.acl.mosquitto_file, None);
    let common = config.access_of_listeners();
    let own = config.listeners.iter().map(|listener| listener.access.as_ref().unwrap_or(&common));
    let own: Vec<_> =
        own.map(|own| (own.dynamic_security, own.mosquitto_acl_file.is_some(), own.anonymous)).collect();
    assert_eq!(own, [(false, true, false), (true, false, false), (true, false, true)]);
}

#[test]
fn what_cannot_be_is_an_error_that_names_the_line() {
    let plugin = "plugin mosquitto_dynamic_security.so\nplugin_opt_config_file";
    let two_files =
        format!("per_listener_settings true\nlistener 1884\n{plugin} /a\nlistener 1885\n{plugin} /b\n");
    for (text, expected) in [
        (
            "plugin /none\n",
            "FILE:1: plugin = /none is not allowed; allowed: …/mosquitto_dynamic_security.so, …/mosquitto_acl_file.so or …/mosquitto_password_file.so, which are built in; no other plugin can be loaded, but `access.http` of a configuration of our own asks a service",
        ),
        (
            "plugin_opt_config_file /ds.json\n",
            "FILE:1: plugin_opt_config_file belongs to a plugin, so `plugin PATH` must stand above it",
        ),
        (
            "plugin_load ds /x/mosquitto_dynamic_security.so\nlistener 1\nplugin_use other\n",
            "FILE:3: plugin_use = other is not allowed; allowed: a name that plugin_load has given above",
        ),
        (
            "plugin /x/mosquitto_dynamic_security.so\nplugin_opt_x y\n",
            "FILE:2: plugin_opt_x is not supported: options of plugins written in C, which cannot be loaded; `auth_opt_*` is the older name of each `plugin_opt_*`",
        ),
        (
            &two_files,
            ":7: plugin_opt_config_file = /b is not allowed; allowed: the file that is named above it: there is one for all listeners",
        ),
        (
            "plugin_opt_password_init_file /pw\n",
            ":1: plugin_opt_password_init_file belongs to a plugin, so `plugin PATH` must stand above it",
        ),
    ] {
        let error = try_load(text).expect_err(text).to_string();

        assert!(error.ends_with(&expected.replace("FILE", "")), "{text}: {error}");
    }
}

#[test]
fn a_plugin_without_a_file_is_not_active_and_that_is_said() {
    let so = "/lib/mosquitto_dynamic_security.so";
    let file = "plugin_opt_config_file /ds.json\n";

    for (text, option, line) in [
        (format!("plugin {so}\n"), "plugin", ":1"),
        (format!("listener 1884\nauth_plugin {so}\nallow_anonymous true\n"), "auth_plugin", ":2"),
        (
            format!(
                "per_listener_settings true\nlistener 1884\nplugin {so}\nlistener 1885\nplugin {so}\n{file}"
            ),
            "plugin",
            ":3",
        ),
        (format!("plugin_load ds {so}\nlistener 1884\nplugin_use ds\n"), "plugin_load", ":1"),
    ] {
        let [(named, origin, said)] = &warnings(&text)[..] else { panic!("{text}: {:?}", warnings(&text)) };

        assert_eq!(named, option, "{text}");
        assert!(origin.ends_with(line), "{text}: {origin}");
        assert!(said.starts_with("Dynamic security plugin has no plugin_opt_config_file defined."), "{said}");
    }
    assert_eq!(load(&format!("plugin {so}\n")).access.dynamic_security_file, None);
    assert!(warnings(&format!("plugin {so}\n{file}")).is_empty());
}

#[test]
fn files_of_rules_and_passwords_may_be_named_by_the_plugins_that_read_them() {
    let both = "plugin /lib/mosquitto_acl_file.so\nplugin_opt_acl_file /acl\n\
                plugin /lib/mosquitto_password_file.so\nplugin_opt_password_file /pw\n";
    let config = load(&format!("listener 1884 127.0.0.1\n{both}"));
    assert_eq!(config.acl.mosquitto_file, Some(PathBuf::from("/acl")));
    assert_eq!(config.access.password_file, Some(PathBuf::from("/pw")));
    assert!(config.mosquitto.notes.is_empty(), "{:?}", config.mosquitto.notes);

    let config = load(&format!(
        "per_listener_settings true\nlistener 1884 127.0.0.1\nallow_anonymous true\nlistener 1885 127.0.0.1\n{both}"
    ));
    let own = config.listeners[1].access.as_ref().unwrap();
    assert_eq!((&config.access.password_file, &config.acl.mosquitto_file), (&None, &None));
    assert_eq!(own.password_file, Some(PathBuf::from("/pw")));
    assert_eq!(own.mosquitto_acl_file, Some(PathBuf::from("/acl")));
}

#[test]
fn an_option_belongs_to_the_plugin_above_it() {
    for text in [
        "plugin /lib/mosquitto_acl_file.so\nplugin_opt_password_file /pw\n",
        "plugin /lib/mosquitto_dynamic_security.so\nplugin_opt_acl_file /acl\n",
        "plugin /lib/mosquitto_acl_file.so\nplugin_opt_config_file /ds.json\n",
        "per_listener_settings true\nglobal_plugin /lib/mosquitto_acl_file.so\nplugin_opt_acl_file /acl\n",
    ] {
        let error = try_load(text).unwrap_err().to_string();
        assert!(error.contains("plugin_opt_") && error.contains("is not allowed"), "{error}");
    }
}

#[test]
fn a_plugin_with_a_name_counts_on_the_listeners_that_use_it() {
    let config = load(
        "plugin_load ds /lib/mosquitto_dynamic_security.so\nplugin_opt_config_file /ds.json\n\
         plugin_load rules /lib/mosquitto_acl_file.so\n\
         plugin_load users /lib/mosquitto_password_file.so\nplugin_opt_password_file /pw\n\
         listener 1884 127.0.0.1\nplugin_use ds\n\
         listener 1885 127.0.0.1\nplugin_use users\nplugin_use rules\nplugin_opt_acl_file /acl\n\
         listener 1886 127.0.0.1\n",
    );

    assert_eq!(config.access.dynamic_security_file, Some(PathBuf::from("/ds.json")));
    let common = config.access_of_listeners();
    let own: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| listener.access.as_ref().unwrap_or(&common))
        .map(|own| (own.dynamic_security, own.mosquitto_acl_file.clone(), own.password_file.clone()))
        .collect();
    let path = |path: &str| Some(PathBuf::from(path));
    assert_eq!(own, [(true, None, None), (false, path("/acl"), path("/pw")), (false, None, None)]);
    assert!(config.mosquitto.notes.is_empty(), "{:?}", config.mosquitto.notes);
}

#[test]
fn a_plugin_that_no_listener_uses_has_no_effect_and_that_is_said() {
    let text = "plugin_load ds /lib/mosquitto_dynamic_security.so\nplugin_opt_config_file /ds.json\n";

    let config = load(text);

    assert_eq!(config.access.dynamic_security_file, None);
    assert_eq!(warnings(text)[0].2, "no effect: no listener says `plugin_use ds`");
}

#[test]
fn a_listener_has_one_file_of_a_kind_whatever_names_it() {
    for (text, expected) in [
        (
            "plugin_load a /lib/mosquitto_acl_file.so\nplugin_opt_acl_file /a\nacl_file /b\n\
             listener 1\nplugin_use a\n",
            ":5: plugin_use a reads /a, beside /b",
        ),
        (
            "plugin_load a /lib/mosquitto_password_file.so\nplugin_opt_password_file /a\n\
             plugin_load b /lib/mosquitto_password_file.so\nplugin_opt_password_file /b\n\
             listener 1\nplugin_use a\nplugin_use b\n",
            ":7: plugin_use b reads /b, beside /a",
        ),
    ] {
        let error = try_load(text).unwrap_err().to_string();
        assert!(error.ends_with(expected), "{error}");
    }
}
