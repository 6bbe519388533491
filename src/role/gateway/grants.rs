//! What tokens grant, as one worker keeps it in front of the shared cache: a hit makes no shared-data call.
//!
//! Only active answers are kept, since a flood of invented tokens must not push sessions out. Bounded in
//! entries and in bytes; when full, the next entry that was not used since the hand last passed it goes
//! (second chance). An entry counts for the epoch it was read in, see [`crate::cache::epoch`].

use std::fmt;

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
        self.index.remove(&KeyHash::new(&removed.key, self.secret));
        if let Some(moved) = self.frames.get(at) {
            self.index.insert(KeyHash::new(&moved.key, self.secret), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{self, Config},
        mas::introspection::ActiveToken,
        token::TokenDigest,
    };

    thread_local! {
        static CONFIG: Config = config::parse(CONFIGURATION.as_bytes(), &|_| None).unwrap();
    }
    const CONFIGURATION: &str = r#"{"server_name": "a.b", "introspection": {"cluster": "mas", "credential": {"injected": true}}}"#;

    fn key(number: usize) -> GrantKey {
        GrantKey {
            digest: TokenDigest::of(&number.to_le_bytes()),
            identity: 1,
        }
    }

    /// What is kept of a user with so long a name.
    fn entry(name_bytes: usize) -> KeptGrant {
        let name = "a".repeat(name_bytes);
        let token = ActiveToken {
            username: Some(&name),
            device_id: None,
            client_id: None,
            scope: "urn:matrix:client:api:*",
        };
        KeptGrant {
            grant: CONFIG.with(|config| Grant::new(&token, config)),
            fresh_until: Instant::from_millis(1_000),
            refresh_at: None,
            user: None,
            stamp: Stamp::default(),
        }
    }

    const SECRET: u64 = 7;

    fn holds(grants: &Grants, number: usize) -> bool {
        grants
            .index
            .get(&KeyHash::new(&key(number), grants.secret))
            .is_some()
    }

    #[test]
    fn entries_are_bounded() {
        let mut grants = Grants::new(SECRET);
        let evicted: usize = (0..1_000)
            .map(|number| grants.insert(key(number), entry(100), 64))
            .sum();
        assert_eq!((grants.len(), evicted), (64, 1_000 - 64));
        assert!(grants.bytes <= 64 * BYTES_PER_ENTRY);
        assert!(holds(&grants, 999));
    }

    #[test]
    fn a_smaller_bound_is_reached_step_by_step() {
        let mut grants = Grants::new(SECRET);
        (0..5_000).for_each(|number| {
            grants.insert(key(number), entry(1), 10_000);
        });
        let evicted: Vec<usize> = (0..6)
            .map(|number| grants.insert(key(10_000 + number), entry(1), 64))
            .collect();
        assert_eq!(evicted[..4], [MAX_EVICTED; 4]);
        assert_eq!((evicted[5], grants.len()), (1, 64));
    }

    #[test]
    fn bytes_are_bounded() {
        let mut grants = Grants::new(SECRET);
        for number in 0..1_000 {
            grants.insert(key(number), entry(number * 7 % 5_000), 64);
            assert!(grants.bytes <= 64 * BYTES_PER_ENTRY && grants.len() <= 64);
        }
        assert!(grants.len() < 64, "large entries take the room of several");
        grants.insert(key(0), entry(64 * BYTES_PER_ENTRY), 64);
        assert!(
            !holds(&grants, 0),
            "one that is larger than everything is not kept"
        );
        (0..1_000).for_each(|number| grants.remove(&key(number)));
        assert_eq!((grants.len(), grants.bytes, grants.index.len()), (0, 0, 0));
    }

    /// Returns a key that has the same hash as `key(0)`, and another digest.
    fn twin(secret: u64) -> GrantKey {
        // Newton's method doubles the bits that are right.
        let inverse = (0..6).fold(1_u64, |inverse, _| {
            inverse.wrapping_mul(2_u64.wrapping_sub(GOLDEN_RATIO.wrapping_mul(inverse)))
        });
        let before_last = |number| {
            let key = GrantKey {
                identity: 0,
                ..key(number)
            };
            KeyHash::new(&key, secret).0.wrapping_mul(inverse)
        };
        GrantKey {
            identity: before_last(0) ^ before_last(1) ^ key(0).identity,
            ..key(1)
        }
    }

    #[test]
    fn keys_with_one_hash_are_told_apart() {
        let mut grants = Grants::new(SECRET);
        let twin = twin(grants.secret);
        assert!(KeyHash::new(&twin, grants.secret) == KeyHash::new(&key(0), grants.secret));
        grants.insert(key(0), entry(1), 64);
        assert!(grants.find(&twin).is_none());
        grants.remove(&twin);
        assert!(grants.find(&key(0)).is_some());
        grants.insert(twin, entry(2), 64);
        assert!(grants.find(&key(0)).is_none() && grants.find(&twin).is_some());
        assert_eq!((grants.len(), grants.index.len()), (1, 1));
    }

    #[test]
    fn what_is_in_use_stays() {
        let mut grants = Grants::new(SECRET);
        for number in 0..10_000 {
            grants.insert(key(number), entry(1), 64);
            assert!(grants.find(&key(0)).is_some(), "after {number}");
        }
    }

    #[test]
    fn the_clock_evicts_unreferenced_entries_and_spares_recent_ones() {
        let mut grants = Grants::new(SECRET);
        for number in 0..1_000 {
            grants.insert(key(number), entry(1), 64);
            let recent = (number.saturating_sub(16)..=number)
                .filter(|n| holds(&grants, *n))
                .count();
            assert!(
                recent >= 16.min(number),
                "{recent} of the last 16 at {number}"
            );
        }
        let old = (0..800).filter(|number| holds(&grants, *number)).count();
        assert_eq!(old, 0, "nothing unused stays for ever");
    }

    #[test]
    fn the_same_token_has_one_entry() {
        let mut grants = Grants::new(SECRET);
        for _ in 0..10 {
            grants.insert(key(1), entry(10), 64);
        }
        assert_eq!(grants.len(), 1);
        assert_eq!(grants.insert(key(2), entry(10), 0), 0);
        assert!(!holds(&grants, 2), "no entries, no cache");
    }
}
