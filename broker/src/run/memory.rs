//! How short memory is: the resident memory of the process against `limits.memory_bytes`.
//!
//! Each level is left five per cent below where it is entered, so that it does not come and go.

use std::time::Duration;

use tracing::{info, warn};
use veilmq_core::{MemoryPressure, Shared};

use crate::admin::{AdminState, process_memory};

const HIGH_PER_CENT: u64 = 85;
const CRITICAL_PER_CENT: u64 = 95;
const RELIEF_PER_CENT: u64 = 5;
/// A fast publisher fills some tens of megabytes meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How soon it is noticed that there is a limit now.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// Has the allocator give freed memory back by itself, also while the broker has nothing to do. Call it once the process forks no more.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub(super) fn give_freed_memory_back() {
    use tikv_jemalloc_ctl::{background_thread, max_background_threads};

    let started = max_background_threads::write(1).and_then(|()| background_thread::write(true));
    if let Err(error) = started {
        warn!(%error, "memory that is freed is given back late");
    }
}

/// Elsewhere the allocator is that of the system.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
pub(super) fn give_freed_memory_back() {}

/// Watches the memory of the process, if there is a limit.
pub(super) struct MemoryWatch {
    bytes_max: u64,
    pressure: MemoryPressure,
}

impl MemoryWatch {
    /// Watches for `bytes_max`; 0 watches nothing.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, pressure: MemoryPressure::None }
    }

    /// Watches for another number from now on.
    pub(super) fn bound(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
    }

    /// How long to wait before the next look.
    pub(super) fn interval(&self) -> Duration {
        if self.bytes_max == 0 { IDLE_INTERVAL } else { LOOK_INTERVAL }
    }

    /// Looks, and tells the shards, and who asks whether the broker is ready, what has changed.
    pub(super) fn look(&mut self, shared: &Shared, state: &AdminState) {
        if self.bytes_max == 0 && self.pressure == MemoryPressure::None {
            return;
        }
        let (resident_bytes, _) = process_memory();
        let pressure = self.judge(resident_bytes);
        if pressure == self.pressure {
            return;
        }
        self.pressure = pressure;
        shared.show_memory(pressure);
        state.update(|readiness| readiness.memory(refusal(pressure)));
        let limit_bytes = self.bytes_max;
        match pressure {
            MemoryPressure::None => info!(resident_bytes, limit_bytes, "memory is not short any more"),
            MemoryPressure::High | MemoryPressure::Critical => {
                warn!(resident_bytes, limit_bytes, "{}", refusal(pressure).unwrap_or_default());
            }
        }
    }

    fn judge(&self, resident_bytes: u64) -> MemoryPressure {
        if self.bytes_max == 0 {
            return MemoryPressure::None;
        }
        let is_above = |level, per_cent: u64| {
            let relief = if self.pressure >= level { RELIEF_PER_CENT } else { 0 };
            resident_bytes >= self.bytes_max / 100 * (per_cent - relief)
        };
        if is_above(MemoryPressure::Critical, CRITICAL_PER_CENT) {
            MemoryPressure::Critical
        } else if is_above(MemoryPressure::High, HIGH_PER_CENT) {
            MemoryPressure::High
        } else {
            MemoryPressure::None
        }
    }
}

/// Says what is refused.
fn refusal(pressure: MemoryPressure) -> Option<&'static str> {
    match pressure {
        MemoryPressure::None => None,
        MemoryPressure::High => Some("memory is short: nobody else may connect"),
        MemoryPressure::Critical => Some("memory is very short: nothing more is kept for anybody"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_left_below_where_it_was_entered() {
        // [D09]
        use MemoryPressure::{Critical, High, None};
        let mut watch = MemoryWatch::new(1_000);
        for (resident_bytes, pressure) in [
            (849, None),
            (850, High),
            (800, High),
            (799, None),
            (950, Critical),
            (900, Critical),
            (899, High),
            (949, High),
            (10_000, Critical),
            (0, None),
        ] {
            watch.pressure = watch.judge(resident_bytes);

            assert_eq!(watch.pressure, pressure, "{resident_bytes}");
        }

        watch.pressure = watch.judge(10_000);
        watch.bound(20_000);
        assert_eq!(watch.judge(10_000), None);
        watch.bound(0);
        assert_eq!(watch.judge(u64::MAX), None);
    }
}
