//! The options of listeners and of their TLS.

use super::{LISTENERS, OptionSpec, integer, option, unset};
use crate::kind::Kind;

pub(super) const OPTIONS: &[OptionSpec] = &[
    unset(
        option(
            LISTENERS,
            Kind::ListenAddress,
            "Where to accept connections: TCP, where port 0 lets the system choose, or a Unix socket.",
        ),
        "must be given (development: `127.0.0.1:1883` and `[::1]:1883`)",
    ),
    unset(
        option(
            "listeners[].mode",
            Kind::FileMode,
            "Permissions of a Unix socket; whoever may write to it may connect.",
        ),
        "`0660` for a Unix socket",
    ),
    unset(
        option(
            "listeners[].protocol",
            Kind::Choice(&["mqtt", "websocket"]),
            "What carries MQTT there: TCP itself, or WebSocket over TCP.",
        ),
        "`mqtt`",
    ),
    unset(
        option(
            "listeners[].durability",
            Kind::Choice(&["commit", "interval"]),
            "When what clients there have stored is acknowledged: once it is durable, or before, so that a crash can lose what came within the last 50 ms. Only with `storage.durability` `commit`.",
        ),
        "as `storage.durability`",
    ),
    unset(
        option(
            "listeners[].tls.certificates[].certificate_file",
            Kind::Path,
            "PEM file with a certificate, followed by those of its issuers; of several the client's SNI chooses, or else the first is shown.",
        ),
        "`tls.certificate_file`; without `listeners[].tls` there is no TLS",
    ),
    unset(
        option(
            "listeners[].tls.certificates[].key_file",
            Kind::Path,
            "PEM file with the private key of that certificate.",
        ),
        "`tls.key_file`",
    ),
    unset(
        option(
            "listeners[].tls.minimum_version",
            Kind::Choice(&["1.2", "1.3"]),
            "Oldest version of TLS that is spoken.",
        ),
        "`1.2`",
    ),
    unset(
        option(
            "listeners[].tls.client_certificate",
            Kind::Choice(&["off", "optional", "required"]),
            "Whether clients are asked for a certificate, and refused without one.",
        ),
        "`off`",
    ),
    unset(
        option(
            "listeners[].tls.client_ca_file",
            Kind::Path,
            "PEM file with the certificates of the authorities that issue those of clients.",
        ),
        "needed where clients are asked for a certificate",
    ),
    unset(
        option(
            "listeners[].tls.crl_file",
            Kind::Path,
            "PEM file with the certificates that those authorities have revoked (CRL); it must have a list of each that issues any.",
        ),
        "nothing is revoked",
    ),
    unset(
        option(
            "listeners[].tls.identity",
            Kind::Choice(&["none", "cn", "subject"]),
            "What of a client certificate is the User Name, instead of what CONNECT says: nothing, its common name, its subject (RFC 2253).",
        ),
        "`none`",
    ),
    unset(
        option(
            "listeners[].proxy_protocol.trusted",
            Kind::Networks,
            "Proxies that say where a client is with a PROXY header (version 1 or 2); on this listener all connections begin with one, and nobody else may connect.",
        ),
        "no PROXY headers",
    ),
    unset(
        integer(
            "listeners[].connections_max",
            0,
            10_000_000,
            "Network Connections at one time on this listener; more are closed.",
        ),
        "`limits.connections_max` alone",
    ),
    unset(
        option(
            "tls.certificate_file",
            Kind::Path,
            "PEM file with the certificate of listeners with TLS that name none, followed by those of its issuers.",
        ),
        "each listener with TLS names its own",
    ),
    unset(
        option("tls.key_file", Kind::Path, "PEM file with the private key of that certificate."),
        "each listener with TLS names its own",
    ),
];
