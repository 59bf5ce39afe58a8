//! The options of Mosquitto that concern a bridge to another broker.

use super::option::MosquittoOption as Row;
use super::option::Scope::Bridge;

const NO_BRIDGES: &str = "bridges to other brokers are not available yet";

const fn row(name: &'static str) -> Row {
    Row::refused(name, Bridge, NO_BRIDGES)
}

pub(super) const OPTIONS: &[Row] = &[
    row("connection"),
    row("address"),
    row("bridge_alpn"),
    row("bridge_attempt_unsubscribe"),
    row("bridge_bind_address"),
    row("bridge_cafile"),
    row("bridge_capath"),
    row("bridge_certfile"),
    row("bridge_ciphers"),
    row("bridge_ciphers_tls1.3"),
    row("bridge_identity"),
    row("bridge_insecure"),
    row("bridge_keyfile"),
    row("bridge_max_packet_size"),
    row("bridge_max_topic_alias"),
    row("bridge_outgoing_retain"),
    row("bridge_protocol_version"),
    row("bridge_psk"),
    row("bridge_receive_maximum"),
    row("bridge_reload_type"),
    row("bridge_require_ocsp"),
    row("bridge_session_expiry_interval"),
    row("bridge_tcp_keepalive"),
    row("bridge_tcp_user_timeout"),
    row("bridge_tls_use_os_certs"),
    row("bridge_tls_version"),
    row("cleansession"),
    row("clientid"),
    row("idle_timeout"),
    row("keepalive_interval"),
    row("local_cleansession"),
    row("local_clientid"),
    row("local_password"),
    row("local_username"),
    row("notification_topic"),
    row("notifications"),
    row("notifications_local_only"),
    row("password"),
    row("remote_clientid"),
    row("remote_password"),
    row("remote_username"),
    row("restart_timeout"),
    row("round_robin"),
    row("start_type"),
    row("threshold"),
    row("topic"),
    row("try_private"),
    row("username"),
];
