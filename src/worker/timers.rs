//! The timers of a worker's root contexts.
//!
//! The non-obvious rule: Envoy's timer outlives its root, so it is stopped when the root ends.

use alloc::vec::Vec;
use core::time::Duration;

use crate::{
    host::{Callback, Host, RootId},
    resolver::TICK,
};

/// How soon a tick comes while holds are left to end. For calls that are to be repeated it is
/// [`RETRY_TICK`](crate::resolver::RETRY_TICK).
pub(super) const HURRIED_TICK: Duration = Duration::from_millis(1);

/// The timers of one worker.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Root contexts whose timer runs.
    roots: Vec<RootId>,
    /// The root context whose timer is fast, because holds are left to end or calls are to be repeated, and how fast.
    hurried: Option<(RootId, Duration)>,
}

impl Timers {
    /// Returns whether the timer of this root runs.
    #[inline]
    pub(super) fn run(&self, root: RootId) -> bool {
        self.roots.contains(&root)
    }

    /// Returns whether no timer runs.
    pub(super) fn are_none(&self) -> bool {
        self.roots.is_empty()
    }

    /// Notes that the timer of a root is started.
    pub(super) fn note(&mut self, root: RootId) {
        self.roots.push(root);
    }

    /// Stops the timer of a root that has ended. Returns whether it had one.
    pub(super) fn stop(&mut self, host: &impl Host, root: RootId) -> bool {
        let had_timer = self.run(root);
        self.roots.retain(|other| *other != root);
        self.hurried.take_if(|(hurried, _)| *hurried == root);
        if had_timer {
            host.tick_every(root, None);
        }
        had_timer
    }

    /// Lets a tick come so soon, unless one comes sooner.
    pub(super) fn hurry<H: Host>(&mut self, cb: &Callback<'_, H>, period: Duration) {
        let (root, current) = self.hurried.unwrap_or((cb.root, TICK));
        if period < current {
            self.hurried = Some((root, period));
            cb.host.tick_every(root, Some(period));
        }
    }

    /// Lets ticks come as usual again.
    pub(super) fn slow_down(&mut self, host: &impl Host) {
        if let Some((root, _)) = self.hurried.take() {
            host.tick_every(root, Some(TICK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{host::fake::FakeHost, resolver::RETRY_TICK};

    #[test]
    fn a_hurried_root_that_ends_lets_another_one_be_hurried() {
        let host = FakeHost::default();
        let mut timers = Timers::default();
        let roots = [RootId(1), RootId(2)];
        roots.iter().for_each(|root| timers.note(*root));
        for root in roots {
            timers.hurry(&Callback::new(&host, root), HURRIED_TICK);
            assert_eq!(host.period.get(), Some(HURRIED_TICK), "{root:?}");
            assert!(timers.stop(&host, root) && !timers.stop(&host, root));
            assert_eq!(host.period.get(), None);
            // It has ended: nothing is slowed down.
            timers.slow_down(&host);
            assert_eq!(host.period.get(), None);
        }
        assert!(timers.are_none());
    }

    #[test]
    fn the_shorter_of_two_periods_counts() {
        let host = FakeHost::default();
        let mut timers = Timers::default();
        timers.note(RootId(1));
        let cb = Callback::new(&host, RootId(1));
        for (period, expected) in [
            (RETRY_TICK, RETRY_TICK),
            (HURRIED_TICK, HURRIED_TICK),
            (RETRY_TICK, HURRIED_TICK),
        ] {
            timers.hurry(&cb, period);
            assert_eq!(host.period.get(), Some(expected));
        }
        timers.slow_down(&host);
        assert_eq!(host.period.get(), Some(TICK));
    }
}
