//! The options of Mosquitto that concern the whole broker.

use super::draft::Draft;
use super::option::Scope::Global;
use super::option::{Allowed, MosquittoOption as Row, forget_boolean, forget_integer, forget_text};
use crate::broker_config::{LogLevel, SyslogFacility};

const DAY_SECONDS: u64 = 24 * 3_600;
const COUNT: (i64, i64) = (i32::MIN as i64, i32::MAX as i64);
const PACKET_BYTES: (i64, i64) = (20, 268_435_460);

const EVERYTHING_IS_STORED: &str =
    "no effect: every change is stored before it is acknowledged, so nothing has to be saved at times";
pub(super) const OPTIONS: &[Row] = &[
    Row::boolean(
        "allow_duplicate_messages",
        Global,
        "no effect: a client gets one copy of a message, as MQTT allows, with the identifiers of all its subscriptions",
        forget_boolean,
    )
    .without_effect(),
    Row::integer("autosave_interval", Global, COUNT, EVERYTHING_IS_STORED, forget_integer).without_effect(),
    Row::boolean("autosave_on_changes", Global, EVERYTHING_IS_STORED, forget_boolean).without_effect(),
    Row::boolean(
        "check_retain_source",
        Global,
        "`acl.check_retained_source`",
        |draft, on| draft.config.acl.check_retained_source = on,
    ),
    Row::text("clientid_prefixes", Global, "`access.client_id_prefix`", |draft, prefix| {
        draft.client_id_prefix = Some(prefix.to_owned());
        Ok(())
    }),
    Row::boolean("connection_messages", Global, "`log.connections`", |draft, on| draft.config.log.connections = on),
    Row::boolean("enable_control_api", Global, "`access.control_api`", |draft, on| {
        draft.is_control_api_on = on;
    }),
    Row::integer("global_max_clients", Global, COUNT, "`limits.sessions_max`; -1 is no limit", |draft, count| {
        // Mosquitto knows no broker without any client.
        draft.config.limits.sessions_max = u32::try_from(count).unwrap_or_default().min(10_000_000);
    }),
    Row::integer("global_max_connections", Global, COUNT, "`limits.connections_max`", |draft, count| {
        draft.config.limits.connections_max = bounded(count, 10_000_000).max(1);
    }),
    Row::text("include_dir", Global, "the files are read at this place", forget_text),
    Row::text(
        "log_dest",
        Global,
        "`log.destinations`; what belongs to dlt or android goes to standard error, and in topics there are `E`, `W` and `N` only",
        log_destination,
    ),
    Row::integer(
        "log_facility",
        Global,
        (0, 7),
        "`log.syslog_facility`",
        |draft, number| {
            let facility = usize::try_from(number).ok().and_then(|number| SyslogFacility::LOCAL.get(number));
            draft.config.log.syslog_facility = facility.copied().unwrap_or(SyslogFacility::Daemon);
        },
    ),
    Row::boolean("log_timestamp", Global, "`log.timestamps`", |draft, on| draft.config.log.timestamps = on),
    Row::text("log_timestamp_format", Global, "`log.timestamp_format`, in UTC", |draft, format| {
        draft.config.log.timestamp_format = Some(format.to_owned());
        Ok(())
    }),
    Row::text("log_type", Global, "`log.level`: the most talkative of the types named", log_type),
    Row::integer("max_inflight_bytes", Global, (COUNT.0, 1 << 40), "`limits.inflight_bytes_max`", |draft, bytes| {
        draft.config.limits.inflight_bytes_max = u64::try_from(bytes).unwrap_or_default();
    }),
    Row::integer(
        "max_inflight_messages",
        Global,
        (COUNT.0, 65_535),
        "`limits.inflight_max` and `limits.receive_maximum`; 0 is 65535",
        |draft, count| {
            let count = u16::try_from(count).ok().filter(|count| *count > 0).unwrap_or(u16::MAX);
            draft.config.limits.inflight_max = count;
            draft.config.limits.receive_maximum = count;
        },
    ),
    Row::integer("max_keepalive", Global, (0, 65_535), "`limits.keep_alive_seconds_max`, with `mqtt.refuse_long_keep_alive`", |draft, seconds| {
        draft.config.limits.keep_alive_seconds_max = u16::try_from(seconds).unwrap_or(u16::MAX);
    }),
    Row::integer(
        "max_packet_size",
        Global,
        PACKET_BYTES,
        "`limits.packet_bytes_max`; 2000000 if it is not given, as in Mosquitto 2.1",
        |draft, bytes| {
            draft.config.limits.packet_bytes_max = u32::try_from(bytes).unwrap_or(u32::MAX);
        },
    ),
    Row::integer(
        "max_queued_bytes",
        Global,
        (COUNT.0, 1 << 40),
        "`limits.session_queue_bytes_max`, but never less than the largest packet; 0 is `limits.queue_bytes_max`",
        |draft, bytes| draft.queued_bytes_max = u64::try_from(bytes).unwrap_or_default(),
    ),
    Row::integer(
        "max_queued_messages",
        Global,
        COUNT,
        "`limits.session_queue_messages_max`; 0 is 100000000",
        |draft, count| draft.queued_messages_max = u32::try_from(count).unwrap_or_default(),
    ),
    Row::integer(
        "memory_limit",
        Global,
        (0, 1 << 40),
        "`limits.memory_bytes`: all memory of the process, and what is refused near the limit is said to who asks",
        |draft, bytes| draft.config.limits.memory_bytes = u64::try_from(bytes).unwrap_or_default(),
    ),
    Row::integer("message_size_limit", Global, (0, 268_435_455), "`limits.payload_bytes_max`", |draft, bytes| {
        draft.config.limits.payload_bytes_max = bounded(bytes, 268_435_455);
    }),
    Row::integer(
        "packet_buffer_size",
        Global,
        (0, COUNT.1),
        "no effect: connections share one buffer for reading",
        forget_integer,
    )
    .without_effect(),
    Row::boolean(
        "persistence",
        Global,
        "`true`: state is stored beside the database, in a directory named like it with `.veilmq` behind; \
         `false`: `storage.durability = \"memory\"`",
        |draft, on| draft.is_persistent = on,
    ),
    Row::text("persistence_file", Global, "part of `data_dir`, see `persistence`", |draft, name| {
        name.clone_into(&mut draft.persistence_file);
        Ok(())
    }),
    Row::text("persistence_location", Global, "part of `data_dir`, see `persistence`", |draft, path| {
        draft.persistence_location = path.into();
        Ok(())
    }),
    Row::text("persistent_client_expiration", Global, "`limits.session_expiry_seconds_max`", |draft, duration| {
        let seconds = seconds(duration).ok_or("a whole number above 0 and one of s, h, d, w, m, y, such as 14d")?;
        draft.config.limits.session_expiry_seconds_max = seconds;
        Ok(())
    }),
    Row::text("pid_file", Global, "`process.pid_file`", |draft, path| {
        draft.config.process.pid_file = Some(path.into());
        Ok(())
    }),
    Row::boolean("queue_qos0_messages", Global, "`mqtt.queue_qos0`; they are kept in memory", |draft, on| {
        draft.config.mqtt.queue_qos0 = on;
    }),
    Row::boolean("retain_available", Global, "`mqtt.retain_available`", |draft, on| {
        draft.config.mqtt.retain_available = on;
    }),
    Row::integer(
        "retain_expiry_interval",
        Global,
        (0, COUNT.1),
        "no effect: retained messages go within a second after they expire",
        forget_integer,
    )
    .without_effect(),
    Row::boolean(
        "retained_persistence",
        Global,
        "no effect: it is an old name of `persistence`, which Mosquitto ignores as well",
        forget_boolean,
    )
    .without_effect(),
    Row::text(
        "retry_interval",
        Global,
        "no effect: Mosquitto ignores it as well; what is not acknowledged is sent again when the client comes back",
        forget_text,
    )
    .without_effect(),
    Row::boolean("set_tcp_nodelay", Global, "no effect: it is always on", forget_boolean).without_effect(),
    Row::integer("sys_interval", Global, (0, 65_535), "`sys.interval_seconds`", |draft, seconds| {
        draft.config.sys.interval_seconds = u16::try_from(seconds).unwrap_or(u16::MAX);
    }),
    Row::boolean("upgrade_outgoing_qos", Global, "`mqtt.upgrade_qos`", |draft, on| draft.config.mqtt.upgrade_qos = on),
    Row::text(
        "user",
        Global,
        "`process.user`; if it is not given, the process stays who it is",
        |draft, user| {
            draft.config.process.user = Some(user.to_owned());
            Ok(())
        },
    ),
    Row::integer(
        "websockets_log_level",
        Global,
        COUNT,
        "no effect: `log_type` decides what is logged",
        forget_integer,
    )
    .without_effect(),
];

fn bounded(count: i64, maximum: u32) -> u32 {
    // A negative number is none.
    u32::try_from(count).unwrap_or(maximum).min(maximum)
}

fn log_destination(draft: &mut Draft, value: &str) -> Result<(), Allowed> {
    let (kind, rest) = value.split_once(' ').unwrap_or((value, ""));
    let destination = match kind {
        "stderr" | "dlt" | "android" => Some("stderr"),
        "stdout" => Some("stdout"),
        "syslog" => Some("syslog"),
        "topic" => Some("topic"),
        "none" => None,
        "file" if !rest.trim().is_empty() => Some(rest.trim_start()),
        _ => return Err("stdout, stderr, syslog, topic, none or file PATH"),
    };
    let named = draft.log_destinations.get_or_insert_default();
    if destination.is_none() {
        // Those above it count no longer.
        named.clear();
    }
    if let Some(destination) = destination.map(str::to_owned).filter(|one| !named.contains(one)) {
        named.push(destination);
    }
    Ok(())
}

fn log_type(draft: &mut Draft, value: &str) -> Result<(), Allowed> {
    let level = match value.split(' ').next().unwrap_or_default() {
        "error" => LogLevel::Error,
        "warning" => LogLevel::Warn,
        "notice" | "information" => LogLevel::Info,
        "debug" | "subscribe" | "unsubscribe" | "websockets" | "internal" | "all" => LogLevel::Debug,
        "none" => LogLevel::Off,
        _ => {
            return Err(
                "debug, error, warning, notice, information, subscribe, unsubscribe, websockets, none or all",
            );
        }
    };
    draft.log_level = Some(draft.log_level.map_or(level, |named| named.max(level)));
    Ok(())
}

/// Returns the seconds of a duration such as `14d`.
fn seconds(duration: &str) -> Option<u32> {
    let unit = duration.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'h' => 3_600,
        'd' => DAY_SECONDS,
        'w' => 7 * DAY_SECONDS,
        'm' => 30 * DAY_SECONDS,
        'y' => 365 * DAY_SECONDS,
        _ => return None,
    };
    // Mosquitto does not start with 0 either, which would end every session with its connection.
    let count: u64 = duration.strip_suffix(unit)?.parse().ok().filter(|count| *count > 0)?;
    // The greatest value would be "never".
    Some(u32::try_from(count.checked_mul(seconds)?).unwrap_or(u32::MAX).min(u32::MAX - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit() {
        for (text, expected) in [
            ("30s", Some(30)),
            ("2h", Some(7_200)),
            ("14d", Some(14 * 86_400)),
            ("1w", Some(604_800)),
            ("2m", Some(60 * 86_400)),
            ("1y", Some(365 * 86_400)),
            ("500y", Some(u32::MAX - 1)),
            ("0d", None),
            ("00s", None),
            ("3", None),
            ("3x", None),
            ("d", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
        assert_eq!((bounded(-1, 9), bounded(10, 9), bounded(3, 9)), (9, 9, 3));
    }
}
