//! Single-flight across workers: a lease on asking about one token, in shared data.
//!
//! Whoever writes the lease asks MAS; the others wait for the answer to appear in the shared cache. The
//! lease is short and its holder renews it while the call is on its way, so a holder that vanishes (a VM
//! that failed, a configuration that ended) costs the others no more than [`LEASE`]. A lease is only ever
//! an economy: two holders at once cost one more call, never a wrong answer.
//!
//! Whoever finds the lease taken leaves a mark on it, so that its holder tells the others only if somebody
//! waits. A token that ends (a logout) while it is being asked about voids the lease: the answer may be from
//! before, and its holder asks again instead of keeping it.

use std::time::Duration;

use super::{If, Store, TokenDigest, flight::FlightKey, slots::Slots};
use crate::clock::Instant;

/// How long a lease holds without renewal.
pub const LEASE: Duration = Duration::from_secs(1);

/// Slots of the lease table: far more than calls can be in flight, so that two tokens seldom meet.
const SLOTS: u32 = 16_384;

/// A lease as bytes: digest, fingerprint, holder, end, marks.
const BYTES: usize = 32 + 8 + 8 + 8 + 1;

const VOID: u8 = 1;
const WANTED: u8 = 2;

/// How often a lease is written again after someone else wrote first.
const WRITE_ATTEMPTS: usize = 8;

/// The outcome of asking for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It is ours: ask.
    Ours,
    /// Another worker asks, and holds the lease until then unless it renews it.
    Theirs(Instant),
    /// No slot is free: ask without a lease.
    NoRoom,
}

/// The marks on a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The token ended after it was asked about.
    pub void: bool,
    /// Another worker waits.
    pub wanted: bool,
}

/// The lease table.
#[derive(Debug)]
pub struct Leases {
    slots: Slots,
}

impl Default for Leases {
    fn default() -> Self {
        Self {
            slots: Slots::new("l", SLOTS),
        }
    }
}

struct Lease {
    key: [u8; 40],
    holder: u64,
    until: Instant,
    marks: Marks,
}

impl Lease {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (key, rest) = bytes.split_first_chunk()?;
        let (holder, rest) = rest.split_first_chunk()?;
        let (until, marks) = rest.split_first_chunk()?;
        let [marks] = <[u8; 1]>::try_from(marks).ok()?;
        Some(Self {
            key: *key,
            holder: u64::from_le_bytes(*holder),
            until: Instant::from_millis(u64::from_le_bytes(*until)),
            marks: Marks {
                void: marks & VOID != 0,
                wanted: marks & WANTED != 0,
            },
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&self.key);
        bytes.extend_from_slice(&self.holder.to_le_bytes());
        bytes.extend_from_slice(&self.until.as_millis().to_le_bytes());
        let mark = |is_set, mark| if is_set { mark } else { 0 };
        bytes.push(mark(self.marks.void, VOID) | mark(self.marks.wanted, WANTED));
        bytes
    }

    fn is_about(&self, digest: &TokenDigest) -> bool {
        self.key.starts_with(&digest.0)
    }
}

impl Leases {
    /// Asks for the lease on `key`, or renews it.
    pub fn acquire(
        &self,
        store: &impl Store,
        key: &FlightKey,
        holder: u64,
        now: Instant,
    ) -> Acquired {
        for _ in 0..WRITE_ATTEMPTS {
            if let Some(acquired) = self.try_acquire(store, key, holder, now) {
                return acquired;
            }
        }
        Acquired::Theirs(now + LEASE / 4)
    }

    /// `None`: someone else wrote first.
    fn try_acquire(
        &self,
        store: &impl Store,
        key: &FlightKey,
        holder: u64,
        now: Instant,
    ) -> Option<Acquired> {
        let mut mine = Lease {
            key: key.to_bytes(),
            holder,
            until: now + LEASE,
            marks: Marks::default(),
        };
        let mut free = None;
        for slot in self.slots.keys(store, &key.digest) {
            let stored = store.read(&slot);
            let held = stored
                .as_ref()
                .and_then(|stored| Lease::decode(&stored.value));
            let condition = stored.map_or(If::Absent, |stored| If::Unchanged(stored.cas));
            match held.filter(|held| held.until > now) {
                Some(mut held) if held.key == mine.key && held.holder != holder => {
                    if !std::mem::replace(&mut held.marks.wanted, true) {
                        store.write(&slot, &held.encode(), condition).ok()?;
                    }
                    return Some(Acquired::Theirs(held.until));
                }
                Some(held) if held.key == mine.key => {
                    mine.marks = held.marks;
                    free = Some((slot, condition));
                    break;
                }
                Some(_) => {}
                None => {
                    free.get_or_insert((slot, condition));
                }
            }
        }
        let Some((slot, condition)) = free else {
            return Some(Acquired::NoRoom);
        };
        store.write(&slot, &mine.encode(), condition).ok()?;
        Some(Acquired::Ours)
    }

    /// Gives the lease on `key` back, and tells what marks it had; none if it is not ours any more.
    pub fn release(&self, store: &impl Store, key: &FlightKey, holder: u64) -> Marks {
        for slot in self.slots.keys(store, &key.digest) {
            for _ in 0..WRITE_ATTEMPTS {
                let Some((held, cas)) = read(store, &slot) else {
                    break;
                };
                if held.key != key.to_bytes() || held.holder != holder {
                    break;
                }
                // Whoever writes first has marked it, and we look again.
                if store.write(&slot, &[], If::Unchanged(cas)).is_ok() {
                    return held.marks;
                }
            }
        }
        Marks::default()
    }

    /// Whether the lease on `key` is ours and void.
    pub fn is_void(&self, store: &impl Store, key: &FlightKey, holder: u64) -> bool {
        self.slots.keys(store, &key.digest).iter().any(|slot| {
            read(store, slot).is_some_and(|(held, _)| {
                held.marks.void && held.key == key.to_bytes() && held.holder == holder
            })
        })
    }

    /// Voids every lease on the token, whoever holds it. Whether there is one.
    pub fn void(&self, store: &impl Store, digest: &TokenDigest, now: Instant) -> bool {
        let mut found = false;
        for slot in self.slots.keys(store, digest) {
            for _ in 0..WRITE_ATTEMPTS {
                let Some((mut held, cas)) = read(store, &slot) else {
                    break;
                };
                if !held.is_about(digest) || held.until <= now {
                    break;
                }
                found = true;
                held.marks.void = true;
                if store
                    .write(&slot, &held.encode(), If::Unchanged(cas))
                    .is_ok()
                {
                    break;
                }
            }
        }
        found
    }
}

fn read(store: &impl Store, slot: &str) -> Option<(Lease, u32)> {
    let stored = store.read(slot)?;
    Some((Lease::decode(&stored.value)?, stored.cas))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::cache::memory::MemoryStore;

    const NOW: Instant = Instant::from_millis(1_000_000);
    const ME: u64 = 1;
    const OTHER: u64 = 2;

    fn key(token: &[u8]) -> FlightKey {
        FlightKey {
            digest: TokenDigest::of(token),
            fingerprint: 1,
        }
    }

    #[test]
    fn one_holder_at_a_time() {
        let (store, leases) = (MemoryStore::default(), Leases::default());
        let key = key(b"token");
        assert_eq!(leases.acquire(&store, &key, ME, NOW), Acquired::Ours);
        assert_eq!(
            leases.acquire(&store, &key, OTHER, NOW),
            Acquired::Theirs(NOW + LEASE)
        );
        leases.release(&store, &key, OTHER);
        assert_eq!(
            leases.acquire(&store, &key, OTHER, NOW),
            Acquired::Theirs(NOW + LEASE)
        );
        leases.release(&store, &key, ME);
        assert_eq!(leases.acquire(&store, &key, OTHER, NOW), Acquired::Ours);
    }

    #[test]
    fn a_lease_ends_unless_it_is_renewed() {
        let (store, leases) = (MemoryStore::default(), Leases::default());
        let key = key(b"token");
        let later = NOW + LEASE / 2;
        assert_eq!(leases.acquire(&store, &key, ME, NOW), Acquired::Ours);
        assert_eq!(leases.acquire(&store, &key, ME, later), Acquired::Ours);
        assert_eq!(
            leases.acquire(&store, &key, OTHER, NOW + LEASE),
            Acquired::Theirs(later + LEASE)
        );
        assert_eq!(
            leases.acquire(&store, &key, OTHER, later + LEASE),
            Acquired::Ours
        );
        assert_eq!(
            leases.acquire(&store, &key, ME, later + LEASE),
            Acquired::Theirs(later + LEASE + LEASE)
        );
    }

    #[test]
    fn tokens_do_not_share_a_lease_and_a_full_table_says_so() {
        let (store, leases) = (
            MemoryStore::default(),
            Leases {
                slots: Slots::new("l", 2),
            },
        );
        assert_eq!(leases.acquire(&store, &key(b"a"), ME, NOW), Acquired::Ours);
        assert_eq!(
            leases.acquire(&store, &key(b"b"), OTHER, NOW),
            Acquired::Ours
        );
        assert_eq!(
            leases.acquire(&store, &key(b"c"), ME, NOW),
            Acquired::NoRoom
        );
        assert_eq!(
            leases.acquire(&store, &key(b"c"), ME, NOW + LEASE),
            Acquired::Ours
        );
    }

    #[test]
    fn a_lease_on_a_token_that_ended_is_void_until_it_is_given_back() {
        let (store, leases) = (MemoryStore::default(), Leases::default());
        let key = key(b"token");
        assert!(!leases.void(&store, &key.digest, NOW), "nobody asks");
        leases.acquire(&store, &key, ME, NOW);
        assert!(!leases.is_void(&store, &key, ME));
        assert!(leases.void(&store, &key.digest, NOW));
        leases.acquire(&store, &key, ME, NOW + LEASE / 2);
        assert!(leases.is_void(&store, &key, ME), "renewed, and still void");
        assert!(!leases.is_void(&store, &key, OTHER));
        assert!(leases.release(&store, &key, ME).void);
        leases.acquire(&store, &key, ME, NOW);
        assert!(!leases.release(&store, &key, ME).void);
        leases.acquire(&store, &key, ME, NOW);
        assert!(
            !leases.void(&store, &key.digest, NOW + LEASE),
            "it has run out"
        );
    }

    #[test]
    fn whoever_waits_is_noticed() {
        let (store, leases) = (MemoryStore::default(), Leases::default());
        let key = key(b"token");
        leases.acquire(&store, &key, ME, NOW);
        assert!(!leases.release(&store, &key, ME).wanted);
        leases.acquire(&store, &key, ME, NOW);
        leases.acquire(&store, &key, OTHER, NOW);
        leases.acquire(&store, &key, ME, NOW + LEASE / 2);
        assert!(leases.release(&store, &key, ME).wanted);
    }

    #[test]
    fn a_mark_that_is_made_while_the_lease_is_given_back_counts() {
        let (store, leases) = (MemoryStore::default(), Leases::default());
        let key = key(b"token");
        leases.acquire(&store, &key, ME, NOW);
        *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
            Leases::default().void(store, &key.digest, NOW);
            Leases::default().acquire(store, &key, OTHER, NOW);
        }));
        let marks = leases.release(&store, &key, ME);
        assert!(marks.void && marks.wanted);
    }

    #[test]
    fn a_lease_that_is_given_back_while_it_is_marked_can_be_had() {
        let (store, leases) = (MemoryStore::default(), Leases::default());
        let key = key(b"token");
        leases.acquire(&store, &key, OTHER, NOW);
        *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
            Leases::default().release(store, &key, OTHER);
        }));
        assert_eq!(leases.acquire(&store, &key, ME, NOW), Acquired::Ours);
    }

    #[test]
    fn whoever_writes_first_has_it() {
        let (store, leases) = (MemoryStore::default(), Leases::default());
        leases.release(&store, &key(b"makes the seed"), ME);
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            assert_eq!(
                Leases::default().acquire(store, &key(b"token"), OTHER, NOW),
                Acquired::Ours
            );
        }));
        assert!(matches!(
            leases.acquire(&store, &key(b"token"), ME, NOW),
            Acquired::Theirs(_)
        ));
    }
}
