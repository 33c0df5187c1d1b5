//! Sets of snapshots: stored, shown, aborted. Their members' side is in `members`, the cut in
//! `seal`.
//!
//! Invariants:
//! - a volume is a member of one open set at most, which its record names;
//! - a decided set never changes; an open one has a record for each member, one in the list of
//!   the member's holder, and its snapshots in state Creating, which have their names;
//! - whoever takes, gives back or replaces what a member was asked for (its grant, its head)
//!   aborts the set in the same transaction;
//! - a set whose volumes are all at rest is sealed by the transaction that stores it.

use std::collections::BTreeSet;
use std::sync::Arc;

use lunar_proto::domain::{
    CreateSnapshots, CutAs, MemberState, NewCut, NewMember, SET_MEMBERS_MAX, SetAbort, SetMember,
    SetState, SnapshotSet, SnapshotState, VolumeState,
};
use lunar_types::{
    CommitNumber, Epoch, JournalSeq, LayerId, Name, NodeIncarnation, PoolId, SessionNumber,
    SnapshotGroupId, SnapshotId, SnapshotSetId, VolumeId,
};

use super::groups::{forget_group, put_group};
use super::layers::require_depth_left;
use super::seal::decide;
use super::snapshots::snapshot_view;
use super::standing::{Standing, standing};
use super::volumes::{find_volume, require_name_free};
use super::watermarks::Admission;
use super::{Service, foreign_outcome};
use crate::error::ServiceError;
use crate::keyspace::{
    Counter, CounterKey, Generation, KeyedTxn, NodeSetKey, Outcome, Present, SetEntry,
    SetMemberKey, SetMemberRecord, SnapshotGroupRecord, SnapshotKey, SnapshotNameKey,
    SnapshotNameRecord, SnapshotRecord, SnapshotSetKey, SnapshotSetRecord, VolumeKey, VolumeRecord,
    VolumeSnapshotKey, VolumeSnapshotRecord,
};
use crate::store::{MetaStore, Txn};

/// A reason of the service's own.
pub(super) fn abort_for(reason: &'static str, volume: Option<VolumeId>) -> SetAbort {
    SetAbort { reason: reason.parse().expect("reasons are names"), volume }
}

/// The record of a set.
pub(super) async fn load_set<T: Txn>(
    txn: &T,
    set: SnapshotSetId,
) -> Result<SnapshotSetRecord, ServiceError> {
    let record = txn.load(&SnapshotSetKey { set }).await?;
    record.ok_or(ServiceError::SetNotFound { set })
}

/// Writes that a set is decided, to be forgotten with the requests of this time.
pub(super) async fn put_decided<T: Txn>(
    txn: &T,
    set: SnapshotSetId,
    mut record: SnapshotSetRecord,
    state: SetState,
) -> Result<(), ServiceError> {
    assert!(record.state.is_open() && !state.is_open(), "a set is decided once");
    let counter = txn.load_known(&CounterKey { counter: Counter::Generation }).await?;
    record.state = state;
    record.generation = Generation::new(counter.last);
    txn.put(&SnapshotSetKey { set }, &record);
    Ok(())
}

fn order_key(node: NodeIncarnation, set: SnapshotSetId, volume: VolumeId) -> NodeSetKey {
    NodeSetKey { node: node.node, incarnation: node.incarnation, set, volume }
}

/// Takes the record of a member away, and the one in its holder's list.
pub(super) fn forget_member<T: Txn>(
    txn: &T,
    set: SnapshotSetId,
    volume: VolumeId,
    member: &SetMemberRecord,
) {
    if let Some(holder) = member.holder {
        txn.remove(&order_key(holder, set, volume));
    }
    txn.remove(&SetMemberKey { set, volume });
}

/// Takes a snapshot away that was never cut; its name is free. Gives the group that it was to be
/// in.
async fn forget_uncut<T: Txn>(
    txn: &T,
    snapshot: SnapshotId,
) -> Result<Option<SnapshotGroupId>, ServiceError> {
    let key = SnapshotKey { snapshot };
    let record = txn.load_known(&key).await?;
    if record.state != SnapshotState::Creating {
        let problem = format!("it is {} in an open set", record.state);
        return Err(ServiceError::corrupt(format!("{key:?}"), problem));
    }
    txn.remove(&VolumeSnapshotKey { volume: record.volume, snapshot });
    txn.remove(&SnapshotNameKey { name: record.name });
    txn.remove(&key);
    Ok(record.group)
}

/// Decides that an open set is not cut.
pub(super) async fn abort_set<T: Txn>(
    txn: &T,
    set: SnapshotSetId,
    mut record: SnapshotSetRecord,
    abort: SetAbort,
) -> Result<(), ServiceError> {
    let mut group = None;
    for SetEntry { volume, cut } in &record.members {
        let volume = *volume;
        let member = txn.load_known(&SetMemberKey { set, volume }).await?;
        forget_member(txn, set, volume, &member);
        let key = VolumeKey { volume };
        let mut held = txn.load_known(&key).await?;
        held.set = None;
        txn.put(&key, &held);
        if let CutAs::Snapshot(snapshot) = cut {
            group = forget_uncut(txn, *snapshot).await?;
        }
    }
    if let Some(group) = group {
        forget_group(txn, group).await?;
    }
    record.abort = Some(abort);
    put_decided(txn, set, record, SetState::Aborted).await
}

/// Aborts the open set of a volume, if it has one, also in the caller's copy of its record.
pub(super) async fn leave_set<T: Txn>(
    txn: &T,
    volume: VolumeId,
    record: &mut VolumeRecord,
    reason: &'static str,
) -> Result<(), ServiceError> {
    let Some(set) = record.set.take() else { return Ok(()) };
    let set_record = txn.load_known(&SnapshotSetKey { set }).await?;
    abort_set(txn, set, set_record, abort_for(reason, Some(volume))).await
}

/// The ids that a set takes if it is stored: its own, and one of what each member becomes.
struct SetIds {
    set: SnapshotSetId,
    group: Option<SnapshotGroupId>,
    cuts: Vec<u128>,
}

/// What every snapshot of a set says of it.
#[derive(Clone, Copy)]
struct CutIn {
    set: SnapshotSetId,
    group: Option<SnapshotGroupId>,
    created_unix_seconds: u64,
}

/// A volume that can become a member now, and how it begins.
async fn joining_member<T: Txn>(
    txn: &T,
    set: SnapshotSetId,
    index: usize,
    asked: &NewMember,
) -> Result<(VolumeId, VolumeRecord, SetMemberRecord), ServiceError> {
    let (volume, record) = find_volume(txn, &asked.volume).await?;
    if record.state != VolumeState::Ready {
        return Err(ServiceError::VolumeNotReady { volume, state: record.state });
    }
    match record.set {
        None => {}
        Some(same) if same == set => {
            let field = format!("members[{index}].volume");
            return Err(ServiceError::field(&field, "it is named twice in the set"));
        }
        Some(set) => return Err(ServiceError::VolumeBusy { volume, set }),
    }
    let (state, holder, epoch) = match standing(txn, volume).await? {
        Standing::AtRest => (MemberState::Paused, None, Epoch::default()),
        Standing::Held { attachment, oldest_stale: None } => {
            (MemberState::Asked, Some(attachment.node), attachment.epoch)
        }
        Standing::Held { oldest_stale: Some(oldest), .. } | Standing::JournalLeft(oldest) => {
            return Err(ServiceError::VolumeNotAtRest { volume, oldest });
        }
    };
    require_depth_left(txn, record.head).await?;
    let member = SetMemberRecord {
        state,
        holder,
        session: SessionNumber::default(),
        epoch,
        last_commit: CommitNumber::default(),
        checkpoint: JournalSeq::default(),
        next_head: LayerId::default(),
    };
    Ok((volume, record, member))
}

/// Writes a snapshot that is to be cut: its name is taken.
async fn put_uncut<T: Txn>(
    txn: &T,
    snapshot: SnapshotId,
    (volume, record): (VolumeId, &VolumeRecord),
    name: &Name,
    cut_in: CutIn,
) -> Result<(), ServiceError> {
    let CutIn { set, group, created_unix_seconds } = cut_in;
    let name_key = SnapshotNameKey { name: name.clone() };
    if let Some(other) = txn.load(&name_key).await? {
        let (name, snapshot) = (name.clone(), other.snapshot);
        return Err(ServiceError::SnapshotExists { name, snapshot });
    }
    let made = SnapshotRecord {
        name: name.clone(),
        volume,
        pool: record.pool,
        layer: None,
        size: record.size,
        logical_block_size: record.logical_block_size,
        set,
        created_unix_seconds,
        state: SnapshotState::Creating,
        restored: record.restored,
        content: record.content,
        group,
    };
    txn.put(&SnapshotKey { snapshot }, &made);
    txn.put(&name_key, &SnapshotNameRecord { snapshot });
    txn.put(&VolumeSnapshotKey { volume, snapshot }, &VolumeSnapshotRecord { layer: None });
    Ok(())
}

/// Makes a volume a member; gives its entry, how it begins, and its pool.
async fn join_set<T: Txn>(
    txn: &T,
    cut_in: CutIn,
    index: usize,
    asked: &NewMember,
    id: u128,
) -> Result<(SetEntry, MemberState, PoolId), ServiceError> {
    let set = cut_in.set;
    let (volume, mut record, member) = joining_member(txn, set, index, asked).await?;
    let cut = match &asked.cut {
        NewCut::Snapshot(name) => {
            let snapshot = SnapshotId::from_u128(id);
            put_uncut(txn, snapshot, (volume, &record), name, cut_in).await?;
            CutAs::Snapshot(snapshot)
        }
        NewCut::Clone(name) => {
            require_name_free(txn, name).await?;
            CutAs::Clone { volume: VolumeId::from_u128(id), name: name.clone() }
        }
    };
    record.set = Some(set);
    txn.put(&VolumeKey { volume }, &record);
    txn.put(&SetMemberKey { set, volume }, &member);
    if let Some(holder) = member.holder {
        txn.put(&order_key(holder, set, volume), &Present {});
    }
    Ok((SetEntry { volume, cut }, member.state, record.pool))
}

/// What can be said of a request without the store.
fn check_members(request: &CreateSnapshots) -> Result<(), ServiceError> {
    if request.members.is_empty() {
        return Err(ServiceError::field("members", "it is empty"));
    }
    if request.members.len() > SET_MEMBERS_MAX {
        let (what, limit) = ("members of a snapshot set", SET_MEMBERS_MAX as u64);
        return Err(ServiceError::LimitReached { what, limit });
    }
    let is_clone = |member: &NewMember| matches!(member.cut, NewCut::Clone(_));
    if request.group.is_some()
        && let Some(index) = request.members.iter().position(is_clone)
    {
        let field = format!("members[{index}].clone_name");
        return Err(ServiceError::field(&field, "a group is of snapshots, and this is a clone"));
    }
    let clone_name = |member: &NewMember| match &member.cut {
        NewCut::Clone(name) => Some(name.clone()),
        NewCut::Snapshot(_) => None,
    };
    let names: Vec<Name> = request.members.iter().filter_map(clone_name).collect();
    match names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
        None => Ok(()),
        Some((_, name)) => {
            let problem = format_args!("two clones would be named '{name}'");
            Err(ServiceError::field("members", problem))
        }
    }
}

async fn create_set<T: Txn>(
    txn: &T,
    ids: &SetIds,
    request: &CreateSnapshots,
    admission: Admission<'_>,
) -> Result<Outcome, ServiceError> {
    let SetIds { set, group, .. } = *ids;
    let cut_in = CutIn { set, group, created_unix_seconds: request.created_unix_seconds };
    let (mut members, mut pools, mut all_paused) = (Vec::new(), BTreeSet::new(), true);
    for (index, (asked, id)) in request.members.iter().zip(&ids.cuts).enumerate() {
        let (entry, state, pool) = join_set(txn, cut_in, index, asked, *id).await?;
        pools.insert(pool);
        members.push(entry);
        all_paused &= state == MemberState::Paused;
    }
    for pool in pools {
        admission.require(txn, pool).await?;
    }
    if let (Some(id), Some(name)) = (group, &request.group) {
        let made = SnapshotGroupRecord {
            name: name.clone(),
            set,
            created_unix_seconds: request.created_unix_seconds,
            members: members.iter().filter_map(SetEntry::snapshot).collect(),
        };
        put_group(txn, id, &made).await?;
    }
    let generation = txn.load_known(&CounterKey { counter: Counter::Generation }).await?.last;
    let record = SnapshotSetRecord {
        generation: Generation::new(generation),
        state: SetState::Gathering,
        abort: None,
        fsfreeze: request.fsfreeze,
        members,
    };
    if all_paused {
        decide(txn, set, record).await?;
    } else {
        txn.put(&SnapshotSetKey { set }, &record);
    }
    Ok(Outcome::SnapshotSet(set))
}

/// The set as it is told to clients.
async fn set_view<T: Txn>(txn: &T, id: SnapshotSetId) -> Result<SnapshotSet, ServiceError> {
    let record = load_set(txn, id).await?;
    let (mut snapshots, mut members) = (Vec::new(), Vec::new());
    for SetEntry { volume, cut } in record.members {
        if let CutAs::Snapshot(snapshot) = cut
            && let Some(found) = txn.load(&SnapshotKey { snapshot }).await?
        {
            snapshots.push(snapshot_view(txn, snapshot, found).await?);
        }
        let member = txn.load(&SetMemberKey { set: id, volume }).await?;
        let (node, state) = member.map_or((None, None), |it| (it.holder, Some(it.state)));
        members.push(SetMember { volume, cut, node, state });
    }
    let SnapshotSetRecord { state, abort, fsfreeze, .. } = record;
    Ok(SnapshotSet { id, snapshots, state, abort, fsfreeze, members })
}

async fn abort_asked<T: Txn>(txn: &T, set: SnapshotSetId) -> Result<(), ServiceError> {
    let record = load_set(txn, set).await?;
    match record.state {
        SetState::Gathering | SetState::Pausing => {
            abort_set(txn, set, record, abort_for("abort-asked", None)).await
        }
        SetState::Aborted => Ok(()),
        state @ SetState::Sealed => Err(ServiceError::SetDecided { set, state }),
    }
}

impl<S: MetaStore> Service<S> {
    /// Stores a set of 1 to 32 members. It is Sealed at once if no volume is attached, and
    /// Gathering otherwise.
    ///
    /// # Errors
    /// There is no such volume, it is not Ready, a journal of it waits to be replayed, or it is in
    /// another open set or twice in this one; a name is taken, also that of
    /// the group; a volume stands on too many layers;
    /// the set has no members or too many; a pool is above its critical watermark.
    pub async fn create_snapshots(
        &self,
        request: &CreateSnapshots,
    ) -> Result<SnapshotSet, ServiceError> {
        check_members(request)?;
        let cuts = request.members.iter().map(|_| self.seams.ids.next()).collect();
        let set = SnapshotSetId::from_u128(self.seams.ids.next());
        let new_group = || SnapshotGroupId::from_u128(self.seams.ids.next());
        let group = request.group.as_ref().map(|_| new_group());
        let (ids, what) = (&SetIds { set, group, cuts }, ("create snapshots", request));
        let gate = self.admission(request.over_watermark);
        let create = |txn: Arc<S::Txn>| async move { create_set(&*txn, ids, request, gate).await };
        let outcome = self.once(request.request, &what, create).await?;
        self.sets_changed();
        match outcome {
            Outcome::SnapshotSet(set) => self.snapshot_set(set).await,
            other => Err(foreign_outcome(request.request, &other)),
        }
    }

    /// A set as it is now.
    ///
    /// # Errors
    /// There is no such set, or it was decided long ago.
    pub async fn snapshot_set(&self, set: SnapshotSetId) -> Result<SnapshotSet, ServiceError> {
        self.read(|txn| async move { set_view(&*txn, set).await }).await
    }

    /// Decides that an open set is not cut; one that is aborted already is given again.
    ///
    /// # Errors
    /// There is no such set, or it is sealed.
    pub async fn abort_snapshots(&self, set: SnapshotSetId) -> Result<SnapshotSet, ServiceError> {
        self.store.transact(|txn| async move { abort_asked(&*txn, set).await }).await?;
        self.sets_changed();
        self.snapshot_set(set).await
    }
}
