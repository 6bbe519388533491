//! The proxy-wasm adapter: Envoy's callbacks in, host calls out. No decision is made here.

mod abi;
mod clock;
mod dispatch;
mod host;
mod root;
mod stream;

use std::cell::RefCell;

use proxy_wasm::types::LogLevel;

use self::root::Root;
use crate::worker::Worker;

thread_local! {
    /// This VM's worker. It belongs to the VM, not to a root context: a configuration update adds a root
    /// to the same VM and keeps the old one until its streams have ended.
    static WORKER: RefCell<Worker> = RefCell::default();
}

/// Runs `f` on this VM's worker. Envoy never calls back into a VM from a host call, save for the
/// trampoline in [`dispatch`], which stays away from the worker; should it ever, `None` is a refusal
/// where a panic would be a dead VM.
fn with_worker<T>(f: impl FnOnce(&mut Worker) -> T) -> Option<T> {
    WORKER.with(|worker| match worker.try_borrow_mut() {
        Ok(mut worker) => Some(f(&mut worker)),
        Err(_) => {
            log::error!("the worker was called while at work");
            None
        }
    })
}

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(Root::new(id)));
}}
