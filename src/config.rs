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
use crate::{form, matrix::endpoint::Endpoints};

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
    /// What the listener is for.
    pub role: Role,
    /// The homeserver's `server_name`, which completes user ids. The introspection role has no use for it
    /// and may leave it empty.
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
    /// The built-in endpoint table, the rules that are tried before it, and where MAS lives.
    pub endpoints: Endpoints,
    /// How many unknown tokens one source may bring; `None` is without limit.
    pub unknown_token_budget: Option<UnknownTokenBudget>,
}

/// `role`: what the listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Before the homeserver: rejects and annotates client requests.
    Gateway,
    /// Between the homeserver and MAS: answers introspections from the cache.
    Introspection,
    /// Between MAS and the homeserver: learns which sessions have ended.
    Provisioning,
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
    /// The module knows it and sends it.
    Known(Authorization),
    /// Envoy adds the credential on the way out; the module never sees it.
    Injected,
}

/// A credential that the module knows.
pub struct Authorization {
    scheme: Scheme,
    /// The `authorization` value, ready to send.
    value: String,
    /// SHA-256 of the part after the scheme.
    digest: [u8; 32],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Basic,
    Bearer,
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
    /// Names the question: who was asked. A cached answer counts only for the same question, whatever the
    /// role that asked it.
    pub fn fingerprint(&self) -> u64 {
        let Introspection {
            cluster,
            authority,
            path,
            ..
        } = &self.introspection;
        fingerprint(&[cluster, authority, path])
    }

    /// Names the question and what is made of the answer: user ids of this server.
    pub fn identity_fingerprint(&self) -> u64 {
        let Introspection {
            cluster,
            authority,
            path,
            ..
        } = &self.introspection;
        fingerprint(&[cluster, authority, path, &self.server_name])
    }
}

fn fingerprint(parts: &[&String]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let [a, b, c, d, e, f, g, h, ..] = hash.finalize().0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Credential {
    /// RFC 6750 bearer token: MAS's shared secret.
    fn bearer(secret: &str) -> Self {
        Self::Known(Authorization::new(Scheme::Bearer, secret))
    }

    /// `client_secret_basic`, RFC 6749 section 2.3.1: both halves are form-encoded first.
    fn basic(client_id: &str, client_secret: &str) -> Self {
        let mut pair = Vec::new();
        form::encode(client_id.as_bytes(), &mut pair);
        pair.push(b':');
        form::encode(client_secret.as_bytes(), &mut pair);
        let pair = Base64::encode_string(&pair);
        Self::Known(Authorization::new(Scheme::Basic, &pair))
    }

    /// The `authorization` value to send, if the module knows it.
    pub fn authorization(&self) -> Option<&str> {
        self.known()
            .map(|authorization| authorization.value.as_str())
    }

    /// The credential, if the module knows it.
    pub fn known(&self) -> Option<&Authorization> {
        match self {
            Self::Known(authorization) => Some(authorization),
            Self::Injected => None,
        }
    }

    /// The secret that MAS and the homeserver share, if the module knows it.
    pub fn shared_secret(&self) -> Option<&Authorization> {
        self.known()
            .filter(|authorization| authorization.scheme == Scheme::Bearer)
    }
}

impl Authorization {
    fn new(scheme: Scheme, credentials: &str) -> Self {
        Self {
            scheme,
            value: format!("{} {credentials}", scheme.name()),
            digest: Sha256::digest(credentials).0,
        }
    }

    /// Whether `value`, of an `authorization` header, is this credential. The time it takes tells nothing
    /// of the secret. As for MAS, the case of the scheme does not matter.
    pub fn matches(&self, value: &[u8]) -> bool {
        let value = value.trim_ascii();
        let name = self.scheme.name().as_bytes();
        let Some((scheme, credentials)) = value.split_at_checked(name.len()) else {
            return false;
        };
        if !scheme.eq_ignore_ascii_case(name) || !credentials.starts_with(b" ") {
            return false;
        }
        let digest = Sha256::digest(credentials.trim_ascii_start()).0;
        let differing = self.digest.iter().zip(digest).map(|(a, b)| a ^ b);
        differing.fold(0, |all, bits| all | bits) == 0
    }
}

impl Scheme {
    const fn name(self) -> &'static str {
        match self {
            Self::Basic => "Basic",
            Self::Bearer => "Bearer",
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known(_) => "Known(..)",
            Self::Injected => "Injected",
        })
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn matches(credential: &Credential, value: &[u8]) -> bool {
        credential.known().is_some_and(|known| known.matches(value))
    }

    #[test]
    fn a_credential_is_recognised_as_mas_recognises_it() {
        let bearer = Credential::bearer("s3cret");
        for value in [
            &b"Bearer s3cret"[..],
            b"bearer s3cret",
            b"BEARER   s3cret",
            b" Bearer s3cret ",
        ] {
            assert!(matches(&bearer, value));
        }
        for value in [
            &b""[..],
            b"Bearer",
            b"Bearer ",
            b"Bearers3cret",
            b"Bearer s3cre",
            b"Bearer s3crets",
            b"Bearer S3cret",
            b"Bearer s3cret,Bearer s3cret",
            b"Basic s3cret",
            b"s3cret",
            b"Bearer\xff",
        ] {
            assert!(!matches(&bearer, value));
        }
        let basic = Credential::basic("edge", "s3cret");
        assert!(matches(&basic, b"basic ZWRnZTpzM2NyZXQ="));
        assert!(!matches(&basic, b"bearer ZWRnZTpzM2NyZXQ="));
        assert!(!matches(&Credential::Injected, b"Bearer s3cret"));
    }

    #[test]
    fn only_a_bearer_is_what_mas_shares_with_the_homeserver() {
        assert!(Credential::bearer("x").shared_secret().is_some());
        assert!(Credential::basic("x", "y").shared_secret().is_none());
        assert!(Credential::Injected.shared_secret().is_none());
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", Credential::bearer("s3cret"));
        assert_eq!(shown, "Known(..)");
    }
}
