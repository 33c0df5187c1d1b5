//! Reading the map of a layer, in pages.

use lunar_proto::domain::{MapEntry, MapPage, READ_MAP_MAX, ReadMap};

use super::Service;
use crate::error::ServiceError;
use crate::keyspace::{KeyedTxn, LayerKey, PoolKey, SlotKey, slots_of};
use crate::store::{MetaStore, Txn};

async fn read_map<T: Txn>(txn: &T, request: ReadMap) -> Result<MapPage, ServiceError> {
    let ReadMap { layer, from, limit } = request;
    let record = txn.load(&LayerKey { layer }).await?;
    let record = record.ok_or(ServiceError::LayerNotFound { layer })?;
    let pool = txn.load_known(&PoolKey { pool: record.pool }).await?;
    let limit = limit.clamp(1, READ_MAP_MAX);
    let range = slots_of(layer).starting_at(&SlotKey { layer, at: from });
    let mut entries = txn.scan(&range, limit + 1).await?;
    let next = entries.get(limit).map(|(key, _)| key.at);
    entries.truncate(limit);
    let entry = |(key, value): (SlotKey, crate::keyspace::SlotValue)| MapEntry {
        at: key.at,
        slot: value.0,
    };
    let entries = entries.into_iter().map(entry).collect();
    Ok(MapPage { entries, next, extent_size: pool.extent_size })
}

impl<S: MetaStore> Service<S> {
    /// Slots of a layer in order of their logical extent.
    ///
    /// # Errors
    /// There is no such layer.
    pub async fn read_map(&self, request: ReadMap) -> Result<MapPage, ServiceError> {
        self.read(|txn| async move { read_map(&*txn, request).await }).await
    }
}
