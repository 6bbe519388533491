//! What workers tell each other, too late, twice, or not at all.

use super::*;

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
                tell(&mut two, &gateway, "bob", &Voiding::Inactive);
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

/// Both others have looked into the cache before the answer came there.
#[test]
fn a_lease_that_is_released_late_tells_of_the_answer() {
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

/// The mark of who waits goes with a lease that runs out while the worker that holds it is busy.
#[test]
fn who_waits_is_told_though_the_lease_has_run_out_meanwhile() {
    let host = Rc::<FakeHost>::default();
    let ([mut one, mut two], waiting) = one_waits_for_the_other(&host);
    one.pass(1_100);
    read_hints(&mut one, 1);
    one.answer(500, "");
    read_hints(&mut two, 2);
    assert!(two.end(waiting).is_some());
}

/// Its request joins one that has waited for longer, on a worker that has not read the word of the failure.
#[test]
fn a_failure_ends_no_wait_that_began_after_it() {
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

/// Between the failure and its word, which comes late, a tick finds that a third worker asks by now.
#[test]
fn a_late_hint_of_a_failure_ends_no_wait_for_a_later_call() {
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
