//! The forms of the strings in a configuration: what each takes, and the same as a pattern for the JSON Schema.
//!
//! The function decides; the pattern is for editors and other programs. A property test holds the two against each
//! other.

use super::{
    header_name,
    host_name::{is_authority, is_server_name},
    key::TextForm,
};
#[cfg(not(target_arch = "wasm32"))]
use super::{host_name, pattern::exactly};

pub(super) static SERVER_NAME: TextForm = TextForm {
    takes: r#"the homeserver's server_name, such as "example.org" or "example.org:8448""#,
    accept: is_server_name,
    #[cfg(not(target_arch = "wasm32"))]
    pattern: || host_name::pattern("A-Za-z0-9-"),
    #[cfg(not(target_arch = "wasm32"))]
    max_length: Some(host_name::MAX_BYTES),
};

/// Envoy takes nearly every name. It is also the authority, where none is given.
pub(super) static CLUSTER: TextForm = TextForm {
    takes: "the name of the Envoy cluster of MAS",
    accept: |text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()),
    #[cfg(not(target_arch = "wasm32"))]
    pattern: || exactly("[!-~]+"),
    #[cfg(not(target_arch = "wasm32"))]
    max_length: None,
};

pub(super) static AUTHORITY: TextForm = TextForm {
    takes: r#"a host name such as "auth.example.org", with or without a port, and nothing else of a URL"#,
    accept: is_authority,
    #[cfg(not(target_arch = "wasm32"))]
    pattern: || host_name::pattern("A-Za-z0-9_-"),
    #[cfg(not(target_arch = "wasm32"))]
    max_length: Some(host_name::MAX_BYTES),
};

pub(super) static INTROSPECTION_PATH: TextForm = TextForm {
    takes: r#"a path that starts with "/", such as "/oauth2/introspect", without a query or fragment"#,
    accept: |text| is_path(text) && !text.contains('#'),
    #[cfg(not(target_arch = "wasm32"))]
    pattern: || exactly(r##"/[!"$->@-~]*"##),
    #[cfg(not(target_arch = "wasm32"))]
    max_length: None,
};

pub(super) static ENDPOINT_PATH: TextForm = TextForm {
    takes: r#"a path that starts with "/", without a query"#,
    accept: is_path,
    #[cfg(not(target_arch = "wasm32"))]
    pattern: || exactly("/[!->@-~]*"),
    #[cfg(not(target_arch = "wasm32"))]
    max_length: None,
};

pub(super) static CLIENT_ID: TextForm = TextForm {
    takes: "the client's id in visible ASCII, without a colon, which would end it in the credential",
    accept: |text| is_sendable(text) && !text.contains(':'),
    #[cfg(not(target_arch = "wasm32"))]
    pattern: || exactly("[!-9;-~]([ -9;-~]*[!-9;-~])?"),
    #[cfg(not(target_arch = "wasm32"))]
    max_length: None,
};

pub(super) static VARIABLE: TextForm = TextForm {
    takes: "the name of an environment variable",
    accept: |text| !text.is_empty() && !text.contains(['=', '\0']),
    #[cfg(not(target_arch = "wasm32"))]
    pattern: || exactly(r"[^=\u0000]+"),
    #[cfg(not(target_arch = "wasm32"))]
    max_length: None,
};

pub(super) static SECRET: TextForm = TextForm {
    takes: "the secret alone in visible ASCII, without white space around it: the module puts Bearer or \
            Basic before it",
    accept: is_secret,
    #[cfg(not(target_arch = "wasm32"))]
    pattern: || exactly("(?!([Bb][Ee][Aa][Rr][Ee][Rr]|[Bb][Aa][Ss][Ii][Cc]) )[!-~]([ -~]*[!-~])?"),
    #[cfg(not(target_arch = "wasm32"))]
    max_length: None,
};

pub(super) static DIGEST: TextForm = TextForm {
    takes: "the SHA-256 of an appservice token as 64 lower-case hex digits",
    accept: |text| base16_lower(text).is_some(),
    #[cfg(not(target_arch = "wasm32"))]
    pattern: || exactly("[0-9a-f]{64}"),
    #[cfg(not(target_arch = "wasm32"))]
    max_length: None,
};

pub(super) static HEADER_NAME: TextForm = TextForm {
    takes: "a header name of its own, such as \"x-matrix-user-id\" (\"x-\", then lower-case letters, digits and \
            hyphens), or null",
    accept: header_name::has_form,
    #[cfg(not(target_arch = "wasm32"))]
    pattern: header_name::pattern,
    #[cfg(not(target_arch = "wasm32"))]
    max_length: Some(header_name::MAX_BYTES),
};

/// Returns whether `text` is a secret that can be sent, and not a whole `authorization` value.
pub(super) fn is_secret(text: &str) -> bool {
    let has_scheme = text.split_once(' ').is_some_and(|(scheme, _)| {
        ["bearer", "basic"]
            .iter()
            .any(|name| scheme.eq_ignore_ascii_case(name))
    });
    is_sendable(text) && !has_scheme
}

/// Returns the 32 bytes that 64 lower-case hex digits stand for.
pub(super) fn base16_lower(text: &str) -> Option<[u8; 32]> {
    let nibble = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; 32];
    if text.len() != 2 * out.len() {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else { return None };
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(out)
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'?')
}

/// Visible ASCII, and spaces between.
fn is_sendable(text: &str) -> bool {
    let has_space_around = text.starts_with(' ') || text.ends_with(' ');
    !text.is_empty() && !has_space_around && text.bytes().all(|b| (0x20..0x7f).contains(&b))
}
