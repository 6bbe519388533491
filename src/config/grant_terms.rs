//! What a configuration has a say in when an active token is made into a grant.

/// All that decides what an active token grants, beside MAS's answer about it. A worker keeps grants, and listeners share those
/// that were made on the same terms. So what is not in here must not change a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantTerms<'c> {
    /// The homeserver's name, which completes user ids.
    pub server_name: &'c str,
    /// Whether a header tells the OAuth client.
    pub tells_client_id: bool,
    /// Whether a header tells the scope.
    pub tells_scope: bool,
}
