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

use alloc::{string::String, vec::Vec};
use core::cell::RefCell;

use crate::{
    clock::Instant,
    host::{If, Store, until_written},
    shared_data::{
        last_read::LastRead,
        mark::{Mark, MarkNumber},
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
    /// The last reading of the mark, which serves what ends no session.
    last_read: LastRead,
}

/// The register as it was last read.
#[derive(Debug, Default)]
struct Known {
    /// The number that its mark had before.
    mark: MarkNumber,
    sizes: Vec<u32>,
}

impl Sizes {
    /// The register of the table in this space.
    pub fn new(space: Space) -> Self {
        Self {
            key: name::sizes(space),
            mark: Mark::new(space, "sizes"),
            known: RefCell::default(),
            last_read: LastRead::default(),
        }
    }

    /// Calls `each` with every number of buckets that was registered a quarter of a second ago or earlier, and perhaps with some
    /// that came since.
    pub fn for_each_known(&self, store: &impl Store, now: Instant, mut each: impl FnMut(u32)) {
        if self.last_read.is_recent(now)
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
            self.last_read.note(now);
        } else {
            self.last_read.forget();
        }
    }

    /// Returns whether a look of the last quarter of a second found one number of buckets.
    pub fn is_only_one(&self, now: Instant) -> bool {
        self.last_read.is_recent(now)
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
            // What cannot be read is as it was, and is read again the next time.
            known.mark = None;
            if let Ok(stored) = store.try_read(self.key.as_bytes()) {
                known.sizes = stored.map_or_else(Vec::new, |stored| decode(&stored.value));
                known.mark = mark;
            }
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
        self.last_read.forget();
        // Its own is known also where the register cannot be read.
        if let Ok(mut known) = self.known.try_borrow_mut()
            && !known.sizes.contains(&number)
        {
            known.sizes.push(number);
        }
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
mod tests;
