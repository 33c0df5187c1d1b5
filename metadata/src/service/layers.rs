//! Layers: what their records count, and their place in the forest.
//!
//! Invariants:
//! - a layer's record counts its own slots with storage and has the digest of all own slots;
//!   parts are counted under a key of their own, which is absent when there is none;
//! - a layer with a parent has one entry in the parent's list of children.

use crate::error::ServiceError;
use crate::keyspace::{
    ChildKey, Key, KeyedTxn, LayerKey, LayerPartsKey, LayerPartsRecord, LayerRecord, PartKey,
    SlotDigest, SlotKey, SlotValue,
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

/// Takes parts of one layer away, with what is counted of them.
pub(super) async fn remove_parts<T: Txn>(
    txn: &T,
    key: &LayerPartsKey,
    gone: &[(PartKey, SlotValue)],
) -> Result<(), ServiceError> {
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

/// Takes an empty layer away, and out of the list of its parent.
pub(super) async fn forget_layer<T: Txn>(txn: &T, key: &LayerKey) -> Result<(), ServiceError> {
    let record = txn.load_known(key).await?;
    if let Some(parent) = record.parent {
        txn.remove(&ChildKey { parent, child: key.layer });
    }
    txn.remove(key);
    Ok(())
}
