//! When a worker last read something in shared data that it need not read each time.

use core::{cell::Cell, time::Duration};

use crate::clock::Instant;

/// How long a reading serves: a tick of a worker.
pub const MAX_AGE: Duration = Duration::from_millis(250);

/// When the last reading was, if there was one.
#[derive(Debug, Default)]
pub struct LastRead(Cell<Option<Instant>>);

impl LastRead {
    /// Returns whether there was a reading in the last quarter of a second. One that is later than `now` is none, though the clock
    /// never goes back.
    pub fn is_recent(&self, now: Instant) -> bool {
        let is_recent = |at: Instant| at <= now && now < at + MAX_AGE;
        self.0.get().is_some_and(is_recent)
    }

    /// Notes a reading.
    pub fn note(&self, now: Instant) {
        self.0.set(Some(now));
    }

    /// Lets the next reading be made whatever the time is.
    pub fn forget(&self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_serves_for_a_quarter_of_a_second_from_its_moment_on() {
        let last_read = LastRead::default();
        let at = |millis: u64| Instant::from_millis(millis);
        assert!(!last_read.is_recent(at(1_000)));
        last_read.note(at(1_000));
        let recent = [999, 1_000, 1_249, 1_250].map(|millis| last_read.is_recent(at(millis)));
        assert_eq!(recent, [false, true, true, false]);
        last_read.forget();
        assert!(!last_read.is_recent(at(1_000)));
    }
}
