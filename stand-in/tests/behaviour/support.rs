//! What the tests ask and are told.

pub mod caller;
pub mod told;
