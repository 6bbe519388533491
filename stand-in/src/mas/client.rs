//! OAuth 2.0 clients and how a caller of introspection or revocation proves who it is (RFC 6749, section 2.3).
//!
//! The order of the checks is MAS's and shows in its answers: the Authorization header, the form,
//! the combination of the two, and last the secret.

use std::{collections::HashMap, fmt};

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use http::{HeaderMap, header};

use super::reply::Reply;

/// A client that MAS knows, with the way it authenticates. `Debug` does not show its secret.
#[derive(Clone)]
pub struct Client {
    pub(super) id: String,
    method: Method,
}

#[derive(Clone)]
enum Method {
    Basic(String),
    Post(String),
    Public,
}

impl Client {
    /// A confidential client that uses `client_secret_basic`.
    pub fn basic(id: &str, secret: &str) -> Self {
        Self {
            id: id.to_owned(),
            method: Method::Basic(secret.to_owned()),
        }
    }

    /// A confidential client that uses `client_secret_post`.
    pub fn post(id: &str, secret: &str) -> Self {
        Self {
            id: id.to_owned(),
            method: Method::Post(secret.to_owned()),
        }
    }

    /// A public client: it names itself, and may revoke but not introspect.
    pub fn public(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            method: Method::Public,
        }
    }

    pub(super) const fn is_public(&self) -> bool {
        matches!(self.method, Method::Public)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Basic(_) => "client_secret_basic",
            Method::Post(_) => "client_secret_post",
            Method::Public => "none",
        };
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("method", &method)
            .finish()
    }
}

/// The credential that a request presents, not yet checked.
pub(super) enum Credential {
    Bearer(String),
    Basic { id: String, secret: String },
    Post { id: String, secret: String },
    Public { id: String },
}

/// The form that came with it: decoded once, each name at most once.
pub(super) struct Form(HashMap<String, String>);

impl Form {
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// A request's body as far as MAS reads it.
pub(super) enum Body {
    Complete(Bytes),
    /// Longer than MAS takes.
    TooLong,
}

/// Reads credential and form from a request. The form is absent if the content type is another, and refused without the
/// field `required`.
pub(super) fn authorization(
    headers: &HeaderMap,
    body: &Body,
    required: &str,
) -> Result<(Credential, Option<Form>), Reply> {
    let from_header = headers
        .get(header::AUTHORIZATION)
        .map(|value| from_header(value.as_bytes()))
        .transpose()?;
    let form = form(headers, body, required)?;
    let id = form
        .as_ref()
        .and_then(|form| form.value("client_id"))
        .map(str::to_owned);
    let secret = form
        .as_ref()
        .and_then(|form| form.value("client_secret"))
        .map(str::to_owned);
    let credential = match (from_header, id, secret) {
        (Some(Credential::Basic { id: in_header, .. }), Some(in_form), None)
            if in_header != in_form =>
        {
            return Err(Reply::client_id_mismatch(&in_header, &in_form));
        }
        (Some(basic @ Credential::Basic { .. }), _, None) => basic,
        (Some(bearer @ Credential::Bearer(_)), None, None) => bearer,
        (None, Some(id), Some(secret)) => Credential::Post { id, secret },
        (None, Some(id), None) => Credential::Public { id },
        (None, None, None) => {
            return Err(Reply::oauth(
                400,
                "invalid_request",
                "No credentials were presented",
            ));
        }
        _ => return Err(Reply::invalid_request()),
    };
    Ok((credential, form))
}

/// The client that `credential` proves itself to be.
pub(super) fn authenticate<'c>(
    clients: &'c [Client],
    credential: &Credential,
) -> Result<&'c Client, Reply> {
    let find = |id: &str| {
        clients
            .iter()
            .find(|client| client.id == id)
            .ok_or_else(|| Reply::oauth(401, "invalid_client", "Client authentication failed."))
    };
    let (client, matches) = match credential {
        // A bearer is no client.
        Credential::Bearer(_) => {
            return Err(Reply::oauth(
                401,
                "invalid_client",
                "Client authentication failed.",
            ));
        }
        Credential::Basic { id, secret } => {
            let client = find(id)?;
            (
                client,
                if let Method::Basic(expected) = &client.method {
                    Some(secret == expected)
                } else {
                    None
                },
            )
        }
        Credential::Post { id, secret } => {
            let client = find(id)?;
            (
                client,
                if let Method::Post(expected) = &client.method {
                    Some(secret == expected)
                } else {
                    None
                },
            )
        }
        Credential::Public { id } => {
            let client = find(id)?;
            (client, client.is_public().then_some(true))
        }
    };
    match matches {
        Some(true) => Ok(client),
        Some(false) => Err(Reply::oauth(
            401,
            "invalid_client",
            "client secret did not match",
        )),
        None => Err(Reply::oauth(
            401,
            "invalid_client",
            "authentication method mismatch",
        )),
    }
}

/// The bearer of an Authorization value, scheme in any case; `None` for every other value.
pub(super) fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = value.split_at_checked(7)?;
    let token = std::str::from_utf8(token).ok()?.trim_start();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn from_header(value: &[u8]) -> Result<Credential, Reply> {
    let invalid = || Reply::oauth(400, "invalid_request", "Invalid Authorization header");
    if let Some(token) = bearer(value) {
        return Ok(Credential::Bearer(token.to_owned()));
    }
    let (scheme, encoded) = value.split_at_checked(6).ok_or_else(invalid)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return Err(invalid());
    }
    let decoded = std::str::from_utf8(encoded)
        .ok()
        .and_then(|encoded| Base64::decode_vec(encoded.trim()).ok())
        .and_then(|decoded| String::from_utf8(decoded).ok())
        .ok_or_else(invalid)?;
    let (id, secret) = decoded.split_once(':').ok_or_else(invalid)?;
    Ok(Credential::Basic {
        id: id.to_owned(),
        secret: secret.to_owned(),
    })
}

fn form(headers: &HeaderMap, body: &Body, required: &str) -> Result<Option<Form>, Reply> {
    let is_form = headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let essence = value
            .as_bytes()
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        essence
            .trim_ascii()
            .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    });
    if !is_form {
        return Ok(None);
    }
    let Body::Complete(body) = body else {
        return Err(Reply::server_error(
            "Failed to buffer the request body: length limit exceeded",
        ));
    };
    let mut form = HashMap::new();
    for (name, value) in form_urlencoded::parse(body) {
        let repeated = form
            .insert(name.clone().into_owned(), value.into_owned())
            .is_some();
        if repeated && FIELDS.contains(&name.as_ref()) {
            return Err(Reply::server_error(&format!(
                "Failed to deserialize form body: duplicate field `{name}`"
            )));
        }
    }
    if !form.contains_key(required) {
        return Err(Reply::server_error(&format!(
            "Failed to deserialize form body: missing field `{required}`"
        )));
    }
    Ok(Some(Form(form)))
}

/// The fields that may not be repeated; others are ignored.
const FIELDS: [&str; 6] = [
    "token",
    "token_type_hint",
    "client_id",
    "client_secret",
    "client_assertion_type",
    "client_assertion",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearers() {
        assert_eq!(bearer(b"Bearer x"), Some("x"));
        assert_eq!(bearer(b"BEARER x"), Some("x"));
        for other in [
            b"Bearer".as_slice(),
            b"Bearer ",
            b"",
            b"Basic eDp5",
            b"Bearer \xff",
        ] {
            assert_eq!(bearer(other), None, "{other:?}");
        }
    }

    #[test]
    fn basic_needs_a_colon_and_base64() {
        assert!(
            matches!(from_header(b"basic eDp5Og=="), Ok(Credential::Basic { id, secret }) if id == "x" && secret == "y:")
        );
        for other in [
            b"Basic eA==".as_slice(),
            b"Basic !!!",
            b"Digest x",
            b"Basic",
            b"",
        ] {
            assert!(from_header(other).is_err(), "{other:?}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        assert!(!format!("{:?}", Client::basic("id", "hush")).contains("hush"));
    }
}
