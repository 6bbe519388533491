//! Looks for single bytes in a text, eight bytes at a time: most texts have none of them.
//!
//! A word has a zero byte if, with 1 taken from each byte, a top bit appears where there was none (Hacker's Delight,
//! section 6-1). What is exclusive-or'd with the byte in each place has one where that byte was.

use super::steps;

const WORD: usize = size_of::<u64>();

/// A 1 in each byte.
const ONES: u64 = u64::MAX / 0xff;

/// Returns whether any of the `wanted` bytes is in `text`.
#[inline]
pub(crate) fn has_any<const N: usize>(text: &[u8], wanted: [u8; N]) -> bool {
    first_word(text, wanted).is_some()
}

/// Returns where `wanted` stands first in `text`.
#[inline]
pub(crate) fn position(text: &[u8], wanted: u8) -> Option<usize> {
    let start = first_word(text, [wanted])?;
    let within = text.get(start..)?.iter().position(|byte| *byte == wanted)?;
    Some(start + within)
}

/// Returns where the first word begins that has any of the `wanted` bytes. The last word may be a short one.
#[inline]
fn first_word<const N: usize>(text: &[u8], wanted: [u8; N]) -> Option<usize> {
    steps::note(text.len());
    let (words, rest) = text.as_chunks::<WORD>();
    let has_wanted = |word: &[u8; WORD]| {
        let word = u64::from_le_bytes(*word);
        let mut tops = 0;
        for byte in wanted {
            let zero_where_it_is = word ^ (ONES * u64::from(byte));
            tops |= zero_where_it_is.wrapping_sub(ONES) & !zero_where_it_is;
        }
        tops & (ONES << 7) != 0
    };
    if let Some(at) = words.iter().position(has_wanted) {
        return Some(at * WORD);
    }
    let is_wanted = |byte: &u8| wanted.contains(byte);
    rest.iter().any(is_wanted).then_some(words.len() * WORD)
}

#[cfg(test)]
mod tests {
    use super::*;

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
                assert!(has_any(&text, [b'.', b'?']) && has_any(&text, [b'?', b'.']));
                text[at] = b'a';
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
