//! Random numbers that no client knows, for what a VM keeps to itself.
//!
//! The non-obvious rule: `std` offers no random numbers, but it seeds every hash state from the host's source of them. The hash
//! of the empty input under such a state is a random number. The key of each state is the one before plus one. So the numbers are
//! as hard to guess as what SipHash gives under a key that no client knows.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Returns a random number.
#[inline(never)]
pub fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_numbers_are_equal() {
        let mut numbers: Vec<u64> = (0..1_000).map(|_| number()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 1_000);
    }
}
