//! A clock for what the product took: it stands still while the machine keeps the product from running.
//!
//! A virtual machine that shares its processors stalls now and then, for a second and longer, and on a busy one a thread waits
//! for its turn. Where a test bounds a time from above, that is not the product's doing. So a thread of this module looks forty
//! times a second for two things, and what it finds does not count:
//!
//! - It comes late itself: the whole machine stood still, or at least this program and all that it started.
//! - A thread of the test, or a worker of one of its Envoys, could run and was given no processor. Linux counts that for each
//!   thread, in the second number of `/proc/PID/task/TID/schedstat`. Elsewhere this is not seen.
//!
//! On a machine that has nothing else to do both are next to nothing, so the bound is as strict as it reads.
//!
//! It is for upper bounds alone. That something took long enough is judged by ordinary time, less what [`EARLY`] says.

use std::{
    collections::HashMap,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use tokio::time::Instant;

/// Between two looks.
const TURN: Duration = Duration::from_millis(25);

/// What is shorter counts for the product.
const LEAST: Duration = Duration::from_millis(5);

/// How much sooner than after its time a timer of Envoy may end, or an answer of the module.
///
/// Envoy's timers go by the coarse clock of Linux, which moves on 100 to 1,000 times a second: a timer may count from a moment
/// that is up to 10 ms past. The module counts in whole milliseconds.
pub const EARLY: Duration = Duration::from_millis(10);

/// A wait that the product notices.
const LONG: Duration = Duration::from_millis(500);

/// A moment of the test, between two of which is time of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Instant);

impl Moment {
    pub fn now() -> Self {
        // The clock must run before the time that it is asked about.
        clock();
        Self(Instant::now())
    }

    /// How much time the product had since `earlier`; none if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        let all = self.0.saturating_duration_since(earlier.0);
        all.saturating_sub(lock(clock()).look().between(earlier.0, self.0).sum())
    }

    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

/// How much time the workers of one Envoy had since a moment, whatever else is waiting on the machine: for a timer of theirs.
pub struct OfWorkers {
    process: String,
    since: Instant,
    /// By worker, what it had waited until then.
    waited: HashMap<PathBuf, Duration>,
}

impl OfWorkers {
    /// Begins to measure.
    pub fn measure(process: u32) -> Self {
        clock();
        let process = process.to_string();
        let workers = threads(&process).unwrap_or_default().into_iter();
        let workers = workers.filter(|worker| is_worker(&name(worker)));
        let waited = workers.filter_map(|worker| Some((waited(&worker)?, worker)));
        Self {
            since: Instant::now(),
            waited: waited.map(|(waited, worker)| (worker, waited)).collect(),
            process,
        }
    }

    /// How much time the one had that waited longest.
    pub fn so_far(&self) -> Duration {
        let now = Instant::now();
        let waits = self.waited.iter().map(|(worker, before)| {
            let now = waited(worker).unwrap_or(*before);
            now.saturating_sub(*before)
        });
        let longest = waits.max().unwrap_or_default();
        let machine: Duration = lock(clock()).machine.between(self.since, now).sum();
        (now - self.since).saturating_sub(longest + machine)
    }
}

/// What the machine keeps from the product since a moment.
#[derive(Clone, Copy)]
pub struct Stalls(Moment);

impl Stalls {
    /// Begins to measure.
    pub fn measure() -> Self {
        Self(Moment::now())
    }

    /// How long the machine has stalled since, in all.
    pub fn so_far(self) -> Duration {
        let now = Instant::now();
        lock(clock()).look().between(self.0.0, now).sum()
    }

    /// How often one token may have been asked about: once for all, and on a machine that has stalled for half a lease once by
    /// each worker. One whose lease has run out looks dead to the others.
    pub fn calls_for_a_token(self, workers: usize) -> RangeInclusive<u64> {
        match self.are_there() {
            false => 1..=1,
            true => 1..=workers as u64,
        }
    }

    /// Whether one thread, or all of them, got nothing for half a second at once, which is more than the product allows for.
    /// Threads that wait for each other all the time are no stall.
    pub fn are_there(self) -> bool {
        let mut clock = lock(clock());
        clock.look();
        let since = clock.long_waits.between(self.0.0, Instant::now());
        since.count() > 0
    }
}

/// The Envoys that were started, by process.
static ENVOYS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Looks at the workers of this Envoy too. Nothing is looked at before the clock is asked for the first time.
pub fn watch(process: u32) {
    lock(&ENVOYS).push(process.to_string());
}

fn clock() -> &'static Mutex<Clock> {
    static CLOCK: OnceLock<Mutex<Clock>> = OnceLock::new();
    CLOCK.get_or_init(|| {
        thread::spawn(|| {
            loop {
                let due = Instant::now() + TURN;
                thread::sleep(TURN);
                let now = Instant::now();
                let mut clock = lock(clock());
                let late = now.saturating_duration_since(due);
                clock.machine.add(late, now);
                clock.add(late, now);
                clock.look();
            }
        });
        Mutex::new(Clock::default())
    })
}

#[derive(Default)]
struct Clock {
    waits: Waits,
    stalls: Periods,
    /// Those of them in which the clock itself stood still.
    machine: Periods,
    /// Those of them that a single wait made, each long enough.
    long_waits: Periods,
}

impl Clock {
    fn look(&mut self) -> &Periods {
        let longest = self.waits.longest();
        self.add(longest, Instant::now());
        &self.stalls
    }

    fn add(&mut self, wait: Duration, now: Instant) {
        self.stalls.add(wait, now);
        if wait >= LONG {
            self.long_waits.add(wait, now);
        }
    }
}

/// What the threads of this program and of its Envoys have waited for a processor.
#[derive(Default)]
struct Waits {
    /// By thread, what it had waited at the last look; nothing if it is of no interest.
    threads: HashMap<PathBuf, Option<Duration>>,
}

impl Waits {
    /// The longest that a thread has waited since the last look.
    fn longest(&mut self) -> Duration {
        let threads = &mut self.threads;
        let mut longest = Duration::ZERO;
        let mut look = |process: &str, of_interest: fn(&str) -> bool| {
            let Some(tasks) = self::threads(process) else {
                return false;
            };
            for task in tasks {
                match threads.get_mut(&task) {
                    Some(None) => {}
                    Some(Some(before)) => {
                        let now = waited(&task).unwrap_or(*before);
                        longest = longest.max(now.saturating_sub(*before));
                        *before = now;
                    }
                    None => {
                        let known = waited(&task).filter(|_| of_interest(&name(&task)));
                        threads.insert(task, known);
                    }
                }
            }
            true
        };
        look("self", |_| true);
        lock(&ENVOYS).retain(|process| look(process, is_worker));
        longest
    }
}

/// The threads of a process; `None` if it has ended.
fn threads(process: &str) -> Option<Vec<PathBuf>> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    Some(tasks.flatten().map(|task| task.path()).collect())
}

fn name(thread: &Path) -> String {
    let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// Whether a thread of this name is a worker of an Envoy.
fn is_worker(name: &str) -> bool {
    name.starts_with("wrk:")
}

/// How long a thread has waited for a processor since it began.
fn waited(thread: &Path) -> Option<Duration> {
    let text = fs::read_to_string(thread.join("schedstat")).ok()?;
    let nanos = text.split(' ').nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// Periods that do not touch each other, the newest last.
#[derive(Default)]
struct Periods(Vec<(Instant, Instant)>);

impl Periods {
    /// Adds the last `length` before `now`, if it is long enough.
    fn add(&mut self, length: Duration, now: Instant) {
        if length < LEAST {
            return;
        }
        let Some(mut begun) = now.checked_sub(length) else {
            return;
        };
        let mut ended = now;
        while let Some((first, last)) = self.0.pop_if(|(_, last)| *last >= begun) {
            begun = begun.min(first);
            ended = ended.max(last);
        }
        self.0.push((begun, ended));
    }

    /// The parts between two moments.
    fn between(&self, from: Instant, to: Instant) -> impl Iterator<Item = Duration> + use<'_> {
        let newest = self.0.iter().rev();
        newest
            .take_while(move |(_, ended)| *ended > from)
            .map(move |(begun, ended)| {
                (*ended)
                    .min(to)
                    .saturating_duration_since((*begun).max(from))
            })
    }
}

/// A panic elsewhere leaves these plain values whole, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

mod tests {
    use super::*;

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn periods_count_once_however_many_threads_wait_in_them() {
        let start = Instant::now() + millis(10_000);
        let mut periods = Periods::default();
        for (length, at) in [
            // One stall that three threads notice, one after the other.
            (1_500, 2_000),
            (1_490, 2_005),
            (20, 2_010),
            // Too short.
            (4, 2_100),
            // Two that touch, and another one.
            (50, 3_000),
            (60, 3_050),
            (100, 4_000),
        ] {
            periods.add(millis(length), start + millis(at));
        }
        let sum = |from, to| -> Duration {
            let (from, to) = (start + millis(from), start + millis(to));
            periods.between(from, to).sum()
        };
        assert_eq!(sum(0, 5_000), millis(1_510 + 100 + 100));
        assert_eq!(sum(0, 2_500), millis(1_510));
        assert_eq!(sum(1_000, 1_500), millis(500), "within a stall");
        assert_eq!(sum(3_980, 3_990), millis(10));
        assert_eq!(sum(2_020, 2_900), millis(0));
        assert_eq!(sum(4_000, 5_000), millis(0));
    }

    /// Linux counts that at the end of each wait. Two threads on one processor must wait for each other.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_thread_that_waits_for_a_processor_is_seen() {
        let mut waits = Waits::default();
        waits.longest();
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let begun = Instant::now();
        let mut longest = Duration::ZERO;
        thread::scope(|scope| {
            for _ in 0..=2 * processors {
                scope.spawn(|| while begun.elapsed() < millis(500) {});
            }
            while begun.elapsed() < millis(500) {
                thread::sleep(millis(20));
                longest = longest.max(waits.longest());
            }
        });
        assert!(longest > Duration::ZERO);
    }
}
