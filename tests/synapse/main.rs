//! The built module in a real Envoy in front of a real Synapse, both with their accounts at the
//! stand-in MAS.
//!
//! Needs Synapse, Envoy and `dist/matrix-edge-auth.wasm`: `make test` sees to all three.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test program: its helpers may fail a test too"
)]

#[path = "../support"]
#[expect(
    dead_code,
    reason = "shared by several test programs, each of which uses a part"
)]
mod support {
    pub mod envoy;
    pub mod http;
    pub mod product_time;
    pub mod synapse;
}

mod answer;
mod compose;
mod content_types;
mod extraction;
mod introspections;
mod invalidation;
mod made_up;
mod parity;
mod provisioning;
mod recorder;
mod recording;
mod replies;
mod rig;
mod servlets;
mod vectors;
