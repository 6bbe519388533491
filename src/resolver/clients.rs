//! Clients, and what each may take: a budget of unknown tokens, a share of the calls and of the places to wait, and turns in
//! line. A client is its address as Envoy trusts it.
//!
//! The non-obvious rule: an IPv6 client has a whole /64 to choose from, so that is one client. An IPv4 address
//! that is mapped into IPv6 (`::ffff:192.0.2.1`) is the IPv4 client, and one that a translator has written into IPv6 is a client
//! by itself.

use core::{
    cmp::Ordering,
    fmt,
    net::{IpAddr, Ipv6Addr},
};

pub mod budget;
pub mod line;
pub mod load;
pub mod share;

use sha2::{Digest as _, Sha256};

use self::budget::BudgetKey;
use crate::{clock::millis, config::UnknownTokenBudget, hashes::order, mas::user::UserKey};

/// Who takes turns: a client, by the digest of its address, or the user of a known token. `Debug` shows nothing of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClientKey(pub [u8; 32]);

impl ClientKey {
    /// Returns the key of the client at `address`: an IP address, in brackets or not. Anything else
    /// stands for itself.
    pub fn of(address: &[u8]) -> Self {
        let bare = address
            .strip_prefix(b"[")
            .and_then(|rest| rest.strip_suffix(b"]"))
            .unwrap_or(address);
        let parsed = core::str::from_utf8(bare)
            .ok()
            .and_then(|text| text.parse::<IpAddr>().ok());
        let digest = match parsed.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(address)) => Sha256::digest(address.octets()),
            Some(IpAddr::V6(address)) if is_translated(address) => Sha256::digest(address.octets()),
            Some(IpAddr::V6(address)) => Sha256::digest(network(address)),
            None => Sha256::digest(bare),
        };
        Self(digest.0)
    }

    /// Returns the key of a user, who takes turns in place of the client where a token is known.
    pub fn of_user(user: &UserKey) -> Self {
        let mut key = [0; 32];
        key.iter_mut().zip(user.0).for_each(|(to, from)| *to = from);
        Self(key)
    }

    /// Returns the key of this client's budget before one endpoint, under one limit: what another MAS calls
    /// inactive, or another configuration counts, is charged elsewhere.
    #[must_use]
    pub fn budget(&self, endpoint: u64, limit: &UnknownTokenBudget) -> BudgetKey {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(endpoint.to_le_bytes());
        hash.update(limit.per_source.to_le_bytes());
        hash.update(millis(limit.window).to_le_bytes());
        BudgetKey(hash.finalize().0)
    }
}

/// Returns whether an address stands for an IPv4 client, as translators write it (RFC 6052, RFC 8215, and the older forms
/// `::192.0.2.1` and `::ffff:0:192.0.2.1`). All such clients are in one /64.
fn is_translated(address: Ipv6Addr) -> bool {
    let bits = u128::from(address);
    bits >> 64 == 0 || bits >> 96 == 0x0064_ff9b
}

/// Returns the first 64 bits of an address.
fn network(address: Ipv6Addr) -> [u8; 8] {
    ((u128::from(address) >> 64) as u64).to_be_bytes()
}

impl PartialOrd for ClientKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ClientKey {
    fn cmp(&self, other: &Self) -> Ordering {
        order::compare(&self.0, &other.0)
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_one(addresses: &[&str]) -> bool {
        let mut keys = addresses
            .iter()
            .map(|address| ClientKey::of(address.as_bytes()));
        let first = keys.next();
        keys.all(|key| Some(key) == first)
    }

    #[test]
    fn a_network_of_64_bits_is_one_client() {
        assert!(is_one(&[
            "2001:db8:1:2::1",
            "[2001:db8:1:2:ffff:ffff:ffff:ffff]",
            "2001:0DB8:1:2::",
        ]));
        assert!(!is_one(&["2001:db8:1:2::1", "2001:db8:1:3::1"]));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_client() {
        assert!(is_one(&[
            "192.0.2.1",
            "::ffff:192.0.2.1",
            "[::ffff:c000:201]",
        ]));
        assert!(!is_one(&["192.0.2.1", "192.0.2.2"]));
    }

    #[test]
    fn an_ipv4_client_behind_a_translator_is_one_client() {
        for network in ["64:ff9b::", "64:ff9b:1:2::", "::", "::ffff:0:"] {
            let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|host| format!("{network}{host}"));
            assert!(!is_one(&[&one, &other]), "{network}");
        }
    }

    #[test]
    fn what_is_no_address_stands_for_itself() {
        assert!(is_one(&["", ""]));
        assert!(!is_one(&["", "a"]));
        assert!(!is_one(&["@/run/a.sock", "@/run/b.sock"]));
    }

    #[test]
    fn configurations_that_count_otherwise_have_budgets_of_their_own() {
        let client = ClientKey::of(b"192.0.2.1");
        let limits =
            [(10, 60), (11, 60), (10, 61)].map(|(per_source, seconds)| UnknownTokenBudget {
                per_source,
                window: std::time::Duration::from_secs(seconds),
            });
        let budgets = limits.each_ref().map(|limit| client.budget(1, limit));
        for (number, budget) in budgets.iter().enumerate() {
            let same = budgets.iter().filter(|other| *other == budget);
            assert_eq!(same.count(), 1, "{:?}", limits[number]);
            assert_ne!(*budget, client.budget(2, &limits[number]));
        }
    }
}
