//! Time as an argument: the core never reads a clock.
//!
//! A [`Moment`] starts from the wall clock once, when the process starts, and is monotonic from then on. So a clock that is
//! set while the broker runs moves no deadline, and a moment in a record still means something after a restart.

use core::ops::Add;

/// A point in time: unix milliseconds as of the start of the process, advanced monotonically.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// Makes the moment from milliseconds since the Unix epoch.
    pub const fn from_milliseconds(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// Returns the milliseconds since the Unix epoch.
    pub const fn milliseconds(self) -> u64 {
        self.0
    }

    /// Returns this moment moved `seconds` into the future, saturating.
    pub const fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000)))
    }

    /// Returns this moment if it is a full second, or the next one that is.
    pub(crate) const fn to_second(self) -> Self {
        Self(self.0.div_ceil(1_000).saturating_mul(1_000))
    }

    /// Returns the milliseconds from `earlier` to this moment, zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Moment {
    type Output = Self;

    /// Adds milliseconds, saturating.
    fn add(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }
}

/// What a turn may know of the world: the time, on both clocks, and a source of randomness.
pub struct Environment<'a> {
    /// The monotonic clock; all deadlines refer to it.
    pub now: Moment,
    /// The wall clock, unix milliseconds, for certificates and handshakes only.
    pub unix_ms: u64,
    /// Fills a buffer with cryptographically secure random bytes.
    pub entropy: &'a mut dyn FnMut(&mut [u8]),
}
