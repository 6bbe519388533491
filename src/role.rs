//! The three roles of the module, one for each place in the traffic that it can take.
//!
//! A role says what a request needs, what a resolution makes of it, and what is learned from what passes.
//! Decisions are pure data and stand in files of their own (`gateway/policy.rs`, `introspection/request.rs`).
//! A role asks the [resolver](crate::resolver) and never calls MAS itself.

mod announcement;
pub mod body;
pub mod exchange;
pub mod gateway;
mod grpc;
mod head;
pub mod introspection;
mod origin;
pub mod plugin;
pub mod provisioning;
mod route_watch;
pub mod series;
