//! Matrix Authentication Service: the tokens it issues and the introspection it answers.

pub mod introspection;
pub mod token;
