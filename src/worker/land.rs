//! An answer has come, or none will: everyone who waits is decided, here and in the other workers.

use std::{collections::BTreeMap, rc::Rc};

use super::{
    MAX_RETRIES, Phase, Plugin, Purpose, Waiter, Worker,
    answer::reply,
    ask::{Call, Finding, millis},
    exchange::Interest,
    peers::Hint,
    request,
};
use crate::{
    cache::{
        Asked, Known,
        epoch::Subject,
        flight::{Flight, FlightKey, Stage},
        lease::Marks,
        table::Evicted,
    },
    clock::Instant,
    config::Role,
    gate::{self, Decision, Grant, Verdict},
    host::{CallId, Host, RootId, StreamId},
    mas::introspection::{self, Answer, IntrospectionResponse, NoVerdict},
    matrix::reply::Reply,
    metrics::{self, Metric, Outcome},
};

impl Worker {
    /// Takes in MAS's answer to `call`, one of `root`.
    pub fn on_answer(
        &mut self,
        host: &impl Host,
        root: RootId,
        call: CallId,
        response: IntrospectionResponse<'_>,
    ) {
        let Some((key, flight)) = self.flights.land(call) else {
            return;
        };
        let now = self.read_clock(host);
        host.record(Metric::InFlight, -1);
        host.record(
            Metric::IntrospectionMillis,
            millis(now.since(flight.asked_at)),
        );
        let answer = introspection::read(response);
        host.count(Metric::Introspection(match &answer {
            Ok(Answer::Active(_)) => "active",
            Ok(Answer::Inactive(_)) => "inactive",
            Err(why) => why.label(),
        }));
        match answer {
            Ok(answer) => {
                let asked = Asked {
                    digest: key.digest,
                    asked_at: flight.asked_at,
                    answered_at: now,
                    answer,
                };
                self.land(host, root, key, flight, asked);
            }
            Err(why) => self.fail(host, key, flight, now, why),
        }
    }

    /// Keeps an answer and gives it to everyone who waits, here and in other workers.
    fn land(
        &mut self,
        host: &impl Host,
        root: RootId,
        key: FlightKey,
        mut flight: Flight<Call, Waiter>,
        asked: Asked,
    ) {
        let plugin = Rc::clone(&flight.question.plugin);
        let now = asked.answered_at;
        self.retries.remove(&key);
        self.failures.remove(&key);
        let mut is_outdated = self.is_outdated(host, &plugin, &key, &asked);
        let is_stored = !is_outdated && self.keep(host, &plugin, &asked, now);
        let answered_at = is_stored.then_some(now);
        let is_void = self.settle(host, key, &flight, Hint::Answered(key), answered_at, now);
        if is_void && is_stored && asked.is_active() {
            // The token ended between the look and the writing.
            self.forget_token(host, &plugin, &key.digest, "introspection", now);
            is_outdated = true;
        }
        // Once. If it happens again, the answer serves those who wait and is not kept.
        if is_outdated && !std::mem::replace(&mut flight.question.is_repeated, true) {
            self.look_again(host, root, key, flight, now);
            return;
        }
        let finding = Finding::from(plugin.cache.as_cached(&asked));
        if is_stored && !is_outdated {
            self.keep_for_clients(host, &flight, &finding);
        }
        self.refund(host, &flight.question, &finding, now);
        conclude(host, flight.waiters, now, &finding, None);
    }

    /// Whether the token or its user changed while the answer was on its way.
    fn is_outdated(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        key: &FlightKey,
        asked: &Asked,
    ) -> bool {
        let holder = self.peers.holder(host);
        let has_ended = asked.is_active() && self.leases.is_void(host, key, holder);
        has_ended || plugin.cache.is_void(host, asked)
    }

    /// Ends a flight without a verdict.
    pub(super) fn fail(
        &mut self,
        host: &impl Host,
        key: FlightKey,
        flight: Flight<Call, Waiter>,
        now: Instant,
        why: NoVerdict,
    ) {
        self.settle(host, key, &flight, Hint::Failed(key), None, now);
        let cache = &flight.question.plugin.cache;
        let stale = cache.find_stale(host, &key.digest, now);
        if stale.is_some() {
            self.retry_later(key, now);
            if self.failures.len() < MAX_RETRIES {
                self.failures.insert(key, now);
            }
        }
        conclude(host, flight.waiters, now, &Finding::None(why), stale);
    }

    /// Writes an answer to the shared cache. Whether it is there.
    fn keep(&mut self, host: &impl Host, plugin: &Plugin, asked: &Asked, now: Instant) -> bool {
        let kept = plugin.cache.keep(host, asked);
        let table = match asked.answer {
            Answer::Active(_) => metrics::Table::Active,
            Answer::Inactive(_) => metrics::Table::Negative,
        };
        for (evicted, _) in &kept.evicted {
            host.count(Metric::Evicted(table, *evicted));
        }
        if kept.invalidated {
            self.local.remove(&plugin.local_key(&asked.digest));
            self.epochs.raise(host, Subject::Token(&asked.digest));
            self.peers.tell(host, Hint::Invalidated, now);
            host.count(Metric::Invalidated("introspection"));
        }
        // An invalidation finds only what the shared cache holds: workers that hold an answer which was
        // pushed out of it must look there again.
        for (evicted, digest) in &kept.evicted {
            if let (metrics::Table::Active, Evicted::Live) = (table, evicted) {
                self.epochs.raise(host, Subject::Token(digest));
            }
        }
        kept.stored
    }

    /// Keeps an active answer in this worker's own cache, if it is for client requests.
    pub(super) fn keep_for_clients(
        &mut self,
        host: &impl Host,
        flight: &Flight<Call, Waiter>,
        finding: &Finding,
    ) {
        let waiting = flight.waiters.values().map(|waiter| &waiter.plugin);
        let mut plugins = waiting.chain([&flight.question.plugin]);
        let gateway = plugins.find(|plugin| plugin.config.role == Role::Gateway);
        if let (Some(plugin), Finding::Active(known)) = (gateway.cloned(), finding) {
            self.keep_locally(host, &plugin, &flight.question.digest, known);
        }
    }

    /// Gives the lease back, if there is one, and tells the others if one of them waits. Whether it was void.
    /// `answered_at`: there is an answer in the shared cache since then.
    fn settle(
        &mut self,
        host: &impl Host,
        key: FlightKey,
        flight: &Flight<Call, Waiter>,
        hint: Hint,
        answered_at: Option<Instant>,
        now: Instant,
    ) -> bool {
        let Stage::Asked { leased: true, .. } = flight.stage else {
            return false;
        };
        self.give_back(host, key, hint, answered_at, now).void
    }

    /// Gives the lease back, and tells the others if one of them waits for it.
    pub(super) fn give_back(
        &mut self,
        host: &impl Host,
        key: FlightKey,
        hint: Hint,
        answered_at: Option<Instant>,
        now: Instant,
    ) -> Marks {
        let holder = self.peers.holder(host);
        let marks = self.leases.release(host, &key, holder, answered_at);
        if marks.wanted {
            self.peers.tell(host, hint, now);
        }
        marks
    }
}

/// Decides every request that waited. `stale` serves where there is no verdict.
pub(super) fn conclude(
    host: &impl Host,
    waiters: BTreeMap<StreamId, Waiter>,
    now: Instant,
    finding: &Finding,
    stale: Option<Known>,
) {
    let stale = stale.map(|known| Finding::Active(Box::new(known)));
    let (outcome, finding) = match (finding, &stale) {
        (Finding::None(_), Some(stale)) => (Outcome::ActiveStale, stale),
        (Finding::None(why), None) => (why.outcome(), finding),
        (Finding::Active(_), _) => (Outcome::ActiveIntrospected, finding),
        (Finding::Inactive(_), _) => (Outcome::InactiveIntrospected, finding),
    };
    let mut grants = Grants::default();
    for (stream, waiter) in waiters {
        if !host.select(stream) {
            continue;
        }
        host.record(Metric::HeldMillis, millis(now.since(waiter.since)));
        let plugin = &waiter.plugin;
        let phase = match waiter.purpose {
            Purpose::Decide {
                cors,
                requirement,
                kind,
            } => {
                host.count(Metric::Request(outcome));
                let verdict = grants.verdict(plugin, finding);
                let decision = gate::conclude(&plugin.config, requirement, kind, verdict);
                if let (Decision::Annotate(_), Finding::Active(known)) = (&decision, finding) {
                    let interest = Interest::Active(known.digest);
                    waiter.exchange.set_interest(interest);
                }
                request::apply(host, &plugin.config, decision, cors)
            }
            Purpose::Answer => match reply(plugin, finding, now) {
                Some(reply) => {
                    host.count(Metric::Answered(outcome));
                    respond_with(host, &reply)
                }
                None => {
                    host.count(Metric::Answered(Outcome::NotAsked));
                    Phase::Forwarded
                }
            },
        };
        waiter.exchange.set_phase(phase);
        if phase == Phase::Forwarded && host.resume().is_err() {
            log::error!("Envoy refused to resume a request");
        }
    }
}

/// Answers the selected request.
pub(super) fn respond_with(host: &impl Host, reply: &Reply) -> Phase {
    if host.respond(reply).is_err() {
        log::error!("Envoy refused a local reply; the request is held until it times out");
    }
    Phase::Answered
}

/// What a finding means for client requests: the same for all that pass one configuration.
#[derive(Default)]
struct Grants(Option<(Rc<Plugin>, Rc<Grant>)>);

impl Grants {
    fn verdict(&mut self, plugin: &Rc<Plugin>, finding: &Finding) -> Verdict {
        match finding {
            Finding::Active(known) => Verdict::Active(self.grant(plugin, known)),
            Finding::Inactive(_) => Verdict::Inactive,
            Finding::None(why) => Verdict::None(*why),
        }
    }

    fn grant(&mut self, plugin: &Rc<Plugin>, known: &Known) -> Rc<Grant> {
        match &self.0 {
            Some((made_for, grant)) if Rc::ptr_eq(made_for, plugin) => Rc::clone(grant),
            _ => {
                let grant = Grant::new(&known.answer.token, &plugin.config.server_name);
                let grant = Rc::new(grant);
                self.0 = Some((Rc::clone(plugin), Rc::clone(&grant)));
                grant
            }
        }
    }
}
