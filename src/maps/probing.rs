//! A map for keys that are evenly spread, such as hashes, and for numbers that count up, which it spreads. It has no order, and
//! an entry is found in the same time however many there are.
//!
//! It is a hash table with linear probing (Knuth, *The Art of Computer Programming*, vol. 3, section 6.4, algorithms L and
//! R): an entry lies at the place that its key says, or behind it, without a gap in between. At most half of the places are
//! taken. Removing an entry closes the gap, so no mark is left behind.
//!
//! The non-obvious rule: places are the lower bits of what a key is spread to. No client may be able to choose keys that share
//! them, or a search passes all of these. Nor may keys lie in one long row, as numbers that count up would by themselves: once
//! they have gone around the table, a new one would pass the whole row of those that stay.

use alloc::vec::Vec;

/// A key that says where its entry lies.
pub trait Spread: PartialEq {
    /// Returns a number whose lower bits differ from key to key.
    fn spread(&self) -> u32;
}

/// Numbers that count up: Fibonacci hashing (Knuth, vol. 3, section 6.4), whose upper bits are spread best.
impl Spread for u32 {
    #[inline]
    fn spread(&self) -> u32 {
        const GOLDEN: u32 = 0x9e37_79b1;
        self.wrapping_mul(GOLDEN).rotate_left(16)
    }
}

/// The map.
pub struct ProbingMap<K, V> {
    /// As many as a power of two, or none.
    places: Vec<Option<(K, V)>>,
    len: usize,
}

/// Places of a map that has any, at the least.
const MIN_PLACES: usize = 16;

impl<K, V> Default for ProbingMap<K, V> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            len: 0,
        }
    }
}

impl<K, V> ProbingMap<K, V> {
    /// Returns how many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the place for this number, whatever its upper bits.
    fn wrap(&self, number: usize) -> usize {
        number & self.places.len().wrapping_sub(1)
    }
}

impl<K: Spread, V> ProbingMap<K, V> {
    /// Returns the value of `key`.
    #[inline]
    pub fn get(&self, key: &K) -> Option<&V> {
        let (_, value) = self.places.get(self.find(key)?)?.as_ref()?;
        Some(value)
    }

    /// Returns the value of `key`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.find(key)?;
        let (_, value) = self.places.get_mut(at)?.as_mut()?;
        Some(value)
    }

    /// Returns all values, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.places.iter().flatten().map(|(_, value)| value)
    }

    /// Gives `key` a value, instead of the one that it may have.
    #[inline]
    pub fn insert(&mut self, key: K, value: V) {
        if self.places.len() < 2 * (self.len + 1) {
            self.grow();
        }
        self.put(key, value);
    }

    /// Removes the entry of `key`. Returns its value.
    #[inline]
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let mut gap = self.find(key)?;
        let (_, value) = self.places.get_mut(gap)?.take()?;
        self.len -= 1;
        let mut at = self.wrap(gap + 1);
        while let Some(Some((key, _))) = self.places.get(at) {
            // Behind its own place an entry may be moved back to the gap, but not to before that place.
            let from_home = self.wrap(at.wrapping_sub(home(key)));
            if from_home >= self.wrap(at.wrapping_sub(gap)) {
                let moved = self.places.get_mut(at).and_then(Option::take);
                if let Some(place) = self.places.get_mut(gap) {
                    *place = moved;
                }
                gap = at;
            }
            at = self.wrap(at + 1);
        }
        Some(value)
    }

    #[inline]
    fn find(&self, key: &K) -> Option<usize> {
        let mut at = self.wrap(home(key));
        while let Some((other, _)) = self.places.get(at)? {
            if other == key {
                return Some(at);
            }
            at = self.wrap(at + 1);
        }
        None
    }

    /// Puts an entry into its place, or else into the first free one.
    #[inline]
    fn put(&mut self, key: K, value: V) {
        let mut at = self.wrap(home(&key));
        loop {
            let next = self.wrap(at + 1);
            match self.places.get_mut(at) {
                Some(place @ None) => {
                    *place = Some((key, value));
                    self.len += 1;
                    return;
                }
                Some(Some((other, old))) if *other == key => {
                    *old = value;
                    return;
                }
                Some(Some(_)) => at = next,
                // There is no map without a free place.
                None => return,
            }
        }
    }

    #[cold]
    fn grow(&mut self) {
        let places = MIN_PLACES.max(2 * self.places.len());
        let fresh = core::iter::repeat_with(|| None).take(places).collect();
        self.len = 0;
        for (key, value) in core::mem::replace(&mut self.places, fresh)
            .into_iter()
            .flatten()
        {
            self.put(key, value);
        }
    }
}

#[inline]
fn home(key: &impl Spread) -> usize {
    // On a machine with fewer bits the lower ones are left, which count.
    key.spread() as usize
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// A key that is its own place.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Place(u32);

    impl Spread for Place {
        fn spread(&self) -> u32 {
            self.0
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Place),
        Remove(Place),
    }

    /// Keys that share places, and wrap around the end of the table.
    fn step() -> impl Strategy<Value = Step> {
        let key = prop_oneof![0..40u32, (0..20u32).prop_map(|key| key * 16 + 13)].prop_map(Place);
        prop_oneof![
            key.clone().prop_map(Step::Insert),
            key.prop_map(Step::Remove)
        ]
    }

    /// Streams that were opened one after the other and stay, such as those of `/sync`.
    #[test]
    fn numbers_that_count_up_leave_gaps() {
        for first in [1, 5_000, u32::MAX - 2_000] {
            let mut map = ProbingMap::default();
            for number in 0..4_000_u32 {
                map.insert(first.wrapping_add(number), ());
            }
            let rows = map.places.split(Option::is_none);
            let longest = rows.map(<[_]>::len).max();
            assert!(longest < Some(32), "{first}: {longest:?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_what_the_standard_librarys_map_does(steps in prop::collection::vec(step(), 1..300)) {
            let mut ours = ProbingMap::default();
            let mut theirs = BTreeMap::new();
            for (number, step) in steps.iter().enumerate() {
                match *step {
                    Step::Insert(key) => {
                        ours.insert(key, number);
                        theirs.insert(key, number);
                    }
                    Step::Remove(key) => prop_assert_eq!(ours.remove(&key), theirs.remove(&key)),
                }
                prop_assert_eq!(ours.len(), theirs.len());
                prop_assert_eq!(ours.is_empty(), theirs.is_empty());
                let mut values: Vec<_> = ours.values().collect();
                values.sort_unstable();
                // Each value is the number of a step.
                let mut expected: Vec<_> = theirs.values().collect();
                expected.sort_unstable();
                prop_assert_eq!(values, expected);
                for key in (0..400).map(Place) {
                    prop_assert_eq!(ours.get(&key), theirs.get(&key), "{:?} after {:?}", key, step);
                    prop_assert_eq!(ours.get_mut(&key), theirs.get_mut(&key));
                }
                prop_assert!(ours.places.is_empty() || ours.places.len() >= 2 * ours.len);
            }
        }
    }
}
