//! The shared cache, voidings, leases, ends, budgets and epochs over shared data that holds anything.
//!
//! Nothing is believed of another format or about another token, but for a moment that voids. And whatever stood there before, what is written
//! counts. An input is the digest of a token, the time, and the planted values.

#![no_main]

mod planted;

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use matrix_edge_auth::{
    cache::{
        Cached, Introspected, SharedCache,
        epoch::{Epochs, Subject},
        question::QuestionKey,
        table::Fate,
        token_events::{Event, TokenEvents},
        voiding::Voidings,
    },
    clock::Instant,
    config::{self, UnknownTokenBudget},
    mas::{
        introspection::{Answer, Asker},
        provisioning::Voiding,
        user::{DeviceKey, UserKey},
    },
    resolver::{
        clients::budget::{Budget, BudgetKey, Inactive},
        workers::lease::{Acquired, Claim, LEASE, Leases, OnHeld, Tombstone},
    },
    shared_data::name::FORMAT_VERSION,
    token::{TokenDigest, TokenSecret},
};

use self::planted::{Planted, Values, contain};

const FINGERPRINT: u64 = 1;
const ACTIVE: &[u8] = br#"{"active":true,"username":"alice","device_id":"A"}"#;

fuzz_target!(|input: &[u8]| {
    let Some((digest, rest)) = input.split_first_chunk() else {
        return;
    };
    let Some((now, rest)) = rest.split_first_chunk() else {
        return;
    };
    let digest = TokenDigest(*digest);
    let now = Instant::from_millis(u64::from_le_bytes(*now));
    let store = || Planted::new(Values::cut(rest));
    finds(&store(), &digest, now);
    keeps(&store(), &digest, now);
    voids(&store(), now);
    leases(&store(), &digest, now);
    ends(&store(), &digest, now);
    budgets(&store(), &digest, now);
    epochs(&store(), &digest, now);
});

fn cache() -> SharedCache {
    let settings = config::Cache {
        ttl: Duration::from_secs(120),
        negative_ttl: Duration::from_secs(10),
        stale_if_error: Duration::from_secs(60),
        refresh_ahead: true,
        slots: 4,
        negative_slots: 4,
        local_entries: 0,
    };
    SharedCache::new(&settings, FINGERPRINT)
}

fn finds(store: &Planted, digest: &TokenDigest, now: Instant) {
    let cache = cache();
    let is_told = |kind| store.values.tell(kind, FORMAT_VERSION, &digest.0);
    match cache.lookup(store, digest, now) {
        None => {}
        Some(Cached::Inactive(_)) => assert!(is_told("n")),
        Some(Cached::Expired) => assert!(is_told("a")),
        Some(Cached::Active(known)) => {
            assert_eq!(known.digest, *digest);
            assert!(now < known.fresh_until);
            assert!(is_told("a") && store.values.tell("a", FORMAT_VERSION, known.answer.body()));
        }
    }
    if let Some(known) = cache.lookup_stale(store, digest, now) {
        assert_eq!(known.digest, *digest);
        assert!(is_told("a"));
    }
    if cache.remove_active(store, digest).is_some() {
        assert!(is_told("a"));
    }
    let active = |found| matches!(found, Some(Cached::Active(_)));
    assert!(!active(cache.lookup(store, digest, now)), "it was removed");
}

fn keeps(store: &Planted, digest: &TokenDigest, now: Instant) {
    let cache = cache();
    let introspected = |body: &[u8]| {
        let answer = Answer::parse(body.to_vec()).expect("an answer");
        let lifetime = answer.lifetime(None);
        Introspected::new(*digest, now, now, answer, lifetime)
    };
    let active = introspected(ACTIVE);
    let outcome = cache.store(store, &active);
    let is_superseded = outcome.fate == Fate::Superseded;
    match cache.lookup(store, digest, now) {
        // What is planted may be the answer to a later question.
        Some(Cached::Active(known)) => {
            assert!(is_superseded || known.answer.body() == ACTIVE);
        }
        other => assert!(
            outcome.fate != Fate::Stored || cache.is_voided(store, &active, None),
            "{other:?}"
        ),
    }
    let outcome = cache.store(store, &introspected(br#"{"active":false}"#));
    let is_superseded = outcome.fate == Fate::Superseded;
    match cache.lookup(store, digest, now) {
        Some(Cached::Active(_)) => assert!(is_superseded, "it was said to be inactive"),
        Some(Cached::Inactive(_) | Cached::Expired) => {
            assert!(is_superseded || outcome.fate == Fate::Stored);
        }
        None => {}
    }
}

fn voids(store: &Planted, now: Instant) {
    let voidings = Voidings::default();
    let user = UserKey::of("alice");
    let answer = |device_id: Option<&str>| {
        let device = device_id.map_or(String::new(), |id| format!(r#","device_id":"{id}""#));
        let body = format!(r#"{{"active":true,"username":"alice"{device}}}"#);
        match Answer::parse(body.into_bytes()) {
            Ok(Answer::Active(answer)) => answer,
            other => panic!("{other:?}"),
        }
    };
    let voids = |device| voidings.voids_active(store, &user, &answer(device), now);
    if [None, Some("A"), Some("B")].into_iter().any(voids) {
        // Of any format: all have their latest moment at one place.
        let users = store.values.of("u");
        assert!(users.iter().any(|value| value.len() >= 9));
    }
    let add = |voiding| {
        let added = voidings.add(store, &user, &voiding, now);
        assert_eq!(added, Ok(()));
    };
    add(Voiding::Device(DeviceKey::of("A")));
    assert!(voids(Some("A")));
    add(Voiding::AllExcept(vec![DeviceKey::of("B")]));
    assert!(voids(Some("A")) && voids(None));
    add(Voiding::Inactive);
    assert!(voidings.voids_inactive(store, Some(&user), now));
    assert!(voidings.voids_inactive(store, None, now));
    add(Voiding::All);
    assert!([None, Some("A"), Some("B")].into_iter().all(voids));
}

fn leases(store: &Planted, digest: &TokenDigest, now: Instant) {
    const ME: u64 = 1;
    const OTHER: u64 = 2;

    let leases = Leases::default();
    let key = QuestionKey {
        digest: *digest,
        fingerprint: FINGERPRINT,
    };
    let is_told = store
        .values
        .of("l")
        .iter()
        .any(|value| contain(value, &digest.0));
    let claim = |holder, cache_read_at| {
        let claim = Claim {
            asker: None,
            key: &key,
            holder,
            now,
            cache_read_at,
            on_held: OnHeld::Wait,
        };
        leases.claim(store, &claim)
    };
    match claim(ME, now.minus(LEASE)) {
        Acquired::Mine | Acquired::MineInCrowdedBucket => {
            let others = claim(OTHER, now);
            // Nothing lasts past the end of time.
            let end = now + LEASE;
            let is_held = matches!(others, Acquired::Held { until, .. } if until == end);
            assert!(is_held || end == now);
        }
        Acquired::Held { until, .. } => assert!(is_told && until > now),
        Acquired::Tombstone(at) => {
            assert!(is_told && now < at + LEASE);
            let again = claim(ME, at);
            assert!(matches!(
                again,
                Acquired::Mine | Acquired::MineInCrowdedBucket
            ));
        }
        Acquired::Failed => assert!(is_told),
        Acquired::BucketFull => assert!(!store.values.of("l").is_empty()),
    }
    leases.release(store, &key, ME, Some(Tombstone::Stored(now)));
    leases.release(store, &key, OTHER, Some(Tombstone::Failed(now, Asker(0))));
    leases.release(store, &key, OTHER, None);
}

/// An end and a refusal are seen whatever stood there before.
fn ends(store: &Planted, digest: &TokenDigest, now: Instant) {
    let ended = TokenEvents::default();
    for event in [Event::End, Event::Refusal] {
        let before = ended.point(store, now);
        assert_eq!(ended.add(store, digest, event), Ok(()));
        assert!(matches!(ended.since(store, digest, before), Ok(Some(_))));
    }
}

/// A client over its budget may still ask about what it was charged for. Nothing planted hinders that.
fn budgets(store: &Planted, digest: &TokenDigest, now: Instant) {
    let budget = Budget::default();
    let limit = UnknownTokenBudget {
        per_source: 3,
        window: Duration::from_secs(10),
    };
    let mut key = [0; 32];
    key[..digest.0.len()].copy_from_slice(&digest.0);
    let key = BudgetKey(key);
    let check = |token: &TokenDigest| budget.check(store, &key, token, &limit, now);
    let tokens = [0u8, 1, 2].map(|number| TokenSecret::NONE.digest(&[number]));
    for token in &tokens {
        if let Err(spent) = check(token) {
            assert!(now < spent.until);
        }
        let inactive = Inactive {
            token,
            was_known: false,
        };
        budget.charge(store, &key, inactive, &limit, now);
        assert_eq!(check(token), Ok(()));
    }
    if store.values.of("b").is_empty() && now + limit.window > now {
        assert!(tokens.iter().all(|token| check(token).is_ok()));
        assert!(check(&TokenSecret::NONE.digest(b"another")).is_err());
    }
}

fn epochs(store: &Planted, digest: &TokenDigest, now: Instant) {
    let mut epochs = Epochs::default();
    let _ = epochs.read(store);
    let user = UserKey::of("alice");
    for subject in [Subject::Token(digest), Subject::User(&user)] {
        let before = epochs.stamp(digest, Some(&user));
        let _ = epochs.bump(store, subject, now);
        assert_ne!(epochs.stamp(digest, Some(&user)), before);
    }
    let mut others = Epochs::default();
    let _ = others.read(store);
    assert_eq!(
        others.stamp(digest, Some(&user)),
        epochs.stamp(digest, Some(&user))
    );
}
