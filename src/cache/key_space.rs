//! Maps a digest to one of a fixed number of shared-data keys, with a hash keyed by a secret of the process.
//!
//! Envoy never frees a shared-data key, so memory is bounded by never using more than N keys for a
//! purpose. Nobody outside can aim collisions at a session, because the choice depends on a secret of this
//! process.

use std::{cell::Cell, rc::Rc};

use crate::host::{If, Store};

/// What every key begins with.
const PREFIX: &str = "matrix-edge-auth.";

const SEED_KEY: &str = "matrix-edge-auth.seed";

/// A fixed number of shared-data keys. Workers with the same name and number share them.
#[derive(Clone, Debug)]
pub struct KeySpace {
    name: &'static str,
    number: u32,
    /// Read once. Key spaces that were made from each other share it.
    seed: Rc<Cell<Option<(u64, u64)>>>,
}

impl KeySpace {
    /// `number` keys called `name`.
    pub fn new(name: &'static str, number: u32) -> Self {
        Self {
            name,
            number: number.max(1),
            seed: Rc::default(),
        }
    }

    /// Returns as many keys as `number` under the same name.
    pub fn resized(&self, number: u32) -> Self {
        Self {
            number: number.max(1),
            ..self.clone()
        }
    }

    /// The key for `digest`, of which the first 16 bytes count.
    pub fn key(&self, store: &impl Store, digest: &[u8]) -> String {
        let [word0, word1] = words(digest);
        let (seed0, seed1) = self.seed(store);
        let hash = fold(word0 ^ seed0, word1 ^ seed1);
        let slot = ((u128::from(hash) * u128::from(self.number)) >> 64) as u32;
        key(self.name, slot)
    }

    /// Returns a few bits of `digest`: enough to know it again, and too few to search for the token. They depend on the
    /// secret as well, so no client can look for two digests that share them. The last 16 bytes of 32 count.
    pub fn tag(&self, store: &impl Store, digest: &[u8; 32]) -> [u8; 4] {
        let [_, _, word2, word3] = words(digest);
        let (seed0, seed1) = self.seed(store);
        (fold(word2 ^ seed0, word3 ^ seed1) as u32).to_le_bytes()
    }

    /// The secret of this process, made by whichever worker comes first.
    pub(super) fn seed(&self, store: &impl Store) -> (u64, u64) {
        if let Some(seed) = self.seed.get() {
            return seed;
        }
        let mut fresh = [0; 16];
        let (low, high) = fresh.split_at_mut(8);
        low.copy_from_slice(&store.random().to_le_bytes());
        high.copy_from_slice(&store.random().to_le_bytes());
        let stored = match store.write(SEED_KEY, &fresh, If::Absent) {
            Ok(()) => fresh,
            Err(_) => store
                .read(SEED_KEY)
                .and_then(|stored| stored.value.try_into().ok())
                .unwrap_or(fresh),
        };
        let number = u128::from_le_bytes(stored);
        let seed = (number as u64, (number >> 64) as u64);
        self.seed.set(Some(seed));
        seed
    }
}

/// Returns `matrix-edge-auth.`, the name, a full stop and the number. Every look-up makes a few of these: `format!` takes
/// six times as long.
fn key(name: &str, mut number: u32) -> String {
    let mut key = String::with_capacity(PREFIX.len() + name.len() + 11);
    key.push_str(PREFIX);
    key.push_str(name);
    key.push('.');
    let mut place = 1;
    while number / place >= 10 {
        place *= 10;
    }
    while place > 0 {
        key.push(char::from(b'0' + (number / place) as u8));
        number %= place;
        place /= 10;
    }
    key
}

/// Returns the first words of a digest.
fn words<const N: usize>(digest: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, bytes) in words.iter_mut().zip(digest.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Folded multiplication: both halves of the 128-bit product depend on every bit of both factors. The
/// input is a digest and a secret, already uniform, so one round is enough.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}
