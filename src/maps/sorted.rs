//! A map in the order of its keys, of which a further one makes the module hardly larger.
//!
//! The module has some twenty maps, and the code of a `BTreeMap` is 8 to 12 KB for each pair of types. This map's is one.
//! It holds thousands of entries, not millions.
//!
//! The entries lie in a list of chunks, sorted throughout. So what is moved to make room for an entry is a chunk and no
//! more, however many entries there are. Chunks that have become small are joined.

use alloc::{vec, vec::Vec};
use core::{cmp::Ordering, fmt, iter};

/// Entries in a chunk, at the most.
const CHUNK: usize = 64;

/// The map.
#[derive(Clone)]
pub struct SortedMap<K, V> {
    chunks: Vec<Vec<(K, V)>>,
}

/// Where a key is, or would be.
struct Place {
    chunk: usize,
    at: usize,
    is_taken: bool,
}

impl<K, V> SortedMap<K, V> {
    /// Returns a map without an entry.
    pub const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Returns how many entries there are.
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    /// Returns whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.chunks.iter().all(Vec::is_empty)
    }

    /// Returns the entries in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.chunks
            .iter()
            .flatten()
            .map(|(key, value)| (key, value))
    }

    /// Returns the keys in their order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Returns the values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Returns the entries in the order of their keys, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let entries = self.chunks.iter_mut().flatten();
        entries.map(|(key, value)| (&*key, value))
    }

    /// Returns the entry with the lowest key.
    pub fn first(&self) -> Option<(&K, &V)> {
        self.iter().next()
    }

    /// Returns the entry with the highest key.
    pub fn last(&self) -> Option<(&K, &V)> {
        let last = self.chunks.last()?.last()?;
        Some((&last.0, &last.1))
    }

    /// Removes the entries that are not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        for chunk in &mut self.chunks {
            chunk.retain_mut(|(key, value)| keep(key, value));
        }
        self.join_chunks();
    }

    /// Joins neighbours that are together no more than half a chunk, so that there are never many small ones, and removes
    /// empty ones.
    fn join_chunks(&mut self) {
        self.chunks.dedup_by(|next, chunk| {
            let is_joined =
                chunk.len() + next.len() <= CHUNK / 2 || chunk.is_empty() || next.is_empty();
            if is_joined {
                chunk.append(next);
            }
            is_joined
        });
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// Returns whether there is an entry for `key`.
    pub fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_taken
    }

    /// Returns the value of `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        let place = self.place(key);
        let (_, value) = self.chunks.get(place.chunk)?.get(place.at)?;
        place.is_taken.then_some(value)
    }

    /// Returns the value of `key`, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.place(key);
        let (_, value) = self.chunks.get_mut(place.chunk)?.get_mut(place.at)?;
        place.is_taken.then_some(value)
    }

    /// Returns the entries behind `key`, in the order of their keys.
    pub fn after(&self, key: &K) -> impl Iterator<Item = (&K, &V)> {
        let Place {
            chunk,
            at,
            is_taken,
        } = self.place(key);
        let entries = self.chunks.iter().skip(chunk).flatten();
        entries
            .skip(at + usize::from(is_taken))
            .map(|(key, value)| (key, value))
    }

    /// Gives `key` a value, instead of the one that it may have.
    pub fn insert(&mut self, key: K, value: V) {
        let Place {
            chunk,
            at,
            is_taken,
        } = self.place(&key);
        let Some(entries) = self.chunks.get_mut(chunk) else {
            self.chunks.push(vec![(key, value)]);
            return;
        };
        if is_taken {
            if let Some(entry) = entries.get_mut(at) {
                entry.1 = value;
            }
            return;
        }
        entries.insert(at, (key, value));
        if entries.len() > CHUNK {
            // Where keys only grow, the chunks stay full.
            let middle = if at == CHUNK { CHUNK } else { CHUNK / 2 };
            let upper = entries.split_off(middle);
            self.chunks.insert(chunk + 1, upper);
        }
    }

    /// Changes the value of `key`, which begins with the default one. Returns what `change` returns.
    pub fn update<R>(&mut self, key: K, change: impl FnOnce(&mut V) -> R) -> R
    where
        V: Default,
    {
        if let Some(value) = self.get_mut(&key) {
            return change(value);
        }
        let mut value = V::default();
        let result = change(&mut value);
        self.insert(key, value);
        result
    }

    /// Removes the entry of `key`. Returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let place = self.place(key);
        if !place.is_taken {
            return None;
        }
        self.remove_at(place).map(|(_, value)| value)
    }

    /// Removes the entry with the lowest key. Returns it.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let first = Place {
            chunk: 0,
            at: 0,
            is_taken: !self.is_empty(),
        };
        first.is_taken.then(|| self.remove_at(first)).flatten()
    }

    /// Removes the entries whose values are `chosen`. Returns them.
    pub fn take(&mut self, chosen: &dyn Fn(&V) -> bool) -> Self {
        let mut taken = Self::new();
        for (key, value) in core::mem::take(self) {
            let to = if chosen(&value) {
                &mut taken
            } else {
                &mut *self
            };
            to.insert(key, value);
        }
        taken
    }

    /// Returns where `key` is, or would be. The chunk is behind the last one only if there is none.
    fn place(&self, key: &K) -> Place {
        let is_before = |entries: &Vec<(K, V)>| {
            let last = entries.last();
            last.is_some_and(|(last, _)| order(last, key).is_lt())
        };
        let last = self.chunks.len().saturating_sub(1);
        // Most maps have one chunk.
        let chunk = match last {
            0 => 0,
            _ => first_not(&self.chunks, is_before).min(last),
        };
        let entries = self.chunks.get(chunk).map_or(&[][..], Vec::as_slice);
        let at = match entries.last() {
            // Keys that only grow, such as those of streams, are mostly asked for soon after they came.
            Some((greatest, _)) => match order(greatest, key) {
                Ordering::Less => entries.len(),
                Ordering::Equal => entries.len().saturating_sub(1),
                Ordering::Greater => first_not(entries, |(other, _)| order(other, key).is_lt()),
            },
            None => 0,
        };
        let found = entries.get(at);
        let is_taken = found.is_some_and(|(other, _)| order(other, key).is_eq());
        Place {
            chunk,
            at,
            is_taken,
        }
    }

    /// Removes the entry at a place that is taken.
    fn remove_at(&mut self, Place { chunk, at, .. }: Place) -> Option<(K, V)> {
        let entries = self.chunks.get_mut(chunk)?;
        // Of few entries it is mostly the last one, behind which nothing is to be moved.
        let removed = if at + 1 == entries.len() {
            entries.pop()?
        } else {
            entries.remove(at)
        };
        if entries.len() < CHUNK / 4 && self.chunks.len() > 1 {
            self.join_chunks();
        }
        Some(removed)
    }
}

/// Compares two keys. The code that compares two long ones is long, so each type has it once and not inlined.
#[inline(always)]
fn order<K: Ord>(one: &K, other: &K) -> Ordering {
    if size_of::<K>() <= size_of::<u64>() {
        one.cmp(other)
    } else {
        order_long(one, other)
    }
}

#[inline(never)]
fn order_long<K: Ord>(one: &K, other: &K) -> Ordering {
    one.cmp(other)
}

/// Returns the place of the first item that is not `before`. Those that are stand first. The standard library's search
/// has ten times the code.
fn first_not<T>(items: &[T], before: impl Fn(&T) -> bool) -> usize {
    let mut rest = items;
    let mut passed = 0;
    while let Some((half, [middle, upper @ ..])) = rest.split_at_checked(rest.len() / 2) {
        if before(middle) {
            passed += half.len() + 1;
            rest = upper;
        } else {
            rest = half;
        }
    }
    passed
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> IntoIterator for SortedMap<K, V> {
    type Item = (K, V);
    type IntoIter = iter::Flatten<vec::IntoIter<Vec<(K, V)>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.chunks.into_iter().flatten()
    }
}

/// Two maps are equal if their entries are, wherever their chunks end.
impl<K: PartialEq, V: PartialEq> PartialEq for SortedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<K: Eq, V: Eq> Eq for SortedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SortedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// What is done to a map, with keys that meet often enough.
    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16),
        Append(u16),
        Update(u16),
        Remove(u16),
        PopFirst,
        Retain(u16),
        Take(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..600u16;
        prop_oneof![
            8 => key.clone().prop_map(Step::Insert),
            4 => (1..200u16).prop_map(Step::Append),
            2 => key.clone().prop_map(Step::Update),
            8 => key.prop_map(Step::Remove),
            2 => Just(Step::PopFirst),
            1 => (2..9u16).prop_map(Step::Retain),
            1 => (2..9u16).prop_map(Step::Take),
        ]
    }

    /// Does the same to both maps. Returns whether the same came out.
    fn apply(step: &Step, ours: &mut SortedMap<u16, u16>, theirs: &mut BTreeMap<u16, u16>) -> bool {
        match *step {
            Step::Insert(key) => {
                ours.insert(key, key ^ 1);
                theirs.insert(key, key ^ 1);
            }
            Step::Append(number) => {
                let next = theirs.last_key_value().map_or(0, |(last, _)| last + 1);
                for key in next..next.saturating_add(number).min(30_000) {
                    ours.insert(key, number);
                    theirs.insert(key, number);
                }
            }
            Step::Update(key) => {
                let add = |value: &mut u16| {
                    *value = value.wrapping_add(1);
                    *value
                };
                return ours.update(key, add) == add(theirs.entry(key).or_default());
            }
            Step::Remove(key) => return ours.remove(&key) == theirs.remove(&key),
            Step::PopFirst => return ours.pop_first() == theirs.pop_first(),
            Step::Retain(divisor) => {
                ours.retain(|key, _| key % divisor != 0);
                theirs.retain(|key, _| key % divisor != 0);
            }
            Step::Take(divisor) => {
                let taken = ours.take(&|value| value % divisor == 0);
                let (left, expected) = std::mem::take(theirs)
                    .into_iter()
                    .partition(|(_, value)| value % divisor != 0);
                *theirs = left;
                return taken.into_iter().eq(BTreeMap::into_iter(expected));
            }
        }
        true
    }

    proptest! {
        #[test]
        fn it_does_what_the_standard_librarys_map_does(steps in prop::collection::vec(step(), 1..400)) {
            let (mut ours, mut theirs) = (SortedMap::new(), BTreeMap::new());
            for step in &steps {
                prop_assert!(apply(step, &mut ours, &mut theirs), "{step:?}");
                prop_assert_eq!(ours.len(), theirs.len());
                prop_assert_eq!(ours.is_empty(), theirs.is_empty());
                prop_assert_eq!(ours.first(), theirs.first_key_value());
                prop_assert_eq!(ours.last(), theirs.last_key_value());
                if let Step::Insert(key) | Step::Remove(key) = step {
                    prop_assert_eq!(ours.get(key), theirs.get(key));
                    prop_assert_eq!(ours.get_mut(key), theirs.get_mut(key));
                    prop_assert_eq!(ours.contains_key(key), theirs.contains_key(key));
                    prop_assert!(ours.after(key).eq(theirs.range(key + 1..)));
                }
                // No chunk is too large, and of two neighbours not both are small.
                let lengths: Vec<_> = ours.chunks.iter().map(Vec::len).collect();
                prop_assert!(lengths.iter().all(|length| *length <= CHUNK), "{lengths:?}");
                prop_assert!(lengths.windows(2).all(|two| two[0] + two[1] >= CHUNK / 4), "{lengths:?}");
            }
            prop_assert!(ours.iter().eq(theirs.iter()));
            prop_assert!(ours.iter_mut().eq(theirs.iter_mut()));
            prop_assert!(ours.keys().eq(theirs.keys()) && ours.values().eq(theirs.values()));
            prop_assert!(ours.into_iter().eq(theirs));
        }
    }

    #[test]
    fn maps_with_the_same_entries_are_equal_however_they_came() {
        let (mut up, mut down) = (SortedMap::new(), SortedMap::new());
        for key in 0..1_000 {
            up.insert(key, ());
            down.insert(999 - key, ());
        }
        assert_ne!(up.chunks, down.chunks);
        assert_eq!(up, down);
        down.remove(&500);
        assert_ne!(up, down);
    }

    #[test]
    fn keys_that_only_grow_fill_their_chunks() {
        let mut map = SortedMap::new();
        for key in 0..CHUNK * 5 {
            map.insert(key, ());
        }
        assert_eq!(map.chunks.len(), 5);
        for key in 0..CHUNK * 5 - 1 {
            assert_eq!(map.remove(&key), Some(()));
        }
        assert_eq!(map.chunks.len(), 1);
    }
}
