//! The introspection role: the homeserver asks MAS, and the cache answers.
//!
//! The headers are held until the form is read, for which the listener must set
//! `allow_on_headers_stop_iteration`. Without it Envoy delivers no body while the headers are held; such a
//! request is passed on after a moment, so that the mistake costs time and not the homeserver.
//!
//! Callers must prove that MAS would answer them. One with the configured credential has; where the module
//! knows none, one has whom MAS has answered before. Everybody else's requests are MAS's to judge.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use sha2::{Digest as _, Sha256};

use super::{
    Plugin, Purpose, Waiter, Worker,
    ask::{self, Finding},
    exchange::{Collector, Exchange, Interest, Phase},
    land::respond_with,
};
use crate::{
    cache::{Cached, TokenDigest, flight::MAX_WAITERS},
    clock::Instant,
    config::{Mode, OnFailure},
    host::{Host, StreamId},
    mas::{
        introspection::NoVerdict,
        token::{Shape, shape},
    },
    metrics::{Metric, Outcome},
    responder::{self, MAX_FORM_BYTES},
};

/// How long a request is held for its body before it is passed on as it is.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// How long MAS's acceptance of a credential counts.
const ACCEPTED: Duration = Duration::from_secs(300);

/// Credentials that are remembered as accepted.
const MAX_CALLERS: usize = 64;

/// An introspection request of the homeserver.
#[derive(Debug)]
pub(super) enum Introspection {
    /// It is held until its form is read. The caller is known.
    Reading,
    /// It passes, and shows whether MAS accepts this credential for requests of this form.
    Unproven {
        caller: Caller,
        /// As much of the form as has passed.
        form: Collector,
        /// The form was one that the cache may answer; not known until all of it has passed.
        is_exact: bool,
    },
}

/// The SHA-256 of a caller's `authorization`. `Debug` shows nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller([u8; 32]);

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Caller(..)")
    }
}

/// Callers whom MAS has answered.
#[derive(Debug, Default)]
pub(super) struct Callers(BTreeMap<Caller, Instant>);

impl Callers {
    fn is_accepted(&self, caller: &Caller, now: Instant) -> bool {
        self.0.get(caller).is_some_and(|until| now < *until)
    }

    fn note(&mut self, caller: Caller, status: Option<u16>, now: Instant) {
        self.0.retain(|_, until| now < *until);
        match status {
            Some(200) if self.0.len() < MAX_CALLERS => {
                self.0.insert(caller, now + ACCEPTED);
            }
            Some(400..500) => {
                self.0.remove(&caller);
            }
            _ => {}
        }
    }
}

/// Requests that are held until their form is read.
#[derive(Debug, Default)]
pub(super) struct Unread {
    streams: BTreeMap<StreamId, (Instant, Rc<Exchange>)>,
    has_warned: bool,
}

impl Unread {
    /// Forgets a stream that has ended.
    pub fn forget(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Passes on what has waited too long for its form.
    pub fn give_up(&mut self, host: &impl Host, now: Instant) {
        self.streams.retain(|stream, (since, exchange)| {
            if now < *since + BODY_PATIENCE {
                return true;
            }
            if host.select(*stream) {
                exchange.take_interest();
                exchange.set_phase(Phase::Forwarded);
                host.count(Metric::Answered(Outcome::NotAsked));
                if host.resume().is_err() {
                    log::error!("Envoy refused to resume a request");
                }
            }
            if !std::mem::replace(&mut self.has_warned, true) {
                log::error!(
                    "no body came with an introspection request, which goes on to MAS: set \
                     allow_on_headers_stop_iteration in the plugin configuration of this listener"
                );
            }
            false
        });
    }
}

impl Worker {
    /// Takes in the headers of a request for MAS. `is_whole`: there is no body.
    pub(super) fn on_introspection_request(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        stream: StreamId,
        exchange: &Rc<Exchange>,
        is_whole: bool,
    ) {
        exchange.set_phase(Phase::Forwarded);
        if is_whole || plugin.config.mode == Mode::Shadow {
            return;
        }
        let header = |name: &str| host.request_header(name).ok().flatten();
        let Some(credential) = responder::credential(&plugin.config, header) else {
            return;
        };
        let now = self.read_clock(host);
        let caller = Caller(Sha256::digest(&credential).0);
        let is_proven = match plugin.config.introspection.credential.known() {
            Some(known) if known.matches(&credential) => true,
            // Another credential than ours, which MAS may know.
            Some(_) => return,
            None => self.callers.is_accepted(&caller, now),
        };
        if !is_proven {
            exchange.set_interest(Interest::Introspection(Introspection::Unproven {
                caller,
                form: Collector::new(MAX_FORM_BYTES),
                is_exact: false,
            }));
        } else if self.unread.streams.len() < MAX_WAITERS {
            exchange.set_phase(Phase::Held);
            exchange.set_interest(Interest::Introspection(Introspection::Reading));
            self.unread
                .streams
                .insert(stream, (now, Rc::clone(exchange)));
        }
    }

    /// Takes in the form: all of it so far where it is held, a piece where it passes.
    pub(super) fn on_introspection_body(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        stream: StreamId,
        exchange: &Rc<Exchange>,
        introspection: Introspection,
        (size, is_last): (usize, bool),
    ) {
        match introspection {
            Introspection::Unproven {
                caller, mut form, ..
            } => {
                // Envoy tells of the end of an HTTP/1 body with an empty piece.
                form.add(size, |size| host.request_body(size));
                if form.is_truncated() {
                    return;
                }
                exchange.set_interest(Interest::Introspection(Introspection::Unproven {
                    caller,
                    is_exact: is_last && responder::token(form.bytes()).is_some(),
                    form,
                }));
            }
            Introspection::Reading if !is_last && size <= MAX_FORM_BYTES => {
                exchange.set_interest(Interest::Introspection(Introspection::Reading));
            }
            Introspection::Reading => {
                self.unread.forget(stream);
                // A form that is too long for us is not looked at.
                let form = (is_last && size <= MAX_FORM_BYTES)
                    .then(|| host.request_body(size).ok())
                    .flatten();
                let Some(token) = form.as_deref().and_then(responder::token) else {
                    self.pass_on(host, exchange);
                    return;
                };
                let question = ask::Question {
                    digest: TokenDigest::of(token.as_bytes()),
                    token: &token,
                };
                if shape(token.as_bytes()) == Shape::CannotExist {
                    let inactive = Finding::Inactive(Default::default());
                    self.answer(host, plugin, exchange, Outcome::InactiveOffline, &inactive);
                } else {
                    self.answer_or_hold(host, plugin, stream, exchange, &question);
                }
            }
        }
    }

    fn answer_or_hold(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        stream: StreamId,
        exchange: &Rc<Exchange>,
        question: &ask::Question<'_>,
    ) {
        let now = self.read_clock(host);
        let cached = plugin
            .cache
            .find(host, &question.digest, now, |metric| host.count(metric));
        if let Some(Cached::Active(known)) = &cached
            && known.refresh_at.is_some_and(|refresh_at| refresh_at <= now)
        {
            self.refresh(host, plugin, question);
        }
        let found = match cached {
            Some(cached) => Some(Finding::of_cached(cached)),
            None => self
                .stale_after_failure(host, plugin, question, now)
                .map(|known| (Outcome::ActiveStale, Finding::Active(Box::new(known)))),
        };
        let found = found.or_else(|| {
            let waiter = Waiter {
                plugin: Rc::clone(plugin),
                exchange: Rc::clone(exchange),
                since: now,
                until: now + ask::patience(plugin),
                purpose: Purpose::Answer,
            };
            self.hold(host, question, stream, waiter)
        });
        if let Some((outcome, finding)) = found {
            self.answer(host, plugin, exchange, outcome, &finding);
        }
    }

    /// Answers the selected request, or lets it go on to MAS: its body callback runs.
    fn answer(
        &self,
        host: &impl Host,
        plugin: &Plugin,
        exchange: &Exchange,
        outcome: Outcome,
        finding: &Finding,
    ) {
        match reply(plugin, finding, self.now) {
            Some(reply) => {
                host.count(Metric::Answered(outcome));
                exchange.set_phase(respond_with(host, &reply));
            }
            None => self.pass_on(host, exchange),
        }
    }

    fn pass_on(&self, host: &impl Host, exchange: &Exchange) {
        host.count(Metric::Answered(Outcome::NotAsked));
        exchange.set_phase(Phase::Forwarded);
    }

    /// MAS has answered a request itself.
    pub(super) fn on_introspected_by_mas(
        &mut self,
        host: &impl Host,
        introspection: Introspection,
        status: Option<u16>,
    ) {
        if let Introspection::Unproven {
            caller,
            is_exact: true,
            ..
        } = introspection
        {
            let now = self.read_clock(host);
            self.callers.note(caller, status, now);
        }
    }
}

/// The reply that a finding makes; `None` if MAS is to answer itself.
pub(super) fn reply(
    plugin: &Plugin,
    finding: &Finding,
    now: Instant,
) -> Option<crate::matrix::reply::Reply> {
    match finding {
        Finding::Active(known) => responder::known_body(known, now).map(responder::reply),
        Finding::Inactive(answer) => Some(responder::reply(answer.body().to_vec())),
        Finding::None(NoVerdict::OverBudget { .. }) => None,
        Finding::None(_) => match plugin.config.on_introspection_failure {
            OnFailure::Reject => Some(responder::unavailable()),
            OnFailure::Pass => None,
        },
    }
}
