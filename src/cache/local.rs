//! The cache of one worker, in front of the shared one: a hit makes no shared-data call.
//!
//! Only active answers are kept, since a flood of invented tokens must not push sessions out. Bounded in
//! entries and in bytes; when full, the next entry that was not used since the hand last passed it goes
//! (second chance). An entry counts for the epoch it was read in, see [`super::epoch`].

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
};

use super::{epoch::Stamp, question::QuestionKey};
use crate::{clock::Instant, mas::user::UserKey};

/// Room for one entry's identity and scope, on average. The bound in bytes is this times the entries.
const BYTES_PER_ENTRY: usize = 1024;

/// What one worker keeps of an active answer.
#[derive(Clone, Debug)]
pub struct LocalEntry<V> {
    /// What the holder of the cache made of the answer.
    pub value: V,
    /// Bytes that the value takes on the heap.
    pub heap_bytes: usize,
    /// End of the answer.
    pub fresh_until: Instant,
    /// From then on the answer is renewed in the background if it is used; never if `None`.
    pub refresh_at: Option<Instant>,
    /// Whose token it is.
    pub user: Option<UserKey>,
    /// Its counters in [`super::epoch::Epochs`] when it was read from the shared cache.
    pub stamp: Stamp,
}

/// Hashes keys that hold a digest, which is evenly spread by itself. It begins with a secret number, and only tokens that
/// MAS has issued are kept, so no client can choose tokens that share one place of the index.
#[derive(Clone, Copy, Debug)]
struct DigestState(u64);

impl Default for DigestState {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0))
    }
}

impl BuildHasher for DigestState {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        *self
    }
}

impl Hasher for DigestState {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.as_chunks().0 {
            self.write_u64(u64::from_le_bytes(*word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // The golden ratio: what differs in any bit differs in the upper ones.
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        // The index takes the lower bits for the place and the upper ones for a first comparison.
        self.0 ^ (self.0 >> 32)
    }
}

#[derive(Debug)]
struct Frame<V> {
    key: QuestionKey,
    entry: LocalEntry<V>,
    bytes: usize,
    /// It was used since the hand last passed it.
    referenced: bool,
}

/// The active answers that one worker holds.
#[derive(Debug)]
pub struct LocalCache<V> {
    frames: Vec<Frame<V>>,
    index: HashMap<QuestionKey, usize, DigestState>,
    bytes: usize,
    hand: usize,
}

impl<V> Default for LocalCache<V> {
    fn default() -> Self {
        Self {
            frames: Vec::new(),
            index: HashMap::default(),
            bytes: 0,
            hand: 0,
        }
    }
}

impl<V> LocalCache<V> {
    /// The entry for `key`, whatever its age.
    pub fn find(&mut self, key: &QuestionKey) -> Option<&LocalEntry<V>> {
        let frame = self.frames.get_mut(*self.index.get(key)?)?;
        frame.referenced = true;
        Some(&frame.entry)
    }

    /// Keeps `entry`, making room within `capacity` entries. Returns how many had to go.
    pub fn insert(&mut self, key: QuestionKey, entry: LocalEntry<V>, capacity: usize) -> usize {
        self.remove(&key);
        let bytes = size_of::<Frame<V>>() + size_of::<QuestionKey>() + entry.heap_bytes;
        let limit = capacity.saturating_mul(BYTES_PER_ENTRY);
        if bytes > limit {
            return 0;
        }
        let mut evicted = 0;
        while self.frames.len() >= capacity || self.bytes + bytes > limit {
            self.evict();
            evicted += 1;
        }
        self.bytes += bytes;
        self.index.insert(key, self.frames.len());
        self.frames.push(Frame {
            key,
            entry,
            bytes,
            referenced: false,
        });
        evicted
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &QuestionKey) {
        if let Some(at) = self.index.get(key).copied() {
            self.remove_at(at);
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Bytes in use, without the allocator's own.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn evict(&mut self) {
        // Two rounds at the most: the first clears every mark.
        for _ in 0..=self.frames.len() {
            if self.hand >= self.frames.len() {
                self.hand = 0;
            }
            let Some(frame) = self.frames.get_mut(self.hand) else {
                return;
            };
            if !std::mem::take(&mut frame.referenced) {
                break;
            }
            self.hand += 1;
        }
        if self.hand >= self.frames.len() {
            self.hand = 0;
        }
        self.remove_at(self.hand);
        // The newest entry has taken its place: it is not the next to go.
        self.hand += 1;
    }

    fn remove_at(&mut self, at: usize) {
        if at >= self.frames.len() {
            return;
        }
        let removed = self.frames.swap_remove(at);
        self.bytes -= removed.bytes;
        self.index.remove(&removed.key);
        if let Some(moved) = self.frames.get(at) {
            self.index.insert(moved.key, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::TokenDigest;

    fn key(number: usize) -> QuestionKey {
        QuestionKey {
            digest: TokenDigest::of(&number.to_le_bytes()),
            fingerprint: 1,
        }
    }

    fn entry(heap_bytes: usize) -> LocalEntry<()> {
        LocalEntry {
            value: (),
            heap_bytes,
            fresh_until: Instant::from_millis(1_000),
            refresh_at: None,
            user: None,
            stamp: Stamp::default(),
        }
    }

    fn holds(local: &LocalCache<()>, number: usize) -> bool {
        local.index.contains_key(&key(number))
    }

    #[test]
    fn entries_are_bounded() {
        let mut local = LocalCache::default();
        let evicted: usize = (0..1_000)
            .map(|number| local.insert(key(number), entry(100), 64))
            .sum();
        assert_eq!((local.len(), evicted), (64, 1_000 - 64));
        assert!(local.bytes() <= 64 * BYTES_PER_ENTRY);
        assert!(holds(&local, 999));
    }

    #[test]
    fn bytes_are_bounded() {
        let mut local = LocalCache::default();
        for number in 0..1_000 {
            local.insert(key(number), entry(number * 7 % 5_000), 64);
            assert!(local.bytes() <= 64 * BYTES_PER_ENTRY && local.len() <= 64);
        }
        assert!(local.len() < 64, "large entries take the room of several");
        local.insert(key(0), entry(64 * BYTES_PER_ENTRY), 64);
        assert!(
            !holds(&local, 0),
            "one that is larger than everything is not kept"
        );
        (0..1_000).for_each(|number| local.remove(&key(number)));
        assert_eq!((local.len(), local.bytes(), local.index.len()), (0, 0, 0));
    }

    #[test]
    fn what_is_in_use_stays() {
        let mut local = LocalCache::default();
        for number in 0..10_000 {
            local.insert(key(number), entry(1), 64);
            assert!(local.find(&key(0)).is_some(), "after {number}");
        }
    }

    #[test]
    fn the_clock_evicts_unreferenced_entries_and_spares_recent_ones() {
        let mut local = LocalCache::default();
        for number in 0..1_000 {
            local.insert(key(number), entry(1), 64);
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
        let mut local = LocalCache::default();
        for _ in 0..10 {
            local.insert(key(1), entry(10), 64);
        }
        assert_eq!(local.len(), 1);
        assert_eq!(local.insert(key(2), entry(10), 0), 0);
        assert!(!holds(&local, 2), "no entries, no cache");
    }
}
