//! Looks for single bytes in a text, and compares texts, eight bytes at a time, or sixteen where the machine has vectors
//! (fixed-width SIMD of WebAssembly 2.0). The C library of the module's target does so byte by byte.
//!
//! A word has a zero byte if, with 1 taken from each byte, a top bit appears where there was none (Hacker's Delight,
//! section 6-1). What is exclusive-or'd with the byte in each place has one where that byte was.

use super::work;

const WORD: usize = size_of::<u64>();

/// A 1 in each byte.
const ONES: u64 = u64::MAX / 0xff;

/// Returns whether any of the `wanted` bytes is in `text`.
#[inline]
pub(crate) fn has_any<const N: usize>(text: &[u8], wanted: [u8; N]) -> bool {
    work::note(text.len());
    match text.last_chunk() {
        // The last word may overlap the one before.
        Some(last) => {
            let has_any = |word: &[u8; WORD]| marks(word, wanted) != 0;
            text.as_chunks().0.iter().any(has_any) || has_any(last)
        }
        None => text.iter().any(|byte| wanted.contains(byte)),
    }
}

/// Returns whether there is a control character of ASCII in `text`.
pub(crate) fn has_control(text: &[u8]) -> bool {
    const DELETE: u8 = 0x7f;
    let is_there = |bytes: &[u8; WORD]| {
        let word = u64::from_le_bytes(*bytes);
        let below_space = word.wrapping_sub(ONES * u64::from(b' ')) & !word & (ONES << 7);
        below_space | marks(bytes, [DELETE]) != 0
    };
    match text.last_chunk() {
        // The last word may overlap the one before.
        Some(last) => text.as_chunks().0.iter().chain([last]).any(is_there),
        None => text.iter().any(u8::is_ascii_control),
    }
}

/// Returns where `wanted` stands first in `text`.
#[inline]
pub(crate) fn position(text: &[u8], wanted: u8) -> Option<usize> {
    first_of(text, [wanted])
}

/// Returns where any of the `wanted` bytes stands first in `text`.
#[inline]
pub(crate) fn first_of<const N: usize>(text: &[u8], wanted: [u8; N]) -> Option<usize> {
    let found = find(text, wanted);
    // Nothing behind the word in which it stands is looked at.
    work::note(found.map_or(text.len(), |at| text.len().min(at + WORD)));
    found
}

#[inline]
fn find<const N: usize>(text: &[u8], wanted: [u8; N]) -> Option<usize> {
    #[cfg(target_feature = "simd128")]
    if let Some(last) = text.last_chunk() {
        return find_in_chunks(text, last, |bytes| vector::first(bytes, wanted));
    }
    match text.last_chunk() {
        Some(last) => find_in_chunks(text, last, |word| first(marks(word, wanted))),
        None => text.iter().position(|byte| wanted.contains(byte)),
    }
}

/// Looks through a text by chunks, of which the `last` one may overlap the one before.
#[inline]
fn find_in_chunks<const CHUNK: usize>(
    text: &[u8],
    last: &[u8; CHUNK],
    first: impl Fn(&[u8; CHUNK]) -> Option<usize>,
) -> Option<usize> {
    let mut start = 0;
    for chunk in text.as_chunks().0 {
        if let Some(at) = first(chunk) {
            return Some(start + at);
        }
        start += CHUNK;
    }
    first(last).map(|at| text.len() - CHUNK + at)
}

/// Bytes that a vector has.
const VECTOR: usize = 16;

/// Returns how long the plain beginning of a JSON string is: all before the first quote, backslash, control character of ASCII
/// below the space, or byte beyond ASCII.
#[inline]
pub(crate) fn plain_length(text: &[u8]) -> usize {
    let length = end_of_plain(text).unwrap_or(text.len());
    // Nothing behind the vector in which it ends is looked at.
    work::note(text.len().min(length + VECTOR));
    length
}

#[inline]
fn end_of_plain(text: &[u8]) -> Option<usize> {
    #[cfg(target_feature = "simd128")]
    if let Some(last) = text.last_chunk() {
        return find_in_chunks(text, last, vector::end_of_plain);
    }
    let ends = |byte: &u8| !matches!(byte, b' '..=0x7f) || matches!(byte, b'"' | b'\\');
    text.iter().position(ends)
}

#[cfg(target_feature = "simd128")]
mod vector {
    use core::arch::wasm32::{
        i8x16_bitmask, i8x16_eq, i8x16_lt, i8x16_splat, u64x2, v128, v128_or,
    };

    fn read(bytes: &[u8; 16]) -> v128 {
        let [low, high] = [0, 8].map(|at| {
            let half = bytes.get(at..).and_then(<[u8]>::first_chunk);
            u64::from_le_bytes(half.copied().unwrap_or_default())
        });
        u64x2(low, high)
    }

    /// See [`super::plain_length`]. Bytes beyond ASCII are negative numbers.
    #[inline]
    pub fn end_of_plain(bytes: &[u8; 16]) -> Option<usize> {
        let vector = read(bytes);
        let is = |byte: u8| i8x16_eq(vector, i8x16_splat(byte.cast_signed()));
        let below_space = i8x16_lt(vector, i8x16_splat(0x20));
        let places = i8x16_bitmask(v128_or(below_space, v128_or(is(b'"'), is(b'\\'))));
        (places != 0).then(|| places.trailing_zeros() as usize)
    }

    /// Returns which of sixteen bytes is the first that is one of the `wanted` ones.
    #[inline]
    pub fn first<const N: usize>(bytes: &[u8; 16], wanted: [u8; N]) -> Option<usize> {
        let vector = read(bytes);
        let mut places = 0;
        for byte in wanted {
            places |= i8x16_bitmask(i8x16_eq(vector, i8x16_splat(byte.cast_signed())));
        }
        (places != 0).then(|| places.trailing_zeros() as usize)
    }
}

/// Returns a word with the top bit of each byte that is one of the `wanted` ones. Above the first of them other bytes may
/// be marked, too.
#[inline]
fn marks<const N: usize>(word: &[u8; WORD], wanted: [u8; N]) -> u64 {
    let word = u64::from_le_bytes(*word);
    let mut marks = 0;
    for byte in wanted {
        let zero_where_it_is = word ^ (ONES * u64::from(byte));
        marks |= zero_where_it_is.wrapping_sub(ONES) & !zero_where_it_is;
    }
    marks & (ONES << 7)
}

/// Returns which byte of a word is the first with a mark.
#[inline]
fn first(marks: u64) -> Option<usize> {
    (marks != 0).then(|| marks.trailing_zeros() as usize / 8)
}

/// Returns whether both texts are the same.
#[inline]
pub(crate) fn is_equal(one: &[u8], other: &[u8]) -> bool {
    // Nearly always the lengths tell.
    if one.len() != other.len() {
        return false;
    }
    match (one.last_chunk::<WORD>(), other.last_chunk::<WORD>()) {
        // The last word may overlap the one before.
        (Some(last), Some(other_last)) => {
            let is_same = |(word, other)| u64::from_le_bytes(word) == u64::from_le_bytes(other);
            let words = one.as_chunks().0.iter().copied();
            words.zip(other.as_chunks().0.iter().copied()).all(is_same)
                && is_same((*last, *other_last))
        }
        _ => one.iter().zip(other).all(|(one, other)| one == other),
    }
}

/// Returns whether `text` begins with `start`.
#[inline]
pub(crate) fn begins_with(text: &[u8], start: &[u8]) -> bool {
    text.get(..start.len())
        .is_some_and(|text| is_equal(text, start))
}

/// Returns what of `text` follows `start`, if it begins with that.
#[inline]
pub(crate) fn after<'t>(text: &'t [u8], start: &[u8]) -> Option<&'t [u8]> {
    let (beginning, rest) = text.split_at_checked(start.len())?;
    is_equal(beginning, start).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_character_is_found_wherever_it_stands() {
        for length in 0..20 {
            for byte in 0..=u8::MAX {
                for at in 0..length {
                    let mut text = vec![b'a'; length];
                    text[at] = byte;
                    assert_eq!(
                        has_control(&text),
                        byte.is_ascii_control(),
                        "{byte} at {at}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_byte_is_found_wherever_it_stands() {
        for length in 0..40 {
            let mut text = vec![b'a'; length];
            assert!(!has_any(&text, [b'.', b'%']));
            assert_eq!(position(&text, b'?'), None);
            for at in 0..length {
                for other in [0, b'>', b'?' + 1, b'?' ^ 0x80, 0x80, 0xff] {
                    text[at] = other;
                    assert_eq!(
                        position(&text, b'?'),
                        None,
                        "{other:#x} at {at} of {length}"
                    );
                }
                text[at] = b'?';
                assert_eq!(position(&text, b'?'), Some(at), "of {length}");
                assert_eq!(first_of(&text, [b'.', b'?']), Some(at), "of {length}");
                assert!(has_any(&text, [b'.', b'?']) && has_any(&text, [b'?', b'.']));
                text[at] = b'a';
            }
        }
    }

    #[test]
    fn what_is_plain_ends_at_a_quote_and_at_what_is_not_plain() {
        for length in 0..40 {
            let mut text = vec![b'a'; length];
            assert_eq!(plain_length(&text), length);
            for at in 0..length {
                for byte in 0..=u8::MAX {
                    text[at] = byte;
                    let ends = matches!(byte, 0..b' ' | b'"' | b'\\' | 0x80..);
                    let expected = if ends { at } else { length };
                    assert_eq!(plain_length(&text), expected, "{byte} at {at} of {length}");
                }
                text[at] = b'a';
            }
            for at in (0..length).rev() {
                text[at] = b'"';
                assert_eq!(plain_length(&text), at, "the first counts");
            }
        }
    }

    #[test]
    fn texts_are_equal_if_every_byte_is() {
        let text: Vec<u8> = (0..30).collect();
        for length in 0..=text.len() {
            let one = &text[..length];
            assert!(is_equal(one, one) && begins_with(&text, one));
            assert_eq!(begins_with(one, &text), length == text.len());
            for at in 0..length {
                let mut other = one.to_vec();
                other[at] ^= 0x80;
                assert!(
                    !is_equal(one, &other) && !begins_with(&text, &other),
                    "{at} of {length}"
                );
                assert!(!is_equal(one, &one[..at]));
            }
        }
    }

    #[test]
    fn the_first_of_several_counts() {
        assert_eq!(position(b"/a?b?c", b'?'), Some(2));
        assert_eq!(position(b"0123456?89?", b'?'), Some(7));
        assert_eq!(position(b"01234567?9?", b'?'), Some(8));
    }
}
