//! `matrix-edge-auth token`: what a token is by its form, and what the edge would do with it.
//!
//! The token comes from standard input, since an argument is shown to everyone on the machine. Nothing of it is printed.

use std::{
    io::{self, Read as _},
    process::ExitCode,
};

use clap::Args;
use matrix_edge_auth::{
    config::{Config, Mode, OnFailure},
    mas::token::{Shape, TokenFormatError, TokenKind, check, shape},
    matrix::reply::{Cors, Rejection},
    resolver::MAX_TOKEN_BYTES,
    role::gateway::{
        policy::{Inspection, inspect},
        recognized::Recognized,
    },
    token::TokenSecret,
};

use crate::{
    check::source::INPUT,
    configuration,
    explain::head,
    output::{print, refuse},
};

/// Longest token that is read. Envoy takes no longer header.
const MAX_BYTES: u64 = 64 * 1024;

/// An endpoint that needs a token and nothing else.
const ENDPOINT: &str = "/_matrix/client/v3/account/whoami";

/// What `token` takes: no token.
#[derive(Args)]
pub struct Arguments {
    /// A file with a gateway's configuration; without it every default counts
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
}

/// Runs the command. The exit code is 2 if there is no token or the configuration cannot be read.
pub fn run(arguments: &Arguments) -> ExitCode {
    match described(arguments) {
        Ok(text) => print(&text, 0),
        Err(error) => refuse(&error),
    }
}

fn described(arguments: &Arguments) -> Result<String, String> {
    if arguments.config.as_deref() == Some(INPUT) {
        return Err("standard input has the token: give `--config` a file".to_owned());
    }
    let config = configuration::gateway(arguments.config.as_deref())?;
    let mut input = Vec::new();
    let mut stdin = io::stdin().lock().take(MAX_BYTES + 1);
    stdin
        .read_to_end(&mut input)
        .map_err(|error| error.to_string())?;
    if input.len() as u64 > MAX_BYTES {
        return Err(format!(
            "a token has at the most {MAX_BYTES} bytes: give it alone, without what is around it"
        ));
    }
    let token = input.trim_ascii();
    if token.is_empty() {
        return Err(
            "there is no token on standard input: write it there, as by `token < FILE`".to_owned(),
        );
    }
    let Ok(text) = str::from_utf8(token) else {
        return Err(
            "the token is not ASCII: Synapse answers it with 500, and so does the edge".to_owned(),
        );
    };
    Ok(format!(
        "kind      {}\nchecksum  {}\nthe edge  {}\n",
        kind(token),
        checksum(token),
        treatment(&config, text)
    ))
}

fn kind(token: &[u8]) -> &'static str {
    match check(token) {
        Ok(TokenKind::AccessToken) => "access token of an OAuth 2.0 session (mat_)",
        Ok(TokenKind::CompatAccessToken) => {
            "access token of a session made by /login (mct_, syt_ or a macaroon)"
        }
        Ok(TokenKind::CompatRefreshToken) => {
            "refresh token of a session made by /login (mcr_ or syr_)"
        }
        Ok(TokenKind::PersonalAccessToken) => "personal access token (mpt_)",
        Ok(TokenKind::RefreshToken) => "refresh token of an OAuth 2.0 session (mar_)",
        Err(TokenFormatError::InvalidCrc) => "a token of MAS's format, with a wrong checksum",
        Err(_) if shape(token) == Shape::CannotExist => {
            "a text with a prefix of MAS's tokens that is none of them"
        }
        Err(TokenFormatError::InvalidFormat | TokenFormatError::UnknownPrefix) => {
            "no token of MAS's format: an appservice's, or another service's"
        }
    }
}

fn checksum(token: &[u8]) -> &'static str {
    match check(token) {
        Ok(_) if is_of_synapse(token) => {
            "none: tokens that Synapse issued before MAS are taken as they are"
        }
        Ok(_) => "holds",
        Err(TokenFormatError::InvalidCrc) => {
            "does not hold: it was cut, or mistyped, and MAS never issued it"
        }
        Err(_) => "none",
    }
}

/// Whether the token has none of MAS's prefixes, though it is of a kind that MAS knows.
fn is_of_synapse(token: &[u8]) -> bool {
    ![b"mat_", b"mar_", b"mct_", b"mcr_", b"mpt_"]
        .iter()
        .any(|prefix| token.starts_with(*prefix))
}

fn treatment(config: &Config, token: &str) -> String {
    let rejected = |rejection: Rejection| {
        let reply = rejection.reply(Cors::of(ENDPOINT.as_bytes()));
        let body = String::from_utf8_lossy(&reply.body);
        match config.mode {
            Mode::Enforce => format!("refuses it, without asking MAS: {} {body}", reply.status),
            Mode::Shadow => format!(
                "would refuse it, without asking MAS, and in shadow mode lets it pass: {} {body}",
                reply.status
            ),
        }
    };
    let head = head("GET", ENDPOINT, Some(token));
    let recognize = |token: &[u8]| Recognized::of(config, TokenSecret::NONE, token);
    match inspect(config, &head, recognize) {
        Inspection::Forward if config.appservice_tokens.contains(token.as_bytes()) => {
            "lets it pass without an identity: it is listed under appservice_tokens".to_owned()
        }
        Inspection::Forward if shape(token.as_bytes()) != Shape::Unrecognized => format!(
            "lets it pass without an identity: by `endpoints` none is needed for {ENDPOINT}, which this looks at"
        ),
        Inspection::Forward => {
            "lets it pass without an identity (unrecognized_tokens: pass)".to_owned()
        }
        Inspection::Inactive => rejected(Rejection::NotActive),
        Inspection::Reject(rejection) => rejected(rejection),
        Inspection::Introspect(_) if token.len() > MAX_TOKEN_BYTES => {
            match config.on_introspection_failure {
                OnFailure::Reject => rejected(Rejection::IntrospectionFailed),
                OnFailure::Pass => "lets it pass without an identity, and without asking MAS (on_introspection_failure: pass)"
                    .to_owned(),
            }
        }
        Inspection::Introspect(_) | Inspection::Identify(_) | Inspection::ForwardAndWatch(_) => {
            "asks MAS, unless the cache knows it".to_owned()
        }
    }
}
