//! One Envoy worker: the requests that pass through it, the caches they share and the introspections on
//! their way.
//!
//! A worker lives as long as its VM and serves every plugin configuration loaded into it. A request is
//! answered at once where a cache knows the token; otherwise it is held, joins the flight for its token,
//! and is let go or answered from the callback in which the answer arrives. Every way out of a hold leads
//! through `land::conclude`: an answer, a failure, or the deadline.

mod ask;
mod land;
mod peers;
mod request;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use self::{ask::Call, peers::Peers, request::Head};
use crate::{
    cache::{
        Cache, Cached, Known,
        budget::Budget,
        epoch::Epochs,
        flight::{FlightKey, Flights},
        lease::Leases,
        local::{Local, LocalEntry},
    },
    clock::Instant,
    config::Config,
    gate::{self, Decision, Grant, Inspection, Question, RequestHead, Verdict},
    host::{Host, RootId, StreamId},
    mas::{introspection::NoVerdict, token::TokenKind},
    matrix::{
        endpoint::AuthRequirement,
        reply::{Cors, Rejection},
    },
    metrics::{Metric, Outcome},
};

/// How often a worker looks at deadlines, leases and the epoch.
const TICK: Duration = Duration::from_millis(250);

/// A hit does not read the clock: it goes by the last tick, and counts an answer as ended this much
/// early. Near its end the clock is read.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// How long MAS is left alone about a token after it failed to answer, while there is another answer.
const RETRY: Duration = Duration::from_secs(1);

/// How long it is remembered that MAS failed to answer about a token: longer than any call may take, so
/// that nobody waits for a retry that hangs.
const FAILURE_REMEMBERED: Duration = Duration::from_secs(120);

/// Tokens whose last failure is remembered; only those that have another answer.
const MAX_RETRIES: usize = 4_096;

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
        let fingerprint = config.fingerprint();
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

/// A request that waits for a verdict.
#[derive(Debug)]
struct Waiter {
    gateway: Rc<Gateway>,
    cors: Cors,
    requirement: AuthRequirement,
    kind: Option<TokenKind>,
    phase: Rc<Cell<Phase>>,
    since: Instant,
    until: Instant,
}

/// The state of one worker's VM.
#[derive(Debug, Default)]
pub struct Worker {
    local: Local,
    flights: Flights<Call, Waiter>,
    leases: Leases,
    budget: Budget,
    peers: Peers,
    ticking: BTreeSet<RootId>,
    /// When a token that has an answer may be asked about again.
    retries: BTreeMap<FlightKey, Instant>,
    /// When MAS last failed to answer about a token that has an answer.
    failures: BTreeMap<FlightKey, Instant>,
    /// Calls that went with their root, and are still in the gauge.
    lost_calls: usize,
    /// As of the last tick or hint.
    epochs: Epochs,
    /// The moment of the last callback that read the clock.
    now: Instant,
}

impl Worker {
    /// Takes in the headers of a request: answers it, lets it go on, or holds it until a verdict.
    pub fn on_request(
        &mut self,
        host: &impl Host,
        gateway: &Rc<Gateway>,
        stream: StreamId,
    ) -> Rc<Cell<Phase>> {
        self.start_ticking(host, gateway.root);
        let phase = Rc::new(Cell::new(Phase::Held));
        match Head::read(host, &gateway.config.identity_headers) {
            Ok(head) => {
                if let Some(decision) = self.decide(host, gateway, stream, &head, &phase) {
                    phase.set(request::apply(
                        host,
                        &gateway.config,
                        decision,
                        Cors::of(head.target()),
                    ));
                }
            }
            Err(error) => phase.set(request::refuse(host, error)),
        }
        phase
    }

    /// Takes in the trailers of a request that goes on. Whether they may.
    pub fn on_trailers(&self, host: &impl Host, gateway: &Gateway) -> bool {
        request::clean_trailers(host, &gateway.config.identity_headers).is_ok()
    }

    /// Forgets a stream that has ended, whatever it waited for.
    pub fn on_stream_end(&mut self, stream: StreamId) {
        self.flights.forget(stream);
    }

    /// Forgets a root context that has ended. Envoy has dropped its calls; requests of other
    /// configurations that waited for one are asked again at their next tick.
    pub fn on_root_end(&mut self, root: RootId) {
        self.ticking.remove(&root);
        self.peers.root_gone(root);
        self.lost_calls += self.flights.root_gone(root);
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
                let (outcome, verdict) = match self.known(host, gateway, &question) {
                    Some(known) => known,
                    None if head.is_preflight() => {
                        host.count(Metric::Request(Outcome::NotAsked));
                        return Some(Decision::Forward);
                    }
                    None => {
                        let waiter = Waiter {
                            gateway: Rc::clone(gateway),
                            cors: Cors::of(head.target()),
                            requirement: question.requirement,
                            kind: question.kind,
                            phase: Rc::clone(phase),
                            since: self.now,
                            until: self.now + ask::patience(gateway),
                        };
                        self.hold(host, &question, stream, waiter)?
                    }
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

    /// The verdict on a token, if it is known without waiting.
    fn known(
        &mut self,
        host: &impl Host,
        gateway: &Rc<Gateway>,
        question: &Question<'_>,
    ) -> Option<(Outcome, Verdict)> {
        let key = FlightKey {
            digest: question.digest,
            fingerprint: gateway.fingerprint,
        };
        let (now, epoch) = (self.now, self.epochs.of(&key.digest));
        if let Some(entry) = self.local.find(&key)
            && entry.epoch == epoch
            && now + CLOCK_SLACK < entry.fresh_until
        {
            let grant = Rc::clone(&entry.grant);
            if entry
                .refresh_at
                .is_some_and(|refresh_at| refresh_at <= now + CLOCK_SLACK)
            {
                self.refresh(host, gateway, &key, question);
            }
            return Some((Outcome::ActiveLocal, Verdict::Active(grant)));
        }
        let now = self.read_clock(host);
        let cached = gateway
            .cache
            .find(host, &key.digest, now, |metric| host.count(metric));
        match cached {
            Some(Cached::Active(known)) => {
                let refresh_at = known.refresh_at;
                let grant = self.keep_locally(host, gateway, key, known);
                if refresh_at.is_some_and(|refresh_at| refresh_at <= now) {
                    self.refresh(host, gateway, &key, question);
                }
                Some((Outcome::ActiveShared, Verdict::Active(grant)))
            }
            Some(Cached::Inactive) => {
                self.local.remove(&key);
                Some((Outcome::InactiveShared, Verdict::Inactive))
            }
            None => {
                self.local.remove(&key);
                let grant = self.stale_after_failure(host, gateway, &key, question, now)?;
                Some((Outcome::ActiveStale, Verdict::Active(grant)))
            }
        }
    }

    fn keep_locally(
        &mut self,
        host: &impl Host,
        gateway: &Gateway,
        key: FlightKey,
        known: Known,
    ) -> Rc<Grant> {
        let Known {
            token,
            fresh_until,
            refresh_at,
        } = known;
        let grant = Rc::new(Grant::new(token, &gateway.config.server_name));
        let entry = LocalEntry {
            grant: Rc::clone(&grant),
            fresh_until,
            refresh_at,
            epoch: self.epochs.of(&key.digest),
        };
        let evicted = self
            .local
            .put(key, entry, gateway.config.cache.local_entries);
        if evicted > 0 {
            host.record(
                Metric::LocalEvicted,
                i64::try_from(evicted).unwrap_or(i64::MAX),
            );
        }
        grant
    }

    fn start_ticking(&mut self, host: &impl Host, root: RootId) {
        if self.ticking.insert(root) {
            host.tick_every(root, Some(TICK));
            let now = self.read_clock(host);
            self.epochs.read(host);
            self.peers.attend(host, root, now);
        }
    }

    fn read_clock(&mut self, host: &impl Host) -> Instant {
        self.now = host.now();
        self.now
    }
}

impl NoVerdict {
    fn outcome(self) -> Outcome {
        match self {
            Self::OverBudget { .. } => Outcome::OverBudget,
            _ => Outcome::NoVerdict,
        }
    }
}
