//! Single-flight across workers: a lease in shared data on asking about one token.
//!
//! The worker that holds the lease calls MAS; the others wait for the answer to appear in the shared cache. The
//! lease is short and its holder renews it while the call is on its way, so a holder that vanishes (a VM
//! that failed, a configuration that ended) costs the others no more than [`LEASE`]. A lease is an economy: two holders at
//! once cost one more call.
//!
//! The non-obvious rule: one thing relies on it. A worker that stores "active" within a quarter of a second, under its lease,
//! looks for no earlier "inactive". So a worker that stores "inactive" later than that, or without a lease, acquires the lease
//! afterwards, and takes its answer out where another worker has the lease.
//!
//! A worker that finds the lease held marks it as contended and tells the holder that it waits, and the holder hints the
//! others only then. A token that ends while it is asked about has nothing to do with leases: see [`crate::cache::ended`].
//!
//! The holder leaves a lease to run out if the answer is in the shared cache, and no worker has told that it waits: most new
//! tokens come to one worker only, and releasing is a reading and a writing. A worker that finds such a lease tells the holder,
//! which has no call any more and releases it then. A lease that is held makes no room for another, and anyone can invent as
//! many tokens as there are leases: so none is left in a bucket of which more than half is held.
//!
//! Releasing a lease after a store leaves a tombstone for one lease period. It closes a race: a worker that missed
//! just before the store and asks for the lease just after sees the tombstone and reads the cache again instead
//! of calling MAS. A call that failed leaves another kind of tombstone, so that no worker tries again within a second.
//!
//! A tombstone makes room for a lease, so invented tokens can fill no bucket with them: at worst a call that
//! failed is forgotten early and made again.

use std::time::Duration;

use crate::{
    cache::question::QuestionKey,
    clock::Instant,
    host::{NotWritten, Store, until_written},
    shared_data::{
        bucket::{Bucket, Buckets},
        name::Space,
    },
    token::TokenDigest,
};

/// How long a lease holds without renewal, and a tombstone stays.
pub const LEASE: Duration = Duration::from_secs(1);

/// Leases in all: far more than calls can be in flight, so that a bucket is seldom full.
const LEASES: u32 = 16_384;

/// A lease as bytes: digest, fingerprint, holder, moment, flags.
const BYTES: usize = QuestionKey::BYTES + 8 + 8 + 1;

const CONTENDED: u8 = 2;
const STORED: u8 = 4;
const FAILED: u8 = 8;

/// The outcome of asking for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// This worker holds it: call MAS.
    Mine,
    /// The same, in a bucket of which more than half is held.
    MineAmongMany,
    /// Another worker calls MAS, or has called it.
    Held {
        /// Until when it holds the lease unless it renews it.
        until: Instant,
        /// The holder, if it is to be told that a worker waits: this one is the first.
        untold: Option<u64>,
    },
    /// No worker holds the lease, but an answer was stored at this moment. Read the cache; if the entry
    /// cannot be used, acquire again with this moment as `cache_read_at`.
    Tombstone(Instant),
    /// No worker holds the lease, and none may acquire it for a while: a call has failed.
    Failed,
    /// The bucket is full of other leases, or shared data takes none: call MAS without one.
    BucketFull,
}

/// Whether a worker holds the lease on its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leased {
    /// It does not.
    No,
    /// It does, and must release it, to make room for others.
    Tightly,
    /// It does, and may leave it to run out.
    Loosely,
}

/// What stays of a lease that is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstone {
    /// An answer has been in the shared cache since then.
    Stored(Instant),
    /// MAS gave no answer. No worker tries again for the time of a lease, counted from this moment.
    Failed(Instant),
}

/// The lease table.
#[derive(Debug)]
pub struct Leases {
    buckets: Buckets,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            buckets: Buckets::new(Space::Leases, LEASES),
        }
    }
}

#[derive(Clone, Copy)]
struct Lease {
    key: [u8; QuestionKey::BYTES],
    holder: u64,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    Held {
        until: Instant,
        /// Another worker waits.
        contended: bool,
    },
    /// A tombstone.
    Released(Tombstone),
}

impl Tombstone {
    fn at(self) -> Instant {
        match self {
            Self::Stored(at) | Self::Failed(at) => at,
        }
    }
}

impl Lease {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (key, rest) = bytes.split_first_chunk()?;
        let (holder, rest) = rest.split_first_chunk()?;
        let (moment, flags) = rest.split_first_chunk()?;
        let [flags] = <[u8; 1]>::try_from(flags).ok()?;
        let moment = Instant::from_le_bytes(*moment);
        Some(Self {
            key: *key,
            holder: u64::from_le_bytes(*holder),
            state: if flags & STORED != 0 {
                State::Released(Tombstone::Stored(moment))
            } else if flags & FAILED != 0 {
                State::Released(Tombstone::Failed(moment))
            } else {
                State::Held {
                    until: moment,
                    contended: flags & CONTENDED != 0,
                }
            },
        })
    }

    fn encode(&self) -> [u8; BYTES] {
        let (moment, flags) = match self.state {
            State::Held { until, contended } => (until, if contended { CONTENDED } else { 0 }),
            State::Released(Tombstone::Stored(at)) => (at, STORED),
            State::Released(Tombstone::Failed(at)) => (at, FAILED),
        };
        let mut bytes = [0; BYTES];
        let (key, rest) = bytes.split_at_mut(QuestionKey::BYTES);
        let (holder, rest) = rest.split_at_mut(8);
        let (at, last) = rest.split_at_mut(8);
        key.copy_from_slice(&self.key);
        holder.copy_from_slice(&self.holder.to_le_bytes());
        at.copy_from_slice(&moment.to_le_bytes());
        last.copy_from_slice(&[flags]);
        bytes
    }

    /// Whether it is contended, if it is held on `key` by `holder`.
    fn contended(&self, key: &QuestionKey, holder: u64) -> Option<bool> {
        match self.state {
            State::Held { contended, .. }
                if self.holder == holder && self.key == key.to_bytes() =>
            {
                Some(contended)
            }
            _ => None,
        }
    }

    /// Returns whether the lease or tombstone is still in force at `now`.
    fn is_current(&self, now: Instant) -> bool {
        match self.state {
            State::Held { until, .. } => now < until,
            State::Released(tombstone) => now < tombstone.at() + LEASE,
        }
    }
}

/// What a worker does that does not get a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// It waits for the answer of the worker that holds it, which must tell it.
    Wait,
    /// It goes on without.
    Leave,
}

/// A worker that wants the lease on a question.
pub struct Claim<'a> {
    /// The question.
    pub key: &'a QuestionKey,
    /// How the worker signs leases.
    pub holder: u64,
    /// The present moment.
    pub now: Instant,
    /// Up to then its reading of the cache is complete.
    pub cache_read_at: Instant,
    /// What it does without the lease.
    pub otherwise: Otherwise,
}

impl Claim<'_> {
    /// Enters the claim into a bucket, which has room for so many leases. Returns what comes of it, and whether that changes
    /// the bucket.
    fn enter(&self, leases: &mut Vec<Lease>, capacity: usize) -> (Acquired, bool) {
        let (key, until) = (self.key.to_bytes(), self.now + LEASE);
        match leases.iter_mut().find(|lease| lease.key == key) {
            Some(lease) => match &mut lease.state {
                State::Released(Tombstone::Failed(_)) => return (Acquired::Failed, false),
                State::Released(Tombstone::Stored(at)) if *at > self.cache_read_at => {
                    return (Acquired::Tombstone(*at), false);
                }
                State::Released(Tombstone::Stored(_)) => *lease = self.lease(key, until),
                State::Held { until, contended } if lease.holder != self.holder => {
                    let waits = self.otherwise == Otherwise::Wait;
                    let is_first = waits && !std::mem::replace(contended, true);
                    let held = Acquired::Held {
                        until: *until,
                        untold: is_first.then_some(lease.holder),
                    };
                    return (held, is_first);
                }
                State::Held { until: end, .. } => *end = until,
            },
            None => {
                if leases.len() >= capacity && !evict_oldest_tombstone(leases) {
                    return (Acquired::BucketFull, false);
                }
                leases.push(self.lease(key, until));
            }
        }
        let is_held = |lease: &&Lease| matches!(lease.state, State::Held { .. });
        if 2 * leases.iter().filter(is_held).count() > capacity {
            (Acquired::MineAmongMany, true)
        } else {
            (Acquired::Mine, true)
        }
    }

    /// Returns the lease of this worker, for which no other worker waits yet.
    fn lease(&self, key: [u8; QuestionKey::BYTES], until: Instant) -> Lease {
        Lease {
            key,
            holder: self.holder,
            state: State::Held {
                until,
                contended: false,
            },
        }
    }
}

impl Leases {
    /// Acquires or renews a lease. Where another worker holds it, that one learns of a claimant that waits.
    pub fn claim(&self, store: &impl Store, claim: &Claim<'_>) -> Acquired {
        let now = claim.now;
        let acquired = until_written(|| {
            let (bucket, mut leases) = self.read(store, &claim.key.digest);
            leases.retain(|lease| lease.is_current(now));
            let (acquired, is_changed) = claim.enter(&mut leases, self.buckets.capacity);
            let written = if is_changed {
                write(store, &bucket, &leases)
            } else {
                Ok(())
            };
            match (written, acquired) {
                // No other worker gets it either.
                (Err(NotWritten::Refused), Acquired::Mine | Acquired::MineAmongMany) => {
                    Ok(Acquired::BucketFull)
                }
                (Err(NotWritten::Changed), _) => Err(NotWritten::Changed),
                _ => Ok(acquired),
            }
        });
        acquired.unwrap_or(Acquired::Held {
            until: now + LEASE / 4,
            untold: None,
        })
    }

    /// Releases the lease on `key`. Returns whether another worker waits; `false` if this holder does not hold it any more.
    /// `tombstone` says what stays for a while.
    pub fn release(
        &self,
        store: &impl Store,
        key: &QuestionKey,
        holder: u64,
        tombstone: Option<Tombstone>,
    ) -> bool {
        let released = until_written(|| {
            let (bucket, mut leases) = self.read(store, &key.digest);
            let ours = leases
                .iter()
                .position(|lease| lease.contended(key, holder).is_some());
            let Some(ours) = ours else {
                return Ok(false);
            };
            let mut lease = leases.swap_remove(ours);
            let contended = lease.contended(key, holder).unwrap_or_default();
            if let Some(tombstone) = tombstone {
                lease.state = State::Released(tombstone);
                leases.push(lease);
            }
            // A worker that wrote first may have marked it: it is read again then.
            write(store, &bucket, &leases)?;
            Ok(contended)
        });
        released.unwrap_or(false)
    }

    fn read(&self, store: &impl Store, digest: &TokenDigest) -> (Bucket, Vec<Lease>) {
        let bucket = self.buckets.read(store, &digest.0);
        let mut leases = Vec::with_capacity(self.buckets.capacity + 1);
        leases.extend(bucket.records().filter_map(Lease::decode));
        (bucket, leases)
    }
}

fn write(store: &impl Store, bucket: &Bucket, leases: &[Lease]) -> Result<(), NotWritten> {
    bucket.replace(store, leases.iter().map(Lease::encode))
}

/// Makes room for a lease. `false`: all are held.
fn evict_oldest_tombstone(leases: &mut Vec<Lease>) -> bool {
    let answers = leases.iter().enumerate();
    let answers = answers.filter_map(|(place, lease)| match lease.state {
        State::Released(tombstone) => Some((tombstone.at(), place)),
        State::Held { .. } => None,
    });
    let oldest = answers.min();
    if let Some((_, place)) = oldest {
        leases.swap_remove(place);
    }
    oldest.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryStore;

    const NOW: Instant = Instant::from_millis(1_000_000);
    const SEEN: Instant = NOW;
    const ME: u64 = 1;
    const OTHER: u64 = 2;

    fn key(token: &[u8]) -> QuestionKey {
        QuestionKey {
            digest: TokenDigest::of(token),
            fingerprint: 1,
        }
    }

    /// It is another worker's, which the first one that waits must tell.
    fn held(until: Instant, untold: Option<u64>) -> Acquired {
        Acquired::Held { until, untold }
    }

    impl Leases {
        /// A claim of a worker that waits otherwise.
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
                now,
                cache_read_at,
                otherwise: Otherwise::Wait,
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
            Acquired::MineAmongMany
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
        assert_eq!(acquired[4..], [Acquired::MineAmongMany; 2]);
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
        leases.release(&store, &key, ME, Some(Tombstone::Failed(NOW)));
        let last = (NOW + LEASE).minus(Duration::from_millis(1));
        for holder in [ME, OTHER] {
            assert_eq!(acquire(holder, NOW), Acquired::Failed);
            assert_eq!(acquire(holder, last), Acquired::Failed);
        }
        assert_eq!(acquire(OTHER, NOW + LEASE), Acquired::Mine);
        // A call that took as long as that holds nobody off.
        leases.release(&store, &key, OTHER, Some(Tombstone::Failed(NOW)));
        assert_eq!(acquire(ME, NOW + LEASE), Acquired::Mine);
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
        assert_eq!(acquired, Acquired::MineAmongMany);
        let acquired = leases.acquire(&store, &one, ME, NOW, SEEN);
        assert_eq!(acquired, Acquired::BucketFull);
    }
}
