//! An introspection response as MAS writes it: without white space, escapes and lists, in ASCII alone, and with members whose
//! values are strings, whole numbers and words.
//!
//! The non-obvious rule: all that stands between two quotes is a string then, so the quotes are looked for first, sixteen bytes
//! at a time, and the rest is looked at between them. Whatever is not as expected is left to the other reader, so that this
//! one never says "no".

use super::found::{Found, Members, Text, Value};
use crate::form::scan::{self, VECTOR};

/// Quotes in an answer. None of those that were recorded of MAS has more than 34.
const MAX_QUOTES: usize = 64;

/// Finds the members. `None`: the answer is written in another way, or is none.
pub(super) fn find(json: &[u8]) -> Option<Members<'_>> {
    let mut room = [0; MAX_QUOTES];
    let mut quotes = quotes(json, &mut room)?;
    let mut found = Found::default();
    // Before each member stands a mark.
    let (mut mark, mut at) = (b'{', 0);
    while let [open, close, rest @ ..] = quotes {
        let (open, close) = (usize::from(*open), usize::from(*close));
        if !stands(json, at, mark) || open != at + 1 || !stands(json, close + 1, b':') {
            return None;
        }
        let name = json.get(open + 1..close)?;
        let begin = close + 2;
        let value;
        (value, at, quotes) = match rest {
            [open, close, rest @ ..] if usize::from(*open) == begin => {
                let close = usize::from(*close);
                let text = Text {
                    written: json.get(begin + 1..close)?,
                    has_escape: false,
                };
                (Value::Text(text), close + 1, rest)
            }
            // It ends before the mark of the next member, or that of the end.
            _ => {
                let next = rest.first().map_or(json.len(), |open| (*open).into());
                let end = next.checked_sub(1)?;
                (word_or_number(json.get(begin..end)?)?, end, rest)
            }
        };
        found.take(name, value)?;
        mark = b',';
    }
    let is_whole = quotes.is_empty() && stands(json, at, b'}') && at + 1 == json.len();
    is_whole.then(|| found.members())?
}

fn stands(json: &[u8], at: usize, mark: u8) -> bool {
    json.get(at) == Some(&mark)
}

/// Returns a value that is no string. `None`: it is none that MAS writes.
fn word_or_number(text: &[u8]) -> Option<Value<'_>> {
    match text {
        b"true" => Some(Value::Boolean(true)),
        b"false" => Some(Value::Boolean(false)),
        b"null" => Some(Value::Null),
        [b'0'] => Some(Value::Integer(text)),
        [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit) => {
            Some(Value::Integer(text))
        }
        _ => None,
    }
}

/// Returns where quotes stand. `None`: there are too many, or a byte that is not plain.
fn quotes<'q>(json: &[u8], room: &'q mut [u16; MAX_QUOTES]) -> Option<&'q [u16]> {
    let length = u16::try_from(json.len()).ok()?;
    let chunks = json.as_chunks().0;
    let mut count = 0;
    let mut note = |begin: u16, mut places: u32| {
        while places != 0 {
            let place: u16 = places.trailing_zeros().try_into().ok()?;
            *room.get_mut(count)? = begin + place;
            count += 1;
            places &= places - 1;
        }
        Some(())
    };
    let mut begin = 0;
    for chunk in chunks {
        note(begin, scan::places(chunk, b'"', b'\\')?)?;
        begin += VECTOR as u16;
    }
    // The last one overlaps the one before.
    let last = json.last_chunk()?;
    let overlap = begin - (length - VECTOR as u16);
    let places = scan::places(last, b'"', b'\\')?;
    note(begin - overlap, places >> overlap << overlap)?;
    room.get(..count)
}
