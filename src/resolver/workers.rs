//! What the workers of one process agree on: who calls MAS about a question, and which answers no longer hold.
//!
//! A lease in shared data decides who calls, hints tell the others, and epochs void what they keep for
//! themselves. All of it only saves time: a worker that hears nothing reads shared data at its next tick.

use super::{
    lease::{Acquired, LEASE, Leases, Marks, Tombstone},
    membership::{Hint, Membership},
    upstream::Upstream,
};
use crate::{
    cache::{
        Cached,
        epoch::{Epochs, Stamp, Subject},
        question::QuestionKey,
    },
    clock::Instant,
    host::{Backend, Callback, RootId},
    mas::user::UserKey,
    metrics::Metric,
    token::TokenDigest,
};

/// How many tombstones are followed before MAS is called without a lease.
const MAX_RECHECKS: usize = 4;

/// This worker among the others.
#[derive(Debug, Default)]
pub struct Workers {
    leases: Leases,
    membership: Membership,
    /// As of the last tick or hint.
    epochs: Epochs,
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
    /// None for a while: a call has just failed, and a stale answer serves.
    Failed,
    /// This one.
    Mine {
        /// Whether it holds the lease.
        leased: bool,
    },
}

impl Workers {
    /// Shows the other workers that this one lives, and reads what they have voided.
    pub fn attend<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        self.read_epochs(cb);
        self.membership.heartbeat(cb.host, cb.root, cb.now());
    }

    /// Reads what other workers have voided.
    pub fn read_epochs<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        self.epochs.read(cb.host);
    }

    /// Notes that a root context has ended.
    pub fn on_root_end(&mut self, root: RootId) {
        self.membership.root_ended(root);
    }

    /// Acquires the lease on a question. Call only after a cache miss at the callback's moment: a tombstone
    /// then shows a later store, and the cache is read again. An entry that is not `useful` is passed over.
    pub fn acquire<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        key: &QuestionKey,
        useful: impl Fn(&Cached) -> bool,
    ) -> Acquisition {
        let worker = self.membership.worker_id(cb.host);
        let now = cb.now();
        // The worker that stored an answer read the clock first and released the lease later: at most the
        // time that a lease holds.
        let mut cache_read_at = now.minus(LEASE);
        for _ in 0..MAX_RECHECKS {
            match self
                .leases
                .acquire(cb.host, key, worker, now, cache_read_at)
            {
                Acquired::Mine => return Acquisition::Mine { leased: true },
                Acquired::BucketFull => break,
                Acquired::HeldUntil(check_at) => return Acquisition::Peer { check_at },
                Acquired::Tombstone(stored_at) => {
                    let cached = upstream.cache.lookup(cb.host, &key.digest, now, |_| {});
                    match cached.filter(&useful) {
                        Some(cached) => return Acquisition::Hit(cached),
                        None => cache_read_at = stored_at,
                    }
                }
                Acquired::Failed(failed_at) => {
                    let stale = upstream.cache.lookup_stale(cb.host, &key.digest, now);
                    if stale.is_some() {
                        return Acquisition::Failed;
                    }
                    cache_read_at = failed_at;
                }
            }
        }
        Acquisition::Mine { leased: false }
    }

    /// Releases the lease and hints the other workers if one of them waits for it. Returns the lease's marks.
    pub fn release<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        hint: Hint,
        tombstone: Option<Tombstone>,
    ) -> Marks {
        let worker = self.membership.worker_id(cb.host);
        let marks = self.leases.release(cb.host, &key, worker, tombstone);
        if marks.contended {
            self.membership.broadcast(cb.host, hint, cb.now());
        }
        marks
    }

    /// Holds the lease for longer.
    pub fn renew<H: Backend>(&mut self, cb: &Callback<'_, H>, key: &QuestionKey) {
        let (worker, now) = (self.membership.worker_id(cb.host), cb.now());
        self.leases.acquire(cb.host, key, worker, now, now);
    }

    /// Returns whether this worker's lease was invalidated: the token ended while it was asked about.
    pub fn is_invalidated<H: Backend>(&mut self, cb: &Callback<'_, H>, key: &QuestionKey) -> bool {
        let worker = self.membership.worker_id(cb.host);
        self.leases.is_invalidated(cb.host, key, worker)
    }

    /// Invalidates every lease on a token. Returns whether there is one.
    pub fn invalidate_leases<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        token: &TokenDigest,
    ) -> bool {
        self.leases.invalidate(cb.host, token, cb.now())
    }

    /// Tells all workers that answers no longer hold. The epoch is raised only after the shared entry is gone:
    /// a worker that sees the new epoch reads the cache again and must not find the old entry.
    pub fn announce<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        subject: Subject<'_>,
        reason: &'static str,
    ) {
        self.epochs.bump(cb.host, subject);
        self.membership
            .broadcast(cb.host, Hint::Invalidated, cb.now());
        cb.host.count(Metric::Invalidated(reason));
    }

    /// Makes all workers compare what they keep of an evicted answer with the shared cache, at their next tick.
    /// An invalidation finds only what the shared cache holds.
    pub fn void_evicted<H: Backend>(&mut self, cb: &Callback<'_, H>, token: &TokenDigest) {
        self.epochs.bump(cb.host, Subject::Token(token));
    }

    /// Returns the epoch counters of a token and its user, as of the last tick or hint.
    pub fn stamp(&self, token: &TokenDigest, user: Option<&UserKey>) -> Stamp {
        self.epochs.stamp(token, user)
    }
}
