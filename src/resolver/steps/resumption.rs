//! A question whose answer did not come by the way that it was waited for: the cache is read again, and MAS is asked again
//! if it holds none, at once or from the line.

use alloc::{boxed::Box, rc::Rc};

use super::{answer::VOIDING_GRACE, counting::overloaded, in_line::LINE_TIMEOUT};
use crate::{
    cache::{ActiveEntry, Audience, Awaited, Cached, question::QuestionKey},
    clock::Instant,
    host::{Backend, Callback},
    mas::introspection::NoVerdict,
    resolver::{
        flight::{Flight, State},
        resolution::{Resolution, Waiting},
        state::Resolver,
        upstream::{Overflow, Upstream},
        workers::{Acquisition, lease::Leased},
    },
};

/// Questions of one line that are started in one callback at the most.
const MAX_STARTS: usize = 256;

impl<W> Resolver<W> {
    /// Reads the cache again, for an answer of another worker, and calls MAS if there is none. The root is the
    /// callback's: the one that the flight began with may have ended.
    pub(in crate::resolver) fn resume<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        flight: Box<Flight<W>>,
    ) {
        if let Some((_, waiting)) = flight.waiters.first() {
            let upstream = Rc::clone(&waiting.upstream);
            self.resume_as(cb, key, flight, upstream);
        }
    }

    /// Resumes a flight as one of the configurations asks whose requests wait.
    fn resume_as<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Box<Flight<W>>,
        upstream: Rc<Upstream>,
    ) {
        flight.call.upstream = Rc::clone(&upstream);
        if let Some(awaited) = read_cache_again(cb, &key, &flight) {
            self.hand_out(cb, key, flight, awaited);
            return;
        }
        if !self.admits_flight(cb, &key, &mut flight) {
            self.return_to_line(cb, key, flight);
            return;
        }
        match self.workers.acquire(cb, &upstream, &key) {
            Acquisition::Hit(cached) => self.hand_out(cb, key, flight, cached.into()),
            Acquisition::Failed(None) => self.fail(cb, key, flight, NoVerdict::Elsewhere),
            Acquisition::Failed(Some(entry)) => self.hand_out_stale(cb, key, flight, entry),
            Acquisition::Peer { check_at } => self.await_peer(cb, key, flight, check_at),
            Acquisition::Mine { leased } => self.call_for(cb, key, flight, leased),
        }
    }

    /// Gives an answer from the shared cache to the requests that it serves, of the configuration that has read it. The others
    /// go on: their configurations have caches of another size, or let an answer hold less long.
    pub(super) fn hand_out<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Box<Flight<W>>,
        awaited: Awaited,
    ) {
        let Awaited { cached, audience } = awaited;
        if let Cached::Inactive(_) = cached {
            self.limits.charge_inactive(cb, &flight.call);
        }
        let upstream = Rc::clone(&flight.call.upstream);
        // A request that came after a void answer's question may have been told what voids it, and one that came after a late
        // answer has not waited for it.
        let served = flight
            .waiters
            .take(&|waiting| is_of(waiting, &upstream) && audience.includes(waiting.since));
        if upstream.keeps_answers && matches!(audience, Audience::CameBeforeQuestion(_)) {
            self.resolve_without_verdict(cb, &key.digest, served, NoVerdict::Outdated);
        } else {
            let may_be_kept = audience == Audience::Everyone;
            self.resolve_waiters(&key.digest, served, cached, may_be_kept);
        }
        self.resume(cb, key, flight);
    }

    /// Gives a stale answer to the requests of the configuration that has read it. It may serve those of others for less long,
    /// or not at all.
    fn hand_out_stale<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Box<Flight<W>>,
        entry: Box<ActiveEntry>,
    ) {
        let upstream = Rc::clone(&flight.call.upstream);
        let waiters = flight.waiters.take(&|waiting| is_of(waiting, &upstream));
        let found = self.serve_stale(cb, &upstream, &key.digest, entry);
        self.resolutions.push_back(Resolution { found, waiters });
        self.resume(cb, key, flight);
    }

    /// Waits for another worker's answer. That one may have called again just now. Each request has a deadline of its own.
    fn await_peer<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Box<Flight<W>>,
        check_at: Instant,
    ) {
        flight.await_peer(check_at, cb.now());
        self.flights.insert(key, flight);
    }

    /// Returns whether a call for the flight is free. Whether its token is known is looked up only now if it did not matter
    /// when the first request came.
    fn admits_flight<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
        flight: &mut Flight<W>,
    ) -> bool {
        let upstream = Rc::clone(&flight.call.upstream);
        if self.admits(&upstream, &flight.call.slot()) {
            return true;
        }
        let cache = &upstream.cache;
        let owner = cache.known_owner(cb.host, &key.digest, cb.now());
        flight.call.owner = owner.or(flight.call.owner);
        self.admits(&upstream, &flight.call.slot())
    }

    /// Calls MAS for a flight that waits for its answer.
    #[inline(never)]
    pub(super) fn call_for<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Box<Flight<W>>,
        leased: Leased,
    ) {
        let now = cb.now();
        match self.call(cb, &flight.call, leased) {
            Ok(call) => {
                flight.await_call(call, now);
                self.flights.insert(key, flight);
            }
            Err(why) => {
                let upstream = Rc::clone(&flight.call.upstream);
                self.release_failed(cb, &upstream, key);
                self.fail(cb, key, flight, why);
            }
        }
    }

    /// Puts a flight whose answer did not come into the line of its pool. A request whose own pool has no line does not wait in
    /// that of another: its pool makes the call, or it is refused at once.
    fn return_to_line<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Box<Flight<W>>,
    ) {
        if let Some(upstream) = that_cannot_wait(&flight) {
            flight.call.upstream = Rc::clone(&upstream);
            if self.admits_flight(cb, &key, &mut flight) {
                self.resume_as(cb, key, flight, upstream);
            } else {
                let refused = flight.waiters.take(&cannot_wait);
                self.resolve_without_verdict(cb, &key.digest, refused, overloaded(cb));
                // The pool of the others may have calls free.
                self.resume(cb, key, flight);
            }
            return;
        }
        // One that comes from a line has waited in it already.
        let deadline = match flight.state {
            State::InLine { .. } | State::Displaced => flight.deadline,
            _ => cb.now() + LINE_TIMEOUT,
        };
        match self.enter_line(cb, &mut flight, deadline) {
            Ok(()) => self.flights.insert(key, flight),
            Err(why) => self.fail(cb, key, flight, why),
        }
    }

    /// Calls MAS about the questions that wait in line, as far as calls are free.
    pub(in crate::resolver) fn call_from_line<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        if self.limits.have_no_lines() {
            return;
        }
        for pool in self.limits.pools() {
            // A call that cannot be made leaves its slot free, so the number of tries is bounded as well.
            for _ in 0..MAX_STARTS {
                let Some(key) = self.next_in_line(pool) else {
                    break;
                };
                let Some(flight) = self.flights.take_queued(&key) else {
                    continue;
                };
                // Others of the client's questions may have spent its budget while this one waited.
                match self.limits.check_budget(cb, &flight.call) {
                    Ok(()) => self.resume(cb, key, flight),
                    // Another client may have joined the question, and its budget may be whole: never a 429.
                    Err(_) if flight.is_joined => {
                        self.fail(cb, key, flight, overloaded(cb));
                    }
                    Err(why) => self.fail(cb, key, flight, why),
                }
            }
        }
        self.limits.drop_empty_lines();
    }
}

/// Returns what the shared cache has by now for those who wait and are of the configuration that asks.
pub(super) fn read_cache_again<H: Backend, W>(
    cb: &Callback<'_, H>,
    key: &QuestionKey,
    flight: &Flight<W>,
) -> Option<Awaited> {
    let upstream = &flight.call.upstream;
    let (cache, now) = (&upstream.cache, cb.now());
    let look = || cache.lookup(cb.host, &key.digest, now).map(Awaited::from);
    look().or_else(|| {
        let State::AwaitingPeer { .. } = flight.state else {
            return None;
        };
        let waiting = flight.waiters.values();
        let own = waiting.filter(|waiting| is_of(waiting, upstream));
        let since = own.map(|waiting| waiting.since).min().unwrap_or(now);
        let since = since.max(now.minus(VOIDING_GRACE));
        let awaited = cache.lookup_awaited(cb.host, &key.digest, since, now)?;
        // It may have come since that look, and serve everybody.
        look().or(Some(awaited))
    })
}

/// Returns whether a request is of this configuration.
fn is_of<W>(waiting: &Waiting<W>, upstream: &Rc<Upstream>) -> bool {
    Rc::ptr_eq(&waiting.upstream, upstream)
}

/// Returns whether the request's pool has no line.
fn cannot_wait<W>(waiting: &Waiting<W>) -> bool {
    waiting.upstream.admission.overflow == Overflow::Refuse
}

/// Returns the configuration of a request whose pool has no line, if one waits.
fn that_cannot_wait<W>(flight: &Flight<W>) -> Option<Rc<Upstream>> {
    let mut waiting = flight.waiters.values();
    let found = waiting.find(|waiting| cannot_wait(waiting))?;
    Some(Rc::clone(&found.upstream))
}
