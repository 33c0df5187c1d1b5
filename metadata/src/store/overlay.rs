//! The writes of a transaction before its commit, and what it has read.
//!
//! Invariants:
//! - a read sees the transaction's own writes in their order;
//! - applying is: first every cleared range, then every write, in key order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::range::successor;
use super::{
    Direction, Isolation, KeyRange, KeyValue, RangeRead, StoreError, TXN_BYTES_MAX,
    assert_write_fits,
};

/// The last write of each key: a value, or nothing for a cleared key.
pub(super) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// What a transaction has written and read so far.
#[derive(Default)]
pub(super) struct Overlay {
    writes: Writes,
    cleared: Vec<KeyRange>,
    read_keys: BTreeSet<Vec<u8>>,
    read_ranges: Vec<KeyRange>,
}

/// What the overlay knows of a key.
pub(super) enum Known {
    /// Its value, or that it has none.
    Value(Option<Vec<u8>>),
    /// Nothing: ask the snapshot.
    Nothing,
}

impl Overlay {
    /// Remembers a serializable read of a key and says what the overlay knows of it.
    pub(super) fn read(&mut self, key: &[u8]) -> Known {
        if !self.read_keys.contains(key) {
            self.read_keys.insert(key.to_vec());
        }
        if let Some(value) = self.writes.get(key) {
            return Known::Value(value.clone());
        }
        if self.is_cleared(key) { Known::Value(None) } else { Known::Nothing }
    }

    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) {
        assert_write_fits(key, value);
        self.writes.insert(key.to_vec(), Some(value.to_vec()));
        self.assert_size();
    }

    pub(super) fn clear(&mut self, key: &[u8]) {
        assert_write_fits(key, &[]);
        self.writes.insert(key.to_vec(), None);
        self.assert_size();
    }

    pub(super) fn clear_range(&mut self, range: &KeyRange) {
        assert_write_fits(&range.begin, &range.end);
        self.writes.retain(|key, _| !range.contains(key));
        self.cleared.push(range.clone());
        self.assert_size();
    }

    fn is_cleared(&self, key: &[u8]) -> bool {
        self.cleared.iter().any(|range| range.contains(key))
    }

    /// Bytes of the keys and values that are written.
    fn byte_size(&self) -> usize {
        let written: usize = self
            .writes
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len))
            .sum();
        let cleared: usize =
            self.cleared.iter().map(|range| range.begin.len() + range.end.len()).sum();
        written + cleared
    }

    /// Counts now and then only: a full count at each write would be quadratic.
    fn assert_size(&self) {
        let steps = self.writes.len() + self.cleared.len();
        if steps.is_power_of_two() {
            self.assert_within_limits();
        }
    }

    /// Asserts that the transaction would fit FoundationDB.
    pub(super) fn assert_within_limits(&self) {
        let bytes = self.byte_size();
        assert!(bytes < TXN_BYTES_MAX, "a transaction of {bytes} bytes does not fit the stores");
    }

    /// Whether there is nothing to commit.
    pub(super) fn is_read_only(&self) -> bool {
        self.writes.is_empty() && self.cleared.is_empty()
    }

    /// The cleared ranges and then the writes, in the order of applying.
    pub(super) fn changes(&self) -> (&[KeyRange], &Writes) {
        (&self.cleared, &self.writes)
    }

    /// What was read serializably, keys and ranges.
    pub(super) fn reads(&self) -> (&BTreeSet<Vec<u8>>, &[KeyRange]) {
        (&self.read_keys, &self.read_ranges)
    }

    /// Merges a range of the snapshot with the own writes; `base` gives the snapshot's keys in the
    /// direction of the read.
    pub(super) fn read_range(
        &mut self,
        read: &RangeRead,
        base: impl Iterator<Item = Result<KeyValue, StoreError>>,
    ) -> Result<Vec<KeyValue>, StoreError> {
        let found = self.merge(read, base)?;
        if read.isolation == Isolation::Serializable {
            self.remember_range(read, &found);
        }
        Ok(found)
    }

    fn merge(
        &self,
        read: &RangeRead,
        base: impl Iterator<Item = Result<KeyValue, StoreError>>,
    ) -> Result<Vec<KeyValue>, StoreError> {
        let mut own = self.own_values(read).into_iter().peekable();
        let mut found = Vec::new();
        let before = |a: &[u8], b: &[u8]| match read.direction {
            Direction::Forward => a < b,
            Direction::Reverse => a > b,
        };
        for item in base {
            let (key, value) = item?;
            while found.len() < read.limit
                && let Some(entry) = own.next_if(|(own, _)| before(own, &key))
            {
                found.push(entry);
            }
            if found.len() >= read.limit {
                break;
            }
            if !self.writes.contains_key(&key) && !self.is_cleared(&key) {
                found.push((key, value));
            }
        }
        let room = read.limit - found.len();
        found.extend(own.take(room));
        Ok(found)
    }

    /// The own values of a range in the direction of the read.
    fn own_values(&self, read: &RangeRead) -> Vec<KeyValue> {
        if read.range.is_empty() {
            return Vec::new();
        }
        let bounds = (
            Bound::Included(read.range.begin.as_slice()),
            Bound::Excluded(read.range.end.as_slice()),
        );
        let own = self
            .writes
            .range::<[u8], _>(bounds)
            .filter_map(|(key, value)| value.clone().map(|value| (key.clone(), value)));
        match read.direction {
            Direction::Forward => own.collect(),
            Direction::Reverse => own.rev().collect(),
        }
    }

    /// A range that was cut by its limit was read only up to the last key of the answer.
    fn remember_range(&mut self, read: &RangeRead, found: &[KeyValue]) {
        let mut seen = read.range.clone();
        if let Some((last, _)) = found.last()
            && found.len() >= read.limit
        {
            match read.direction {
                Direction::Forward => seen.end = successor(last),
                Direction::Reverse => seen.begin = last.clone(),
            }
        }
        self.read_ranges.push(seen);
    }
}
