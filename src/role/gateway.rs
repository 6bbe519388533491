//! The gateway role: before the homeserver. It rejects and annotates the requests of clients.
//!
//! A request is decided at once where a cache knows its token; otherwise it is held, and decided when the
//! resolver has a resolution. What passes is watched for ends of sessions (`gateway/passing.rs`).
//!
//! The non-obvious rule: in shadow mode no request is held. It goes on at once without an identity, and what
//! `enforce` would have made of it is counted when the resolver has a resolution, even if its stream has ended.

use alloc::rc::Rc;

mod carry_out;
mod ends;
mod grants;
mod learned;
mod local_grants;
mod logout_all;
mod outcome;
mod outside;
mod passing;
pub mod policy;
mod query;
pub mod recognized;
mod shadow;
mod waiter;
mod watch;

use self::{
    carry_out::{ReplyForm, carry_out, reject},
    learned::Learned,
    local_grants::LocalGrants,
    outcome::RequestId,
    policy::{Decision, Grant, Inspection, Need, Terms},
    waiter::Purpose,
};
pub use self::{
    waiter::Waiter,
    watch::{Exchange, Watch},
};
use super::{
    exchange::{Chunk, Phase},
    head,
    origin::ClientOrigin,
    plugin::Plugin,
};
use crate::{
    config::{Mode, Role},
    host::{Callback, Host, RequestHead, RootId, Store},
    matrix::{
        endpoint::{AuthRequirement, Served},
        reply::Rejection,
    },
    metrics::{Metric, Outcome},
    resolver::{Found, Resolver, Verdict},
    token::TokenDigest,
};

/// The gateway role in one worker.
#[derive(Debug)]
pub struct Gateway {
    local: LocalGrants,
    learned: Learned,
}

/// How far the question of a request has come.
enum Progress {
    /// There is a verdict.
    Decided(Outcome, Verdict<Grant>),
    /// The homeserver does not look at the token, so the request waits for nothing.
    NotNeeded,
    /// The request is held.
    Held,
    /// The request goes on, and the verdict is counted when it comes.
    Passed,
}

impl Gateway {
    /// A worker's, before its first request. `random` makes numbers that no client knows.
    pub fn new(random: impl FnMut() -> u64) -> Self {
        Self {
            local: LocalGrants::new(random),
            learned: Learned::default(),
        }
    }

    /// Takes in the headers of a request: answers it, lets it go on, or holds it. Returns the exchange, which `begin` makes.
    /// `None`: the request goes on, and there is nothing to watch for. So it is with federation and media.
    #[inline]
    pub fn on_request_headers<H: Host, W: From<Waiter>>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Plugin,
        begin: impl FnOnce() -> Rc<Exchange>,
    ) -> Option<Rc<Exchange>> {
        let config = &plugin.config;
        // It stays where it was read, since it is long.
        let read = head::read(cb.host, plugin);
        let head = match &read {
            Ok(head) => head,
            Err(error) => {
                let exchange = begin();
                head::refuse(cb.host, exchange.as_ref(), *error);
                return Some(exchange);
            }
        };
        if outside::is_introspection(cb.host, plugin, head) {
            let exchange = begin();
            reject(
                cb.host,
                &exchange,
                Rejection::Unrecognized,
                ReplyForm::of(head),
            );
            outcome::tell(cb.host, config, Outcome::NotAsked);
            return Some(exchange);
        }
        let recognize = |token: &[u8]| {
            let secret = resolver.token_secret(cb.host);
            self.local.recognize(config, secret, token)
        };
        let inspection = match policy::inspect(config, head, recognize) {
            Inspection::Forward => {
                outcome::tell(cb.host, config, Outcome::NotAsked);
                outside::report_route(cb, plugin);
                return None;
            }
            inspection => inspection,
        };
        let exchange = begin();
        if let Some(decision) = self.decide(cb, resolver, &exchange, head, inspection) {
            if let Decision::Forward = decision {
                outside::report_route(cb, plugin);
            }
            carry_out(cb.host, &exchange, decision, || ReplyForm::of(head));
        }
        Some(exchange)
    }

    /// Takes in a piece of a request's body.
    pub fn on_request_body<H: Host>(
        &self,
        cb: &Callback<'_, H>,
        exchange: &Exchange,
        chunk: Chunk,
    ) {
        passing::on_request_body(cb.host, exchange, chunk);
    }

    /// Takes in the trailers of a request, which is answered if they cannot be cleaned.
    pub fn on_request_trailers<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Exchange,
    ) {
        if let Err(why) = head::clean_trailers(cb.host, exchange) {
            resolver.cancel(exchange.stream);
            // MAS may have carried the request out, and its answer will not be heard.
            passing::on_stream_end(cb, resolver, exchange, &mut self.learned);
            head::refuse(cb.host, exchange, why);
        }
    }

    /// Takes in the headers of a response.
    pub fn on_response_headers<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Exchange,
    ) {
        passing::on_response_headers(cb, resolver, exchange, &mut self.learned);
    }

    /// Notes that a stream has ended.
    pub fn on_stream_end<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Exchange,
    ) {
        passing::on_stream_end(cb, resolver, exchange, &mut self.learned);
    }

    /// Notes that a configuration, of any role, has its first request.
    pub fn start(&mut self, plugin: &Plugin) {
        if plugin.config.role == Role::Gateway {
            self.local.add_root(plugin);
        }
    }

    /// Notes that a configuration has ended.
    pub fn on_root_end(&mut self, root: RootId) {
        self.local.remove_root(root);
    }

    /// Ends the answers of sessions that wait for a tick, and forgets what is too old to matter.
    pub fn on_tick<H: Host, W>(&mut self, cb: &Callback<'_, H>, resolver: &mut Resolver<W>) {
        self.learned.on_tick(cb, resolver);
    }

    /// Takes over the ends that other VMs have left, in a callback of `plugin`'s.
    pub fn take_over<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Rc<Plugin>,
    ) {
        self.learned.take_over(cb, resolver, plugin);
    }

    /// Hands the ends that wait for a tick over to another VM, since this one goes.
    pub fn leave(&self, store: &impl Store) {
        self.learned.leave(store);
    }

    /// Decides a request that waited.
    pub fn finish<H: Host>(&mut self, cb: &Callback<'_, H>, found: &Found, waiter: Waiter) {
        let Waiter { exchange, purpose } = waiter;
        let config = &exchange.plugin.config;
        match purpose {
            Purpose::Shadow { terms, request_id } => {
                self.finish_shadow(cb, found, &exchange, terms, request_id);
            }
            Purpose::Access { form, terms } => {
                outcome::tell(cb.host, config, found.outcome());
                let verdict = self.local.grant(cb, &exchange.plugin, found);
                let decision = decide_and_watch(&exchange, found.digest, terms, verdict);
                carry_out(cb.host, &exchange, decision, || form);
                exchange.resume_forwarded(cb.host);
            }
            Purpose::LogoutAll => {
                outcome::tell(cb.host, config, found.outcome());
                logout_all::watch(&exchange, found);
                exchange.set_phase(Phase::Forwarded);
                exchange.resume_forwarded(cb.host);
            }
        }
    }

    /// Tells what `enforce` would have made of a request of shadow mode. It has gone on: its stream is not selected and may have
    /// ended.
    fn finish_shadow<H: Host>(
        &mut self,
        cb: &Callback<'_, H>,
        found: &Found,
        exchange: &Exchange,
        terms: Terms,
        request_id: Option<RequestId>,
    ) {
        let config = &exchange.plugin.config;
        // Otherwise the filter state would be another stream's, or that of one that has ended.
        let is_selected = config.filter_state
            && exchange.phase() != Phase::Ended
            && cb.host.select(exchange.stream);
        if is_selected {
            outcome::tell(cb.host, config, found.outcome());
        } else {
            cb.host.count(Metric::Request(found.outcome()));
        }
        let verdict = self.local.grant(cb, &exchange.plugin, found);
        // The response may not have come yet, so a refusal of an active token is watched for here, too.
        let Decision::Reject(rejection) = decide_and_watch(exchange, found.digest, terms, verdict)
        else {
            return;
        };
        let reason = rejection.reason();
        if is_selected {
            outcome::tell_would_reject(cb.host, config, reason);
        } else if let Some(id) = request_id {
            outcome::log_would_reject(&id, reason);
        }
        shadow::would_reject(cb.host, exchange, reason);
    }

    /// Returns how many grants this worker keeps.
    pub fn local_entries(&self) -> usize {
        self.local.len()
    }

    /// Decides a request by what it needs. `None`: it is held, and [`Self::finish`] decides it.
    fn decide<H: Host, W: From<Waiter>>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Rc<Exchange>,
        head: &RequestHead,
        inspection: Inspection<'_>,
    ) -> Option<Decision> {
        let config = &exchange.plugin.config;
        let mut served = Served::default();
        let (outcome, decision) = match inspection {
            Inspection::Forward => (Outcome::NotAsked, Decision::Forward),
            Inspection::ForwardAndWatch(end) => {
                let secret = resolver.token_secret(cb.host);
                exchange.set_watch(Watch::session_end(&end, secret));
                (Outcome::NotAsked, Decision::Forward)
            }
            Inspection::Identify(need) => {
                let found = logout_all::identify(cb, resolver, exchange, head, &need)?;
                logout_all::watch(exchange, &found);
                (found.outcome(), Decision::Forward)
            }
            Inspection::Reject(rejection) => (Outcome::NotAsked, Decision::Reject(rejection)),
            Inspection::Inactive => (
                Outcome::InactiveOffline,
                Decision::Reject(Rejection::NotActive),
            ),
            Inspection::Introspect(need) => {
                served = need.served;
                match self.find_verdict(cb, resolver, exchange, head, &need) {
                    Progress::Held => return None,
                    // Its outcome is counted by `finish`.
                    Progress::Passed => {
                        exchange.set_watch(Watch::Undecided);
                        outcome::tell_pending(cb.host, config);
                        return Some(Decision::Forward);
                    }
                    Progress::NotNeeded => (Outcome::NotAsked, Decision::Forward),
                    Progress::Decided(outcome, verdict) => {
                        let decision = decide_and_watch(exchange, need.digest, need.terms, verdict);
                        (outcome, decision)
                    }
                }
            }
        };
        outcome::tell(cb.host, config, outcome);
        Some(policy::unless_ignored(config, head, served, decision))
    }

    /// Finds the verdict on a token: in this worker's grants, from the resolver, or later.
    fn find_verdict<H: Host, W: From<Waiter>>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Rc<Exchange>,
        head: &RequestHead,
        need: &Need<'_>,
    ) -> Progress {
        let plugin = &exchange.plugin;
        let mode = plugin.config.mode;
        let origin = ClientOrigin {
            host: cb.host,
            head,
        };
        let query = need.query(&plugin.upstream, &origin);
        if let Some(grant) = self.local.lookup(cb, resolver, plugin, &query) {
            self.local.remember(plugin, &need.digest);
            return Progress::Decided(Outcome::ActiveLocal, Verdict::Active(grant));
        }
        let found = match resolver.lookup(cb, &query) {
            Some(found) => {
                if let Verdict::Inactive(_) = found.verdict {
                    self.local.remember_inactive(plugin, &need.digest);
                }
                Some(found)
            }
            None if policy::ignores_token(&plugin.config, head, need.served) => {
                return Progress::NotNeeded;
            }
            None => {
                let stream = match mode {
                    Mode::Enforce => Some(exchange.stream),
                    Mode::Shadow => None,
                };
                let waiter = Waiter {
                    exchange: Rc::clone(exchange),
                    purpose: Purpose::of(&plugin.config, head, need.terms),
                };
                resolver.resolve(cb, &query, stream, waiter.into())
            }
        };
        match (found, mode) {
            (Some(found), _) => {
                let verdict = self.local.grant(cb, plugin, &found);
                Progress::Decided(found.outcome(), verdict)
            }
            (None, Mode::Enforce) => Progress::Held,
            (None, Mode::Shadow) => Progress::Passed,
        }
    }
}

/// Decides a request by the verdict on its token. If it goes on, watches for what ends with it, or for a refusal of its user.
fn decide_and_watch(
    exchange: &Exchange,
    token: TokenDigest,
    terms: Terms,
    verdict: Verdict<Grant>,
) -> Decision {
    let decision = policy::decide(&exchange.plugin.config, terms, verdict);
    match (&decision, terms.logout) {
        (Decision::Reject(_), _) | (Decision::Forward, None) => {}
        (_, Some(logout)) => exchange.set_watch(Watch::logout(token, logout)),
        (Decision::Annotate(_), None) => watch_for_refusal(exchange, token, terms.requirement),
    }
    decision
}

/// Watches whether the homeserver refuses the active token of a request, if that is to be learned from. The 401 of another
/// service says nothing of the token.
fn watch_for_refusal(exchange: &Exchange, token: TokenDigest, requirement: AuthRequirement) {
    if exchange.plugin.config.learn_from_refusals && !requirement.may_be_of_another_service() {
        exchange.set_watch(Watch::Active(token));
    }
}
