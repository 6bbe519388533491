//! The introspection role: between the homeserver and MAS. The homeserver asks MAS, and the cache answers.
//!
//! The headers are held until the form is read, for which the listener must set
//! `allow_on_headers_stop_iteration`. Without it Envoy delivers no body while the headers are held; such a
//! request is passed on after a moment, so that the mistake costs time and not the homeserver.
//!
//! Callers must prove that MAS would answer them. A caller with the configured credential has; where the module
//! knows none, a caller that MAS has answered before has. All other requests are MAS's to judge.

use alloc::{boxed::Box, rc::Rc};

mod awaiting_body;
mod callers;
#[cfg(all(test, not(target_arch = "wasm32")))]
mod chain;
pub mod form;
pub mod request;
mod watch;

pub use self::watch::{Exchange, Watch};
use self::{
    awaiting_body::AwaitingBody,
    callers::{AcceptedCallers, CallerKey},
    form::QuestionForm,
    request::MAX_FORM_BYTES,
};
use super::{
    body::{self, BodyBudget, Share},
    exchange::{Chunk, Phase},
    grpc, head,
    origin::HomeserverOrigin,
};
use crate::{
    clock::Instant,
    config::{Config, Mode, OnFailure},
    host::{Callback, Host, Metrics, StreamId},
    mas::{
        introspection::InactiveAnswer,
        token::{Shape, shape},
    },
    matrix::reply::Reply,
    metrics::{Metric, Outcome},
    resolver::{Found, Query, Resolver, Verdict},
    token::AccessToken,
};

/// What a held request needs to go on.
#[derive(Debug)]
pub struct Waiter {
    exchange: Rc<Exchange>,
    /// Of the form, which Envoy holds as long as the request.
    _share: Share,
}

impl Waiter {
    /// Returns how far the request has come.
    pub fn phase(&self) -> Phase {
        self.exchange.phase()
    }
}

/// The introspection role in one worker.
#[derive(Debug, Default)]
pub struct Introspection {
    callers: AcceptedCallers,
    awaiting_body: AwaitingBody,
}

impl Introspection {
    /// Takes in the headers of a request for MAS. `is_whole`: there is no body. A request whose form is not in the
    /// budget is not held: MAS answers it.
    pub fn on_request_headers<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &Resolver<W>,
        exchange: &Rc<Exchange>,
        is_whole: bool,
        budget: &BodyBudget,
    ) {
        let config = &exchange.plugin.config;
        let head = match head::read(cb.host, &exchange.plugin) {
            Ok(head) => head,
            Err(why) => return head::refuse(cb.host, exchange.as_ref(), why),
        };
        exchange.set_phase(Phase::Forwarded);
        if is_whole || config.mode == Mode::Shadow {
            return;
        }
        let Some(announced) = request::announced(config, &head) else {
            return;
        };
        let credential = announced.credential;
        match config.introspection.credential.known() {
            Some(known) if known.matches(credential) => {}
            // Another credential, which MAS may know.
            Some(_) => return,
            None => {
                let secret = resolver.token_secret(cb.host);
                let caller = CallerKey::of(&exchange.plugin.upstream, secret, credential);
                if !self.callers.admits(&caller, cb.now()) {
                    exchange.set_watch(Watch::Unauthenticated(caller, Box::default()));
                    return;
                }
            }
        }
        if let Some(share) = budget.take(announced.form_bytes)
            && self.awaiting_body.insert(exchange, cb.now())
        {
            exchange.set_phase(Phase::Held);
            exchange.set_watch(Watch::HeldForBody(share, 0));
        } else {
            pass_on(cb.host, exchange);
        }
    }

    /// Takes in the form: all of it so far where it is held, a piece where it passes. Nothing, if Envoy has answered the request.
    pub fn on_request_body<H: Host, W: From<Waiter>>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Rc<Exchange>,
        chunk: Chunk,
    ) {
        if exchange.phase() == Phase::Replied {
            return;
        }
        match exchange.take_watch() {
            // All of the form has passed.
            Watch::Nothing | Watch::Matched(_) | Watch::GrpcReply(_) => {}
            Watch::Released(at) => self.awaiting_body.suspect_listener(cb, at),
            Watch::Unauthenticated(caller, mut form) => {
                // Envoy ends an HTTP/1.1 body with an empty piece.
                if !read_form(cb, &mut form, chunk.size) {
                    return;
                }
                if !chunk.is_last {
                    exchange.set_watch(Watch::Unauthenticated(caller, form));
                } else if form.finish() {
                    exchange.set_watch(Watch::Matched(caller));
                }
            }
            Watch::HeldForBody(share, _) if !chunk.is_last && chunk.size <= MAX_FORM_BYTES => {
                self.awaiting_body.note_piece(exchange.stream);
                exchange.set_watch(Watch::HeldForBody(share, chunk.size));
            }
            Watch::HeldForBody(share, size) => {
                self.awaiting_body.remove(exchange.stream);
                match held_token(cb, chunk.size.max(size)) {
                    Some(token) => self.resolve(cb, resolver, exchange, &token, share),
                    None => pass_on(cb.host, exchange),
                }
            }
        }
    }

    /// Takes in the trailers of a request, which is answered if they cannot be cleaned.
    pub fn on_request_trailers<H: Host>(&self, cb: &Callback<'_, H>, exchange: &Exchange) {
        head::clean_trailers_or_refuse(cb.host, exchange);
    }

    /// Takes in the headers of a response: MAS's own, or a refusal.
    pub fn on_response_headers<H: Host>(&mut self, cb: &Callback<'_, H>, exchange: &Exchange) {
        match exchange.take_watch() {
            Watch::Matched(caller) => {
                self.callers
                    .note(caller, cb.host.upstream_status(), cb.now());
            }
            Watch::GrpcReply(status) => grpc::restore_status(cb.host, status),
            _ => {}
        }
    }

    /// Passes on the requests that have waited too long for a form to begin. Returns whether another tick is to come soon.
    pub fn on_tick<H: Host>(&mut self, cb: &Callback<'_, H>) -> bool {
        self.awaiting_body.release_expired(cb)
    }

    /// Notes that a stream has ended.
    pub fn cancel(&mut self, stream: StreamId) {
        self.awaiting_body.remove(stream);
    }

    /// Answers a request that waited, or lets it go on to MAS.
    pub fn finish<H: Host>(&self, cb: &Callback<'_, H>, found: &Found, waiter: &Waiter) {
        answer(cb, &waiter.exchange, found.outcome(), &found.verdict);
        waiter.exchange.resume_forwarded(cb.host);
    }

    fn resolve<H: Host, W: From<Waiter>>(
        &self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Rc<Exchange>,
        token: &AccessToken<'_>,
        share: Share,
    ) {
        if shape(token.as_bytes()) == Shape::CannotExist {
            let inactive = Verdict::Inactive(InactiveAnswer::default());
            answer(cb, exchange, Outcome::InactiveOffline, &inactive);
            return;
        }
        let upstream = &exchange.plugin.upstream;
        let query = Query {
            upstream,
            token,
            digest: resolver.token_secret(cb.host).digest(token.as_bytes()),
            origin: &HomeserverOrigin(cb.host),
        };
        let found = resolver.lookup(cb, &query).or_else(|| {
            let waiter = Waiter {
                exchange: Rc::clone(exchange),
                _share: share,
            };
            resolver.resolve(cb, &query, Some(exchange.stream), waiter.into())
        });
        if let Some(found) = found {
            answer(cb, exchange, found.outcome(), &found.verdict);
        }
    }
}

/// Reads a piece of the selected request's form as it passes. `false`: it is not one that the cache could answer.
fn read_form<H: Host>(cb: &Callback<'_, H>, form: &mut QuestionForm, size: usize) -> bool {
    let mut is_such = true;
    let shown = body::show(cb.host, size, |piece| {
        is_such = form.read(piece);
        is_such
    });
    is_such && shown.is_ok()
}

/// Returns the token in the form of the selected request, which Envoy holds. `None`: the cache cannot answer it.
fn held_token<H: Host>(cb: &Callback<'_, H>, size: usize) -> Option<AccessToken<'static>> {
    let mut form = QuestionForm::of_question();
    let is_such = size <= MAX_FORM_BYTES && read_form(cb, &mut form, size);
    is_such.then_some(form)?.into_token()
}

/// Answers the selected request, or lets it go on to MAS.
fn answer<H: Host>(cb: &Callback<'_, H>, exchange: &Exchange, outcome: Outcome, verdict: &Verdict) {
    match reply(&exchange.plugin.config, verdict, cb.now()) {
        Some(reply) => {
            cb.host.count(Metric::Answered(outcome));
            exchange.reply(cb.host, &reply);
        }
        None => pass_on(cb.host, exchange),
    }
}

fn pass_on(host: &impl Metrics, exchange: &Exchange) {
    host.count(Metric::Answered(Outcome::NotAsked));
    exchange.set_phase(Phase::Forwarded);
}

/// Returns the reply that a verdict makes; `None` if MAS is to answer itself.
fn reply(config: &Config, verdict: &Verdict, now: Instant) -> Option<Reply> {
    match verdict {
        Verdict::Active(entry) => request::active_reply(entry, now),
        Verdict::Inactive(answer) => Some(request::reply(answer.body().to_vec())),
        // A flood of clients must not cut the homeserver off from MAS, and neither must MAS's own words about users.
        Verdict::None(why) if !why.is_failure() => None,
        Verdict::None(_) => match config.on_introspection_failure {
            OnFailure::Reject => Some(request::unavailable()),
            OnFailure::Pass => None,
        },
    }
}

#[cfg(test)]
mod tests;
