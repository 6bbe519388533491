//! The key `introspection`: where MAS is, how it is asked, and the credential of the edge.
//!
//! The non-obvious rule: a secret in an environment variable is known only inside Envoy, so it is checked here, and
//! not by the table of keys.

use alloc::{borrow::ToOwned, format, string::String};

use super::{
    ConfigError,
    check::takes,
    members::Members,
    path::Path,
    table,
    text::{self, is_secret},
};
use crate::mas::introspection::{ClientCredential, Settings};

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

/// Reads the key.
pub(super) fn introspection(
    keys: Members<'_>,
    env: Environment<'_>,
) -> Result<Introspection, ConfigError> {
    let cluster = keys.string(&table::CLUSTER);
    let authority = keys.text(&table::AUTHORITY).unwrap_or(&cluster).to_owned();
    let Given {
        credential,
        is_visible: has_visible_secret,
    } = credential(keys.object(&table::CREDENTIAL), env)?;
    let settings = Settings {
        cluster,
        authority,
        path: keys.string(&table::PATH),
        timeout: keys.duration(&table::TIMEOUT),
        credential,
        max_in_flight: keys.number(&table::MAX_IN_FLIGHT) as usize,
        retries: keys.number(&table::RETRIES),
        shard_by_token: keys.boolean(&table::SHARD_BY_TOKEN),
    };
    Ok(Introspection {
        settings,
        has_visible_secret,
    })
}

/// A credential as the configuration gives it.
struct Given {
    credential: ClientCredential,
    /// Its secret stands in the configuration itself.
    is_visible: bool,
}

fn credential(keys: Members<'_>, env: Environment<'_>) -> Result<Given, ConfigError> {
    let introspection = Path::Key(&Path::Root, table::INTROSPECTION.head.name);
    let path = Path::Key(&introspection, table::CREDENTIAL.head.name);
    if let Some(bearer) = keys.present(&table::BEARER) {
        let secret = secret(bearer, &Path::Key(&path, table::BEARER.head.name), env)?;
        Ok(Given {
            credential: ClientCredential::bearer(&secret.text),
            is_visible: secret.is_visible,
        })
    } else if let Some(basic) = keys.present(&table::BASIC) {
        let path = Path::Key(&path, table::BASIC.head.name);
        let secret = secret(
            basic.object(&table::CLIENT_SECRET),
            &Path::Key(&path, table::CLIENT_SECRET.head.name),
            env,
        )?;
        let client_id = basic.string(&table::CLIENT_ID);
        Ok(Given {
            credential: ClientCredential::basic(&client_id, &secret.text),
            is_visible: secret.is_visible,
        })
    } else {
        Ok(Given {
            credential: ClientCredential::Injected,
            is_visible: false,
        })
    }
}

fn secret(keys: Members<'_>, path: &Path<'_>, env: Environment<'_>) -> Result<Secret, ConfigError> {
    let Some(name) = keys.text(&table::ENV) else {
        return Ok(Secret {
            text: keys.string(&table::VALUE),
            is_visible: true,
        });
    };
    let text = env(name).filter(|text| is_secret(text));
    let text = text.ok_or_else(|| {
        let secret = text::SECRET.takes;
        takes(
            &Path::Key(path, table::ENV.head.name),
            &format!(
                "an environment variable that holds {secret}: export it where Envoy starts, and list it in \
                 vm_config.environment_variables.host_env_keys"
            ),
        )
    })?;
    Ok(Secret {
        text,
        is_visible: false,
    })
}
