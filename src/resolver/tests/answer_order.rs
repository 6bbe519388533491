//! Answers that come in another order than their questions, and ends and refusals in between.

use std::cell::RefCell;

use super::*;
use crate::host::memory::MemoryStore;

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

#[test]
fn a_token_that_ends_while_it_is_asked_about_is_asked_about_again() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    let digest = TokenDigest::of(TOKENS[0].as_bytes());
    worker.call_back(|cb, resolver| {
        let what = Invalidation::Token(&digest);
        resolver.invalidate(cb, &upstream.cache, what, InvalidationReason::Logout)
    });
    worker.answer(200, ACTIVE);
    assert_eq!(worker.end(request), None);
    worker.answer(200, INACTIVE);
    assert_eq!(worker.end(request), Some(&End::Inactive));
}

/// Whether the answer is the old one or comes only after the refusal: it is doubted, and serves if MAS gives no other.
#[test]
fn a_token_that_is_refused_while_it_is_asked_about_is_asked_about_again() {
    for (second, expected) in [
        ((200, ACTIVE), End::Active(Provenance::Introspected)),
        ((200, INACTIVE), End::Inactive),
        ((500, ""), End::Active(Provenance::Stale)),
    ] {
        let mut worker = Worker::new(&Rc::default());
        let upstream = upstream(&json!({}), GATEWAY);
        let request = worker.ask(&upstream, TOKENS[0], &ALICE);
        let digest = TokenDigest::of(TOKENS[0].as_bytes());
        worker.call_back(|cb, resolver| {
            let what = Invalidation::Refusal(&digest);
            resolver.invalidate(cb, &upstream.cache, what, InvalidationReason::Homeserver)
        });
        worker.answer(200, ACTIVE);
        assert_eq!(worker.end(request), None);
        worker.answer(second.0, second.1);
        assert_eq!(worker.end(request), Some(&expected));
    }
}

/// Two MASs are asked about the token, and both still call it active. Neither answer is an end to the other question.
#[test]
fn two_questions_about_a_token_that_ends_are_each_asked_again_once() {
    let digest = TokenDigest::of(TOKENS[0].as_bytes());
    for what in [Invalidation::Token(&digest), Invalidation::Refusal(&digest)] {
        let mut worker = Worker::new(&Rc::default());
        let other = json!({"introspection": {"authority": "other.example.org"}});
        let upstreams = [json!({}), other].map(|role| upstream(&role, GATEWAY));
        let requests = upstreams.each_ref().map(|upstream| {
            worker.host.advance(Duration::from_millis(300));
            worker.ask(upstream, TOKENS[0], &ALICE)
        });
        worker.call_back(|cb, resolver| {
            let cache = &upstreams[0].cache;
            resolver.invalidate(cb, cache, what, InvalidationReason::Homeserver)
        });
        for _ in 0..4 {
            worker.host.advance(Duration::from_millis(300));
            worker.answer(200, ACTIVE);
        }
        assert_eq!(worker.calls(), 0);
        for request in requests {
            assert!(worker.end(request).is_some());
        }
    }
}

/// The answer of a busy worker, whose lease has run out, comes between the question and the answer of the worker that has the
/// lease now, which does not look for it.
#[test]
fn an_older_inactive_answer_does_not_outlive_a_later_active_one() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let [of_one, of_two] = each_with_its_own();
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
    let [of_one, of_two, of_three] = each_with_its_own();
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
fn an_answer_from_before_an_end_counts_as_the_first_of_two() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    let request = one.ask(&gateway, TOKENS[0], &ALICE);
    end(&mut one, &gateway, TOKENS[0], Event::End);
    host.advance(Duration::from_millis(1));
    one.answer(200, ACTIVE);
    assert_eq!((one.end(request), one.calls()), (None, 1));
    host.advance(Duration::from_millis(300));
    tell(&mut two, &gateway, "alice", &Voiding::All);
    read_hints(&mut one, 1);
    one.answer(200, ACTIVE);
    assert!(one.end(request).is_some());
    assert_eq!(one.calls(), 0);
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
fn a_failed_call_takes_away_no_right_inactive() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two, mut three] = seated(&host);
    let [of_one, of_two, of_three] = each_with_its_own();
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
        let [of_one, of_two] = each_with_its_own();
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
fn a_lease_acquired_after_a_slow_answer_takes_away_no_right_answer() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two, mut three] = seated(&host);
    let [of_one, of_two, of_three] = each_with_its_own();
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

/// A third worker looks for the token, and keeps it, before each thing that is written.
#[test]
fn no_worker_keeps_what_is_withdrawn() {
    for nth in 1..=6_usize {
        let host = Rc::<FakeHost>::default();
        let [mut one, mut two, three] = seated(&host);
        let [of_one, of_two, of_three] = each_with_its_own();
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
