//! What becomes of an answer in the shared cache: whether it is stored, and whether what happened meanwhile voids it.

use std::{rc::Rc, time::Duration};

use crate::{
    cache::{
        Cached, Introspected, SharedCache, StoreOutcome,
        ended::Event,
        epoch::Subject,
        question::QuestionKey,
        table::{Fate, Removed},
    },
    host::{Backend, Callback},
    mas::introspection::Answer,
    metrics::{self, Evicted, InvalidationReason, Metric},
    resolver::{
        flight::State,
        state::{Pending, Resolver},
        upstream::Upstream,
        workers::{Acquisition, lease::Leased},
    },
    token::TokenDigest,
};

/// A call that took less than this is brief: news that comes during it is still fresh when its answer serves, so it need not be
/// looked up first.
const BRIEF_CALL: Duration = Duration::from_millis(250);

/// How long after MAS has told of a user an answer from before may still serve.
pub(super) const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// What has become of an answer.
pub(super) struct Kept {
    /// Whom it serves.
    pub standing: Standing,
    /// Where it is kept.
    pub place: Place,
}

/// Where an answer is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere.
    Nowhere,
    /// In the shared cache.
    Shared,
    /// In the shared cache, and a role may keep what it makes of it.
    SharedAndLocal,
}

/// Whom an answer serves, after what has happened since its question.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Every request.
    Holds,
    /// What MAS has told of a user voids it.
    Revoked,
    /// No request: the token has ended, or the shared cache has the answer to a later question about it.
    Superseded,
}

impl Kept {
    /// An answer that is not kept at all.
    fn nowhere(standing: Standing) -> Self {
        Self {
            standing,
            place: Place::Nowhere,
        }
    }

    /// Whether the shared cache has it.
    pub fn is_stored(&self) -> bool {
        self.place != Place::Nowhere
    }

    /// Whether a role may keep what it makes of it.
    pub fn may_be_kept(&self) -> bool {
        self.place == Place::SharedAndLocal
    }
}

impl<W> Resolver<W> {
    /// Writes an answer to the shared cache, unless it is void.
    pub(super) fn keep<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
        flight: &mut Pending<W>,
        introspected: &Introspected,
    ) -> Kept {
        let upstream = Rc::clone(&flight.call.upstream);
        let is_revoked = self.is_revoked(cb, &upstream, introspected, flight);
        // Between the writing and the second look another worker may read the answer. Where the call took its time, an end of
        // long ago must not be found only then.
        let took_its_time = !is_brief(introspected);
        if took_its_time && self.outdated_by(cb, key, flight, introspected) == Some(Event::End) {
            return Kept::nowhere(Standing::Superseded);
        }
        let mut kept = Kept::nowhere(if is_revoked {
            Standing::Revoked
        } else {
            Standing::Holds
        });
        if !is_revoked || flight.call.is_repeated && !is_late(introspected) {
            let outcome = self.store(cb, &upstream, introspected);
            kept.place = match outcome.fate {
                // To tell of what it pushed out, this worker has just read the epochs anew. It would miss that another worker
                // has pushed out this answer meanwhile, so it keeps none of it for itself.
                Fate::Stored if is_revoked || !outcome.evicted.is_empty() => Place::Shared,
                Fate::Stored => Place::SharedAndLocal,
                Fate::Superseded | Fate::TooLong | Fate::NotWritten => Place::Nowhere,
            };
            if outcome.fate == Fate::Superseded {
                kept.standing = Standing::Superseded;
            }
        }
        if kept.is_stored() && !introspected.is_active() && !introspected.is_only_answer {
            self.make_sure(cb, key, flight, introspected, &mut kept);
        }
        match self.outdated_by(cb, key, flight, introspected) {
            None => kept,
            Some(event) => {
                if kept.is_stored() {
                    // The event is not noted again: it is none to another question about the token.
                    let reason = InvalidationReason::Introspection;
                    self.void(cb, &upstream.cache, &key.digest, event, reason);
                }
                Kept::nowhere(Standing::Superseded)
            }
        }
    }

    /// Takes an "inactive" out of the shared cache again where another worker has asked later, since that one may not look
    /// for it when it stores its own answer.
    fn make_sure<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
        flight: &mut Pending<W>,
        introspected: &Introspected,
        kept: &mut Kept,
    ) {
        let upstream = Rc::clone(&flight.call.upstream);
        match self.workers.acquire(cb, &upstream, key) {
            // It is released with the call, so that nobody waits for it.
            Acquisition::Mine { leased } if leased != Leased::No => flight.hold_tightly(),
            // Nobody else asks.
            Acquisition::Mine { .. }
            | Acquisition::Hit(Cached::Inactive(_))
            | Acquisition::Failed(_) => {}
            Acquisition::Hit(_) | Acquisition::Peer { .. } => {
                let cache = &upstream.cache;
                cache.withdraw(cb.host, introspected);
                let look = cache.lookup(cb.host, &key.digest, cb.now());
                let standing = look.map_or(kept.standing, |_| Standing::Superseded);
                *kept = Kept::nowhere(standing);
            }
        }
    }

    /// Writes an answer to the shared cache.
    fn store<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        introspected: &Introspected,
    ) -> StoreOutcome {
        let outcome = upstream.cache.store(cb.host, introspected);
        let table = match introspected.answer {
            Answer::Active(_) => metrics::Table::Active,
            Answer::Inactive(_) => metrics::Table::Negative,
        };
        for (evicted, _) in &outcome.evicted {
            cb.host.count(Metric::Evicted(table, *evicted));
        }
        if outcome.fate == Fate::TooLong {
            cb.host.count(Metric::TooLong(table));
            self.long_answers
                .note(introspected.answer.body().len(), cb.now());
        }
        if outcome.invalidated {
            self.workers.announce(
                cb,
                Subject::Token(&introspected.digest),
                InvalidationReason::Introspection,
            );
        }
        // An invalidation finds only what the shared cache holds: workers that hold an answer which was
        // evicted from it must look there again.
        for (evicted, digest) in &outcome.evicted {
            if let (metrics::Table::Active, Evicted::Live) = (table, evicted) {
                self.workers.void_evicted(cb, digest);
            }
        }
        outcome
    }

    /// Returns whether what MAS has told of users since the question was sent voids its answer, as far as that must be known
    /// before it serves.
    ///
    /// For a reader that keeps answers, everything counts. For another, what MAS has told in the last second need not count yet:
    /// - An "active" is compared with the epochs, as a hit is.
    /// - An "inactive" from a brief call is compared with nothing if only the request that caused the call waits, since that
    ///   request came before.
    ///
    /// What MAS has told voids the answer for every later request.
    fn is_revoked<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        introspected: &Introspected,
        flight: &Pending<W>,
    ) -> bool {
        let is_kept_by_reader = is_kept_by_reader(flight);
        let must_be_known = is_kept_by_reader || flight.is_joined;
        if !must_be_known && !introspected.is_active() && is_brief(introspected) {
            return false;
        }
        self.workers.refresh_epochs(cb, introspected.answered_at);
        let epochs = (!is_kept_by_reader).then(|| self.workers.epochs());
        upstream.cache.is_revoked(cb.host, introspected, epochs)
    }

    /// Returns what has happened to the token, which MAS called active, since MAS was asked.
    fn outdated_by<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
        flight: &Pending<W>,
        introspected: &Introspected,
    ) -> Option<Event> {
        let State::Calling { point, .. } = flight.state else {
            return None;
        };
        if !introspected.is_active() {
            return None;
        }
        self.workers.event_since(cb, &key.digest, point)
    }

    /// Takes the answers about a token that has ended out of the shared cache, or doubts those about one that was refused. The
    /// event must have been noted.
    pub(in crate::resolver) fn void<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        cache: &SharedCache,
        token: &TokenDigest,
        event: Event,
        reason: InvalidationReason,
    ) -> Option<Removed> {
        let (removed, is_void) = match event {
            Event::End => {
                let removed = cache.remove_active(cb.host, token);
                let is_void = removed.is_some();
                (removed, is_void)
            }
            Event::Refusal => (None, cache.doubt(cb.host, token)),
        };
        if is_void {
            self.workers.announce(cb, Subject::Token(token), reason);
        }
        removed
    }
}

/// Returns whether an answer came so soon that what was told meanwhile was told a moment ago.
pub(in crate::resolver) fn is_brief(introspected: &Introspected) -> bool {
    introspected.answered_at < introspected.asked_at + BRIEF_CALL
}

/// Returns whether an answer took so long that what was told meanwhile must be known before it serves.
pub(super) fn is_late(introspected: &Introspected) -> bool {
    introspected.answered_at >= introspected.asked_at + HEARD_WITHIN
}

/// Returns whether one of those who wait keeps what it is given.
fn is_kept_by_reader<W>(flight: &Pending<W>) -> bool {
    let mut waiting = flight.waiters.values();
    waiting.any(|waiting| waiting.upstream.is_kept_by_reader)
}
