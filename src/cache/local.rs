//! The cache of one worker, in front of the shared one: a hit makes no shared-data call.
//!
//! Only active answers are kept, since a flood of invented tokens must not push sessions out. Bounded in
//! entries and in bytes; when full, the next entry that was not used since the hand last passed it goes
//! (second chance). An entry counts for the epoch it was read in, see [`super::epoch`].

use std::{collections::HashMap, rc::Rc};

use super::{epoch::Stamp, flight::FlightKey, revocation::UserKey};
use crate::{clock::Instant, gate::Grant};

/// Room for one entry's identity and scope, on average. The bound in bytes is this times the entries.
const BYTES_PER_ENTRY: usize = 1024;

/// What one worker knows of an active token.
#[derive(Clone, Debug)]
pub struct LocalEntry {
    /// What the token grants.
    pub grant: Rc<Grant>,
    /// End of the answer.
    pub fresh_until: Instant,
    /// From then on the answer is renewed in the background if it is used; never if `None`.
    pub refresh_at: Option<Instant>,
    /// Whose token it is.
    pub user: Option<UserKey>,
    /// Its numbers in [`super::epoch::Epochs`] when it was read from the shared cache.
    pub stamp: Stamp,
}

#[derive(Debug)]
struct Slot {
    key: FlightKey,
    entry: LocalEntry,
    bytes: usize,
    used: bool,
}

/// The active answers that one worker holds.
#[derive(Debug, Default)]
pub struct Local {
    slots: Vec<Slot>,
    index: HashMap<FlightKey, usize>,
    bytes: usize,
    hand: usize,
}

impl Local {
    /// The entry for `key`, whatever its age.
    pub fn find(&mut self, key: &FlightKey) -> Option<&mut LocalEntry> {
        let slot = self.slots.get_mut(*self.index.get(key)?)?;
        slot.used = true;
        Some(&mut slot.entry)
    }

    /// Keeps `entry`, making room within `capacity` entries. Returns how many had to go.
    pub fn put(&mut self, key: FlightKey, entry: LocalEntry, capacity: usize) -> usize {
        self.remove(&key);
        let bytes = size_of::<Slot>() + size_of::<FlightKey>() + entry.grant.heap_bytes();
        let limit = capacity.saturating_mul(BYTES_PER_ENTRY);
        if bytes > limit {
            return 0;
        }
        let mut evicted = 0;
        while self.slots.len() >= capacity || self.bytes + bytes > limit {
            self.evict();
            evicted += 1;
        }
        self.bytes += bytes;
        self.index.insert(key, self.slots.len());
        self.slots.push(Slot {
            key,
            entry,
            bytes,
            used: false,
        });
        evicted
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &FlightKey) {
        if let Some(at) = self.index.get(key).copied() {
            self.remove_at(at);
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes in use, without the allocator's own.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn evict(&mut self) {
        // Two rounds at the most: the first clears every mark.
        for _ in 0..=self.slots.len() {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let Some(slot) = self.slots.get_mut(self.hand) else {
                return;
            };
            if !std::mem::take(&mut slot.used) {
                break;
            }
            self.hand += 1;
        }
        if self.hand >= self.slots.len() {
            self.hand = 0;
        }
        self.remove_at(self.hand);
        // The newest entry has taken its place: it is not the next to go.
        self.hand += 1;
    }

    fn remove_at(&mut self, at: usize) {
        if at >= self.slots.len() {
            return;
        }
        let removed = self.slots.swap_remove(at);
        self.bytes -= removed.bytes;
        self.index.remove(&removed.key);
        if let Some(moved) = self.slots.get(at) {
            self.index.insert(moved.key, at);
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::{cache::TokenDigest, mas::introspection::ActiveToken};

    fn key(number: usize) -> FlightKey {
        FlightKey {
            digest: TokenDigest::of(&number.to_le_bytes()),
            fingerprint: 1,
        }
    }

    fn entry(scope: usize) -> LocalEntry {
        let token = ActiveToken {
            scope: "x".repeat(scope),
            ..ActiveToken::default()
        };
        LocalEntry {
            grant: Rc::new(Grant::new(&token, "example.org")),
            fresh_until: Instant::from_millis(1_000),
            refresh_at: None,
            user: None,
            stamp: Stamp::default(),
        }
    }

    fn holds(local: &Local, number: usize) -> bool {
        local.index.contains_key(&key(number))
    }

    #[test]
    fn entries_are_bounded() {
        let mut local = Local::default();
        let evicted: usize = (0..1_000)
            .map(|number| local.put(key(number), entry(100), 64))
            .sum();
        assert_eq!((local.len(), evicted), (64, 1_000 - 64));
        assert!(local.bytes() <= 64 * BYTES_PER_ENTRY);
        assert!(holds(&local, 999));
    }

    #[test]
    fn bytes_are_bounded() {
        let mut local = Local::default();
        for number in 0..1_000 {
            local.put(key(number), entry(number * 7 % 5_000), 64);
            assert!(local.bytes() <= 64 * BYTES_PER_ENTRY && local.len() <= 64);
        }
        assert!(local.len() < 64, "large entries take the room of several");
        local.put(key(0), entry(64 * BYTES_PER_ENTRY), 64);
        assert!(
            !holds(&local, 0),
            "one that is larger than everything is not kept"
        );
        (0..1_000).for_each(|number| local.remove(&key(number)));
        assert_eq!((local.len(), local.bytes(), local.index.len()), (0, 0, 0));
    }

    #[test]
    fn what_is_in_use_stays() {
        let mut local = Local::default();
        for number in 0..10_000 {
            local.put(key(number), entry(1), 64);
            assert!(local.find(&key(0)).is_some(), "after {number}");
        }
    }

    #[test]
    fn what_is_out_of_use_goes_and_what_is_new_stays_a_while() {
        let mut local = Local::default();
        for number in 0..1_000 {
            local.put(key(number), entry(1), 64);
            let recent = (number.saturating_sub(16)..=number)
                .filter(|n| holds(&local, *n))
                .count();
            assert!(
                recent >= 16.min(number),
                "{recent} of the last 16 at {number}"
            );
        }
        let old = (0..800).filter(|number| holds(&local, *number)).count();
        assert_eq!(old, 0, "nothing unused stays for ever");
    }

    #[test]
    fn the_same_token_has_one_entry() {
        let mut local = Local::default();
        for _ in 0..10 {
            local.put(key(1), entry(10), 64);
        }
        assert_eq!(local.len(), 1);
        assert_eq!(local.put(key(2), entry(10), 0), 0);
        assert!(!holds(&local, 2), "no entries, no cache");
    }
}
