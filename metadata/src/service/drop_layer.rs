//! Layers that nothing names any more: freed when nothing stands on them, merged into the only one
//! that does.
//!
//! Invariants:
//! - a layer with a name or with a child is never freed;
//! - a layer without name and with fewer than two children has one operation, begun when the name
//!   or the second last child goes: two transactions that take a child each read all children
//!   serializably, so one of them runs again and sees what the other left;
//! - before the first slot of a layer goes, its process has seen that nothing else names it: see
//!   `needed`;
//! - a layer is forgotten only when it is empty, and out of its parent's list with it;
//! - name and children can only change in favour of keeping a layer before the first slot was
//!   merged; afterwards nothing can name it, and nothing else can stand on it.

use lunar_proto::domain::{OperationId, OperationWork, RoomWanted};
use lunar_types::{ExtentRun, LayerId};

use super::horizon::free_mapped;
use super::layers::{count_slot, remove_parts};
use super::merge::{Known, step_merge};
use super::operations::{Step, begin_operation};
use super::snapshots::forget_snapshot;
use super::waits::Moved;
use crate::error::ServiceError;
use crate::keyspace::{
    ChildKey, KeyedTxn, LayerKey, LayerName, LayerPartsKey, LayerRecord, MergePass, OperationKey,
    OperationRecord, SlotValue, children_of, parts_of, slots_of,
};
use crate::store::Txn;

/// Slots that one step frees.
const SLOTS_PER_STEP: usize = 500;

/// What the merge of a dropped layer waits for: room in the only layer that stands on it. With
/// other children than those of the pass that left something, it does not wait.
pub(super) async fn waits_for<T: Txn>(
    txn: &T,
    layer: LayerId,
    pass: MergePass,
) -> Result<Option<RoomWanted>, ServiceError> {
    let (true, Some(into)) = (pass.waits, pass.into) else { return Ok(None) };
    let read = children_of(layer).first(2).as_snapshot();
    let children = txn.scan_read::<ChildKey>(read).await?;
    let is_same = matches!(children.as_slice(), [(only, _)] if only.child == into);
    Ok(is_same.then_some(RoomWanted { layer: into, extents: pass.left }))
}

/// Does one step of dropping a layer; says what it has moved.
pub(super) async fn step_drop<T: Txn>(
    txn: &T,
    (id, operation): (OperationId, OperationRecord),
    layer: LayerId,
) -> Result<Option<Moved>, ServiceError> {
    let key = LayerKey { layer };
    let record = txn.load_known(&key).await?;
    if !record.sealed || matches!(record.name, LayerName::Head(_) | LayerName::Snapshot(_)) {
        let problem = format!("operation {id} is to drop it, and it is {:?}", record.name);
        return Err(ServiceError::corrupt(format!("{key:?}"), problem));
    }
    match txn.scan(&children_of(layer), 2).await?.as_slice() {
        [] => free_layer(txn, id, layer, &record).await?,
        [(only, _)] => {
            let below = Known { id: layer, record };
            return step_merge(txn, (id, operation), below, only.child).await;
        }
        [..] => keep_fork(txn, id, layer, record).await?,
    }
    Ok(None)
}

/// Two children or more need the layer: the operation ends, and so does the snapshot.
async fn keep_fork<T: Txn>(
    txn: &T,
    operation: OperationId,
    layer: LayerId,
    mut record: LayerRecord,
) -> Result<(), ServiceError> {
    forget_name(txn, &record).await?;
    record.name = LayerName::Nameless;
    txn.put(&LayerKey { layer }, &record);
    txn.remove(&OperationKey { operation });
    Ok(())
}

/// Takes the record of a deleted snapshot away with the name of its layer.
pub(super) async fn forget_name<T: Txn>(txn: &T, record: &LayerRecord) -> Result<(), ServiceError> {
    match record.name {
        LayerName::DeletedSnapshot(snapshot) => forget_snapshot(txn, snapshot).await,
        LayerName::Nameless | LayerName::Head(_) | LayerName::Snapshot(_) => Ok(()),
    }
}

async fn free_layer<T: Txn>(
    txn: &T,
    operation: OperationId,
    layer: LayerId,
    record: &LayerRecord,
) -> Result<(), ServiceError> {
    if free_slots(txn, layer, record).await? == Step::Worked
        || free_parts(txn, layer, record).await? == Step::Worked
    {
        return Ok(());
    }
    forget_name(txn, record).await?;
    txn.remove(&LayerKey { layer });
    if let Some(parent) = record.parent {
        leave_parent(txn, parent, layer).await?;
    }
    txn.remove(&OperationKey { operation });
    Ok(())
}

/// Takes a layer out of its parent's list; a parent without name that is no fork any more is to be
/// dropped too.
async fn leave_parent<T: Txn>(
    txn: &T,
    parent: LayerId,
    child: LayerId,
) -> Result<(), ServiceError> {
    txn.remove(&ChildKey { parent, child });
    let record = txn.load_known(&LayerKey { layer: parent }).await?;
    // With another name it is kept, or its operation exists; without any child it has one since
    // the second last child went.
    let left = txn.scan(&children_of(parent), 2).await?.len();
    if record.name == LayerName::Nameless && left == 1 {
        begin_operation(txn, OperationWork::DropLayer(parent)).await?;
    }
    Ok(())
}

fn runs<'a>(slots: impl Iterator<Item = &'a SlotValue>) -> Vec<ExtentRun> {
    slots.filter_map(|slot| slot.0.extent()).map(|at| ExtentRun::new(at, 1)).collect()
}

async fn free_slots<T: Txn>(
    txn: &T,
    layer: LayerId,
    record: &LayerRecord,
) -> Result<Step, ServiceError> {
    let slots = txn.scan(&slots_of(layer), SLOTS_PER_STEP).await?;
    if slots.is_empty() {
        return Ok(Step::Idle);
    }
    free_mapped(txn, record.pool, &runs(slots.iter().map(|(_, slot)| slot))).await?;
    let mut record = record.clone();
    for (key, slot) in &slots {
        count_slot(&mut record, key, Some(slot), None)?;
        txn.remove(key);
    }
    txn.put(&LayerKey { layer }, &record);
    Ok(Step::Worked)
}

async fn free_parts<T: Txn>(
    txn: &T,
    layer: LayerId,
    record: &LayerRecord,
) -> Result<Step, ServiceError> {
    let parts = txn.scan(&parts_of(layer), SLOTS_PER_STEP).await?;
    if parts.is_empty() {
        return Ok(Step::Idle);
    }
    free_mapped(txn, record.pool, &runs(parts.iter().map(|(_, slot)| slot))).await?;
    remove_parts(txn, &LayerPartsKey { layer }, &parts).await?;
    Ok(Step::Worked)
}
