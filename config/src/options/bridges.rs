//! The options of bridges to other brokers.

use super::{OptionSpec, integer, option, unset};
use crate::kind::Kind;

const NEEDED: &str = "must be given";
const TRUE: &str = "`true`";
const FALSE: &str = "`false`";

pub(super) const OPTIONS: &[OptionSpec] = &[
    unset(
        text("bridges[].name", "What the bridge is called in logs, and in identifiers made of it."),
        NEEDED,
    ),
    unset(
        option(
            "bridges[].addresses",
            Kind::RemoteAddresses,
            "Where the other broker is; if it is in several places, the first is preferred.",
        ),
        NEEDED,
    ),
    switch("bridges[].round_robin", "Whether all addresses are equally good.", FALSE),
    unset(
        option(
            "bridges[].bind_address",
            Kind::IpAddress,
            "Address of this machine that connections come from.",
        ),
        "the system chooses",
    ),
    unset(
        option(
            "bridges[].tls.ca",
            Kind::Path,
            "PEM file, or directory of such files, with the authorities that the other broker's certificate may come from.",
        ),
        "those of the system; without `bridges[].tls` there is no TLS",
    ),
    unset(
        option("bridges[].tls.certificate_file", Kind::Path, "PEM file with the bridge's own certificate."),
        "it shows none",
    ),
    unset(option("bridges[].tls.key_file", Kind::Path, "PEM file with its private key."), "it shows none"),
    switch(
        "bridges[].tls.any_name",
        "Whether the certificate may be for another name than that of the address; whoever has one of the same authorities could then be the other broker.",
        FALSE,
    ),
    unset(text("bridges[].tls.alpn", "Protocol that is asked for in the handshake (ALPN)."), "none"),
    unset(
        option(
            "bridges[].tls.minimum_version",
            Kind::Choice(&["1.2", "1.3"]),
            "Oldest version of TLS that is spoken.",
        ),
        "`1.2`",
    ),
    unset(
        integer(
            "bridges[].tcp_keep_alive.idle_seconds",
            1,
            32_767,
            "Silence after which TCP asks whether the other broker is still there, in seconds.",
        ),
        "`7200`; without `bridges[].tcp_keep_alive` TCP does not ask",
    ),
    unset(
        integer(
            "bridges[].tcp_keep_alive.interval_seconds",
            1,
            32_767,
            "From one such question to the next, in seconds.",
        ),
        "`75`",
    ),
    unset(integer("bridges[].tcp_keep_alive.count", 1, 127, "Such questions before TCP gives up."), "`9`"),
    unset(
        integer(
            "bridges[].tcp_user_timeout_milliseconds",
            1,
            2_147_483_647,
            "How long what was sent may go without TCP's acknowledgement before the connection ends, in milliseconds.",
        ),
        "the system's",
    ),
    unset(
        option(
            "bridges[].protocol",
            Kind::Choice(&["3.1", "3.1.1", "5"]),
            "Version of MQTT that the other broker is spoken to in.",
        ),
        "`5`",
    ),
    switch(
        "bridges[].says_bridge",
        "Whether it says in MQTT 3 that it is a bridge (bit 7 of the level), so that nothing comes back; a broker that refuses this is asked without.",
        TRUE,
    ),
    unset(
        text("bridges[].client_id", "Client Identifier on the other broker."),
        "host name, `.` and `bridges[].name`",
    ),
    unset(text("bridges[].username", "User name on the other broker."), "none"),
    unset(text("bridges[].password", "Password on the other broker."), "none"),
    unset(
        option(
            "bridges[].password_file",
            Kind::Path,
            "File with that password instead, such as a mounted secret, read at the start and at a reload; the end of its line does not belong to it.",
        ),
        "none",
    ),
    switch(
        "bridges[].clean_start",
        "Whether the other broker forgets what it has for the bridge when the connection ends.",
        FALSE,
    ),
    unset(
        integer(
            "bridges[].session_expiry_seconds",
            0,
            4_294_967_295,
            "How long the other broker keeps it, in seconds (MQTT 5); 4294967295 is for ever.",
        ),
        "`4294967295`, with `bridges[].clean_start` `0`",
    ),
    unset(
        integer(
            "bridges[].keep_alive_seconds",
            5,
            65_535,
            "Longest silence on the way to the other broker, in seconds.",
        ),
        "`60`",
    ),
    unset(
        integer(
            "bridges[].receive_maximum",
            1,
            65_535,
            "QoS 1 and 2 messages in flight in either direction; `limits.inflight_max` and `limits.receive_maximum` hold too.",
        ),
        "`1000`",
    ),
    unset(
        integer(
            "bridges[].topic_alias_maximum",
            0,
            65_535,
            "Topic aliases that the other broker may use (MQTT 5); 0 takes none.",
        ),
        "`10`",
    ),
    unset(
        integer(
            "bridges[].packet_bytes_max",
            20,
            268_435_460,
            "Largest packet sent to the other broker, in bytes, even if it takes larger ones; what is larger does not cross.",
        ),
        "what the other broker takes",
    ),
    switch(
        "bridges[].passes_retain",
        "Whether retained messages are retained on the other broker too.",
        TRUE,
    ),
    switch(
        "bridges[].unsubscribes",
        "Whether to unsubscribe, on the other broker, from topics that only go there: they may have come from there before.",
        TRUE,
    ),
    switch(
        "bridges[].marks_messages",
        "Whether messages carry, as User Properties of MQTT 5, which bridges they have crossed and from which brokers, so that none comes back.",
        TRUE,
    ),
    unset(
        text("bridges[].local_client_id", "Client Identifier on this broker."),
        "`local.` and the one on the other broker",
    ),
    unset(
        option(
            "bridges[].local_clean_start",
            Kind::Boolean,
            "Whether what is published here while the bridge is down is lost to it.",
        ),
        "as `bridges[].clean_start`",
    ),
    unset(
        option(
            "bridges[].notifications",
            Kind::Choice(&["off", "local", "both"]),
            "Whose clients see, as a retained `1` or `0`, whether the bridge is up.",
        ),
        "`both`",
    ),
    unset(
        option("bridges[].notification_topic", Kind::TopicName, "Topic on which they see it."),
        "`$SYS/broker/connection/`, the Client Identifier on the other broker, and `/state`",
    ),
    unset(
        option(
            "bridges[].start",
            Kind::Choice(&["automatic", "lazy", "once"]),
            "When the bridge connects: at the start and whenever the connection has ended, when messages wait, or at the start alone.",
        ),
        "`automatic`",
    ),
    unset(
        integer(
            "bridges[].lazy_messages",
            1,
            65_535,
            "Messages that wait before a lazy bridge connects; it does too when half of `limits.session_queue_bytes_max` waits, or as many messages as may, or when one finds no room.",
        ),
        "`10`",
    ),
    unset(
        integer(
            "bridges[].idle_seconds",
            1,
            4_294_967_295,
            "After how long without a message a lazy bridge leaves, in seconds.",
        ),
        "`60`",
    ),
    unset(
        integer(
            "bridges[].restart_seconds_min",
            1,
            86_400,
            "Shortest wait before the bridge connects again, in seconds; each failure doubles it.",
        ),
        "`5`",
    ),
    unset(
        integer(
            "bridges[].restart_seconds_max",
            1,
            86_400,
            "Longest such wait, in seconds; at least `bridges[].restart_seconds_min`.",
        ),
        "`30`",
    ),
    unset(
        option(
            "bridges[].reload",
            Kind::Choice(&["immediate", "lazy"]),
            "When a reload that has changed the bridge takes effect: at once, or with its next connection.",
        ),
        "`immediate`",
    ),
    unset(
        option(
            "bridges[].topics[].pattern",
            Kind::TextOrNone { bytes_max: 65_535 },
            "Topic Filter of what crosses, as it is behind both prefixes; empty, the prefixes are the topic.",
        ),
        NEEDED,
    ),
    unset(
        option(
            "bridges[].topics[].direction",
            Kind::Choice(&["in", "out", "both"]),
            "Which way: to this broker, to the other one, or both.",
        ),
        "`out`",
    ),
    unset(integer("bridges[].topics[].qos", 0, 2, "Highest QoS that crosses."), "`0`"),
    unset(
        option(
            "bridges[].topics[].local_prefix",
            Kind::TextOrNone { bytes_max: 65_535 },
            "What stands before the name on this broker.",
        ),
        "nothing",
    ),
    unset(
        option(
            "bridges[].topics[].remote_prefix",
            Kind::TextOrNone { bytes_max: 65_535 },
            "What stands before the name on the other broker.",
        ),
        "nothing",
    ),
];

const fn text(key: &'static str, meaning: &'static str) -> OptionSpec {
    option(key, Kind::Text { bytes_max: 65_535 }, meaning)
}

const fn switch(key: &'static str, meaning: &'static str, without: &'static str) -> OptionSpec {
    unset(option(key, Kind::Boolean, meaning), without)
}
