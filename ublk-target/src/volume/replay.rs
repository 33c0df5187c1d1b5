//! Brings what earlier users of a volume have left in their journals into the map.
//!
//! Crash order, of each journal, the oldest first: its layer is made the head if it was ahead of
//! it → its records are committed → it is retired. A crash anywhere leaves it whole, or wholly
//! committed.

use std::collections::BTreeSet;

use lunar_engine::journal::{JournalIdentity, RingPlace, SEQ_CONFIRMED};
use lunar_engine::replay::{SlotUpdate, storage_named};
use lunar_engine::volume::LoadedMap;
use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::{self, Attachment, COMMIT_UPDATES_MAX, StaleJournal};
use lunar_types::{Epoch, ExtentAddress};
use tracing::info;

use super::load::{LoadError, Loader, journal_identity, metadata_error, name};
use super::served::grant_of;
use crate::lun::set::PoolLuns;
use crate::metadata::MapCommit;

/// A volume whose stale journals are being replayed.
pub(super) struct Replaying<'a> {
    pub(super) loader: &'a Loader,
    /// The grant, kept as it is now.
    pub(super) attachment: Attachment,
    pub(super) luns: PoolLuns,
    /// The map, as committed.
    pub(super) map: LoadedMap,
    /// Extents that the journals name: whoever committed them, they may be in the map by now.
    pub(super) replayed: BTreeSet<ExtentAddress>,
}

impl Replaying<'_> {
    /// Brings what a stale journal holds into the map, then retires it.
    pub(super) async fn replay(&mut self, stale: &StaleJournal) -> Result<(), LoadError> {
        // A journal that was never confirmed was never written to.
        if stale.checkpoint.get() >= SEQ_CONFIRMED {
            let updates = self.updates_of(stale).await?;
            self.commit(stale.epoch, &updates).await?;
            let (epoch, count) = (stale.epoch, updates.len());
            info!(volume = name(&self.attachment), %epoch, count, "replayed");
            self.map.take_in(updates);
        }
        let grant = grant_of(&self.attachment);
        let retired = self.loader.metadata.retire_journal(grant, stale.epoch).await;
        retired.map_err(metadata_error("retire a journal", &self.attachment))
    }

    async fn updates_of(&mut self, stale: &StaleJournal) -> Result<Vec<SlotUpdate>, LoadError> {
        let extent_size = self.attachment.pool.extent_size;
        let place = RingPlace::new(stale.runs.clone(), extent_size);
        let identity = JournalIdentity {
            epoch: stale.epoch,
            writer: stale.node,
            ..journal_identity(&self.attachment)
        };
        let whose = (identity, Some(stale.next_head));
        let (loader, luns) = (self.loader, &self.luns);
        let read = loader.read_journal(&self.attachment, whose, &place, stale.checkpoint, luns);
        let recovered = read.await?;
        // Not of the updates: an attempt that failed may have committed some of them already.
        self.replayed.extend(storage_named(&recovered.records));
        if recovered.layer != self.attachment.volume.head {
            let (next, epoch) = (stale.next_head, Some(stale.epoch));
            self.attachment = loader.seal(&self.attachment, &recovered, next, epoch).await?;
            let volume = name(&self.attachment);
            let up = self.map.seal(self.attachment.volume.head);
            up.map_err(|source| LoadError::Map { volume, source })?;
        }
        self.map.changes(&recovered.records).map_err(|source| LoadError::Misfit {
            volume: name(&self.attachment),
            epoch: stale.epoch,
            source,
        })
    }

    async fn commit(&mut self, epoch: Epoch, updates: &[SlotUpdate]) -> Result<(), LoadError> {
        for chunk in updates.chunks(COMMIT_UPDATES_MAX) {
            let number = self.attachment.last_commit.next();
            let commit = MapCommit {
                request: fresh_request_id(),
                grant: grant_of(&self.attachment),
                number,
                layer: self.attachment.volume.head,
                extent_size: self.attachment.pool.extent_size,
                updates: chunk.iter().map(told).collect(),
                checkpoint: None,
                replay_of: Some(epoch),
            };
            // What it unmaps goes into the reservation of the one who is gone.
            let committed = self.loader.metadata.commit_map(commit).await;
            committed.map_err(metadata_error("commit a replayed journal", &self.attachment))?;
            self.attachment.last_commit = number;
        }
        Ok(())
    }
}

fn told(update: &SlotUpdate) -> domain::SlotUpdate {
    domain::SlotUpdate { at: update.logical, slot: update.slot.clone() }
}
