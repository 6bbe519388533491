//! Moments on the monotonic clock that all Envoy workers share.
//!
//! Every expiry is an [`Instant`] of this clock, so a step of the wall clock neither extends nor ends a
//! token. The clock has one base for the whole Envoy process, and shared data dies with the process, so
//! no stored moment outlives its clock. The core never reads a clock: the moment is an argument.

use alloc::{format, string::String};
use core::{ops::Add, time::Duration};

/// A moment, in milliseconds since the clock's arbitrary base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// The moment `millis` milliseconds after the clock's base.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the clock's base.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The same as the bytes that shared data holds.
    pub const fn to_le_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// The moment that [`Self::to_le_bytes`] gave these bytes for.
    pub const fn from_le_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }

    /// The moment `duration` before this one; the clock's base if that is too far back.
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// Time passed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates: a moment too far away to count is simply never reached.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }
}

/// Returns `duration` in whole milliseconds, with numbers of 64 bits throughout: WebAssembly has none of 128.
pub fn millis(duration: Duration) -> u64 {
    const PER_SECOND: u64 = 1_000;
    let seconds = duration.as_secs();
    if seconds >= u64::MAX / PER_SECOND {
        return u64::MAX;
    }
    seconds * PER_SECOND + u64::from(duration.subsec_millis())
}

/// Units of a duration in a configuration, with their milliseconds, the shortest first.
pub const UNITS: [(&str, u32); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Returns `duration` as a configuration has it: a whole number and a unit.
pub fn duration_text(duration: Duration) -> String {
    let millis = millis(duration);
    for (unit, size) in UNITS.into_iter().rev() {
        let size = u64::from(size);
        if millis.is_multiple_of(size) && (millis > 0 || unit == "s") {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}
