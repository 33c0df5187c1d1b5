//! Volumes from snapshots: clones, and volumes that go back to what they were.
//!
//! Invariants:
//! - what they begin with may have come back with a backup, and may have been formatted or not:
//!   they are as restored, and as used, as it is;
//! - both put an empty head on the snapshot's layer, in one transaction; no data is copied;
//! - a snapshot that is being deleted is neither cloned nor rolled back to, so a layer without
//!   name never gets another child;
//! - a rollback keeps all snapshots. Its old head, which nobody sees any more, is dropped.

use std::sync::Arc;

use lunar_proto::domain::{
    CloneVolume, OperationWork, Origin, RollbackVolume, Selector, Volume, VolumeState,
};
use lunar_types::{LayerId, SnapshotId, VolumeId};

use super::Service;
use super::incarnations::{fencing_of, life_of};
use super::layers::{begin_head, require_depth_left, seal_head};
use super::operations::begin_operation;
use super::peer_rows::{forget_gone_peers, require_no_peers};
use super::sets::leave_set;
use super::snapshots::ready_snapshot;
use super::standing::{Standing, standing};
use super::volumes::{
    NewVolume, find_volume, holder_of, put_volume, require_attachable, require_name_free,
};
use super::watermarks::Admission;
use crate::error::ServiceError;
use crate::keyspace::{KeyedTxn, LayerName, Outcome, PoolKey, SnapshotRecord, VolumeKey};
use crate::store::{MetaStore, Txn};

/// A snapshot that can be used, and its layer, on which one more may stand.
async fn base_snapshot<T: Txn>(
    txn: &T,
    selector: &Selector<SnapshotId>,
) -> Result<(SnapshotId, SnapshotRecord, LayerId), ServiceError> {
    let (snapshot, record, layer) = ready_snapshot(txn, selector).await?;
    require_depth_left(txn, layer).await?;
    Ok((snapshot, record, layer))
}

async fn clone_volume<T: Txn>(
    txn: &T,
    volume: VolumeId,
    request: &CloneVolume,
    admission: Admission<'_>,
) -> Result<Outcome, ServiceError> {
    require_name_free(txn, &request.name).await?;
    let (id, snapshot, layer) = base_snapshot(txn, &request.snapshot).await?;
    let size = request.size.unwrap_or(snapshot.size);
    if size.bytes() < snapshot.size.bytes() {
        let problem = format_args!(
            "a clone of {} B would cut off what the snapshot holds: it has {} B",
            size.bytes(),
            snapshot.size.bytes()
        );
        return Err(ServiceError::field("size_bytes", problem));
    }
    let pool = snapshot.pool;
    require_attachable(&request.name, size, &txn.load_known(&PoolKey { pool }).await?)?;
    admission.require(txn, pool).await?;
    let head = begin_head(txn, volume, pool, Some(layer)).await?;
    let (name, logical_block_size) = (request.name.clone(), snapshot.logical_block_size);
    let new = NewVolume {
        name,
        pool,
        size,
        logical_block_size,
        head,
        restored: snapshot.restored,
        content: snapshot.content,
        origin: Some(Origin::Snapshot(id)),
    };
    put_volume(txn, volume, new);
    Ok(Outcome::Volume(volume))
}

async fn rollback_volume<T: Txn>(
    txn: &T,
    request: &RollbackVolume,
) -> Result<Outcome, ServiceError> {
    let (volume, mut record) = find_volume(txn, &request.volume).await?;
    if record.state != VolumeState::Ready {
        return Err(ServiceError::VolumeNotReady { volume, state: record.state });
    }
    require_no_peers(txn, volume, record.pool, "rolled back").await?;
    match standing(txn, volume).await? {
        Standing::AtRest => forget_gone_peers(txn, volume, record.pool).await?,
        Standing::Held { attachment, .. } => {
            let pool = record.pool;
            let holder = holder_of(txn, pool, &attachment).await?;
            let life = life_of(txn, attachment.node).await?;
            let advice = life.advice(fencing_of(txn, pool).await?, holder.node_name.as_str());
            return Err(ServiceError::VolumeAttached { volume, holder, advice });
        }
        Standing::JournalLeft(oldest) => {
            let wanted = "roll the volume back";
            return Err(ServiceError::StaleJournals { volume, oldest, wanted });
        }
    }
    let (snapshot, target, layer) = base_snapshot(txn, &request.snapshot).await?;
    if target.volume != volume {
        let origin = target.volume;
        return Err(ServiceError::SnapshotOfOtherVolume { snapshot, origin, volume });
    }
    leave_set(txn, volume, &mut record, "volume-rolled-back").await?;
    let old = record.head;
    seal_head(txn, &record, LayerName::Nameless).await?;
    begin_operation(txn, OperationWork::DropLayer(old)).await?;
    record.head = begin_head(txn, volume, record.pool, Some(layer)).await?;
    (record.restored, record.content) = (target.restored, target.content);
    txn.put(&VolumeKey { volume }, &record);
    Ok(Outcome::Volume(volume))
}

impl<S: MetaStore> Service<S> {
    /// Makes a volume that begins as a snapshot.
    ///
    /// # Errors
    /// The name is taken, there is no such snapshot, it is not Ready, it stands on too many layers,
    /// the clone would be smaller, or the pool is above its critical watermark.
    pub async fn clone_volume(&self, request: &CloneVolume) -> Result<Volume, ServiceError> {
        let id = VolumeId::from_u128(self.seams.ids.next());
        let what = ("clone volume", request);
        let gate = self.admission(request.over_watermark);
        let clone = |txn: Arc<S::Txn>| async move { clone_volume(&*txn, id, request, gate).await };
        let outcome = self.once(request.request, &what, clone).await?;
        self.volume_of(request.request, &outcome).await
    }

    /// Gives a detached volume the content of one of its snapshots.
    ///
    /// # Errors
    /// There is no such volume or snapshot, one of them is not Ready, a live node holds the volume,
    /// a journal waits to be replayed, the snapshot is another volume's, or stands too deep.
    pub async fn rollback_volume(&self, request: &RollbackVolume) -> Result<Volume, ServiceError> {
        let what = ("roll back volume", request);
        let roll_back = |txn: Arc<S::Txn>| async move { rollback_volume(&*txn, request).await };
        let outcome = self.once(request.request, &what, roll_back).await?;
        self.sets_changed();
        self.volume_of(request.request, &outcome).await
    }
}
