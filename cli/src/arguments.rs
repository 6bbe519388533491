//! What is said of arguments that are wrong: never the arguments themselves. A token or a secret that is given as one by mistake
//! would stand in the terminal's history and in the logs of whoever runs the program.

use std::{path::Path, process::ExitCode};

use clap::{
    Command, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};
use matrix_edge_auth::mas::token::{TokenFormatError, check};

use crate::output::complain;

/// What stands in place of what was given.
const HIDDEN: &str = "not shown: it may be a secret";

/// Endings of files that the program reads.
const ENDINGS: [&str; 3] = ["json", "yaml", "yml"];

/// Prints why the arguments are wrong, or the help or version that was asked for.
pub fn refuse(error: &Error, command: &Command) -> ExitCode {
    if !error.use_stderr() {
        // A reader that has gone is no fault.
        let _ = error.print();
        return ExitCode::SUCCESS;
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

/// The same error with what the program itself knows: its names, and the values that it takes.
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
            // What was meant, as it repeats what was given.
            _ => continue,
        };
        shown.insert(kind, value);
    }
    shown
}

/// A file that cannot be opened, as it is told of: by its name, unless that looks like no file's. Then its number among those
/// that were given, from 1 on, says which it is.
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
