//! Hashes under a key, and the order of what they give.

pub mod multilinear;
pub mod order;
pub mod sip_hash;
