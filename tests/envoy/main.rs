//! The built module in a real Envoy, between a stand-in homeserver and a stand-in MAS. One topic a file.
//!
//! Needs an Envoy and `dist/matrix-edge-auth.wasm`: `make test` sees to both.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test program: its helpers may fail a test too"
)]

#[path = "../support"]
#[allow(
    dead_code,
    reason = "shared by several test programs, each of which uses a part"
)]
mod support {
    pub mod envoy;
    pub mod folder_pages;
    pub mod http;
    pub mod mesh;
    pub mod product_time;
    pub mod recorded;
    pub mod recorded_mas;
    pub mod replayed_mas;
    pub mod switch;
}

mod across_workers;
mod allocation;
mod attack;
mod backoff;
mod budget;
mod busy_worker;
mod cache;
mod capabilities;
mod chain;
mod clock;
mod cold_start;
mod compose;
mod configuration;
mod deployed;
mod edge;
mod endpoints;
mod envoy_gateway;
mod envoy_headers;
mod faults;
mod fleet;
mod folder_pages;
mod harness;
mod heads;
mod http2;
mod identity_headers;
mod introspection;
mod introspection_bodies;
mod introspection_callers;
mod introspection_cap;
mod introspection_faults;
mod introspection_from_outside;
mod introspection_passing;
mod introspection_replay;
mod introspection_role;
mod invalidation;
mod istio;
mod kubernetes;
mod limits;
mod metrics;
mod outage;
mod overload;
mod pages;
mod production;
mod production_hashes;
mod production_limits;
mod production_overload;
mod provisioning;
mod provisioning_requests;
mod rate_limit;
mod readme;
mod refusals;
mod renewal;
mod replies;
mod retries;
mod rollout;
mod rollout_guide;
mod runbook;
mod sessions;
mod shadow;
mod shipped;
mod siege;
mod silence;
mod single_flight;
mod stale;
mod sync_workers;
mod tls;
mod trust;
mod unfinished_bodies;
mod uploads;
mod verdicts;
mod workers;
