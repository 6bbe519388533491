//! When what a worker holds for itself must be compared with the shared cache.
//!
//! Shared data has no way to say which keys changed. So an invalidation raises a number there, and every
//! worker reads the numbers at each tick: an answer that it holds from before the number of its token was
//! raised is looked up again before its next use. There is one number for each first byte of a digest,
//! so that one invalidation makes a worker look again at few of the answers it holds.

use super::{If, Store, TokenDigest};

const KEY: &str = "matrix-edge-auth.epoch";
const NUMBERS: usize = 256;

/// How often a number is raised again after another worker wrote first.
const WRITE_ATTEMPTS: usize = 8;

/// The numbers, as of the last reading.
#[derive(Debug)]
pub struct Epochs(Vec<u32>);

impl Default for Epochs {
    fn default() -> Self {
        Self(vec![0; NUMBERS])
    }
}

impl Epochs {
    /// The number for `digest`.
    pub fn of(&self, digest: &TokenDigest) -> u32 {
        self.0.get(place(digest)).copied().unwrap_or_default()
    }

    /// Reads the numbers again.
    pub fn read(&mut self, store: &impl Store) {
        if let Some(stored) = store.read(KEY) {
            *self = Self::decode(&stored.value);
        }
    }

    /// Raises the number for `digest`, for all workers.
    pub fn raise(&mut self, store: &impl Store, digest: &TokenDigest) {
        for _ in 0..WRITE_ATTEMPTS {
            let stored = store.read(KEY);
            let condition = stored
                .as_ref()
                .map_or(If::Absent, |stored| If::Unchanged(stored.cas));
            *self = stored.map_or_else(Self::default, |stored| Self::decode(&stored.value));
            if let Some(number) = self.0.get_mut(place(digest)) {
                *number = number.wrapping_add(1);
            }
            if store.write(KEY, &self.encode(), condition).is_ok() {
                return;
            }
        }
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut numbers: Vec<u32> = bytes
            .chunks_exact(4)
            .filter_map(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)))
            .collect();
        numbers.resize(NUMBERS, 0);
        Self(numbers)
    }

    fn encode(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }
}

fn place(digest: &TokenDigest) -> usize {
    let [first, ..] = digest.0;
    usize::from(first)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::cache::memory::MemoryStore;

    #[test]
    fn a_raised_number_is_seen_by_all_and_touches_few() {
        let store = MemoryStore::default();
        let (mut one, mut two) = (Epochs::default(), Epochs::default());
        let digest = TokenDigest([7; 32]);
        for raised in 1..=3 {
            one.raise(&store, &digest);
            two.read(&store);
            assert_eq!([one.of(&digest), two.of(&digest)], [raised, raised]);
        }
        let touched = (0..=255).filter(|first| two.of(&TokenDigest([*first; 32])) != 0);
        assert_eq!(touched.collect::<Vec<_>>(), [7]);
        assert_eq!(store.len(), 1);
    }

    #[test]
    fn a_race_loses_no_number() {
        let store = MemoryStore::default();
        let mut epochs = Epochs::default();
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            Epochs::default().raise(store, &TokenDigest([1; 32]));
        }));
        epochs.raise(&store, &TokenDigest([2; 32]));
        assert_eq!(
            [1, 2].map(|first| epochs.of(&TokenDigest([first; 32]))),
            [1, 1]
        );
    }

    #[test]
    fn a_value_of_another_length_is_read_as_far_as_it_goes() {
        let mut epochs = Epochs::decode(&[1, 0, 0, 0, 9]);
        assert_eq!(epochs.of(&TokenDigest([0; 32])), 1);
        assert_eq!(epochs.of(&TokenDigest([255; 32])), 0);
        epochs.read(&MemoryStore::default());
        assert_eq!(epochs.encode().len(), NUMBERS * 4);
    }
}
