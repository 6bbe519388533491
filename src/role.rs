//! The three roles of the module, one for each place in the traffic that it can take.
//!
//! A role says what a request needs, what a resolution makes of it, and what is learned from what passes.
//! Decisions are pure data and stand in files of their own (`gateway/policy.rs`, `introspection/request.rs`).
//! A role asks the [resolver](crate::resolver) and never calls MAS itself.

pub mod body;
pub mod exchange;
pub mod gateway;
mod head;
pub mod introspection;
mod origin;
pub mod plugin;
pub mod provisioning;
pub mod series;

use crate::host::Streams;

/// Returns the status of the selected stream's response.
fn response_status(host: &impl Streams) -> Option<u16> {
    let status = host.response_header(":status").ok().flatten()?;
    std::str::from_utf8(&status).ok()?.parse().ok()
}
