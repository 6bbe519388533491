//! The workers of this Envoy process, and how a [hint](Hint) reaches them.
//!
//! Each worker takes a numbered seat in shared data and registers a shared queue of that number, at its
//! first request: the other VMs that Envoy starts never serve any. A seat is held by renewing it; one
//! whose worker has gone (its VM failed) is taken over, and its queue with it, so that neither places nor
//! undelivered messages pile up.

use alloc::vec::Vec;
use core::time::Duration;

use super::hint::Hint;
use crate::{
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
        core::mem::replace(&mut self.has_lacked_seat, self.seat.is_none())
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
    pub fn notify(&mut self, host: &impl Backend, holder: u64, hint: Hint, now: Instant) {
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
mod tests;
