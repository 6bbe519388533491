//! The gateway role's decisions: what a request needs, and what a verdict makes of it.
//!
//! Pure: a request comes in as [`RequestHead`], a decision goes out as data. The order of the checks
//! is Synapse's, so that a malformed request gets exactly the reply Synapse would give.

use std::rc::Rc;

use crate::{
    config::{Config, FormTokens, Mode, OnFailure, QueryToken, UnrecognizedTokens},
    host::RequestHead,
    mas::{
        introspection::{ActiveToken, NoVerdict},
        token::{Shape, TokenKind, shape},
    },
    matrix::{
        credential::{Credential, Source, extract, has_query_token, is_form_post},
        endpoint::{AuthRequirement, Method},
        identity::{Identity, identity, is_server_admin},
        reply::Rejection,
        session_end::{SessionEnd, logout_token},
    },
    resolver::Verdict,
    token::{AccessToken, TokenDigest},
};

/// What a request needs before it may go on.
#[derive(Debug)]
pub enum Inspection<'a> {
    /// Nothing: it goes on without an identity.
    Forward,
    /// Nothing either; if it succeeds, this has ended.
    ForwardAndWatch(SessionEnd),
    /// To know whose token this is. Whatever that is, it goes on without an identity, and if it succeeds, all
    /// sessions of the user have ended.
    Identify(Need<'a>),
    /// It cannot go on.
    Reject(Rejection),
    /// Its token cannot exist, which is known without asking.
    Inactive,
    /// A verdict on this token.
    Introspect(Need<'a>),
}

/// A token to ask about, and what the request needs it for.
#[derive(Clone, Debug)]
pub struct Need<'a> {
    /// The token.
    pub token: AccessToken<'a>,
    /// Its identity in the cache.
    pub digest: TokenDigest,
    /// Its kind; `None` if no MAS would have made it.
    pub kind: Option<TokenKind>,
    /// What the endpoint needs.
    pub requirement: AuthRequirement,
}

/// What an active token grants on this server, ready to be written.
#[derive(Debug)]
pub struct Grant {
    identity: Result<Identity, Rejection>,
    is_server_admin: bool,
    client_id: Option<String>,
    scope: String,
}

impl Grant {
    /// What `token` grants on `server_name`.
    pub fn new(token: &ActiveToken, server_name: &str) -> Self {
        Self {
            identity: identity(token, server_name),
            is_server_admin: is_server_admin(token),
            client_id: token.client_id.clone(),
            scope: token.scope.clone(),
        }
    }

    /// Bytes on the heap, for bounding what is kept.
    pub fn heap_bytes(&self) -> usize {
        let identity = self.identity.as_ref().map_or(0, |identity| {
            identity.user_id.len() + identity.device_id.as_ref().map_or(0, String::len)
        });
        let client_id = self.client_id.as_ref().map_or(0, String::len);
        size_of::<Self>() + identity + client_id + self.scope.len()
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Decision {
    /// It goes on without an identity.
    Forward,
    /// It goes on as this user.
    Annotate(Annotation),
    /// It is answered here.
    Reject(Rejection),
}

/// What the request headers and the filter state say of an active token.
#[derive(Debug)]
pub struct Annotation {
    grant: Rc<Grant>,
    /// Kind of the token.
    pub kind: Option<TokenKind>,
}

impl Annotation {
    /// User and device.
    pub fn identity(&self) -> Option<&Identity> {
        self.grant.identity.as_ref().ok()
    }

    /// OAuth client id.
    pub fn client_id(&self) -> Option<&str> {
        self.grant.client_id.as_deref()
    }

    /// Scope.
    pub fn scope(&self) -> &str {
        &self.grant.scope
    }
}

/// Decides what `head` needs under `config`.
pub fn inspect<'a>(config: &Config, head: &'a RequestHead) -> Inspection<'a> {
    let target = head.target();
    let requirement = config
        .endpoints
        .classify(target, || Method::from_bytes(head.method()));
    match requirement {
        AuthRequirement::Blocked => return Inspection::Reject(Rejection::Unrecognized),
        AuthRequirement::None | AuthRequirement::Appservice | AuthRequirement::Foreign => {
            return Inspection::Forward;
        }
        AuthRequirement::MasOwned => {
            let authorization = head.authorization().first();
            // The paths without MAS's prefix stay MAS's as well.
            let end = [config.endpoints.mas_target(target), target]
                .into_iter()
                .find_map(|target| SessionEnd::of(target, || head.method(), authorization));
            return match end {
                Some(end) => inspect_end(config, end, authorization),
                None => Inspection::Forward,
            };
        }
        AuthRequirement::Optional
        | AuthRequirement::Required
        | AuthRequirement::Admin
        | AuthRequirement::Unknown => {}
    }
    let form_post = || is_form_post(head.method(), head.content_type());
    let credential = match extract(head.authorization(), target, form_post) {
        Ok(credential) => credential,
        Err(error) => return unless_optional(requirement, error.into()),
    };
    match credential {
        Credential::Missing => unless_optional(requirement, Rejection::MissingToken),
        Credential::Empty => Inspection::Inactive,
        Credential::FormBody if requirement == AuthRequirement::Unknown => Inspection::Forward,
        Credential::FormBody => inspect_form(config, target),
        Credential::Token {
            source: Source::Query,
            ..
        } if config.query_token == QueryToken::Reject => match requirement {
            // Another service may take its tokens from wherever it likes.
            AuthRequirement::Unknown => Inspection::Forward,
            _ => Inspection::Reject(Rejection::MissingToken),
        },
        Credential::Token { token, .. } => inspect_token(config, token, requirement),
    }
}

/// Decides what a request that ends sessions needs. Of `logout/all` it must be known whose token it is, if MAS can
/// know the token. In shadow mode no such request is held.
fn inspect_end<'a>(
    config: &Config,
    end: SessionEnd,
    authorization: Option<&'a [u8]>,
) -> Inspection<'a> {
    let token = match (end, config.mode) {
        (SessionEnd::LogoutAll(_), Mode::Enforce) => authorization.and_then(logout_token),
        _ => None,
    };
    match token.map(|token| inspect_token(config, token, AuthRequirement::MasOwned)) {
        Some(Inspection::Introspect(question)) if question.kind.is_some() => {
            Inspection::Identify(question)
        }
        _ => Inspection::ForwardAndWatch(end),
    }
}

/// Where a token is optional, the homeserver judges a missing or malformed one itself.
fn unless_optional<'a>(requirement: AuthRequirement, rejection: Rejection) -> Inspection<'a> {
    match requirement {
        AuthRequirement::Optional | AuthRequirement::Unknown => Inspection::Forward,
        _ => Inspection::Reject(rejection),
    }
}

/// A form-encoded `POST` without an `Authorization` header. Only its body says whether it has a token and which,
/// and the homeserver reads that. A token in the query is seen all the same.
fn inspect_form<'a>(config: &Config, target: &[u8]) -> Inspection<'a> {
    let is_refused = config.form_tokens == FormTokens::Reject
        || config.query_token == QueryToken::Reject && has_query_token(target);
    if is_refused {
        Inspection::Reject(Rejection::MissingToken)
    } else {
        Inspection::Forward
    }
}

fn inspect_token<'a>(
    config: &Config,
    token: AccessToken<'a>,
    requirement: AuthRequirement,
) -> Inspection<'a> {
    let digest = TokenDigest::of(token.as_bytes());
    if config.appservice_tokens.binary_search(&digest.0).is_ok() {
        return Inspection::Forward;
    }
    let kind = match (shape(token.as_bytes()), config.unrecognized_tokens) {
        (Shape::Introspectable(kind), _) => Some(kind),
        (Shape::CannotExist, _) | (Shape::Unrecognized, UnrecognizedTokens::Reject) => {
            return Inspection::Inactive;
        }
        (Shape::Unrecognized, UnrecognizedTokens::Pass) => return Inspection::Forward,
        // MAS issues no token with a control byte and calls each inactive. None is sent, since it fails on some.
        (Shape::Unrecognized, UnrecognizedTokens::Introspect) if token.has_control_bytes() => {
            return Inspection::Inactive;
        }
        (Shape::Unrecognized, UnrecognizedTokens::Introspect) => None,
    };
    Inspection::Introspect(Need {
        token,
        digest,
        kind,
        requirement,
    })
}

/// Whether the homeserver answers `head` without a look at its token, so that none can be wrong: a
/// pre-flight, or a method that it does not serve there.
pub fn ignores_token(config: &Config, head: &RequestHead) -> bool {
    let method = Method::from_bytes(head.method());
    method == Method::Options || config.endpoints.refuses(head.target(), method)
}

/// Returns what becomes of `head` after `decision`: where the homeserver does not look at the token, no token is a
/// reason to reject it. Browsers give up if a pre-flight fails, and a method that the homeserver refuses is its to refuse.
#[inline]
pub fn unless_ignored(config: &Config, head: &RequestHead, decision: Decision) -> Decision {
    match decision {
        Decision::Reject(rejection)
            if rejection != Rejection::Unrecognized && ignores_token(config, head) =>
        {
            Decision::Forward
        }
        decision => decision,
    }
}

/// Decides what `verdict` makes of a request.
pub fn decide(
    config: &Config,
    requirement: AuthRequirement,
    kind: Option<TokenKind>,
    verdict: Verdict<Rc<Grant>>,
) -> Decision {
    let grant = match verdict {
        Verdict::Active(grant) => grant,
        Verdict::Inactive(_) => return Decision::Reject(Rejection::NotActive),
        Verdict::None(NoVerdict::OverBudget { retry_after_ms }) => {
            return Decision::Reject(Rejection::LimitExceeded { retry_after_ms });
        }
        Verdict::None(_) => {
            return match config.on_introspection_failure {
                OnFailure::Reject => Decision::Reject(Rejection::IntrospectionFailed),
                OnFailure::Pass => Decision::Forward,
            };
        }
    };
    if let Err(rejection) = grant.identity {
        return match requirement {
            // What the homeserver would not let in may be good for another service.
            AuthRequirement::Unknown => Decision::Forward,
            _ => Decision::Reject(rejection),
        };
    }
    if requirement == AuthRequirement::Admin && !grant.is_server_admin {
        return Decision::Reject(Rejection::NotServerAdmin);
    }
    Decision::Annotate(Annotation { grant, kind })
}

#[cfg(test)]
mod tests;
