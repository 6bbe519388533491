//! Whether a look at where a client's request is routed is due: `gateway/outside.rs` says why the log tells of it.
//!
//! The non-obvious rule: to look is a host call. So one request between two ticks is looked at, and none once the log has told.

use core::cell::Cell;

/// The watch over the routes of one plugin configuration.
#[derive(Debug, Default)]
pub struct RouteWatch {
    is_reported: Cell<bool>,
    was_looked_at: Cell<bool>,
}

impl RouteWatch {
    /// Returns whether a request is to be looked at now, and notes that it is.
    pub fn admit(&self) -> bool {
        !self.is_reported.get() && !self.was_looked_at.replace(true)
    }

    /// Notes that the log has told.
    pub fn note_report(&self) {
        self.is_reported.set(true);
    }

    /// Lets one more request be looked at.
    pub fn on_tick(&self) {
        self.was_looked_at.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_of_a_tick_is_looked_at_until_the_log_has_told() {
        let watch = RouteWatch::default();
        for _ in 0..3 {
            assert!(watch.admit() && !watch.admit());
            watch.on_tick();
        }
        watch.note_report();
        assert!(!watch.admit());
    }
}
