//! Leases, hints and epochs among several workers.

use super::{hint::Notice, *};
use crate::{
    cache::{Introspected, table::Fate},
    config,
    host::{QueueId, Runtime as _, fake::FakeHost},
    mas::introspection::Answer,
    resolver::{Admission, Consumer, Overflow, PoolId},
};
use serde_json::json;

const ROOT: RootId = RootId(1);
const TTL: Duration = Duration::from_secs(10);

fn callback(host: &FakeHost) -> Callback<'_, FakeHost> {
    Callback::new(host, ROOT)
}

/// Workers that have taken their seats, in order.
fn joined<const N: usize>(host: &FakeHost) -> [Workers; N] {
    std::array::from_fn(|_| {
        let mut worker = Workers::default();
        worker.check_in(&callback(host));
        worker
    })
}

fn upstream(stale_if_error: &str) -> Upstream {
    let config = json!({
        "server_name": "example.org",
        "introspection": {"cluster": "mas", "credential": {"injected": true}},
        "cache": {"ttl": "10s", "stale_if_error": stale_if_error},
    });
    let config = config::parse(config.to_string().as_bytes(), &|_| None).unwrap();
    let reader = Consumer {
        admission: Admission {
            pool: PoolId {
                group: 0,
                endpoint: 0,
            },
            overflow: Overflow::Wait,
        },
        keeps_answers: false,
        kept_inactive: 0,
    };
    Upstream::new(&config, reader)
}

fn token() -> TokenDigest {
    TokenDigest::of(b"token")
}

/// MAS has called the token active, and its answer is in the shared cache.
fn store_active(host: &FakeHost, upstream: &Upstream) {
    let answer = Answer::parse(br#"{"active":true,"username":"alice"}"#.to_vec()).unwrap();
    let lifetime = answer.lifetime(None);
    let introspected = Introspected::new(token(), host.now(), host.now(), answer, lifetime);
    let outcome = upstream.cache.store(host, &introspected);
    assert_eq!(outcome.fate, Fate::Stored);
}

fn acquire(worker: &mut Workers, host: &FakeHost, upstream: &Upstream) -> Acquisition {
    let key = upstream.question(&token());
    worker.acquire(&callback(host), upstream, &key)
}

/// Takes the lease and releases it with this tombstone.
fn ask(worker: &mut Workers, host: &FakeHost, upstream: &Upstream, tombstone: Tombstone) {
    let lease = acquire(worker, host, upstream);
    assert!(matches!(
        lease,
        Acquisition::Mine {
            leased: Leased::UntilExpiry
        }
    ));
    let key = upstream.question(&token());
    worker.release(
        &callback(host),
        key,
        Hint::LookAgain(key),
        Some(tombstone),
        false,
    );
}

/// Takes out what the worker of this seat was told.
fn told(host: &FakeHost, seat: u32) -> Vec<Option<Hint>> {
    // Queues are numbered as they are registered, which is in the order of the seats.
    std::iter::from_fn(|| host.dequeue(QueueId(seat + 1)))
        .map(|message| Hint::decode(&message))
        .collect()
}

#[test]
fn one_worker_holds_the_lease_and_the_others_look_again_at_its_end() {
    let (host, upstream) = (FakeHost::default(), upstream("0s"));
    let [mut one, mut two] = joined(&host);
    let mine = acquire(&mut one, &host, &upstream);
    assert!(matches!(
        mine,
        Acquisition::Mine {
            leased: Leased::UntilExpiry
        }
    ));
    let peer = acquire(&mut two, &host, &upstream);
    assert!(matches!(peer, Acquisition::Peer { check_at } if check_at == host.now() + LEASE));
    host.advance(LEASE / 2);
    one.renew(&callback(&host), &upstream.question(&token()));
    host.advance(LEASE / 2);
    let still = acquire(&mut two, &host, &upstream);
    assert!(matches!(still, Acquisition::Peer { .. }), "renewed");
    host.advance(LEASE / 2);
    let mine = acquire(&mut two, &host, &upstream);
    assert!(
        matches!(
            mine,
            Acquisition::Mine {
                leased: Leased::UntilExpiry
            }
        ),
        "ended"
    );
}

#[test]
fn a_tombstone_leads_to_the_answer() {
    let (host, upstream) = (FakeHost::default(), upstream("0s"));
    let [mut one, mut two] = joined(&host);
    store_active(&host, &upstream);
    ask(&mut one, &host, &upstream, Tombstone::Stored(host.now()));
    let hit = acquire(&mut two, &host, &upstream);
    assert!(matches!(hit, Acquisition::Hit(Cached::Active(_))));
}

#[test]
fn a_tombstone_without_an_answer_that_is_useful_leaves_the_call_to_this_worker() {
    let (host, upstream) = (FakeHost::default(), upstream("0s"));
    let [mut one, mut two, mut three] = joined(&host);
    ask(&mut one, &host, &upstream, Tombstone::Stored(host.now()));
    // No answer is there. The tombstone stays for the next worker.
    ask(&mut two, &host, &upstream, Tombstone::Stored(host.now()));
    store_active(&host, &upstream);
    let key = upstream.question(&token());
    let mine = three.acquire_without_waiting(&callback(&host), &upstream, &key, &|_| false);
    assert!(matches!(
        mine,
        Acquisition::Mine {
            leased: Leased::UntilExpiry
        }
    ));
}

#[test]
fn answers_that_keep_coming_are_followed_a_few_times() {
    let (host, upstream) = (FakeHost::default(), upstream("0s"));
    let [mut one, mut two] = joined(&host);
    store_active(&host, &upstream);
    ask(&mut one, &host, &upstream, Tombstone::Stored(host.now()));
    let key = upstream.question(&token());
    let rivals = Leases::default();
    let followed = std::cell::Cell::new(0);
    let mine = two.acquire_without_waiting(&callback(&host), &upstream, &key, &|_| {
        followed.set(followed.get() + 1);
        let later = host.now() + Duration::from_millis(followed.get());
        let rival = 1;
        rivals.acquire(&host, &key, rival, later, later);
        rivals.release(&host, &key, rival, Some(Tombstone::Stored(later)));
        false
    });
    assert!(matches!(mine, Acquisition::Mine { leased: Leased::No }));
    assert_eq!(followed.get(), MAX_RECHECKS as u64);
}

#[test]
fn a_failure_keeps_every_worker_from_calling_for_a_second() {
    for (stale_if_error, serves) in [("10m", true), ("0s", false)] {
        let (host, upstream) = (FakeHost::default(), upstream(stale_if_error));
        let [mut one, mut two] = joined(&host);
        store_active(&host, &upstream);
        host.advance(TTL);
        ask(
            &mut one,
            &host,
            &upstream,
            Tombstone::Failed(host.now(), upstream.asker),
        );
        for worker in [&mut one, &mut two] {
            match acquire(worker, &host, &upstream) {
                Acquisition::Failed(stale) => assert_eq!(stale.is_some(), serves),
                _ => panic!("a call has just failed"),
            }
        }
        host.advance(LEASE);
        let later = acquire(&mut two, &host, &upstream);
        assert!(matches!(
            later,
            Acquisition::Mine {
                leased: Leased::UntilExpiry
            }
        ));
    }
}

#[test]
fn a_full_bucket_costs_the_lease_and_not_the_call() {
    let (host, upstream) = (FakeHost::default(), upstream("0s"));
    let [mut one, mut two] = joined(&host);
    // There are 16,384 leases, and a bucket gets one in 2,048.
    for number in 0..80_000_u32 {
        let key = upstream.question(&TokenDigest::of(&number.to_le_bytes()));
        one.acquire(&callback(&host), &upstream, &key);
    }
    let key = upstream.question(&token());
    let mine = two.acquire(&callback(&host), &upstream, &key);
    assert!(matches!(mine, Acquisition::Mine { leased: Leased::No }));
}

#[test]
fn a_release_tells_the_others_only_if_one_of_them_waits() {
    let (host, upstream) = (FakeHost::default(), upstream("0s"));
    let [mut one, mut two] = joined(&host);
    ask(
        &mut one,
        &host,
        &upstream,
        Tombstone::Failed(host.now(), upstream.asker),
    );
    assert_eq!(told(&host, 1), []);

    host.advance(LEASE);
    acquire(&mut one, &host, &upstream);
    let peer = acquire(&mut two, &host, &upstream);
    assert!(matches!(peer, Acquisition::Peer { .. }));
    let key = upstream.question(&token());
    let notice = Notice {
        waiting_before: host.now(),
        sent_at: host.now(),
    };
    let failed = Hint::Failed(key, upstream.asker, notice);
    one.release(&callback(&host), key, failed, None, false);
    assert_eq!(told(&host, 1), [Some(failed)]);
    let wanted = [Some(Hint::Wanted(key))];
    assert_eq!(told(&host, 0), wanted, "what the other one told");
}

#[test]
fn an_announcement_voids_the_stamps_of_all_workers() {
    let host = FakeHost::default();
    let [mut one, mut two] = joined(&host);
    let user = UserKey::of("alice");
    let stamp = |worker: &Workers| worker.stamp(&token(), Some(&user));
    for (subject, reason) in [
        (Subject::Token(&token()), InvalidationReason::Logout),
        (Subject::User(&user), InvalidationReason::SyncDevices),
    ] {
        let before = stamp(&two);
        assert_eq!(stamp(&one), before);
        one.announce(&callback(&host), subject, reason);
        assert_ne!(stamp(&one), before, "at once");
        assert_eq!(stamp(&two), before, "it has not looked yet");
        assert_eq!(told(&host, 1), [Some(Hint::Invalidated)]);
        two.read_epochs(&callback(&host));
        assert_eq!(stamp(&two), stamp(&one));
        assert_eq!(host.metric(Metric::Invalidated(reason)), 1);
    }
}

#[test]
fn an_eviction_voids_stamps_at_the_next_tick() {
    let host = FakeHost::default();
    let [mut one, mut two] = joined(&host);
    let before = two.stamp(&token(), None);
    one.void_evicted(&callback(&host), &token());
    assert_eq!(told(&host, 1), []);
    two.check_in(&callback(&host));
    assert_ne!(two.stamp(&token(), None), before);
}

/// A session has ended, and Envoy refuses the worker the reading by which it would hear of that.
#[test]
fn epochs_that_could_not_be_read_are_read_for_the_next_hit() {
    let host = FakeHost::default();
    let [mut one, mut two] = joined(&host);
    let before = two.stamp(&token(), None);
    one.announce(
        &callback(&host),
        Subject::Token(&token()),
        InvalidationReason::Logout,
    );
    host.advance(EPOCHS_HOLD);
    host.store.is_unreadable.set(true);
    two.check_in(&callback(&host));
    assert_eq!(two.stamp(&token(), None), before);
    host.store.is_unreadable.set(false);
    two.refresh_epochs(&callback(&host), host.now());
    assert_ne!(two.stamp(&token(), None), before);
}
