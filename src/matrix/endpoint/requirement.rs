//! What an endpoint needs of its caller.

/// What an endpoint needs of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthRequirement {
    /// A token with the admin scope.
    Admin,
    /// The token of an application service. MAS does not know these; Synapse alone can judge them,
    /// so it also answers for a missing one.
    Appservice,
    /// Never served to the public.
    Blocked,
    /// The path has a segment `..`, so a proxy may lead it anywhere: like `Unknown`, but a token counts wherever it may stand.
    Dotted,
    /// `access_token` is not an access token here (an unsubscribe macaroon, an OpenID token): hands
    /// off.
    Foreign,
    /// MAS answers here and judges the credentials, by rules of its own: hands off.
    MasOwned,
    /// Nothing: a token is not even looked at.
    None,
    /// No token, or a good one.
    Optional,
    /// A token.
    Required,
    /// The table does not know the path, so it may be another service's: like `Optional`, but what
    /// an active token is good for is for that service to judge.
    Unknown,
}

impl AuthRequirement {
    /// Whether no token is looked at.
    pub fn ignores_tokens(self) -> bool {
        matches!(
            self,
            Self::Appservice | Self::Foreign | Self::MasOwned | Self::None
        )
    }

    /// Whether the path may be another service's, which knows nothing of MAS's tokens or takes some that the homeserver does not.
    pub fn may_be_of_another_service(self) -> bool {
        matches!(self, Self::Dotted | Self::Unknown)
    }
}
