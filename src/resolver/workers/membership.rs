//! The workers of this Envoy process, and hints between them.
//!
//! Each worker takes a numbered seat in shared data and registers a shared queue of that number, at its
//! first request: the other VMs that Envoy starts never serve any. A seat is held by renewing it; one
//! whose worker has gone (its VM failed) is taken over, and its queue with it, so that neither places nor
//! undelivered messages pile up.
//!
//! A hint only says that it is worth looking into shared data now. Hints may be lost, late or repeated.

use std::time::Duration;

use crate::{
    cache::question::QuestionKey,
    clock::Instant,
    host::{Backend, If, QueueId, RootId},
    shared_data::name,
};

/// Most workers that can be told. Beyond that, a worker is not hinted and finds out by looking.
const MAX_WORKERS: u32 = 128;

/// How long a seat is held without renewal, and how often it is renewed.
const SEAT_TTL: Duration = Duration::from_secs(4);
const HEARTBEAT: Duration = Duration::from_secs(1);

/// In the place of a queue that is about to be registered.
const NO_QUEUE: QueueId = QueueId(0);

/// A seat as bytes: holder, queue, end.
const BYTES: usize = 8 + 4 + 8;

/// What one worker tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The answer to this question is in the shared cache, or the sender does not ask MAS for it any more. A worker with
    /// requests that wait for it looks into the cache again.
    LookAgain(QuestionKey),
    /// This question got no verdict.
    Failed(QuestionKey, Word),
    /// The same: MAS has voided the answers while they were on their way.
    Outdated(QuestionKey, Word),
    /// A worker waits for the answer to this question, whose lease the receiver has.
    Wanted(QuestionKey),
    /// Answers no longer hold: a number was raised, see [`crate::cache::epoch`].
    Invalidated,
}

/// The word that a question got no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// It is meant for those who had come before this moment.
    pub before: Instant,
    /// When it was given.
    pub at: Instant,
}

impl Hint {
    /// Returns the message.
    pub fn encode(self) -> Vec<u8> {
        let (kind, key, word) = match self {
            Self::LookAgain(key) => (1, Some(key), None),
            Self::Invalidated => (3, None, None),
            Self::Wanted(key) => (4, Some(key), None),
            Self::Failed(key, word) => (8, Some(key), Some(word)),
            Self::Outdated(key, word) => (9, Some(key), Some(word)),
        };
        let mut bytes = vec![kind];
        if let Some(key) = key {
            bytes.extend_from_slice(&key.to_bytes());
        }
        if let Some(Word { before, at }) = word {
            for moment in [before, at] {
                bytes.extend_from_slice(&moment.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads a hint; `None` for one of another version of this module.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let moment = |bytes: &[u8; 8]| Instant::from_le_bytes(*bytes);
        let with_word = |hint: fn(QuestionKey, Word) -> Self| {
            let (rest, at) = rest.split_last_chunk()?;
            let (key, before) = rest.split_last_chunk()?;
            let word = Word {
                before: moment(before),
                at: moment(at),
            };
            Some(hint(QuestionKey::from_bytes(key)?, word))
        };
        match kind {
            1 => QuestionKey::from_bytes(rest).map(Self::LookAgain),
            3 => Some(Self::Invalidated),
            4 => QuestionKey::from_bytes(rest).map(Self::Wanted),
            8 => with_word(Self::Failed),
            9 => with_word(Self::Outdated),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    number: u32,
    queue: QueueId,
    root: RootId,
    renew_at: Instant,
}

/// This worker among the others.
#[derive(Debug, Default)]
pub struct Membership {
    holder: Option<u64>,
    seat: Option<Seat>,
    /// The others, and their queues.
    others: Vec<(u64, QueueId)>,
    others_read_at: Option<Instant>,
    /// It had no seat for a while since that was last asked.
    has_lacked_seat: bool,
    /// As of the last reading of the others: the number of the first seat that no worker had ever taken, or whose worker had not
    /// registered its queue yet.
    free: u32,
}

struct Registration {
    holder: u64,
    queue: QueueId,
    until: Instant,
}

impl Registration {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (holder, rest) = bytes.split_first_chunk()?;
        let (queue, until) = rest.split_first_chunk()?;
        Some(Self {
            holder: u64::from_le_bytes(*holder),
            queue: QueueId(u32::from_le_bytes(*queue)),
            until: Instant::from_le_bytes(until.try_into().ok()?),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&self.holder.to_le_bytes());
        bytes.extend_from_slice(&self.queue.0.to_le_bytes());
        bytes.extend_from_slice(&self.until.to_le_bytes());
        bytes
    }
}

impl Membership {
    /// The number by which this worker signs leases.
    pub fn worker_id(&mut self, host: &impl Backend) -> u64 {
        *self.holder.get_or_insert_with(|| host.random())
    }

    /// Takes a seat, or renews it if that is due.
    pub fn heartbeat(&mut self, host: &impl Backend, root: RootId, now: Instant) {
        let holder = self.worker_id(host);
        match self.seat {
            Some(seat) if now < seat.renew_at => {}
            Some(seat) => self.renew(host, holder, seat, now),
            None => self.seat = take_seat(host, holder, root, now),
        }
        self.has_lacked_seat |= self.seat.is_none();
    }

    /// Notes that a root context has gone: a queue it registered no longer reaches this worker.
    pub fn on_root_end(&mut self, root: RootId) {
        if self.seat.take_if(|seat| seat.root == root).is_some() {
            self.has_lacked_seat = true;
        }
    }

    /// Returns whether hints may not have reached this worker since this was last asked: there is no seat for it, or it had
    /// none for a while.
    pub fn has_missed_hints(&mut self) -> bool {
        std::mem::replace(&mut self.has_lacked_seat, self.seat.is_none())
    }

    /// Sends a hint to every other worker, also to one that has just taken a new seat. A worker that has taken over the seat of
    /// another is told a heartbeat later at the most.
    pub fn broadcast(&mut self, host: &impl Backend, hint: Hint, now: Instant) {
        if self.others_are_old(now) || host.read(&key(self.free)).is_some() {
            self.read_others(host, now);
        }
        let message = hint.encode();
        for (_, queue) in &self.others {
            host.enqueue(*queue, &message);
        }
    }

    /// Sends a hint to the worker that signs leases with this number, if it has a seat.
    pub fn tell(&mut self, host: &impl Backend, holder: u64, hint: Hint, now: Instant) {
        // It may be new, or have taken another seat, and nobody reads the queue of the one before.
        if self.others_are_old(now) || self.queue_of(holder).is_none() {
            self.read_others(host, now);
        }
        if let Some(queue) = self.queue_of(holder) {
            host.enqueue(queue, &hint.encode());
        }
    }

    /// Returns whether this worker has a seat and has missed no hint, as far as [`Self::has_missed_hints`] has not told of it yet.
    pub fn has_seat(&self) -> bool {
        self.seat.is_some() && !self.has_lacked_seat
    }

    /// Returns whether the others are to be read again.
    fn others_are_old(&self, now: Instant) -> bool {
        self.others_read_at
            .is_none_or(|read_at| now >= read_at + HEARTBEAT)
    }

    fn queue_of(&self, holder: u64) -> Option<QueueId> {
        let mut others = self.others.iter();
        others.find_map(|(other, queue)| (*other == holder).then_some(*queue))
    }

    fn renew(&mut self, host: &impl Backend, holder: u64, mut seat: Seat, now: Instant) {
        let key = key(seat.number);
        let stored = host.read(&key);
        let is_ours = stored
            .as_ref()
            .and_then(|stored| Registration::decode(&stored.value))
            .is_some_and(|record| record.holder == holder);
        let Some(stored) = stored.filter(|_| is_ours) else {
            // Taken over while this worker was stalled.
            self.seat = None;
            return;
        };
        let record = Registration {
            holder,
            queue: seat.queue,
            until: now + SEAT_TTL,
        };
        let renewed = host.write(&key, &record.encode(), If::Unchanged(stored.cas));
        seat.renew_at = now + HEARTBEAT;
        self.seat = renewed.is_ok().then_some(seat);
    }

    fn read_others(&mut self, host: &impl Backend, now: Instant) {
        self.others_read_at = Some(now);
        self.others.clear();
        let own = self.seat.map(|seat| seat.number);
        self.free = MAX_WORKERS;
        for number in 0..MAX_WORKERS {
            // Places are taken in order, so the first that was never taken ends the list.
            let Some(stored) = host.read(&key(number)) else {
                self.free = self.free.min(number);
                break;
            };
            let record = Registration::decode(&stored.value).filter(|record| now < record.until);
            let Some(record) = record.filter(|_| own != Some(number)) else {
                continue;
            };
            if record.queue == NO_QUEUE {
                self.free = self.free.min(number);
                continue;
            }
            self.others.push((record.holder, record.queue));
        }
    }
}

fn take_seat(host: &impl Backend, holder: u64, root: RootId, now: Instant) -> Option<Seat> {
    for number in 0..MAX_WORKERS {
        let key = key(number);
        let stored = host.read(&key);
        let is_held = stored
            .as_ref()
            .and_then(|stored| Registration::decode(&stored.value))
            .is_some_and(|record| now < record.until && record.holder != holder);
        if is_held {
            continue;
        }
        let condition = stored.map_or(If::Absent, |stored| If::Unchanged(stored.cas));
        // The seat comes first: registering takes the queue away from its last worker.
        let reserved = Registration {
            holder,
            queue: NO_QUEUE,
            until: now + SEAT_TTL,
        };
        if host.write(&key, &reserved.encode(), condition).is_err() {
            continue;
        }
        let queue = host.register_queue(root, &name::queue(number))?;
        let stored = host.read(&key)?;
        let record = Registration {
            holder,
            queue,
            until: now + SEAT_TTL,
        };
        host.write(&key, &record.encode(), If::Unchanged(stored.cas))
            .ok()?;
        return Some(Seat {
            number,
            queue,
            root,
            renew_at: now + HEARTBEAT,
        });
    }
    None
}

fn key(number: u32) -> Vec<u8> {
    name::seat(number).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::{Runtime as _, Store as _, fake::FakeHost},
        token::TokenDigest,
    };

    const ROOT: RootId = RootId(1);
    const STRANGER: u64 = 7;

    fn question() -> QuestionKey {
        QuestionKey {
            digest: TokenDigest::of(b"token"),
            fingerprint: 1,
        }
    }

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

    const NOW: Instant = Instant::from_millis(1_790_000_000_000);
    const WORD: Word = Word {
        before: Instant::from_millis(1_789_999_999_000),
        at: NOW,
    };

    #[test]
    fn a_hint_is_read_as_it_was_written() {
        for hint in [
            Hint::LookAgain(question()),
            Hint::Failed(question(), WORD),
            Hint::Outdated(question(), WORD),
            Hint::Invalidated,
        ] {
            assert_eq!(Hint::decode(&hint.encode()), Some(hint));
        }
    }

    #[test]
    fn a_hint_of_another_version_is_none() {
        let stored = Hint::LookAgain(question()).encode();
        let failed = Hint::Failed(question(), WORD).encode();
        let longer = [&*stored, &[0]].concat();
        for bytes in [
            &[][..],
            &[0],
            &[1],
            &[2],
            &[4],
            &[255; 1 + QuestionKey::BYTES],
            &stored[..stored.len() - 1],
            &failed[..failed.len() - 1],
            &longer,
        ] {
            assert_eq!(Hint::decode(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn seats_are_taken_in_order_and_all_others_are_told() {
        let host = FakeHost::default();
        let mut workers = [0, 1, 2].map(|_| join(&host));
        assert_eq!(workers.each_ref().map(number), [Some(0), Some(1), Some(2)]);
        let hint = Hint::LookAgain(question());
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
        one.tell(&host, second, hint, host.now());
        assert_eq!(told(two, &host), [Some(hint)]);
        assert_eq!(told(three, &host), []);
        let mut late = join(&host);
        let fourth = late.worker_id(&host);
        one.tell(&host, fourth, hint, host.now());
        assert_eq!(told(&late, &host), [Some(hint)]);
        one.tell(&host, second ^ third ^ fourth, hint, host.now());
        one.tell(&host, STRANGER, hint, host.now());
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
        waiter.tell(&host, id, Hint::Invalidated, host.now());
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
        waiter.tell(&host, id, Hint::Invalidated, host.now());
        assert!(host.dequeue(queue).is_some() && host.dequeue(before).is_none());
    }
}
