//! `matrix-edge-auth schema`: the JSON Schema of the configuration, for editors and pipelines.

use std::process::ExitCode;

use crate::output::print;

/// Runs the command.
pub fn run() -> ExitCode {
    print(&matrix_edge_auth::config::schema(), 0)
}
