//! `mosquitto.conf`: what its lines come to, and what is wrong with it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use veilmq_config::{
    BridgeConfig, BridgeDirection, BridgeNotifications, BridgeProtocol, BridgeTopicConfig, BrokerConfig,
    CertificateIdentity, ClientCertificate, ConfigError, Durability, ListenerAccessConfig,
    ListenerMqttConfig, ListenerProtocol, LogLevel, Mode, MqttVersion, Overrides, ProxiedTls, ProxyIdentity,
    Sources, Strictness, SyslogFacility, TlsVersion, import_mosquitto, is_mosquitto_file,
};

/// A `mosquitto.conf` in a directory of its own.
struct Conf {
    directory: TempDir,
}

impl Conf {
    fn new(text: &str) -> Self {
        let conf = Self { directory: tempfile::tempdir().unwrap() };
        fs::write(conf.path(), text).unwrap();
        conf
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mosquitto.conf")
    }

    fn load_with(
        &self,
        overrides: Overrides,
        environment: &[(&str, &str)],
    ) -> Result<BrokerConfig, ConfigError> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        BrokerConfig::load(Sources { file: Some(&self.path()), overrides, environment })
    }
}

fn load(text: &str) -> BrokerConfig {
    Conf::new(text).load_with(Overrides::default(), &[]).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn addresses(config: &BrokerConfig) -> Vec<String> {
    config.listeners.iter().map(|listener| listener.address.to_string()).collect()
}

#[test]
fn an_empty_file_serves_this_machine_only_and_keeps_nothing() {
    let config = load("# nothing is set\n");

    assert_eq!(config.mode, Mode::Mosquitto);
    assert_eq!(addresses(&config), ["127.0.0.1:1883", "[::1]:1883"]);
    assert!(config.access.anonymous);
    assert_eq!(config.storage.durability, Durability::Memory);
    assert_eq!(config.admin.address, None);
    assert!(!config.needs_data_dir());
    assert!(!config.mqtt.reason_strings);
    assert_eq!((config.limits.receive_maximum, config.limits.inflight_max), (20, 20));
    assert_eq!(config.limits.topic_alias_maximum, 10);
    assert_eq!(config.limits.packet_bytes_max, 2_000_000);
    assert_eq!(config.limits.session_queue_messages_max, 1_000);
}

#[test]
fn with_a_listener_nobody_is_anonymous_unless_it_is_said() {
    for (text, expected) in [
        ("listener 1883\n", false),
        ("listener 1883\nallow_anonymous true\n", true),
        ("allow_anonymous true\nlistener 1883\n", true),
        ("allow_anonymous true\nallow_anonymous false\nlistener 1883\n", false),
        ("port 1883\n", false),
        ("per_listener_settings true\nlistener 1883\nallow_anonymous true\n", true),
        // It belongs to the default listener, which is not used.
        ("per_listener_settings true\nallow_anonymous true\nlistener 1883\n", false),
        ("listener 1883\nlistener_allow_anonymous true\n", true),
        ("allow_anonymous true\nlistener 1883\nlistener_allow_anonymous false\n", false),
        ("allow_anonymous false\n", false),
    ] {
        assert_eq!(load(text).access.anonymous, expected, "{text:?}");
    }
}

#[test]
fn listeners_are_where_mosquitto_has_them() {
    for (text, expected) in [
        ("listener 1884\n", vec!["0.0.0.0:1884", "[::]:1884"]),
        ("listener 1884 127.0.0.1\n", vec!["127.0.0.1:1884"]),
        ("listener 1884 ::1 # here\n", vec!["[::1]:1884"]),
        ("listener 1884\nsocket_domain ipv4\n", vec!["0.0.0.0:1884"]),
        ("listener 1884\nsocket_domain ipv6\n", vec!["[::]:1884"]),
        ("socket_domain ipv4\n", vec!["127.0.0.1:1883"]),
        ("port 1884\nsocket_domain ipv4\n", vec!["0.0.0.0:1884"]),
        ("bind_address 127.0.0.1\n", vec!["127.0.0.1:1883"]),
        (
            "socket_domain ipv4\nmax_connections 10\nlistener 1884 127.0.0.1\n",
            vec!["0.0.0.0:1883", "127.0.0.1:1884"],
        ),
        ("allow_anonymous true\nlistener 1884 127.0.0.1\n", vec!["127.0.0.1:1884"]),
        (
            "per_listener_settings true\nallow_anonymous true\nlistener 1884 127.0.0.1\n",
            vec!["127.0.0.1:1884"],
        ),
        (
            "per_listener_settings true\nacl_file /etc/acl\nsocket_domain ipv6\nlistener 1884 127.0.0.1\n",
            vec!["[::]:1883", "127.0.0.1:1884"],
        ),
        (
            "port 1885\nbind_address 127.0.0.1\nlistener 1884 127.0.0.2\n",
            vec!["127.0.0.1:1885", "127.0.0.2:1884"],
        ),
        (
            "listener 1884 127.0.0.1\nlistener 9001 127.0.0.1\nprotocol websockets\n",
            vec!["127.0.0.1:1884", "127.0.0.1:9001"],
        ),
    ] {
        assert_eq!(addresses(&load(text)), expected, "{text:?}");
    }
    let protocols = |text| load(text).listeners.iter().map(|listener| listener.protocol).collect::<Vec<_>>();
    assert_eq!(
        protocols("listener 1884 127.0.0.1\nprotocol mqtt\nlistener 9001 127.0.0.1\nprotocol websockets\n"),
        [ListenerProtocol::Mqtt, ListenerProtocol::WebSocket]
    );
}

#[test]
fn a_listener_has_the_tls_the_proxies_and_the_limit_that_stand_below_it() {
    let config = load(
        "listener 1884 127.0.0.1\nmax_connections 3\nlistener 8883 127.0.0.1\ncertfile /b.crt\nkeyfile /b.key\n\
         cafile /ca.crt\ncrlfile /ca.crl\nrequire_certificate true\nuse_subject_as_username true\ntls_version tlsv1.3\n\
         listener 8884 127.0.0.1\ncertfile /b.crt\nkeyfile /b.key\ncafile /ca.crt\n\
         listener 8885 127.0.0.1\ncertfile /b.crt\nkeyfile /b.key\ncapath /authorities\nrequire_certificate true\n\
         listener 1885 127.0.0.1\nenable_proxy_protocol 2\nmax_connections -1\nlistener 0 /run/m.sock\n",
    );

    let [plain, mutual, one_sided, of_a_folder, proxied, socket] = config.listeners.as_slice() else {
        panic!("{:?}", config.listeners)
    };
    assert_eq!((plain.connections_max, &plain.tls, &plain.proxy_protocol), (Some(3), &None, &None));
    let tls = mutual.tls.as_ref().unwrap();
    assert_eq!(tls.certificates[0].certificate_file, Path::new("/b.crt"));
    assert_eq!(tls.certificates[0].key_file, Path::new("/b.key"));
    assert_eq!(tls.minimum_version, TlsVersion::Tls13);
    assert_eq!(
        (tls.client_certificate, tls.identity),
        (ClientCertificate::Required, CertificateIdentity::Subject)
    );
    assert_eq!(tls.client_ca_file.as_deref(), Some(Path::new("/ca.crt")));
    assert_eq!(tls.crl_file.as_deref(), Some(Path::new("/ca.crl")));
    let tls = one_sided.tls.as_ref().unwrap();
    assert_eq!(
        (tls.client_certificate, &tls.client_ca_file),
        (ClientCertificate::Off, &None),
        "nobody is asked"
    );
    let folder = of_a_folder.tls.as_ref().and_then(|tls| tls.client_ca_file.as_deref());
    assert_eq!(folder, Some(Path::new("/authorities")));
    assert_eq!(proxied.connections_max, None);
    let trusted = &proxied.proxy_protocol.as_ref().unwrap().trusted;
    for peer in ["192.0.2.1", "2001:db8::1"] {
        assert!(trusted.iter().any(|network| network.contains(peer.parse().unwrap())), "{peer}");
    }
    assert_eq!(socket.address.unix(), Some(Path::new("/run/m.sock")));
}

#[test]
fn each_listener_has_its_own_users_rules_and_ways() {
    let config = load(
        "per_listener_settings true\nlistener 1 127.0.0.1\npassword_file /p1\nacl_file /a1\n\
         listener 2 127.0.0.1\nallow_anonymous true\nallow_zero_length_clientid false\nauto_id_prefix own-\n\
         accept_protocol_versions 4, 5\nmount_point site/\nuse_username_as_clientid true\nmax_qos 0\n\
         max_topic_alias 3\nbind_interface lo\nwebsockets_origin http://a\nwebsockets_origin http://b\n\
         listener 3 127.0.0.1\npassword_file /p1\nacl_file /a1\n",
    );

    let [first, second, third] = &config.listeners[..] else { panic!("three listeners") };
    assert_eq!(config.access.password_file.as_deref(), Some(Path::new("/p1")));
    assert_eq!(config.acl.mosquitto_file.as_deref(), Some(Path::new("/a1")));
    assert_eq!((&first.access, &third.access), (&None, &None), "what all say needs no word of their own");
    let open = ListenerAccessConfig { anonymous: true, ..ListenerAccessConfig::default() };
    assert_eq!(second.access, Some(open));
    assert_eq!(first.mqtt, ListenerMqttConfig::default());
    let own = ListenerMqttConfig {
        versions: vec![MqttVersion::V311, MqttVersion::V5],
        maximum_qos: Some(0),
        topic_alias_maximum: Some(3),
        empty_client_id: false,
        assigned_client_id_prefix: "own-".to_owned(),
        user_name_as_client_id: true,
        mount_point: Some("site/".to_owned()),
        ..ListenerMqttConfig::default()
    };
    assert_eq!(second.mqtt, own);
    assert_eq!(second.interface.as_deref(), Some("lo"));
    assert_eq!(second.websocket_origins, ["http://a", "http://b"]);
}

#[test]
fn a_proxy_may_have_to_vouch_for_tls_and_certificates() {
    for (text, tls, identity) in [
        ("enable_proxy_protocol 1\n", ProxiedTls::Any, ProxyIdentity::None),
        (
            "enable_proxy_protocol 2\nproxy_protocol_v2_require_tls true\n",
            ProxiedTls::Required,
            ProxyIdentity::None,
        ),
        (
            "enable_proxy_protocol 2\nrequire_certificate true\nuse_identity_as_username true\n",
            ProxiedTls::Certificate,
            ProxyIdentity::Cn,
        ),
    ] {
        let config = load(&format!("listener 1 127.0.0.1\n{text}"));
        let proxy = config.listeners[0].proxy_protocol.as_ref().unwrap();
        assert_eq!((proxy.tls, proxy.identity, &config.listeners[0].tls), (tls, identity, &None), "{text}");
    }
}

#[test]
fn the_prefix_of_one_listener_goes_before_that_of_all() {
    let config = load(
        "auto_id_prefix all-\nlistener 1 127.0.0.1\nlistener 2 127.0.0.1\nlistener_auto_id_prefix own-\n",
    );

    let prefixes = config.listeners.iter().map(|listener| &*listener.mqtt.assigned_client_id_prefix);
    assert_eq!(prefixes.collect::<Vec<_>>(), ["all-", "own-"]);
}

#[test]
fn files_that_people_really_use_are_taken_as_they_are() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/mosquitto");
    let sample = |name| {
        let sources =
            Sources { file: Some(&*samples.join(name)), overrides: Overrides::default(), environment: [] };
        BrokerConfig::load(sources).unwrap_or_else(|error| panic!("{error}"))
    };

    let home = sample("zigbee2mqtt.conf");
    let devices = sample("two-tls-listeners.conf");

    assert_eq!(addresses(&home), ["0.0.0.0:1883", "[::]:1883", "0.0.0.0:9001", "[::]:9001"]);
    assert_eq!(home.log.destinations, ["/mosquitto/log/mosquitto.log", "stdout"]);
    assert_eq!(home.limits.session_queue_messages_max, 8_192);
    assert!(home.access.anonymous);
    assert_eq!(home.data_dir, Path::new("/mosquitto/data/mosquitto.db.veilmq"));
    assert_eq!(addresses(&devices), ["0.0.0.0:8883", "0.0.0.0:8884", "0.0.0.0:9443"]);
    assert!(!devices.access.anonymous);
    assert_eq!(devices.limits.session_expiry_seconds_max, 30 * 86_400);
}

#[test]
fn ports_of_the_command_line_count_only_where_the_file_has_no_listener() {
    let overrides = Overrides { ports: vec![2_883, 2_884], ..Overrides::default() };
    let with_ports = |text| Conf::new(text).load_with(overrides.clone(), &[]).unwrap();

    let without = with_ports("allow_anonymous true\nsocket_domain ipv4\n");
    let with = with_ports("listener 1884 127.0.0.1\n");

    assert_eq!(addresses(&without), ["127.0.0.1:2883", "127.0.0.1:2884"]);
    assert_eq!(addresses(&with), ["127.0.0.1:1884"]);
}

#[test]
fn the_largest_packets_of_mosquitto_find_room() {
    let limits = load("max_packet_size 268435455\nlistener 1883\n").limits;

    let packet = u64::from(limits.packet_bytes_max);
    assert_eq!(packet, 268_435_455);
    assert!(limits.mailbox_bytes_max >= packet && limits.session_queue_bytes_max >= packet);
    assert!(limits.queue_bytes_max >= packet && limits.retained_bytes_max >= packet);
}

#[test]
fn limits_are_those_of_the_file() {
    let config = load(
        "max_inflight_messages 7\nmax_queued_messages 100\nmax_keepalive 120\nmax_packet_size 200\nmaximum_qos 1\n\
         retain_available false\nmax_topic_alias 4\nmax_topic_alias_broker 3\nsys_interval 0\n\
         persistent_client_expiration 2h\nmax_queued_bytes 4096\nglobal_max_connections 50\nglobal_max_clients 60\n\
         clientid_prefixes dev-\n",
    );

    assert_eq!((config.limits.inflight_max, config.limits.receive_maximum), (7, 7));
    assert_eq!(config.limits.session_queue_messages_max, 100);
    assert_eq!(config.limits.session_queue_bytes_max, 4_096);
    assert_eq!(config.limits.keep_alive_seconds_max, 120);
    assert_eq!(config.limits.packet_bytes_max, 200);
    let offered = &config.listeners[0].mqtt;
    assert_eq!((offered.maximum_qos, config.mqtt.retain_available), (Some(1), false));
    assert_eq!((offered.topic_alias_maximum, offered.topic_alias_to_client_max), (Some(4), Some(3)));
    assert_eq!(config.sys.interval_seconds, 0);
    assert_eq!(config.limits.session_expiry_seconds_max, 7_200);
    assert_eq!((config.limits.connections_max, config.limits.sessions_max), (50, 60));
    assert_eq!(config.access.client_id_prefix.as_deref(), Some("dev-"));
    let config = load(
        "message_size_limit 77\nmax_inflight_bytes 99\nupgrade_outgoing_qos true\nqueue_qos0_messages true\n\
         check_retain_source false\nmemory_limit 100000000\nlog_facility 5\n\
         pid_file /run/m.pid\nuser mosquitto\nconnection_messages false\nlog_timestamp false\nlog_timestamp_format %s\n",
    );
    assert_eq!((config.limits.payload_bytes_max, config.limits.inflight_bytes_max), (77, 99));
    assert!(config.mqtt.upgrade_qos && config.mqtt.queue_qos0 && !config.acl.check_retained_source);
    assert_eq!(config.log.syslog_facility, SyslogFacility::Local5);
    assert_eq!(config.limits.memory_bytes, 100_000_000);
    assert_eq!(config.process.pid_file.as_deref(), Some(Path::new("/run/m.pid")));
    assert_eq!(config.process.user.as_deref(), Some("mosquitto"));
    assert!(!config.log.connections && !config.log.timestamps);
    assert_eq!(config.log.timestamp_format.as_deref(), Some("%s"));
}

#[test]
fn the_log_goes_to_all_places_named() {
    for (text, expected) in [
        ("", vec!["stderr"]),
        ("log_dest none\n", vec![]),
        ("log_dest stdout\nlog_dest none\n", vec![]),
        ("log_dest stdout\nlog_dest none\nlog_dest topic\n", vec!["topic"]),
        ("log_dest topic\n", vec!["topic"]),
        (
            "log_dest stdout\nlog_dest file /mosquitto/log/mosquitto.log\n",
            vec!["stdout", "/mosquitto/log/mosquitto.log"],
        ),
        ("log_dest syslog\nlog_dest dlt\n", vec!["syslog", "stderr"]),
    ] {
        assert_eq!(load(text).log.destinations, expected, "{text:?}");
    }
}

#[test]
fn what_mosquitto_does_not_bound_is_bounded_by_what_nobody_reaches() {
    let config = load(
        "max_inflight_messages 0\nmax_queued_messages 0\nmax_queued_bytes 0\nglobal_max_connections -1\n",
    );

    assert_eq!((config.limits.inflight_max, config.limits.receive_maximum), (65_535, 65_535));
    assert_eq!(config.limits.session_queue_messages_max, 100_000_000);
    assert_eq!(config.limits.session_queue_bytes_max, config.limits.queue_bytes_max);
    assert_eq!(config.limits.connections_max, 10_000_000);
}

#[test]
fn state_is_kept_beside_the_database() {
    let named = load("persistence true\npersistence_location /mosquitto/data/\n");
    let here = load("persistence true\npersistence_file m-1.db\n");

    assert_eq!(named.data_dir, Path::new("/mosquitto/data/mosquitto.db.veilmq"));
    assert_eq!(named.mosquitto.database.as_deref(), Some(Path::new("/mosquitto/data/mosquitto.db")));
    assert_eq!((named.storage.durability, named.veil.enabled), (Durability::Commit, true));
    assert_eq!(here.data_dir, Path::new("m-1.db.veilmq"));
}

#[test]
fn the_log_is_as_talkative_as_its_most_talkative_type() {
    for (text, expected) in [
        ("", LogLevel::Info),
        ("log_type error\n", LogLevel::Error),
        ("log_type error\nlog_type warning\n", LogLevel::Warn),
        ("log_type notice\nlog_type error\n", LogLevel::Info),
        ("log_type all\n", LogLevel::Debug),
        ("log_type none\n", LogLevel::Off),
    ] {
        assert_eq!(load(text).log.level, expected, "{text:?}");
    }
    let quiet = Overrides { verbose: true, quiet: true, ..Overrides::default() };
    assert_eq!(Conf::new("").load_with(quiet, &[]).unwrap().log.level, LogLevel::Off);
    let verbose = Overrides { verbose: true, ..Overrides::default() };
    assert_eq!(Conf::new("log_type none\n").load_with(verbose, &[]).unwrap().log.level, LogLevel::Debug);
}

#[test]
fn the_environment_stands_above_the_file() {
    let conf = Conf::new("max_keepalive 60\n");

    let config = conf
        .load_with(
            Overrides::default(),
            &[("VEILMQ__LIMITS__KEEP_ALIVE_SECONDS_MAX", "90"), ("VEILMQ__ADMIN__ADDRESS", "127.0.0.1:9464")],
        )
        .unwrap();

    assert_eq!(config.limits.keep_alive_seconds_max, 90);
    assert_eq!(config.admin.address, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(config.mode, Mode::Mosquitto);
}

#[test]
fn included_files_are_read_in_their_place_and_begin_at_the_default_listener() {
    let conf = Conf::new("");
    let included = conf.directory.path().join("conf.d");
    fs::create_dir(&included).unwrap();
    fs::write(included.join("b.conf"), "max_keepalive 20\nmax_topic_alias 3\n").unwrap();
    fs::write(included.join("a.conf"), "max_keepalive 10\nlistener 1885 127.0.0.1\n").unwrap();
    fs::write(included.join("c.txt"), "no option\n").unwrap();
    let main = format!("listener 1884 127.0.0.1\ninclude_dir {}\nprotocol websockets\n", included.display());
    fs::write(conf.path(), main).unwrap();

    let config = conf.load_with(Overrides::default(), &[]).unwrap();

    assert_eq!(addresses(&config), ["0.0.0.0:1883", "[::]:1883", "127.0.0.1:1884", "127.0.0.1:1885"]);
    assert_eq!(
        config.listeners[2].protocol,
        ListenerProtocol::WebSocket,
        "the main file goes on where it was"
    );
    assert_eq!(config.listeners[3].protocol, ListenerProtocol::Mqtt);
    assert_eq!(config.limits.keep_alive_seconds_max, 20, "the later file wins");
    let aliases: Vec<_> = config.listeners.iter().map(|listener| listener.mqtt.topic_alias_maximum).collect();
    assert_eq!(aliases, [Some(3), Some(3), None, None], "it belongs to the default listener");
}

#[test]
fn import_comments_on_what_changes_nothing_and_loads_as_the_same() {
    let conf =
        Conf::new("listener 1884 127.0.0.1\nallow_anonymous true\nautosave_interval 60\nmax_keepalive 60\n");

    let text = import_mosquitto(&conf.path(), Strictness::Strict).unwrap();

    assert!(
        text.contains(&format!("# {}:3: autosave_interval: no effect: ", conf.path().display())),
        "{text}"
    );
    let path = conf.directory.path().join("veilmq.toml");
    fs::write(&path, &text).unwrap();
    let sources = Sources { file: Some(&path), overrides: Overrides::default(), environment: [] };
    let imported = BrokerConfig::load(sources).unwrap();
    let direct = conf.load_with(Overrides::default(), &[]).unwrap();
    assert_eq!(imported.limits, direct.limits);
    assert_eq!((imported.listeners, imported.access), (direct.listeners, direct.access));
}

#[test]
fn lenient_import_lists_what_it_skipped() {
    let conf = Conf::new(
        "listener 1884 127.0.0.1\nfoo bar\nplugin /x.so\nconnection b\naddress 127.0.0.1:1\ntopic t\nbridge_psk ab\nlistener 1885 127.0.0.1\n",
    );
    let strict = import_mosquitto(&conf.path(), Strictness::Strict).unwrap_err().to_string();

    let text = import_mosquitto(&conf.path(), Strictness::Lenient).unwrap();

    assert!(strict.contains("mosquitto.conf:2: unknown option foo"), "{strict}");
    for line in [":2: foo: skipped: ", ":3: plugin: skipped: ", ":7: bridge_psk: skipped: "] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(text.contains("127.0.0.1:1885"), "{text}");
}

#[test]
fn a_connection_is_a_bridge_with_what_stands_below_it() {
    let config = load(
        "connection first\naddress 192.0.2.1 broker.example:8883\ntopic a/# both 1 l/ \"\"\ntopic \"\" in 0 here there\ntopic b\n\
         restart_timeout 3\nconnection second\naddresses ::1:1884\ntopic c\nbridge_protocol_version mqttv50\nbridge_cafile /ca.crt\n\
         bridge_insecure true\nnotifications_local_only true\ntry_private false\ncleansession true\nremote_username u\n\
         remote_password p w\nbridge_tcp_keepalive 10 5 3\nbridge_max_packet_size 0\nrestart_timeout 2 9\nlocal_username x\n\
         listener 1884 127.0.0.1\nconnection third\naddress h\ntopic d\nnotifications false\nbridge_require_ocsp false\n",
    );
    let [first, second, third] = config.bridges.as_slice() else { panic!("{:?}", config.bridges) };

    let map = |pattern: &str, direction, qos, local: &str, remote: &str| BridgeTopicConfig {
        pattern: pattern.to_owned(),
        direction,
        qos,
        local_prefix: local.to_owned(),
        remote_prefix: remote.to_owned(),
    };
    let remote = |bridge: &BridgeConfig| {
        bridge.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        (first.name.as_str(), remote(first).as_str()),
        ("first", "192.0.2.1:1883 broker.example:8883")
    );
    assert_eq!(
        first.topics,
        [
            map("a/#", BridgeDirection::Both, 1, "l/", ""),
            map("", BridgeDirection::In, 0, "here", "there"),
            map("b", BridgeDirection::Out, 0, "", ""),
        ]
    );
    assert_eq!((first.protocol, first.says_bridge, first.clean_start), (BridgeProtocol::V311, true, false));
    assert_eq!((first.receive_maximum, first.keep_alive_seconds), (20, 60));
    assert_eq!((first.restart_seconds_min, first.restart_seconds_max), (3, 3));
    assert_eq!((first.notifications, &first.tls), (BridgeNotifications::Both, &None));
    assert_eq!(remote(second), "[::1]:1884");
    assert_eq!((second.protocol, second.says_bridge, second.clean_start), (BridgeProtocol::V5, false, true));
    let tls = second.tls.as_ref().unwrap();
    assert_eq!((tls.ca.as_deref(), tls.any_name), (Some(Path::new("/ca.crt")), true));
    assert_eq!(second.password.as_ref().unwrap().as_bytes(), b"p w");
    assert_eq!((second.restart_seconds_min, second.restart_seconds_max), (2, 9));
    assert_eq!((second.notifications, second.packet_bytes_max), (BridgeNotifications::Local, None));
    assert_eq!(second.tcp_keep_alive.unwrap().interval_seconds, 5);
    assert_eq!((remote(third).as_str(), third.notifications), ("h:1883", BridgeNotifications::Off));
    assert_eq!(config.listeners.len(), 1);
}

#[test]
fn numbers_of_a_bridge_that_are_too_low_or_too_high_are_moved_and_noted_as_by_mosquitto() {
    for (line, seconds) in [
        ("keepalive_interval 4", [5, 60, 10, 5, 30]),
        ("keepalive_interval -1", [5, 60, 10, 5, 30]),
        ("idle_timeout 0", [60, 1, 10, 5, 30]),
        ("threshold 0", [60, 60, 1, 5, 30]),
        ("restart_timeout 0", [60, 60, 10, 1, 1]),
        ("restart_timeout -5 9", [60, 60, 10, 1, 9]),
        ("restart_timeout 4000", [60, 60, 10, 3_600, 3_600]),
        ("restart_timeout 3 8000", [60, 60, 10, 3, 7_200]),
    ] {
        let config = load(&format!("connection a\naddress b\ntopic c\n{line}\n"));

        let [bridge] = config.bridges.as_slice() else { panic!("{:?}", config.bridges) };
        let found = [
            u32::from(bridge.keep_alive_seconds),
            bridge.idle_seconds,
            bridge.lazy_messages,
            bridge.restart_seconds_min,
            bridge.restart_seconds_max,
        ];
        assert_eq!(found, seconds, "{line}");
        let [note] = config.mosquitto.notes.as_slice() else {
            panic!("{line}: {:?}", config.mosquitto.notes)
        };
        assert!(line.starts_with(&note.option) && note.origin.to_string().ends_with(":4"), "{note:?}");
    }
}

#[test]
fn a_name_or_the_first_line_tells_the_format() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text, expected) in [
        ("a.conf", "listener 1883\n", true),
        ("a.toml", "listener 1883\n", false),
        ("b.conf", "[limits]\n", false),
        ("c", "# x\nport 1883\n", true),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();

        assert_eq!(is_mosquitto_file(&path).unwrap(), expected, "{name}");
    }
}
