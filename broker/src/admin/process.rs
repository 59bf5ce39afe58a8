//! The `process_*` metrics, read from `/proc`. What cannot be read is left out.
//!
//! Processor time has a fraction and only grows, which the recorder's whole-numbered counters cannot hold, so these lines are
//! written here.

use std::fmt::Write;
use std::fs;

/// The kernel reports processor time and start time in this unit on every architecture we run on (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends the metrics of this process in the text format of Prometheus.
pub(super) fn append(page: &mut String) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let open_fds = fs::read_dir("/proc/self/fd").map(|entries| entries.count() as f64).ok();
    for (name, kind, help, value) in [
        (
            "process_cpu_seconds_total",
            "counter",
            "Processor time spent, user and system, in seconds.",
            cpu_seconds(&stat),
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory, in bytes.",
            kibibytes(&status, "VmRSS:").map(|kibibytes| kibibytes * 1_024.0),
        ),
        ("process_open_fds", "gauge", "Open file descriptors.", open_fds),
        ("process_max_fds", "gauge", "The most file descriptors that may be open.", max_fds(&limits)),
        (
            "process_start_time_seconds",
            "gauge",
            "When the process started, in unix seconds.",
            start_seconds(&stat, &boot),
        ),
    ] {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }
}

/// Returns the memory that this process occupies, and the most it has occupied, in bytes; 0 where it cannot be read.
pub fn process_memory() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |key| kibibytes(&status, key).map_or(0, |kibibytes| kibibytes as u64 * 1_024);
    (bytes("VmRSS:"), bytes("VmHWM:"))
}

/// Returns a field of `/proc/self/stat` by its number in proc(5); the command may contain spaces and brackets.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn start_seconds(stat: &str, boot: &str) -> Option<f64> {
    let boot_seconds: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot_seconds + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

fn kibibytes(status: &str, key: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn max_fds(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a b) c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 12300 1000 200";

    #[test]
    fn fields_are_found_behind_a_command_with_spaces_and_brackets() {
        assert_eq!(cpu_seconds(STAT), Some(3.0));
        assert_eq!(start_seconds(STAT, "cpu 1 2\nbtime 1000\n"), Some(1_123.0));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(start_seconds(STAT, ""), None);
        assert_eq!(kibibytes("VmRSS: many\n", "VmRSS:"), None);
        assert_eq!(max_fds("Max open files unlimited unlimited files\n"), None);
    }

    #[test]
    fn this_process_occupies_memory_and_never_more_than_its_maximum() {
        let (now, most) = process_memory();

        assert!(now > 0 && now <= most, "{now} bytes, at most {most}");
    }

    #[test]
    fn this_process_has_all_of_them() {
        let mut page = String::new();

        append(&mut page);

        assert_eq!(page.matches("# TYPE").count(), 5, "{page}");
    }
}
