//! The options of Mosquitto that concern a bridge to another broker.

use super::draft::Draft;
use super::option::Scope::Bridge;
use super::option::{Allowed, MosquittoOption as Row, forget_text};
use crate::error::{ConfigError, Fault, Origin};
use crate::{
    BridgeConfig, BridgeDirection, BridgeNotifications, BridgePassword, BridgeProtocol, BridgeReload,
    BridgeStart, BridgeTlsConfig, BridgeTopicConfig, RemoteAddress, TcpKeepAliveConfig, TlsVersion,
};

const NO_PSK: &str = "pre-shared keys of TLS are not available; use certificates";
const STRONG_ALREADY: &str =
    "no effect: only suites with forward secrecy and authenticated encryption are spoken";
const NO_ACCOUNT: &str = "no effect: a bridge needs no account on its own broker, and no rule holds for it";
/// The topics a bridge may have; each is a subscription with a Packet Identifier of its own.
const TOPICS_MAX: usize = 10_000;

pub(super) const OPTIONS: &[Row] = &[
    Row::text("connection", Bridge, "`bridges[].name`", |draft, name| {
        draft.bridges.push(BridgeDraft::new(name));
        Ok(())
    }),
    Row::text("address", Bridge, "`bridges[].addresses`", addresses),
    Row::text("bridge_alpn", Bridge, "`bridges[].tls.alpn`", |draft, protocol| {
        draft.bridge().tls.alpn = Some(protocol.to_owned());
        Ok(())
    }),
    Row::boolean("bridge_attempt_unsubscribe", Bridge, "`bridges[].unsubscribes`", |draft, on| {
        draft.bridge().config.unsubscribes = on;
    }),
    Row::text("bridge_bind_address", Bridge, "`bridges[].bind_address`", |draft, address| {
        draft.bridge().config.bind_address = Some(address.parse().map_err(|_| "an IP address")?);
        Ok(())
    }),
    Row::text("bridge_cafile", Bridge, "`bridges[].tls.ca`", authorities),
    Row::text("bridge_capath", Bridge, "`bridges[].tls.ca`", authorities),
    Row::text("bridge_certfile", Bridge, "`bridges[].tls.certificate_file`", |draft, path| {
        draft.bridge().tls.certificate_file = Some(path.into());
        Ok(())
    }),
    Row::text("bridge_ciphers", Bridge, STRONG_ALREADY, forget_text).without_effect(),
    Row::text("bridge_ciphers_tls1.3", Bridge, STRONG_ALREADY, forget_text).without_effect(),
    Row::refused("bridge_identity", Bridge, NO_PSK),
    Row::boolean("bridge_insecure", Bridge, "`bridges[].tls.any_name`", |draft, on| {
        draft.bridge().tls.any_name = on;
    }),
    Row::text("bridge_keyfile", Bridge, "`bridges[].tls.key_file`", |draft, path| {
        draft.bridge().tls.key_file = Some(path.into());
        Ok(())
    }),
    Row::integer(
        "bridge_max_packet_size",
        Bridge,
        (0, 268_435_460),
        "`bridges[].packet_bytes_max`; 0 is no bound, and less than 20 is 20",
        |draft, bytes| {
            draft.bridge().config.packet_bytes_max =
                u32::try_from(bytes).ok().filter(|bytes| *bytes > 0).map(|bytes| bytes.max(20));
        },
    ),
    Row::integer(
        "bridge_max_topic_alias",
        Bridge,
        (0, 65_535),
        "`bridges[].topic_alias_maximum`",
        |draft, count| draft.bridge().config.topic_alias_maximum = u16::try_from(count).unwrap_or(u16::MAX),
    ),
    Row::boolean("bridge_outgoing_retain", Bridge, "`bridges[].passes_retain`", |draft, on| {
        draft.bridge().config.passes_retain = on;
    }),
    Row::text("bridge_protocol_version", Bridge, "`bridges[].protocol`", |draft, version| {
        draft.bridge().config.protocol = match version {
            "mqttv31" => BridgeProtocol::V31,
            "mqttv311" => BridgeProtocol::V311,
            "mqttv50" => BridgeProtocol::V5,
            _ => return Err("mqttv31, mqttv311 or mqttv50"),
        };
        Ok(())
    }),
    Row::refused("bridge_psk", Bridge, NO_PSK),
    Row::integer(
        "bridge_receive_maximum",
        Bridge,
        (1, 65_535),
        "`bridges[].receive_maximum`",
        |draft, count| draft.bridge().config.receive_maximum = u16::try_from(count).unwrap_or(u16::MAX),
    ),
    Row::text("bridge_reload_type", Bridge, "`bridges[].reload`", |draft, when| {
        draft.bridge().config.reload = match when {
            "immediate" => BridgeReload::Immediate,
            "lazy" => BridgeReload::Lazy,
            _ => return Err("lazy or immediate"),
        };
        Ok(())
    }),
    Row::text("bridge_require_ocsp", Bridge, "`false`; answers of OCSP are not looked at", |_, value| {
        (value == "false").then_some(()).ok_or("false: answers of OCSP are not looked at")
    }),
    Row::integer(
        "bridge_session_expiry_interval",
        Bridge,
        (0, u32::MAX as i64),
        "`bridges[].session_expiry_seconds`",
        |draft, seconds| draft.bridge().config.session_expiry_seconds = u32::try_from(seconds).ok(),
    ),
    Row::text("bridge_tcp_keepalive", Bridge, "`bridges[].tcp_keep_alive`", |draft, value| {
        draft.bridge().config.tcp_keep_alive = Some(tcp_keep_alive(value).ok_or(TCP_KEEP_ALIVE)?);
        Ok(())
    }),
    Row::integer(
        "bridge_tcp_user_timeout",
        Bridge,
        (0, i32::MAX as i64),
        "`bridges[].tcp_user_timeout_milliseconds`",
        |draft, milliseconds| {
            draft.bridge().config.tcp_user_timeout_milliseconds =
                u32::try_from(milliseconds).ok().filter(|milliseconds| *milliseconds > 0);
        },
    ),
    Row::boolean("bridge_tls_use_os_certs", Bridge, "`bridges[].tls` without `ca`", |draft, on| {
        draft.bridge().uses_system_authorities = on;
    }),
    Row::text("bridge_tls_version", Bridge, "`bridges[].tls.minimum_version`", |draft, version| {
        draft.bridge().tls.minimum_version = match version {
            "tlsv1.2" => TlsVersion::Tls12,
            "tlsv1.3" => TlsVersion::Tls13,
            _ => return Err("tlsv1.2 or tlsv1.3"),
        };
        Ok(())
    }),
    Row::boolean("cleansession", Bridge, "`bridges[].clean_start`", |draft, on| {
        draft.bridge().config.clean_start = on;
    }),
    Row::text("clientid", Bridge, "`bridges[].client_id`", client_id),
    Row::integer(
        "idle_timeout",
        Bridge,
        (1, i32::MAX as i64),
        "`bridges[].idle_seconds`",
        |draft, seconds| {
            draft.bridge().config.idle_seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        },
    )
    .raised(),
    Row::integer(
        "keepalive_interval",
        Bridge,
        (5, 65_535),
        "`bridges[].keep_alive_seconds`",
        |draft, seconds| {
            draft.bridge().config.keep_alive_seconds = u16::try_from(seconds).unwrap_or(u16::MAX);
        },
    )
    .raised(),
    Row::boolean("local_cleansession", Bridge, "`bridges[].local_clean_start`", |draft, on| {
        draft.bridge().config.local_clean_start = Some(on);
    }),
    Row::text("local_clientid", Bridge, "`bridges[].local_client_id`", |draft, name| {
        draft.bridge().config.local_client_id = Some(name.to_owned());
        Ok(())
    }),
    Row::text("local_password", Bridge, NO_ACCOUNT, forget_text).without_effect(),
    Row::text("local_username", Bridge, NO_ACCOUNT, forget_text).without_effect(),
    Row::text("notification_topic", Bridge, "`bridges[].notification_topic`", |draft, topic| {
        draft.bridge().config.notification_topic = Some(topic.to_owned());
        Ok(())
    }),
    Row::boolean("notifications", Bridge, "`bridges[].notifications`", |draft, on| {
        draft.bridge().notifies = on;
    }),
    Row::boolean("notifications_local_only", Bridge, "`bridges[].notifications = \"local\"`", |draft, on| {
        draft.bridge().notifies_here_only = on;
    }),
    Row::text("password", Bridge, "`bridges[].password`", password),
    Row::text("remote_clientid", Bridge, "`bridges[].client_id`", client_id),
    Row::text("remote_password", Bridge, "`bridges[].password`", password),
    Row::text("remote_username", Bridge, "`bridges[].username`", username),
    Row::text(
        "restart_timeout",
        Bridge,
        "`bridges[].restart_seconds_min` and `bridges[].restart_seconds_max`",
        restart_timeout,
    ),
    Row::boolean("round_robin", Bridge, "`bridges[].round_robin`", |draft, on| {
        draft.bridge().config.round_robin = on;
    }),
    Row::text("start_type", Bridge, "`bridges[].start`", |draft, when| {
        draft.bridge().config.start = match when {
            "automatic" => BridgeStart::Automatic,
            "lazy" => BridgeStart::Lazy,
            "once" => BridgeStart::Once,
            _ => return Err("automatic, lazy or once"),
        };
        Ok(())
    }),
    Row::integer("threshold", Bridge, (1, 65_535), "`bridges[].lazy_messages`", |draft, count| {
        draft.bridge().config.lazy_messages = u32::try_from(count).unwrap_or(u32::MAX);
    })
    .raised(),
    Row::text("topic", Bridge, "`bridges[].topics`", topic),
    Row::boolean("try_private", Bridge, "`bridges[].says_bridge`", |draft, on| {
        draft.bridge().config.says_bridge = on;
    }),
    Row::text("username", Bridge, "`bridges[].username`", username),
];

const TCP_KEEP_ALIVE: Allowed = "three whole numbers: the seconds before TCP asks, the seconds between its questions, and how many it asks";
const TOPIC: Allowed = "a pattern, perhaps with in, out or both behind it, then a QoS from 0 to 2, then what stands before it here and there; \"\" is nothing";

/// A bridge while it is read.
#[derive(Debug)]
pub(super) struct BridgeDraft {
    /// Where it begins.
    pub(super) origin: Origin,
    pub(super) config: BridgeConfig,
    tls: BridgeTlsConfig,
    uses_system_authorities: bool,
    notifies: bool,
    notifies_here_only: bool,
    /// Lines on a pre-shared key, and why none of it can be used.
    psk: Vec<(&'static str, ConfigError)>,
}

impl BridgeDraft {
    /// Begins with what a bridge of Mosquitto does when it is told nothing.
    fn new(name: &str) -> Self {
        Self {
            origin: Origin::Default,
            config: BridgeConfig {
                name: name.to_owned(),
                protocol: BridgeProtocol::V311,
                // Mosquitto's own number of messages in flight.
                receive_maximum: 20,
                // It does not ask for more.
                session_expiry_seconds: Some(0),
                // Its bridges leave messages as they are.
                marks_messages: false,
                reload: BridgeReload::Lazy,
                ..BridgeConfig::default()
            },
            tls: BridgeTlsConfig::default(),
            uses_system_authorities: false,
            notifies: true,
            notifies_here_only: false,
            psk: Vec::new(),
        }
    }

    /// Takes note of a line on a pre-shared key, none of which can be used, until it is known what stands beside it.
    pub(super) fn refuse_psk(&mut self, option: &'static str, error: ConfigError) {
        self.psk.push((option, error));
    }

    /// Makes our bridge of it.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn finish(self) -> Result<BridgeConfig, ConfigError> {
        let Self { origin, mut config, tls, uses_system_authorities, notifies, notifies_here_only, psk } =
            self;
        if config.addresses.is_empty() {
            return Err(
                incomplete(origin, "address").said(format!("{INVALID}: no remote addresses defined."))
            );
        }
        if config.topics.is_empty() {
            return Err(incomplete(origin, "topic").said(format!("{INVALID}: no topics defined.")));
        }
        if let Some(error) = refused_psk(psk) {
            return Err(error);
        }
        config.notifications = match (notifies, notifies_here_only) {
            (false, _) => BridgeNotifications::Off,
            (true, true) => BridgeNotifications::Local,
            (true, false) => BridgeNotifications::Both,
        };
        // Nothing else asks for TLS.
        if tls.ca.is_some() || uses_system_authorities || tls.certificate_file.is_some() {
            config.tls = Some(tls);
        }
        Ok(config)
    }
}

/// Says of lines on a pre-shared key that it cannot be used, and what Mosquitto says where half of it is missing.
fn refused_psk(lines: Vec<(&'static str, ConfigError)>) -> Option<ConfigError> {
    let has = |wanted| lines.iter().any(|(option, _)| *option == wanted);
    let missing = match (has("bridge_psk"), has("bridge_identity")) {
        (true, false) => Some("bridge_identity"),
        (false, true) => Some("bridge_psk"),
        (true, true) | (false, false) => None,
    };
    let (_, error) = lines.into_iter().next()?;
    Some(match missing {
        Some(option) => error.said(format!("{INVALID}: missing {option}.")),
        None => error,
    })
}

const INVALID: &str = "Invalid bridge configuration";

fn incomplete(origin: Origin, missing: &str) -> ConfigError {
    let (option, reason) = ("connection".to_owned(), format!("needs `{missing}` below it"));
    ConfigError::new(origin, Fault::Mosquitto { option, reason })
}

fn addresses(draft: &mut Draft, value: &str) -> Result<(), Allowed> {
    let addresses: Result<Vec<RemoteAddress>, _> = value.split_ascii_whitespace().map(str::parse).collect();
    let allowed = "host names or IP addresses, perhaps with a port from 1 to 65535 behind a colon";
    draft.bridge().config.addresses.extend(addresses.map_err(|_| allowed)?);
    Ok(())
}

fn authorities(draft: &mut Draft, path: &str) -> Result<(), Allowed> {
    draft.bridge().tls.ca = Some(path.into());
    Ok(())
}

fn client_id(draft: &mut Draft, name: &str) -> Result<(), Allowed> {
    draft.bridge().config.client_id = Some(name.to_owned());
    Ok(())
}

fn username(draft: &mut Draft, name: &str) -> Result<(), Allowed> {
    draft.bridge().config.username = Some(name.to_owned());
    Ok(())
}

fn password(draft: &mut Draft, password: &str) -> Result<(), Allowed> {
    draft.bridge().config.password = Some(BridgePassword::new(password));
    Ok(())
}

fn tcp_keep_alive(value: &str) -> Option<TcpKeepAliveConfig> {
    let mut words = value.split_ascii_whitespace();
    let mut next = |max: u16| words.next()?.parse::<u16>().ok().filter(|number| (1..=max).contains(number));
    let (idle_seconds, interval_seconds) = (next(32_767)?, next(32_767)?);
    let count = u8::try_from(next(127)?).ok()?;
    words.next().is_none().then_some(TcpKeepAliveConfig { idle_seconds, interval_seconds, count })
}

/// One number is a constant wait; of two, one is the shortest and one the longest. Mosquitto moves what is out of range.
fn restart_timeout(draft: &mut Draft, value: &str) -> Result<(), Allowed> {
    const ALLOWED: Allowed =
        "one or two whole numbers from 1 to 3600, the second not less than the first and up to 7200";
    const MOVED: &str = "too low or too high, so the nearest that is allowed, as in Mosquitto";
    let numbers: Result<Vec<i64>, _> = value.split_ascii_whitespace().map(str::parse).collect();
    let (first, second) = match numbers.map_err(|_| ALLOWED)?.as_slice() {
        [constant] => (*constant, None),
        [shortest, longest] => (*shortest, Some(*longest)),
        _ => return Err(ALLOWED),
    };
    let shortest = first.clamp(1, 3_600);
    let longest = second.map_or(shortest, |longest| longest.min(7_200));
    if longest < shortest {
        return Err(ALLOWED);
    }
    let is_moved = shortest != first || second.is_some_and(|second| second != longest);
    draft.remark = is_moved.then_some(MOVED);
    let seconds = |number| u32::try_from(number).unwrap_or(u32::MAX);
    let config = &mut draft.bridge().config;
    (config.restart_seconds_min, config.restart_seconds_max) = (seconds(shortest), seconds(longest));
    Ok(())
}

/// Takes the pattern off the front of a value. One with spaces in it stands in quotation marks.
fn pattern(value: &str) -> Result<(String, &str), Allowed> {
    let (pattern, rest) = match value.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"').ok_or(TOPIC)?,
        None => value.split_once([' ', '\t']).unwrap_or((value, "")),
    };
    Ok((pattern.to_owned(), rest))
}

fn topic(draft: &mut Draft, value: &str) -> Result<(), Allowed> {
    let (pattern, rest) = pattern(value)?;
    let mut words = rest.split_ascii_whitespace().map(|word| if word == "\"\"" { "" } else { word });
    let direction = match words.next() {
        None | Some("out") => BridgeDirection::Out,
        Some("in") => BridgeDirection::In,
        Some("both") => BridgeDirection::Both,
        Some(_) => return Err(TOPIC),
    };
    let qos = match words.next() {
        None | Some("0") => 0,
        Some("1") => 1,
        Some("2") => 2,
        Some(_) => return Err(TOPIC),
    };
    let mut prefix = || words.next().unwrap_or_default().to_owned();
    let (local_prefix, remote_prefix) = (prefix(), prefix());
    let topics = &mut draft.bridge().config.topics;
    if words.next().is_some() || topics.len() == TOPICS_MAX {
        return Err(TOPIC);
    }
    topics.push(BridgeTopicConfig { pattern, direction, qos, local_prefix, remote_prefix });
    Ok(())
}
