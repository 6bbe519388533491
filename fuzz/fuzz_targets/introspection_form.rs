//! The forms of Synapse's introspections and clients' revocations. They are read as MAS reads them, wherever their
//! pieces end, and what is understood means the same when it is written anew.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matrix_edge_auth::{
    mas::token,
    matrix::session_end::RevocationForm,
    role::introspection::form::QuestionForm,
    text::form::{
        self,
        parser::{FormParser, Part},
    },
    token::{AccessToken, TokenDigest, TokenSecret},
};

type Pair = (Vec<u8>, Vec<u8>);

/// The lengths of the pieces in which each form comes, one after the other.
const PIECES: [usize; 6] = [1, 2, 3, 5, 16, usize::MAX];

/// The longest token of an introspection that is read.
const MAX_TOKEN: usize = 8 * 1024;

fuzz_target!(|input: &[u8]| {
    let by_mas: Vec<_> = form_urlencoded::parse(input).collect();
    let pairs = read(input, usize::MAX);
    let lossy: Vec<_> = pairs
        .iter()
        .map(|(name, value)| {
            (
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(value),
            )
        })
        .collect();
    assert_eq!(lossy, by_mas);
    let written = write(&pairs);
    assert_eq!(read(&written, usize::MAX), pairs);

    let first = pairs.iter().find(|(name, _)| name == b"token");
    let digest = first.map(|(_, token)| TokenSecret::NONE.digest(token));
    let mut sorted: Vec<_> = pairs
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    sorted.sort_unstable();
    let asked = match sorted[..] {
        [(b"token", token), (b"token_type_hint", b"access_token")] => AccessToken::new(token)
            .filter(|token| !token.has_control_bytes() && token.as_bytes().len() <= MAX_TOKEN),
        _ => None,
    };
    for length in PIECES {
        assert_eq!(read(input, length), pairs, "{length}");
        assert_eq!(revoked(input, length), digest, "{length}");
        assert_eq!(question(input, length), asked, "{length}");
    }
    assert_eq!(question(&written, usize::MAX), asked);
    if let Some(token) = asked {
        let _ = token::shape(token.as_bytes());
    }
});

/// The pairs of a form that comes in pieces of this length.
fn read(form: &[u8], length: usize) -> Vec<Pair> {
    let mut pairs = Vec::new();
    let mut pair = Pair::default();
    let mut take = |part: Part<'_>| match part {
        Part::Name(more) => pair.0.extend_from_slice(more),
        Part::Value(more) => pair.1.extend_from_slice(more),
        Part::End => pairs.push(std::mem::take(&mut pair)),
    };
    let mut parser = FormParser::default();
    for piece in form.chunks(length) {
        parser.read(piece, &mut take);
    }
    parser.finish(take);
    pairs
}

fn revoked(form: &[u8], length: usize) -> Option<TokenDigest> {
    let mut revocation = RevocationForm::new(TokenSecret::NONE);
    if form.chunks(length).all(|piece| revocation.read(piece)) {
        revocation.finish();
    }
    revocation.found()
}

/// The token of a form of the introspection role. It is the same form whether the token is kept or not.
fn question(form: &[u8], length: usize) -> Option<AccessToken<'static>> {
    let mut kept = QuestionForm::of_question();
    let mut seen = QuestionForm::default();
    for piece in form.chunks(length) {
        assert_eq!(kept.read(piece), seen.read(piece));
    }
    let token = kept.into_token();
    assert_eq!(seen.finish(), token.is_some());
    token
}

fn write(pairs: &[Pair]) -> Vec<u8> {
    let mut form = Vec::new();
    for (name, value) in pairs {
        if !form.is_empty() {
            form.push(b'&');
        }
        form::encode(name, &mut form);
        form.push(b'=');
        form::encode(value, &mut form);
    }
    form
}
