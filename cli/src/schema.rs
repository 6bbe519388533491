//! `matrix-edge-auth schema`: the JSON Schema of the configuration, for editors and pipelines.

use std::{
    io::{Write as _, stdout},
    process::ExitCode,
};

/// Runs it.
pub fn run() -> ExitCode {
    // Who reads may have gone.
    let _ = stdout()
        .lock()
        .write_all(matrix_edge_auth::config::schema().as_bytes());
    ExitCode::SUCCESS
}
