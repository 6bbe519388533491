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
//! The non-obvious rule: every way to "no verdict" leads through one function, `stand_in`. Whatever the
//! reason is, a stale answer serves if configuration and expiry allow it, and only then there is none.

pub mod budget;
mod call;
mod failure;
pub mod flight;
pub mod lease;
pub mod membership;
mod resolution;
mod upstream;

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use self::{
    budget::{Budget, Source, Spent},
    call::{CALL_GRACE, CallContext},
    failure::FailureLog,
    flight::{Flight, Flights, Full, State},
    lease::{Acquired, LEASE, Leases, Marks},
    membership::{Hint, Membership},
};
pub use self::{
    resolution::{
        Found, Invalidation, Origin, Provenance, Query, Renewal, Resolution, Verdict, Waiting,
    },
    upstream::Upstream,
};
use crate::{
    cache::{
        Cached, Introspected, SharedCache,
        epoch::{Epochs, Stamp, Subject},
        question::QuestionKey,
        table::Removed,
    },
    clock::{Instant, millis},
    host::{Backend, CallId, Callback, QueueId, RootId, StreamId},
    mas::{
        introspection::{self, Answer, IntrospectionResponse, NoVerdict},
        user::UserKey,
    },
    metrics::{self, Evicted, Metric},
    token::TokenDigest,
};

/// How often a worker looks at deadlines, leases and epochs.
pub const TICK: Duration = Duration::from_millis(250);

/// How many tombstones are followed before MAS is called without a lease.
const MAX_RECHECKS: usize = 4;

/// A flight of this worker, and the requests that wait for it.
type Pending<W> = Flight<CallContext, Waiting<W>>;

/// Requests that wait, by stream.
type Waiters<W> = BTreeMap<StreamId, Waiting<W>>;

/// Returns the longest that a request is held, however often its question is asked again: one call, the lease
/// of a worker that vanished, and one more call.
pub fn max_hold(upstream: &Upstream) -> Duration {
    let call = upstream.settings.timeout + CALL_GRACE;
    call + LEASE + call
}

/// The questions of one worker. `W` is what a waiting request needs to go on.
#[derive(Debug)]
pub struct Resolver<W> {
    flights: Flights<CallContext, Waiting<W>>,
    leases: Leases,
    budget: Budget,
    membership: Membership,
    failures: FailureLog,
    /// As of the last tick or hint.
    epochs: Epochs,
    /// Calls dropped with their root context, not yet subtracted from the in-flight gauge. The next tick
    /// does it: the end of a root gets no host.
    lost_calls: usize,
    resolutions: VecDeque<Resolution<W>>,
}

impl<W> Default for Resolver<W> {
    fn default() -> Self {
        Self {
            flights: Flights::default(),
            leases: Leases::default(),
            budget: Budget::default(),
            membership: Membership::default(),
            failures: FailureLog::default(),
            epochs: Epochs::default(),
            lost_calls: 0,
            resolutions: VecDeque::new(),
        }
    }
}

/// Which worker calls MAS about a question.
enum Acquisition {
    /// None: the shared cache has the answer by now.
    Hit(Box<Cached>),
    /// Another worker, which holds the lease until then.
    Peer { check_at: Instant },
    /// This one, with or without a lease.
    Mine { leased: bool },
}

/// What the public methods do.
impl<W> Resolver<W> {
    /// Prepares a root context for its first request: joins the workers, reads the epochs.
    pub fn start<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        cb.host.tick_every(cb.root, Some(TICK));
        self.epochs.read(cb.host);
        self.membership.heartbeat(cb.host, cb.root, cb.now());
    }

    /// Returns what is known without a call: from the shared cache, or a stale answer while MAS fails. Renews
    /// an answer in the background when that is due.
    pub fn lookup<H: Backend>(&mut self, cb: &Callback<'_, H>, query: &Query<'_>) -> Option<Found> {
        let upstream = query.upstream;
        let now = cb.now();
        let count = |metric| cb.host.count(metric);
        let cached = upstream.cache.lookup(cb.host, &query.digest, now, count);
        match cached {
            Some(cached) => {
                if let Cached::Active(entry) = &cached
                    && entry.refresh_at.is_some_and(|refresh_at| refresh_at <= now)
                {
                    self.refresh(cb, query);
                }
                Some(self.found(query.digest, cached.into(), Provenance::Shared))
            }
            None => self.lookup_stale(cb, query),
        }
    }

    /// Resolves a question that [`Self::lookup`] had no answer to: joins its flight or starts it. `None`: the
    /// request is held, and [`Self::poll`] returns its resolution.
    pub fn resolve<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
        stream: StreamId,
        waiting: Waiting<W>,
    ) -> Option<Found> {
        let key = query.key();
        let started = if self.flights.contains(&key) {
            cb.host.count(Metric::Coalesced);
            Ok(None)
        } else {
            self.start_flight(cb, query)
        };
        let refused = match started {
            Ok(Some(cached)) => {
                return Some(self.found(query.digest, cached.into(), Provenance::Shared));
            }
            Ok(None) => match self.flights.join(key, stream, waiting) {
                Ok(()) => return None,
                Err(Full) => NoVerdict::Overloaded,
            },
            Err(why) => why,
        };
        Some(self.stand_in(cb, query.upstream, &query.digest, refused))
    }

    /// Renews an answer in the background while it is served.
    pub fn refresh<H: Backend>(&mut self, cb: &Callback<'_, H>, query: &Query<'_>) -> Renewal {
        let now = cb.now();
        let key = query.key();
        if self.flights.contains(&key) || self.failures.is_backing_off(&key, now) {
            return Renewal::Pending;
        }
        if let Some(renewed) = self.lookup_renewal(cb, query) {
            return Renewal::Renewed(renewed);
        }
        self.failures.note_attempt(key, now);
        let is_fresh = |cached: &Cached| !is_due(cached, now);
        let leased = match self.acquire_lease(cb, query.upstream, &key, is_fresh) {
            Acquisition::Hit(cached) => {
                let renewed = self.found(query.digest, (*cached).into(), Provenance::Shared);
                return Renewal::Renewed(renewed);
            }
            Acquisition::Peer { .. } => return Renewal::Pending,
            Acquisition::Mine { leased } => leased,
        };
        cb.host.count(Metric::Refresh);
        let call = CallContext::new(query, None);
        match self.call(cb, &call, leased) {
            Ok(state) => self.flights.insert(key, call.into_flight(now, state)),
            Err(_) => {
                self.release_lease(cb, key, Hint::Stored(key), None);
            }
        }
        Renewal::Pending
    }

    /// Forgets answers in all workers, also those that are on their way. `reason` is a metric label. Returns
    /// whose token it was, if a token's answer was removed.
    ///
    /// Nothing is written for a token that no table holds: anyone can name such a token.
    pub fn invalidate<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        cache: &SharedCache,
        what: Invalidation<'_>,
        reason: &'static str,
    ) -> Option<UserKey> {
        match what {
            Invalidation::Token(token) => {
                // In this order: an answer may be stored and its lease released in between.
                let is_asked_about = self.leases.invalidate(cb.host, token, cb.now());
                let removed = cache.remove_active(cb.host, token);
                if removed.is_some() || is_asked_about {
                    self.announce(cb, Subject::Token(token), reason);
                }
                removed.and_then(|Removed { user }| user)
            }
            Invalidation::User(user, revocation) => {
                let revocations = cache.revocations();
                if revocations
                    .add(cb.host, user, revocation, cb.now())
                    .is_err()
                {
                    log::error!(
                        "shared data could not be written; answers about a user hold until their TTL"
                    );
                }
                self.announce(cb, Subject::User(user), reason);
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
        let Some((key, flight)) = self.flights.complete(call) else {
            return;
        };
        let now = cb.now();
        cb.host.record(Metric::InFlight, -1);
        cb.host.record(
            Metric::IntrospectionMillis,
            millis(now.since(flight.asked_at)),
        );
        let answer = introspection::read(response);
        cb.host.count(Metric::Introspection(match &answer {
            Ok(Answer::Active(_)) => "active",
            Ok(Answer::Inactive(_)) => "inactive",
            Err(why) => why.label(),
        }));
        match answer {
            Ok(answer) => {
                let introspected = Introspected {
                    digest: key.digest,
                    asked_at: flight.asked_at,
                    answered_at: now,
                    answer,
                };
                self.complete(cb, key, flight, introspected);
            }
            Err(why) => self.fail(cb, key, flight, why),
        }
    }

    /// Takes in the messages of a shared queue.
    pub fn on_queue<H: Backend>(&mut self, cb: &Callback<'_, H>, queue: QueueId) {
        while let Some(message) = cb.host.dequeue(queue) {
            match Hint::decode(&message) {
                None => {}
                Some(Hint::Stored(key)) => {
                    if let Some(flight) = self.flights.take_awaiting(&key) {
                        self.resume(cb, key, flight);
                    }
                }
                Some(Hint::Failed(key)) => {
                    if let Some(flight) = self.flights.take_awaiting(&key) {
                        self.fail(cb, key, flight, NoVerdict::Elsewhere);
                    }
                }
                Some(Hint::Invalidated) => self.epochs.read(cb.host),
            }
        }
    }

    /// Looks at deadlines, leases and epochs, on behalf of the callback's root.
    pub fn on_tick<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        let now = cb.now();
        self.epochs.read(cb.host);
        self.membership.heartbeat(cb.host, cb.root, now);
        while let Some((key, flight)) = self.flights.pop_expired(now) {
            if let State::Calling { .. } = flight.state {
                cb.host.record(Metric::InFlight, -1);
                cb.host
                    .count(Metric::Introspection(NoVerdict::Lost.label()));
            }
            self.fail(cb, key, flight, NoVerdict::Lost);
        }
        let lost_calls = std::mem::take(&mut self.lost_calls);
        if lost_calls > 0 {
            let lost_calls = i64::try_from(lost_calls).unwrap_or(i64::MAX);
            cb.host.record(Metric::InFlight, -lost_calls);
        }
        // The calls go on, and their answers will be kept.
        let timed_out = self
            .flights
            .drain_waiters(|waiting| waiting.give_up_at <= now);
        for (key, waiters) in timed_out {
            self.resolve_without_verdict(cb, &key.digest, waiters, NoVerdict::Lost);
        }
        while let Some((key, flight)) = self.flights.pop_orphan() {
            self.resume(cb, key, flight);
        }
        while let Some((key, flight)) = self.flights.pop_due(now) {
            self.resume(cb, key, flight);
        }
        self.renew_leases(cb);
        self.failures.expire(now);
    }

    /// Notes that a stream has ended, whatever it waited for. A call goes on without it.
    pub fn cancel(&mut self, stream: StreamId) {
        self.flights.forget(stream);
    }

    /// Notes that a root context has ended. Envoy has dropped its calls; requests of other configurations that
    /// waited for one are asked about again at their next tick.
    pub fn on_root_end(&mut self, root: RootId) {
        self.membership.root_ended(root);
        self.lost_calls += self.flights.root_ended(root);
    }

    /// Returns the epoch counters of a token and its user, as of the last tick or hint.
    pub fn stamp(&self, digest: &TokenDigest, user: Option<&UserKey>) -> Stamp {
        self.epochs.stamp(digest, user)
    }

    /// Returns the next requests whose hold has ended. This is the only way out of a hold; the worker drains it
    /// at the end of every callback.
    pub fn poll(&mut self) -> Option<Resolution<W>> {
        self.resolutions.pop_front()
    }
}

/// Starting a flight.
impl<W> Resolver<W> {
    /// Starts a flight with no waiter. Returns the answer instead if another worker has stored it.
    fn start_flight<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
    ) -> Result<Option<Cached>, NoVerdict> {
        // Shed before anything is charged or written.
        self.check_cap(cb, query.upstream)?;
        let source = self.charge(cb, query)?;
        let call = CallContext::new(query, source);
        let (key, now) = (query.key(), cb.now());
        let state = match self.acquire_lease(cb, query.upstream, &key, |_| true) {
            Acquisition::Hit(cached) => {
                self.refund(cb, &call, &cached);
                return Ok(Some(*cached));
            }
            Acquisition::Peer { check_at } => {
                cb.host.count(Metric::LeaseWait);
                State::AwaitingPeer { check_at }
            }
            Acquisition::Mine { leased } => match self.call(cb, &call, leased) {
                Ok(state) => state,
                Err(why) => {
                    // The others may be able to call.
                    self.release_lease(cb, key, Hint::Stored(key), None);
                    return Err(why);
                }
            },
        };
        self.flights.insert(key, call.into_flight(now, state));
        Ok(None)
    }

    /// Acquires the lease. Call only after a cache miss at the callback's moment: a tombstone then shows a
    /// later store, and the cache is read again. An entry that is not `useful` is passed over.
    fn acquire_lease<H: Backend>(
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
                        Some(cached) => return Acquisition::Hit(Box::new(cached)),
                        None => cache_read_at = stored_at,
                    }
                }
            }
        }
        Acquisition::Mine { leased: false }
    }

    /// Makes the call. Returns the state of its flight.
    fn call<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        call: &CallContext,
        leased: bool,
    ) -> Result<State, NoVerdict> {
        self.check_cap(cb, &call.upstream)?;
        match call.send(cb.host, cb.root) {
            Ok(call) => {
                cb.host.record(Metric::InFlight, 1);
                Ok(State::Calling {
                    call,
                    root: cb.root,
                    leased,
                })
            }
            Err(_) => {
                let why = NoVerdict::Undeliverable;
                cb.host.count(Metric::Introspection(why.label()));
                Err(why)
            }
        }
    }

    fn check_cap<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
    ) -> Result<(), NoVerdict> {
        if self.flights.calls() < upstream.settings.max_in_flight {
            return Ok(());
        }
        let why = NoVerdict::Overloaded;
        cb.host.count(Metric::Introspection(why.label()));
        Err(why)
    }

    /// Charges an unknown token to the client of the request, if clients have a budget.
    fn charge<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
    ) -> Result<Option<Source>, NoVerdict> {
        let Some(limit) = &query.upstream.budget else {
            return Ok(None);
        };
        let Some(address) = query.origin.client_address() else {
            return Ok(None);
        };
        let (source, now) = (Source::of(&address), cb.now());
        match self.budget.spend(cb.host, &source, limit, now) {
            Ok(()) => Ok(Some(source)),
            Err(Spent { until }) => {
                let retry_after_ms = millis(until.since(now)).unsigned_abs();
                Err(NoVerdict::OverBudget { retry_after_ms })
            }
        }
    }

    /// Takes the charge back for a token that is active after all.
    fn refund<H: Backend>(&self, cb: &Callback<'_, H>, call: &CallContext, cached: &Cached) {
        if let (Cached::Active(_), Some(source)) = (cached, &call.source) {
            self.budget.refund(cb.host, source, cb.now());
        }
    }
}

/// Ending a flight.
impl<W> Resolver<W> {
    /// Stores an answer and gives it to the requests that wait, in this worker and in others.
    ///
    /// The order matters: the entry is stored before the lease is released, and the lease's mark is read with
    /// its release. A logout marks the lease first and removes the entry second, so one of the two sees the
    /// other.
    fn complete<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Pending<W>,
        introspected: Introspected,
    ) {
        let upstream = Rc::clone(&flight.call.upstream);
        self.failures.remove(&key);
        let mut is_outdated = self.is_outdated(cb, &upstream, &key, &introspected);
        let is_stored = !is_outdated && self.store(cb, &upstream, &introspected);
        let stored_at = is_stored.then_some(introspected.answered_at);
        let marks = self.end_call(cb, key, &flight, Hint::Stored(key), stored_at);
        if marks.invalidated && is_stored && introspected.is_active() {
            // The token ended between the look and the writing.
            let what = Invalidation::Token(&key.digest);
            self.invalidate(cb, &upstream.cache, what, "introspection");
            is_outdated = true;
        }
        if is_outdated && !flight.call.is_repeated {
            // Once. A second invalidation during the repeated call is not chased: its answer serves the
            // requests that wait, and is not kept.
            flight.call.is_repeated = true;
            self.resume(cb, key, flight);
            return;
        }
        let cached = upstream.cache.as_cached(&introspected);
        self.refund(cb, &flight.call, &cached);
        let is_cached = is_stored && !is_outdated;
        self.resolve_waiters(flight, cached, is_cached);
    }

    /// Ends a flight without a verdict.
    fn fail<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        flight: Pending<W>,
        why: NoVerdict,
    ) {
        self.end_call(cb, key, &flight, Hint::Failed(key), None);
        if flight.waiters.is_empty() {
            // A renewal: what it was to renew serves on.
            self.stand_in(cb, &flight.call.upstream, &key.digest, why);
        }
        self.resolve_without_verdict(cb, &key.digest, flight.waiters, why);
    }

    /// Reads the cache again, for an answer of another worker, and calls MAS if there is none. The root is the
    /// callback's: the one that the flight began with may have ended.
    fn resume<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Pending<W>,
    ) {
        let Some(waiting) = flight.waiters.values().next() else {
            return;
        };
        let upstream = Rc::clone(&waiting.upstream);
        flight.call.upstream = Rc::clone(&upstream);
        let now = cb.now();
        let cached = upstream.cache.lookup(cb.host, &key.digest, now, |_| {});
        let acquisition = match cached {
            Some(cached) => Acquisition::Hit(Box::new(cached)),
            None => self.acquire_lease(cb, &upstream, &key, |_| true),
        };
        let leased = match acquisition {
            Acquisition::Hit(cached) => {
                self.refund(cb, &flight.call, &cached);
                self.resolve_waiters(flight, *cached, true);
                return;
            }
            Acquisition::Peer { check_at } => {
                flight.state = State::AwaitingPeer { check_at };
                // The peer may have called again just now. Each request has a deadline of its own.
                flight.deadline = flight.call.deadline(now);
                self.flights.insert(key, flight);
                return;
            }
            Acquisition::Mine { leased } => leased,
        };
        match self.call(cb, &flight.call, leased) {
            Ok(state) => {
                flight.state = state;
                flight.asked_at = now;
                flight.deadline = flight.call.deadline(now);
                self.flights.insert(key, flight);
            }
            Err(why) => {
                self.release_lease(cb, key, Hint::Stored(key), None);
                self.fail(cb, key, flight, why);
            }
        }
    }

    /// Returns whether the token or its user changed while the answer was on its way.
    fn is_outdated<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        key: &QuestionKey,
        introspected: &Introspected,
    ) -> bool {
        let worker = self.membership.worker_id(cb.host);
        let has_ended =
            introspected.is_active() && self.leases.is_invalidated(cb.host, key, worker);
        has_ended || upstream.cache.is_revoked(cb.host, introspected)
    }

    /// Writes an answer to the shared cache. Returns whether it is there.
    fn store<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        introspected: &Introspected,
    ) -> bool {
        let outcome = upstream.cache.store(cb.host, introspected);
        let table = match introspected.answer {
            Answer::Active(_) => metrics::Table::Active,
            Answer::Inactive(_) => metrics::Table::Negative,
        };
        for (evicted, _) in &outcome.evicted {
            cb.host.count(Metric::Evicted(table, *evicted));
        }
        if outcome.invalidated {
            self.announce(cb, Subject::Token(&introspected.digest), "introspection");
        }
        // An invalidation finds only what the shared cache holds: workers that hold an answer which was
        // evicted from it must look there again.
        for (evicted, digest) in &outcome.evicted {
            if let (metrics::Table::Active, Evicted::Live) = (table, evicted) {
                self.epochs.bump(cb.host, Subject::Token(digest));
            }
        }
        outcome.stored
    }

    /// Releases the flight's lease, if it has one. Returns the lease's marks.
    fn end_call<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        flight: &Pending<W>,
        hint: Hint,
        stored_at: Option<Instant>,
    ) -> Marks {
        match flight.state {
            State::Calling { leased: true, .. } => self.release_lease(cb, key, hint, stored_at),
            _ => Marks::default(),
        }
    }

    /// Releases a lease and hints the other workers if one of them waits for it. With `stored_at` a tombstone
    /// stays. Returns the lease's marks.
    fn release_lease<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        hint: Hint,
        stored_at: Option<Instant>,
    ) -> Marks {
        let worker = self.membership.worker_id(cb.host);
        let marks = self.leases.release(cb.host, &key, worker, stored_at);
        if marks.contended {
            self.membership.broadcast(cb.host, hint, cb.now());
        }
        marks
    }

    fn renew_leases<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        let (worker, now) = (self.membership.worker_id(cb.host), cb.now());
        for (key, asked_at) in self.flights.leased() {
            if now.since(asked_at) + TICK >= LEASE / 2 {
                self.leases.acquire(cb.host, key, worker, now, now);
            }
        }
    }

    /// Tells all workers that answers no longer hold. The epoch is raised only after the shared entry is gone:
    /// a worker that sees the new epoch reads the cache again and must not find the old entry.
    fn announce<H: Backend>(
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
}

/// No verdict, and what serves in its place.
impl<W> Resolver<W> {
    /// Decides what serves where there is no fresh verdict, whatever the reason: a stale answer, or none. The
    /// failure is noted, so that the next request does not wait for the next failure.
    fn stand_in<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        digest: &TokenDigest,
        why: NoVerdict,
    ) -> Found {
        let now = cb.now();
        match upstream.cache.lookup_stale(cb.host, digest, now) {
            Some(entry) => {
                self.failures.note_failure(upstream.question(digest), now);
                let verdict = Verdict::Active(Box::new(entry));
                self.found(*digest, verdict, Provenance::Stale)
            }
            None => self.found(*digest, Verdict::None(why), Provenance::Introspected),
        }
    }

    /// Returns a stale answer at once if MAS has lately failed to renew it. Starts one retry in the background
    /// at the most.
    fn lookup_stale<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
    ) -> Option<Found> {
        let (upstream, key, now) = (query.upstream, query.key(), cb.now());
        let failed_at = self.failures.failed_at(&key)?;
        let entry = upstream.cache.lookup_stale(cb.host, &query.digest, now)?;
        // A failure from before this answer was asked for says nothing of MAS now.
        if failed_at + upstream.ttl < entry.fresh_until {
            return None;
        }
        self.refresh(cb, query);
        let verdict = Verdict::Active(Box::new(entry));
        Some(self.found(query.digest, verdict, Provenance::Stale))
    }

    /// Returns an answer that needs no renewal, if another worker has stored one.
    fn lookup_renewal<H: Backend>(&self, cb: &Callback<'_, H>, query: &Query<'_>) -> Option<Found> {
        let now = cb.now();
        let cached = query
            .upstream
            .cache
            .lookup(cb.host, &query.digest, now, |_| {})?;
        (!is_due(&cached, now)).then(|| self.found(query.digest, cached.into(), Provenance::Shared))
    }

    fn resolve_without_verdict<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        digest: &TokenDigest,
        waiters: Waiters<W>,
        why: NoVerdict,
    ) {
        for waiters in by_upstream(waiters) {
            let Some(waiting) = waiters.values().next() else {
                continue;
            };
            let upstream = Rc::clone(&waiting.upstream);
            let found = self.stand_in(cb, &upstream, digest, why);
            self.resolutions.push_back(Resolution { found, waiters });
        }
    }

    fn resolve_waiters(&mut self, flight: Pending<W>, cached: Cached, is_cached: bool) {
        if flight.waiters.is_empty() {
            return;
        }
        let digest = *flight.call.digest();
        let found = Found {
            is_cached,
            ..self.found(digest, cached.into(), Provenance::Introspected)
        };
        self.resolutions.push_back(Resolution {
            found,
            waiters: flight.waiters,
        });
    }

    fn found(&self, digest: TokenDigest, verdict: Verdict, provenance: Provenance) -> Found {
        let user = match &verdict {
            Verdict::Active(entry) => entry.user,
            Verdict::Inactive(_) | Verdict::None(_) => None,
        };
        Found {
            digest,
            stamp: self.epochs.stamp(&digest, user.as_ref()),
            verdict,
            provenance,
            is_cached: provenance == Provenance::Shared,
        }
    }
}

/// Splits requests by configuration: each has its own rule of what serves if there is no answer.
fn by_upstream<W>(waiters: Waiters<W>) -> Vec<Waiters<W>> {
    let mut groups: Vec<(Rc<Upstream>, Waiters<W>)> = Vec::new();
    for (stream, waiting) in waiters {
        let group = groups
            .iter_mut()
            .find(|(upstream, _)| Rc::ptr_eq(upstream, &waiting.upstream));
        match group {
            Some((_, group)) => {
                group.insert(stream, waiting);
            }
            None => {
                let upstream = Rc::clone(&waiting.upstream);
                groups.push((upstream, BTreeMap::from([(stream, waiting)])));
            }
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// Returns whether an active answer is old enough to be renewed.
fn is_due(cached: &Cached, now: Instant) -> bool {
    match cached {
        Cached::Active(entry) => entry.refresh_at.is_some_and(|refresh_at| refresh_at <= now),
        Cached::Inactive(_) => false,
    }
}
