//! A metadata service for tests: answers what it was told to, and keeps what it was asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use lunar_proto::domain::{
    Attachment, AttachmentSummary, DetachMode, Joined, LayerEntry, LayerPage, LeaseTimers,
    NodeState, PoolReservation, Selector,
};
use lunar_types::{
    BootId, Epoch, ExtentRun, ExtentSize, Incarnation, LayerId, LogicalExtent, Name,
    NodeIncarnation, PoolId, VolumeId,
};

use crate::metadata::{Grant, MapCommit, Metadata, MetadataError, Reply};

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
    retired: Vec<Epoch>,
    resume: VecDeque<Result<Attachment, MetadataError>>,
    detach: VecDeque<Result<(), MetadataError>>,
    detached: Vec<DetachMode>,
    heartbeat: VecDeque<Result<(NodeState, LeaseTimers), MetadataError>>,
}

impl Script {
    /// The head as the commits so far have made it, from a logical extent on.
    fn committed(&self, from: LogicalExtent) -> LayerPage {
        let mut map = BTreeMap::new();
        for update in self.commits.iter().flat_map(|commit| &commit.updates) {
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

    pub(crate) fn expect_detach(
        &self,
        answers: impl IntoIterator<Item = Result<(), MetadataError>>,
    ) {
        self.script().detach.extend(answers);
    }

    pub(crate) fn expect_heartbeat(
        &self,
        answers: impl IntoIterator<Item = Result<(NodeState, LeaseTimers), MetadataError>>,
    ) {
        self.script().heartbeat.extend(answers);
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
    fn join(&self, _: Name, _: BootId, _: Option<Incarnation>) -> Reply<'_, Joined> {
        ready(Err(unavailable()))
    }

    fn heartbeat(&self, _: NodeIncarnation) -> Reply<'_, (NodeState, LeaseTimers)> {
        ready(self.script().heartbeat.pop_front().unwrap_or(Err(unavailable())))
    }

    fn attach(&self, _: Selector<VolumeId>, _: NodeIncarnation) -> Reply<'_, Attachment> {
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

    fn retire_journal(&self, _: Grant, stale: Epoch) -> Reply<'_, ()> {
        self.script().retired.push(stale);
        ready(Ok(()))
    }

    fn list_attachments(&self, _: NodeIncarnation) -> Reply<'_, Vec<AttachmentSummary>> {
        ready(Ok(Vec::new()))
    }

    fn commit_map(&self, commit: MapCommit) -> Reply<'_, ()> {
        let mut script = self.script();
        script.commits.push(commit);
        ready(script.commit.pop_front().unwrap_or(Ok(())))
    }

    fn read_layer(&self, _: LayerId, from: LogicalExtent) -> Reply<'_, LayerPage> {
        ready(Ok(self.script().committed(from)))
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
}
