//! What a panic leaves behind: one line in the log, and a dead VM.
//!
//! The line says where it was, and not what was said there: a message may quote what it was about, and so a token.

use core::{
    arch::wasm32,
    fmt::{self, Write},
    panic::PanicInfo,
};

use super::log;

/// Where the standard library ends what can have no memory.
const OUT_OF_MEMORY: &str = "alloc/src/alloc.rs";

#[panic_handler]
fn panic(panic: &PanicInfo<'_>) -> ! {
    let mut line = Line::default();
    if let Some(place) = panic.location() {
        let advice = if place.file().ends_with(OUT_OF_MEMORY) {
            "no memory is left"
        } else {
            "please report it"
        };
        // What does not fit is left out.
        let _ = write!(line, "panic at {place}: {advice}");
    }
    log::error(line.text());
    wasm32::unreachable()
}

/// A line that takes no memory of the heap: there may be none left.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 256],
            length: 0,
        }
    }
}

impl Line {
    fn text(&self) -> &str {
        let written = self.bytes.get(..self.length).unwrap_or_default();
        str::from_utf8(written).unwrap_or("panic")
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
