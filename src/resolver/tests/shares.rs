//! Lines, pools, budgets and clients' shares.

use super::*;

/// Returns as many tokens as one pool may ask about at once.
fn pool_of_tokens(name: &str) -> Vec<&'static str> {
    some_tokens(name, 64)
}

fn some_tokens(name: &str, number: usize) -> Vec<&'static str> {
    (0..number)
        .map(|number| &*format!("{name}-{number}").leak())
        .collect()
}

#[test]
fn a_question_over_the_cap_waits_in_line() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let requests = TOKENS.map(|token| worker.ask(&upstream, token, &ALICE));
    for request in requests {
        assert_eq!(worker.calls(), 1, "never more than the cap");
        assert_eq!(worker.end(request), None);
        worker.answer(200, ACTIVE);
        assert!(worker.end(request).is_some());
    }
    assert_eq!(worker.calls(), 0);
}

#[test]
fn the_line_serves_clients_in_turn() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let [.., flood] =
        [TOKENS[0], TOKENS[1], TOKENS[2]].map(|token| worker.ask(&upstream, token, &ALICE));
    let other = worker.ask(&upstream, TOKENS[3], &BOB);
    worker.answer(200, ACTIVE);
    worker.answer(200, ACTIVE);
    worker.answer(200, ACTIVE);
    assert!(worker.end(other).is_some() && worker.end(flood).is_none());
}

/// One call and a full line, all of them Alice's. Then Bob's question takes the place of her newest one. Returns hers, oldest
/// first, each with its token.
fn fill_line(worker: &mut Worker, upstream: &Rc<Upstream>) -> Vec<(&'static str, u32)> {
    let tokens = some_tokens("alice", 1 + 4_096);
    let ask = |token| (token, worker.ask(upstream, token, &ALICE));
    let requests = tokens.into_iter().map(ask).collect();
    worker.ask(upstream, TOKENS[0], &BOB);
    requests
}

fn newest(requests: &[(&'static str, u32)]) -> (&'static str, u32) {
    *requests.last().unwrap()
}

/// Her client has no other question, so there is room for it.
#[test]
fn a_question_that_has_lost_its_place_is_asked_anew_for_another_client() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let requests = fill_line(&mut worker, &upstream);
    let [.., (_, second_newest), (token, newest)] = requests[..] else {
        panic!("the line holds thousands");
    };
    let carol = worker.ask(&upstream, token, &CAROL);
    worker.pass(250);
    let overloaded = End::None(NoVerdict::Overloaded);
    assert_eq!(worker.end(second_newest), Some(&overloaded), "for Carol's");
    assert_eq!(
        [carol, newest].map(|request| worker.end(request)),
        [None; 2]
    );
    // The first call, and one for each client.
    (0..4).for_each(|_| worker.answer(200, ACTIVE));
    let active = End::Active(Provenance::Introspected);
    assert_eq!(
        [carol, newest].map(|request| worker.end(request)),
        [Some(&active); 2]
    );
}

#[test]
fn a_question_that_has_lost_its_place_ends_with_the_next_tick_however_late_that_is() {
    for millis in [1, 250, 13_000] {
        let mut worker = Worker::new(&Rc::default());
        let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
        let requests = fill_line(&mut worker, &upstream);
        let [.., (_, second_newest), (_, newest)] = requests[..] else {
            panic!("the line holds thousands");
        };
        worker.pass(millis);
        let overloaded = End::None(NoVerdict::Overloaded);
        assert_eq!(worker.end(newest), Some(&overloaded), "{millis} ms");
        assert_eq!(worker.end(second_newest), None, "{millis} ms");
    }
}

/// Another worker has the answer, and says so. It would hold no more at the next tick.
#[test]
fn a_question_that_has_lost_its_place_is_answered_by_a_hint() {
    let host = Rc::<FakeHost>::default();
    let [mut worker, mut other] = [(); 2].map(|()| Worker::new(&host));
    let keys = json!({"introspection": {"max_in_flight": 1}, "cache": {"negative_ttl": "100ms"}});
    let upstream = upstream(&keys, GATEWAY);
    let (token, newest) = newest(&fill_line(&mut worker, &upstream));
    other.ask(&upstream, token, &CAROL);
    host.calls.borrow_mut().rotate_left(1);
    other.answer(200, INACTIVE);
    worker.hint(&upstream, token);
    worker.pass(250);
    assert_eq!(worker.end(newest), Some(&End::Inactive));
}

/// Who has waited in line for half a second, and lost the place there, waits a quarter of a second more.
#[test]
fn a_question_that_is_asked_anew_waits_no_longer_in_line_for_that() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let tokens = some_tokens("alice", 1 + 4_096);
    let ask = |token| (token, worker.ask(&upstream, token, &ALICE));
    let (token, newest) = newest(&tokens.into_iter().map(ask).collect::<Vec<_>>());
    worker.tick_for(500);
    worker.host.advance(Duration::from_millis(240));
    worker.ask(&upstream, TOKENS[0], &BOB);
    worker.ask(&upstream, token, &CAROL);
    worker.pass(10);
    worker.pass(250);
    assert_eq!(worker.end(newest), Some(&End::None(NoVerdict::Overloaded)));
}

/// Its client has no room in line. Another worker has the answer a moment later.
#[test]
fn a_request_without_a_place_waits_with_a_question_that_has_lost_its_own() {
    let host = Rc::<FakeHost>::default();
    let [mut worker, mut other] = [(); 2].map(|()| Worker::new(&host));
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let (token, newest) = newest(&fill_line(&mut worker, &upstream));
    other.ask(&upstream, token, &CAROL);
    let again = worker.ask(&upstream, token, &ALICE);
    host.calls.borrow_mut().rotate_left(1);
    other.answer(200, ACTIVE);
    worker.pass(250);
    let active = End::Active(Provenance::Introspected);
    assert_eq!(
        [newest, again].map(|request| worker.end(request)),
        [Some(&active); 2]
    );
}

#[test]
fn no_more_wait_with_a_question_that_has_lost_its_place_than_with_another() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let tokens = some_tokens("alice", 1 + 4_096);
    let &token = tokens.last().unwrap();
    for token in tokens {
        worker.ask(&upstream, token, &ALICE);
    }
    for _ in 1..flight::MAX_WAITERS_PER_FLIGHT {
        worker.ask(&upstream, token, &ALICE);
    }
    let before = worker.ask(&upstream, token, &CAROL);
    worker.ask(&upstream, TOKENS[0], &BOB);
    let after = worker.ask(&upstream, token, &CAROL);
    for request in [before, after] {
        assert!(worker.end(request).is_some());
    }
}

/// The answer serves one configuration and not the other, whose request goes back into the line. It has waited there already.
#[test]
fn who_returns_to_the_line_waits_no_longer_for_that() {
    let host = Rc::<FakeHost>::default();
    let [mut worker, mut other] = [(); 2].map(|()| Worker::new(&host));
    let gateway = |negative_ttl: &str| {
        let cache = json!({"negative_ttl": negative_ttl});
        upstream(
            &json!({"introspection": {"max_in_flight": 1}, "cache": cache}),
            GATEWAY,
        )
    };
    let (long, none) = (gateway("10s"), gateway("0s"));
    let tokens = some_tokens("alice", 1 + 4_096);
    let &token = tokens.last().unwrap();
    let ask = |token| (token, worker.ask(&long, token, &ALICE));
    let (_, served) = newest(&tokens.into_iter().map(ask).collect::<Vec<_>>());
    let returns = worker.ask(&none, token, &ALICE);
    worker.tick_for(500);
    worker.host.advance(Duration::from_millis(240));
    worker.ask(&long, TOKENS[0], &BOB);
    // A place in line becomes free.
    worker.answer(200, ACTIVE);
    other.ask(&long, token, &CAROL);
    host.calls.borrow_mut().rotate_left(1);
    other.answer(200, INACTIVE);
    worker.hint(&long, token);
    assert_eq!(worker.end(served), Some(&End::Inactive));
    assert_eq!(worker.end(returns), None, "it waits in line");
    worker.pass(10);
    worker.pass(250);
    assert_eq!(worker.end(returns), Some(&End::None(NoVerdict::Overloaded)));
}

/// With a call of its own for both, or not at all.
#[test]
fn the_homeserver_asks_a_question_that_has_lost_its_place() {
    for is_full in [false, true] {
        let mut worker = Worker::new(&Rc::default());
        let one_call = json!({"introspection": {"max_in_flight": 1}});
        let gateway = upstream(&one_call, GATEWAY);
        let homeserver = upstream(&one_call, HOMESERVER);
        let requests = fill_line(&mut worker, &gateway);
        if is_full {
            worker.ask(&homeserver, TOKENS[1], &BOB);
        }
        let (token, newest) = newest(&requests);
        let of_homeserver = worker.ask(&homeserver, token, &BOB);
        let overloaded = End::None(NoVerdict::Overloaded);
        if is_full {
            assert_eq!(worker.end(of_homeserver), Some(&overloaded), "at once");
            worker.pass(250);
            assert_eq!(worker.end(newest), Some(&overloaded));
            continue;
        }
        worker.pass(250);
        assert_eq!((worker.end(newest), worker.calls()), (None, 2));
        worker.host.calls.borrow_mut().rotate_left(1);
        worker.answer(200, ACTIVE);
        let active = End::Active(Provenance::Introspected);
        assert_eq!(
            [of_homeserver, newest].map(|request| worker.end(request)),
            [Some(&active); 2]
        );
    }
}

#[test]
fn a_hint_without_an_answer_costs_no_place_in_line() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let [_, first, second] =
        [TOKENS[0], TOKENS[1], TOKENS[2]].map(|token| worker.ask(&upstream, token, &ALICE));
    worker.hint(&upstream, TOKENS[1]);
    worker.answer(200, ACTIVE);
    worker.answer(200, ACTIVE);
    assert!(worker.end(first).is_some() && worker.end(second).is_none());
}

#[test]
fn hints_without_an_answer_give_no_more_time() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let [_, waits] = [TOKENS[0], TOKENS[1]].map(|token| worker.ask(&upstream, token, &ALICE));
    for _ in 0..3 {
        assert_eq!(worker.end(waits), None);
        worker.hint(&upstream, TOKENS[1]);
        worker.pass(250);
    }
    assert_eq!(worker.end(waits), Some(&End::None(NoVerdict::Overloaded)));
}

#[test]
fn a_request_that_leaves_the_line_costs_no_call() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    worker.ask(&upstream, TOKENS[0], &ALICE);
    let gone = worker.ask(&upstream, TOKENS[1], &ALICE);
    let stays = worker.ask(&upstream, TOKENS[2], &ALICE);
    worker.resolver.cancel(StreamId(gone));
    worker.answer(200, ACTIVE);
    worker.answer(200, ACTIVE);
    assert!(worker.end(stays).is_some());
    assert_eq!(worker.calls(), 0);
}

#[test]
fn another_pool_has_a_cap_of_its_own_and_does_not_wait_in_line() {
    let mut worker = Worker::new(&Rc::default());
    let settings = json!({"introspection": {"max_in_flight": 1}});
    let (gateway, homeserver) = (
        upstream(&settings, GATEWAY),
        upstream(&settings, HOMESERVER),
    );
    worker.ask(&gateway, TOKENS[0], &ALICE);
    let queued = worker.ask(&gateway, TOKENS[1], &ALICE);
    assert_eq!(worker.calls(), 1);
    // The same question, asked at once by a pool that has room.
    let overtaking = worker.ask(&homeserver, TOKENS[1], &BOB);
    assert_eq!(worker.calls(), 2);
    let refused = worker.ask(&homeserver, TOKENS[2], &BOB);
    assert_eq!(worker.end(refused), Some(&End::None(NoVerdict::Overloaded)));
    worker.answer(200, INACTIVE);
    worker.answer(200, ACTIVE);
    for request in [queued, overtaking] {
        assert_eq!(
            worker.end(request),
            Some(&End::Active(Provenance::Introspected))
        );
    }
    assert_eq!(worker.calls(), 0, "the question has left the line");
}

#[test]
fn the_budget_counts_what_mas_called_inactive() {
    let mut worker = Worker::new(&Rc::default());
    let budget = json!({"unknown_token_budget": {"per_source": 2, "window": "1m"}});
    let upstream = upstream(&budget, GATEWAY);
    for answer in [(500, ""), (200, ACTIVE)] {
        for token in TOKENS {
            worker.ask(&upstream, token, &ALICE);
            worker.answer(answer.0, answer.1);
        }
        worker.pass(11_000);
    }
    // Sessions that have ended cost nothing.
    for token in TOKENS {
        worker.ask(&upstream, token, &ALICE);
        worker.answer(200, INACTIVE);
    }
    worker.pass(1_000);
    const UNKNOWN: [&str; 3] = ["unknown-a", "unknown-b", "unknown-c"];
    for token in [UNKNOWN[0], UNKNOWN[1], UNKNOWN[0]] {
        worker.ask(&upstream, token, &ALICE);
        worker.answer(200, INACTIVE);
        worker.pass(1_000);
    }
    let over = worker.ask(&upstream, UNKNOWN[2], &ALICE);
    assert!(matches!(
        worker.end(over),
        Some(End::None(NoVerdict::OverBudget { .. }))
    ));
    for dead in [UNKNOWN[1], TOKENS[1]] {
        let dead = worker.ask(&upstream, dead, &ALICE);
        worker.answer(200, INACTIVE);
        assert_eq!(worker.end(dead), Some(&End::Inactive));
    }
    let other = worker.ask(&upstream, UNKNOWN[2], &BOB);
    assert_eq!(worker.end(other), None, "asked about");
}

/// Alice spends her budget while a question of hers waits in line, which Bob has joined. Who of them waits in the end
/// does not matter: he is not told that he has asked too much.
#[test]
fn a_client_is_not_told_of_the_budget_of_another() {
    for alice_waits in [true, false] {
        for bob_joins in [true, false] {
            let mut worker = Worker::new(&Rc::default());
            let limits = json!({
                "introspection": {"max_in_flight": 1},
                "unknown_token_budget": {"per_source": 1, "window": "1m"},
            });
            let upstream = upstream(&limits, GATEWAY);
            worker.ask(&upstream, TOKENS[0], &ALICE);
            let alice = worker.ask(&upstream, TOKENS[1], &ALICE);
            let bob = bob_joins.then(|| worker.ask(&upstream, TOKENS[1], &BOB));
            if !alice_waits {
                worker.resolver.cancel(StreamId(alice));
            }
            worker.answer(200, INACTIVE);
            let over_budget =
                |end: Option<&End>| matches!(end, Some(End::None(NoVerdict::OverBudget { .. })));
            assert_eq!(over_budget(worker.end(alice)), alice_waits && !bob_joins);
            if let Some(bob) = bob {
                let overloaded = End::None(NoVerdict::Overloaded);
                assert_eq!(worker.end(bob), Some(&overloaded), "{alice_waits}");
            }
            assert_eq!(worker.calls(), 0);
        }
    }
}

/// As before, for a question that another pool has taken over from the line, and that is put back there.
#[test]
fn a_client_is_not_told_of_the_budget_of_another_pools_client() {
    let mut worker = Worker::new(&Rc::default());
    let limits = |max_in_flight: u32| {
        json!({
            "introspection": {"max_in_flight": max_in_flight},
            "unknown_token_budget": {"per_source": 1, "window": "1m"},
        })
    };
    let gateway = upstream(&limits(1), GATEWAY);
    let homeserver = upstream(&limits(2), HOMESERVER);
    worker.ask(&gateway, TOKENS[0], &ALICE);
    let alice = worker.ask(&gateway, TOKENS[1], &ALICE);
    let [gone, _] = [TOKENS[1], TOKENS[2]].map(|token| worker.ask(&homeserver, token, &BOB));
    assert_eq!(worker.calls(), 3);
    worker.resolver.cancel(StreamId(gone));
    // Bob's second token is inactive, and the answer about his first comes too late.
    worker.host.calls.borrow_mut().rotate_left(2);
    worker.answer(200, INACTIVE);
    worker.host.calls.borrow_mut().rotate_left(1);
    worker.call_back(|cb, resolver| {
        let token = TokenDigest::of(TOKENS[1].as_bytes());
        let what = Invalidation::Token(&token);
        resolver.invalidate(cb, &gateway.cache, what, InvalidationReason::Logout)
    });
    worker.answer(200, ACTIVE);
    assert_eq!((worker.calls(), worker.end(alice)), (1, None), "in line");
    worker.answer(200, ACTIVE);
    let overloaded = End::None(NoVerdict::Overloaded);
    assert_eq!(worker.end(alice), Some(&overloaded));
}

/// The calls of the root are free again. The question has waited for long enough by the next tick, and is asked then.
#[test]
fn a_question_in_line_gets_the_call_of_a_root_that_has_ended() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let calls = worker.ask(&upstream, TOKENS[0], &ALICE);
    let waits = worker.ask(&upstream, TOKENS[1], &ALICE);
    worker.pass(250);
    worker.pass(250);
    worker.resolver.cancel(StreamId(calls));
    worker.resolver.on_root_end(ROOT);
    worker.host.calls.borrow_mut().clear();
    worker.pass(250);
    assert_eq!((worker.calls(), worker.end(waits)), (1, None));
    worker.answer(200, ACTIVE);
    assert!(worker.end(waits).is_some());
}

#[test]
fn a_request_without_a_place_to_wait_counts_as_overloaded() {
    let host = Rc::new(FakeHost::default());
    let mut worker = Worker::new(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    for _ in 0..flight::MAX_WAITERS_PER_FLIGHT {
        worker.ask(&gateway, TOKENS[0], &ALICE);
    }
    let joined = host.metric(Metric::Coalesced);
    let refused = worker.ask(&gateway, TOKENS[0], &ALICE);
    assert_eq!(worker.end(refused), Some(&End::None(NoVerdict::Overloaded)));
    assert_eq!(host.metric(Metric::Coalesced), joined, "it joined nothing");
    assert_eq!(host.metric(OVERLOADED), 1);
}

#[test]
fn a_question_without_a_place_to_wait_counts_as_overloaded() {
    let host = Rc::new(FakeHost::default());
    let mut worker = Worker::new(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    for _ in 0..flight::MAX_WAITERS / flight::MAX_WAITERS_PER_FLIGHT {
        let token = Box::leak(format!("token {}", host.calls.borrow().len()).into_boxed_str());
        for client in 0..flight::MAX_WAITERS_PER_FLIGHT {
            let address = format!("10.0.{}.{}", client / 250, client % 250);
            worker.ask(&gateway, token, &Client(address.leak()));
        }
    }
    let before = host.metric(OVERLOADED);
    let refused = worker.ask(&gateway, "another", &Client("10.9.9.9"));
    assert_eq!(worker.end(refused), Some(&End::None(NoVerdict::Overloaded)));
    assert_eq!(host.metric(OVERLOADED), before + 1);
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
    end(&mut one, &kept, TOKENS[0], Event::Refusal);
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
