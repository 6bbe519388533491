//! Answers that are too long to be kept. Each request with such a token asks MAS, and nothing else would tell why.

use core::time::Duration;

use crate::{cache::entry::MAX_ANSWER_BYTES, clock::Instant};

/// How often the log says it, at the most.
const PERIOD: Duration = Duration::from_secs(60);

/// Says that there are such answers, in one worker.
#[derive(Debug, Default)]
pub struct LongAnswers {
    said_at: Option<Instant>,
}

impl LongAnswers {
    /// Notes an answer of so many bytes. Returns whether the log says so.
    pub fn note(&mut self, bytes: usize, now: Instant) -> bool {
        if self.said_at.is_some_and(|said_at| now < said_at + PERIOD) {
            return false;
        }
        self.said_at = Some(now);
        log::warn!(
            "an answer of MAS has {bytes} bytes, and none of more than {MAX_ANSWER_BYTES} is kept: each request with \
             that token asks MAS. Look for a very long scope"
        );
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_it_once_a_minute() {
        let start = Instant::from_millis(5_000);
        let mut answers = LongAnswers::default();
        for (seconds, is_said) in [(0, true), (0, false), (59, false), (60, true), (61, false)] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(answers.note(9_000, now), is_said, "{seconds}");
        }
    }
}
