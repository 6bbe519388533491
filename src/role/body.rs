//! Bodies that pass, or that Envoy holds: how they are read, and how much of them one worker may have in memory.
//!
//! A form is parsed as it passes and keeps nothing. What must be kept until it is whole counts against one budget of
//! the worker. Anyone who reaches a listener can begin bodies and not end them, and a VM that runs out of memory is
//! dead, with all requests that it holds.
//!
//! The non-obvious rule: the beginning of a body is kept in any case. It is less than what Envoy itself needs for the
//! stream, and what MAS tells the homeserver begins with the name of the user. So no client can fill the budget to hide
//! from the module that a session ends.

use alloc::{rc::Rc, vec::Vec};
use core::{cell::Cell, fmt};

use crate::{
    host::{HostError, Streams},
    mas::introspection::MAX_RESPONSE_BYTES,
};

/// Bytes of bodies that one worker has in memory at the most, save their beginnings.
pub const BODY_BUDGET: usize = 4 * 1024 * 1024;

/// Bytes of the budget that are left to MAS's answers. An answer is read and parsed in one callback, so one at a time
/// is in memory.
const SET_APART: usize = MAX_RESPONSE_BYTES;

/// The beginning of a body that is kept in any case, in bytes. It holds the localpart of any user.
pub const BEGINNING: usize = 512;

/// The most that is copied out of Envoy at once, in bytes.
const WINDOW: usize = 16 * 1024;

/// What one worker has in memory of bodies. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct BodyBudget {
    taken: Rc<Cell<usize>>,
}

impl BodyBudget {
    /// Takes bytes for a request's body. `None`: there are not so many left.
    pub fn take(&self, bytes: usize) -> Option<Share> {
        let mut share = self.share();
        share.grow(bytes).then_some(share)
    }

    /// Reads an answer of MAS of so many bytes, which count until the share is dropped. It has its bytes whatever requests have
    /// taken. `None`: it is longer than an answer may be, or cannot be read.
    pub fn read_answer<T>(
        &self,
        bytes: usize,
        read: impl FnOnce() -> Option<T>,
    ) -> Option<(T, Share)> {
        if bytes > MAX_RESPONSE_BYTES {
            return None;
        }
        let mut share = self.share();
        share.force(bytes);
        Some((read()?, share))
    }

    /// Returns how many bytes are taken.
    pub fn taken(&self) -> usize {
        self.taken.get()
    }

    fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

/// Bytes of the budget. They are given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    budget: BodyBudget,
    bytes: usize,
}

impl Share {
    /// Takes more bytes. `false`: there are not so many left, and none is taken.
    fn grow(&mut self, bytes: usize) -> bool {
        let is_left = self.budget.taken().saturating_add(bytes) <= BODY_BUDGET - SET_APART;
        if is_left {
            self.force(bytes);
        }
        is_left
    }

    /// Takes more bytes, also if they are not left.
    fn force(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.budget
            .taken
            .set(self.budget.taken().saturating_add(bytes));
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget
            .taken
            .set(self.budget.taken().saturating_sub(self.bytes));
    }
}

/// The beginning of a body that passes, up to a limit. `Debug` does not show it: it names users and devices.
pub struct BodyPrefix {
    bytes: Vec<u8>,
    share: Share,
    limit: usize,
    is_truncated: bool,
}

impl fmt::Debug for BodyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BodyPrefix({} bytes)", self.bytes.len())
    }
}

impl BodyPrefix {
    /// An empty prefix that takes `limit` bytes, as far as `budget` has them.
    pub fn new(limit: usize, budget: &BodyBudget) -> Self {
        Self {
            bytes: Vec::new(),
            share: budget.share(),
            limit,
            is_truncated: false,
        }
    }

    /// Takes in a piece of `size` bytes of the selected request's body.
    pub fn add(&mut self, host: &impl Streams, size: usize) {
        if self.is_truncated || size == 0 {
            return;
        }
        let wanted = self.make_room(size);
        let is_read = show(host, wanted, |window| {
            self.bytes.extend_from_slice(window);
            true
        });
        self.is_truncated = wanted < size || is_read.is_err();
    }

    /// Returns the bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns whether there was more.
    pub fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Makes room for `size` more bytes, and returns for how many of them there is some.
    fn make_room(&mut self, size: usize) -> usize {
        let length = self.bytes.len();
        let size = size.min(self.limit.saturating_sub(length));
        if self.reserve(size, Share::grow) {
            return size;
        }
        let beginning = size.min(BEGINNING.saturating_sub(length));
        let force = |share: &mut Share, bytes| {
            share.force(bytes);
            true
        };
        if self.reserve(beginning, force) {
            beginning
        } else {
            0
        }
    }

    /// Makes room for `size` more bytes, which `take` takes from the budget. `false`: it cannot, or the VM has no
    /// memory.
    fn reserve(&mut self, size: usize, take: impl FnOnce(&mut Share, usize) -> bool) -> bool {
        let (length, capacity) = (self.bytes.len(), self.bytes.capacity());
        let needed = length.saturating_add(size);
        if needed <= capacity {
            return true;
        }
        let wanted = needed.max(capacity.saturating_mul(2)).min(self.limit);
        take(&mut self.share, wanted.saturating_sub(capacity))
            && self
                .bytes
                .try_reserve_exact(wanted.saturating_sub(length))
                .is_ok()
    }
}

/// Shows `size` bytes of the selected request's body to `read`, in windows, until that returns `false`. Each byte is
/// copied once.
pub fn show(
    host: &impl Streams,
    size: usize,
    mut read: impl FnMut(&[u8]) -> bool,
) -> Result<(), HostError> {
    let mut at = 0;
    while at < size {
        let window = host
            .request_body(at, WINDOW.min(size - at))
            .and_then(|window| match window.len() {
                0 => Err(HostError::MISSING),
                _ => Ok(window),
            })
            .inspect_err(|error| log::error!("Envoy refused to show a body with {error}"))?;
        at = at.saturating_add(window.len());
        if !read(&window) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    fn host(body: String) -> FakeHost {
        let host = FakeHost::default();
        host.body.replace(body.leak());
        host
    }

    #[test]
    fn bytes_are_given_back_when_they_are_dropped() {
        let budget = BodyBudget::default();
        let first = budget.take(1_000).unwrap();
        let second = budget.take(BODY_BUDGET - SET_APART - 1_000).unwrap();
        assert!(budget.take(1).is_none());
        drop(first);
        assert!(budget.take(1_001).is_none());
        let third = budget.take(1_000).unwrap();
        drop((second, third));
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn an_answer_of_mas_always_has_its_bytes() {
        let (host, budget) = (host("x".repeat(BEGINNING)), BodyBudget::default());
        let requests = budget.take(BODY_BUDGET - SET_APART).unwrap();
        let beginnings = [(); 1_000].map(|()| {
            let mut beginning = BodyPrefix::new(BEGINNING, &budget);
            beginning.add(&host, BEGINNING);
            beginning
        });
        let before = budget.taken();
        assert!(before > BODY_BUDGET, "{before}");
        let read = |bytes| {
            budget.read_answer(bytes, || {
                assert_eq!(budget.taken(), before + bytes);
                Some(bytes)
            })
        };
        assert!(read(MAX_RESPONSE_BYTES + 1).is_none());
        let (bytes, answer) = read(MAX_RESPONSE_BYTES).unwrap();
        assert_eq!(bytes, MAX_RESPONSE_BYTES);
        drop(answer);
        assert!(budget.read_answer(1, || None::<()>).is_none());
        assert_eq!(budget.taken(), before);
        drop((requests, beginnings));
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn a_prefix_ends_at_its_limit() {
        let (host, budget) = (host("x".repeat(40_000)), BodyBudget::default());
        let mut prefix = BodyPrefix::new(100_000, &budget);
        prefix.add(&host, 40_000);
        prefix.add(&host, 0);
        prefix.add(&host, 40_000);
        assert!(prefix.bytes().len() == 80_000 && !prefix.is_truncated());
        prefix.add(&host, 40_000);
        assert!(prefix.bytes().len() == 100_000 && prefix.is_truncated());
        assert_eq!(budget.taken(), 100_000);
        drop(prefix);
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn over_the_budget_only_the_beginning_is_kept() {
        let (host, budget) = (host("x".repeat(40_000)), BodyBudget::default());
        let others = budget.take(BODY_BUDGET - SET_APART).unwrap();
        let mut prefix = BodyPrefix::new(100_000, &budget);
        prefix.add(&host, 100);
        assert!(prefix.bytes().len() == 100 && !prefix.is_truncated());
        prefix.add(&host, 40_000);
        assert!(prefix.bytes().len() == BEGINNING && prefix.is_truncated());
        drop(others);
        // What came between is lost.
        prefix.add(&host, 100);
        assert!(prefix.bytes().len() == BEGINNING && prefix.is_truncated());
        assert_eq!(budget.taken(), BEGINNING);
    }

    #[test]
    fn what_envoy_does_not_show_is_missing() {
        let (host, budget) = (host("x".repeat(100)), BodyBudget::default());
        let mut prefix = BodyPrefix::new(1_000, &budget);
        prefix.add(&host, 101);
        assert!(prefix.is_truncated());
    }

    #[test]
    fn a_body_is_shown_once_and_in_windows() {
        let body: String = (b'a'..=b'z')
            .map(char::from)
            .cycle()
            .take(100_000)
            .collect();
        let host = host(body.clone());
        let mut shown = Vec::new();
        let mut windows = 0;
        show(&host, 100_000, |window| {
            shown.extend_from_slice(window);
            windows += 1;
            true
        })
        .unwrap();
        assert!(shown == body.as_bytes(), "each byte in its place");
        assert_eq!(windows, 100_000_usize.div_ceil(WINDOW));
        let mut windows = 0;
        show(&host, 100_000, |_| {
            windows += 1;
            false
        })
        .unwrap();
        assert_eq!(windows, 1);
    }
}
