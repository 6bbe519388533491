//! A mark in shared data: an empty value that tells by its number whether something has changed.
//!
//! Reading a value costs four times as much as learning that it is empty, since Envoy asks the VM for room for it. What
//! changes seldom is so remembered together with the number that its mark had *before* it was read, and holds as long as
//! the mark has that number. Who changes it writes the mark *afterwards*, and before anything that counts on the change.

use crate::host::{If, NotWritten, Store, Unreadable};

/// The number of a mark; `None`: it was never written.
pub type Number = Option<u32>;

/// A mark.
#[derive(Debug)]
pub struct Mark {
    key: String,
}

impl Mark {
    /// The mark `name`.
    pub fn new(name: &str) -> Self {
        Self {
            key: format!("matrix-edge-auth.{name}.mark"),
        }
    }

    /// Returns its number.
    pub fn read(&self, store: &impl Store) -> Result<Number, Unreadable> {
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

    #[test]
    fn each_renewal_gives_every_worker_another_number() {
        let (store, [one, two]) = (MemoryStore::default(), ["t", "t"].map(Mark::new));
        let mut seen = vec![two.read(&store)];
        for _ in 0..3 {
            one.renew(&store).unwrap();
            let number = two.read(&store);
            assert!(!seen.contains(&number) && two.read(&store) == number);
            seen.push(number);
        }
        assert_eq!(Mark::new("other").read(&store), Ok(None));
        store.is_unreadable.set(true);
        assert_eq!(two.read(&store), Err(Unreadable));
        assert_eq!(one.renew(&store), Err(NotWritten::Refused));
    }

    #[test]
    fn a_renewal_that_loses_a_race_is_one_all_the_same() {
        for is_new in [false, true] {
            let (store, mark) = (MemoryStore::default(), Mark::new("t"));
            if !is_new {
                mark.renew(&store).unwrap();
            }
            let before = mark.read(&store);
            *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
                Mark::new("t").renew(store).unwrap();
            }));
            mark.renew(&store).unwrap();
            assert_ne!(mark.read(&store), before);
        }
    }
}
