//! What the gateway still watches for in an exchange, after it has decided about its request.
//!
//! `passing.rs` says what it makes of what it sees.

use alloc::boxed::Box;

use super::{
    ends::{EndedBy, Ending, Scope},
    policy::Logout,
};
use crate::{
    mas::user::UserKey,
    matrix::session_end::{RevocationForm, SessionEnd},
    metrics::{HomeserverAnswer, RejectionReason},
    role::exchange::{self, Wants},
    token::{AccessToken, TokenDigest, TokenSecret},
};

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
    /// The request asks MAS to end this.
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
    pub fn session_end(end: &SessionEnd<'_>, secret: TokenSecret) -> Self {
        let name = |token: &AccessToken<'_>| secret.digest(token.as_bytes());
        match end {
            SessionEnd::Logout(token) => Self::logout(name(token), Logout::One),
            SessionEnd::LogoutAll(token) => Self::logout(name(token), Logout::All),
            SessionEnd::Revocation => Self::Revocation(Box::new(RevocationForm::new(secret))),
        }
    }

    /// Returns the watch over a request that logs this token out, or all of its user's, who is not known yet.
    pub fn logout(token: TokenDigest, logout: Logout) -> Self {
        match logout {
            Logout::One => Self::SessionEnd(Ending::of_session(token, EndedBy::Logout)),
            Logout::All => Self::logout_all(token, None),
        }
    }

    /// Returns the watch over a request that revokes this token.
    pub fn revocation(token: TokenDigest) -> Self {
        Self::SessionEnd(Ending::of_session(token, EndedBy::Revocation))
    }

    /// Returns the watch when no more of the request's body counts: MAS has answered, or the request has ended. Then a form has its
    /// token or none, also if Envoy has not seen the end of the body: MAS has all of it when it has as many bytes as the head says.
    pub fn finished(self) -> Self {
        let Self::Revocation(mut form) = self else {
            return self;
        };
        form.finish();
        form.found().map_or(Self::Nothing, Self::revocation)
    }

    /// Returns the watch over a request that asks to end all sessions of `user`, whose token is `token`.
    pub fn logout_all(token: TokenDigest, user: Option<UserKey>) -> Self {
        Self::SessionEnd(Ending {
            token,
            by: EndedBy::Logout,
            scope: Scope::AllOfUser(user),
        })
    }
}

impl exchange::Watch for Watch {
    #[inline]
    fn wants(&self) -> Wants {
        let response = Wants {
            response_headers: true,
            ..Wants::default()
        };
        let response_or_end = Wants {
            stream_end: true,
            ..response
        };
        match self {
            Self::Nothing | Self::Answered(_) => Wants::default(),
            Self::Active(_) | Self::GrpcReply(_) => response,
            Self::SessionEnd(_) | Self::Undecided | Self::WouldReject(_) => response_or_end,
            Self::Revocation(_) => Wants {
                request_body: true,
                ..response_or_end
            },
        }
    }

    fn grpc_reply(status: u16) -> Self {
        Self::GrpcReply(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_watch_wants_the_callbacks_that_tell_it_something() {
        let token = TokenDigest::of(b"token");
        let form = Box::new(RevocationForm::new(TokenSecret::NONE));
        for (watch, wanted) in [
            (Watch::Nothing, [false, false, false]),
            (Watch::Active(token), [false, true, false]),
            (Watch::GrpcReply(401), [false, true, false]),
            (Watch::logout_all(token, None), [false, true, true]),
            (Watch::Revocation(form), [true, true, true]),
            (Watch::Undecided, [false, true, true]),
            (Watch::Answered(HomeserverAnswer::None), [false; 3]),
            (
                Watch::WouldReject(RejectionReason::NotActive),
                [false, true, true],
            ),
        ] {
            let Wants {
                request_body,
                response_headers,
                stream_end,
            } = exchange::Watch::wants(&watch);
            let found = [request_body, response_headers, stream_end];
            assert_eq!(found, wanted, "{watch:?}");
        }
    }
}
