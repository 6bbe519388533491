//! What Envoy's own configuration says of listeners and servers, beside the module. Several rules ask it.

pub mod bare_listener;
pub mod endpoints;
