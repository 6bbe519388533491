//! Ends of sessions that a client asks for itself, as the gateway sees them pass to MAS.
//!
//! `POST /_matrix/client/{version}/logout` and `/logout/all` end compat sessions; MAS serves them under anything that
//! stands in the place of the version, reads the token from the header only, and takes the scheme in any case. A server that
//! decodes more than MAS, or resolves dots, may take what is no plain version for another path.
//! `POST /oauth2/revoke` (RFC 7009) ends OAuth sessions and has the token in its form.
//!
//! The non-obvious rule: none of these is believed, they only make the edge forget. MAS answers 200 to a
//! revocation of a token that it does not know, and of a compat token, which it does not revoke.

use core::fmt;

use super::endpoint::{Method, path};
use crate::{
    text::form::parser::{FormParser, Part, ShortText},
    token::{AccessToken, TokenDigest, TokenHasher, TokenSecret},
};

/// The name of the pair that holds the token.
const TOKEN: &[u8] = b"token";

/// What a client asks MAS to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEnd<'a> {
    /// The session of this token.
    Logout(AccessToken<'a>),
    /// All sessions of this token's user.
    LogoutAll(AccessToken<'a>),
    /// The session of the token in the form.
    Revocation,
}

/// A request that asks MAS to end something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndRequest<'a> {
    /// What it asks to end.
    pub end: SessionEnd<'a>,
    /// No server takes its path for another one.
    pub is_certain: bool,
}

/// How much of a revocation's form is read, in bytes. A client's has less than 1 KiB, or a few with a signed
/// assertion. Anyone can send one, so what is read of it must cost little time as well.
pub const MAX_REVOCATION_BYTES: usize = 8 * 1024;

impl<'a> EndRequest<'a> {
    /// What a request asks to end, if anything: not with a token that MAS cannot have made. `target` is the raw `:path`.
    pub fn of(target: &[u8], method: Method, authorization: Option<&'a [u8]>) -> Option<Self> {
        if method != Method::Post {
            return None;
        }
        let path = path(target);
        if path == b"/oauth2/revoke" {
            return Some(Self {
                end: SessionEnd::Revocation,
                is_certain: true,
            });
        }
        let versioned = path.strip_prefix(b"/_matrix/client/")?;
        let slash = versioned.iter().position(|byte| *byte == b'/')?;
        let (version, rest) = versioned.split_at_checked(slash)?;
        let end = match rest {
            _ if version.is_empty() => return None,
            b"/logout" => SessionEnd::Logout,
            b"/logout/all" => SessionEnd::LogoutAll,
            _ => return None,
        };
        Some(Self {
            end: bearer(authorization?).map(end)?,
            is_certain: version.iter().all(u8::is_ascii_alphanumeric),
        })
    }
}

/// RFC 6750, section 2.1, as MAS reads it.
fn bearer(authorization: &[u8]) -> Option<AccessToken<'_>> {
    let (scheme, token) = authorization.trim_ascii().split_at_checked(7)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer ");
    AccessToken::new(token.trim_ascii()).filter(|_| is_bearer)
}

/// The form of a revocation as it passes. It looks for one token and keeps its digest only. `Debug` shows nothing: what it has
/// read last may be a part of a token.
pub struct RevocationForm {
    parser: FormParser,
    /// Bytes so far.
    length: usize,
    /// The name of the present pair.
    name: ShortText,
    token: TokenHasher,
    found: Option<TokenDigest>,
}

impl fmt::Debug for RevocationForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RevocationForm(..)")
    }
}

impl RevocationForm {
    /// Nothing so far. The token is named under `secret`.
    pub fn new(secret: TokenSecret) -> Self {
        Self {
            parser: FormParser::default(),
            length: 0,
            name: ShortText::default(),
            token: secret.hasher(),
            found: None,
        }
    }

    /// Returns how many more bytes are read, at the most.
    pub fn room(&self) -> usize {
        MAX_REVOCATION_BYTES.saturating_sub(self.length)
    }

    /// Reads the next piece. `false`: no more of the form is needed, because its token is found.
    pub fn read(&mut self, piece: &[u8]) -> bool {
        self.length = self.length.saturating_add(piece.len());
        let mut parser = core::mem::take(&mut self.parser);
        parser.read(piece, |part| self.take(part));
        self.parser = parser;
        self.found.is_none()
    }

    /// Notes that the form has ended, if all of it was read.
    pub fn finish(&mut self) {
        let parser = core::mem::take(&mut self.parser);
        parser.finish(|part| self.take(part));
    }

    /// Returns the token that the form names, once it has come. Of several it is the first.
    pub fn found(&self) -> Option<TokenDigest> {
        self.found
    }

    fn take(&mut self, part: Part<'_>) {
        if self.found.is_some() {
            return;
        }
        match part {
            Part::Name(piece) => self.name.push(piece),
            Part::Value(piece) if self.name.is(TOKEN) => self.token.push(piece),
            Part::Value(_) => {}
            Part::End => {
                if self.name.is(TOKEN) {
                    self.found = Some(self.token.clone().finish());
                }
                self.name = ShortText::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(
        target: &str,
        method: &str,
        authorization: Option<&'a str>,
    ) -> Option<SessionEnd<'a>> {
        let method = Method::from_bytes(method.as_bytes());
        let authorization = authorization.map(str::as_bytes);
        let request = EndRequest::of(target.as_bytes(), method, authorization);
        request.map(|request| request.end)
    }

    #[test]
    fn logouts_are_found_under_every_version() {
        let token = AccessToken::new(&b"t"[..]).unwrap();
        for version in ["r0", "v3", "unstable", "v", "anything", "%2f"] {
            let target = format!("/_matrix/client/{version}/logout");
            for header in ["Bearer t", "bearer t", "BEARER  t "] {
                assert_eq!(
                    of(&target, "POST", Some(header)),
                    Some(SessionEnd::Logout(token.clone()))
                );
            }
            assert_eq!(
                of(&format!("{target}/all?x=y"), "POST", Some("Bearer t")),
                Some(SessionEnd::LogoutAll(token.clone()))
            );
            assert_eq!(of(&target, "OPTIONS", Some("Bearer t")), None);
            assert_eq!(of(&target, "POST", Some("Basic t")), None);
            assert_eq!(of(&target, "POST", Some("Bearer ")), None);
            assert_eq!(of(&target, "POST", Some("Bearer \u{e9}")), None);
            assert_eq!(of(&target, "POST", None), None);
            assert_eq!(of(&format!("{target}/"), "POST", Some("Bearer t")), None);
        }
        for prefix in ["", "/", "//", "/api/v1/", "v3/"] {
            let target = format!("/_matrix/client{prefix}logout");
            assert_eq!(of(&target, "POST", Some("Bearer t")), None, "{target}");
        }
    }

    /// The version is one name that no server reads otherwise.
    #[test]
    fn a_logout_is_certain_where_no_server_reads_another_path() {
        let is_certain = |target: &str| {
            let method = Method::from_bytes(b"POST");
            let end = EndRequest::of(target.as_bytes(), method, Some(b"Bearer t"));
            end.unwrap().is_certain
        };
        for version in ["r0", "v1", "v3", "unstable", "v11"] {
            assert!(is_certain(&format!("/_matrix/client/{version}/logout")));
            assert!(is_certain(&format!(
                "/_matrix/client/{version}/logout/all?x=../%2e"
            )));
        }
        assert!(is_certain("/oauth2/revoke"));
        for version in [
            "..",
            ".",
            "%2e%2e",
            "..%2fv3",
            "v3%2frooms",
            "v3\\rooms",
            "..;x",
            "v3;x",
            "%76%33",
        ] {
            assert!(!is_certain(&format!("/_matrix/client/{version}/logout")));
            assert!(!is_certain(&format!(
                "/_matrix/client/{version}/logout/all"
            )));
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
        for (form, token) in [
            (
                &b"client_id=c&token_type_hint=access_token&token=a%2Bb&token=c"[..],
                Some(&b"a+b"[..]),
            ),
            (b"to%6ben=a+b", Some(b"a b")),
            (b"token", Some(b"")),
            (b"token=", Some(b"")),
            (b"token=a=b", Some(b"a=b")),
            (b"client_id=token&tokens=a&Token=b", None),
            (b"", None),
        ] {
            let expected = token.map(TokenDigest::of);
            for length in 1..=form.len().max(1) {
                assert_eq!(revoked(form.chunks(length)), expected, "{length}");
            }
        }
    }

    #[test]
    fn the_token_is_found_as_soon_as_it_has_come() {
        let mut form = RevocationForm::new(TokenSecret::NONE);
        assert!(form.read(b"token=a"));
        assert_eq!(form.found(), None, "more of it may come");
        assert!(!form.read(b"&token=b"));
        assert_eq!(form.found(), Some(TokenDigest::of(b"a")));
    }

    #[test]
    fn what_is_read_of_a_form_is_counted() {
        let mut form = RevocationForm::new(TokenSecret::NONE);
        assert_eq!(form.room(), MAX_REVOCATION_BYTES);
        form.read(&[b'x'; 1_000]);
        assert_eq!(form.room(), MAX_REVOCATION_BYTES - 1_000);
        form.read(&[b'x'; MAX_REVOCATION_BYTES]);
        assert_eq!(form.room(), 0);
    }

    /// What is found in a form that comes in these pieces.
    fn revoked<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<TokenDigest> {
        let mut form = RevocationForm::new(TokenSecret::NONE);
        if pieces.into_iter().all(|piece| form.read(piece)) {
            form.finish();
        }
        form.found()
    }

    #[test]
    fn debug_shows_no_part_of_a_form() {
        let mut form = RevocationForm::new(TokenSecret::NONE);
        form.read(b"syt_s3cret");
        assert_eq!(format!("{form:?}"), "RevocationForm(..)");
    }
}
