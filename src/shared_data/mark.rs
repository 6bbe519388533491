//! A mark in shared data: an empty value that tells by its number whether something has changed.
//!
//! Reading a value costs four times as much as learning that it is empty, since Envoy asks the VM for room for it. What
//! seldom changes is remembered together with the number that its mark had *before* it was read. It holds as long as the mark has
//! that number. A worker that changes it writes the mark *afterwards*, and before anything that counts on the change.

use alloc::string::String;

use super::name::{self, Space};
use crate::host::{If, NotWritten, Store, Unreadable};

/// The number of a mark; `None`: it was never written.
pub type MarkNumber = Option<u32>;

/// A mark.
#[derive(Debug)]
pub struct Mark {
    key: String,
}

impl Mark {
    /// The mark of a table's changes in `what`.
    pub fn new(space: Space, what: &str) -> Self {
        Self {
            key: name::mark(space, what),
        }
    }

    /// Returns its number.
    pub fn read(&self, store: &impl Store) -> Result<MarkNumber, Unreadable> {
        let stored = store.try_read(self.key.as_bytes())?;
        Ok(stored.map(|stored| stored.cas))
    }

    /// Gives it another number.
    pub fn renew(&self, store: &impl Store) -> Result<(), NotWritten> {
        let condition = self.read(store)?.map_or(If::Absent, If::Unchanged);
        match store.write(self.key.as_bytes(), &[], condition) {
            // Another worker has written it since the change.
            Ok(()) | Err(NotWritten::Changed) => Ok(()),
            Err(refused) => Err(refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryStore;

    fn mark(what: &str) -> Mark {
        Mark::new(Space::Active, what)
    }

    #[test]
    fn each_renewal_gives_every_worker_another_number() {
        let (store, [one, two]) = (MemoryStore::default(), ["t", "t"].map(mark));
        let mut seen = vec![two.read(&store)];
        for _ in 0..3 {
            one.renew(&store).unwrap();
            let number = two.read(&store);
            assert!(!seen.contains(&number) && two.read(&store) == number);
            seen.push(number);
        }
        assert_eq!(mark("other").read(&store), Ok(None));
        store.is_unreadable.set(true);
        assert_eq!(two.read(&store), Err(Unreadable));
        assert_eq!(one.renew(&store), Err(NotWritten::Refused));
    }

    #[test]
    fn a_renewal_that_loses_a_race_is_one_all_the_same() {
        for is_new in [false, true] {
            let (store, one) = (MemoryStore::default(), mark("t"));
            if !is_new {
                one.renew(&store).unwrap();
            }
            let before = one.read(&store);
            *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
                mark("t").renew(store).unwrap();
            }));
            one.renew(&store).unwrap();
            assert_ne!(one.read(&store), before);
        }
    }
}
