//! What the kernel says about a process: CPU time and memory, from `/proc`.
//!
//! CPU time is that of the whole process, its threads and the threads that have ended. Its sum comes from the process's own
//! clock, in nanoseconds; how it divides into user and system time the kernel tells in clock ticks only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::{Pid, SysconfVar, sysconf};
use serde::Serialize;
use thiserror::Error;

/// Why a figure of a process could not be read.
#[derive(Debug, Error)]
pub(crate) enum ProcError {
    /// The file is missing (no such process) or not readable (another user's process).
    #[error("cannot read {path}: {source}")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file lacks a field or holds something else than a number there.
    #[error("{path} has no valid {field}")]
    Malformed { path: PathBuf, field: &'static str },
    /// The system does not tell how long a clock tick is.
    #[error("the clock of the process cannot be read: {0}")]
    Clock(#[source] nix::Error),
    #[error("the system does not tell its clock ticks per second")]
    NoClockTick,
}

/// CPU time that a process has used since it started, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct CpuTime {
    pub(crate) user_seconds: f64,
    pub(crate) system_seconds: f64,
    /// Of both, exact.
    pub(crate) total_seconds: f64,
}

impl CpuTime {
    /// Reads the CPU time of process `pid` from its clock and from `/proc/PID/stat`.
    ///
    /// # Errors
    /// The process is gone or the file is not as proc(5) says.
    pub(crate) fn of(pid: u32) -> Result<Self, ProcError> {
        let path = PathBuf::from(format!("/proc/{pid}/stat"));
        let ticks_per_second = sysconf(SysconfVar::CLK_TCK)
            .ok()
            .flatten()
            .filter(|ticks| *ticks > 0)
            .ok_or(ProcError::NoClockTick)?;
        let (user, system) =
            parse_stat(&read(&path)?).map_err(|field| ProcError::Malformed { path, field })?;
        let seconds = |ticks: u64| ticks as f64 / ticks_per_second as f64;
        let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX)));
        let total = clock.and_then(ClockId::now).map_err(ProcError::Clock)?;
        Ok(Self {
            user_seconds: seconds(user),
            system_seconds: seconds(system),
            total_seconds: Duration::from(total).as_secs_f64(),
        })
    }

    /// What was used since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            user_seconds: self.user_seconds - earlier.user_seconds,
            system_seconds: self.system_seconds - earlier.system_seconds,
            total_seconds: self.total_seconds - earlier.total_seconds,
        }
    }
}

/// Memory of a process in bytes: user space only, buffers of the kernel's sockets are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Proportional set size: a page shared by n processes counts 1/n.
    pub(crate) pss_bytes: u64,
    /// Resident set size.
    pub(crate) rss_bytes: u64,
}

impl Memory {
    /// Reads the memory of process `pid` from `/proc/PID/smaps_rollup`.
    ///
    /// # Errors
    /// The process is gone, belongs to another user, or the file is not as proc(5) says.
    pub(crate) fn of(pid: u32) -> Result<Self, ProcError> {
        let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
        parse_smaps_rollup(&read(&path)?).map_err(|field| ProcError::Malformed { path, field })
    }
}

/// Returns the bytes that process `pid` has caused to be written to storage, from `/proc/PID/io`.
///
/// # Errors
/// The process is gone, belongs to another user, or the file is not as proc(5) says.
pub(crate) fn written_bytes(pid: u32) -> Result<u64, ProcError> {
    let path = PathBuf::from(format!("/proc/{pid}/io"));
    parse_io(&read(&path)?).map_err(|field| ProcError::Malformed { path, field })
}

fn read(path: &Path) -> Result<String, ProcError> {
    std::fs::read_to_string(path).map_err(|source| ProcError::Unreadable { path: path.to_owned(), source })
}

/// utime and stime, fields 14 and 15 of proc(5) stat.
fn parse_stat(stat: &str) -> Result<(u64, u64), &'static str> {
    // The second field is the name of the program in parentheses; it may itself hold spaces and parentheses.
    let (_, after_name) = stat.rsplit_once(')').ok_or("name")?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut ticks = |field| fields.next().and_then(|text| text.parse().ok()).ok_or(field);
    Ok((ticks("utime")?, ticks("stime")?))
}

fn parse_smaps_rollup(rollup: &str) -> Result<Memory, &'static str> {
    let bytes = |name: &'static str| {
        let value = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kibibytes = value.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kibibytes.and_then(|kibibytes| kibibytes.checked_mul(1024)).ok_or(name)
    };
    Ok(Memory { pss_bytes: bytes("Pss")?, rss_bytes: bytes("Rss")? })
}

fn parse_io(io: &str) -> Result<u64, &'static str> {
    let value = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    value.and_then(|value| value.parse().ok()).ok_or("write_bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "4711 (a ) b (c) S 1 4711 4711 0 -1 4194560 1520 0 3 0 1234 567 8 9 20 0 3 0 100 1 2\n";

    #[test]
    fn cpu_ticks_are_found_behind_a_name_with_spaces_and_parentheses() {
        assert_eq!(parse_stat(STAT), Ok((1234, 567)));
    }

    #[test]
    fn a_stat_without_its_fields_is_refused_by_name() {
        let rows = [
            ("", "name"),
            ("4711 (x", "name"),
            ("4711 (x) S 1 2 3", "utime"),
            ("4711 (x) S 1 2 3 4 5 6 7 8 9 10 abc 567", "utime"),
            ("4711 (x) S 1 2 3 4 5 6 7 8 9 10 1234", "stime"),
            ("4711 (x) S 1 2 3 4 5 6 7 8 9 10 1234 -1", "stime"),
        ];

        for (stat, field) in rows {
            assert_eq!(parse_stat(stat), Err(field), "{stat:?}");
        }
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let rollup = "55-7f ---p 0 00:00 0  [rollup]\nRss:   1692 kB\nPss:    364 kB\nPss_Dirty:  116 kB\n";

        assert_eq!(parse_smaps_rollup(rollup), Ok(Memory { pss_bytes: 364 * 1024, rss_bytes: 1692 * 1024 }));
    }

    #[test]
    fn bytes_written_are_those_that_reach_storage() {
        assert_eq!(
            parse_io("wchar: 7\nread_bytes: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 2\n"),
            Ok(4096)
        );
        for io in ["", "write_bytes: many\n", "cancelled_write_bytes: 2\n"] {
            assert_eq!(parse_io(io), Err("write_bytes"), "{io:?}");
        }
    }

    #[test]
    fn a_rollup_without_its_fields_is_refused_by_name() {
        let rows = [
            ("", "Pss"),
            ("Pss_Dirty: 4 kB\nRss: 4 kB\n", "Pss"),
            ("Pss: 4\nRss: 4 kB\n", "Pss"),
            ("Pss: 4 kB\nRss: many kB\n", "Rss"),
            ("Pss: 4 kB\nRss: 18446744073709551615 kB\n", "Rss"),
        ];

        for (rollup, field) in rows {
            assert_eq!(parse_smaps_rollup(rollup), Err(field), "{rollup:?}");
        }
    }

    #[test]
    fn cpu_time_of_this_process_grows_while_it_works() {
        let pid = std::process::id();
        let before = CpuTime::of(pid).unwrap();

        let mut work = 0_u64;
        while CpuTime::of(pid).unwrap().since(before).total_seconds < 0.02 {
            work = std::hint::black_box(work + 1);
        }

        assert!(work > 0);
        assert!(Memory::of(pid).unwrap().rss_bytes > 0);
    }

    #[test]
    fn a_process_that_does_not_exist_is_named() {
        let error = CpuTime::of(u32::MAX).unwrap_err();

        assert!(error.to_string().contains("/proc/4294967295/stat"), "{error}");
    }
}
