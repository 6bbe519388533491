//! The gateway role's decisions: what a request needs, and what a verdict makes of it.
//!
//! Pure: a request comes in as [`RequestHead`], a decision goes out as data.

use alloc::rc::Rc;

mod grant;
mod inspection;

pub use self::{
    grant::{EncodedIdentity, Grant},
    inspection::{Inspection, Logout, Need, Terms, inspect},
};
use crate::{
    config::{Config, OnFailure},
    host::RequestHead,
    mas::{introspection::NoVerdict, token::TokenKind},
    matrix::{
        endpoint::{AuthRequirement, Method, Served},
        reply::Rejection,
    },
    resolver::Verdict,
};

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
        may_be_overridden,
        logout: _,
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
        Grant::Refused(_) if requirement.may_be_of_another_service() => return Decision::Forward,
        Grant::Refused(rejection) => return Decision::Reject(rejection),
    };
    if requirement == AuthRequirement::Admin && !identity.is_server_admin {
        return Decision::Reject(Rejection::NotServerAdmin);
    }
    if may_be_overridden {
        return Decision::Forward;
    }
    Decision::Annotate(Annotation { identity, kind })
}

#[cfg(test)]
mod tests;
