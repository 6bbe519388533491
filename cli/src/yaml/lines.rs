//! Lines and columns of a text.
//!
//! The non-obvious rule: a file of one line may have thousands of findings, just as a file of many lines. So columns are
//! not counted from the line's beginning each time.

use std::ops::Range;

/// Bytes between two places whose characters are counted beforehand.
const STEP: usize = 4096;

/// What is counted of a text beforehand.
#[derive(Debug)]
pub struct Lines {
    /// Where each line begins.
    starts: Vec<usize>,
    /// How many characters begin before each multiple of the step.
    characters: Vec<usize>,
}

impl Lines {
    /// Counts lines and characters.
    pub fn of(text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n');
        let mut characters = vec![0];
        for chunk in text.as_bytes().chunks(STEP) {
            let before = characters.last().copied().unwrap_or_default();
            characters.push(before + beginning(chunk));
        }
        Self {
            starts: std::iter::once(0)
                .chain(breaks.map(|(at, _)| at + 1))
                .collect(),
            characters,
        }
    }

    /// Line and column of a byte of the same text, both counted from one, the column in characters.
    pub fn position(&self, text: &str, byte: usize) -> (usize, usize) {
        let mut byte = byte.min(text.len());
        while !text.is_char_boundary(byte) {
            byte -= 1;
        }
        let line = self.number(byte);
        let before = self.before(text, self.start(line));
        let column = self.before(text, byte).saturating_sub(before) + 1;
        (line, column)
    }

    /// The bytes of the line that a byte stands in, with its end.
    pub fn around(&self, byte: usize) -> Range<usize> {
        let line = self.number(byte);
        let end = self.starts.get(line).copied();
        self.start(line)..end.unwrap_or(usize::MAX)
    }

    /// The number of the line that a byte stands in.
    fn number(&self, byte: usize) -> usize {
        self.starts.partition_point(|start| *start <= byte)
    }

    /// Where a line begins.
    fn start(&self, line: usize) -> usize {
        let start = line.checked_sub(1).and_then(|it| self.starts.get(it));
        start.copied().unwrap_or_default()
    }

    /// How many characters begin before a byte.
    fn before(&self, text: &str, byte: usize) -> usize {
        let counted = self.characters.get(byte / STEP).copied();
        let rest = text.as_bytes().get(byte / STEP * STEP..byte);
        counted.unwrap_or_default() + beginning(rest.unwrap_or_default())
    }
}

/// How many characters begin in these bytes of a text.
fn beginning(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same, counted from the text's beginning.
    fn counted(text: &str, byte: usize) -> (usize, usize) {
        let (before, _) = text.split_at(byte);
        let last = before.rsplit('\n').next().unwrap_or_default();
        let lines = before.matches('\n').count() + 1;
        (lines, last.chars().count() + 1)
    }

    #[test]
    fn lines_and_columns_are_counted_from_one() {
        let long = "aé€😀".repeat(3 * STEP / 10);
        for text in [
            String::new(),
            "\n".to_owned(),
            "a: é\n\n  b".to_owned(),
            format!("{long}\n{long}x\r\n"),
            long,
        ] {
            let lines = Lines::of(&text);
            for byte in (0..=text.len()).filter(|it| text.is_char_boundary(*it)) {
                // The places around each step, and some more.
                if byte % STEP < 8 || byte % STEP > STEP - 8 || byte % 97 == 0 {
                    assert_eq!(lines.position(&text, byte), counted(&text, byte), "{byte}");
                }
            }
        }
    }

    #[test]
    fn a_byte_stands_in_a_line() {
        let lines = Lines::of("ab\n\nc");
        for (byte, line) in [(0, 0..3), (2, 0..3), (3, 3..4), (4, 4..usize::MAX)] {
            assert_eq!(lines.around(byte), line, "{byte}");
        }
    }

    #[test]
    fn a_byte_inside_of_a_character_or_behind_the_end_has_a_place() {
        let lines = Lines::of("é\nab");
        assert_eq!(lines.position("é\nab", 1), (1, 1));
        assert_eq!(lines.position("é\nab", 99), (2, 3));
    }
}
