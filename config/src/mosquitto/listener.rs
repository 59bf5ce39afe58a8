//! The options of Mosquitto that concern one listener.

use super::draft::{Draft, Family};
use super::option::Scope::{Global, Listener};
use super::option::{Allowed, MosquittoOption as Row, forget_integer};
use crate::broker_config::ListenerProtocol;

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
    Row::refused("accept_protocol_versions", Listener, "every listener speaks MQTT 3.1, 3.1.1 and 5"),
    Row::refused("bind_interface", Listener, "give the address to listen on"),
    Row::integer(
        "max_connections",
        Listener,
        (i32::MIN as i64, i32::MAX as i64),
        "`listeners[].connections_max`, for each address of the listener; -1 is no limit",
        |draft, count| {
            draft.listener().connections_max = u32::try_from(count).ok().map(|count| count.min(10_000_000));
        },
    ),
    Row::integer("max_qos", Listener, (0, 2), "`mqtt.maximum_qos`", maximum_qos),
    Row::integer("maximum_qos", Listener, (0, 2), "`mqtt.maximum_qos`", maximum_qos),
    Row::integer("max_topic_alias", Listener, (0, 65_535), "`limits.topic_alias_maximum`", |draft, count| {
        draft.listener().topic_alias_maximum = u16::try_from(count).unwrap_or(u16::MAX);
    }),
    Row::integer(
        "max_topic_alias_broker",
        Listener,
        (0, 65_535),
        "`limits.topic_alias_to_client_max`, at most 1024",
        |draft, count| {
            draft.listener().topic_alias_to_client_max = u16::try_from(count.min(1_024)).unwrap_or(1_024);
        },
    ),
    Row::refused("mount_point", Listener, "topics are the same on all listeners"),
    Row::refused("http_dir", Listener, "the broker serves no files"),
    Row::refused("use_username_as_clientid", Listener, "a Client Identifier is the client's own"),
    Row::integer(
        "websockets_headers_size",
        Listener,
        (0, i32::MAX as i64),
        "no effect: a request may have 8 KiB of headers",
        forget_integer,
    )
    .without_effect(),
    Row::refused("websockets_origin", Listener, "pages of every origin may connect; let a proxy choose"),
    Row::integer(
        "enable_proxy_protocol",
        Listener,
        (1, 2),
        "`listeners[].proxy_protocol`, which takes a header of either version, from any address as in Mosquitto",
        |draft, _| draft.listener().is_proxied = true,
    ),
    Row::refused("proxy_protocol_v2_require_tls", Listener, "what a proxy says of TLS is not looked at"),
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
        _ => return Err("mqtt or websockets"),
    };
    Ok(())
}

fn maximum_qos(draft: &mut Draft, qos: i64) {
    draft.listener().maximum_qos = u8::try_from(qos).unwrap_or(2);
}
