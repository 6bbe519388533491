//! A clock for what the product took: it stands still while the machine does.
//!
//! A virtual machine that shares its processors stalls now and then, for a second and longer, and a busy one lets everything
//! wait for its turn. Where a test bounds a time from above, that is not the product's doing. So a thread wakes up a hundred
//! times a second, and each turn counts for no more than it should have taken: what it comes late is left out. On a machine
//! that is never late this is ordinary time, so the bound is as strict as it reads.
//!
//! It is for upper bounds alone. That something took long enough is judged by ordinary time, which Envoy's timers go by.

use std::{
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// Between two turns of the thread.
const TURN: Duration = Duration::from_millis(10);

/// What a turn counts for at the most: timers are a little late on every machine.
const MOST: Duration = Duration::from_millis(15);

/// A moment by this clock. Those of one process can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    pub fn now() -> Self {
        static CLOCK: OnceLock<Mutex<Clock>> = OnceLock::new();
        let clock = CLOCK.get_or_init(|| {
            thread::spawn(|| {
                loop {
                    thread::sleep(TURN);
                    Self::now();
                }
            });
            Mutex::new(Clock::new(Instant::now()))
        });
        Self(lock(clock).read(Instant::now()))
    }

    /// How long it is since `earlier`; nothing if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

/// How long the machine stalls.
#[derive(Clone, Copy)]
pub struct Stalls {
    begun: Instant,
    by_product: Moment,
}

impl Stalls {
    /// Begins to measure.
    pub fn measure() -> Self {
        Self {
            begun: Instant::now(),
            by_product: Moment::now(),
        }
    }

    /// How long it has stalled since.
    pub fn so_far(self) -> Duration {
        let by_product = self.by_product.elapsed();
        self.begun.elapsed().saturating_sub(by_product)
    }

    /// How often one token may have been asked about: once for all, and on a machine that has stalled for longer than half a
    /// lease once by each worker. One whose lease has run out looks dead to the others.
    pub fn calls_for_a_token(self, workers: usize) -> RangeInclusive<u64> {
        match self.so_far() < Duration::from_millis(500) {
            true => 1..=1,
            false => 1..=workers as u64,
        }
    }
}

/// What has counted so far.
struct Clock {
    read: Instant,
    counted: Duration,
}

impl Clock {
    const fn new(now: Instant) -> Self {
        Self {
            read: now,
            counted: Duration::ZERO,
        }
    }

    fn read(&mut self, now: Instant) -> Duration {
        // Readers come in any order.
        self.counted += now.saturating_duration_since(self.read).min(MOST);
        self.read = self.read.max(now);
        self.counted
    }
}

/// A panic elsewhere leaves these plain values whole, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

mod tests {
    use super::*;

    #[test]
    fn what_passes_between_two_turns_counts_up_to_its_limit() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        let mut at = start;
        let mut after = |millis| {
            at += Duration::from_millis(millis);
            clock.read(at).as_millis()
        };
        // In time, a little late, between two turns.
        assert_eq!([after(10), after(12), after(3)], [10, 22, 25]);
        // The machine stalled.
        assert_eq!([after(1_500), after(10)], [40, 50]);
        // A second without a stall is a second.
        for _ in 0..99 {
            after(10);
        }
        assert_eq!(after(10), 1_050);
    }

    #[test]
    fn an_older_reading_moves_nothing() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        let later = start + TURN;
        assert_eq!(clock.read(later), TURN);
        assert_eq!(clock.read(start), TURN);
        assert_eq!(clock.read(later), TURN);
    }
}
