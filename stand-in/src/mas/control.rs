//! The control interface: JSON over HTTP on its own port, for people who try the stack by hand.
//!
//! It names tokens; it never shows one. It has no authentication, so it listens on loopback only, and `guard.rs` refuses
//! what a web page of another origin asks for. Names in a path are percent-encoded. Of what happens to sessions and users here,
//! the homeserver is told as ever.
//!
//! | request | |
//! |---|---|
//! | `GET /calls` | introspections: `{"total":3,"tokens":{"alice":2},"unnamed":1}` |
//! | `POST /tokens` | adds a session; see [`NewToken`] |
//! | `DELETE /tokens/{name}` | ends the session of a named token |
//! | `POST /logins` | adds the session of a compat login, which takes its device over; see [`NewLogin`] |
//! | `POST /users/{name}/lock`, `/unlock`, `/deactivate` | locks, unlocks or deactivates a user |
//! | `GET /provisioning` | jobs that the homeserver is yet to be told of: `{"unfinished":2,"retrying":1}` |
//! | `GET /provisioning/finished` | the same, answered when none is unfinished |
//! | `GET /provisioning/retrying` | the same, answered when one has failed and waits to be tried again |
//! | `POST /provisioning/retry` | tries the failed jobs again at once |
//! | `PUT /provisioning/retry-delay` | the delay before a first retry, which further delays grow with: `{"first_ms":5000}` |
//! | `POST /faults` | adds a fault; see [`NewFault`] |
//! | `DELETE /faults` | ends all faults |

use std::{
    borrow::Cow, collections::BTreeMap, fmt, io, net::SocketAddr, sync::Arc, time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use super::{Fault, Session, Shared, lock, token};
use crate::{guard, server::Server};

const BODY_LIMIT: usize = 1024 * 1024;

/// A running control interface. Dropping it closes it; the MAS goes on.
pub struct Control {
    server: Server,
}

impl Control {
    pub(super) async fn start(shared: Arc<Shared>, listen: SocketAddr) -> io::Result<Self> {
        guard::check_listen(listen)?;
        let server = Server::start(listen, move |request, _| {
            let shared = Arc::clone(&shared);
            async move {
                match guard::check(&request) {
                    Ok(()) => answer(shared, request).await,
                    Err(refusal) => refusal.into_response(),
                }
            }
        })
        .await?;
        Ok(Self { server })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("addr", &self.addr())
            .finish()
    }
}

/// The body of `POST /tokens`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    name: String,
    /// Made from the name, as MAS would issue it, unless given.
    token: Option<String>,
    #[serde(default)]
    kind: TokenKind,
    username: String,
    device: Option<String>,
    expires_in_s: Option<f64>,
    #[serde(default)]
    admin: bool,
    /// Verbatim.
    scope: Option<String>,
}

/// The body of `POST /logins`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewLogin {
    name: String,
    /// Made from the name, as MAS would issue it, unless given.
    token: Option<String>,
    username: String,
    device: String,
    /// What the client calls its device.
    display_name: Option<String>,
}

/// The body of `PUT /provisioning/retry-delay`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRetryDelay {
    first_ms: u64,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TokenKind {
    #[default]
    Access,
    Compat,
    Personal,
}

/// The body of `POST /faults`: what, how, whom, how often.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFault {
    kind: NewFaultKind,
    /// Wait this long first.
    #[serde(default)]
    delay_ms: u64,
    /// The name of the only token to hit.
    token: Option<String>,
    /// How many introspections to hit; all unless said.
    times: Option<u64>,
    /// For `status`.
    status: Option<u16>,
    /// For `status`.
    body: Option<String>,
    /// For `redirect`.
    location: Option<String>,
    /// For `oversized`.
    bytes: Option<usize>,
    /// For `content_type`.
    content_type: Option<String>,
    /// For `active`: any JSON.
    active: Option<serde_json::Value>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NewFaultKind {
    Active,
    Close,
    CloseReused,
    ContentType,
    Delay,
    DuplicateActive,
    EmptyObject,
    Garbage,
    Hang,
    Html,
    InvalidJson,
    MissingActive,
    Oversized,
    Redirect,
    Reset,
    ResetMidBody,
    Status,
    TooManyRequests,
    Truncated,
}

#[derive(Serialize)]
struct Calls {
    total: u64,
    tokens: BTreeMap<String, u64>,
    unnamed: u64,
}

pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
        return reply(
            StatusCode::PAYLOAD_TOO_LARGE,
            &Failure {
                error: "the body is too long".to_owned(),
            },
        );
    };
    let body = body.to_bytes();
    let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
    let done = match (&head.method, path.as_slice()) {
        (&Method::GET, ["calls"]) => return reply(StatusCode::OK, &calls(&shared)),
        (&Method::POST, ["tokens"]) => add_token(&shared, &body),
        (&Method::DELETE, ["tokens", name]) => decoded(name)
            .and_then(|name| named(&shared, &name))
            .map(|token| shared.end_session(&token)),
        (&Method::POST, ["users", name, "lock"]) => {
            decoded(name).map(|name| shared.lock_user(&name))
        }
        (&Method::POST, ["users", name, "unlock"]) => {
            decoded(name).map(|name| shared.unlock_user(&name))
        }
        (&Method::POST, ["users", name, "deactivate"]) => {
            decoded(name).map(|name| shared.deactivate_user(&name))
        }
        (&Method::POST, ["logins"]) => add_login(&shared, &body),
        (&Method::GET, ["provisioning"]) => {
            return reply(StatusCode::OK, &shared.provisioning_progress());
        }
        (&Method::GET, ["provisioning", "finished"]) => {
            shared.wait_until_provisioned().await;
            return reply(StatusCode::OK, &shared.provisioning_progress());
        }
        (&Method::GET, ["provisioning", "retrying"]) => {
            shared.wait_until_retrying(1).await;
            return reply(StatusCode::OK, &shared.provisioning_progress());
        }
        (&Method::POST, ["provisioning", "retry"]) => {
            shared.retry_now();
            Ok(())
        }
        (&Method::PUT, ["provisioning", "retry-delay"]) => set_retry_delay(&shared, &body),
        (&Method::POST, ["faults"]) => add_fault(&shared, &body),
        (&Method::DELETE, ["faults"]) => {
            shared.clear_faults();
            Ok(())
        }
        _ => {
            let error = "there is GET /calls, POST /tokens, DELETE /tokens/{name}, POST /logins, \
                         POST /users/{name}/lock, /unlock and /deactivate, \
                         GET /provisioning, /provisioning/finished and /provisioning/retrying, \
                         POST /provisioning/retry, PUT /provisioning/retry-delay, \
                         POST /faults and DELETE /faults";
            return reply(
                StatusCode::NOT_FOUND,
                &Failure {
                    error: error.to_owned(),
                },
            );
        }
    };
    match done {
        Ok(()) => reply(StatusCode::OK, &serde_json::json!({})),
        Err(error) => reply(StatusCode::BAD_REQUEST, &Failure { error }),
    }
}

#[derive(Serialize)]
struct Failure {
    error: String,
}

fn reply(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(
        serde_json::to_vec(body).unwrap_or_default().into(),
    ));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn calls(shared: &Shared) -> Calls {
    let tokens: BTreeMap<String, u64> = lock(&shared.names)
        .iter()
        .map(|(token, name)| (name.clone(), shared.calls(token)))
        .collect();
    let total = *shared.total.borrow();
    Calls {
        total,
        unnamed: total.saturating_sub(tokens.values().sum()),
        tokens,
    }
}

fn decoded(name: &str) -> Result<String, String> {
    percent_decode_str(name)
        .decode_utf8()
        .map(Cow::into_owned)
        .map_err(|_| "the name is not UTF-8".to_owned())
}

fn named(shared: &Shared, name: &str) -> Result<String, String> {
    lock(&shared.names)
        .iter()
        .find_map(|(token, of)| (of == name).then(|| token.clone()))
        .ok_or_else(|| format!("no token is named {name:?}"))
}

fn add_token(shared: &Shared, body: &[u8]) -> Result<(), String> {
    let new: NewToken = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let device = new.device.as_deref().unwrap_or_default();
    let (prefix, mut session) = match new.kind {
        TokenKind::Access => ("mat", Session::access(&new.username, device)),
        TokenKind::Compat => ("mct", Session::compat(&new.username, device)),
        TokenKind::Personal => ("mpt", Session::personal(&new.username, device)),
    };
    if new.device.is_none() {
        session = session.no_device();
    }
    if let Some(expires_in) = new.expires_in_s {
        session = session.expires_in(
            Duration::try_from_secs_f64(expires_in).map_err(|error| error.to_string())?,
        );
    }
    if new.admin {
        session = session.admin();
    }
    if let Some(scope) = &new.scope {
        session = session.scope(scope);
    }
    let token = new.token.unwrap_or_else(|| token(prefix, &new.name));
    shared.insert(&token, session);
    lock(&shared.names).insert(token, new.name);
    Ok(())
}

fn add_login(shared: &Shared, body: &[u8]) -> Result<(), String> {
    let new: NewLogin = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let mut session = Session::compat(&new.username, &new.device);
    if let Some(name) = &new.display_name {
        session = session.display_name(name);
    }
    let token = new.token.unwrap_or_else(|| token("mct", &new.name));
    shared.compat_login(&token, session);
    lock(&shared.names).insert(token, new.name);
    Ok(())
}

fn set_retry_delay(shared: &Shared, body: &[u8]) -> Result<(), String> {
    let new: NewRetryDelay = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    shared.set_first_retry_delay(Duration::from_millis(new.first_ms));
    Ok(())
}

fn add_fault(shared: &Shared, body: &[u8]) -> Result<(), String> {
    let new: NewFault = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let needs = |name: &str| format!("this kind of fault needs `{name}`");
    let mut fault = match new.kind {
        NewFaultKind::Active => {
            Fault::active_literal(&new.active.ok_or_else(|| needs("active"))?.to_string())
        }
        NewFaultKind::Close => Fault::close(),
        NewFaultKind::CloseReused => Fault::close_reused(),
        NewFaultKind::ContentType => {
            Fault::content_type(&new.content_type.ok_or_else(|| needs("content_type"))?)
        }
        NewFaultKind::Delay => Fault::delay(Duration::ZERO),
        NewFaultKind::DuplicateActive => Fault::duplicate_active(),
        NewFaultKind::EmptyObject => Fault::empty_object(),
        NewFaultKind::Garbage => Fault::garbage(),
        NewFaultKind::Hang => Fault::hang(),
        NewFaultKind::Html => Fault::html(),
        NewFaultKind::InvalidJson => Fault::invalid_json(),
        NewFaultKind::MissingActive => Fault::missing_active(),
        NewFaultKind::Oversized => Fault::oversized(new.bytes.ok_or_else(|| needs("bytes"))?),
        NewFaultKind::Redirect => Fault::redirect(&new.location.ok_or_else(|| needs("location"))?),
        NewFaultKind::Reset => Fault::reset(),
        NewFaultKind::ResetMidBody => Fault::reset_mid_body(),
        NewFaultKind::Status => {
            let status = new.status.filter(|status| (200..1000).contains(status));
            Fault::status(
                status.ok_or_else(|| needs("status, from 200 to 999"))?,
                new.body.unwrap_or_default(),
            )
        }
        NewFaultKind::TooManyRequests => Fault::too_many_requests(),
        NewFaultKind::Truncated => Fault::truncated(),
    };
    fault = fault.after(Duration::from_millis(new.delay_ms));
    if let Some(name) = &new.token {
        fault = fault.for_token(&named(shared, name)?);
    }
    if let Some(times) = new.times {
        fault = fault.times(times);
    }
    lock(&shared.faults).add(fault);
    Ok(())
}
