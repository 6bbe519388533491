//! Printing for readers that may have gone. In `explain ... | head -1` nobody reads the rest, and that is no fault.

use std::io::{Write as _, stderr, stdout};

/// Prints to standard output.
pub fn print(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Tells of a fault on standard error.
pub fn complain(error: &str) {
    let _ = writeln!(stderr().lock(), "error: {error}");
}
