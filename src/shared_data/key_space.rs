//! Maps a digest to one of a fixed number of shared-data keys, with a hash keyed by a secret of the process.
//!
//! Envoy never frees a shared-data key, so memory is bounded by never using more than N keys for a
//! purpose. Nobody outside can aim collisions at a session, because the choice depends on a secret of this
//! process.

use alloc::rc::Rc;
use core::{cell::Cell, fmt};

use super::name::{self, Numbered, Space};
use crate::host::{If, Store};

/// A fixed number of shared-data keys. Workers with the same space and number share them.
#[derive(Clone)]
pub struct KeySpace {
    space: Space,
    number: u32,
    /// Read once. Key spaces that were made from each other share it.
    seed: Rc<Cell<Option<[u64; 2]>>>,
    /// The beginning of a digest, and its key: most are asked for twice.
    last: Cell<[u64; 2]>,
    last_key: Cell<Option<Key>>,
}

impl KeySpace {
    /// `number` keys of this space.
    pub fn new(space: Space, number: u32) -> Self {
        Self {
            space,
            number: number.max(1),
            seed: Rc::default(),
            last: Cell::default(),
            last_key: Cell::new(None),
        }
    }

    /// Returns how many keys there are.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns as many keys as `number` of the same space.
    pub fn resized(&self, number: u32) -> Self {
        Self {
            number: number.max(1),
            last_key: Cell::new(None),
            ..self.clone()
        }
    }

    /// The key for `digest`.
    pub fn key(&self, store: &impl Store, digest: &[u8; 16]) -> Key {
        let words @ [word0, word1] = words(digest);
        if self.last.get() == words
            && let Some(key) = self.last_key.get()
        {
            return key;
        }
        let [seed0, seed1] = self.seed(store);
        let hash = fold(word0 ^ seed0, word1 ^ seed1);
        let key = Key(name::numbered(self.space, slot(hash, self.number)));
        self.last.set(words);
        self.last_key.set(self.seed.get().map(|_| key));
        key
    }

    /// Returns a few bits of `digest`: enough to know it again, and too few to search for the token. They depend on the
    /// secret in another way than the key, so no client can look for two digests that share them.
    pub fn tag(&self, store: &impl Store, digest: &[u8; 16]) -> [u8; 4] {
        let [word0, word1] = words(digest);
        let [seed0, seed1] = self.seed(store);
        (fold(word0 ^ seed1, word1 ^ seed0) as u32).to_le_bytes()
    }

    /// The secret of this process, made by whichever worker comes first.
    pub(super) fn seed(&self, store: &impl Store) -> [u64; 2] {
        if let Some(seed) = self.seed.get() {
            return seed;
        }
        let own = random(store);
        let shared = shared_secret(store, name::SEED, own);
        self.seed.set(shared);
        shared.unwrap_or(own)
    }
}

/// Returns a new secret, of random numbers that no client knows.
pub fn random(store: &impl Store) -> [u64; 2] {
    [store.random(), store.random()]
}

/// Returns the secret of this process under `key`: that of whichever worker came first, or else `own`. `None`: it can neither
/// be read nor written, and may be at the next try.
pub fn shared_secret(store: &impl Store, key: &[u8], own: [u64; 2]) -> Option<[u64; 2]> {
    let bytes = own.map(u64::to_le_bytes);
    if store.write(key, bytes.as_flattened(), If::Absent).is_ok() {
        return Some(own);
    }
    let stored = store.read(key)?.value;
    Some(words(stored.as_slice().try_into().ok()?))
}

impl fmt::Debug for KeySpace {
    /// Shows neither the secret nor a digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySpace")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// A key. Every look-up makes a few of these, so it takes no memory of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(Numbered);

impl Key {
    /// The key as the store takes it.
    pub fn as_bytes(&self) -> &[u8] {
        let Self(bytes) = self;
        bytes
    }
}

/// Maps a hash to a number from 0 to below `number`, in proportion. That is the upper half of their product, which has 96 bits
/// and is made of two of 64.
fn slot(hash: u64, number: u32) -> u32 {
    let number = u64::from(number);
    let low = (hash & u64::from(u32::MAX)) * number;
    let high = (hash >> 32) * number;
    ((high + (low >> 32)) >> 32) as u32
}

/// Returns the words of a digest.
fn words(digest: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *digest;
    [[a, b, c, d, e, f, g, h], rest].map(u64::from_le_bytes)
}

/// Folded multiplication: both halves of the 128-bit product depend on every bit of both factors. The
/// input is a digest and a secret, already uniform, so one round is enough. The upper half is what a multiplication by
/// hand gives, in digits of 32 bits: WebAssembly has none of 128 bits.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    const LOW: u64 = u32::MAX as u64;
    let (a_low, a_high) = (a & LOW, a >> 32);
    let (b_low, b_high) = (b & LOW, b >> 32);
    // None of the sums has more than 64 bits.
    let middle = a_high * b_low + ((a_low * b_low) >> 32);
    let other = a_low * b_high + (middle & LOW);
    let upper = a_high * b_high + (middle >> 32) + (other >> 32);
    a.wrapping_mul(b) ^ upper
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folded_product_is_that_of_128_bits() {
        let factors = [
            0,
            1,
            2,
            0xffff_ffff,
            1 << 32,
            (1 << 32) + 1,
            1 << 63,
            u64::MAX - 1,
            u64::MAX,
        ];
        let mixed = (1..50).map(|number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let factors: Vec<u64> = factors.into_iter().chain(mixed).collect();
        for a in &factors {
            for b in &factors {
                let product = u128::from(*a) * u128::from(*b);
                assert_eq!(fold(*a, *b), product as u64 ^ (product >> 64) as u64);
            }
        }
    }

    #[test]
    fn a_slot_is_the_upper_half_of_128_bits() {
        for hash in [
            0,
            1,
            u64::MAX,
            0x9e37_79b9_7f4a_7c15,
            u64::from(u32::MAX),
            1 << 63,
        ] {
            for number in [1, 7, 4_096, 10_000, u32::MAX] {
                let expected = (u128::from(hash) * u128::from(number)) >> 64;
                assert_eq!(u128::from(slot(hash, number)), expected);
            }
        }
    }
}
