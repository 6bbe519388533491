//! The introspection role's decisions: which requests of the homeserver the cache may answer, and how.
//!
//! Pure. The answer is MAS's own, byte for byte, so it is given only to requests that MAS would have
//! answered with exactly these bytes: the request that Synapse sends, and nothing that differs from it in
//! more than the order of its fields. Everything else is MAS's to answer.
//!
//! The non-obvious rule: `expires_in` is lowered by the answer's age, rounded up, so that Synapse never
//! takes a token for active that is not. In the last second of its life that would say 0, which Synapse
//! takes for "expired" and answers with a 401 too early. Then MAS is left to answer.
//!
//! A form is held only if its `content-length` says that it is short. Envoy answers a held request with 413
//! as soon as more of its body has come than the listener may buffer, and the first piece of a chunked body
//! can be that long. Synapse always sends `content-length`.

use std::{borrow::Cow, time::Duration};

use crate::{
    cache::ActiveEntry,
    clock::Instant,
    config::Config,
    form,
    mas::introspection::{ActiveAnswer, DEVICE_ID_SUPPORT, HINT},
    matrix::reply::{Rejection, Reply},
    token::AccessToken,
};

/// Largest form that is read, in bytes. Synapse's are under 1 KiB.
pub const MAX_FORM_BYTES: usize = 64 * 1024;

/// Seconds to wait after a 503; see [`crate::matrix::reply::RETRY_INTROSPECTION_SECONDS`].
const RETRY_AFTER: &str = "1";

/// Whether the headers are those of a request that the cache may answer, once its form is read. `header`
/// gives the value of a request header. `None`: MAS answers. Otherwise the value of `authorization`, of
/// which is still to be told whether MAS would accept it.
pub fn credential(config: &Config, header: impl Fn(&str) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let is = |name, expected: &str| header(name).is_some_and(|value| value == expected.as_bytes());
    let (name, value) = DEVICE_ID_SUPPORT;
    let is_ours = is(":path", &config.introspection.path)
        && is(":method", "POST")
        && is(name, value)
        && header("content-type").is_some_and(|value| is_form(&value))
        && header("content-encoding").is_none()
        && header("content-length").is_some_and(|length| is_short(&length));
    if is_ours {
        header("authorization")
    } else {
        None
    }
}

fn is_form(content_type: &[u8]) -> bool {
    let essence = content_type.split(|&byte| byte == b';').next();
    essence.is_some_and(|essence| {
        essence
            .trim_ascii()
            .eq_ignore_ascii_case(form::FORM.as_bytes())
    })
}

fn is_short(length: &[u8]) -> bool {
    let length = std::str::from_utf8(length).ok();
    length
        .and_then(|length| length.parse().ok())
        .is_some_and(|length: usize| length <= MAX_FORM_BYTES)
}

/// The token that the form asks about: exactly `token` and `token_type_hint=access_token`. `None` for any
/// other form, and for tokens that MAS fails on.
pub fn token(form: &[u8]) -> Option<AccessToken<'static>> {
    let mut pairs: Vec<_> = form::pairs(form).collect();
    pairs.sort_unstable();
    let [(name, token), (hint_name, hint)] = <[_; 2]>::try_from(pairs).ok()?;
    let is_ours = name == b"token" && hint_name == HINT.0.as_bytes() && hint == HINT.1.as_bytes();
    let token = AccessToken::new(String::from_utf8(token).ok()?)?;
    (is_ours && !token.has_control_bytes()).then_some(token)
}

/// The body that tells of an active token now. `None` if too little of its life is left to say so.
pub fn active_body(answer: &ActiveAnswer, answered_at: Instant, now: Instant) -> Option<Vec<u8>> {
    let age = now.since(answered_at);
    let (Some(expires_in), false) = (answer.expires_in, age.is_zero()) else {
        return Some(answer.body().to_vec());
    };
    let left = expires_in.checked_sub(i64::try_from(ceil_seconds(age)).ok()?)?;
    (left > 0).then(|| answer.body_with_expires_in(left))
}

/// Like [`active_body`], for an answer out of the cache.
pub fn known_body(known: &ActiveEntry, now: Instant) -> Option<Vec<u8>> {
    active_body(&known.answer, known.answered_at, now)
}

fn ceil_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// MAS's reply with this body.
pub fn reply(body: Vec<u8>) -> Reply {
    Reply {
        reason: "answered",
        status: 200,
        headers: headers(),
        body: Cow::Owned(body),
    }
}

/// The reply when there is no verdict: an error of RFC 6749, section 5.2, and not MAS's own.
pub fn unavailable() -> Reply {
    let mut headers = headers();
    headers.push(("retry-after", RETRY_AFTER.into()));
    Reply {
        reason: Rejection::IntrospectionFailed.label(),
        status: 503,
        headers,
        body: Cow::Borrowed(
            br#"{"error":"temporarily_unavailable","error_description":"Unable to introspect the token"}"#,
        ),
    }
}

/// MAS's headers, save those that the proxy writes itself.
fn headers() -> Vec<(&'static str, Cow<'static, str>)> {
    vec![
        ("content-type", "application/json".into()),
        (
            "vary",
            "origin, access-control-request-method, access-control-request-headers".into(),
        ),
        ("access-control-allow-origin", "*".into()),
    ]
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::{config, mas::introspection::Answer};

    const GOOD: [(&str, &str); 6] = [
        (":method", "POST"),
        (":path", "/oauth2/introspect"),
        ("authorization", "Bearer s"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-length", "70"),
        ("x-mas-supports-device-id", "1"),
    ];

    /// The credential of the good request with this header set, or without it.
    fn credential_with(name: &str, value: Option<&str>) -> Option<Vec<u8>> {
        let config = config::parse(
            br#"{"role":"introspection","introspection":{"cluster":"mas","credential":{"injected":true}}}"#,
            &|_| None,
        )
        .unwrap();
        credential(&config, |wanted| {
            let found = if wanted == name {
                value
            } else {
                let header = GOOD.iter().find(|(name, _)| *name == wanted);
                header.map(|(_, value)| *value)
            };
            found.map(|value| value.as_bytes().to_vec())
        })
    }

    #[test]
    fn only_the_request_that_synapse_sends_is_answered() {
        for (name, value) in [
            ("x", None),
            ("content-length", Some("65536")),
            (
                "content-type",
                Some("Application/X-WWW-Form-URLencoded; charset=utf-8"),
            ),
            ("accept", Some("application/json")),
        ] {
            let found = credential_with(name, value);
            assert_eq!(found.as_deref(), Some(&b"Bearer s"[..]), "{name} {value:?}");
        }
        for (name, value) in [
            (":method", Some("GET")),
            (":path", Some("/oauth2/introspect/")),
            (":path", Some("/oauth2/introspect?x")),
            ("authorization", None),
            ("content-type", None),
            ("content-type", Some("application/json")),
            ("content-length", None),
            ("content-length", Some("")),
            ("content-length", Some("65537")),
            ("content-length", Some("x")),
            ("content-encoding", Some("gzip")),
            ("x-mas-supports-device-id", None),
            ("x-mas-supports-device-id", Some("true")),
        ] {
            assert_eq!(credential_with(name, value), None, "{name} {value:?}");
        }
    }

    #[test]
    fn the_form_is_exactly_token_and_hint() {
        for form in [
            "token=a%26b+c&token_type_hint=access_token",
            "token_type_hint=access%5ftoken&token=a%26b+c",
        ] {
            let token = token(form.as_bytes());
            assert_eq!(
                token.as_ref().map(AccessToken::as_str),
                Some("a&b c"),
                "{form}"
            );
        }
        for form in [
            "",
            "token=a",
            "token=a&token_type_hint=refresh_token",
            "token=a&token_type_hint=",
            "token=&token_type_hint=access_token",
            "token=a&token=a&token_type_hint=access_token",
            "token=a&token_type_hint=access_token&token_type_hint=access_token",
            "token=a&token_type_hint=access_token&client_id=x",
            "token=%00&token_type_hint=access_token",
            "token=%C3%A9&token_type_hint=access_token",
            "token=%ff&token_type_hint=access_token",
            "Token=a&token_type_hint=access_token",
        ] {
            assert_eq!(token(form.as_bytes()), None, "{form}");
        }
    }

    #[test]
    fn expires_in_is_lowered_by_the_age_rounded_up() {
        let body_at = |body: &str, age: u64| {
            let Ok(Answer::Active(answer)) = Answer::parse(body.into()) else {
                panic!("{body} is active");
            };
            let then = Instant::from_millis(1_000);
            let now = Instant::from_millis(1_000 + age);
            active_body(&answer, then, now).map(|body| String::from_utf8(body).unwrap())
        };
        let body = |left: u64| format!(r#"{{"active":true,"expires_in":{left},"exp":9}}"#);
        for (age, left) in [
            (0, Some(300)),
            (1, Some(299)),
            (1_000, Some(299)),
            (1_001, Some(298)),
            (299_000, Some(1)),
            (299_001, None),
            (400_000, None),
        ] {
            assert_eq!(body_at(&body(300), age), left.map(body), "{age} ms");
        }
        assert_eq!(body_at(&body(0), 0), Some(body(0)), "MAS's own word");
        let lasting = r#"{"active":true}"#;
        assert_eq!(body_at(lasting, 5_000_000).as_deref(), Some(lasting));
    }
}
