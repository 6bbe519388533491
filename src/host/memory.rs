//! A store in memory for unit tests, with the compare-and-swap rules of Envoy's shared data.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use super::{If, NotWritten, Store, Unreadable, Versioned};

/// What is stored under a key, and its number.
type Values = BTreeMap<Vec<u8>, (Vec<u8>, u32)>;

type Interference = Box<dyn FnOnce(&MemoryStore)>;

#[derive(Default)]
pub(crate) struct MemoryStore {
    values: RefCell<Values>,
    writes: Cell<u32>,
    /// Whether each write is refused.
    pub is_read_only: Cell<bool>,
    /// No value can be read.
    pub is_unreadable: Cell<bool>,
    /// Runs before the next write, as another worker would.
    pub interfere: RefCell<Option<Interference>>,
}

impl MemoryStore {
    pub fn len(&self) -> usize {
        self.values.borrow().len()
    }

    /// Every value.
    pub fn values(&self) -> Vec<Vec<u8>> {
        let values = self.values.borrow();
        values.values().map(|(value, _)| value.clone()).collect()
    }

    /// Every value, to damage it.
    pub fn damage(&self, damage: impl Fn(&mut Vec<u8>)) {
        self.values
            .borrow_mut()
            .values_mut()
            .for_each(|(value, _)| damage(value));
    }
}

impl Store for MemoryStore {
    fn try_read(&self, key: &[u8]) -> Result<Option<Versioned>, Unreadable> {
        if self.is_unreadable.get() {
            return Err(Unreadable);
        }
        let found = self.values.borrow().get(key).cloned();
        Ok(found.map(|(value, cas)| Versioned { value, cas }))
    }

    fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten> {
        if self.is_read_only.get() {
            return Err(NotWritten::Refused);
        }
        let interfere = self.interfere.borrow_mut().take();
        if let Some(interfere) = interfere {
            interfere(self);
        }
        let present = self.values.borrow().get(key).map(|(_, cas)| *cas);
        match (present, condition) {
            (Some(_), If::Absent) => return Err(NotWritten::Changed),
            (Some(now), If::Unchanged(then)) if now != then => return Err(NotWritten::Changed),
            _ => {}
        }
        self.writes.set(self.writes.get() + 1);
        self.values
            .borrow_mut()
            .insert(key.to_vec(), (value.to_vec(), self.writes.get()));
        Ok(())
    }

    fn random(&self) -> u64 {
        u64::from(self.writes.get() + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
