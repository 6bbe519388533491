//! The worker of this VM.

use std::cell::RefCell;

use crate::worker::Worker;

thread_local! {
    /// This VM's worker. It belongs to the VM, not to a root context: a configuration update adds a root
    /// to the same VM and keeps the old one until its streams have ended.
    static WORKER: RefCell<Worker> = RefCell::default();
}

/// Runs `f` on this VM's worker. Envoy never calls back into a VM from a host call, save for the
/// trampoline in [`dispatch`](super::dispatch), which stays away from the worker; should it ever, `None` is a refusal
/// where a panic would be a dead VM.
pub(super) fn with_worker<T>(f: impl FnOnce(&mut Worker) -> T) -> Option<T> {
    WORKER.with(|worker| match worker.try_borrow_mut() {
        Ok(mut worker) => Some(f(&mut worker)),
        Err(_) => {
            log::error!("the worker was called while at work");
            None
        }
    })
}
