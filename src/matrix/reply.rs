//! Replies that the edge gives in place of the homeserver: Synapse's own, byte for byte.
//!
//! The non-obvious rule: the CORS headers are not decoration. A browser that gets a 401 without
//! them tells the client of a network error instead of a lost session. Synapse has a second set for
//! the rendezvous paths of a sign-in by QR code.
//!
//! A page can read `Retry-After` only if the reply says that it may, which Synapse's does not: it tells the same by
//! `retry_after_ms` in the body of a 429, and of a 503 nothing. The edge names the header where it sends it.
//!
//! Synapse adds no `WWW-Authenticate` (RFC 6750, section 3), and neither does the edge. A reply to
//! `HEAD` has these headers and no body; leaving it out is up to the sender.

use std::{borrow::Cow, fmt};

use super::{credential::CredentialError, endpoint::path};
use crate::metrics::RejectionReason;

/// Seconds a client is told to wait after a 503. The shortest that `Retry-After` can say: MAS is
/// usually back at once (a restart, one lost connection), and no verdict means the client is not
/// known to be at fault. Synapse sends none.
pub const RETRY_INTROSPECTION_SECONDS: u32 = 1;

/// Why a request is answered at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// A fault of the edge itself.
    Internal,
    /// No verdict: MAS could not be asked, or did not answer the question.
    IntrospectionFailed,
    /// The device id is empty or too long.
    InvalidDevice,
    /// The `Authorization` header is not `Bearer` and one token.
    InvalidHeader,
    /// An active token that belongs to no user.
    InvalidUsername,
    /// Too many inactive tokens from one client address.
    LimitExceeded {
        /// How long to wait, in milliseconds.
        retry_after_ms: u64,
    },
    /// No token where one is needed.
    MissingToken,
    /// A token in the header and another in the query.
    Mixed,
    /// The scope names more than one device.
    MultipleDevices,
    /// An active token without the scope of the client-server API.
    NoApiScope,
    /// MAS calls the token inactive, it has expired, or it cannot exist.
    NotActive,
    /// The token has bytes outside ASCII.
    NotAscii,
    /// An active token without the admin scope.
    NotServerAdmin,
    /// More than one `Authorization` header.
    SeveralAuthorizations,
    /// More identity headers that the client made up than are removed from a request.
    TooManyForged,
    /// A path that is never served to the public, or a tunnel.
    Unrecognized,
}

impl Rejection {
    /// The reply with these CORS headers.
    pub fn reply(&self, cors: Cors) -> Reply {
        let (status, body) = match self {
            Self::Internal | Self::NotAscii => (
                500,
                r#"{"errcode":"M_UNKNOWN","error":"Internal server error"}"#,
            ),
            Self::IntrospectionFailed => (
                503,
                r#"{"errcode":"M_UNKNOWN","error":"Unable to introspect the access token"}"#,
            ),
            Self::InvalidDevice => (
                500,
                r#"{"errcode":"M_FORBIDDEN","error":"Invalid device ID in introspection result"}"#,
            ),
            Self::InvalidHeader => (
                401,
                r#"{"errcode":"M_MISSING_TOKEN","error":"Invalid Authorization header."}"#,
            ),
            Self::InvalidUsername => (
                500,
                r#"{"errcode":"M_FORBIDDEN","error":"Invalid username claim in the introspection result"}"#,
            ),
            Self::LimitExceeded { retry_after_ms } => {
                return limit_exceeded(*retry_after_ms, cors);
            }
            Self::MissingToken => (
                401,
                r#"{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}"#,
            ),
            Self::Mixed => (
                401,
                r#"{"errcode":"M_MISSING_TOKEN","error":"Mixing Authorization headers and access_token query parameters."}"#,
            ),
            Self::MultipleDevices => (
                500,
                r#"{"errcode":"M_FORBIDDEN","error":"Multiple device IDs in scope"}"#,
            ),
            Self::NoApiScope => (
                401,
                r#"{"errcode":"M_UNKNOWN_TOKEN","error":"Token doesn't grant access to the Matrix C-S API","soft_logout":false}"#,
            ),
            Self::NotActive => (
                401,
                r#"{"errcode":"M_UNKNOWN_TOKEN","error":"Token is not active","soft_logout":false}"#,
            ),
            Self::NotServerAdmin => (
                403,
                r#"{"errcode":"M_FORBIDDEN","error":"You are not a server admin"}"#,
            ),
            Self::SeveralAuthorizations => (
                401,
                r#"{"errcode":"M_MISSING_TOKEN","error":"Too many Authorization headers."}"#,
            ),
            Self::TooManyForged => (
                431,
                r#"{"errcode":"M_TOO_LARGE","error":"Too many identity headers"}"#,
            ),
            Self::Unrecognized => (
                404,
                r#"{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}"#,
            ),
        };
        let mut headers = headers(cors);
        if *self == Self::IntrospectionFailed {
            push_retry_after(&mut headers, RETRY_INTROSPECTION_SECONDS.into());
        }
        Reply {
            reason: self.reason().label(),
            status,
            headers,
            body: Cow::Borrowed(body.as_bytes()),
        }
    }

    /// Returns why the request is rejected, as metrics and access logs call it.
    pub const fn reason(&self) -> RejectionReason {
        match self {
            Self::Internal => RejectionReason::Internal,
            Self::IntrospectionFailed => RejectionReason::IntrospectionFailed,
            Self::InvalidDevice => RejectionReason::InvalidDevice,
            Self::InvalidHeader => RejectionReason::InvalidHeader,
            Self::InvalidUsername => RejectionReason::InvalidUsername,
            Self::LimitExceeded { .. } => RejectionReason::LimitExceeded,
            Self::MissingToken => RejectionReason::MissingToken,
            Self::Mixed => RejectionReason::Mixed,
            Self::MultipleDevices => RejectionReason::MultipleDevices,
            Self::NoApiScope => RejectionReason::NoApiScope,
            Self::NotActive => RejectionReason::NotActive,
            Self::NotAscii => RejectionReason::NotAscii,
            Self::NotServerAdmin => RejectionReason::NotServerAdmin,
            Self::SeveralAuthorizations => RejectionReason::SeveralAuthorizations,
            Self::TooManyForged => RejectionReason::TooManyForged,
            Self::Unrecognized => RejectionReason::Unrecognized,
        }
    }
}

/// Which of Synapse's two sets of CORS headers a reply carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cors {
    /// That of the rendezvous paths.
    Rendezvous,
    /// That of all others.
    Standard,
}

impl Cors {
    /// The set for a request for `target`, the raw `:path`.
    pub fn of(target: &[u8]) -> Self {
        if is_rendezvous(path(target)) {
            Self::Rendezvous
        } else {
            Self::Standard
        }
    }
}

impl From<CredentialError> for Rejection {
    fn from(error: CredentialError) -> Self {
        match error {
            CredentialError::InvalidHeader => Self::InvalidHeader,
            CredentialError::Mixed => Self::Mixed,
            CredentialError::NotAscii => Self::NotAscii,
            CredentialError::Several => Self::SeveralAuthorizations,
        }
    }
}

/// A complete response. `Debug` does not show the body, which may be MAS's answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// Why the edge answers, for the access log. The client does not see it.
    pub reason: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Header fields, with lower-case names.
    pub headers: Headers,
    /// The JSON body.
    pub body: Cow<'static, [u8]>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("reason", &self.reason)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// The name and the value of a header field.
pub type Header = (&'static str, Cow<'static, str>);

/// The fields of a reply. Most replies have a list that is a constant, which the adapter writes once for all.
pub type Headers = Cow<'static, [Header]>;

/// Returns a field that is a constant.
pub const fn header(name: &'static str, value: &'static str) -> Header {
    (name, Cow::Borrowed(value))
}

const EXPOSE_HEADERS: &str = "access-control-expose-headers";
const RETRY_AFTER: &str = "retry-after";

/// Adds `Retry-After`, readable by the page that a browser shows.
fn push_retry_after(headers: &mut Headers, seconds: u64) {
    let headers = headers.to_mut();
    let exposed = headers.iter_mut().find(|(name, _)| *name == EXPOSE_HEADERS);
    if let Some((_, names)) = exposed {
        names.to_mut().push_str(", Retry-After");
    }
    headers.push((RETRY_AFTER, seconds.to_string().into()));
}

fn limit_exceeded(retry_after_ms: u64, cors: Cors) -> Reply {
    let mut headers = headers(cors);
    push_retry_after(&mut headers, retry_after_ms.div_ceil(1000));
    let body = format!(
        r#"{{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":{retry_after_ms}}}"#
    );
    Reply {
        reason: RejectionReason::LimitExceeded.label(),
        status: 429,
        headers,
        body: Cow::Owned(body.into_bytes()),
    }
}

fn headers(cors: Cors) -> Headers {
    static RENDEZVOUS: [Header; 6] = cors_headers(
        "Content-Type, If-Match, If-None-Match",
        "Synapse-Trace-Id, Server, ETag",
    );
    static STANDARD: [Header; 6] = cors_headers(
        "X-Requested-With, Content-Type, Authorization, Date",
        "Synapse-Trace-Id, Server",
    );
    Cow::Borrowed(match cors {
        Cors::Rendezvous => &RENDEZVOUS,
        Cors::Standard => &STANDARD,
    })
}

const fn cors_headers(allowed: &'static str, exposed: &'static str) -> [Header; 6] {
    [
        header("content-type", "application/json"),
        header("cache-control", "no-cache, no-store, must-revalidate"),
        header("access-control-allow-origin", "*"),
        header(
            "access-control-allow-methods",
            "GET, HEAD, POST, PUT, DELETE, OPTIONS",
        ),
        header("access-control-allow-headers", allowed),
        header(EXPOSE_HEADERS, exposed),
    ]
}

/// MSC4108, sign in with a QR code: its sessions are addressed by `ETag`.
fn is_rendezvous(path: &[u8]) -> bool {
    path == b"/_matrix/client/unstable/org.matrix.msc4108/rendezvous"
        || path.starts_with(b"/_synapse/client/rendezvous")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use serde::Deserialize;

    /// An exchange with a real Synapse 1.163.2.
    #[derive(Deserialize)]
    struct Exchange {
        name: String,
        request: String,
        status: String,
        response_headers: Vec<String>,
        response_body: String,
    }

    impl Exchange {
        /// Status, and the body out of its one chunk. `None`: Synapse never answered.
        fn error(&self) -> Option<(u16, &str)> {
            let status = self.status.split(' ').nth(1)?.parse().unwrap();
            let body = self.response_body.lines().nth(1).unwrap_or("");
            (status >= 400).then_some((status, body))
        }

        fn header(&self, name: &str) -> Option<&str> {
            self.response_headers.iter().find_map(|field| {
                let (field_name, value) = field.split_once(": ")?;
                field_name.eq_ignore_ascii_case(name).then_some(value)
            })
        }
    }

    const RECORDED: [Rejection; 13] = [
        Rejection::IntrospectionFailed,
        Rejection::InvalidHeader,
        Rejection::InvalidUsername,
        Rejection::Internal,
        Rejection::MissingToken,
        Rejection::Mixed,
        Rejection::MultipleDevices,
        Rejection::NoApiScope,
        Rejection::NotActive,
        Rejection::NotAscii,
        Rejection::NotServerAdmin,
        Rejection::SeveralAuthorizations,
        Rejection::Unrecognized,
    ];

    /// Exchanges whose error comes from an endpoint of Synapse, and never from the edge.
    const SYNAPSE_ALONE: [&str; 21] = [
        "admin-users-admin-token",
        "admin-users-compat-admin-token",
        "fault-active-nouser-whoami",
        "keysquery-token-in-form-body",
        "keysquery-token-in-multipart-body",
        "masdown-auth_metadata-wellformed",
        "media-dl-authed-valid",
        "media-dl-authed-valid-query",
        "media-dl-legacy-basic",
        "media-dl-legacy-garbage",
        "media-dl-legacy-inactive",
        "media-dl-legacy-lowercase",
        "media-dl-legacy-no-token",
        "media-dl-legacy-valid",
        "media-dl-legacy-valid-query",
        "media-thumb-authed-valid",
        "media-thumb-authed-valid-query",
        "synapse-mas-endpoint-user-token",
        "synapse-register-POST",
        "whoami-POST-method",
        "whoami-absolute-form",
    ];

    #[test]
    fn replies_are_the_recorded_ones() {
        let mut seen = BTreeSet::new();
        let mut unmatched = BTreeSet::new();
        for line in include_str!("../../tests/wire/synapse.jsonl").lines() {
            let exchange: Exchange = serde_json::from_str(line).unwrap();
            let Some((status, body)) = exchange.error() else {
                continue;
            };
            let target = exchange.request.split(' ').nth(1).unwrap().as_bytes();
            let is_head = exchange.request.starts_with("HEAD ");
            let same = |rejection: &&Rejection| {
                let reply = rejection.reply(Cors::of(target));
                reply.status == status
                    && (is_head || reply.body == body.as_bytes())
                    && reply.headers.iter().all(|(name, value)| {
                        // Synapse does not say when to come back; the edge does.
                        let value = match *name {
                            RETRY_AFTER => return true,
                            EXPOSE_HEADERS if status == 503 => value.strip_suffix(", Retry-After"),
                            _ => Some(&**value),
                        };
                        value.is_some() && exchange.header(name) == value
                    })
            };
            match RECORDED.iter().find(same) {
                Some(rejection) => drop(seen.insert(rejection.reason())),
                None => drop(unmatched.insert(exchange.name)),
            }
        }
        assert_eq!(unmatched, SYNAPSE_ALONE.map(str::to_owned).into());
        // Internal and NotAscii read the same, so one of them is never found.
        assert_eq!(seen.len(), RECORDED.len() - 1, "{seen:?}");
    }

    #[test]
    fn every_header_that_synapse_sends_is_there() {
        let reply = Rejection::MissingToken.reply(Cors::Standard);
        let line = include_str!("../../tests/wire/synapse.jsonl")
            .lines()
            .find(|line| line.contains(r#""name": "whoami-HEAD-no-token""#))
            .unwrap();
        let exchange: Exchange = serde_json::from_str(line).unwrap();
        let names: BTreeSet<String> = exchange
            .response_headers
            .iter()
            .map(|field| field.split(':').next().unwrap().to_ascii_lowercase())
            // Of the server itself, and of the connection.
            .filter(|name| !["server", "date", "transfer-encoding"].contains(&name.as_str()))
            .collect();
        assert_eq!(
            names,
            reply
                .headers
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect()
        );
    }

    #[test]
    fn rendezvous_paths_have_their_own_cors_headers() {
        let allowed = |target: &str| {
            let reply = Rejection::MissingToken.reply(Cors::of(target.as_bytes()));
            let header = |name| {
                let (_, value) = reply
                    .headers
                    .iter()
                    .find(|header| header.0 == name)
                    .unwrap();
                value.to_string()
            };
            (
                header("access-control-allow-headers"),
                header("access-control-expose-headers"),
            )
        };
        let own = (
            "Content-Type, If-Match, If-None-Match".to_owned(),
            "Synapse-Trace-Id, Server, ETag".to_owned(),
        );
        let unstable = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";
        assert_eq!(allowed(unstable), own);
        assert_eq!(allowed(&format!("{unstable}?access_token=x")), own);
        assert_eq!(allowed("/_synapse/client/rendezvous/abc"), own);
        for other in [
            &format!("{unstable}/x"),
            "/x?/_synapse/client/rendezvous",
            "/",
            "",
        ] {
            assert_ne!(allowed(other), own, "{other}");
        }
    }

    #[test]
    fn a_limit_is_given_in_milliseconds_and_in_whole_seconds() {
        let reply = Rejection::LimitExceeded {
            retry_after_ms: 1001,
        }
        .reply(Cors::Standard);
        let body =
            r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":1001}"#;
        assert_eq!((reply.status, &*reply.body), (429, body.as_bytes()));
        assert_eq!(reply.headers.last(), Some(&(RETRY_AFTER, "2".into())));
        let exposed = (
            EXPOSE_HEADERS,
            "Synapse-Trace-Id, Server, Retry-After".into(),
        );
        assert!(reply.headers.contains(&exposed), "{:?}", reply.headers);
    }

    #[test]
    fn reasons_tell_rejections_apart() {
        let others = [
            Rejection::InvalidDevice,
            Rejection::LimitExceeded { retry_after_ms: 0 },
            Rejection::TooManyForged,
        ];
        let reasons: BTreeSet<_> = RECORDED
            .iter()
            .chain(&others)
            .map(Rejection::reason)
            .collect();
        assert_eq!(reasons.len(), RECORDED.len() + others.len());
        assert!(reasons.iter().eq(RejectionReason::ALL));
    }
}
