//! Shared data in which values are planted that no version of this module wrote.
//!
//! An input is a list of values: a byte for the kind of key that it stands under, two for its length, and the value.
//! Of several for one kind, the key decides which.

use std::{cell::RefCell, collections::BTreeMap};

use matrix_edge_auth::host::{If, NotWritten, Store, Unreadable, Versioned};

/// What follows `matrix-edge-auth.` in a key: active and inactive answers, users, leases, budgets, seats, ends, and so on.
const KINDS: [&str; 13] = [
    "a", "n", "u", "l", "b", "w", "seed", "epoch", "revived", "sizes", "mark", "h", "o",
];

/// The planted values, by kind.
#[derive(Default)]
pub struct Values(BTreeMap<&'static str, Vec<Vec<u8>>>);

impl Values {
    pub fn cut(mut input: &[u8]) -> Self {
        let mut values = Self::default();
        while let [kind, low, high, rest @ ..] = input {
            let kind = KINDS[usize::from(*kind) % KINDS.len()];
            let length = usize::from(u16::from_le_bytes([*low, *high]));
            let (value, rest) = rest.split_at(length.min(rest.len()));
            values.0.entry(kind).or_default().push(value.to_vec());
            input = rest;
        }
        values
    }

    /// The value under `key`, if one was planted there.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let rest = key.strip_prefix(b"matrix-edge-auth.")?;
        let stop = rest.iter().position(|byte| *byte == b'.');
        let (kind, number) = match stop.and_then(|stop| rest.split_at_checked(stop)) {
            Some((_, of_a_table @ (b".sizes" | b".mark"))) => (&of_a_table[1..], &[][..]),
            // The key of a bucket: a letter, and its number.
            _ if rest.len() == 5 && rest != b"epoch" => rest.split_at(1),
            Some(split) => split,
            None => (rest, &[][..]),
        };
        let values = self.of(str::from_utf8(kind).ok()?);
        let number = number.iter().fold(0, |number: usize, byte| {
            number.wrapping_mul(31) + usize::from(*byte)
        });
        values.get(number % values.len().max(1)).map(Vec::as_slice)
    }

    pub fn of(&self, kind: &str) -> &[Vec<u8>] {
        self.0.get(kind).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a value of this kind is of that format and holds these bytes.
    pub fn tell(&self, kind: &str, format: u8, bytes: &[u8]) -> bool {
        self.of(kind)
            .iter()
            .any(|value| value.first() == Some(&format) && contain(value, bytes))
    }
}

/// Whether `bytes` stand somewhere in `value`.
pub fn contain(value: &[u8], bytes: &[u8]) -> bool {
    value.windows(bytes.len()).any(|window| window == bytes)
}

/// What was written under a key, and its number.
type Written = BTreeMap<Vec<u8>, (Vec<u8>, u32)>;

/// A store that begins with planted values and takes writes.
pub struct Planted {
    pub values: Values,
    written: RefCell<Written>,
}

impl Planted {
    pub fn new(values: Values) -> Self {
        Self {
            values,
            written: RefCell::default(),
        }
    }
}

impl Store for Planted {
    fn try_read(&self, key: &[u8]) -> Result<Option<Versioned>, Unreadable> {
        let written = self.written.borrow().get(key).cloned();
        let planted = || Some((self.values.get(key)?.to_vec(), 1));
        let found = written.or_else(planted);
        Ok(found.map(|(value, cas)| Versioned { value, cas }))
    }

    fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten> {
        let cas = self.read(key).map(|present| present.cas);
        let holds = match condition {
            If::Absent => cas.is_none(),
            If::Unchanged(then) => cas.is_none_or(|cas| cas == then),
        };
        if !holds {
            return Err(NotWritten::Changed);
        }
        let value = (value.to_vec(), cas.unwrap_or(1) + 1);
        self.written.borrow_mut().insert(key.to_vec(), value);
        Ok(())
    }

    fn random(&self) -> u64 {
        7
    }
}
