//! The functions that Envoy calls, ABI 0.2.1. Each finds the context that it is for.
//!
//! Envoy calls those that a module exports and no others. Each is a crossing into the VM, of about 2,000 instructions,
//! for every request, so none is here that no role needs: what a stream leaves behind is dropped in
//! `proxy_on_delete`, and there is no `proxy_on_done` and no `proxy_on_log`.
//!
//! The non-obvious rule: a number may be of no context here. A shared queue calls the number that a root had in a VM
//! which has failed, and in this one that may be the number of a stream or of no context. The callback then does
//! nothing.

#![expect(unsafe_code, reason = "exports have fixed names")]

use alloc::{alloc::alloc, rc::Rc};
use core::{alloc::Layout, ptr};

use super::{
    host::tell_gathered,
    log,
    root::Root,
    stream::{Action, Stream},
    vm::{Vm, with_vm},
};
use crate::{
    host::{CallId, QueueId, RootId, StreamId},
    worker::{Chunk, Plugin, Worker},
};

/// As a root's parent.
const NO_CONTEXT: u32 = 0;

unsafe extern "C" {
    // Made by the linker.
    fn __wasm_call_ctors();
}

#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: Envoy calls this once, and first.
    unsafe { __wasm_call_ctors() };
    log::start();
}

/// Makes room for bytes that Envoy hands over. Null, if there is none: the host call that would have brought them fails.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        Ok(_) if size == 0 => ptr::dangling_mut(),
        // SAFETY: the size is not zero.
        Ok(layout) => unsafe { alloc(layout) },
        Err(_) => ptr::null_mut(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    with_vm(|vm| {
        if parent == NO_CONTEXT {
            vm.roots.insert(context, Root::new(RootId(context)));
            return;
        }
        let stream = Stream::new(StreamId(context), parent);
        vm.streams.insert(context, stream);
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    with_vm(|vm| match vm.streams.remove(&context) {
        Some(stream) => stream.end(&mut vm.worker),
        None => end_root(vm, context),
    });
}

#[cold]
#[inline(never)]
fn end_root(vm: &mut Vm, context: u32) {
    let Some(root) = vm.roots.remove(&context) else {
        return;
    };
    let another = || {
        let mut others = vm.roots.values();
        others.find_map(|root| root.plugin().cloned())
    };
    vm.worker.on_root_end(&root.host(), root.id, another);
    // Its timer may have been the last.
    tell_gathered();
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, size: usize) -> bool {
    let configured = with_vm(|vm| Some(vm.roots.get_mut(&root)?.configure(size)));
    configured.flatten().unwrap_or_default()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    with_root(root, |root, worker| {
        if let Some(plugin) = root.plugin() {
            worker.on_tick(&root.host(), plugin);
        }
    });
    tell_gathered();
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_queue_ready(root: u32, queue: u32) {
    with_root(root, |root, worker| {
        worker.on_queue(&root.host(), root.id, QueueId(queue));
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(
    root: u32,
    call: u32,
    num_headers: usize,
    body_size: usize,
    _num_trailers: usize,
) {
    with_root(root, |root, worker| {
        root.on_call_response(worker, CallId(call), num_headers, body_size);
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(stream: u32, _num_headers: usize, is_whole: bool) -> Action {
    with_stream_and_plugin(stream, |stream, worker, plugin| {
        stream.on_request_headers(worker, plugin, is_whole);
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(stream: u32, size: usize, is_last: bool) -> Action {
    with_stream(stream, |stream, worker| {
        stream.on_request_body(worker, Chunk { size, is_last });
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(stream: u32, _num_trailers: usize) -> Action {
    with_stream_and_plugin(stream, Stream::on_request_trailers)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(
    stream: u32,
    _num_headers: usize,
    _is_whole: bool,
) -> Action {
    with_vm(|vm| {
        if let Some(stream) = vm.streams.get_mut(&stream) {
            stream.on_response_headers(&mut vm.worker);
        }
    });
    // Responses are never held.
    Action::Continue
}

fn with_root(root: u32, f: impl FnOnce(&Root, &mut Worker)) {
    with_vm(|Vm { roots, worker, .. }| {
        // Without a configuration it serves nobody.
        if let Some(root) = roots.get(&root).filter(|root| root.plugin().is_some()) {
            f(root, worker);
        }
    });
}

/// Returns what becomes of the request. Nothing of one may go on that no context knows.
fn with_stream(stream: u32, f: impl FnOnce(&mut Stream, &mut Worker)) -> Action {
    let action = with_vm(
        |Vm {
             streams, worker, ..
         }| {
            let stream = streams.get_mut(&stream)?;
            f(stream, worker);
            Some(stream.action())
        },
    );
    action.flatten().unwrap_or(Action::Pause)
}

/// The same, with the configuration that the stream came in under.
fn with_stream_and_plugin(
    stream: u32,
    f: impl FnOnce(&mut Stream, &mut Worker, &Rc<Plugin>),
) -> Action {
    let action = with_vm(|vm| {
        let stream = vm.streams.get_mut(&stream)?;
        // Envoy serves no requests with a configuration that was refused.
        if let Some(plugin) = vm.roots.get(&stream.root).and_then(Root::plugin) {
            f(stream, &mut vm.worker, plugin);
        }
        Some(stream.action())
    });
    action.flatten().unwrap_or(Action::Pause)
}
