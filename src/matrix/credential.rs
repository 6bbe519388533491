//! Where a request carries its access token: Synapse's own rules (Matrix spec, "Using access
//! tokens").
//!
//! Where the edge and the homeserver read different tokens from one request, one user is annotated
//! and another acts. So this reads what Synapse and its HTTP server Twisted read, oddities
//! included:
//!
//! - the query starts at the first `?`; `&` and `;` separate; a piece without `=` does not count;
//! - `+` is a space and percent escapes are decoded once, in names too; a bad escape stands for
//!   itself;
//! - the first of several `access_token`s counts, even if it is empty;
//! - the scheme is `Bearer`, in that case, and one space;
//! - a form body of a `POST` counts before the query. Headers do not show it, so such a request
//!   stays undecided here unless it has an `Authorization` header, next to which Synapse allows no
//!   other token. Where the media type is not sure to be that of a form, the query counts, with a
//!   doubt.

use std::{borrow::Cow, fmt};

use crate::{
    form::{Decoded, FORM, scan::has_any, steps},
    media_type,
    token::AccessToken,
};

/// Which part of the request a token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `Authorization: Bearer ...`
    Header,
    /// `?access_token=...`, which the spec dropped in v1.20.
    Query,
}

/// The `Authorization` fields of a request. `Debug` shows nothing of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Authorization<'a> {
    /// There is none.
    None,
    /// One field with this value, or several that the proxy has joined with commas.
    One(&'a [u8]),
    /// Several fields.
    Several {
        /// The value of the first.
        first: &'a [u8],
    },
}

impl<'a> Authorization<'a> {
    /// Returns the first value. MAS takes it, whatever follows.
    pub fn first(self) -> Option<&'a [u8]> {
        match self {
            Self::None => None,
            Self::One(value) | Self::Several { first: value } => Some(value),
        }
    }
}

impl fmt::Debug for Authorization<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::One(_) => "One",
            Self::Several { .. } => "Several",
        })
    }
}

/// What a request offers as its access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// An empty `?access_token=`: Synapse calls it unknown, not missing.
    Empty,
    /// A form-encoded `POST` without an `Authorization` header: the body decides, and only Synapse
    /// sees it. Also one that may be a form, without a token in the query.
    FormBody,
    /// Nothing.
    Missing,
    /// A token.
    Token {
        /// The token.
        token: AccessToken<'a>,
        /// Where it was.
        source: Source,
        /// Whether Synapse may find another one in a form body, which then counts.
        is_doubtful: bool,
    },
}

/// Whether Synapse looks for parameters in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormPost {
    /// It does not.
    No,
    /// It does if what is decoded of the media type says so.
    Maybe,
    /// It does.
    Yes,
}

/// Why Synapse refuses the credential before it looks at the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialError {
    /// The header is not `Bearer`, one space, and a token without spaces.
    InvalidHeader,
    /// Both a header and an `access_token` in the query, whatever they hold.
    Mixed,
    /// The token has bytes outside ASCII.
    NotAscii,
    /// More than one `Authorization` field.
    Several,
}

/// Reads the credential of a request.
///
/// `query` is what follows the first `?` of the target. `read_form` is [`form_post`] of the request; it is called only if there
/// is no `Authorization`.
pub fn extract<'a>(
    authorization: Authorization<'a>,
    query: Option<&'a [u8]>,
    read_form: impl FnOnce() -> FormPost,
) -> Result<Credential<'a>, CredentialError> {
    let query_token = query.and_then(query_token);
    let form = match authorization {
        Authorization::None => read_form(),
        _ => FormPost::No,
    };
    let (token, source) = match (authorization, query_token) {
        (Authorization::None, _) if form == FormPost::Yes => return Ok(Credential::FormBody),
        (Authorization::None, None) if form == FormPost::Maybe => {
            return Ok(Credential::FormBody);
        }
        (Authorization::None, None) => return Ok(Credential::Missing),
        (Authorization::None, Some([])) => return Ok(Credential::Empty),
        (Authorization::None, Some(value)) => (decode(value), Source::Query),
        (_, Some(_)) => return Err(CredentialError::Mixed),
        (Authorization::Several { .. }, None) => return Err(CredentialError::Several),
        (Authorization::One(value), None) => (Cow::Borrowed(bearer(value)?), Source::Header),
    };
    let token = AccessToken::new(token).ok_or(CredentialError::NotAscii)?;
    Ok(Credential::Token {
        token,
        source,
        is_doubtful: form == FormPost::Maybe,
    })
}

/// Returns whether Synapse looks for parameters in the body: the method is `POST` and the media
/// type, with its parameters and case set aside, is the form one.
///
/// Twisted reads the header like one of an e-mail: it drops any white space of Latin-1 around the
/// type, and decodes RFC 2047 words (`=?utf-8?q?...?=`) in it. Words in the type itself, which ends
/// at the first `;`, may make any type of it, also `multipart/form-data`, and are not decoded here.
/// Words in its parameters change nothing.
pub fn form_post(method: &[u8], content_type: Option<&[u8]>) -> FormPost {
    let Some(content_type) = content_type.filter(|_| method == b"POST") else {
        return FormPost::No;
    };
    let media_type = media_type::without_parameters(content_type);
    if media_type.windows(2).any(|pair| pair == b"=?") {
        FormPost::Maybe
    } else if trim(media_type, u8::is_ascii_graphic).eq_ignore_ascii_case(FORM.as_bytes()) {
        FormPost::Yes
    } else {
        FormPost::No
    }
}

/// RFC 6750, section 2.1, as Synapse reads it.
fn bearer(authorization: &[u8]) -> Result<&[u8], CredentialError> {
    // RFC 9110, section 5.6.3: optional white space is spaces and tabs.
    trim(authorization, |byte| !matches!(byte, b' ' | b'\t'))
        .strip_prefix(b"Bearer ")
        .filter(|token| !token.is_empty() && !has_any(token, [b' ']))
        .ok_or(CredentialError::InvalidHeader)
}

/// `value` without the bytes at its ends that are not `wanted`.
fn trim(value: &[u8], wanted: impl Fn(&u8) -> bool) -> &[u8] {
    let (Some(first), Some(last)) = (
        value.iter().position(&wanted),
        value.iter().rposition(&wanted),
    ) else {
        return &[];
    };
    value.get(first..=last).unwrap_or_default()
}

/// Whether there is an `access_token` in the query, also an empty one.
pub fn has_query_token(query: &[u8]) -> bool {
    query_token(query).is_some()
}

/// The encoded value of the first `access_token` in the query.
fn query_token(query: &[u8]) -> Option<&[u8]> {
    query
        .split(|&byte| byte == b'&' || byte == b';')
        .filter_map(|pair| {
            steps::note(1 + pair.len());
            split_at(pair, b'=')
        })
        .find(|(name, _)| is_access_token(name))
        .map(|(_, value)| value)
}

fn is_access_token(name: &[u8]) -> bool {
    const NAME: &[u8] = b"access_token";
    name == NAME || (name.len() > NAME.len() && Decoded(name).eq(NAME.iter().copied()))
}

fn split_at(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    let (before, after) = text.split_at_checked(at)?;
    Some((before, after.get(1..)?))
}

fn decode(value: &[u8]) -> Cow<'_, [u8]> {
    if value.iter().any(|&byte| byte == b'%' || byte == b'+') {
        Cow::Owned(Decoded(value).collect())
    } else {
        Cow::Borrowed(value)
    }
}

#[cfg(test)]
mod tests {
    use super::{Authorization::One, *};

    fn extract<'a>(
        authorization: Authorization<'a>,
        target: &'a [u8],
        read_form: impl FnOnce() -> FormPost,
    ) -> Result<Credential<'a>, CredentialError> {
        let query = split_at(target, b'?').map(|(_, query)| query);
        super::extract(authorization, query, read_form)
    }

    fn unasked() -> FormPost {
        panic!("the method and content type were read for nothing");
    }

    fn token<'a>(credential: Result<Credential<'a>, CredentialError>) -> AccessToken<'a> {
        match credential {
            Ok(Credential::Token { token, .. }) => token,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_header_decides_without_a_look_at_the_body() {
        let found = token(extract(One(b"Bearer x"), b"/?since=1", unasked));
        assert_eq!(found.as_str(), "x");
    }

    #[test]
    fn plain_tokens_are_borrowed() {
        assert!(matches!(
            token(extract(One(b"Bearer x"), b"/", unasked)).0,
            Cow::Borrowed(_)
        ));
        let plain = token(extract(Authorization::None, b"/?access_token=x", || {
            FormPost::No
        }));
        assert!(matches!(plain.0, Cow::Borrowed(_)));
        let encoded = token(extract(Authorization::None, b"/?access_token=%78", || {
            FormPost::No
        }));
        assert!(matches!(encoded.0, Cow::Owned(_)));
        assert_eq!(plain, encoded);
    }

    #[test]
    fn mixing_is_found_before_a_bad_header() {
        let both = extract(One(b"Basic x"), b"/?access_token=", unasked);
        assert_eq!(both, Err(CredentialError::Mixed));
    }

    #[test]
    fn several_headers_are_too_many_whatever_they_hold() {
        for first in [&b""[..], b"Bearer x", b"Basic x", b"Bearer \xff"] {
            let several = Authorization::Several { first };
            let found = extract(several, b"/", unasked);
            assert_eq!(found, Err(CredentialError::Several));
            let mixed = extract(several, b"/?access_token=x", unasked);
            assert_eq!(mixed, Err(CredentialError::Mixed));
        }
    }

    #[test]
    fn only_the_token_must_be_ascii() {
        let invalid = Err(CredentialError::InvalidHeader);
        assert_eq!(extract(One(b"Bas\xffic x"), b"/", unasked), invalid);
        assert_eq!(extract(One(b"Bearer \xff y"), b"/", unasked), invalid);
        let not_ascii = Err(CredentialError::NotAscii);
        assert_eq!(extract(One(b"Bearer \xff"), b"/", unasked), not_ascii);
        assert_eq!(
            extract(Authorization::None, b"/?access_token=a%80", || FormPost::No),
            not_ascii
        );
        let found = token(extract(
            Authorization::None,
            b"/?\xff=1&access_token=a",
            || FormPost::No,
        ));
        assert_eq!(found.as_str(), "a");
    }

    #[test]
    fn debug_does_not_show_the_token() {
        let found = extract(One(b"Bearer hidden"), b"/", unasked);
        let shown = format!("{found:?}");
        assert!(
            shown.contains("Header") && !shown.contains("hidden"),
            "{shown}"
        );
        let first = b"Bearer hidden";
        let shown = format!("{:?}", [One(first), Authorization::Several { first }]);
        assert_eq!(shown, "[One, Several]");
    }

    #[test]
    fn control_bytes_are_found() {
        for (token, expected) in [
            (&b"a\0b"[..], true),
            (b"a\tb", true),
            (b"\x7f", true),
            (b"a b~", false),
        ] {
            assert_eq!(
                AccessToken::new(token).unwrap().has_control_bytes(),
                expected,
                "{token:?}"
            );
        }
    }

    #[test]
    fn a_token_is_ascii_and_not_empty() {
        assert!(AccessToken::new(b"").is_none());
        assert!(AccessToken::new("\u{e9}".as_bytes()).is_none());
    }

    #[test]
    fn a_query_is_looked_at_once() {
        for input in [
            "&",
            ";",
            "=",
            "a=b&",
            "a&",
            "access_token&",
            "access_tokem=x&",
            "access%5ftokem=x&",
            "%61%63%63ess_tokem=x;",
            "access_token%25=x&",
            "%25",
            "+",
        ] {
            let read = |query: &[u8]| {
                let target = [b"/x?", query].concat();
                drop(extract(Authorization::None, &target, || FormPost::No));
            };
            steps::assert_linear("the query", 4, read, input.as_bytes());
            // With a token at its end.
            let read = |query: &[u8]| {
                let target = [b"/x?", query, b"&access_token=%61%25%32%35"].concat();
                drop(extract(Authorization::None, &target, || FormPost::No));
            };
            steps::assert_linear("the query", 4, read, input.as_bytes());
        }
    }

    #[test]
    fn form_posts_are_recognised_as_twisted_does() {
        for (content_type, expected) in [
            (&b"application/x-www-form-urlencoded"[..], FormPost::Yes),
            (b"APPLICATION/X-WWW-FORM-URLENCODED", FormPost::Yes),
            (
                b" application/x-www-form-urlencoded ;charset=utf-8",
                FormPost::Yes,
            ),
            // Latin-1 white space, which Python strips.
            (b"application/x-www-form-urlencoded\xa0", FormPost::Yes),
            (b"\x85application/x-www-form-urlencoded\x1c;", FormPost::Yes),
            // RFC 2047 encoded words, which Python's e-mail package decodes.
            (
                b"=?utf-8?q?application/x-www-form-urlencoded?=",
                FormPost::Maybe,
            ),
            (
                b"application/x-www-form-=?utf-8?q?urlencoded?=",
                FormPost::Maybe,
            ),
            (
                b"=?utf-8?q?multipart/form-data;?= boundary=x",
                FormPost::Maybe,
            ),
            // In the parameters, which are no part of the type.
            (b"application/json;a==?", FormPost::No),
            (b"application/json; charset==?utf-8?q?utf-8?=", FormPost::No),
            (b"application/x-www-form-urlencoded; a==?", FormPost::Yes),
            (b"", FormPost::No),
            (b"application/json", FormPost::No),
            (b"multipart/form-data; boundary=x", FormPost::No),
            (
                b"text/plain, application/x-www-form-urlencoded",
                FormPost::No,
            ),
            (
                b"text/plain; application/x-www-form-urlencoded",
                FormPost::No,
            ),
            (
                b"application/x-www-form-urlencoded, application/json",
                FormPost::No,
            ),
            (b"application/x-www-form-urlencodedx", FormPost::No),
        ] {
            let shown = String::from_utf8_lossy(content_type);
            assert_eq!(form_post(b"POST", Some(content_type)), expected, "{shown}");
            for method in [&b"PUT"[..], b"post"] {
                assert_eq!(
                    form_post(method, Some(content_type)),
                    FormPost::No,
                    "{shown}"
                );
            }
        }
        assert_eq!(form_post(b"POST", None), FormPost::No);
    }

    #[test]
    fn a_body_that_may_be_a_form_leaves_the_query_token_in_doubt() {
        let read =
            |target: &'static [u8], form_post| extract(Authorization::None, target, || form_post);
        for form_post in [FormPost::No, FormPost::Maybe] {
            let Ok(Credential::Token { is_doubtful, .. }) = read(b"/x?access_token=abc", form_post)
            else {
                panic!("no token");
            };
            assert_eq!(is_doubtful, form_post == FormPost::Maybe);
            let empty = read(b"/x?access_token=", form_post);
            assert_eq!(empty, Ok(Credential::Empty));
        }
        assert_eq!(read(b"/x", FormPost::Maybe), Ok(Credential::FormBody));
        let form = read(b"/x?access_token=abc", FormPost::Yes);
        assert_eq!(form, Ok(Credential::FormBody));
    }

    #[cfg(not(target_arch = "wasm32"))]
    mod properties {
        use proptest::prelude::*;

        use super::*;

        /// Twisted's parse, spelt out: split, replace, decode, in that order.
        fn reference(target: &[u8]) -> Option<Vec<u8>> {
            let text: String = target.iter().copied().map(char::from).collect();
            let (_, query) = text.split_once('?')?;
            query
                .split('&')
                .flat_map(|piece| piece.split(';'))
                .find_map(|piece| {
                    let (name, value) = piece.split_once('=')?;
                    (unquote(name) == b"access_token").then(|| unquote(value))
                })
        }

        fn unquote(text: &str) -> Vec<u8> {
            let spaced = text.replace('+', " ");
            let mut parts = spaced.split('%');
            let mut bytes: Vec<u8> = latin1(parts.next().unwrap());
            for part in parts {
                let escape = part
                    .get(..2)
                    .filter(|pair| pair.chars().all(|digit| digit.is_ascii_hexdigit()));
                match escape {
                    Some(pair) => {
                        bytes.push(u8::from_str_radix(pair, 16).unwrap());
                        bytes.extend(latin1(&part[2..]));
                    }
                    None => {
                        bytes.push(b'%');
                        bytes.extend(latin1(part));
                    }
                }
            }
            bytes
        }

        fn latin1(text: &str) -> Vec<u8> {
            text.chars()
                .map(|c| u8::try_from(u32::from(c)).unwrap())
                .collect()
        }

        /// Queries made of the pieces that parsers disagree about.
        fn query() -> impl Strategy<Value = Vec<u8>> {
            let text = |pieces: &'static [&'static str]| {
                prop::sample::select(pieces).prop_map(|piece| piece.as_bytes().to_vec())
            };
            let piece = prop_oneof![
                4 => text(&["access_token=", "access_token", "&", ";", "=", "a=b"]),
                2 => text(&["?", "%", "+", "#", "", "%zz", "%4", "%25", "%26", "%3d", "%00", "%ff"]),
                2 => text(&[
                    "%61ccess_token=", "access%5Ftoken=", "access%5ftoken=", "access_toke%6E=",
                    "access+token=", "Access_token=", "access_token%3d",
                ]),
                1 => prop::collection::vec(any::<u8>(), 0..4),
                1 => "[a-z0-9%+=&;]{0,6}".prop_map(String::into_bytes),
            ];
            prop::collection::vec(piece, 0..12)
                .prop_map(|pieces| [&b"/x?"[..], &pieces.concat()].concat())
        }

        fn expected(reference: Option<Vec<u8>>) -> Result<Option<String>, CredentialError> {
            match reference.map(String::from_utf8) {
                None => Ok(None),
                Some(Ok(token)) if token.is_ascii() => Ok(Some(token)),
                Some(_) => Err(CredentialError::NotAscii),
            }
        }

        proptest! {
            #![proptest_config(ProptestConfig::with_cases(2000))]

            #[test]
            fn the_query_is_read_as_twisted_reads_it(target in query()) {
                let found = extract(Authorization::None, &target, || FormPost::No).map(|credential| match credential {
                    Credential::Missing => None,
                    Credential::Empty => Some(String::new()),
                    Credential::Token { token, source: Source::Query, .. } => {
                        Some(token.as_str().into())
                    }
                    other => panic!("{other:?}"),
                });
                prop_assert_eq!(found, expected(reference(&target)));
            }

            #[test]
            fn a_header_allows_no_query_token(target in query()) {
                let mixed = extract(One(b"Bearer x"), &target, || FormPost::No);
                prop_assert_eq!(
                    mixed == Err(CredentialError::Mixed),
                    reference(&target).is_some()
                );
            }

            #[test]
            fn arbitrary_bytes_never_panic(header: Option<Vec<u8>>, target: Vec<u8>, form: bool) {
                let authorization = header.as_deref().map_or(Authorization::None, One);
                let _ = extract(authorization, &target, || if form { FormPost::Yes } else { FormPost::Maybe });
                let _ = form_post(b"POST", Some(&target));
            }

            #[test]
            fn a_header_token_is_kept_as_it_is(token in "[!-~]([!-~\t]{0,40}[!-~])?") {
                let header = format!(" \tBearer {token}\t ");
                let found = extract(One(header.as_bytes()), b"/", || FormPost::No);
                let expected = AccessToken::new(token.as_bytes()).unwrap();
                prop_assert_eq!(
                    found,
                    Ok(Credential::Token { token: expected, source: Source::Header, is_doubtful: false })
                );
            }
        }
    }
}
