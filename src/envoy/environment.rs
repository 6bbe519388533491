//! The environment of the VM, from WASI: what `vm_config.environment_variables` names.

#![expect(unsafe_code, reason = "the host writes into the module's memory")]

use alloc::{string::String, vec, vec::Vec};
use core::ptr;

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn environ_sizes_get(count: *mut usize, size: *mut usize) -> u16;
    fn environ_get(variables: *mut *mut u8, buffer: *mut u8) -> u16;
}

/// Looks an environment variable up. `None`: there is none, it is no UTF-8, or the module may not read it. Of several the first
/// counts, as with `getenv`.
pub(super) fn variable(name: &str) -> Option<String> {
    let (variables, buffer) = read()?;
    let value = variables.iter().find_map(|&variable| {
        let start = variable.addr().checked_sub(buffer.as_ptr().addr())?;
        let line = buffer.get(start..)?.split(|&byte| byte == 0).next()?;
        line.strip_prefix(name.as_bytes())?.strip_prefix(b"=")
    })?;
    String::from_utf8(value.into()).ok()
}

/// Returns where each variable stands, and all of them: the name, `=`, the value and a byte 0.
fn read() -> Option<(Vec<*mut u8>, Vec<u8>)> {
    let (mut count, mut size) = (0, 0);
    // SAFETY: the pointers are to live memory.
    let errno = unsafe { environ_sizes_get(&raw mut count, &raw mut size) };
    if errno != 0 {
        return None;
    }
    let mut variables = vec![ptr::null_mut(); count];
    let mut buffer = vec![0; size];
    // SAFETY: the host has said how much it writes to each, and nothing comes in between.
    let errno = unsafe { environ_get(variables.as_mut_ptr(), buffer.as_mut_ptr()) };
    (errno == 0).then_some((variables, buffer))
}
