//! What operators are given: the alerts, the runbook and the dashboard, against the module in a real Envoy that a real
//! Prometheus scrapes.
//!
//! Needs Prometheus with promtool, Envoy and `dist/matrix-edge-auth.wasm`: `make test LAYER=ops` sees to all of them.
//!
//! `UPDATE_FIGURES=1` runs the load for two minutes and writes `docs/dashboard.svg` anew.

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
    pub mod series;
}

mod coverage;
mod dashboard;
mod drawing;
mod guard;
mod live;
mod pages;
mod prometheus;
mod rules;
mod site;
