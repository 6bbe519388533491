//! Stand-ins for the two servers that an Envoy with `matrix-edge-auth` talks to.
//!
//! - [`mas`]: Matrix Authentication Service. It answers introspection, revocation and compat logout
//!   as a real MAS 1.22 was recorded to answer them, counts what it is asked, and misbehaves on command.
//!   It tells a homeserver about users and devices as MAS does, and tries again when that fails.
//! - [`homeserver`]: a homeserver that answers every request with what it saw, so that a test can tell
//!   what passed the edge, and when.
//! - [`page`]: the page that shows what happens between clients, edge and MAS, with buttons that make it happen.
//! - [`clock`]: the time both of them live in, real or set by a test.
//!
//! Both run inside the caller's Tokio runtime, listen on loopback, and stop when dropped.

pub mod clock;
mod guard;
pub mod homeserver;
pub mod mas;
pub mod page;
mod seen;
mod server;

pub use seen::SeenRequest;
