//! A table of a fixed number of answers in the store.
//!
//! Which answer of a full bucket is given up when all are live is decided by when each was last *used*, so
//! the table keeps what an ideal least-recently-used cache would keep, nearly.

use std::time::Duration;

use super::{
    bucket::Buckets,
    entry::{Entry, EntryHead, set_used_at},
};
use crate::{
    clock::Instant,
    host::{NotWritten, Store},
    mas::user::UserKey,
    metrics::Evicted,
    token::TokenDigest,
};

/// How often a write is tried again after another worker wrote to the same bucket first.
const WRITE_ATTEMPTS: usize = 16;

/// An entry's time of use is written no more often than this.
const USE_RESOLUTION: Duration = Duration::from_secs(1);

/// What a removal took out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Whose token it was.
    pub user: Option<UserKey>,
}

/// A table. Workers with the same name and size share it.
#[derive(Debug)]
pub struct Table {
    buckets: Buckets,
}

impl Table {
    /// A table for `slots` answers.
    pub fn new(name: &'static str, slots: u32) -> Self {
        Self {
            buckets: Buckets::new(name, slots),
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
        let mut bucket = self.buckets.read(store, &digest.0);
        let record = bucket.find_mut(|record| {
            EntryHead::decode(record)
                .is_some_and(|head| head.digest == *digest && head.fingerprint == fingerprint)
        })?;
        let entry = Entry::decode(record)?;
        if now.since(entry.used_at) >= USE_RESOLUTION {
            set_used_at(record, now);
            // If someone else wrote, this use is forgotten; the next one is not.
            let _ = bucket.save(store);
        }
        Some(entry)
    }

    /// Writes the entry to its bucket, in place of any other about the token. A full bucket gives up the
    /// answer that ended first, or else the one not used for longest. Whoever wrote in between wins after
    /// many attempts; the cost is one more introspection. Returns whether the entry was written, and what it
    /// pushed out, with the tokens that was about.
    pub fn put(
        &self,
        store: &impl Store,
        entry: &Entry,
        now: Instant,
    ) -> (bool, Vec<(Evicted, TokenDigest)>) {
        let Some(bytes) = entry.encode() else {
            return (false, Vec::new());
        };
        for _ in 0..WRITE_ATTEMPTS {
            let bucket = self.buckets.read(store, &entry.digest.0);
            let mut stay: Vec<(EvictionOrder, TokenDigest, &[u8])> = bucket
                .records()
                .filter_map(|record| {
                    let head = EntryHead::decode(record)?;
                    let order = EvictionOrder::of(&head, now);
                    (head.digest != entry.digest).then_some((order, head.digest, record))
                })
                .collect();
            stay.sort_by_key(|(order, ..)| *order);
            // More than one only where a larger table was configured before.
            let surplus = (stay.len() + 1).saturating_sub(self.buckets.capacity);
            let evicted = stay
                .drain(..surplus)
                .map(|(order, digest, _)| (order.evicted(), digest))
                .collect();
            let records = stay.into_iter().map(|(.., record)| record);
            match bucket.replace(store, records.chain([&*bytes])) {
                Err(NotWritten::Changed) => {}
                Err(NotWritten::Refused) => break,
                Ok(()) => return (true, evicted),
            }
        }
        (false, Vec::new())
    }

    /// Takes out what is known of this token. `None`: nothing was.
    pub fn remove(&self, store: &impl Store, digest: &TokenDigest) -> Option<Removed> {
        let mut removed = None;
        for _ in 0..WRITE_ATTEMPTS {
            let bucket = self.buckets.read(store, &digest.0);
            let about =
                |record: &[u8]| EntryHead::decode(record).filter(|head| head.digest == *digest);
            let Some(head) = bucket.records().find_map(about) else {
                break;
            };
            removed = Some(Removed { user: head.user });
            let stay = bucket.records().filter(|record| about(record).is_none());
            if bucket.replace(store, stay) != Err(NotWritten::Changed) {
                break;
            }
        }
        removed
    }
}

/// The order of eviction, smallest first: expired entries by their expiry, then live ones by their last use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionOrder {
    /// Past its freshness, since then.
    Expired(Instant),
    /// Still of use, and used at that moment.
    Live(Instant),
}

impl EvictionOrder {
    fn evicted(self) -> Evicted {
        match self {
            Self::Expired(_) => Evicted::Expired,
            Self::Live(_) => Evicted::Live,
        }
    }

    fn of(head: &EntryHead, now: Instant) -> Self {
        if head.fresh_until <= now {
            Self::Expired(head.fresh_until)
        } else {
            Self::Live(head.used_at)
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::{
        host::{If, memory::MemoryStore},
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
            fresh_until: NOW + Duration::from_secs(fresh_for),
            expiry: None,
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
        // All buckets and the seed.
        assert_eq!(store.len(), 128 / 8 + 1);
    }

    #[test]
    fn most_of_the_table_is_filled_before_anything_live_is_lost() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 1024));
        for n in 0..512_u32 {
            table.put(&store, &entry(&n.to_le_bytes(), 100), NOW);
        }
        let kept = (0..512_u32)
            .filter(|n| holds(&table, &store, &n.to_le_bytes()))
            .count();
        assert!(kept >= 504, "{kept} of 512");
    }

    #[test]
    fn what_has_ended_gives_way_before_what_is_live() {
        let (store, table) = (MemoryStore::default(), Table::new("t", 2));
        table.put(&store, &entry(b"live", 100), NOW);
        assert_eq!(table.put(&store, &entry(b"ended", 0), NOW).1, []);
        assert_eq!(
            table.put(&store, &entry(b"new", 50), NOW).1,
            [(Evicted::Expired, TokenDigest::of(b"ended"))]
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
            [(Evicted::Live, TokenDigest::of(b"new"))]
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
    fn a_table_that_is_configured_smaller_tells_all_that_it_gives_up() {
        let store = MemoryStore::default();
        let tokens = [b"a", b"b", b"c", b"d"];
        for token in tokens {
            Table::new("t", 4).put(&store, &entry(token, 100), NOW);
        }
        let (_, mut evicted) = Table::new("t", 1).put(&store, &entry(b"new", 100), NOW);
        evicted.sort();
        let mut all = tokens.map(|token| (Evicted::Live, TokenDigest::of(token)));
        all.sort();
        assert_eq!(evicted, all);
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
        assert_eq!(one.buckets.seed(&store), two.buckets.seed(&store));
        let elsewhere = MemoryStore::default();
        elsewhere.write("other", b"", If::Absent).unwrap();
        let three = Table::new("t", 1 << 20);
        three.put(&elsewhere, &entry(b"token", 100), NOW);
        assert_ne!(one.buckets.seed(&store), three.buckets.seed(&elsewhere));
    }
}
