//! The core against the vectors in `tests/vectors/*.tsv`, natively.
//!
//! - `extraction.tsv`: raw HTTP/1.1 requests to a real Synapse 1.163.2 with
//!   `matrix_authentication_service` enabled, and which token it took from them;
//! - `routes.tsv`: every endpoint of that Synapse, asked without a token and with a bad one, and
//!   the endpoints of MAS, of the Matrix spec, and of ruma;
//! - `mas_routes.tsv`: every route of MAS 1.22;
//! - `tokens.tsv`: tokens, and what MAS's own check says of them.
//!
//! Where the edge differs from a vector, a table says why. A difference that no table names fails,
//! and so does a table entry that is no difference.

#![cfg(not(target_arch = "wasm32"))]
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a vector that cannot be read fails its test"
)]

#[path = "vectors/extraction.rs"]
mod extraction;
#[path = "vectors/routes.rs"]
mod routes;
#[path = "vectors/tokens.rs"]
mod tokens;

/// The rows of a TSV file after its heading, as columns.
fn rows(tsv: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    tsv.lines()
        .skip(1)
        .filter(|line| !line.is_empty())
        .map(|line| line.split('\t').collect())
}
