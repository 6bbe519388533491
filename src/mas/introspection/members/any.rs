//! An introspection response however it is written: any JSON object, RFC 8259.

use super::found::{FoundMembers, Members, Text, Value, number_of};
use crate::text::work;

/// How deep a value may be nested that is skipped: as deep as serde_json takes it elsewhere.
pub(super) const MAX_DEPTH: u8 = 127;

/// Finds the members. `None`: it is no JSON object, or one of them is not what it has to be.
#[cold]
pub(super) fn find(json: &[u8]) -> Option<Members<'_>> {
    let mut found = FoundMembers::default();
    let mut reader = Reader(json);
    let mut has_more = reader.passes(b'{').then(|| !reader.passes(b'}'))?;
    while has_more {
        let name = reader.name()?;
        let value = reader.value(0)?;
        if name.has_escape {
            found.take(name.read()?.as_bytes(), value)?;
        } else {
            found.take(name.written, value)?;
        }
        has_more = reader.goes_on(b'}')?;
    }
    reader.skip_space();
    if reader.0.is_empty() {
        found.members()
    } else {
        None
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Passes a comma, or the mark at the end. Returns which: whether there is more.
    fn goes_on(&mut self, end: u8) -> Option<bool> {
        let has_more = self.passes(b',');
        (has_more || self.passes(end)).then_some(has_more)
    }

    /// Reads the name of a member, up to its value.
    fn name(&mut self) -> Option<Text<'a>> {
        self.skip_space();
        let name = self.text()?;
        self.passes(b':').then_some(name)
    }

    /// Reads any value.
    fn value(&mut self, depth: u8) -> Option<Value<'a>> {
        self.skip_space();
        match *self.0.first()? {
            b'"' => self.text().map(Value::Text),
            b't' => self.word(b"true", Value::Boolean(true)),
            b'f' => self.word(b"false", Value::Boolean(false)),
            b'n' => self.word(b"null", Value::Null),
            b'{' => self.nested(depth, true),
            b'[' => self.nested(depth, false),
            _ => self.number(),
        }
    }

    /// Passes an object or a list.
    #[cold]
    fn nested(&mut self, depth: u8, is_object: bool) -> Option<Value<'a>> {
        let (mark, end) = if is_object {
            (b'{', b'}')
        } else {
            (b'[', b']')
        };
        if depth >= MAX_DEPTH || !self.passes(mark) {
            return None;
        }
        if self.passes(end) {
            return Some(Value::Other);
        }
        loop {
            if is_object {
                let Value::Text(name) = self.value(depth + 1)? else {
                    return None;
                };
                if name.has_escape {
                    name.read()?;
                }
                if !self.passes(b':') {
                    return None;
                }
            }
            self.value(depth + 1)?;
            if !self.passes(b',') {
                return self.passes(end).then_some(Value::Other);
            }
        }
    }

    fn word(&mut self, word: &[u8], value: Value<'a>) -> Option<Value<'a>> {
        self.0 = self.0.strip_prefix(word)?;
        Some(value)
    }

    fn number(&mut self) -> Option<Value<'a>> {
        let start = self.0;
        self.next_if(|byte| byte == b'-');
        if !self.next_if(|byte| byte == b'0') {
            self.digits()?;
        }
        let integer = start.get(..start.len().checked_sub(self.0.len())?)?;
        let mut is_integer = true;
        if self.next_if(|byte| byte == b'.') {
            is_integer = false;
            self.digits()?;
        }
        if self.next_if(|byte| matches!(byte, b'e' | b'E')) {
            is_integer = false;
            self.next_if(|byte| matches!(byte, b'+' | b'-'));
            self.digits()?;
        }
        Some(if is_integer {
            Value::Integer(integer)
        } else {
            Value::Other
        })
    }

    /// Passes digits, of which there must be one.
    fn digits(&mut self) -> Option<()> {
        let end = self.0.iter().position(|byte| !byte.is_ascii_digit());
        let (digits, rest) = self.0.split_at_checked(end.unwrap_or(self.0.len()))?;
        work::note(digits.len());
        self.0 = rest;
        (!digits.is_empty()).then_some(())
    }

    /// Reads a string.
    fn text(&mut self) -> Option<Text<'a>> {
        let (b'"', text) = self.0.split_first()? else {
            return None;
        };
        let mut length = plain_length(text);
        let has_escape = *text.get(length)? != b'"';
        if has_escape {
            length = end_behind_escape(text, length)?;
        }
        let (written, rest) = text.split_at_checked(length)?;
        self.0 = rest.get(1..)?;
        Some(Text {
            written,
            has_escape,
        })
    }

    /// Passes white space and this mark. Returns whether it is there.
    fn passes(&mut self, mark: u8) -> bool {
        self.skip_space();
        self.next_if(|byte| byte == mark)
    }

    fn skip_space(&mut self) {
        while self.next_if(|byte| matches!(byte, b' ' | b'\n' | b'\t' | b'\r')) {}
    }

    /// Passes a byte if it is one that is wanted.
    fn next_if(&mut self, is_wanted: impl FnOnce(u8) -> bool) -> bool {
        work::note(1);
        match self.0 {
            [byte, rest @ ..] if is_wanted(*byte) => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }
}

/// Returns where the quote stands that ends a string whose first escape begins there. `None`: it has no end, a character
/// that must be escaped, or an unknown escape.
#[cold]
fn end_behind_escape(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        work::note(1);
        at += match text.get(at..)? {
            [b'"', ..] => return Some(at),
            [b'\\', b'u', digits @ ..] => {
                number_of(digits.get(..4)?)?;
                6
            }
            [
                b'\\',
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                ..,
            ] => 2,
            [b'\\' | 0..b' ', ..] | [] => return None,
            [_, ..] => 1,
        };
    }
}

/// Returns how many bytes at the beginning are neither a quote nor a backslash nor a control character: of strings, all but
/// escapes.
fn plain_length(text: &[u8]) -> usize {
    let is_other = |byte: &u8| matches!(byte, 0..b' ' | b'"' | b'\\');
    let length = text.iter().position(is_other).unwrap_or(text.len());
    work::note(length);
    length
}
