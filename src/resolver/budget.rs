//! How many unknown tokens one source may bring in a window of time.
//!
//! A source is Envoy's trusted client address. The count lives in shared data, so all workers count
//! together; it takes back what turns out to be active, so that only inactive tokens and tokens without a
//! verdict are spent. The state is a fixed number of counts. A source that finds its bucket full of others'
//! is let pass: the budget protects MAS from the loudest, the cap on calls in flight from the rest.

use crate::{
    cache::bucket::{Bucket, Buckets},
    clock::Instant,
    config::UnknownTokenBudget,
    host::{NotWritten, Store},
    token::TokenDigest,
};

const NUMBER: u32 = 4_096;

/// A count as bytes: source, end of the window, spent.
const BYTES: usize = 32 + 8 + 4;

/// Another worker may write in between; after this many attempts the request passes uncounted.
const WRITE_ATTEMPTS: usize = 4;

/// A source: the digest of its address. `Debug` shows nothing of it.
pub type Source = TokenDigest;

/// The budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// When the window ends.
    pub until: Instant,
}

/// The counts of all sources.
#[derive(Debug)]
pub struct Budget {
    buckets: Buckets,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            buckets: Buckets::new("b", NUMBER),
        }
    }
}

struct Count {
    source: [u8; 32],
    until: Instant,
    spent: u32,
}

impl Count {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (source, rest) = bytes.split_first_chunk()?;
        let (until, spent) = rest.split_first_chunk()?;
        Some(Self {
            source: *source,
            until: Instant::from_millis(u64::from_le_bytes(*until)),
            spent: u32::from_le_bytes(spent.try_into().ok()?),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&self.source);
        bytes.extend_from_slice(&self.until.as_millis().to_le_bytes());
        bytes.extend_from_slice(&self.spent.to_le_bytes());
        bytes
    }
}

impl Budget {
    /// Counts one unknown token of `source`, or refuses it.
    pub fn spend(
        &self,
        store: &impl Store,
        source: &Source,
        limit: &UnknownTokenBudget,
        now: Instant,
    ) -> Result<(), Spent> {
        for _ in 0..WRITE_ATTEMPTS {
            let (bucket, mut counts) = self.read(store, source, now);
            let is_ours = |count: &Count| count.source == source.0;
            if !counts.iter().any(is_ours) {
                if counts.len() >= self.buckets.capacity {
                    return Ok(());
                }
                counts.push(Count {
                    source: source.0,
                    until: now + limit.window,
                    spent: 0,
                });
            }
            for count in counts.iter_mut().filter(|count| is_ours(count)) {
                if count.spent >= limit.per_source {
                    return Err(Spent { until: count.until });
                }
                count.spent += 1;
            }
            if write(store, &bucket, &counts).is_ok() {
                break;
            }
        }
        Ok(())
    }

    /// Takes one back: the token was active.
    pub fn refund(&self, store: &impl Store, source: &Source, now: Instant) {
        for _ in 0..WRITE_ATTEMPTS {
            let (bucket, mut counts) = self.read(store, source, now);
            let Some(count) = counts.iter_mut().find(|count| count.source == source.0) else {
                return;
            };
            count.spent = count.spent.saturating_sub(1);
            if write(store, &bucket, &counts).is_ok() {
                return;
            }
        }
    }

    /// The bucket of `source`, and the counts in it whose window has not ended.
    fn read(&self, store: &impl Store, source: &Source, now: Instant) -> (Bucket, Vec<Count>) {
        let bucket = self.buckets.read(store, &source.0);
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
mod tests {
    use std::time::Duration;

    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::host::memory::MemoryStore;

    const NOW: Instant = Instant::from_millis(1_000_000);
    const LIMIT: UnknownTokenBudget = UnknownTokenBudget {
        per_source: 3,
        window: Duration::from_secs(10),
    };

    #[test]
    fn a_source_spends_its_budget_in_each_window() {
        let (store, budget) = (MemoryStore::default(), Budget::default());
        let (source, other) = (Source::of(b"192.0.2.1"), Source::of(b"192.0.2.2"));
        for window in 0..3 {
            let now = NOW + LIMIT.window * window;
            for _ in 0..LIMIT.per_source {
                assert_eq!(budget.spend(&store, &source, &LIMIT, now), Ok(()));
            }
            let until = now + LIMIT.window;
            assert_eq!(
                budget.spend(&store, &source, &LIMIT, now),
                Err(Spent { until })
            );
            assert_eq!(budget.spend(&store, &other, &LIMIT, now), Ok(()));
        }
    }

    #[test]
    fn what_is_taken_back_can_be_spent_again() {
        let (store, budget) = (MemoryStore::default(), Budget::default());
        let source = Source::of(b"192.0.2.1");
        for _ in 0..100 {
            assert_eq!(budget.spend(&store, &source, &LIMIT, NOW), Ok(()));
            budget.refund(&store, &source, NOW);
        }
        budget.refund(&store, &source, NOW);
        budget.refund(&store, &Source::of(b"never seen"), NOW);
        for _ in 0..LIMIT.per_source {
            assert_eq!(budget.spend(&store, &source, &LIMIT, NOW), Ok(()));
        }
        assert!(budget.spend(&store, &source, &LIMIT, NOW).is_err());
    }

    #[test]
    fn a_source_without_a_slot_passes() {
        let (store, budget) = (
            MemoryStore::default(),
            Budget {
                buckets: Buckets::new("b", 1),
            },
        );
        budget
            .spend(&store, &Source::of(b"first"), &LIMIT, NOW)
            .unwrap();
        for _ in 0..10 {
            assert_eq!(
                budget.spend(&store, &Source::of(b"second"), &LIMIT, NOW),
                Ok(())
            );
        }
        assert_eq!(store.len(), 2);
    }
}
