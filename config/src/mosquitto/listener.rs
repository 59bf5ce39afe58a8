//! The options of Mosquitto that concern one listener.

use veilmq_protocol::TopicName;

use super::draft::{Draft, Family};
use super::option::Scope::{Global, Listener};
use super::option::{Allowed, MosquittoOption as Row, forget_integer};
use crate::broker_config::ListenerProtocol;
use crate::mqtt::MqttVersion;

pub(super) const OPTIONS: &[Row] = &[
    Row::text(
        "listener",
        Listener,
        "`listeners[].address`: all interfaces, the address named, or with port 0 a Unix socket",
        listener,
    ),
    Row::text("bind_address", Global, "`listeners[].address` of the default listener", |draft, host| {
        draft.listeners[0].host = Some(host.to_owned());
        Ok(())
    }),
    Row::integer(
        "port",
        Global,
        (1, 65_535),
        "`listeners[].address` of the default listener",
        |draft, port| {
            draft.listeners[0].port = u16::try_from(port).ok();
        },
    ),
    Row::text("protocol", Listener, "`listeners[].protocol`", protocol),
    Row::text("socket_domain", Listener, "chooses among the addresses of the listener", |draft, family| {
        draft.listener().family = match family {
            "ipv4" => Family::Ipv4,
            "ipv6" => Family::Ipv6,
            _ => return Err("ipv4 or ipv6"),
        };
        Ok(())
    }),
    Row::text("accept_protocol_versions", Listener, "`listeners[].mqtt.versions`", versions),
    Row::text("bind_interface", Listener, "`listeners[].interface`", |draft, interface| {
        draft.listener().interface = Some(interface.to_owned());
        Ok(())
    }),
    Row::integer(
        "max_connections",
        Listener,
        (i32::MIN as i64, i32::MAX as i64),
        "`listeners[].connections_max`, for each address of the listener; -1 is no limit",
        |draft, count| {
            draft.listener().connections_max = u32::try_from(count).ok().map(|count| count.min(10_000_000));
        },
    ),
    Row::integer("max_qos", Listener, (0, 2), "`listeners[].mqtt.maximum_qos`", maximum_qos),
    Row::integer("maximum_qos", Listener, (0, 2), "`listeners[].mqtt.maximum_qos`", maximum_qos),
    Row::integer(
        "max_topic_alias",
        Listener,
        (0, 65_535),
        "`listeners[].mqtt.topic_alias_maximum`",
        |draft, count| {
            draft.listener().mqtt.topic_alias_maximum = Some(u16::try_from(count).unwrap_or(u16::MAX));
        },
    ),
    Row::integer(
        "max_topic_alias_broker",
        Listener,
        (0, 65_535),
        "`listeners[].mqtt.topic_alias_to_client_max`, at most 1024",
        |draft, count| {
            draft.listener().mqtt.topic_alias_to_client_max =
                Some(u16::try_from(count.min(1_024)).unwrap_or(1_024));
        },
    ),
    Row::text("mount_point", Listener, "`listeners[].mqtt.mount_point`", |draft, prefix| {
        if prefix.starts_with('$') || TopicName::new(prefix).is_err() {
            return Err("a Topic Name that does not begin with $");
        }
        draft.listener().mqtt.mount_point = Some(prefix.to_owned());
        Ok(())
    }),
    Row::text(
        "http_dir",
        Listener,
        "`listeners[].http_directory`, where `protocol` is `http_api`",
        |draft, path| {
            draft.listener().http_directory = Some(path.into());
            Ok(())
        },
    ),
    Row::boolean(
        "use_username_as_clientid",
        Listener,
        "`listeners[].mqtt.user_name_as_client_id`",
        |draft, on| draft.listener().mqtt.user_name_as_client_id = on,
    ),
    Row::integer(
        "websockets_headers_size",
        Listener,
        (0, 65_535),
        "no effect: a request may have 8 KiB of headers",
        forget_integer,
    )
    .without_effect(),
    Row::text("websockets_origin", Listener, "`listeners[].websocket_origins`", |draft, origin| {
        draft.listener().websocket_origins.push(origin.to_owned());
        Ok(())
    }),
    Row::integer(
        "enable_proxy_protocol",
        Listener,
        (1, 2),
        "`listeners[].proxy_protocol.version`, from any address as in Mosquitto",
        |draft, version| draft.listener().proxy_version = u8::try_from(version).ok(),
    ),
    Row::boolean(
        "proxy_protocol_v2_require_tls",
        Listener,
        "`listeners[].proxy_protocol.tls`",
        |draft, on| draft.listener().requires_proxied_tls = on,
    ),
];

fn listener(draft: &mut Draft, value: &str) -> Result<(), Allowed> {
    const ALLOWED: Allowed = "a port from 1 to 65535, and an address or host name behind it if it is not for all interfaces; or 0 and the path of a Unix socket";
    let mut words = value.split_ascii_whitespace().take_while(|word| !word.starts_with('#'));
    let port = words.next().and_then(|port| port.parse::<u16>().ok());
    let port = port.ok_or(ALLOWED)?;
    let listener = draft.listener();
    match port {
        0 => listener.socket = Some(words.next().ok_or(ALLOWED)?.into()),
        _ => {
            listener.port = Some(port);
            listener.host = words.next().map(str::to_owned);
        }
    }
    words.next().is_none().then_some(()).ok_or(ALLOWED)
}

fn protocol(draft: &mut Draft, value: &str) -> Result<(), Allowed> {
    draft.listener().protocol = match value {
        "mqtt" => ListenerProtocol::Mqtt,
        "websockets" => ListenerProtocol::WebSocket,
        "http_api" => ListenerProtocol::HttpApi,
        _ => return Err("mqtt, websockets or http_api"),
    };
    Ok(())
}

fn maximum_qos(draft: &mut Draft, qos: i64) {
    draft.listener().mqtt.maximum_qos = Some(u8::try_from(qos).unwrap_or(2));
}

/// Reads a list such as `4,5`, in which each number is the protocol level. As in Mosquitto, which also passes over what is between.
fn versions(draft: &mut Draft, value: &str) -> Result<(), Allowed> {
    const ALLOWED: Allowed = "a list of some of 3, 4 and 5, separated by commas";
    let mut versions = Vec::new();
    for level in value.split([',', ' ', '\t']).filter(|level| !level.is_empty()) {
        let version = match level {
            "3" => MqttVersion::V31,
            "4" => MqttVersion::V311,
            "5" => MqttVersion::V5,
            _ => return Err(ALLOWED),
        };
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    draft.listener().mqtt.versions = versions;
    Ok(())
}
