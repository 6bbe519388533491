//! What tokens grant, as one worker keeps it in front of the shared cache: a hit makes no shared-data call.
//!
//! Only active answers are kept, since a flood of invented tokens must not push sessions out. Bounded in
//! entries and in bytes; when full, the next entry that was not used since the hand last passed it goes
//! (second chance). An entry counts for the epoch it was read in, see [`crate::cache::epoch`].

use alloc::vec::Vec;
use core::fmt;

use super::policy::Grant;
use crate::{
    cache::epoch::Stamp,
    clock::Instant,
    maps::probing::{ProbingMap, Spread},
    mas::user::UserKey,
    role::plugin::GrantKey,
};

/// Room for one entry's identity and scope, on average. The bound in bytes is this times the entries.
const BYTES_PER_ENTRY: usize = 1024;

/// What one worker keeps of an active answer.
#[derive(Clone, Debug)]
pub struct KeptGrant {
    /// What the answer grants.
    pub grant: Grant,
    /// End of the answer.
    pub fresh_until: Instant,
    /// From then on the answer is renewed in the background if it is used; never if `None`.
    pub refresh_at: Option<Instant>,
    /// Whose token it is.
    pub user: Option<UserKey>,
    /// Its counters in [`crate::cache::epoch::Epochs`] when it was read from the shared cache.
    pub stamp: Stamp,
}

/// The hash of a key under a secret of the worker. No client can tell which tokens share a place of the index, and of two
/// keys with one hash only the later has an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
struct KeyHash(u64);

/// Entries that go for a new one, at the most. So where a smaller configuration takes over, no request waits until a million have
/// gone.
const MAX_EVICTED: usize = 1_024;

/// Of a range of 64 bits.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

impl KeyHash {
    fn new(key: &GrantKey, secret: u64) -> Self {
        // The digest is evenly spread by itself.
        let words = key.digest.0.as_chunks().0.iter().copied();
        let words = words.map(u64::from_le_bytes).chain([key.identity]);
        // What differs in any bit differs in the upper ones.
        let mix = |hash: u64, word: u64| (hash.rotate_left(26) ^ word).wrapping_mul(GOLDEN_RATIO);
        Self(words.fold(secret, mix))
    }
}

impl Spread for KeyHash {
    fn spread(&self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[derive(Debug)]
struct Frame {
    key: GrantKey,
    entry: KeptGrant,
    bytes: usize,
    /// It was used since the hand last passed it.
    referenced: bool,
}

/// The active answers that one worker holds.
pub struct Grants {
    frames: Vec<Frame>,
    /// Where each frame is.
    index: ProbingMap<KeyHash, usize>,
    secret: u64,
    bytes: usize,
    hand: usize,
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Grants");
        shown.field("len", &self.len()).field("bytes", &self.bytes);
        shown.finish_non_exhaustive()
    }
}

impl Grants {
    /// None. `secret` is a random number that no client knows.
    pub fn new(secret: u64) -> Self {
        Self {
            frames: Vec::new(),
            index: ProbingMap::default(),
            secret,
            bytes: 0,
            hand: 0,
        }
    }

    /// The entry for `key`, whatever its age.
    pub fn find(&mut self, key: &GrantKey) -> Option<&KeptGrant> {
        let at = *self.index.get(&KeyHash::new(key, self.secret))?;
        let frame = self.frames.get_mut(at).filter(|frame| frame.key == *key)?;
        frame.referenced = true;
        Some(&frame.entry)
    }

    /// Keeps `entry`, making room within `capacity` entries. Returns how many had to go.
    pub fn insert(&mut self, key: GrantKey, entry: KeptGrant, capacity: usize) -> usize {
        let hash = KeyHash::new(&key, self.secret);
        if let Some(at) = self.index.get(&hash).copied() {
            self.remove_at(at);
        }
        let bytes = size_of::<Frame>() + size_of::<GrantKey>() + entry.grant.heap_bytes();
        let limit = capacity.saturating_mul(BYTES_PER_ENTRY);
        if bytes > limit {
            return 0;
        }
        let mut evicted = 0;
        while evicted < MAX_EVICTED && (self.frames.len() >= capacity || self.bytes + bytes > limit)
        {
            self.evict();
            evicted += 1;
        }
        self.bytes += bytes;
        self.index.insert(hash, self.frames.len());
        self.frames.push(Frame {
            key,
            entry,
            bytes,
            referenced: false,
        });
        evicted
    }

    /// Forgets `key`.
    pub fn remove(&mut self, key: &GrantKey) {
        let at = self.index.get(&KeyHash::new(key, self.secret)).copied();
        let is_its = |at: &usize| self.frames.get(*at).is_some_and(|frame| frame.key == *key);
        if let Some(at) = at.filter(is_its) {
            self.remove_at(at);
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.frames.len()
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
            if !core::mem::take(&mut frame.referenced) {
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
        self.index.remove(&KeyHash::new(&removed.key, self.secret));
        if let Some(moved) = self.frames.get(at) {
            self.index.insert(KeyHash::new(&moved.key, self.secret), at);
        }
    }
}

#[cfg(test)]
mod tests;
