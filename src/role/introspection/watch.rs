//! What the introspection role still watches for in an exchange.

use super::callers::CallerKey;
use crate::role::exchange::{self, BodyPrefix, Wants};

/// An exchange of the introspection role.
pub type Exchange = exchange::Exchange<Watch>;

/// What this role still watches for in an exchange.
#[derive(Debug, Default)]
pub enum Watch {
    /// Nothing.
    #[default]
    Nothing,
    /// An authenticated caller's request is held, and its form is awaited.
    HeldForBody,
    /// The request of a caller that is not authenticated is forwarded; its form is copied, to see whether it
    /// is one that the cache could have answered.
    Unauthenticated(CallerKey, BodyPrefix),
    /// It is one, so a 200 of MAS authenticates the caller.
    Matched(CallerKey),
}

impl exchange::Watch for Watch {
    fn wants(&self) -> Wants {
        let is_something = !matches!(self, Self::Nothing);
        Wants {
            request_body: is_something,
            response_headers: is_something,
        }
    }
}
