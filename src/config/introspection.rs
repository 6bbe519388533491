//! The key `introspection`: where MAS is, how it is asked, and the credential of the edge.
//!
//! The non-obvious rule: inside `credential` an error repeats nothing that was given, not even an unknown key.

use std::time::Duration;

use super::{
    ConfigError,
    host_name::is_authority,
    reader::{Entry, boolean, integer},
};
use crate::mas::introspection::{Credential, MAX_RETRIES, Settings};

/// Looks an environment variable of the VM up.
type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// What the key holds.
pub(super) struct Introspection {
    /// How MAS is asked.
    pub settings: Settings,
    /// Whether the secret stands in the configuration itself.
    pub has_visible_secret: bool,
}

/// A secret, and where it was.
struct Secret {
    text: String,
    is_visible: bool,
}

const CLUSTER: &str = "the name of the Envoy cluster of MAS";
const AUTHORITY: &str =
    r#"a host name such as "auth.example.org", with or without a port, and nothing else of a URL"#;
const PATH: &str =
    r#"a path that starts with "/", such as "/oauth2/introspect", without a query or fragment"#;
const CREDENTIAL: &str =
    "exactly one of {bearer: S}, {basic: {client_id, client_secret: S}} and {injected: true}";
const BASIC: &str = "{client_id, client_secret: S}";
const CLIENT_ID: &str =
    "the client's id in visible ASCII, without a colon, which would end it in the credential";
const SECRET: &str = r#"{env: "NAME"} or {value: "..."}"#;
const VARIABLE: &str = "the name of an environment variable";
const VARIABLE_VALUE: &str = "an environment variable that holds visible ASCII, without white space around it; Envoy \
                              must pass it on: list it in vm_config.environment_variables.host_env_keys";
const VALUE: &str = "a secret of visible ASCII characters, without white space around it";

/// Reads the key.
pub(super) fn introspection(
    entry: &Entry<'_>,
    env: Environment<'_>,
) -> Result<Introspection, ConfigError> {
    let mut keys = entry.section("an object")?;
    let cluster = keys
        .required("cluster", CLUSTER)?
        .string(CLUSTER, is_cluster)?
        .to_owned();
    let authority = match keys.key("authority") {
        Some(authority) => authority.string(AUTHORITY, is_authority)?.to_owned(),
        None => cluster.clone(),
    };
    let path = match keys.key("path") {
        Some(path) => path.string(PATH, is_path)?.to_owned(),
        None => "/oauth2/introspect".to_owned(),
    };
    let millisecond = Duration::from_millis(1);
    let timeout = match keys.key("timeout") {
        Some(timeout) => timeout.duration(millisecond..=Duration::from_secs(60))?,
        None => Duration::from_secs(5),
    };
    let (credential, has_visible_secret) =
        credential(&keys.required("credential", CREDENTIAL)?, env)?;
    let max_in_flight = integer(keys.key("max_in_flight"), 1..=65_536, 256)?;
    let retries = integer(keys.key("retries"), 0..=MAX_RETRIES, 1)?;
    let shard_by_token = boolean(keys.key("shard_by_token"), false)?;
    keys.finish()?;
    let settings = Settings {
        cluster,
        authority,
        path,
        timeout,
        credential,
        max_in_flight: max_in_flight as usize,
        retries,
        shard_by_token,
    };
    Ok(Introspection {
        settings,
        has_visible_secret,
    })
}

/// Envoy takes nearly every name. It is also the authority, where none is given.
fn is_cluster(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

fn is_path(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_graphic() && b != b'?' && b != b'#';
    text.starts_with('/') && text.bytes().all(is_allowed)
}

fn credential(entry: &Entry<'_>, env: Environment<'_>) -> Result<(Credential, bool), ConfigError> {
    let mut keys = entry.section(CREDENTIAL)?;
    let (bearer, basic, injected) = (keys.key("bearer"), keys.key("basic"), keys.key("injected"));
    keys.finish_unnamed(entry.takes(CREDENTIAL))?;
    match (bearer, basic, injected) {
        (Some(bearer), None, None) => {
            let secret = secret(&bearer, env)?;
            Ok((Credential::bearer(&secret.text), secret.is_visible))
        }
        (None, Some(basic), None) => {
            let mut keys = basic.section(BASIC)?;
            let client_id = keys
                .required("client_id", CLIENT_ID)?
                .string(CLIENT_ID, |text| is_sendable(text) && !text.contains(':'))?;
            let secret = secret(&keys.required("client_secret", SECRET)?, env)?;
            keys.finish_unnamed(basic.takes(BASIC))?;
            Ok((
                Credential::basic(client_id, &secret.text),
                secret.is_visible,
            ))
        }
        (None, None, Some(injected)) => match injected.boolean() {
            Ok(true) => Ok((Credential::Injected, false)),
            _ => Err(injected.takes("true")),
        },
        _ => Err(entry.takes(CREDENTIAL)),
    }
}

fn secret(entry: &Entry<'_>, env: Environment<'_>) -> Result<Secret, ConfigError> {
    let mut keys = entry.section(SECRET)?;
    let (variable, value) = (keys.key("env"), keys.key("value"));
    keys.finish_unnamed(entry.takes(SECRET))?;
    let (place, text, takes) = match (&variable, &value) {
        (Some(variable), None) => {
            let name = variable.string(VARIABLE, |text| {
                !text.is_empty() && !text.contains(['=', '\0'])
            })?;
            (variable, env(name), VARIABLE_VALUE)
        }
        (None, Some(value)) => {
            let text = value.string(VALUE, |_| true)?;
            (value, Some(text.to_owned()), VALUE)
        }
        _ => return Err(entry.takes(SECRET)),
    };
    let text = text
        .filter(|text| is_sendable(text))
        .ok_or_else(|| place.takes(takes))?;
    if has_scheme(&text) {
        return Err(place.takes(
            "the secret alone; the module itself puts the scheme, Bearer or Basic, before it",
        ));
    }
    Ok(Secret {
        text,
        is_visible: value.is_some(),
    })
}

/// Visible ASCII, and spaces between.
fn is_sendable(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}

/// Whether `secret` is a whole `authorization` value.
fn has_scheme(secret: &str) -> bool {
    let scheme = secret.split(' ').next().unwrap_or_default();
    scheme.len() < secret.len()
        && ["bearer", "basic"]
            .iter()
            .any(|name| scheme.eq_ignore_ascii_case(name))
}
