//! The job queue of MAS, as far as the homeserver notices it.
//!
//! No I/O and no clock: time is an argument, since the Unix epoch.
//!
//! Jobs of different users run side by side, a limited number at once. A job that fails waits, each time twice as long
//! as before, and holds nobody up meanwhile: later jobs overtake it, those of the same user as well. Jobs of one user
//! never run at the same moment. MAS promises that for `sync_devices` only; here it makes the order of the calls about
//! one user predictable.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::Duration,
};

use serde::Serialize;

/// How long MAS waits before it tries a job again for the first time.
pub(super) const FIRST_RETRY_DELAY: Duration = Duration::from_secs(5);
/// How often MAS tries a failed job again before it gives it up.
const RETRIES: u32 = 10;
/// How many jobs MAS runs at once.
const MOST_RUNNING: usize = 10;

/// The jobs that have not ended: ready to run, running, or waiting to be tried again.
pub(super) struct Queue<J> {
    ready: VecDeque<Queued<J>>,
    /// The users of the jobs that run.
    running: HashSet<String>,
    /// By the time at which they are tried again; the number keeps apart those of the same time.
    waiting: BTreeMap<(Duration, u64), Queued<J>>,
    next_number: u64,
    first_retry_delay: Duration,
}

/// A job in the queue.
pub(super) struct Queued<J> {
    pub(super) job: J,
    user: String,
    /// How often it has failed.
    failures: u32,
}

/// How a run of a job ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// There is nothing more to do, be it that the job has failed for good.
    Done,
    /// It failed, and is to be tried again.
    Failed,
}

/// How many jobs have not ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct Progress {
    /// All of them.
    pub(super) unfinished: usize,
    /// Those that have failed and wait to be tried again.
    pub(super) retrying: usize,
}

impl<J> Queue<J> {
    /// An empty queue. Further delays are multiples of the first.
    pub(super) fn new(first_retry_delay: Duration) -> Self {
        Self {
            ready: VecDeque::new(),
            running: HashSet::new(),
            waiting: BTreeMap::new(),
            next_number: 0,
            first_retry_delay,
        }
    }

    /// Adds a job about `user`, behind those that are ready.
    pub(super) fn add(&mut self, user: &str, job: J) {
        self.ready.push_back(Queued {
            job,
            user: user.to_owned(),
            failures: 0,
        });
    }

    /// Takes out the next job to run `now`, if there is one and room for it. It runs until [`end`](Self::end).
    pub(super) fn start(&mut self, now: Duration) -> Option<Queued<J>> {
        while let Some(entry) = self.waiting.first_entry()
            && entry.key().0 <= now
        {
            self.ready.push_back(entry.remove());
        }
        if self.running.len() >= MOST_RUNNING {
            return None;
        }
        let next = self
            .ready
            .iter()
            .position(|queued| !self.running.contains(&queued.user))?;
        let queued = self.ready.remove(next)?;
        self.running.insert(queued.user.clone());
        Some(queued)
    }

    /// Takes note that a run has ended.
    pub(super) fn end(&mut self, mut queued: Queued<J>, outcome: Outcome, now: Duration) {
        self.running.remove(&queued.user);
        if outcome == Outcome::Done || queued.failures >= RETRIES {
            return;
        }
        let delay = self
            .first_retry_delay
            .saturating_mul(2_u32.saturating_pow(queued.failures));
        queued.failures += 1;
        self.waiting
            .insert((now.saturating_add(delay), self.next_number), queued);
        self.next_number += 1;
    }

    /// When the next failed job is tried again.
    pub(super) fn next_retry(&self) -> Option<Duration> {
        self.waiting.keys().next().map(|(due, _)| *due)
    }

    /// Lets the failed jobs run again without further delay.
    pub(super) fn retry_now(&mut self) {
        self.ready
            .extend(std::mem::take(&mut self.waiting).into_values());
    }

    /// Waits this long before the first retry of jobs that fail from now on.
    pub(super) const fn set_first_retry_delay(&mut self, delay: Duration) {
        self.first_retry_delay = delay;
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            unfinished: self.ready.len() + self.running.len() + self.waiting.len(),
            retrying: self.waiting.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_795_460_205);

    fn queue() -> Queue<u32> {
        Queue::new(FIRST_RETRY_DELAY)
    }

    #[test]
    fn each_delay_is_twice_the_one_before_until_the_job_is_given_up() {
        let mut queue = queue();
        let mut now = NOW;
        queue.add("alice", 1);
        let mut delays = Vec::new();
        while let Some(queued) = queue.start(now) {
            queue.end(queued, Outcome::Failed, now);
            if let Some(due) = queue.next_retry() {
                delays.push((due - now).as_secs());
                assert!(queue.start(due - Duration::from_nanos(1)).is_none());
                now = due;
            }
        }
        assert_eq!(
            delays,
            [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560],
            "and then no more"
        );
        assert_eq!(queue.progress(), Progress::default());
    }

    #[test]
    fn a_job_that_waits_is_overtaken_by_others_of_its_user() {
        let mut queue = queue();
        queue.add("alice", 1);
        queue.add("alice", 2);
        let first = queue.start(NOW).expect("a job");
        assert!(queue.start(NOW).is_none(), "one at a time");
        queue.end(first, Outcome::Failed, NOW);
        let second = queue.start(NOW).expect("the other");
        assert_eq!(second.job, 2);
        let progress = Progress {
            unfinished: 2,
            retrying: 1,
        };
        assert_eq!(queue.progress(), progress);
        queue.end(second, Outcome::Done, NOW);
        assert!(queue.start(NOW).is_none());
        queue.retry_now();
        assert_eq!(queue.start(NOW).map(|queued| queued.job), Some(1));
    }

    #[test]
    fn ten_users_have_their_jobs_run_at_once() {
        let mut queue = queue();
        for user in 0..12 {
            queue.add(&user.to_string(), user);
        }
        let mut running: Vec<_> = std::iter::from_fn(|| queue.start(NOW)).collect();
        let jobs: Vec<u32> = running.iter().map(|queued| queued.job).collect();
        assert_eq!(jobs, (0..10).collect::<Vec<_>>());
        queue.end(running.remove(3), Outcome::Done, NOW);
        assert_eq!(queue.start(NOW).map(|queued| queued.job), Some(10));
        assert!(queue.start(NOW).is_none());
    }
}
