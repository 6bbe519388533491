//! matrix-edge-auth: token introspection at the edge for Matrix homeservers.
//!
//! An Envoy proxy-wasm HTTP filter that asks Matrix Authentication Service (MAS) whose an access token is,
//! at most once per token and TTL for a whole Envoy process, and rejects or annotates client requests
//! before they reach the homeserver.
//!
//! # Three verdicts
//!
//! *Active* and *inactive* are what MAS says ([`mas::introspection`]). Whatever else happens is *no
//! verdict*: a `401 M_UNKNOWN_TOKEN` makes a client destroy its session, so a fault never becomes one.
//!
//! # Map
//!
//! | module | room for |
//! |---|---|
//! | [`config`] | the plugin configuration, checked |
//! | [`matrix`] | the client-server API: endpoints, credentials, identities, replies |
//! | [`mas`] | tokens, introspection, and what MAS tells the homeserver |
//! | [`cache`] | entries, the shared table, single-flight, revocation |
//! | [`gate`] | the gateway role's decisions, pure |
//! | [`responder`] | the introspection role's decisions, pure |
//! | [`form`] | `application/x-www-form-urlencoded` |
//! | [`worker`] | one worker: requests, cache and introspections together |
//! | [`metrics`] | what is counted |
//! | [`host`], [`clock`] | the seam to the proxy, and time |
//! | `envoy` | the proxy-wasm adapter; the only code that knows the SDK |

#![cfg_attr(not(target_os = "wasi"), forbid(unsafe_code))]
// A panic kills the worker's VM and leaves the requests it held without an answer.
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used
)]
#![cfg_attr(not(test), deny(clippy::string_slice))]

pub mod cache;
pub mod clock;
pub mod config;
#[cfg(target_os = "wasi")]
mod envoy;
pub mod form;
pub mod gate;
pub mod host;
pub mod mas;
pub mod matrix;
pub mod metrics;
pub mod responder;
pub mod worker;
