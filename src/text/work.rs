//! Counts the bytes that the readers of requests look at, for tests of what the worst input costs. Outside of tests it
//! does nothing.

/// Notes that so many bytes are looked at.
#[inline]
pub(crate) fn note(bytes: usize) {
    #[cfg(test)]
    STEPS.set(STEPS.get() + bytes);
    let _ = bytes;
}

#[cfg(test)]
thread_local! {
    static STEPS: core::cell::Cell<usize> = const { core::cell::Cell::new(0) };
}

/// Returns how many bytes `read` looks at.
#[cfg(test)]
pub(crate) fn count<T>(read: impl FnOnce() -> T) -> usize {
    STEPS.set(0);
    let _ = read();
    STEPS.get()
}

/// Checks that the cost of reading is in proportion to the length of what is read, whatever that is: at most
/// `per_byte` looks at each byte, of inputs of lengths between 1 and 64 KiB.
///
/// # Panics
///
/// If it is not, or if nothing was counted.
#[cfg(test)]
pub(crate) fn assert_linear(what: &str, per_byte: usize, read: impl Fn(&[u8]), input: &[u8]) {
    for kib in [1, 2, 4, 8, 16, 32, 64] {
        let length = kib * 1024;
        let repeated: Vec<u8> = input.iter().copied().cycle().take(length).collect();
        let steps = count(|| read(&repeated));
        assert!(steps > 0, "{what}: nothing is counted");
        assert!(
            steps <= per_byte * length,
            "{what}: {steps} looks at {kib} KiB of {}",
            input.escape_ascii()
        );
    }
}
