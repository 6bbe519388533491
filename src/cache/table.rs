//! A table of a fixed number of slots in the store.
//!
//! Envoy never frees a shared-data key, so memory is bounded by never using more than N keys. A token has
//! two slots it may be in, chosen by its digest and a secret of this process; a write takes the better of
//! the two. With two choices a nearly full table loses few live entries, and nobody outside can aim
//! collisions at a session, because the choice depends on the secret.

use std::cell::Cell;

use super::{
    If, NotWritten, Store, TokenDigest,
    entry::{Entry, EntryHead},
};
use crate::clock::Instant;

const SEED_KEY: &str = "matrix-edge-auth.seed";

/// How often a write is tried again after another worker wrote to the same slot first.
const WRITE_ATTEMPTS: usize = 3;

/// A table. Workers with the same name and size share it.
#[derive(Debug)]
pub struct Table {
    name: &'static str,
    slots: u32,
    seed: Cell<Option<(u64, u64)>>,
}

impl Table {
    /// A table of `slots` slots.
    pub fn new(name: &'static str, slots: u32) -> Self {
        Self {
            name,
            slots: slots.max(1),
            seed: Cell::new(None),
        }
    }

    /// The entry of this token for the same `fingerprint`, fresh or not.
    pub fn find(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        fingerprint: u64,
    ) -> Option<Entry> {
        self.keys(store, digest).into_iter().find_map(|key| {
            let stored = store.read(&key)?;
            Entry::decode(&stored.value)
                .filter(|entry| entry.digest == *digest && entry.fingerprint == fingerprint)
        })
    }

    /// Writes the entry to one of its two slots: where the token already is, else an empty or unreadable
    /// one, else one past its freshness, else the one that ends sooner. Whoever wrote in between wins
    /// after a few attempts; the cost is one more introspection.
    pub fn put(&self, store: &impl Store, entry: &Entry, now: Instant) {
        let Some(bytes) = entry.encode() else { return };
        for _ in 0..WRITE_ATTEMPTS {
            let slots = self.keys(store, &entry.digest).map(|key| {
                let stored = store.read(&key);
                let rank = Rank::of(
                    stored.as_ref().map(|stored| &*stored.value),
                    &entry.digest,
                    now,
                );
                let condition = stored.map_or(If::Absent, |stored| If::Unchanged(stored.cas));
                (rank, key, condition)
            });
            let Some((_, key, condition)) = slots.into_iter().min_by_key(|(rank, ..)| *rank) else {
                return;
            };
            match store.write(&key, &bytes, condition) {
                Err(NotWritten::Changed) => {}
                Ok(()) | Err(NotWritten::Refused) => return,
            }
        }
    }

    /// Empties the slot that holds this token, if one does.
    pub fn remove(&self, store: &impl Store, digest: &TokenDigest) {
        for key in self.keys(store, digest) {
            for _ in 0..WRITE_ATTEMPTS {
                let Some(stored) = store.read(&key) else {
                    break;
                };
                if EntryHead::decode(&stored.value).is_none_or(|head| head.digest != *digest) {
                    break;
                }
                if store.write(&key, &[], If::Unchanged(stored.cas)) != Err(NotWritten::Changed) {
                    break;
                }
            }
        }
    }

    fn keys(&self, store: &impl Store, digest: &TokenDigest) -> [String; 2] {
        let (seed0, seed1) = self.seed(store);
        let [word0, word1, word2, word3] = words(digest);
        let slot = |hash: u64| ((u128::from(hash) * u128::from(self.slots)) >> 64) as u64;
        let first = slot(fold(word0 ^ seed0, word1 ^ seed1));
        let mut second = slot(fold(word2 ^ seed0, word3 ^ seed1));
        if second == first {
            second = (first + 1) % u64::from(self.slots);
        }
        [self.key(first), self.key(second)]
    }

    fn key(&self, slot: u64) -> String {
        format!("matrix-edge-auth.{}.{slot}", self.name)
    }

    /// The secret of this process, made by whichever worker comes first.
    fn seed(&self, store: &impl Store) -> (u64, u64) {
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

fn words(digest: &TokenDigest) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.0.chunks_exact(8)) {
        *word = bytes
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    words
}

/// Folded multiplication: both halves of the 128-bit product depend on every bit of both factors. The
/// input is a digest and a secret, already uniform, so one round is enough.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// How gladly a slot is given up; the smallest goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It holds the same token.
    Same,
    /// Never used, emptied, or of another format.
    Empty,
    /// Past its freshness.
    Ended(Instant),
    /// Still of use until then.
    Live(Instant),
}

impl Rank {
    fn of(value: Option<&[u8]>, digest: &TokenDigest, now: Instant) -> Self {
        match value.and_then(EntryHead::decode) {
            None => Self::Empty,
            Some(head) if head.digest == *digest => Self::Same,
            Some(head) if head.fresh_until <= now => Self::Ended(head.fresh_until),
            Some(head) => Self::Live(head.fresh_until),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::cache::{entry::Answer, memory::MemoryStore};

    const NOW: Instant = Instant::from_millis(1_000_000);

    fn entry(token: &[u8], fresh_for: u64) -> Entry {
        Entry {
            digest: TokenDigest::of(token),
            fingerprint: 1,
            fresh_until: NOW + Duration::from_secs(fresh_for),
            ended_at: None,
            answer: Answer::Inactive,
        }
    }

    fn holds(table: &Table, store: &MemoryStore, token: &[u8]) -> bool {
        table.find(store, &TokenDigest::of(token), 1).is_some()
    }

    #[test]
    fn a_full_table_keeps_working_and_never_grows() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 128));
        for n in 0..10_000_u32 {
            let token = n.to_le_bytes();
            table.put(&store, &entry(&token, u64::from(n)), NOW);
            assert!(
                holds(&table, &store, &token),
                "the latest entry is always found"
            );
        }
        // All slots and the seed.
        assert_eq!(store.len(), 129);
    }

    #[test]
    fn two_choices_fill_most_of_the_table_before_anything_live_is_lost() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 1024));
        for n in 0..512_u32 {
            table.put(&store, &entry(&n.to_le_bytes(), 100), NOW);
        }
        let kept = (0..512_u32)
            .filter(|n| holds(&table, &store, &n.to_le_bytes()))
            .count();
        assert!(kept >= 460, "{kept} of 512");
    }

    #[test]
    fn what_has_ended_gives_way_before_what_is_live() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 2));
        table.put(&store, &entry(b"live", 100), NOW);
        table.put(&store, &entry(b"ended", 0), NOW);
        table.put(&store, &entry(b"new", 50), NOW);
        assert!(holds(&table, &store, b"live") && !holds(&table, &store, b"ended"));
        table.put(&store, &entry(b"newer", 60), NOW);
        assert!(holds(&table, &store, b"live") && !holds(&table, &store, b"new"));
    }

    #[test]
    fn a_token_has_one_entry() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 1024));
        for fresh_for in [1, 2, 3] {
            table.put(&store, &entry(b"token", fresh_for), NOW);
        }
        assert_eq!(store.len(), 2);
        let found = table.find(&store, &TokenDigest::of(b"token"), 1).unwrap();
        assert_eq!(found.fresh_until, NOW + Duration::from_secs(3));
        table.remove(&store, &TokenDigest::of(b"token"));
        assert!(!holds(&table, &store, b"token"));
    }

    #[test]
    fn removing_a_token_leaves_its_neighbours() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 2));
        table.put(&store, &entry(b"one", 100), NOW);
        table.put(&store, &entry(b"two", 100), NOW);
        table.remove(&store, &TokenDigest::of(b"three"));
        assert!(holds(&table, &store, b"one") && holds(&table, &store, b"two"));
    }

    #[test]
    fn an_interfering_write_is_not_overwritten_blindly() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 1));
        table.put(&store, &entry(b"seed", 0), NOW);
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            Table::new("t", 1).put(store, &entry(b"other", 100), NOW);
        }));
        table.put(&store, &entry(b"mine", 100), NOW);
        assert!(holds(&table, &store, b"mine"), "a lost race is tried again");
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            Table::new("t", 1).put(store, &entry(b"other", 100), NOW);
        }));
        table.remove(&store, &TokenDigest::of(b"mine"));
        assert!(
            holds(&table, &store, b"other"),
            "only the entry that was read is removed"
        );
    }

    #[test]
    fn workers_agree_on_the_seed_and_processes_do_not() {
        let (one, two) = (Table::new("t", 1 << 20), Table::new("t", 1 << 20));
        let store = MemoryStore::default();
        one.put(&store, &entry(b"token", 100), NOW);
        assert!(holds(&two, &store, b"token"));
        assert_eq!(one.seed.get(), two.seed.get());
        let elsewhere = MemoryStore::default();
        elsewhere.write("other", b"", If::Absent).unwrap();
        let three = Table::new("t", 1 << 20);
        three.put(&elsewhere, &entry(b"token", 100), NOW);
        assert_ne!(one.seed.get(), three.seed.get());
    }
}
