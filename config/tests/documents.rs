//! The documents about the configuration say what the types say: `docs/configuration.md` and the shipped files.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use veilmq_config::{
    BridgeConfig, BridgePassword, BridgeTlsConfig, BridgeTopicConfig, BrokerConfig, E2eChannel,
    E2eDistribution, E2eFormat, E2eMode, E2ePolicyConfig, FileMode, HttpAccessConfig, JwtConfig, Kind,
    ListenerAccessConfig, ListenerDurability, ListenerMqttConfig, ListenerTlsConfig, OPTIONS, OptionSpec,
    Overrides, PaperMode, ProxyProtocolConfig, Reload, Sources, Suite, TcpKeepAliveConfig,
};

type Flat = BTreeMap<String, String>;

fn in_config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn load(file: Option<&Path>, environment: &[(&str, &str)]) -> BrokerConfig {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    BrokerConfig::load(Sources { file, overrides: Overrides::default(), environment }).unwrap()
}

/// Every key of a configuration with its value as TOML.
fn flat(config: &BrokerConfig) -> Flat {
    let mut flat = Flat::new();
    flatten("", &toml::Value::Table(config.to_toml().parse().unwrap()), &mut flat);
    flat
}

fn flatten(key: &str, value: &toml::Value, flat: &mut Flat) {
    match value {
        toml::Value::Table(table) => {
            let separator = if key.is_empty() { "" } else { "." };
            table.iter().for_each(|(name, value)| flatten(&format!("{key}{separator}{name}"), value, flat));
        }
        toml::Value::Array(elements) if elements.iter().any(toml::Value::is_table) => {
            elements.iter().for_each(|element| flatten(&format!("{key}[]"), element, flat));
        }
        _ => drop(flat.insert(key.to_owned(), value.to_string())),
    }
}

fn documented_row(spec: &OptionSpec, configured: &Flat, development: &Flat) -> String {
    let default = match (spec.unset, configured.get(spec.key), development.get(spec.key)) {
        (Some(unset), _, _) => unset.to_owned(),
        (None, Some(value), Some(other)) if value != other => format!("`{value}` (development: `{other}`)"),
        (None, Some(value), _) => format!("`{value}`"),
        (None, None, _) => panic!("{} has neither a default nor a word on its absence", spec.key),
    };
    format!("| `{}` | {default} | {} | {} | {} |", spec.key, spec.kind, spec.reload(), spec.meaning)
}

/// A configuration in which every option has a value.
fn every_key() -> BrokerConfig {
    let mut every_key = load(
        None,
        &[
            ("VEILMQ__STORAGE__DURABILITY", "interval"),
            ("VEILMQ__VEIL__CERTIFICATE", "/broker.vmc"),
            ("VEILMQ__ACCESS__PASSWORD_FILE", "/passwd"),
            ("VEILMQ__ACL__FILE", "/acl.toml"),
            ("VEILMQ__ADMIN__TOKEN_FILE", "/token"),
            ("VEILMQ__ACCESS__CLIENT_ID_PREFIX", "dev-"),
            ("VEILMQ__LOG__TIMESTAMP_FORMAT", "%s"),
            ("VEILMQ__PROCESS__PID_FILE", "/run/veilmq.pid"),
            ("VEILMQ__PROCESS__USER", "nobody"),
            ("VEILMQ__MQTT__SERVER_REFERENCE", "other:1883"),
            ("VEILMQ__MQTT__RESPONSE_INFORMATION", "answers/%c"),
            ("VEILMQ__LISTENERS", "wss://127.0.0.1:8443"),
            ("VEILMQ__TLS__CERTIFICATE_FILE", "/broker.crt"),
            ("VEILMQ__TLS__KEY_FILE", "/broker.key"),
            ("HOME", "/home/you"),
        ],
    );
    every_key.listeners[0].mode = Some(FileMode::default());
    every_key.listeners[0].durability = Some(ListenerDurability::Commit);
    every_key.listeners[0].connections_max = Some(1);
    every_key.listeners[0].interface = Some("eth0".to_owned());
    every_key.listeners[0].http_directory = Some("/www".into());
    every_key.listeners[0].websocket_origins = vec!["https://example.org".to_owned()];
    every_key.listeners[0].access = Some(ListenerAccessConfig {
        anonymous: true,
        password_file: Some("/passwd".into()),
        rehash: true,
        acl_file: Some("/acl.toml".into()),
        mosquitto_acl_file: Some("/acl".into()),
        dynamic_security: true,
        jwt: true,
        http: true,
    });
    every_key.listeners[0].mqtt = ListenerMqttConfig {
        maximum_qos: Some(1),
        topic_alias_maximum: Some(1),
        topic_alias_to_client_max: Some(1),
        mount_point: Some("m/".to_owned()),
        ..ListenerMqttConfig::default()
    };
    every_key.listeners[0].proxy_protocol =
        Some(ProxyProtocolConfig { version: Some(2), ..ProxyProtocolConfig::default() });
    let tls = every_key.listeners[0].tls.clone().unwrap();
    every_key.listeners[0].tls = Some(ListenerTlsConfig {
        certificates: every_key.certificates_of(&tls),
        client_ca_file: Some("/ca.crt".into()),
        crl_file: Some("/ca.crl".into()),
        issuers_file: Some("/issuers.crt".into()),
        ..tls
    });

    every_key.e2e.policies.push(E2ePolicyConfig {
        name: "all".to_owned(),
        topics: "#".to_owned(),
        mode: E2eMode::Require,
        formats: vec![E2eFormat::Ve1],
        scope: Some("#".to_owned()),
        suites: vec![Suite::Aes256Gcm],
        require_signed: true,
        verify_signature: true,
        epoch_monotonic: true,
        transition_seconds: 1,
        epoch_seconds_max: Some(1),
        sender_binding: true,
        bridges: vec!["bridge".to_owned()],
        bridged_senders: vec!["0123456789abcdef".to_owned()],
        skew_seconds_max: Some(1),
        payload_bytes_max: Some(1),
        require_channel: E2eChannel::Veil,
        members_only: true,
    });
    every_key.bridges = vec![BridgeConfig {
        bind_address: Some([127, 0, 0, 1].into()),
        tls: Some(BridgeTlsConfig {
            ca: Some("/ca".into()),
            certificate_file: Some("/bridge.crt".into()),
            key_file: Some("/bridge.key".into()),
            alpn: Some("mqtt".into()),
            ..BridgeTlsConfig::default()
        }),
        tcp_keep_alive: Some(TcpKeepAliveConfig::default()),
        tcp_user_timeout_milliseconds: Some(1),
        client_id: Some("a".into()),
        username: Some("b".into()),
        password: Some(BridgePassword::new("c")),
        password_file: Some("/bridge-password".into()),
        session_expiry_seconds: Some(1),
        packet_bytes_max: Some(20),
        local_client_id: Some("d".into()),
        local_clean_start: Some(true),
        notification_topic: Some("e".into()),
        topics: vec![BridgeTopicConfig {
            local_prefix: "f".into(),
            remote_prefix: "g".into(),
            ..BridgeTopicConfig::default()
        }],
        ..BridgeConfig::default()
    }];

    every_key.veil.paper_modes = vec![PaperMode::Paper4];
    every_key.veil.revocations = vec!["/ca.crl".into()];
    every_key.e2e.distribution = Some(E2eDistribution::Verify);
    // Only one of the three may be given.
    every_key.acl.mosquitto_file = Some(PathBuf::from("/acl"));
    every_key.access.dynamic_security_file = Some(PathBuf::from("/ds.json"));
    every_key.access.dynamic_security_password_file = Some(PathBuf::from("/pw"));
    every_key.access.jwt = JwtConfig {
        jwks_file: Some(PathBuf::from("/jwks.json")),
        issuer: Some("issuer".to_owned()),
        audience: Some("broker".to_owned()),
        ..JwtConfig::default()
    };
    every_key.access.http = HttpAccessConfig {
        url: Some("http://localhost/login".parse().unwrap()),
        renew_url: Some("http://localhost/renew".parse().unwrap()),
        token_file: Some(PathBuf::from("/bearer")),
        ca: Some(PathBuf::from("/ca.crt")),
        ..HttpAccessConfig::default()
    };

    every_key
}

/// Another value than this one for an option of a kind.
fn another(kind: Kind, value: &toml::Value) -> toml::Value {
    let choice = |choices: &[&str], present: &str| {
        choices.iter().find(|choice| **choice != present).map(|choice| (*choice).to_owned()).unwrap()
    };
    match (kind, value) {
        (Kind::Choice(choices), toml::Value::String(present)) => choice(choices, present).into(),
        (Kind::Choices(choices) | Kind::ChoicesOrNone(choices), toml::Value::Array(present)) => {
            let first = present.first().and_then(toml::Value::as_str).unwrap_or_default();
            vec![choice(choices, first)].into()
        }
        (Kind::ListenAddress, _) => "127.0.0.1:9".into(),
        (Kind::AddressOrOff, _) => "off".into(),
        (Kind::FileMode, _) => "0600".into(),
        (Kind::Networks, _) => vec!["10.9.0.0/16"].into(),
        (_, toml::Value::Integer(1)) => 2.into(),
        (_, toml::Value::Integer(_)) => 1.into(),
        (_, toml::Value::Boolean(value)) => (!value).into(),
        (_, toml::Value::String(text)) => another_text(text).into(),
        (_, toml::Value::Array(texts)) => {
            let first = texts.first().and_then(toml::Value::as_str).unwrap_or("x");
            vec![another_text(first)].into()
        }
        (kind, value) => panic!("another value than {value} for {kind:?}"),
    }
}

/// Another name, address or file: a text with another last character.
fn another_text(text: &str) -> String {
    let last = if text.ends_with('2') { '3' } else { '2' };
    let start = text.char_indices().next_back().map_or(0, |(index, _)| index);
    format!("{}{last}", &text[..start])
}

/// Returns the value of an option, of the first table in each list that it is in.
fn value_of<'a>(table: &'a mut toml::Table, key: &str) -> &'a mut toml::Value {
    let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
    let value = table.get_mut(first.trim_end_matches("[]")).unwrap_or_else(|| panic!("{key}"));
    let value = if first.ends_with("[]") { &mut value.as_array_mut().unwrap()[0] } else { value };
    match rest {
        Some(rest) => value_of(value.as_table_mut().unwrap(), rest),
        None => value,
    }
}

#[test]
fn a_reload_takes_over_every_option_but_those_of_the_next_start() {
    let before = every_key();

    for spec in OPTIONS {
        let mut table: toml::Table = before.to_toml().parse().unwrap();
        let value = value_of(&mut table, spec.key);
        *value = another(spec.kind, value);
        let said: BrokerConfig = table.try_into().unwrap_or_else(|error| panic!("{}: {error}", spec.key));
        let keys = |one: &BrokerConfig, other: &BrokerConfig| {
            one.differences(other).into_iter().map(|spec| spec.key).collect::<Vec<_>>()
        };
        // Without its durability an interval is not there either.
        assert!(keys(&before, &said).contains(&spec.key), "{}", spec.key);

        let now = before.reloaded(&said);

        let is_left = spec.reload() == Reload::NextStart;
        assert_eq!(now.to_toml() == before.to_toml(), is_left, "{}: {}", spec.key, spec.reload());
        assert_eq!(keys(&now, &said).is_empty(), !is_left, "{}", spec.key);
    }
}

#[test]
fn table_of_options_has_exactly_the_keys_of_the_types() {
    let of_types: Vec<_> = flat(&every_key()).into_keys().collect();
    let mut of_table: Vec<_> = OPTIONS.iter().map(|spec| spec.key.to_owned()).collect();
    of_table.sort();

    assert_eq!(of_table, of_types);
}

#[test]
fn configuration_document_has_one_true_row_for_each_option() {
    let document = std::fs::read_to_string(in_config("../docs/configuration.md")).unwrap();
    let configured = flat(&BrokerConfig::default());
    let development = flat(&load(None, &[("HOME", "$HOME")]));

    let (_, table) = document.split_once("\n| Key | Default | Allowed | Reload | Meaning |\n").unwrap();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<_> =
        OPTIONS.iter().map(|spec| documented_row(spec, &configured, &development)).collect();

    assert_eq!(rows, expected, "the table in docs/configuration.md should be:\n{}\n", expected.join("\n"));
}

#[test]
fn configuration_document_names_the_environment_variables() {
    let document = std::fs::read_to_string(in_config("../docs/configuration.md")).unwrap();

    let variables = document.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    let variables: Vec<_> = variables.filter(|word| word.starts_with("VEILMQ__")).collect();
    let known: Vec<_> = OPTIONS.iter().map(OptionSpec::variable).collect();

    assert!(variables.len() >= 4, "{variables:?}");
    for variable in variables {
        let option = variable.strip_suffix("_FILE").unwrap_or(variable);
        let placeholder = ["VEILMQ__", "VEILMQ__SECTION__KEY"].contains(&option);
        let is_known = known.iter().any(|known| known == option || known == variable);
        assert!(placeholder || is_known, "{variable}");
    }
}

#[test]
fn shipped_example_loads_and_changes_no_default() {
    let example = load(Some(&in_config("veilmq.toml")), &[]);

    assert_eq!(example, BrokerConfig { listeners: example.listeners.clone(), ..BrokerConfig::default() });
    assert!(example.listeners.iter().all(|listener| listener.address.is_local()));
}

#[test]
fn commented_options_of_the_shipped_example_are_all_options_with_their_defaults() {
    let text = std::fs::read_to_string(in_config("veilmq.toml")).unwrap();
    let without_marks = text.lines().map(|line| match line.strip_prefix('#') {
        Some(option) if !option.is_empty() && !option.starts_with(' ') => option,
        _ => line,
    });
    let every_option: toml::Table = without_marks.collect::<Vec<_>>().join("\n").parse().unwrap();

    let mut of_file = Flat::new();
    flatten("", &toml::Value::Table(every_option), &mut of_file);
    let mut expected = flat(&BrokerConfig::default());
    expected.insert("listeners[].address".to_owned(), "\"127.0.0.1:1883\"".to_owned());
    expected.insert("listeners[].protocol".to_owned(), "\"mqtt\"".to_owned());
    expected.insert("listeners[].durability".to_owned(), "\"commit\"".to_owned());
    expected.remove("listeners");

    assert_eq!(of_file, expected);
}

#[test]
fn shipped_container_file_loads_and_can_be_reached_from_outside() {
    let container = load(Some(&in_config("container.toml")), &[]);

    assert!(
        container
            .listeners
            .iter()
            .any(|listener| listener.address.tcp().is_some_and(|address| address.ip().is_unspecified()))
    );
    assert!(container.admin.address.is_some_and(|address| address.ip().is_unspecified()));
    assert!(!container.access.anonymous);
}

#[test]
fn every_shipped_file_is_tested_here() {
    let mut shipped: Vec<_> = std::fs::read_dir(in_config(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml") && name != "Cargo.toml")
        .collect();
    shipped.sort();

    assert_eq!(shipped, ["container.toml", "veilmq.toml"]);
}
