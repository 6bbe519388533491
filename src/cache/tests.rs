//! The two tables together, with a store in memory.

use std::time::Duration;

use super::{table::Fate, *};
use crate::{
    host::{If, NotWritten, Unreadable, Versioned, memory::MemoryStore},
    mas::{introspection::InactiveAnswer, provisioning::Voiding},
    shared_data::name::FORMAT_VERSION,
};

const FINGERPRINT: u64 = 42;

fn settings() -> config::Cache {
    config::Cache {
        ttl: Duration::from_secs(120),
        negative_ttl: Duration::from_secs(10),
        stale_if_error: Duration::ZERO,
        refresh_ahead: true,
        slots: 64,
        negative_slots: 64,
        local_entries: 0,
    }
}

fn cache() -> SharedCache {
    SharedCache::new(&settings(), FINGERPRINT)
}

fn seconds(seconds: f64) -> Instant {
    Instant::from_millis(1_000_000) + Duration::from_secs_f64(seconds)
}

fn active(expires_in: Option<i64>) -> Answer {
    let body = match expires_in {
        Some(seconds) => {
            format!(r#"{{"active":true,"username":"alice","expires_in":{seconds}}}"#)
        }
        None => r#"{"active":true,"username":"alice"}"#.to_owned(),
    };
    Answer::parse(body.into()).unwrap()
}

fn inactive() -> Answer {
    Answer::Inactive(InactiveAnswer::default())
}

fn is_alice(cached: Option<Cached>) -> bool {
    matches!(cached, Some(Cached::Active(known)) if known.answer.token().username == Some("alice"))
}

fn keep(
    cache: &SharedCache,
    store: &MemoryStore,
    asked_at: f64,
    answered_at: f64,
    answer: &Answer,
) {
    let asked = Introspected::new(
        TokenDigest::of(b"token"),
        seconds(asked_at),
        seconds(answered_at),
        answer.clone(),
        answer.lifetime(None),
    );
    cache.store(store, &asked);
}

/// What the cache knows at each of `times` (in seconds) of a token asked about at 0 and answered at
/// 0.2: `A`ctive, `I`nactive or `-`.
fn life(answer: &Answer, times: &[f64]) -> String {
    let (store, cache, digest) = (MemoryStore::default(), cache(), TokenDigest::of(b"token"));
    keep(&cache, &store, 0.0, 0.2, answer);
    let known = |time: &f64| match cache.lookup(&store, &digest, seconds(*time)) {
        Some(Cached::Inactive(_) | Cached::Expired) => 'I',
        None => '-',
        active => {
            assert!(is_alice(active));
            'A'
        }
    };
    times.iter().map(known).collect()
}

/// What docs/configuration.md says of `slots`: sessions that are used in turn push each other out where a bucket has more of
/// them than places. The store in
/// memory gives the same secret in each run, so the shares are the same in each.
#[test]
fn with_four_times_as_many_slots_as_sessions_hardly_one_is_asked_about_again() {
    const SESSIONS: u32 = 4_000;
    for (times, share) in [(4, 0.0..0.005), (2, 0.02..0.09)] {
        let store = MemoryStore::default();
        let slots = SESSIONS * times;
        let cache = SharedCache::new(
            &config::Cache {
                slots,
                ..settings()
            },
            FINGERPRINT,
        );
        let answer = active(None);
        let turn = |at: f64| {
            let asks = |session: &u32| {
                let digest = TokenDigest::of(&session.to_le_bytes());
                if cache.lookup(&store, &digest, seconds(at)).is_some() {
                    return false;
                }
                let (now, answer) = (seconds(at), answer.clone());
                cache.store(&store, &Introspected::new(digest, now, now, answer, None));
                true
            };
            (0..SESSIONS).filter(asks).count()
        };
        assert_eq!(turn(0.0), SESSIONS as usize);
        for at in [10.0, 20.0, 30.0] {
            let asked = turn(at) as f64 / f64::from(SESSIONS);
            assert!(share.contains(&asked), "{times}: {asked}");
        }
    }
}

/// The call lasted from 0 to 3.
#[test]
fn an_inactive_answer_past_its_time_serves_who_waited_and_for_a_moment() {
    let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
    let cache = SharedCache::new(
        &config::Cache {
            negative_ttl: Duration::ZERO,
            ..settings()
        },
        FINGERPRINT,
    );
    keep(&cache, &store, 0.0, 3.0, &inactive());
    let awaited = |since, now| {
        assert_eq!(
            cache.lookup(&store, &digest, seconds(now)),
            None,
            "nobody else"
        );
        let awaited = cache.lookup_awaited(&store, &digest, seconds(since), seconds(now))?;
        assert_eq!(awaited.cached, Cached::Inactive(InactiveAnswer::default()));
        Some(awaited.audience)
    };
    for since in [0.0, 1.0, 2.999] {
        assert_eq!(
            awaited(since, 3.499),
            Some(Audience::CameBeforeAnswer(seconds(3.0)))
        );
        assert_eq!(awaited(since, 3.5), None);
    }
    assert_eq!(awaited(3.0, 3.1), None, "it came later");
    // A user is back, perhaps this one.
    let (alice, back) = (UserKey::of("alice"), Voiding::Inactive);
    let voidings = cache.voidings();
    voidings.add(&store, &alice, &back, seconds(1.0)).unwrap();
    assert_eq!(awaited(0.0, 3.1), None);
    // Of the next question, too, but it was asked after the request came.
    keep(&cache, &store, 4.0, 4.6, &inactive());
    voidings.add(&store, &alice, &back, seconds(4.3)).unwrap();
    for since in [0.0, 3.999] {
        assert_eq!(
            awaited(since, 5.099),
            Some(Audience::CameBeforeQuestion(seconds(4.0)))
        );
        assert_eq!(awaited(since, 5.1), None);
    }
    assert_eq!(awaited(4.0, 4.7), None, "it may have been told of the user");
}

/// Two configurations of one MAS, of which the other lets an answer hold longer.
#[test]
fn an_answer_is_renewed_late_in_the_life_that_its_writer_gave_it() {
    let reader = |ttl| {
        let settings = config::Cache {
            ttl: Duration::from_secs(ttl),
            ..settings()
        };
        SharedCache::new(&settings, FINGERPRINT)
    };
    let store = MemoryStore::default();
    keep(&reader(5), &store, 0.0, 0.2, &active(None));
    for (ttl, refresh_at) in [(5, 4.5), (120, 4.5), (2, 1.8)] {
        let found = reader(ttl).lookup(&store, &TokenDigest::of(b"token"), seconds(0.2));
        let Some(Cached::Active(entry)) = found else {
            panic!("it is active");
        };
        assert_eq!(entry.refresh_at, Some(seconds(refresh_at)), "{ttl}");
    }
}

#[test]
fn a_lasting_token_is_kept_for_the_ttl_from_before_it_was_asked_about() {
    assert_eq!(
        life(&active(None), &[0.2, 119.999, 120.0, 100_000.0]),
        "AA--"
    );
}

#[test]
fn expires_in_larger_than_the_ttl_does_not_extend_it() {
    let times = [0.2, 119.999, 120.0, 299.999, 300.0, 301.199, 301.2];
    assert_eq!(life(&active(Some(300)), &times), "AA----I");
}

#[test]
fn expires_in_smaller_than_the_ttl_ends_the_answer_to_the_second() {
    assert_eq!(
        life(&active(Some(30)), &[29.999, 30.0, 31.199, 31.2, 119.0]),
        "A--II"
    );
}

#[test]
fn an_answer_with_no_time_left_is_not_kept() {
    let times = [0.2, 1.0, 2.0];
    assert_eq!(life(&active(Some(0)), &times), "---");
    // A token that has ended is inactive.
    for expires_in in [-1, i64::MIN] {
        assert_eq!(life(&active(Some(expires_in)), &times), "III");
    }
}

#[test]
fn an_answer_that_took_longer_than_its_life_is_not_kept() {
    let (store, cache, digest) = (MemoryStore::default(), cache(), TokenDigest::of(b"token"));
    keep(&cache, &store, 0.0, 3.0, &active(Some(2)));
    assert_eq!(cache.lookup(&store, &digest, seconds(3.0)), None);
}

#[test]
fn an_inactive_answer_is_kept_for_the_negative_ttl() {
    assert_eq!(life(&inactive(), &[0.2, 9.999, 10.0]), "II-");
}

#[test]
fn a_later_answer_takes_the_place_of_an_earlier_one_of_the_other_kind() {
    let (store, cache, digest) = (MemoryStore::default(), cache(), TokenDigest::of(b"token"));
    let find = |at: f64| cache.lookup(&store, &digest, seconds(at));
    keep(&cache, &store, 0.0, 0.0, &active(None));
    keep(&cache, &store, 1.0, 1.0, &inactive());
    assert!(matches!(find(1.0), Some(Cached::Inactive(_))));
    keep(&cache, &store, 2.0, 2.0, &active(None));
    assert!(is_alice(find(2.0)));
    assert_eq!(find(130.0), None);
}

#[test]
fn an_answer_to_an_earlier_question_takes_the_place_of_none() {
    for (earlier, later) in [
        (active(None), inactive()),
        (inactive(), active(None)),
        (active(None), active(Some(30))),
    ] {
        for negative_ttl in [10, 0] {
            let settings = config::Cache {
                negative_ttl: Duration::from_secs(negative_ttl),
                ..settings()
            };
            let late = SharedCache::new(&settings, FINGERPRINT);
            let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
            let find = || cache().lookup(&store, &digest, seconds(3.0));
            keep(&cache(), &store, 1.0, 2.0, &later);
            let expected = find();
            let (asked_at, answered_at) = (seconds(0.999), seconds(3.0));
            let asked = Introspected::new(digest, asked_at, answered_at, earlier.clone(), None);
            let outcome = late.store(&store, &asked);
            // An "active" could be read for a moment, and kept by another worker.
            let was_readable = asked.is_active() && matches!(later, Answer::Inactive(_));
            assert_eq!(
                (outcome.fate, outcome.invalidated),
                (Fate::Superseded, was_readable)
            );
            assert!(expected.is_some() && find() == expected);
        }
    }
}

/// Another worker stores the answer to a later question while this one stores its own.
#[test]
fn of_answers_that_are_stored_at_once_the_later_one_stays() {
    for later_is_active in [true, false] {
        let kinds = [active(None), inactive()];
        let [earlier, later] = if later_is_active {
            [&kinds[1], &kinds[0]]
        } else {
            [&kinds[0], &kinds[1]]
        };
        for (first, second) in [(earlier, later), (later, earlier)] {
            let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
            // The tables are registered before the race.
            keep(&cache(), &store, 0.0, 0.0, &active(None));
            keep(&cache(), &store, 0.5, 0.5, &inactive());
            let asked_at = |answer| {
                if std::ptr::eq(answer, later) {
                    1.0
                } else {
                    0.0
                }
            };
            let (interfering, at) = (second.clone(), asked_at(second));
            *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
                keep(&cache(), store, at, 2.0, &interfering);
            }));
            keep(&cache(), &store, asked_at(first), 2.0, first);
            let found = cache().lookup(&store, &digest, seconds(2.0));
            assert_eq!(is_alice(found.clone()), later_is_active);
            assert!(found.is_some());
        }
    }
}

#[test]
fn a_doubted_answer_serves_only_where_mas_gives_none_and_not_past_its_time() {
    for stale_if_error in [0.0, 30.0] {
        let settings = config::Cache {
            stale_if_error: Duration::from_secs_f64(stale_if_error),
            ..settings()
        };
        let cache = SharedCache::new(&settings, FINGERPRINT);
        let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
        let find = |at: f64| cache.lookup(&store, &digest, seconds(at));
        let stale = |at: f64| cache.lookup_stale(&store, &digest, seconds(at)).is_some();
        keep(&cache, &store, 0.0, 0.0, &active(Some(300)));
        assert!(cache.doubt(&store, &digest) && cache.doubt(&store, &digest));
        assert_eq!(find(0.0), None);
        assert!(cache.known_owner(&store, &digest, seconds(0.0)).is_some());
        let end = 120.0 + stale_if_error;
        assert_eq!([0.0, end - 0.001, end].map(stale), [true, true, false]);
        // Its token's end holds all the same.
        assert_eq!(find(301.0), Some(Cached::Expired));
        keep(&cache, &store, 1.0, 1.0, &active(None));
        assert!(is_alice(find(1.0)), "MAS has said it anew");
        cache.doubt(&store, &digest);
        keep(&cache, &store, 2.0, 2.0, &inactive());
        assert!(matches!(find(2.0), Some(Cached::Inactive(_))) && !stale(2.0));
    }
}

#[test]
fn how_long_a_stale_answer_serves_counts_from_the_question_however_long_that_took() {
    for (stale_if_error, end) in [(0, 3.4), (2, 3.4), (6, 7.0)] {
        let settings = config::Cache {
            ttl: Duration::from_secs(1),
            stale_if_error: Duration::from_secs(stale_if_error),
            ..settings()
        };
        let cache = SharedCache::new(&settings, FINGERPRINT);
        let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
        keep(&cache, &store, 0.0, 2.9, &active(None));
        let stale = |at: f64| cache.lookup_stale(&store, &digest, seconds(at)).is_some();
        assert_eq!([2.9, end - 0.001, end].map(stale), [true, true, false]);
    }
}

#[test]
fn a_voided_user_has_no_answers_from_before() {
    let (store, cache, digest) = (MemoryStore::default(), cache(), TokenDigest::of(b"token"));
    let find = |at: f64| cache.lookup(&store, &digest, seconds(at));
    let void = |at: f64, voiding| {
        let voidings = cache.voidings();
        voidings
            .add(&store, &UserKey::of("alice"), &voiding, seconds(at))
            .unwrap();
    };
    keep(&cache, &store, 0.0, 0.0, &active(None));
    void(1.0, Voiding::Inactive);
    assert!(is_alice(find(1.0)));
    void(2.0, Voiding::All);
    assert_eq!(find(2.0), None);
    keep(&cache, &store, 2.0, 3.0, &active(None));
    assert_eq!(find(3.0), None, "it was on its way at the time");
    keep(&cache, &store, 3.0, 3.0, &active(None));
    assert!(is_alice(find(3.0)));
    keep(&cache, &store, 4.0, 4.0, &inactive());
    assert!(matches!(find(4.0), Some(Cached::Inactive(_))));
    void(5.0, Voiding::AllExcept(Vec::new()));
    assert!(matches!(find(5.0), Some(Cached::Inactive(_))));
    void(6.0, Voiding::Inactive);
    assert_eq!(find(6.0), None, "the token may have come back to life");
}

#[test]
fn an_active_answer_that_names_nobody_ends_with_what_is_told_of_anybody() {
    let (store, cache, digest) = (MemoryStore::default(), cache(), TokenDigest::of(b"token"));
    let is_found = |at: f64| cache.lookup(&store, &digest, seconds(at)).is_some();
    let is_stale = |at: f64| cache.lookup_stale(&store, &digest, seconds(at)).is_some();
    let void = |at: f64, voiding| {
        let voidings = cache.voidings();
        voidings
            .add(&store, &UserKey::of("alice"), &voiding, seconds(at))
            .unwrap();
    };
    let of_nobody = Answer::parse(br#"{"active":true}"#.to_vec()).unwrap();
    for (at, voiding, ends) in [
        (10.0, Voiding::Inactive, true),
        (20.0, Voiding::All, true),
        (30.0, Voiding::AllExcept(Vec::new()), false),
    ] {
        keep(&cache, &store, at, at, &of_nobody);
        assert!(is_found(at) && is_stale(at));
        void(at + 1.0, voiding);
        assert_eq!([is_found(at + 1.0), is_stale(at + 1.0)], [!ends; 2]);
        keep(&cache, &store, at + 1.0, at + 2.0, &of_nobody);
        assert_eq!(is_found(at + 2.0), !ends, "it was on its way at the time");
    }
    let asked = |at: f64| {
        let (asked_at, answered_at) = (seconds(at), seconds(25.0));
        Introspected::new(digest, asked_at, answered_at, of_nobody.clone(), None)
    };
    let is_voided = |at: f64| cache.is_voided(&store, &asked(at), Some(&Epochs::default()));
    assert!(is_voided(21.0) && !is_voided(22.0));
}

#[test]
fn answers_given_to_another_question_are_misses() {
    let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
    keep(&cache(), &store, 0.0, 0.0, &active(None));
    let other = SharedCache {
        fingerprint: FINGERPRINT + 1,
        ..cache()
    };
    assert_eq!(other.lookup(&store, &digest, seconds(1.0)), None);
    assert!(cache().lookup(&store, &digest, seconds(1.0)).is_some());
}

#[test]
fn an_inactive_answer_that_does_not_hold_is_there_for_earlier_answers_only() {
    let cache = SharedCache::new(
        &config::Cache {
            negative_ttl: Duration::ZERO,
            ..settings()
        },
        FINGERPRINT,
    );
    let store = MemoryStore::default();
    let token = TokenDigest::of(b"token");
    let outcome = |asked_at, answer: Answer| {
        let answered_at = seconds(3.0);
        let asked = Introspected::new(token, seconds(asked_at), answered_at, answer, None);
        cache.store(&store, &asked)
    };
    for asked_at in [2.0, 1.5] {
        assert_ne!(outcome(asked_at, inactive()).fate, Fate::Superseded);
        assert_eq!(cache.lookup(&store, &token, seconds(3.0)), None);
    }
    assert_eq!(outcome(1.0, active(None)).fate, Fate::Superseded);
    assert_eq!(outcome(2.5, active(None)).fate, Fate::Stored);
}

#[test]
fn an_inactive_answer_ends_the_active_one_of_the_same_question_only() {
    let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
    let (one, two) = (cache(), SharedCache::new(&settings(), FINGERPRINT + 1));
    let find = |cache: &SharedCache| cache.lookup(&store, &digest, seconds(1.0));
    keep(&one, &store, 0.0, 0.0, &active(None));
    keep(&two, &store, 0.0, 0.0, &active(None));
    assert!(is_alice(find(&one)) && is_alice(find(&two)));
    keep(&two, &store, 1.0, 1.0, &inactive());
    assert!(is_alice(find(&one)));
    assert!(matches!(find(&two), Some(Cached::Inactive(_))));
    keep(&one, &store, 1.0, 1.0, &active(None));
    assert!(matches!(find(&two), Some(Cached::Inactive(_))));
}

#[test]
fn a_removal_tells_the_user_that_the_own_mas_named() {
    let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
    let (own, other) = (cache(), SharedCache::new(&settings(), FINGERPRINT + 1));
    let bob = Answer::parse(br#"{"active":true,"username":"bob"}"#.to_vec()).unwrap();
    let users = ["bob", "alice"].map(UserKey::of);
    for (first, second) in [(&own, &other), (&other, &own)] {
        for cache in [first, second] {
            let answer = if std::ptr::eq(cache, &raw const own) {
                &bob
            } else {
                &active(None)
            };
            keep(cache, &store, 0.0, 0.0, answer);
        }
        let removed = own.remove_active(&store, &digest).unwrap();
        assert_eq!(removed.user, Some(users[0]));
        for cache in [first, second] {
            assert_eq!(cache.lookup(&store, &digest, seconds(1.0)), None);
        }
    }
    keep(&other, &store, 0.0, 0.0, &active(None));
    let removed = own.remove_active(&store, &digest).unwrap();
    assert_eq!(removed.user, Some(users[1]), "it is all that is known");
    assert_eq!(own.remove_active(&store, &digest), None);
}

#[test]
fn an_answer_holds_no_longer_than_the_readers_ttl() {
    let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
    let reader = |ttl, negative_ttl| {
        let settings = config::Cache {
            ttl: Duration::from_secs(ttl),
            negative_ttl: Duration::from_secs(negative_ttl),
            stale_if_error: Duration::from_secs(5),
            ..settings()
        };
        SharedCache::new(&settings, FINGERPRINT)
    };
    let find = |reader: &SharedCache, at| reader.lookup(&store, &digest, seconds(at));
    keep(&cache(), &store, 0.0, 3.0, &active(None));
    let (short, long) = (reader(20, 2), reader(600, 60));
    let Some(Cached::Active(entry)) = find(&short, 19.999) else {
        panic!("it is active");
    };
    assert_eq!(entry.fresh_until, seconds(20.0));
    assert_eq!(entry.refresh_at, Some(seconds(18.0)));
    assert_eq!(find(&short, 20.0), None);
    let stale = |at| short.lookup_stale(&store, &digest, seconds(at)).is_some();
    assert!(stale(24.999) && !stale(25.0));
    assert!(is_alice(find(&long, 119.999)));
    assert_eq!(find(&long, 120.0), None, "nor than the writer's");
    keep(&cache(), &store, 200.0, 200.0, &inactive());
    assert!(find(&short, 201.999).is_some() && find(&short, 202.0).is_none());
    assert!(find(&reader(20, 0), 200.0).is_none());
    assert!(find(&long, 209.999).is_some() && find(&long, 210.0).is_none());
}

#[test]
fn an_answer_on_its_way_to_two_readers_holds_for_each_as_it_would_from_the_cache() {
    let store = MemoryStore::default();
    let reader = |ttl| {
        let ttl = Duration::from_secs(ttl);
        SharedCache::new(&config::Cache { ttl, ..settings() }, FINGERPRINT)
    };
    let asked = Introspected::new(
        TokenDigest::of(b"token"),
        seconds(0.0),
        seconds(0.2),
        active(None),
        None,
    );
    let writer = cache();
    writer.store(&store, &asked);
    for ttl in [20, 120, 600] {
        let reader = reader(ttl);
        let told = writer.view_for(&asked, &reader);
        let read = reader.lookup(&store, &asked.digest, seconds(0.2));
        assert_eq!(Some(told), read, "{ttl}");
    }
}

#[test]
fn what_is_learned_under_one_size_counts_under_the_other() {
    let digest = TokenDigest::of(b"token");
    let resized = |slots| {
        let settings = config::Cache {
            slots,
            negative_slots: slots,
            ..settings()
        };
        SharedCache::new(&settings, FINGERPRINT)
    };
    for sizes in [[64, 65_536], [65_536, 64]] {
        let [one, two] = &sizes.map(resized);
        let store = MemoryStore::default();
        let find = |cache: &SharedCache, at| cache.lookup(&store, &digest, seconds(at));
        keep(one, &store, 0.0, 0.0, &active(None));
        assert!(is_alice(find(one, 0.0)));
        assert_eq!(find(two, 0.0), None);
        assert!(two.remove_active(&store, &digest).is_some());
        assert_eq!(find(one, 0.0), None);
        keep(one, &store, 1.0, 1.0, &active(None));
        keep(two, &store, 2.0, 2.0, &inactive());
        assert_eq!(find(one, 2.0), None);
        assert!(matches!(find(two, 2.0), Some(Cached::Inactive(_))));
        keep(one, &store, 3.0, 3.0, &active(None));
        assert_eq!(find(two, 3.0), None, "it is active since");
    }
}

#[test]
fn entries_of_another_format_version_are_misses_and_give_way() {
    let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
    keep(&cache(), &store, 0.0, 0.0, &active(None));
    store.damage(|value| {
        // The seed has 16 bytes and no version, a register of sizes 4, and its mark none.
        if ![16, 4, 0].contains(&value.len()) {
            *value.first_mut().unwrap() = FORMAT_VERSION + 1;
        }
    });
    assert_eq!(cache().lookup(&store, &digest, seconds(1.0)), None);
    keep(&cache(), &store, 1.0, 1.0, &active(None));
    assert!(cache().lookup(&store, &digest, seconds(1.0)).is_some());
}

/// Whose token it was, the answer about it that was active has told.
#[test]
fn an_inactive_answer_is_void_by_what_is_told_of_its_user_and_of_no_other() {
    let (store, cache, digest) = (MemoryStore::default(), cache(), TokenDigest::of(b"token"));
    keep(&cache, &store, 0.0, 0.0, &active(None));
    keep(&cache, &store, 1.0, 1.0, &inactive());
    for (user, is_inactive) in [("bob", true), ("alice", false)] {
        let (user, voiding) = (UserKey::of(user), Voiding::Inactive);
        let voidings = cache.voidings();
        voidings.add(&store, &user, &voiding, seconds(2.0)).unwrap();
        let found = cache.lookup(&store, &digest, seconds(3.0));
        assert_eq!(matches!(found, Some(Cached::Inactive(_))), is_inactive);
    }
}

#[test]
fn all_that_made_room_for_an_answer_is_told() {
    let settings = config::Cache {
        negative_slots: 8,
        ..settings()
    };
    let (store, cache) = (
        MemoryStore::default(),
        SharedCache::new(&settings, FINGERPRINT),
    );
    let store_inactive = |token: &[u8]| {
        let (at, token) = (seconds(1.0), TokenDigest::of(token));
        cache.store(&store, &Introspected::new(token, at, at, inactive(), None))
    };
    keep(&cache, &store, 0.0, 0.0, &active(None));
    for number in 0..8 {
        assert_eq!(store_inactive(&[number]).evicted, []);
    }
    // It is written once more, with its owner.
    assert_eq!(store_inactive(b"token").evicted.len(), 1);
}

/// A worker's cache that keeps inactive tokens for itself.
fn keeping(settings: &config::Cache) -> SharedCache {
    SharedCache::new(settings, FINGERPRINT).keeping_inactive(8)
}

/// Looks the token up at a second until the worker keeps it, which takes no table.
fn is_kept(cache: &SharedCache, store: &impl Store, at: f64) -> bool {
    (0..2).any(|_| {
        let mut tables = 0;
        let digest = TokenDigest::of(b"token");
        let found = cache.lookup_as_of(store, &digest, seconds(at), None, |_| tables += 1);
        matches!(found, Some(Cached::Inactive(_))) && tables == 0
    })
}

#[test]
fn an_inactive_token_that_comes_again_is_kept_for_the_readers_negative_ttl() {
    let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
    let short = config::Cache {
        negative_ttl: Duration::from_secs(2),
        ..settings()
    };
    let (long, short) = (keeping(&settings()), keeping(&short));
    keep(&long, &store, 0.0, 0.0, &inactive());
    assert!(is_kept(&long, &store, 1.0) && is_kept(&short, &store, 1.0));
    assert!(is_kept(&long, &store, 9.999) && is_kept(&short, &store, 1.999));
    for (cache, end) in [(&long, 10.0), (&short, 2.0)] {
        assert_eq!(cache.lookup(&store, &digest, seconds(end)), None);
    }
    let other = SharedCache::new(&settings(), FINGERPRINT + 1).keeping_inactive(8);
    assert!(!is_kept(&other, &store, 1.0), "another MAS");
    assert!(!is_kept(&cache(), &store, 1.0), "it keeps nothing");
}

/// Calls `act` before its n-th call.
struct Meanwhile<'a> {
    store: &'a MemoryStore,
    calls_before: std::cell::Cell<Option<usize>>,
    act: &'a dyn Fn(),
}

impl Meanwhile<'_> {
    fn call(&self) {
        match self.calls_before.take() {
            Some(0) => (self.act)(),
            before => self.calls_before.set(before.map(|before| before - 1)),
        }
    }
}

impl Store for Meanwhile<'_> {
    fn try_read(&self, key: &[u8]) -> Result<Option<Versioned>, Unreadable> {
        self.call();
        self.store.try_read(key)
    }

    fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten> {
        self.call();
        self.store.write(key, value, condition)
    }

    fn random(&self) -> u64 {
        self.store.random()
    }
}

type Workers = [SharedCache; 2];

/// Two workers whose tables have other sizes, and an inactive token that neither keeps yet.
fn two_workers(store: &MemoryStore) -> Workers {
    let workers = [64, 8].map(|slots| {
        keeping(&config::Cache {
            slots,
            negative_slots: slots,
            ..settings()
        })
    });
    for worker in &workers {
        keep(worker, store, 0.0, 0.0, &active(None));
    }
    keep(&workers[0], store, 1.0, 1.0, &inactive());
    workers
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The first worker is asked, and keeps the token.
    Lookup,
    /// MAS tells that the user is back.
    Revival,
    /// A worker has a later answer.
    Active(usize),
}

impl Event {
    fn happen(self, workers: &Workers, store: &impl Store) {
        let digest = TokenDigest::of(b"token");
        match self {
            Self::Lookup => {
                let [worker, _] = workers;
                worker.lookup(store, &digest, seconds(2.0));
            }
            Self::Revival => workers[1]
                .voidings()
                .add(
                    store,
                    &UserKey::of("alice"),
                    &Voiding::Inactive,
                    seconds(2.0),
                )
                .unwrap(),
            Self::Active(worker) => {
                let at = seconds(2.0);
                let asked = Introspected::new(digest, at, at, active(None), None);
                workers[worker].store(store, &asked);
            }
        }
    }
}

#[test]
fn a_kept_token_is_void_as_soon_as_anything_says_so() {
    for end in [Event::Revival, Event::Active(0), Event::Active(1)] {
        for (one, other) in [(Event::Lookup, end), (end, Event::Lookup)] {
            for is_kept_before in [false, true] {
                in_any_order(one, other, is_kept_before);
            }
        }
    }
}

/// Lets one event happen before each host call of another, in turn. Then the token is not inactive any more.
fn in_any_order(one: Event, other: Event, is_kept_before: bool) {
    for calls in 0.. {
        let store = MemoryStore::default();
        let workers = two_workers(&store);
        if is_kept_before {
            assert!(is_kept(&workers[0], &store, 1.5));
        }
        let meanwhile = Meanwhile {
            store: &store,
            calls_before: std::cell::Cell::new(Some(calls)),
            act: &|| other.happen(&workers, &store),
        };
        one.happen(&workers, &meanwhile);
        let is_over = meanwhile.calls_before.get().is_some();
        let digest = TokenDigest::of(b"token");
        if !is_over {
            let found = workers[0].lookup(&store, &digest, seconds(3.0));
            let is_inactive = matches!(found, Some(Cached::Inactive(_)));
            assert!(!is_inactive, "{other:?} after {calls} calls of {one:?}");
            continue;
        }
        assert!(calls > 0, "there was no call");
        break;
    }
}

#[test]
fn a_kept_token_that_is_pushed_out_of_the_table_is_looked_for_again() {
    let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
    let [one, two] = [settings(), settings()].map(|settings| keeping(&settings));
    keep(&one, &store, 0.0, 0.0, &inactive());
    assert!(is_kept(&one, &store, 1.0));
    for n in 0..1_000_u32 {
        let (at, token) = (seconds(2.0), TokenDigest::of(&n.to_le_bytes()));
        two.store(&store, &Introspected::new(token, at, at, inactive(), None));
    }
    assert_eq!(cache().lookup(&store, &digest, seconds(3.0)), None);
    assert_eq!(one.lookup(&store, &digest, seconds(3.0)), None);
}

#[test]
fn a_kept_token_whose_bucket_has_another_format_is_looked_for_again() {
    let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
    let worker = keeping(&config::Cache {
        negative_slots: 1,
        ..settings()
    });
    keep(&worker, &store, 0.0, 0.0, &inactive());
    assert!(is_kept(&worker, &store, 1.0));
    store.damage(|value| {
        if value.first() == Some(&FORMAT_VERSION) {
            value[0] += 1;
        }
    });
    let at = seconds(2.0);
    let other = TokenDigest::of(b"other");
    worker.store(&store, &Introspected::new(other, at, at, inactive(), None));
    assert_eq!(worker.lookup(&store, &digest, at), None);
}

#[test]
fn a_kept_token_of_which_mas_says_again_that_it_is_inactive_is_void_later_too() {
    let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
    let [one, two] = [settings(), settings()].map(|settings| keeping(&settings));
    keep(&one, &store, 0.0, 0.0, &inactive());
    assert!(is_kept(&one, &store, 1.0));
    keep(&two, &store, 2.0, 2.0, &inactive());
    assert!(is_kept(&one, &store, 3.0));
    keep(&two, &store, 4.0, 4.0, &active(None));
    assert!(is_alice(one.lookup(&store, &digest, seconds(5.0))));
}

#[test]
fn a_flood_of_inactive_tokens_takes_nothing_from_the_active_ones() {
    let (store, cache) = (MemoryStore::default(), cache());
    let live: Vec<_> = (0..16_u8).map(|n| TokenDigest::of(&[b'l', n])).collect();
    let keep = |digest: TokenDigest, at: f64, answer: Answer| {
        let (asked_at, answered_at) = (seconds(at), seconds(at));
        let lifetime = answer.lifetime(None);
        let asked = Introspected::new(digest, asked_at, answered_at, answer, lifetime);
        cache.store(&store, &asked);
    };
    for digest in &live {
        keep(*digest, 0.0, active(None));
    }
    let kept = |at| {
        let is_active = |digest: &&TokenDigest| {
            matches!(
                cache.lookup(&store, digest, seconds(at)),
                Some(Cached::Active(_))
            )
        };
        live.iter().filter(is_active).count()
    };
    let before = kept(1.0);
    for n in 0..10_000_u32 {
        keep(TokenDigest::of(&n.to_le_bytes()), 1.0, inactive());
    }
    assert_eq!(kept(2.0), before);
    // The buckets, the registers of sizes and their marks, the seed.
    assert!(store.len() <= 8 + 8 + 4 + 1);
}

/// Texts with an escape are kept once more without it.
#[test]
fn an_answer_counts_with_all_that_is_kept_of_it() {
    let settings = config::Cache {
        slots: 8,
        ..settings()
    };
    let (store, cache) = (
        MemoryStore::default(),
        SharedCache::new(&settings, FINGERPRINT),
    );
    let keep = |number: u8, answer: &Answer| {
        let digest = TokenDigest::of(&[number]);
        let (asked_at, answered_at) = (seconds(1.0), seconds(1.0));
        let asked = Introspected::new(digest, asked_at, answered_at, answer.clone(), None);
        cache.store(&store, &asked)
    };
    let of_device = |device_id: String| {
        let json = format!(r#"{{"active":true,"username":"alice","device_id":"{device_id}"}}"#);
        Answer::parse(json.into_bytes()).unwrap()
    };
    for number in 0..7 {
        keep(number, &of_device("x".repeat(600)));
    }
    for (device_id, fate) in [
        ("x".repeat(7_800), Fate::Stored),
        (format!("\\n{}", "x".repeat(3_900)), Fate::Stored),
        (format!("\\n{}", "x".repeat(7_800)), Fate::TooLong),
    ] {
        let outcome = keep(7, &of_device(device_id));
        assert_eq!((outcome.fate, outcome.evicted.len()), (fate, 0));
    }
}
