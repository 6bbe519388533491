//! The clock, from WASI.

#![expect(
    unsafe_code,
    reason = "std hides the number behind its monotonic clock"
)]

use crate::clock::Instant;

const CLOCK_MONOTONIC: u32 = 1;

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, nanos: *mut u64) -> u16;
}

/// The present moment on the monotonic clock, whose base all VMs of this process share. It is the clock
/// of `std::time::Instant`, whose number `std` does not give away and entries need.
pub(super) fn now() -> Instant {
    let mut nanos = 0;
    // SAFETY: the pointer is to live memory. Envoy's clock does not fail for this id.
    let errno = unsafe { clock_time_get(CLOCK_MONOTONIC, 0, &raw mut nanos) };
    if errno != 0 {
        log::error!("the monotonic clock failed with errno {errno}");
    }
    Instant::from_millis(nanos / 1_000_000)
}
