//! What lies in Envoy's shared data, and under which names: the parts that the rooms above make their tables of.
//!
//! Shared data belongs to one Envoy process. All workers read and write it, and so does every version of the module that runs
//! under the same `vm_id`. Envoy can neither list nor free it, so each purpose has a fixed number of keys.
//!
//! | module | room for |
//! |---|---|
//! | [`name`] | every name, and what tells one format of its values from another |
//! | [`key_space`] | a fixed number of keys, of which each digest has one by a secret, so that no client can aim at a key |
//! | [`bucket`] | some records in one value |
//! | [`mark`] | an empty value that tells of changes |
//! | [`last_read`] | when a worker has last read something |

pub mod bucket;
pub mod key_space;
pub mod last_read;
pub mod mark;
pub mod name;
