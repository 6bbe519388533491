//! Plugin configuration: one object, as JSON or as a protobuf `Struct`, read into checked types.
//!
//! A configuration is taken whole or refused with one line that names the key and what it takes, so that
//! Envoy keeps serving the old one. The line never repeats a value that could be a secret.

mod keys;
mod proto_struct;
mod reader;

use std::{borrow::Cow, fmt, time::Duration};

use base64ct::{Base64, Encoding};
use sha2::{Digest, Sha256};

pub use self::keys::parse;
use crate::{mas::introspection::form_encode, matrix::endpoint::Overrides};

/// Why a configuration was refused: one line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A checked plugin configuration.
#[derive(Debug)]
pub struct Config {
    /// The homeserver's `server_name`, which completes user ids.
    pub server_name: String,
    /// How MAS is asked.
    pub introspection: Introspection,
    /// How long answers are kept, and how many.
    pub cache: Cache,
    /// Whether rejections happen or are only counted.
    pub mode: Mode,
    /// What a request gets when there is no verdict.
    pub on_introspection_failure: OnFailure,
    /// What happens to tokens that no MAS could have issued.
    pub unrecognized_tokens: UnrecognizedTokens,
    /// SHA-256 of each known appservice token, sorted.
    pub appservice_tokens: Vec<[u8; 32]>,
    /// Whether `?access_token=` counts.
    pub query_token: QueryToken,
    /// Header names for the identity; `None` is off.
    pub identity_headers: IdentityHeaders,
    /// Whether the identity is also published as filter state.
    pub filter_state: bool,
    /// Rules tried before the built-in endpoint table.
    pub endpoints: Overrides,
    /// How many unknown tokens one source may bring; `None` is without limit.
    pub unknown_token_budget: Option<UnknownTokenBudget>,
}

/// `introspection`: how MAS is asked.
#[derive(Debug)]
pub struct Introspection {
    /// Envoy cluster.
    pub cluster: String,
    /// `:authority` of the request.
    pub authority: String,
    /// `:path` of the request.
    pub path: String,
    /// Limit for one call.
    pub timeout: Duration,
    /// What proves to MAS that the edge may ask.
    pub credential: Credential,
    /// Calls in flight per worker, at the most.
    pub max_in_flight: usize,
    /// Whether `:authority` carries a label derived from the token digest, for a ring-hash cluster.
    pub shard_by_token: bool,
}

/// What proves to MAS that the edge may ask. `Debug` shows no secret.
pub enum Credential {
    /// An `authorization` value, ready to send.
    Authorization(String),
    /// Envoy adds the credential on the way out; the module never sees it.
    Injected,
}

/// `cache`: how long answers are kept, and how many.
#[derive(Debug)]
pub struct Cache {
    /// Longest life of an active answer.
    pub ttl: Duration,
    /// Life of an inactive answer; zero keeps none.
    pub negative_ttl: Duration,
    /// How long an active answer may serve past its time while MAS cannot be asked.
    pub stale_if_error: Duration,
    /// Whether an answer in use is renewed before it ends.
    pub refresh_ahead: bool,
    /// Slots of the table of active answers.
    pub slots: u32,
    /// Slots of the table of inactive answers.
    pub negative_slots: u32,
    /// Active answers that each worker holds for itself.
    pub local_entries: usize,
}

/// `unknown_token_budget`: how many unknown tokens one source may bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownTokenBudget {
    /// Tokens per source and window.
    pub per_source: u32,
    /// Length of a window.
    pub window: Duration,
}

/// `mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Reject what is to be rejected.
    Enforce,
    /// Only count it.
    Shadow,
}

/// `on_introspection_failure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// 503.
    Reject,
    /// Forward without an identity.
    Pass,
}

/// `unrecognized_tokens`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnrecognizedTokens {
    /// Forward without an identity: it may be an appservice token.
    Pass,
    /// Ask MAS.
    Introspect,
    /// 401.
    Reject,
}

/// `query_token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryToken {
    /// As Synapse still does.
    Accept,
    /// As the Matrix spec says since v1.20.
    Reject,
}

/// `identity_headers`: lower-case header names; `None` is off.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct IdentityHeaders {
    /// `@localpart:server_name`.
    pub user_id: Option<String>,
    /// Device id.
    pub device_id: Option<String>,
    /// OAuth client id.
    pub client_id: Option<String>,
    /// Scope.
    pub scope: Option<String>,
    /// Kind of the token.
    pub token_kind: Option<String>,
}

impl IdentityHeaders {
    /// Every name that a client must not be able to send: the configured ones, and the default names
    /// even when they are turned off, since whoever reads them expects them to be ours.
    pub fn reserved(&self) -> impl Iterator<Item = &str> {
        let configured = [
            &self.user_id,
            &self.device_id,
            &self.client_id,
            &self.scope,
            &self.token_kind,
        ]
        .into_iter()
        .filter_map(|name| name.as_deref());
        let defaults = [
            (&self.user_id, keys::USER_ID),
            (&self.device_id, keys::DEVICE_ID),
        ]
        .into_iter()
        .filter_map(|(name, default)| (name.as_deref() != Some(default)).then_some(default));
        configured.chain(defaults)
    }
}

impl Introspection {
    /// The `:authority` for a token with this digest. The label has 16 bits: enough to spread tokens over
    /// a ring, too few to recognise one.
    pub fn authority_for(&self, digest: &[u8; 32]) -> Cow<'_, str> {
        if self.shard_by_token {
            let [first, second, ..] = digest;
            Cow::Owned(format!("{first:02x}{second:02x}.{}", self.authority))
        } else {
            Cow::Borrowed(&self.authority)
        }
    }
}

impl Config {
    /// Names the question: who was asked, and for which server. A cached answer counts only for the same
    /// question.
    pub fn fingerprint(&self) -> u64 {
        let Introspection {
            cluster,
            authority,
            path,
            ..
        } = &self.introspection;
        let mut hash = Sha256::new();
        for part in [cluster, authority, path, &self.server_name] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        let [a, b, c, d, e, f, g, h, ..] = hash.finalize().0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl Credential {
    /// RFC 6750 bearer token: MAS's shared secret.
    fn bearer(secret: &str) -> Self {
        Self::Authorization(format!("Bearer {secret}"))
    }

    /// `client_secret_basic`, RFC 6749 section 2.3.1: both halves are form-encoded first.
    fn basic(client_id: &str, client_secret: &str) -> Self {
        let mut pair = Vec::new();
        form_encode(client_id.as_bytes(), &mut pair);
        pair.push(b':');
        form_encode(client_secret.as_bytes(), &mut pair);
        Self::Authorization(format!("Basic {}", Base64::encode_string(&pair)))
    }

    /// The `authorization` value to send, if the module knows it.
    pub fn authorization(&self) -> Option<&str> {
        match self {
            Self::Authorization(value) => Some(value),
            Self::Injected => None,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authorization(_) => "Authorization(..)",
            Self::Injected => "Injected",
        })
    }
}
