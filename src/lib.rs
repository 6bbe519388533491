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
//! | [`host`] | the seam to the proxy |
//! | [`shared_data`] | what lies in shared data under which name: key spaces, buckets, marks |
//! | [`cache`] | what MAS said, in shared data: entries, tables, voidings, epochs |
//! | [`resolver`] | whose token is this? single-flight, leases, calls, renewal, stale answers, budgets |
//! | [`role`] | the gateway, introspection and provisioning roles |
//! | [`worker`] | one worker: hands each callback to its role |
//! | `envoy` | the proxy-wasm adapter; the only code that calls the proxy. [`host::Fields`] reads the layout of its maps |
//! | `allocator` | the module's memory, block by block |
//! | [`token`] | tokens of MAS, and the digests by which this process knows them |
//! | [`text`], [`json`], [`media_type`] | readers of bytes, escapes, forms, JSON and content types, for every room |
//! | [`clock`], [`hashes`], [`maps`] | moments, hashes and maps, for every room |
//! | [`metrics`] | every metric and its labels |
//!
//! `scripts/lib/layers.py` says which room may use which.

// What the standard library adds to `core` and `alloc`, the texts of panics above all, was a twelfth of the module.
#![cfg_attr(all(target_os = "wasi", not(test)), no_std)]
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
#![cfg_attr(
    not(test),
    deny(
        clippy::alloc_instead_of_core,
        clippy::std_instead_of_alloc,
        clippy::std_instead_of_core
    )
)]

extern crate alloc;

#[cfg(target_os = "wasi")]
mod allocator;
pub mod cache;
pub mod clock;
pub mod config;
#[cfg(all(target_os = "wasi", not(test)))]
mod envoy;
pub mod hashes;
pub mod host;
pub mod json;
pub mod maps;
pub mod mas;
pub mod matrix;
pub mod media_type;
pub mod metrics;
pub mod resolver;
pub mod role;
pub mod shared_data;
pub mod text;
pub mod token;
pub mod worker;
