//! Whose token is this? One answer for every request that asks, and one call to MAS at the most.
//!
//! A question comes in with a request that waits for it, whatever that is: the resolver is generic over the
//! waiter and knows no role, no reply and no header. Out comes a resolution at once, or the request is held and
//! its resolution comes later from [`Resolver::poll`]: after a call's response, a tick, or a hint of another
//! worker.
//!
//! In one worker the flight for a question collects the requests that need its answer (single-flight).
//! Between workers a lease decides which of them makes the call; the others read the shared cache when they
//! are hinted, when the lease runs out, or at a tick.
//!
//! The non-obvious rule: every way to "no verdict" leads through one function, `stand_in`, which serves a stale answer if MAS
//! fails, and configuration and expiry allow it. Only a request that finds no room beside others is turned away by `refuse`.
//! No client can make a stale answer serve while MAS is well, save one that has had thousands of tokens: a known token, one of
//! which an active answer is still there, is exempt from the budget and the client's share, has calls that no flood of invented
//! tokens can take, and comes first in line.
//!
//! This file has what the worker calls, and `steps` what becomes of a question. [`workers`] is about the other workers of the
//! process, and [`clients`] about what each client may take.

mod call;
pub mod clients;
mod failure;
pub mod flight;
mod limits;
mod reports;
mod resolution;
mod state;
mod steps;
mod upstream;
pub mod workers;

pub use self::{
    clients::load::PoolId,
    resolution::{
        Found, Invalidation, Origin, Provenance, Query, Resolution, Verdict, WaiterId, Waiting,
    },
    state::Resolver,
    steps::{TICK, retry::RETRY_TICK, start::MAX_TOKEN_BYTES},
    upstream::{Admission, Consumer, Overflow, Upstream},
};
use self::{
    flight::{Full, State},
    steps::{
        answer::is_brief,
        counting::{count_outcome, note_duration, overloaded},
        start::Start,
    },
    workers::{
        hint::Hint,
        lease::{Leased, Tombstone},
    },
};
use crate::{
    cache::{
        Introspected, SharedCache,
        epoch::{Stamp, Subject},
        table::Removed,
        token_events::Event,
    },
    host::{Backend, CallId, Callback, QueueId, RootId, Store, StreamId},
    mas::{
        introspection::{self, Answer, IntrospectionResponse, NoVerdict},
        user::UserKey,
    },
    metrics::{IntrospectionOutcome, InvalidationReason, Metric},
    token::{TokenDigest, TokenSecret},
};

impl<W> Resolver<W> {
    /// Prepares a root context for its first request: joins the workers, reads the epochs.
    pub fn start<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        cb.host.tick_every(cb.root, Some(TICK));
        // Where the timer of another root runs, its next tick may be late already.
        self.ticked_at.get_or_insert_with(|| cb.now());
        self.workers.check_in(cb);
    }

    /// Notes that no timer runs any more, so that the next tick is not late whenever it comes.
    pub fn rest(&mut self) {
        self.ticked_at = None;
    }

    /// The secret under which all workers of this process name tokens.
    pub fn token_secret(&self, store: &impl Store) -> TokenSecret {
        self.token_secret.get(store)
    }

    /// Returns what is known without a call: from the shared cache, or a stale answer while MAS fails. Renews
    /// an answer in the background when that is due.
    ///
    /// What MAS told of users counts as of the last reading of the epochs, see [`Self::refresh_epochs`], unless the reader keeps
    /// the answer, as Synapse does with introspections.
    #[inline(never)]
    pub fn lookup<H: Backend>(&mut self, cb: &Callback<'_, H>, query: &Query<'_>) -> Option<Found> {
        let upstream = query.upstream;
        let now = cb.now();
        self.workers.refresh_epochs(cb, now);
        let epochs = (!upstream.keeps_answers).then(|| self.workers.epochs());
        let count = |metric| cb.host.count(metric);
        let cached = upstream
            .cache
            .lookup_as_of(cb.host, &query.digest, now, epochs, count);
        match cached {
            Some(cached) => {
                if cached.is_due(now) {
                    self.refresh(cb, query);
                }
                Some(self.found(query.digest, cached.into(), Provenance::Shared))
            }
            None => self.lookup_stale(cb, query),
        }
    }

    /// Resolves a question that [`Self::lookup`] had no answer to: joins its flight or starts it. `None`: the
    /// request waits, and [`Self::poll`] returns its resolution. A request without a `stream` has gone on already,
    /// and waits for the verdict even if its stream has ended.
    pub fn resolve<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
        stream: Option<StreamId>,
        waiter: W,
    ) -> Option<Found> {
        let key = query.key();
        let id = self.waiter_id(stream);
        let waiting = self.waiting(cb, query, waiter);
        if self.can_neither_wait_nor_call(query, &key) {
            let why = overloaded(cb);
            return Some(self.stand_in(cb, query.upstream, &query.digest, why));
        }
        if self.flights.contains(&key) && !self.can_overtake(query, &key) {
            return self.join(cb, query, id, waiting);
        }
        match self.begin(cb, query, waiting.client) {
            Ok(Start::Hit(cached)) => {
                Some(self.found(query.digest, cached.into(), Provenance::Shared))
            }
            Ok(Start::Stale(entry)) => {
                Some(self.serve_stale(cb, query.upstream, &query.digest, entry))
            }
            Ok(Start::Flight(mut flight)) => {
                // Requests that wait for the same answer: in the line of another pool, or without a place in line.
                if let Some(queued) = self.take_from_line(&key) {
                    flight.take_over(*queued);
                }
                flight.waiters.insert(id, waiting);
                self.flights.insert(key, flight);
                None
            }
            // Its own client has no room in line. So it waits with those who have lost their place, until the next tick.
            Err(NoVerdict::Overloaded)
                if self.flights.is_displaced(&key)
                    && query.upstream.admission.overflow == Overflow::Wait =>
            {
                self.join(cb, query, id, waiting)
            }
            Err(why) => Some(self.stand_in(cb, query.upstream, &query.digest, why)),
        }
    }

    /// Has a request wait with others for the answer to the same question. Returns its verdict if too many wait already.
    fn join<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
        id: WaiterId,
        waiting: Waiting<W>,
    ) -> Option<Found> {
        match self.flights.join(query.key(), id, waiting) {
            Ok(()) => {
                cb.host.count(Metric::Coalesced);
                None
            }
            Err(Full) => Some(self.refuse(cb, query.upstream, &query.digest)),
        }
    }

    /// Forgets answers in all workers, also those that are on their way. Returns what was known of a token that has ended,
    /// or nothing of one that was refused, if there was an answer about it to remove or to doubt.
    ///
    /// Anyone can name an invented token. So the other workers are told, by their epoch, only if an answer was removed. For the
    /// rest the token's noted end is enough: no worker keeps a grant of an answer that is not in the shared cache, and a worker
    /// that is asking about the token does not store its answer, or takes it out again and tells of that.
    ///
    /// The order matters: the end is noted first and the answer removed second. The worker that asks stores first and
    /// looks for ends second, so one of the two sees the other. A refusal is noted and the answer doubted in that order.
    pub fn invalidate<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        cache: &SharedCache,
        what: Invalidation<'_>,
        reason: InvalidationReason,
    ) -> Option<Option<Removed>> {
        match what {
            Invalidation::Token(token) => {
                self.workers.note_event(cb, token, Event::End);
                self.void(cb, cache, token, Event::End, reason)
            }
            Invalidation::Refusal(token) => {
                self.workers.note_event(cb, token, Event::Refusal);
                self.void(cb, cache, token, Event::Refusal, reason)
            }
            Invalidation::User(user, voiding) => {
                let voidings = cache.voidings();
                if let Err(error) = voidings.add(cb.host, user, voiding, cb.now()) {
                    error.log("answers about a user hold until their TTL");
                }
                self.workers.announce(cb, Subject::User(user), reason);
                None
            }
        }
    }

    /// Takes in the response to a call, one of the callback's root.
    pub fn on_call_response<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        call: CallId,
        response: IntrospectionResponse<'_>,
    ) {
        let Some((key, mut flight)) = self.flights.complete(call) else {
            return;
        };
        let now = cb.now();
        let told = response.lifetime;
        let answer = introspection::read(response);
        if let Err(why) = answer
            && self.is_to_be_repeated(cb, &mut flight, why)
        {
            return self.flights.insert(key, flight);
        }
        note_duration(cb, &flight);
        let outcome = match &answer {
            Ok(Answer::Active(_)) => Some(IntrospectionOutcome::Active),
            Ok(Answer::Inactive(_)) => Some(IntrospectionOutcome::Inactive),
            Err(why) => why.outcome(),
        };
        count_outcome(cb, outcome);
        match answer {
            Ok(answer) => {
                let lifetime = answer.lifetime(told);
                let mut introspected =
                    Introspected::new(key.digest, flight.since, now, answer, lifetime);
                introspected.is_exclusive =
                    flight.leased() != Leased::No && is_brief(&introspected);
                self.complete(cb, key, flight, introspected);
            }
            Err(NoVerdict::Timeout) if self.is_excused(&flight, now) => {
                flight.call.is_excused = true;
                self.end_call(cb, key, &flight, Hint::LookAgain(key), None);
                self.resume(cb, key, flight);
            }
            // Envoy ends the calls of a cluster that it replaces, and finds none for further ones before the last has ended. What
            // waits in line is asked with the next tick.
            Err(NoVerdict::Reset) => return self.fail(cb, key, flight, NoVerdict::Reset),
            Err(why) => self.fail(cb, key, flight, why),
        }
        self.call_from_line(cb);
    }

    /// Returns whether a call waits to be repeated, for which a tick is to come after [`RETRY_TICK`].
    pub fn has_retries(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Takes in the messages of a shared queue.
    pub fn on_queue<H: Backend>(&mut self, cb: &Callback<'_, H>, queue: QueueId) {
        while let Some(message) = cb.host.dequeue(queue) {
            match Hint::decode(&message) {
                None => {}
                Some(Hint::LookAgain(key)) => {
                    let answered = self.take_answered(cb, &key);
                    if let Some(flight) = answered.or_else(|| self.flights.take_awaiting(&key)) {
                        self.resume(cb, key, flight);
                    }
                }
                Some(Hint::Failed(key, asker, notice)) => {
                    self.fail_awaiting(cb, key, Some(asker), notice, NoVerdict::Elsewhere);
                }
                Some(Hint::Outdated(key, notice)) => {
                    self.fail_awaiting(cb, key, None, notice, NoVerdict::Outdated);
                }
                Some(Hint::Invalidated) => self.workers.read_epochs(cb),
                // Its call has ended, and what it brought is in the shared cache, unless the token has ended since.
                Some(Hint::Wanted(key)) if !self.flights.note_wanted(&key) => {
                    let tombstone = Tombstone::Stored(cb.now());
                    self.workers
                        .release(cb, key, Hint::LookAgain(key), Some(tombstone), false);
                }
                Some(Hint::Wanted(_)) => {}
            }
        }
    }

    /// Notes that a stream has ended, whatever it waited for. A call goes on without it.
    pub fn cancel(&mut self, stream: StreamId) {
        if let Some(flight) = self.flights.forget(stream)
            && let State::InLine { place, .. } = flight.state
        {
            self.limits.leave_line(place);
        }
    }

    /// Notes that a root context has ended. Envoy has dropped its calls; requests of other configurations that
    /// waited for one are asked about again at their next tick.
    pub fn on_root_end(&mut self, root: RootId) {
        self.workers.on_root_end(root);
        self.flights.on_root_end(root);
    }

    /// Reads what other workers have voided, if this worker has not for most of a second.
    pub fn refresh_epochs<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        self.workers.refresh_epochs(cb, cb.now());
    }

    /// Returns the epoch counters of a token and its user, as of the last reading.
    pub fn stamp(&self, digest: &TokenDigest, user: Option<&UserKey>) -> Stamp {
        self.workers.stamp(digest, user)
    }

    /// Returns the next requests that wait no longer. This is the only way out; the worker drains it at the end of
    /// every callback of a root.
    pub fn poll(&mut self) -> Option<Resolution<W>> {
        self.resolutions.pop_front()
    }

    /// Takes back the requests of a resolution that the worker leaves for later.
    pub fn put_back(&mut self, resolution: Resolution<W>) {
        self.resolutions.push_front(resolution);
    }
}

#[cfg(test)]
mod tests;
