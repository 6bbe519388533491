//! The credential of a request, against a plain spelling of what Twisted reads.
//!
//! An input is the method, the media type and the authorization on a line each, and the target. `-` is no header.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matrix_edge_auth::{
    host::{Fields, RequestHead},
    matrix::{
        credential::{
            Authorization, Credential, CredentialError, FormPost, Source, extract, form_post,
        },
        endpoint::Method,
        session_end::EndRequest,
    },
};
use percent_encoding::percent_decode;

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(4, |&byte| byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (method, content_type, authorization, target) = (line(), line(), line(), line());
    let header = |line| Some(line).filter(|line| *line != b"-");
    let (content_type, authorization) = (header(content_type), header(authorization));

    let form = form_post(method, content_type);
    assert!(form == FormPost::No || (method == b"POST" && content_type.is_some()));
    let head = RequestHead::new(Fields::of([(":path", target)].into_iter()));
    let mut asked = 0;
    let found = extract(
        authorization.map_or(Authorization::None, Authorization::One),
        head.query(),
        || {
            asked += 1;
            form
        },
    );
    assert!(asked == usize::from(authorization.is_none()));

    let in_query = twisted(target);
    match (authorization, in_query) {
        (Some(_), Some(_)) => assert_eq!(found, Err(CredentialError::Mixed)),
        (Some(header), None) => assert_is_bearer(found, header),
        (None, _) if form == FormPost::Yes => assert_eq!(found, Ok(Credential::FormBody)),
        (None, None) if form == FormPost::Maybe => assert_eq!(found, Ok(Credential::FormBody)),
        (None, None) => assert_eq!(found, Ok(Credential::Missing)),
        (None, Some(token)) if token.is_empty() => assert_eq!(found, Ok(Credential::Empty)),
        (None, Some(token)) if !token.is_ascii() => {
            assert_eq!(found, Err(CredentialError::NotAscii));
        }
        (None, Some(expected)) => match found {
            Ok(Credential::Token {
                token,
                source,
                may_be_overridden,
            }) => {
                assert_eq!((token.as_bytes(), source), (&*expected, Source::Query));
                assert_eq!(may_be_overridden, form == FormPost::Maybe);
            }
            other => panic!("{other:?}"),
        },
    }

    let _ = EndRequest::of(target, Method::from_bytes(method), authorization);
});

/// The first `access_token` in the query: split, replaced, decoded, in that order.
fn twisted(target: &[u8]) -> Option<Vec<u8>> {
    let query = target.splitn(2, |&byte| byte == b'?').nth(1)?;
    let pairs = query.split(|byte| b"&;".contains(byte));
    pairs
        .filter(|pair| pair.contains(&b'='))
        .map(|pair| {
            let mut halves = pair.splitn(2, |&byte| byte == b'=');
            let mut half = || unquote(halves.next().unwrap_or_default());
            (half(), half())
        })
        .find(|(name, _)| name == b"access_token")
        .map(|(_, value)| value)
}

fn unquote(text: &[u8]) -> Vec<u8> {
    let spaced: Vec<u8> = text
        .iter()
        .map(|&byte| if byte == b'+' { b' ' } else { byte })
        .collect();
    percent_decode(&spaced).collect()
}

/// A token from the header is what stands behind `Bearer` and one space; anything else is refused.
fn assert_is_bearer(found: Result<Credential<'_>, CredentialError>, header: &[u8]) {
    let header: String = header.iter().copied().map(char::from).collect();
    let header = header.trim_matches([' ', '\t']);
    match found {
        Ok(Credential::Token { token, source, .. }) => {
            assert_eq!(header, format!("Bearer {}", token.as_str()));
            assert_eq!(source, Source::Header);
            assert!(!token.as_str().contains(' '));
        }
        Err(CredentialError::NotAscii) => {
            assert!(header.starts_with("Bearer ") && !header.is_ascii());
        }
        Err(CredentialError::InvalidHeader) => {
            let token = header.strip_prefix("Bearer ");
            assert!(token.is_none_or(|token| token.is_empty() || token.contains(' ')));
        }
        other => panic!("{other:?}"),
    }
}
