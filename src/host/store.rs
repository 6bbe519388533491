//! The store behind the shared cache, as far as the cache knows it: Envoy's shared data, or a map in tests.
//!
//! The non-obvious rule: every write has a condition. An unconditional write would undo what another worker
//! has written in between.

use alloc::vec::Vec;

/// A value of the store with its compare-and-swap number.
pub struct Versioned {
    /// The value; empty if it was emptied.
    pub value: Vec<u8>,
    /// Changes with every write.
    pub cas: u32,
}

/// When a write to the store takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum If {
    /// Only if the key was never written.
    Absent,
    /// Only if nothing was written since this number was read.
    Unchanged(u32),
}

/// Why a write to the store had no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotWritten {
    /// The condition did not hold: another worker wrote first.
    Changed,
    /// The store refused.
    Refused,
}

impl NotWritten {
    /// Says in the log what follows from it.
    #[cold]
    pub fn log(self, consequence: &str) {
        log::error!("shared data could not be written; {consequence}");
    }
}

/// The store did not let a value be read, whether there is one or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

impl From<Unreadable> for NotWritten {
    /// What depends on a value is not written without it.
    fn from(_: Unreadable) -> Self {
        Self::Refused
    }
}

/// Envoy's shared data: keys that every worker sees and that are never freed.
pub trait Store {
    /// The value of `key`; `None` if it was never written.
    fn try_read(&self, key: &[u8]) -> Result<Option<Versioned>, Unreadable>;

    /// The same, where a value that cannot be read does no more harm than one that was never written.
    fn read(&self, key: &[u8]) -> Option<Versioned> {
        self.try_read(key).ok().flatten()
    }

    /// Writes `value` under `key` on a condition.
    fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten>;

    /// A random number, unknown to clients.
    fn random(&self) -> u64;
}

/// How often a value is written again after another worker wrote first.
const WRITE_ATTEMPTS: usize = 64;

/// Reads and writes by `attempt`, again and again while other workers write in between. Each of their writes that is in the
/// way has taken effect, so all of them together get on.
pub fn until_written<T>(
    mut attempt: impl FnMut() -> Result<T, NotWritten>,
) -> Result<T, NotWritten> {
    let mut left = WRITE_ATTEMPTS;
    loop {
        let outcome = attempt();
        left -= 1;
        if left == 0 || !matches!(outcome, Err(NotWritten::Changed)) {
            return outcome;
        }
    }
}

/// Writes what `change` makes of the value of `key`, also while other workers write.
pub fn update(
    store: &impl Store,
    key: &[u8],
    change: &mut dyn FnMut(Option<&[u8]>) -> Vec<u8>,
) -> Result<(), NotWritten> {
    until_written(|| {
        let stored = store.try_read(key)?;
        let value = change(stored.as_ref().map(|stored| stored.value.as_slice()));
        let condition = stored.map_or(If::Absent, |stored| If::Unchanged(stored.cas));
        store.write(key, &value, condition)
    })
}
