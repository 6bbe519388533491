//! Makes the settings of a configuration's keys.
//!
//! The table says what the keys are and `check` has held the configuration against it, so what is left to refuse
//! here are the rules that no single key can tell.

use alloc::{borrow::ToOwned, format, rc::Rc, string::String, vec::Vec};

use serde_json::Value;

use super::{
    AppserviceTokens, Cache, Config, ConfigError, IdentityHeaders, UnknownTokenBudget,
    check::{check, takes},
    header_name::{Taken, taken},
    introspection::{Introspection, introspection},
    json::{self, Refusal},
    key::{Key, Words},
    members::Members,
    path::Path,
    proto_struct, table, text,
};
use crate::matrix::endpoint::{Endpoints, PathMatch, Rule};

/// Reads a plugin configuration: JSON (Envoy's `StringValue` and `BytesValue`) or a serialised `Struct`.
/// `env` looks an environment variable of the VM up.
pub fn parse(bytes: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let value = decode(bytes)?;
    check(&value)?;
    let keys = Members::of(&value);
    let Introspection {
        settings,
        has_visible_secret,
    } = introspection(keys.object(&table::INTROSPECTION), env)?;
    Ok(Config {
        role: keys.choice(&table::ROLE),
        server_name: keys.string(&table::SERVER_NAME),
        endpoints: endpoints(keys).with_introspection_at(&settings.path),
        introspection: Rc::new(settings),
        has_visible_secret,
        cache: cache(keys.object(&table::CACHE)),
        mode: keys.choice(&table::MODE),
        on_introspection_failure: keys.choice(&table::ON_INTROSPECTION_FAILURE),
        unrecognized_tokens: keys.choice(&table::UNRECOGNIZED_TOKENS),
        appservice_tokens: appservice_tokens(keys),
        query_token: keys.choice(&table::QUERY_TOKEN),
        form_tokens: keys.choice(&table::FORM_TOKENS),
        identity_headers: identity_headers(keys.object(&table::IDENTITY_HEADERS))?,
        filter_state: keys.boolean(&table::FILTER_STATE),
        learn_from_refusals: keys.boolean(&table::LEARN_FROM_REFUSALS),
        unknown_token_budget: unknown_token_budget(keys),
    })
}

/// The object that `bytes` hold, in one of the two encodings.
fn decode(bytes: &[u8]) -> Result<Value, ConfigError> {
    let error = match json::decode(bytes) {
        Ok(value) => return Ok(value),
        Err(Refusal::Repeated(path)) => {
            return Err(ConfigError(format!("{path}: is given twice")));
        }
        Err(Refusal::Syntax(error)) => error,
    };
    proto_struct::decode(bytes)
        .filter(|_| !bytes.is_empty())
        .ok_or_else(|| {
            ConfigError(format!(
                "the configuration takes a JSON object or a Struct: {error}"
            ))
        })
}

fn cache(keys: Members<'_>) -> Cache {
    Cache {
        ttl: keys.duration(&table::TTL),
        negative_ttl: keys.duration(&table::NEGATIVE_TTL),
        stale_if_error: keys.duration(&table::STALE_IF_ERROR),
        refresh_ahead: keys.boolean(&table::REFRESH_AHEAD),
        slots: keys.number(&table::SLOTS),
        negative_slots: keys.number(&table::NEGATIVE_SLOTS),
        local_entries: keys.number(&table::LOCAL_ENTRIES) as usize,
    }
}

fn appservice_tokens(keys: Members<'_>) -> AppserviceTokens {
    let mut tokens = AppserviceTokens::default();
    for item in keys.list(&table::APPSERVICE_TOKENS) {
        if let Some(digest) = item.as_str().and_then(text::base16_lower) {
            tokens.insert(digest);
        }
    }
    tokens
}

fn identity_headers(keys: Members<'_>) -> Result<IdentityHeaders, ConfigError> {
    let path = Path::Key(&Path::Root, table::IDENTITY_HEADERS.head.name);
    let mut earlier: Vec<(&str, &str)> = Vec::new();
    let mut header = |key: &Key<Words>| {
        let Some(name) = keys.text(key) else {
            return Ok(None);
        };
        if let Some(reserved) = taken(name) {
            return Err(takes_no_taken(&Path::Key(&path, key.head.name), &reserved));
        }
        if let Some((other, _)) = earlier.iter().find(|(_, other)| *other == name) {
            let own = key.head.name;
            return Err(takes(
                &path,
                &format!(
                    "header names that differ from each other: {other} and {own} have the same"
                ),
            ));
        }
        earlier.push((key.head.name, name));
        Ok(Some(name.to_owned()))
    };
    Ok(IdentityHeaders {
        user_id: header(&table::USER_ID_HEADER)?,
        device_id: header(&table::DEVICE_ID_HEADER)?,
        client_id: header(&table::CLIENT_ID_HEADER)?,
        scope: header(&table::SCOPE_HEADER)?,
        token_kind: header(&table::TOKEN_KIND_HEADER)?,
    })
}

fn takes_no_taken(path: &Path<'_>, Taken { name, why }: &Taken) -> ConfigError {
    let names = if name.ends_with('-') {
        "names that begin with"
    } else {
        "the name"
    };
    let form = text::HEADER_NAME.takes;
    takes(
        path,
        &format!("{form}; {names} \"{name}\" cannot be had: {why}"),
    )
}

fn endpoints(keys: Members<'_>) -> Endpoints {
    let rules = keys.list(&table::ENDPOINTS).iter();
    Endpoints::new(rules.map(|rule| endpoint_rule(Members::of(rule))).collect())
}

fn endpoint_rule(keys: Members<'_>) -> Rule {
    let path = match keys.text(&table::PREFIX) {
        Some(prefix) => PathMatch::Prefix(prefix.to_owned()),
        None => PathMatch::Exact(keys.string(&table::EXACT)),
    };
    let methods = keys.list(&table::METHODS).iter();
    let methods: Vec<_> = methods
        .map(|method| table::METHOD.read(Some(method)))
        .collect();
    Rule {
        path,
        methods: (!methods.is_empty()).then_some(methods),
        requirement: keys.choice(&table::AUTH),
    }
}

fn unknown_token_budget(keys: Members<'_>) -> Option<UnknownTokenBudget> {
    let keys = keys.present(&table::UNKNOWN_TOKEN_BUDGET)?;
    Some(UnknownTokenBudget {
        per_source: keys.number(&table::PER_SOURCE),
        window: keys.duration(&table::WINDOW),
    })
}
