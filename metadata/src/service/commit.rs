//! Commits of the map: slots change together with the owners of their extents.
//!
//! Invariants:
//! - an extent that a commit maps comes out of the reservation of the incarnation that wrote it:
//!   the holder's, or for a replay that of the incarnation whose journal is replayed;
//! - an extent that a commit unmaps or replaces goes into that same reservation. The holder keeps
//!   it there until I/O in flight has drained, and then uses it again or releases it; once a backup
//!   was begun it is marked, and the holder must release it: see `horizon`;
//! - commits of a grant are numbered and carried out in that order, each once, whenever copies of
//!   them arrive;
//! - while stale journals are left, only the oldest is committed.

use std::collections::BTreeSet;
use std::sync::Arc;

use lunar_proto::domain::{COMMIT_UPDATES_MAX, CommitMap, SlotUpdate};
use lunar_types::{ExtentAddress, Freed, JournalSeq, NodeIncarnation, PoolId, Slot, SlotPlace};

use super::Service;
use super::attachments::{oldest_stale, require_attachment, require_oldest_stale};
use super::horizon::Horizon;
use super::layers::count_slot;
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

/// The stale journal that the commit comes from; while one is left, nothing else is committed.
async fn replayed_journal<T: Txn>(
    txn: &T,
    request: &CommitMap,
) -> Result<Option<StaleJournalRecord>, ServiceError> {
    let volume = request.volume;
    if let Some(epoch) = request.replay_of {
        let wanted = "replay a later one";
        return require_oldest_stale(txn, volume, epoch, wanted).await.map(Some);
    }
    match oldest_stale(txn, volume).await? {
        None => Ok(None),
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
    let marks = Horizon::load(txn).await?.marks();
    let mut reserved = BitmapEdits::reserved(txn, node, pool);
    let mut unmapped = BitmapEdits::unmapped(txn, node, pool);
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
        if marks {
            unmapped.insert(extent).await?;
        }
    }
    for extent in moves().filter_map(|(_, new)| new) {
        if !reserved.remove(extent).await? {
            return Err(ServiceError::ExtentNotReserved { extent, pool, node });
        }
        if marks && unmapped.remove(extent).await? {
            return Err(ServiceError::ExtentHeldForBackup { extent, pool, node });
        }
    }
    reserved.write();
    unmapped.write();
    Ok(())
}

/// Writes the slots, and what their layer counts of them.
fn write_slots<T: Txn>(
    txn: &T,
    request: &CommitMap,
    mut layer: LayerRecord,
    changes: Vec<(&SlotUpdate, Option<SlotValue>)>,
) -> Result<(), ServiceError> {
    let before = (layer.extents, layer.digest);
    for (update, old) in changes {
        let key = SlotKey { layer: request.layer, at: update.at };
        let new = update.slot.clone().map(SlotValue);
        if old == new {
            continue;
        }
        count_slot(&mut layer, &key, old.as_ref(), new.as_ref())?;
        match &new {
            Some(slot) => txn.put(&key, slot),
            None => txn.remove(&key),
        }
    }
    if (layer.extents, layer.digest) != before {
        txn.put(&LayerKey { layer: request.layer }, &layer);
    }
    Ok(())
}

/// Moves the checkpoint of the replayed or of the own journal forward.
fn move_checkpoint<T: Txn>(
    txn: &T,
    request: &CommitMap,
    stale: Option<StaleJournalRecord>,
    held: &mut AttachmentRecord,
) -> Result<(), ServiceError> {
    let Some(given) = request.checkpoint else { return Ok(()) };
    let volume = request.volume;
    let forward = |stored: JournalSeq, epoch| {
        if given >= stored {
            return Ok(given);
        }
        Err(ServiceError::CheckpointRegression { volume, epoch, stored, given })
    };
    match stale {
        None => held.checkpoint = forward(held.checkpoint, held.epoch)?,
        Some(mut record) => {
            let epoch = request.replay_of.unwrap_or_default();
            record.checkpoint = forward(record.checkpoint, epoch)?;
            txn.put(&StaleJournalKey { volume, epoch }, &record);
        }
    }
    Ok(())
}

/// Whether the commit is the next one under its grant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Next,
    /// It was carried out as the last one, before the memory of requests ended.
    LastAgain,
}

fn order_of(request: &CommitMap, held: &AttachmentRecord) -> Result<Order, ServiceError> {
    let (last, given) = (held.last_commit, request.number);
    if given == last.next() {
        return Ok(Order::Next);
    }
    if given == last && request.request == held.last_request {
        return Ok(Order::LastAgain);
    }
    let CommitMap { volume, epoch, .. } = *request;
    Err(ServiceError::CommitOutOfOrder { volume, epoch, last, given })
}

async fn commit_map<T: Txn>(txn: &T, request: &CommitMap) -> Result<(), ServiceError> {
    let CommitMap { volume, epoch, caller, .. } = *request;
    let (record, mut held) = require_attachment(txn, volume, epoch, caller).await?;
    if order_of(request, &held)? == Order::LastAgain {
        return Ok(());
    }
    let stale = replayed_journal(txn, request).await?;
    let writer = stale.as_ref().map_or(held.node, |stale| stale.node);
    let layer = writable_layer(txn, request, &record).await?;
    check_geometry(txn, request, &record).await?;
    let key = |update: &SlotUpdate| SlotKey { layer: request.layer, at: update.at };
    let keys: Vec<SlotKey> = request.updates.iter().map(key).collect();
    let old = txn.load_many(&keys).await?;
    let changes: Vec<_> = request.updates.iter().zip(old).collect();
    move_extents(txn, record.pool, writer, &changes).await?;
    write_slots(txn, request, layer, changes)?;
    move_checkpoint(txn, request, stale, &mut held)?;
    held.last_commit = request.number;
    held.last_request = request.request;
    txn.put(&AttachmentKey { volume }, &held);
    Ok(())
}

impl<S: MetaStore> Service<S> {
    /// Changes slots of the head layer of an attached volume: all of the updates or none. Says
    /// what becomes of the extents that are unmapped.
    ///
    /// # Errors
    /// The grant is over, a later process speaks for the node, the commit does not follow the last
    /// one, stale journals come first, the layer is not the head, an extent is not
    /// in the reservation it should come from, or the checkpoint would fall.
    pub async fn commit_map(&self, request: &CommitMap) -> Result<Freed, ServiceError> {
        check_updates(request)?;
        let what = ("commit map", request);
        let commit = |txn: Arc<S::Txn>| async move { commit_map(&*txn, request).await };
        self.once_done(request.request, &what, commit).await?;
        self.freed().await
    }
}
