//! `$SYS/broker/…`: what the broker says of itself, under the names that Mosquitto made customary.
//!
//! Pure arithmetic: totals and the time go in, topics and payloads come out, and whoever drives a shard publishes them there
//! ([`crate::Input::Announced`]). Invariant: a topic comes out when its payload is another than the last time, and only then.

use std::collections::BTreeMap;

use veilmq_protocol::TopicName;

use crate::stats::Totals;
use crate::time::Moment;

/// The first level of the topics that belong to the broker.
pub(crate) const FIRST_LEVEL: &str = "$SYS";
const CONTROL: &str = "$CONTROL";
/// What stands before the Client Identifier in the topic on which a bridge says whether it is up.
const CONNECTIONS: &str = "$SYS/broker/connection/";

/// A value and where it comes from.
type Reading = (&'static str, fn(&Totals) -> u64);

/// What is reported as it is.
const VALUES: &[Reading] = &[
    ("clients/total", |totals| totals.sessions_connected + totals.sessions_disconnected),
    ("clients/connected", |totals| totals.sessions_connected),
    ("clients/active", |totals| totals.sessions_connected),
    ("clients/disconnected", |totals| totals.sessions_disconnected),
    ("clients/inactive", |totals| totals.sessions_disconnected),
    ("clients/expired", |totals| totals.sessions_expired),
    ("messages/received", |totals| totals.packets_received),
    ("messages/sent", |totals| totals.packets_sent),
    ("messages/stored", stored_messages),
    ("store/messages/count", stored_messages),
    ("store/messages/bytes", |totals| totals.retained_bytes + totals.queued_bytes),
    ("retained messages/count", |totals| totals.retained_messages),
    ("subscriptions/count", |totals| totals.subscriptions),
    ("shared_subscriptions/count", |totals| totals.shared_subscriptions),
    ("publish/messages/received", |totals| totals.messages_received),
    ("publish/messages/sent", |totals| totals.messages_delivered),
    ("publish/messages/dropped", |totals| totals.messages_dropped),
    ("publish/bytes/received", |totals| totals.payload_bytes_received),
    ("publish/bytes/sent", |totals| totals.payload_bytes_sent),
    ("bytes/received", |totals| totals.bytes_received),
    ("bytes/sent", |totals| totals.bytes_sent),
    ("packet/out/count", |totals| totals.queued_messages),
    ("packet/out/bytes", |totals| totals.queued_bytes),
    ("connections/socket/count", |totals| totals.connections_opened),
    ("heap/current", |totals| totals.memory_bytes),
    ("heap/maximum", |totals| totals.memory_bytes_max),
];

/// What has the value of another, under a name of its own.
const REPEATED: [&str; 3] = ["clients/active", "clients/inactive", "store/messages/count"];

/// What is reported as an average per minute.
const LOADS: [Reading; 9] = [
    ("messages/received", |totals| totals.packets_received),
    ("messages/sent", |totals| totals.packets_sent),
    ("publish/received", |totals| totals.messages_received),
    ("publish/sent", |totals| totals.messages_delivered),
    ("publish/dropped", |totals| totals.messages_dropped),
    ("bytes/received", |totals| totals.bytes_received),
    ("bytes/sent", |totals| totals.bytes_sent),
    ("sockets", |totals| totals.connections_opened),
    ("connections", |totals| totals.connects_received),
];

/// The time over which a load is averaged, by name and in seconds.
const WINDOWS: [(&str, f64); 3] = [("1min", 60.0), ("5min", 300.0), ("15min", 900.0)];

/// What was last reported, and what the next report needs of it.
#[derive(Debug)]
pub struct SysReport {
    version: String,
    started: Moment,
    updated: Moment,
    previous: Totals,
    clients_max: u64,
    loads: [[f64; WINDOWS.len()]; LOADS.len()],
    reported: BTreeMap<String, String>,
}

impl SysReport {
    /// Makes the report of a broker of version `version` that has just started.
    pub fn new(version: &str, started: Moment) -> Self {
        Self {
            version: format!("veilmq version {version}"),
            started,
            updated: started,
            previous: Totals::default(),
            clients_max: 0,
            loads: Default::default(),
            reported: BTreeMap::new(),
        }
    }

    /// Takes in the totals as they are `now`, and returns the topics whose payload has changed, each with the new one.
    pub fn update(&mut self, totals: &Totals, now: Moment) -> Vec<(String, String)> {
        self.clients_max = self.clients_max.max(totals.sessions_connected);
        self.average(totals, now);
        let mut all = vec![
            ("version".to_owned(), self.version.clone()),
            ("uptime".to_owned(), format!("{} seconds", now.since(self.started) / 1_000)),
            ("clients/maximum".to_owned(), self.clients_max.to_string()),
        ];
        all.extend(VALUES.iter().map(|(name, read)| ((*name).to_owned(), read(totals).to_string())));
        for ((name, _), averages) in LOADS.iter().zip(&self.loads) {
            for ((window, _), average) in WINDOWS.iter().zip(averages) {
                all.push((format!("load/{name}/{window}"), format!("{average:.2}")));
            }
        }
        all.retain(|(name, payload)| self.reported.get(name) != Some(payload));
        self.reported.extend(all.iter().cloned());
        all.into_iter().map(|(name, payload)| (format!("{FIRST_LEVEL}/broker/{name}"), payload)).collect()
    }

    /// Moves each average towards the rate since the last report, the more the longer that is ago: what happened a window ago
    /// weighs 1/e of what happens now.
    fn average(&mut self, totals: &Totals, now: Moment) {
        let seconds = now.since(self.updated) as f64 / 1_000.0;
        if seconds == 0.0 {
            return;
        }
        for ((_, read), averages) in LOADS.iter().zip(&mut self.loads) {
            let per_minute = read(totals).saturating_sub(read(&self.previous)) as f64 * 60.0 / seconds;
            for ((_, window), average) in WINDOWS.iter().zip(averages) {
                *average = per_minute + (*average - per_minute) * (-seconds / window).exp();
            }
        }
        self.updated = now;
        self.previous = *totals;
    }
}

/// Returns what is reported as it is, each once: the topic and the number.
pub fn sys_values(totals: &Totals) -> impl Iterator<Item = (String, u64)> {
    let once = VALUES.iter().filter(|(name, _)| !REPEATED.contains(name));
    once.map(|(name, read)| (format!("{FIRST_LEVEL}/broker/{name}"), read(totals)))
}

/// Tells whether a topic is one that only the broker publishes to. A bridge from another broker says on its own how it fares.
/// `client_id` is that of who publishes; None where anybody may say how a bridge fares.
pub(crate) fn is_reserved(topic: TopicName<'_>, client_id: Option<&str>) -> bool {
    // Nothing below $CONTROL is a message for subscribers: whoever answers there does so before anything is routed [B02].
    topic.is_dollar()
        && !is_state_of(topic, client_id)
        && [FIRST_LEVEL, CONTROL].iter().any(|first_level| {
            let rest = topic.as_str().strip_prefix(first_level);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

/// Tells whether a topic is the one on which a bridge with this Client Identifier says whether it is up.
fn is_state_of(topic: TopicName<'_>, client_id: Option<&str>) -> bool {
    let named = topic.as_str().strip_prefix(CONNECTIONS).and_then(|rest| rest.strip_suffix("/state"));
    named.is_some_and(|named| client_id.is_none_or(|client_id| named == client_id))
}

fn stored_messages(totals: &Totals) -> u64 {
    totals.retained_messages + totals.queued_messages + totals.inflight_messages
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_milliseconds(1_800_000_000_000);

    fn report() -> SysReport {
        SysReport::new("1.2.3", START)
    }

    fn payload<'a>(changed: &'a [(String, String)], name: &str) -> Option<&'a str> {
        let topic = format!("$SYS/broker/{name}");
        changed.iter().find(|(changed, _)| *changed == topic).map(|(_, payload)| payload.as_str())
    }

    #[test]
    fn the_first_report_has_every_name() {
        let totals = Totals {
            packets_received: 1,
            packets_sent: 2,
            messages_received: 3,
            messages_delivered: 4,
            messages_dropped: 5,
            payload_bytes_received: 6,
            payload_bytes_sent: 7,
            bytes_received: 8,
            bytes_sent: 9,
            sessions_expired: 10,
            sessions_connected: 11,
            sessions_disconnected: 12,
            subscriptions: 13,
            shared_subscriptions: 14,
            queued_messages: 15,
            queued_bytes: 16,
            inflight_messages: 17,
            retained_messages: 18,
            retained_bytes: 19,
            memory_bytes: 20,
            memory_bytes_max: 21,
            connections_opened: 22,
            connects_received: 23,
        };

        let changed = report().update(&totals, START);

        for (name, expected) in [
            ("version", "veilmq version 1.2.3"),
            ("uptime", "0 seconds"),
            ("clients/total", "23"),
            ("clients/maximum", "11"),
            ("clients/connected", "11"),
            ("clients/active", "11"),
            ("clients/disconnected", "12"),
            ("clients/inactive", "12"),
            ("clients/expired", "10"),
            ("messages/received", "1"),
            ("messages/sent", "2"),
            ("messages/stored", "50"),
            ("store/messages/count", "50"),
            ("store/messages/bytes", "35"),
            ("retained messages/count", "18"),
            ("subscriptions/count", "13"),
            ("shared_subscriptions/count", "14"),
            ("publish/messages/received", "3"),
            ("publish/messages/sent", "4"),
            ("publish/messages/dropped", "5"),
            ("publish/bytes/received", "6"),
            ("publish/bytes/sent", "7"),
            ("bytes/received", "8"),
            ("bytes/sent", "9"),
            ("packet/out/count", "15"),
            ("packet/out/bytes", "16"),
            ("connections/socket/count", "22"),
            ("heap/current", "20"),
            ("heap/maximum", "21"),
        ] {
            assert_eq!(payload(&changed, name), Some(expected), "{name}");
        }
        let loads = [
            "messages/received",
            "messages/sent",
            "publish/received",
            "publish/sent",
            "publish/dropped",
            "bytes/received",
            "bytes/sent",
            "sockets",
            "connections",
        ];
        for load in loads {
            for window in ["1min", "5min", "15min"] {
                assert_eq!(payload(&changed, &format!("load/{load}/{window}")), Some("0.00"), "{load}");
            }
        }
        assert_eq!(changed.len(), 29 + loads.len() * 3);
    }

    #[test]
    fn only_what_has_changed_is_reported_again() {
        let mut report = report();
        let totals = Totals { sessions_connected: 3, ..Totals::default() };
        report.update(&totals, START);

        assert_eq!(report.update(&totals, START + 999), []);
        let changed = report.update(&totals, START.plus_seconds(10));
        assert_eq!(changed, [("$SYS/broker/uptime".to_owned(), "10 seconds".to_owned())]);
        let changed = report.update(&Totals::default(), START.plus_seconds(10));
        let names: Vec<&str> = changed.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(
            names,
            ["$SYS/broker/clients/total", "$SYS/broker/clients/connected", "$SYS/broker/clients/active"],
            "the maximum stays"
        );
    }

    #[test]
    fn a_load_nears_the_rate_per_minute_and_fades_when_nothing_happens() {
        let mut report = report();
        report.update(&Totals::default(), START);
        let mut totals = Totals::default();
        // Ten messages in ten seconds are sixty in a minute; after t seconds of that the average is 60 (1 - e^(-t/window)).
        let mut averages: [String; 3] = Default::default();
        for (seconds, expected) in [
            (10, ["9.21", "1.97", "0.66"]),
            (20, ["17.01", "3.87", "1.32"]),
            (60, ["37.93", "10.88", "3.87"]),
            (300, ["59.60", "37.93", "17.01"]),
            (4_000, ["60.00", "60.00", "59.30"]),
        ] {
            while totals.messages_received < seconds {
                totals.messages_received += 10;
                let changed = report.update(&totals, START.plus_seconds(totals.messages_received));
                for (window, average) in ["1min", "5min", "15min"].iter().zip(&mut averages) {
                    if let Some(value) = payload(&changed, &format!("load/publish/received/{window}")) {
                        value.clone_into(average);
                    }
                }
            }
            assert_eq!(averages, expected, "after {seconds} seconds");
        }

        let changed = report.update(&totals, START.plus_seconds(4_000 + 60));
        assert_eq!(payload(&changed, "load/publish/received/1min"), Some("22.07"));
        assert_eq!(payload(&changed, "publish/messages/received"), None);
    }
}
