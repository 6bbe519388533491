//! A table of a fixed number of slots in the store.
//!
//! A token has two slots it may be in; a write takes the better of the two. Which answer is given up when
//! both are live is decided by when each was last *used*, so the table keeps what an ideal
//! least-recently-used cache would keep, nearly.

use std::time::Duration;

use super::{
    If, NotWritten, Store, TokenDigest,
    entry::{Entry, EntryHead, set_used_at},
    revocation::UserKey,
    slots::Slots,
};
use crate::clock::Instant;

/// How often a write is tried again after another worker wrote to the same slot first.
const WRITE_ATTEMPTS: usize = 3;

/// An entry's time of use is written no more often than this.
const USE_RESOLUTION: Duration = Duration::from_secs(1);

/// What a write pushed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evicted {
    /// An answer past its time.
    Ended,
    /// An answer that still held.
    Live,
}

/// What a removal took out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Whose token it was.
    pub user: Option<UserKey>,
}

/// A table. Workers with the same name and size share it.
#[derive(Debug)]
pub struct Table {
    slots: Slots,
}

impl Table {
    /// A table of `slots` slots.
    pub fn new(name: &'static str, slots: u32) -> Self {
        Self {
            slots: Slots::new(name, slots),
        }
    }

    /// The entry of this token for the same `fingerprint`, fresh or not. Finding it is a use.
    pub fn find(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        fingerprint: u64,
        now: Instant,
    ) -> Option<Entry> {
        self.slots.keys(store, digest).into_iter().find_map(|key| {
            let mut stored = store.read(&key)?;
            let entry = Entry::decode(&stored.value)
                .filter(|entry| entry.digest == *digest && entry.fingerprint == fingerprint)?;
            if now.since(entry.used_at) >= USE_RESOLUTION {
                set_used_at(&mut stored.value, now);
                // Someone else wrote: then they used it too, or it is another entry by now.
                let _ = store.write(&key, &stored.value, If::Unchanged(stored.cas));
            }
            Some(entry)
        })
    }

    /// Writes the entry to one of its two slots: where the token already is, else an empty or unreadable
    /// one, else one past its freshness, else the one not used for longer. Whoever wrote in between wins
    /// after a few attempts; the cost is one more introspection. Returns whether the entry was written,
    /// and what it pushed out, with the token it was about.
    pub fn put(
        &self,
        store: &impl Store,
        entry: &Entry,
        now: Instant,
    ) -> (bool, Option<(Evicted, TokenDigest)>) {
        let Some(bytes) = entry.encode() else {
            return (false, None);
        };
        for _ in 0..WRITE_ATTEMPTS {
            let [one, two] = self.slots.keys(store, &entry.digest).map(|key| {
                let stored = store.read(&key);
                let head = stored
                    .as_ref()
                    .and_then(|stored| EntryHead::decode(&stored.value));
                let rank = Rank::of(head.as_ref(), &entry.digest, now);
                let evicted = rank.evicts().zip(head.map(|head| head.digest));
                let condition = stored.map_or(If::Absent, |stored| If::Unchanged(stored.cas));
                (rank, key, condition, evicted)
            });
            let (_, key, condition, evicted) = if two.0 < one.0 { two } else { one };
            match store.write(&key, &bytes, condition) {
                Err(NotWritten::Changed) => {}
                Err(NotWritten::Refused) => break,
                Ok(()) => return (true, evicted),
            }
        }
        (false, None)
    }

    /// Empties the slot that holds this token. `None`: none did.
    pub fn remove(&self, store: &impl Store, digest: &TokenDigest) -> Option<Removed> {
        let mut removed = None;
        for key in self.slots.keys(store, digest) {
            for _ in 0..WRITE_ATTEMPTS {
                let Some(stored) = store.read(&key) else {
                    break;
                };
                let head = EntryHead::decode(&stored.value);
                let Some(head) = head.filter(|head| head.digest == *digest) else {
                    break;
                };
                removed = Some(Removed { user: head.user });
                if store.write(&key, &[], If::Unchanged(stored.cas)) != Err(NotWritten::Changed) {
                    break;
                }
            }
        }
        removed
    }
}

/// How gladly a slot is given up; the smallest goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It holds the same token.
    Same,
    /// Never used, emptied, or of another format.
    Empty,
    /// Past its freshness, since then.
    Ended(Instant),
    /// Still of use, and used at that moment.
    Live(Instant),
}

impl Rank {
    fn evicts(self) -> Option<Evicted> {
        match self {
            Self::Same | Self::Empty => None,
            Self::Ended(_) => Some(Evicted::Ended),
            Self::Live(_) => Some(Evicted::Live),
        }
    }

    fn of(head: Option<&EntryHead>, digest: &TokenDigest, now: Instant) -> Self {
        match head {
            None => Self::Empty,
            Some(head) if head.digest == *digest => Self::Same,
            Some(head) if head.fresh_until <= now => Self::Ended(head.fresh_until),
            Some(head) => Self::Live(head.used_at),
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::{
        cache::memory::MemoryStore,
        mas::introspection::{Answer, InactiveAnswer},
    };

    const NOW: Instant = Instant::from_millis(1_000_000);

    fn after(seconds: u64) -> Instant {
        NOW + Duration::from_secs(seconds)
    }

    fn entry(token: &[u8], fresh_for: u64) -> Entry {
        Entry {
            digest: TokenDigest::of(token),
            fingerprint: 1,
            user: None,
            used_at: NOW,
            asked_at: NOW,
            answered_at: NOW,
            fresh_until: NOW + Duration::from_secs(fresh_for),
            answer: Answer::Inactive(InactiveAnswer::default()),
        }
    }

    fn holds(table: &Table, store: &MemoryStore, token: &[u8]) -> bool {
        table.find(store, &TokenDigest::of(token), 1, NOW).is_some()
    }

    #[test]
    fn a_full_table_keeps_working_and_never_grows() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 128));
        for n in 0..10_000_u32 {
            let token = n.to_le_bytes();
            table.put(&store, &entry(&token, u64::from(n)), NOW);
            assert!(
                holds(&table, &store, &token),
                "the latest entry is always found"
            );
        }
        // All slots and the seed.
        assert_eq!(store.len(), 129);
    }

    #[test]
    fn two_choices_fill_most_of_the_table_before_anything_live_is_lost() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 1024));
        for n in 0..512_u32 {
            table.put(&store, &entry(&n.to_le_bytes(), 100), NOW);
        }
        let kept = (0..512_u32)
            .filter(|n| holds(&table, &store, &n.to_le_bytes()))
            .count();
        assert!(kept >= 460, "{kept} of 512");
    }

    #[test]
    fn what_has_ended_gives_way_before_what_is_live() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 2));
        table.put(&store, &entry(b"live", 100), NOW);
        assert_eq!(table.put(&store, &entry(b"ended", 0), NOW).1, None);
        assert_eq!(
            table.put(&store, &entry(b"new", 50), NOW).1,
            Some((Evicted::Ended, TokenDigest::of(b"ended")))
        );
        assert!(holds(&table, &store, b"live") && !holds(&table, &store, b"ended"));
    }

    #[test]
    fn what_was_not_used_for_longer_gives_way_to_what_was() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 2));
        table.put(&store, &entry(b"old", 100), NOW);
        table.put(&store, &entry(b"new", 100), NOW);
        assert!(
            table
                .find(&store, &TokenDigest::of(b"old"), 1, after(1))
                .is_some()
        );
        let late = Entry {
            used_at: after(2),
            ..entry(b"late", 100)
        };
        assert_eq!(
            table.put(&store, &late, after(2)).1,
            Some((Evicted::Live, TokenDigest::of(b"new")))
        );
        assert!(holds(&table, &store, b"old") && !holds(&table, &store, b"new"));
    }

    #[test]
    fn a_token_has_one_entry() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 1024));
        for fresh_for in [1, 2, 3] {
            table.put(&store, &entry(b"token", fresh_for), NOW);
        }
        assert_eq!(store.len(), 2);
        let found = table
            .find(&store, &TokenDigest::of(b"token"), 1, NOW)
            .unwrap();
        assert_eq!(found.fresh_until, NOW + Duration::from_secs(3));
        table.remove(&store, &TokenDigest::of(b"token"));
        assert!(!holds(&table, &store, b"token"));
    }

    #[test]
    fn removing_a_token_leaves_its_neighbours() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 2));
        table.put(&store, &entry(b"one", 100), NOW);
        table.put(&store, &entry(b"two", 100), NOW);
        table.remove(&store, &TokenDigest::of(b"three"));
        assert!(holds(&table, &store, b"one") && holds(&table, &store, b"two"));
    }

    #[test]
    fn an_interfering_write_is_not_overwritten_blindly() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 1));
        table.put(&store, &entry(b"seed", 0), NOW);
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            Table::new("t", 1).put(store, &entry(b"other", 100), NOW);
        }));
        table.put(&store, &entry(b"mine", 100), NOW);
        assert!(holds(&table, &store, b"mine"), "a lost race is tried again");
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            Table::new("t", 1).put(store, &entry(b"other", 100), NOW);
        }));
        table.remove(&store, &TokenDigest::of(b"mine"));
        assert!(
            holds(&table, &store, b"other"),
            "only the entry that was read is removed"
        );
    }

    #[test]
    fn workers_agree_on_the_seed_and_processes_do_not() {
        let (one, two) = (Table::new("t", 1 << 20), Table::new("t", 1 << 20));
        let store = MemoryStore::default();
        one.put(&store, &entry(b"token", 100), NOW);
        assert!(holds(&two, &store, b"token"));
        assert_eq!(one.slots.seed(&store), two.slots.seed(&store));
        let elsewhere = MemoryStore::default();
        elsewhere.write("other", b"", If::Absent).unwrap();
        let three = Table::new("t", 1 << 20);
        three.put(&elsewhere, &entry(b"token", 100), NOW);
        assert_ne!(one.slots.seed(&store), three.slots.seed(&elsewhere));
    }
}
