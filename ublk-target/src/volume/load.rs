//! Makes the engine's side of a volume from what the metadata service granted.
//!
//! Crash order of a fresh attachment: stale journals are replayed (`super::replay`); the new
//! journal is formatted, then confirmed; only then is there a dirty table. A crash anywhere leaves
//! a grant that the next daemon gives back, with every stale journal either whole or wholly
//! committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use lunar_engine::dirty::{DirtyIdentity, DirtySlot, DirtyTable};
use lunar_engine::journal::{
    self, JournalDamage, JournalIdentity, JournalIoError, JournalRing, RingPlace, SEQ_CONFIRMED,
};
use lunar_engine::replay::ReplayError;
use lunar_engine::volume::{
    LoadedMap, StartError, Tuning, Volume, VolumeParts, VolumeSpec, dirty_capacity,
};
use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::{Attachment, Pool};
use lunar_types::{ClusterId, Epoch, ExtentAddress, JournalSeq, LayerId, Slot};
use tracing::info;

use super::chain::{ChainError, read_chain};
use super::replay::Replaying;
use super::served::grant_of;
use crate::lun::set::{LunOpener, LunSetError, PoolLuns};
use crate::metadata::{MapCommit, Metadata, MetadataError, Seal};
use crate::state::StateDir;
use crate::state::dirty_file::DirtyFileError;

/// The least that a volume aims to hold ahead of need, in extents.
const RESERVE_LEAST: u32 = 8;

/// The engine's side of a volume cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A LUN of the pool cannot be used.
    #[error("volume '{volume}' cannot be served without all LUNs of its pool")]
    Luns {
        /// The volume.
        volume: String,
        /// Which, and why.
        #[source]
        source: LunSetError,
    },
    /// A call to the metadata service failed.
    #[error("cannot {what} of volume '{volume}'")]
    Metadata {
        /// Which call.
        what: &'static str,
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: MetadataError,
    },
    /// A journal cannot be read or written.
    #[error("the journal of volume '{volume}' of epoch {epoch} cannot be handled")]
    JournalIo {
        /// The volume.
        volume: String,
        /// Whose journal.
        epoch: Epoch,
        /// Why.
        #[source]
        source: JournalIoError,
    },
    /// A journal is damaged where it may have been acknowledged.
    #[error(
        "the journal of volume '{volume}' of epoch {epoch} is damaged: nothing was replayed; \
         restore the LUN, or restore the volume from a backup"
    )]
    Damaged {
        /// The volume.
        volume: String,
        /// Whose journal.
        epoch: Epoch,
        /// Where and how.
        #[source]
        source: JournalDamage,
    },
    /// A journal's records do not fit the volume.
    #[error("the journal of volume '{volume}' of epoch {epoch} does not fit the volume")]
    Misfit {
        /// The volume.
        volume: String,
        /// Whose journal.
        epoch: Epoch,
        /// How.
        #[source]
        source: ReplayError,
    },
    /// The dirty table cannot be made or taken over.
    #[error("the dirty table of volume '{volume}' cannot be used")]
    Dirty {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: DirtyFileError,
    },
    /// The map makes no sense.
    #[error("the map of volume '{volume}' cannot be served")]
    Map {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: StartError,
    },
    /// The attachment has no journal.
    #[error("the metadata service gave volume '{volume}' no journal")]
    NoJournal {
        /// The volume.
        volume: String,
    },
}

/// What loading works with.
pub struct Loader {
    /// The metadata service.
    pub metadata: Arc<dyn Metadata>,
    /// Opens the LUNs.
    pub luns: Arc<LunOpener>,
    /// Keeps the dirty table.
    pub state: Arc<StateDir>,
    /// Whose LUNs are ours.
    pub cluster: ClusterId,
}

/// A volume whose device is still to come.
pub struct Loaded {
    /// Its LUNs.
    pub luns: PoolLuns,
    /// The grant, as loading has left it: it commits journals, and seals a head that was left.
    pub attachment: Attachment,
    map: LoadedMap,
    ring: JournalRing,
    table: DirtyTable,
    predecessor: Option<Vec<DirtySlot>>,
    replayed: BTreeSet<ExtentAddress>,
}

impl Loaded {
    /// Extents that a predecessor had reserved and that may be in use all the same: by the dirty
    /// table, or by the map because a journal that was replayed names them.
    #[must_use]
    pub fn used_extents(&self) -> BTreeSet<ExtentAddress> {
        let slots = self.predecessor.iter().flatten();
        let dirty = slots.filter_map(|(_, slot)| slot.as_ref().and_then(Slot::extent));
        dirty.chain(self.replayed.iter().copied()).collect()
    }

    /// The engine's volume, for a device with this many queues.
    ///
    /// # Errors
    /// When the map does not fit the volume or the pool.
    pub fn start(self, queues: u16) -> Result<(Volume, PoolLuns), LoadError> {
        let attachment = &self.attachment;
        let spec = VolumeSpec {
            volume: attachment.volume.id,
            holder: attachment.node,
            size: attachment.volume.size,
            extent_size: attachment.pool.extent_size,
            logical_block: attachment.volume.logical_block_size,
            queue_count: queues,
            luns: self.luns.table().clone(),
            tuning: tuning(&attachment.pool),
        };
        let (chain, own) = self.map.into_parts();
        let Self { ring, table, predecessor, .. } = self;
        let parts = VolumeParts { spec, chain, own, ring, table, predecessor };
        let volume = attachment.volume.name.to_string();
        match Volume::start(parts) {
            Ok(started) => Ok((started, self.luns)),
            Err(source) => Err(LoadError::Map { volume, source }),
        }
    }
}

/// How much of a pool a volume may hold ahead of need: a 64th at the most, so that a small pool is
/// not held by one volume. Larger pools leave that to the engine, which follows the rate of first
/// writes.
pub(super) fn tuning(pool: &Pool) -> Tuning {
    let default = Tuning::default();
    let extents: u64 = pool.luns.iter().map(|lun| lun.data_extents).sum();
    let share = u32::try_from(extents / 64).unwrap_or(u32::MAX);
    Tuning {
        reserve_min: share.clamp(RESERVE_LEAST, default.reserve_min),
        reserve_max: share.clamp(RESERVE_LEAST, default.reserve_max),
        ..default
    }
}

pub(super) fn name(attachment: &Attachment) -> String {
    attachment.volume.name.to_string()
}

pub(super) fn metadata_error(
    what: &'static str,
    attachment: &Attachment,
) -> impl FnOnce(MetadataError) -> LoadError + use<> {
    let volume = name(attachment);
    move |source| LoadError::Metadata { what, volume, source }
}

pub(super) fn journal_identity(attachment: &Attachment) -> JournalIdentity {
    JournalIdentity {
        volume: attachment.volume.id,
        layer: attachment.volume.head,
        epoch: attachment.epoch,
        writer: attachment.node,
    }
}

fn dirty_identity(attachment: &Attachment) -> DirtyIdentity {
    DirtyIdentity {
        volume: attachment.volume.id,
        layer: attachment.volume.head,
        epoch: attachment.epoch,
        holder: attachment.node,
        extent_size: attachment.pool.extent_size,
    }
}

fn ring_place(attachment: &Attachment) -> Result<RingPlace, LoadError> {
    if attachment.journal.is_empty() {
        return Err(LoadError::NoJournal { volume: name(attachment) });
    }
    Ok(RingPlace::new(attachment.journal.clone(), attachment.pool.extent_size))
}

/// Runs something that blocks on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it neither panics nor is cancelled")
}

impl Loader {
    /// Loads a freshly granted volume; what earlier users left in their journals is in the map
    /// afterwards.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn fresh(&self, attachment: &Attachment) -> Result<Loaded, LoadError> {
        let luns = self.open_luns(attachment).await?;
        let place = ring_place(attachment)?;
        let map = self.read_chain(attachment, &luns).await?;
        let stale_journals = attachment.stale_journals.clone();
        let (attachment, replayed) = (attachment.clone(), BTreeSet::new());
        let mut replaying = Replaying { loader: self, attachment, luns, map, replayed };
        for stale in &stale_journals {
            replaying.replay(stale).await?;
        }
        let Replaying { mut attachment, luns, map, replayed, .. } = replaying;
        let identity = journal_identity(&attachment);
        let (set, ring_place) = (luns.clone(), place.clone());
        blocking(move || journal::format_ring(&identity, &ring_place, set.table(), &set))
            .await
            .map_err(|source| journal_io(&attachment, attachment.epoch, source))?;
        self.confirm(&mut attachment).await?;
        let capacity = dirty_capacity(&place, attachment.pool.extent_size);
        let table = self
            .state
            .create_dirty_table(dirty_identity(&attachment), capacity)
            .map_err(|source| LoadError::Dirty { volume: name(&attachment), source })?;
        let ring = JournalRing::fresh(identity, place);
        Ok(Loaded { luns, attachment, map, ring, table, predecessor: None, replayed })
    }

    /// Loads a volume that a killed predecessor of the same incarnation has served.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn resume(&self, attachment: &Attachment) -> Result<Loaded, LoadError> {
        let luns = self.open_luns(attachment).await?;
        let place = ring_place(attachment)?;
        let capacity = dirty_capacity(&place, attachment.pool.extent_size);
        let dirty = |source| LoadError::Dirty { volume: name(attachment), source };
        let (mut table, slots) =
            self.state.open_dirty_table(dirty_identity(attachment), capacity).map_err(dirty)?;
        let (head, next) = (attachment.volume.head, attachment.next_head);
        let claimed = table.claim(head, Some(next)).map_err(|source| {
            dirty(DirtyFileError::Table {
                path: self.state.dirty_path(attachment.volume.id, attachment.epoch),
                source,
            })
        })?;
        let attachment = match claimed == head {
            true => attachment.clone(),
            false => self.seal_as_predecessor_did(attachment, &place, &luns).await?,
        };
        let identity = journal_identity(&attachment);
        let checkpoint = attachment.checkpoint;
        let recovered =
            self.read_journal(&attachment, (identity, None), &place, checkpoint, &luns).await?;
        let (set, ring_place, found) = (luns.clone(), place.clone(), recovered.clone());
        blocking(move || journal::wipe_beyond(&identity, &ring_place, set.table(), &set, &found))
            .await
            .map_err(|source| journal_io(&attachment, attachment.epoch, source))?;
        let map = self.read_chain(&attachment, &luns).await?;
        let ring = JournalRing::resumed(identity, place, &recovered);
        let (predecessor, replayed) = (Some(slots), BTreeSet::new());
        Ok(Loaded { luns, attachment, map, ring, table, predecessor, replayed })
    }

    /// The predecessor went on in its next head, without an answer to its vote: that is made the
    /// head before anything else is done.
    async fn seal_as_predecessor_did(
        &self,
        attachment: &Attachment,
        place: &RingPlace,
        luns: &PoolLuns,
    ) -> Result<Attachment, LoadError> {
        let (id, next) = (journal_identity(attachment), attachment.next_head);
        let checkpoint = attachment.checkpoint;
        let found =
            self.read_journal(attachment, (id, Some(next)), place, checkpoint, luns).await?;
        self.seal(attachment, &found, next, None).await
    }

    /// Makes the layer the head that a journal speaks of already, or would speak of next. What the
    /// journal has of the head so far is in the map: nobody votes or goes on before.
    pub(super) async fn seal(
        &self,
        attachment: &Attachment,
        found: &journal::Recovered,
        next_head: LayerId,
        replay_of: Option<Epoch>,
    ) -> Result<Attachment, LoadError> {
        let is_ahead = found.layer == next_head;
        let checkpoint = if is_ahead { found.replay_from - 1 } else { found.last_seq };
        let seal = Seal {
            request: fresh_request_id(),
            grant: grant_of(attachment),
            number: attachment.last_commit.next(),
            checkpoint: JournalSeq::new(checkpoint),
            next_head,
            replay_of,
        };
        let sealed = self.metadata.seal_layer(seal).await;
        let sealed = sealed.map_err(metadata_error("seal the head", attachment))?;
        info!(volume = name(attachment), head = %sealed.now.head, "the former head is sealed");
        let now = self.metadata.resume_attachment(grant_of(attachment)).await;
        now.map_err(metadata_error("look up the attachment", attachment))
    }

    async fn open_luns(&self, attachment: &Attachment) -> Result<PoolLuns, LoadError> {
        let (opener, pool) = (Arc::clone(&self.luns), attachment.pool.clone());
        let cluster = self.cluster;
        blocking(move || opener.open_pool(&pool, cluster))
            .await
            .map_err(|source| LoadError::Luns { volume: name(attachment), source })
    }

    async fn read_chain(
        &self,
        attachment: &Attachment,
        luns: &PoolLuns,
    ) -> Result<LoadedMap, LoadError> {
        let read = read_chain(&self.metadata, attachment, luns.table()).await;
        read.map_err(|error| match error {
            ChainError::Metadata(source) => metadata_error("read the map", attachment)(source),
            ChainError::Map(source) => LoadError::Map { volume: name(attachment), source },
        })
    }

    async fn confirm(&self, attachment: &mut Attachment) -> Result<(), LoadError> {
        let number = attachment.last_commit.next();
        let commit = MapCommit {
            request: fresh_request_id(),
            grant: grant_of(attachment),
            number,
            layer: attachment.volume.head,
            extent_size: attachment.pool.extent_size,
            updates: Vec::new(),
            checkpoint: Some(JournalSeq::new(SEQ_CONFIRMED)),
            replay_of: None,
        };
        // It unmaps nothing.
        let confirmed = self.metadata.commit_map(commit).await;
        confirmed.map_err(metadata_error("confirm the journal", attachment))?;
        attachment.last_commit = number;
        Ok(())
    }

    /// What a journal says, of a head or of its next one.
    pub(super) async fn read_journal(
        &self,
        attachment: &Attachment,
        (identity, next_head): (JournalIdentity, Option<LayerId>),
        place: &RingPlace,
        checkpoint: JournalSeq,
        luns: &PoolLuns,
    ) -> Result<journal::Recovered, LoadError> {
        let (set, place, checkpoint) = (luns.clone(), place.clone(), checkpoint.get());
        let epoch = identity.epoch;
        let read = blocking(move || {
            let image = journal::read(&place, set.table(), &set)?;
            Ok(journal::recover(&identity, next_head, place.blocks(), image.as_bytes(), checkpoint))
        });
        let recovered = read.await.map_err(|source| journal_io(attachment, epoch, source))?;
        recovered.map_err(|source| LoadError::Damaged { volume: name(attachment), epoch, source })
    }
}

fn journal_io(attachment: &Attachment, epoch: Epoch, source: JournalIoError) -> LoadError {
    LoadError::JournalIo { volume: name(attachment), epoch, source }
}

#[cfg(test)]
pub(crate) mod tests;
