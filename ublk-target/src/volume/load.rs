//! Makes the engine's side of a volume from what the metadata service granted.
//!
//! Crash order of a fresh attachment: stale journals are read, replayed, committed under the new
//! epoch and retired, the oldest first; the new journal is formatted, then confirmed; only then is
//! there a dirty table. A crash anywhere leaves a grant that the next daemon gives back, with every
//! stale journal either whole or wholly committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use lunar_engine::dirty::{DirtyIdentity, DirtySlot, DirtyTable};
use lunar_engine::journal::{
    self, JournalDamage, JournalIdentity, JournalIoError, JournalRing, RingPlace, SEQ_CONFIRMED,
};
use lunar_engine::replay::{self, ReplayError};
use lunar_engine::volume::{
    Chain, StartError, Tuning, Volume, VolumeParts, VolumeSpec, dirty_capacity,
};
use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::{Attachment, COMMIT_UPDATES_MAX, Pool, SlotUpdate, StaleJournal};
use lunar_types::{ClusterId, CommitNumber, Epoch, ExtentAddress, JournalSeq, Slot};
use tracing::info;

use super::chain::{ChainError, OwnSlots, read_chain};
use super::served::grant_of;
use crate::lun::set::{LunOpener, LunSetError, PoolLuns};
use crate::metadata::{MapCommit, Metadata, MetadataError};
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
    /// The number of the last commit under the grant, after those that loading has made.
    pub last_commit: CommitNumber,
    chain: Chain,
    own: OwnSlots,
    ring: JournalRing,
    table: DirtyTable,
    predecessor: Option<Vec<DirtySlot>>,
    replayed: BTreeSet<ExtentAddress>,
}

impl Loaded {
    /// Extents that a predecessor had reserved and that are in use all the same: by the dirty
    /// table, or by the map since a journal was replayed.
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
    pub fn start(
        self,
        attachment: &Attachment,
        queues: u16,
    ) -> Result<(Volume, PoolLuns), LoadError> {
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
        let parts = VolumeParts {
            spec,
            chain: self.chain,
            own: self.own.into_iter().collect(),
            ring: self.ring,
            table: self.table,
            predecessor: self.predecessor,
        };
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

fn name(attachment: &Attachment) -> String {
    attachment.volume.name.to_string()
}

fn metadata_error(
    what: &'static str,
    attachment: &Attachment,
) -> impl FnOnce(MetadataError) -> LoadError + use<> {
    let volume = name(attachment);
    move |source| LoadError::Metadata { what, volume, source }
}

fn journal_identity(attachment: &Attachment) -> JournalIdentity {
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
        let (chain, mut own) = self.read_chain(attachment, &luns).await?;
        let mut replayed = BTreeSet::new();
        let mut last_commit = attachment.last_commit;
        for stale in &attachment.stale_journals {
            let (luns, commits) = (&luns, &mut last_commit);
            let updates = self.replay(attachment, stale, luns, &mut own, commits).await?;
            replayed.extend(updates.iter().filter_map(|one| one.slot.as_ref()?.extent()));
        }
        let identity = journal_identity(attachment);
        let (set, ring_place) = (luns.clone(), place.clone());
        blocking(move || journal::format_ring(&identity, &ring_place, set.table(), &set))
            .await
            .map_err(|source| journal_io(attachment, attachment.epoch, source))?;
        self.confirm(attachment, &mut last_commit).await?;
        let capacity = dirty_capacity(&place, attachment.pool.extent_size);
        let table = self
            .state
            .create_dirty_table(dirty_identity(attachment), capacity)
            .map_err(|source| LoadError::Dirty { volume: name(attachment), source })?;
        let ring = JournalRing::fresh(identity, place);
        Ok(Loaded { luns, last_commit, chain, own, ring, table, predecessor: None, replayed })
    }

    /// Loads a volume that a killed predecessor of the same incarnation has served.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn resume(&self, attachment: &Attachment) -> Result<Loaded, LoadError> {
        let luns = self.open_luns(attachment).await?;
        let place = ring_place(attachment)?;
        let capacity = dirty_capacity(&place, attachment.pool.extent_size);
        let (table, slots) = self
            .state
            .open_dirty_table(dirty_identity(attachment), capacity)
            .map_err(|source| LoadError::Dirty { volume: name(attachment), source })?;
        let identity = journal_identity(attachment);
        let checkpoint = attachment.checkpoint.get();
        let recovered = self.read_journal(attachment, identity, &place, checkpoint, &luns).await?;
        let (set, ring_place, chain) = (luns.clone(), place.clone(), recovered.clone());
        blocking(move || journal::wipe_beyond(&identity, &ring_place, set.table(), &set, &chain))
            .await
            .map_err(|source| journal_io(attachment, attachment.epoch, source))?;
        let (chain, own) = self.read_chain(attachment, &luns).await?;
        let ring = JournalRing::resumed(identity, place, &recovered);
        Ok(Loaded {
            luns,
            last_commit: attachment.last_commit,
            chain,
            own,
            ring,
            table,
            predecessor: Some(slots),
            replayed: BTreeSet::new(),
        })
    }

    async fn open_luns(&self, attachment: &Attachment) -> Result<PoolLuns, LoadError> {
        let (opener, pool) = (Arc::clone(&self.luns), attachment.pool.clone());
        let cluster = self.cluster;
        blocking(move || opener.open_pool(&pool, cluster))
            .await
            .map_err(|source| LoadError::Luns { volume: name(attachment), source })
    }

    /// What is below the head's own slots, and those.
    async fn read_chain(
        &self,
        attachment: &Attachment,
        luns: &PoolLuns,
    ) -> Result<(Chain, OwnSlots), LoadError> {
        let read = read_chain(&self.metadata, attachment, luns.table()).await;
        read.map_err(|error| match error {
            ChainError::Metadata(source) => metadata_error("read the map", attachment)(source),
            ChainError::Map(source) => LoadError::Map { volume: name(attachment), source },
        })
    }

    async fn confirm(
        &self,
        attachment: &Attachment,
        last_commit: &mut CommitNumber,
    ) -> Result<(), LoadError> {
        let commit = MapCommit {
            request: fresh_request_id(),
            grant: grant_of(attachment),
            number: last_commit.next(),
            layer: attachment.volume.head,
            extent_size: attachment.pool.extent_size,
            updates: Vec::new(),
            checkpoint: Some(JournalSeq::new(SEQ_CONFIRMED)),
            replay_of: None,
        };
        let confirmed = self.metadata.commit_map(commit).await;
        confirmed.map_err(metadata_error("confirm the journal", attachment))?;
        *last_commit = last_commit.next();
        Ok(())
    }

    async fn read_journal(
        &self,
        attachment: &Attachment,
        identity: JournalIdentity,
        place: &RingPlace,
        checkpoint: u64,
        luns: &PoolLuns,
    ) -> Result<journal::Recovered, LoadError> {
        let (set, place) = (luns.clone(), place.clone());
        let epoch = identity.epoch;
        let read = blocking(move || {
            let image = journal::read(&place, set.table(), &set)?;
            Ok(journal::recover(&identity, None, place.blocks(), image.as_bytes(), checkpoint))
        });
        let recovered = read.await.map_err(|source| journal_io(attachment, epoch, source))?;
        recovered.map_err(|source| LoadError::Damaged { volume: name(attachment), epoch, source })
    }

    /// Brings what a stale journal holds into the map, then retires it; gives what has changed.
    async fn replay(
        &self,
        attachment: &Attachment,
        stale: &StaleJournal,
        luns: &PoolLuns,
        map: &mut OwnSlots,
        last_commit: &mut CommitNumber,
    ) -> Result<Vec<SlotUpdate>, LoadError> {
        let mut updates = Vec::new();
        // A journal that was never confirmed was never written to.
        if stale.checkpoint.get() >= SEQ_CONFIRMED {
            updates = self.stale_updates(attachment, stale, luns, map).await?;
            self.commit_replay(attachment, stale, &updates, last_commit).await?;
            let count = updates.len();
            info!(volume = %attachment.volume.name, epoch = %stale.epoch, count, "replayed");
            for update in &updates {
                match &update.slot {
                    Some(slot) => map.insert(update.at, slot.clone()),
                    None => map.remove(&update.at),
                };
            }
        }
        let retired = self.metadata.retire_journal(grant_of(attachment), stale.epoch).await;
        retired.map_err(metadata_error("retire a journal", attachment))?;
        Ok(updates)
    }

    async fn stale_updates(
        &self,
        attachment: &Attachment,
        stale: &StaleJournal,
        luns: &PoolLuns,
        map: &OwnSlots,
    ) -> Result<Vec<SlotUpdate>, LoadError> {
        let extent_size = attachment.pool.extent_size;
        let place = RingPlace::new(stale.runs.clone(), extent_size);
        let identity = JournalIdentity {
            epoch: stale.epoch,
            writer: stale.node,
            ..journal_identity(attachment)
        };
        let checkpoint = stale.checkpoint.get();
        let recovered = self.read_journal(attachment, identity, &place, checkpoint, luns).await?;
        let updates = replay::replay(&recovered.records, map, extent_size).map_err(|source| {
            LoadError::Misfit { volume: name(attachment), epoch: stale.epoch, source }
        })?;
        let is_new = |update: &replay::SlotUpdate| map.get(&update.logical) != update.slot.as_ref();
        let updates = updates.into_iter().filter(is_new);
        Ok(updates.map(|one| SlotUpdate { at: one.logical, slot: one.slot }).collect())
    }

    async fn commit_replay(
        &self,
        attachment: &Attachment,
        stale: &StaleJournal,
        updates: &[SlotUpdate],
        last_commit: &mut CommitNumber,
    ) -> Result<(), LoadError> {
        for chunk in updates.chunks(COMMIT_UPDATES_MAX) {
            let commit = MapCommit {
                request: fresh_request_id(),
                grant: grant_of(attachment),
                number: last_commit.next(),
                layer: attachment.volume.head,
                extent_size: attachment.pool.extent_size,
                updates: chunk.to_vec(),
                checkpoint: None,
                replay_of: Some(stale.epoch),
            };
            let committed = self.metadata.commit_map(commit).await;
            committed.map_err(metadata_error("commit a replayed journal", attachment))?;
            *last_commit = last_commit.next();
        }
        Ok(())
    }
}

fn journal_io(attachment: &Attachment, epoch: Epoch, source: JournalIoError) -> LoadError {
    LoadError::JournalIo { volume: name(attachment), epoch, source }
}

#[cfg(test)]
mod tests;
