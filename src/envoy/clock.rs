//! The clock, from WASI.

#![expect(unsafe_code, reason = "the host writes into the module's memory")]

use crate::clock::Instant;

const CLOCK_MONOTONIC: u32 = 1;

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, nanos: *mut u64) -> u16;
}

/// Reads the present moment from the monotonic clock, whose base all VMs of this process share. `None`: the module may not
/// call it, and no configuration is taken then.
pub(super) fn read() -> Option<Instant> {
    let mut nanos = 0;
    // SAFETY: the pointer is to live memory.
    let errno = unsafe { clock_time_get(CLOCK_MONOTONIC, 0, &raw mut nanos) };
    (errno == 0).then(|| Instant::from_millis(nanos / 1_000_000))
}

/// Returns the present moment.
pub(super) fn now() -> Instant {
    read().unwrap_or_default()
}
