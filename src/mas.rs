//! Matrix Authentication Service: the tokens it issues, the introspection it answers, and what it tells the
//! homeserver.

pub mod introspection;
pub mod provisioning;
pub mod token;
pub mod user;
