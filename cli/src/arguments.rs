//! Complaints about wrong arguments. A complaint never repeats an argument: a token or a secret may be given as one by
//! mistake, and would then stand in the terminal's history and in the logs of whoever runs the program.

use std::{path::Path, process::ExitCode};

use clap::{
    Command, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};
use matrix_edge_auth::mas::token::{TokenFormatError, check};

use crate::output::{after, complain};

/// Stands in place of what was given.
const HIDDEN: &str = "not shown: it may be a secret";

/// Endings of files that the program reads.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// Prints why the arguments are wrong, or the help or version that was asked for.
pub fn refuse(error: &Error, command: &Command) -> ExitCode {
    if !error.use_stderr() {
        return after(error.print(), 0);
    }
    let _ = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.print(),
        _ => without_values(error, command).print(),
    };
    if matches!(
        error.kind(),
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand
    ) {
        complain(
            "a token or a secret is never an argument: others on this machine can see arguments. `token` and `digest` read \
             standard input",
        );
    }
    ExitCode::from(2)
}

/// The same error with nothing but what the program itself knows: its names, and the values that it takes.
fn without_values(error: &Error, command: &Command) -> Error {
    let mut shown = Error::new(error.kind()).with_cmd(command);
    let hidden = || ContextValue::String(HIDDEN.to_owned());
    for (kind, value) in error.context() {
        let value = match (kind, value) {
            (ContextKind::InvalidSubcommand, _) => hidden(),
            (ContextKind::InvalidArg, _) if error.kind() == ErrorKind::UnknownArgument => hidden(),
            (ContextKind::InvalidValue, ContextValue::String(text)) if !text.is_empty() => hidden(),
            (
                ContextKind::ActualNumValues
                | ContextKind::ExpectedNumValues
                | ContextKind::InvalidArg
                | ContextKind::InvalidValue
                | ContextKind::MinValues
                | ContextKind::PriorArg
                | ContextKind::Usage
                | ContextKind::ValidValue,
                value,
            ) => value.clone(),
            // The others are suggestions, which repeat what was given.
            _ => continue,
        };
        shown.insert(kind, value);
    }
    shown
}

/// How a file that cannot be opened is shown: by its name, or, if the name does not look like that of a file, by its number
/// among the files that were given. The first one has the number 1.
pub fn file(name: &str, number: usize) -> String {
    let path = Path::new(name);
    let ending = path.extension().and_then(|ending| ending.to_str());
    let folder = path.parent().filter(|folder| folder.parent().is_some());
    let is_file = ending.is_some_and(|ending| ENDINGS.contains(&ending))
        || path.exists()
        || folder.is_some_and(Path::is_dir);
    if is_file && !has_token(name) {
        name.to_owned()
    } else {
        format!("<file {number}, {HIDDEN}>")
    }
}

/// Whether a part of a text is a token of MAS's format, perhaps a mistyped one.
pub fn has_token(text: &str) -> bool {
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_of_token(c)).any(|part| {
        matches!(
            check(part.as_bytes()),
            Ok(_) | Err(TokenFormatError::InvalidCrc)
        )
    })
}
