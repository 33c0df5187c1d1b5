//! The control task of a volume: reserve, rounds and commits, as the engine asks for them.
//!
//! Invariants:
//! - one piece of work is under way at a time, whoever drives; none once the volume is at rest for
//!   good, because another engine may serve it by then;
//! - while it is not known whether a head was sealed, nothing is committed ([`super::cut`]);
//! - commits of the grant are numbered without a gap: until one is answered, the engine asks for
//!   the same again, and it is sent again under its number and its request id;
//! - while the metadata service is away the work is tried again and again, and I/O to mapped
//!   extents goes on;
//! - the blocking I/O of a round runs on a thread that may block.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lunar_engine::io::Action;
use lunar_engine::volume::{CommitBatch, ControlWork, QueueContext, WorkDone, blocking};
use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::SlotUpdate;
use lunar_types::{ExtentRun, Freed, JournalSeq, RequestId};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::consolidate::CopyDesk;
use super::cut::CutLimits;
use super::pace::Pace;
use super::prune::{self, Pruning};
use super::served::ServedVolume;
use crate::lun::set::{LunOpener, LunSetError};
use crate::metadata::{MapCommit, Metadata, MetadataError};
use crate::queue::server::wake_up;
use crate::reserve::{Refill, ReserveDesk, runs_of};

/// How often the engine is asked without having called.
const TICK: Duration = Duration::from_millis(200);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long a search for new LUNs may keep the control task.
const SEARCH_LIMIT: Duration = Duration::from_secs(5);

/// A checkpoint did not come about.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The metadata service is away.
    #[error("the map of volume '{volume}' cannot be committed")]
    Unavailable {
        /// The volume.
        volume: String,
        /// How it is away.
        #[source]
        source: MetadataError,
    },
    /// An earlier flush or commit failed.
    #[error("volume '{volume}' takes no more writes: {why}")]
    Poisoned {
        /// The volume.
        volume: String,
        /// What failed.
        why: String,
    },
}

/// New LUNs of the pool cannot be used.
#[derive(Debug, thiserror::Error)]
enum GrowthError {
    #[error("which LUNs the pool has cannot be learned: {0}")]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Luns(#[from] LunSetError),
    #[error("the search for it has not ended: a block device of this host does not answer")]
    Searching,
}

/// How far driving came.
#[derive(Debug)]
pub(super) enum Progress {
    Idle,
    Unavailable(MetadataError),
}

/// Drives one volume.
pub struct Control {
    pub(super) served: Arc<ServedVolume>,
    pub(super) metadata: Arc<dyn Metadata>,
    desk: Arc<ReserveDesk>,
    luns: Arc<LunOpener>,
    pub(super) queue: Arc<Mutex<QueueContext>>,
    pub(super) driver: tokio::sync::Mutex<()>,
    /// A commit whose answer is not known: tried again, it is the same request.
    unanswered: Mutex<Option<(CommitBatch, RequestId)>>,
    /// The last search for new LUNs, which may still be under way.
    search: tokio::sync::Mutex<Option<JoinHandle<Result<(), LunSetError>>>>,
    started: Instant,
    /// What is given back of what the head hides.
    pub(super) pruning: tokio::sync::Mutex<Pruning>,
    /// How much was written of late.
    pub(super) pace: Pace,
    /// What its copies share with other volumes'; none are made without.
    pub copies: Option<Arc<CopyDesk>>,
    /// How long a snapshot may keep others waiting.
    pub limits: CutLimits,
    /// Nothing is driven any more.
    is_over: AtomicBool,
}

impl Control {
    /// The control side of a volume. Its queues may be stopped, or not be started yet.
    #[must_use]
    pub fn new(
        served: Arc<ServedVolume>,
        metadata: Arc<dyn Metadata>,
        desk: Arc<ReserveDesk>,
        luns: Arc<LunOpener>,
    ) -> Self {
        let queue = Arc::new(Mutex::new(served.shared.volume.control_queue()));
        let driver = tokio::sync::Mutex::new(());
        let (unanswered, started) = (Mutex::default(), Instant::now());
        let search = tokio::sync::Mutex::default();
        Self {
            served,
            metadata,
            desk,
            luns,
            queue,
            driver,
            unanswered,
            search,
            started,
            pruning: tokio::sync::Mutex::default(),
            pace: Pace::default(),
            copies: None,
            limits: CutLimits::default(),
            is_over: AtomicBool::new(false),
        }
    }

    pub(super) fn name(&self) -> String {
        self.served.facts.name.to_string()
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn wake(&self, out: &mut Vec<Action>) {
        for action in out.drain(..) {
            wake_up(&self.served.shared, &action);
        }
    }

    /// Works until told to stop.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        let mut backoff = BACKOFF_MIN;
        let mut is_poison_told = false;
        while !*stop.borrow() {
            self.pace.note(Instant::now(), self.served.shared.writes());
            let pause = match self.drive().await {
                Progress::Idle => {
                    self.prune().await;
                    self.trim_reserve().await;
                    self.consolidate().await;
                    backoff = BACKOFF_MIN;
                    TICK
                }
                Progress::Unavailable(problem) => {
                    warn!(volume = self.name(), %problem, "waiting for the metadata service");
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    backoff
                }
            };
            if !is_poison_told && let Some(why) = self.served.shared.volume.poison() {
                error!(volume = self.name(), why, "volume poisoned: it takes no more writes");
                is_poison_told = true;
            }
            let is_waiting = pause > TICK;
            tokio::select! {
                () = self.served.shared.control.notified(), if !is_waiting => {}
                () = tokio::time::sleep(pause) => {}
                _ = stop.changed() => {}
            }
        }
    }

    async fn prune(&self) {
        let _driver = self.driver.lock().await;
        self.prune_locked(prune::PAUSE).await;
    }

    /// Does everything that the engine has to be done.
    pub(super) async fn drive(&self) -> Progress {
        let _driver = self.driver.lock().await;
        self.drive_locked().await
    }

    /// As [`Control::drive`], for who has the driver's lock. It must not be cut off: the engine
    /// waits for the end of what it has asked for.
    pub(super) async fn drive_locked(&self) -> Progress {
        if self.is_over.load(Ordering::Relaxed) {
            let why = "it is not served by this fs-core any more".to_owned();
            return Progress::Unavailable(MetadataError::Malformed(why));
        }
        let mut out = Vec::new();
        match self.seal_pending().await {
            Ok(()) => {}
            Err(problem) if problem.is_unavailable() => return Progress::Unavailable(problem),
            Err(problem) => self.give_up(&problem.to_string()),
        }
        loop {
            let work = self.served.shared.volume.next_work(self.now(), &mut out);
            self.wake(&mut out);
            let done = match work {
                None => return Progress::Idle,
                Some(ControlWork::Round) => {
                    self.round().await;
                    continue;
                }
                Some(ControlWork::Reserve { count }) => self.reserve(count).await,
                Some(ControlWork::Commit(batch)) => self.commit(batch).await,
            };
            let (done, problem) = done;
            self.served.shared.volume.work_done(done, self.now(), &mut out);
            self.wake(&mut out);
            if let Some(problem) = problem {
                return Progress::Unavailable(problem);
            }
        }
    }

    /// Runs a round: flushes what was written and journals what is dirty.
    pub async fn round(&self) {
        let (served, queue) = (Arc::clone(&self.served), Arc::clone(&self.queue));
        let wakes = tokio::task::spawn_blocking(move || {
            let mut wakes = Vec::new();
            let mut queue = queue.lock().expect("a panic ends the process");
            blocking::run_round(&served.shared.volume, &mut queue, &served.luns, &mut wakes);
            wakes
        });
        let mut wakes = wakes.await.expect("a round neither panics nor is cancelled");
        self.wake(&mut wakes);
    }

    async fn reserve(&self, count: u32) -> (WorkDone, Option<MetadataError>) {
        let node = self.served.facts.grant.node;
        match self.desk.refill(node, &*self.served, count).await {
            Refill::Extents(runs) => self.usable(runs).await,
            Refill::PoolFull => {
                self.prune_locked(prune::PAUSE_WHEN_FULL).await;
                (WorkDone::PoolFull, None)
            }
            Refill::Unavailable(problem) => (WorkDone::Unavailable, Some(problem)),
            Refill::Refused(problem) => (WorkDone::Rejected(problem.to_string()), None),
        }
    }

    /// Opens the LUNs that were added to the pool since this volume was loaded, if the extents are
    /// on any. What lies on a LUN that cannot be opened goes back.
    async fn usable(&self, runs: Vec<ExtentRun>) -> (WorkDone, Option<MetadataError>) {
        let table = self.served.luns.table();
        let is_known = |run: &ExtentRun| run.iter().all(|at| table.contains(at));
        if runs.iter().all(is_known) {
            return (WorkDone::Reserved(runs), None);
        }
        if let Err(problem) = self.open_new_luns().await {
            warn!(
                volume = self.name(), %problem,
                "a LUN that was added to the pool cannot be used on this node"
            );
        }
        let (known, unknown): (Vec<_>, Vec<_>) = runs.into_iter().partition(is_known);
        let facts = &self.served.facts;
        // What cannot be given back now stays reserved until the next start; nothing is lost.
        let released = self.desk.release(facts.grant.node, facts.pool, unknown).await;
        match (known.is_empty(), released) {
            (false, _) => (WorkDone::Reserved(known), None),
            (true, Ok(())) => (WorkDone::PoolFull, None),
            (true, Err(problem)) => (WorkDone::Unavailable, Some(problem)),
        }
    }

    /// One search at a time, and not for longer than [`SEARCH_LIMIT`]: it reads labels, and a
    /// device that hangs must not keep this volume's checkpoints waiting.
    async fn open_new_luns(&self) -> Result<(), GrowthError> {
        let mut search = self.search.lock().await;
        if let Some(begun) = &*search
            && !begun.is_finished()
        {
            return Err(GrowthError::Searching);
        }
        let attachment = self.metadata.resume_attachment(self.served.facts.grant).await?;
        let (opener, luns) = (Arc::clone(&self.luns), self.served.luns.clone());
        let begun = search
            .insert(tokio::task::spawn_blocking(move || opener.extend(&luns, &attachment.pool)));
        let opened = tokio::time::timeout(SEARCH_LIMIT, begun).await;
        let opened = opened.map_err(|_| GrowthError::Searching)?;
        opened.expect("opening LUNs neither panics nor is cancelled")?;
        let luns = self.served.luns.iter().count();
        info!(volume = self.name(), luns, "the pool has new LUNs, which the volume uses now");
        Ok(())
    }

    async fn commit(&self, batch: CommitBatch) -> (WorkDone, Option<MetadataError>) {
        let facts = &self.served.facts;
        let request = self.request_of(&batch);
        self.note_unanswered(Some((batch.clone(), request)));
        let heads = self.heads();
        let number = heads.last_commit.next();
        let updates = batch.updates.iter().cloned();
        let commit = MapCommit {
            request,
            grant: facts.grant,
            number,
            layer: heads.layer,
            extent_size: facts.extent_size,
            updates: updates.map(|one| SlotUpdate { at: one.logical, slot: one.slot }).collect(),
            checkpoint: batch.checkpoint.map(JournalSeq::new),
            replay_of: None,
        };
        match self.metadata.commit_map(commit).await {
            Ok(freed) => {
                self.note_freed(freed);
                self.served.heads.lock().expect("a panic ends the process").last_commit = number;
                self.note_unanswered(None);
                (WorkDone::Committed, None)
            }
            Err(problem) if problem.is_unavailable() => (WorkDone::Unavailable, Some(problem)),
            Err(problem) => (WorkDone::Rejected(problem.to_string()), None),
        }
    }

    /// Takes note of what becomes of unmapped extents, before the engine hears that they are.
    pub(super) fn note_freed(&self, freed: Freed) {
        if freed == Freed::GiveBack {
            self.served.shared.volume.give_back_freed();
        }
    }

    fn note_unanswered(&self, commit: Option<(CommitBatch, RequestId)>) {
        *self.unanswered.lock().expect("a panic ends the process") = commit;
    }

    fn request_of(&self, batch: &CommitBatch) -> RequestId {
        match &*self.unanswered.lock().expect("a panic ends the process") {
            Some((same, request)) if *same == *batch => *request,
            _ => fresh_request_id(),
        }
    }

    /// Gives back what is not to be used again, and what a volume holds far beyond its need, such
    /// as extents that a large discard has freed.
    pub(super) async fn trim_reserve(&self) {
        let facts = &self.served.facts;
        // If it fails nothing is known of it: they may be free by now, so they are not used again
        // and stay reserved, if they are, until the next start.
        let returned = runs_of(self.served.shared.volume.take_returned());
        let _ = self.desk.release(facts.grant.node, facts.pool, returned).await;
        let spare = self.served.stats().reserve_extents;
        let most = u64::from(self.served.shared.volume.spec().tuning.reserve_max);
        if spare <= most * 2 {
            return;
        }
        let excess = usize::try_from(spare - most).unwrap_or(usize::MAX);
        let runs = runs_of(self.served.shared.volume.take_reserve(excess));
        let _ = self.desk.release(facts.grant.node, facts.pool, runs).await;
    }

    fn check_poison(&self) -> Result<(), CheckpointError> {
        match self.served.shared.volume.poison() {
            None => Ok(()),
            Some(why) => Err(CheckpointError::Poisoned { volume: self.name(), why }),
        }
    }

    /// Has everything committed that was written before the call.
    ///
    /// # Errors
    /// When the metadata service is away, or the volume is poisoned.
    pub async fn checkpoint(&self) -> Result<(), CheckpointError> {
        // A checkpoint under way may have captured its slots before the call: the second has not.
        for _ in 0..2 {
            let before = self.served.stats().checkpoints;
            let mut out = Vec::new();
            self.served.shared.volume.request_checkpoint(&mut out);
            self.wake(&mut out);
            self.drive_until(|stats| stats.checkpoints > before || stats.dirty_extents == 0)
                .await?;
        }
        Ok(())
    }

    /// Commits until nothing is dirty, once no more requests come in; the LUNs are flushed too.
    ///
    /// # Errors
    /// When the metadata service is away, or the volume is poisoned.
    pub async fn settle(&self) -> Result<(), CheckpointError> {
        {
            let _driver = self.driver.lock().await;
            self.round().await;
        }
        let mut out = Vec::new();
        self.served.shared.volume.request_checkpoint(&mut out);
        self.wake(&mut out);
        self.drive_until(|stats| stats.dirty_extents == 0).await?;
        self.check_poison()
    }

    async fn drive_until(
        &self,
        is_done: impl Fn(&lunar_engine::volume::VolumeStats) -> bool,
    ) -> Result<(), CheckpointError> {
        loop {
            if let Progress::Unavailable(source) = self.drive().await {
                return Err(CheckpointError::Unavailable { volume: self.name(), source });
            }
            self.check_poison()?;
            if is_done(&self.served.stats()) {
                return Ok(());
            }
            // A round of a queue is under way: its end wakes the control task.
            tokio::time::sleep(Duration::from_millis(5)).await;
            let mut out = Vec::new();
            self.served.shared.volume.request_checkpoint(&mut out);
            self.wake(&mut out);
        }
    }

    /// Waits until neither a round nor a call is under way; nothing is driven afterwards, whoever
    /// still has this. Call it after the task has ended.
    pub async fn rest(&self) {
        let _driver = self.driver.lock().await;
        self.is_over.store(true, Ordering::Relaxed);
        let queue = Arc::clone(&self.queue);
        let idle = tokio::task::spawn_blocking(move || {
            drop(queue.lock().expect("a panic ends the process"));
        });
        idle.await.expect("waiting for a round neither panics nor is cancelled");
    }

    /// Fails every request that waits and every later write, and lets no round go on to the
    /// journal: the way out when a detachment is forced and something does not answer.
    pub fn give_up(&self, why: &str) {
        let mut out = Vec::new();
        let done = WorkDone::Rejected(why.to_owned());
        self.served.shared.volume.work_done(done, self.now(), &mut out);
        self.wake(&mut out);
    }
}
