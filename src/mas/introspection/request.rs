//! The introspection request, RFC 7662 section 2.1, as Synapse sends it.
//!
//! A question may be asked twice, since it changes nothing: a call whose connection failed is repeated, see
//! [`crate::resolver`]. Envoy is told to do so where each token has a member of a fleet that is asked about it.

use alloc::{string::String, vec, vec::Vec};
use core::fmt;

use super::{MAX_RETRIES, Settings};
use crate::{text::form, token::AccessToken};

/// The form field without which MAS calls a refresh token active.
pub const HINT: (&str, &str) = ("token_type_hint", "access_token");

/// [`HINT`] as it stands in the form.
const HINT_FIELD: &[u8] = b"&token_type_hint=access_token";

/// The header without which MAS calls some valid compat tokens inactive.
pub const DEVICE_ID_SUPPORT: (&str, &str) = ("x-mas-supports-device-id", "1");

/// A header of the client's request that travels along, so that one trace shows both requests.
pub const TRACE_PARENT: &str = "traceparent";

/// Another, beside [`TRACE_PARENT`].
pub const TRACE_STATE: &str = "tracestate";

/// Another: Envoy's own.
pub const REQUEST_ID: &str = "x-request-id";

const AUTHORITY: &str = ":authority";

/// The header by which Envoy learns when to repeat a call, and its value: whenever MAS has not begun to answer, since the
/// connection could not be made or was lost, or the stream was refused. No status is among the reasons. Envoy removes both
/// headers before it sends the call, and its timeout covers all repetitions. This is for fleets, see
/// [`Settings::envoys_retries`].
const RETRY_ON: (&str, &str) = ("x-envoy-retry-on", "reset");

/// The header by which Envoy learns how often, if that is not once.
const RETRIES: &str = "x-envoy-max-retries";

const _: () = assert!(MAX_RETRIES == 2, "what this file can write");

/// `POST /oauth2/introspect` for one token. `Debug` shows neither token nor credential.
pub struct IntrospectionRequest<'a> {
    settings: &'a Settings,
    /// `:authority`, if each token has its own.
    authority: Option<String>,
    body: Vec<u8>,
    trace: &'a [(&'static str, String)],
}

impl<'a> IntrospectionRequest<'a> {
    /// The request for `token`. `trace` holds those of
    /// [`TRACE_PARENT`], [`TRACE_STATE`] and [`REQUEST_ID`] that are present.
    pub fn new(
        settings: &'a Settings,
        token: &AccessToken<'_>,
        trace: &'a [(&'static str, String)],
    ) -> Self {
        Self {
            settings,
            authority: settings.authority_of(token.as_bytes()),
            body: form_body(token.as_bytes()),
            trace,
        }
    }

    /// The Envoy cluster that MAS is reached through.
    pub fn cluster(&self) -> &str {
        &self.settings.cluster
    }

    /// Returns those of the headers that [`fixed_headers`] lacks.
    pub fn own_headers(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let authority = self.authority.iter();
        let trace = self.trace.iter();
        authority
            .map(|authority| (AUTHORITY, authority.as_str()))
            .chain(trace.map(|(name, value)| (*name, value.as_str())))
    }

    /// The form: the token re-encoded, so that no byte of it can become another form field.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

impl fmt::Debug for IntrospectionRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionRequest")
            .field("cluster", &self.cluster())
            .finish_non_exhaustive()
    }
}

/// Returns the pseudo-headers and headers that all requests with these settings have, as Synapse sends them.
pub fn fixed_headers(settings: &Settings) -> Vec<(&str, &str)> {
    let mut headers = vec![
        (":method", "POST"),
        (":path", &*settings.path),
        ("accept", "application/json"),
        ("content-type", form::FORM),
        DEVICE_ID_SUPPORT,
    ];
    if !settings.shard_by_token {
        headers.push((AUTHORITY, &settings.authority));
    }
    if let Some(authorization) = settings.credential.authorization() {
        headers.push(("authorization", authorization));
    }
    match settings.envoys_retries() {
        0 => {}
        // Envoy repeats a call once without being told how often.
        1 => headers.push(RETRY_ON),
        _ => headers.extend([RETRY_ON, (RETRIES, "2")]),
    }
    headers
}

fn form_body(token: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(token.len() + 64);
    body.extend_from_slice(b"token=");
    form::encode(token, &mut body);
    body.extend_from_slice(HINT_FIELD);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_stands_in_the_form_as_it_is() {
        let (name, value) = HINT;
        assert_eq!(HINT_FIELD, format!("&{name}={value}").as_bytes());
        let body = form_body(b"mat_a&b");
        assert_eq!(body, [&b"token=mat_a%26b"[..], HINT_FIELD].concat());
    }
}
