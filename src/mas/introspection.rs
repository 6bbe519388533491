//! Token introspection, RFC 7662: the request that Synapse sends to MAS, and what its answer means.
//!
//! The non-obvious rule: *inactive* is what MAS says with `200`, JSON and a boolean `active: false`.
//! Whatever else comes back says nothing about the token and is [`NoVerdict`]; taking it for "inactive"
//! would log people out whenever MAS is unwell.
//!
//! Two request fields decide whether the answer can be believed at all. Without
//! `token_type_hint=access_token` MAS calls a refresh token active; without `X-MAS-Supports-Device-Id: 1`
//! it calls a valid compat token inactive when its device id is not scope-safe.

use std::{borrow::Cow, fmt, time::Duration};

use serde::Deserialize;

use crate::{config::Introspection, matrix::credential::AccessToken};

/// Largest response body that is read, in bytes. MAS answers with less than 2 KiB.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// Headers of the client's request that travel along, so that one trace shows both requests.
pub const TRACE_HEADERS: [&str; 3] = ["traceparent", "tracestate", "x-request-id"];

/// `POST /oauth2/introspect` for one token. `Debug` shows neither token nor credential.
pub struct IntrospectionRequest<'a> {
    settings: &'a Introspection,
    authority: Cow<'a, str>,
    body: Vec<u8>,
    trace: Vec<(&'static str, String)>,
}

impl<'a> IntrospectionRequest<'a> {
    /// The request for `token`, whose SHA-256 is `digest`. `trace` holds the [`TRACE_HEADERS`] present.
    pub fn new(
        settings: &'a Introspection,
        token: &AccessToken<'_>,
        digest: &[u8; 32],
        trace: Vec<(&'static str, String)>,
    ) -> Self {
        Self {
            settings,
            authority: settings.authority_for(digest),
            body: form_body(token.as_bytes()),
            trace,
        }
    }

    /// The Envoy cluster that MAS is reached through.
    pub fn cluster(&self) -> &str {
        &self.settings.cluster
    }

    /// How long the answer may take.
    pub fn timeout(&self) -> Duration {
        self.settings.timeout
    }

    /// Pseudo-headers and headers, as Synapse sends them.
    pub fn headers(&self) -> Vec<(&str, &str)> {
        let mut headers = vec![
            (":method", "POST"),
            (":authority", &*self.authority),
            (":path", &*self.settings.path),
            ("accept", "application/json"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("x-mas-supports-device-id", "1"),
        ];
        if let Some(authorization) = self.settings.credential.authorization() {
            headers.push(("authorization", authorization));
        }
        headers.extend(
            self.trace
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
        );
        headers
    }

    /// The form: the token re-encoded, so that no byte of it can become another form field.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

impl fmt::Debug for IntrospectionRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionRequest")
            .field("cluster", &self.cluster())
            .finish_non_exhaustive()
    }
}

fn form_body(token: &[u8]) -> Vec<u8> {
    const HINT: &[u8] = b"&token_type_hint=access_token";
    let mut body = Vec::with_capacity(b"token=".len() + token.len() + HINT.len());
    body.extend_from_slice(b"token=");
    form_encode(token, &mut body);
    body.extend_from_slice(HINT);
    body
}

/// `application/x-www-form-urlencoded` with the unreserved set of RFC 3986 kept, which is how Synapse
/// writes it.
pub fn form_encode(value: &[u8], out: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte),
            b' ' => out.push(b'+'),
            _ => {
                out.push(b'%');
                out.push(upper_hex(byte >> 4));
                out.push(upper_hex(byte & 0x0f));
            }
        }
    }
}

pub(crate) fn upper_hex(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'A' + nibble - 10
    }
}

/// What came back from the cluster: MAS's response, or Envoy's own in its place.
#[derive(Clone, Copy)]
pub struct IntrospectionResponse<'a> {
    /// HTTP status; `None` if the call ended without a response (reset, or a body over Envoy's limit).
    pub status: Option<u16>,
    /// `content-type`, if any.
    pub content_type: Option<&'a [u8]>,
    /// The body; `None` if it is larger than [`MAX_RESPONSE_BYTES`] and was not read.
    pub body: Option<&'a [u8]>,
}

/// What MAS says of a token. `Debug` shows no identity: it may end in a log.
#[derive(Clone, PartialEq, Eq)]
pub enum IntrospectionAnswer {
    /// `active: true`.
    Active {
        /// Whose it is and what it grants.
        token: ActiveToken,
        /// Seconds left, rounded to the nearest by MAS; `None`: the token does not expire.
        expires_in: Option<i64>,
    },
    /// `active: false`.
    Inactive,
}

/// The members of an active answer that the edge uses. Absent members are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveToken {
    /// Localpart of the user; absent for a client-credentials token.
    pub username: Option<String>,
    /// The device, if not in the scope.
    pub device_id: Option<String>,
    /// OAuth client, or `legacy` for compat tokens.
    pub client_id: Option<String>,
    /// Space-separated scope tokens, RFC 6749 section 3.3.
    pub scope: String,
}

/// Why there is no verdict. Never cached, never a 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoVerdict {
    /// The call could not be made: no such cluster, no healthy host, circuit breaker, missing credential.
    Undeliverable,
    /// The call ended without a response: reset, or a body over Envoy's own limit.
    Reset,
    /// A status other than 200, from MAS or from Envoy (503 refused, 504 timeout, 502 garbage).
    Status,
    /// A body over [`MAX_RESPONSE_BYTES`].
    Oversized,
    /// Not an introspection response: not JSON, truncated, `active` missing or not a boolean.
    Malformed,
    /// The answer never came; the deadline of the call passed.
    Lost,
    /// Not asked: too many calls in flight or requests waiting on this worker.
    Overloaded,
    /// Another worker asked, without a verdict.
    Elsewhere,
    /// Not asked: this source brought too many unknown tokens.
    OverBudget {
        /// When it may try again.
        retry_after_ms: u64,
    },
}

impl NoVerdict {
    /// The reason as a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Undeliverable => "undeliverable",
            Self::Reset => "reset",
            Self::Status => "status",
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::Lost => "lost",
            Self::Overloaded => "overloaded",
            Self::Elsewhere => "elsewhere",
            Self::OverBudget { .. } => "over_budget",
        }
    }
}

#[derive(Deserialize)]
struct ResponseBody {
    active: bool,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    device_id: Option<String>,
    #[serde(default)]
    client_id: Option<String>,
    #[serde(default)]
    expires_in: Option<i64>,
}

/// Reads a response, RFC 7662 section 2.2.
pub fn read(response: IntrospectionResponse<'_>) -> Result<IntrospectionAnswer, NoVerdict> {
    let status = response.status.ok_or(NoVerdict::Reset)?;
    if status != 200 {
        return Err(NoVerdict::Status);
    }
    let body = response.body.ok_or(NoVerdict::Oversized)?;
    if body.len() > MAX_RESPONSE_BYTES {
        return Err(NoVerdict::Oversized);
    }
    if !response.content_type.is_some_and(is_json) {
        return Err(NoVerdict::Malformed);
    }
    let body: ResponseBody = serde_json::from_slice(body).map_err(|_| NoVerdict::Malformed)?;
    if !body.active {
        return Ok(IntrospectionAnswer::Inactive);
    }
    Ok(IntrospectionAnswer::Active {
        token: ActiveToken {
            username: body.username,
            device_id: body.device_id,
            client_id: body.client_id,
            scope: body.scope.unwrap_or_default(),
        },
        expires_in: body.expires_in,
    })
}

fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type
        .split(|&byte| byte == b';')
        .next()
        .unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn json(body: &str) -> Result<IntrospectionAnswer, NoVerdict> {
        read(IntrospectionResponse {
            status: Some(200),
            content_type: Some(b"application/json"),
            body: Some(body.as_bytes()),
        })
    }

    fn is_inactive(answer: Result<IntrospectionAnswer, NoVerdict>) -> bool {
        matches!(answer, Ok(IntrospectionAnswer::Inactive))
    }

    #[test]
    fn the_form_is_encoded_as_synapse_does() {
        let encoded = |token: &[u8]| {
            let mut out = Vec::new();
            form_encode(token, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(encoded(b"alice+/=~.-_"), "alice%2B%2F%3D~.-_");
        assert_eq!(
            encoded(b"a b\n%00&token_type_hint=x"),
            "a+b%0A%2500%26token_type_hint%3Dx"
        );
    }

    #[test]
    fn active_false_is_the_only_inactive_answer() {
        assert!(is_inactive(json(r#"{"active":false}"#)));
        assert!(is_inactive(json(r#"{"active":false,"expires_in":5}"#)));
        for body in [
            "",
            "{}",
            "[]",
            "null",
            "false",
            r#"{"active":"false"}"#,
            r#"{"active":null}"#,
            r#"{"active":0}"#,
            r#"{"Active":false}"#,
            r#"{"active":false"#,
            r#"{"active":false}x"#,
            r#"{"active":true,"active":false}"#,
            r#"{"active":false,"active":true}"#,
            r#"{"result":{"active":false}}"#,
        ] {
            assert_eq!(json(body).err(), Some(NoVerdict::Malformed), "{body}");
        }
    }

    #[test]
    fn only_a_json_200_is_read() {
        let inactive: &[u8] = br#"{"active":false}"#;
        let response = IntrospectionResponse {
            status: Some(200),
            content_type: Some(b"application/json; charset=utf-8"),
            body: Some(inactive),
        };
        assert!(is_inactive(read(response)));
        for status in [
            100, 201, 204, 302, 400, 401, 403, 404, 429, 500, 502, 503, 504,
        ] {
            let other = IntrospectionResponse {
                status: Some(status),
                ..response
            };
            assert_eq!(read(other).err(), Some(NoVerdict::Status), "{status}");
        }
        let none = IntrospectionResponse {
            status: None,
            content_type: None,
            body: None,
        };
        assert_eq!(read(none).err(), Some(NoVerdict::Reset));
        for content_type in [
            None,
            Some("text/html".as_bytes()),
            Some(b""),
            Some(b"application/jsonp"),
        ] {
            let other = IntrospectionResponse {
                content_type,
                ..response
            };
            assert_eq!(read(other).err(), Some(NoVerdict::Malformed));
        }
        let unread = IntrospectionResponse {
            body: None,
            ..response
        };
        assert_eq!(read(unread).err(), Some(NoVerdict::Oversized));
        let large = vec![b' '; MAX_RESPONSE_BYTES + 1];
        let large = IntrospectionResponse {
            body: Some(&large),
            ..response
        };
        assert_eq!(read(large).err(), Some(NoVerdict::Oversized));
    }

    #[test]
    fn an_active_answer_keeps_what_the_edge_uses() {
        let answer = json(
            r#"{"active":true,"scope":"urn:matrix:client:api:*","client_id":"legacy","username":"bob",
                "token_type":"access_token","exp":1,"expires_in":300,"iat":1,"nbf":1,"sub":"S",
                "device_id":"we ird/\"dev\"\\é"}"#,
        );
        let expected = ActiveToken {
            username: Some("bob".into()),
            device_id: Some("we ird/\"dev\"\\é".into()),
            client_id: Some("legacy".into()),
            scope: "urn:matrix:client:api:*".into(),
        };
        assert!(
            matches!(answer, Ok(IntrospectionAnswer::Active { token, expires_in: Some(300) }) if token == expected)
        );
    }

    #[test]
    fn members_of_the_wrong_type_are_no_verdict() {
        for body in [
            r#"{"active":true,"username":7}"#,
            r#"{"active":true,"scope":["a"]}"#,
            r#"{"active":true,"expires_in":"300"}"#,
            r#"{"active":true,"device_id":{}}"#,
        ] {
            assert_eq!(json(body).err(), Some(NoVerdict::Malformed), "{body}");
        }
    }
}
