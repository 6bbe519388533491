//! Ends of sessions that a client asks for itself, as the gateway sees them pass to MAS.
//!
//! `POST /_matrix/client/{version}/logout` and `/logout/all` end compat sessions; MAS serves them, reads the
//! token from the header only, and takes the scheme in any case. `POST /oauth2/revoke` (RFC 7009) ends OAuth
//! sessions and has the token in its form.
//!
//! The non-obvious rule: none of these is believed, they only make the edge forget. MAS answers 200 to a
//! revocation of a token that it does not know, and of a compat token, which it does not revoke.

use super::endpoint::{after_version, path};
use crate::{
    form,
    token::{AccessToken, TokenDigest},
};

/// What a client asks MAS to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The session of this token.
    Logout(TokenDigest),
    /// All sessions of this token's user.
    LogoutAll(TokenDigest),
    /// The session of the token in the form.
    Revocation,
}

/// Largest revocation form that is read, in bytes.
pub const MAX_REVOCATION_BYTES: usize = 64 * 1024;

impl SessionEnd {
    /// What a request asks to end, if anything. `target` is the raw `:path`, `method` and `authorization`
    /// are asked only where they matter.
    pub fn of<'a>(
        target: &[u8],
        method: impl FnOnce() -> &'a [u8],
        authorization: Option<&[u8]>,
    ) -> Option<Self> {
        let path = path(target);
        let end = if path == b"/oauth2/revoke" {
            Self::Revocation
        } else {
            let end = match after_version(path.strip_prefix(b"/_matrix/client/")?)? {
                b"logout" => Self::Logout,
                b"logout/all" => Self::LogoutAll,
                _ => return None,
            };
            end(TokenDigest::of(bearer(authorization?)?))
        };
        (method() == b"POST").then_some(end)
    }
}

/// Returns the token of a logout. `None` if there is none, or none that MAS could have made.
pub fn logout_token(authorization: &[u8]) -> Option<AccessToken<'_>> {
    AccessToken::new(std::str::from_utf8(bearer(authorization)?).ok()?)
}

/// RFC 6750, section 2.1, as MAS reads it.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.trim_ascii().split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"bearer ")
        .then(|| token.trim_ascii())
        .filter(|token| !token.is_empty())
}

/// The token that a revocation's form names.
pub fn revoked_token(form: &[u8]) -> Option<TokenDigest> {
    form::pairs(form)
        .find(|(name, _)| name == b"token")
        .map(|(_, token)| TokenDigest::of(&token))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn of(target: &str, method: &str, authorization: Option<&str>) -> Option<SessionEnd> {
        SessionEnd::of(
            target.as_bytes(),
            || method.as_bytes(),
            authorization.map(str::as_bytes),
        )
    }

    #[test]
    fn logouts_are_found_under_every_version() {
        let token = TokenDigest::of(b"t");
        for version in ["api/v1", "r0", "v3", "unstable"] {
            let target = format!("/_matrix/client/{version}/logout");
            for header in ["Bearer t", "bearer t", "BEARER  t "] {
                assert_eq!(
                    of(&target, "POST", Some(header)),
                    Some(SessionEnd::Logout(token))
                );
            }
            assert_eq!(
                of(&format!("{target}/all?x=y"), "POST", Some("Bearer t")),
                Some(SessionEnd::LogoutAll(token))
            );
            assert_eq!(of(&target, "OPTIONS", Some("Bearer t")), None);
            assert_eq!(of(&target, "POST", Some("Basic t")), None);
            assert_eq!(of(&target, "POST", Some("Bearer ")), None);
            assert_eq!(of(&target, "POST", None), None);
            assert_eq!(of(&format!("{target}/"), "POST", Some("Bearer t")), None);
        }
    }

    #[test]
    fn a_revocation_names_its_token_in_the_form() {
        assert_eq!(
            of("/oauth2/revoke", "POST", Some("Basic x")),
            Some(SessionEnd::Revocation)
        );
        assert_eq!(of("/oauth2/revoke", "GET", None), None);
        assert_eq!(of("/oauth2/token", "POST", None), None);
        let form = b"client_id=c&token_type_hint=access_token&token=a%2Bb&token=c";
        assert_eq!(revoked_token(form), Some(TokenDigest::of(b"a+b")));
        assert_eq!(revoked_token(b"client_id=c"), None);
    }
}
