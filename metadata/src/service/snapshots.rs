//! Snapshots of volumes at rest: cutting, finding, listing, the beginning of their deletion.
//!
//! Invariants:
//! - a snapshot names a sealed layer: with the volume detached and no journal left, every slot of
//!   the head is committed and nobody will write to it, so sealing it cuts the volume;
//! - the seal is one transaction: head sealed and named, a new head on it, the records;
//! - a snapshot that is being deleted has no name; its record stays until its layer is gone, or is
//!   kept by others without it.

use std::sync::Arc;

use lunar_proto::domain::{
    CreateSnapshots, DeleteSnapshot, NewSnapshot, OperationWork, Page, PageRequest, Selector,
    Snapshot, SnapshotSet, SnapshotState, VolumeState,
};
use lunar_types::{RequestId, SnapshotId, SnapshotSetId, VolumeId};

use super::attachments::oldest_stale;
use super::layers::{begin_head, require_depth_left, seal_head};
use super::operations::begin_operation;
use super::paging::page;
use super::volumes::{find_volume, holder_of};
use super::{Service, foreign_outcome};
use crate::error::{ServiceError, Unrest};
use crate::keyspace::{
    AttachmentKey, KeyedTxn, LayerKey, LayerName, Outcome, SnapshotKey, SnapshotNameKey,
    SnapshotNameRecord, SnapshotRecord, TypedRange, VolumeKey, VolumeRecord, VolumeSnapshotKey,
    VolumeSnapshotRecord, snapshots_of,
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

/// Why a volume is not at rest, if it is not: what was written to a volume at rest is in its map.
pub(super) async fn unrest<T: Txn>(
    txn: &T,
    volume: VolumeId,
) -> Result<Option<Unrest>, ServiceError> {
    let attachment = txn.load(&AttachmentKey { volume }).await?;
    if let Some(attachment) = &attachment {
        let holder = holder_of(txn, attachment).await?;
        if holder.live {
            return Ok(Some(Unrest::Held(holder)));
        }
    }
    let oldest = oldest_stale(txn, volume).await?.map(|(epoch, _)| epoch);
    let oldest = oldest.or(attachment.map(|attachment| attachment.epoch));
    Ok(oldest.map(Unrest::JournalLeft))
}

async fn volume_at_rest<T: Txn>(
    txn: &T,
    selector: &Selector<VolumeId>,
) -> Result<(VolumeId, VolumeRecord), ServiceError> {
    let (volume, record) = find_volume(txn, selector).await?;
    if record.state != VolumeState::Ready {
        return Err(ServiceError::VolumeNotReady { volume, state: record.state });
    }
    match unrest(txn, volume).await? {
        None => Ok((volume, record)),
        Some(unrest) => Err(ServiceError::VolumeNotAtRest { volume, unrest }),
    }
}

/// The snapshot as it is told to clients.
async fn snapshot_view<T: Txn>(
    txn: &T,
    id: SnapshotId,
    record: SnapshotRecord,
) -> Result<Snapshot, ServiceError> {
    let owned_extents = match record.layer {
        Some(layer) => txn.load_known(&LayerKey { layer }).await?.extents,
        None => 0,
    };
    let SnapshotRecord { name, volume, pool, layer, size, logical_block_size, set, .. } = record;
    let SnapshotRecord { created_unix_seconds, state, .. } = record;
    Ok(Snapshot {
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
        owned_extents,
    })
}

/// Cuts a volume at rest.
async fn cut<T: Txn>(
    txn: &T,
    snapshot: SnapshotId,
    set: SnapshotSetId,
    member: &NewSnapshot,
    created_unix_seconds: u64,
) -> Result<(), ServiceError> {
    let (volume, mut record) = volume_at_rest(txn, &member.volume).await?;
    let name_key = SnapshotNameKey { name: member.name.clone() };
    if let Some(other) = txn.load(&name_key).await? {
        let (name, snapshot) = (member.name.clone(), other.snapshot);
        return Err(ServiceError::SnapshotExists { name, snapshot });
    }
    let sealed = record.head;
    require_depth_left(txn, sealed).await?;
    seal_head(txn, &record, LayerName::Snapshot(snapshot)).await?;
    record.head = begin_head(txn, volume, record.pool, Some(sealed)).await?;
    txn.put(&VolumeKey { volume }, &record);
    let made = SnapshotRecord {
        name: member.name.clone(),
        volume,
        pool: record.pool,
        layer: Some(sealed),
        size: record.size,
        logical_block_size: record.logical_block_size,
        set,
        created_unix_seconds,
        state: SnapshotState::Ready,
    };
    txn.put(&SnapshotKey { snapshot }, &made);
    txn.put(&name_key, &SnapshotNameRecord { snapshot });
    let listed = VolumeSnapshotRecord { layer: Some(sealed) };
    txn.put(&VolumeSnapshotKey { volume, snapshot }, &listed);
    Ok(())
}

async fn delete_snapshot<T: Txn>(
    txn: &T,
    request: &DeleteSnapshot,
) -> Result<Outcome, ServiceError> {
    let (snapshot, mut record) = find_snapshot(txn, &request.snapshot).await?;
    let layer = match (record.state, record.layer) {
        (SnapshotState::Deleting, _) => return Ok(Outcome::Snapshot(snapshot)),
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
    record.state = SnapshotState::Deleting;
    txn.put(&SnapshotKey { snapshot }, &record);
    begin_operation(txn, OperationWork::DropLayer(layer)).await?;
    Ok(Outcome::Snapshot(snapshot))
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
    /// Cuts a snapshot of a volume at rest. In this version a set has one member.
    ///
    /// # Errors
    /// There is no such volume, it is not Ready or not at rest, the name is taken, the volume
    /// stands on too many layers, or the set has not one member.
    pub async fn create_snapshots(
        &self,
        request: &CreateSnapshots,
    ) -> Result<SnapshotSet, ServiceError> {
        let member = match request.members.as_slice() {
            [member] => member,
            [] => return Err(ServiceError::field("members", "it is empty")),
            [..] => {
                let what = "members of a snapshot set";
                return Err(ServiceError::LimitReached { what, limit: 1 });
            }
        };
        let id = SnapshotId::from_u128(self.seams.ids.next());
        let set = SnapshotSetId::from_u128(self.seams.ids.next());
        let created = request.created_unix_seconds;
        let what = ("create snapshots", request);
        let create = |txn: Arc<S::Txn>| async move {
            cut(&*txn, id, set, member, created).await?;
            Ok(Outcome::Snapshot(id))
        };
        let outcome = self.once(request.request, &what, create).await?;
        let snapshot = self.snapshot_of(request.request, &outcome).await?;
        Ok(SnapshotSet { id: snapshot.set, snapshots: vec![snapshot] })
    }

    /// Starts the deletion of a snapshot and gives it in state Deleting; its name is free at once.
    /// A snapshot that is being deleted already is given again.
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
        self.snapshot_of(request.request, &outcome).await
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
