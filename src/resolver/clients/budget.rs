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

use super::ClientKey;
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
///      0     32  client
///     32      8  end of the window, milliseconds; all numbers little-endian
///     40      4  tokens that were charged
///     44    n*4  tags of the latest of them, oldest first
/// ```
struct Count {
    client: ClientKey,
    until: Instant,
    charged: u32,
    tags: Vec<Tag>,
}

impl Count {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (client, rest) = bytes.split_first_chunk()?;
        let (until, rest) = rest.split_first_chunk()?;
        let (charged, tags) = rest.split_first_chunk()?;
        Some(Self {
            client: ClientKey(*client),
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
        bytes.extend_from_slice(&self.client.0);
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
    /// Returns whether `client` may ask about a token that no cache knows.
    pub fn check(
        &self,
        store: &impl Store,
        client: &ClientKey,
        token: &TokenDigest,
        limit: &UnknownTokenBudget,
        now: Instant,
    ) -> Result<(), Spent> {
        let (_, counts) = self.read(store, client, now);
        let is_charged = |count: &Count| count.tags.contains(&self.buckets.tag(store, &token.0));
        match counts.iter().find(|count| count.client == *client) {
            Some(count) if count.charged >= limit.per_source && !is_charged(count) => {
                Err(Spent { until: count.until })
            }
            _ => Ok(()),
        }
    }

    /// Charges `client` for a token that MAS called inactive.
    pub fn charge(
        &self,
        store: &impl Store,
        client: &ClientKey,
        Inactive { token, was_known }: Inactive<'_>,
        limit: &UnknownTokenBudget,
        now: Instant,
    ) {
        let tag = self.buckets.tag(store, &token.0);
        // A count that could not be written is a token more for the client.
        let _ = until_written(|| {
            let (bucket, mut counts) = self.read(store, client, now);
            if !counts.iter().any(|count| count.client == *client) {
                if counts.len() >= self.buckets.capacity {
                    return Ok(());
                }
                counts.push(Count {
                    client: *client,
                    until: now + limit.window,
                    charged: 0,
                    tags: Vec::new(),
                });
            }
            let mut of_client = counts.iter_mut().filter(|count| count.client == *client);
            if !of_client.any(|count| count.charge(tag, was_known)) {
                return Ok(());
            }
            write(store, &bucket, &counts)
        });
    }

    /// Returns the bucket of `client`, and the counts in it whose window has not ended.
    fn read(&self, store: &impl Store, client: &ClientKey, now: Instant) -> (Bucket, Vec<Count>) {
        let bucket = self.buckets.read(store, client.name());
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

    use super::*;
    use crate::host::memory::MemoryStore;

    const NOW: Instant = Instant::from_millis(1_000_000);
    const LIMIT: UnknownTokenBudget = UnknownTokenBudget {
        per_source: 3,
        window: Duration::from_secs(10),
    };

    fn token(number: u32) -> TokenDigest {
        TokenDigest::of(&number.to_le_bytes())
    }

    fn dead(token: &TokenDigest) -> Inactive<'_> {
        Inactive {
            token,
            was_known: false,
        }
    }

    #[test]
    fn a_session_that_has_ended_costs_nothing_and_may_be_asked_about_again() {
        let (store, budget) = (MemoryStore::default(), Budget::default());
        let client = ClientKey::of(b"192.0.2.1");
        let check = |number| budget.check(&store, &client, &token(number), &LIMIT, NOW);
        for number in 0..LIMIT.per_source * 2 {
            let token = token(number);
            let ended = Inactive {
                was_known: true,
                ..dead(&token)
            };
            budget.charge(&store, &client, ended, &LIMIT, NOW);
        }
        for number in 100..100 + LIMIT.per_source {
            assert_eq!(check(number), Ok(()));
            budget.charge(&store, &client, dead(&token(number)), &LIMIT, NOW);
        }
        assert!(check(200).is_err());
        assert_eq!(check(0), Ok(()));
    }

    #[test]
    fn a_client_spends_its_budget_in_each_window() {
        let (store, budget) = (MemoryStore::default(), Budget::default());
        let [client, other] = [b"192.0.2.1", b"192.0.2.2"].map(|address| ClientKey::of(address));
        for window in 0..3 {
            let now = NOW + LIMIT.window * window;
            let check = |client, number| budget.check(&store, client, &token(number), &LIMIT, now);
            for number in 0..LIMIT.per_source {
                assert_eq!(check(&client, number), Ok(()));
                budget.charge(&store, &client, dead(&token(number)), &LIMIT, now);
            }
            let until = now + LIMIT.window;
            assert_eq!(check(&client, 100), Err(Spent { until }));
            assert_eq!(check(&other, 100), Ok(()));
        }
    }

    #[test]
    fn asking_costs_nothing() {
        let (store, budget) = (MemoryStore::default(), Budget::default());
        let client = ClientKey::of(b"192.0.2.1");
        for number in 0..100 {
            assert_eq!(
                budget.check(&store, &client, &token(number), &LIMIT, NOW),
                Ok(())
            );
        }
        assert_eq!(store.len(), 1, "the seed of the buckets, and no count");
    }

    #[test]
    fn one_dead_token_is_charged_once_and_may_always_be_asked_about() {
        let (store, budget) = (MemoryStore::default(), Budget::default());
        let client = ClientKey::of(b"192.0.2.1");
        let check = |number| budget.check(&store, &client, &token(number), &LIMIT, NOW);
        for _ in 0..100 {
            budget.charge(&store, &client, dead(&token(1)), &LIMIT, NOW);
        }
        assert_eq!(check(2), Ok(()));
        budget.charge(&store, &client, dead(&token(2)), &LIMIT, NOW);
        budget.charge(&store, &client, dead(&token(3)), &LIMIT, NOW);
        assert!(check(4).is_err());
        assert_eq!(check(1), Ok(()));
    }

    /// Tokens are easily found whose digests have some bytes in common.
    #[test]
    fn tokens_that_were_chosen_to_look_alike_are_told_apart() {
        let (store, budget) = (MemoryStore::default(), Budget::default());
        let client = ClientKey::of(b"192.0.2.1");
        for number in 0..LIMIT.per_source {
            budget.charge(&store, &client, dead(&token(number)), &LIMIT, NOW);
        }
        let check = |token| budget.check(&store, &client, &token, &LIMIT, NOW);
        for place in (0..TokenDigest::BYTES).step_by(4) {
            let mut alike = token(1_000);
            alike.0[place..place + 4].copy_from_slice(&token(0).0[place..place + 4]);
            assert!(check(alike).is_err(), "{place}");
        }
        assert_eq!(check(token(0)), Ok(()));
    }

    #[test]
    fn the_same_tokens_are_remembered_differently_by_another_process() {
        let tags = [0, 1].map(|writes| {
            let store = MemoryStore::default();
            for _ in 0..writes {
                let _ = store.write(b"another", b"", crate::host::If::Absent);
            }
            Budget::default().buckets.tag(&store, &token(0).0)
        });
        assert_ne!(tags[0], tags[1]);
    }

    #[test]
    fn a_count_is_bounded_and_goes_on_counting() {
        let (store, budget) = (MemoryStore::default(), Budget::default());
        let client = ClientKey::of(b"192.0.2.1");
        let limit = UnknownTokenBudget {
            per_source: 1_200,
            ..LIMIT
        };
        let is_spent = || {
            let check = budget.check(&store, &client, &token(u32::MAX), &limit, NOW);
            check.is_err()
        };
        for number in 0..limit.per_source {
            assert!(!is_spent(), "{number}");
            budget.charge(&store, &client, dead(&token(number)), &limit, NOW);
        }
        assert!(is_spent());
        let (_, counts) = budget.read(&store, &client, NOW);
        assert!(counts.iter().all(|count| count.tags.len() == MAX_TAGS));
    }

    #[test]
    fn a_client_without_a_count_passes() {
        let (store, budget) = (
            MemoryStore::default(),
            Budget {
                buckets: Buckets::new(Space::Budgets, 1),
            },
        );
        budget.charge(
            &store,
            &ClientKey::of(b"first"),
            dead(&token(0)),
            &LIMIT,
            NOW,
        );
        let second = ClientKey::of(b"second");
        for number in 0..10 {
            let number = token(number);
            assert_eq!(budget.check(&store, &second, &number, &LIMIT, NOW), Ok(()));
            budget.charge(&store, &second, dead(&number), &LIMIT, NOW);
        }
        assert_eq!(store.len(), 2);
    }
}
