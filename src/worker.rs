//! One Envoy worker: the requests that pass through it, the cache they share and the introspections on
//! their way.
//!
//! A worker lives as long as its VM and serves every plugin configuration loaded into it. A request is
//! answered at once where the cache knows the token; otherwise it is held, joins the flight for its token,
//! and is let go or answered from the callback in which the answer arrives. Every way out of a hold leads
//! through [`Worker::conclude`]: an answer, a failure, or the deadline.

mod request;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use self::request::Head;
use crate::{
    cache::{
        Cache, Cached, TokenDigest,
        flight::{Flight, FlightKey, Flights, Full},
    },
    clock::Instant,
    config::Config,
    gate::{self, Decision, Inspection, Question, RequestHead, Verdict},
    host::{CallId, Host, RootId, StreamId},
    mas::{
        introspection::{
            self, IntrospectionAnswer, IntrospectionRequest, IntrospectionResponse, NoVerdict,
        },
        token::TokenKind,
    },
    matrix::{credential::AccessToken, endpoint::AuthRequirement, reply::Rejection},
    metrics::{Answered, Metric, Outcome},
};

/// Added to the call's own timeout before its answer counts as lost. Envoy answers a timed-out call with
/// 504, so this is for answers that Envoy never delivers.
const LOST_AFTER: Duration = Duration::from_millis(500);

/// How often deadlines are looked at while introspections are on their way.
const TICK: Duration = Duration::from_millis(250);

/// One plugin configuration in use: a root context.
#[derive(Debug)]
pub struct Gateway {
    root: RootId,
    config: Config,
    cache: Cache,
    fingerprint: u64,
}

impl Gateway {
    /// The gateway that `config` describes, run by `root`.
    pub fn new(root: RootId, config: Config) -> Self {
        let fingerprint = config.introspection.fingerprint();
        Self {
            root,
            cache: Cache::new(&config.cache, fingerprint),
            fingerprint,
            config,
        }
    }
}

/// How far a request has come. Whoever holds its body back asks this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for a verdict: nothing of it may go on.
    Held,
    /// It goes on to the homeserver.
    Forwarded,
    /// It was answered here: nothing of it may go on.
    Answered,
}

/// What is needed to ask MAS again.
#[derive(Debug)]
struct Call {
    gateway: Rc<Gateway>,
    token: AccessToken<'static>,
    digest: TokenDigest,
    trace: Vec<(&'static str, String)>,
}

impl Call {
    fn deadline(&self, now: Instant) -> Instant {
        now + self.gateway.config.introspection.timeout + LOST_AFTER
    }
}

/// A request that waits for a verdict.
#[derive(Debug)]
struct Waiter {
    gateway: Rc<Gateway>,
    target: Vec<u8>,
    requirement: AuthRequirement,
    kind: Option<TokenKind>,
    phase: Rc<Cell<Phase>>,
}

/// The state of one worker's VM.
#[derive(Debug, Default)]
pub struct Worker {
    flights: Flights<Call, Waiter>,
    ticking: BTreeSet<RootId>,
}

impl Worker {
    /// Takes in the headers of a request: answers it, lets it go on, or holds it until a verdict.
    pub fn on_request(
        &mut self,
        host: &impl Host,
        gateway: &Rc<Gateway>,
        stream: StreamId,
    ) -> Rc<Cell<Phase>> {
        let phase = Rc::new(Cell::new(Phase::Held));
        match Head::read(host, &gateway.config.identity_headers) {
            Ok(head) => {
                if let Some(decision) = self.decide(host, gateway, stream, &head, &phase) {
                    phase.set(request::apply(
                        host,
                        &gateway.config,
                        decision,
                        head.target(),
                    ));
                }
            }
            Err(error) => phase.set(request::refuse(host, error)),
        }
        phase
    }

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
        let now = host.now();
        let millis = now.since(flight.asked_at).as_millis();
        host.record(
            Metric::IntrospectionMillis,
            u64::try_from(millis).unwrap_or(u64::MAX),
        );
        let answer = introspection::read(response);
        host.count(Metric::Introspection(match &answer {
            Ok(IntrospectionAnswer::Active { .. }) => Answered::Active,
            Ok(IntrospectionAnswer::Inactive) => Answered::Inactive,
            Err(why) => Answered::Failed(*why),
        }));
        let verdict = match answer {
            Ok(answer) => {
                let cache = &flight.question.gateway.cache;
                cache.keep(host, key.digest, flight.asked_at, now, &answer);
                match answer {
                    IntrospectionAnswer::Active { token, .. } => Verdict::Active(token),
                    IntrospectionAnswer::Inactive => Verdict::Inactive,
                }
            }
            Err(why) => Verdict::None(why),
        };
        conclude(host, flight, &verdict);
    }

    /// Looks at deadlines, on behalf of `root`.
    pub fn on_tick(&mut self, host: &impl Host, root: RootId) {
        let now = host.now();
        while let Some((_, flight)) = self.flights.overdue(now) {
            host.count(Metric::Introspection(Answered::Failed(NoVerdict::Lost)));
            conclude(host, flight, &Verdict::None(NoVerdict::Lost));
        }
        while let Some((key, flight)) = self.flights.orphan(|waiter| waiter.gateway.root == root) {
            self.ask_again(host, key, flight, root);
        }
        if self.flights.is_empty() {
            self.ticking.remove(&root);
            host.tick_every(root, None);
        }
    }

    /// Forgets a stream that has ended, whatever it waited for.
    pub fn on_stream_end(&mut self, stream: StreamId) {
        self.flights.forget(stream);
    }

    /// Forgets a root context that has ended. Envoy has dropped its calls; requests of other
    /// configurations that waited for one are asked again at their next tick.
    pub fn on_root_end(&mut self, root: RootId) {
        self.ticking.remove(&root);
        self.flights.root_gone(root);
    }

    /// `None`: the request is held.
    fn decide<H: Host>(
        &mut self,
        host: &H,
        gateway: &Rc<Gateway>,
        stream: StreamId,
        head: &Head<'_, H>,
        phase: &Rc<Cell<Phase>>,
    ) -> Option<Decision> {
        let config = &gateway.config;
        let (outcome, decision) = match gate::inspect(config, head) {
            Inspection::Forward => (Outcome::NotAsked, Decision::Forward),
            Inspection::Reject(rejection) => (Outcome::NotAsked, Decision::Reject(rejection)),
            Inspection::Inactive => (
                Outcome::InactiveOffline,
                Decision::Reject(Rejection::NotActive),
            ),
            Inspection::Ask(question) => {
                let now = host.now();
                let cached = gateway
                    .cache
                    .find(host, &question.digest, now, |metric| host.count(metric));
                let (outcome, verdict) = match cached {
                    Some(Cached::Active(token)) => (Outcome::ActiveCached, Verdict::Active(token)),
                    Some(Cached::Inactive) => (Outcome::InactiveCached, Verdict::Inactive),
                    None if head.is_preflight() => {
                        host.count(Metric::Request(Outcome::NotAsked));
                        return Some(Decision::Forward);
                    }
                    None => match self.hold(host, gateway, stream, head, &question, now, phase) {
                        Ok(()) => return None,
                        Err(why) => (Outcome::NoVerdict, Verdict::None(why)),
                    },
                };
                (
                    outcome,
                    gate::conclude(config, question.requirement, question.kind, verdict),
                )
            }
        };
        host.count(Metric::Request(outcome));
        Some(match decision {
            // Browsers send a pre-flight without credentials and give up if it fails.
            Decision::Reject(rejection)
                if rejection != Rejection::Unrecognized && head.is_preflight() =>
            {
                Decision::Forward
            }
            decision => decision,
        })
    }

    /// Holds a request until the answer to its question arrives, asking it unless someone has.
    #[expect(
        clippy::too_many_arguments,
        reason = "one call site; each is a different thing"
    )]
    fn hold<H: Host>(
        &mut self,
        host: &H,
        gateway: &Rc<Gateway>,
        stream: StreamId,
        head: &Head<'_, H>,
        question: &Question<'_>,
        now: Instant,
        phase: &Rc<Cell<Phase>>,
    ) -> Result<(), NoVerdict> {
        let key = FlightKey {
            digest: question.digest,
            fingerprint: gateway.fingerprint,
        };
        if self.flights.contains(&key) {
            host.count(Metric::Coalesced);
        } else {
            let call = Call {
                gateway: Rc::clone(gateway),
                token: question.token.clone().into_owned(),
                digest: question.digest,
                trace: request::trace(host),
            };
            let flight = Flight {
                asked_at: now,
                deadline: call.deadline(now),
                root: gateway.root,
                call: Some(self.ask(host, &call)?),
                question: call,
                waiters: BTreeMap::new(),
            };
            self.flights.start(key, flight);
        }
        let waiter = Waiter {
            gateway: Rc::clone(gateway),
            target: head.target().to_vec(),
            requirement: question.requirement,
            kind: question.kind,
            phase: Rc::clone(phase),
        };
        self.flights
            .join(key, stream, waiter)
            .map_err(|Full| NoVerdict::Overloaded)?;
        if self.ticking.insert(gateway.root) {
            host.tick_every(gateway.root, Some(TICK));
        }
        Ok(())
    }

    fn ask(&mut self, host: &impl Host, call: &Call) -> Result<CallId, NoVerdict> {
        let settings = &call.gateway.config.introspection;
        let asked = if self.flights.len() < settings.max_in_flight {
            let request = IntrospectionRequest::new(
                settings,
                &call.token,
                &call.digest.0,
                call.trace.clone(),
            );
            host.dispatch(call.gateway.root, &request)
                .map_err(|_| NoVerdict::Undeliverable)
        } else {
            Err(NoVerdict::Overloaded)
        };
        asked.inspect_err(|why| host.count(Metric::Introspection(Answered::Failed(*why))))
    }

    /// Asks once more, on behalf of `root`, what a vanished root was asking.
    fn ask_again(
        &mut self,
        host: &impl Host,
        key: FlightKey,
        mut flight: Flight<Call, Waiter>,
        root: RootId,
    ) {
        if let Some(heir) = flight
            .waiters
            .values()
            .find(|waiter| waiter.gateway.root == root)
        {
            flight.question.gateway = Rc::clone(&heir.gateway);
        }
        let now = host.now();
        match self.ask(host, &flight.question) {
            Ok(call) => {
                flight.root = root;
                flight.call = Some(call);
                flight.asked_at = now;
                flight.deadline = flight.question.deadline(now);
                self.flights.start(key, flight);
            }
            Err(why) => conclude(host, flight, &Verdict::None(why)),
        }
    }
}

/// Decides every request that waited.
fn conclude(host: &impl Host, flight: Flight<Call, Waiter>, verdict: &Verdict) {
    let outcome = match verdict {
        Verdict::Active(_) => Outcome::ActiveIntrospected,
        Verdict::Inactive => Outcome::InactiveIntrospected,
        Verdict::None(_) => Outcome::NoVerdict,
    };
    for (stream, waiter) in flight.waiters {
        if !host.select(stream) {
            continue;
        }
        let config = &waiter.gateway.config;
        host.count(Metric::Request(outcome));
        let decision = gate::conclude(config, waiter.requirement, waiter.kind, verdict.clone());
        let phase = request::apply(host, config, decision, &waiter.target);
        waiter.phase.set(phase);
        if phase == Phase::Forwarded && host.resume().is_err() {
            log::error!("Envoy refused to resume a request");
        }
    }
}
