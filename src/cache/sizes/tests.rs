//! Which sizes of a table the workers know, and when.

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

/// A store whose values can be read if that is so of one that is empty, as a mark is, or has something in it.
struct Through<'s, F>(&'s MemoryStore, F);

impl<F: Fn(bool) -> bool> Store for Through<'_, F> {
    fn try_read(&self, key: &[u8]) -> Result<Option<Versioned>, Unreadable> {
        let found = self.0.try_read(key)?;
        let is_empty = found.as_ref().is_none_or(|found| found.value.is_empty());
        if (self.1)(is_empty) {
            Ok(found)
        } else {
            Err(Unreadable)
        }
    }

    fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten> {
        self.0.write(key, value, condition)
    }

    fn random(&self) -> u64 {
        self.0.random()
    }
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
fn a_register_that_cannot_be_read_is_as_it_was_and_is_read_again() {
    let (store, known) = (MemoryStore::default(), sizes());
    known.register(&store, 8);
    assert_eq!(all(&known, &store), [8]);
    sizes().register(&store, 16);
    store.is_unreadable.set(true);
    assert_eq!(all(&known, &store), [8]);
    store.is_unreadable.set(false);
    let marks = Through(&store, |is_empty| is_empty);
    assert_eq!(all(&known, &marks), [8], "its mark can be read");
    assert_eq!(all(&known, &store), [8, 16]);
}

#[test]
fn a_register_is_read_again_only_after_a_change() {
    let (store, known) = (MemoryStore::default(), sizes());
    known.register(&store, 8);
    let readings = Cell::new(0);
    let counting = Through(&store, |is_empty: bool| {
        readings.set(readings.get() + usize::from(!is_empty));
        true
    });
    for _ in 0..3 {
        all(&known, &counting);
    }
    assert_eq!(readings.get(), 1);
    sizes().register(&store, 8);
    all(&known, &counting);
    assert_eq!(readings.get(), 2, "it may have changed");
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
