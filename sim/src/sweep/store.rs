//! The store of a sweep: ordered keys in memory, of which a copy costs nothing.
//!
//! Invariants:
//! - a commit replaces the keys as a whole; an image that was taken before never changes;
//! - a transaction that wrote fails when anything was committed since its begin. There is one
//!   thread, so that never happens; the check keeps it so.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lunar_metadata::store::{Direction, KeyRange, KeyValue, MetaStore, RangeRead, StoreError, Txn};

use super::medium::mix;

type Keys = BTreeMap<Arc<[u8]>, Arc<[u8]>>;

/// Everything that a store has at one moment.
#[derive(Clone, Default)]
pub(super) struct StoreImage(Arc<Keys>);

impl StoreImage {
    /// A number that follows from all keys and values.
    pub(super) fn hash(&self) -> u64 {
        let bytes = |sum: u64, bytes: &[u8]| {
            let sum = mix(sum ^ bytes.len() as u64);
            let words = bytes.chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            });
            words.fold(sum, |sum, word| mix(sum ^ word))
        };
        self.0.iter().fold(1, |sum, (key, value)| bytes(bytes(sum, key), value))
    }

    /// Whether it is the same moment.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[derive(Default)]
struct Inner {
    image: StoreImage,
    /// What was there after each commit that nobody has asked for yet.
    commits: Vec<StoreImage>,
}

/// A store of ordered keys in memory.
#[derive(Clone, Default)]
pub(super) struct MemoryStore(Arc<Mutex<Inner>>);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whoever panicked with it left whole values: each is replaced at once.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemoryStore {
    /// A store that has this.
    pub(super) fn of(image: StoreImage) -> Self {
        Self(Arc::new(Mutex::new(Inner { image, commits: Vec::new() })))
    }

    /// What it has.
    pub(super) fn image(&self) -> StoreImage {
        locked(&self.0).image.clone()
    }

    /// What it had after each commit since this was asked last.
    pub(super) fn take_commits(&self) -> Vec<StoreImage> {
        std::mem::take(&mut locked(&self.0).commits)
    }
}

/// One attempt: the keys as it sees them, with its own writes.
pub(super) struct MemoryTxn {
    store: MemoryStore,
    began: StoreImage,
    keys: Mutex<Arc<Keys>>,
}

impl MetaStore for MemoryStore {
    type Txn = MemoryTxn;

    async fn begin(&self) -> Result<MemoryTxn, StoreError> {
        let began = self.image();
        let keys = Mutex::new(Arc::clone(&began.0));
        Ok(MemoryTxn { store: self.clone(), began, keys })
    }
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Included(range.begin.as_slice()), Bound::Excluded(range.end.as_slice()))
}

impl Txn for MemoryTxn {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(locked(&self.keys).get(key).map(|value| value.to_vec()))
    }

    async fn get_range(&self, read: &RangeRead) -> Result<Vec<KeyValue>, StoreError> {
        if read.range.is_empty() {
            return Ok(Vec::new());
        }
        let keys = locked(&self.keys);
        let found = keys.range::<[u8], _>(bounds(&read.range));
        let own = |(key, value): (&Arc<[u8]>, &Arc<[u8]>)| (key.to_vec(), value.to_vec());
        Ok(match read.direction {
            Direction::Forward => found.take(read.limit).map(own).collect(),
            Direction::Reverse => found.rev().take(read.limit).map(own).collect(),
        })
    }

    fn set(&self, key: &[u8], value: &[u8]) {
        Arc::make_mut(&mut locked(&self.keys)).insert(key.into(), value.into());
    }

    fn clear(&self, key: &[u8]) {
        Arc::make_mut(&mut locked(&self.keys)).remove(key);
    }

    fn clear_range(&self, range: &KeyRange) {
        Arc::make_mut(&mut locked(&self.keys)).retain(|key, _| !range.contains(key));
    }

    async fn commit(&self) -> Result<(), StoreError> {
        let keys = Arc::clone(&locked(&self.keys));
        if Arc::ptr_eq(&keys, &self.began.0) {
            return Ok(());
        }
        let mut inner = locked(&self.store.0);
        if !inner.image.is_same(&self.began) {
            return Err(StoreError::Conflict);
        }
        inner.image = StoreImage(keys);
        let image = inner.image.clone();
        inner.commits.push(image);
        Ok(())
    }
}
