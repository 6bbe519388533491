//! An order of digests, for maps that need some order and no certain one.
//!
//! The non-obvious rule: digests are compared as little-endian numbers of eight bytes each. WebAssembly has no instruction that
//! turns the bytes of a number around, so the order of their bytes would take ten times the code.

use core::cmp::Ordering;

/// Compares two digests.
#[inline]
pub fn compare<const N: usize>(one: &[u8; N], other: &[u8; N]) -> Ordering {
    let words = one.as_chunks().0.iter().zip(other.as_chunks().0);
    let numbers = words.map(|(one, other)| (u64::from_le_bytes(*one), u64::from_le_bytes(*other)));
    let mut different = numbers.filter(|(one, other)| one != other);
    different
        .next()
        .map_or(Ordering::Equal, |(one, other)| one.cmp(&other))
}
