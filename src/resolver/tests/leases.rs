//! Who holds the lease on a question, and for how long.

use super::*;
use crate::host::memory::MemoryStore;

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

#[test]
fn another_worker_waits_for_the_lease_and_reads_the_answer() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let upstream = upstream(&json!({}), GATEWAY);
    one.ask(&upstream, TOKENS[0], &ALICE);
    let waits = two.ask(&upstream, TOKENS[0], &ALICE);
    assert_eq!(one.calls(), 1);
    one.answer(200, ACTIVE);
    // The hint is lost: the lease has run out by then.
    two.pass(1_000);
    assert_eq!(two.end(waits), Some(&End::Active(Provenance::Introspected)));
    assert_eq!(two.calls(), 0);
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
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    read_hints(&mut one, 1);
    one.answer(200, INACTIVE);
    assert_eq!(one.calls(), 1);
    one.pass(5);
    two.pass(0);
    // 290 ms after the last tick.
    two.pass(290);
    assert_eq!((two.end(waits), host.calls.borrow().len()), (None, 1));
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

/// The bucket of leases was full, and no worker can be told that another waits.
#[test]
fn nobody_waits_for_a_lease_acquired_after_a_slow_answer() {
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
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    one.answer(200, INACTIVE);
    assert_eq!((one.end(first), one.calls()), (None, 1));
    host.advance(Duration::from_millis(710));
    tell(&mut two, &gateway, "bob", &Voiding::Inactive);
    one.answer(200, INACTIVE);
    assert_eq!((one.end(first), one.calls()), (Some(&End::Inactive), 0));
    host.advance(Duration::from_millis(1));
    let later = three.ask(&gateway, TOKENS[0], &BOB);
    assert_eq!((three.end(later), host.calls.borrow().len()), (None, 1));
}

/// More than half of the bucket is held by the time of a slow answer.
#[test]
fn a_lease_acquired_after_a_slow_answer_is_released_from_a_crowded_bucket() {
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

/// The first worker was busy, and the second one has the lease by now. The first one waits for no answer of the second one, which
/// then has no worker to tell of it.
#[test]
fn who_takes_its_answer_out_again_does_not_wait_for_the_other_one() {
    let host = Rc::<FakeHost>::default();
    let [mut one, mut two] = seated(&host);
    let [of_one, of_two] = each_with_its_own();
    let first = one.ask(&of_one, TOKENS[0], &ALICE);
    two.tick_for(1_250);
    let second = two.ask(&of_two, TOKENS[0], &BOB);
    assert_eq!(host.calls.borrow().len(), 2);
    host.advance(Duration::from_millis(10));
    one.answer(200, INACTIVE);
    assert_eq!(one.end(first), Some(&End::Inactive));
    assert_eq!(heard(&host, 2).count(), 0);
    host.advance(Duration::from_millis(10));
    two.answer(200, INACTIVE);
    assert_eq!(two.end(second), Some(&End::Inactive));
    assert_eq!(heard(&host, 1).count(), 0);
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

/// Another worker may be able to make it.
#[test]
fn a_call_that_cannot_be_made_leaves_no_lease_behind() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let upstream = upstream(&json!({}), GATEWAY);
    host.is_unreachable.set(true);
    let request = one.ask(&upstream, TOKENS[0], &ALICE);
    assert_eq!((one.calls(), one.end(request).is_some()), (0, true));
    host.is_unreachable.set(false);
    two.ask(&upstream, TOKENS[0], &ALICE);
    assert_eq!(two.calls(), 1);
}
