//! Snapshots: finding, listing, the beginning of their deletion. They are made by `sets`.
//!
//! Invariants:
//! - a Ready snapshot names a sealed layer, whose content never changes; one in state Creating has
//!   a name and no layer, and is a member of an open set;
//! - a snapshot that is being deleted has no name; its record stays until its layer is gone, or is
//!   kept by others without it.

use std::sync::Arc;

use lunar_proto::domain::{
    DeleteSnapshot, OperationWork, Page, PageRequest, Selector, Snapshot, SnapshotState,
};
use lunar_types::{LayerId, RequestId, SnapshotId, VolumeId};

use super::groups::leave_group;
use super::layers::owned_extents;
use super::operations::begin_operation;
use super::paging::page;
use super::volumes::find_volume;
use super::{Service, foreign_outcome};
use crate::error::ServiceError;
use crate::keyspace::{
    Kept, KeyedTxn, LayerKey, LayerName, Outcome, SnapshotKey, SnapshotNameKey, SnapshotRecord,
    TypedRange, VolumeSnapshotKey, snapshots_of,
};
use crate::store::{MetaStore, Txn};

/// Finds a snapshot by id or by name.
pub(super) async fn find_snapshot<T: Txn>(
    txn: &T,
    selector: &Selector<SnapshotId>,
) -> Result<(SnapshotId, SnapshotRecord), ServiceError> {
    let not_found = || ServiceError::SnapshotNotFound { snapshot: selector.to_string() };
    let snapshot = match selector {
        Selector::Id(id) => *id,
        Selector::Name(name) => {
            let found = txn.load(&SnapshotNameKey { name: name.clone() }).await?;
            found.ok_or_else(not_found)?.snapshot
        }
    };
    let record = txn.load(&SnapshotKey { snapshot }).await?.ok_or_else(not_found)?;
    Ok((snapshot, record))
}

/// A snapshot that can be used, and its layer.
pub(super) async fn ready_snapshot<T: Txn>(
    txn: &T,
    selector: &Selector<SnapshotId>,
) -> Result<(SnapshotId, SnapshotRecord, LayerId), ServiceError> {
    let (snapshot, record) = find_snapshot(txn, selector).await?;
    match (record.state, record.layer) {
        (SnapshotState::Ready, Some(layer)) => Ok((snapshot, record, layer)),
        (state, _) => Err(ServiceError::SnapshotNotReady { snapshot, state }),
    }
}

/// The snapshot as it is told to clients.
pub(super) async fn snapshot_view<T: Txn>(
    txn: &T,
    id: SnapshotId,
    record: SnapshotRecord,
) -> Result<Snapshot, ServiceError> {
    let owned_extents = match record.layer {
        Some(layer) => {
            let own = txn.load_known(&LayerKey { layer }).await?.extents;
            owned_extents(txn, layer, own).await?
        }
        None => 0,
    };
    Ok(Snapshot { owned_extents, ..snapshot_alone(id, record) })
}

/// What the record of a snapshot says by itself.
fn snapshot_alone(id: SnapshotId, record: SnapshotRecord) -> Snapshot {
    let SnapshotRecord { name, volume, pool, layer, size, logical_block_size, set, .. } = record;
    let SnapshotRecord { created_unix_seconds, state, restored, group, .. } = record;
    Snapshot {
        id,
        name,
        volume,
        pool,
        layer,
        size,
        logical_block_size,
        set,
        created_unix_seconds,
        state,
        restored,
        group,
        owned_extents: 0,
    }
}

async fn delete_snapshot<T: Txn>(
    txn: &T,
    request: &DeleteSnapshot,
) -> Result<Outcome, ServiceError> {
    let (snapshot, mut record) = find_snapshot(txn, &request.snapshot).await?;
    if record.state != SnapshotState::Deleting {
        if let Some(group) = record.group.take() {
            leave_group(txn, group, snapshot).await?;
        }
        begin_deletion(txn, snapshot, &mut record).await?;
    }
    Ok(Outcome::SnapshotDeleted(snapshot, Kept(record)))
}

/// Starts the deletion of a snapshot that is in no group, or whose group goes with it.
pub(super) async fn begin_deletion<T: Txn>(
    txn: &T,
    snapshot: SnapshotId,
    record: &mut SnapshotRecord,
) -> Result<(), ServiceError> {
    let layer = match (record.state, record.layer) {
        (SnapshotState::Ready, Some(layer)) => layer,
        (state, _) => return Err(ServiceError::SnapshotNotReady { snapshot, state }),
    };
    let key = LayerKey { layer };
    let mut sealed = txn.load_known(&key).await?;
    if sealed.name != LayerName::Snapshot(snapshot) {
        let problem = format!("snapshot {snapshot} names it, and it says {:?}", sealed.name);
        return Err(ServiceError::corrupt(format!("{key:?}"), problem));
    }
    sealed.name = LayerName::DeletedSnapshot(snapshot);
    txn.put(&key, &sealed);
    txn.remove(&SnapshotNameKey { name: record.name.clone() });
    (record.state, record.group) = (SnapshotState::Deleting, None);
    txn.put(&SnapshotKey { snapshot }, record);
    begin_operation(txn, OperationWork::DropLayer(layer)).await
}

/// Takes the records of a deleted snapshot away.
pub(super) async fn forget_snapshot<T: Txn>(
    txn: &T,
    snapshot: SnapshotId,
) -> Result<(), ServiceError> {
    let key = SnapshotKey { snapshot };
    let record = txn.load_known(&key).await?;
    txn.remove(&VolumeSnapshotKey { volume: record.volume, snapshot });
    txn.remove(&key);
    Ok(())
}

impl<S: MetaStore> Service<S> {
    /// Starts the deletion of a snapshot and gives it in state Deleting; its name is free at once.
    /// A snapshot that is being deleted already is given again; the same request is answered with
    /// it also when it is gone.
    ///
    /// # Errors
    /// There is no such snapshot, or it is not Ready.
    pub async fn delete_snapshot(
        &self,
        request: &DeleteSnapshot,
    ) -> Result<Snapshot, ServiceError> {
        let what = ("delete snapshot", request);
        let delete = |txn: Arc<S::Txn>| async move { delete_snapshot(&*txn, request).await };
        let outcome = self.once(request.request, &what, delete).await?;
        let Outcome::SnapshotDeleted(snapshot, Kept(was)) = &outcome else {
            // It was remembered by a service of before.
            return self.snapshot_of(request.request, &outcome).await;
        };
        let look = |txn: Arc<S::Txn>| async move {
            match txn.load(&SnapshotKey { snapshot: *snapshot }).await? {
                Some(record) => snapshot_view(&*txn, *snapshot, record).await,
                None => Ok(snapshot_alone(*snapshot, was.clone())),
            }
        };
        self.read(look).await
    }

    async fn snapshot_of(
        &self,
        request: RequestId,
        outcome: &Outcome,
    ) -> Result<Snapshot, ServiceError> {
        match outcome {
            Outcome::Snapshot(snapshot) => self.snapshot(&Selector::Id(*snapshot)).await,
            other => Err(foreign_outcome(request, other)),
        }
    }

    /// A snapshot.
    ///
    /// # Errors
    /// There is no such snapshot.
    pub async fn snapshot(
        &self,
        selector: &Selector<SnapshotId>,
    ) -> Result<Snapshot, ServiceError> {
        self.read(|txn| async move {
            let (id, record) = find_snapshot(&*txn, selector).await?;
            snapshot_view(&*txn, id, record).await
        })
        .await
    }

    /// The snapshots by id: all, or those of one volume. A volume that is gone is named by its id.
    ///
    /// # Errors
    /// No volume has this name, or the page token is not of this list.
    pub async fn snapshots(
        &self,
        volume: Option<&Selector<VolumeId>>,
        request: &PageRequest,
    ) -> Result<Page<Snapshot>, ServiceError> {
        self.read(|txn| async move {
            let (entries, next) = match volume {
                None => page(&*txn, TypedRange::<SnapshotKey>::table(), request).await?,
                Some(volume) => {
                    let volume = match volume {
                        Selector::Id(id) => *id,
                        Selector::Name(_) => find_volume(&*txn, volume).await?.0,
                    };
                    let (listed, next) = page(&*txn, snapshots_of(volume), request).await?;
                    let mut entries = Vec::with_capacity(listed.len());
                    for (VolumeSnapshotKey { snapshot, .. }, _) in listed {
                        let key = SnapshotKey { snapshot };
                        let record = txn.load_known(&key).await?;
                        entries.push((key, record));
                    }
                    (entries, next)
                }
            };
            let mut items = Vec::with_capacity(entries.len());
            for (SnapshotKey { snapshot }, record) in entries {
                items.push(snapshot_view(&*txn, snapshot, record).await?);
            }
            Ok(Page { items, next })
        })
        .await
    }
}
