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
            Kind::Choice(&["mqtt", "websocket", "http_api"]),
            "What carries MQTT there: TCP itself, or WebSocket over TCP. With `http_api` there is no MQTT, but HTTP: what the broker counts, and files.",
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
            "listeners[].tls.issuers_file",
            Kind::Path,
            "PEM file with certificates of issuers; those that are missing behind a certificate in its own file are shown from here.",
        ),
        "none; what is shown is in the file of the certificate",
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
            "PEM file with the certificates of the authorities that issue those of clients, or a directory of such files.",
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
            "listeners[].tls.ignore_client_dates",
            Kind::Boolean,
            "Whether client certificates that have expired, or are not good yet, are taken. Whoever has an old key can use it for ever.",
        ),
        "`false`",
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
            "listeners[].proxy_protocol.version",
            1,
            2,
            "Version of those headers; a client with one of the other is refused.",
        ),
        "either",
    ),
    unset(
        option(
            "listeners[].proxy_protocol.tls",
            Kind::Choice(&["any", "required", "certificate"]),
            "What the header has to say of the TLS between client and proxy: nothing, that there is some, that the client has shown a valid certificate.",
        ),
        "`any`",
    ),
    unset(
        option(
            "listeners[].proxy_protocol.identity",
            Kind::Choice(&["none", "cn"]),
            "What of that certificate is the User Name, instead of what CONNECT says: nothing, its common name; a client without one is refused.",
        ),
        "`none`",
    ),
    unset(
        option(
            "listeners[].interface",
            Kind::Interface,
            "Network interface that connections have to come by, such as `eth0`.",
        ),
        "any",
    ),
    unset(
        option(
            "listeners[].websocket_origins",
            Kind::Texts,
            "Origins of web pages that may connect by WebSocket, as in `https://example.org`; a request without one of them is refused.",
        ),
        "all",
    ),
    unset(
        option(
            "listeners[].access.anonymous",
            Kind::Boolean,
            "As `access.anonymous`, for this listener. With any of these eight none of those for all listeners counts here.",
        ),
        "`false`; without `listeners[].access` as for all listeners",
    ),
    unset(
        option(
            "listeners[].access.password_file",
            Kind::Path,
            "As `access.password_file`, for this listener.",
        ),
        "none; no password is checked",
    ),
    unset(
        option(
            "listeners[].access.rehash",
            Kind::Boolean,
            "As `access.rehash`, for the password file of this listener.",
        ),
        "`false`",
    ),
    unset(
        option("listeners[].access.acl_file", Kind::Path, "As `acl.file`, for this listener."),
        "none; every client may do everything",
    ),
    unset(
        option(
            "listeners[].access.mosquitto_acl_file",
            Kind::Path,
            "As `acl.mosquitto_file`, for this listener; not allowed with `listeners[].access.acl_file`.",
        ),
        "none",
    ),
    unset(
        option(
            "listeners[].access.dynamic_security",
            Kind::Boolean,
            "Whether `access.dynamic_security_file` says who may connect by this listener and what its clients may do; not allowed with its own rules of a file.",
        ),
        "`false`",
    ),
    unset(
        option(
            "listeners[].access.jwt",
            Kind::Boolean,
            "Whether tokens are taken for passwords on this listener, as `access.jwt` says.",
        ),
        "`false`",
    ),
    unset(
        option(
            "listeners[].access.http",
            Kind::Boolean,
            "Whether the service of `access.http` is asked about users on this listener.",
        ),
        "`false`",
    ),
    unset(
        option(
            "listeners[].mqtt.versions",
            Kind::Choices(&["3.1", "3.1.1", "5"]),
            "Versions of MQTT that are spoken; another is refused with 0x84, or 0x01 in MQTT 3.",
        ),
        "all",
    ),
    unset(
        integer("listeners[].mqtt.maximum_qos", 0, 2, "As `mqtt.maximum_qos`, for this listener."),
        "`mqtt.maximum_qos`",
    ),
    unset(
        integer(
            "listeners[].mqtt.topic_alias_maximum",
            0,
            65_535,
            "As `limits.topic_alias_maximum`, for this listener.",
        ),
        "`limits.topic_alias_maximum`",
    ),
    unset(
        integer(
            "listeners[].mqtt.topic_alias_to_client_max",
            0,
            1_024,
            "As `limits.topic_alias_to_client_max`, for this listener.",
        ),
        "`limits.topic_alias_to_client_max`",
    ),
    unset(
        option(
            "listeners[].mqtt.empty_client_id",
            Kind::Boolean,
            "Whether a Client Identifier may be empty where MQTT allows that.",
        ),
        "`true`",
    ),
    unset(
        option(
            "listeners[].mqtt.assigned_client_id_prefix",
            Kind::Text { bytes_max: 64 },
            "What a Client Identifier begins with that the broker assigns.",
        ),
        "`auto-`",
    ),
    unset(
        option(
            "listeners[].mqtt.user_name_as_client_id",
            Kind::Boolean,
            "Whether the user name takes the place of the Client Identifier; who has none is refused with 0x87.",
        ),
        "`false`",
    ),
    unset(
        option(
            "listeners[].mqtt.proven_users_only",
            Kind::Boolean,
            "Whether a client is refused with 0x86 (4 in MQTT 3) whose user name no certificate proves, shown here or to its proxy.",
        ),
        "`false`",
    ),
    unset(
        option(
            "listeners[].mqtt.mount_point",
            Kind::TopicPrefix,
            "What stands before every topic of the clients there, who do not see it, as in `site/`. Rules see it. VEIL-1 is not served there.",
        ),
        "nothing",
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
            "listeners[].http_directory",
            Kind::Path,
            "Directory whose files a listener with `protocol` `http_api` serves to those who may read their paths.",
        ),
        "no files are served",
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
