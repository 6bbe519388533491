//! What a request needs before it may go on, as far as its head says.
//!
//! The order of the checks is Synapse's, so that a malformed request gets exactly the reply Synapse would give.

use crate::{
    config::{Config, FormTokens, Mode, QueryToken, UnrecognizedTokens},
    host::RequestHead,
    mas::token::{Shape, TokenKind},
    matrix::{
        credential::{Credential, Source, extract, form_post, has_query_token},
        endpoint::{AuthRequirement, Class, Method, Served},
        reply::Rejection,
        session_end::{EndRequest, SessionEnd},
    },
    role::gateway::recognized::Recognized,
    token::{AccessToken, TokenDigest},
};

/// What a request needs before it may go on.
#[derive(Debug)]
pub enum Inspection<'a> {
    /// Nothing: it goes on without an identity.
    Forward,
    /// Nothing: it goes on without an identity. If MAS answers 2xx, this has ended.
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
    pub may_be_overridden: bool,
    /// What ends if MAS takes the request for a logout of this token and answers 2xx.
    pub logout: Option<Logout>,
}

/// Which sessions a logout ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logout {
    /// That of its token.
    One,
    /// All of the token's user.
    All,
}

/// Decides what `head` needs under `config`. `recognize` says what a token is, as [`Recognized::of`] does.
#[inline]
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
        AuthRequirement::Dotted | AuthRequirement::MasOwned | AuthRequirement::Unknown => true,
        // A rule may say otherwise of MAS's paths. What ends a session stays MAS's to judge all the same.
        _ => config.endpoints.have_rules(),
    };
    if may_end && let Some(request) = end_request(config, head, method) {
        return if request.is_certain {
            inspect_end(config, request.end, recognize)
        } else {
            inspect_uncertain_end(config, head, class, request.end, recognize)
        };
    }
    inspect_class(config, head, class, recognize)
}

/// Decides what a request needs that asks MAS to end nothing.
fn inspect_class<'a>(
    config: &Config,
    head: &'a RequestHead,
    class: Class,
    recognize: impl FnOnce(&[u8]) -> Option<Recognized>,
) -> Inspection<'a> {
    match class.requirement {
        AuthRequirement::Blocked
        | AuthRequirement::None
        | AuthRequirement::Appservice
        | AuthRequirement::Foreign
        | AuthRequirement::MasOwned => return Inspection::Forward,
        AuthRequirement::Dotted
        | AuthRequirement::Optional
        | AuthRequirement::Required
        | AuthRequirement::Admin
        | AuthRequirement::Unknown => {}
    }
    inspect_credential(config, head, class, recognize)
}

/// Decides by the token what a request needs whose homeserver looks at it.
fn inspect_credential<'a>(
    config: &Config,
    head: &'a RequestHead,
    class: Class,
    recognize: impl FnOnce(&[u8]) -> Option<Recognized>,
) -> Inspection<'a> {
    let requirement = class.requirement;
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
            may_be_overridden: true,
            ..
        } if config.form_tokens == FormTokens::Reject
            && requirement != AuthRequirement::Unknown =>
        {
            Inspection::Reject(Rejection::MissingToken)
        }
        Credential::Token {
            token,
            may_be_overridden,
            ..
        } => {
            let Some(recognized) = recognize(token.as_bytes()) else {
                return Inspection::Inactive;
            };
            inspect_token(config, token, recognized, class, may_be_overridden)
        }
    }
}

/// Returns what a request asks MAS to end. The paths without MAS's prefix stay MAS's as well.
fn end_request<'a>(
    config: &Config,
    head: &'a RequestHead,
    method: Method,
) -> Option<EndRequest<'a>> {
    let authorization = head.authorization().first();
    let target = head.target();
    [config.endpoints.mas_target(target), target]
        .into_iter()
        .find_map(|target| EndRequest::of(target, method, authorization))
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
        Some(Inspection::Introspect(need)) if need.terms.kind.is_some() => {
            Inspection::Identify(need)
        }
        _ => Inspection::ForwardAndWatch(end),
    }
}

/// Decides what a request needs that MAS may take for a logout, and another server for something else: what its path needs,
/// and the end is heard of. In shadow mode it is only heard of.
fn inspect_uncertain_end<'a>(
    config: &Config,
    head: &'a RequestHead,
    class: Class,
    end: SessionEnd<'a>,
    recognize: impl FnOnce(&[u8]) -> Option<Recognized>,
) -> Inspection<'a> {
    let inspection = match config.mode {
        Mode::Enforce => inspect_class(config, head, class, recognize),
        Mode::Shadow => Inspection::Forward,
    };
    match inspection {
        Inspection::Forward => Inspection::ForwardAndWatch(end),
        Inspection::Introspect(mut need) => {
            need.terms.logout = match end {
                SessionEnd::LogoutAll(_) => Some(Logout::All),
                _ => Some(Logout::One),
            };
            Inspection::Introspect(need)
        }
        inspection => inspection,
    }
}

/// Where a token is optional, the homeserver judges a missing or malformed one itself.
fn unless_optional<'a>(requirement: AuthRequirement, rejection: Rejection) -> Inspection<'a> {
    match requirement {
        AuthRequirement::Dotted | AuthRequirement::Optional | AuthRequirement::Unknown => {
            Inspection::Forward
        }
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
    may_be_overridden: bool,
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
            may_be_overridden,
            logout: None,
        },
        served: class.served,
    })
}
