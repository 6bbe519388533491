//! `matrix-edge-auth`: checks configurations of the module, and explains what it does.
//!
//! Every decision is the module's own: the program reads configurations with the module's reader, asks the module's
//! endpoint table, and lets the module's policy decide.

mod check;
mod yaml;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Checks and explains configurations of matrix-edge-auth, an Envoy filter for Matrix.
#[derive(Parser)]
#[command(name = "matrix-edge-auth", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Finds mistakes in configurations of the module and of the Envoy around it
    Check(check::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Check(arguments) => check::run(&arguments),
    }
}
