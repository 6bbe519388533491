//! What inactive tokens cost their client, and how many workers count them.

use std::time::Duration;

use super::*;
use crate::host::memory::MemoryStore;

const NOW: Instant = Instant::from_millis(1_000_000);
const LIMIT: UnknownTokenBudget = UnknownTokenBudget {
    per_source: 3,
    window: Duration::from_secs(10),
};

fn of_client(number: u8) -> BudgetKey {
    BudgetKey([number; 32])
}

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
    let client = of_client(1);
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
    let [client, other] = [1, 2].map(of_client);
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
    let client = of_client(1);
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
    let client = of_client(1);
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
    let client = of_client(1);
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
    let client = of_client(1);
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
    budget.charge(&store, &of_client(1), dead(&token(0)), &LIMIT, NOW);
    let second = of_client(2);
    for number in 0..10 {
        let number = token(number);
        assert_eq!(budget.check(&store, &second, &number, &LIMIT, NOW), Ok(()));
        budget.charge(&store, &second, dead(&number), &LIMIT, NOW);
    }
    assert_eq!(store.len(), 2);
}
