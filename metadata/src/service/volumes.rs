//! Volumes: making, finding, listing, and the beginning of their deletion.

use std::sync::Arc;

use lunar_proto::domain::{
    CreateVolume, DeleteVolume, Holder, OperationWork, Origin, Page, PageRequest, Selector, Volume,
    VolumeState,
};
use lunar_types::{
    ByteCount, Epoch, LayerId, LogicalBlockSize, Name, NodeIncarnation, PoolId, RequestId,
    StructureNumber, VOLUME_EXTENTS_MAX, VolumeId, VolumeSize,
};

use super::attachments::{park_journal, require_free};
use super::geometry::find_pool;
use super::incarnations::is_free_of;
use super::layers::{begin_head, owned_extents};
use super::operations::begin_operation;
use super::paging::page;
use super::peer_rows::{forget_gone_peers, peers_view, require_no_peers};
use super::publications::{publications_view, require_unpublished};
use super::sets::leave_set;
use super::watermarks::Admission;
use super::{Service, foreign_outcome};
use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentKey, AttachmentRecord, Content, Kept, KeyedTxn, LayerKey, NodeKey, Outcome, PoolKey,
    PoolRecord, PoolVolumeKey, PoolVolumeRecord, TypedRange, VolumeKey, VolumeNameKey,
    VolumeNameRecord, VolumeRecord,
};
use crate::store::{MetaStore, Txn};

/// Finds a volume by id or by name.
pub(super) async fn find_volume<T: Txn>(
    txn: &T,
    selector: &Selector<VolumeId>,
) -> Result<(VolumeId, VolumeRecord), ServiceError> {
    let not_found = || ServiceError::VolumeNotFound { volume: selector.to_string() };
    let volume = match selector {
        Selector::Id(id) => *id,
        Selector::Name(name) => {
            let found = txn.load(&VolumeNameKey { name: name.clone() }).await?;
            found.ok_or_else(not_found)?.volume
        }
    };
    let record = txn.load(&VolumeKey { volume }).await?.ok_or_else(not_found)?;
    Ok((volume, record))
}

/// Who an attachment says holds the volume.
pub(super) async fn holder_of<T: Txn>(
    txn: &T,
    pool: PoolId,
    attachment: &AttachmentRecord,
) -> Result<Holder, ServiceError> {
    let NodeIncarnation { node, .. } = attachment.node;
    let record = txn.load_known(&NodeKey { node }).await?;
    Ok(Holder {
        node: attachment.node,
        live: !is_free_of(txn, pool, attachment.node).await?,
        node_name: record.name,
        epoch: attachment.epoch,
        granted_at: attachment.granted_at,
    })
}

/// The volume as it is told to clients.
pub(super) async fn volume_view<T: Txn>(
    txn: &T,
    id: VolumeId,
    record: VolumeRecord,
) -> Result<Volume, ServiceError> {
    let holder = match txn.load(&AttachmentKey { volume: id }).await? {
        Some(attachment) => Some(holder_of(txn, record.pool, &attachment).await?),
        None => None,
    };
    let head = txn.load_known(&LayerKey { layer: record.head }).await?;
    let mapped_extents = owned_extents(txn, record.head, head.extents).await?;
    let (peers, moves) = peers_view(txn, id).await?;
    let publications = publications_view(txn, id).await?;
    Ok(Volume { holder, mapped_extents, peers, moves, publications, ..volume_alone(id, record) })
}

/// What the record of a volume says by itself.
fn volume_alone(id: VolumeId, record: VolumeRecord) -> Volume {
    Volume {
        id,
        name: record.name,
        pool: record.pool,
        size: record.size,
        logical_block_size: record.logical_block_size,
        head: record.head,
        epoch: record.epoch,
        state: record.state,
        restored: record.restored,
        holder: None,
        mapped_extents: 0,
        peers: Vec::new(),
        moves: 0,
        publications: Vec::new(),
        content: record.content.state(),
        origin: record.origin,
    }
}

/// Refuses a name that a volume has.
pub(super) async fn require_name_free<T: Txn>(txn: &T, name: &Name) -> Result<(), ServiceError> {
    match txn.load(&VolumeNameKey { name: name.clone() }).await? {
        None => Ok(()),
        Some(VolumeNameRecord { volume }) => {
            Err(ServiceError::VolumeExists { name: name.clone(), volume })
        }
    }
}

/// Refuses a size of which no node could hold the map.
pub(super) fn require_attachable(
    name: &Name,
    given: VolumeSize,
    pool: &PoolRecord,
) -> Result<(), ServiceError> {
    if given.extents(pool.extent_size) <= VOLUME_EXTENTS_MAX {
        return Ok(());
    }
    let extent_size = pool.extent_size.bytes();
    let limit = ByteCount::new(VOLUME_EXTENTS_MAX * extent_size);
    let extent_size = ByteCount::new(extent_size);
    Err(ServiceError::VolumeTooLarge { name: name.clone(), given, extent_size, limit })
}

/// What a volume begins with.
pub(super) struct NewVolume {
    pub(super) name: Name,
    pub(super) pool: PoolId,
    pub(super) size: VolumeSize,
    pub(super) logical_block_size: LogicalBlockSize,
    pub(super) head: LayerId,
    /// What it begins with came back with a backup.
    pub(super) restored: bool,
    pub(super) content: Content,
    pub(super) origin: Option<Origin>,
}

/// Writes the records of a volume that was never granted.
pub(super) fn put_volume<T: Txn>(txn: &T, volume: VolumeId, new: NewVolume) {
    let NewVolume { name, pool, size, logical_block_size, head, restored, content, origin } = new;
    let record = VolumeRecord {
        name: name.clone(),
        pool,
        size,
        logical_block_size,
        head,
        epoch: Epoch::default(),
        state: VolumeState::Ready,
        structure: StructureNumber::default(),
        set: None,
        restored,
        content,
        origin,
    };
    txn.put(&VolumeKey { volume }, &record);
    txn.put(&VolumeNameKey { name }, &VolumeNameRecord { volume });
    txn.put(&PoolVolumeKey { pool, volume }, &PoolVolumeRecord { size });
}

async fn create_volume<T: Txn>(
    txn: &T,
    volume: VolumeId,
    request: &CreateVolume,
    admission: Admission<'_>,
) -> Result<Outcome, ServiceError> {
    require_name_free(txn, &request.name).await?;
    let pool = find_pool(txn, &request.pool).await?;
    let pool_record = txn.load_known(&PoolKey { pool }).await?;
    let (asked, given) = (request.logical_block_size, pool_record.logical_block_size);
    if asked < given {
        return Err(ServiceError::volume_block_size(asked, pool_record.name, given));
    }
    require_attachable(&request.name, request.size, &pool_record)?;
    admission.require(txn, pool).await?;
    let head = begin_head(txn, volume, pool, None).await?;
    let (name, size) = (request.name.clone(), request.size);
    let new = NewVolume {
        name,
        pool,
        size,
        logical_block_size: asked,
        head,
        restored: false,
        content: Content::Blank,
        origin: None,
    };
    put_volume(txn, volume, new);
    Ok(Outcome::Volume(volume))
}

async fn delete_volume<T: Txn>(txn: &T, request: &DeleteVolume) -> Result<Outcome, ServiceError> {
    let (volume, mut record) = find_volume(txn, &request.volume).await?;
    if record.state == VolumeState::Deleting {
        return Ok(Outcome::VolumeDeleted(volume, Kept(record)));
    }
    require_unpublished(txn, volume, "deleted").await?;
    require_no_peers(txn, volume, record.pool, "deleted").await?;
    if let Some(attachment) = txn.load(&AttachmentKey { volume }).await? {
        require_free(txn, volume, record.pool, &attachment).await?;
        park_journal(txn, volume, &attachment);
    }
    forget_gone_peers(txn, volume, record.pool).await?;
    leave_set(txn, volume, &mut record, "volume-deleted").await?;
    txn.remove(&VolumeNameKey { name: record.name.clone() });
    record.state = VolumeState::Deleting;
    txn.put(&VolumeKey { volume }, &record);
    begin_operation(txn, OperationWork::DeleteVolume(volume)).await?;
    Ok(Outcome::VolumeDeleted(volume, Kept(record)))
}

impl<S: MetaStore> Service<S> {
    /// Makes a volume. It has no storage until something is written to it.
    ///
    /// # Errors
    /// The name is taken, there is no such pool, its LUNs have greater logical blocks, a volume of
    /// that size cannot be attached with its extents, or it is above its critical watermark.
    pub async fn create_volume(&self, request: &CreateVolume) -> Result<Volume, ServiceError> {
        let id = VolumeId::from_u128(self.seams.ids.next());
        let what = ("create volume", request);
        let gate = self.admission(request.over_watermark);
        let create =
            |txn: Arc<S::Txn>| async move { create_volume(&*txn, id, request, gate).await };
        let outcome = self.once(request.request, &what, create).await?;
        self.volume_of(request.request, &outcome).await
    }

    /// Starts the deletion of a volume and gives it in state Deleting; its name is free at once,
    /// its space comes back in steps, that of its head after the volume is gone. A volume that is
    /// being deleted already is given again; the same request is answered with it also when it is
    /// gone.
    ///
    /// # Errors
    /// There is no such volume, or a live node holds it.
    pub async fn delete_volume(&self, request: &DeleteVolume) -> Result<Volume, ServiceError> {
        let what = ("delete volume", request);
        let delete = |txn: Arc<S::Txn>| async move { delete_volume(&*txn, request).await };
        let outcome = self.once(request.request, &what, delete).await?;
        self.sets_changed();
        let Outcome::VolumeDeleted(volume, Kept(was)) = &outcome else {
            // It was remembered by a service of before.
            return self.volume_of(request.request, &outcome).await;
        };
        let look = |txn: Arc<S::Txn>| async move {
            match txn.load(&VolumeKey { volume: *volume }).await? {
                Some(record) => volume_view(&*txn, *volume, record).await,
                None => Ok(volume_alone(*volume, was.clone())),
            }
        };
        self.read(look).await
    }

    pub(super) async fn volume_of(
        &self,
        request: RequestId,
        outcome: &Outcome,
    ) -> Result<Volume, ServiceError> {
        match outcome {
            Outcome::Volume(volume) => self.volume(&Selector::Id(*volume)).await,
            other => Err(foreign_outcome(request, other)),
        }
    }

    /// A volume and who holds it.
    ///
    /// # Errors
    /// There is no such volume.
    pub async fn volume(&self, selector: &Selector<VolumeId>) -> Result<Volume, ServiceError> {
        self.read(|txn| async move {
            let (id, record) = find_volume(&*txn, selector).await?;
            volume_view(&*txn, id, record).await
        })
        .await
    }

    /// The volumes, by id.
    ///
    /// # Errors
    /// The page token is not of this list.
    pub async fn volumes(&self, request: &PageRequest) -> Result<Page<Volume>, ServiceError> {
        self.read(|txn| async move {
            let (entries, next) = page(&*txn, TypedRange::<VolumeKey>::table(), request).await?;
            let mut items = Vec::with_capacity(entries.len());
            for (key, record) in entries {
                items.push(volume_view(&*txn, key.volume, record).await?);
            }
            Ok(Page { items, next })
        })
        .await
    }
}
