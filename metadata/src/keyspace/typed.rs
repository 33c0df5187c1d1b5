//! Typed access: keys in, records out, and an error that names the key when bytes are wrong.

use std::future::Future;
use std::marker::PhantomData;

use super::encoding::Record as _;
use super::keys::{Key, table_range};
use crate::error::ServiceError;
use crate::store::{KeyRange, RangeRead, Txn};

/// A range of keys of one table.
#[derive(Clone, Debug)]
pub struct TypedRange<K> {
    range: KeyRange,
    key: PhantomData<fn() -> K>,
}

impl<K: Key> TypedRange<K> {
    pub(super) fn new(range: KeyRange) -> Self {
        Self { range, key: PhantomData }
    }

    /// Every key of the table.
    #[must_use]
    pub fn table() -> Self {
        Self::new(table_range::<K>())
    }

    /// The part of the range that begins at a key.
    #[must_use]
    pub fn starting_at(self, key: &K) -> Self {
        let begin = key.pack().max(self.range.begin);
        Self::new(KeyRange::new(begin, self.range.end))
    }

    /// The part of the range that comes after a packed key.
    #[must_use]
    pub fn after(self, key: &[u8]) -> Self {
        let mut next = key.to_vec();
        next.push(0);
        let begin = next.max(self.range.begin);
        Self::new(KeyRange::new(begin, self.range.end))
    }

    /// The keys as bytes.
    #[must_use]
    pub fn keys(&self) -> &KeyRange {
        &self.range
    }

    /// The first `limit` keys, serializable.
    #[must_use]
    pub fn first(&self, limit: usize) -> RangeRead {
        RangeRead::first(self.range.clone(), limit)
    }
}

/// A key and its record.
pub type Entry<K> = (K, <K as Key>::Value);

/// What a scan that passes over damage has found.
pub struct Scanned<K: Key> {
    /// The records that can be read, with their keys.
    pub entries: Vec<Entry<K>>,
    /// Each entry that cannot be read, named.
    pub damaged: Vec<ServiceError>,
    /// The packed key after which there may be more.
    pub more_after: Option<Vec<u8>>,
}

fn decoded<K: Key>(key: &K, bytes: &[u8]) -> Result<K::Value, ServiceError> {
    K::Value::decode(bytes)
        .map_err(|source| ServiceError::corrupt(format!("{key:?}"), source.to_string()))
}

fn entry<K: Key>(key: &[u8], value: &[u8]) -> Result<Entry<K>, ServiceError> {
    let unpacked = K::unpack(key).ok_or_else(|| {
        ServiceError::corrupt(format!("{key:02x?}"), format!("it is no key of table '{}'", K::NAME))
    })?;
    let record = decoded(&unpacked, value)?;
    Ok((unpacked, record))
}

/// Typed access to a transaction.
pub trait KeyedTxn: Txn {
    /// The record of a key.
    fn load<K: Key>(
        &self,
        key: &K,
    ) -> impl Future<Output = Result<Option<K::Value>, ServiceError>> + Send {
        async move {
            let bytes = self.get(&key.pack()).await?;
            bytes.map(|bytes| decoded(key, &bytes)).transpose()
        }
    }

    /// The records of many keys, in their order.
    fn load_many<K: Key>(
        &self,
        keys: &[K],
    ) -> impl Future<Output = Result<Vec<Option<K::Value>>, ServiceError>> + Send {
        async move {
            let packed: Vec<Vec<u8>> = keys.iter().map(Key::pack).collect();
            let values = self.get_many(&packed).await?;
            let decode = |(key, bytes): (&K, Option<Vec<u8>>)| {
                bytes.map(|bytes| decoded(key, &bytes)).transpose()
            };
            keys.iter().zip(values).map(decode).collect()
        }
    }

    /// The record of a key that another record says is there.
    fn load_known<K: Key>(
        &self,
        key: &K,
    ) -> impl Future<Output = Result<K::Value, ServiceError>> + Send {
        async move {
            self.load(key).await?.ok_or_else(|| {
                ServiceError::corrupt(format!("{key:?}"), "it is missing".to_owned())
            })
        }
    }

    /// The records of a range, with their keys.
    fn scan<K: Key>(
        &self,
        range: &TypedRange<K>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Entry<K>>, ServiceError>> + Send {
        self.scan_read::<K>(range.first(limit))
    }

    /// The records of a range read as the caller says.
    fn scan_read<K: Key>(
        &self,
        read: RangeRead,
    ) -> impl Future<Output = Result<Vec<Entry<K>>, ServiceError>> + Send {
        async move {
            let found = self.get_range(&read).await?;
            found.iter().map(|(key, value)| entry(key, value)).collect()
        }
    }

    /// The records of a range that can be read: background work goes on beside one that cannot.
    fn scan_sound<K: Key>(
        &self,
        read: RangeRead,
    ) -> impl Future<Output = Result<Scanned<K>, ServiceError>> + Send {
        async move {
            let found = self.get_range(&read).await?;
            let more_after = found.last().filter(|_| found.len() >= read.limit);
            let more_after = more_after.map(|(key, _)| key.clone());
            let (mut entries, mut damaged) = (Vec::with_capacity(found.len()), Vec::new());
            for (key, value) in &found {
                match entry::<K>(key, value) {
                    Ok(entry) => entries.push(entry),
                    Err(error) => damaged.push(error),
                }
            }
            Ok(Scanned { entries, damaged, more_after })
        }
    }

    /// Gives a key its record.
    fn put<K: Key>(&self, key: &K, record: &K::Value) {
        self.set(&key.pack(), &record.encode());
    }

    /// Takes a key away.
    fn remove<K: Key>(&self, key: &K) {
        self.clear(&key.pack());
    }
}

impl<T: Txn> KeyedTxn for T {}

#[cfg(test)]
mod tests {
    use lunar_types::{LayerId, LogicalExtent};

    use super::super::keys::{SlotKey, slots_of};
    use super::*;

    #[test]
    fn a_range_never_begins_before_its_table() {
        let layer = LayerId::new(7);
        let before = SlotKey { layer: LayerId::new(1), at: LogicalExtent::new(5) };
        let range = slots_of(layer).starting_at(&before);
        assert_eq!(range.keys(), slots_of(layer).keys());
        let inside = SlotKey { layer, at: LogicalExtent::new(5) };
        let after = slots_of(layer).after(&inside.pack());
        assert!(!after.keys().contains(&inside.pack()));
        let next = SlotKey { layer, at: LogicalExtent::new(6) };
        assert!(after.keys().contains(&next.pack()));
    }
}
