//! A keyed hash of short strings, for maps whose keys must not be the strings themselves.
//!
//! It is the family "multilinear" of Lemire and Kaser (*Strongly universal string hashing is fast*, 2014): the sum of the
//! words of the string, each times a secret number of its own, modulo 2^64, of which the upper half counts. Two
//! different strings have the same 32 bits under at most one of 2^32 keys, whatever the strings are. Four such sums are
//! 128 bits.
//!
//! The non-obvious rule: that holds as long as nothing tells what the key is. So hashes never leave the VM, and what is
//! stored by them must not take a time that tells two of them apart.

/// Length of the strings that it hashes, at the most, in bytes.
pub const MAX_BYTES: usize = 128;

const WORD: usize = size_of::<u32>();

/// Sums side by side.
const SUMS: usize = 4;

/// The length is a word of its own, since a string and the same with zeros behind it have the same words otherwise.
const WORDS: usize = 1 + MAX_BYTES / WORD;

/// The hash of a string.
pub type Hash = [u32; SUMS];

/// The hash under one secret key. `Debug` is not there.
pub struct Multilinear {
    /// What the sums begin with.
    start: [u64; SUMS],
    /// For each word, its factor in each sum.
    factors: [[u64; SUMS]; WORDS],
}

impl Multilinear {
    /// Takes the key from a source of random numbers.
    pub fn new(mut random: impl FnMut() -> u64) -> Self {
        let mut row = || core::array::from_fn(|_| random());
        Self {
            start: row(),
            factors: core::array::from_fn(|_| row()),
        }
    }

    /// Returns the hash of `bytes`; `None`, if they are more than [`MAX_BYTES`].
    pub fn hash(&self, bytes: &[u8]) -> Option<Hash> {
        if bytes.len() > MAX_BYTES {
            return None;
        }
        let [length, factors @ ..] = &self.factors;
        let mut sums = add(self.start, length, u32::try_from(bytes.len()).ok()?);
        // Two words at a time. Zeros behind the end add nothing.
        let (pairs, rest) = bytes.as_chunks::<{ 2 * WORD }>();
        let mut factors = factors.as_chunks::<2>().0.iter();
        for (pair, factors) in pairs.iter().zip(&mut factors) {
            sums = add_pair(sums, factors, u64::from_le_bytes(*pair));
        }
        if let Some(factors) = factors.next().filter(|_| !rest.is_empty()) {
            let shift = |pair, byte: &u8| pair << 8 | u64::from(*byte);
            sums = add_pair(sums, factors, rest.iter().rev().fold(0, shift));
        }
        Some(sums.map(upper_half))
    }
}

#[inline]
fn add_pair(sums: [u64; SUMS], [first, second]: &[[u64; SUMS]; 2], pair: u64) -> [u64; SUMS] {
    add(add(sums, first, pair as u32), second, (pair >> 32) as u32)
}

#[inline]
fn add([a, b, c, d]: [u64; SUMS], [e, f, g, h]: &[u64; SUMS], word: u32) -> [u64; SUMS] {
    let times = |factor: &u64| factor.wrapping_mul(word.into());
    [
        a.wrapping_add(times(e)),
        b.wrapping_add(times(f)),
        c.wrapping_add(times(g)),
        d.wrapping_add(times(h)),
    ]
}

fn upper_half(sum: u64) -> u32 {
    let [.., a, b, c, d] = sum.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
pub(crate) mod tests {
    use std::hash::{BuildHasher, Hasher, RandomState};

    use super::*;

    /// Returns a random number.
    pub fn random() -> u64 {
        RandomState::new().build_hasher().finish()
    }

    /// Factors that can be told apart by eye.
    fn counted() -> Multilinear {
        let mut number = 0;
        Multilinear::new(|| {
            number += 1;
            number << 32
        })
    }

    #[test]
    fn it_is_the_sum_of_the_words_times_their_factors() {
        let hash = counted().hash(b"\x02\0\0\0\x03").unwrap();
        // The start, the length of 5, the words 2 and 3.
        let expected = [1, 2, 3, 4].map(|sum| sum + 5 * (sum + 4) + 2 * (sum + 8) + 3 * (sum + 12));
        assert_eq!(hash, expected);
    }

    #[test]
    fn only_the_upper_half_of_a_sum_counts() {
        let low = Multilinear::new(|| 1);
        assert_eq!(low.hash(b"abc"), Some([0; SUMS]));
    }

    #[test]
    fn every_byte_counts_and_so_does_the_length() {
        let hashes = Multilinear::new(random);
        let longest = [b'x'; MAX_BYTES];
        let hash = hashes.hash(&longest).unwrap();
        for at in 0..MAX_BYTES {
            let mut changed = longest;
            changed[at] = b'y';
            let changed = hashes.hash(&changed).unwrap();
            assert!(changed.iter().zip(hash).all(|(one, other)| *one != other));
        }
        let zeros = [0; MAX_BYTES];
        let mut all: Vec<_> = (0..=MAX_BYTES)
            .map(|length| hashes.hash(&zeros[..length]).unwrap())
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), MAX_BYTES + 1);
    }

    #[test]
    fn what_is_too_long_has_no_hash() {
        let hashes = Multilinear::new(random);
        assert!(hashes.hash(&[0; MAX_BYTES]).is_some());
        assert!(hashes.hash(&[0; MAX_BYTES + 1]).is_none());
    }

    #[test]
    fn two_keys_hash_differently() {
        let hash = || Multilinear::new(random).hash(b"a token").unwrap();
        assert!(hash().iter().zip(hash()).all(|(one, other)| *one != other));
    }
}
