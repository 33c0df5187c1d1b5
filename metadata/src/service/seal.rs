//! The cut: all members of a set by one transaction, or one head without a set.
//!
//! Invariants:
//! - a set is sealed only while every member stands as it voted: its holder's process and grant,
//!   its last commit, its next head; a detached one still has no attachment. Otherwise it is
//!   aborted by the same transaction;
//! - a grant's seal makes its next head the head, takes another id for the next one, and counts as
//!   a commit: a late commit of the old head has a number that is used up;
//! - a head that is sealed without a name gets the operation that every nameless layer has.

use std::sync::Arc;

use lunar_proto::domain::{
    CutAs, LayerSealed, OperationWork, Origin, SealLayer, SealedHead, SetAbort, SetState,
    SnapshotState, VolumeState,
};
use lunar_types::{JournalSeq, LayerId, RequestId, SnapshotId, SnapshotSetId, VolumeId};

use super::attachments::{oldest_stale, require_attachment, require_oldest_stale};
use super::incarnations::is_live;
use super::layers::{begin_head, move_head, next_layer, require_depth_left};
use super::operations::begin_operation;
use super::sets::{abort_for, abort_set, forget_member, leave_set, put_decided};
use super::volumes::{NewVolume, put_volume};
use super::{Service, foreign_outcome};
use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentKey, AttachmentRecord, KeyedTxn, LayerName, NodeKey, Outcome, SetEntry, SetMemberKey,
    SetMemberRecord, SnapshotKey, SnapshotSetRecord, StaleJournalKey, StaleJournalRecord,
    VolumeKey, VolumeNameKey, VolumeRecord, VolumeSnapshotKey, VolumeSnapshotRecord,
};
use crate::store::{MetaStore, Txn};

/// A member that stands as it voted.
struct Cut {
    record: VolumeRecord,
    vote: SetMemberRecord,
    /// Of an attached one.
    held: Option<AttachmentRecord>,
}

/// The grant of a member, if the process that was ready or has voted still speaks for it. A
/// detached member has none, and none must have come.
pub(super) async fn member_grant<T: Txn>(
    txn: &T,
    volume: VolumeId,
    member: &SetMemberRecord,
) -> Result<Option<Option<AttachmentRecord>>, ServiceError> {
    let held = txn.load(&AttachmentKey { volume }).await?;
    let (Some(holder), Some(grant)) = (member.holder, &held) else {
        let stands = member.holder.is_none() && held.is_none();
        return Ok(stands.then_some(None));
    };
    let node = txn.load_known(&NodeKey { node: holder.node }).await?;
    let stands = is_live(&node, holder)
        && node.session == member.session
        && (grant.node, grant.epoch) == (holder, member.epoch);
    Ok(stands.then_some(held))
}

async fn standing_cut<T: Txn>(
    txn: &T,
    set: SnapshotSetId,
    volume: VolumeId,
) -> Result<Option<Cut>, ServiceError> {
    let vote = txn.load_known(&SetMemberKey { set, volume }).await?;
    let Some(held) = member_grant(txn, volume, &vote).await? else { return Ok(None) };
    let record = txn.load_known(&VolumeKey { volume }).await?;
    let is_as_voted = held.as_ref().is_none_or(|held| {
        held.last_commit == vote.last_commit
            && held.next_head == vote.next_head
            && held.checkpoint <= vote.checkpoint
    });
    let stands = is_as_voted
        && record.state == VolumeState::Ready
        && record.set == Some(set)
        && oldest_stale(txn, volume).await?.is_none();
    Ok(stands.then_some(Cut { record, vote, held }))
}

/// Why the set cannot be cut, of this member.
async fn obstacle<T: Txn>(
    txn: &T,
    entry: &SetEntry,
    cut: Option<&Cut>,
) -> Result<Option<SetAbort>, ServiceError> {
    if cut.is_none() {
        return Ok(Some(abort_for("member-changed", Some(entry.volume))));
    }
    let CutAs::Clone { name, .. } = &entry.cut else { return Ok(None) };
    let taken = txn.load(&VolumeNameKey { name: name.clone() }).await?;
    Ok(taken.map(|_| abort_for("clone-name-taken", Some(entry.volume))))
}

/// Seals an open set whose members are all paused, or aborts it.
pub(super) async fn decide<T: Txn>(
    txn: &T,
    set: SnapshotSetId,
    record: SnapshotSetRecord,
) -> Result<SetState, ServiceError> {
    let mut cuts = Vec::with_capacity(record.members.len());
    for entry in &record.members {
        let cut = standing_cut(txn, set, entry.volume).await?;
        if let Some(abort) = obstacle(txn, entry, cut.as_ref()).await? {
            abort_set(txn, set, record, abort).await?;
            return Ok(SetState::Aborted);
        }
        cuts.extend(cut);
    }
    for (entry, cut) in record.members.iter().zip(cuts) {
        cut_member(txn, set, entry, cut).await?;
    }
    put_decided(txn, set, record, SetState::Sealed).await?;
    Ok(SetState::Sealed)
}

/// Seals one member: the head moves, the vote's checkpoint holds, the set has left the volume.
async fn cut_member<T: Txn>(
    txn: &T,
    set: SnapshotSetId,
    entry: &SetEntry,
    cut: Cut,
) -> Result<(), ServiceError> {
    let volume = entry.volume;
    let Cut { mut record, vote, held } = cut;
    let name = match entry.cut {
        CutAs::Snapshot(snapshot) => LayerName::Snapshot(snapshot),
        CutAs::Clone { .. } => LayerName::Nameless,
    };
    let next = match &held {
        Some(held) => held.next_head,
        None => next_layer(txn).await?,
    };
    let sealed = move_head(txn, (volume, &mut record), name, next).await?;
    record.set = None;
    txn.put(&VolumeKey { volume }, &record);
    if let Some(mut held) = held {
        held.checkpoint = vote.checkpoint;
        held.last_commit = held.last_commit.next();
        held.last_request = RequestId::from_u128(set.as_u128());
        held.next_head = next_layer(txn).await?;
        txn.put(&AttachmentKey { volume }, &held);
    }
    forget_member(txn, set, volume, &vote);
    match &entry.cut {
        CutAs::Snapshot(snapshot) => finish_snapshot(txn, *snapshot, sealed, &record).await,
        CutAs::Clone { volume: clone, name } => {
            let VolumeRecord { pool, size, logical_block_size, restored, content, .. } = record;
            let head = begin_head(txn, *clone, pool, Some(sealed)).await?;
            let (name, origin) = (name.clone(), Some(Origin::Volume(volume)));
            let new =
                NewVolume { name, pool, size, logical_block_size, head, restored, content, origin };
            put_volume(txn, *clone, new);
            Ok(())
        }
    }
}

/// The snapshot has its layer, and is as large, as restored and as used as the volume now: that may
/// have changed since the set was stored.
async fn finish_snapshot<T: Txn>(
    txn: &T,
    snapshot: SnapshotId,
    sealed: LayerId,
    of: &VolumeRecord,
) -> Result<(), ServiceError> {
    let key = SnapshotKey { snapshot };
    let mut record = txn.load_known(&key).await?;
    (record.layer, record.state) = (Some(sealed), SnapshotState::Ready);
    (record.size, record.restored, record.content) = (of.size, of.restored, of.content);
    txn.put(&key, &record);
    let listed = VolumeSnapshotKey { volume: record.volume, snapshot };
    txn.put(&listed, &VolumeSnapshotRecord { layer: Some(sealed) });
    Ok(())
}

/// What is so under a grant after a seal.
pub(super) fn sealed_head(record: &VolumeRecord, held: &AttachmentRecord) -> SealedHead {
    SealedHead { head: record.head, next_head: held.next_head, last_commit: held.last_commit }
}

/// The stale journal that a seal is for. Without one, none may be left: its records come first.
async fn journal_of_seal<T: Txn>(
    txn: &T,
    request: &SealLayer,
) -> Result<Option<StaleJournalRecord>, ServiceError> {
    let volume = request.volume;
    if let Some(epoch) = request.replay_of {
        let wanted = "seal the head for a later one";
        return require_oldest_stale(txn, volume, epoch, wanted).await.map(Some);
    }
    match oldest_stale(txn, volume).await? {
        None => Ok(None),
        Some((oldest, _)) => {
            Err(ServiceError::StaleJournals { volume, oldest, wanted: "seal its head" })
        }
    }
}

/// Whether the call is the next one of the grant, of its next head, or of the stale journal's.
fn check_seal(
    request: &SealLayer,
    head: LayerId,
    held: &AttachmentRecord,
    stale: Option<&StaleJournalRecord>,
) -> Result<(), ServiceError> {
    let SealLayer { volume, epoch, number: given, .. } = *request;
    let of_journal = |stale: &StaleJournalRecord| (stale.next_head, stale.checkpoint);
    let (next_head, stored) = stale.map_or((held.next_head, held.checkpoint), of_journal);
    if request.next_head != next_head {
        let (held, given) = (next_head, request.next_head);
        return Err(ServiceError::NextHeadMismatch { volume, head, held, given });
    }
    let last = held.last_commit;
    if given != last.next() {
        return Err(ServiceError::CommitOutOfOrder { volume, epoch, last, given });
    }
    let (epoch, given): (_, JournalSeq) = (request.replay_of.unwrap_or(epoch), request.checkpoint);
    if given < stored {
        return Err(ServiceError::CheckpointRegression { volume, epoch, stored, given });
    }
    Ok(())
}

async fn seal_layer<T: Txn>(txn: &T, request: &SealLayer) -> Result<LayerSealed, ServiceError> {
    let SealLayer { volume, epoch, caller, next_head, checkpoint, .. } = *request;
    let (mut record, mut held) = require_attachment(txn, volume, epoch, caller).await?;
    if record.head == next_head {
        return Ok(LayerSealed { now: sealed_head(&record, &held), before: true });
    }
    let stale = journal_of_seal(txn, request).await?;
    check_seal(request, record.head, &held, stale.as_ref())?;
    leave_set(txn, volume, &mut record, "sealed-without-the-set").await?;
    require_depth_left(txn, record.head).await?;
    let sealed = move_head(txn, (volume, &mut record), LayerName::Nameless, next_head).await?;
    begin_operation(txn, OperationWork::DropLayer(sealed)).await?;
    txn.put(&VolumeKey { volume }, &record);
    match (stale, request.replay_of) {
        (Some(stale), Some(epoch)) => {
            let key = StaleJournalKey { volume, epoch };
            txn.put(&key, &StaleJournalRecord { checkpoint, ..stale });
        }
        _ => {
            held.checkpoint = checkpoint;
            held.next_head = next_layer(txn).await?;
        }
    }
    (held.last_commit, held.last_request) = (request.number, request.request);
    txn.put(&AttachmentKey { volume }, &held);
    Ok(LayerSealed { now: sealed_head(&record, &held), before: false })
}

impl<S: MetaStore> Service<S> {
    /// Makes the next head of a grant, or of its oldest stale journal, the head; what is sealed
    /// has no name. An open set of the volume is aborted. If it is the head already, nothing is
    /// changed.
    ///
    /// # Errors
    /// The grant is over, a later process speaks for the node, stale journals come first, the
    /// layer is not the next head, the call does not follow the last commit, the checkpoint would
    /// fall, or the volume stands on too many layers.
    pub async fn seal_layer(&self, request: &SealLayer) -> Result<LayerSealed, ServiceError> {
        let what = ("seal layer", request);
        let seal =
            |txn: Arc<S::Txn>| async move { seal_layer(&*txn, request).await.map(Outcome::Sealed) };
        let outcome = self.once(request.request, &what, seal).await?;
        self.sets_changed();
        match outcome {
            Outcome::Sealed(sealed) => Ok(sealed),
            other => Err(foreign_outcome(request.request, &other)),
        }
    }
}
