//! The configuration's keys: what each takes, and its default.

use std::{rc::Rc, time::Duration};

use serde_json::Value;

use super::{
    Cache, Config, ConfigError, DEVICE_ID, FormTokens, IdentityHeaders, Mode, OnFailure,
    QueryToken, Role, USER_ID, UnknownTokenBudget, UnrecognizedTokens,
    header_name::{self, Unusable},
    host_name::is_server_name,
    introspection::{Introspection, introspection},
    json, proto_struct,
    reader::{Entry, Section, boolean, choice, integer},
};
use crate::matrix::endpoint::{AuthRequirement, Endpoints, Method, PathMatch, Rule};

const MAX_SLOTS: u32 = 1 << 22;
const HOUR: Duration = Duration::from_secs(3600);

/// Reads a plugin configuration: JSON (Envoy's `StringValue` and `BytesValue`) or a serialised `Struct`.
/// `env` looks an environment variable of the VM up.
pub fn parse(bytes: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let value = decode(bytes)?;
    let mut keys = Section::root(&value)?;
    let role = choice(
        keys.key("role"),
        &[
            ("gateway", Role::Gateway),
            ("introspection", Role::Introspection),
            ("provisioning", Role::Provisioning),
        ],
        Role::Gateway,
    )?;
    let server_name = match (keys.key("server_name"), role) {
        (Some(name), _) => server_name(&name)?,
        (None, Role::Introspection) => String::new(),
        (None, _) => return Err(keys.is_required("server_name", SERVER_NAME)),
    };
    let Introspection {
        settings,
        has_visible_secret,
    } = introspection(&keys.required("introspection", "an object")?, env)?;
    let cache = cache(keys.key("cache"))?;
    let mode = choice(
        keys.key("mode"),
        &[("enforce", Mode::Enforce), ("shadow", Mode::Shadow)],
        Mode::Enforce,
    )?;
    let on_introspection_failure = choice(
        keys.key("on_introspection_failure"),
        &[("reject", OnFailure::Reject), ("pass", OnFailure::Pass)],
        OnFailure::Reject,
    )?;
    let unrecognized_tokens = choice(
        keys.key("unrecognized_tokens"),
        &[
            ("pass", UnrecognizedTokens::Pass),
            ("introspect", UnrecognizedTokens::Introspect),
            ("reject", UnrecognizedTokens::Reject),
        ],
        UnrecognizedTokens::Pass,
    )?;
    let appservice_tokens = appservice_tokens(keys.key("appservice_tokens"))?;
    let query_token = choice(
        keys.key("query_token"),
        &[
            ("accept", QueryToken::Accept),
            ("reject", QueryToken::Reject),
        ],
        QueryToken::Accept,
    )?;
    let form_tokens = choice(
        keys.key("form_tokens"),
        &[("pass", FormTokens::Pass), ("reject", FormTokens::Reject)],
        FormTokens::Pass,
    )?;
    let identity_headers = identity_headers(keys.key("identity_headers"))?;
    let filter_state = boolean(keys.key("filter_state"), false)?;
    let learn_from_refusals = boolean(keys.key("learn_from_refusals"), true)?;
    let endpoints = endpoints(keys.key("endpoints"))?.with_introspection_at(&settings.path);
    let unknown_token_budget = unknown_token_budget(keys.key("unknown_token_budget"))?;
    keys.finish()?;
    Ok(Config {
        role,
        server_name,
        introspection: Rc::new(settings),
        has_visible_secret,
        cache,
        mode,
        on_introspection_failure,
        unrecognized_tokens,
        appservice_tokens,
        query_token,
        form_tokens,
        identity_headers,
        filter_state,
        learn_from_refusals,
        endpoints,
        unknown_token_budget,
    })
}

/// The object that `bytes` hold, in one of the two encodings.
fn decode(bytes: &[u8]) -> Result<Value, ConfigError> {
    let error = match json::decode(bytes) {
        Ok(value) => return Ok(value),
        Err(error) if error.is_data() => return Err(ConfigError(error.to_string())),
        Err(error) => error,
    };
    proto_struct::decode(bytes)
        .filter(|_| !bytes.is_empty())
        .ok_or_else(|| {
            ConfigError(format!(
                "the configuration takes a JSON object or a Struct: {error}"
            ))
        })
}

const SERVER_NAME: &str =
    r#"the homeserver's server_name, such as "example.org" or "example.org:8448""#;

fn server_name(entry: &Entry<'_>) -> Result<String, ConfigError> {
    entry.string(SERVER_NAME, is_server_name).map(str::to_owned)
}

fn cache(entry: Option<Entry<'_>>) -> Result<Cache, ConfigError> {
    let mut cache = Cache {
        ttl: Duration::from_secs(120),
        negative_ttl: Duration::from_secs(10),
        slots: 65_536,
        negative_slots: 8_192,
        stale_if_error: Duration::ZERO,
        refresh_ahead: true,
        local_entries: 4_096,
    };
    let Some(entry) = entry else {
        return Ok(cache);
    };
    let mut keys = entry.section("an object")?;
    if let Some(ttl) = keys.key("ttl") {
        cache.ttl = ttl.duration(Duration::from_secs(1)..=HOUR)?;
    }
    if let Some(ttl) = keys.key("negative_ttl") {
        cache.negative_ttl = ttl.duration(Duration::ZERO..=Duration::from_secs(120))?;
    }
    cache.slots = integer(keys.key("slots"), 1..=MAX_SLOTS, cache.slots)?;
    cache.negative_slots = integer(
        keys.key("negative_slots"),
        1..=MAX_SLOTS,
        cache.negative_slots,
    )?;
    if let Some(limit) = keys.key("stale_if_error") {
        cache.stale_if_error = limit.duration(Duration::ZERO..=HOUR)?;
    }
    cache.refresh_ahead = boolean(keys.key("refresh_ahead"), cache.refresh_ahead)?;
    cache.local_entries = integer(keys.key("local_entries"), 0..=1_048_576, 4_096)? as usize;
    keys.finish()?;
    Ok(cache)
}

fn appservice_tokens(entry: Option<Entry<'_>>) -> Result<Vec<[u8; 32]>, ConfigError> {
    const LIST: &str = "a list of SHA-256 digests of tokens";
    const DIGEST: &str = "the SHA-256 of an appservice token as 64 lower-case hex digits";
    let Some(entry) = entry else {
        return Ok(Vec::new());
    };
    let mut digests = Vec::new();
    for item in entry.items(LIST)? {
        let text = item.string(DIGEST, |_| true)?;
        let mut digest = [0; 32];
        base16_lower(text, &mut digest).ok_or_else(|| item.takes(DIGEST))?;
        if let Err(at) = digests.binary_search(&digest) {
            digests.insert(at, digest);
        }
    }
    Ok(digests)
}

fn base16_lower(text: &str, out: &mut [u8; 32]) -> Option<()> {
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * out.len() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(())
}

fn identity_headers(entry: Option<Entry<'_>>) -> Result<IdentityHeaders, ConfigError> {
    let mut headers = IdentityHeaders {
        user_id: Some(USER_ID.to_owned()),
        device_id: Some(DEVICE_ID.to_owned()),
        ..IdentityHeaders::default()
    };
    let Some(entry) = entry else {
        return Ok(headers);
    };
    let mut keys = entry.section("an object of header names")?;
    let mut taken = Vec::new();
    for (key, name) in [
        ("user_id", &mut headers.user_id),
        ("device_id", &mut headers.device_id),
        ("client_id", &mut headers.client_id),
        ("scope", &mut headers.scope),
        ("token_kind", &mut headers.token_kind),
    ] {
        match keys.key(key) {
            None => {}
            Some(entry) if entry.is_null() => *name = None,
            Some(entry) => *name = Some(identity_header(&entry)?),
        }
        if let Some(name) = name {
            if taken.contains(name) {
                return Err(entry.takes("header names that differ from each other"));
            }
            taken.push(name.clone());
        }
    }
    keys.finish()?;
    Ok(headers)
}

fn identity_header(entry: &Entry<'_>) -> Result<String, ConfigError> {
    const NAME: &str = "a header name of its own, such as \"x-matrix-user-id\" (\"x-\", then lower-case letters, \
                        digits and hyphens), or null";
    let name = entry.string(NAME, |_| true)?;
    match header_name::unusable(name) {
        None => Ok(name.to_owned()),
        Some(Unusable::Form) => Err(entry.takes(NAME)),
        Some(Unusable::Taken { name, why }) => {
            let names = if name.ends_with('-') {
                "names that begin with"
            } else {
                "the name"
            };
            Err(entry.takes(&format!("{NAME}; {names} \"{name}\" cannot be had: {why}")))
        }
    }
}

fn endpoints(entry: Option<Entry<'_>>) -> Result<Endpoints, ConfigError> {
    const RULES: &str = "a list of {prefix | exact, methods, auth}";
    let Some(entry) = entry else {
        return Ok(Endpoints::default());
    };
    let mut rules = Vec::new();
    for item in entry.items(RULES)? {
        rules.push(endpoint_rule(&item)?);
    }
    Ok(Endpoints::new(rules))
}

fn endpoint_rule(entry: &Entry<'_>) -> Result<Rule, ConfigError> {
    const RULE: &str =
        "{prefix | exact: \"/...\", methods: [..], auth: ..}, with one of prefix and exact";
    const PATH: &str = "a path that starts with \"/\", without a query";
    let mut keys = entry.section(RULE)?;
    let is_path = |text: &str| {
        text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'?')
    };
    let path = match (keys.key("prefix"), keys.key("exact")) {
        (Some(prefix), None) => PathMatch::Prefix(prefix.string(PATH, is_path)?.to_owned()),
        (None, Some(exact)) => PathMatch::Exact(exact.string(PATH, is_path)?.to_owned()),
        _ => return Err(entry.takes(RULE)),
    };
    let methods = keys
        .key("methods")
        .map(|entry| methods(&entry))
        .transpose()?;
    let requirement = keys.required("auth", AUTH)?.one_of(&[
        ("none", AuthRequirement::None),
        ("optional", AuthRequirement::Optional),
        ("required", AuthRequirement::Required),
        ("admin", AuthRequirement::Admin),
        ("foreign", AuthRequirement::Foreign),
    ])?;
    keys.finish()?;
    Ok(Rule {
        path,
        methods,
        requirement,
    })
}

const AUTH: &str = "one of none, optional, required, admin, foreign";

fn methods(entry: &Entry<'_>) -> Result<Vec<Method>, ConfigError> {
    const METHODS: &str = "a list of methods such as [\"GET\", \"POST\"], not empty";
    let mut methods = Vec::new();
    for item in entry.items(METHODS)? {
        methods.push(item.one_of(&[
            ("GET", Method::Get),
            ("POST", Method::Post),
            ("PUT", Method::Put),
            ("DELETE", Method::Delete),
            ("PATCH", Method::Patch),
        ])?);
    }
    if methods.is_empty() {
        Err(entry.takes(METHODS))
    } else {
        Ok(methods)
    }
}

fn unknown_token_budget(
    entry: Option<Entry<'_>>,
) -> Result<Option<UnknownTokenBudget>, ConfigError> {
    const BUDGET: &str = "{per_source, window} or null";
    let Some(entry) = entry.filter(|entry| !entry.is_null()) else {
        return Ok(None);
    };
    let mut keys = entry.section(BUDGET)?;
    let per_source = keys
        .required("per_source", "a whole number from 1")?
        .integer(1..=1_000_000)?;
    let window = keys
        .required("window", "a duration")?
        .duration(Duration::from_secs(1)..=HOUR)?;
    keys.finish()?;
    Ok(Some(UnknownTokenBudget { per_source, window }))
}
