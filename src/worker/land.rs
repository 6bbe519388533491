//! An answer has come, or none will: everyone who waits is decided, here and in the other workers.

use std::{collections::BTreeMap, rc::Rc};

use super::{
    MAX_RETRIES, Phase, Waiter, Worker,
    ask::{Call, millis, stale},
    peers::Hint,
    request,
};
use crate::{
    cache::{
        flight::{Flight, FlightKey, Stage},
        table::Evicted,
    },
    clock::Instant,
    gate::{self, Grant, Verdict},
    host::{CallId, Host, StreamId},
    mas::introspection::{self, IntrospectionAnswer, IntrospectionResponse, NoVerdict},
    metrics::{self, Metric, Outcome},
};

impl Worker {
    /// Takes in MAS's answer to `call`.
    pub fn on_answer(
        &mut self,
        host: &impl Host,
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
            Ok(IntrospectionAnswer::Active { .. }) => "active",
            Ok(IntrospectionAnswer::Inactive) => "inactive",
            Err(why) => why.label(),
        }));
        match answer {
            Ok(answer) => self.land(host, key, flight, now, answer),
            Err(why) => self.fail(host, key, flight, now, why),
        }
    }

    /// Keeps an answer and gives it to everyone who waits, here and in other workers.
    fn land(
        &mut self,
        host: &impl Host,
        key: FlightKey,
        flight: Flight<Call, Waiter>,
        now: Instant,
        answer: IntrospectionAnswer,
    ) {
        let gateway = Rc::clone(&flight.question.gateway);
        let kept = gateway
            .cache
            .keep(host, key.digest, flight.asked_at, now, &answer);
        if let Some((evicted, _)) = kept.evicted {
            let table = match answer {
                IntrospectionAnswer::Active { .. } => metrics::Table::Active,
                IntrospectionAnswer::Inactive => metrics::Table::Negative,
            };
            host.count(Metric::Evicted(table, evicted));
        }
        self.retries.remove(&key);
        self.failures.remove(&key);
        self.settle(host, key, &flight, Hint::Answered(key), now);
        if kept.invalidated {
            host.count(Metric::Invalidated);
            self.epochs.raise(host, &key.digest);
            self.peers.tell(host, Hint::Invalidated(key), now);
        }
        // An invalidation finds only what the shared cache holds: workers that hold an answer which was
        // pushed out of it must look there again.
        if let (IntrospectionAnswer::Active { .. }, Some((Evicted::Live, digest))) =
            (&answer, kept.evicted)
        {
            self.epochs.raise(host, &digest);
        }
        let known = kept
            .stored
            .then(|| {
                gateway
                    .cache
                    .known(key.digest, flight.asked_at, now, &answer)
            })
            .flatten();
        let verdict = match (known, answer) {
            (Some(known), _) => Verdict::Active(self.keep_locally(host, &gateway, key, known)),
            (None, IntrospectionAnswer::Active { token, .. }) => {
                Verdict::Active(Rc::new(Grant::new(token, &gateway.config.server_name)))
            }
            (None, IntrospectionAnswer::Inactive) => {
                self.local.remove(&key);
                Verdict::Inactive
            }
        };
        self.refund(host, &flight.question, &verdict, now);
        conclude(host, flight.waiters, now, &verdict, None);
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
        self.settle(host, key, &flight, Hint::Failed(key), now);
        let stale = stale(host, &flight.question.gateway, &key, now);
        if stale.is_some() {
            self.retry_later(key, now);
            if self.failures.len() < MAX_RETRIES {
                self.failures.insert(key, now);
            }
        }
        conclude(
            host,
            flight.waiters,
            now,
            &Verdict::None(why),
            stale.as_ref(),
        );
    }

    /// Gives the lease back, if there is one, and tells the others.
    fn settle(
        &mut self,
        host: &impl Host,
        key: FlightKey,
        flight: &Flight<Call, Waiter>,
        hint: Hint,
        now: Instant,
    ) {
        if let Stage::Asked { leased: true, .. } = flight.stage {
            let holder = self.peers.holder(host);
            self.leases.release(host, &key, holder);
            self.peers.tell(host, hint, now);
        }
    }
}

/// Decides every request that waited. `stale` serves where there is no verdict.
pub(super) fn conclude(
    host: &impl Host,
    waiters: BTreeMap<StreamId, Waiter>,
    now: Instant,
    verdict: &Verdict,
    stale: Option<&Rc<Grant>>,
) {
    let (outcome, verdict) = match (verdict, stale) {
        (Verdict::None(_), Some(grant)) => {
            (Outcome::ActiveStale, &Verdict::Active(Rc::clone(grant)))
        }
        (Verdict::Active(_), _) => (Outcome::ActiveIntrospected, verdict),
        (Verdict::Inactive, _) => (Outcome::InactiveIntrospected, verdict),
        (Verdict::None(why), None) => (why.outcome(), verdict),
    };
    for (stream, waiter) in waiters {
        if !host.select(stream) {
            continue;
        }
        let config = &waiter.gateway.config;
        host.count(Metric::Request(outcome));
        host.record(Metric::HeldMillis, millis(now.since(waiter.since)));
        let decision = gate::conclude(config, waiter.requirement, waiter.kind, verdict.clone());
        let phase = request::apply(host, config, decision, waiter.cors);
        waiter.phase.set(phase);
        if phase == Phase::Forwarded && host.resume().is_err() {
            log::error!("Envoy refused to resume a request");
        }
    }
}
