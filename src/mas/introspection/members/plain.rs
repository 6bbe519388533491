//! An introspection response as MAS writes it: without white space, escapes and lists, in ASCII alone, and with members whose
//! values are strings, whole numbers and words.
//!
//! The non-obvious rule: a string ends at the next quote then, which is looked for sixteen bytes at a time. Whatever is not as
//! expected is left to the other reader, so that this one never says "no".

use super::found::{FoundMembers, Members, Text, Value};
use crate::text::{scan, work};

/// Finds the members. `None`: the answer is written in another way, or is none.
pub(super) fn find(json: &[u8]) -> Option<Members<'_>> {
    let mut found = FoundMembers::default();
    let mut rest = json.strip_prefix(b"{")?;
    loop {
        let (name, after) = string(rest)?;
        let value;
        (value, rest) = match after.strip_prefix(b":")? {
            after @ [b'"', ..] => {
                let (written, rest) = string(after)?;
                let has_escape = false;
                (
                    Value::Text(Text {
                        written,
                        has_escape,
                    }),
                    rest,
                )
            }
            after => word_or_number(after)?,
        };
        found.take(name, value)?;
        rest = match rest {
            [b',', rest @ ..] => rest,
            b"}" => return found.members(),
            _ => return None,
        };
    }
}

/// Takes off a string. Returns what stands between its quotes, and what follows it. `None`: there is none, or not all of it is
/// plain.
#[inline]
fn string(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let after = json.strip_prefix(b"\"")?;
    let (text, rest) = after.split_at_checked(scan::plain_length(after))?;
    Some((text, rest.strip_prefix(b"\"")?))
}

/// Takes off a value that is no string. `None`: it is none that MAS writes.
#[inline]
fn word_or_number(json: &[u8]) -> Option<(Value<'_>, &[u8])> {
    match json {
        [b't', b'r', b'u', b'e', rest @ ..] => return Some((Value::Boolean(true), rest)),
        [b'f', b'a', b'l', b's', b'e', rest @ ..] => return Some((Value::Boolean(false), rest)),
        [b'n', b'u', b'l', b'l', rest @ ..] => return Some((Value::Null, rest)),
        _ => {}
    }
    let end = json.iter().position(|byte| !byte.is_ascii_digit())?;
    work::note(end);
    let (digits, rest) = json.split_at_checked(end)?;
    let is_number = match digits {
        [b'0', further @ ..] => further.is_empty(),
        digits => !digits.is_empty(),
    };
    is_number.then_some((Value::Integer(digits), rest))
}
