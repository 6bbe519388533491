//! Answers that MAS voids while they are on their way: one more call, and whom either answer serves.

use std::cell::RefCell;

use super::*;

/// An unlocked user's answer of "inactive", from before that was told. It serves the request that caused a brief call, which was
/// sent before, but none that may have come after the word, and never a reader that keeps it.
#[test]
fn an_inactive_answer_from_before_its_user_is_back_serves_a_moment_at_the_most() {
    let gateway = upstream(&json!({}), GATEWAY);
    let homeserver = upstream(&json!({"role": "introspection"}), GATEWAY);
    for (first, second, millis, serves) in [
        (&gateway, None, 249, true),
        (&gateway, None, 250, false),
        (&homeserver, None, 249, false),
        (&gateway, Some(&gateway), 249, false),
        (&gateway, Some(&homeserver), 249, false),
    ] {
        let host = Rc::<FakeHost>::default();
        let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
        let mut requests = vec![one.ask(first, TOKENS[0], &ALICE)];
        host.advance(Duration::from_millis(millis));
        tell(&mut two, &gateway, "alice", &Voiding::Inactive);
        requests.extend(second.map(|from| one.ask(from, TOKENS[0], &ALICE)));
        assert_eq!(one.calls(), 1);
        one.answer(200, INACTIVE);
        for request in requests {
            let end = one.end(request);
            assert_eq!(
                end.is_some(),
                serves,
                "after {millis} ms, joined: {}",
                second.is_some()
            );
        }
        assert_eq!(one.calls(), usize::from(!serves), "it is asked again");
        for worker in [&mut one, &mut two] {
            let later = worker.ask(&gateway, TOKENS[0], &ALICE);
            assert_eq!(worker.end(later), None, "the answer is void");
        }
    }
}

/// MAS tells of somebody during each call. What it tells counts within a second, however long its calls take, and no question
/// costs more than two of them.
#[test]
fn a_void_answer_serves_after_one_more_call_only_if_that_was_quick() {
    for (millis, expected) in [
        (250, End::Inactive),
        (999, End::Inactive),
        (1_000, End::None(NoVerdict::Outdated)),
        (2_000, End::None(NoVerdict::Outdated)),
    ] {
        let host = Rc::<FakeHost>::default();
        let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
        let gateway = upstream(&json!({"cache": {"stale_if_error": "10m"}}), GATEWAY);
        let request = one.ask(&gateway, TOKENS[0], &ALICE);
        for call in 1..=2 {
            assert_eq!(one.calls(), 1, "call {call}");
            host.advance(Duration::from_millis(millis));
            tell(&mut two, &gateway, "bob", &Voiding::Inactive);
            one.answer(200, INACTIVE);
        }
        assert_eq!(one.end(request), Some(&expected), "calls of {millis} ms");
        assert_eq!(one.calls(), 0, "it is not asked again");
        let later = one.ask(&gateway, TOKENS[0], &ALICE);
        assert_eq!(one.end(later), None, "nothing was kept");
        one.answer(200, INACTIVE);
        assert_eq!(one.end(later), Some(&End::Inactive));
    }
}

/// A herd on a token costs no more than one request for it, on however many workers it comes.
#[test]
fn a_void_answer_serves_all_who_waited_for_it_on_every_worker() {
    for (body, expected, told, negative_ttl) in [
        (ACTIVE, End::Active(Provenance::Introspected), "alice", "1s"),
        (INACTIVE, End::Inactive, "bob", "1s"),
        (INACTIVE, End::Inactive, "bob", "100ms"),
        (INACTIVE, End::Inactive, "bob", "0s"),
    ] {
        for (millis, late) in [(250, 0), (900, 98), (900, 100), (999, 0)] {
            let host = Rc::<FakeHost>::default();
            let [mut one, mut two, mut three] = [(); 3].map(|()| Worker::new(&host));
            let [gateway, homeserver] = ["gateway", "introspection"].map(|role| {
                let cache = json!({"negative_ttl": negative_ttl});
                upstream(&json!({"role": role, "cache": cache}), GATEWAY)
            });
            host.advance(Duration::from_secs(100));
            for worker in [&mut one, &mut two, &mut three] {
                worker.pass(0);
            }
            let first = one.ask(&gateway, TOKENS[0], &ALICE);
            let second = two.ask(&gateway, TOKENS[0], &BOB);
            let third = three.ask(&homeserver, TOKENS[0], &BOB);
            for call in 1..=2 {
                assert_eq!(one.calls(), 1, "call {call} of {millis} ms");
                host.advance(Duration::from_millis(millis));
                tell(&mut three, &gateway, told, &Voiding::All);
                one.call_back(|cb, resolver| {
                    resolver.on_queue(cb, QueueId(1));
                    resolver.workers.read_epochs(cb);
                });
                one.answer(200, body);
                let is_told = heard(&host, 2).any(|hint| matches!(hint, Hint::LookAgain(_)));
                assert_eq!(is_told, call == 2, "the others wait for the second answer");
            }
            assert_eq!(one.end(first), Some(&expected));
            host.advance(Duration::from_millis(late));
            two.hint(&gateway, TOKENS[0]);
            three.hint(&gateway, TOKENS[0]);
            if millis + late >= 1_000 {
                assert_eq!([two.end(second), three.end(third)], [None; 2]);
                assert_eq!(host.calls.borrow().len(), 1, "it is asked again");
                continue;
            }
            let none = End::None(NoVerdict::Outdated);
            assert_eq!(two.end(second), Some(&expected), "calls of {millis} ms");
            assert_eq!(three.end(third), Some(&none), "a reader that keeps it");
            assert_eq!(host.calls.borrow().len(), 0, "it is not asked again");
            assert!(!one.cached.contains(&first), "nobody keeps it");
            assert!(!two.cached.contains(&second), "nobody keeps it");
            for worker in [&mut one, &mut two] {
                worker.call_back(|cb, resolver| resolver.workers.read_epochs(cb));
                let later = worker.ask(&gateway, TOKENS[0], &ALICE);
                assert_eq!(worker.end(later), None, "the answer is void");
            }
        }
    }
}

/// Every worker says the same of an answer that came too late to serve: no old one serves in its place, though MAS failed by no
/// word of it.
#[test]
fn a_late_void_answer_serves_nobody_on_any_worker() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let cache = json!({"cache": {"stale_if_error": "10m", "refresh_ahead": false}});
    let gateway = upstream(&cache, GATEWAY);
    host.advance(Duration::from_secs(100));
    one.ask(&gateway, TOKENS[0], &ALICE);
    one.answer(200, ACTIVE);
    for worker in [&mut one, &mut two] {
        worker.tick_for(10_000);
    }
    let requests = [
        one.ask(&gateway, TOKENS[0], &ALICE),
        two.ask(&gateway, TOKENS[0], &BOB),
    ];
    for call in 1..=2 {
        assert_eq!(one.calls(), 1, "call {call}");
        one.tick_for(1_000);
        tell(&mut two, &gateway, "bob", &Voiding::Inactive);
        one.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(1)));
        one.answer(200, INACTIVE);
    }
    two.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(2)));
    let none = End::None(NoVerdict::Outdated);
    let ends = [one.end(requests[0]), two.end(requests[1])];
    assert_eq!(ends, [Some(&none); 2]);
}

/// Two calls take longer than one call and its grace where the timeout is short.
#[test]
fn who_waits_for_another_worker_waits_for_its_second_call() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let gateway = upstream(&json!({"introspection": {"timeout": "600ms"}}), GATEWAY);
    host.advance(Duration::from_secs(100));
    for worker in [&mut one, &mut two] {
        worker.pass(0);
    }
    one.ask(&gateway, TOKENS[0], &ALICE);
    let waits = two.ask(&gateway, TOKENS[0], &BOB);
    one.tick_for(500);
    host.advance(Duration::from_millis(90));
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    one.answer(200, INACTIVE);
    for _ in 0..2 {
        one.pass(255);
    }
    // Its lease and the first call with its grace have ended.
    two.pass(0);
    assert_eq!((two.end(waits), one.calls()), (None, 1));
    one.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(1)));
    one.answer(200, INACTIVE);
    two.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(2)));
    assert_eq!(two.end(waits), Some(&End::Inactive));
}

#[test]
fn who_comes_after_a_void_answer_waits_for_nobody() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let gateway = upstream(&json!({}), GATEWAY);
    let request = one.ask(&gateway, TOKENS[0], &ALICE);
    for _ in 0..2 {
        host.advance(Duration::from_millis(300));
        tell(&mut two, &gateway, "bob", &Voiding::Inactive);
        one.answer(200, INACTIVE);
    }
    assert_eq!(one.end(request), Some(&End::Inactive));
    two.ask(&gateway, TOKENS[0], &BOB);
    assert_eq!(two.calls(), 1);
}

/// It has joined those whom the answer serves, but may have been told meanwhile.
#[test]
fn a_void_answer_serves_nobody_who_came_after_its_question() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let gateway = upstream(&json!({}), GATEWAY);
    host.advance(Duration::from_secs(100));
    for worker in [&mut one, &mut two] {
        worker.pass(0);
    }
    one.ask(&gateway, TOKENS[0], &ALICE);
    let before = two.ask(&gateway, TOKENS[0], &BOB);
    let mut later = None;
    for _ in 0..2 {
        host.advance(Duration::from_millis(300));
        later.get_or_insert_with(|| two.ask(&gateway, TOKENS[0], &BOB));
        tell(&mut two, &gateway, "bob", &Voiding::Inactive);
        one.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(1)));
        one.answer(200, INACTIVE);
    }
    let after = two.ask(&gateway, TOKENS[0], &BOB);
    two.hint(&gateway, TOKENS[0]);
    assert_eq!(two.end(before), Some(&End::Inactive));
    assert_eq!(
        [later, Some(after)].map(|request| two.end(request.unwrap())),
        [None; 2]
    );
    assert_eq!(two.calls(), 1, "MAS is asked for those who came later");
}

/// It asked after MAS was asked, so the answer is from before what it may have been told.
#[test]
fn a_void_answer_serves_nobody_on_another_worker_who_asked_later() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let gateway = upstream(&json!({}), GATEWAY);
    // Each has its seat, so that hints reach it.
    one.pass(100_000);
    two.pass(0);
    one.ask(&gateway, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(10));
    one.answer(200, INACTIVE);
    tell(&mut two, &gateway, "alice", &Voiding::Inactive);
    host.advance(Duration::from_millis(1));
    let later = two.ask(&gateway, TOKENS[0], &ALICE);
    assert_eq!((two.end(later), two.calls()), (None, 0));
    // The other worker has left its lease to run out, and is told that it is waited for.
    for worker in [&mut one, &mut two] {
        worker.call_back(|cb, resolver| {
            (1..=2).for_each(|queue| resolver.on_queue(cb, QueueId(queue)))
        });
    }
    two.hint(&gateway, TOKENS[0]);
    assert_eq!((two.end(later), two.calls()), (None, 1));
}

/// The homeserver keeps what it is told for minutes, so after two such answers MAS is to tell it itself.
#[test]
fn a_void_answer_is_never_given_to_a_reader_that_keeps_it() {
    for (body, expected) in [
        (ACTIVE, End::Active(Provenance::Introspected)),
        (INACTIVE, End::Inactive),
    ] {
        let host = Rc::<FakeHost>::default();
        let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
        let roles = [json!({}), json!({"role": "introspection"})];
        let [gateway, homeserver] = roles.map(|role| upstream(&role, GATEWAY));
        let ask = |worker: &mut Worker| {
            [&gateway, &homeserver].map(|from| worker.ask(from, TOKENS[0], &ALICE))
        };
        let requests = ask(&mut one);
        for _ in 0..2 {
            assert_eq!(requests.map(|request| one.end(request)), [None; 2]);
            host.advance(Duration::from_millis(100));
            tell(&mut two, &gateway, "alice", &Voiding::All);
            one.answer(200, body);
        }
        let none = End::None(NoVerdict::Outdated);
        assert_eq!(
            requests.map(|request| one.end(request)),
            [Some(&expected), Some(&none)]
        );
        assert_eq!(one.calls(), 0, "it is not asked again");
        host.advance(Duration::from_millis(1));
        one.call_back(|cb, resolver| resolver.workers.read_epochs(cb));
        let later = ask(&mut one);
        host.advance(Duration::from_millis(100));
        one.answer(200, body);
        assert_eq!(later.map(|request| one.end(request)), [Some(&expected); 2]);
    }
}

/// An active user's answer from before the lock serves only for as long as a hit does: until the worker reads the epochs.
#[test]
fn an_active_answer_from_before_its_user_was_locked_serves_as_a_hit_does() {
    for is_heard in [false, true] {
        let host = Rc::<FakeHost>::default();
        let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
        let gateway = upstream(&json!({}), GATEWAY);
        host.advance(Duration::from_secs(100));
        one.tick_for(250);
        let request = one.ask(&gateway, TOKENS[0], &ALICE);
        host.advance(Duration::from_millis(if is_heard { 750 } else { 100 }));
        tell(&mut two, &gateway, "alice", &Voiding::All);
        one.answer(200, ACTIVE);
        assert_eq!(one.end(request).is_some(), !is_heard);
        assert_eq!(one.calls(), usize::from(is_heard), "it is asked again");
        one.tick_for(250);
        for worker in [&mut one, &mut two] {
            let later = worker.ask(&gateway, TOKENS[0], &ALICE);
            assert_eq!(worker.end(later), None, "the answer is void");
        }
    }
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
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    host.advance(Duration::from_millis(5));
    read_hints(&mut one, 1);
    one.answer(200, INACTIVE);
    assert_eq!(
        host.calls.borrow().len(),
        1,
        "one call is under way, and its lease is held"
    );
}

/// The later client may have come because its user was told that he is unlocked.
#[test]
fn a_void_answer_serves_nobody_of_its_own_worker_who_came_later() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(300));
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    one.answer(200, INACTIVE);
    host.advance(Duration::from_millis(100));
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    host.advance(Duration::from_millis(100));
    // He comes after he was told that he is unlocked.
    let later = one.ask(&gateway, TOKENS[0], &BOB);
    host.advance(Duration::from_millis(100));
    read_hints(&mut one, 1);
    one.answer(200, INACTIVE);
    assert_eq!((one.end(later), one.calls()), (None, 1));
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
            tell(calling, &gateway, "alice", &Voiding::All);
            host.advance(Duration::from_millis(1));
            calling.answer(200, ACTIVE);
            read_hints(&mut two, 2);
        }
        assert!(calls <= 2);
    }
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
    tell(&mut two, &of_one, "alice", &Voiding::All);
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

#[test]
fn a_void_answer_that_is_doubted_serves_nobody() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    one.ask(&gateway, TOKENS[0], &ALICE);
    let waits = two.ask(&gateway, TOKENS[0], &BOB);
    for _ in 0..2 {
        host.advance(Duration::from_millis(300));
        tell(&mut two, &gateway, "alice", &Voiding::All);
        read_hints(&mut one, 1);
        one.answer(200, ACTIVE);
    }
    end(&mut one, &gateway, TOKENS[0], Event::Refusal);
    two.hint(&gateway, TOKENS[0]);
    assert_eq!((two.end(waits), two.calls()), (None, 1));
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
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
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
        tell(&mut two, &gateway, "bob", &Voiding::Inactive);
        one.answer(200, INACTIVE);
    }
    let outdated = End::None(NoVerdict::Outdated);
    assert_eq!(one.end(request), Some(&outdated));
    let other = one.ask(&gateway, TOKENS[1], &ALICE);
    assert_eq!((one.end(other), one.calls()), (None, 1));
}

#[test]
fn a_void_answer_that_nobody_waits_for_is_not_asked_for_again() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    let gone = one.ask(&gateway, TOKENS[0], &ALICE);
    one.resolver.cancel(StreamId(gone));
    host.advance(Duration::from_millis(300));
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
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
        tell(&mut two, &gateway, "bob", &Voiding::Inactive);
        read_hints(&mut one, 1);
        one.answer(200, INACTIVE);
    }
    host.advance(Duration::from_millis(500));
    two.hint(&gateway, TOKENS[0]);
    assert_eq!((two.end(waits), two.calls()), (None, 1));
}

/// MAS tells and answers in one moment, again and again.
#[test]
fn a_voiding_in_the_moment_of_the_call_costs_two_calls_at_the_most() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let kept = upstream(&json!({"role": "introspection"}), HOMESERVER);
    let request = one.ask(&kept, TOKENS[0], &ALICE);
    tell(&mut two, &kept, "bob", &Voiding::Inactive);
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
        tell(&mut two, &gateway, "bob", &Voiding::Inactive);
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
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    one.answer(200, INACTIVE);
    assert_eq!(one.calls(), 0, "nobody waits");
}

/// The second call is another worker's at first, and then the homeserver's, since the gateway's calls are in use by then.
#[test]
fn nobody_waits_for_a_third_call_that_the_homeserver_makes() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let one_call = json!({"introspection": {"max_in_flight": 1}});
    let gateway = upstream(&one_call, GATEWAY);
    let homeserver = upstream(&one_call, HOMESERVER);
    let waits = one.ask(&gateway, TOKENS[0], &ALICE);
    one.ask(&gateway, TOKENS[0], &BOB);
    // The first worker's lease has run out.
    host.advance(Duration::from_millis(1_100));
    two.ask(&gateway, TOKENS[0], &BOB);
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    host.advance(Duration::from_millis(1));
    read_hints(&mut one, 1);
    one.answer(200, INACTIVE);
    assert_eq!((one.end(waits), one.calls()), (None, 1), "asked elsewhere");
    one.ask(&gateway, TOKENS[1], &CAROL);
    host.advance(Duration::from_millis(1_100));
    one.pass(0);
    assert_eq!(one.calls(), 2, "in line");
    one.ask(&homeserver, TOKENS[0], &BOB);
    assert_eq!(one.calls(), 3);
    host.advance(Duration::from_millis(300));
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    read_hints(&mut one, 1);
    host.advance(Duration::from_millis(1));
    host.calls.borrow_mut().rotate_left(2);
    one.answer(200, INACTIVE);
    assert_eq!(one.end(waits), Some(&End::Inactive));
}

#[test]
fn a_late_void_answer_ends_nobody_who_came_after_its_question() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    let first = one.ask(&gateway, TOKENS[0], &ALICE);
    one.pass(250);
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    one.answer(200, INACTIVE);
    for _ in 0..4 {
        one.pass(250);
        two.pass(0);
    }
    let later = one.ask(&gateway, TOKENS[0], &BOB);
    let elsewhere = two.ask(&gateway, TOKENS[0], &BOB);
    host.advance(Duration::from_millis(1));
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
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
