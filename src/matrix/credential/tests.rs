//! Where a request has its token, and what Synapse says if it has none, two or a bad one.

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
    assert!(token(extract(One(b"Bearer x"), b"/", unasked)).is_borrowed());
    let plain = token(extract(Authorization::None, b"/?access_token=x", || {
        FormPost::No
    }));
    assert!(plain.is_borrowed());
    let encoded = token(extract(Authorization::None, b"/?access_token=%78", || {
        FormPost::No
    }));
    assert!(!encoded.is_borrowed());
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
        work::assert_linear("the query", 4, read, input.as_bytes());
        // With a token at its end.
        let read = |query: &[u8]| {
            let target = [b"/x?", query, b"&access_token=%61%25%32%35"].concat();
            drop(extract(Authorization::None, &target, || FormPost::No));
        };
        work::assert_linear("the query", 4, read, input.as_bytes());
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
        let Ok(Credential::Token {
            may_be_overridden, ..
        }) = read(b"/x?access_token=abc", form_post)
        else {
            panic!("no token");
        };
        assert_eq!(may_be_overridden, form_post == FormPost::Maybe);
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
                Ok(Credential::Token { token: expected, source: Source::Header, may_be_overridden: false })
            );
        }
    }
}

/// Python drops no other byte around a media type.
#[test]
fn only_white_space_of_latin_1_is_dropped_around_a_media_type() {
    for byte in 0..=u8::MAX {
        let is_space = matches!(byte, 0x09..=0x0d | 0x1c..=0x20 | 0x85 | 0xa0);
        for content_type in [
            [&[byte], FORM.as_bytes()].concat(),
            [FORM.as_bytes(), &[byte]].concat(),
        ] {
            let is_form = form_post(b"POST", Some(&content_type)) == FormPost::Yes;
            // What follows a semicolon is a parameter.
            let ends_type = byte == b';' && content_type.ends_with(b";");
            assert_eq!(is_form, is_space || ends_type, "{byte:#04x}");
        }
    }
}
