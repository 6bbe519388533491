//! What several workers do at once: late answers, late words, and second calls.

use std::cell::RefCell;

use super::*;
use crate::host::memory::MemoryStore;

/// Workers that can tell each other something.
fn seated<const N: usize>(host: &Rc<FakeHost>) -> [Worker; N] {
    let mut workers = [(); N].map(|()| Worker::new(host));
    host.advance(Duration::from_secs(100));
    for worker in &mut workers {
        worker.pass(0);
    }
    workers
}

/// Reads what the worker of this seat was told.
fn read_hints(worker: &mut Worker, seat: u32) {
    worker.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(seat)));
}

/// A worker asks about another token, and stores the answer. For a quarter of a second it then knows the sizes of the tables
/// without a look. Its call is the second of two that are under way.
fn learn_sizes(worker: &mut Worker, upstream: &Rc<Upstream>) {
    worker.ask(upstream, TOKENS[1], &ALICE);
    worker.host.calls.borrow_mut().rotate_left(1);
    worker.answer(200, ACTIVE);
}

/// Lets something happen before the `nth` thing that is written to the store.
fn before_write(store: &MemoryStore, nth: usize, act: impl FnOnce() + 'static) {
    *store.interfere.borrow_mut() = Some(Box::new(move |store| {
        if nth <= 1 {
            act();
        } else {
            before_write(store, nth - 1, act);
        }
    }));
}

/// The token ends, or the homeserver refuses it.
fn end(worker: &mut Worker, upstream: &Upstream, token: &str, is_refusal: bool) {
    let digest = TokenDigest::of(token.as_bytes());
    worker.call_back(|cb, resolver| {
        let what = if is_refusal {
            Invalidation::Refusal(&digest)
        } else {
            Invalidation::Token(&digest)
        };
        resolver.invalidate(cb, &upstream.cache, what, InvalidationReason::Logout);
    });
}

/// The answer of a busy worker, whose lease has run out, comes between the question and the answer of the worker that has the
/// lease now, which does not look for it.
#[test]
fn an_older_inactive_answer_does_not_outlive_a_later_active_one() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    // Each worker has its own, as it does in truth.
    let settings = json!({"cache": {"negative_ttl": "10s"}});
    let [of_one, of_two] = [(); 2].map(|()| upstream(&settings, GATEWAY));
    // It is busy from then on: its lease runs out.
    let first = two.ask(&of_two, TOKENS[0], &BOB);
    one.tick_for(1_250);
    learn_sizes(&mut one, &of_one);
    let second = one.ask(&of_one, TOKENS[0], &ALICE);
    assert_eq!(one.calls(), 2);
    host.advance(Duration::from_millis(10));
    two.answer(200, INACTIVE);
    assert_eq!(two.end(first), Some(&End::Inactive));
    host.advance(Duration::from_millis(10));
    one.answer(200, ACTIVE);
    assert_eq!(
        one.end(second),
        Some(&End::Active(Provenance::Introspected))
    );
    // The homeserver, which has kept an older answer, refuses the token: no word of MAS.
    let digest = TokenDigest::of(TOKENS[0].as_bytes());
    one.call_back(|cb, resolver| {
        let what = Invalidation::Refusal(&digest);
        resolver.invalidate(cb, &of_one.cache, what, InvalidationReason::Homeserver)
    });
    let later = one.ask(&of_one, TOKENS[0], &ALICE);
    assert_eq!(one.end(later), None, "MAS is asked");
}

/// The same, where a third worker comes upon the older answer meanwhile.
#[test]
fn no_401_from_a_kept_token_after_mas_said_active() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two, mut three] = seated(&host);
    let settings = json!({"cache": {"negative_ttl": "10s"}});
    let [of_one, of_two, of_three] = [(); 3].map(|()| upstream(&settings, GATEWAY));
    two.ask(&of_two, TOKENS[0], &BOB);
    for _ in 0..5 {
        one.pass(250);
        three.pass(0);
    }
    learn_sizes(&mut one, &of_one);
    let second = one.ask(&of_one, TOKENS[0], &ALICE);
    assert_eq!(one.calls(), 2);
    host.advance(Duration::from_millis(10));
    two.answer(200, INACTIVE);
    let waits = three.ask(&of_three, TOKENS[0], &BOB);
    assert_eq!(three.end(waits), None, "for the word of the one that asks");
    host.advance(Duration::from_millis(10));
    one.answer(200, ACTIVE);
    assert_eq!(
        one.end(second),
        Some(&End::Active(Provenance::Introspected))
    );
    for _ in 0..8 {
        one.pass(250);
        three.pass(0);
    }
    let later = three.ask(&of_three, TOKENS[0], &BOB);
    assert_eq!(three.end(later), Some(&End::Active(Provenance::Shared)));
}

/// A worker's first answer is void, and the worker was busy for so long that another one asks by now.
#[test]
fn a_second_call_needs_the_lease() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    two.ask(&gateway, TOKENS[0], &BOB);
    for _ in 0..4 {
        two.pass(251);
    }
    assert_eq!(
        host.calls.borrow().len(),
        2,
        "the lease of the busy one has run out"
    );
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    host.advance(Duration::from_millis(5));
    read_hints(&mut one, 1);
    one.answer(200, INACTIVE);
    assert_eq!(
        host.calls.borrow().len(),
        1,
        "one call is under way, and its lease is held"
    );
}

/// A tick just before the second call, and the next one late.
#[test]
fn a_second_call_has_the_lease_for_as_long_as_a_first_one() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    let waits = two.ask(&gateway, TOKENS[0], &BOB);
    one.pass(249);
    host.advance(Duration::from_millis(470));
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    read_hints(&mut one, 1);
    one.answer(200, INACTIVE);
    assert_eq!(one.calls(), 1);
    one.pass(5);
    two.pass(0);
    // 290 ms after the last tick.
    two.pass(290);
    assert_eq!((two.end(waits), host.calls.borrow().len()), (None, 1));
}

/// A third worker reads only after its own request has come that another one got no verdict before.
#[test]
fn a_late_hint_ends_no_later_question() {
    for (is_outdated, stale) in [(false, "0s"), (true, "0s"), (true, "10m")] {
        let host = Rc::<FakeHost>::default();
        let [mut one, mut two, mut three] = seated(&host);
        let gateway = upstream(
            &json!({"cache": {"stale_if_error": stale, "refresh_ahead": false}}),
            GATEWAY,
        );
        one.ask(&gateway, TOKENS[0], &ALICE);
        two.ask(&gateway, TOKENS[0], &BOB);
        for call in 1..=2 {
            for _ in 0..5 {
                one.pass(250);
                two.pass(0);
            }
            assert_eq!(one.calls(), 1, "{call}");
            if is_outdated {
                tell(&mut two, &gateway, "bob", &Revocation::Inactive);
                read_hints(&mut one, 1);
                one.answer(200, INACTIVE);
            } else {
                one.answer(500, "");
                break;
            }
        }
        assert_eq!(host.calls.borrow().len(), 0);
        // One more comes to the second worker, and later one to the third, which has not read what it was told.
        read_hints(&mut two, 2);
        host.advance(Duration::from_millis(1));
        two.ask(&gateway, TOKENS[0], &BOB);
        let later = three.ask(&gateway, TOKENS[0], &BOB);
        assert_eq!((three.end(later), host.calls.borrow().len()), (None, 1));
        read_hints(&mut three, 3);
        assert_eq!(
            three.end(later),
            None,
            "its own question is still under way"
        );
    }
}

/// The later client may have come because its user was told that he is unlocked.
#[test]
fn a_void_answer_serves_nobody_of_its_own_worker_who_came_later() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(300));
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    one.answer(200, INACTIVE);
    host.advance(Duration::from_millis(100));
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    host.advance(Duration::from_millis(100));
    // He comes after he was told that he is unlocked.
    let later = one.ask(&gateway, TOKENS[0], &BOB);
    host.advance(Duration::from_millis(100));
    read_hints(&mut one, 1);
    one.answer(200, INACTIVE);
    assert_eq!((one.end(later), one.calls()), (None, 1));
}

/// Another worker's request comes before each thing that is written.
#[test]
fn a_slow_answer_from_before_an_end_serves_nobody() {
    let host = Rc::<FakeHost>::default();
    let (mut one, two) = (Worker::new(&host), Worker::new(&host));
    let [of_one, of_two] = [(); 2].map(|()| upstream(&json!({}), GATEWAY));
    let two = Rc::new(RefCell::new(two));
    host.advance(Duration::from_secs(100));
    one.pass(0);
    two.borrow_mut().pass(0);
    one.ask(&of_one, TOKENS[0], &ALICE);
    let digest = TokenDigest::of(TOKENS[0].as_bytes());
    one.call_back(|cb, resolver| {
        let what = Invalidation::Token(&digest);
        resolver.invalidate(cb, &of_one.cache, what, InvalidationReason::Logout)
    });
    for _ in 0..16 {
        one.pass(250);
        two.borrow_mut().pass(0);
    }
    // Another worker's request comes before each of the writes that follow.
    let served = Rc::new(RefCell::new(Vec::new()));
    fn ask_before_next_write(
        store: &MemoryStore,
        two: Rc<RefCell<Worker>>,
        of_two: Rc<Upstream>,
        served: Rc<RefCell<Vec<Option<End>>>>,
    ) {
        *store.interfere.borrow_mut() = Some(Box::new(move |store| {
            {
                let mut two = two.borrow_mut();
                let request = two.ask(&of_two, TOKENS[0], &BOB);
                served.borrow_mut().push(two.ended.remove(&request));
            }
            ask_before_next_write(store, two, of_two, served);
        }));
    }
    ask_before_next_write(&host.store, Rc::clone(&two), of_two, Rc::clone(&served));
    one.answer(200, ACTIVE);
    host.store.interfere.take();
    assert!(
        served.borrow().iter().all(Option::is_none),
        "four seconds after the end"
    );
}

/// No request of the worker that asks waits: the worker renews an answer, or its client has hung up.
#[test]
fn a_void_answer_is_asked_for_again_once_by_all_workers() {
    for is_renewal in [false, true] {
        let host = Rc::<FakeHost>::default();
        let [mut one, mut two] = seated(&host);
        let gateway = upstream(&json!({}), GATEWAY);
        if is_renewal {
            one.ask(&gateway, TOKENS[0], &ALICE);
            one.answer(200, ACTIVE);
            for _ in 0..38 {
                one.pass(250);
                two.pass(0);
            }
            // Due, and asked about in the background.
            one.ask(&gateway, TOKENS[0], &ALICE);
            for _ in 0..2 {
                one.pass(250);
                two.pass(0);
            }
        } else {
            let gone = one.ask(&gateway, TOKENS[0], &ALICE);
            one.resolver.cancel(StreamId(gone));
        }
        assert_eq!(one.calls(), 1);
        let waits = two.ask(&gateway, TOKENS[0], &BOB);
        let mut calls = 0;
        while two.end(waits).is_none() {
            calls += 1;
            for _ in 0..2 {
                one.pass(200);
                two.pass(0);
            }
            read_hints(&mut one, 1);
            let is_first = one.resolver.flights.load().total(GATEWAY.pool) > 0;
            let calling = if is_first { &mut one } else { &mut two };
            tell(calling, &gateway, "alice", &Revocation::All);
            host.advance(Duration::from_millis(1));
            calling.answer(200, ACTIVE);
            read_hints(&mut two, 2);
        }
        assert!(calls <= 2);
    }
}

/// Both wait for another worker's answer, and it serves neither. Only the gateway's pool has a call free.
#[test]
fn a_full_pool_of_the_homeserver_costs_no_client_its_answer() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let settings = json!({"introspection": {"max_in_flight": 1}});
    let kept = json!({"introspection": {"max_in_flight": 1}, "role": "introspection"});
    let gateway = upstream(&settings, GATEWAY);
    let homeserver = upstream(&kept, HOMESERVER);
    one.ask(&gateway, TOKENS[0], &ALICE);
    // Both wait for the other worker; the homeserver came first.
    two.ask(&homeserver, TOKENS[0], &BOB);
    let client = two.ask(&gateway, TOKENS[0], &ALICE);
    // The one call of the homeserver's pool.
    two.ask(&homeserver, TOKENS[1], &BOB);
    assert_eq!(host.calls.borrow().len(), 2);
    // The session ends meanwhile, so the answer serves nobody and the others look again.
    let digest = TokenDigest::of(TOKENS[0].as_bytes());
    one.call_back(|cb, resolver| {
        let what = Invalidation::Token(&digest);
        resolver.invalidate(cb, &gateway.cache, what, InvalidationReason::Logout);
        resolver.on_queue(cb, QueueId(1));
        // The first worker's client has left, and so it does not ask again.
        resolver.cancel(StreamId(1));
    });
    one.answer(200, ACTIVE);
    read_hints(&mut two, 2);
    assert_eq!(two.end(client), None, "the gateway's pool has a free call");
}

/// The one who looks is a reader that keeps what it is told.
#[test]
fn an_answer_that_comes_between_two_looks_is_void_for_nobody() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let [of_one, of_two] =
        [json!({}), json!({"role": "introspection"})].map(|role| upstream(&role, GATEWAY));
    // An answer whose time is over: each look at it writes that it is used.
    one.ask(&of_one, TOKENS[0], &ALICE);
    one.answer(200, ACTIVE);
    for _ in 0..44 {
        one.pass(250);
        two.pass(0);
    }
    one.ask(&of_one, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(10));
    let waits = two.ask(&of_two, TOKENS[0], &BOB);
    host.advance(Duration::from_millis(290));
    read_hints(&mut one, 1);
    tell(&mut two, &of_one, "alice", &Revocation::All);
    read_hints(&mut one, 1);
    host.advance(Duration::from_millis(1));
    one.answer(200, ACTIVE);
    assert_eq!(
        (one.calls(), two.end(waits)),
        (1, None),
        "the first answer is void"
    );
    one.pass(250);
    host.advance(Duration::from_millis(600));
    let one = Rc::new(RefCell::new(one));
    let answers = Rc::clone(&one);
    *host.store.interfere.borrow_mut() = Some(Box::new(move |_| {
        answers.borrow_mut().answer(200, ACTIVE);
    }));
    two.hint(&of_two, TOKENS[0]);
    assert_eq!(two.end(waits), Some(&End::Active(Provenance::Introspected)));
}

/// The first worker's call is slow, so the second worker has asked later and answered first.
#[test]
fn an_answer_whose_lease_may_have_run_out_is_not_the_only_one() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let [of_one, of_two] = [(); 2].map(|()| upstream(&json!({}), GATEWAY));
    let first = one.ask(&of_one, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(900));
    assert_eq!(one.calls(), 1);
    host.advance(Duration::from_millis(50));
    let joins = one.ask(&of_one, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(55));
    let other = two.ask(&of_two, TOKENS[0], &BOB);
    assert_eq!(host.calls.borrow().len(), 2, "the lease has run out");
    // The first worker knows the sizes of the tables.
    one.ask(&of_one, TOKENS[1], &ALICE);
    host.calls.borrow_mut().rotate_left(2);
    one.answer(200, ACTIVE);
    host.calls.borrow_mut().rotate_left(1);
    host.advance(Duration::from_millis(10));
    two.answer(200, INACTIVE);
    assert_eq!(two.end(other), Some(&End::Inactive));
    host.advance(Duration::from_millis(80));
    one.answer(200, ACTIVE);
    let ends = [first, joins].map(|request| one.end(request));
    assert_eq!(ends, [Some(&End::Inactive); 2]);
}

/// All places for leases are taken.
#[test]
fn an_answer_to_a_call_without_a_lease_is_not_the_only_one() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let [of_one, of_two] = [(); 2].map(|()| upstream(&json!({}), GATEWAY));
    one.ask(&of_one, TOKENS[1], &ALICE);
    one.answer(200, ACTIVE);
    one.call_back(|cb, resolver| {
        for number in 0..80_000_u32 {
            let key = of_one.question(&TokenDigest::of(&number.to_le_bytes()));
            resolver.workers.acquire(cb, &of_one, &key);
        }
    });
    let first = one.ask(&of_one, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(50));
    two.ask(&of_two, TOKENS[0], &BOB);
    assert_eq!(host.calls.borrow().len(), 2, "no lease");
    one.ask(&of_one, TOKENS[0], &ALICE);
    host.calls.borrow_mut().rotate_left(1);
    two.answer(200, INACTIVE);
    one.answer(200, ACTIVE);
    assert_eq!(one.end(first), Some(&End::Inactive));
}

#[test]
fn a_void_answer_that_is_doubted_serves_nobody() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    let waits = two.ask(&gateway, TOKENS[0], &BOB);
    for _ in 0..2 {
        host.advance(Duration::from_millis(300));
        tell(&mut two, &gateway, "alice", &Revocation::All);
        read_hints(&mut one, 1);
        one.answer(200, ACTIVE);
    }
    end(&mut one, &gateway, TOKENS[0], true);
    two.hint(&gateway, TOKENS[0]);
    assert_eq!((two.end(waits), two.calls()), (None, 1));
}

#[test]
fn who_waits_for_a_call_that_has_gone_with_its_root_is_told() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    one.resolver.on_root_end(RootId(7));
    one.resolver.flights.on_root_end(ROOT);
    host.calls.borrow_mut().clear();
    let waits = two.ask(&gateway, TOKENS[0], &BOB);
    assert_eq!(two.calls(), 0);
    read_hints(&mut one, 1);
    read_hints(&mut two, 2);
    assert_eq!((two.end(waits), two.calls()), (None, 1), "at once");
}

#[test]
fn a_void_answer_costs_no_budget() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let budget = json!({"unknown_token_budget": {"per_source": 1, "window": "1m"}});
    let gateway = upstream(&budget, GATEWAY);
    let gone = one.ask(&gateway, TOKENS[0], &ALICE);
    one.resolver.cancel(StreamId(gone));
    host.advance(Duration::from_millis(300));
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    one.answer(200, INACTIVE);
    assert_eq!(one.calls(), 0, "nobody waits for another answer");
    let other = one.ask(&gateway, TOKENS[1], &ALICE);
    assert_eq!((one.end(other), one.calls()), (None, 1));
}

/// The second answer comes a second after its question, so it serves no request.
#[test]
fn a_late_void_answer_costs_no_budget() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let budget = json!({"unknown_token_budget": {"per_source": 1, "window": "1m"}});
    let gateway = upstream(&budget, GATEWAY);
    let request = one.ask(&gateway, TOKENS[0], &ALICE);
    for _ in 0..2 {
        one.tick_for(1_000);
        tell(&mut two, &gateway, "bob", &Revocation::Inactive);
        one.answer(200, INACTIVE);
    }
    let outdated = End::None(NoVerdict::Outdated);
    assert_eq!(one.end(request), Some(&outdated));
    let other = one.ask(&gateway, TOKENS[1], &ALICE);
    assert_eq!((one.end(other), one.calls()), (None, 1));
}

/// Both others have looked into the cache before the answer came there.
#[test]
fn a_lease_that_is_released_late_leaves_word_of_the_answer() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two, mut three] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    one.answer(200, ACTIVE);
    let resolve = |worker: &mut Worker| {
        let token = AccessToken::new(TOKENS[0].as_bytes()).unwrap();
        let query = Query {
            upstream: &gateway,
            digest: TokenDigest::of(TOKENS[0].as_bytes()),
            token: &token,
            origin: &BOB,
        };
        worker.call_back(|cb, resolver| resolver.resolve(cb, &query, Some(StreamId(1)), 1))
    };
    assert!(resolve(&mut two).is_none());
    read_hints(&mut one, 1);
    let found = resolve(&mut three);
    assert!(found.is_some_and(|found| End::from(&found) == End::Active(Provenance::Shared)));
    assert_eq!(host.calls.borrow().len(), 0);
}

#[test]
fn a_lease_outlasts_a_tick_that_is_late() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    two.ask(&gateway, TOKENS[0], &BOB);
    one.pass(400);
    two.pass(610);
    assert_eq!(host.calls.borrow().len(), 1);
}

#[test]
fn an_answer_from_before_an_end_counts_as_the_first_of_two() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    let request = one.ask(&gateway, TOKENS[0], &ALICE);
    end(&mut one, &gateway, TOKENS[0], false);
    host.advance(Duration::from_millis(1));
    one.answer(200, ACTIVE);
    assert_eq!((one.end(request), one.calls()), (None, 1));
    host.advance(Duration::from_millis(300));
    tell(&mut two, &gateway, "alice", &Revocation::All);
    read_hints(&mut one, 1);
    one.answer(200, ACTIVE);
    assert!(one.end(request).is_some());
    assert_eq!(one.calls(), 0);
}

#[test]
fn an_answer_that_another_worker_wants_is_told_at_once() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    let waits = two.ask(&gateway, TOKENS[0], &BOB);
    read_hints(&mut one, 1);
    one.answer(200, ACTIVE);
    read_hints(&mut two, 2);
    assert_eq!(two.end(waits), Some(&End::Active(Provenance::Introspected)));
}

#[test]
fn no_answer_that_pushed_out_a_live_one_is_kept_by_the_worker() {
    const MANY: [&str; 9] = ["0", "1", "2", "3", "4", "5", "6", "7", "8"];
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"cache": {"slots": 8}}), GATEWAY);
    let kept = MANY.map(|token| {
        let request = worker.ask(&upstream, token, &ALICE);
        worker.answer(200, ACTIVE);
        worker.cached.contains(&request)
    });
    let pushes_out = kept.iter().position(|is_kept| !is_kept);
    assert_eq!(pushes_out, Some(8), "{kept:?}");
}

#[test]
fn a_void_answer_that_nobody_waits_for_is_not_asked_for_again() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    let gone = one.ask(&gateway, TOKENS[0], &ALICE);
    one.resolver.cancel(StreamId(gone));
    host.advance(Duration::from_millis(300));
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    one.answer(200, INACTIVE);
    assert_eq!(one.calls(), 0);
}

/// One that is not void serves who waited for half a second after it came.
#[test]
fn a_void_answer_serves_no_longer_than_it_would_otherwise() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({"cache": {"negative_ttl": "400ms"}}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    let waits = two.ask(&gateway, TOKENS[0], &BOB);
    for _ in 0..2 {
        host.advance(Duration::from_millis(300));
        tell(&mut two, &gateway, "bob", &Revocation::Inactive);
        read_hints(&mut one, 1);
        one.answer(200, INACTIVE);
    }
    host.advance(Duration::from_millis(500));
    two.hint(&gateway, TOKENS[0]);
    assert_eq!((two.end(waits), two.calls()), (None, 1));
}

/// MAS has never called the token inactive.
#[test]
fn a_token_that_ends_in_line_costs_no_budget() {
    let mut worker = Worker::new(&Rc::default());
    let limits = json!({
        "introspection": {"max_in_flight": 1},
        "unknown_token_budget": {"per_source": 1, "window": "1m"},
    });
    let upstream = upstream(&limits, GATEWAY);
    worker.ask(&upstream, TOKENS[0], &ALICE);
    worker.answer(200, r#"{"active":true,"username":"alice","expires_in":2}"#);
    // It may have ended, or not yet.
    worker.tick_for(2_000);
    worker.pass(50);
    worker.ask(&upstream, TOKENS[1], &BOB);
    let ends = worker.ask(&upstream, TOKENS[0], &ALICE);
    assert_eq!((worker.end(ends), worker.calls()), (None, 1), "in line");
    worker.pass(250);
    worker.pass(250);
    worker.host.advance(Duration::from_millis(600));
    worker.answer(200, ACTIVE);
    let other = worker.ask(&upstream, TOKENS[2], &ALICE);
    assert_eq!(worker.end(other), None, "asked about");
}

/// Its request joins one that has waited for longer, on a worker that has not read the word of the failure.
#[test]
fn who_comes_after_a_failure_is_not_ended_by_it() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    let before = two.ask(&gateway, TOKENS[0], &BOB);
    for _ in 0..5 {
        one.pass(250);
        two.pass(0);
    }
    one.answer(500, "");
    host.advance(Duration::from_millis(1));
    let after = two.ask(&gateway, TOKENS[0], &BOB);
    read_hints(&mut two, 2);
    let failed = End::None(NoVerdict::Elsewhere);
    assert_eq!(two.end(before), Some(&failed));
    assert_eq!((two.end(after), two.calls()), (None, 1));
}

#[test]
fn a_failed_call_takes_away_no_right_inactive() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two, mut three] = seated(&host);
    let settings = json!({"cache": {"negative_ttl": "10s"}});
    let [of_one, of_two, of_three] = [(); 3].map(|()| upstream(&settings, GATEWAY));
    let first = one.ask(&of_one, TOKENS[0], &ALICE);
    for _ in 0..5 {
        two.pass(250);
        three.pass(0);
    }
    two.ask(&of_two, TOKENS[0], &BOB);
    assert_eq!(host.calls.borrow().len(), 2);
    host.calls.borrow_mut().rotate_left(1);
    two.answer(500, "");
    host.advance(Duration::from_millis(10));
    one.answer(200, INACTIVE);
    assert_eq!(one.end(first), Some(&End::Inactive));
    let later = three.ask(&of_three, TOKENS[0], &BOB);
    assert_eq!(three.end(later), Some(&End::Inactive));
}

/// The first worker reads its answer late, while the second one stores the later answer.
#[test]
fn an_inactive_that_is_withdrawn_serves_nobody_once_active_is_there() {
    for nth in 1..=6_usize {
        let host = Rc::<FakeHost>::default();
        let [mut one, mut two] = seated(&host);
        let settings = json!({"cache": {"negative_ttl": "10s"}});
        let [of_one, of_two] = [(); 2].map(|()| upstream(&settings, GATEWAY));
        let first = one.ask(&of_one, TOKENS[0], &ALICE);
        two.tick_for(1_250);
        learn_sizes(&mut two, &of_two);
        let second = two.ask(&of_two, TOKENS[0], &BOB);
        assert_eq!(host.calls.borrow().len(), 2);
        host.advance(Duration::from_millis(10));
        let two = Rc::new(RefCell::new(two));
        let answers = Rc::clone(&two);
        before_write(&host.store, nth, move || {
            answers.borrow_mut().answer(200, ACTIVE);
        });
        one.answer(200, INACTIVE);
        host.store.interfere.take();
        if two.borrow().end(second).is_none() {
            break;
        }
        assert_ne!(one.end(first), Some(&End::Inactive), "at write {nth}");
    }
}

/// Both workers were busy, and both leases have run out.
#[test]
fn a_lease_that_was_only_made_sure_of_takes_away_no_right_answer() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two, mut three] = seated(&host);
    let settings = json!({"cache": {"negative_ttl": "10s"}});
    let [of_one, of_two, of_three] = [(); 3].map(|()| upstream(&settings, GATEWAY));
    one.ask(&of_one, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(1_250));
    two.ask(&of_two, TOKENS[0], &BOB);
    assert_eq!(host.calls.borrow().len(), 2);
    host.advance(Duration::from_millis(1_250));
    one.answer(200, INACTIVE);
    host.advance(Duration::from_millis(10));
    two.answer(200, INACTIVE);
    host.advance(Duration::from_millis(10));
    let later = three.ask(&of_three, TOKENS[0], &BOB);
    assert_eq!(
        (three.end(later), host.calls.borrow().len()),
        (Some(&End::Inactive), 0)
    );
}

/// The bucket of leases was full, and no worker can be told that another waits.
#[test]
fn nobody_waits_for_a_lease_that_was_only_made_sure_of() {
    let host = Rc::<FakeHost>::default();
    host.has_no_queues.set(true);
    let [mut one, mut two, mut three] = [(); 3].map(|()| Worker::new(&host));
    host.advance(Duration::from_secs(100));
    for worker in [&mut one, &mut two, &mut three] {
        worker.pass(0);
    }
    let gateway = upstream(&json!({"cache": {"negative_ttl": "10s"}}), GATEWAY);
    one.call_back(|cb, resolver| {
        for number in 0..80_000_u32 {
            let key = gateway.question(&TokenDigest::of(&number.to_le_bytes()));
            resolver.workers.acquire(cb, &gateway, &key);
        }
    });
    let first = one.ask(&gateway, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(300));
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    one.answer(200, INACTIVE);
    assert_eq!((one.end(first), one.calls()), (None, 1));
    host.advance(Duration::from_millis(710));
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    one.answer(200, INACTIVE);
    assert_eq!((one.end(first), one.calls()), (Some(&End::Inactive), 0));
    host.advance(Duration::from_millis(1));
    let later = three.ask(&gateway, TOKENS[0], &BOB);
    assert_eq!((three.end(later), host.calls.borrow().len()), (None, 1));
}

/// Everything happens in one moment.
#[test]
fn a_late_hint_ends_no_question_of_the_same_moment() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two, mut three] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    two.ask(&gateway, TOKENS[0], &BOB);
    for _ in 0..5 {
        one.pass(250);
        two.pass(0);
    }
    one.answer(500, "");
    read_hints(&mut two, 2);
    two.ask(&gateway, TOKENS[0], &BOB);
    let later = three.ask(&gateway, TOKENS[0], &BOB);
    assert_eq!((three.end(later), host.calls.borrow().len()), (None, 1));
    read_hints(&mut three, 3);
    assert_eq!(three.end(later), None);
}

/// More than half of the bucket is held by the time of a slow answer.
#[test]
fn a_lease_that_was_made_sure_of_among_many_is_released() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({"cache": {"negative_ttl": "10s"}}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(290));
    one.call_back(|cb, resolver| {
        for number in 0..80_000_u32 {
            let key = gateway.question(&TokenDigest::of(&number.to_le_bytes()));
            resolver.workers.acquire(cb, &gateway, &key);
        }
    });
    host.advance(Duration::from_millis(10));
    one.answer(200, INACTIVE);
    let key = gateway.question(&TokenDigest::of(TOKENS[0].as_bytes()));
    two.call_back(|cb, resolver| {
        let lease = resolver.workers.acquire(cb, &gateway, &key);
        assert!(!matches!(lease, Acquisition::Peer { .. }), "it is held");
    });
}

/// MAS tells and answers in one moment, again and again.
#[test]
fn a_word_in_the_moment_of_the_call_makes_no_loop() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let kept = upstream(&json!({"role": "introspection"}), HOMESERVER);
    let request = one.ask(&kept, TOKENS[0], &ALICE);
    tell(&mut two, &kept, "bob", &Revocation::Inactive);
    let mut calls = 0;
    while one.calls() > 0 && calls < 20 {
        calls += 1;
        one.answer(200, INACTIVE);
    }
    assert!(calls <= 2, "{calls} {:?}", one.end(request));
}

/// The one who waited on another worker has its answer, and the one who came later has left.
#[test]
fn nobody_waits_for_a_third_call() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    let wants = two.ask(&gateway, TOKENS[0], &BOB);
    read_hints(&mut one, 1);
    let mut later = 0;
    for _ in 0..2 {
        host.advance(Duration::from_millis(300));
        tell(&mut two, &gateway, "bob", &Revocation::Inactive);
        host.advance(Duration::from_millis(1));
        later = one.ask(&gateway, TOKENS[0], &ALICE);
        host.advance(Duration::from_millis(1));
        read_hints(&mut one, 1);
        one.answer(200, INACTIVE);
    }
    read_hints(&mut two, 2);
    assert_eq!(two.end(wants), Some(&End::Inactive));
    assert_eq!((one.end(later), one.calls()), (None, 1));
    one.resolver.cancel(StreamId(later));
    host.advance(Duration::from_millis(300));
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    one.answer(200, INACTIVE);
    assert_eq!(one.calls(), 0, "nobody waits");
}

/// A busy worker comes to a tick when another has its lease.
#[test]
fn who_has_lost_a_lease_renews_nothing_of_another() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two, mut three] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    for _ in 0..5 {
        two.pass(250);
        three.pass(0);
    }
    two.ask(&gateway, TOKENS[0], &BOB);
    assert_eq!(host.calls.borrow().len(), 2);
    one.pass(0);
    let waits = three.ask(&gateway, TOKENS[0], &BOB);
    read_hints(&mut two, 2);
    host.calls.borrow_mut().rotate_left(1);
    host.advance(Duration::from_millis(10));
    two.answer(200, ACTIVE);
    read_hints(&mut three, 3);
    assert_eq!(
        three.end(waits),
        Some(&End::Active(Provenance::Introspected))
    );
}

/// A third worker looks for the token, and keeps it, before each thing that is written.
#[test]
fn no_worker_keeps_what_is_withdrawn() {
    for nth in 1..=6_usize {
        let host = Rc::<FakeHost>::default();
        let [mut one, mut two, three] = seated(&host);
        let settings = json!({"cache": {"negative_ttl": "10s"}});
        let [of_one, of_two, of_three] = [(); 3].map(|()| upstream(&settings, GATEWAY));
        one.ask(&of_one, TOKENS[0], &ALICE);
        let three = Rc::new(RefCell::new(three));
        for _ in 0..5 {
            two.pass(250);
            three.borrow_mut().pass(0);
        }
        learn_sizes(&mut two, &of_two);
        let second = two.ask(&of_two, TOKENS[0], &BOB);
        assert_eq!(host.calls.borrow().len(), 2);
        host.advance(Duration::from_millis(10));
        let (looks, of_three_then) = (Rc::clone(&three), Rc::clone(&of_three));
        before_write(&host.store, nth, move || {
            for _ in 0..3 {
                looks.borrow_mut().ask(&of_three_then, TOKENS[0], &BOB);
            }
        });
        one.answer(200, INACTIVE);
        host.store.interfere.take();
        two.answer(200, ACTIVE);
        assert!(two.end(second).is_some());
        host.advance(Duration::from_millis(1));
        let mut three = three.borrow_mut();
        let later = three.ask(&of_three, TOKENS[0], &BOB);
        assert_ne!(three.end(later), Some(&End::Inactive), "{nth}");
    }
}

/// Between the failure and its word, which comes late, a tick finds that a third worker asks by now.
#[test]
fn a_late_word_of_a_failure_ends_no_wait_for_a_later_call() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two, mut three] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    let waits = two.ask(&gateway, TOKENS[0], &BOB);
    for _ in 0..5 {
        one.pass(250);
        two.pass(0);
    }
    one.answer(500, "");
    host.advance(Duration::from_millis(1));
    three.ask(&gateway, TOKENS[0], &ALICE);
    assert_eq!(host.calls.borrow().len(), 1);
    for _ in 0..5 {
        three.pass(250);
        two.pass(0);
    }
    read_hints(&mut two, 2);
    assert_eq!((two.end(waits), host.calls.borrow().len()), (None, 1));
    three.answer(200, ACTIVE);
    two.tick_for(1_250);
    assert_eq!(two.end(waits), Some(&End::Active(Provenance::Introspected)));
}

/// A client's request and the homeserver's wait for another worker, whose lease runs out, and the clients' calls are used up.
#[test]
fn the_homeserver_does_not_wait_in_the_line_of_clients() {
    for is_full in [false, true] {
        let host = Rc::<FakeHost>::default();
        let [mut one, mut two] = seated(&host);
        let one_call = json!({"introspection": {"max_in_flight": 1}});
        let gateway = upstream(&one_call, GATEWAY);
        let homeserver = upstream(&one_call, HOMESERVER);
        one.ask(&gateway, TOKENS[0], &ALICE);
        let of_client = two.ask(&gateway, TOKENS[0], &BOB);
        let of_homeserver = two.ask(&homeserver, TOKENS[0], &BOB);
        host.calls.borrow_mut().clear();
        two.ask(&gateway, TOKENS[1], &BOB);
        if is_full {
            two.ask(&homeserver, TOKENS[2], &BOB);
        }
        two.tick_for(1_500);
        if is_full {
            let overloaded = End::None(NoVerdict::Overloaded);
            assert_eq!(two.end(of_homeserver), Some(&overloaded), "at once");
            assert_eq!((two.end(of_client), two.calls()), (None, 2), "in line");
        } else {
            assert_eq!(two.calls(), 2, "by the homeserver's call");
            host.calls.borrow_mut().rotate_left(1);
            two.answer(200, ACTIVE);
            for request in [of_client, of_homeserver] {
                let expected = End::Active(Provenance::Introspected);
                assert_eq!(two.end(request), Some(&expected));
            }
        }
    }
}

/// A known token comes before all others. The worker that waited for another one learns only then that it is known.
#[test]
fn a_known_token_keeps_its_rank_while_it_waits_for_another_worker() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let settings =
        json!({"introspection": {"max_in_flight": 1}, "cache": {"refresh_ahead": false}});
    let gateway = upstream(&settings, GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    one.answer(200, ACTIVE);
    for _ in 0..40 {
        one.pass(250);
        two.pass(0);
    }
    one.ask(&gateway, TOKENS[0], &ALICE);
    two.ask(&gateway, TOKENS[0], &ALICE);
    assert_eq!(host.calls.borrow().len(), 1);
    for token in [TOKENS[1], TOKENS[2]] {
        two.ask(&gateway, token, &BOB);
    }
    assert_eq!(host.calls.borrow().len(), 2, "and one in line");
    // The first worker is busy.
    two.tick_for(1_250);
    assert_eq!(host.calls.borrow().len(), 3);
}

/// The homeserver keeps what it is given, and a doubted answer serves only where MAS gives none.
#[test]
fn no_flood_has_a_doubted_answer_given_to_the_homeserver() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let settings = json!({
        "role": "introspection",
        "introspection": {"max_in_flight": 1},
        "cache": {"stale_if_error": "0s"},
    });
    let kept = upstream(&settings, HOMESERVER);
    one.ask(&kept, TOKENS[0], &ALICE);
    one.answer(200, ACTIVE);
    end(&mut one, &kept, TOKENS[0], true);
    host.advance(Duration::from_millis(1));
    one.ask(&kept, TOKENS[0], &ALICE);
    let waits = two.ask(&kept, TOKENS[0], &ALICE);
    two.ask(&kept, TOKENS[1], &BOB);
    assert_eq!(host.calls.borrow().len(), 2);
    two.tick_for(1_250);
    assert_eq!((two.end(waits), host.calls.borrow().len()), (None, 3));
}

#[test]
fn a_known_token_keeps_its_rank_when_its_root_ends() {
    let host = Rc::<FakeHost>::default();
    let [mut one] = seated(&host);
    let settings = json!({
        "introspection": {"max_in_flight": 1},
        "cache": {"refresh_ahead": false, "stale_if_error": "10m"},
    });
    let gateway = upstream(&settings, GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    one.answer(200, ACTIVE);
    one.tick_for(10_000);
    let waits = one.ask(&gateway, TOKENS[0], &ALICE);
    one.resolver.on_root_end(ROOT);
    host.calls.borrow_mut().clear();
    one.ask(&gateway, TOKENS[1], &BOB);
    one.tick_for(1_250);
    assert_eq!((one.end(waits), host.calls.borrow().len()), (None, 2));
}

/// Returns as many tokens as one pool may ask about at once.
fn pool_of_tokens(name: &str) -> Vec<&'static str> {
    (0..64)
        .map(|number| &*format!("{name}-{number}").leak())
        .collect()
}

/// A request that waits for another worker's call has none of its own. Its client counts once this worker calls MAS after all.
#[test]
fn who_waits_for_another_worker_takes_no_more_than_its_share_of_the_calls() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({"introspection": {"max_in_flight": 64}}), GATEWAY);
    for token in pool_of_tokens("first").iter().take(48) {
        one.ask(&gateway, token, &ALICE);
        two.ask(&gateway, token, &ALICE);
    }
    assert_eq!(host.calls.borrow().len(), 48, "a client's share");
    two.tick_for(1_250);
    for token in pool_of_tokens("second") {
        two.ask(&gateway, token, &ALICE);
    }
    let before = host.calls.borrow().len();
    two.ask(&gateway, "token of bob", &BOB);
    assert_eq!(host.calls.borrow().len(), before + 1);
}

/// The same, where the other worker's answer serves one configuration and not the other.
#[test]
fn who_is_served_no_answer_of_another_worker_takes_no_more_than_its_share() {
    for has_other in [false, true] {
        let host = Rc::<FakeHost>::default();
        let [mut one, mut two] = seated(&host);
        let gateway = |negative_ttl: &str| {
            let settings = json!({
                "introspection": {"max_in_flight": 64},
                "cache": {"negative_ttl": negative_ttl},
            });
            upstream(&settings, GATEWAY)
        };
        let (long, none) = (gateway("10s"), gateway("0s"));
        for token in pool_of_tokens("first").iter().take(48) {
            if has_other {
                one.ask(&long, token, &ALICE);
                two.ask(&long, token, &ALICE);
            } else {
                one.ask(&none, token, &ALICE);
            }
            two.ask(&none, token, &ALICE);
        }
        assert_eq!(host.calls.borrow().len(), 48, "a client's share");
        read_hints(&mut one, 1);
        for _ in 0..48 {
            one.answer(200, INACTIVE);
        }
        read_hints(&mut two, 2);
        for token in pool_of_tokens("second") {
            two.ask(&none, token, &ALICE);
        }
        let before = two.calls();
        two.ask(&none, "token of bob", &BOB);
        assert_eq!(two.calls(), before + 1, "{has_other}");
    }
}

#[test]
fn a_late_void_answer_ends_nobody_who_came_after_its_question() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    let first = one.ask(&gateway, TOKENS[0], &ALICE);
    one.pass(250);
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    one.answer(200, INACTIVE);
    for _ in 0..4 {
        one.pass(250);
        two.pass(0);
    }
    let later = one.ask(&gateway, TOKENS[0], &BOB);
    let elsewhere = two.ask(&gateway, TOKENS[0], &BOB);
    host.advance(Duration::from_millis(1));
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    read_hints(&mut one, 1);
    host.advance(Duration::from_millis(1));
    one.answer(200, INACTIVE);
    read_hints(&mut two, 2);
    let outdated = End::None(NoVerdict::Outdated);
    assert_eq!(one.end(first), Some(&outdated));
    assert_eq!((one.end(later), two.end(elsewhere)), (None, None));
    assert_eq!(host.calls.borrow().len(), 1);
    one.answer(200, INACTIVE);
    assert_eq!(one.end(later), Some(&End::Inactive));
}

/// The later answer holds for no time at all.
#[test]
fn an_older_active_answer_does_not_outlive_a_later_inactive_one_that_does_not_hold() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two, mut three] = seated(&host);
    let settings = json!({"cache": {"negative_ttl": "0s"}});
    let [of_one, of_two, of_three] = [(); 3].map(|()| upstream(&settings, GATEWAY));
    two.ask(&of_two, TOKENS[0], &BOB);
    for _ in 0..5 {
        one.pass(250);
        three.pass(0);
    }
    let second = one.ask(&of_one, TOKENS[0], &ALICE);
    assert_eq!(one.calls(), 2);
    host.advance(Duration::from_millis(10));
    host.calls.borrow_mut().rotate_left(1);
    one.answer(200, INACTIVE);
    assert_eq!(one.end(second), Some(&End::Inactive));
    host.advance(Duration::from_millis(10));
    two.answer(200, ACTIVE);
    host.advance(Duration::from_millis(10));
    let later = three.ask(&of_three, TOKENS[0], &ALICE);
    assert_eq!(three.end(later), None, "MAS is asked");
}

/// Two workers ask at once, since one was busy, and neither answer holds.
#[test]
fn an_inactive_answer_that_does_not_hold_voids_no_other() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let settings = json!({"cache": {"negative_ttl": "0s"}});
    let [of_one, of_two] = [(); 2].map(|()| upstream(&settings, GATEWAY));
    let first = two.ask(&of_two, TOKENS[0], &BOB);
    for _ in 0..5 {
        one.pass(250);
    }
    let second = one.ask(&of_one, TOKENS[0], &ALICE);
    assert_eq!(one.calls(), 2);
    host.advance(Duration::from_millis(10));
    host.calls.borrow_mut().rotate_left(1);
    one.answer(200, INACTIVE);
    host.advance(Duration::from_millis(10));
    two.answer(200, INACTIVE);
    assert_eq!(one.end(second), Some(&End::Inactive));
    assert_eq!(
        (two.end(first), two.calls()),
        (Some(&End::Inactive), 0),
        "MAS is not asked again"
    );
}

/// Two workers, of which the first asks about a token and the second waits for the answer: its request's number.
fn one_waits_for_the_other(host: &Rc<FakeHost>) -> ([Worker; 2], u32) {
    let [mut one, mut two] = seated(host);
    let upstream = upstream(&json!({"cache": {"negative_ttl": "0s"}}), GATEWAY);
    one.ask(&upstream, TOKENS[0], &ALICE);
    let waiting = two.ask(&upstream, TOKENS[0], &BOB);
    assert_eq!((one.calls(), two.end(waiting)), (1, None));
    host.advance(Duration::from_millis(100));
    ([one, two], waiting)
}

/// There are more workers than seats, or Envoy gives no queue. When the lease ends, the answer is too old to serve the request.
#[test]
fn a_worker_that_no_hint_reaches_looks_at_each_tick() {
    let host = Rc::<FakeHost>::default();
    host.has_no_queues.set(true);
    let ([mut one, mut two], waiting) = one_waits_for_the_other(&host);
    two.pass(250);
    assert_eq!((two.calls(), two.end(waiting)), (1, None));
    one.answer(200, INACTIVE);
    two.pass(250);
    assert_eq!(two.end(waiting), Some(&End::Inactive));
    assert_eq!(two.calls(), 0, "MAS is asked once");
}

/// An update ends the root whose queue reaches the worker. Another root is there, so at its next tick it has a seat again.
#[test]
fn a_worker_whose_seat_goes_with_a_root_misses_no_answer() {
    for takes_seat_before_tick in [false, true] {
        let host = Rc::<FakeHost>::default();
        let ([mut one, mut two], waiting) = one_waits_for_the_other(&host);
        two.resolver.workers.on_root_end(ROOT);
        // The hint is sent to the queue that has gone.
        one.answer(200, INACTIVE);
        if takes_seat_before_tick {
            two.call_back(|cb, resolver| resolver.start(cb));
        }
        two.pass(250);
        assert_eq!(two.end(waiting), Some(&End::Inactive));
        assert_eq!(two.calls(), 0, "MAS is asked once");
    }
}

/// The other way round: who waits cannot tell the worker that asks, so that one hints everybody.
#[test]
fn a_worker_whose_seat_goes_while_it_asks_hints_those_who_wait() {
    for takes_seat_again in [false, true] {
        let host = Rc::<FakeHost>::default();
        let ([mut one, mut two], waiting) = one_waits_for_the_other(&host);
        one.resolver.workers.on_root_end(ROOT);
        if takes_seat_again {
            one.call_back(|cb, resolver| resolver.start(cb));
        }
        one.answer(200, INACTIVE);
        read_hints(&mut two, 2);
        assert_eq!(two.end(waiting), Some(&End::Inactive));
    }
}

/// Hints of the time before it had a seat are lost.
#[test]
fn a_worker_that_takes_its_first_seat_misses_no_answer() {
    let host = Rc::<FakeHost>::default();
    host.has_no_queues.set(true);
    let ([mut one, mut two], waiting) = one_waits_for_the_other(&host);
    two.pass(250);
    assert_eq!((two.calls(), two.end(waiting)), (1, None));
    one.answer(200, INACTIVE);
    host.has_no_queues.set(false);
    two.tick_for(1_000);
    assert_eq!(two.calls(), 0, "MAS is asked once");
    assert_eq!(two.end(waiting), Some(&End::Inactive));
}

/// The waiting worker's message went to the queue of the seat that was lost, and Envoy calls no worker for that queue.
#[test]
fn a_worker_whose_seat_goes_and_comes_while_it_asks_hints_those_who_wait() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let upstream = upstream(&json!({"cache": {"negative_ttl": "0s"}}), GATEWAY);
    one.ask(&upstream, TOKENS[0], &ALICE);
    one.resolver.workers.on_root_end(ROOT);
    let waiting = two.ask(&upstream, TOKENS[0], &BOB);
    host.advance(Duration::from_millis(100));
    one.pass(0);
    one.answer(200, INACTIVE);
    read_hints(&mut two, 2);
    assert_eq!(two.end(waiting), Some(&End::Inactive));
    assert_eq!(two.calls(), 0, "MAS is asked once");
}

/// Looking into the cache needs no call. So no waiting request is refused, or put in line, because all calls are in use.
#[test]
fn a_look_without_a_free_call_ends_no_wait() {
    // At the end of the lease the homeserver's question would go on to MAS, and a client's into the line.
    for (admission, ticks) in [(HOMESERVER, 1), (GATEWAY, 3)] {
        let host = Rc::<FakeHost>::default();
        host.has_no_queues.set(true);
        let [mut one, mut two] = seated(&host);
        let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), admission);
        one.ask(&upstream, TOKENS[0], &ALICE);
        let waiting = two.ask(&upstream, TOKENS[0], &BOB);
        // Its only call.
        two.ask(&upstream, TOKENS[1], &BOB);
        assert_eq!(two.calls(), 2);
        for _ in 0..ticks {
            two.pass(250);
            one.pass(0);
            assert_eq!(two.end(waiting), None, "{admission:?}");
        }
        host.advance(Duration::from_millis(100));
        one.answer(200, ACTIVE);
        two.pass(250);
        let end = two.end(waiting);
        assert!(
            matches!(end, Some(End::Active(_))),
            "{admission:?}: {end:?}"
        );
    }
}

/// A tick that is hurried comes after a millisecond.
#[test]
fn a_worker_that_no_hint_reaches_does_not_look_at_every_hurried_tick() {
    let host = Rc::<FakeHost>::default();
    host.has_no_queues.set(true);
    let ([mut one, mut two], waiting) = one_waits_for_the_other(&host);
    two.pass(150);
    one.answer(200, INACTIVE);
    two.pass(1);
    assert_eq!(two.end(waiting), None);
    two.pass(124);
    assert_eq!(two.end(waiting), Some(&End::Inactive));
}

/// How often shared data is written from now on.
fn count_writes(host: &FakeHost) -> Rc<std::cell::Cell<u32>> {
    fn count(store: &MemoryStore, writes: &Rc<std::cell::Cell<u32>>) {
        let writes = Rc::clone(writes);
        *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
            writes.set(writes.get() + 1);
            count(store, &writes);
        }));
    }
    let writes = Rc::default();
    count(&host.store, &writes);
    writes
}

/// However many configurations tick, and however fast a hurried one does.
#[test]
fn a_lease_is_renewed_four_times_a_second() {
    for pause in [1, 5, 83, 250] {
        let host = Rc::<FakeHost>::default();
        let [mut one] = seated(&host);
        let gateway = upstream(&json!({}), GATEWAY);
        for token in TOKENS {
            one.ask(&gateway, token, &ALICE);
        }
        let writes = count_writes(&host);
        for _ in 0..2_000 / pause {
            one.pass(pause);
        }
        // A seat is renewed, too.
        let renewals = 2 * 4 * TOKENS.len() as u32;
        assert!(writes.get() <= renewals + 3, "{pause} ms: {}", writes.get());
        assert!(writes.get() >= renewals / 2, "{pause} ms: {}", writes.get());
    }
}

/// While a worker renews an answer, the other workers serve the one that they have, so none of them is told of the new one.
#[test]
fn a_renewal_that_finds_another_one_under_way_does_not_wait_for_it() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({"cache": {"ttl": "10s"}}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    one.answer(200, ACTIVE);
    // In the last tenth of its time.
    for _ in 0..37 {
        host.advance(Duration::from_millis(250));
        for worker in [&mut one, &mut two] {
            worker.call_back(|cb, resolver| resolver.on_tick(cb));
        }
    }
    for (worker, queue) in [(&mut one, 1), (&mut two, 2)] {
        worker.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(queue)));
    }
    for worker in [&mut one, &mut two] {
        let served = worker.ask(&gateway, TOKENS[0], &ALICE);
        assert_eq!(worker.end(served), Some(&End::Active(Provenance::Shared)));
    }
    assert_eq!(host.calls.borrow().len(), 1, "one of them renews it");
    one.answer(200, ACTIVE);
    assert_eq!((heard(&host, 1).count(), heard(&host, 2).count()), (0, 0));
}
