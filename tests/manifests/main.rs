//! The manifests below `envoy/`, as Kubernetes would take them: built by kustomize, checked against strict schemas, and
//! followed from the Service to the mode of the module.
//!
//! Needs kubectl and the Python of `.venv`: `make test LAYER=manifests` sees to both.

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
    pub mod series;
}

mod cluster;
mod compose;
mod fleet;
mod folder_pages;
mod kubernetes;
mod labels;
mod runbook;
mod schemas;
mod tools;
