//! Which grants a worker keeps, and which make room.

use super::*;
use crate::{config::GrantTerms, mas::introspection::ActiveToken, token::TokenDigest};

const TERMS: GrantTerms<'_> = GrantTerms {
    server_name: "a.b",
    tells_client_id: false,
    tells_scope: false,
};

fn key(number: usize) -> GrantKey {
    GrantKey {
        digest: TokenDigest::of(&number.to_le_bytes()),
        identity: 1,
    }
}

/// What is kept of a user with so long a name.
fn entry(name_bytes: usize) -> KeptGrant {
    let name = "a".repeat(name_bytes);
    let token = ActiveToken {
        username: Some(&name),
        device_id: None,
        client_id: None,
        scope: "urn:matrix:client:api:*",
    };
    KeptGrant {
        grant: Grant::new(&token, TERMS),
        fresh_until: Instant::from_millis(1_000),
        refresh_at: None,
        user: None,
        stamp: Stamp::default(),
    }
}

const SECRET: u64 = 7;

fn holds(grants: &Grants, number: usize) -> bool {
    grants
        .index
        .get(&KeyHash::new(&key(number), grants.secret))
        .is_some()
}

#[test]
fn entries_are_bounded() {
    let mut grants = Grants::new(SECRET);
    let evicted: usize = (0..1_000)
        .map(|number| grants.insert(key(number), entry(100), 64))
        .sum();
    assert_eq!((grants.len(), evicted), (64, 1_000 - 64));
    assert!(grants.bytes <= 64 * BYTES_PER_ENTRY);
    assert!(holds(&grants, 999));
}

#[test]
fn a_smaller_bound_is_reached_step_by_step() {
    let mut grants = Grants::new(SECRET);
    (0..5_000).for_each(|number| {
        grants.insert(key(number), entry(1), 10_000);
    });
    let evicted: Vec<usize> = (0..6)
        .map(|number| grants.insert(key(10_000 + number), entry(1), 64))
        .collect();
    assert_eq!(evicted[..4], [MAX_EVICTED; 4]);
    assert_eq!((evicted[5], grants.len()), (1, 64));
}

#[test]
fn bytes_are_bounded() {
    let mut grants = Grants::new(SECRET);
    for number in 0..1_000 {
        grants.insert(key(number), entry(number * 7 % 5_000), 64);
        assert!(grants.bytes <= 64 * BYTES_PER_ENTRY && grants.len() <= 64);
    }
    assert!(grants.len() < 64, "large entries take the room of several");
    grants.insert(key(0), entry(64 * BYTES_PER_ENTRY), 64);
    assert!(
        !holds(&grants, 0),
        "one that is larger than everything is not kept"
    );
    (0..1_000).for_each(|number| grants.remove(&key(number)));
    assert_eq!((grants.len(), grants.bytes, grants.index.len()), (0, 0, 0));
}

/// Returns a key that has the same hash as `key(0)`, and another digest.
fn twin(secret: u64) -> GrantKey {
    // Newton's method doubles the bits that are right.
    let inverse = (0..6).fold(1_u64, |inverse, _| {
        inverse.wrapping_mul(2_u64.wrapping_sub(GOLDEN_RATIO.wrapping_mul(inverse)))
    });
    let before_last = |number| {
        let key = GrantKey {
            identity: 0,
            ..key(number)
        };
        KeyHash::new(&key, secret).0.wrapping_mul(inverse)
    };
    GrantKey {
        identity: before_last(0) ^ before_last(1) ^ key(0).identity,
        ..key(1)
    }
}

#[test]
fn keys_with_one_hash_are_told_apart() {
    let mut grants = Grants::new(SECRET);
    let twin = twin(grants.secret);
    assert!(KeyHash::new(&twin, grants.secret) == KeyHash::new(&key(0), grants.secret));
    grants.insert(key(0), entry(1), 64);
    assert!(grants.find(&twin).is_none());
    grants.remove(&twin);
    assert!(grants.find(&key(0)).is_some());
    grants.insert(twin, entry(2), 64);
    assert!(grants.find(&key(0)).is_none() && grants.find(&twin).is_some());
    assert_eq!((grants.len(), grants.index.len()), (1, 1));
}

#[test]
fn what_is_in_use_stays() {
    let mut grants = Grants::new(SECRET);
    for number in 0..10_000 {
        grants.insert(key(number), entry(1), 64);
        assert!(grants.find(&key(0)).is_some(), "after {number}");
    }
}

#[test]
fn the_clock_evicts_unreferenced_entries_and_spares_recent_ones() {
    let mut grants = Grants::new(SECRET);
    for number in 0..1_000 {
        grants.insert(key(number), entry(1), 64);
        let recent = (number.saturating_sub(16)..=number)
            .filter(|n| holds(&grants, *n))
            .count();
        assert!(
            recent >= 16.min(number),
            "{recent} of the last 16 at {number}"
        );
    }
    let old = (0..800).filter(|number| holds(&grants, *number)).count();
    assert_eq!(old, 0, "nothing unused stays for ever");
}

#[test]
fn the_same_token_has_one_entry() {
    let mut grants = Grants::new(SECRET);
    for _ in 0..10 {
        grants.insert(key(1), entry(10), 64);
    }
    assert_eq!(grants.len(), 1);
    assert_eq!(grants.insert(key(2), entry(10), 0), 0);
    assert!(!holds(&grants, 2), "no entries, no cache");
}
