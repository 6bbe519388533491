//! The calls under way, by what they count against: a pool, and the client that caused them.
//!
//! The non-obvious rule: each pool has a cap of its own, so a flood in one leaves the others alone. Inside a pool
//! [`Shares`] says how many calls one client may have. Calls about known tokens, those that MAS lately called active,
//! may go beyond the cap by a quarter: no client can invent such a token, so no flood keeps MAS from being asked about
//! them.

use super::{ClientKey, share::Shares};
use crate::maps::sorted::SortedMap;

/// Names a pool of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolId {
    /// Which of the pools of one endpoint: each role that asks has its own.
    pub group: u8,
    /// Which endpoint is asked, see [`crate::config::Config::fingerprint`]: one that hangs takes no call from
    /// another.
    pub endpoint: u64,
}

/// What a call counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its pool.
    pub pool: PoolId,
    /// The client that caused it, if that is counted.
    pub client: Option<ClientKey>,
    /// Whether it is about a known token.
    pub is_known: bool,
}

impl Slot {
    /// Returns how many calls may be under way in the slot's pool, itself included, where `cap` is configured.
    fn cap(&self, cap: usize) -> usize {
        if self.is_known {
            cap + cap.div_ceil(4)
        } else {
            cap
        }
    }

    /// Returns the client whose share it counts against. A known token counts against none.
    fn client(&self) -> Option<&ClientKey> {
        self.client.as_ref().filter(|_| !self.is_known)
    }
}

/// The calls of one worker. A pool without a call has no entry.
#[derive(Debug, Default)]
pub struct Load(SortedMap<PoolId, Shares>);

impl Load {
    /// Counts a call.
    pub fn add(&mut self, slot: &Slot) {
        self.0.update(slot.pool, |pool| pool.add(slot.client()));
    }

    /// Takes back what [`Self::add`] counted.
    pub fn remove(&mut self, slot: &Slot) {
        if let Some(pool) = self.0.get_mut(&slot.pool) {
            pool.remove(slot.client());
            if pool.total() == 0 {
                self.0.remove(&slot.pool);
            }
        }
    }

    /// Returns how many calls of the pool are under way.
    #[cfg(test)]
    pub fn total(&self, pool: PoolId) -> usize {
        self.0.get(&pool).map_or(0, Shares::total)
    }

    /// Returns whether the pool is busy enough for its calls to be counted by client.
    pub fn counts_clients(&self, pool: PoolId, cap: usize) -> bool {
        self.0
            .get(&pool)
            .is_some_and(|pool| pool.counts_clients(cap))
    }

    /// Returns whether the slot's pool has no free call for any client, with `cap` calls in it at the most.
    pub fn is_full(&self, slot: &Slot, cap: usize) -> bool {
        let pool = self.0.get(&slot.pool);
        pool.is_some_and(|pool| pool.is_full(slot.cap(cap)))
    }

    /// Returns whether the slot is free, with `cap` calls in its pool at the most.
    pub fn admits(&self, slot: &Slot, cap: usize) -> bool {
        self.0
            .get(&slot.pool)
            .is_none_or(|pool| pool.admits(slot.client(), slot.cap(cap)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(group: u8, client: Option<u8>) -> Slot {
        let pool = PoolId { group, endpoint: 0 };
        Slot {
            pool,
            client: client.map(|client| ClientKey([client; 32])),
            is_known: false,
        }
    }

    #[test]
    fn known_tokens_have_a_quarter_of_the_calls_more_and_are_in_no_clients_share() {
        for (cap, unknown, more) in [(256, 192, 128), (64, 48, 32), (8, 8, 2), (1, 1, 1)] {
            let mut load = Load::default();
            let own = slot(0, Some(1));
            for _ in 0..unknown {
                load.add(&own);
            }
            assert!(!load.admits(&own, cap));
            let known = Slot {
                is_known: true,
                ..own
            };
            for number in 0..more {
                assert!(load.admits(&known, cap), "{cap}: {number}");
                load.add(&known);
            }
            assert!(!load.admits(&known, cap) && load.is_full(&known, cap));
        }
    }

    #[test]
    fn pools_have_caps_of_their_own() {
        let mut load = Load::default();
        for _ in 0..4 {
            load.add(&slot(0, None));
        }
        assert!(!load.admits(&slot(0, None), 4));
        assert!(load.admits(&slot(1, None), 4));
    }

    #[test]
    fn what_is_taken_back_is_free_again_and_leaves_nothing() {
        let mut load = Load::default();
        let slots = [slot(0, Some(1)), slot(0, None), slot(1, Some(1))];
        slots.iter().for_each(|slot| load.add(slot));
        slots.iter().for_each(|slot| load.remove(slot));
        load.remove(&slot(0, Some(1)));
        assert!(load.0.is_empty());
    }
}
