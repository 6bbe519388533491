//! Real clients at the built module in a real Envoy, before a real Synapse with its accounts at the stand-in MAS: a page in
//! Chromium, matrix-js-sdk and matrix-nio.
//!
//! Needs Chromium, Node, both libraries, Synapse, Envoy and `dist/matrix-edge-auth.wasm`: `make test LAYER=clients` sees to
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
    pub mod browser;
    pub mod envoy;
    pub mod http;
    pub mod peer;
    pub mod product_time;
    pub mod switch;
    pub mod synapse;
}

mod app;
mod conversation;
mod logout;
mod outage;
mod page;
mod refresh;
mod rig;
