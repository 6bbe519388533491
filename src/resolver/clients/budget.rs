//! How many inactive tokens one client may bring in a window of time: the key `unknown_token_budget`.
//!
//! A token is charged when MAS calls it inactive and no cache knows that it was active shortly before. The budget
//! counts distinct ones, so nothing else costs anything: not an active token, not one that has just ended, not an
//! outage of MAS, and not the same inactive token again and again.
//!
//! The count lives in shared data, so all workers count together. The state is a fixed number of counts. A
//! client that finds its bucket full of other clients is not limited: the budget stops a few heavy clients, and
//! `max_in_flight` bounds all clients together.
//!
//! The non-obvious rule: a client over its budget may still ask about the tokens that it was charged for. A
//! logged-out client that tries its old token again gets the 401 that stops it, and not a 429.

use alloc::vec::Vec;
use core::fmt;

use crate::{
    clock::Instant,
    config::UnknownTokenBudget,
    host::{NotWritten, Store, until_written},
    shared_data::{
        bucket::{Bucket, Buckets},
        name::Space,
    },
    token::TokenDigest,
};

/// Counts in all.
const COUNTS: u32 = 4_096;

/// Tokens that a count remembers, 4 bytes each. Up to so many distinct tokens are told apart exactly; beyond, the
/// latest are.
const MAX_TAGS: usize = 1_024;

/// Names the budget of a client before one endpoint, under one limit: see [`ClientKey::budget`](super::ClientKey::budget). `Debug`
/// shows nothing of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BudgetKey(pub [u8; 32]);

impl BudgetKey {
    /// Returns as much of it as a bucket is chosen by.
    fn name(&self) -> &[u8; 16] {
        let (names, _) = self.0.as_chunks();
        names.first().unwrap_or(&[0; 16])
    }
}

impl fmt::Debug for BudgetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BudgetKey(..)")
    }
}

/// The budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// When the window ends.
    pub until: Instant,
}

/// A token that MAS called inactive.
#[derive(Clone, Copy, Debug)]
pub struct Inactive<'a> {
    /// Which one.
    pub token: &'a TokenDigest,
    /// Whether MAS called it active before. Then it costs nothing, and may be asked about again.
    pub was_known: bool,
}

/// The counts of all clients.
#[derive(Debug)]
pub struct Budget {
    buckets: Buckets,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            buckets: Buckets::new(Space::Budgets, COUNTS),
        }
    }
}

/// A token, as a count remembers it: see [`Buckets::tag`].
type Tag = [u8; 4];

/// ```text
/// offset  bytes  what
///      0     32  budget
///     32      8  end of the window, milliseconds; all numbers little-endian
///     40      4  tokens that were charged
///     44    n*4  tags of the latest of them, oldest first
/// ```
struct Count {
    budget: BudgetKey,
    until: Instant,
    charged: u32,
    tags: Vec<Tag>,
}

impl Count {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (budget, rest) = bytes.split_first_chunk()?;
        let (until, rest) = rest.split_first_chunk()?;
        let (charged, tags) = rest.split_first_chunk()?;
        Some(Self {
            budget: BudgetKey(*budget),
            until: Instant::from_le_bytes(*until),
            charged: u32::from_le_bytes(*charged),
            tags: tags
                .chunks_exact(4)
                .filter_map(|tag| tag.try_into().ok())
                .collect(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(44 + 4 * self.tags.len());
        bytes.extend_from_slice(&self.budget.0);
        bytes.extend_from_slice(&self.until.to_le_bytes());
        bytes.extend_from_slice(&self.charged.to_le_bytes());
        self.tags
            .iter()
            .for_each(|tag| bytes.extend_from_slice(tag));
        bytes
    }

    /// Charges a token, or remembers only that it `is_free`. `false`: it was remembered before.
    fn charge(&mut self, tag: Tag, is_free: bool) -> bool {
        if self.tags.contains(&tag) {
            return false;
        }
        if self.tags.len() >= MAX_TAGS {
            self.tags.remove(0);
        }
        self.tags.push(tag);
        self.charged = self.charged.saturating_add(u32::from(!is_free));
        true
    }
}

impl Budget {
    /// Returns whether the client of this budget may ask about a token that no cache knows.
    pub fn check(
        &self,
        store: &impl Store,
        budget: &BudgetKey,
        token: &TokenDigest,
        limit: &UnknownTokenBudget,
        now: Instant,
    ) -> Result<(), Spent> {
        let (_, counts) = self.read(store, budget, now);
        let is_charged = |count: &Count| count.tags.contains(&self.buckets.tag(store, &token.0));
        match counts.iter().find(|count| count.budget == *budget) {
            Some(count) if count.charged >= limit.per_source && !is_charged(count) => {
                Err(Spent { until: count.until })
            }
            _ => Ok(()),
        }
    }

    /// Charges a budget for a token that MAS called inactive.
    pub fn charge(
        &self,
        store: &impl Store,
        budget: &BudgetKey,
        Inactive { token, was_known }: Inactive<'_>,
        limit: &UnknownTokenBudget,
        now: Instant,
    ) {
        let tag = self.buckets.tag(store, &token.0);
        // A count that could not be written is a token more for the client.
        let _ = until_written(|| {
            let (bucket, mut counts) = self.read(store, budget, now);
            if !counts.iter().any(|count| count.budget == *budget) {
                if counts.len() >= self.buckets.capacity {
                    return Ok(());
                }
                counts.push(Count {
                    budget: *budget,
                    until: now + limit.window,
                    charged: 0,
                    tags: Vec::new(),
                });
            }
            let mut own = counts.iter_mut().filter(|count| count.budget == *budget);
            if !own.any(|count| count.charge(tag, was_known)) {
                return Ok(());
            }
            write(store, &bucket, &counts)
        });
    }

    /// Returns the bucket of a budget, and the counts in it whose window has not ended.
    fn read(&self, store: &impl Store, budget: &BudgetKey, now: Instant) -> (Bucket, Vec<Count>) {
        let bucket = self.buckets.read(store, budget.name());
        let counts = bucket
            .records()
            .filter_map(Count::decode)
            .filter(|count| now < count.until)
            .collect();
        (bucket, counts)
    }
}

fn write(store: &impl Store, bucket: &Bucket, counts: &[Count]) -> Result<(), NotWritten> {
    let records: Vec<_> = counts.iter().map(Count::encode).collect();
    bucket.replace(store, records.iter().map(Vec::as_slice))
}

#[cfg(test)]
mod tests;
