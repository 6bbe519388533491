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
};

/// Most workers that can be told. Beyond that, a worker is not hinted and finds out by looking.
const MAX_WORKERS: u32 = 128;

/// How long a seat is held without renewal, and how often it is renewed.
const SEAT_TTL: Duration = Duration::from_secs(4);
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A seat as bytes: holder, queue, end.
const BYTES: usize = 8 + 4 + 8;

/// What one worker tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The answer to this question is in the shared cache.
    Stored(QuestionKey),
    /// This question got no verdict.
    Failed(QuestionKey),
    /// Answers no longer hold: a number was raised, see [`crate::cache::epoch`].
    Invalidated,
}

impl Hint {
    fn encode(self) -> Vec<u8> {
        let (kind, key) = match self {
            Self::Stored(key) => (1, Some(key)),
            Self::Failed(key) => (2, Some(key)),
            Self::Invalidated => (3, None),
        };
        let mut bytes = vec![kind];
        if let Some(key) = key {
            bytes.extend_from_slice(&key.to_bytes());
        }
        bytes
    }

    /// Reads a hint; `None` for one of another version of this module.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (1, key) => QuestionKey::from_bytes(key).map(Self::Stored),
            (2, key) => QuestionKey::from_bytes(key).map(Self::Failed),
            (3, _) => Some(Self::Invalidated),
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
    others: Vec<QueueId>,
    others_read_at: Option<Instant>,
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
            until: Instant::from_millis(u64::from_le_bytes(until.try_into().ok()?)),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&self.holder.to_le_bytes());
        bytes.extend_from_slice(&self.queue.0.to_le_bytes());
        bytes.extend_from_slice(&self.until.as_millis().to_le_bytes());
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
    }

    /// Notes that a root context has gone: a queue it registered no longer reaches this worker.
    pub fn root_ended(&mut self, root: RootId) {
        self.seat = self.seat.filter(|seat| seat.root != root);
    }

    /// Sends a hint to every other worker.
    pub fn broadcast(&mut self, host: &impl Backend, hint: Hint, now: Instant) {
        if self
            .others_read_at
            .is_none_or(|read_at| now >= read_at + HEARTBEAT)
        {
            self.read_others(host, now);
        }
        let message = hint.encode();
        for queue in &self.others {
            host.enqueue(*queue, &message);
        }
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
        for number in 0..MAX_WORKERS {
            // Places are taken in order, so the first that was never taken ends the list.
            let Some(stored) = host.read(&key(number)) else {
                break;
            };
            let record = Registration::decode(&stored.value).filter(|record| now < record.until);
            if let Some(record) = record.filter(|_| own != Some(number)) {
                self.others.push(record.queue);
            }
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
        // The seat comes first: registering takes the queue away from whoever had it.
        let reserved = Registration {
            holder,
            queue: QueueId(0),
            until: now + SEAT_TTL,
        };
        if host.write(&key, &reserved.encode(), condition).is_err() {
            continue;
        }
        let queue = host.register_queue(root, &format!("matrix-edge-auth.q.{number}"))?;
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

fn key(number: u32) -> String {
    format!("matrix-edge-auth.w.{number}")
}
