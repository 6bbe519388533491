//! The store behind the shared cache, as far as the cache knows it: Envoy's shared data, or a map in tests.
//!
//! The non-obvious rule: every write has a condition. An unconditional write would undo what another worker
//! has written in between.

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

/// Envoy's shared data: keys that every worker sees and that are never freed.
pub trait Store {
    /// The value of `key`; `None` if it was never written or cannot be read.
    fn read(&self, key: &[u8]) -> Option<Versioned>;

    /// Writes `value` under `key` on a condition.
    fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten>;

    /// A random number, unknown to clients.
    fn random(&self) -> u64;
}

/// How often a value is written again after another worker wrote first.
const WRITE_ATTEMPTS: usize = 64;

/// Writes what `change` makes of the value of `key`, also while other workers write.
pub fn update(
    store: &impl Store,
    key: &[u8],
    change: &mut dyn FnMut(Option<&[u8]>) -> Vec<u8>,
) -> Result<(), NotWritten> {
    let mut outcome = Err(NotWritten::Changed);
    for _ in 0..WRITE_ATTEMPTS {
        let stored = store.read(key);
        let value = change(stored.as_ref().map(|stored| stored.value.as_slice()));
        let condition = stored.map_or(If::Absent, |stored| If::Unchanged(stored.cas));
        outcome = store.write(key, &value, condition);
        if outcome != Err(NotWritten::Changed) {
            break;
        }
    }
    outcome
}
