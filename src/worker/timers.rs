//! The timers of a worker's root contexts.
//!
//! The non-obvious rule: Envoy's timer outlives its root, so it is stopped when the root ends.

use std::time::Duration;

use crate::{
    host::{Callback, Host, RootId},
    resolver::TICK,
};

/// How soon a tick comes while holds are left to end.
pub(super) const HURRIED_TICK: Duration = Duration::from_millis(1);

/// The timers of one worker.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Root contexts whose timer runs.
    roots: Vec<RootId>,
    /// The root context whose timer is fast, because holds are left to end.
    hurried: Option<RootId>,
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
        self.hurried.take_if(|hurried| *hurried == root);
        if had_timer {
            host.tick_every(root, None);
        }
        had_timer
    }

    /// Lets a tick come at once.
    pub(super) fn hurry<H: Host>(&mut self, cb: &Callback<'_, H>) {
        if self.hurried.is_none() {
            self.hurried = Some(cb.root);
            cb.host.tick_every(cb.root, Some(HURRIED_TICK));
        }
    }

    /// Lets ticks come as usual again.
    pub(super) fn slow_down(&mut self, host: &impl Host) {
        if let Some(root) = self.hurried.take() {
            host.tick_every(root, Some(TICK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn a_hurried_root_that_ends_lets_another_one_be_hurried() {
        let host = FakeHost::default();
        let mut timers = Timers::default();
        let roots = [RootId(1), RootId(2)];
        roots.iter().for_each(|root| timers.note(*root));
        for root in roots {
            timers.hurry(&Callback::new(&host, root));
            assert_eq!(host.period.get(), Some(HURRIED_TICK), "{root:?}");
            assert!(timers.stop(&host, root) && !timers.stop(&host, root));
            assert_eq!(host.period.get(), None);
            // It has ended: nothing is slowed down.
            timers.slow_down(&host);
            assert_eq!(host.period.get(), None);
        }
        assert!(timers.are_none());
    }
}
