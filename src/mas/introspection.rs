//! Token introspection, RFC 7662: the request that Synapse sends to MAS, and what its answer means.
//!
//! The non-obvious rule: *inactive* is what MAS says with `200`, JSON and a boolean `active: false`.
//! Whatever else comes back says nothing about the token and is [`NoVerdict`]; taking it for "inactive"
//! would log people out whenever MAS is unwell.
//!
//! Two request fields decide whether the answer can be believed at all. Without
//! `token_type_hint=access_token` MAS calls a refresh token active; without `X-MAS-Supports-Device-Id: 1`
//! it calls a valid compat token inactive when its device id is not scope-safe.

mod lifetime;
mod members;
mod no_verdict;
mod request;
mod response;
mod settings;
mod stored;

pub use self::{
    lifetime::{LIFETIME, Lifetime},
    no_verdict::{ConnectionFault, NoVerdict},
    request::{
        DEVICE_ID_SUPPORT, HINT, IntrospectionRequest, REQUEST_ID, TRACE_PARENT, TRACE_STATE,
        fixed_headers,
    },
    response::{
        ActiveAnswer, ActiveToken, Answer, InactiveAnswer, IntrospectionResponse,
        MAX_RESPONSE_BYTES, read,
    },
    settings::{Asker, ClientCredential, MAX_RETRIES, OwnCredential, Settings},
};
