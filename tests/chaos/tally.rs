//! What is counted: what must not happen, with the first cases in words, and what else happened.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What must not happen.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Breach {
    /// A 401, or `active: false`, for a token that MAS calls active.
    Wrong401,
    /// An identity that is not the one that MAS has for the token.
    WrongIdentity,
    /// A request whose token is not active, or that needs one and has none, reached the homeserver.
    Unverified,
    /// No answer after 15 seconds.
    Unanswered,
    /// An answer that nothing explains.
    Unexplained,
    /// A worker's VM failed, and nobody asked for it.
    LostVm,
    /// A token or a secret in Envoy's log or metrics.
    Leaked,
}

impl Breach {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 7] = [
        Self::Wrong401,
        Self::WrongIdentity,
        Self::Unverified,
        Self::Unanswered,
        Self::Unexplained,
        Self::LostVm,
        Self::Leaked,
    ];

    /// As the table has it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Wrong401 => "wrong 401",
            Self::WrongIdentity => "identities that are not MAS's",
            Self::Unverified => "unverified forwards",
            Self::Unanswered => "requests unanswered after 15 s",
            Self::Unexplained => "answers that nothing explains",
            Self::LostVm => "VMs lost without being asked to",
            Self::Leaked => "lines of log and metrics with a token or a secret",
        }
    }
}

/// How many cases are kept in words, for each breach.
const KEPT: usize = 10;

/// The counts of a run.
#[derive(Default)]
pub struct Tally(Mutex<Counts>);

/// The counts at one moment.
#[derive(Clone, Default)]
pub struct Counts {
    breaches: BTreeMap<Breach, (u64, Vec<String>)>,
    events: BTreeMap<String, u64>,
    longest: BTreeMap<&'static str, Duration>,
}

impl Tally {
    /// Counts a breach.
    pub fn breach(&self, breach: Breach, case: String) {
        println!("BREACH {}: {case}", breach.title());
        let mut counts = self.lock();
        let (count, cases) = counts.breaches.entry(breach).or_default();
        *count += 1;
        if cases.len() < KEPT {
            cases.push(case);
        }
    }

    /// Counts something else.
    pub fn count(&self, event: impl Into<String>) {
        *self.lock().events.entry(event.into()).or_default() += 1;
    }

    /// Keeps the longest of these times.
    pub fn longest(&self, what: &'static str, took: Duration) {
        let mut counts = self.lock();
        let longest = counts.longest.entry(what).or_default();
        *longest = took.max(*longest);
    }

    /// The counts so far.
    pub fn so_far(&self) -> Counts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// How often a breach was seen.
    pub fn breaches(&self, breach: Breach) -> u64 {
        self.breaches.get(&breach).map_or(0, |(count, _)| *count)
    }

    /// How often any was seen.
    pub fn all_breaches(&self) -> u64 {
        Breach::ALL
            .iter()
            .map(|breach| self.breaches(*breach))
            .sum()
    }

    /// How often an event was counted.
    pub fn of(&self, event: &str) -> u64 {
        self.events.get(event).copied().unwrap_or_default()
    }

    /// The sum of the events whose names begin like this.
    pub fn sum(&self, prefix: &str) -> u64 {
        self.events
            .iter()
            .filter(|(event, _)| event.starts_with(prefix))
            .map(|(_, count)| count)
            .sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for breach in Breach::ALL {
            writeln!(f, "{:<60} {:>9}", breach.title(), self.breaches(breach))?;
        }
        writeln!(f)?;
        for (event, count) in &self.events {
            writeln!(f, "{event:<60} {count:>9}")?;
        }
        writeln!(f)?;
        for (what, took) in &self.longest {
            let seconds = format!("{:.2} s", took.as_secs_f64());
            writeln!(f, "{:<60} {seconds:>9}", format!("longest: {what}"))?;
        }
        Ok(())
    }
}
