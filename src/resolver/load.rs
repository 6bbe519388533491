//! The calls under way, by what they count against: a pool, and the client that caused them.
//!
//! Each pool has a cap of its own, so a flood in one leaves the others alone. Inside a pool one client may have
//! no more than its share: three quarters of the cap. A quarter is left for the others at any time. A cap of
//! fewer than 64 calls has nothing to spare: there one client may have them all, and only the line is fair.
//!
//! The non-obvious rule: while less than a quarter of the cap is in use, calls are not counted by client, since
//! knowing the client is a host call. While such calls are under way, they count against every client's share.

use std::collections::BTreeMap;

use super::client::ClientKey;

/// The smallest cap of which a part is left for other clients.
const MIN_SHARED_CAP: usize = 64;

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
}

/// The calls of one worker.
#[derive(Debug, Default)]
pub struct Load {
    pools: BTreeMap<PoolId, usize>,
    clients: BTreeMap<(PoolId, ClientKey), usize>,
    /// The calls without a client.
    uncounted: BTreeMap<PoolId, usize>,
}

impl Load {
    /// Counts a call.
    pub fn add(&mut self, slot: &Slot) {
        *self.pools.entry(slot.pool).or_default() += 1;
        *match slot.client {
            Some(client) => self.clients.entry((slot.pool, client)).or_default(),
            None => self.uncounted.entry(slot.pool).or_default(),
        } += 1;
    }

    /// Takes back what [`Self::add`] counted.
    pub fn remove(&mut self, slot: &Slot) {
        decrement(&mut self.pools, slot.pool);
        match slot.client {
            Some(client) => decrement(&mut self.clients, (slot.pool, client)),
            None => decrement(&mut self.uncounted, slot.pool),
        }
    }

    /// Returns how many calls of the pool are under way.
    pub fn total(&self, pool: PoolId) -> usize {
        self.pools.get(&pool).copied().unwrap_or_default()
    }

    /// Returns how many calls of the pool are not counted by client.
    fn uncounted(&self, pool: PoolId) -> usize {
        self.uncounted.get(&pool).copied().unwrap_or_default()
    }

    /// Returns whether the pool is busy enough for its calls to be counted by client.
    pub fn counts_clients(&self, pool: PoolId, cap: usize) -> bool {
        let reserve = reserve(cap);
        // In a small pool only the line needs to know the client.
        self.total(pool) >= if reserve > 0 { reserve } else { cap }
    }

    /// Returns whether the pool has no free call for any client, with `cap` calls in it at the most.
    pub fn is_full(&self, pool: PoolId, cap: usize) -> bool {
        self.total(pool) >= cap
    }

    /// Returns whether the slot is free, with `cap` calls in its pool at the most.
    pub fn admits(&self, slot: &Slot, cap: usize) -> bool {
        if self.is_full(slot.pool, cap) {
            return false;
        }
        let Some(client) = slot.client else {
            return true;
        };
        let used = self.clients.get(&(slot.pool, client)).copied();
        // Calls of clients without an address may be more than a quarter, and are not this client's.
        let uncounted = self.uncounted(slot.pool).min(reserve(cap));
        used.unwrap_or_default() + uncounted < cap - reserve(cap)
    }
}

/// Returns how many calls one client leaves for the others.
fn reserve(cap: usize) -> usize {
    if cap < MIN_SHARED_CAP { 0 } else { cap / 4 }
}

fn decrement<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn slot(pool: u8, client: Option<u8>) -> Slot {
        Slot {
            pool: PoolId {
                group: pool,
                endpoint: 0,
            },
            client: client.map(|client| ClientKey([client; 32])),
        }
    }

    /// Fills what `client` gets of a pool of `cap`, as the resolver does.
    fn fill(load: &mut Load, client: u8, cap: usize) -> usize {
        let mut calls = 0;
        loop {
            let client = load
                .counts_clients(
                    PoolId {
                        group: 0,
                        endpoint: 0,
                    },
                    cap,
                )
                .then_some(client);
            let slot = slot(0, client);
            if !load.admits(&slot, cap) {
                return calls;
            }
            load.add(&slot);
            calls += 1;
        }
    }

    #[test]
    fn one_client_gets_three_quarters_and_another_the_rest() {
        for (cap, first, second) in [
            (256, 192, 64),
            (64, 48, 16),
            (63, 63, 0),
            (4, 4, 0),
            (1, 1, 0),
        ] {
            let mut load = Load::default();
            assert_eq!(fill(&mut load, 1, cap), first, "cap {cap}");
            assert_eq!(fill(&mut load, 2, cap), second, "cap {cap}");
        }
    }

    #[test]
    fn one_client_keeps_three_quarters_when_its_first_calls_have_ended() {
        let mut load = Load::default();
        fill(&mut load, 1, 256);
        for _ in 0..64 {
            load.remove(&slot(0, None));
        }
        assert_eq!(
            load.total(PoolId {
                group: 0,
                endpoint: 0
            }),
            128
        );
        assert_eq!(fill(&mut load, 1, 256), 64);
    }

    #[test]
    fn calls_of_clients_without_an_address_leave_the_others_a_half() {
        let mut load = Load::default();
        for _ in 0..192 {
            load.add(&slot(0, None));
        }
        assert_eq!(fill(&mut load, 1, 256), 64);
        for _ in 0..128 {
            load.remove(&slot(0, None));
        }
        assert_eq!(fill(&mut load, 1, 256), 64);
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
        assert!(load.pools.is_empty() && load.clients.is_empty() && load.uncounted.is_empty());
    }
}
