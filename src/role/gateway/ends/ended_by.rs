//! By what a client ends a session of its own.

use crate::metrics::InvalidationReason;

/// The request by which a client ends a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// A logout. The token that it is sent with ends.
    Logout,
    /// A revocation. It names the token in its form.
    Revocation,
}

impl EndedBy {
    /// Returns whether a 401 of MAS to the request says that MAS does not know the token. To a revocation it is about the client.
    pub fn is_refused_for_token(self) -> bool {
        match self {
            Self::Logout => true,
            Self::Revocation => false,
        }
    }
}

impl From<EndedBy> for InvalidationReason {
    fn from(by: EndedBy) -> Self {
        match by {
            EndedBy::Logout => Self::Logout,
            EndedBy::Revocation => Self::Revocation,
        }
    }
}
