//! A real Synapse with worker processes, and an Envoy with the module between them, their clients and
//! the stand-in MAS.
//!
//! Needs Synapse, PostgreSQL, Redis, Envoy and `dist/matrix-edge-auth.wasm`: `make test-workers` sees to
//! all of them.

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
    pub mod switch;
    pub mod synapse;
}

mod compose;
mod introspections;
mod rig;
mod runbook;
