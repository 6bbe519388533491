//! Some records in one value of the store.
//!
//! A token has one bucket in each table, so whatever there is to know of it takes one reading, and a reading
//! that finds nothing takes no more. With eight records to a bucket a table that is half full loses one in a
//! hundred, and a full one keeps nearly what an ideal least-recently-used cache would keep.
//!
//! A change of one record writes the whole bucket, on the condition that nothing in it has changed since it
//! was read.
//!
//! ```text
//! offset  bytes  what
//!      0      1  format version
//! then for each record
//!             2  its length, little-endian
//!            ..  the record
//! ```
//!
//! Shared data survives a configuration update and a new module binary, so an old and a new version may read
//! each other's values. One of another version is empty, and records end where a length does not fit.

use alloc::vec::Vec;

use super::{
    key_space::{Key, KeySpace},
    name::{FORMAT_VERSION, Space},
};
use crate::host::{If, NotWritten, Store, Unreadable};

/// Records in a bucket, or a few more where their number does not divide evenly.
const RECORDS: u32 = 8;

/// A fixed number of records, in buckets. Workers with the same space and number share them.
#[derive(Debug)]
pub struct Buckets {
    keys: KeySpace,
    /// Records in each.
    pub capacity: usize,
}

impl Buckets {
    /// Room for `records` records of this space, or a few less.
    pub fn new(space: Space, records: u32) -> Self {
        let number = Self::number_for(records);
        Self {
            keys: KeySpace::new(space, number),
            capacity: (records / number).max(1) as usize,
        }
    }

    /// Returns how many buckets `records` records take.
    pub fn number_for(records: u32) -> u32 {
        (records / RECORDS).max(1)
    }

    /// Returns how many buckets there are.
    pub fn number(&self) -> u32 {
        self.keys.number()
    }

    /// Returns `number` buckets of the same space and capacity.
    pub fn resized(&self, number: u32) -> Self {
        Self {
            keys: self.keys.resized(number),
            capacity: self.capacity,
        }
    }

    /// See `KeySpace::tag`.
    pub fn tag(&self, store: &impl Store, digest: &[u8; 16]) -> [u8; 4] {
        self.keys.tag(store, digest)
    }

    /// See [`KeySpace::seed`].
    #[cfg(test)]
    pub fn seed(&self, store: &impl Store) -> [u64; 2] {
        self.keys.seed(store)
    }

    /// The bucket for `digest`.
    pub fn try_read(&self, store: &impl Store, digest: &[u8; 16]) -> Result<Bucket, Unreadable> {
        let bucket = self.read(store, digest);
        bucket.condition.map(|_| bucket).ok_or(Unreadable)
    }

    /// The same. One that cannot be read is empty, and takes nothing.
    pub fn read(&self, store: &impl Store, digest: &[u8; 16]) -> Bucket {
        let key = self.keys.key(store, digest);
        let (value, condition) = match store.try_read(key.as_bytes()) {
            Ok(Some(stored)) => (stored.value, Some(If::Unchanged(stored.cas))),
            Ok(None) => (Vec::new(), Some(If::Absent)),
            Err(Unreadable) => (Vec::new(), None),
        };
        Bucket {
            key,
            value,
            condition,
        }
    }
}

/// A bucket as it was read.
#[derive(Debug)]
pub struct Bucket {
    key: Key,
    value: Vec<u8>,
    /// When it may be written; `None`: never.
    condition: Option<If>,
}

impl Bucket {
    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.value.len()
    }

    /// The records in it.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = match self.value.split_first() {
            Some((&FORMAT_VERSION, rest)) => rest,
            _ => &[],
        };
        core::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk()?;
            let (record, after) =
                after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            rest = after;
            Some(record)
        })
    }

    /// Returns whether another version of the module wrote it: whatever is in it is lost to that version when this one
    /// writes.
    pub fn is_foreign(&self) -> bool {
        self.value
            .first()
            .is_some_and(|version| *version != FORMAT_VERSION)
    }

    /// The first record that is `wanted`, to change it in place: see [`Self::save`].
    pub fn find_mut(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Option<&mut [u8]> {
        let mut rest = match self.value.split_first_mut() {
            Some((&mut FORMAT_VERSION, rest)) => rest,
            _ => return None,
        };
        loop {
            let (length, after) = rest.split_first_chunk_mut()?;
            let length = usize::from(u16::from_le_bytes(*length));
            let (record, after) = after.split_at_mut_checked(length)?;
            if wanted(record) {
                return Some(record);
            }
            rest = after;
        }
    }

    /// Writes what was changed in place.
    pub fn save(&self, store: &impl Store) -> Result<(), NotWritten> {
        self.write(store, &self.value)
    }

    /// Writes these records in place of all that were in it. Each has less than 64 KiB.
    pub fn replace(
        &self,
        store: &impl Store,
        records: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Result<(), NotWritten> {
        let mut value = Vec::with_capacity(self.value.len() + 512);
        value.push(FORMAT_VERSION);
        for record in records {
            let record = record.as_ref();
            let length = u16::try_from(record.len()).map_err(|_| NotWritten::Refused)?;
            value.extend_from_slice(&length.to_le_bytes());
            value.extend_from_slice(record);
        }
        self.write(store, &value)
    }

    fn write(&self, store: &impl Store, value: &[u8]) -> Result<(), NotWritten> {
        let condition = self.condition.ok_or(NotWritten::Refused)?;
        store.write(self.key.as_bytes(), value, condition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryStore;

    const DIGEST: &[u8; 16] = &[7; 16];

    fn bucket(value: &[u8]) -> Bucket {
        Bucket {
            key: KeySpace::new(Space::Active, 1).key(&MemoryStore::default(), DIGEST),
            value: value.to_vec(),
            condition: Some(If::Absent),
        }
    }

    fn records(bucket: &Bucket) -> Vec<&[u8]> {
        bucket.records().collect()
    }

    #[test]
    fn records_come_back_as_they_were() {
        let (store, buckets) = (MemoryStore::default(), Buckets::new(Space::Active, 64));
        let long = [9; 3_000];
        for expected in [
            vec![],
            vec![&b"one"[..]],
            vec![b"one", b"", b"three", &long],
        ] {
            let bucket = buckets.read(&store, DIGEST);
            bucket.replace(&store, expected.iter().copied()).unwrap();
            assert_eq!(records(&buckets.read(&store, DIGEST)), expected);
        }
        let too_long = [9; 70_000];
        let bucket = buckets.read(&store, DIGEST);
        assert_eq!(
            bucket.replace(&store, [&too_long[..]]),
            Err(NotWritten::Refused)
        );
        assert_eq!(
            records(&buckets.read(&store, DIGEST)).len(),
            4,
            "none is lost"
        );
    }

    #[test]
    fn a_record_can_be_changed_in_place() {
        let (store, buckets) = (MemoryStore::default(), Buckets::new(Space::Active, 64));
        let bucket = buckets.read(&store, DIGEST);
        bucket.replace(&store, [&b"one"[..], b"two"]).unwrap();
        let mut bucket = buckets.read(&store, DIGEST);
        assert!(bucket.find_mut(|record| record == b"three").is_none());
        let record = bucket.find_mut(|record| record == b"two").unwrap();
        record.copy_from_slice(b"TWO");
        bucket.save(&store).unwrap();
        assert_eq!(
            records(&buckets.read(&store, DIGEST)),
            [&b"one"[..], b"TWO"]
        );
        assert_eq!(bucket.save(&store), Err(NotWritten::Changed));
    }

    #[test]
    fn the_number_of_records_is_never_exceeded() {
        for records in 1..=100 {
            let buckets = Buckets::new(Space::Active, records);
            let store = MemoryStore::default();
            for digest in 0..1_000_u64 {
                let digest = (u128::from(digest) << 64 | 1).to_le_bytes();
                let bucket = buckets.read(&store, &digest);
                let _ = bucket.replace(&store, [&b"one"[..]]);
            }
            // All buckets, the seed.
            let keys = store.len() - 1;
            let most = keys * buckets.capacity;
            assert!(most <= records as usize && most + 7 >= records as usize);
        }
    }

    #[test]
    fn other_bytes_hold_no_records() {
        assert_eq!(records(&bucket(&[])).len(), 0);
        let value = [&[FORMAT_VERSION, 1, 0, 8, 2, 0], &b"ab"[..]].concat();
        assert_eq!(records(&bucket(&value)), [&[8][..], b"ab"]);
        for length in 0..value.len() {
            let cut = bucket(&value[..length]);
            assert_eq!(records(&cut).len(), usize::from(length >= 4), "{length}");
            assert!(
                bucket(&value[..length])
                    .find_mut(|record| record == b"ab")
                    .is_none()
            );
        }
        let mut other = value;
        other[0] += 1;
        assert_eq!(records(&bucket(&other)).len(), 0);
        assert!(bucket(&other).find_mut(|_| true).is_none());
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(value: Vec<u8>) {
            let mut bucket = bucket(&value);
            let number = bucket.records().count();
            proptest::prop_assert_eq!(bucket.find_mut(|_| true).is_some(), number > 0);
        }
    }
}
