//! `identity_headers`: which headers tell who a request acts as, and which no client may send.

use alloc::string::String;

use super::header_name;

/// Default of `identity_headers.user_id`.
pub(super) const USER_ID: &str = "x-matrix-user-id";
/// Default of `identity_headers.device_id`.
pub(super) const DEVICE_ID: &str = "x-matrix-device-id";

/// `identity_headers`: lower-case header names; `None` is off.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IdentityHeaders {
    /// `@localpart:server_name`.
    pub user_id: Option<String>,
    /// Device id.
    pub device_id: Option<String>,
    /// OAuth client id.
    pub client_id: Option<String>,
    /// Scope.
    pub scope: Option<String>,
    /// Kind of the token.
    pub token_kind: Option<String>,
}

impl IdentityHeaders {
    /// Returns whether a server may take a field of this name for an identity header: for a configured one, or for one
    /// of the default names even when they are turned off, since their readers expect them to be the edge's.
    ///
    /// To some servers all separators are one: what reaches a program by CGI, WSGI or the like has `_` in place of `-`,
    /// and in some of every byte that is no letter or digit.
    #[inline]
    pub fn is_reserved(&self, name: &[u8]) -> bool {
        // They all begin with `x-`, and most headers of a request do not.
        matches!(name, [b'x' | b'X', ..]) && self.is_identity(name)
    }

    /// Returns the lengths of the names that [`Self::is_reserved`] is about. Whatever a name's spelling, its length is one
    /// of them.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.names().map(str::len)
    }

    fn is_identity(&self, name: &[u8]) -> bool {
        self.names()
            .any(|expected| header_name::may_be(name, expected))
    }

    /// Returns the configured names. A header that is left out here could be forged by any client, so the compiler asks for each.
    pub fn configured(&self) -> impl Iterator<Item = &str> {
        let Self {
            user_id,
            device_id,
            client_id,
            scope,
            token_kind,
        } = self;
        let names = [user_id, device_id, client_id, scope, token_kind];
        names.into_iter().filter_map(|name| name.as_deref())
    }

    /// The configured names, and the default ones.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.configured().chain([USER_ID, DEVICE_ID])
    }
}
