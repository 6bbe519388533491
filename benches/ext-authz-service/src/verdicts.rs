//! What MAS says of tokens (RFC 7662), and for how long that is kept.
//!
//! Requests with the same token wait for one call together: the cache lets one of them make the entry. An answer that is
//! no verdict is given to all who wait for it and not kept.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache};
use serde::Deserialize;

/// As much as the module keeps by default.
const ENTRIES: u64 = 65_536;
/// As long as the module and Synapse keep an answer, or an hour where the bench wants no session to end.
const KEPT: Duration = Duration::from_secs(3600);
const TIMEOUT: Duration = Duration::from_secs(5);
const DEVICE: &str = "urn:matrix:client:device:";

/// Whose token it is.
pub struct Identity {
    pub user_id: String,
    pub device_id: Option<String>,
}

#[derive(Clone)]
pub enum Verdict {
    Active(Arc<Identity>),
    Inactive,
}

/// MAS did not say whether the token is active.
#[derive(Debug)]
pub struct NoVerdict;

/// The verdicts that are known, and where to ask for others.
pub struct Verdicts {
    known: Cache<String, Kept>,
    client: reqwest::Client,
    endpoint: String,
}

#[derive(Clone)]
struct Kept {
    verdict: Verdict,
    lifetime: Duration,
}

#[derive(Deserialize)]
struct Introspection {
    active: bool,
    scope: Option<String>,
    username: Option<String>,
    device_id: Option<String>,
    expires_in: Option<u64>,
}

impl Verdicts {
    pub fn new(mas: SocketAddr) -> Self {
        Self {
            known: Cache::builder()
                .max_capacity(ENTRIES)
                .expire_after(Lifetime)
                .build(),
            client: reqwest::Client::builder()
                .timeout(TIMEOUT)
                .tcp_nodelay(true)
                .build()
                .expect("a client"),
            endpoint: format!("http://{mas}/oauth2/introspect"),
        }
    }

    /// Returns what is known of a token, or asks MAS once for all who want to know.
    pub async fn of(&self, token: &str) -> Result<Verdict, NoVerdict> {
        // The look-up of a hit takes no copy of the token.
        if let Some(kept) = self.known.get(token).await {
            return Ok(kept.verdict);
        }
        let kept = self.known.try_get_with_by_ref(token, self.ask(token)).await;
        kept.map(|kept| kept.verdict).map_err(|_| NoVerdict)
    }

    async fn ask(&self, token: &str) -> Result<Kept, NoVerdict> {
        let response = self
            .client
            .post(&self.endpoint)
            .bearer_auth("bench")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-mas-supports-device-id", "1")
            // Tokens of MAS need no encoding.
            .body(format!("token={token}&token_type_hint=access_token"))
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(|_| NoVerdict)?;
        let body = response.bytes().await.map_err(|_| NoVerdict)?;
        serde_json::from_slice(&body)
            .map_err(|_| NoVerdict)
            .and_then(kept)
    }
}

fn kept(answer: Introspection) -> Result<Kept, NoVerdict> {
    let lifetime = answer
        .expires_in
        .map_or(KEPT, |seconds| KEPT.min(Duration::from_secs(seconds)));
    if !answer.active {
        return Ok(Kept {
            verdict: Verdict::Inactive,
            lifetime,
        });
    }
    let localpart = answer.username.ok_or(NoVerdict)?;
    let scope = answer.scope.unwrap_or_default();
    let in_scope = scope
        .split(' ')
        .find_map(|scope| scope.strip_prefix(DEVICE));
    let identity = Identity {
        user_id: format!("@{localpart}:example.org"),
        device_id: answer.device_id.or_else(|| in_scope.map(str::to_owned)),
    };
    Ok(Kept {
        verdict: Verdict::Active(Arc::new(identity)),
        lifetime,
    })
}

/// Each entry has a lifetime of its own.
struct Lifetime;

impl Expiry<String, Kept> for Lifetime {
    fn expire_after_create(&self, _: &String, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(kept.lifetime)
    }
}

/// The token of an `Authorization` header.
pub fn token(authorization: &str) -> Option<&str> {
    authorization.strip_prefix("Bearer ")
}

/// What a client gets with a dead token, as Synapse would say it.
pub const UNKNOWN_TOKEN: &str =
    r#"{"errcode":"M_UNKNOWN_TOKEN","error":"Token is not active","soft_logout":false}"#;

/// What a client gets without a verdict, as Synapse would say it.
pub const UNAVAILABLE: &str =
    r#"{"errcode":"M_UNKNOWN","error":"Unable to introspect the access token"}"#;
