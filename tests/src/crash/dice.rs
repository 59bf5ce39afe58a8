//! Random choices that a seed repeats, and the variables of the environment that make a run long.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of random choices; the same seed gives the same choices (SplitMix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Begins the choices of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Chooses a number from 0 to `bound` - 1.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// Says yes in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Makes dice whose choices do not depend on how often these are rolled from now on.
    #[must_use]
    pub fn split(&mut self) -> Self {
        Self(self.roll())
    }
}

/// Reads a number from the environment; `default` if the variable is not set.
///
/// # Panics
/// If the variable is set to something else than a number.
#[must_use]
pub fn from_environment(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| {
        u64::from_str(&text).unwrap_or_else(|error| panic!("{variable}={text}: {error}"))
    })
}

/// The seed of this run: `VEILMQ_SEED`, or the clock. Prints it, so that the choices of a failed run can be made again.
#[must_use]
pub fn seed() -> u64 {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let seed = from_environment("VEILMQ_SEED", u64::from(clock));
    println!("VEILMQ_SEED={seed}");
    seed
}
