//! The introspection role: the homeserver asks MAS, and the cache answers.
//!
//! The headers are held until the form is read, for which the listener must set
//! `allow_on_headers_stop_iteration`. Without it Envoy delivers no body while the headers are held; such a
//! request is passed on after a moment, so that the mistake costs time and not the homeserver.
//!
//! Callers must prove that MAS would answer them. One with the configured credential has; where the module
//! knows none, one has whom MAS has answered before. Everybody else's requests are MAS's to judge.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

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
        introspection::{InactiveAnswer, NoVerdict},
        token::{Shape, shape},
    },
    matrix::reply::Reply,
    metrics::{Metric, Outcome},
    responder::{self, MAX_FORM_BYTES},
};

/// How long a request is held for its body before it is passed on as it is.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// How long MAS's acceptance of a credential counts.
const ACCEPTED: Duration = Duration::from_secs(300);

/// Credentials that are remembered as accepted.
const MAX_CALLERS: usize = 64;

/// A caller: the digest of its `authorization`. `Debug` shows nothing of it.
type Caller = TokenDigest;

/// An introspection request of the homeserver.
#[derive(Debug)]
pub(super) enum Introspection {
    /// Of a caller who has proved that MAS accepts it; held until its form is read.
    Reading,
    /// It passes. Whether the cache could have answered it is known when all of its form has passed.
    Unproven(Caller, Collector),
    /// It passes, and the cache could have answered it: MAS's answer proves the caller.
    Exact(Caller),
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
    streams: BTreeMap<StreamId, UnreadRequest>,
    has_warned: bool,
}

#[derive(Debug)]
struct UnreadRequest {
    since: Instant,
    exchange: Rc<Exchange>,
    /// Some of its form has come.
    is_coming: bool,
}

impl Unread {
    /// Forgets a stream that has ended.
    pub fn forget(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Notes that a piece of the form has come.
    fn note_piece(&mut self, stream: StreamId) {
        if let Some(request) = self.streams.get_mut(&stream) {
            request.is_coming = true;
        }
    }

    /// Passes on what has waited too long for its form.
    pub fn give_up(&mut self, host: &impl Host, now: Instant) {
        self.streams.retain(|stream, request| {
            if now < request.since + BODY_PATIENCE {
                return true;
            }
            if host.select(*stream) {
                request.exchange.take_interest();
                request.exchange.set_phase(Phase::Forwarded);
                host.count(Metric::Answered(Outcome::NotAsked));
                if host.resume().is_err() {
                    log::error!("Envoy refused to resume a request");
                }
            }
            if !request.is_coming && !std::mem::replace(&mut self.has_warned, true) {
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
        let caller = Caller::of(&credential);
        let is_proven = match plugin.config.introspection.credential.known() {
            Some(known) if known.matches(&credential) => true,
            // Another credential than ours, which MAS may know.
            Some(_) => return,
            None => self.callers.is_accepted(&caller, now),
        };
        if !is_proven {
            let unproven = Introspection::Unproven(caller, Collector::new(MAX_FORM_BYTES));
            exchange.set_interest(Interest::Introspection(unproven));
        } else if self.unread.streams.len() < MAX_WAITERS {
            exchange.set_phase(Phase::Held);
            exchange.set_interest(Interest::Introspection(Introspection::Reading));
            let request = UnreadRequest {
                since: now,
                exchange: Rc::clone(exchange),
                is_coming: false,
            };
            self.unread.streams.insert(stream, request);
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
            Introspection::Unproven(caller, mut form) => {
                // Envoy tells of the end of an HTTP/1.1 body with an empty piece.
                form.add(size, |size| host.request_body(size));
                let next = if !is_last {
                    Introspection::Unproven(caller, form)
                } else if !form.is_truncated() && responder::token(form.bytes()).is_some() {
                    Introspection::Exact(caller)
                } else {
                    return;
                };
                exchange.set_interest(Interest::Introspection(next));
            }
            // All of the form has passed.
            Introspection::Exact(_) => {}
            Introspection::Reading if !is_last && size <= MAX_FORM_BYTES => {
                self.unread.note_piece(stream);
                exchange.set_interest(Interest::Introspection(Introspection::Reading));
            }
            Introspection::Reading => {
                self.unread.forget(stream);
                let form = host.request_body(size.min(MAX_FORM_BYTES)).ok();
                let token = form
                    .filter(|_| size <= MAX_FORM_BYTES)
                    .and_then(|form| responder::token(&form));
                let Some(token) = token else {
                    self.pass_on(host, exchange);
                    return;
                };
                let question = ask::Question {
                    digest: TokenDigest::of(token.as_bytes()),
                    token: &token,
                };
                if shape(token.as_bytes()) == Shape::CannotExist {
                    let inactive = Finding::Inactive(InactiveAnswer::default());
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
            Some(cached) => Some(Finding::of_shared(cached)),
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
        if let Introspection::Exact(caller) = introspection {
            let now = self.read_clock(host);
            self.callers.note(caller, status, now);
        }
    }
}

/// The reply that a finding makes; `None` if MAS is to answer itself.
pub(super) fn reply(plugin: &Plugin, finding: &Finding, now: Instant) -> Option<Reply> {
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
