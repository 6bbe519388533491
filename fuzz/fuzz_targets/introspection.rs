//! MAS's answer to an introspection. It is believed only if it is a 200 with a JSON object whose `active` is a
//! boolean; a token whose `expires_in` is negative has ended. The answer is kept byte for byte, and only `expires_in`
//! changes where the seconds are lowered.
//!
//! An input is the status, the media type and the header with the lifetime on a line each, and the body. `-` is none.

#![no_main]

mod json;

use libfuzzer_sys::fuzz_target;
use matrix_edge_auth::{
    cache::{entry::Entry, expiry::Expiry},
    clock::Instant,
    mas::{
        introspection::{ActiveAnswer, Answer, IntrospectionResponse, MAX_RESPONSE_BYTES, read},
        user::UserKey,
    },
    matrix::identity,
    token::TokenSecret,
};

fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(4, |&byte| byte == b'\n');
    let mut line = || lines.next().filter(|line| *line != b"-");
    let (status, content_type, lifetime, body) = (line(), line(), line(), line());
    let status = status
        .and_then(|status| std::str::from_utf8(status).ok())
        .and_then(|status| status.parse().ok());

    let Ok(answer) = read(IntrospectionResponse {
        status,
        content_type,
        lifetime,
        body: body.map(Into::into),
    }) else {
        return;
    };
    let body = body.expect("an answer has a body");
    assert_eq!(status, Some(200));
    let media_type = content_type.expect("an answer has a media type");
    assert!(
        media_type
            .to_ascii_lowercase()
            .trim_ascii()
            .starts_with(b"application/json")
    );
    assert!(body.len() <= MAX_RESPONSE_BYTES);
    let members = json::object(body).expect("an answer is a JSON object");
    let is_active = matches!(answer, Answer::Active(_));
    let ends = members.get("expires_in").map(|seconds| seconds.get());
    let has_ended = ends.is_some_and(|seconds| seconds.starts_with('-'));
    let expected = members["active"].get() == "true" && !has_ended;
    assert_eq!(is_active, expected);
    assert_eq!(answer.body(), body);
    if let Answer::Active(answer) = &answer {
        lower(answer);
        let token = answer.token();
        let _ = identity::identity(&token, &identity::ScopeRights::of(token.scope));
    }
    store(answer, lifetime);
});

/// All that changes is the number of seconds, if there is one.
fn lower(answer: &ActiveAnswer) {
    const SECONDS: i64 = 7;
    let lowered = answer.body_with_expires_in(SECONDS);
    let before = json::object(answer.body()).expect("an answer is a JSON object");
    let after = json::object(&lowered).expect("it stays one");
    assert!(before.keys().eq(after.keys()));
    for (name, value) in &before {
        if name == "expires_in" && answer.expires_in.is_some() {
            assert_eq!(after[name].get(), SECONDS.to_string());
        } else {
            assert_eq!(after[name].get(), value.get());
        }
    }
}

/// What fits into the shared cache comes out of it.
fn store(answer: Answer, lifetime: Option<&[u8]>) {
    let user = match &answer {
        Answer::Active(answer) => answer.username().map(UserKey::of),
        Answer::Inactive(_) => None,
    };
    let entry = Entry {
        digest: TokenSecret::NONE.digest(b"token"),
        fingerprint: 1,
        user,
        used_at: Instant::from_millis(2),
        asked_at: Instant::from_millis(3),
        answered_at: Instant::from_millis(5),
        useful_until: Instant::from_millis(4),
        expiry: answer
            .lifetime(lifetime)
            .map(|told| Expiry::new(told, Instant::from_millis(3), Instant::from_millis(5))),
        is_doubted: false,
        answer,
    };
    if let Some(bytes) = entry.encode() {
        assert_eq!(Entry::decode(&bytes), Some(entry));
    }
}
