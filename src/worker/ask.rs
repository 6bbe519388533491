//! Asking MAS: once per token, whoever wants to know.
//!
//! In one worker the flight for a token collects everyone who waits. Between workers a lease decides who
//! makes the call; the others look into the shared cache when they are hinted, when the lease runs out,
//! or at a tick, whichever comes first.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use super::{
    FAILURE_REMEMBERED, MAX_RETRIES, Plugin, RETRY, TICK, Waiter, Worker, land::conclude,
    peers::Hint, request,
};
use crate::{
    cache::{
        Cached, Known, TokenDigest,
        budget::{Source, Spent},
        flight::{Flight, FlightKey, Full, Stage},
        lease::{Acquired, LEASE},
    },
    clock::Instant,
    gate,
    host::{Host, QueueId, RootId, StreamId},
    mas::introspection::{InactiveAnswer, IntrospectionRequest, NoVerdict},
    matrix::credential::AccessToken,
    metrics::{Metric, Outcome},
};

/// Added to the call's own timeout before its answer counts as lost. Envoy answers a timed-out call with
/// 504, so this is for answers that Envoy never delivers.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// How often an answer is looked for that has come meanwhile and is no use.
const LOOKS: usize = 4;

/// Longest that a request waits, however often it is asked again: one call, the lease of a lost worker, and
/// one more call.
pub(super) fn patience(plugin: &Plugin) -> Duration {
    let call = plugin.config.introspection.timeout + LOST_AFTER;
    call + LEASE + call
}

/// A token to ask about.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub token: &'a AccessToken<'a>,
    pub digest: TokenDigest,
}

impl<'a> From<&'a gate::Question<'_>> for Question<'a> {
    fn from(question: &'a gate::Question<'_>) -> Self {
        Self {
            token: &question.token,
            digest: question.digest,
        }
    }
}

/// What was found out about a token, before whoever waits makes their own of it.
pub(super) enum Finding {
    /// MAS said so, not long ago.
    Active(Box<Known>),
    /// MAS said so, or the token has expired or cannot exist.
    Inactive(InactiveAnswer),
    /// There is no verdict.
    None(NoVerdict),
}

impl From<Cached> for Finding {
    fn from(cached: Cached) -> Self {
        match cached {
            Cached::Active(known) => Self::Active(Box::new(known)),
            Cached::Inactive(answer) => Self::Inactive(answer),
        }
    }
}

impl Finding {
    /// What is in the shared cache.
    pub fn of_shared(cached: Cached) -> (Outcome, Self) {
        let outcome = match cached {
            Cached::Active(_) => Outcome::ActiveShared,
            Cached::Inactive(_) => Outcome::InactiveShared,
        };
        (outcome, cached.into())
    }
}

/// What is needed to ask MAS, and to ask again.
#[derive(Debug)]
pub(super) struct Call {
    pub plugin: Rc<Plugin>,
    token: AccessToken<'static>,
    pub digest: TokenDigest,
    trace: Vec<(&'static str, String)>,
    /// Whose budget the token was charged to.
    source: Option<Source>,
    /// It was asked again, because the token or its user changed while it was on its way.
    pub is_repeated: bool,
}

impl Call {
    fn new(host: &impl Host, plugin: &Rc<Plugin>, question: &Question<'_>) -> Self {
        Self {
            plugin: Rc::clone(plugin),
            token: question.token.clone().into_owned(),
            digest: question.digest,
            trace: request::trace(host),
            source: None,
            is_repeated: false,
        }
    }

    fn flight(self, now: Instant, stage: Stage) -> Flight<Self, Waiter> {
        Flight {
            asked_at: now,
            deadline: self.deadline(now),
            question: self,
            waiters: BTreeMap::new(),
            stage,
        }
    }

    fn deadline(&self, now: Instant) -> Instant {
        now + self.plugin.config.introspection.timeout + LOST_AFTER
    }
}

/// Whose turn it is to ask about a token.
enum Turn<T> {
    /// Nobody's: there is an answer.
    Known(T),
    /// Another worker's.
    Wait { look_at: Instant },
    /// This worker's, perhaps under a lease.
    Ask { leased: bool },
}

/// What became of the wish to know about a token.
enum Launched {
    /// The answer is on its way.
    Waiting,
    /// Another worker had it already.
    Known((Outcome, Finding)),
}

impl Worker {
    /// Looks at deadlines, leases and the epoch, on behalf of `root`.
    pub fn on_tick(&mut self, host: &impl Host, root: RootId) {
        let now = self.read_clock(host);
        self.epochs.read(host);
        self.peers.attend(host, root, now);
        while let Some((key, flight)) = self.flights.overdue(now) {
            if let Stage::Asked { .. } = flight.stage {
                host.record(Metric::InFlight, -1);
                host.count(Metric::Introspection(NoVerdict::Lost.label()));
            }
            self.fail(host, key, flight, now, NoVerdict::Lost);
        }
        let lost_calls = std::mem::take(&mut self.lost_calls);
        if lost_calls > 0 {
            host.record(
                Metric::InFlight,
                -i64::try_from(lost_calls).unwrap_or(i64::MAX),
            );
        }
        // The call goes on for others.
        let impatient = self.flights.take_waiters(|waiter| waiter.until <= now);
        conclude(host, impatient, now, &Finding::None(NoVerdict::Lost), None);
        self.unread.give_up(host, now);
        while let Some((key, flight)) = self.flights.orphan() {
            self.look_again(host, root, key, flight, now);
        }
        while let Some((key, flight)) = self.flights.to_look_at(now) {
            self.look_again(host, root, key, flight, now);
        }
        let holder = self.peers.holder(host);
        for (key, asked_at) in self.flights.leased() {
            if now.since(asked_at) + TICK >= LEASE / 2 {
                self.leases.acquire(host, key, holder, now, now);
            }
        }
        self.retries.retain(|_, retry_at| now < *retry_at + RETRY);
        self.failures
            .retain(|_, failed_at| now < *failed_at + FAILURE_REMEMBERED);
        self.doubted.retain(|_, until| now < *until);
    }

    /// Takes in the messages of a shared queue.
    pub fn on_queue(&mut self, host: &impl Host, root: RootId, queue: QueueId) {
        let now = self.read_clock(host);
        while let Some(message) = host.dequeue(queue) {
            match Hint::decode(&message) {
                None => {}
                Some(Hint::Answered(key)) => {
                    if let Some(flight) = self.flights.elsewhere(&key) {
                        self.look_again(host, root, key, flight, now);
                    }
                }
                Some(Hint::Failed(key)) => {
                    if let Some(flight) = self.flights.elsewhere(&key) {
                        self.fail(host, key, flight, now, NoVerdict::Elsewhere);
                    }
                }
                Some(Hint::Invalidated) => self.epochs.read(host),
            }
        }
    }

    /// Holds a request until the answer to its question arrives, asking it unless someone has. `None`: it
    /// is held; otherwise there is a verdict after all.
    pub(super) fn hold(
        &mut self,
        host: &impl Host,
        question: &Question<'_>,
        stream: StreamId,
        waiter: Waiter,
    ) -> Option<(Outcome, Finding)> {
        let plugin = Rc::clone(&waiter.plugin);
        let key = plugin.flight_key(&question.digest);
        let launched = if self.flights.contains(&key) {
            host.count(Metric::Coalesced);
            Ok(Launched::Waiting)
        } else if self.flights.calls() >= plugin.config.introspection.max_in_flight {
            // Shed at once, before anything is charged or written.
            host.count(Metric::Introspection(NoVerdict::Overloaded.label()));
            Err(NoVerdict::Overloaded)
        } else {
            self.charge(host, &plugin).and_then(|source| {
                let call = Call {
                    source,
                    ..Call::new(host, &plugin, question)
                };
                self.launch(host, key, call, self.now)
            })
        };
        let refused = match launched {
            Ok(Launched::Known(known)) => return Some(known),
            Ok(Launched::Waiting) => match self.flights.join(key, stream, waiter) {
                Ok(()) => return None,
                Err(Full) => NoVerdict::Overloaded,
            },
            Err(why) => why,
        };
        Some((refused.outcome(), Finding::None(refused)))
    }

    /// Renews an answer in the background while it is served.
    pub(super) fn refresh(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        question: &Question<'_>,
    ) {
        let now = self.read_clock(host);
        let key = &plugin.flight_key(&question.digest);
        if self.flights.contains(key) || self.retries.get(key).is_some_and(|retry| now < *retry) {
            return;
        }
        if self.is_renewed(host, plugin, key, now) {
            return;
        }
        self.retry_later(*key, now);
        let turn = self.take_turn(host, key, now, |worker| {
            worker.is_renewed(host, plugin, key, now).then_some(())
        });
        let Turn::Ask { leased } = turn else {
            return;
        };
        host.count(Metric::Refresh);
        let call = Call::new(host, plugin, question);
        match self.ask(host, plugin.root, &call, leased) {
            Ok(stage) => self.flights.start(*key, call.flight(now, stage)),
            Err(_) => {
                self.give_back(host, *key, Hint::Answered(*key), None, now);
            }
        }
    }

    /// Whether another worker has renewed the answer, or asked in vain.
    fn is_renewed(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        key: &FlightKey,
        now: Instant,
    ) -> bool {
        match plugin.cache.find(host, &key.digest, now, |_| {}) {
            Some(Cached::Active(known))
                if known.refresh_at.is_none_or(|refresh_at| now < refresh_at) =>
            {
                self.keep_locally(host, plugin, &key.digest, &known);
                true
            }
            // MAS said no: the hint is on the way.
            Some(Cached::Inactive(_)) => {
                self.local.remove(&plugin.local_key(&key.digest));
                true
            }
            _ => false,
        }
    }

    /// An answer past its time, once MAS has failed to renew it; a retry in the background at the most.
    pub(super) fn stale_after_failure(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        question: &Question<'_>,
        now: Instant,
    ) -> Option<Known> {
        let key = plugin.flight_key(&question.digest);
        let failed_at = *self.failures.get(&key)?;
        let known = plugin.cache.find_stale(host, &key.digest, now)?;
        // A failure from before this answer was asked for says nothing of MAS now.
        if failed_at + plugin.config.cache.ttl < known.fresh_until {
            return None;
        }
        if self
            .retries
            .get(&key)
            .is_none_or(|retry_at| *retry_at <= now)
        {
            self.refresh(host, plugin, question);
        }
        Some(known)
    }

    /// Charges an unknown token to the source of the request, if sources have a budget.
    fn charge(&self, host: &impl Host, plugin: &Plugin) -> Result<Option<Source>, NoVerdict> {
        let Some(limit) = &plugin.config.unknown_token_budget else {
            return Ok(None);
        };
        let Some(address) = host.source_address() else {
            return Ok(None);
        };
        let source = Source::of(&address);
        match self.budget.spend(host, &source, limit, self.now) {
            Ok(()) => Ok(Some(source)),
            Err(Spent { until }) => {
                let retry_after_ms = millis(until.since(self.now)).unsigned_abs();
                Err(NoVerdict::OverBudget { retry_after_ms })
            }
        }
    }

    /// Takes the charge back from the source of a token that is active after all.
    pub(super) fn refund(&self, host: &impl Host, call: &Call, finding: &Finding, now: Instant) {
        if let (Finding::Active(_), Some(source)) = (finding, &call.source) {
            self.budget.refund(host, source, now);
        }
    }

    /// Asks, or lets another worker ask.
    fn launch(
        &mut self,
        host: &impl Host,
        key: FlightKey,
        call: Call,
        now: Instant,
    ) -> Result<Launched, NoVerdict> {
        let plugin = Rc::clone(&call.plugin);
        let turn = self.take_turn(host, &key, now, |_| {
            plugin.cache.find(host, &key.digest, now, |_| {})
        });
        let stage = match turn {
            Turn::Known(cached) => {
                let known = Finding::of_shared(cached);
                self.refund(host, &call, &known.1, now);
                return Ok(Launched::Known(known));
            }
            Turn::Wait { look_at } => {
                host.count(Metric::LeaseWait);
                Stage::Elsewhere { look_at }
            }
            Turn::Ask { leased } => match self.ask(host, plugin.root, &call, leased) {
                Ok(stage) => stage,
                Err(why) => {
                    // The others may be able to ask.
                    self.give_back(host, key, Hint::Answered(key), None, now);
                    return Err(why);
                }
            },
        };
        self.flights.start(key, call.flight(now, stage));
        Ok(Launched::Waiting)
    }

    /// Whose turn it is to ask. Whoever comes here has found no answer at `now`; one may have come since, so
    /// `look` looks again.
    fn take_turn<T>(
        &mut self,
        host: &impl Host,
        key: &FlightKey,
        now: Instant,
        mut look: impl FnMut(&mut Self) -> Option<T>,
    ) -> Turn<T> {
        let holder = self.peers.holder(host);
        // Whoever answered read the clock first and gave the lease back later, as late as a lease holds.
        let mut seen = now.minus(LEASE);
        for _ in 0..LOOKS {
            match self.leases.acquire(host, key, holder, now, seen) {
                Acquired::Ours => return Turn::Ask { leased: true },
                Acquired::NoRoom => break,
                Acquired::Theirs(look_at) => return Turn::Wait { look_at },
                Acquired::Answered(at) => match look(self) {
                    Some(found) => return Turn::Known(found),
                    None => seen = at,
                },
            }
        }
        Turn::Ask { leased: false }
    }

    /// Makes the call, as one of `root`: the request's own, or the one whose callback runs.
    fn ask(
        &self,
        host: &impl Host,
        root: RootId,
        call: &Call,
        leased: bool,
    ) -> Result<Stage, NoVerdict> {
        let settings = &call.plugin.config.introspection;
        let asked = if self.flights.calls() < settings.max_in_flight {
            let trace = call.trace.clone();
            let request = IntrospectionRequest::new(settings, &call.token, &call.digest.0, trace);
            host.dispatch(root, &request)
                .map_err(|_| NoVerdict::Undeliverable)
        } else {
            Err(NoVerdict::Overloaded)
        };
        match asked {
            Ok(call) => {
                host.record(Metric::InFlight, 1);
                Ok(Stage::Asked { call, root, leased })
            }
            Err(why) => {
                host.count(Metric::Introspection(why.label()));
                Err(why)
            }
        }
    }

    /// Looks whether another worker has answered, and asks if it has given up. `root` is the one whose
    /// callback runs; the one that a flight began with may have gone by now.
    pub(super) fn look_again(
        &mut self,
        host: &impl Host,
        root: RootId,
        key: FlightKey,
        mut flight: Flight<Call, Waiter>,
        now: Instant,
    ) {
        let Some(waiter) = flight.waiters.values().next() else {
            return;
        };
        let plugin = Rc::clone(&waiter.plugin);
        flight.question.plugin = Rc::clone(&plugin);
        let find = || plugin.cache.find(host, &key.digest, now, |_| {});
        if let Some(cached) = find() {
            self.conclude_from_cache(host, flight, cached, now);
            return;
        }
        let leased = match self.take_turn(host, &key, now, |_| find()) {
            Turn::Known(cached) => {
                self.conclude_from_cache(host, flight, cached, now);
                return;
            }
            Turn::Wait { look_at } => {
                flight.stage = Stage::Elsewhere { look_at };
                // They may have asked again just now. Each request has a deadline of its own.
                flight.deadline = flight.question.deadline(now);
                self.flights.start(key, flight);
                return;
            }
            Turn::Ask { leased } => leased,
        };
        match self.ask(host, root, &flight.question, leased) {
            Ok(stage) => {
                flight.stage = stage;
                flight.asked_at = now;
                flight.deadline = flight.question.deadline(now);
                self.flights.start(key, flight);
            }
            Err(why) => {
                self.give_back(host, key, Hint::Answered(key), None, now);
                self.fail(host, key, flight, now, why);
            }
        }
    }

    fn conclude_from_cache(
        &mut self,
        host: &impl Host,
        flight: Flight<Call, Waiter>,
        cached: Cached,
        now: Instant,
    ) {
        let (_, finding) = Finding::of_shared(cached);
        self.refund(host, &flight.question, &finding, now);
        self.keep_for_clients(host, &flight, &finding);
        conclude(host, flight.waiters, now, &finding, None);
    }

    pub(super) fn retry_later(&mut self, key: FlightKey, now: Instant) {
        if self.retries.len() < MAX_RETRIES {
            self.retries.insert(key, now + RETRY);
        }
    }
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
