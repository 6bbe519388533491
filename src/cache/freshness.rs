//! Until when an answer holds: by the keys `ttl`, `negative_ttl`, `stale_if_error` and `refresh_ahead`.
//!
//! The non-obvious rule: each reader goes by its own keys, also if another configuration has written the answer. Time counts from
//! before the question.

use core::time::Duration;

use super::entry::Entry;
use crate::{clock::Instant, config, mas::introspection::Answer, shared_data::last_read};

/// A fresh answer is renewed this long before it ends, or a tenth of its life if that is less: long enough
/// for a slow MAS, short enough to ask once per TTL.
const REFRESH_AHEAD: Duration = Duration::from_secs(6);

/// How long an answer serves after it has come, at the least. An inactive one serves only those who waited for it. It is two
/// ticks: a hint comes at once, and a worker that may have missed one looks at its next tick, unless hundreds of questions wait there.
pub(super) const HANDED_OVER_WITHIN: Duration = last_read::MAX_AGE.saturating_mul(2);

/// The keys of one configuration.
#[derive(Debug)]
pub(super) struct Freshness {
    ttl: Duration,
    negative_ttl: Duration,
    stale_if_error: Duration,
    refresh_ahead: bool,
}

impl Freshness {
    /// Those of these settings.
    pub(super) fn new(settings: &config::Cache) -> Self {
        Self {
            ttl: settings.ttl,
            negative_ttl: settings.negative_ttl,
            stale_if_error: settings.stale_if_error,
            refresh_ahead: settings.refresh_ahead,
        }
    }

    /// Returns the end of an answer for a reader with these settings, also if another configuration wrote it.
    pub(super) fn fresh_until(&self, entry: &Entry) -> Instant {
        let own_end = self.end_by_ttl(&entry.answer, entry.asked_at, entry.answered_at);
        let end = entry
            .expiry
            .map_or(own_end, |expiry| expiry.earliest.min(own_end));
        end.min(entry.useful_until)
    }

    /// Returns the end of an answer by this TTL, which counts from the question. A request that waited in another worker reads an
    /// active answer a moment after it has come. So that one holds until then, however long MAS took.
    pub(super) fn end_by_ttl(
        &self,
        answer: &Answer,
        asked_at: Instant,
        answered_at: Instant,
    ) -> Instant {
        match answer {
            Answer::Active(_) => (asked_at + self.ttl).max(answered_at + HANDED_OVER_WITHIN),
            Answer::Inactive(_) => asked_at + self.negative_ttl,
        }
    }

    /// Returns from when on an answer is renewed in the background, if it is.
    pub(super) fn refresh_at(&self, entry: &Entry) -> Option<Instant> {
        let fresh_until = self.fresh_until(entry);
        let outlives = entry
            .expiry
            .is_none_or(|expiry| expiry.earliest > fresh_until);
        // Another configuration may have given it a shorter life.
        let life = fresh_until.since(entry.asked_at).min(self.ttl);
        (self.refresh_ahead && outlives).then(|| fresh_until.minus(REFRESH_AHEAD.min(life / 10)))
    }

    /// Returns until when an answer serves while MAS cannot be asked, as far as the keys go.
    pub(super) fn stale_until(&self, entry: &Entry) -> Instant {
        let fresh_until = self.fresh_until(entry);
        // A reader may be handed an answer past its time. That does not lengthen `stale_if_error`.
        let end = fresh_until.min(entry.asked_at + self.ttl) + self.stale_if_error;
        end.max(fresh_until)
    }
}
