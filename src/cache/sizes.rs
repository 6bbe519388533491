//! The sizes that one table was used with, in shared data, so that a removal reaches a record whatever size it
//! was written under.
//!
//! Which bucket is a token's depends on the number of buckets. Two configurations with other `slots` over one
//! `vm_id`, at once or one after the other, look into different buckets, and shared data cannot be searched. So a
//! table is registered with its number of buckets *before* it is first used, and a removal reads the register and
//! looks where each registered size puts the token.
//!
//! The non-obvious rule: the register only grows. A size that is no longer configured may be configured again (an
//! update that is rolled back), and finds its records then.
//!
//! The register is small and bounded. When it is full, a table takes a registered size in place of its own: the
//! largest that is not larger, or else the smallest. So there is never a table that a removal does not know.
//!
//! The register has a [mark](crate::shared_data::mark), which is renewed between the registration and the first use of the
//! table. So the register is read only after a change.
//!
//! A removal looks at the mark each time. Choosing the later of two answers goes by a look that may be a quarter of a second
//! old: at worst the earlier answer, which a worker with a new size has just kept, stays for its TTL.

use std::cell::RefCell;

use crate::{
    clock::Instant,
    host::{If, Store, until_written},
    shared_data::{
        look::Look,
        mark::{Mark, Number},
        name::{self, Space},
    },
};

/// Sizes in all. Each one costs a removal one reading.
const MAX_SIZES: usize = 64;

/// The register of one table.
#[derive(Debug)]
pub struct Sizes {
    key: String,
    mark: Mark,
    known: RefCell<Known>,
    /// The last look at the mark, which serves what ends no session.
    look: Look,
}

/// The register as it was last read.
#[derive(Debug, Default)]
struct Known {
    /// The number that its mark had before.
    mark: Number,
    sizes: Vec<u32>,
}

impl Sizes {
    /// The register of the table in this space.
    pub fn new(space: Space) -> Self {
        Self {
            key: name::sizes(space),
            mark: Mark::new(space, "sizes"),
            known: RefCell::default(),
            look: Look::default(),
        }
    }

    /// Calls `each` with every number of buckets that was registered a quarter of a second ago or earlier, and perhaps with some
    /// that came since.
    pub fn for_each_known(&self, store: &impl Store, now: Instant, mut each: impl FnMut(u32)) {
        if self.look.is_recent(now)
            && let Ok(known) = self.known.try_borrow()
        {
            known.sizes.iter().copied().for_each(&mut each);
            return;
        }
        self.for_each(store, each);
        // Where the mark cannot be read, it is looked at again the next time.
        let is_read = self
            .known
            .try_borrow()
            .is_ok_and(|known| known.mark.is_some());
        if is_read {
            self.look.note(now);
        } else {
            self.look.forget();
        }
    }

    /// Returns whether a look of the last quarter of a second found one number of buckets.
    pub fn is_only_one(&self, now: Instant) -> bool {
        self.look.is_recent(now)
            && self
                .known
                .try_borrow()
                .is_ok_and(|known| known.sizes.len() == 1)
    }

    /// Calls `each` with every registered number of buckets.
    pub fn for_each(&self, store: &impl Store, mut each: impl FnMut(u32)) {
        // First: what is registered after this is marked after this.
        let mark = self.mark.read(store).ok().flatten();
        let mut known = self.known.take();
        if mark.is_none() || known.mark != mark {
            let stored = store.read(self.key.as_bytes());
            known.sizes = stored.map_or_else(Vec::new, |stored| decode(&stored.value));
            known.mark = mark;
        }
        known.sizes.iter().copied().for_each(&mut each);
        self.known.replace(known);
    }

    /// Registers a number of buckets. Returns the number to use: the same, or a registered one if the register is
    /// full. `None`: shared data could not be written, so the table must not be used yet.
    pub fn register(&self, store: &impl Store, number: u32) -> Option<u32> {
        let number = self.enter(store, number)?;
        // Also if the number was there: the worker that entered it may not have come to this yet.
        self.mark.renew(store).ok()?;
        self.look.forget();
        Some(number)
    }

    fn enter(&self, store: &impl Store, number: u32) -> Option<u32> {
        let entered = until_written(|| {
            let stored = store.try_read(self.key.as_bytes())?;
            let condition = stored
                .as_ref()
                .map_or(If::Absent, |stored| If::Unchanged(stored.cas));
            let mut sizes = stored.map_or_else(Vec::new, |stored| decode(&stored.value));
            if sizes.contains(&number) {
                return Ok(Some(number));
            }
            if sizes.len() >= MAX_SIZES {
                return Ok(nearest(&sizes, number));
            }
            sizes.push(number);
            store.write(self.key.as_bytes(), &encode(&sizes), condition)?;
            Ok(Some(number))
        });
        entered.ok().flatten()
    }
}

/// Returns the largest size that is not larger than `number`, or else the smallest.
fn nearest(sizes: &[u32], number: u32) -> Option<u32> {
    let smaller = sizes.iter().filter(|size| **size <= number).max();
    smaller.or_else(|| sizes.iter().min()).copied()
}

/// Returns the register as bytes: each number of buckets as four of them, little-endian. Another format would take
/// another key, since an old and a new module may both write while one takes the other's place.
fn encode(sizes: &[u32]) -> Vec<u8> {
    sizes.iter().flat_map(|size| size.to_le_bytes()).collect()
}

/// Reads the register, of which no more than [`MAX_SIZES`] count.
fn decode(bytes: &[u8]) -> Vec<u32> {
    let (sizes, _) = bytes.as_chunks();
    sizes
        .iter()
        .map(|size| u32::from_le_bytes(*size))
        .take(MAX_SIZES)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::host::{NotWritten, Unreadable, Versioned, memory::MemoryStore};

    fn sizes() -> Sizes {
        Sizes::new(Space::Active)
    }

    fn all(sizes: &Sizes, store: &impl Store) -> Vec<u32> {
        let mut all = Vec::new();
        sizes.for_each(store, |number| all.push(number));
        all
    }

    #[test]
    fn a_look_serves_a_quarter_of_a_second() {
        let at = |millis: u64| Instant::from_millis(1_000 + millis);
        let store = MemoryStore::default();
        let [one, other] = [sizes(), sizes()];
        let known = |now| {
            let mut known = Vec::new();
            one.for_each_known(&store, now, |number| known.push(number));
            known
        };
        assert!(known(at(0)).is_empty());
        assert_eq!(other.register(&store, 8), Some(8));
        assert_eq!(known(at(0)), [8], "there was no mark to look at");
        assert_eq!(other.register(&store, 16), Some(16));
        assert_eq!(known(at(249)), [8]);
        assert_eq!(known(at(250)), [8, 16]);
        assert_eq!(other.register(&store, 4), Some(4));
        assert_eq!(known(at(249)), [8, 16, 4], "the clock went back");
        assert_eq!(one.register(&store, 2), Some(2));
        assert_eq!(known(at(249)), [8, 16, 4, 2], "its own");
        assert_eq!(all(&one, &store), [8, 16, 4, 2]);
    }

    #[test]
    fn a_size_is_registered_once_and_stays() {
        let store = MemoryStore::default();
        assert!(all(&sizes(), &store).is_empty());
        for number in [8, 16, 8, 8, 4] {
            assert_eq!(sizes().register(&store, number), Some(number));
        }
        assert_eq!(all(&sizes(), &store), [8, 16, 4]);
        assert!(all(&Sizes::new(Space::Negative), &store).is_empty());
        assert_eq!(store.len(), 2, "the register and its mark");
    }

    #[test]
    fn a_size_that_another_worker_registers_is_known_at_once() {
        let (store, [one, two]) = (MemoryStore::default(), [sizes(), sizes()]);
        one.register(&store, 8);
        for expected in [&[8][..], &[8, 16], &[8, 16, 4]] {
            if let Some(new) = expected.get(1..).and_then(<[u32]>::last) {
                two.register(&store, *new);
            }
            for _ in 0..2 {
                assert_eq!(all(&one, &store), expected);
            }
        }
    }

    /// A worker that comes upon a size before its mark may use the table at once.
    #[test]
    fn a_size_whose_mark_is_missing_is_marked_by_the_next_that_registers_it() {
        let (store, known) = (MemoryStore::default(), sizes());
        known.register(&store, 8);
        assert_eq!(all(&known, &store), [8]);
        assert_eq!(
            sizes().enter(&store, 16),
            Some(16),
            "and its worker is gone"
        );
        assert_eq!(sizes().register(&store, 16), Some(16));
        assert_eq!(all(&known, &store), [8, 16]);
    }

    #[test]
    fn a_register_is_read_again_only_after_a_change() {
        struct Counting<'s>(&'s MemoryStore, Cell<usize>);

        impl Store for Counting<'_> {
            fn try_read(&self, key: &[u8]) -> Result<Option<Versioned>, Unreadable> {
                let found = self.0.try_read(key)?;
                let is_empty = found.as_ref().is_none_or(|found| found.value.is_empty());
                self.1.set(self.1.get() + usize::from(!is_empty));
                Ok(found)
            }

            fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten> {
                self.0.write(key, value, condition)
            }

            fn random(&self) -> u64 {
                self.0.random()
            }
        }

        let (store, known) = (MemoryStore::default(), sizes());
        known.register(&store, 8);
        let counting = Counting(&store, Cell::default());
        for _ in 0..3 {
            all(&known, &counting);
        }
        assert_eq!(counting.1.get(), 1);
        sizes().register(&store, 8);
        all(&known, &counting);
        assert_eq!(counting.1.get(), 2, "it may have changed");
    }

    #[test]
    fn a_race_loses_no_size() {
        let store = MemoryStore::default();
        for (mine, theirs) in [(1, 2), (3, 4), (5, 5)] {
            *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
                assert_eq!(sizes().register(store, theirs), Some(theirs));
            }));
            assert_eq!(sizes().register(&store, mine), Some(mine));
        }
        assert_eq!(all(&sizes(), &store), [2, 1, 4, 3, 5]);
    }

    #[test]
    fn a_full_register_gives_the_nearest_size_that_is_not_larger() {
        let store = MemoryStore::default();
        for number in 1..=64 {
            assert_eq!(sizes().register(&store, number * 10), Some(number * 10));
        }
        for (wanted, given) in [
            (10, 10),
            (640, 640),
            (15, 10),
            (639, 630),
            (u32::MAX, 640),
            (1, 10),
        ] {
            assert_eq!(sizes().register(&store, wanted), Some(given), "{wanted}");
        }
        assert_eq!(all(&sizes(), &store).len(), 64, "it does not grow");
    }

    #[test]
    fn without_a_register_there_is_no_size() {
        /// How often it was to be written.
        #[derive(Default)]
        struct ReadOnly(Cell<u32>);

        impl Store for ReadOnly {
            fn try_read(&self, _key: &[u8]) -> Result<Option<Versioned>, Unreadable> {
                Ok(None)
            }

            fn write(&self, _: &[u8], _: &[u8], _: If) -> Result<(), NotWritten> {
                self.0.set(self.0.get() + 1);
                Err(NotWritten::Refused)
            }

            fn random(&self) -> u64 {
                7
            }
        }

        let store = ReadOnly::default();
        assert_eq!(sizes().register(&store, 8), None);
        assert_eq!(store.0.get(), 1, "a refusal is no race");
    }

    #[test]
    fn any_bytes_are_a_register_of_bounded_size() {
        let bytes = encode(&[8, 16]);
        assert_eq!(decode(&bytes), [8, 16]);
        assert_eq!(decode(&bytes[..6]), [8], "cut short");
        assert!(decode(&[]).is_empty());
        assert_eq!(decode(&encode(&[1; 100])).len(), MAX_SIZES);
    }
}
