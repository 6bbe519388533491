//! The page of `make run` in a real browser, before the built module in a real Envoy with the shipped configuration: each
//! button, the figures that it must change, and who may press it.
//!
//! Needs Chromium, Envoy and `dist/matrix-edge-auth.wasm`: `make test LAYER=page` sees to all of them.

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
}

mod herd;
mod looks;
mod origin;
mod outage;
mod requests;
mod rig;
mod sessions;
