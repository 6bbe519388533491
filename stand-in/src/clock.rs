//! The time a stand-in lives in: the system's, or one that a test sets.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

/// A clock that reads the time since the Unix epoch. Clones share the same time.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Manual(watch::Sender<Duration>),
}

impl Clock {
    /// The system's wall clock.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `since_epoch` until it is set or advanced.
    pub fn manual(since_epoch: Duration) -> Self {
        Self(Source::Manual(watch::Sender::new(since_epoch)))
    }

    /// The time since the Unix epoch.
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::System => system_now(),
            Source::Manual(now) => *now.borrow(),
        }
    }

    /// Moves a manual clock to `since_epoch`, forwards or backwards.
    ///
    /// # Panics
    ///
    /// If this is the system's clock.
    pub fn set(&self, since_epoch: Duration) {
        match &self.0 {
            Source::System => panic!("the system's clock cannot be set"),
            Source::Manual(now) => {
                now.send_replace(since_epoch);
            }
        }
    }

    /// Moves a manual clock forwards by `by`.
    ///
    /// # Panics
    ///
    /// If this is the system's clock.
    pub fn advance(&self, by: Duration) {
        self.set(self.now() + by);
    }

    /// Resolves when it is `since_epoch` or later. With a manual clock that is when a test sets it so.
    pub async fn wait_until(&self, since_epoch: Duration) {
        match &self.0 {
            Source::System => tokio::time::sleep(since_epoch.saturating_sub(system_now())).await,
            Source::Manual(now) => {
                // The sender lives in `self`, so waiting cannot fail.
                let _ = now.subscribe().wait_for(|now| *now >= since_epoch).await;
            }
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::System => f.write_str("Clock::system"),
            Source::Manual(_) => write!(f, "Clock::manual({:?})", self.now()),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where the stand-ins read the real time"
)]
fn system_now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
