//! Layers: what their records count, and their place in the forest.
//!
//! Invariants:
//! - a layer's record counts its own slots with storage and has the digest of all own slots;
//!   parts are counted under a key of their own, which is absent when there is none;
//! - a layer with a parent has one entry in the parent's list of children;
//! - a sealed layer has a child, a name, or an operation that removes it.

use lunar_types::{ByteCount, LayerId, PoolId, VolumeId};

use super::next_number;
use crate::error::ServiceError;
use crate::keyspace::{
    ChildKey, Counter, Key, KeyedTxn, LayerKey, LayerName, LayerPartsKey, LayerPartsRecord,
    LayerRecord, PartKey, Present, SlotDigest, SlotKey, SlotValue, VolumeRecord,
};
use crate::store::Txn;

/// Most layers of a chain.
pub const CHAIN_LAYERS_MAX: usize = 256;

/// A count and a digest over slots of one kind.
fn change<K: Key<Value = SlotValue>>(
    (extents, digest): (&mut u64, &mut SlotDigest),
    key: &K,
    old: Option<&SlotValue>,
    new: Option<&SlotValue>,
) -> Result<(), ServiceError> {
    let has_storage = |slot: Option<&SlotValue>| u64::from(slot.is_some_and(has_extent));
    let counted = (*extents + has_storage(new)).checked_sub(has_storage(old));
    *extents = counted.ok_or_else(|| {
        let problem = "its layer has more slots than it counts".to_owned();
        ServiceError::corrupt(format!("{key:?}"), problem)
    })?;
    if let Some(old) = old {
        *digest = digest.without(key, old);
    }
    if let Some(new) = new {
        *digest = digest.with(key, new);
    }
    Ok(())
}

fn has_extent(slot: &SlotValue) -> bool {
    slot.0.extent().is_some()
}

/// Counts the change of an own slot in the record of its layer.
pub(super) fn count_slot(
    layer: &mut LayerRecord,
    key: &SlotKey,
    old: Option<&SlotValue>,
    new: Option<&SlotValue>,
) -> Result<(), ServiceError> {
    change((&mut layer.extents, &mut layer.digest), key, old, new)
}

/// Gives a layer parts, and counts them.
pub(super) async fn add_parts<T: Txn>(
    txn: &T,
    key: &LayerPartsKey,
    coming: &[(PartKey, SlotValue)],
) -> Result<(), ServiceError> {
    if coming.is_empty() {
        return Ok(());
    }
    let none = LayerPartsRecord { extents: 0, parts: 0, digest: SlotDigest::default() };
    let mut sums = txn.load(key).await?.unwrap_or(none);
    for (part, value) in coming {
        change((&mut sums.extents, &mut sums.digest), part, None, Some(value))?;
        txn.put(part, value);
    }
    sums.parts += coming.len() as u64;
    txn.put(key, &sums);
    Ok(())
}

/// The extents that a layer has in its own slots, which the caller knows, and in parts.
pub(super) async fn owned_extents<T: Txn>(
    txn: &T,
    layer: LayerId,
    in_slots: u64,
) -> Result<u64, ServiceError> {
    let parts = txn.load(&LayerPartsKey { layer }).await?;
    Ok(in_slots + parts.map_or(0, |parts| parts.extents))
}

/// Takes parts of one layer away, with what is counted of them.
pub(super) async fn remove_parts<T: Txn>(
    txn: &T,
    key: &LayerPartsKey,
    gone: &[(PartKey, SlotValue)],
) -> Result<(), ServiceError> {
    if gone.is_empty() {
        return Ok(());
    }
    let mut sums = txn.load_known(key).await?;
    for (part, value) in gone {
        change((&mut sums.extents, &mut sums.digest), part, Some(value), None)?;
        txn.remove(part);
    }
    sums.parts = sums.parts.checked_sub(gone.len() as u64).ok_or_else(|| {
        ServiceError::corrupt(format!("{key:?}"), "there are more parts than it counts".to_owned())
    })?;
    let LayerPartsRecord { parts, .. } = sums;
    if parts == 0 {
        txn.remove(key)
    } else {
        txn.put(key, &sums)
    }
    Ok(())
}

/// The layer below one that is there.
pub(super) async fn parent_of<T: Txn>(
    txn: &T,
    layer: LayerId,
) -> Result<Option<LayerId>, ServiceError> {
    older_parent(layer, &txn.load_known(&LayerKey { layer }).await?)
}

/// The layer below one, by its record: chains never go round.
pub(super) fn older_parent(
    layer: LayerId,
    record: &LayerRecord,
) -> Result<Option<LayerId>, ServiceError> {
    let parent = record.parent;
    if parent.is_some_and(|parent| parent >= layer) {
        let problem = format!("it stands on {parent:?}, which is not older");
        return Err(ServiceError::corrupt(format!("layer {layer}"), problem));
    }
    Ok(parent)
}

/// Checks that one more layer may stand on a layer.
pub(super) async fn require_depth_left<T: Txn>(
    txn: &T,
    layer: LayerId,
) -> Result<(), ServiceError> {
    let mut depth = 0;
    let mut next = Some(layer);
    while let Some(id) = next {
        depth += 1;
        if depth >= CHAIN_LAYERS_MAX {
            return Err(ServiceError::ChainTooDeep { layer, depth, most: CHAIN_LAYERS_MAX });
        }
        next = parent_of(txn, id).await?;
    }
    Ok(())
}

/// The id of a layer that nothing has had before.
pub(super) async fn next_layer<T: Txn>(txn: &T) -> Result<LayerId, ServiceError> {
    Ok(LayerId::new(next_number(txn, Counter::Layer).await?))
}

/// Makes an empty head for a volume, on a layer or at the bottom.
pub(super) async fn begin_head<T: Txn>(
    txn: &T,
    volume: VolumeId,
    pool: PoolId,
    parent: Option<LayerId>,
) -> Result<LayerId, ServiceError> {
    let head = next_layer(txn).await?;
    put_head(txn, head, volume, pool, parent);
    Ok(head)
}

/// Makes an empty head of an id that was taken before.
fn put_head<T: Txn>(
    txn: &T,
    head: LayerId,
    volume: VolumeId,
    pool: PoolId,
    parent: Option<LayerId>,
) {
    let record = LayerRecord {
        parent,
        volume,
        pool,
        sealed: false,
        size: ByteCount::new(0),
        name: LayerName::Head(volume),
        extents: 0,
        digest: SlotDigest::default(),
    };
    if let Some(parent) = parent {
        assert!(parent < head, "layers are numbered as they are made");
        txn.put(&ChildKey { parent, child: head }, &Present {});
    }
    txn.put(&LayerKey { layer: head }, &record);
}

/// Seals the head of a volume and puts the next one on it; gives the sealed layer. The volume's
/// record is the caller's to write.
pub(super) async fn move_head<T: Txn>(
    txn: &T,
    (volume, record): (VolumeId, &mut VolumeRecord),
    name: LayerName,
    next: LayerId,
) -> Result<LayerId, ServiceError> {
    let sealed = record.head;
    seal_head(txn, record, name).await?;
    if txn.load(&LayerKey { layer: next }).await?.is_some() {
        let problem = format!("it is to be the next head of volume {volume}, and exists already");
        return Err(ServiceError::corrupt(format!("layer {next}"), problem));
    }
    put_head(txn, next, volume, record.pool, Some(sealed));
    record.head = next;
    Ok(sealed)
}

/// Seals the head of a volume: nothing changes it from now on.
pub(super) async fn seal_head<T: Txn>(
    txn: &T,
    volume: &VolumeRecord,
    name: LayerName,
) -> Result<(), ServiceError> {
    let key = LayerKey { layer: volume.head };
    let mut layer = txn.load_known(&key).await?;
    if layer.sealed {
        let problem = format!("it is sealed, and volume '{}' has it as its head", volume.name);
        return Err(ServiceError::corrupt(format!("{key:?}"), problem));
    }
    layer.sealed = true;
    layer.size = ByteCount::new(volume.size.bytes());
    layer.name = name;
    txn.put(&key, &layer);
    Ok(())
}
