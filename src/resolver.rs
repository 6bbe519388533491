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
pub mod client;
mod failure;
pub mod flight;
pub mod lease;
mod line;
mod load;
pub mod membership;
mod resolution;
mod upstream;

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use self::{
    budget::{Budget, Spent},
    call::{CALL_GRACE, CallContext},
    client::ClientKey,
    failure::FailureLog,
    flight::{Flight, Flights, Full, State},
    lease::{Acquired, LEASE, Leases, Marks, Tombstone},
    line::{Line, LineFull, Ticket, Turn},
    load::Slot,
    membership::{Hint, Membership},
};
pub use self::{
    load::PoolId,
    resolution::{
        Found, Invalidation, Origin, Provenance, Query, Renewal, Resolution, Verdict, Waiting,
    },
    upstream::{Admission, Overflow, Upstream},
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

/// Questions of one line that are started in one callback at the most.
const MAX_STARTS: usize = 256;

/// How long a question waits in line. It is looked at with each tick, so a request waits for a second at the
/// most, not counting what ticks are late.
const LINE_TIMEOUT: Duration = Duration::from_millis(750);

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
    /// The questions over the cap, by pool.
    lines: BTreeMap<PoolId, Line>,
    /// When this worker last looked at deadlines.
    ticked_at: Option<Instant>,
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
            lines: BTreeMap::new(),
            ticked_at: None,
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
    /// None for a while: a call has just failed, and a stale answer serves.
    Failed,
    /// This one, with or without a lease.
    Mine { leased: bool },
}

/// How a question begins.
enum Start {
    /// Not at all: the shared cache has the answer by now.
    Hit(Box<Cached>),
    /// With a flight.
    Flight(CallContext, State),
}

/// What the public methods do.
impl<W> Resolver<W> {
    /// Prepares a root context for its first request: joins the workers, reads the epochs.
    pub fn start<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        cb.host.tick_every(cb.root, Some(TICK));
        self.ticked_at.get_or_insert_with(|| cb.now());
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
        if self.flights.contains(&key) && !self.can_overtake(query, &key) {
            cb.host.count(Metric::Coalesced);
            return match self.flights.join(key, stream, waiting) {
                Ok(()) => None,
                Err(Full) => {
                    Some(self.stand_in(cb, query.upstream, &query.digest, NoVerdict::Overloaded))
                }
            };
        }
        match self.begin(cb, query) {
            Ok(Start::Hit(cached)) => {
                Some(self.found(query.digest, (*cached).into(), Provenance::Shared))
            }
            Ok(Start::Flight(call, state)) => {
                let mut flight = call.into_flight(cb.now(), state);
                if let State::Queued { .. } = state {
                    flight.deadline = cb.now() + LINE_TIMEOUT;
                }
                // Requests of another pool that wait in line for the same answer.
                if let Some(queued) = self.take_from_line(&key) {
                    flight.waiters = queued.waiters;
                }
                flight.waiters.insert(stream, waiting);
                self.flights.insert(key, flight);
                None
            }
            Err(why) => Some(self.stand_in(cb, query.upstream, &query.digest, why)),
        }
    }

    /// Renews an answer in the background while it is served.
    pub fn refresh<H: Backend>(&mut self, cb: &Callback<'_, H>, query: &Query<'_>) -> Renewal {
        let now = cb.now();
        let key = query.key();
        let slot = Slot {
            pool: query.upstream.admission.pool,
            client: None,
        };
        if self.flights.contains(&key)
            || self.failures.is_backing_off(&key, now)
            || !self.admits(query.upstream, &slot)
        {
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
            Acquisition::Peer { .. } | Acquisition::Failed => return Renewal::Pending,
            Acquisition::Mine { leased } => leased,
        };
        cb.host.count(Metric::Refresh);
        let call = CallContext::new(query, None);
        match self.call(cb, &call, leased) {
            Ok(state) => self.flights.insert(key, call.into_flight(now, state)),
            Err(why) => {
                self.stand_in(cb, query.upstream, &query.digest, why);
                self.release_failed(cb, query.upstream, key);
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
                let removed = cache.remove_active(cb.host, token);
                let is_asked_about = self.leases.invalidate(cb.host, token, cb.now());
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
        self.start_queued(cb);
    }

    /// Takes in the messages of a shared queue.
    pub fn on_queue<H: Backend>(&mut self, cb: &Callback<'_, H>, queue: QueueId) {
        while let Some(message) = cb.host.dequeue(queue) {
            match Hint::decode(&message) {
                None => {}
                Some(Hint::Stored(key)) => {
                    let queued = self.take_from_line(&key);
                    if let Some(flight) = queued.or_else(|| self.flights.take_awaiting(&key)) {
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
        self.forgive_lag(now);
        while let Some((key, flight)) = self.flights.pop_expired(now) {
            match flight.state {
                State::Calling { .. } => {
                    cb.host.record(Metric::InFlight, -1);
                    cb.host
                        .count(Metric::Introspection(NoVerdict::Lost.label()));
                    self.fail(cb, key, flight, NoVerdict::Lost);
                }
                State::Queued { ticket, pool, .. } => {
                    self.leave_line(pool, ticket);
                    self.end_queued(cb, key, flight);
                }
                State::AwaitingPeer { .. } | State::Orphaned => {
                    self.fail(cb, key, flight, NoVerdict::Lost);
                }
            }
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
        self.start_queued(cb);
        self.renew_leases(cb);
        self.failures.expire(now);
    }

    /// Notes that a stream has ended, whatever it waited for. A call goes on without it.
    pub fn cancel(&mut self, stream: StreamId) {
        if let Some(flight) = self.flights.forget(stream)
            && let State::Queued { ticket, pool, .. } = flight.state
        {
            self.leave_line(pool, ticket);
        }
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
    /// at the end of every callback of a root.
    pub fn poll(&mut self) -> Option<Resolution<W>> {
        self.resolutions.pop_front()
    }

    /// Takes back the requests of a resolution that the worker leaves for later.
    pub fn put_back(&mut self, resolution: Resolution<W>) {
        self.resolutions.push_front(resolution);
    }
}

/// Starting a flight.
impl<W> Resolver<W> {
    /// Begins with a question that no flight of this worker answers.
    fn begin<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
    ) -> Result<Start, NoVerdict> {
        if !self.flights.has_room() {
            return Err(NoVerdict::Overloaded);
        }
        let upstream = query.upstream;
        let client = self.client(query);
        self.check_budget(cb, query, client.as_ref())?;
        let call = CallContext::new(query, client);
        if !self.admits(upstream, &call.slot()) {
            return match upstream.admission.overflow {
                Overflow::Wait => self.queue(cb, call),
                Overflow::Refuse => Err(overloaded(cb)),
            };
        }
        let key = query.key();
        let state = match self.acquire_lease(cb, upstream, &key, |_| true) {
            Acquisition::Hit(cached) => return Ok(Start::Hit(cached)),
            Acquisition::Failed => return Err(NoVerdict::Elsewhere),
            Acquisition::Peer { check_at } => {
                cb.host.count(Metric::LeaseWait);
                State::AwaitingPeer { check_at }
            }
            Acquisition::Mine { leased } => match self.call(cb, &call, leased) {
                Ok(state) => state,
                Err(why) => {
                    self.release_failed(cb, upstream, key);
                    return Err(why);
                }
            },
        };
        Ok(Start::Flight(call, state))
    }

    /// Returns whether a question that waits in another pool's line can be called at once by this pool.
    fn can_overtake(&self, query: &Query<'_>, key: &QuestionKey) -> bool {
        let pool = query.upstream.admission.pool;
        let slot = Slot { pool, client: None };
        self.flights
            .queued_in(key)
            .is_some_and(|queued_in| queued_in != pool)
            && self.admits(query.upstream, &slot)
    }

    fn admits(&self, upstream: &Upstream, slot: &Slot) -> bool {
        let cap = upstream.settings.max_in_flight;
        self.flights.load().admits(slot, cap)
    }

    /// Returns the client of the request, if its budget or its share matters: knowing it is a host call.
    fn client(&self, query: &Query<'_>) -> Option<ClientKey> {
        let upstream = query.upstream;
        let (pool, cap) = (upstream.admission.pool, upstream.settings.max_in_flight);
        if upstream.budget.is_none() && !self.flights.load().counts_clients(pool, cap) {
            return None;
        }
        let address = query.origin.client_address()?;
        Some(ClientKey::of(&address))
    }

    fn check_budget<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
        client: Option<&ClientKey>,
    ) -> Result<(), NoVerdict> {
        let (Some(limit), Some(client)) = (&query.upstream.budget, client) else {
            return Ok(());
        };
        let now = cb.now();
        self.budget
            .check(cb.host, client, &query.digest, limit, now)
            .map_err(|Spent { until }| NoVerdict::OverBudget {
                retry_after_ms: millis(until.since(now)).unsigned_abs(),
            })
    }

    /// Charges the client of a call for a token that MAS called inactive.
    fn charge<H: Backend>(&self, cb: &Callback<'_, H>, call: &CallContext, cached: &Cached) {
        if let (Cached::Inactive(_), Some(client), Some(limit)) =
            (cached, &call.client, &call.upstream.budget)
        {
            self.budget
                .charge(cb.host, client, call.digest(), limit, cb.now());
        }
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

    /// Makes the call. Returns the state of its flight.
    fn call<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        call: &CallContext,
        leased: bool,
    ) -> Result<State, NoVerdict> {
        match call.send(cb.host, cb.root) {
            Ok(id) => {
                cb.host.record(Metric::InFlight, 1);
                Ok(State::Calling {
                    call: id,
                    root: cb.root,
                    slot: call.slot(),
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
}

/// Waiting in line for a free call.
impl<W> Resolver<W> {
    /// Puts a question into its pool's line.
    fn queue<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        call: CallContext,
    ) -> Result<Start, NoVerdict> {
        let pool = call.upstream.admission.pool;
        let key = call.upstream.question(call.digest());
        let line = self.lines.entry(pool).or_default();
        match line.push(key, call.client, call.bytes()) {
            Ok((ticket, displaced)) => {
                cb.host.count(Metric::LineWait);
                // Their requests are answered with the next tick: this callback may answer its own only.
                for key in displaced {
                    self.flights.expire_queued(&key);
                }
                let cap = call.upstream.settings.max_in_flight;
                Ok(Start::Flight(call, State::Queued { ticket, pool, cap }))
            }
            Err(LineFull) => Err(overloaded(cb)),
        }
    }

    /// Calls MAS about the questions that wait in line, as far as calls are free.
    fn start_queued<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        for pool in self.lines.keys().copied().collect::<Vec<_>>() {
            // A call that cannot be made leaves its slot free, so the number of tries is bounded as well.
            for _ in 0..MAX_STARTS {
                let Some(key) = self.next_queued(pool) else {
                    break;
                };
                if let Some(flight) = self.flights.take_queued(&key) {
                    self.resume(cb, key, flight);
                }
            }
        }
    }

    /// Takes the next question out of a pool's line, if a call for it is free.
    fn next_queued(&mut self, pool: PoolId) -> Option<QuestionKey> {
        let flights = &self.flights;
        self.lines.get_mut(&pool)?.pop(|client, key| {
            let load = flights.load();
            match flights.queued_cap(key) {
                // Its flight has ended.
                None => Turn::Call,
                Some(cap) if load.is_full(pool, cap) => Turn::Stop,
                Some(cap) if load.admits(&Slot { pool, client }, cap) => Turn::Call,
                Some(_) => Turn::Pass,
            }
        })
    }

    /// Ends a flight that has waited in line for too long, unless another worker has the answer by now.
    fn end_queued<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        flight: Pending<W>,
    ) {
        let upstream = Rc::clone(&flight.call.upstream);
        let cached = upstream
            .cache
            .lookup(cb.host, &key.digest, cb.now(), |_| {});
        match cached {
            Some(cached) => self.resolve_waiters(flight, cached, true),
            None => self.fail(cb, key, flight, overloaded(cb)),
        }
    }

    /// Takes a flight out of its line.
    fn take_from_line(&mut self, key: &QuestionKey) -> Option<Pending<W>> {
        let flight = self.flights.take_queued(key)?;
        if let State::Queued { ticket, pool, .. } = flight.state {
            self.leave_line(pool, ticket);
        }
        Some(flight)
    }

    /// Gives the questions in line the time back by which this tick is late. A worker that has a thousand requests
    /// to read at once comes to nothing else for a while, and MAS's answers wait in its sockets: that time says
    /// nothing of MAS.
    fn forgive_lag(&mut self, now: Instant) {
        let since = self.ticked_at.replace(now).unwrap_or(now);
        let lag = now.since(since).saturating_sub(TICK);
        if !lag.is_zero() {
            self.flights.postpone_queued(lag, now + LINE_TIMEOUT);
        }
    }

    fn leave_line(&mut self, pool: PoolId, ticket: Ticket) {
        if let Some(line) = self.lines.get_mut(&pool) {
            line.remove(ticket);
        }
    }
}

/// Ending a flight.
impl<W> Resolver<W> {
    /// Stores an answer and gives it to the requests that wait, in this worker and in others.
    ///
    /// The order matters: the entry is stored before the lease is released, and the lease's mark is read with
    /// its release. A logout removes the entry first and marks the lease second, so one of the two sees the
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
        let tombstone = is_stored.then_some(Tombstone::Stored(introspected.answered_at));
        let marks = self.end_call(cb, key, &flight, Hint::Stored(key), tombstone);
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
        self.charge(cb, &flight.call, &cached);
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
        let upstream = Rc::clone(&flight.call.upstream);
        // A renewal has no waiter; what it was to renew serves on.
        let serves_stale = matches!(
            self.stand_in(cb, &upstream, &key.digest, why).verdict,
            Verdict::Active(_)
        );
        let tombstone = serves_stale.then_some(Tombstone::Failed(cb.now()));
        self.end_call(cb, key, &flight, Hint::Failed(key), tombstone);
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
            None if !self.admits(&upstream, &flight.call.slot()) => {
                self.queue_again(cb, key, flight);
                return;
            }
            None => self.acquire_lease(cb, &upstream, &key, |_| true),
        };
        let leased = match acquisition {
            Acquisition::Hit(cached) => {
                self.charge(cb, &flight.call, &cached);
                self.resolve_waiters(flight, *cached, true);
                return;
            }
            Acquisition::Failed => {
                self.fail(cb, key, flight, NoVerdict::Elsewhere);
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
                self.release_failed(cb, &upstream, key);
                self.fail(cb, key, flight, why);
            }
        }
    }

    /// Puts a flight whose answer did not come into the line of its pool.
    fn queue_again<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Pending<W>,
    ) {
        let admission = flight.call.upstream.admission;
        if admission.overflow == Overflow::Refuse {
            self.fail(cb, key, flight, overloaded(cb));
            return;
        }
        let line = self.lines.entry(admission.pool).or_default();
        match line.push(key, flight.call.client, flight.call.bytes()) {
            Ok((ticket, displaced)) => {
                cb.host.count(Metric::LineWait);
                for key in displaced {
                    self.flights.expire_queued(&key);
                }
                flight.state = State::Queued {
                    ticket,
                    pool: admission.pool,
                    cap: flight.call.upstream.settings.max_in_flight,
                };
                flight.deadline = cb.now() + LINE_TIMEOUT;
                self.flights.insert(key, flight);
            }
            Err(LineFull) => self.fail(cb, key, flight, overloaded(cb)),
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
        tombstone: Option<Tombstone>,
    ) -> Marks {
        match flight.state {
            State::Calling { leased: true, .. } => self.release_lease(cb, key, hint, tombstone),
            _ => Marks::default(),
        }
    }

    /// Releases the lease of a call that could not be made. The other workers may be able to make it, unless a
    /// stale answer serves: then they leave MAS alone for a while, too.
    fn release_failed<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        key: QuestionKey,
    ) {
        let now = cb.now();
        let stale = upstream.cache.lookup_stale(cb.host, &key.digest, now);
        let tombstone = stale.is_some().then_some(Tombstone::Failed(now));
        self.release_lease(cb, key, Hint::Stored(key), tombstone);
    }

    /// Releases a lease and hints the other workers if one of them waits for it. Returns the lease's marks.
    fn release_lease<H: Backend>(
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

fn overloaded<H: Backend>(cb: &Callback<'_, H>) -> NoVerdict {
    let why = NoVerdict::Overloaded;
    cb.host.count(Metric::Introspection(why.label()));
    why
}
