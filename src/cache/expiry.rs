//! When a token ends, as moments: what an answer tells of its life, counted from its call.
//!
//! The answer was true at some moment between question and answer. So the earliest end counts from the question,
//! and the latest from the answer. Before the earliest the token is active, from the latest on it is inactive, and
//! in between MAS is asked.

use core::time::Duration;

use crate::{clock::Instant, mas::introspection::Lifetime};

/// The clock counts whole milliseconds, so a moment may lie this much later than it says.
const CLOCK_ROUNDING: Duration = Duration::from_millis(1);

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// The token does not end before this moment, save for the half second by which MAS rounds up.
    pub earliest: Instant,
    /// It has certainly ended from this moment on.
    pub latest: Instant,
}

impl Expiry {
    /// The end of a token of which an answer tells this, whose question was sent at `asked_at`.
    pub fn new(told: Lifetime, asked_at: Instant, answered_at: Instant) -> Self {
        Self {
            earliest: asked_at + told.at_least,
            latest: answered_at + told.at_most,
        }
    }

    /// Returns whether the token has certainly ended.
    pub fn has_passed(&self, now: Instant) -> bool {
        now >= self.latest
    }

    /// Returns what is left of the token's life at `now`, for a reader whose clock counts from elsewhere.
    pub fn remaining(&self, now: Instant) -> Lifetime {
        Lifetime {
            at_least: self.earliest.since(now).saturating_sub(CLOCK_ROUNDING),
            at_most: self.latest.since(now) + CLOCK_ROUNDING,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn an_end_is_earliest_from_the_question_and_certain_from_the_answer() {
        let expiry = Expiry::new(Lifetime::told(2, None), at(100), at(400));
        assert_eq!((expiry.earliest, expiry.latest), (at(2_100), at(3_400)));
        assert!(!expiry.has_passed(at(3_399)) && expiry.has_passed(at(3_400)));
    }

    #[test]
    fn what_remains_allows_for_the_rounding_of_two_clocks() {
        let expiry = Expiry::new(Lifetime::told(2, None), at(100), at(400));
        let left = |now| expiry.remaining(at(now)).to_string();
        assert_eq!(left(400), "1699-3001");
        assert_eq!(left(2_099), "0-1302");
        assert_eq!(left(2_500), "0-901");
        assert_eq!(left(9_000), "0-1");
    }
}
