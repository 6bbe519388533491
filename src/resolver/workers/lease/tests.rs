//! Who holds a lease, who waits for it, and what stays of it.

use super::*;
use crate::host::memory::MemoryStore;

const NOW: Instant = Instant::from_millis(1_000_000);
const SEEN: Instant = NOW;
const ME: u64 = 1;
const OTHER: u64 = 2;
const ASKER: Asker = Asker(3);

fn key(token: &[u8]) -> QuestionKey {
    QuestionKey {
        digest: TokenDigest::of(token),
        fingerprint: 1,
    }
}

/// It is another worker's, which the first one that waits must tell.
fn held(until: Instant, to_notify: Option<u64>) -> Acquired {
    Acquired::Held { until, to_notify }
}

impl Leases {
    /// A claim of a worker that waits where another one holds the lease.
    pub(in crate::resolver) fn acquire(
        &self,
        store: &impl Store,
        key: &QuestionKey,
        holder: u64,
        now: Instant,
        cache_read_at: Instant,
    ) -> Acquired {
        let claim = Claim {
            key,
            holder,
            asker: Some(ASKER),
            now,
            cache_read_at,
            on_held: OnHeld::Wait,
        };
        self.claim(store, &claim)
    }
}

#[test]
fn one_holder_at_a_time() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    let key = key(b"token");
    assert_eq!(leases.acquire(&store, &key, ME, NOW, SEEN), Acquired::Mine);
    assert_eq!(
        leases.acquire(&store, &key, OTHER, NOW, SEEN),
        held(NOW + LEASE, Some(ME))
    );
    leases.release(&store, &key, OTHER, None);
    assert_eq!(
        leases.acquire(&store, &key, OTHER, NOW, SEEN),
        held(NOW + LEASE, None),
        "it has been told"
    );
    leases.release(&store, &key, ME, None);
    assert_eq!(
        leases.acquire(&store, &key, OTHER, NOW, SEEN),
        Acquired::Mine
    );
}

#[test]
fn a_lease_ends_unless_it_is_renewed() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    let key = key(b"token");
    let later = NOW + LEASE / 2;
    assert_eq!(leases.acquire(&store, &key, ME, NOW, SEEN), Acquired::Mine);
    assert_eq!(
        leases.acquire(&store, &key, ME, later, SEEN),
        Acquired::Mine
    );
    assert_eq!(
        leases.acquire(&store, &key, OTHER, NOW + LEASE, SEEN),
        held(later + LEASE, Some(ME))
    );
    assert_eq!(
        leases.acquire(&store, &key, OTHER, later + LEASE, SEEN),
        Acquired::Mine
    );
    assert_eq!(
        leases.acquire(&store, &key, ME, later + LEASE, SEEN),
        held(later + LEASE + LEASE, Some(OTHER))
    );
}

#[test]
fn tokens_do_not_share_a_lease_and_a_full_table_says_so() {
    let (store, leases) = (
        MemoryStore::default(),
        Leases {
            buckets: Buckets::new(Space::Leases, 2),
        },
    );
    assert_eq!(
        leases.acquire(&store, &key(b"a"), ME, NOW, SEEN),
        Acquired::Mine
    );
    assert_eq!(
        leases.acquire(&store, &key(b"b"), OTHER, NOW, SEEN),
        Acquired::MineInCrowdedBucket
    );
    assert_eq!(
        leases.acquire(&store, &key(b"c"), ME, NOW, SEEN),
        Acquired::BucketFull
    );
    assert_eq!(
        leases.acquire(&store, &key(b"c"), ME, NOW + LEASE, SEEN),
        Acquired::Mine
    );
}

#[test]
fn half_a_bucket_may_be_left_held() {
    let store = MemoryStore::default();
    let leases = Leases {
        buckets: Buckets::new(Space::Leases, 8),
    };
    let acquired: Vec<_> = (0..6_u8)
        .map(|token| leases.acquire(&store, &key(&[token]), ME, NOW, SEEN))
        .collect();
    assert_eq!(acquired[..4], [Acquired::Mine; 4]);
    assert_eq!(acquired[4..], [Acquired::MineInCrowdedBucket; 2]);
    // Tombstones are not held.
    for token in 0..6_u8 {
        let tombstone = Some(Tombstone::Stored(NOW));
        leases.release(&store, &key(&[token]), ME, tombstone);
    }
    let acquired = leases.acquire(&store, &key(b"another"), ME, NOW, SEEN);
    assert_eq!(acquired, Acquired::Mine);
}

#[test]
fn contention_is_recorded() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    let key = key(b"token");
    leases.acquire(&store, &key, ME, NOW, SEEN);
    assert!(!leases.release(&store, &key, ME, None));
    leases.acquire(&store, &key, ME, NOW, SEEN);
    leases.acquire(&store, &key, OTHER, NOW, SEEN);
    leases.acquire(&store, &key, ME, NOW + LEASE / 2, SEEN);
    assert!(leases.release(&store, &key, ME, None));
}

#[test]
fn of_those_who_wait_only_the_first_writes() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    let key = key(b"token");
    leases.acquire(&store, &key, ME, NOW, SEEN);
    let until = NOW + LEASE;
    let first = leases.acquire(&store, &key, OTHER, NOW, SEEN);
    assert_eq!(first, held(until, Some(ME)));
    *store.interfere.borrow_mut() = Some(Box::new(|_: &MemoryStore| panic!("it writes")));
    for _ in 0..2 {
        let next = leases.acquire(&store, &key, OTHER, NOW, SEEN);
        assert_eq!(next, held(until, None));
    }
}

#[test]
fn where_nothing_can_be_written_mas_is_called_without_a_lease() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    let key = key(b"token");
    let acquire = || leases.acquire(&store, &key, OTHER, NOW, SEEN);
    store.is_read_only.set(true);
    assert_eq!(acquire(), Acquired::BucketFull);
    // One that another worker holds is held all the same.
    store.is_read_only.set(false);
    leases.acquire(&store, &key, ME, NOW, SEEN);
    store.is_read_only.set(true);
    assert_eq!(acquire(), held(NOW + LEASE, Some(ME)));
}

#[test]
fn a_mark_that_is_made_while_the_lease_is_given_back_counts() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    let key = key(b"token");
    leases.acquire(&store, &key, ME, NOW, SEEN);
    *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
        Leases::default().acquire(store, &key, OTHER, NOW, SEEN);
    }));
    assert!(leases.release(&store, &key, ME, None));
}

#[test]
fn a_lease_that_is_given_back_while_it_is_marked_can_be_had() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    let key = key(b"token");
    leases.acquire(&store, &key, OTHER, NOW, SEEN);
    *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
        Leases::default().release(store, &key, OTHER, None);
    }));
    assert_eq!(leases.acquire(&store, &key, ME, NOW, SEEN), Acquired::Mine);
}

#[test]
fn acquire_is_exclusive_under_a_race() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    leases.release(&store, &key(b"makes the seed"), ME, None);
    *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
        assert_eq!(
            Leases::default().acquire(store, &key(b"token"), OTHER, NOW, SEEN),
            Acquired::Mine
        );
    }));
    assert!(matches!(
        leases.acquire(&store, &key(b"token"), ME, NOW, SEEN),
        Acquired::Held { .. }
    ));
}

#[test]
fn an_answer_that_has_come_meanwhile_is_known() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    let key = key(b"token");
    let acquire =
        |holder, now, cache_read_at| leases.acquire(&store, &key, holder, now, cache_read_at);
    acquire(ME, NOW, NOW);
    leases.release(&store, &key, ME, Some(Tombstone::Stored(NOW)));
    let before = NOW.minus(LEASE);
    for _ in 0..2 {
        assert_eq!(acquire(OTHER, NOW, before), Acquired::Tombstone(NOW));
    }
    assert_eq!(acquire(OTHER, NOW, NOW), Acquired::Mine, "it was no use");
    leases.release(&store, &key, OTHER, Some(Tombstone::Stored(NOW)));
    let late = NOW + LEASE;
    assert_eq!(acquire(OTHER, late, before), Acquired::Mine, "long ago");
}

#[test]
fn a_failure_holds_every_worker_off_for_a_second_and_then_counts_no_more() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    let key = key(b"token");
    let acquire = |holder, now| leases.acquire(&store, &key, holder, now, now);
    acquire(ME, NOW);
    leases.release(&store, &key, ME, Some(Tombstone::Failed(NOW, ASKER)));
    let last = (NOW + LEASE).minus(Duration::from_millis(1));
    for holder in [ME, OTHER] {
        assert_eq!(acquire(holder, NOW), Acquired::Failed);
        assert_eq!(acquire(holder, last), Acquired::Failed);
    }
    assert_eq!(acquire(OTHER, NOW + LEASE), Acquired::Mine);
    // A call that took as long as that holds nobody off.
    leases.release(&store, &key, OTHER, Some(Tombstone::Failed(NOW, ASKER)));
    assert_eq!(acquire(ME, NOW + LEASE), Acquired::Mine);
}

#[test]
fn a_failure_holds_off_those_who_ask_alike() {
    let (store, leases) = (MemoryStore::default(), Leases::default());
    let key = key(b"token");
    leases.acquire(&store, &key, ME, NOW, NOW);
    for (asker, acquired) in [(Asker(4), Acquired::Mine), (ASKER, Acquired::Failed)] {
        leases.release(&store, &key, ME, Some(Tombstone::Failed(NOW, asker)));
        assert_eq!(leases.acquire(&store, &key, ME, NOW, NOW), acquired);
    }
}

#[test]
fn a_tombstone_makes_room_for_a_lease_and_is_not_held() {
    let store = MemoryStore::default();
    let leases = Leases {
        buckets: Buckets::new(Space::Leases, 1),
    };
    let (one, two) = (key(b"one"), key(b"two"));
    leases.acquire(&store, &one, ME, NOW, SEEN);
    leases.release(&store, &one, ME, Some(Tombstone::Stored(NOW)));
    assert!(!leases.release(&store, &one, ME, None));
    let acquired = leases.acquire(&store, &two, ME, NOW, SEEN);
    assert_eq!(acquired, Acquired::MineInCrowdedBucket);
    let acquired = leases.acquire(&store, &one, ME, NOW, SEEN);
    assert_eq!(acquired, Acquired::BucketFull);
}
