//! A worker that is too busy to read what MAS has answered.

use super::*;

/// A worker that has too much to read comes to its next tick when a call should long have ended.
#[test]
fn an_answer_that_a_busy_worker_has_not_read_is_waited_for() {
    for (body, expected) in [
        (ACTIVE, End::Active(Provenance::Introspected)),
        (INACTIVE, End::Inactive),
    ] {
        let mut worker = Worker::new(&Rc::default());
        let overrides = json!({"cache": {"stale_if_error": "10m", "refresh_ahead": false}});
        let upstream = upstream(&overrides, GATEWAY);
        worker.ask(&upstream, TOKENS[0], &ALICE);
        worker.answer(200, ACTIVE);
        worker.tick_for(10_000);
        let request = worker.ask(&upstream, TOKENS[0], &ALICE);
        worker.pass(13_000);
        assert_eq!(worker.end(request), None);
        worker.answer(200, body);
        assert_eq!(worker.end(request), Some(&expected));
    }
}

/// Its tick is late all the same.
#[test]
fn a_configuration_that_comes_to_a_busy_worker_takes_no_time_from_what_waits() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    worker.host.advance(Duration::from_secs(13));
    worker.call_back(|cb, resolver| resolver.start(cb));
    worker.pass(0);
    assert_eq!(worker.end(request), None);
    worker.answer(200, ACTIVE);
    let expected = End::Active(Provenance::Introspected);
    assert_eq!(worker.end(request), Some(&expected));
}

#[test]
fn a_time_without_a_timer_is_no_lag() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    worker.call_back(|_, resolver| resolver.rest());
    worker.host.advance(Duration::from_secs(13));
    worker.call_back(|cb, resolver| resolver.start(cb));
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    worker.tick_for(5_500);
    assert_eq!(worker.end(request), Some(&End::None(NoVerdict::Lost)));
}

/// Envoy's timer for the call may fire before the answer is read. MAS is asked again, and a second timeout counts.
#[test]
fn a_call_that_timed_out_while_the_worker_was_busy_is_made_again_once() {
    const TIMED_OUT: &str = "upstream request timeout";
    for is_ticked_first in [true, false] {
        for (second, expected) in [
            ((200, INACTIVE), End::Inactive),
            ((504, TIMED_OUT), End::Active(Provenance::Stale)),
        ] {
            let mut worker = Worker::new(&Rc::default());
            let overrides = json!({"cache": {"stale_if_error": "10m", "refresh_ahead": false}});
            let upstream = upstream(&overrides, GATEWAY);
            worker.ask(&upstream, TOKENS[0], &ALICE);
            worker.answer(200, ACTIVE);
            worker.tick_for(10_000);
            let request = worker.ask(&upstream, TOKENS[0], &ALICE);
            if is_ticked_first {
                worker.pass(13_000);
            } else {
                worker.host.advance(Duration::from_secs(13));
            }
            worker.answer(504, TIMED_OUT);
            assert_eq!((worker.calls(), worker.end(request)), (1, None));
            worker.pass(13_000);
            worker.answer(second.0, second.1);
            assert_eq!(worker.end(request), Some(&expected));
        }
    }
}

#[test]
fn a_call_that_timed_out_while_the_worker_had_time_is_not_made_again() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    // Late by less than half of the timeout.
    worker.pass(2_500);
    worker.tick_for(2_500);
    worker.answer(504, "upstream request timeout");
    let expected = End::None(NoVerdict::Timeout);
    assert_eq!((worker.calls(), worker.end(request)), (0, Some(&expected)));
}

#[test]
fn a_call_that_timed_out_while_the_worker_was_busy_for_half_of_the_timeout_is_made_again() {
    for (busy, calls) in [(2_749, 0), (2_750, 1)] {
        let mut worker = Worker::new(&Rc::default());
        let upstream = upstream(&json!({}), GATEWAY);
        let request = worker.ask(&upstream, TOKENS[0], &ALICE);
        // The first quarter of a second is what a tick takes anyway.
        worker.pass(busy);
        worker.answer(504, "upstream request timeout");
        assert_eq!(worker.calls(), calls, "{busy} ms");
        assert_eq!(worker.end(request).is_none(), calls == 1);
    }
}

/// Its answers never come either.
#[test]
fn a_worker_that_is_always_busy_ends_what_waits() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    // Each tick would take a quarter of a second off the wait.
    let between = Duration::from_millis(2_600);
    let ticks = (1..).find(|_| {
        worker.pass(2_600);
        worker.end(request).is_some()
    });
    let waited = between * ticks.unwrap();
    println!("waited for {waited:?}");
    let call = upstream.settings.timeout + CALL_GRACE;
    let longest = call + Duration::from_secs(30) + between;
    assert!(waited > 2 * call && waited <= longest);
}
