//! What a test does to shared data behind the back of a callback.
//!
//! The random scenarios let another worker act between two host calls of one callback, and choose the secret
//! by which keys are picked. The fuzz target plants values that no version of the module wrote.

use super::Process;

/// What another worker does between two calls to shared data.
pub struct Interference {
    /// After this many more calls.
    after: usize,
    action: Box<dyn FnOnce()>,
}

/// Returns the value under a key that nothing has been written to.
pub type Planted = Box<dyn Fn(&str) -> Option<Vec<u8>>>;

impl Process {
    /// Fixes the secret of the process, by which places in shared data are chosen.
    pub fn set_secret(&self, secret: [u8; 16]) {
        let mut data = self.shared_data.borrow_mut();
        data.insert("matrix-edge-auth.seed".to_owned(), (secret.to_vec(), 0));
    }

    /// Another module changes values in shared data: those of which `change` returns something.
    pub fn rewrite(&self, mut change: impl FnMut(&str, &[u8]) -> Option<Vec<u8>>) {
        let mut next = self.cas.get();
        for (key, (value, cas)) in self.shared_data.borrow_mut().iter_mut() {
            if let Some(new) = change(key, value) {
                next += 1;
                (*value, *cas) = (new, next);
            }
        }
        self.cas.set(next);
    }

    /// Shared data holds these values until they are written over.
    pub fn plant(&self, values: impl Fn(&str) -> Option<Vec<u8>> + 'static) {
        self.planted.replace(Some(Box::new(values)));
    }

    pub(super) fn planted(&self, key: &str) -> Option<Vec<u8>> {
        self.planted.borrow().as_ref()?(key)
    }

    pub(super) fn has_planted(&self) -> bool {
        self.planted.borrow().is_some()
    }

    /// Lets `action` happen in the middle of a callback: before the call to shared data that comes after
    /// `after` others. It must be another worker's.
    pub fn interfere(&self, after: usize, action: impl FnOnce() + 'static) {
        let action = Box::new(action);
        let interference = Interference { after, action };
        self.interference.replace(Some(interference));
    }

    /// Lets happen what found no call to come before.
    pub fn run_interference(&self) {
        let interference = self.interference.take();
        if let Some(Interference { action, .. }) = interference {
            action();
        }
    }

    pub(super) fn on_shared_data_call(&self) {
        let due = {
            let mut interference = self.interference.borrow_mut();
            match &mut *interference {
                Some(Interference { after: 0, .. }) => interference.take(),
                Some(Interference { after, .. }) => {
                    *after -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some(Interference { action, .. }) = due {
            action();
        }
    }
}
