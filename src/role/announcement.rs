//! Lines of the log that one worker writes for all of the process, since every worker loads every configuration.
//!
//! The non-obvious rule: shared data is never freed, so it has 64 places for what was written, and each line has one by its
//! hash. Two lines with one place push each other out, and may be written again.

use core::time::Duration;

use crate::{
    clock::Instant,
    hashes::sip_hash,
    host::{If, NotWritten, Store, Versioned},
    shared_data::name,
};

const PLACES: u8 = 64;

/// How long after a line the same line is not written again. All workers load a configuration within it.
pub const QUIET: Duration = Duration::from_secs(60);

/// Returns whether a line is to be written by this worker now, and notes that it is.
pub fn is_due(store: &impl Store, line: &str, now: Instant) -> bool {
    let hash = sip_hash::hash([0, 0], line.as_bytes());
    let [first, ..] = hash;
    let key = name::line(first % PLACES);
    let key = key.as_bytes();
    let condition = match store.read(key) {
        None => If::Absent,
        Some(Versioned { value, cas }) => {
            if was_written(&value, hash).is_some_and(|at| now < at + QUIET) {
                return false;
            }
            If::Unchanged(cas)
        }
    };
    let value = [hash.as_slice(), &now.to_le_bytes()].concat();
    store.write(key, &value, condition) != Err(NotWritten::Changed)
}

/// Returns when the line of this hash was written last, if its place tells.
fn was_written(value: &[u8], hash: [u8; 16]) -> Option<Instant> {
    let at = value.strip_prefix(&hash)?.try_into().ok()?;
    Some(Instant::from_le_bytes(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryStore;

    const NOW: Instant = Instant::from_millis(1_000_000);

    #[test]
    fn a_line_is_written_once_by_all_workers_and_again_after_a_while() {
        let process = MemoryStore::default();
        let is_due = |line, now| is_due(&process, line, now);
        assert!(is_due("a", NOW));
        assert!(!is_due("a", NOW));
        assert!(!is_due("a", NOW + QUIET / 2));
        assert!(is_due("another", NOW));
        assert!(is_due("a", NOW + QUIET));
        assert!(!is_due("a", NOW + QUIET));
    }

    #[test]
    fn any_number_of_lines_is_written_and_takes_64_places() {
        let process = MemoryStore::default();
        for number in 0..10_000 {
            assert!(is_due(&process, &number.to_string(), NOW), "{number}");
        }
        assert_eq!(process.len(), usize::from(PLACES));
    }

    #[test]
    fn of_workers_that_come_together_one_writes_the_line() {
        let process = MemoryStore::default();
        let other = |store: &MemoryStore| assert!(is_due(store, "a", NOW));
        process.interfere.replace(Some(Box::new(other)));
        assert!(!is_due(&process, "a", NOW));
    }

    #[test]
    fn a_store_that_refuses_silences_no_line() {
        let process = MemoryStore::default();
        process.is_read_only.set(true);
        assert!(is_due(&process, "a", NOW));
    }
}
