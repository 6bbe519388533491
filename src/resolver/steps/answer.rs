//! What becomes of an answer in the shared cache: whether it is stored, and whether what happened meanwhile voids it.

use alloc::rc::Rc;
use core::time::Duration;

use crate::{
    cache::{
        Cached, Introspected, SharedCache, StoreOutcome,
        epoch::Subject,
        question::QuestionKey,
        table::{Fate, Removed},
        token_events::Event,
    },
    host::{Backend, Callback, Unreadable},
    mas::introspection::Answer,
    metrics::{self, Evicted, InvalidationReason, Metric},
    resolver::{
        flight::{Flight, State},
        state::Resolver,
        upstream::Upstream,
        workers::{Acquisition, lease::Leased},
    },
    token::TokenDigest,
};

/// A call that took less than this is brief: news that comes during it is still fresh when its answer serves, so it need not be
/// looked up first.
const BRIEF_CALL: Duration = Duration::from_millis(250);

/// How long an answer from before may still serve after MAS has told of its user.
pub(super) const VOIDING_GRACE: Duration = Duration::from_secs(1);

/// What has become of an answer.
pub(super) struct Disposition {
    /// Whom it serves.
    pub standing: Standing,
    /// Where it is kept.
    pub storage: Storage,
}

/// Where an answer is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    /// Nowhere.
    None,
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
    Voided,
    /// No request: the token has ended, or the shared cache has the answer to a later question about it.
    Superseded,
}

impl Disposition {
    /// That of an answer which is not kept at all.
    fn unstored(standing: Standing) -> Self {
        Self {
            standing,
            storage: Storage::None,
        }
    }

    /// Whether the shared cache has it.
    pub fn is_stored(&self) -> bool {
        self.storage != Storage::None
    }

    /// Whether a role may keep what it makes of it.
    pub fn may_be_kept(&self) -> bool {
        self.storage == Storage::SharedAndLocal
    }
}

impl<W> Resolver<W> {
    /// Writes an answer to the shared cache, unless it is void. The order matters:
    /// 1. What MAS has told of users since the question.
    /// 2. If the call was slow: whether the token has ended. So no worker reads an answer from before.
    /// 3. The answer is written.
    /// 4. An "inactive" that another worker may not know of is taken out again.
    /// 5. Whether the token has ended or was refused since the question. The other side notes the event first and looks for the
    ///    answer second, so one of the two sees the other.
    pub(super) fn store_unless_void<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
        flight: &mut Flight<W>,
        introspected: &Introspected,
    ) -> Disposition {
        let upstream = Rc::clone(&flight.call.upstream);
        let is_voided = self.is_voided(cb, &upstream, introspected, flight);
        let is_slow = !is_brief(introspected);
        if is_slow && self.event_since_call(cb, key, flight, introspected) == Ok(Some(Event::End)) {
            return Disposition::unstored(Standing::Superseded);
        }
        let mut disposition = Disposition::unstored(if is_voided {
            Standing::Voided
        } else {
            Standing::Holds
        });
        if !is_voided || flight.call.is_repeated && !outlasts_grace(introspected) {
            let outcome = self.store(cb, &upstream, introspected);
            disposition.storage = match outcome.fate {
                // To tell of what it pushed out, this worker has just read the epochs anew. It would miss that another worker
                // has pushed out this answer meanwhile, so it keeps none of it for itself.
                Fate::Stored if is_voided || !outcome.evicted.is_empty() => Storage::Shared,
                Fate::Stored => Storage::SharedAndLocal,
                Fate::Superseded | Fate::TooLong | Fate::NotWritten => Storage::None,
            };
            if outcome.fate == Fate::Superseded {
                disposition.standing = Standing::Superseded;
            }
        }
        if disposition.is_stored() && !introspected.is_active() && !introspected.is_exclusive {
            self.withdraw_if_contested(cb, key, flight, introspected, &mut disposition);
        }
        match self.event_since_call(cb, key, flight, introspected) {
            Ok(None) => disposition,
            // Whether one came cannot be read: the answer serves who waits, and nobody after them.
            Err(Unreadable) => {
                upstream.cache.withdraw(cb.host, introspected);
                Disposition::unstored(disposition.standing)
            }
            Ok(Some(event)) => {
                if disposition.is_stored() {
                    // The event is not noted again, or a second question about the token would take it for a new one.
                    let reason = InvalidationReason::Introspection;
                    self.void(cb, &upstream.cache, &key.digest, event, reason);
                }
                Disposition::unstored(Standing::Superseded)
            }
        }
    }

    /// Takes an "inactive" out of the shared cache again where another worker has asked later, since that one may not look
    /// for it when it stores its own answer.
    fn withdraw_if_contested<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
        flight: &mut Flight<W>,
        introspected: &Introspected,
        disposition: &mut Disposition,
    ) {
        let upstream = Rc::clone(&flight.call.upstream);
        // The requests have an answer, so nobody is to be told that one waits.
        let acquired = self
            .workers
            .acquire_without_waiting(cb, &upstream, key, &|_| true);
        match acquired {
            // The lease is released when the call ends, so no worker waits for it.
            Acquisition::Mine { leased } if leased != Leased::No => flight.keep_until_released(),
            // Nobody else asks.
            Acquisition::Mine { .. }
            | Acquisition::Hit(Cached::Inactive(_))
            | Acquisition::Failed(_) => {}
            Acquisition::Hit(_) | Acquisition::Peer { .. } => {
                let cache = &upstream.cache;
                cache.withdraw(cb.host, introspected);
                let look = cache.lookup(cb.host, &key.digest, cb.now());
                let standing = look.map_or(disposition.standing, |_| Standing::Superseded);
                *disposition = Disposition::unstored(standing);
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
            Answer::Active(_) => metrics::CacheTable::Active,
            Answer::Inactive(_) => metrics::CacheTable::Negative,
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
            if let (metrics::CacheTable::Active, Evicted::Live) = (table, evicted) {
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
    fn is_voided<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        introspected: &Introspected,
        flight: &Flight<W>,
    ) -> bool {
        let keeps_answers = keeps_answers(flight);
        let must_be_known = keeps_answers || flight.is_joined;
        if !must_be_known && !introspected.is_active() && is_brief(introspected) {
            return false;
        }
        self.workers.refresh_epochs(cb, introspected.answered_at);
        let epochs = (!keeps_answers).then(|| self.workers.epochs());
        upstream.cache.is_voided(cb.host, introspected, epochs)
    }

    /// Returns what has happened to the token, which MAS called active, since MAS was asked.
    fn event_since_call<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
        flight: &Flight<W>,
        introspected: &Introspected,
    ) -> Result<Option<Event>, Unreadable> {
        let State::Calling(call) = &flight.state else {
            return Ok(None);
        };
        if !introspected.is_active() {
            return Ok(None);
        }
        self.workers.event_since(cb, &key.digest, call.point)
    }

    /// Takes the answers about a token that has ended out of the shared cache, or doubts those about one that was refused. The
    /// event must have been noted. Returns what was removed, if there was an answer to remove or to doubt.
    pub(in crate::resolver) fn void<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        cache: &SharedCache,
        token: &TokenDigest,
        event: Event,
        reason: InvalidationReason,
    ) -> Option<Option<Removed>> {
        let removed = match event {
            Event::End => cache.remove_active(cb.host, token).map(Some),
            Event::Refusal => cache.doubt(cb.host, token).then_some(None),
        };
        if removed.is_some() {
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
pub(super) fn outlasts_grace(introspected: &Introspected) -> bool {
    introspected.answered_at >= introspected.asked_at + VOIDING_GRACE
}

/// Returns whether one of those who wait keeps what it is given.
fn keeps_answers<W>(flight: &Flight<W>) -> bool {
    let mut waiting = flight.waiters.values();
    waiting.any(|waiting| waiting.upstream.keeps_answers)
}
