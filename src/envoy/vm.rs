//! This VM: its contexts, and the worker that serves them all.
//!
//! The worker belongs to the VM, not to a root context: a configuration update adds a root to the same VM and keeps the
//! old one until its streams have ended.

use core::cell::{OnceCell, RefCell};

use super::{only_thread::OnlyThread, random, root::Root, stream::Stream};
use crate::{maps::probing::ProbingMap, worker::Worker};

/// The state of the VM. Contexts have the numbers that Envoy gave them.
pub(super) struct Vm {
    pub roots: ProbingMap<u32, Root>,
    pub streams: ProbingMap<u32, Stream>,
    pub worker: Worker,
}

impl Vm {
    #[cold]
    #[inline(never)]
    fn new() -> RefCell<Self> {
        RefCell::new(Self {
            roots: ProbingMap::default(),
            streams: ProbingMap::default(),
            worker: Worker::new(random::number),
        })
    }
}

static VM: OnlyThread<OnceCell<RefCell<Vm>>> = OnlyThread::new(OnceCell::new());

/// Runs `f` on this VM. Envoy never calls back into a VM from a host call; should it ever, `None` is a refusal where a
/// panic would be a dead VM.
pub(super) fn with_vm<T>(f: impl FnOnce(&mut Vm) -> T) -> Option<T> {
    match VM.get_or_init(Vm::new).try_borrow_mut() {
        Ok(mut vm) => Some(f(&mut vm)),
        Err(_) => {
            log::error!("the VM was called while at work");
            None
        }
    }
}
