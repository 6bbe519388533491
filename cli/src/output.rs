//! Printing for readers that may have gone. In `explain ... | head -1` nobody reads the rest, and that is no fault. Any other
//! output that is lost is one: a full disk would leave an empty file, and a pipeline would take it for an answer.

use std::{
    io::{self, ErrorKind, Write as _, stderr, stdout},
    process::ExitCode,
};

/// The output was lost, or the arguments are wrong, or something cannot be read.
const FAILED: u8 = 2;

/// Prints to standard output, and returns the exit code: this one, unless the output was lost.
pub fn print(text: &str, code: u8) -> ExitCode {
    let mut out = stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    after(printed, code)
}

/// The exit code after something was printed.
pub fn after(printed: io::Result<()>, code: u8) -> ExitCode {
    match printed {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => refuse(&format!(
            "the output cannot be written: {error}; make room, or write it elsewhere"
        )),
        _ => ExitCode::from(code),
    }
}

/// Tells of a fault, and returns the exit code.
pub fn refuse(error: &str) -> ExitCode {
    complain(error);
    ExitCode::from(FAILED)
}

/// Tells of a fault on standard error.
pub fn complain(error: &str) {
    let _ = writeln!(stderr().lock(), "error: {error}");
}
