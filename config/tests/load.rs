//! Layers, defaults, round trip: what a broker gets from its sources.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use veilmq_config::{
    BrokerConfig, ConfigError, Durability, E2eDistribution, Fault, FileMode, Kind, ListenerProtocol,
    LogFormat, LogLevel, Mode, OPTIONS, Outside, Overrides, Sources, Suite,
};

const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:1883\"\n";

fn load(
    file: Option<&Path>,
    overrides: Overrides,
    environment: &[(&str, &str)],
) -> Result<BrokerConfig, ConfigError> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    BrokerConfig::load(Sources { file, overrides, environment })
}

fn configured(text: &str, overrides: Overrides, environment: &[(&str, &str)]) -> BrokerConfig {
    try_configured(text, overrides, environment).unwrap()
}

fn try_configured(
    text: &str,
    overrides: Overrides,
    environment: &[(&str, &str)],
) -> Result<BrokerConfig, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("veilmq.toml");
    std::fs::write(&file, text).unwrap();
    load(Some(&file), overrides, environment)
}

fn addresses(config: &BrokerConfig) -> Vec<String> {
    config.listeners.iter().map(|listener| listener.address.to_string()).collect()
}

#[test]
fn without_a_file_the_broker_is_in_development_mode_on_loopback_only() {
    let config = load(None, Overrides::default(), &[("HOME", "/home/you")]).unwrap();

    assert_eq!(config.mode, Mode::Development);
    assert_eq!(addresses(&config), ["127.0.0.1:1883", "[::1]:1883"]);
    assert_eq!(config.admin.address, Some("127.0.0.1:9464".parse().unwrap()));
    assert!(config.access.anonymous);
}

#[test]
fn with_a_file_nothing_is_open_that_the_file_does_not_open() {
    let config = configured(LISTENER, Overrides::default(), &[("HOME", "/home/you")]);

    assert_eq!(config.mode, Mode::Configured);
    assert_eq!(addresses(&config), ["127.0.0.1:1883"]);
    assert!(!config.access.anonymous);
    assert_eq!(config.data_dir, Path::new("/var/lib/veilmq"));
}

#[test]
fn data_directory_without_a_file_is_the_users_own() {
    for (environment, expected) in [
        (vec![("HOME", "/home/you"), ("XDG_DATA_HOME", "/data")], "/data/veilmq"),
        (vec![("HOME", "/home/you"), ("XDG_DATA_HOME", "relative")], "/home/you/.local/share/veilmq"),
        (vec![("HOME", "/home/you"), ("XDG_DATA_HOME", "")], "/home/you/.local/share/veilmq"),
        (vec![], "/var/lib/veilmq"),
        (vec![("HOME", "/home/you"), ("VEILMQ__DATA_DIR", "/srv/mq")], "/srv/mq"),
    ] {
        let config = load(None, Overrides::default(), &environment).unwrap();

        assert_eq!(config.data_dir, Path::new(expected), "{environment:?}");
    }
}

#[test]
fn each_layer_wins_over_the_one_before() {
    let file = "data_dir = \"/file\"\nlog.level = \"warn\"\nlog.format = \"json\"\nshards.count = 3\n[[listeners]]\naddress = \"127.0.0.1:1\"\n";
    let environment = [("VEILMQ__DATA_DIR", "/environment"), ("VEILMQ__LOG__LEVEL", "trace")];
    let overrides = Overrides { data_dir: Some(PathBuf::from("/flag")), ..Overrides::default() };

    let config = configured(file, overrides, &environment);

    assert_eq!(config.data_dir, Path::new("/flag"));
    assert_eq!(config.log.level, LogLevel::Trace);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.shards.count, 3);
    assert_eq!(config.limits.inflight_max, 1_024);
}

#[test]
fn environment_sets_every_kind_of_option() {
    let config = configured(
        LISTENER,
        Overrides::default(),
        &[
            ("VEILMQ__LISTENERS", "0.0.0.0:1883, [::]:1884"),
            ("VEILMQ__ADMIN__ADDRESS", "off"),
            ("VEILMQ__ACCESS__ANONYMOUS", "true"),
            ("VEILMQ__LIMITS__INFLIGHT_MAX", "7"),
            ("VEILMQ__STORAGE__DURABILITY", "interval"),
            ("VEILMQ__STORAGE__INTERVAL_MILLISECONDS", "250"),
            ("VEILMQ__VEIL__SUITES", "chacha20-poly1305,aes-256-gcm"),
            ("VEILMQ__VEIL__TRUST", "/a.vmc,/b.vmc"),
            ("VEILMQ__VEIL__CERTIFICATE", "/broker.vmc"),
            ("PATH", "/bin"),
        ],
    );

    assert_eq!(addresses(&config), ["0.0.0.0:1883", "[::]:1884"]);
    assert_eq!(config.admin.address, None);
    assert!(config.access.anonymous);
    assert_eq!(config.limits.inflight_max, 7);
    assert_eq!(config.storage.durability, Durability::Interval { milliseconds: 250 });
    assert_eq!(config.veil.suites, [Suite::ChaCha20Poly1305, Suite::Aes256Gcm]);
    assert_eq!(config.veil.trust, [Path::new("/a.vmc"), Path::new("/b.vmc")]);
    assert_eq!(config.veil.certificate.as_deref(), Some(Path::new("/broker.vmc")));
}

#[test]
fn empty_list_in_the_environment_empties_the_list_of_the_file() {
    let text = format!("veil.trust = [\"/a.vmc\"]\n{LISTENER}");

    let config = configured(&text, Overrides::default(), &[("VEILMQ__VEIL__TRUST", "")]);

    assert!(config.veil.trust.is_empty());
}

#[test]
fn a_list_that_may_be_left_out_may_be_empty() {
    let config = configured(&format!("veil.paper_modes = []\n{LISTENER}"), Overrides::default(), &[]);

    assert!(config.veil.paper_modes.is_empty());
}

#[test]
fn a_listener_says_what_carries_mqtt_there() {
    let file = format!("{LISTENER}[[listeners]]\naddress = \"127.0.0.1:9001\"\nprotocol = \"websocket\"\n");
    let variable = ("VEILMQ__LISTENERS", "127.0.0.1:1883, ws://127.0.0.1:9001");

    let from_file = configured(&file, Overrides::default(), &[]);
    let from_environment = configured(LISTENER, Overrides::default(), &[variable]);

    assert_eq!(addresses(&from_file), ["127.0.0.1:1883", "127.0.0.1:9001"]);
    let protocols = from_file.listeners.iter().map(|listener| listener.protocol).collect::<Vec<_>>();
    assert_eq!(protocols, [ListenerProtocol::Mqtt, ListenerProtocol::WebSocket]);
    assert_eq!(from_environment.listeners, from_file.listeners);
}

#[test]
fn a_listener_may_be_a_unix_socket() {
    let file = "[[listeners]]\naddress = \"unix:/run/mqtt.sock\"\nmode = \"0600\"\n[[listeners]]\naddress = \"unix:x\"\n";

    let config = configured(file, Overrides::default(), &[]);
    let from_environment =
        configured(LISTENER, Overrides::default(), &[("VEILMQ__LISTENERS", "ws://unix:/a b")]);

    assert_eq!(addresses(&config), ["unix:/run/mqtt.sock", "unix:x"]);
    assert_eq!((config.listeners[0].mode, config.listeners[1].mode), (Some(FileMode(0o600)), None));
    assert_eq!(addresses(&from_environment), ["unix:/a b"]);
    let again = configured(&config.to_toml(), Overrides::default(), &[]);
    assert_eq!(again.listeners, config.listeners);
}

#[test]
fn a_listener_with_tls_shows_its_own_certificates_or_that_of_all() {
    let all = "tls.certificate_file = \"all.crt\"\ntls.key_file = \"all.key\"\n";
    let own = "[[listeners.tls.certificates]]\ncertificate_file = \"own.crt\"\nkey_file = \"own.key\"\n";
    let file = format!("{all}{LISTENER}tls = {{}}\n[[listeners]]\naddress = \"127.0.0.1:8884\"\n{own}");
    let variable = ("VEILMQ__LISTENERS", "mqtts://127.0.0.1:8883,wss://127.0.0.1:8443");

    let from_file = configured(&file, Overrides::default(), &[]);
    let from_environment = configured(&file, Overrides::default(), &[variable]);

    let shown = |config: &BrokerConfig| {
        let listeners = config.listeners.iter().map(|listener| {
            let certificates = config.certificates_of(listener.tls.as_ref().unwrap());
            (listener.protocol, certificates[0].certificate_file.display().to_string())
        });
        listeners.collect::<Vec<_>>()
    };
    let (mqtt, websocket) = (ListenerProtocol::Mqtt, ListenerProtocol::WebSocket);
    assert_eq!(shown(&from_file), [(mqtt, "all.crt".into()), (mqtt, "own.crt".into())]);
    assert_eq!(shown(&from_environment), [(mqtt, "all.crt".into()), (websocket, "all.crt".into())]);
}

#[test]
fn file_variable_takes_its_value_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = folder.path().join("level");
    std::fs::write(&mounted, "debug\n").unwrap();

    let config =
        configured(LISTENER, Overrides::default(), &[("VEILMQ__LOG__LEVEL_FILE", mounted.to_str().unwrap())]);

    assert_eq!(config.log.level, LogLevel::Debug);
}

#[test]
fn port_flag_without_a_file_moves_the_loopback_listeners() {
    let overrides = Overrides { ports: vec![2_883], ..Overrides::default() };

    let config = load(None, overrides, &[]).unwrap();

    assert_eq!(addresses(&config), ["127.0.0.1:2883", "[::1]:2883"]);
}

#[test]
fn port_flag_with_a_file_adds_a_listener_on_all_interfaces() {
    let overrides = Overrides { ports: vec![2_883], ..Overrides::default() };

    let added = configured(LISTENER, overrides.clone(), &[]);
    let without_listener = configured("", overrides.clone(), &[]);
    let present = configured("[[listeners]]\naddress = \"0.0.0.0:2883\"\n", overrides, &[]);

    assert_eq!(addresses(&added), ["127.0.0.1:1883", "0.0.0.0:2883", "[::]:2883"]);
    assert_eq!(addresses(&without_listener), ["0.0.0.0:2883", "[::]:2883"]);
    assert_eq!(addresses(&present), ["0.0.0.0:2883", "[::]:2883"]);
}

#[test]
fn admin_flag_opens_the_listener_that_the_file_closed() {
    let overrides = Overrides { admin: Some("127.0.0.1:9000".parse().unwrap()), ..Overrides::default() };

    let config = configured(&format!("admin.address = \"off\"\n{LISTENER}"), overrides, &[]);

    assert_eq!(config.admin.address, Some("127.0.0.1:9000".parse().unwrap()));
}

#[test]
fn verbose_flag_never_makes_the_log_quieter() {
    let verbose = || Overrides { verbose: true, ..Overrides::default() };

    for (level, expected) in [("error", LogLevel::Debug), ("trace", LogLevel::Trace)] {
        let config = configured(LISTENER, verbose(), &[("VEILMQ__LOG__LEVEL", level)]);

        assert_eq!(config.log.level, expected, "{level}");
    }
}

#[test]
fn effective_configuration_loads_again_as_the_same() {
    let environment = [
        ("VEILMQ__ADMIN__ADDRESS", "off"),
        ("VEILMQ__STORAGE__DURABILITY", "interval"),
        ("VEILMQ__VEIL__TRUST", "/a \"quoted\" name.vmc"),
        ("VEILMQ__VEIL__CERTIFICATE", "/broker.vmc"),
        ("VEILMQ__LIMITS__SESSION_EXPIRY_SECONDS_MAX", "4294967295"),
    ];
    for environment in [&environment[..], &[]] {
        let first = configured(LISTENER, Overrides::default(), environment);

        let again = configured(&first.to_toml(), Overrides::default(), &[]);

        // It is said elsewhere.
        assert_eq!(again, BrokerConfig { named: again.named.clone(), ..first });
    }
}

#[test]
fn development_configuration_loads_again_except_for_the_mode() {
    let first = load(None, Overrides::default(), &[("HOME", "/home/you")]).unwrap();

    let again = configured(&first.to_toml(), Overrides::default(), &[]);

    // It is said elsewhere.
    let named = again.named.clone();
    assert_eq!(again, BrokerConfig { mode: Mode::Configured, named, ..first });
}

#[test]
fn both_ends_of_every_range_fit_the_type_of_the_option() {
    for spec in OPTIONS {
        let Kind::Integer { min, max } = spec.kind else { continue };
        for end in [min, max] {
            let number = end.to_string();
            let variable = spec.variable();
            let environment =
                [(variable.as_str(), number.as_str()), ("VEILMQ__STORAGE__DURABILITY", "interval")];

            // A relation may forbid the value; the type may not.
            let result = match in_a_list(spec.key) {
                // No variable sets it.
                Some(table) => {
                    try_configured(&format!("{LISTENER}{table} = {number}\n"), Overrides::default(), &[])
                }
                None => load(None, Overrides::default(), &environment),
            };

            assert!(
                match &result {
                    Ok(_) => true,
                    Err(error) => matches!(*error.fault, Fault::Relation { .. }),
                },
                "{}: {result:?}",
                spec.key
            );
        }
    }
}

/// A table of a list up to the name of this option, if it is in one.
fn in_a_list(key: &str) -> Option<String> {
    let (list, member) = key.split_once("[].")?;
    let (table, member) = member.rsplit_once('.').unwrap_or(("", member));
    let first = match list {
        "listeners" => String::new(),
        "e2e.policies" => "[[e2e.policies]]\nname = \"p\"\ntopics = \"#\"\n".to_owned(),
        _ => "[[bridges]]\nname = \"b\"\naddresses = [\"h\"]\n".to_owned(),
    };
    let inner = match table {
        "" => String::new(),
        "topics[]" => "[[bridges.topics]]\npattern = \"t\"\n".to_owned(),
        table => format!("[{list}.{table}]\n"),
    };
    Some(format!("{first}{inner}{member}"))
}

#[test]
fn what_is_elsewhere_is_known_by_the_layer_that_names_it_last() {
    let text = "process.user = \"a\"\n[[listeners]]\naddress = \"127.0.0.1:1\"\ninterface = \"lo\"\n\
        [access]\npassword_file = \"/in-file\"\n[veil]\ntrust = [\"/x\", \"/y\"]\n";
    let environment = [("VEILMQ__ACCESS__PASSWORD_FILE", "/in-environment")];

    let config = configured(text, Overrides::default(), &environment);

    let known: Vec<_> = config
        .named
        .iter()
        .map(|named| {
            let origin = named.origin.to_string();
            (origin.rsplit('/').next().unwrap().to_owned(), named.option.as_str(), named.outside.clone())
        })
        .collect();
    let at = |place: &str, option, outside| (place.to_owned(), option, outside);
    let path = |path: &str| Outside::Path(path.into());
    for expected in [
        at("veilmq.toml:1", "process.user", Outside::User("a".into())),
        at("veilmq.toml:4", "listeners[].interface", Outside::Interface("lo".into())),
        at("veilmq.toml:8", "veil.trust", path("/x")),
        at("veilmq.toml:8", "veil.trust", path("/y")),
        at(
            "environment variable VEILMQ__ACCESS__PASSWORD_FILE",
            "access.password_file",
            path("/in-environment"),
        ),
    ] {
        assert!(known.contains(&expected), "{expected:?} in {known:?}");
    }
    assert_eq!(known.len(), 5);
}

#[test]
fn key_distribution_is_held_to_what_the_policies_need() {
    for (policy, expected) in [
        ("mode = \"prefer\"", E2eDistribution::Observe),
        ("mode = \"prefer\"\nmembers_only = true", E2eDistribution::Observe),
        ("", E2eDistribution::Verify),
        ("members_only = true", E2eDistribution::Enforce),
    ] {
        let text = format!("{LISTENER}[[e2e.policies]]\nname = \"a\"\ntopics = \"a/#\"\n{policy}\n");

        let config = configured(&text, Overrides::default(), &[]);

        assert_eq!(config.e2e.distribution(), expected, "{policy}");
    }
}
