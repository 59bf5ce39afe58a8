//! Real readings of this machine, from the files the kernel offers.
//!
//! What a machine does not have (many have no temperature sensor) is left out, never made up.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value, json};

use tokio::time::sleep;

use crate::{failure::Failure, format::unix_ms};

/// Sensors are read again after this, so that there is something new to tell.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(500);

/// One reading: the last topic level and the JSON text that is published.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) name: &'static str,
    pub(super) text: String,
}

/// Readings one after the other, as many as one wants.
#[derive(Default)]
pub(super) struct Readings {
    waiting: Vec<Reading>,
    read_before: bool,
}

impl Readings {
    /// The next reading; sensors are read again once all of them were given.
    ///
    /// # Errors
    /// This machine has none.
    pub(super) async fn next(&mut self) -> Result<Reading, Failure> {
        if self.waiting.is_empty() {
            if std::mem::replace(&mut self.read_before, true) {
                sleep(BETWEEN_ROUNDS).await;
            }
            self.waiting = take();
            self.waiting.reverse();
        }
        let none = || Failure::new("this machine has no readings to publish: /proc cannot be read");
        self.waiting.pop().ok_or_else(none)
    }
}

/// Reads every sensor once.
fn take() -> Vec<Reading> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let values = [
        ("load", load(&read("/proc/loadavg"))),
        ("memory", memory(&read("/proc/meminfo"))),
        ("temperature", temperatures(Path::new("/sys/class"))),
        ("network", network(&read("/proc/net/dev"))),
    ];
    values.into_iter().filter_map(|(name, values)| reading(name, values?)).collect()
}

fn reading(name: &'static str, mut values: Map<String, Value>) -> Option<Reading> {
    values.insert("unix_ms".to_owned(), json!(unix_ms()));
    let text = serde_json::to_string(&values).ok()?;
    Some(Reading { name, text })
}

fn load(text: &str) -> Option<Map<String, Value>> {
    let mut averages = text.split_whitespace().map(str::parse::<f64>);
    let mut values = Map::new();
    for name in ["load_1min", "load_5min", "load_15min"] {
        values.insert(name.to_owned(), json!(averages.next()?.ok()?));
    }
    Some(values)
}

fn memory(text: &str) -> Option<Map<String, Value>> {
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let mut values = Map::new();
    values.insert("total_kib".to_owned(), json!(field("MemTotal")?));
    values.insert("available_kib".to_owned(), json!(field("MemAvailable")?));
    Some(values)
}

/// Received and sent bytes of each interface; the loopback only if there is nothing else.
fn network(text: &str) -> Option<Map<String, Value>> {
    let mut interfaces: Vec<(&str, Value)> = text.lines().skip(2).filter_map(interface).collect();
    if interfaces.iter().any(|(name, _)| *name != "lo") {
        interfaces.retain(|(name, _)| *name != "lo");
    }
    let values: Map<String, Value> =
        interfaces.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    (!values.is_empty()).then_some(values)
}

fn interface(line: &str) -> Option<(&str, Value)> {
    let (name, counters) = line.split_once(':')?;
    let counters: Vec<u64> = counters.split_whitespace().map_while(|counter| counter.parse().ok()).collect();
    let (received, sent) = (counters.first()?, counters.get(8)?);
    Some((name.trim(), json!({ "received_bytes": received, "sent_bytes": sent })))
}

/// Thermal zones, then hardware monitors, in degrees Celsius.
fn temperatures(class: &Path) -> Option<Map<String, Value>> {
    let zones = entries(&class.join("thermal"), "thermal_zone").into_iter().filter_map(|zone| {
        let name = text(&zone.join("type")).unwrap_or_else(|| file_name(&zone));
        Some((name, degrees(&zone.join("temp"))?))
    });
    let monitors = entries(&class.join("hwmon"), "hwmon").into_iter().flat_map(|monitor| {
        let chip = text(&monitor.join("name")).unwrap_or_else(|| file_name(&monitor));
        let inputs = entries(&monitor, "temp").into_iter();
        inputs.filter_map(move |input| {
            let stem = file_name(&input).strip_suffix("_input")?.to_owned();
            let label = text(&input.with_file_name(format!("{stem}_label"))).unwrap_or(stem);
            Some((format!("{chip} {label}"), degrees(&input)?))
        })
    });
    let values: Map<String, Value> =
        zones.chain(monitors).map(|(name, value)| (name, json!(value))).collect();
    (!values.is_empty()).then_some(values)
}

fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| file_name(path).starts_with(prefix)).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The kernel counts in thousandths of a degree.
fn degrees(path: &Path) -> Option<f64> {
    Some(f64::from(text(path)?.parse::<i32>().ok()?) / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn the_files_of_the_kernel_are_read_as_they_are_written() {
        let net = "Inter-| Receive | Transmit\n face |bytes |bytes\n    lo: 5 1 0 0 0 0 0 0 5 1\n  eth0: 1234 7 0 0 0 0 0 0 99 3\n";

        assert_eq!(
            load("0.52 0.41 0.33 1/234 5678\n"),
            Some(object(&json!({ "load_1min": 0.52, "load_5min": 0.41, "load_15min": 0.33 })))
        );
        assert_eq!(
            memory("MemTotal:       8041720 kB\nMemFree: 1 kB\nMemAvailable:    512 kB\n"),
            Some(object(&json!({ "total_kib": 8_041_720, "available_kib": 512 })))
        );
        assert_eq!(
            network(net),
            Some(object(&json!({ "eth0": { "received_bytes": 1234, "sent_bytes": 99 } })))
        );
    }

    #[test]
    fn what_a_machine_does_not_have_is_left_out() {
        let empty = tempfile::tempdir().unwrap();

        assert_eq!(load(""), None);
        assert_eq!(memory("MemTotal: 1 kB\n"), None);
        assert_eq!(network("a\nb\n"), None);
        assert_eq!(temperatures(empty.path()), None);
    }

    #[test]
    fn temperatures_come_from_zones_and_monitors_in_degrees() {
        let class = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = class.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("thermal/thermal_zone0/type", "x86_pkg_temp\n");
        put("thermal/thermal_zone0/temp", "41500\n");
        put("hwmon/hwmon1/name", "nvme\n");
        put("hwmon/hwmon1/temp1_input", "-2000\n");
        put("hwmon/hwmon1/temp1_label", "Composite\n");

        assert_eq!(
            temperatures(class.path()),
            Some(object(&json!({ "x86_pkg_temp": 41.5, "nvme Composite": -2.0 })))
        );
    }
}
