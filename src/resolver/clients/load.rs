//! The calls under way, by what they count against: a pool, and the client that caused them.
//!
//! The non-obvious rule: each pool has a cap of its own, so a flood in one leaves the others alone. Inside a pool
//! [`Shares`] says how many calls one client may have. Calls about known tokens, those that MAS lately called active,
//! count against no client's share, and may go beyond the cap by a quarter: no client can invent such a token, so no flood keeps
//! MAS from being asked about them.
//!
//! But a user whose token is refreshed again and again has had thousands that MAS called active. So it is by user that known tokens
//! count: up to 16 calls of one user, or half of a cap that is less than 32. What is beyond that ranks as unproven. Half of the calls
//! beyond the cap are left to users who have none under way.

use super::{ClientKey, share::Shares};
use crate::maps::sorted::SortedMap;

/// Calls about known tokens of one user that rank as such, at the most, and as many of a user's questions that wait in the line of
/// known tokens.
pub const MAX_KNOWN: usize = 16;

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
    /// The client that caused it, if that is counted; the user of a known token, if MAS has named one.
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
pub struct Load {
    pools: SortedMap<PoolId, Shares>,
    /// Those about known tokens, by user.
    known: SortedMap<PoolId, Shares>,
}

impl Load {
    /// Counts a call.
    pub fn add(&mut self, slot: &Slot) {
        let count = |pools: &mut SortedMap<_, Shares>, client| {
            pools.update(slot.pool, |pool| pool.add(client));
        };
        count(&mut self.pools, slot.client());
        if slot.is_known {
            count(&mut self.known, slot.client.as_ref());
        }
    }

    /// Takes back what [`Self::add`] counted.
    pub fn remove(&mut self, slot: &Slot) {
        let take_back = |pools: &mut SortedMap<_, Shares>, client| {
            if let Some(pool) = pools.get_mut(&slot.pool) {
                pool.remove(client);
                if pool.total() == 0 {
                    pools.remove(&slot.pool);
                }
            }
        };
        take_back(&mut self.pools, slot.client());
        if slot.is_known {
            take_back(&mut self.known, slot.client.as_ref());
        }
    }

    /// Returns how many calls of the pool are under way.
    pub fn total(&self, pool: PoolId) -> usize {
        self.pools.get(&pool).map_or(0, Shares::total)
    }

    /// Returns whether the pool is busy enough for its calls to be counted by client.
    pub fn counts_clients(&self, pool: PoolId, cap: usize) -> bool {
        self.pools
            .get(&pool)
            .is_some_and(|pool| pool.counts_clients(cap))
    }

    /// Returns whether the slot's pool has no free call for anyone, with `cap` calls in it at the most.
    pub fn is_full(&self, slot: &Slot, cap: usize) -> bool {
        self.total(slot.pool) >= slot.cap(cap)
    }

    /// Returns whether the slot is free, with `cap` calls in its pool at the most.
    pub fn admits(&self, slot: &Slot, cap: usize) -> bool {
        if slot.is_known {
            let is_first = self.known_calls(slot) == 0 && !self.is_full(slot, cap);
            return self.ranks_as_known(slot, cap) && (is_first || self.has_spare(slot, cap));
        }
        self.pools
            .get(&slot.pool)
            .is_none_or(|pool| pool.admits(slot.client.as_ref(), cap))
    }

    /// Returns whether more calls are free for known tokens than those that are left to users who have none under way: half of what
    /// is beyond the cap.
    pub fn has_spare(&self, slot: &Slot, cap: usize) -> bool {
        self.total(slot.pool) + cap.div_ceil(4) / 2 < slot.cap(cap)
    }

    /// Returns whether a call about a known token counts as one: its user has few of them.
    pub fn ranks_as_known(&self, slot: &Slot, cap: usize) -> bool {
        self.known_calls(slot) < (cap / 2).clamp(1, MAX_KNOWN)
    }

    /// Returns how many calls about known tokens the slot's user has under way.
    fn known_calls(&self, slot: &Slot) -> usize {
        let pool = self.known.get(&slot.pool);
        pool.map_or(0, |pool| pool.of(slot.client.as_ref()))
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

    fn known(user: Option<u8>) -> Slot {
        Slot {
            is_known: true,
            ..slot(0, user)
        }
    }

    /// Adds a slot as long as it is free. Returns how often it was.
    fn fill(load: &mut Load, slot: &Slot, cap: usize) -> usize {
        let mut added = 0;
        while load.admits(slot, cap) {
            load.add(slot);
            added += 1;
        }
        added
    }

    #[test]
    fn known_tokens_have_a_quarter_of_the_calls_more_and_are_in_no_clients_share() {
        for (cap, unknown, more) in [(256, 192, 128), (64, 48, 32), (8, 8, 2), (1, 1, 1)] {
            let mut load = Load::default();
            assert_eq!(fill(&mut load, &slot(0, Some(1)), cap), unknown);
            // Of many users, whatever their addresses are.
            for user in 0..more {
                let user = known(u8::try_from(user).ok());
                assert!(load.admits(&user, cap), "{cap}: {user:?}");
                load.add(&user);
            }
            assert!(!load.admits(&known(Some(200)), cap) && load.is_full(&known(None), cap));
        }
    }

    #[test]
    fn the_known_tokens_of_one_user_leave_calls_to_others() {
        // Half of the calls beyond the cap, and one more where that is uneven.
        for (cap, beyond) in [(256, 16), (64, 8), (32, 4), (8, 1), (5, 1), (1, 1)] {
            for user in [Some(1), None] {
                let mut load = Load::default();
                for _ in 0..cap {
                    load.add(&slot(0, None));
                }
                assert_eq!(fill(&mut load, &known(user), cap), beyond, "{cap}");
                assert_eq!(load.admits(&known(Some(2)), cap), cap > 4, "{cap}");
            }
        }
    }

    #[test]
    fn one_user_has_as_many_calls_about_known_tokens_as_a_few_devices_need() {
        for (cap, calls) in [(256, 16), (32, 16), (20, 10), (4, 2), (1, 1)] {
            let mut load = Load::default();
            assert_eq!(fill(&mut load, &known(Some(1)), cap), calls, "{cap}");
            assert!(!load.ranks_as_known(&known(Some(1)), cap));
            assert!(load.ranks_as_known(&known(None), cap));
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
        let slots = [
            slot(0, Some(1)),
            slot(0, None),
            slot(1, Some(1)),
            known(Some(1)),
            known(None),
        ];
        slots.iter().for_each(|slot| load.add(slot));
        slots.iter().for_each(|slot| load.remove(slot));
        load.remove(&slot(0, Some(1)));
        assert!(load.pools.is_empty() && load.known.is_empty());
    }
}
