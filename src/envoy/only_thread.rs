//! What a VM has once.

#![expect(unsafe_code, reason = "a static must be safe to share among threads")]

use core::ops::Deref;

/// A value in a static of a module that has one thread.
pub(super) struct OnlyThread<T>(T);

// SAFETY: a module of WASI has one thread.
unsafe impl<T> Sync for OnlyThread<T> {}

impl<T> OnlyThread<T> {
    pub const fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for OnlyThread<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}
