//! One Envoy worker: the requests that pass through it, the caches they share and the introspections on
//! their way.
//!
//! A worker lives as long as its VM and serves every plugin configuration loaded into it, whatever its role.
//! A request is answered at once where a cache knows the token; otherwise it is held, joins the flight for
//! its token, and is let go or answered from the callback in which the answer arrives. Every way out of that
//! hold leads through `land::conclude`: an answer, a failure, or the deadline.

mod answer;
mod ask;
mod exchange;
mod land;
mod learn;
mod peers;
mod provision;
mod request;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

pub use self::exchange::{Exchange, Phase};
use self::{
    answer::{Callers, Unread},
    ask::{Call, Finding},
    exchange::{Collector, Interest},
    peers::Peers,
    provision::Provisioning,
    request::Head,
};
use crate::{
    cache::{
        Cache, Cached, Known, TokenDigest,
        budget::Budget,
        epoch::Epochs,
        flight::{FlightKey, Flights},
        lease::Leases,
        local::{Local, LocalEntry},
    },
    clock::Instant,
    config::{Config, Role},
    gate::{self, Decision, Grant, Inspection, Question, RequestHead, Verdict},
    host::{Host, RootId, StreamId},
    mas::{introspection::NoVerdict, token::TokenKind},
    matrix::{
        endpoint::AuthRequirement,
        logout::MAX_REVOCATION_BYTES,
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
pub struct Plugin {
    root: RootId,
    config: Config,
    cache: Cache,
    /// See [`Config::fingerprint`] and [`Config::identity_fingerprint`].
    fingerprint: u64,
    identity_fingerprint: u64,
}

impl Plugin {
    /// The plugin that `config` describes, run by `root`.
    pub fn new(root: RootId, config: Config) -> Self {
        let fingerprint = config.fingerprint();
        Self {
            root,
            cache: Cache::new(&config.cache, fingerprint),
            fingerprint,
            identity_fingerprint: config.identity_fingerprint(),
            config,
        }
    }

    /// The question whose token this is.
    fn flight_key(&self, digest: &TokenDigest) -> FlightKey {
        FlightKey {
            digest: *digest,
            fingerprint: self.fingerprint,
        }
    }

    /// Where a worker keeps the grant of this token for itself: it names users of one server.
    fn local_key(&self, digest: &TokenDigest) -> FlightKey {
        FlightKey {
            digest: *digest,
            fingerprint: self.identity_fingerprint,
        }
    }
}

/// A request that waits for a verdict.
#[derive(Debug)]
struct Waiter {
    plugin: Rc<Plugin>,
    exchange: Rc<Exchange>,
    since: Instant,
    until: Instant,
    purpose: Purpose,
}

/// What a verdict is needed for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// To answer an introspection request of the homeserver.
    Answer,
    /// To decide a client's request.
    Decide {
        cors: Cors,
        requirement: AuthRequirement,
        kind: Option<TokenKind>,
    },
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
    /// Tokens that the homeserver refused, and until when another refusal says nothing new.
    doubted: BTreeMap<TokenDigest, Instant>,
    /// Callers of the introspection role whom MAS has answered.
    callers: Callers,
    /// Introspection requests of the homeserver whose form has not come.
    unread: Unread,
    /// Calls that went with their root, and are still in the gauge.
    lost_calls: usize,
    /// As of the last tick or hint.
    epochs: Epochs,
    /// The moment of the last callback that read the clock.
    now: Instant,
}

impl Worker {
    /// Takes in the headers of a request: answers it, lets it go on, or holds it. `is_whole`: it has no body.
    pub fn on_request(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        stream: StreamId,
        is_whole: bool,
    ) -> Rc<Exchange> {
        self.start_ticking(host, plugin.root);
        let exchange = Rc::<Exchange>::default();
        match plugin.config.role {
            Role::Gateway => self.on_client_request(host, plugin, stream, &exchange),
            Role::Introspection => {
                self.on_introspection_request(host, plugin, stream, &exchange, is_whole);
            }
            Role::Provisioning => {
                exchange.set_phase(Phase::Forwarded);
                if let Some(provisioning) = Provisioning::of(host, plugin).filter(|_| !is_whole) {
                    exchange.set_interest(Interest::Provisioning(provisioning));
                }
            }
        }
        exchange
    }

    /// Takes in a piece of `size` bytes of a request's body.
    pub fn on_request_body(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        stream: StreamId,
        exchange: &Rc<Exchange>,
        size: usize,
        is_last: bool,
    ) {
        match exchange.take_interest() {
            Interest::SessionEnd(end, form) => {
                Self::on_session_end_body(host, exchange, end, form, size);
            }
            Interest::Provisioning(provisioning) => {
                self.on_provisioning_body(host, plugin, exchange, provisioning, size, is_last);
            }
            Interest::Introspection(introspection) => {
                let piece = (size, is_last);
                self.on_introspection_body(host, plugin, stream, exchange, introspection, piece);
            }
            other => exchange.set_interest(other),
        }
    }

    fn on_client_request(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        stream: StreamId,
        exchange: &Rc<Exchange>,
    ) {
        match Head::read(host, &plugin.config.identity_headers) {
            Ok(head) => {
                if let Some(decision) = self.decide(host, plugin, stream, &head, exchange) {
                    let cors = Cors::of(head.target());
                    exchange.set_phase(request::apply(host, &plugin.config, decision, cors));
                }
            }
            Err(error) => exchange.set_phase(request::refuse(host, error)),
        }
    }

    /// Takes in the trailers of a request. Whether they may go on, if the request may.
    pub fn on_trailers(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        stream: StreamId,
        exchange: &Rc<Exchange>,
    ) -> bool {
        // The body has ended without a last piece.
        if exchange.reads_request_body() {
            self.on_request_body(host, plugin, stream, exchange, 0, true);
        }
        exchange.phase() != Phase::Forwarded
            || plugin.config.role != Role::Gateway
            || request::clean_trailers(host, &plugin.config.identity_headers).is_ok()
    }

    /// Forgets a stream that has ended, whatever it waited for.
    pub fn on_stream_end(&mut self, stream: StreamId) {
        self.flights.forget(stream);
        self.unread.forget(stream);
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
        plugin: &Rc<Plugin>,
        stream: StreamId,
        head: &Head<'_, H>,
        exchange: &Rc<Exchange>,
    ) -> Option<Decision> {
        let config = &plugin.config;
        let (outcome, decision) = match gate::inspect(config, head) {
            Inspection::Forward => (Outcome::NotAsked, Decision::Forward),
            Inspection::Observe(end) => {
                let form = Collector::new(MAX_REVOCATION_BYTES);
                exchange.set_interest(Interest::SessionEnd(end, form));
                (Outcome::NotAsked, Decision::Forward)
            }
            Inspection::Reject(rejection) => (Outcome::NotAsked, Decision::Reject(rejection)),
            Inspection::Inactive => (
                Outcome::InactiveOffline,
                Decision::Reject(Rejection::NotActive),
            ),
            Inspection::Ask(question) => {
                let (outcome, verdict) = match self.known(host, plugin, &question) {
                    Some(known) => known,
                    None if gate::ignores_token(config, head) => {
                        host.count(Metric::Request(Outcome::NotAsked));
                        return Some(Decision::Forward);
                    }
                    None => {
                        let waiter = Waiter {
                            plugin: Rc::clone(plugin),
                            exchange: Rc::clone(exchange),
                            since: self.now,
                            until: self.now + ask::patience(plugin),
                            purpose: Purpose::Decide {
                                cors: Cors::of(head.target()),
                                requirement: question.requirement,
                                kind: question.kind,
                            },
                        };
                        let (outcome, finding) =
                            self.hold(host, &(&question).into(), stream, waiter)?;
                        (
                            outcome,
                            self.verdict(host, plugin, &question.digest, finding),
                        )
                    }
                };
                let decision = gate::conclude(config, question.requirement, question.kind, verdict);
                if let Decision::Annotate(_) = decision {
                    exchange.set_interest(Interest::Active(question.digest));
                }
                (outcome, decision)
            }
        };
        host.count(Metric::Request(outcome));
        Some(match decision {
            // Browsers send a pre-flight without credentials and give up if it fails.
            Decision::Reject(rejection)
                if rejection != Rejection::Unrecognized && gate::ignores_token(config, head) =>
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
        plugin: &Rc<Plugin>,
        question: &Question<'_>,
    ) -> Option<(Outcome, Verdict)> {
        let digest = &question.digest;
        let now = self.now;
        if let Some(entry) = self.local.find(&plugin.local_key(digest))
            && entry.stamp == self.epochs.stamp(digest, entry.user.as_ref())
            && now + CLOCK_SLACK < entry.fresh_until
        {
            let grant = Rc::clone(&entry.grant);
            if entry
                .refresh_at
                .is_some_and(|refresh_at| refresh_at <= now + CLOCK_SLACK)
            {
                self.refresh(host, plugin, &question.into());
            }
            return Some((Outcome::ActiveLocal, Verdict::Active(grant)));
        }
        let now = self.read_clock(host);
        let cached = plugin
            .cache
            .find(host, digest, now, |metric| host.count(metric));
        match cached {
            Some(Cached::Active(known)) => {
                let grant = self.keep_locally(host, plugin, digest, &known);
                if known.refresh_at.is_some_and(|refresh_at| refresh_at <= now) {
                    self.refresh(host, plugin, &question.into());
                }
                Some((Outcome::ActiveShared, Verdict::Active(grant)))
            }
            Some(Cached::Inactive(_)) => {
                self.local.remove(&plugin.local_key(digest));
                Some((Outcome::InactiveShared, Verdict::Inactive))
            }
            None => {
                self.local.remove(&plugin.local_key(digest));
                let known = self.stale_after_failure(host, plugin, &question.into(), now)?;
                let grant = Grant::new(&known.answer.token, &plugin.config.server_name);
                Some((Outcome::ActiveStale, Verdict::Active(Rc::new(grant))))
            }
        }
    }

    /// What a finding means for a client's request.
    fn verdict(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        digest: &TokenDigest,
        finding: Finding,
    ) -> Verdict {
        match finding {
            Finding::Active(known) => {
                Verdict::Active(self.keep_locally(host, plugin, digest, &known))
            }
            Finding::Inactive(_) => Verdict::Inactive,
            Finding::None(why) => Verdict::None(why),
        }
    }

    fn keep_locally(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        digest: &TokenDigest,
        known: &Known,
    ) -> Rc<Grant> {
        let grant = Rc::new(Grant::new(&known.answer.token, &plugin.config.server_name));
        let entry = LocalEntry {
            grant: Rc::clone(&grant),
            fresh_until: known.fresh_until,
            refresh_at: known.refresh_at,
            user: known.user,
            stamp: self.epochs.stamp(digest, known.user.as_ref()),
        };
        let capacity = plugin.config.cache.local_entries;
        let evicted = self.local.put(plugin.local_key(digest), entry, capacity);
        if evicted > 0 {
            host.record(
                Metric::LocalEvicted,
                i64::try_from(evicted).unwrap_or(i64::MAX),
            );
        }
        grant
    }

    /// How many answers this worker keeps for itself.
    pub fn local_entries(&self) -> usize {
        self.local.len()
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
