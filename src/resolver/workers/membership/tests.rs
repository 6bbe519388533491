//! Seats: how they are taken, held and lost, and who is told.

use super::*;
use crate::{
    cache::question::QuestionKey,
    host::{Runtime as _, Store as _, fake::FakeHost},
    token::TokenDigest,
};

const ROOT: RootId = RootId(1);
const STRANGER: u64 = 7;

fn heartbeat(worker: &mut Membership, host: &FakeHost) {
    worker.heartbeat(host, ROOT, host.now());
}

/// A worker that has just taken a seat.
fn join(host: &FakeHost) -> Membership {
    let mut worker = Membership::default();
    heartbeat(&mut worker, host);
    worker
}

fn number(worker: &Membership) -> Option<u32> {
    worker.seat.map(|seat| seat.number)
}

fn registration(host: &FakeHost, number: u32) -> Option<Registration> {
    Registration::decode(&host.read(&key(number))?.value)
}

/// Takes out what a worker was told.
fn told(worker: &Membership, host: &FakeHost) -> Vec<Option<Hint>> {
    let queue = worker.seat.expect("a worker with a seat").queue;
    std::iter::from_fn(|| host.dequeue(queue))
        .map(|message| Hint::decode(&message))
        .collect()
}

/// Another worker's seat, as it writes it itself.
fn seat_of_stranger(until: Instant) -> Vec<u8> {
    Registration {
        holder: STRANGER,
        queue: QueueId(STRANGER as u32),
        until,
    }
    .encode()
}

#[test]
fn seats_are_taken_in_order_and_all_others_are_told() {
    let host = FakeHost::default();
    let mut workers = [0, 1, 2].map(|_| join(&host));
    assert_eq!(workers.each_ref().map(number), [Some(0), Some(1), Some(2)]);
    let hint = Hint::LookAgain(QuestionKey {
        digest: TokenDigest::of(b"token"),
        fingerprint: 1,
    });
    workers[1].broadcast(&host, hint, host.now());
    assert_eq!(told(&workers[0], &host), [Some(hint)]);
    assert_eq!(told(&workers[1], &host), [], "itself");
    assert_eq!(told(&workers[2], &host), [Some(hint)]);
}

#[test]
fn a_seat_is_renewed_when_that_is_due_and_held_by_it() {
    let host = FakeHost::default();
    let mut worker = join(&host);
    let joined = host.now();
    let end = || registration(&host, 0).map(|seat| seat.until);
    host.advance(HEARTBEAT - Duration::from_millis(1));
    heartbeat(&mut worker, &host);
    assert_eq!(end(), Some(joined + SEAT_TTL), "not yet due");
    host.advance(Duration::from_millis(1));
    heartbeat(&mut worker, &host);
    assert_eq!(end(), Some(joined + HEARTBEAT + SEAT_TTL));
    host.advance(SEAT_TTL - Duration::from_millis(1));
    assert_eq!(number(&join(&host)), Some(1));
    heartbeat(&mut worker, &host);
    assert_eq!(number(&worker), Some(0));
}

#[test]
fn the_seat_of_a_worker_that_is_gone_is_taken_over_with_its_queue() {
    let host = FakeHost::default();
    let gone = join(&host);
    let mut stays = join(&host);
    for _ in 0..4 {
        host.advance(SEAT_TTL / 4);
        heartbeat(&mut stays, &host);
    }
    stays.broadcast(&host, Hint::Invalidated, host.now());
    assert_eq!(told(&gone, &host), [], "its seat has run out");
    let heir = join(&host);
    assert_eq!(number(&heir), Some(0));
    let queue = |worker: &Membership| worker.seat.map(|seat| seat.queue);
    assert_eq!(queue(&heir), queue(&gone));
    host.advance(HEARTBEAT);
    stays.broadcast(&host, Hint::Invalidated, host.now());
    assert_eq!(told(&heir, &host), [Some(Hint::Invalidated)]);
}

#[test]
fn a_worker_that_was_stalled_takes_another_seat() {
    let host = FakeHost::default();
    let mut stalled = join(&host);
    host.advance(SEAT_TTL);
    let heir = join(&host);
    heartbeat(&mut stalled, &host);
    assert_eq!(number(&stalled), None, "taken over");
    heartbeat(&mut stalled, &host);
    assert_eq!((number(&heir), number(&stalled)), (Some(0), Some(1)));
    let missed = [(); 2].map(|()| stalled.has_missed_hints());
    assert_eq!(missed, [true, false], "the heir had its queue for a while");
    let record = registration(&host, 0).unwrap();
    assert_eq!(Some(record.holder), heir.holder, "it took nothing back");
}

#[test]
fn a_stalled_worker_whose_seat_nobody_took_goes_on_with_it() {
    let host = FakeHost::default();
    let mut stalled = join(&host);
    host.advance(SEAT_TTL * 10);
    heartbeat(&mut stalled, &host);
    assert_eq!(number(&stalled), Some(0));
    let record = registration(&host, 0).unwrap();
    assert_eq!(record.until, host.now() + SEAT_TTL);
}

#[test]
fn a_seat_that_another_worker_takes_in_the_middle_of_it_is_lost() {
    let taken_by_stranger = |host: &FakeHost| {
        let seat = seat_of_stranger(host.now() + SEAT_TTL);
        host.store.interfere.replace(Some(Box::new(move |store| {
            let condition = store
                .read(&key(0))
                .map_or(If::Absent, |stored| If::Unchanged(stored.cas));
            store.write(&key(0), &seat, condition).unwrap();
        })));
    };
    let host = FakeHost::default();
    taken_by_stranger(&host);
    assert_eq!(number(&join(&host)), Some(1), "in the middle of taking it");

    let host = FakeHost::default();
    let mut worker = join(&host);
    host.advance(SEAT_TTL);
    taken_by_stranger(&host);
    heartbeat(&mut worker, &host);
    assert_eq!(number(&worker), None, "in the middle of renewing it");
    assert_eq!(registration(&host, 0).unwrap().holder, STRANGER);
}

#[test]
fn a_root_takes_only_its_own_seat_along() {
    let host = FakeHost::default();
    let mut worker = join(&host);
    worker.on_root_end(RootId(2));
    assert_eq!(number(&worker), Some(0));
    worker.on_root_end(ROOT);
    assert_eq!(number(&worker), None);
    worker.heartbeat(&host, RootId(2), host.now());
    let seat = worker.seat.unwrap();
    assert_eq!((seat.number, seat.root), (0, RootId(2)), "it is still its");
}

#[test]
fn a_worker_without_a_queue_has_no_seat_until_it_gets_one() {
    let host = FakeHost::default();
    host.has_no_queues.set(true);
    let mut worker = join(&host);
    assert_eq!(number(&worker), None);
    host.has_no_queues.set(false);
    heartbeat(&mut worker, &host);
    assert_eq!(number(&worker), Some(0));
}

#[test]
fn a_new_worker_is_told_at_once() {
    let host = FakeHost::default();
    let mut worker = join(&host);
    for _ in 0..3 {
        worker.broadcast(&host, Hint::Invalidated, host.now());
        let late = join(&host);
        worker.broadcast(&host, Hint::Invalidated, host.now());
        assert_eq!(told(&late, &host), [Some(Hint::Invalidated)]);
    }
}

#[test]
fn a_worker_that_was_seen_while_it_took_its_seat_is_told_once_it_has_a_queue() {
    let host = FakeHost::default();
    let mut worker = join(&host);
    let queue = QueueId(STRANGER as u32);
    for queue_so_far in [NO_QUEUE, queue] {
        let seat = Registration {
            holder: STRANGER,
            queue: queue_so_far,
            until: host.now() + SEAT_TTL,
        };
        let condition = host
            .read(&key(1))
            .map_or(If::Absent, |seat| If::Unchanged(seat.cas));
        host.write(&key(1), &seat.encode(), condition).unwrap();
        worker.broadcast(&host, Hint::Invalidated, host.now());
    }
    assert!(host.dequeue(queue).is_some());
}

#[test]
fn one_worker_is_told_alone_also_if_it_is_new() {
    let host = FakeHost::default();
    let mut workers = [0, 1, 2].map(|_| join(&host));
    let hint = Hint::Invalidated;
    let [one, two, three] = &mut workers;
    let (second, third) = (two.worker_id(&host), three.worker_id(&host));
    one.notify(&host, second, hint, host.now());
    assert_eq!(told(two, &host), [Some(hint)]);
    assert_eq!(told(three, &host), []);
    let mut late = join(&host);
    let fourth = late.worker_id(&host);
    one.notify(&host, fourth, hint, host.now());
    assert_eq!(told(&late, &host), [Some(hint)]);
    one.notify(&host, second ^ third ^ fourth, hint, host.now());
    one.notify(&host, STRANGER, hint, host.now());
    for worker in [one, two, three, &late] {
        assert_eq!(told(worker, &host), []);
    }
}

#[test]
fn a_seat_in_a_foreign_format_is_passed_over_and_may_be_taken() {
    let host = FakeHost::default();
    let mut workers = [0, 1].map(|_| join(&host));
    let stored = host.read(&key(0)).unwrap();
    host.write(&key(0), b"foreign", If::Unchanged(stored.cas))
        .unwrap();
    let mut third = Membership::default();
    third.broadcast(&host, Hint::Invalidated, host.now());
    assert_eq!(told(&workers[0], &host), []);
    assert_eq!(told(&workers[1], &host), [Some(Hint::Invalidated)]);
    host.advance(HEARTBEAT);
    heartbeat(&mut workers[0], &host);
    assert_eq!(number(&workers[0]), None, "it cannot show that it is its");
    heartbeat(&mut third, &host);
    assert_eq!(number(&third), Some(0));
}

#[test]
fn a_worker_that_finds_every_seat_taken_still_tells_the_others() {
    let host = FakeHost::default();
    let workers: Vec<_> = (0..MAX_WORKERS).map(|_| join(&host)).collect();
    let mut surplus = join(&host);
    assert_eq!(number(&surplus), None);
    surplus.broadcast(&host, Hint::Invalidated, host.now());
    for worker in &workers {
        assert_eq!(told(worker, &host), [Some(Hint::Invalidated)]);
    }
}

#[test]
fn a_worker_that_has_moved_to_another_seat_is_told_there() {
    let host = FakeHost::default();
    let [mut gone, mut holder, mut waiter] = [(); 3].map(|()| Membership::default());
    for worker in [&mut gone, &mut holder, &mut waiter] {
        heartbeat(worker, &host);
    }
    let id = holder.worker_id(&host);
    waiter.notify(&host, id, Hint::Invalidated, host.now());
    // The first seat runs out, and the holder's configuration is replaced.
    for _ in 0..6 {
        host.advance(HEARTBEAT);
        heartbeat(&mut holder, &host);
        heartbeat(&mut waiter, &host);
    }
    let before = holder.seat.unwrap().queue;
    while host.dequeue(before).is_some() {}
    holder.on_root_end(ROOT);
    heartbeat(&mut holder, &host);
    let queue = holder.seat.unwrap().queue;
    assert_ne!(queue, before);
    waiter.notify(&host, id, Hint::Invalidated, host.now());
    assert!(host.dequeue(queue).is_some() && host.dequeue(before).is_none());
}
