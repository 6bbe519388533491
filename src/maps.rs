//! Maps that take little code, and that no client can make slow.

pub mod probing;
pub mod sorted;
