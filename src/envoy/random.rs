//! Random numbers that no client knows, from WASI.

#![expect(unsafe_code, reason = "the host writes into the module's memory")]

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn random_get(bytes: *mut u8, size: usize) -> u16;
}

/// Makes a random number. `None`: the module may not ask for one, and no configuration is taken then.
pub(super) fn read() -> Option<u64> {
    let mut bytes = [0; 8];
    // SAFETY: the pointer is to live memory of this size.
    let errno = unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
    (errno == 0).then(|| u64::from_le_bytes(bytes))
}

/// Returns a random number; 0 in a module that may not ask for one, which serves nobody.
#[inline(never)]
pub(super) fn number() -> u64 {
    read().unwrap_or_default()
}
