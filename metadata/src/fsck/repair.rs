//! The repairs that are safe, each a transaction of its own.
//!
//! Invariants:
//! - a repair looks at the records that it changes, and at those that say why, serializably in the
//!   transaction that writes; when they need it no more it changes nothing;
//! - no repair gives an extent away, drops a slot, or decides which of two owners is right.
//!
//! What a repair does not look at again is what cannot come back by itself. An extent that nobody
//! owns gets an owner only when its bit is clear and it is taken; an owner of an extent whose bit
//! is clear cannot free it; on a layer without name nothing new comes to stand.

use std::fmt;

use lunar_proto::domain::{OperationWork, SnapshotState, VolumeState};
use lunar_types::{Epoch, ExtentRun, LayerId, Name, NodeId, PoolId, SnapshotId, VolumeId};

use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentKey, Bitmap, ChildKey, GroupIndex, GroupKey, KeyedTxn, LayerKey, LayerName, LunKey,
    NodeKey, NodeNameKey, NodeNameRecord, OperationKey, PoolKey, PoolNameKey, PoolNameRecord,
    Present, QuarantineKey, QuarantineStamp, SnapshotKey, SnapshotNameKey, SnapshotNameRecord,
    StaleJournalKey, TypedRange, VolumeKey, VolumeNameKey, VolumeNameRecord, children_of,
    quarantine_of_group, stale_journals_of,
};
use crate::service::{begin_operation, usable_bits};
use crate::store::Txn;

/// Keys of one read.
const SCAN_KEYS: usize = 1000;

/// An object that has a name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Named {
    Pool(PoolId),
    Volume(VolumeId),
    Snapshot(SnapshotId),
    Node(NodeId),
}

macro_rules! named {
    ($($kind:ident($id:ty) $text:literal,)+) => {
        $(impl From<$id> for Named {
            fn from(id: $id) -> Self {
                Self::$kind(id)
            }
        })+

        impl fmt::Display for Named {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$kind(id) => write!(f, concat!($text, " {}"), id),)+ }
            }
        }
    };
}
named! {
    Pool(PoolId) "pool",
    Volume(VolumeId) "volume",
    Snapshot(SnapshotId) "snapshot",
    Node(NodeId) "node",
}

impl Named {
    /// The name that the object has, if it is there and has one.
    async fn name<T: Txn>(self, txn: &T) -> Result<Option<Name>, ServiceError> {
        Ok(match self {
            Self::Pool(pool) => txn.load(&PoolKey { pool }).await?.map(|it| it.name),
            Self::Node(node) => txn.load(&NodeKey { node }).await?.map(|it| it.name),
            Self::Volume(volume) => {
                let found = txn.load(&VolumeKey { volume }).await?;
                found.filter(|it| it.state != VolumeState::Deleting).map(|it| it.name)
            }
            Self::Snapshot(snapshot) => {
                let found = txn.load(&SnapshotKey { snapshot }).await?;
                found.filter(|it| it.state != SnapshotState::Deleting).map(|it| it.name)
            }
        })
    }

    /// The object of the same kind that a name leads to.
    async fn found_by<T: Txn>(self, txn: &T, name: &Name) -> Result<Option<Self>, ServiceError> {
        let name = name.clone();
        Ok(match self {
            Self::Pool(_) => txn.load(&PoolNameKey { name }).await?.map(|it| it.pool.into()),
            Self::Node(_) => txn.load(&NodeNameKey { name }).await?.map(|it| it.node.into()),
            Self::Volume(_) => txn.load(&VolumeNameKey { name }).await?.map(|it| it.volume.into()),
            Self::Snapshot(_) => {
                txn.load(&SnapshotNameKey { name }).await?.map(|it| it.snapshot.into())
            }
        })
    }

    fn enter<T: Txn>(self, txn: &T, name: Name) {
        match self {
            Self::Pool(pool) => txn.put(&PoolNameKey { name }, &PoolNameRecord { pool }),
            Self::Node(node) => txn.put(&NodeNameKey { name }, &NodeNameRecord { node }),
            Self::Volume(volume) => txn.put(&VolumeNameKey { name }, &VolumeNameRecord { volume }),
            Self::Snapshot(snapshot) => {
                txn.put(&SnapshotNameKey { name }, &SnapshotNameRecord { snapshot });
            }
        }
    }

    fn forget<T: Txn>(self, txn: &T, name: Name) {
        match self {
            Self::Pool(_) => txn.remove(&PoolNameKey { name }),
            Self::Node(_) => txn.remove(&NodeNameKey { name }),
            Self::Volume(_) => txn.remove(&VolumeNameKey { name }),
            Self::Snapshot(_) => txn.remove(&SnapshotNameKey { name }),
        }
    }
}

/// A repair that is safe.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Repair {
    /// Marks extents allocated that have an owner.
    Allocate { pool: PoolId, run: ExtentRun },
    /// Raises the epoch of a volume above all of its journals, or to the one it is held under.
    RaiseEpoch { volume: VolumeId },
    /// Takes a name away that leads to the wrong object, or to none.
    ForgetName { name: Name, object: Named },
    /// Enters the name of an object.
    EnterName { name: Name, object: Named },
    /// Makes the list of a layer say what the layer above says.
    MatchChild { parent: LayerId, child: LayerId },
    /// Puts extents that nobody owns into the quarantine.
    Quarantine { pool: PoolId, run: ExtentRun },
    /// Begins the operation that merges or frees a layer.
    DropLayer { layer: LayerId },
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allocate { pool, run } => {
                write!(f, "mark extents {run} of pool {pool} allocated")
            }
            Self::RaiseEpoch { volume } => {
                write!(f, "raise the epoch of volume {volume} above all that were given")
            }
            Self::ForgetName { name, object } => {
                write!(f, "forget that the name '{name}' leads to {object}")
            }
            Self::EnterName { name, object } => {
                write!(f, "let the name '{name}' lead to {object}")
            }
            Self::MatchChild { parent, child } => {
                write!(f, "list layer {child} at layer {parent} exactly if it stands there")
            }
            Self::Quarantine { pool, run } => {
                write!(f, "put extents {run} of pool {pool} into quarantine; they are not freed")
            }
            Self::DropLayer { layer } => {
                write!(f, "begin the operation that merges or frees layer {layer}")
            }
        }
    }
}

impl Repair {
    /// Its turn: first what protects data, last what takes something away.
    pub(super) const fn turn(&self) -> u8 {
        match self {
            Self::Allocate { .. } => 0,
            Self::RaiseEpoch { .. } => 1,
            Self::ForgetName { .. } => 2,
            Self::EnterName { .. } => 3,
            Self::MatchChild { .. } => 4,
            Self::Quarantine { .. } => 5,
            Self::DropLayer { .. } => 6,
        }
    }

    /// Does it, if the records still need it; says whether they did.
    pub(super) async fn apply<T: Txn>(&self, txn: &T) -> Result<bool, ServiceError> {
        match self {
            Self::Allocate { pool, run } => allocate(txn, *pool, *run).await,
            Self::RaiseEpoch { volume } => raise_epoch(txn, *volume).await,
            Self::ForgetName { name, object } => {
                let is_wrong = object.found_by(txn, name).await? == Some(*object)
                    && object.name(txn).await?.as_ref() != Some(name);
                if is_wrong {
                    object.forget(txn, name.clone());
                }
                Ok(is_wrong)
            }
            Self::EnterName { name, object } => enter_name(txn, name, *object).await,
            Self::MatchChild { parent, child } => match_child(txn, *parent, *child).await,
            Self::Quarantine { pool, run } => quarantine(txn, *pool, *run).await,
            Self::DropLayer { layer } => drop_layer(txn, *layer).await,
        }
    }
}

/// The epoch that a volume must be raised to: `None` when it is right already.
///
/// # Errors
/// Why no epoch of the volume would be right.
pub(super) fn raised_epoch(
    given: Epoch,
    held: Option<Epoch>,
    newest_stale: Option<Epoch>,
) -> Result<Option<Epoch>, &'static str> {
    let Some(held) = held else {
        let behind = newest_stale.filter(|stale| *stale > given);
        let above = |stale: Epoch| stale.get().checked_add(1).map(Epoch::new);
        return match behind.map(above) {
            None => Ok(None),
            Some(None) => Err("no epoch is greater: bring back a copy of the store"),
            Some(raised) => Ok(raised),
        };
    };
    if given > held || newest_stale.is_some_and(|stale| stale >= held) {
        return Err("the holder writes under an epoch that is not the newest: detach the volume, \
                    and check again");
    }
    Ok(Some(held).filter(|held| *held != given))
}

/// The bits of a run by group.
fn by_group(run: ExtentRun) -> Vec<(GroupIndex, Bitmap)> {
    let mut groups: Vec<(GroupIndex, Bitmap)> = Vec::new();
    for at in run.iter() {
        let (group, bit) = GroupIndex::of(at.extent);
        if groups.last().is_none_or(|(last, _)| *last != group) {
            groups.push((group, Bitmap::EMPTY));
        }
        let (_, bits) = groups.last_mut().expect("it was pushed just now");
        bits.insert(bit);
    }
    groups
}

async fn allocate<T: Txn>(txn: &T, pool: PoolId, run: ExtentRun) -> Result<bool, ServiceError> {
    let lun = run.first().lun;
    let record = txn.load_known(&LunKey { pool, index: lun }).await?;
    let mut changed = false;
    for (group, bits) in by_group(run) {
        let key = GroupKey { pool, lun, group };
        let allocated = txn.load(&key).await?.unwrap_or(Bitmap::EMPTY);
        let missing = bits.and(&usable_bits(record.data_extents, group)).without(&allocated);
        if !missing.is_empty() {
            txn.put(&key, &allocated.or(&missing));
            changed = true;
        }
    }
    Ok(changed)
}

async fn raise_epoch<T: Txn>(txn: &T, volume: VolumeId) -> Result<bool, ServiceError> {
    let key = VolumeKey { volume };
    let Some(mut record) = txn.load(&key).await? else { return Ok(false) };
    let held = txn.load(&AttachmentKey { volume }).await?.map(|held| held.epoch);
    let mut newest = None;
    let mut range = stale_journals_of(volume);
    loop {
        let found: Vec<(StaleJournalKey, _)> = txn.scan(&range, SCAN_KEYS).await?;
        let Some((last, _)) = found.last() else { break };
        newest = Some(last.epoch);
        range = range.after(&crate::keyspace::Key::pack(last));
    }
    let Ok(Some(epoch)) = raised_epoch(record.epoch, held, newest) else { return Ok(false) };
    record.epoch = epoch;
    txn.put(&key, &record);
    Ok(true)
}

async fn enter_name<T: Txn>(txn: &T, name: &Name, object: Named) -> Result<bool, ServiceError> {
    if object.name(txn).await?.as_ref() != Some(name) {
        return Ok(false);
    }
    if let Some(other) = object.found_by(txn, name).await? {
        let is_right = other == object || other.name(txn).await?.as_ref() == Some(name);
        if is_right {
            return Ok(false);
        }
    }
    object.enter(txn, name.clone());
    Ok(true)
}

async fn match_child<T: Txn>(
    txn: &T,
    parent: LayerId,
    child: LayerId,
) -> Result<bool, ServiceError> {
    let key = ChildKey { parent, child };
    let above = txn.load(&LayerKey { layer: child }).await?;
    let stands = above.is_some_and(|layer| layer.parent == Some(parent));
    let has_parent = txn.load(&LayerKey { layer: parent }).await?.is_some();
    match (stands && has_parent, txn.load(&key).await?.is_some()) {
        (true, false) => txn.put(&key, &Present {}),
        (false, true) if !stands => txn.remove(&key),
        _ => return Ok(false),
    }
    Ok(true)
}

async fn quarantine<T: Txn>(txn: &T, pool: PoolId, run: ExtentRun) -> Result<bool, ServiceError> {
    // A journal that turned stale since could be replayed into extents of its writer.
    if !txn.scan(&TypedRange::<StaleJournalKey>::table(), 1).await?.is_empty() {
        return Ok(false);
    }
    let lun = run.first().lun;
    let mut changed = false;
    for (group, bits) in by_group(run) {
        let allocated = txn.load(&GroupKey { pool, lun, group }).await?.unwrap_or(Bitmap::EMPTY);
        let held = txn.scan(&quarantine_of_group(pool, lun, group), SCAN_KEYS).await?;
        let in_it = held.iter().fold(Bitmap::EMPTY, |all, (_, bits)| all.or(bits));
        let leaked = bits.and(&allocated).without(&in_it);
        if leaked.is_empty() {
            continue;
        }
        let key = QuarantineKey { pool, lun, group, stamp: QuarantineStamp::BY_HAND };
        let before = held.iter().find(|(found, _)| *found == key).map(|(_, bits)| *bits);
        txn.put(&key, &before.unwrap_or(Bitmap::EMPTY).or(&leaked));
        changed = true;
    }
    Ok(changed)
}

async fn drop_layer<T: Txn>(txn: &T, layer: LayerId) -> Result<bool, ServiceError> {
    let Some(record) = txn.load(&LayerKey { layer }).await? else { return Ok(false) };
    let children = txn.scan(&children_of(layer), 2).await?.len();
    let is_unneeded = match record.name {
        LayerName::Head(_) | LayerName::Snapshot(_) => false,
        LayerName::Nameless => children < 2,
        LayerName::DeletedSnapshot(snapshot) => {
            let named = txn.load(&SnapshotKey { snapshot }).await?;
            named.is_some_and(|it| it.state == SnapshotState::Deleting)
        }
    };
    if !record.sealed || !is_unneeded {
        return Ok(false);
    }
    let work = OperationWork::DropLayer(layer);
    let mut range = TypedRange::<OperationKey>::table();
    loop {
        let found: Vec<(OperationKey, _)> = txn.scan(&range, SCAN_KEYS).await?;
        if found.iter().any(|(_, operation)| operation.work == work) {
            return Ok(false);
        }
        let Some((last, _)) = found.last() else { break };
        range = range.after(&crate::keyspace::Key::pack(last));
    }
    begin_operation(txn, work).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_raised_above_journals_and_never_below_or_past_a_holder() {
        let raised = |given, held: Option<u64>, stale: Option<u64>| {
            raised_epoch(Epoch::new(given), held.map(Epoch::new), stale.map(Epoch::new))
                .map(|raised| raised.map(Epoch::get))
        };
        assert_eq!(raised(5, None, None), Ok(None));
        assert_eq!(raised(5, None, Some(5)), Ok(None));
        assert_eq!(raised(5, None, Some(9)), Ok(Some(10)));
        assert!(raised(5, None, Some(u64::MAX)).is_err());
        assert_eq!(raised(5, Some(5), Some(4)), Ok(None));
        assert_eq!(raised(3, Some(5), Some(4)), Ok(Some(5)));
        assert!(raised(6, Some(5), None).is_err());
        assert!(raised(5, Some(5), Some(5)).is_err());
        assert!(raised(3, Some(5), Some(7)).is_err());
    }
}
