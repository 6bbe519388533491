//! The introspection role's decisions: which requests of the homeserver the cache may answer, and how.
//!
//! Pure. The answer is MAS's own, byte for byte, so it is given only to requests that MAS would have
//! answered with exactly these bytes: the request that Synapse sends, and nothing that differs from it in
//! more than the order of its fields. Everything else is MAS's to answer.
//!
//! The non-obvious rule: `expires_in` is what stands for the latest end that the token may have. That is the number
//! that MAS said, lowered by the age of the answer, rounded down. Synapse counts it from when it got the reply and
//! then says 401 by itself, so it must not be less than what MAS would say at the same moment. Where there is less
//! than a second left to tell of, MAS is left to answer, since Synapse takes 0 for "expired".
//!
//! A form is held only if its `content-length` says that it is short. Envoy answers a held request with 413
//! as soon as more of its body has come than the listener may buffer, and the first piece of a chunked body
//! can be that long. Synapse always sends `content-length`.

use alloc::{borrow::Cow, string::ToString, vec::Vec};

use crate::{
    cache::ActiveEntry,
    clock::Instant,
    config::Config,
    host::RequestHead,
    mas::introspection::{DEVICE_ID_SUPPORT, LIFETIME},
    matrix::{
        credential::Authorization,
        reply::{Header, RETRY_INTROSPECTION_SECONDS, Reply, header},
    },
    media_type,
    metrics::RejectionReason,
    text::form,
};

/// Largest form that is read, in bytes. Synapse's are under 1 KiB.
pub const MAX_FORM_BYTES: usize = 64 * 1024;

/// What the head says of a request that the cache may answer, once its form is read. It has no `Debug`, which would show the
/// credential.
pub struct Announced<'a> {
    /// The value of `authorization`. Whether MAS would accept it is still to be told.
    pub credential: &'a [u8],
    /// The length of the form.
    pub form_bytes: usize,
}

/// Returns what the head says, if it is that of a request that the cache may answer. `None`: MAS answers.
pub fn announced<'a>(config: &Config, head: &'a RequestHead) -> Option<Announced<'a>> {
    let (name, value) = DEVICE_ID_SUPPORT;
    let may_be_answered = head.target() == config.introspection.path.as_bytes()
        && head.method() == b"POST"
        && head.first(name) == Some(value.as_bytes())
        && head
            .content_type()
            .is_some_and(|found| media_type::is_of_type(found, form::FORM))
        && head.first("content-encoding").is_none();
    let form_bytes = short_length(head.first("content-length")?)?;
    match head.authorization() {
        Authorization::One(credential) if may_be_answered => Some(Announced {
            credential,
            form_bytes,
        }),
        _ => None,
    }
}

fn short_length(length: &[u8]) -> Option<usize> {
    let length = core::str::from_utf8(length).ok()?.parse().ok()?;
    (length <= MAX_FORM_BYTES).then_some(length)
}

/// Returns MAS's reply about an active token, as of now. `None` if too little of the token's life is left to say so.
pub fn active_reply(entry: &ActiveEntry, now: Instant) -> Option<Reply> {
    let answer = &entry.answer;
    let (Some(told), Some(expiry)) = (answer.expires_in, entry.expiry) else {
        return Some(reply(answer.body().to_vec()));
    };
    let lifetime = expiry.remaining(now);
    // What MAS has just said is passed on as it is, also if it is 0.
    let expires_in = lifetime.expires_in().min(told);
    let body = if expires_in == told {
        answer.body().to_vec()
    } else if expires_in > 0 {
        answer.body_with_expires_in(expires_in)
    } else {
        return None;
    };
    let mut reply = reply(body);
    reply
        .headers
        .to_mut()
        .push((LIFETIME, lifetime.to_string().into()));
    Some(reply)
}

/// MAS's reply with this body.
pub fn reply(body: Vec<u8>) -> Reply {
    Reply {
        reason: "answered",
        status: 200,
        headers: Cow::Borrowed(&HEADERS),
        body: Cow::Owned(body),
    }
}

/// The reply when there is no verdict: an error of RFC 6749, section 5.2, and not MAS's own.
pub fn unavailable() -> Reply {
    let mut headers = HEADERS.to_vec();
    headers.push((
        "retry-after",
        RETRY_INTROSPECTION_SECONDS.to_string().into(),
    ));
    Reply {
        reason: RejectionReason::IntrospectionFailed.label(),
        status: 503,
        headers: Cow::Owned(headers),
        body: Cow::Borrowed(
            br#"{"error":"temporarily_unavailable","error_description":"Unable to introspect the token"}"#,
        ),
    }
}

/// MAS's headers, save those that the proxy writes itself.
static HEADERS: [Header; 3] = [
    header("content-type", "application/json"),
    header(
        "vary",
        "origin, access-control-request-method, access-control-request-headers",
    ),
    header("access-control-allow-origin", "*"),
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        cache::expiry::Expiry, config, host::Fields, mas::introspection::Answer, token::TokenDigest,
    };

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
        let config = config::tests::with(json!({"role": "introspection"}));
        let others = GOOD.iter().copied().filter(|(given, _)| *given != name);
        let fields = others.chain(value.map(|value| (name, value)));
        let fields = fields.map(|(name, value)| (name, value.as_bytes()));
        let head = RequestHead::new(Fields::of(fields));
        announced(&config, &head).map(|announced| announced.credential.to_vec())
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

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    /// What is said at `now` of a token that MAS was asked about at 900 and told of at 1,000: the body, and the
    /// header with the lifetime.
    fn said(body: &str, now: u64) -> Option<(String, Option<String>)> {
        let answer = Answer::parse(body.into()).unwrap();
        let lifetime = answer.lifetime(None);
        let Answer::Active(answer) = answer else {
            panic!("{body} is active");
        };
        let entry = ActiveEntry {
            digest: TokenDigest::of(b"token"),
            user: None,
            answer,
            expiry: lifetime.map(|told| Expiry::new(told, at(900), at(1_000))),
            asked_at: at(900),
            fresh_until: at(u64::MAX),
            refresh_at: None,
        };
        let reply = active_reply(&entry, at(now))?;
        let header = reply.headers.iter().find(|(name, _)| *name == LIFETIME);
        let body = String::from_utf8(reply.body.to_vec()).unwrap();
        Some((body, header.map(|(_, value)| value.to_string())))
    }

    #[test]
    fn expires_in_is_lowered_by_the_age_rounded_down() {
        let body = |left: i64| format!(r#"{{"active":true,"expires_in":{left},"exp":9}}"#);
        for (age, left) in [
            (0, Some(300)),
            (1, Some(300)),
            (1_000, Some(300)),
            // The clock counts whole milliseconds: this may be an age of one second and a little.
            (1_001, Some(299)),
            (2_000, Some(299)),
            (2_001, Some(298)),
            (300_000, Some(1)),
            (300_001, None),
            (400_000, None),
        ] {
            let said = said(&body(300), 1_000 + age).map(|(body, _)| body);
            assert_eq!(said, left.map(body), "{age} ms");
        }
        let (said, _) = said(&body(0), 1_000).unwrap();
        assert_eq!(said, body(0), "MAS's own word");
    }

    #[test]
    fn the_lifetime_goes_along_with_expires_in() {
        let header = |body: &str, now| said(body, now).unwrap().1;
        let expiring = r#"{"active":true,"expires_in":300}"#;
        assert_eq!(header(expiring, 1_000).as_deref(), Some("299899-301001"));
        assert_eq!(header(expiring, 3_000).as_deref(), Some("297899-299001"));
        let lasting = r#"{"active":true}"#;
        assert_eq!(said(lasting, 5_000_000), Some((lasting.to_owned(), None)));
    }
}
