//! How short memory is, as whoever watches the process tells every shard.
//!
//! The core never looks at memory. While it is critical it refuses what would have to be kept, as it does with a full disk, and lets
//! through what frees or settles something.

use std::sync::atomic::{AtomicU8, Ordering};

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryPressure {
    /// There is enough.
    #[default]
    None,
    /// Nobody else should connect.
    High,
    /// Nothing more should be kept for anybody.
    Critical,
}

/// The pressure, read by all shards and written by one thread.
#[derive(Debug, Default)]
pub(crate) struct PressureSign(AtomicU8);

impl PressureSign {
    pub(crate) fn show(&self, pressure: MemoryPressure) {
        self.0.store(pressure as u8, Ordering::Relaxed);
    }

    pub(crate) fn pressure(&self) -> MemoryPressure {
        match self.0.load(Ordering::Relaxed) {
            1 => MemoryPressure::High,
            2 => MemoryPressure::Critical,
            _ => MemoryPressure::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pressure_that_is_shown_is_the_pressure_that_is_read() {
        let sign = PressureSign::default();
        for pressure in [MemoryPressure::Critical, MemoryPressure::High, MemoryPressure::None] {
            sign.show(pressure);

            assert_eq!(sign.pressure(), pressure);
        }
    }
}
