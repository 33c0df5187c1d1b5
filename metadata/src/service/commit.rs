//! Commits of the map: slots change together with the owners of their extents.
//!
//! Invariants:
//! - an extent that a commit maps comes out of the reservation of the incarnation that wrote it:
//!   the holder's, or for a replay that of the incarnation whose journal is replayed;
//! - an extent that a commit unmaps or replaces goes into that same reservation. The holder keeps
//!   it there until I/O in flight has drained, and then uses it again or releases it;
//! - a commit says how slots are to be, so committing it twice is committing it once;
//! - while stale journals are left, only the oldest is committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use lunar_proto::domain::{COMMIT_UPDATES_MAX, CommitMap, SlotUpdate};
use lunar_types::{ExtentAddress, JournalSeq, NodeIncarnation, PoolId, Slot, SlotPlace};

use super::Service;
use super::attachments::{oldest_stale, require_attachment, require_oldest_stale};
use super::space::BitmapEdits;
use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentKey, AttachmentRecord, KeyedTxn, LayerKey, LayerRecord, PoolKey, SlotKey, SlotValue,
    StaleJournalKey, StaleJournalRecord, VolumeRecord,
};
use crate::store::{MetaStore, Txn};

/// What can be said of a commit without the store.
fn check_updates(request: &CommitMap) -> Result<(), ServiceError> {
    if request.updates.len() > COMMIT_UPDATES_MAX {
        let problem = format_args!("{} are beyond {COMMIT_UPDATES_MAX}", request.updates.len());
        return Err(ServiceError::field("updates", problem));
    }
    let mut seen = BTreeSet::new();
    for (index, update) in request.updates.iter().enumerate() {
        let refuse = |part: &str, problem: &str| {
            Err(ServiceError::field(&format!("updates[{index}].{part}"), problem))
        };
        if !seen.insert(update.at) {
            return refuse("logical_extent", "it is named twice in the commit");
        }
        let Some(slot) = &update.slot else { continue };
        if slot.presence.block_count() != request.extent_size.blocks() {
            return refuse("slot.presence", "it has not one bit for each block of the extent");
        }
        if slot.place == SlotPlace::Zero && !slot.presence.is_empty() {
            return refuse("slot.presence", "a ZERO slot has no block present");
        }
    }
    Ok(())
}

/// Whose checkpoint the commit moves.
enum Journal {
    Current(AttachmentRecord),
    Stale(StaleJournalRecord),
}

impl Journal {
    fn writer(&self) -> NodeIncarnation {
        match self {
            Self::Current(record) => record.node,
            Self::Stale(record) => record.node,
        }
    }
}

async fn journal_of<T: Txn>(
    txn: &T,
    request: &CommitMap,
    attachment: AttachmentRecord,
) -> Result<Journal, ServiceError> {
    let volume = request.volume;
    if let Some(epoch) = request.replay_of {
        let wanted = "replay a later one";
        return require_oldest_stale(txn, volume, epoch, wanted).await.map(Journal::Stale);
    }
    match oldest_stale(txn, volume).await? {
        None => Ok(Journal::Current(attachment)),
        Some((oldest, _)) => {
            Err(ServiceError::StaleJournals { volume, oldest, wanted: "commit anything new" })
        }
    }
}

async fn writable_layer<T: Txn>(
    txn: &T,
    request: &CommitMap,
    volume: &VolumeRecord,
) -> Result<LayerRecord, ServiceError> {
    let layer = txn.load(&LayerKey { layer: request.layer }).await?;
    match layer {
        Some(record) if volume.head == request.layer && !record.sealed => Ok(record),
        _ => Err(ServiceError::LayerNotWritable {
            layer: request.layer,
            volume: request.volume,
            head: volume.head,
        }),
    }
}

async fn check_geometry<T: Txn>(
    txn: &T,
    request: &CommitMap,
    volume: &VolumeRecord,
) -> Result<(), ServiceError> {
    let pool = txn.load_known(&PoolKey { pool: volume.pool }).await?;
    if request.extent_size != pool.extent_size {
        let problem = format_args!("pool '{}' has extents of {}", pool.name, pool.extent_size);
        return Err(ServiceError::field("extent_size_bytes", problem));
    }
    let extents = volume.size.extents(pool.extent_size);
    match request.updates.iter().position(|update| update.at.get() >= extents) {
        None => Ok(()),
        Some(index) => {
            let at = request.updates[index].at;
            let problem = format_args!("{at} is beyond the {extents} extents of the volume");
            Err(ServiceError::field(&format!("updates[{index}].logical_extent"), problem))
        }
    }
}

fn extent_of(slot: Option<&Slot>) -> Option<ExtentAddress> {
    slot.and_then(Slot::extent)
}

/// Moves extents between slots and the reservation. First everything that slots give up, then
/// everything that they take: the order of the updates does not matter.
async fn move_extents<T: Txn>(
    txn: &T,
    pool: PoolId,
    node: NodeIncarnation,
    changes: &[(&SlotUpdate, Option<SlotValue>)],
) -> Result<(), ServiceError> {
    let mut reserved = BitmapEdits::reserved(txn, node, pool);
    let moves = || {
        let extents = changes.iter().map(|(update, old)| {
            (extent_of(old.as_ref().map(|old| &old.0)), extent_of(update.slot.as_ref()))
        });
        extents.filter(|(old, new)| old != new)
    };
    for extent in moves().filter_map(|(old, _)| old) {
        if !reserved.insert(extent).await? {
            let key = format!("extent {extent} of pool {pool}");
            let problem = format!("it is mapped and also reserved for {node}");
            return Err(ServiceError::corrupt(key, problem));
        }
    }
    for extent in moves().filter_map(|(_, new)| new) {
        if !reserved.remove(extent).await? {
            return Err(ServiceError::ExtentNotReserved { extent, pool, node });
        }
    }
    reserved.write();
    Ok(())
}

/// Writes the slots and counts those with storage.
fn write_slots<T: Txn>(
    txn: &T,
    request: &CommitMap,
    mut layer: LayerRecord,
    changes: Vec<(&SlotUpdate, Option<SlotValue>)>,
) -> Result<(), ServiceError> {
    let before = layer.extents;
    for (update, old) in changes {
        let key = SlotKey { layer: request.layer, at: update.at };
        let had = extent_of(old.as_ref().map(|old| &old.0)).is_some();
        let has = extent_of(update.slot.as_ref()).is_some();
        let counted = (layer.extents + u64::from(has)).checked_sub(u64::from(had));
        layer.extents = counted.ok_or_else(|| {
            let key = format!("layer {}", request.layer);
            ServiceError::corrupt(key, "it has more slots than it counts".to_owned())
        })?;
        match &update.slot {
            Some(slot) if old.as_ref().is_some_and(|old| old.0 == *slot) => {}
            Some(slot) => txn.put(&key, &SlotValue(slot.clone())),
            None if old.is_some() => txn.remove(&key),
            None => {}
        }
    }
    if layer.extents != before {
        txn.put(&LayerKey { layer: request.layer }, &layer);
    }
    Ok(())
}

/// Moves the checkpoint of the journal forward.
fn move_checkpoint<T: Txn>(
    txn: &T,
    request: &CommitMap,
    journal: Journal,
    given: JournalSeq,
) -> Result<(), ServiceError> {
    let volume = request.volume;
    let forward = |stored: JournalSeq, epoch| {
        if given >= stored {
            return Ok(given);
        }
        Err(ServiceError::CheckpointRegression { volume, epoch, stored, given })
    };
    match journal {
        Journal::Current(mut record) => {
            record.checkpoint = forward(record.checkpoint, record.epoch)?;
            txn.put(&AttachmentKey { volume }, &record);
        }
        Journal::Stale(mut record) => {
            let epoch = request.replay_of.unwrap_or_default();
            record.checkpoint = forward(record.checkpoint, epoch)?;
            txn.put(&StaleJournalKey { volume, epoch }, &record);
        }
    }
    Ok(())
}

async fn commit_map<T: Txn>(txn: &T, request: &CommitMap) -> Result<(), ServiceError> {
    let CommitMap { volume, epoch, node, .. } = *request;
    let (record, attachment) = require_attachment(txn, volume, epoch, node).await?;
    let journal = journal_of(txn, request, attachment).await?;
    let layer = writable_layer(txn, request, &record).await?;
    check_geometry(txn, request, &record).await?;
    let key = |update: &SlotUpdate| SlotKey { layer: request.layer, at: update.at };
    let keys: Vec<SlotKey> = request.updates.iter().map(key).collect();
    let old = txn.load_many(&keys).await?;
    let changes: Vec<_> = request.updates.iter().zip(old).collect();
    move_extents(txn, record.pool, journal.writer(), &changes).await?;
    write_slots(txn, request, layer, changes)?;
    match request.checkpoint {
        Some(given) => move_checkpoint(txn, request, journal, given),
        None => Ok(()),
    }
}

impl<S: MetaStore> Service<S> {
    /// Changes slots of the head layer of an attached volume: all of the updates or none.
    ///
    /// # Errors
    /// The grant is over, stale journals come first, the layer is not the head, an extent is not
    /// in the reservation it should come from, or the checkpoint would fall.
    pub async fn commit_map(&self, request: &CommitMap) -> Result<(), ServiceError> {
        check_updates(request)?;
        let what = ("commit map", request);
        let commit = |txn: Arc<S::Txn>| async move { commit_map(&*txn, request).await };
        self.once_done(request.request, &what, commit).await
    }
}
