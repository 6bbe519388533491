//! Which records of a full bucket make room for a new one.
//!
//! If all are live, that goes by when each was last *used*. So the table keeps what an ideal least-recently-used cache would keep,
//! nearly.

use alloc::vec::Vec;

use crate::{
    cache::{
        entry::{Entry, EntryHead},
        question::QuestionKey,
    },
    clock::Instant,
    metrics::Evicted,
    shared_data::bucket::Bucket,
    token::TokenDigest,
};

/// Records that stay in a bucket beside a new one, as a rule.
const STAYING: usize = 7;

/// The order of eviction, smallest first: expired entries by their expiry, then live ones by their last use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvictionOrder {
    /// Of no use to any reader, since then.
    Expired(Instant),
    /// Still of use, and used at that moment.
    Live(Instant),
}

impl EvictionOrder {
    /// Returns what is counted if such a record is given up.
    pub fn evicted(self) -> Evicted {
        match self {
            Self::Expired(_) => Evicted::Expired,
            Self::Live(_) => Evicted::Live,
        }
    }

    fn of(head: &EntryHead, now: Instant) -> Self {
        if head.useful_until <= now {
            Self::Expired(head.useful_until)
        } else {
            Self::Live(head.used_at)
        }
    }
}

/// What stands in a bucket to which an entry is to be written.
pub struct Neighbourhood<'b> {
    /// Until when the new entry is of use: at least as long as the one before it was to be.
    pub useful_until: Instant,
    /// A worker keeps the one before for itself.
    pub is_kept: bool,
    /// The other records. Those that are given up first come first.
    pub neighbours: Vec<Neighbour<'b>>,
}

/// A record beside the new one.
pub struct Neighbour<'b> {
    /// When it is given up.
    pub order: EvictionOrder,
    /// Which token it is about.
    pub token: TokenDigest,
    /// A worker keeps it for itself.
    pub is_kept: bool,
    /// Its bytes.
    pub record: &'b [u8],
}

impl<'b> Neighbourhood<'b> {
    /// Reads the records. `None`: one of them answers the same question, and was asked for later.
    pub fn of(bucket: &'b Bucket, entry: &Entry, key: &QuestionKey, now: Instant) -> Option<Self> {
        let number = if bucket.bytes() == 0 { 0 } else { STAYING };
        let mut found = Self {
            useful_until: entry.useful_until,
            is_kept: false,
            neighbours: Vec::with_capacity(number),
        };
        for record in bucket.records() {
            let Some(head) = EntryHead::decode(record) else {
                continue;
            };
            if !head.answers(key) {
                let order = EvictionOrder::of(&head, now);
                let neighbours = &mut found.neighbours;
                let at = neighbours.partition_point(|other| other.order <= order);
                let neighbour = Neighbour {
                    order,
                    token: head.digest,
                    is_kept: head.is_kept,
                    record,
                };
                neighbours.insert(at, neighbour);
                continue;
            }
            if head.asked_at > entry.asked_at {
                return None;
            }
            found.useful_until = found.useful_until.max(head.useful_until);
            found.is_kept = head.is_kept;
        }
        Some(found)
    }
}

/// Returns how many of these records, the first ones, must go so that `capacity` of them are left at the most, and
/// they have no more than `bytes`. That is more than one where some are long, or where a larger table was configured
/// before.
pub fn surplus(
    lengths: impl ExactSizeIterator<Item = usize> + Clone,
    capacity: usize,
    bytes: usize,
) -> usize {
    let mut left = lengths.len();
    let mut total: usize = lengths.clone().sum();
    let too_many = lengths.take_while(|length| {
        let is_surplus = left > capacity || total > bytes;
        left = left.saturating_sub(1);
        total = total.saturating_sub(*length);
        is_surplus
    });
    too_many.count()
}
