//! The inactive tokens that one worker keeps for itself: those that come again and again.
//!
//! A wrong "inactive" logs a person out, so nothing here counts by itself. What a worker keeps is marked as kept in its entry in
//! the shared cache. A worker that removes or voids such an entry renews a [mark](crate::shared_data::mark). The worker that
//! keeps the token reads the mark at each use: a reading that hands nothing over, in place of two tables and a record.
//!
//! The order matters. The worker reads the mark first, then notes in the entry that it keeps it, which is a write on the
//! condition that nothing has changed. A worker that takes a noted entry out renews the mark first and
//! writes second, on the same condition. So one of the two writes fails, or the worker's number of the mark is an old one.

use alloc::vec::Vec;
use core::cell::RefCell;

use crate::{
    clock::Instant,
    host::{NotWritten, Store, Unreadable},
    shared_data::{
        mark::{Mark, MarkNumber},
        name::Space,
    },
    token::TokenDigest,
};

/// Tokens that are kept at the most.
pub const MAX_KEPT: usize = 1_024;

/// The mark of all entries that some worker keeps.
#[derive(Debug)]
pub struct KeptMark(Mark);

impl Default for KeptMark {
    fn default() -> Self {
        Self(Mark::new(Space::Negative, "kept"))
    }
}

impl KeptMark {
    /// Returns the number under which something may be kept from now on.
    pub fn read(&self, store: &impl Store) -> Result<MarkNumber, Unreadable> {
        self.0.read(store)
    }

    /// Makes every worker look into the shared cache again.
    pub fn void(&self, store: &impl Store) -> Result<(), NotWritten> {
        self.0.renew(store)
    }
}

/// The tokens. Each has one place, by its digest; of two that share it the later one is kept.
#[derive(Debug)]
pub struct LocalInactive {
    places: RefCell<Vec<Option<Kept>>>,
    /// How many places there are once there is a token.
    capacity: usize,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    token: TokenDigest,
    until: Instant,
    mark: MarkNumber,
}

impl LocalInactive {
    /// Places for `capacity` tokens, or [`MAX_KEPT`].
    pub fn new(capacity: usize) -> Self {
        Self {
            places: RefCell::default(),
            capacity: capacity.min(MAX_KEPT),
        }
    }

    /// Returns whether any token is kept at all.
    pub fn is_in_use(&self) -> bool {
        self.capacity > 0
    }

    /// Returns whether the token is inactive, as far as that is kept.
    pub fn contains(
        &self,
        store: &impl Store,
        mark: &KeptMark,
        token: &TokenDigest,
        now: Instant,
    ) -> bool {
        let kept = match self.places.try_borrow() {
            Ok(places) => places.get(self.place(token)).copied().flatten(),
            Err(_) => None,
        };
        kept.is_some_and(|kept| {
            kept.token == *token && now < kept.until && mark.read(store) == Ok(kept.mark)
        })
    }

    /// Keeps a token until then, under the number that the mark had before its entry was noted.
    pub fn insert(&self, token: TokenDigest, until: Instant, mark: MarkNumber) {
        let Ok(mut places) = self.places.try_borrow_mut() else {
            return;
        };
        places.resize(self.capacity, None);
        if let Some(place) = places.get_mut(self.place(&token)) {
            *place = Some(Kept { token, until, mark });
        }
    }

    fn place(&self, token: &TokenDigest) -> usize {
        let TokenDigest([.., a, b]) = *token;
        usize::from(u16::from_le_bytes([a, b])) % self.capacity.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryStore;

    const END: Instant = Instant::from_millis(1_000);

    fn token(number: u32) -> TokenDigest {
        TokenDigest::of(&number.to_le_bytes())
    }

    #[test]
    fn a_token_is_kept_until_its_end_or_the_next_number() {
        let (store, mark) = (MemoryStore::default(), KeptMark::default());
        let kept = LocalInactive::new(8);
        let contains = |at| kept.contains(&store, &mark, &token(1), Instant::from_millis(at));
        assert!(!contains(0));
        for _ in 0..2 {
            kept.insert(token(1), END, mark.read(&store).unwrap());
            assert!(contains(0) && contains(999) && !contains(1_000));
            mark.void(&store).unwrap();
            assert!(!contains(0));
        }
        let early = mark.read(&store).unwrap();
        mark.void(&store).unwrap();
        kept.insert(token(1), END, early);
        assert!(!contains(0), "it was voided in between");
    }

    #[test]
    fn no_token_is_taken_for_another_and_no_more_are_kept_than_there_are_places() {
        let (store, mark) = (MemoryStore::default(), KeptMark::default());
        for places in [0, 1, 8, MAX_KEPT, 100_000] {
            let kept = LocalInactive::new(places);
            let contains =
                |number| kept.contains(&store, &mark, &token(number), Instant::default());
            for number in 0..20_000 {
                assert!(!contains(number));
                kept.insert(token(number), END, None);
                assert_eq!(contains(number), places > 0);
            }
            let all = (0..20_000).filter(|number| contains(*number)).count();
            assert_eq!(all, places.min(MAX_KEPT));
        }
    }
}
