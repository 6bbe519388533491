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
        credential::{Credential, Source, extract, form_post, has_query_token},
        endpoint::{AuthRequirement, Class, Method, Served},
        identity::{ScopeRights, header_value, identity, user_id_value},
        reply::Rejection,
        session_end::SessionEnd,
    },
    resolver::Verdict,
    token::{AccessToken, TokenDigest, TokenSecret},
};

/// What a request needs before it may go on.
#[derive(Debug)]
pub enum Inspection<'a> {
    /// Nothing: it goes on without an identity.
    Forward,
    /// Nothing either; if it succeeds, this has ended.
    ForwardAndWatch(SessionEnd<'a>),
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
    /// What decides beside the verdict on it.
    pub terms: Terms,
    /// Which methods are served at the endpoint.
    pub served: Served,
}

/// What decides over a request, beside the verdict on its token.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What the endpoint needs.
    pub requirement: AuthRequirement,
    /// Kind of the token; `None` if no MAS would have made it.
    pub kind: Option<TokenKind>,
    /// Whether the homeserver may take another token, in a body that is not read. Then the request gets no identity.
    pub is_doubtful: bool,
}

/// What a token is by itself.
#[derive(Clone, Copy, Debug)]
pub struct Recognized {
    /// Its identity in the cache.
    pub digest: TokenDigest,
    /// Its form.
    pub shape: Shape,
    /// Whether the configuration knows it as an application service's.
    pub is_appservice: bool,
}

impl Recognized {
    /// Returns what `token` is, which is named under `secret`. `None`: it cannot exist, which is known before it is named.
    pub fn of(config: &Config, secret: TokenSecret, token: &[u8]) -> Option<Self> {
        let shape = shape(token);
        let is_appservice = config.appservice_tokens.contains(token);
        if shape == Shape::CannotExist && !is_appservice {
            return None;
        }
        Some(Self {
            digest: secret.digest(token),
            shape,
            is_appservice,
        })
    }
}

/// What an active token grants on this server.
#[derive(Clone, Debug)]
pub enum Grant {
    /// To act as this user, ready to be written.
    Identity(Rc<EncodedIdentity>),
    /// Nothing: Synapse refuses it so.
    Refused(Rejection),
}

/// Who a request acts as: the values of the identity headers, [encoded](header_value). The client and the scope are there only
/// where a header tells them.
#[derive(Debug)]
pub struct EncodedIdentity {
    /// `@localpart:server_name`.
    pub user_id: Vec<u8>,
    /// The device, if the token belongs to one.
    pub device_id: Option<Vec<u8>>,
    /// OAuth client id.
    pub client_id: Option<Vec<u8>>,
    /// Scope.
    pub scope: Option<Vec<u8>>,
    is_server_admin: bool,
}

impl Grant {
    /// What `token` grants under `config`. What no header tells is left out.
    pub fn new(token: &ActiveToken<'_>, config: &Config) -> Self {
        let names = &config.identity_headers;
        let value = |name: &Option<String>, text: Option<&str>| {
            text.filter(|_| name.is_some()).map(header_value)
        };
        let rights = ScopeRights::of(token.scope);
        match identity(token, &rights) {
            Err(rejection) => Self::Refused(rejection),
            Ok(found) => Self::Identity(Rc::new(EncodedIdentity {
                user_id: user_id_value(found.localpart, &config.server_name),
                device_id: found.device_id.map(header_value),
                client_id: value(&names.client_id, token.client_id),
                scope: value(&names.scope, Some(token.scope)),
                is_server_admin: rights.is_server_admin,
            })),
        }
    }

    /// Bytes on the heap, for bounding what is kept.
    pub fn heap_bytes(&self) -> usize {
        let Self::Identity(identity) = self else {
            return 0;
        };
        let optional = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        size_of::<EncodedIdentity>()
            + identity.user_id.len()
            + optional(&identity.device_id)
            + optional(&identity.client_id)
            + optional(&identity.scope)
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
    /// The user.
    pub identity: Rc<EncodedIdentity>,
    /// Kind of the token.
    pub kind: Option<TokenKind>,
}

/// Decides what `head` needs under `config`. `recognize` says what a token is, as [`Recognized::of`] does.
pub fn inspect<'a>(
    config: &Config,
    head: &'a RequestHead,
    recognize: impl FnOnce(&[u8]) -> Option<Recognized>,
) -> Inspection<'a> {
    let method = Method::from_bytes(head.method());
    let class = config.endpoints.classify_path(head.scanned_path(), method);
    let requirement = class.requirement;
    let may_end = match requirement {
        AuthRequirement::Blocked => return Inspection::Reject(Rejection::Unrecognized),
        // MAS takes anything for the version of a logout, and the table does not.
        AuthRequirement::MasOwned | AuthRequirement::Unknown => true,
        // A rule may say otherwise of MAS's paths. What ends a session stays MAS's to judge all the same.
        _ => config.endpoints.have_rules(),
    };
    if may_end && let Some(end) = session_end(config, head, method) {
        return inspect_end(config, end, recognize);
    }
    match requirement {
        AuthRequirement::Blocked
        | AuthRequirement::None
        | AuthRequirement::Appservice
        | AuthRequirement::Foreign
        | AuthRequirement::MasOwned => return Inspection::Forward,
        AuthRequirement::Optional
        | AuthRequirement::Required
        | AuthRequirement::Admin
        | AuthRequirement::Unknown => {}
    }
    let form_post = || form_post(head.method(), head.content_type());
    let credential = match extract(head.authorization(), head.query(), form_post) {
        Ok(credential) => credential,
        Err(error) => return unless_optional(requirement, error.into()),
    };
    match credential {
        Credential::Missing => unless_optional(requirement, Rejection::MissingToken),
        // It stands in the query.
        Credential::Empty => match (requirement, config.query_token) {
            (AuthRequirement::Unknown, _) => Inspection::Forward,
            (_, QueryToken::Reject) => Inspection::Reject(Rejection::MissingToken),
            (_, QueryToken::Accept) => Inspection::Inactive,
        },
        Credential::FormBody if requirement == AuthRequirement::Unknown => Inspection::Forward,
        Credential::FormBody => inspect_form(config, head.query()),
        Credential::Token {
            source: Source::Query,
            ..
        } if config.query_token == QueryToken::Reject => match requirement {
            // Another service may take its tokens from wherever it likes.
            AuthRequirement::Unknown => Inspection::Forward,
            _ => Inspection::Reject(Rejection::MissingToken),
        },
        Credential::Token {
            is_doubtful: true, ..
        } if config.form_tokens == FormTokens::Reject
            && requirement != AuthRequirement::Unknown =>
        {
            Inspection::Reject(Rejection::MissingToken)
        }
        Credential::Token {
            token, is_doubtful, ..
        } => {
            let Some(recognized) = recognize(token.as_bytes()) else {
                return Inspection::Inactive;
            };
            inspect_token(config, token, recognized, class, is_doubtful)
        }
    }
}

/// Returns what a request asks MAS to end. The paths without MAS's prefix stay MAS's as well.
fn session_end<'a>(
    config: &Config,
    head: &'a RequestHead,
    method: Method,
) -> Option<SessionEnd<'a>> {
    let authorization = head.authorization().first();
    let target = head.target();
    [config.endpoints.mas_target(target), target]
        .into_iter()
        .find_map(|target| SessionEnd::of(target, method, authorization))
}

/// Decides what a request that ends sessions needs. Of `logout/all` it must be known whose token it is, if MAS can
/// know the token. In shadow mode no such request is held.
fn inspect_end<'a>(
    config: &Config,
    end: SessionEnd<'a>,
    recognize: impl FnOnce(&[u8]) -> Option<Recognized>,
) -> Inspection<'a> {
    let inspection = match (&end, config.mode) {
        (SessionEnd::LogoutAll(token), Mode::Enforce) => {
            let class = AuthRequirement::MasOwned.into();
            recognize(token.as_bytes())
                .map(|recognized| inspect_token(config, token.clone(), recognized, class, false))
        }
        _ => None,
    };
    match inspection {
        Some(Inspection::Introspect(question)) if question.terms.kind.is_some() => {
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
fn inspect_form<'a>(config: &Config, query: Option<&[u8]>) -> Inspection<'a> {
    let is_refused = config.form_tokens == FormTokens::Reject
        || config.query_token == QueryToken::Reject && query.is_some_and(has_query_token);
    if is_refused {
        Inspection::Reject(Rejection::MissingToken)
    } else {
        Inspection::Forward
    }
}

fn inspect_token<'a>(
    config: &Config,
    token: AccessToken<'a>,
    recognized: Recognized,
    class: Class,
    is_doubtful: bool,
) -> Inspection<'a> {
    if recognized.is_appservice {
        return Inspection::Forward;
    }
    let kind = match (recognized.shape, config.unrecognized_tokens) {
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
        digest: recognized.digest,
        terms: Terms {
            requirement: class.requirement,
            kind,
            is_doubtful,
        },
        served: class.served,
    })
}

/// Whether the homeserver answers `head` without a look at its token.
pub fn ignores_token(config: &Config, head: &RequestHead, served: Served) -> bool {
    let method = Method::from_bytes(head.method());
    config
        .endpoints
        .ignores_token(head.target(), method, served)
}

/// Returns what becomes of `head` after `decision`: where the homeserver does not look at the token, no token is a
/// reason to reject it. Browsers give up if a pre-flight fails, and a method that the homeserver refuses is its to refuse.
#[inline]
pub fn unless_ignored(
    config: &Config,
    head: &RequestHead,
    served: Served,
    decision: Decision,
) -> Decision {
    match decision {
        Decision::Reject(rejection)
            if rejection != Rejection::Unrecognized && ignores_token(config, head, served) =>
        {
            Decision::Forward
        }
        decision => decision,
    }
}

/// Decides what `verdict` makes of a request.
pub fn decide(config: &Config, terms: Terms, verdict: Verdict<Grant>) -> Decision {
    let Terms {
        requirement,
        kind,
        is_doubtful,
    } = terms;
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
    let identity = match grant {
        Grant::Identity(identity) => identity,
        // What the homeserver would not let in may be good for another service.
        Grant::Refused(_) if requirement == AuthRequirement::Unknown => return Decision::Forward,
        Grant::Refused(rejection) => return Decision::Reject(rejection),
    };
    if requirement == AuthRequirement::Admin && !identity.is_server_admin {
        return Decision::Reject(Rejection::NotServerAdmin);
    }
    if is_doubtful {
        return Decision::Forward;
    }
    Decision::Annotate(Annotation { identity, kind })
}

#[cfg(test)]
mod tests;
