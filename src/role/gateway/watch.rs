//! The ends of sessions that pass by the gateway: logouts, revocations, and tokens that the homeserver refuses
//! although the edge takes them for active.
//!
//! The non-obvious rule: all of them only make the edge ask MAS at the next request. None is taken for MAS's word that a
//! token is inactive. A refusal does not even end the answer: it is doubted, and serves on where MAS gives no other. So
//! the status alone decides, and no body of a response is read. It may be compressed, cut or of any length, and what it
//! could tell (a 401 that only asks for interactive authentication) costs one question to MAS.

use std::{rc::Rc, time::Duration};

use super::ends::{Ending, SessionEnds};
use crate::{
    cache::question::QuestionKey,
    clock::Instant,
    host::{Callback, Host, Metrics, ResponseOrigin, Store, Streams},
    mas::user::UserKey,
    matrix::session_end::{RevocationForm, SessionEnd},
    metrics::{HomeserverAnswer, InvalidationReason, Metric, RejectionReason},
    resolver::{Invalidation, Resolver},
    role::{
        body,
        exchange::{self, Chunk, Phase, Wants},
        plugin::Plugin,
    },
    sorted::SortedMap,
    token::{AccessToken, TokenDigest, TokenSecret},
};

/// A token that the homeserver refuses again and again, while MAS calls it active, costs one call in this time
/// and worker: Synapse keeps an answer of "inactive" for two minutes.
const REFUSAL_COOLDOWN: Duration = Duration::from_secs(10);

/// Refused tokens that are remembered.
const MAX_REFUSED_TOKENS: usize = 4_096;

/// An exchange of the gateway role.
pub type Exchange = exchange::Exchange<Watch>;

/// What the gateway still watches for in an exchange.
#[derive(Debug, Default)]
pub enum Watch {
    /// Nothing.
    #[default]
    Nothing,
    /// The request was annotated with this active token. A 401 of the homeserver means that cache and
    /// homeserver disagree.
    Active(TokenDigest),
    /// The request was refused here with this status, and calls itself gRPC.
    GrpcReply(u16),
    /// The request asks MAS to end this. A 2xx means that it has ended, and no answer of MAS that it may have. A 401 to a logout means
    /// that MAS does not know the token: the session has ended elsewhere, or by the same request, which Envoy has sent twice. But MAS
    /// says so of an OAuth token as well, whose session lives on, so it is a refusal and no end. To a revocation it is about the
    /// client.
    SessionEnd(Ending),
    /// The request asks MAS to end the session of the token in its form, which passes.
    Revocation(Box<RevocationForm>),
    /// In shadow mode: the request has gone on before its verdict.
    Undecided,
    /// In shadow mode: the same, and this has become of it.
    Answered(HomeserverAnswer),
    /// In shadow mode: `enforce` would have rejected the request for this reason.
    WouldReject(RejectionReason),
}

impl Watch {
    /// Returns the watch over a request that asks to end `end`. Its token is named under `secret`.
    pub(super) fn session_end(end: &SessionEnd<'_>, secret: TokenSecret) -> Self {
        let name = |token: &AccessToken<'_>| secret.digest(token.as_bytes());
        match end {
            SessionEnd::Logout(token) => Self::SessionEnd(Ending::Logout(name(token))),
            SessionEnd::LogoutAll(token) => Self::logout_all(name(token), None),
            SessionEnd::Revocation => Self::Revocation(Box::new(RevocationForm::new(secret))),
        }
    }

    /// Returns the watch over a request that asks to end all sessions of `user`, whose token is `token`.
    pub(super) fn logout_all(token: TokenDigest, user: Option<UserKey>) -> Self {
        Self::SessionEnd(Ending::LogoutAll(token, user))
    }
}

impl exchange::Watch for Watch {
    #[inline]
    fn wants(&self) -> Wants {
        Wants {
            request_body: matches!(self, Self::Revocation(_)),
            response_headers: !matches!(self, Self::Nothing | Self::Answered(_)),
        }
    }
}

/// Takes in a piece of a request's body: the form of a revocation. A form whose token is not found, because it is too
/// long or Envoy does not show it, is watched no more, and ends nothing.
pub(super) fn on_request_body(host: &impl Streams, exchange: &Exchange, chunk: Chunk) {
    let watch = exchange.take_watch();
    let Watch::Revocation(mut form) = watch else {
        exchange.set_watch(watch);
        return;
    };
    let is_too_long = chunk.size > form.room();
    let shown = body::show(host, chunk.size.min(form.room()), |piece| form.read(piece));
    if shown.is_err() {
        return;
    }
    if chunk.is_last && !is_too_long {
        form.finish();
    }
    if let Some(token) = form.found() {
        exchange.set_watch(Watch::SessionEnd(Ending::Revocation(token)));
    } else if !chunk.is_last && !is_too_long {
        exchange.set_watch(Watch::Revocation(form));
    }
}

/// Takes in the headers of a response.
pub(super) fn on_response_headers<H: Host, W>(
    cb: &Callback<'_, H>,
    resolver: &mut Resolver<W>,
    exchange: &Exchange,
    learned: &mut Learned,
) {
    let watch = exchange.take_watch();
    if let Watch::Nothing = watch {
        return;
    }
    if let Watch::GrpcReply(status) = watch {
        restore_status(cb.host, status);
        return;
    }
    let status = cb.host.response_status();
    let is_upstream = || cb.host.response_origin() == ResponseOrigin::Upstream;
    match watch {
        Watch::Undecided | Watch::WouldReject(_) => {
            let answered = status.filter(|_| is_upstream());
            settle(cb.host, exchange, watch, HomeserverAnswer::of(answered));
        }
        Watch::Active(token) if status == Some(401) && is_upstream() => {
            let reason = InvalidationReason::Homeserver;
            learned.doubt(cb, resolver, &exchange.plugin, &token, reason);
        }
        Watch::SessionEnd(Ending::Logout(token) | Ending::LogoutAll(token, _))
            if status == Some(401) && is_upstream() =>
        {
            // Anyone can log an invented token out.
            let cache = &exchange.plugin.upstream.cache;
            if cache.lookup_stale(cb.host, &token, cb.now()).is_some() {
                let reason = InvalidationReason::Logout;
                learned.doubt(cb, resolver, &exchange.plugin, &token, reason);
            }
        }
        Watch::SessionEnd(ending) => {
            let is_confirmed = status.is_some_and(|status| (200..300).contains(&status));
            if is_confirmed || exchange.is_whole() && is_in_doubt(cb.host, status) {
                let plugin = &exchange.plugin;
                learned
                    .ends
                    .end(cb, resolver, plugin, &ending, is_confirmed);
            }
        }
        _ => {}
    }
}

/// Returns whether a response leaves open whether MAS has ended the session: Envoy has lost MAS's, a proxy before MAS has, or MAS
/// itself has failed, perhaps after it had written the end.
fn is_in_doubt(host: &impl Streams, status: Option<u16>) -> bool {
    match host.response_origin() {
        ResponseOrigin::Lost => true,
        ResponseOrigin::Upstream => matches!(status, Some(500..600)),
        ResponseOrigin::Envoy => false,
    }
}

/// Takes in that the stream has ended. What is still watched for does not come any more: an end of a session that was
/// asked for may have come about without an answer, since the client hung up or the answer was lost. What shadow mode
/// waits for has not.
///
/// A request whose end was never seen was not carried out, and ends nothing: a client could send the beginning of one again
/// and again, and each would cost MAS a question.
pub(super) fn on_stream_end<H: Host, W>(
    cb: &Callback<'_, H>,
    resolver: &mut Resolver<W>,
    exchange: &Exchange,
    learned: &mut Learned,
) {
    match exchange.take_watch() {
        Watch::SessionEnd(ending)
            if exchange.phase() == Phase::Forwarded && exchange.is_whole() =>
        {
            let plugin = &exchange.plugin;
            learned.ends.end(cb, resolver, plugin, &ending, false);
        }
        watch => settle(cb.host, exchange, watch, HomeserverAnswer::None),
    }
}

/// Notes in shadow mode that `enforce` would have rejected the request for this reason: counts it, and counts it with
/// what became of the request as soon as both are known.
pub(super) fn would_reject(host: &impl Metrics, exchange: &Exchange, reason: RejectionReason) {
    host.count(Metric::WouldReject(reason));
    match exchange.take_watch() {
        Watch::Answered(answer) => host.count(Metric::WouldRejectAnswer(reason, answer)),
        _ => exchange.set_watch(Watch::WouldReject(reason)),
    }
}

/// Notes in shadow mode what has become of a request.
fn settle(host: &impl Metrics, exchange: &Exchange, watch: Watch, answer: HomeserverAnswer) {
    match watch {
        Watch::WouldReject(reason) => host.count(Metric::WouldRejectAnswer(reason, answer)),
        Watch::Undecided => exchange.set_watch(Watch::Answered(answer)),
        watch => exchange.set_watch(watch),
    }
}

/// Gives our reply to a gRPC request its status back. Envoy has made 200 of it before any filter ran, which a
/// client would take for success, and has put the body into `grpc-message`: there is no way to send one.
fn restore_status(host: &impl Streams, status: u16) {
    let is_changed = host.response_header("grpc-status").ok().flatten().is_some();
    if is_changed && let Err(error) = host.set_response_status(status) {
        log::error!("Envoy refused a header operation with {error}; the client gets 200");
    }
}

/// What was learned lately from what passes, so that it costs MAS few questions.
#[derive(Debug, Default)]
pub(super) struct Learned {
    refused: RefusedTokens,
    ends: SessionEnds,
}

impl Learned {
    /// Doubts what is kept of a token that was refused, unless it was lately.
    fn doubt<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Plugin,
        token: &TokenDigest,
        reason: InvalidationReason,
    ) {
        let upstream = &plugin.upstream;
        if self.refused.admit(upstream.question(token), cb.now()) {
            let what = Invalidation::Refusal(token);
            resolver.invalidate(cb, &upstream.cache, what, reason);
        }
    }

    /// Ends what waits, and forgets what is too old to matter.
    pub fn on_tick<H: Host, W>(&mut self, cb: &Callback<'_, H>, resolver: &mut Resolver<W>) {
        self.refused.expire(cb.now());
        self.ends.on_tick(cb, resolver);
    }

    /// Takes over the ends that other VMs have left.
    pub fn take_over<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Rc<Plugin>,
    ) {
        self.ends.take_over(cb, resolver, plugin);
    }

    /// Leaves the ends that wait to another VM.
    pub fn leave(&self, store: &impl Store) {
        self.ends.leave(store);
    }
}

/// Tokens that the homeserver or MAS refused lately, each with the MAS that is asked about it. Until the given moment a
/// further refusal asks that MAS nothing.
#[derive(Debug, Default)]
struct RefusedTokens(SortedMap<QuestionKey, Instant>);

impl RefusedTokens {
    /// Forgets what is too old to matter.
    fn expire(&mut self, now: Instant) {
        self.0.retain(|_, until| now < *until);
    }

    /// Notes a refusal. Returns whether it is the first of the token for a while.
    fn admit(&mut self, question: QuestionKey, now: Instant) -> bool {
        let is_cooling_down = self.0.get(&question).is_some_and(|until| now < *until);
        if is_cooling_down || self.0.len() >= MAX_REFUSED_TOKENS {
            return false;
        }
        self.0.insert(question, now + REFUSAL_COOLDOWN);
        true
    }
}
