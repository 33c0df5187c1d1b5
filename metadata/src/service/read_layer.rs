//! Reading what a layer has, own slots and parts, in pages of whole logical extents.

use std::collections::BTreeMap;

use lunar_proto::domain::{
    LAYER_PARTS_MAX, LayerEntry, LayerPage, LayerPart, READ_LAYER_MAX, ReadLayer,
};
use lunar_types::{LayerId, LogicalExtent, Slot};

use super::Service;
use crate::error::ServiceError;
use crate::keyspace::{
    KeyedTxn, LayerKey, PartKey, PoolKey, SlotKey, SlotValue, parts_at, parts_of, slots_of,
};
use crate::store::{MetaStore, Txn};

/// Entries of the logical extents of a window, and the first one behind it.
pub(super) struct Window {
    entries: BTreeMap<LogicalExtent, LayerEntry>,
    /// From here on, a scan may have missed something. Nothing: all was read.
    end: Option<LogicalExtent>,
}

impl Window {
    fn entry(&mut self, at: LogicalExtent) -> &mut LayerEntry {
        self.entries.entry(at).or_insert_with(|| LayerEntry { at, own: None, parts: Vec::new() })
    }

    fn ends_before(&mut self, at: LogicalExtent) {
        self.end = Some(self.end.map_or(at, |end| end.min(at)));
    }

    /// Logical extents until `limit` slots are reached, and where to go on.
    pub(super) fn into_page(mut self, limit: usize) -> (Vec<LayerEntry>, Option<LogicalExtent>) {
        if let Some(end) = self.end {
            self.entries.retain(|at, _| *at < end);
        }
        let (mut page, mut slots) = (Vec::new(), 0);
        for (at, entry) in self.entries {
            if slots >= limit {
                return (page, Some(at));
            }
            slots += usize::from(entry.own.is_some()) + entry.parts.len();
            page.push(entry);
        }
        (page, self.end)
    }
}

/// The slots of one logical extent of a layer with their births, the uppermost first.
pub(super) fn downwards(
    layer: LayerId,
    entry: &LayerEntry,
) -> impl Iterator<Item = (LayerId, &Slot)> {
    let parts = entry.parts.iter().rev().map(|part| (part.birth, &part.slot));
    entry.own.iter().map(move |own| (layer, own)).chain(parts)
}

/// The own slot of a layer at one logical extent.
pub(super) async fn read_own<T: Txn>(
    txn: &T,
    layer: LayerId,
    at: LogicalExtent,
) -> Result<Option<Slot>, ServiceError> {
    Ok(txn.load(&SlotKey { layer, at }).await?.map(|SlotValue(slot)| slot))
}

/// The parts of a layer at one logical extent, the oldest birth first.
pub(super) async fn read_parts<T: Txn>(
    txn: &T,
    layer: LayerId,
    at: LogicalExtent,
) -> Result<Vec<LayerPart>, ServiceError> {
    let parts = txn.scan(&parts_at(layer, at), LAYER_PARTS_MAX + 1).await?;
    if parts.len() > LAYER_PARTS_MAX {
        let problem = format!("it has more than {LAYER_PARTS_MAX} parts at {at}");
        return Err(ServiceError::corrupt(format!("layer {layer}"), problem));
    }
    let part = |(PartKey { birth, .. }, SlotValue(slot))| LayerPart { birth, slot };
    Ok(parts.into_iter().map(part).collect())
}

/// Reads the slots and parts of a layer from a logical extent on, more than the limit asks for.
pub(super) async fn read_window<T: Txn>(
    txn: &T,
    request: ReadLayer,
) -> Result<Window, ServiceError> {
    let ReadLayer { layer, from: at, limit } = request;
    let mut window = Window { entries: BTreeMap::new(), end: None };
    let own = slots_of(layer).starting_at(&SlotKey { layer, at });
    let own = txn.scan(&own, limit + 1).await?;
    if let Some((last, _)) = own.get(limit) {
        window.ends_before(last.at);
    }
    // One logical extent more than the limit always fits: so the page never is empty.
    let parts_limit = limit + LAYER_PARTS_MAX;
    let first = PartKey { layer, at, birth: LayerId::default() };
    let parts = txn.scan(&parts_of(layer).starting_at(&first), parts_limit + 1).await?;
    if let Some((last, _)) = parts.get(parts_limit) {
        window.ends_before(last.at);
    }
    for (key, SlotValue(slot)) in own {
        window.entry(key.at).own = Some(slot);
    }
    for (PartKey { at, birth, .. }, SlotValue(slot)) in parts {
        window.entry(at).parts.push(LayerPart { birth, slot });
    }
    let most = window.entries.values().map(|entry| entry.parts.len()).max().unwrap_or(0);
    if most > LAYER_PARTS_MAX {
        let problem = format!("it has {most} parts at one logical extent");
        return Err(ServiceError::corrupt(format!("layer {layer}"), problem));
    }
    Ok(window)
}

async fn read_layer<T: Txn>(txn: &T, request: ReadLayer) -> Result<LayerPage, ServiceError> {
    let ReadLayer { layer, .. } = request;
    let record = txn.load(&LayerKey { layer }).await?;
    let record = record.ok_or(ServiceError::LayerNotFound { layer })?;
    let pool = txn.load_known(&PoolKey { pool: record.pool }).await?;
    let limit = request.limit.clamp(1, READ_LAYER_MAX);
    let window = read_window(txn, ReadLayer { limit, ..request }).await?;
    let (entries, next) = window.into_page(limit);
    Ok(LayerPage { entries, next, extent_size: pool.extent_size })
}

impl<S: MetaStore> Service<S> {
    /// Own slots and parts of a layer in order of their logical extent. A page ends with the
    /// logical extent that reaches the limit of slots.
    ///
    /// # Errors
    /// There is no such layer.
    pub async fn read_layer(&self, request: ReadLayer) -> Result<LayerPage, ServiceError> {
        self.read(|txn| async move { read_layer(&*txn, request).await }).await
    }
}
