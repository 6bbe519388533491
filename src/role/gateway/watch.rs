//! The ends of sessions that pass by the gateway: logouts, revocations, and tokens that the homeserver refuses
//! although the edge takes them for active.
//!
//! The non-obvious rule: all of them only make the edge forget. None is taken for MAS's word that a token is
//! inactive: the next request asks MAS. So the status alone decides, and no body of a response is read. It may
//! be compressed, cut or of any length, and what it could tell (a 401 that only asks for interactive
//! authentication) costs one question to MAS.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    cache::question::QuestionKey,
    clock::Instant,
    host::{Callback, Host, Streams},
    mas::{provisioning::Revocation, user::UserKey},
    matrix::session_end::{MAX_REVOCATION_BYTES, SessionEnd, revoked_token},
    metrics::InvalidationReason,
    resolver::{Invalidation, Resolver},
    role::{
        exchange::{self, BodyPrefix, Chunk, Wants},
        response_status,
    },
    token::TokenDigest,
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
    /// The request asks MAS to end a session. A 2xx means that it has ended.
    SessionEnd(SessionRequest),
}

/// A request that ends a session if it succeeds.
#[derive(Debug)]
pub struct SessionRequest {
    end: SessionEnd,
    /// Whose sessions end with [`SessionEnd::LogoutAll`], if that was found out.
    user: Option<UserKey>,
    form: BodyPrefix,
}

impl Watch {
    /// Returns the watch over a request that asks to end `end`.
    pub(super) fn session_end(end: SessionEnd) -> Self {
        Self::SessionEnd(SessionRequest {
            end,
            user: None,
            form: BodyPrefix::new(MAX_REVOCATION_BYTES),
        })
    }

    /// Returns the watch over a request that asks to end all sessions of `user`, whose token is `token`.
    pub(super) fn logout_all(token: TokenDigest, user: Option<UserKey>) -> Self {
        Self::SessionEnd(SessionRequest {
            end: SessionEnd::LogoutAll(token),
            user,
            form: BodyPrefix::new(0),
        })
    }
}

impl exchange::Watch for Watch {
    fn wants(&self) -> Wants {
        let is_revocation = |request: &SessionRequest| request.end == SessionEnd::Revocation;
        Wants {
            request_body: matches!(self, Self::SessionEnd(request) if is_revocation(request)),
            response_headers: !matches!(self, Self::Nothing),
        }
    }
}

/// Takes in a piece of a request's body: the form of a revocation.
pub(super) fn on_request_body(host: &impl Streams, exchange: &Exchange, chunk: Chunk) {
    let mut watch = exchange.take_watch();
    if let Watch::SessionEnd(request) = &mut watch {
        request.form.add(chunk.size, |size| host.request_body(size));
    }
    exchange.set_watch(watch);
}

/// Takes in the headers of a response.
pub(super) fn on_response_headers<H: Host, W>(
    cb: &Callback<'_, H>,
    resolver: &mut Resolver<W>,
    exchange: &Exchange,
    refused: &mut RefusedTokens,
) {
    let watch = exchange.take_watch();
    if let Watch::Nothing = watch {
        return;
    }
    if let Watch::GrpcReply(status) = watch {
        restore_status(cb.host, status);
        return;
    }
    let status = response_status(cb.host);
    match watch {
        Watch::Active(token) if status == Some(401) => {
            let upstream = &exchange.plugin.upstream;
            if refused.admit(upstream.question(&token), cb.now()) {
                let what = Invalidation::Token(&token);
                resolver.invalidate(cb, &upstream.cache, what, InvalidationReason::Homeserver);
            }
        }
        Watch::SessionEnd(request) if status.is_some_and(|status| (200..300).contains(&status)) => {
            end_session(cb, resolver, exchange, &request);
        }
        _ => {}
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

fn end_session<H: Host, W>(
    cb: &Callback<'_, H>,
    resolver: &mut Resolver<W>,
    exchange: &Exchange,
    request: &SessionRequest,
) {
    let cache = &exchange.plugin.upstream.cache;
    match request.end {
        SessionEnd::Logout(token) => {
            resolver.invalidate(
                cb,
                cache,
                Invalidation::Token(&token),
                InvalidationReason::Logout,
            );
        }
        SessionEnd::LogoutAll(token) => {
            let owner = resolver.invalidate(
                cb,
                cache,
                Invalidation::Token(&token),
                InvalidationReason::Logout,
            );
            if let Some(user) = request.user.or(owner) {
                let everything = Invalidation::User(&user, &Revocation::All);
                resolver.invalidate(cb, cache, everything, InvalidationReason::Logout);
            }
        }
        SessionEnd::Revocation if !request.form.is_truncated() => {
            if let Some(token) = revoked_token(request.form.bytes()) {
                resolver.invalidate(
                    cb,
                    cache,
                    Invalidation::Token(&token),
                    InvalidationReason::Revocation,
                );
            }
        }
        SessionEnd::Revocation => {}
    }
}

/// Tokens that the homeserver refused lately, each with the MAS that is asked about it. Until the given moment a
/// further refusal asks that MAS nothing.
#[derive(Debug, Default)]
pub(super) struct RefusedTokens(BTreeMap<QuestionKey, Instant>);

impl RefusedTokens {
    /// Forgets what is too old to matter.
    pub fn expire(&mut self, now: Instant) {
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
