//! When a worker last looked at something in shared data that it need not look at each time.

use std::{cell::Cell, time::Duration};

use crate::clock::Instant;

/// How long a look serves: a tick of a worker.
pub const LASTS: Duration = Duration::from_millis(250);

/// The last look, if there was one.
#[derive(Debug, Default)]
pub struct Look(Cell<Option<Instant>>);

impl Look {
    /// Returns whether there was a look in the last quarter of a second. One that is later than `now` is none: the clock has
    /// been set back.
    pub fn is_recent(&self, now: Instant) -> bool {
        let is_recent = |at: Instant| at <= now && now < at + LASTS;
        self.0.get().is_some_and(is_recent)
    }

    /// Notes a look.
    pub fn note(&self, now: Instant) {
        self.0.set(Some(now));
    }

    /// Lets the next look be made whatever the time is.
    pub fn forget(&self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_serves_for_a_quarter_of_a_second_from_its_moment_on() {
        let look = Look::default();
        let at = |millis: u64| Instant::from_millis(millis);
        assert!(!look.is_recent(at(1_000)));
        look.note(at(1_000));
        let recent = [999, 1_000, 1_249, 1_250].map(|millis| look.is_recent(at(millis)));
        assert_eq!(recent, [false, true, true, false]);
        look.forget();
        assert!(!look.is_recent(at(1_000)));
    }
}
