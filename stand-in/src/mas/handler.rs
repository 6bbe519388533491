//! From an HTTP request to a reply: routes, the order of the checks, counting, holding back, faults.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, Uri, header, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::{
    Database, Introspected, Redacted, Shared,
    client::{self, Body, Credential, Form},
    damage::damage,
    fault::FaultKind,
    lock,
    reply::Reply,
    state::{Introspection, Revocation},
};
use crate::{
    SeenRequest,
    seen::{hex, pairs},
    server::Wire,
};

/// MAS refuses longer bodies.
const BODY_LIMIT: usize = 2 * 1024 * 1024;

/// The endpoints.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Endpoint {
    Introspect,
    Revoke,
    Token,
    Logout,
    LogoutAll,
    UserInfo,
    Discovery,
    Health,
}

impl Endpoint {
    /// Paths are matched as sent: MAS answers 404 to a trailing slash.
    fn of(path: &str) -> Option<Self> {
        match path {
            "/oauth2/introspect" => Some(Self::Introspect),
            "/oauth2/revoke" => Some(Self::Revoke),
            "/oauth2/token" => Some(Self::Token),
            "/oauth2/userinfo" => Some(Self::UserInfo),
            "/.well-known/openid-configuration" => Some(Self::Discovery),
            "/health" => Some(Self::Health),
            _ => {
                // Anything may stand in the place of the version.
                let versioned = path.strip_prefix("/_matrix/client/")?;
                let (version, rest) = versioned.split_once('/')?;
                match rest {
                    _ if version.is_empty() => None,
                    "logout" => Some(Self::Logout),
                    "logout/all" => Some(Self::LogoutAll),
                    _ => None,
                }
            }
        }
    }

    const fn is_get(self) -> bool {
        matches!(self, Self::UserInfo | Self::Discovery | Self::Health)
    }

    /// The `allow` member of refusals and of answers to `OPTIONS`.
    const fn allow(self) -> &'static str {
        match self {
            Self::UserInfo => "GET,HEAD,POST",
            Self::Discovery | Self::Health => "GET,HEAD",
            Self::Introspect | Self::Revoke | Self::Token | Self::Logout | Self::LogoutAll => {
                "POST"
            }
        }
    }

    fn takes(self, method: &Method) -> bool {
        match self {
            Self::UserInfo if method == Method::POST => true,
            _ if self.is_get() => method == Method::GET || method == Method::HEAD,
            _ => method == Method::POST,
        }
    }

    /// Answered without a look at the database.
    const fn is_static(self) -> bool {
        matches!(self, Self::Discovery)
    }
}

/// Answers one request.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
    wire: Wire,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let endpoint = match route(&head.method, &head.uri) {
        Ok(endpoint) => endpoint,
        Err(reply) => return reply.into_response(),
    };
    let reply = match read(body).await {
        // The caller left.
        None => Reply::plain(400, "text/plain", ""),
        Some(received) if endpoint == Endpoint::Introspect => {
            introspect(&shared, &head, received, &wire).await
        }
        Some(received) => serve(&shared, endpoint, &head.headers, &received.body).await,
    };
    reply.into_response()
}

fn route(method: &Method, uri: &Uri) -> Result<Endpoint, Reply> {
    let endpoint = Endpoint::of(uri.path()).ok_or_else(|| Reply::not_found(method, uri))?;
    if method == Method::OPTIONS && endpoint != Endpoint::Health {
        return Err(Reply::preflight(endpoint.allow()));
    }
    if !endpoint.takes(method) {
        return Err(Reply::method_not_allowed(endpoint.allow()));
    }
    Ok(endpoint)
}

struct Received {
    body: Body,
    /// All of it up to the limit.
    kept: Bytes,
    bytes: u64,
    sha256: String,
    trailers: Vec<(String, Bytes)>,
}

/// Reads the whole body, also where MAS stops at its limit: an answer to a caller that is still sending may be lost.
async fn read(mut body: Incoming) -> Option<Received> {
    use sha2::{Digest, Sha256};

    let mut kept = BytesMut::new();
    let mut bytes = 0;
    let mut sha256 = Sha256::new();
    let mut trailers = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.ok()?.into_data() {
            Ok(data) => {
                sha256.update(&data);
                bytes += data.len() as u64;
                let room = BODY_LIMIT.saturating_sub(kept.len()).min(data.len());
                kept.extend_from_slice(&data[..room]);
            }
            Err(frame) => {
                trailers = frame
                    .into_trailers()
                    .map(|map| pairs(&map))
                    .unwrap_or_default()
            }
        }
    }
    let kept = kept.freeze();
    let body = if bytes > BODY_LIMIT as u64 {
        Body::TooLong
    } else {
        Body::Complete(kept.clone())
    };
    Some(Received {
        body,
        kept,
        bytes,
        sha256: hex(&sha256.finalize()),
        trailers,
    })
}

async fn introspect(shared: &Shared, head: &Parts, received: Received, wire: &Wire) -> Reply {
    let token = form_urlencoded::parse(&received.kept)
        .find(|(name, _)| name == "token")
        .map(|(_, token)| token.into_owned());
    let request = SeenRequest {
        body: received.kept,
        body_bytes: received.bytes,
        body_sha256: received.sha256,
        trailers: received.trailers,
        ..SeenRequest::from_head(head)
    };
    let _under_way = shared.begin();
    let (calls, total) = shared.record(request, token.as_deref());

    // The senders live in `shared`, so waiting cannot fail.
    let _ = shared.holds.subscribe().wait_for(|holds| *holds == 0).await;
    let fault = shared.take_fault(token.as_deref());
    if let Some((fault, mut cleared)) = fault.clone() {
        tokio::time::sleep(fault.delay).await;
        if matches!(fault.kind, FaultKind::Hang) {
            let _ = cleared.changed().await;
        }
    }
    let reply = serve(shared, Endpoint::Introspect, &head.headers, &received.body).await;
    let mut outcome = match reply.body.as_ref() {
        _ if reply.status != 200 => reply.status.as_str().to_owned(),
        br#"{"active":false}"# => "inactive".to_owned(),
        _ => "active".to_owned(),
    };
    let reply = match fault {
        Some((fault, _)) => {
            let is_harmless = match fault.kind {
                FaultKind::None | FaultKind::Hang => true,
                FaultKind::CloseReused => !wire.is_reused(),
                _ => false,
            };
            if !is_harmless {
                outcome = format!("fault: {}", fault.kind.label());
            }
            damage(fault, reply, wire)
        }
        None => reply,
    };
    if let Some(tell) = &shared.on_introspection {
        let name = token
            .as_ref()
            .and_then(|token| lock(&shared.names).get(token).cloned());
        tell(&Introspected {
            name,
            calls,
            total,
            outcome,
        });
    }
    reply
}

/// What MAS answers once it has the whole request.
async fn serve(shared: &Shared, endpoint: Endpoint, headers: &HeaderMap, body: &Body) -> Reply {
    let database = *lock(&shared.database);
    if database != Database::Up && !endpoint.is_static() {
        // MAS opens its transaction before it looks at anything else, also before a wrong secret.
        tokio::time::sleep(shared.pool_timeout).await;
        let reply = if endpoint == Endpoint::Health {
            Reply::plain(500, "text/plain", Reply::pool_timed_out().body)
        } else {
            Reply::pool_timed_out()
        };
        return if database == Database::DownAndExiting {
            reply.closing()
        } else {
            reply
        };
    }
    let served = match endpoint {
        Endpoint::Introspect => introspection(shared, headers, body),
        Endpoint::Revoke => revocation(shared, headers, body),
        Endpoint::Token => new_tokens(shared, headers, body),
        Endpoint::Logout => logout(shared, headers, false),
        Endpoint::LogoutAll if shared.logout_all => logout(shared, headers, true),
        Endpoint::LogoutAll => Err(Reply::matrix(
            404,
            "M_UNRECOGNIZED",
            "The /logout/all endpoint is not supported by this deployment",
        )),
        Endpoint::UserInfo => user_info(shared, headers),
        Endpoint::Discovery => Ok(discovery(
            lock(&shared.issuer).as_deref().unwrap_or_default(),
        )),
        Endpoint::Health => Ok(Reply::plain(200, "text/plain; charset=utf-8", "ok")),
    };
    served.unwrap_or_else(|refusal| refusal)
}

fn introspection(shared: &Shared, headers: &HeaderMap, body: &Body) -> Result<Reply, Reply> {
    let (credential, form) = client::authorization(headers, body, "token")?;
    match &credential {
        Credential::Bearer(token) => {
            if *lock(&shared.secret) != Redacted(token.clone()) {
                return Err(Reply::oauth(
                    401,
                    "access_denied",
                    "bearer token presented is invalid",
                ));
            }
        }
        credential => {
            if client::authenticate(&shared.clients, credential)?.is_public() {
                let description = "The resource owner or authorization server denied the request.";
                return Err(Reply::oauth(401, "access_denied", description));
            }
        }
    }
    let (token, hint) = token_and_hint(form.as_ref())?;
    let with_device_id = headers
        .get("x-mas-supports-device-id")
        .is_some_and(|value| value == "1");
    let outcome = lock(&shared.state).introspect(token, hint, with_device_id, shared.clock.now());
    match outcome {
        Introspection::Active(active) => match serde_json::to_vec(&active) {
            Ok(body) => Ok(Reply::json(200, body)),
            Err(error) => Err(Reply::server_error(&error.to_string())),
        },
        Introspection::Inactive => Ok(Reply::json(200, r#"{"active":false}"#)),
        Introspection::DatabaseError => Err(Reply::server_error(
            "error returned from database: invalid byte sequence for encoding \"UTF8\": 0x00",
        )),
    }
}

fn revocation(shared: &Shared, headers: &HeaderMap, body: &Body) -> Result<Reply, Reply> {
    let (credential, form) = client::authorization(headers, body, "token")?;
    let client = client::authenticate(&shared.clients, &credential)?;
    let (token, hint) = token_and_hint(form.as_ref())?;
    let outcome = lock(&shared.state).revoke(token, hint, client, shared.clock.now());
    match outcome {
        Revocation::Done(user) => {
            shared.sync_devices(user);
            Ok(Reply::empty(200))
        }
        Revocation::AnotherClient => Err(Reply::oauth(
            401,
            "unauthorized_client",
            "The client is not authorized to request an access token using this method.",
        )),
        Revocation::UnsupportedTokenType => Err(Reply::oauth(
            400,
            "unsupported_token_type",
            "The authorization server does not support the revocation of the presented token type.",
        )),
    }
}

/// The refresh grant (RFC 6749, section 6), and no other.
fn new_tokens(shared: &Shared, headers: &HeaderMap, body: &Body) -> Result<Reply, Reply> {
    let (credential, form) = client::authorization(headers, body, "grant_type")?;
    client::authenticate(&shared.clients, &credential)?;
    let form = form.ok_or_else(Reply::invalid_request)?;
    if form.value("grant_type") != Some("refresh_token") {
        return Err(Reply::oauth(
            400,
            "unsupported_grant_type",
            "The stand-in knows the grant refresh_token only.",
        ));
    }
    let old = form
        .value("refresh_token")
        .ok_or_else(Reply::invalid_request)?;
    let issued = shared
        .issue_by_refresh(old)
        .ok_or_else(|| Reply::oauth(400, "invalid_grant", "The refresh token is not good."))?;
    let mut reply = Reply::json(
        200,
        serde_json::json!({
            "access_token": issued.access_token,
            "refresh_token": issued.refresh_token,
            "token_type": "Bearer",
            "expires_in": issued.expires_in.map(|left| left.as_secs()),
        })
        .to_string(),
    );
    reply
        .headers
        .push((header::CACHE_CONTROL, "no-store".to_owned()));
    Ok(reply)
}

fn token_and_hint(form: Option<&Form>) -> Result<(&str, Option<&str>), Reply> {
    let form = form.ok_or_else(Reply::invalid_request)?;
    let token = form.value("token").ok_or_else(Reply::invalid_request)?;
    Ok((token, form.value("token_type_hint")))
}

fn logout(shared: &Shared, headers: &HeaderMap, all: bool) -> Result<Reply, Reply> {
    let token = header_token(headers)
        .ok_or_else(|| Reply::matrix(401, "M_MISSING_TOKEN", "Missing access token"))?;
    let now = shared.clock.now();
    let user = if all {
        lock(&shared.state).log_out_all(token, now)
    } else {
        lock(&shared.state).log_out(token, now)
    };
    if user.is_none() {
        return Err(Reply::matrix(
            401,
            "M_UNKNOWN_TOKEN",
            "Invalid access token",
        ));
    }
    shared.sync_devices(user);
    Ok(Reply::json(200, "{}"))
}

fn user_info(shared: &Shared, headers: &HeaderMap) -> Result<Reply, Reply> {
    let token = header_token(headers).ok_or_else(|| Reply::empty(401))?;
    let (sub, username) = lock(&shared.state)
        .user_info(token, shared.clock.now())
        .ok_or_else(|| Reply::empty(401))?;
    Ok(Reply::json(
        200,
        serde_json::json!({ "sub": sub, "username": username }).to_string(),
    ))
}

/// Only the header, and the scheme in any case: MAS does not read `?access_token=`.
fn header_token(headers: &HeaderMap) -> Option<&str> {
    client::bearer(headers.get(header::AUTHORIZATION)?.as_bytes())
}

fn discovery(issuer: &str) -> Reply {
    let at = |path: &str| format!("{issuer}{path}");
    let methods = [
        "client_secret_basic",
        "client_secret_post",
        "client_secret_jwt",
        "private_key_jwt",
        "none",
    ];
    let algorithms = [
        "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
        "ES384", "ES256K",
    ];
    let document = serde_json::json!({
        "issuer": issuer,
        "authorization_endpoint": at("authorize"),
        "token_endpoint": at("oauth2/token"),
        "jwks_uri": at("oauth2/keys.json"),
        "registration_endpoint": at("oauth2/registration"),
        "scopes_supported": ["openid", "email"],
        "response_types_supported": ["code", "id_token", "code id_token"],
        "response_modes_supported": ["form_post", "query", "fragment"],
        "grant_types_supported": [
            "authorization_code", "refresh_token", "client_credentials", "urn:ietf:params:oauth:grant-type:device_code",
        ],
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint": at("oauth2/revoke"),
        "revocation_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint": at("oauth2/introspect"),
        "introspection_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "code_challenge_methods_supported": ["plain", "S256"],
        "userinfo_endpoint": at("oauth2/userinfo"),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256", "RS384", "RS512", "ES256", "PS256", "PS384", "PS512"],
        "userinfo_signing_alg_values_supported": ["RS256", "RS384", "RS512", "ES256", "PS256", "PS384", "PS512"],
        "display_values_supported": ["page"],
        "claim_types_supported": ["normal"],
        "claims_supported": ["iss", "sub", "aud", "iat", "exp", "nonce", "auth_time", "at_hash", "c_hash"],
        "claims_parameter_supported": false,
        "request_parameter_supported": false,
        "request_uri_parameter_supported": false,
        "prompt_values_supported": ["login"],
        "device_authorization_endpoint": at("oauth2/device"),
        "org.matrix.matrix-authentication-service.graphql_endpoint": at("graphql"),
        "account_management_uri": at("account/"),
        "account_management_actions_supported": [
            "org.matrix.profile", "org.matrix.devices_list", "org.matrix.device_view", "org.matrix.device_delete",
            "org.matrix.cross_signing_reset", "org.matrix.sessions_list", "org.matrix.session_view",
            "org.matrix.session_end",
        ],
    });
    Reply::json(200, document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_exact() {
        for path in [
            "/oauth2/introspect/",
            "/oauth2//introspect",
            "/_matrix/client//logout",
            "/_matrix/client/api/v1/logout",
            "/_matrix/client/v3/logout/",
        ] {
            assert!(Endpoint::of(path).is_none(), "{path}");
        }
        for version in ["r0", "v1", "v3", "unstable", "anything"] {
            assert!(
                Endpoint::of(&format!("/_matrix/client/{version}/logout"))
                    == Some(Endpoint::Logout),
                "{version}"
            );
        }
    }
}
