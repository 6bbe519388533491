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

use alloc::{borrow::Cow, format, string::ToString};
use core::fmt;

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
mod tests;
