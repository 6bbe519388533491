//! `matrix-edge-auth`: checks configurations of the module, and explains what it does.
//!
//! Every decision is the module's own: the program reads configurations with the module's reader, asks the module's
//! endpoint table, and lets the module's policy decide.

#![forbid(unsafe_code)]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unreachable,
    clippy::unwrap_used
)]

mod arguments;
mod check;
mod configuration;
mod digest;
mod explain;
mod output;
mod schema;
mod token;
mod yaml;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

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
    /// Makes `appservice_tokens` out of the registrations of appservices
    Digest(digest::Arguments),
    /// Says what an endpoint needs, and what becomes of a request
    Explain(explain::Arguments),
    /// Prints the JSON Schema of the module's configuration
    Schema,
    /// Says what the edge makes of a token, which is read from standard input
    Token(token::Arguments),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return arguments::refuse(&error, &Arguments::command()),
    };
    match arguments.command {
        Command::Check(arguments) => check::run(&arguments),
        Command::Digest(arguments) => digest::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Schema => schema::run(),
        Command::Token(arguments) => token::run(&arguments),
    }
}
