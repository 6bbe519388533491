//! Questions to which MAS lately gave no answer, so that in an outage no request
//! waits for a call that fails.
//!
//! A stale answer serves while MAS fails (RFC 5861 `stale-if-error`). The first request after its end waits
//! for the call that fails; the ones after it are served at once, and a retry runs behind them at the most
//! once a second.
//!
//! Questions go by the name that one has as a listener puts it (`Upstream::own_question`), since MAS may refuse the secret of one
//! listener and not that of another.
//!
//! The non-obvious rule: a token may not come again for a while, and MAS may be well by then. So once MAS has answered any
//! question of this worker, an earlier failure says nothing any more, and the token's next request waits for its verdict.

use core::time::Duration;

use crate::{cache::question::QuestionKey, clock::Instant, maps::sorted::SortedMap};

/// How long MAS is left alone about a token after a call has failed or a renewal was started.
pub const BACKOFF: Duration = Duration::from_secs(1);

/// How long a failure lets a stale answer serve at once, if MAS answers nothing. Longer than any call may take, so that a retry
/// that hangs makes no request wait.
const FAILURE_TTL: Duration = Duration::from_secs(120);

/// Questions that are remembered, as many as the shared cache has slots by default. One takes some 80 bytes. Only a token with an
/// answer that serves has one, so a client cannot fill the log with invented tokens.
const MAX_FAILURES: usize = 65_536;

/// What is remembered of the questions of one worker.
#[derive(Debug, Default)]
pub struct FailureLog {
    entries: SortedMap<QuestionKey, Failure>,
    /// When each MAS last answered, by its fingerprint, if it was while some question had failed.
    answers: SortedMap<u64, Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    /// Until then no call is made in the background.
    backoff_until: Instant,
    /// When MAS last gave no answer; `None` if only a renewal was started.
    failed_at: Option<Instant>,
}

impl FailureLog {
    /// Notes that MAS gave no answer.
    pub fn note_failure(&mut self, key: QuestionKey, now: Instant) {
        self.insert(key, now, Some(now));
    }

    /// Notes that a call in the background was started.
    pub fn note_attempt(&mut self, key: QuestionKey, now: Instant) {
        let failed_at = self.failed_at(&key);
        self.insert(key, now, failed_at);
    }

    /// Returns when MAS last gave no answer to this question.
    pub fn failed_at(&self, key: &QuestionKey) -> Option<Instant> {
        self.entries.get(key)?.failed_at
    }

    /// Returns when MAS last gave no answer to this question, if that still lets a stale answer serve at once.
    pub fn failing_since(&self, key: &QuestionKey, now: Instant) -> Option<Instant> {
        let failed_at = self.failed_at(key)?;
        let answered_at = self.answers.get(&key.fingerprint).copied();
        let is_over = answered_at >= Some(failed_at) && !self.is_backing_off(key, now);
        (!is_over).then_some(failed_at)
    }

    /// Notes that MAS has answered a question, and forgets that one.
    pub fn note_answer(&mut self, key: &QuestionKey, now: Instant) {
        if !self.entries.is_empty() {
            self.entries.remove(key);
            self.answers.insert(key.fingerprint, now);
        }
    }

    /// Returns whether MAS is to be left alone about this question.
    pub fn is_backing_off(&self, key: &QuestionKey, now: Instant) -> bool {
        self.entries
            .get(key)
            .is_some_and(|failure| now < failure.backoff_until)
    }

    /// Forgets what is too old to matter.
    pub fn expire(&mut self, now: Instant) {
        self.entries.retain(|_, failure| {
            let is_failing = failure
                .failed_at
                .is_some_and(|failed_at| now < failed_at + FAILURE_TTL);
            is_failing || now < failure.backoff_until + BACKOFF
        });
        if self.entries.is_empty() {
            self.answers = SortedMap::new();
        }
    }

    fn insert(&mut self, key: QuestionKey, now: Instant, failed_at: Option<Instant>) {
        if self.entries.len() < MAX_FAILURES || self.entries.contains_key(&key) {
            let failure = Failure {
                backoff_until: now + BACKOFF,
                failed_at,
            };
            self.entries.insert(key, failure);
        }
    }
}

#[cfg(test)]
impl FailureLog {
    /// How many questions are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenDigest;

    const NOW: Instant = Instant::from_millis(1_000_000);

    fn key(number: usize) -> QuestionKey {
        QuestionKey {
            digest: TokenDigest::of(&number.to_le_bytes()),
            fingerprint: 1,
        }
    }

    #[test]
    fn an_attempt_holds_others_off_for_a_second_and_is_no_failure() {
        let mut log = FailureLog::default();
        log.note_attempt(key(1), NOW);
        assert!(log.is_backing_off(&key(1), NOW + BACKOFF.mul_f64(0.99)));
        assert!(!log.is_backing_off(&key(1), NOW + BACKOFF));
        assert!(!log.is_backing_off(&key(2), NOW));
        assert_eq!(log.failed_at(&key(1)), None);
    }

    #[test]
    fn a_failure_outlives_the_retries_after_it() {
        let mut log = FailureLog::default();
        log.note_failure(key(1), NOW);
        log.note_attempt(key(1), NOW + BACKOFF);
        log.expire(NOW + FAILURE_TTL / 2);
        assert_eq!(log.failed_at(&key(1)), Some(NOW));
        log.expire(NOW + FAILURE_TTL);
        assert_eq!(log.failed_at(&key(1)), None);
        assert!(log.entries.is_empty());
    }

    #[test]
    fn the_log_is_bounded_and_still_renews_what_it_holds() {
        let mut log = FailureLog::default();
        for number in 0..MAX_FAILURES + 10 {
            log.note_failure(key(number), NOW);
        }
        assert_eq!(log.entries.len(), MAX_FAILURES);
        log.note_failure(key(0), NOW + BACKOFF);
        assert_eq!(log.failed_at(&key(0)), Some(NOW + BACKOFF));
        log.note_answer(&key(0), NOW + BACKOFF);
        assert_eq!(log.failed_at(&key(0)), None);
    }

    #[test]
    fn an_answer_to_any_question_ends_the_failures_before_it() {
        let mut log = FailureLog::default();
        let elsewhere = QuestionKey {
            fingerprint: 2,
            ..key(3)
        };
        log.note_answer(&key(2), NOW);
        assert!(log.answers.is_empty(), "nothing had failed");
        log.note_failure(key(1), NOW);
        let second = NOW + BACKOFF;
        log.note_answer(&elsewhere, second);
        assert_eq!(log.failing_since(&key(1), second), Some(NOW), "another MAS");
        log.note_answer(&key(2), NOW);
        assert_eq!(
            log.failing_since(&key(1), NOW),
            Some(NOW),
            "it is left alone"
        );
        assert_eq!(log.failing_since(&key(1), second), None);
        log.note_failure(key(1), second);
        assert_eq!(log.failing_since(&key(1), second + BACKOFF), Some(second));
        log.expire(second + FAILURE_TTL);
        assert!(log.answers.is_empty());
    }
}
