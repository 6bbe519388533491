//! How a flight ends: with MAS's answer, or with the word of another worker that there is none.

use alloc::{boxed::Box, rc::Rc};

use super::{
    answer::{Disposition, Standing, outlasts_grace},
    handing_out::next_group,
};
use crate::{
    cache::{Introspected, question::QuestionKey},
    host::{Backend, Callback},
    maps::sorted::SortedMap,
    mas::introspection::{Asker, NoVerdict},
    resolver::{
        flight::Flight,
        resolution::Waiting,
        state::Resolver,
        workers::{
            Acquisition,
            hint::{Hint, Notice},
            lease::{Leased, Tombstone},
        },
    },
};

/// An answer that has come, with the question that it is for.
struct Landed<W> {
    key: QuestionKey,
    flight: Box<Flight<W>>,
    introspected: Introspected,
    /// What has become of it in the shared cache.
    disposition: Disposition,
}

/// What an answer does for the requests that wait for it.
enum Landing {
    /// It serves those requests.
    Serve,
    /// It is void. The requests wait for the answer to a second call.
    Repeat,
    /// It serves no request. The worker reads the cache again.
    LookAgain,
    /// It is the second answer that is void, and MAS took too long for it. The requests get no verdict.
    Fail,
}

impl<W> Landed<W> {
    fn landing(&self) -> Landing {
        let flight = &self.flight;
        let is_awaited = !flight.waiters.is_empty() || flight.is_wanted;
        match self.disposition.standing {
            Standing::Holds => Landing::Serve,
            Standing::Superseded => Landing::LookAgain,
            Standing::Voided if !flight.call.is_repeated && is_awaited => Landing::Repeat,
            Standing::Voided if !flight.call.is_repeated => Landing::LookAgain,
            Standing::Voided if outlasts_grace(&self.introspected) => Landing::Fail,
            Standing::Voided => Landing::Serve,
        }
    }
}

impl<W> Resolver<W> {
    /// Stores an answer and gives it to the requests that wait, in this worker and in others.
    ///
    /// The order matters: the entry is stored first, and whether the token has ended is looked up second. A logout counts
    /// the end first and removes the entry second, so one of the two sees the other. The lease is released last.
    ///
    /// An answer from before an end, or one to an earlier question than another worker's answer, serves no request: the cache
    /// is read again, and MAS is asked again if it holds none. Each further call needs another end, and the requests
    /// that wait have deadlines of their own.
    ///
    /// What MAS tells of a token's user during the call voids the answer. The worker then asks MAS once more, and no more. No
    /// worker knows whose an inactive token is, so what MAS tells of any user voids that answer, and MAS may tell without a
    /// pause. The second answer serves the gateway's requests even if it is void as well, unless its call took a second or
    /// longer, or they came after its question. The worker writes it to the shared cache, for other workers that wait: see
    /// [`lookup_awaited`](crate::cache::SharedCache::lookup_awaited). It never serves the homeserver's question, since the
    /// homeserver keeps it.
    pub(in crate::resolver) fn complete<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Box<Flight<W>>,
        introspected: Introspected,
    ) {
        let upstream = Rc::clone(&flight.call.upstream);
        let own = upstream.own_question(&key.digest);
        self.failures.note_answer(&own, introspected.answered_at);
        self.reports.note_answer(cb, &upstream);
        let disposition = self.store_unless_void(cb, &key, &mut flight, &introspected);
        let landed = Landed {
            key,
            flight,
            introspected,
            disposition,
        };
        match landed.landing() {
            Landing::Serve => self.serve(cb, landed),
            Landing::Repeat => self.repeat(cb, landed),
            Landing::LookAgain => self.look_again(cb, landed),
            Landing::Fail => self.fail_outdated(cb, landed),
        }
    }

    /// Makes the second call. Other workers wait for its answer, so the lease stays, if no other worker has it by now.
    fn repeat<H: Backend>(&mut self, cb: &Callback<'_, H>, landed: Landed<W>) {
        let Landed {
            key, mut flight, ..
        } = landed;
        flight.call.is_repeated = true;
        let upstream = Rc::clone(&flight.call.upstream);
        match self.workers.acquire(cb, &upstream, &key) {
            Acquisition::Mine { leased } => self.call_for(cb, key, flight, leased),
            _ => self.resume(cb, key, flight),
        }
    }

    /// Reads the cache again for the requests that wait.
    fn look_again<H: Backend>(&mut self, cb: &Callback<'_, H>, mut landed: Landed<W>) {
        self.end_answered(cb, &mut landed);
        landed.flight.call.is_repeated = true;
        self.resume(cb, landed.key, landed.flight);
    }

    /// Ends a call that MAS has answered: releases its lease, and tells the workers that wait for it to read the cache again.
    /// A lease that no worker waits for is left to run out, since a worker that finds it tells this one. Not so if the answer
    /// is void: a request that comes later could not use it.
    fn end_answered<H: Backend>(&mut self, cb: &Callback<'_, H>, landed: &mut Landed<W>) {
        let Landed {
            key,
            flight,
            introspected,
            disposition,
        } = landed;
        let may_expire = flight.leased() == Leased::UntilExpiry
            && !flight.is_wanted
            && self.workers.is_reachable();
        if may_expire && disposition.is_stored() && disposition.standing != Standing::Voided {
            return;
        }
        let stored = Tombstone::Stored(introspected.answered_at);
        let tombstone = disposition.is_stored().then_some(stored);
        self.end_call(cb, *key, flight, Hint::LookAgain(*key), tombstone);
        flight.is_wanted = false;
    }

    /// Gives an answer to the requests that wait for it, to each by its own configuration, which may let an answer hold less
    /// long. A request that came after the question was asked may have been told what voids its answer, and gets another.
    fn serve<H: Backend>(&mut self, cb: &Callback<'_, H>, mut landed: Landed<W>) {
        if !landed.introspected.is_active() {
            self.limits.charge_inactive(cb, &landed.flight.call);
        }
        self.end_answered(cb, &mut landed);
        let Landed {
            key,
            mut flight,
            introspected,
            disposition,
        } = landed;
        // If question and answer have the same millisecond, no request counts as later, or the call would be made again and again.
        let is_voided = disposition.standing == Standing::Voided;
        let later = if is_voided && introspected.asked_at < introspected.answered_at {
            let is_later = |waiting: &Waiting<W>| waiting.since >= introspected.asked_at;
            flight.waiters.take(&is_later)
        } else {
            SortedMap::new()
        };
        let cache = &Rc::clone(&flight.call.upstream).cache;
        while let Some(waiters) = next_group(&mut flight.waiters) {
            let Some((_, waiting)) = waiters.first() else {
                continue;
            };
            if is_voided && waiting.upstream.keeps_answers {
                self.resolve_without_verdict(cb, &key.digest, waiters, NoVerdict::Outdated);
                continue;
            }
            let cached = cache.view_for(&introspected, &waiting.upstream.cache);
            self.resolve_waiters(&key.digest, waiters, cached, disposition.may_be_kept());
        }
        flight.waiters = later;
        self.resume_anew(cb, key, flight);
    }

    /// Ends the waiting of the requests that came before a question was asked to which MAS's answer is void. The others have been
    /// told nothing yet.
    fn fail_outdated<H: Backend>(&mut self, cb: &Callback<'_, H>, landed: Landed<W>) {
        let asked_at = landed.introspected.asked_at;
        let Landed {
            key, mut flight, ..
        } = landed;
        let notice = Notice {
            waiting_before: asked_at,
            sent_at: cb.now(),
        };
        self.end_call(cb, key, &flight, Hint::Outdated(key, notice), None);
        let told = flight.waiters.take(&|waiting| waiting.since < asked_at);
        self.resolve_without_verdict(cb, &key.digest, told, NoVerdict::Outdated);
        self.resume_anew(cb, key, flight);
    }

    /// Asks anew for those who came after a question was asked.
    pub(super) fn resume_anew<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Box<Flight<W>>,
    ) {
        flight.call.is_repeated = false;
        flight.is_wanted = false;
        self.resume(cb, key, flight);
    }

    /// Ends the waiting for another worker's call that failed, for the requests that the notice is meant for: `asker` says who
    /// asked, if that matters. The others wait for a later call; so do all, if this worker has looked since the notice and found
    /// a worker asking.
    pub(in crate::resolver) fn fail_awaiting<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        asker: Option<Asker>,
        notice: Notice,
        why: NoVerdict,
    ) {
        let Some(mut flight) = self.flights.take_awaiting(&key) else {
            return;
        };
        let is_current = flight.since < notice.sent_at;
        let told = flight.waiters.take(&|waiting| {
            let is_meant = asker.is_none_or(|asker| asker == waiting.upstream.asker);
            is_current && is_meant && waiting.since < notice.waiting_before
        });
        self.resolve_without_verdict(cb, &key.digest, told, why);
        self.resume(cb, key, flight);
    }
}
