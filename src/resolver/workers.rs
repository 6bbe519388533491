//! What the workers of one process agree on: who calls MAS about a question, and which answers no longer hold.
//!
//! A lease in shared data decides who calls, hints tell the others, and epochs void what they keep for
//! themselves. All of it only saves time: a worker that hears nothing reads the epochs at its next tick, and looks for an answer
//! when the lease ends.

use alloc::boxed::Box;
use core::time::Duration;

pub mod hint;
pub mod lease;
pub mod membership;

use self::{
    hint::Hint,
    lease::{Acquired, Claim, LEASE, Leased, Leases, OnHeld, Tombstone},
    membership::Membership,
};
use super::upstream::Upstream;
use crate::{
    cache::{
        ActiveEntry, Cached,
        epoch::{Epochs, Stamp, Subject},
        question::QuestionKey,
        token_events::{Event, Point, TokenEvents},
    },
    clock::Instant,
    host::{Backend, Callback, RootId, Unreadable},
    mas::user::UserKey,
    metrics::{InvalidationReason, Metric},
    token::TokenDigest,
};

/// How many tombstones are followed before MAS is called without a lease.
const MAX_RECHECKS: usize = 4;

/// How long the epochs count without being read again: a session that has ended is refused within a second.
const EPOCHS_HOLD: Duration = Duration::from_millis(750);

/// This worker among the others.
#[derive(Debug, Default)]
pub struct Workers {
    leases: Leases,
    events: TokenEvents,
    membership: Membership,
    epochs: Epochs,
    /// When the epochs were read last: at a tick, after a hint, or for a hit.
    epochs_read_at: Instant,
}

/// Which worker calls MAS about a question.
pub enum Acquisition {
    /// None: the shared cache has the answer by now.
    Hit(Cached),
    /// Another worker, which holds the lease until then.
    Peer {
        /// When to read the cache again, unless a hint comes first.
        check_at: Instant,
    },
    /// None for a while: a call has just failed. A stale answer serves, or there is no verdict.
    Failed(Option<Box<ActiveEntry>>),
    /// This one.
    Mine {
        /// Whether it holds the lease.
        leased: Leased,
    },
}

impl Workers {
    /// Shows the other workers that this one lives, and reads what they have voided.
    pub fn check_in<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        self.read_epochs(cb);
        self.membership.heartbeat(cb.host, cb.root, cb.now());
    }

    /// Reads what other workers have voided.
    pub fn read_epochs<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        // What cannot be read is read again for the next hit.
        if self.epochs.read(cb.host).is_ok() {
            self.epochs_read_at = cb.now();
        }
        self.events.forget_last_read();
    }

    /// Reads what other workers have voided, if the last reading is so long ago that a session may have ended for more than
    /// a second. A worker that is busy without a pause comes to no tick.
    pub fn refresh_epochs<H: Backend>(&mut self, cb: &Callback<'_, H>, now: Instant) {
        if now.since(self.epochs_read_at) >= EPOCHS_HOLD {
            self.read_epochs(cb);
        }
    }

    /// Returns whether hints may not have reached this worker since this was last asked.
    pub fn has_missed_hints(&mut self) -> bool {
        self.membership.has_missed_hints()
    }

    /// Returns whether other workers can tell this one that they wait.
    pub fn is_reachable(&self) -> bool {
        self.membership.has_seat()
    }

    /// Notes that a root context has ended.
    pub fn on_root_end(&mut self, root: RootId) {
        self.membership.on_root_end(root);
    }

    /// Acquires the lease on a question. Call only after a cache miss at the callback's moment: a tombstone
    /// then shows a later store, and the cache is read again.
    pub fn acquire<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        key: &QuestionKey,
    ) -> Acquisition {
        self.acquire_for(cb, upstream, key, OnHeld::Wait, &|_| true)
    }

    /// Acquires the lease for a caller that does not wait for another worker. A cached entry that is not `is_useful` is passed
    /// over.
    pub fn acquire_without_waiting<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        key: &QuestionKey,
        is_useful: &dyn Fn(&Cached) -> bool,
    ) -> Acquisition {
        self.acquire_for(cb, upstream, key, OnHeld::GoOn, is_useful)
    }

    #[inline(never)]
    fn acquire_for<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        key: &QuestionKey,
        on_held: OnHeld,
        is_useful: &dyn Fn(&Cached) -> bool,
    ) -> Acquisition {
        let now = cb.now();
        let mut claim = Claim {
            key,
            holder: self.membership.worker_id(cb.host),
            asker: Some(upstream.asker),
            now,
            // The worker that stored an answer read the clock first and released the lease later: at most the
            // time that a lease holds.
            cache_read_at: now.minus(LEASE),
            on_held,
        };
        for _ in 0..MAX_RECHECKS {
            let acquired = self.leases.claim(cb.host, &claim);
            self.notify_holder(cb, key, &acquired);
            match acquired {
                Acquired::Mine => {
                    let leased = self.term_of_new_lease();
                    return Acquisition::Mine { leased };
                }
                Acquired::MineInCrowdedBucket => {
                    let leased = Leased::UntilReleased;
                    return Acquisition::Mine { leased };
                }
                Acquired::BucketFull => break,
                Acquired::Held { until, .. } => {
                    return Acquisition::Peer { check_at: until };
                }
                Acquired::Tombstone(stored_at) => {
                    let cached = upstream.cache.lookup(cb.host, &key.digest, now);
                    match cached.filter(is_useful) {
                        Some(cached) => return Acquisition::Hit(cached),
                        None => claim.cache_read_at = stored_at,
                    }
                }
                Acquired::Failed => {
                    let stale = upstream.cache.lookup_stale(cb.host, &key.digest, now);
                    return Acquisition::Failed(stale);
                }
            }
        }
        Acquisition::Mine { leased: Leased::No }
    }

    /// Returns how a new lease ends. It may be left to run out if another worker that waits for it can tell this one so.
    fn term_of_new_lease(&self) -> Leased {
        if self.is_reachable() {
            Leased::UntilExpiry
        } else {
            Leased::UntilReleased
        }
    }

    /// Releases the lease and hints the other workers if one of them waits for it: if it has marked the lease, or if the answer
    /// `is_wanted`, by its own hint. The mark goes with a lease that runs out before it is renewed.
    pub fn release<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        hint: Hint,
        tombstone: Option<Tombstone>,
        is_wanted: bool,
    ) {
        let worker = self.membership.worker_id(cb.host);
        if self.leases.release(cb.host, &key, worker, tombstone) | is_wanted {
            self.membership.broadcast(cb.host, hint, cb.now());
        }
    }

    /// Holds the lease for longer.
    pub fn renew<H: Backend>(&mut self, cb: &Callback<'_, H>, key: &QuestionKey) {
        let now = cb.now();
        let claim = Claim {
            key,
            holder: self.membership.worker_id(cb.host),
            asker: None,
            now,
            cache_read_at: now,
            on_held: OnHeld::GoOn,
        };
        self.leases.claim(cb.host, &claim);
    }

    /// Notifies the holder of a lease that a worker waits. Only the first worker that waits does so.
    fn notify_holder<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
        acquired: &Acquired,
    ) {
        if let Acquired::Held {
            to_notify: Some(holder),
            ..
        } = acquired
        {
            let hint = Hint::Wanted(*key);
            self.membership.notify(cb.host, *holder, hint, cb.now());
        }
    }

    /// Returns the present point of all histories, nearly: see [`crate::cache::token_events`].
    pub fn point<H: Backend>(&self, cb: &Callback<'_, H>) -> Point {
        self.events.point(cb.host, cb.now())
    }

    /// Returns what has happened to the token since that point.
    pub fn event_since<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        token: &TokenDigest,
        earlier: Point,
    ) -> Result<Option<Event>, Unreadable> {
        self.events.since(cb.host, token, earlier)
    }

    /// Notes that the token has ended or was refused, for the workers that ask about it.
    pub fn note_event<H: Backend>(&self, cb: &Callback<'_, H>, token: &TokenDigest, event: Event) {
        if let Err(error) = self.events.add(cb.host, token, event) {
            error.log("an answer on its way may outlive a session");
        }
    }

    /// Tells all workers that answers no longer hold. The epoch is raised only after the shared entry is gone:
    /// a worker that sees the new epoch reads the cache again and must not find the old entry.
    pub fn announce<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        subject: Subject<'_>,
        reason: InvalidationReason,
    ) {
        self.raise(cb, subject);
        self.membership
            .broadcast(cb.host, Hint::Invalidated, cb.now());
        cb.host.count(Metric::Invalidated(reason));
    }

    /// Makes all workers compare what they keep of an evicted answer with the shared cache, at their next tick.
    /// An invalidation finds only what the shared cache holds.
    pub fn void_evicted<H: Backend>(&mut self, cb: &Callback<'_, H>, token: &TokenDigest) {
        self.raise(cb, Subject::Token(token));
    }

    fn raise<H: Backend>(&mut self, cb: &Callback<'_, H>, subject: Subject<'_>) {
        if let Err(error) = self.epochs.bump(cb.host, subject, cb.now()) {
            error.log("what has ended may be served until its time is over");
        }
    }

    /// Returns the epoch counters, as of the last reading.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Returns the epoch counters of a token and its user, as of the last reading.
    pub fn stamp(&self, token: &TokenDigest, user: Option<&UserKey>) -> Stamp {
        self.epochs.stamp(token, user)
    }
}

#[cfg(test)]
mod tests;
