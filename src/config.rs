//! Plugin configuration: one object, as JSON or as a protobuf `Struct`, read into checked types.
//!
//! A configuration is taken whole or refused with one line that names the key and what it takes, so that
//! Envoy keeps serving the old one. The line never repeats a value, which could be a secret.

use alloc::{rc::Rc, string::String, string::ToString};
use core::{fmt, time::Duration};

mod appservice_tokens;
mod check;
mod grant_terms;
mod header_name;
mod host_name;
mod identity_headers;
mod introspection;
mod json;
mod key;
mod keys;
mod members;
mod nearest;
mod path;
#[cfg(not(target_arch = "wasm32"))]
mod pattern;
mod proto_struct;
#[cfg(not(target_arch = "wasm32"))]
mod reference;
#[cfg(not(target_arch = "wasm32"))]
mod schema;
mod table;
mod text;

use sha2::{Digest as _, Sha256};

pub use self::{
    appservice_tokens::AppserviceTokens, grant_terms::GrantTerms,
    identity_headers::IdentityHeaders, keys::parse,
};
#[cfg(not(target_arch = "wasm32"))]
pub use self::{
    reference::{Reference, reference},
    schema::schema,
};
use crate::{clock::millis, mas::introspection::Settings, matrix::endpoint::Endpoints};

/// Why a configuration was refused: one line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ConfigError {}

/// A checked plugin configuration.
#[derive(Debug)]
pub struct Config {
    /// What the listener is for.
    pub role: Role,
    /// The homeserver's `server_name`, which completes user ids. The introspection role has no use for it
    /// and may leave it empty.
    pub server_name: String,
    /// How MAS is asked.
    pub introspection: Rc<Settings>,
    /// Whether the secret for MAS stands in the configuration, where Envoy's admin interface shows it.
    pub has_visible_secret: bool,
    /// How long answers are kept, and how many.
    pub cache: Cache,
    /// Whether rejections happen or are only counted.
    pub mode: Mode,
    /// What a request gets when there is no verdict.
    pub on_introspection_failure: OnFailure,
    /// What happens to tokens that no MAS could have issued.
    pub unrecognized_tokens: UnrecognizedTokens,
    /// The known appservice tokens.
    pub appservice_tokens: AppserviceTokens,
    /// Whether `?access_token=` counts.
    pub query_token: QueryToken,
    /// Whether a form-encoded `POST` without an `Authorization` header goes on.
    pub form_tokens: FormTokens,
    /// Header names for the identity; `None` is off.
    pub identity_headers: IdentityHeaders,
    /// Whether the identity is also published as filter state.
    pub filter_state: bool,
    /// Whether a 401 of the homeserver makes the gateway ask MAS again.
    pub learn_from_refusals: bool,
    /// The built-in endpoint table, the rules that are tried before it, and where MAS lives.
    pub endpoints: Endpoints,
    /// How many inactive tokens one client address may bring; `None` is without limit.
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

impl Role {
    /// Returns its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Introspection => "introspection",
            Self::Provisioning => "provisioning",
        }
    }
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

/// `unknown_token_budget`: how many inactive tokens one client address may bring.
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

impl Mode {
    /// Returns its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        }
    }
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

/// `form_tokens`. A form-encoded `POST` without an `Authorization` header may carry its token in the body,
/// which the gateway does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormTokens {
    /// Forward without an identity.
    Pass,
    /// 401, as if it had no token.
    Reject,
}

impl Config {
    /// Names the question: who was asked, and with which kind of credential. A cached answer counts only for the
    /// same question, whatever the role that asked it. The secret itself is no part of it: it may rotate.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(&self.question())
    }

    /// Names the question, the terms on which a worker makes grants of the answers, and how long it may use one and whether it
    /// renews it before that. Listeners share the grants of a worker for which all of that is the same.
    pub fn identity_fingerprint(&self) -> u64 {
        let Cache {
            ttl,
            refresh_ahead,
            // They bound what is kept, and make nothing of an active answer.
            negative_ttl: _,
            stale_if_error: _,
            slots: _,
            negative_slots: _,
            local_entries: _,
        } = self.cache;
        let GrantTerms {
            server_name,
            tells_client_id,
            tells_scope,
        } = self.grant_terms();
        let ttl = millis(ttl).to_string();
        let flag = |is_set, name| if is_set { name } else { "" };
        let [cluster, authority, path, credential] = self.question();
        fingerprint(&[
            cluster,
            authority,
            path,
            credential,
            server_name,
            &ttl,
            flag(refresh_ahead, "refresh_ahead"),
            flag(tells_client_id, "client_id"),
            flag(tells_scope, "scope"),
        ])
    }

    /// Returns the terms on which active tokens are made into grants.
    pub fn grant_terms(&self) -> GrantTerms<'_> {
        // A grant has user and device in any case, and the kind of a token is read off the token.
        let IdentityHeaders {
            user_id: _,
            device_id: _,
            token_kind: _,
            client_id,
            scope,
        } = &self.identity_headers;
        GrantTerms {
            server_name: &self.server_name,
            tells_client_id: client_id.is_some(),
            tells_scope: scope.is_some(),
        }
    }

    fn question(&self) -> [&str; 4] {
        let Settings {
            cluster,
            authority,
            path,
            credential,
            ..
        } = &*self.introspection;
        [cluster, authority, path, credential.kind()]
    }
}

fn fingerprint(parts: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    let [a, b, c, d, e, f, g, h, ..] = hash.finalize().0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The smallest configuration of a gateway, with these keys in place of its own. Under `introspection` each key is replaced by
    /// itself. Every environment variable holds a secret.
    pub(crate) fn with(overrides: Value) -> Config {
        let mut keys = json!({
            "server_name": "example.org",
            "introspection": {"cluster": "mas", "credential": {"injected": true}},
        });
        let Value::Object(overrides) = overrides else {
            panic!("these are no keys: {overrides}");
        };
        for (key, value) in overrides {
            match (key.as_str(), value) {
                ("introspection", Value::Object(value)) => {
                    let members = keys["introspection"].as_object_mut().unwrap();
                    members.extend(value);
                }
                (_, value) => keys[key] = value,
            }
        }
        parse(keys.to_string().as_bytes(), &|_| Some("s3cret".to_owned())).unwrap()
    }
}
