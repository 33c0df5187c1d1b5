//! The members of open sets as their holders see them: what is asked of a node, and its answers.
//!
//! Invariants:
//! - an answer states a fact and may be stated again: it changes nothing then;
//! - the barrier between Gathering and Pausing, and the cut, look at the process behind every
//!   answer: one of a process that no longer speaks for its node aborts the set;
//! - a decided set is told, never changed.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lunar_proto::domain::{
    ChangedStructure, KnownMember, MemberFailed, MemberPaused, MemberReady, MemberState, NodeNews,
    OpenMember, SetAbort, SetProgress, SetState, Vote, WATCHED_MEMBERS_MAX, WATCHED_VOLUMES_MAX,
    WatchNode,
};
use lunar_types::{Epoch, NodeSession, SnapshotSetId, VolumeId};

use super::Service;
use super::attachments::require_attachment;
use super::nodes::require_session;
use super::peers::known_peers;
use super::publications::recalls_to;
use super::seal::{decide, member_grant, sealed_head};
use super::sets::{abort_for, abort_set, load_set};
use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentRecord, KeyedTxn, NodeAttachmentKey, NodeSetKey, SetMemberKey, SetMemberRecord,
    SnapshotSetKey, SnapshotSetRecord, VolumeKey, VolumeRecord, members_of, sets_of_node,
};
use crate::store::{MetaStore, Txn};

/// The set of an answer, and the member if it is open.
struct Asked {
    set: SnapshotSetId,
    volume: VolumeId,
    record: SnapshotSetRecord,
    volume_record: VolumeRecord,
    held: AttachmentRecord,
}

impl Asked {
    /// Checks who answers, and that he was asked.
    async fn load<T: Txn>(
        txn: &T,
        caller: NodeSession,
        set: SnapshotSetId,
        (volume, epoch): (VolumeId, Epoch),
    ) -> Result<Self, ServiceError> {
        let (volume_record, held) = require_attachment(txn, volume, epoch, caller).await?;
        let record = load_set(txn, set).await?;
        if !record.members.iter().any(|entry| entry.volume == volume) {
            let problem = format_args!("it is no member of snapshot set {set}");
            return Err(ServiceError::field("volume_id", problem));
        }
        Ok(Self { set, volume, record, volume_record, held })
    }

    fn key(&self) -> SetMemberKey {
        SetMemberKey { set: self.set, volume: self.volume }
    }

    fn progress(&self) -> SetProgress {
        SetProgress { state: self.record.state, abort: self.record.abort.clone() }
    }

    async fn abort<T: Txn>(self, txn: &T, abort: SetAbort) -> Result<SetProgress, ServiceError> {
        abort_set(txn, self.set, self.record, abort.clone()).await?;
        Ok(SetProgress { state: SetState::Aborted, abort: Some(abort) })
    }

    /// The answer was given by a process that does not speak for the node any more.
    fn process_changed(&self) -> SetAbort {
        abort_for("process-changed", Some(self.volume))
    }
}

/// The first member whose holder no longer stands as it answered, or whether one has not answered.
enum Barrier {
    Closed,
    Open,
    Broken(VolumeId),
}

async fn barrier<T: Txn>(txn: &T, set: SnapshotSetId) -> Result<Barrier, ServiceError> {
    let members = txn.scan(&members_of(set), usize::from(u8::MAX)).await?;
    if members.iter().any(|(_, member)| member.state == MemberState::Asked) {
        return Ok(Barrier::Closed);
    }
    for (SetMemberKey { volume, .. }, member) in &members {
        if member_grant(txn, *volume, member).await?.is_none() {
            return Ok(Barrier::Broken(*volume));
        }
    }
    Ok(Barrier::Open)
}

/// An answer, and whether its transaction has changed the set: who waits is woken by that alone,
/// and not by an answer that is repeated while it waits.
type Told<A> = (A, bool);

/// `opens` is told when this is about to make the set Pausing: the transaction may run again, and
/// find it so.
async fn member_ready<T: Txn>(
    txn: &T,
    request: MemberReady,
    opens: &AtomicBool,
) -> Result<Told<SetProgress>, ServiceError> {
    let MemberReady { caller, set, volume, epoch } = request;
    let mut asked = Asked::load(txn, caller, set, (volume, epoch)).await?;
    if !asked.record.state.is_open() {
        return Ok((asked.progress(), false));
    }
    let key = asked.key();
    let member = txn.load_known(&key).await?;
    match member.state {
        MemberState::Asked => {
            let (state, session) = (MemberState::Ready, caller.number);
            txn.put(&key, &SetMemberRecord { state, session, ..member });
        }
        MemberState::Ready | MemberState::Paused if member.session == caller.number => {
            return Ok((asked.progress(), false));
        }
        MemberState::Ready | MemberState::Paused => {
            let abort = asked.process_changed();
            return Ok((asked.abort(txn, abort).await?, true));
        }
    }
    match barrier(txn, set).await? {
        Barrier::Closed => {}
        Barrier::Broken(volume) => {
            let abort = abort_for("member-changed", Some(volume));
            return Ok((asked.abort(txn, abort).await?, true));
        }
        Barrier::Open => {
            opens.store(true, Ordering::Relaxed);
            asked.record.state = SetState::Pausing;
            txn.put(&SnapshotSetKey { set }, &asked.record);
        }
    }
    Ok((asked.progress(), true))
}

async fn member_failed<T: Txn>(
    txn: &T,
    request: &MemberFailed,
) -> Result<SetProgress, ServiceError> {
    let MemberFailed { caller, set, volume, epoch, why } = request;
    let asked = Asked::load(txn, *caller, *set, (*volume, *epoch)).await?;
    if !asked.record.state.is_open() {
        return Ok(asked.progress());
    }
    let abort = SetAbort { reason: why.clone(), volume: Some(*volume) };
    asked.abort(txn, abort).await
}

/// Checks what a vote says of its grant.
fn check_vote(asked: &Asked, request: &MemberPaused) -> Result<(), ServiceError> {
    let Asked { volume_record, held, .. } = asked;
    let MemberPaused { volume, epoch, .. } = *request;
    if request.next_head != held.next_head {
        let (head, held, given) = (volume_record.head, held.next_head, request.next_head);
        return Err(ServiceError::NextHeadMismatch { volume, head, held, given });
    }
    let (last, given) = (held.last_commit, request.last_commit);
    if last != given {
        return Err(ServiceError::CommitOutOfOrder { volume, epoch, last, given });
    }
    let (stored, given) = (held.checkpoint, request.checkpoint);
    if given < stored {
        return Err(ServiceError::CheckpointRegression { volume, epoch, stored, given });
    }
    Ok(())
}

/// The answer to a vote for a set that is decided.
fn decided(asked: &Asked, request: &MemberPaused) -> Result<Vote, ServiceError> {
    if let Some(abort) = &asked.record.abort {
        return Ok(Vote::Aborted(abort.clone()));
    }
    let (volume, head) = (asked.volume, asked.volume_record.head);
    if head == request.next_head {
        return Ok(Vote::Sealed(sealed_head(&asked.volume_record, &asked.held)));
    }
    let (held, given) = (asked.held.next_head, request.next_head);
    Err(ServiceError::NextHeadMismatch { volume, head, held, given })
}

/// `are_all_paused` says so of those who have voted before.
async fn member_paused<T: Txn>(
    txn: &T,
    request: &MemberPaused,
    are_all_paused: impl Fn() -> bool,
) -> Result<Told<Vote>, ServiceError> {
    let MemberPaused { caller, set, volume, epoch, .. } = *request;
    let asked = Asked::load(txn, caller, set, (volume, epoch)).await?;
    match asked.record.state {
        SetState::Sealed | SetState::Aborted => return Ok((decided(&asked, request)?, false)),
        SetState::Pausing => check_vote(&asked, request)?,
        SetState::Gathering => {
            let problem = "the set is Gathering: a member votes when all are ready";
            return Err(ServiceError::field("set_id", problem));
        }
    }
    let key = asked.key();
    let member = txn.load_known(&key).await?;
    if member.session != caller.number {
        let abort = asked.process_changed();
        asked.abort(txn, abort.clone()).await?;
        return Ok((Vote::Aborted(abort), true));
    }
    let MemberPaused { last_commit, checkpoint, next_head, .. } = *request;
    let state = MemberState::Paused;
    let vote = SetMemberRecord { state, last_commit, checkpoint, next_head, ..member.clone() };
    if member.state == MemberState::Paused && vote != member {
        let problem = "it is not the one that this process has voted with";
        return Err(ServiceError::field("checkpoint_seq", problem));
    }
    if vote == member {
        return Ok((Vote::Waiting, false));
    }
    txn.put(&key, &vote);
    let members = txn.scan(&members_of(set), usize::from(u8::MAX)).await?;
    if members.iter().any(|(_, member)| member.state != MemberState::Paused) {
        return Ok((Vote::Waiting, true));
    }
    // A vote proves that nobody else changed the head since, not that its guest still waits.
    let is_held = |(_, member): &&(_, SetMemberRecord)| member.holder.is_some();
    if members.iter().filter(is_held).count() > 1 && !are_all_paused() {
        let abort = abort_for("pausing-timeout", Some(volume));
        asked.abort(txn, abort.clone()).await?;
        return Ok((Vote::Aborted(abort), true));
    }
    decide(txn, set, asked.record).await?;
    let after = Asked::load(txn, caller, set, (volume, epoch)).await?;
    Ok((decided(&after, request)?, true))
}

async fn open_members<T: Txn>(
    txn: &T,
    caller: NodeSession,
) -> Result<Vec<OpenMember>, ServiceError> {
    let range = sets_of_node(caller.node.node, caller.node.incarnation);
    let mut sets: BTreeMap<SnapshotSetId, SnapshotSetRecord> = BTreeMap::new();
    let mut members = Vec::new();
    for (NodeSetKey { set, volume, .. }, _) in txn.scan(&range, WATCHED_MEMBERS_MAX).await? {
        let record = match sets.entry(set) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                unknown.insert(txn.load_known(&SnapshotSetKey { set }).await?)
            }
        };
        let (set_state, fsfreeze) = (record.state, record.fsfreeze);
        let SetMemberRecord { state, epoch, .. } =
            txn.load_known(&SetMemberKey { set, volume }).await?;
        let member = KnownMember { set, volume, set_state, state };
        members.push(OpenMember { member, epoch, fsfreeze });
    }
    Ok(members)
}

async fn node_news<T: Txn>(txn: &T, request: &WatchNode) -> Result<NodeNews, ServiceError> {
    let caller = request.caller;
    require_session(txn, caller).await?;
    let members = open_members(txn, caller).await?;
    let mut structures = Vec::new();
    for known in &request.structures {
        let volume = known.volume;
        let (node, incarnation) = (caller.node.node, caller.node.incarnation);
        let held = NodeAttachmentKey { node, incarnation, volume };
        if txn.load(&held).await?.is_none() {
            continue;
        }
        let structure = txn.load_known(&VolumeKey { volume }).await?.structure;
        if structure != known.structure {
            structures.push(ChangedStructure { volume, structure });
        }
    }
    Ok(NodeNews { members, structures, fences: Vec::new(), peers: Vec::new(), recalls: Vec::new() })
}

impl<S: MetaStore> Service<S> {
    /// What there is for a node to do, as it is now: see [`NodeNews::is_news_to`].
    ///
    /// # Errors
    /// The incarnation is gone, a later process speaks for it, or the lists are too long.
    pub async fn watch_node(&self, request: &WatchNode) -> Result<NodeNews, ServiceError> {
        for (field, count, most) in [
            ("structures", request.structures.len(), WATCHED_VOLUMES_MAX),
            ("members", request.members.len(), WATCHED_MEMBERS_MAX),
        ] {
            if count > most {
                let problem = format_args!("{count} are beyond {most}");
                return Err(ServiceError::field(field, problem));
            }
        }
        self.read(|txn| async move {
            let news = node_news(&*txn, request).await?;
            let heard = (&self.wishes, self.seams.clock.now());
            let node = request.caller.node;
            let peers = known_peers(&*txn, node, heard, WATCHED_VOLUMES_MAX).await?;
            let fences = self.orders_for(&*txn, request.caller).await?;
            let recalls = recalls_to(&*txn, node, WATCHED_VOLUMES_MAX).await?;
            Ok(NodeNews { fences, peers, recalls, ..news })
        })
        .await
    }

    /// Takes down that a member is warmed up; when all are, the set is Pausing.
    ///
    /// # Errors
    /// The grant is over, a later process speaks for the node, there is no such set, or the volume
    /// is no member of it.
    pub async fn member_ready(&self, request: MemberReady) -> Result<SetProgress, ServiceError> {
        let before = self.seams.clock.now();
        let opens = AtomicBool::new(false);
        let opens = &opens;
        let ready = |txn: Arc<S::Txn>| async move { member_ready(&*txn, request, opens).await };
        let (progress, is_changed) = self.store.transact(ready).await?;
        if opens.load(Ordering::Relaxed) && progress.state == SetState::Pausing {
            self.sets.pauses(request.set, before);
        }
        if is_changed {
            self.sets_changed();
        }
        Ok(progress)
    }

    /// Aborts an open set because a member cannot be cut.
    ///
    /// # Errors
    /// As [`Service::member_ready`].
    pub async fn member_failed(&self, request: &MemberFailed) -> Result<SetProgress, ServiceError> {
        let fail = |txn: Arc<S::Txn>| async move { member_failed(&*txn, request).await };
        let progress = self.store.transact(fail).await?;
        self.sets_changed();
        Ok(progress)
    }

    /// Takes a vote down; the last one decides the set. The same vote again is answered with what
    /// has become of it.
    ///
    /// # Errors
    /// As [`Service::member_ready`]; the set is still Gathering; the last commit or the next head
    /// are not those of the grant, the checkpoint would fall, or the process has voted otherwise.
    pub async fn member_paused(&self, request: &MemberPaused) -> Result<Vote, ServiceError> {
        let are_all_paused = || self.sets.are_all_paused(request.set, self.seams.clock.now());
        let pause =
            |txn: Arc<S::Txn>| async move { member_paused(&*txn, request, are_all_paused).await };
        let (vote, is_changed) = self.store.transact(pause).await?;
        if is_changed {
            self.sets_changed();
        }
        Ok(vote)
    }
}
