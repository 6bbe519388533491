//! Single-flight across workers: a lease in shared data on asking about one token.
//!
//! The worker that holds the lease calls MAS; the others wait for the answer to appear in the shared cache. The
//! lease is short and its holder renews it while the call is on its way, so a holder that vanishes (a VM
//! that failed, a configuration that ended) costs the others no more than [`LEASE`]. Losing a lease, so
//! that two workers hold it at once, costs one more call, with one exception.
//!
//! The non-obvious rule is that exception. A worker that stores "active" within a quarter of a second, under its lease,
//! looks for no earlier "inactive". So a worker that stores "inactive" later than that, or without a lease, acquires the lease
//! afterwards, and takes its answer out where another worker has the lease.
//!
//! A worker that finds the lease held marks it as contended and tells the holder that it waits, and the holder hints the
//! others only then. A token that ends while it is asked about has nothing to do with leases: see [`crate::cache::token_events`].
//!
//! The holder leaves a lease to run out if the answer is in the shared cache, and no worker has told that it waits: most new
//! tokens come to one worker only, and releasing is a reading and a writing. A worker that finds such a lease tells the holder,
//! which has no call any more and releases it then. A lease that is held makes no room for another, and anyone can invent as
//! many tokens as there are leases: so none is left in a bucket of which more than half is held.
//!
//! Releasing a lease after a store leaves a tombstone for one lease period. It closes a race: a worker that missed
//! just before the store and asks for the lease just after sees the tombstone and reads the cache again instead
//! of calling MAS. A call that failed leaves another kind of tombstone, so that no worker tries again within a second. MAS may
//! refuse the secret of one listener and not that of another, so this one counts for those who ask alike, and there may be one for
//! each way of asking.
//!
//! A tombstone makes room for a lease, so invented tokens can fill no bucket with them: at worst a call that
//! failed is forgotten early and made again.

use alloc::vec::Vec;
use core::time::Duration;

use crate::{
    cache::question::QuestionKey,
    clock::Instant,
    host::{NotWritten, Store, until_written},
    mas::introspection::Asker,
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

/// A lease as bytes: digest, fingerprint, holder, moment, flags. Of a call that failed, who asked stands in the holder's place.
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
    MineInCrowdedBucket,
    /// Another worker calls MAS, or has called it.
    Held {
        /// Until when it holds the lease unless it renews it.
        until: Instant,
        /// The holder, if it is to be told that a worker waits: this one is the first.
        to_notify: Option<u64>,
    },
    /// No worker holds the lease, but an answer was stored at this moment. Read the cache; if the entry
    /// cannot be used, acquire again with this moment as `cache_read_at`.
    Tombstone(Instant),
    /// No worker holds the lease, and none that asks alike may acquire it for a while: a call has failed.
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
    UntilReleased,
    /// It does, and may leave it to run out.
    UntilExpiry,
}

/// What stays of a lease that is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tombstone {
    /// An answer has been in the shared cache since then.
    Stored(Instant),
    /// MAS gave no answer to this one. No worker asks like that again for the time of a lease, counted from this moment.
    Failed(Instant, Asker),
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
            Self::Stored(at) | Self::Failed(at, _) => at,
        }
    }
}

impl Lease {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (key, rest) = bytes.split_first_chunk()?;
        let (holder, rest) = rest.split_first_chunk()?;
        let (moment, flags) = rest.split_first_chunk()?;
        let holder = u64::from_le_bytes(*holder);
        let [flags] = <[u8; 1]>::try_from(flags).ok()?;
        let moment = Instant::from_le_bytes(*moment);
        Some(Self {
            key: *key,
            holder,
            state: if flags & STORED != 0 {
                State::Released(Tombstone::Stored(moment))
            } else if flags & FAILED != 0 {
                State::Released(Tombstone::Failed(moment, Asker(holder as u16)))
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
            State::Released(Tombstone::Failed(at, _)) => (at, FAILED),
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

    /// Who asked, if this is what stays of a call that failed. Each way of asking has one of its own, beside the lease.
    fn failed_for(&self) -> Option<Asker> {
        match self.state {
            State::Released(Tombstone::Failed(_, asker)) => Some(asker),
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

/// What a worker does where another one holds the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHeld {
    /// It waits for the answer of that one, which must tell it.
    Wait,
    /// It goes on without the lease.
    GoOn,
}

/// A worker that wants the lease on a question.
pub struct Claim<'a> {
    /// The question.
    pub key: &'a QuestionKey,
    /// How the worker signs leases.
    pub holder: u64,
    /// Who asks. `None`: every call that failed counts.
    pub asker: Option<Asker>,
    /// The present moment.
    pub now: Instant,
    /// Up to then its reading of the cache is complete.
    pub cache_read_at: Instant,
    /// What it does where another worker holds the lease.
    pub on_held: OnHeld,
}

impl Claim<'_> {
    /// Enters the claim into a bucket, which has room for so many leases. Returns what comes of it, and whether that changes
    /// the bucket.
    fn enter(&self, leases: &mut Vec<Lease>, capacity: usize) -> (Acquired, bool) {
        let (key, until) = (self.key.to_bytes(), self.now + LEASE);
        let is_it = |lease: &&mut Lease| lease.key == key && lease.failed_for().is_none();
        match leases.iter_mut().find(is_it) {
            Some(lease) => match &mut lease.state {
                State::Released(Tombstone::Stored(at)) if *at > self.cache_read_at => {
                    return (Acquired::Tombstone(*at), false);
                }
                State::Released(_) => *lease = self.lease(key, until),
                State::Held { until, contended } if lease.holder != self.holder => {
                    let waits = self.on_held == OnHeld::Wait;
                    let is_first = waits && !core::mem::replace(contended, true);
                    let held = Acquired::Held {
                        until: *until,
                        to_notify: is_first.then_some(lease.holder),
                    };
                    return (held, is_first);
                }
                State::Held { until: end, .. } => *end = until,
            },
            None => {
                let failed = leases.iter().filter(|lease| lease.key == key);
                let mut askers = failed.filter_map(Lease::failed_for);
                if askers.any(|asker| self.asker.is_none_or(|own| own == asker)) {
                    return (Acquired::Failed, false);
                }
                if leases.len() >= capacity && !evict_oldest_tombstone(leases) {
                    return (Acquired::BucketFull, false);
                }
                leases.push(self.lease(key, until));
            }
        }
        let is_held = |lease: &&Lease| matches!(lease.state, State::Held { .. });
        if 2 * leases.iter().filter(is_held).count() > capacity {
            (Acquired::MineInCrowdedBucket, true)
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
                (Err(NotWritten::Refused), Acquired::Mine | Acquired::MineInCrowdedBucket) => {
                    Ok(Acquired::BucketFull)
                }
                (Err(NotWritten::Changed), _) => Err(NotWritten::Changed),
                _ => Ok(acquired),
            }
        });
        acquired.unwrap_or(Acquired::Held {
            until: now + LEASE / 4,
            to_notify: None,
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
                if let Tombstone::Failed(_, Asker(asker)) = tombstone {
                    lease.holder = asker.into();
                }
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
mod tests;
