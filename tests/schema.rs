//! The table of keys outside of the module: the JSON Schema and the reference in docs/ are what the table makes of
//! itself, and the schema accepts what the reader accepts.
//!
//! `make docs` writes both files anew.

#![cfg(not(target_arch = "wasm32"))]

#[path = "schema/agreement.rs"]
mod agreement;
#[path = "schema/documents.rs"]
mod documents;
#[path = "support/every_key.rs"]
mod every_key;
#[path = "schema/reader.rs"]
mod reader;
#[path = "schema/values.rs"]
mod values;
