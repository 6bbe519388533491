//! What clients use of something that has a cap: the calls of a pool, or the places to wait.
//!
//! One client may have no more than its share: three quarters of the cap. A quarter is left for the others at
//! any time. A cap of fewer than 64 has nothing to spare: there one client may have it all.
//!
//! The non-obvious rule: while less than a quarter of the cap is in use, uses are not counted by client, since
//! knowing the client is a host call. While such uses last, they count against every client's share.

use super::ClientKey;
use crate::maps::sorted::SortedMap;

/// The smallest cap of which a part is left for other clients.
const MIN_SHARED_CAP: usize = 64;

/// The uses of one thing.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shares {
    total: usize,
    /// Those that are not counted by client.
    uncounted: usize,
    /// By client, as far as the client is known. Each count is more than zero.
    clients: SortedMap<ClientKey, usize>,
}

impl Shares {
    /// Counts a use. `client` is who caused it, if that is counted.
    pub fn add(&mut self, client: Option<&ClientKey>) {
        self.total += 1;
        match client {
            Some(client) => self.clients.update(*client, |count| *count += 1),
            None => self.uncounted += 1,
        }
    }

    /// Takes back what [`Self::add`] counted.
    pub fn remove(&mut self, client: Option<&ClientKey>) {
        self.total = self.total.saturating_sub(1);
        let Some(client) = client else {
            self.uncounted = self.uncounted.saturating_sub(1);
            return;
        };
        if let Some(count) = self.clients.get_mut(client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(client);
            }
        }
    }

    /// Returns how many uses there are.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Returns whether enough is in use for further uses to be counted by client.
    pub fn counts_clients(&self, cap: usize) -> bool {
        let reserve = reserve(cap);
        // Of a small cap one client may have all, so the client matters only where others have to wait for it.
        self.total >= if reserve > 0 { reserve } else { cap }
    }

    /// Returns whether there is nothing left for any client, with `cap` uses at the most.
    pub fn is_full(&self, cap: usize) -> bool {
        self.total >= cap
    }

    /// Returns whether `client` may have one more, with `cap` uses at the most.
    pub fn admits(&self, client: Option<&ClientKey>, cap: usize) -> bool {
        if self.is_full(cap) {
            return false;
        }
        let Some(client) = client else {
            return true;
        };
        let used = self.clients.get(client).copied().unwrap_or_default();
        // Uses by clients without an address may be more than a quarter, and are not this client's.
        let uncounted = self.uncounted.min(reserve(cap));
        used + uncounted < cap - reserve(cap)
    }
}

/// Returns how much one client leaves for the others.
fn reserve(cap: usize) -> usize {
    if cap < MIN_SHARED_CAP { 0 } else { cap / 4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills what `client` gets of `cap`, as the resolver does.
    fn fill(shares: &mut Shares, client: u8, cap: usize) -> usize {
        let key = ClientKey([client; 32]);
        let mut uses = 0;
        loop {
            let client = shares.counts_clients(cap).then_some(&key);
            if !shares.admits(client, cap) {
                return uses;
            }
            shares.add(client);
            uses += 1;
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
            let mut shares = Shares::default();
            assert_eq!(fill(&mut shares, 1, cap), first, "cap {cap}");
            assert_eq!(fill(&mut shares, 2, cap), second, "cap {cap}");
        }
    }

    #[test]
    fn one_client_keeps_three_quarters_when_its_first_uses_have_ended() {
        let mut shares = Shares::default();
        fill(&mut shares, 1, 256);
        for _ in 0..64 {
            shares.remove(None);
        }
        assert_eq!(shares.total(), 128);
        assert_eq!(fill(&mut shares, 1, 256), 64);
    }

    #[test]
    fn uses_by_clients_without_an_address_leave_the_others_a_half() {
        let mut shares = Shares::default();
        for _ in 0..192 {
            shares.add(None);
        }
        assert_eq!(fill(&mut shares, 1, 256), 64);
        for _ in 0..128 {
            shares.remove(None);
        }
        assert_eq!(fill(&mut shares, 1, 256), 64);
    }

    #[test]
    fn what_is_taken_back_is_free_again_and_leaves_nothing() {
        let mut shares = Shares::default();
        let clients = [Some(ClientKey([1; 32])), None, Some(ClientKey([2; 32]))];
        clients
            .iter()
            .for_each(|client| shares.add(client.as_ref()));
        clients
            .iter()
            .for_each(|client| shares.remove(client.as_ref()));
        assert_eq!(shares, Shares::default());
    }
}
