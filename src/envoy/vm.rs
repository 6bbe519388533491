//! This VM: its contexts, and the worker that serves them all.
//!
//! The worker belongs to the VM, not to a root context: a configuration update adds a root to the same VM and keeps the
//! old one until its streams have ended.

use std::{cell::RefCell, mem::ManuallyDrop};

use super::{root::Root, stream::Stream};
use crate::{maps::probing::ProbingMap, random, worker::Worker};

/// The state of the VM. Contexts have the numbers that Envoy gave them.
pub(super) struct Vm {
    pub roots: ProbingMap<u32, Root>,
    pub streams: ProbingMap<u32, Stream>,
    pub worker: Worker,
}

impl Default for Vm {
    fn default() -> Self {
        Self {
            roots: ProbingMap::default(),
            streams: ProbingMap::default(),
            worker: Worker::new(random::number),
        }
    }
}

thread_local! {
    /// Not dropped, since it lives as long as the VM. What is dropped is looked up by a longer way.
    static VM: ManuallyDrop<RefCell<Vm>> = ManuallyDrop::default();
}

/// Runs `f` on this VM. Envoy never calls back into a VM from a host call; should it ever, `None` is a refusal where a
/// panic would be a dead VM.
pub(super) fn with_vm<T>(f: impl FnOnce(&mut Vm) -> T) -> Option<T> {
    VM.with(|vm| match vm.try_borrow_mut() {
        Ok(mut vm) => Some(f(&mut vm)),
        Err(_) => {
            log::error!("the VM was called while at work");
            None
        }
    })
}
