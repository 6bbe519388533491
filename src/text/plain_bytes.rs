//! Percent-encoding (RFC 3986): which bytes stay as they are, and how the others are written.

use alloc::vec::Vec;

use super::percent::upper_hex;

/// The bytes that an encoding leaves as they are: some of visible ASCII. Every byte has its place, so
/// that no bound is looked at.
pub struct PlainBytes([bool; 256]);

impl PlainBytes {
    /// All but `others`.
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
    pub const fn visible_but(others: &[u8]) -> Self {
        let mut is_plain = [false; 256];
        let mut byte = b'!' as usize;
        while byte <= b'~' as usize {
            is_plain[byte] = true;
            byte += 1;
        }
        let mut at = 0;
        while at < others.len() {
            is_plain[others[at] as usize] = false;
            at += 1;
        }
        Self(is_plain)
    }

    /// Appends `value`, a space as `space`, and every other byte that is not one of these as `%XX`.
    pub fn encode(&self, value: &[u8], space: &[u8], out: &mut Vec<u8>) {
        let mut rest = value;
        // Nearly all of most values is plain, and is copied as a whole.
        while let Some(at) = self.first_other(rest) {
            let (plain, after) = rest.split_at_checked(at).unwrap_or_default();
            out.extend_from_slice(plain);
            match after.split_first() {
                Some((b' ', after)) => {
                    out.extend_from_slice(space);
                    rest = after;
                }
                Some((byte, after)) => {
                    out.extend_from_slice(&[b'%', upper_hex(byte >> 4), upper_hex(byte & 0x0f)]);
                    rest = after;
                }
                None => rest = after,
            }
        }
        out.extend_from_slice(rest);
    }

    /// Returns where the first byte stands that is not one of these. Four bytes at a time are looked at first.
    fn first_other(&self, text: &[u8]) -> Option<usize> {
        let mut passed = 0;
        for &[a, b, c, d] in text.as_chunks().0 {
            if !(self.contains(a) & self.contains(b) & self.contains(c) & self.contains(d)) {
                break;
            }
            passed += 4;
        }
        let rest = text.get(passed..)?;
        let at = rest.iter().position(|byte| !self.contains(*byte))?;
        Some(passed + at)
    }

    #[inline]
    fn contains(&self, byte: u8) -> bool {
        let Self(is_plain) = self;
        is_plain.get(usize::from(byte)).copied().unwrap_or_default()
    }
}
