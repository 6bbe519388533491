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
//! The non-obvious rule: every way to "no verdict" leads through one function, `stand_in`. It serves a stale answer
//! if MAS fails, and configuration and expiry allow it. No client can make it do so while MAS is well: a known token,
//! one of which an active answer is still there, is exempt from the budget and the client's share, has calls that no
//! flood can take, and comes first in line.

pub mod budget;
mod call;
pub mod client;
mod failure;
pub mod flight;
pub mod lease;
mod limits;
mod line;
mod load;
mod long_answer;
pub mod membership;
mod report;
mod resolution;
mod share;
mod upstream;
mod workers;

use std::{collections::VecDeque, rc::Rc, time::Duration};

use self::{
    call::{CALL_GRACE, CallContext},
    client::ClientKey,
    failure::FailureLog,
    flight::{Flight, Flights, Full, State},
    lease::{LEASE, Leased, Tombstone},
    limits::Limits,
    line::Turn,
    load::Slot,
    long_answer::LongAnswers,
    membership::Hint,
    report::Reports,
    workers::{Acquisition, Workers},
};
pub use self::{
    flight::WaiterId,
    load::PoolId,
    resolution::{
        Found, Invalidation, Origin, Provenance, Query, Renewal, Resolution, Verdict, Waiting,
    },
    upstream::{Admission, Overflow, Upstream},
};
use crate::{
    cache::{
        ActiveEntry, Cached, Introspected, SharedCache, StoreOutcome,
        ended::Event,
        epoch::{Stamp, Subject},
        question::QuestionKey,
        table::Removed,
        token_secret::SharedTokenSecret,
    },
    clock::{Instant, millis},
    host::{Backend, CallId, Callback, NotSent, QueueId, RootId, Store, StreamId},
    mas::{
        introspection::{self, Answer, IntrospectionResponse, NoVerdict},
        user::UserKey,
    },
    metrics::{self, Evicted, IntrospectionOutcome, InvalidationReason, Metric},
    sorted::SortedMap,
    token::{TokenDigest, TokenSecret},
};

/// How often a worker looks at deadlines, leases and epochs.
pub const TICK: Duration = Duration::from_millis(250);

/// Questions of one line that are started in one callback at the most.
const MAX_STARTS: usize = 256;

/// How long a question waits in line. It is looked at with each tick, so a request waits for a second at the
/// most, not counting what ticks are late.
const LINE_TIMEOUT: Duration = Duration::from_millis(750);

/// Longest token that MAS is asked about, in bytes. One of MAS has some hundred at the most, and a macaroon less than 1 KiB.
/// Each question holds its token while it waits, in every worker to which a client brings it.
const MAX_TOKEN_BYTES: usize = 4 * 1024;

/// A call that took less than this is brief: what MAS tells while it lasts is told a moment ago when its answer serves.
const BRIEF_CALL: Duration = Duration::from_millis(250);

/// How long after MAS has told of a user an answer from before may still serve.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// A worker that comes to no tick for so long has so much else to do that MAS's answers wait in its sockets.
const BUSY: Duration = Duration::from_secs(1);

/// The most that the time in which the worker is busy lengthens a wait by.
const MAX_LAG: Duration = Duration::from_secs(30);

/// A flight of this worker, and the requests that wait for it.
type Pending<W> = Box<Flight<CallContext, Waiting<W>>>;

/// Requests that wait.
type Waiters<W> = SortedMap<WaiterId, Waiting<W>>;

/// Returns the longest that a request is held, however often its question is asked again: one call, the lease
/// of a worker that vanished, and one more call.
fn max_hold(upstream: &Upstream) -> Duration {
    let call = upstream.settings.timeout + CALL_GRACE;
    call + LEASE + call
}

/// The questions of one worker. `W` is what a waiting request needs to go on.
#[derive(Debug)]
pub struct Resolver<W> {
    flights: Flights<CallContext, Waiting<W>>,
    workers: Workers,
    token_secret: SharedTokenSecret,
    limits: Limits,
    failures: FailureLog,
    long_answers: LongAnswers,
    reports: Reports,
    /// When this worker last looked at deadlines.
    ticked_at: Option<Instant>,
    /// How many requests have gone on before their question was resolved: the number of the next.
    passed: u64,
    resolutions: VecDeque<Resolution<W>>,
}

impl<W> Default for Resolver<W> {
    fn default() -> Self {
        Self {
            flights: Flights::default(),
            workers: Workers::default(),
            token_secret: SharedTokenSecret::default(),
            limits: Limits::default(),
            failures: FailureLog::default(),
            long_answers: LongAnswers::default(),
            reports: Reports::default(),
            ticked_at: None,
            passed: 0,
            resolutions: VecDeque::new(),
        }
    }
}

/// How a question begins.
enum Start {
    /// Not at all: the shared cache has the answer by now.
    Hit(Cached),
    /// Not at all: another worker's call has just failed, and this stale answer serves.
    Stale(Box<ActiveEntry>),
    /// With a flight.
    Flight(CallContext, State),
}

/// What the public methods do.
impl<W> Resolver<W> {
    /// Prepares a root context for its first request: joins the workers, reads the epochs.
    pub fn start<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        cb.host.tick_every(cb.root, Some(TICK));
        // The last root may have ended long ago: that no timer ran since is no lag.
        self.ticked_at = Some(cb.now());
        self.workers.attend(cb);
    }

    /// The secret under which all workers of this process name tokens.
    pub fn token_secret(&self, store: &impl Store) -> TokenSecret {
        self.token_secret.get(store)
    }

    /// Returns what is known without a call: from the shared cache, or a stale answer while MAS fails. Renews
    /// an answer in the background when that is due.
    pub fn lookup<H: Backend>(&mut self, cb: &Callback<'_, H>, query: &Query<'_>) -> Option<Found> {
        self.look(cb, query, false)
    }

    /// The same, where what MAS told of users counts as of the last reading of the epochs: see [`Self::read_old_epochs`].
    /// Not for an answer that its reader keeps, as Synapse does with introspections.
    pub fn lookup_as_of_epochs<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
    ) -> Option<Found> {
        self.look(cb, query, true)
    }

    #[inline(never)]
    fn look<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
        as_of_epochs: bool,
    ) -> Option<Found> {
        let upstream = query.upstream;
        let now = cb.now();
        self.workers.read_old_epochs(cb, now);
        let epochs = as_of_epochs.then(|| self.workers.epochs());
        let count = |metric| cb.host.count(metric);
        let cached = upstream
            .cache
            .lookup_as_of(cb.host, &query.digest, now, epochs, count);
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
        if self.must_not_queue(query, &key) {
            let why = overloaded(cb);
            return Some(self.stand_in(cb, query.upstream, &query.digest, why));
        }
        if self.flights.contains(&key) && !self.can_overtake(query, &key) {
            cb.host.count(Metric::Coalesced);
            return match self.flights.join(key, id, waiting) {
                Ok(()) => None,
                Err(Full) => Some(self.refuse(cb, query.upstream, &query.digest)),
            };
        }
        match self.begin(cb, query, waiting.client) {
            Ok(Start::Hit(cached)) => {
                Some(self.found(query.digest, cached.into(), Provenance::Shared))
            }
            Ok(Start::Stale(entry)) => Some(self.serve_stale(cb, query.key(), entry)),
            Ok(Start::Flight(call, state)) => {
                let mut flight = call.into_flight(cb.now(), state);
                if let State::Queued { .. } = state {
                    flight.deadline = cb.now() + LINE_TIMEOUT;
                }
                // Requests of another pool that wait in line for the same answer.
                if let Some(queued) = self.take_from_line(&key) {
                    flight.waiters = queued.waiters;
                    flight.is_joined = true;
                }
                flight.waiters.insert(id, waiting);
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
            is_known: true,
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
        let leased = match self.workers.acquire(cb, query.upstream, &key, is_fresh) {
            Acquisition::Hit(cached) => {
                let renewed = self.found(query.digest, cached.into(), Provenance::Shared);
                return Renewal::Renewed(renewed);
            }
            Acquisition::Peer { .. } | Acquisition::Failed(_) => return Renewal::Pending,
            Acquisition::Mine { leased } => leased,
        };
        cb.host.count(Metric::Refresh);
        let call = CallContext::new(query, None, true);
        match self.call(cb, &call, leased) {
            Ok(state) => self.flights.insert(key, call.into_flight(now, state)),
            Err(why) => {
                self.stand_in(cb, query.upstream, &query.digest, why);
                self.release_failed(cb, query.upstream, key);
            }
        }
        Renewal::Pending
    }

    /// Forgets answers in all workers, also those that are on their way. Returns what was known of a token, if an answer about
    /// it was removed.
    ///
    /// Anyone can name an invented token, so only the removal of an answer is told to the other workers, by their epoch. The
    /// count of the token's ends is enough for the rest: no worker keeps a grant of an answer that is not in the shared
    /// cache, and one that asks about the token takes out what it stores, and tells of it, or does not store it.
    ///
    /// The order matters: the end is counted first and the answer removed second. The worker that asks stores first and
    /// reads the count second, so one of the two sees the other. A refusal is counted and the answer doubted in that order.
    pub fn invalidate<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        cache: &SharedCache,
        what: Invalidation<'_>,
        reason: InvalidationReason,
    ) -> Option<Removed> {
        match what {
            Invalidation::Token(token) => {
                self.workers.note_event(cb, token, Event::End);
                self.void(cb, cache, token, Event::End, reason)
            }
            Invalidation::Refusal(token) => {
                self.workers.note_event(cb, token, Event::Refusal);
                self.void(cb, cache, token, Event::Refusal, reason)
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
        note_duration(cb, &flight);
        let answer = introspection::read(response);
        let outcome = match &answer {
            Ok(Answer::Active(_)) => Some(IntrospectionOutcome::Active),
            Ok(Answer::Inactive(_)) => Some(IntrospectionOutcome::Inactive),
            Err(why) => why.outcome(),
        };
        count_outcome(cb, outcome);
        match answer {
            Ok(answer) => {
                let lifetime = answer.lifetime(response.lifetime);
                let mut introspected =
                    Introspected::new(key.digest, flight.asked_at, now, answer, lifetime);
                introspected.is_only_answer =
                    flight.leased() != Leased::No && is_brief(&introspected);
                self.complete(cb, key, flight, introspected);
            }
            Err(NoVerdict::Timeout) if self.is_excused(&flight, now) => {
                flight.call.is_excused = true;
                self.end_call(cb, key, &flight, Hint::Stored(key), None);
                self.resume(cb, key, flight);
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
                    let answered = self.take_answered(cb, &key);
                    if let Some(flight) = answered.or_else(|| self.flights.take_awaiting(&key)) {
                        self.resume(cb, key, flight);
                    }
                }
                Some(Hint::Failed(key, at)) => {
                    self.fail_awaiting(cb, key, at, NoVerdict::Elsewhere);
                }
                Some(Hint::Outdated(key, at)) => {
                    self.fail_awaiting(cb, key, at, NoVerdict::Outdated);
                }
                Some(Hint::Invalidated) => self.workers.read_epochs(cb),
                // Its call has ended, and what it brought is in the shared cache, unless the token has ended since.
                Some(Hint::Wanted(key)) if !self.flights.note_wanted(&key) => {
                    let tombstone = Tombstone::Stored(cb.now());
                    self.workers
                        .release(cb, key, Hint::Stored(key), Some(tombstone));
                }
                Some(Hint::Wanted(_)) => {}
            }
        }
    }

    /// Looks at deadlines, leases and epochs, on behalf of the callback's root.
    pub fn on_tick<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        let now = cb.now();
        self.workers.attend(cb);
        self.forgive_lag(now);
        // A root that has ended left its calls free. Nobody is refused for want of one.
        self.start_queued(cb);
        // The calls go on, and their answers will be kept.
        let timed_out = self
            .flights
            .drain_waiters(|waiting| waiting.give_up_at <= now);
        for (key, waiters) in timed_out {
            self.resolve_without_verdict(cb, &key.digest, waiters, NoVerdict::Lost);
        }
        // Before any of them ends: another worker may be calling for it once more.
        while let Some((key, flight)) = self.flights.pop_due(now) {
            self.resume(cb, key, flight);
        }
        while let Some((key, flight)) = self.flights.pop_expired(now) {
            match flight.state {
                State::Calling { .. } => {
                    note_duration(cb, &flight);
                    count_outcome(cb, NoVerdict::Lost.outcome());
                    self.fail(cb, key, flight, NoVerdict::Lost);
                }
                State::Queued { place, .. } => {
                    self.limits.leave_line(place);
                    self.end_queued(cb, key, flight);
                }
                State::AwaitingPeer { .. } | State::Orphaned => {
                    self.fail(cb, key, flight, NoVerdict::Lost);
                }
            }
        }
        while let Some((key, flight)) = self.flights.pop_orphan() {
            self.resume(cb, key, flight);
        }
        self.start_queued(cb);
        for (key, asked_at) in self.flights.leased() {
            if now.since(asked_at) + TICK >= LEASE / 2 {
                self.workers.renew(cb, key);
            }
        }
        self.failures.expire(now);
    }

    /// Notes that a stream has ended, whatever it waited for. A call goes on without it.
    pub fn cancel(&mut self, stream: StreamId) {
        if let Some(flight) = self.flights.forget(stream)
            && let State::Queued { place, .. } = flight.state
        {
            self.limits.leave_line(place);
        }
    }

    /// Notes that a root context has ended. Envoy has dropped its calls; requests of other configurations that
    /// waited for one are asked about again at their next tick.
    pub fn on_root_end(&mut self, root: RootId) {
        self.workers.on_root_end(root);
        self.flights.root_ended(root);
    }

    /// Reads what other workers have voided, if this worker has not for most of a second.
    pub fn read_old_epochs<H: Backend>(&mut self, cb: &Callback<'_, H>, now: Instant) {
        self.workers.read_old_epochs(cb, now);
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

/// Starting a flight.
impl<W> Resolver<W> {
    /// Names a request that is to wait.
    fn waiter_id(&mut self, stream: Option<StreamId>) -> WaiterId {
        match stream {
            Some(stream) => WaiterId::Held(stream),
            None => {
                self.passed += 1;
                WaiterId::Passed(self.passed)
            }
        }
    }

    /// Returns a request as it begins to wait.
    fn waiting<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
        waiter: W,
    ) -> Waiting<W> {
        let now = cb.now();
        let counts_clients = self.flights.counts_clients();
        Waiting {
            upstream: Rc::clone(query.upstream),
            since: now,
            give_up_at: now + max_hold(query.upstream),
            client: counts_clients.then(|| query.client()).flatten(),
            waiter,
        }
    }

    /// Begins with a question that no flight of this worker answers, for a request in the place of `placed`.
    fn begin<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
        placed: Option<ClientKey>,
    ) -> Result<Start, NoVerdict> {
        if query.token.as_bytes().len() > MAX_TOKEN_BYTES {
            return Err(NoVerdict::TokenTooLong);
        }
        let upstream = query.upstream;
        let has_room = self.flights.has_room(placed.as_ref());
        let client = placed.or_else(|| Limits::client(self.flights.load(), query));
        let slot = Slot {
            pool: upstream.admission.pool,
            client,
            is_known: false,
        };
        let matters = client.is_some() || !has_room || !self.admits(upstream, &slot);
        let is_known = matters && upstream.cache.is_known(cb.host, &query.digest, cb.now());
        // There is always room for the first request with a known token: no client has many.
        if !has_room && !is_known {
            return Err(NoVerdict::Overloaded);
        }
        let call = CallContext::new(query, client, is_known);
        self.limits.check_budget(cb, &call)?;
        if !self.admits(upstream, &call.slot()) {
            return match upstream.admission.overflow {
                Overflow::Wait => {
                    let state = self.queue(cb, &call)?;
                    Ok(Start::Flight(call, state))
                }
                Overflow::Refuse => Err(overloaded(cb)),
            };
        }
        let key = query.key();
        let state = match self.workers.acquire(cb, upstream, &key, |_| true) {
            Acquisition::Hit(cached) => return Ok(Start::Hit(cached)),
            Acquisition::Failed(Some(entry)) => return Ok(Start::Stale(entry)),
            Acquisition::Failed(None) => return Err(NoVerdict::Elsewhere),
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
        self.flights.queued(key).is_some_and(|queued| {
            let slot = Slot {
                pool,
                client: None,
                is_known: queued.call.is_known,
            };
            queued.call.upstream.admission.pool != pool && self.admits(query.upstream, &slot)
        })
    }

    /// Returns whether a question waits in another pool's line, and this pool can neither wait nor call.
    fn must_not_queue(&self, query: &Query<'_>, key: &QuestionKey) -> bool {
        let admission = query.upstream.admission;
        let queued_in = self.flights.queued_in(key);
        admission.overflow == Overflow::Refuse
            && queued_in.is_some_and(|queued_in| queued_in != admission.pool)
            && !self.can_overtake(query, key)
    }

    fn admits(&self, upstream: &Upstream, slot: &Slot) -> bool {
        let cap = upstream.settings.max_in_flight;
        self.flights.load().admits(slot, cap)
    }

    /// Makes the call. Returns the state of its flight.
    fn call<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        call: &CallContext,
        leased: Leased,
    ) -> Result<State, NoVerdict> {
        let asked_at = self.workers.point(cb);
        match call.send(cb.host, cb.root) {
            Ok(id) => Ok(State::Calling {
                call: id,
                root: cb.root,
                slot: call.slot(),
                leased,
                asked_at,
            }),
            Err(not_sent) => {
                let why = match not_sent {
                    NotSent::UnknownCluster => NoVerdict::UnknownCluster,
                    NotSent::Refused => NoVerdict::Undeliverable,
                };
                count_outcome(cb, why.outcome());
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
        call: &CallContext,
    ) -> Result<State, NoVerdict> {
        let Ok((place, displaced)) = self.limits.enter_line(call) else {
            return Err(overloaded(cb));
        };
        cb.host.count(Metric::LineWait);
        // Their requests are answered with the next tick: this callback may answer its own only.
        for key in displaced {
            self.flights.expire_queued(&key);
        }
        let cap = call.upstream.settings.max_in_flight;
        Ok(State::Queued { place, cap })
    }

    /// Calls MAS about the questions that wait in line, as far as calls are free.
    fn start_queued<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        if self.limits.have_no_lines() {
            return;
        }
        for pool in self.limits.pools() {
            // A call that cannot be made leaves its slot free, so the number of tries is bounded as well.
            for _ in 0..MAX_STARTS {
                let Some(key) = self.next_queued(pool) else {
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

    /// Takes the next question out of a pool's line, if a call for it is free.
    fn next_queued(&mut self, pool: PoolId) -> Option<QuestionKey> {
        let flights = &self.flights;
        let largest_cap = self.limits.largest_cap(pool);
        self.limits.next_in_line(pool, |slot, key| {
            let load = flights.load();
            match flights.queued_cap(key) {
                // Its flight has ended.
                None => Turn::Call,
                Some(cap) if load.admits(slot, cap) => Turn::Call,
                Some(_) if load.is_full(slot, largest_cap) => Turn::Stop,
                Some(_) => Turn::Pass,
            }
        })
    }

    /// Ends a flight that has waited in line for too long, unless another worker has the answer by now.
    #[allow(clippy::boxed_local, reason = "flights are boxed everywhere")]
    fn end_queued<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Pending<W>,
    ) {
        let mut has_failed = false;
        while let Some(waiters) = next_group(&mut flight.waiters) {
            let Some((_, waiting)) = waiters.first() else {
                continue;
            };
            let cache = &Rc::clone(&waiting.upstream).cache;
            match cache.lookup(cb.host, &key.digest, cb.now(), |_| {}) {
                Some(cached) => self.resolve_waiters(&key.digest, waiters, cached, true),
                None => {
                    has_failed = true;
                    self.resolve_without_verdict(cb, &key.digest, waiters, NoVerdict::Overloaded);
                }
            }
        }
        if has_failed {
            overloaded(cb);
        }
    }

    /// Takes a flight out of its line if the shared cache has its answer by now. Otherwise it keeps its place.
    fn take_answered<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
    ) -> Option<Pending<W>> {
        let cache = &self.flights.queued(key)?.call.upstream.cache;
        cache.lookup(cb.host, &key.digest, cb.now(), |_| {})?;
        self.take_from_line(key)
    }

    /// Takes a flight out of its line.
    fn take_from_line(&mut self, key: &QuestionKey) -> Option<Pending<W>> {
        let flight = self.flights.take_queued(key)?;
        if let State::Queued { place, .. } = flight.state {
            self.limits.leave_line(place);
        }
        Some(flight)
    }

    /// Gives all that waits the time back by which this tick is late. A worker that has a thousand requests
    /// to read at once comes to nothing else for a while, and MAS's answers wait in its sockets: that time says
    /// nothing of MAS. Nothing ends before they are read.
    ///
    /// Each wait has an end all the same: a question in line waits no longer than if it had just come, and everything
    /// else no more than [`MAX_LAG`] longer.
    fn forgive_lag(&mut self, now: Instant) {
        let lag = self.lag(now);
        self.ticked_at = Some(now);
        if lag.is_zero() {
            return;
        }
        for flight in self.flights.iter_mut() {
            match flight.state {
                // Its question has left the line.
                State::Queued { .. } if flight.deadline == Instant::default() => {}
                State::Queued { .. } => {
                    flight.deadline = (flight.deadline + lag).min(now + LINE_TIMEOUT);
                }
                _ => {
                    let latest = flight.call.deadline(flight.asked_at) + MAX_LAG;
                    postpone(&mut flight.deadline, lag, latest);
                }
            }
            for (_, waiting) in flight.waiters.iter_mut() {
                let latest = waiting.since + max_hold(&waiting.upstream) + MAX_LAG;
                postpone(&mut waiting.give_up_at, lag, latest);
            }
        }
    }

    /// Returns how late the next tick is.
    fn lag(&self, now: Instant) -> Duration {
        let since = self.ticked_at.unwrap_or(now);
        now.since(since).saturating_sub(TICK)
    }

    /// Returns whether Envoy took a call for timed out of which this worker was busy for half the time. MAS may have
    /// answered, and Envoy had no time to read it: so MAS is asked again, once.
    fn is_excused(&self, flight: &Pending<W>, now: Instant) -> bool {
        let forgiven = flight.deadline.since(flight.call.deadline(flight.asked_at));
        let timeout = flight.call.upstream.settings.timeout;
        !flight.call.is_excused && forgiven + self.lag(now) >= timeout / 2
    }
}

/// Lets a wait end so much later, but no later than `latest`.
fn postpone(end: &mut Instant, by: Duration, latest: Instant) {
    if by >= BUSY {
        *end = latest.min(*end + by).max(*end);
    }
}

/// Ending a flight.
impl<W> Resolver<W> {
    /// Stores an answer and gives it to the requests that wait, in this worker and in others.
    ///
    /// The order matters: the entry is stored first, and whether the token has ended is looked up second. A logout counts
    /// the end first and removes the entry second, so one of the two sees the other. The lease is released last.
    ///
    /// An answer from before an end, or one to an earlier question than another worker's answer, serves no request: the cache
    /// is read again, and MAS is asked again if it holds none. Each further call takes a further end, and the requests
    /// that wait have deadlines of their own.
    ///
    /// What MAS tells of a token's user during the call voids the answer. The worker then asks MAS once more, and no more. No
    /// worker knows whose an inactive token is, so what MAS tells of any user voids that answer, and MAS may tell without a
    /// pause. The second answer serves the gateway's requests even if it is void as well, unless its call took a second or
    /// longer, or they came after its question. The worker writes it to the shared cache, for other workers that wait: see
    /// [`SharedCache::lookup_awaited`]. It never serves the homeserver's question, since the homeserver keeps it.
    fn complete<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Pending<W>,
        introspected: Introspected,
    ) {
        let upstream = Rc::clone(&flight.call.upstream);
        self.failures.remove(&key);
        self.reports.note_answer(cb, &upstream);
        let is_kept_by_reader = is_kept_by_reader(&flight);
        let is_revoked = self.is_revoked(cb, &upstream, &introspected, is_kept_by_reader);
        let is_late = introspected.answered_at >= introspected.asked_at + HEARD_WITHIN;
        let (mut is_stored, mut is_cached, mut is_superseded) = (false, false, false);
        // Between the writing and the second look another worker may read the answer. Where the call took its time, an end of
        // long ago must not be found only then.
        let has_ended = !is_brief(&introspected)
            && self.outdated_by(cb, &key, &flight, &introspected) == Some(Event::End);
        if !has_ended && (!is_revoked || flight.call.is_repeated && !is_late) {
            let outcome = self.store(cb, &upstream, &introspected);
            (is_stored, is_superseded) = (outcome.stored, outcome.is_superseded);
            // Telling of what it pushed out, this worker has read the epochs anew: it would miss that another worker has
            // pushed out this answer meanwhile. So it keeps none of it for itself.
            is_cached = is_stored && !is_revoked && outcome.evicted.is_empty();
        }
        if is_stored && !introspected.is_active() && !introspected.is_only_answer {
            match self.workers.acquire(cb, &upstream, &key, |_| true) {
                // It is released below, so that nobody waits for it.
                Acquisition::Mine { leased } if leased != Leased::No => flight.hold_tightly(),
                // Nobody else asks.
                Acquisition::Mine { .. }
                | Acquisition::Hit(Cached::Inactive(_))
                | Acquisition::Failed(_) => {}
                // Another worker has asked later, and may not look for this answer when it stores its own.
                Acquisition::Hit(_) | Acquisition::Peer { .. } => {
                    upstream.cache.withdraw(cb.host, &introspected);
                    let look = upstream
                        .cache
                        .lookup(cb.host, &key.digest, cb.now(), |_| {});
                    is_superseded = look.is_some();
                    (is_stored, is_cached) = (false, false);
                }
            }
        }
        if let Some(event) = self.outdated_by(cb, &key, &flight, &introspected) {
            if is_stored {
                // The event is not noted again: it is none to another question about the token.
                let reason = InvalidationReason::Introspection;
                self.void(cb, &upstream.cache, &key.digest, event, reason);
            }
            (is_stored, is_superseded) = (false, true);
        }
        let must_ask_again = is_superseded || is_revoked && !flight.call.is_repeated;
        let is_awaited = !flight.waiters.is_empty() || flight.is_wanted;
        if must_ask_again && !is_superseded && is_awaited {
            // Other workers wait for the second answer, so the lease stays, if no other worker has it by now.
            flight.call.is_repeated = true;
            match self.workers.acquire(cb, &upstream, &key, |_| true) {
                Acquisition::Mine { leased } => self.call_for(cb, key, flight, leased),
                _ => self.resume(cb, key, flight),
            }
            return;
        }
        if !must_ask_again && is_revoked && is_late {
            self.fail(cb, key, flight, NoVerdict::Outdated);
            return;
        }
        let cached = |reader: &Upstream| upstream.cache.as_cached(&introspected, &reader.cache);
        if !must_ask_again && flight.call.client.is_some() {
            self.limits.charge(cb, &flight.call, &cached(&upstream));
        }
        let tombstone = is_stored.then_some(Tombstone::Stored(introspected.answered_at));
        // A lease that nobody waits for may run out: who finds it will tell. A void answer is of no use to who comes.
        let is_loose = flight.leased() == Leased::Loosely && !flight.is_wanted;
        let may_run_out = is_loose && is_stored && !is_revoked;
        if !may_run_out {
            self.end_call(cb, key, &flight, Hint::Stored(key), tombstone);
            flight.is_wanted = false;
        }
        if must_ask_again {
            flight.call.is_repeated = true;
            self.resume(cb, key, flight);
            return;
        }
        // In one moment nobody is later: the call would be made again and again.
        let later = if is_revoked && introspected.asked_at < introspected.answered_at {
            let is_later = |waiting: &Waiting<W>| waiting.since >= introspected.asked_at;
            flight.waiters.take(&is_later)
        } else {
            SortedMap::new()
        };
        // Each by its own configuration, which may let an answer hold less long.
        while let Some(waiters) = next_group(&mut flight.waiters) {
            let Some((_, waiting)) = waiters.first() else {
                continue;
            };
            if is_revoked && waiting.upstream.is_kept_by_reader {
                self.resolve_without_verdict(cb, &key.digest, waiters, NoVerdict::Outdated);
                continue;
            }
            let cached = cached(&waiting.upstream);
            self.resolve_waiters(&key.digest, waiters, cached, is_cached);
        }
        // Who came after the question was asked may have been told what voids its answer.
        flight.waiters = later;
        flight.call.is_repeated = false;
        self.resume(cb, key, flight);
    }

    /// Ends a flight without a verdict. A call that failed holds off the next one, in all workers: calls about a token begin
    /// a second apart, so one that took longer holds off none. Where a stale answer serves, the second counts from the end.
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
        let tombstone = if serves_stale {
            Some(Tombstone::Failed(cb.now()))
        } else {
            let begun = Tombstone::Failed(flight.asked_at);
            why.may_have_asked().then_some(begun)
        };
        let hint = match why {
            NoVerdict::Outdated => Hint::Outdated(key, cb.now()),
            _ => Hint::Failed(key, cb.now()),
        };
        self.end_call(cb, key, &flight, hint, tombstone);
        self.resolve_without_verdict(cb, &key.digest, flight.waiters, why);
    }

    /// Ends the waiting for another worker that had asked and got no verdict `at` that moment. Who has come since gets a later
    /// call, and so does everybody if a look since then has found that a worker was asking.
    fn fail_awaiting<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        at: Instant,
        why: NoVerdict,
    ) {
        let Some(mut flight) = self.flights.take_awaiting(&key) else {
            return;
        };
        let told = flight
            .waiters
            .take(&|waiting| waiting.since.max(flight.asked_at) < at);
        self.resolve_without_verdict(cb, &key.digest, told, why);
        self.resume(cb, key, flight);
    }

    /// Reads the cache again, for an answer of another worker, and calls MAS if there is none. The root is the
    /// callback's: the one that the flight began with may have ended.
    fn resume<H: Backend>(&mut self, cb: &Callback<'_, H>, key: QuestionKey, flight: Pending<W>) {
        if let Some((_, waiting)) = flight.waiters.first() {
            let upstream = Rc::clone(&waiting.upstream);
            self.resume_as(cb, key, flight, upstream);
        }
    }

    /// The same, as one of the configurations asks whose requests wait.
    fn resume_as<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Pending<W>,
        upstream: Rc<Upstream>,
    ) {
        flight.call.upstream = Rc::clone(&upstream);
        let now = cb.now();
        let look = || upstream.cache.lookup(cb.host, &key.digest, now, |_| {});
        let mut cached = look();
        let is_own = |waiting: &Waiting<W>| Rc::ptr_eq(&waiting.upstream, &upstream);
        let void = match (&cached, flight.state) {
            (None, State::AwaitingPeer { .. }) => {
                let own = flight.waiters.values().filter(|waiting| is_own(waiting));
                let since = own.map(|waiting| waiting.since).min().unwrap_or(now);
                let since = since.max(now.minus(HEARD_WITHIN));
                let cache = &upstream.cache;
                cache.lookup_awaited(cb.host, &key.digest, since, now)
            }
            _ => None,
        };
        if void.is_some() {
            // It may have come since that look, and be void for nobody.
            cached = look();
        }
        let void = void.filter(|_| cached.is_none());
        let void_since = void.as_ref().map(|(asked_at, _)| *asked_at);
        let acquisition = match cached.or(void.map(|(_, cached)| cached)) {
            Some(cached) => Acquisition::Hit(cached),
            None if !self.admits(&upstream, &flight.call.slot()) => {
                self.queue_again(cb, key, flight);
                return;
            }
            None => self.workers.acquire(cb, &upstream, &key, |_| true),
        };
        let leased = match acquisition {
            Acquisition::Hit(cached) => {
                self.limits.charge(cb, &flight.call, &cached);
                flight.call.client = None;
                // Who came after the question was asked may have been told what voids its answer.
                let served = flight.waiters.take(&|waiting| {
                    is_own(waiting) && void_since.is_none_or(|asked_at| waiting.since < asked_at)
                });
                if void_since.is_some() && upstream.is_kept_by_reader {
                    self.resolve_without_verdict(cb, &key.digest, served, NoVerdict::Outdated);
                } else {
                    self.resolve_waiters(&key.digest, served, cached, void_since.is_none());
                }
                // Other configurations have caches of another size, or let an answer hold less long.
                self.resume(cb, key, flight);
                return;
            }
            Acquisition::Failed(None) => {
                self.fail(cb, key, flight, NoVerdict::Elsewhere);
                return;
            }
            Acquisition::Failed(Some(entry)) => {
                let waiters = flight.waiters.take(&is_own);
                let found = self.serve_stale(cb, key, entry);
                self.resolutions.push_back(Resolution { found, waiters });
                // A stale answer may serve other configurations for less long, or not at all.
                self.resume(cb, key, flight);
                return;
            }
            Acquisition::Peer { check_at } => {
                flight.state = State::AwaitingPeer { check_at };
                // The peer may have called again just now. Each request has a deadline of its own.
                flight.asked_at = now;
                flight.deadline = flight.call.deadline(now);
                self.flights.insert(key, flight);
                return;
            }
            Acquisition::Mine { leased } => leased,
        };
        self.call_for(cb, key, flight, leased);
    }

    /// Calls MAS for a flight that waits for its answer.
    #[inline(never)]
    fn call_for<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Pending<W>,
        leased: Leased,
    ) {
        let now = cb.now();
        match self.call(cb, &flight.call, leased) {
            Ok(state) => {
                flight.state = state;
                flight.asked_at = now;
                flight.deadline = flight.call.deadline(now);
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
    fn queue_again<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Pending<W>,
    ) {
        if let Some(upstream) = that_cannot_wait(&flight) {
            flight.call.upstream = Rc::clone(&upstream);
            if self.admits(&upstream, &flight.call.slot()) {
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
            State::Queued { .. } => flight.deadline,
            _ => cb.now() + LINE_TIMEOUT,
        };
        match self.queue(cb, &flight.call) {
            Ok(state) => {
                flight.state = state;
                flight.deadline = deadline;
                self.flights.insert(key, flight);
            }
            Err(why) => self.fail(cb, key, flight, why),
        }
    }

    /// Returns whether what MAS has told of users since the question was sent voids its answer, as far as that must be known
    /// before it serves.
    ///
    /// Where no reader keeps it, a word of the last second need not be known: an answer of "active" is held against the epochs,
    /// as a hit is, and one of "inactive" to a brief call against nothing. What such a word voids is void for everybody who
    /// comes later.
    fn is_revoked<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        introspected: &Introspected,
        is_kept_by_reader: bool,
    ) -> bool {
        if !is_kept_by_reader && !introspected.is_active() && is_brief(introspected) {
            return false;
        }
        self.workers.read_old_epochs(cb, introspected.answered_at);
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
        let State::Calling { asked_at, .. } = flight.state else {
            return None;
        };
        if !introspected.is_active() {
            return None;
        }
        self.workers.event_since(cb, &key.digest, asked_at)
    }

    /// Takes the answers about a token that has ended out of the shared cache, or doubts those about one that was refused. The
    /// event must have been noted.
    fn void<H: Backend>(
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
        if outcome.is_too_long {
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

    /// Releases the flight's lease, if it has one.
    fn end_call<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        flight: &Pending<W>,
        hint: Hint,
        tombstone: Option<Tombstone>,
    ) {
        if flight.leased() != Leased::No {
            self.workers.release(cb, key, hint, tombstone);
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
        self.workers.release(cb, key, Hint::Stored(key), tombstone);
    }
}

/// No verdict, and what serves in its place.
impl<W> Resolver<W> {
    /// Decides what serves where there is no fresh verdict: a stale answer, or none. A failure of MAS is noted, so that
    /// the next request does not wait for the next failure, and the log tells of it.
    ///
    /// That no call was free for a known token is none, but says that MAS takes seconds to answer: a stale answer serves
    /// this time. A budget says nothing of MAS.
    fn stand_in<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        digest: &TokenDigest,
        why: NoVerdict,
    ) -> Found {
        let now = cb.now();
        self.reports.note_failure(cb, upstream, why);
        let stale = match why {
            NoVerdict::OverBudget { .. } | NoVerdict::Outdated | NoVerdict::TokenTooLong => None,
            _ => upstream.cache.lookup_stale(cb.host, digest, now),
        };
        match stale {
            Some(entry) => {
                if why.is_failure() {
                    self.failures.note_failure(upstream.question(digest), now);
                }
                let verdict = Verdict::Active(entry);
                self.found(*digest, verdict, Provenance::Stale)
            }
            None => self.found(*digest, Verdict::None(why), Provenance::Introspected),
        }
    }

    /// Serves the stale answer that was found with the word of another worker's failure. It is not looked up again: if
    /// the token has ended in between, there would be none, and MAS has not been asked.
    fn serve_stale<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        entry: Box<ActiveEntry>,
    ) -> Found {
        self.failures.note_failure(key, cb.now());
        self.found(key.digest, Verdict::Active(entry), Provenance::Stale)
    }

    /// Gives no verdict, and nothing in its place, since too many requests wait on this worker: that is the clients'
    /// doing.
    fn refuse<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        digest: &TokenDigest,
    ) -> Found {
        let why = NoVerdict::Overloaded;
        self.reports.note_failure(cb, upstream, why);
        self.found(*digest, Verdict::None(why), Provenance::Introspected)
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
        if failed_at < entry.asked_at {
            return None;
        }
        self.refresh(cb, query);
        let verdict = Verdict::Active(entry);
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
        mut waiters: Waiters<W>,
        why: NoVerdict,
    ) {
        while let Some(waiters) = next_group(&mut waiters) {
            let Some((_, waiting)) = waiters.first() else {
                continue;
            };
            let upstream = Rc::clone(&waiting.upstream);
            let found = self.stand_in(cb, &upstream, digest, why);
            self.resolutions.push_back(Resolution { found, waiters });
        }
    }

    fn resolve_waiters(
        &mut self,
        digest: &TokenDigest,
        waiters: Waiters<W>,
        cached: Cached,
        is_cached: bool,
    ) {
        let found = Found {
            is_cached,
            ..self.found(*digest, cached.into(), Provenance::Introspected)
        };
        self.resolutions.push_back(Resolution { found, waiters });
    }

    fn found(&self, digest: TokenDigest, verdict: Verdict, provenance: Provenance) -> Found {
        let user = match &verdict {
            Verdict::Active(entry) => entry.user,
            Verdict::Inactive(_) | Verdict::None(_) => None,
        };
        Found {
            digest,
            stamp: self.workers.stamp(&digest, user.as_ref()),
            verdict,
            provenance,
            is_cached: provenance == Provenance::Shared,
        }
    }
}

/// Takes out the requests of the first one's configuration: each has its own rule of what serves if there is no answer.
fn next_group<W>(waiters: &mut Waiters<W>) -> Option<Waiters<W>> {
    let (_, first) = waiters.first()?;
    let upstream = Rc::clone(&first.upstream);
    let is_of_it = |waiting: &Waiting<W>| Rc::ptr_eq(&waiting.upstream, &upstream);
    // Nearly always.
    if waiters.values().all(is_of_it) {
        return Some(std::mem::take(waiters));
    }
    Some(waiters.take(&is_of_it))
}

/// Returns whether an active answer is old enough to be renewed.
fn is_due(cached: &Cached, now: Instant) -> bool {
    match cached {
        Cached::Active(entry) => entry.refresh_at.is_some_and(|refresh_at| refresh_at <= now),
        Cached::Inactive(_) | Cached::Ended => false,
    }
}

/// Returns whether one of those who wait keeps what it is given.
fn is_kept_by_reader<W>(flight: &Pending<W>) -> bool {
    let mut waiting = flight.waiters.values();
    waiting.any(|waiting| waiting.upstream.is_kept_by_reader)
}

/// Returns whether the request's pool has no line.
fn cannot_wait<W>(waiting: &Waiting<W>) -> bool {
    waiting.upstream.admission.overflow == Overflow::Refuse
}

/// Returns the configuration of a request whose pool has no line, if one waits.
fn that_cannot_wait<W>(flight: &Pending<W>) -> Option<Rc<Upstream>> {
    let mut waiting = flight.waiters.values();
    let found = waiting.find(|waiting| cannot_wait(waiting))?;
    Some(Rc::clone(&found.upstream))
}

/// Returns whether an answer came so soon that what was told meanwhile was told a moment ago.
fn is_brief(introspected: &Introspected) -> bool {
    introspected.answered_at < introspected.asked_at + BRIEF_CALL
}

fn overloaded<H: Backend>(cb: &Callback<'_, H>) -> NoVerdict {
    let why = NoVerdict::Overloaded;
    count_outcome(cb, why.outcome());
    why
}

/// Notes how long a call took that has ended. The sum of it, by the second, is how many calls are under way.
fn note_duration<H: Backend, W>(cb: &Callback<'_, H>, flight: &Pending<W>) {
    let took = millis(cb.now().since(flight.asked_at));
    cb.host.record(Metric::IntrospectionMillis, took);
}

fn count_outcome<H: Backend>(cb: &Callback<'_, H>, outcome: Option<IntrospectionOutcome>) {
    if let Some(outcome) = outcome {
        cb.host.count(Metric::Introspection(outcome));
    }
}

#[cfg(test)]
mod tests;
