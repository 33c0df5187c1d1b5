//! A metadata service for tests: answers what it was told to, and keeps what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use lunar_proto::domain::{
    Attachment, AttachmentSummary, ContentState, DetachMode, FenceAttempt, FenceOrder, FenceProof,
    Joined, LayerEntry, LayerPage, LayerSealed, NodeNews, NodeState, Ownership, OwnershipWish,
    Pool, PoolReservation, PrunedParts, Renewed, Selector, SetProgress, Volume, Vote,
    WatermarkLevel,
};
use lunar_types::{
    BootId, Epoch, ExtentRun, ExtentSize, FormatToken, Freed, LayerId, LogicalExtent, LunId, Name,
    NodeIncarnation, PoolId, SnapshotSetId, VolumeId,
};

use crate::metadata::{
    Ballot, Former, Grant, Known, MapCommit, Metadata, MetadataError, Prune, Release, Reply, Seal,
    Terms,
};

/// What a service that is away looks like.
pub(crate) fn unavailable() -> MetadataError {
    MetadataError::Unavailable {
        endpoint: "http://127.0.0.1:1".to_owned(),
        problem: "connection refused".to_owned(),
    }
}

#[derive(Default)]
struct Script {
    reserve: VecDeque<Result<Vec<ExtentRun>, MetadataError>>,
    reserve_counts: Vec<u32>,
    release: VecDeque<Result<(), MetadataError>>,
    released: Vec<ExtentRun>,
    commits: Vec<MapCommit>,
    commit: VecDeque<Result<(), MetadataError>>,
    freed: Freed,
    retired: Vec<Epoch>,
    resume: VecDeque<Result<Attachment, MetadataError>>,
    detach: VecDeque<Result<(), MetadataError>>,
    detached: Vec<DetachMode>,
    heartbeat: VecDeque<Result<Renewed, MetadataError>>,
    member_ready: VecDeque<Result<SetProgress, MetadataError>>,
    member_failed: VecDeque<Result<SetProgress, MetadataError>>,
    failures: Vec<&'static str>,
    vote: VecDeque<Result<Vote, MetadataError>>,
    ballots: Vec<Ballot>,
    seal: VecDeque<Result<LayerSealed, MetadataError>>,
    seals: Vec<Seal>,
    prune: VecDeque<Result<PrunedParts, MetadataError>>,
    prunes: Vec<Prune>,
    levels: VecDeque<Result<WatermarkLevel, MetadataError>>,
    lists: VecDeque<Result<Vec<AttachmentSummary>, MetadataError>>,
    news: VecDeque<NodeNews>,
    gone: Vec<NodeIncarnation>,
    intend: VecDeque<Result<(), MetadataError>>,
    confirm: VecDeque<Result<(), MetadataError>>,
    attempts: VecDeque<Result<FenceAttempt, MetadataError>>,
    ownership: VecDeque<Result<Ownership, MetadataError>>,
    release_ownership: VecDeque<Result<(), MetadataError>>,
    leave: VecDeque<Result<(), MetadataError>>,
    said: Vec<Said>,
}

/// What was said about registrations, fences and peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Intend(LunId),
    Confirm(LunId, u32),
    Activate(Vec<LunId>),
    BeginFence(FenceOrder),
    EndFence(FenceOrder, u32, FenceProof),
    Ask(OwnershipWish),
    Release(Release),
    Leave(VolumeId),
    Use(Grant),
}

impl Script {
    /// A layer as the commits so far have made it, from a logical extent on.
    fn committed(&self, layer: LayerId, from: LogicalExtent) -> LayerPage {
        let mut map = BTreeMap::new();
        let commits = self.commits.iter().filter(|commit| commit.layer == layer);
        for update in commits.flat_map(|commit| &commit.updates) {
            match &update.slot {
                Some(slot) => map.insert(update.at, slot.clone()),
                None => map.remove(&update.at),
            };
        }
        let extent_size = self.commits.last().map_or(ExtentSize::DEFAULT, |one| one.extent_size);
        let entry = |(at, slot)| LayerEntry { at, own: Some(slot), parts: Vec::new() };
        let entries = map.split_off(&from).into_iter().map(entry).collect();
        LayerPage { entries, next: None, extent_size }
    }
}

/// The service.
#[derive(Default)]
pub(crate) struct FakeMetadata(Mutex<Script>);

impl FakeMetadata {
    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.0.lock().expect("not poisoned")
    }

    pub(crate) fn expect_reserve(
        &self,
        answers: impl IntoIterator<Item = Result<Vec<ExtentRun>, MetadataError>>,
    ) {
        self.script().reserve.extend(answers);
    }

    pub(crate) fn expect_release(
        &self,
        answers: impl IntoIterator<Item = Result<(), MetadataError>>,
    ) {
        self.script().release.extend(answers);
    }

    pub(crate) fn expect_commit(
        &self,
        answers: impl IntoIterator<Item = Result<(), MetadataError>>,
    ) {
        self.script().commit.extend(answers);
    }

    pub(crate) fn expect_resume(
        &self,
        answers: impl IntoIterator<Item = Result<Attachment, MetadataError>>,
    ) {
        self.script().resume.extend(answers);
    }

    pub(crate) fn expect_news(&self, answers: impl IntoIterator<Item = NodeNews>) {
        self.script().news.extend(answers);
    }

    pub(crate) fn expect_lists(
        &self,
        answers: impl IntoIterator<Item = Result<Vec<AttachmentSummary>, MetadataError>>,
    ) {
        self.script().lists.extend(answers);
    }

    pub(crate) fn lists_left(&self) -> usize {
        self.script().lists.len()
    }

    pub(crate) fn expect_levels(
        &self,
        answers: impl IntoIterator<Item = Result<WatermarkLevel, MetadataError>>,
    ) {
        self.script().levels.extend(answers);
    }

    pub(crate) fn expect_detach(
        &self,
        answers: impl IntoIterator<Item = Result<(), MetadataError>>,
    ) {
        self.script().detach.extend(answers);
    }

    pub(crate) fn expect_heartbeat(
        &self,
        answers: impl IntoIterator<Item = Result<Renewed, MetadataError>>,
    ) {
        self.script().heartbeat.extend(answers);
    }

    pub(crate) fn expect_ready(
        &self,
        answers: impl IntoIterator<Item = Result<SetProgress, MetadataError>>,
    ) {
        self.script().member_ready.extend(answers);
    }

    pub(crate) fn expect_failed(
        &self,
        answers: impl IntoIterator<Item = Result<SetProgress, MetadataError>>,
    ) {
        self.script().member_failed.extend(answers);
    }

    pub(crate) fn expect_vote(
        &self,
        answers: impl IntoIterator<Item = Result<Vote, MetadataError>>,
    ) {
        self.script().vote.extend(answers);
    }

    pub(crate) fn expect_seal(
        &self,
        answers: impl IntoIterator<Item = Result<LayerSealed, MetadataError>>,
    ) {
        self.script().seal.extend(answers);
    }

    pub(crate) fn expect_prune(
        &self,
        answers: impl IntoIterator<Item = Result<PrunedParts, MetadataError>>,
    ) {
        self.script().prune.extend(answers);
    }

    pub(crate) fn prunes(&self) -> Vec<Prune> {
        self.script().prunes.clone()
    }

    pub(crate) fn ballots(&self) -> Vec<Ballot> {
        self.script().ballots.clone()
    }

    pub(crate) fn seals(&self) -> Vec<Seal> {
        self.script().seals.clone()
    }

    pub(crate) fn failures(&self) -> Vec<&'static str> {
        self.script().failures.clone()
    }

    pub(crate) fn expect_ownership(
        &self,
        answers: impl IntoIterator<Item = Result<Ownership, MetadataError>>,
    ) {
        self.script().ownership.extend(answers);
    }

    pub(crate) fn expect_release_ownership(
        &self,
        answers: impl IntoIterator<Item = Result<(), MetadataError>>,
    ) {
        self.script().release_ownership.extend(answers);
    }

    pub(crate) fn expect_leave(
        &self,
        answers: impl IntoIterator<Item = Result<(), MetadataError>>,
    ) {
        self.script().leave.extend(answers);
    }

    pub(crate) fn set_gone(&self, gone: Vec<NodeIncarnation>) {
        self.script().gone = gone;
    }

    pub(crate) fn expect_confirm(
        &self,
        answers: impl IntoIterator<Item = Result<(), MetadataError>>,
    ) {
        self.script().confirm.extend(answers);
    }

    pub(crate) fn expect_attempts(
        &self,
        answers: impl IntoIterator<Item = Result<FenceAttempt, MetadataError>>,
    ) {
        self.script().attempts.extend(answers);
    }

    pub(crate) fn said(&self) -> Vec<Said> {
        self.script().said.clone()
    }

    pub(crate) fn heartbeats_left(&self) -> usize {
        self.script().heartbeat.len()
    }

    pub(crate) fn reserve_counts(&self) -> Vec<u32> {
        self.script().reserve_counts.clone()
    }

    pub(crate) fn released(&self) -> Vec<ExtentRun> {
        self.script().released.clone()
    }

    pub(crate) fn commits(&self) -> Vec<MapCommit> {
        self.script().commits.clone()
    }

    pub(crate) fn retired(&self) -> Vec<Epoch> {
        self.script().retired.clone()
    }

    pub(crate) fn detached(&self) -> Vec<DetachMode> {
        self.script().detached.clone()
    }
}

fn ready<'a, T: Send + 'a>(answer: Result<T, MetadataError>) -> Reply<'a, T> {
    Box::pin(async move { answer })
}

impl Metadata for FakeMetadata {
    fn join(&self, _: Name, _: BootId, _: Former) -> Reply<'_, Joined> {
        ready(Err(unavailable()))
    }

    fn heartbeat(&self, _: NodeIncarnation) -> Reply<'_, Renewed> {
        ready(self.script().heartbeat.pop_front().unwrap_or(Err(unavailable())))
    }

    fn list_pools(&self) -> Reply<'_, Vec<Pool>> {
        ready(Ok(Vec::new()))
    }

    fn intend_registrations(&self, _: NodeIncarnation, luns: Vec<LunId>) -> Reply<'_, ()> {
        let mut script = self.script();
        script.said.extend(luns.into_iter().map(Said::Intend));
        ready(script.intend.pop_front().unwrap_or(Ok(())))
    }

    fn confirm_registration(&self, _: NodeIncarnation, lun: LunId, paths: u32) -> Reply<'_, ()> {
        let mut script = self.script();
        script.said.push(Said::Confirm(lun, paths));
        ready(script.confirm.pop_front().unwrap_or(Ok(())))
    }

    fn activate(&self, _: NodeIncarnation, unseen: Vec<LunId>) -> Reply<'_, NodeState> {
        self.script().said.push(Said::Activate(unseen));
        ready(Ok(NodeState::Active))
    }

    fn judge_keys(
        &self,
        _: NodeIncarnation,
        seen: Vec<NodeIncarnation>,
    ) -> Reply<'_, Vec<NodeIncarnation>> {
        let script = self.script();
        ready(Ok(seen.into_iter().filter(|one| script.gone.contains(one)).collect()))
    }

    fn begin_fence_lun(&self, _: NodeIncarnation, order: FenceOrder) -> Reply<'_, FenceAttempt> {
        let mut script = self.script();
        script.said.push(Said::BeginFence(order));
        ready(script.attempts.pop_front().unwrap_or(Err(unavailable())))
    }

    fn end_fence_lun(
        &self,
        _: NodeIncarnation,
        order: FenceOrder,
        (attempt, proof): (u32, FenceProof),
    ) -> Reply<'_, NodeState> {
        self.script().said.push(Said::EndFence(order, attempt, proof));
        ready(Ok(NodeState::Fenced))
    }

    fn attach(&self, _: Selector<VolumeId>, _: NodeIncarnation, _: Terms) -> Reply<'_, Attachment> {
        ready(Err(unavailable()))
    }

    fn resume_attachment(&self, _: Grant) -> Reply<'_, Attachment> {
        ready(self.script().resume.pop_front().unwrap_or(Err(unavailable())))
    }

    fn detach(&self, _: Grant, mode: DetachMode) -> Reply<'_, ()> {
        let mut script = self.script();
        script.detached.push(mode);
        ready(script.detach.pop_front().unwrap_or(Ok(())))
    }

    fn add_peer(&self, _: Selector<VolumeId>, _: NodeIncarnation, _: Terms) -> Reply<'_, Volume> {
        ready(Err(unavailable()))
    }

    fn request_ownership(
        &self,
        _: VolumeId,
        _: NodeIncarnation,
        wish: OwnershipWish,
        _: Duration,
    ) -> Reply<'_, Ownership> {
        let mut script = self.script();
        script.said.push(Said::Ask(wish));
        ready(script.ownership.pop_front().unwrap_or(Err(unavailable())))
    }

    fn release_ownership(&self, release: Release) -> Reply<'_, ()> {
        let mut script = self.script();
        script.said.push(Said::Release(release));
        ready(script.release_ownership.pop_front().unwrap_or(Ok(())))
    }

    fn leave_peers(&self, volume: VolumeId, _: NodeIncarnation) -> Reply<'_, ()> {
        let mut script = self.script();
        script.said.push(Said::Leave(volume));
        ready(script.leave.pop_front().unwrap_or(Ok(())))
    }

    fn content(&self, _: Grant) -> Reply<'_, ContentState> {
        ready(Err(unavailable()))
    }

    fn begin_format(&self, _: Grant, _: FormatToken) -> Reply<'_, ()> {
        ready(Err(unavailable()))
    }

    fn end_format(&self, _: Grant, _: FormatToken) -> Reply<'_, ()> {
        ready(Err(unavailable()))
    }

    fn use_content(&self, grant: Grant) -> Reply<'_, ()> {
        self.script().said.push(Said::Use(grant));
        ready(Ok(()))
    }

    fn retire_journal(&self, _: Grant, stale: Epoch) -> Reply<'_, ()> {
        self.script().retired.push(stale);
        ready(Ok(()))
    }

    fn pool_level(&self, _: PoolId) -> Reply<'_, WatermarkLevel> {
        ready(self.script().levels.pop_front().unwrap_or(Err(unavailable())))
    }

    fn list_attachments(&self, _: NodeIncarnation) -> Reply<'_, Vec<AttachmentSummary>> {
        ready(self.script().lists.pop_front().unwrap_or(Ok(Vec::new())))
    }

    fn commit_map(&self, commit: MapCommit) -> Reply<'_, Freed> {
        let mut script = self.script();
        script.commits.push(commit);
        let (freed, next) = (script.freed, script.commit.pop_front());
        ready(next.unwrap_or(Ok(())).map(|()| freed))
    }

    fn read_layer(&self, layer: LayerId, from: LogicalExtent) -> Reply<'_, LayerPage> {
        ready(Ok(self.script().committed(layer, from)))
    }

    fn reserve(&self, _: NodeIncarnation, _: PoolId, count: u32) -> Reply<'_, Vec<ExtentRun>> {
        let mut script = self.script();
        script.reserve_counts.push(count);
        ready(script.reserve.pop_front().expect("the test expects this call"))
    }

    fn release(&self, _: NodeIncarnation, _: PoolId, runs: Vec<ExtentRun>) -> Reply<'_, ()> {
        let mut script = self.script();
        script.released.extend(runs);
        ready(script.release.pop_front().unwrap_or(Ok(())))
    }

    fn list_reservations(&self, _: NodeIncarnation) -> Reply<'_, Vec<PoolReservation>> {
        ready(Ok(Vec::new()))
    }

    fn watch(&self, _: NodeIncarnation, _: Known) -> Reply<'_, NodeNews> {
        ready(self.script().news.pop_front().ok_or_else(unavailable))
    }

    fn member_ready(&self, _: Grant, _: SnapshotSetId) -> Reply<'_, SetProgress> {
        ready(self.script().member_ready.pop_front().unwrap_or(Err(unavailable())))
    }

    fn member_failed(
        &self,
        _: Grant,
        _: SnapshotSetId,
        why: &'static str,
    ) -> Reply<'_, SetProgress> {
        let mut script = self.script();
        script.failures.push(why);
        ready(script.member_failed.pop_front().unwrap_or(Err(unavailable())))
    }

    fn vote(&self, _: Grant, ballot: Ballot, _: Duration) -> Reply<'_, Vote> {
        let mut script = self.script();
        script.ballots.push(ballot);
        ready(script.vote.pop_front().unwrap_or(Err(unavailable())))
    }

    fn seal_layer(&self, seal: Seal) -> Reply<'_, LayerSealed> {
        let mut script = self.script();
        script.seals.push(seal);
        ready(script.seal.pop_front().unwrap_or(Err(unavailable())))
    }

    fn prune(&self, prune: Prune) -> Reply<'_, PrunedParts> {
        let mut script = self.script();
        script.prunes.push(prune);
        ready(script.prune.pop_front().unwrap_or(Err(unavailable())))
    }
}
