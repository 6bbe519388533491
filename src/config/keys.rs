//! The configuration's keys: what each takes, and its default.

use std::{rc::Rc, time::Duration};

use serde_json::Value;

use super::{
    Cache, Config, ConfigError, DEVICE_ID, IdentityHeaders, Mode, OnFailure, QueryToken, Role,
    USER_ID, UnknownTokenBudget, UnrecognizedTokens, proto_struct,
    reader::{Entry, Section},
};
use crate::{
    mas::introspection::{Credential, Settings},
    matrix::endpoint::{AuthRequirement, Endpoints, Method, PathMatch, Rule},
};

const MAX_SLOTS: u32 = 1 << 22;
const HOUR: Duration = Duration::from_secs(3600);

/// Headers that carry the request itself: an identity must not overwrite them.
const NOT_IDENTITY_HEADERS: [&str; 12] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Reads a plugin configuration: JSON (Envoy's `StringValue` and `BytesValue`) or a serialised `Struct`.
/// `env` looks an environment variable of the VM up.
pub fn parse(bytes: &[u8], env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
    let value: Value = serde_json::from_slice(bytes).or_else(|error| {
        proto_struct::decode(bytes)
            .filter(|_| !bytes.is_empty())
            .ok_or_else(|| {
                ConfigError(format!(
                    "the configuration takes a JSON object or a Struct: {error}"
                ))
            })
    })?;
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
    let introspection = Rc::new(introspection(
        &keys.required("introspection", "an object")?,
        env,
    )?);
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
    let identity_headers = identity_headers(keys.key("identity_headers"))?;
    let filter_state = boolean(keys.key("filter_state"), false)?;
    let endpoints = endpoints(keys.key("endpoints"))?.with_introspection_at(&introspection.path);
    let unknown_token_budget = unknown_token_budget(keys.key("unknown_token_budget"))?;
    keys.finish()?;
    Ok(Config {
        role,
        server_name,
        introspection,
        cache,
        mode,
        on_introspection_failure,
        unrecognized_tokens,
        appservice_tokens,
        query_token,
        identity_headers,
        filter_state,
        endpoints,
        unknown_token_budget,
    })
}

const SERVER_NAME: &str =
    r#"the homeserver's server_name, such as "example.org" or "example.org:8448""#;

/// Matrix spec, appendices, "Server Name": host and optional port, at most 255 bytes.
fn server_name(entry: &Entry<'_>) -> Result<String, ConfigError> {
    let accept = |text: &str| {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (text, None),
        };
        let host_is_valid = match host.strip_prefix('[') {
            Some(ipv6) => ipv6.strip_suffix(']').is_some_and(|ipv6| {
                !ipv6.is_empty()
                    && ipv6
                        .chars()
                        .all(|c| c.is_ascii_hexdigit() || ":.".contains(c))
            }),
            None => {
                !host.is_empty()
                    && host
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
            }
        };
        let port_is_valid = port.is_none_or(|port| {
            (1..=5).contains(&port.len()) && port.chars().all(|c| c.is_ascii_digit())
        });
        host_is_valid && port_is_valid && text.len() <= 255
    };
    entry.string(SERVER_NAME, accept).map(str::to_owned)
}

fn introspection(
    entry: &Entry<'_>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, ConfigError> {
    let mut keys = entry.section("an object")?;
    let cluster = keys
        .required("cluster", CLUSTER)?
        .string(CLUSTER, |text| !text.is_empty())?
        .to_owned();
    let authority = match keys.key("authority") {
        Some(authority) => authority
            .string(
                r#"a host name such as "auth.example.org", with or without a port"#,
                |text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()),
            )?
            .to_owned(),
        None => cluster.clone(),
    };
    let path = match keys.key("path") {
        Some(path) => path
            .string(
                r#"a path that starts with "/", such as "/oauth2/introspect""#,
                |text| text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()),
            )?
            .to_owned(),
        None => "/oauth2/introspect".to_owned(),
    };
    let millisecond = Duration::from_millis(1);
    let timeout = match keys.key("timeout") {
        Some(timeout) => timeout.duration(millisecond..=Duration::from_secs(60))?,
        None => Duration::from_secs(5),
    };
    let credential = credential(&keys.required("credential", CREDENTIAL)?, env)?;
    let max_in_flight = integer(keys.key("max_in_flight"), 1..=65_536, 256)?;
    let shard_by_token = boolean(keys.key("shard_by_token"), false)?;
    keys.finish()?;
    Ok(Settings {
        cluster,
        authority,
        path,
        timeout,
        credential,
        max_in_flight: max_in_flight as usize,
        shard_by_token,
    })
}

const CLUSTER: &str = "the name of the Envoy cluster of MAS";
const CREDENTIAL: &str =
    "exactly one of {bearer: S}, {basic: {client_id, client_secret: S}} and {injected: true}";
const SECRET: &str = r#"{env: "NAME"} or {value: "..."}"#;

fn credential(
    entry: &Entry<'_>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Credential, ConfigError> {
    let mut keys = entry.section(CREDENTIAL)?;
    let (bearer, basic, injected) = (keys.key("bearer"), keys.key("basic"), keys.key("injected"));
    keys.finish()?;
    match (bearer, basic, injected) {
        (Some(bearer), None, None) => Ok(Credential::bearer(&secret(&bearer, env)?)),
        (None, Some(basic), None) => {
            const BASIC: &str = "{client_id, client_secret: S}";
            let mut keys = basic.section(BASIC)?;
            let client_id = keys
                .required("client_id", "the client's id")?
                .string("the client's id", |text| !text.is_empty())?;
            let client_secret = secret(&keys.required("client_secret", SECRET)?, env)?;
            keys.finish()?;
            Ok(Credential::basic(client_id, &client_secret))
        }
        (None, None, Some(injected)) => match injected.boolean() {
            Ok(true) => Ok(Credential::Injected),
            _ => Err(injected.takes("true")),
        },
        _ => Err(entry.takes(CREDENTIAL)),
    }
}

fn secret(entry: &Entry<'_>, env: &dyn Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let mut keys = entry.section(SECRET)?;
    let (variable, value) = (keys.key("env"), keys.key("value"));
    keys.finish()?;
    let sendable = |text: &str| !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    match (variable, value) {
        (Some(variable), None) => {
            const VARIABLE: &str = "the name of an environment variable";
            let name = variable.string(VARIABLE, |text| {
                !text.is_empty() && !text.contains(['=', '\0'])
            })?;
            env(name).filter(|secret| sendable(secret)).ok_or_else(|| {
                variable.takes(
                    "an environment variable that holds visible ASCII; Envoy must pass it on: \
                     list it in vm_config.environment_variables.host_env_keys",
                )
            })
        }
        (None, Some(value)) => value
            .string("a secret of visible ASCII characters", sendable)
            .map(str::to_owned),
        _ => Err(entry.takes(SECRET)),
    }
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
        digests.push(digest);
    }
    digests.sort_unstable();
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
    const NAME: &str = "a lower-case header name of its own, such as \"x-matrix-user-id\", or null";
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
            Some(entry) => *name = Some(entry.string(NAME, is_identity_header)?.to_owned()),
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

fn is_identity_header(name: &str) -> bool {
    let is_token =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(is_token)
        && !NOT_IDENTITY_HEADERS.contains(&name)
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

fn choice<T: Copy>(
    entry: Option<Entry<'_>>,
    alternatives: &[(&str, T)],
    default: T,
) -> Result<T, ConfigError> {
    entry.map_or(Ok(default), |entry| entry.one_of(alternatives))
}

fn boolean(entry: Option<Entry<'_>>, default: bool) -> Result<bool, ConfigError> {
    entry.map_or(Ok(default), |entry| entry.boolean())
}

fn integer(
    entry: Option<Entry<'_>>,
    range: std::ops::RangeInclusive<u32>,
    default: u32,
) -> Result<u32, ConfigError> {
    entry.map_or(Ok(default), |entry| entry.integer(range))
}
