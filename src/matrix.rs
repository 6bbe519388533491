//! The Matrix client-server API as seen from the edge: endpoints, credentials, identities, error replies.

pub mod credential;
pub mod endpoint;
pub mod identity;
pub mod reply;
pub mod session_end;
