//! No verdict, and what serves in its place.
//!
//! The non-obvious rule: every way to "no verdict" leads through one function, `stand_in`, which serves a stale answer if MAS
//! fails, and configuration and expiry allow it. Only a request that finds no room beside others is turned away by `refuse`.

use alloc::{boxed::Box, rc::Rc};

use super::counting::overloaded;
use crate::{
    cache::{ActiveEntry, question::QuestionKey},
    host::{Backend, Callback},
    mas::introspection::NoVerdict,
    resolver::{
        flight::Flight,
        resolution::{Found, Provenance, Verdict},
        state::Resolver,
        upstream::Upstream,
        workers::{
            hint::{Hint, Notice},
            lease::{Leased, Tombstone},
        },
    },
    token::TokenDigest,
};

impl<W> Resolver<W> {
    /// Decides what serves where there is no fresh verdict: a stale answer, or none. A failure of MAS is noted, so that
    /// the next request does not wait for the next failure, and the log tells of it.
    ///
    /// If no call was free for a known token, no failure is noted. But MAS takes seconds to answer then, so a stale answer
    /// serves this once. A budget says nothing of MAS.
    pub(in crate::resolver) fn stand_in<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        digest: &TokenDigest,
        why: NoVerdict,
    ) -> Found {
        let now = cb.now();
        self.reports.note_failure(cb, upstream, why);
        let stale = if why.admits_stale() {
            upstream.cache.lookup_stale(cb.host, digest, now)
        } else {
            None
        };
        match stale {
            Some(entry) => {
                if why.is_failure() {
                    self.failures
                        .note_failure(upstream.own_question(digest), now);
                }
                let verdict = Verdict::Active(entry);
                self.found(*digest, verdict, Provenance::Stale)
            }
            None => self.found(*digest, Verdict::None(why), Provenance::Introspected),
        }
    }

    /// Serves the stale answer that was found with the word of another worker's failure. It is not looked up again: if
    /// the token has ended in between, there would be none, and MAS has not been asked.
    pub(in crate::resolver) fn serve_stale<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        digest: &TokenDigest,
        entry: Box<ActiveEntry>,
    ) -> Found {
        self.failures
            .note_failure(upstream.own_question(digest), cb.now());
        self.found(*digest, Verdict::Active(entry), Provenance::Stale)
    }

    /// Gives no verdict, and nothing in its place, since too many requests wait on this worker: that is the clients'
    /// doing.
    pub(in crate::resolver) fn refuse<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        digest: &TokenDigest,
    ) -> Found {
        let why = overloaded(cb);
        self.reports.note_failure(cb, upstream, why);
        self.found(*digest, Verdict::None(why), Provenance::Introspected)
    }

    /// Ends a flight without a verdict. After a failed call no worker calls MAS about the token for a second, which counts from the
    /// beginning of the failed call. So a call that took a second or longer delays no later request. Where a stale answer serves,
    /// the second counts from the end of the failed call, since no request waits for the next call.
    ///
    /// A call fails for those who ask alike. MAS may refuse the secret of one listener and not that of another, or be too slow for
    /// the one alone, so those who ask otherwise ask anew.
    pub(in crate::resolver) fn fail<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Box<Flight<W>>,
        why: NoVerdict,
    ) {
        let upstream = Rc::clone(&flight.call.upstream);
        let asker = upstream.asker;
        // A renewal has no waiter; what it was to renew serves on.
        let serves_stale = matches!(
            self.stand_in(cb, &upstream, &key.digest, why).verdict,
            Verdict::Active(_)
        );
        let tombstone = if serves_stale {
            Some(Tombstone::Failed(cb.now(), asker))
        } else {
            let begun = Tombstone::Failed(flight.since, asker);
            why.holds_off_others().then_some(begun)
        };
        let notice = Notice {
            waiting_before: cb.now(),
            sent_at: cb.now(),
        };
        let hint = Hint::Failed(key, asker, notice);
        self.end_call(cb, key, &flight, hint, tombstone);
        let told = flight
            .waiters
            .take(&|waiting| !why.is_failure() || waiting.upstream.asker == asker);
        self.resolve_without_verdict(cb, &key.digest, told, why);
        self.resume_anew(cb, key, flight);
    }

    /// Releases the flight's lease, if it has one.
    pub(in crate::resolver) fn end_call<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        flight: &Flight<W>,
        hint: Hint,
        tombstone: Option<Tombstone>,
    ) {
        if flight.leased() != Leased::No {
            let is_wanted = flight.is_wanted;
            self.workers.release(cb, key, hint, tombstone, is_wanted);
        }
    }

    /// Releases the lease of a call that could not be made. The other workers may be able to make it, unless a
    /// stale answer serves: then they leave MAS alone for a while, too.
    pub(super) fn release_failed<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        key: QuestionKey,
    ) {
        let now = cb.now();
        let stale = upstream.cache.lookup_stale(cb.host, &key.digest, now);
        let failed = Tombstone::Failed(now, upstream.asker);
        let tombstone = stale.is_some().then_some(failed);
        self.workers
            .release(cb, key, Hint::LookAgain(key), tombstone, false);
    }
}
