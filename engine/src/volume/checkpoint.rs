//! The control side: refills of the reserve, and checkpoints into the metadata service.
//!
//! Crash order of a checkpoint: round → commits, the last with the sequence number → dirty
//! entries freed, the ring's start moved → unmapped extents drained → reuse.

use std::collections::VecDeque;
use std::time::Duration;

use lunar_types::{ExtentAddress, ExtentRun, LogicalExtent};

use super::Volume;
use super::core::Core;
use crate::io::Action;
use crate::replay::SlotUpdate;

/// The most updates of one transaction.
pub const COMMIT_UPDATES_MAX: usize = 1000;

/// What the control task has to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlWork {
    /// Reserve this many extents; answer `Reserved`, `PoolFull` or `Unavailable`.
    Reserve {
        /// How many.
        count: u32,
    },
    /// Run [`Volume::start_round`] on the control queue to its end; there is no answer.
    Round,
    /// Commit slots; answer `Committed`, `Unavailable` or `Rejected`.
    Commit(CommitBatch),
}

/// One transaction of a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitBatch {
    /// At most [`COMMIT_UPDATES_MAX`], in order of logical extents.
    pub updates: Vec<SlotUpdate>,
    /// With the last batch: the sequence number that the checkpoint covers.
    pub checkpoint: Option<u64>,
}

/// How the work ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WorkDone {
    /// These extents are reserved; fewer than asked for is fine, none is not.
    Reserved(Vec<ExtentRun>),
    /// The pool has no free extent.
    PoolFull,
    /// The batch is committed.
    Committed,
    /// The metadata service did not answer: the work stays to be done.
    Unavailable,
    /// The metadata service refused for good, and why: the volume is no longer ours.
    Rejected(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum InFlight {
    Reserve,
    Commit,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// For this many rounds to have ended.
    WaitRound(u64),
    Committing {
        batches: VecDeque<CommitBatch>,
        versions: Vec<(LogicalExtent, u64)>,
        covers: u64,
    },
}

/// Where the checkpoint is, and what was asked of the control task.
#[derive(Debug)]
pub(super) struct Checkpoint {
    state: State,
    /// The longest that something dirty waits.
    interval: Duration,
    is_wanted: bool,
    dirty_since: Option<Duration>,
    in_flight: Option<InFlight>,
    /// Whether the last answer to a reservation brought nothing.
    got_no_extents: bool,
}

impl Checkpoint {
    pub(super) const fn new(interval: Duration) -> Self {
        let state = State::Idle;
        Self {
            state,
            interval,
            is_wanted: false,
            dirty_since: None,
            in_flight: None,
            got_no_extents: false,
        }
    }

    pub(super) const fn waits_for_round(&self) -> bool {
        matches!(self.state, State::WaitRound(_))
    }
}

impl Core {
    pub(super) const fn want_checkpoint(&mut self) {
        self.checkpoint.is_wanted = true;
    }

    pub(super) fn next_work(
        &mut self,
        volume: &Volume,
        now: Duration,
        out: &mut Vec<Action>,
    ) -> Option<ControlWork> {
        self.drain_limbo(volume, out);
        self.reserve.forget_full(now);
        if self.is_poisoned() || self.checkpoint.in_flight.is_some() {
            return None;
        }
        // An answer without extents lets a checkpoint go first: it may bring some back.
        let is_reserve_next = !std::mem::take(&mut self.checkpoint.got_no_extents);
        if is_reserve_next && let Some(work) = self.reserve_work() {
            return Some(work);
        }
        self.checkpoint_step(volume, now, out).or_else(|| self.reserve_work())
    }

    fn reserve_work(&mut self) -> Option<ControlWork> {
        let count = self.reserve.ask()?;
        self.checkpoint.in_flight = Some(InFlight::Reserve);
        Some(ControlWork::Reserve { count })
    }

    fn checkpoint_step(
        &mut self,
        volume: &Volume,
        now: Duration,
        out: &mut Vec<Action>,
    ) -> Option<ControlWork> {
        if matches!(self.checkpoint.state, State::Idle) && self.is_checkpoint_due(volume, now) {
            self.checkpoint.is_wanted = false;
            // A round under way has captured already: what changed since needs the one after it.
            let rounds = if self.round.is_idle() { 1 } else { 2 };
            self.checkpoint.state = State::WaitRound(self.round.done + rounds);
        }
        if let State::WaitRound(target) = self.checkpoint.state {
            let needs_round = !self.unflushed.is_empty()
                || !self.limbo.unmapped.is_empty()
                || volume.is_touched();
            let is_captured = !needs_round && self.round.is_idle();
            if self.round.done < target && !is_captured {
                return self.round.is_idle().then_some(ControlWork::Round);
            }
            self.prepare_commit(out);
        }
        match &self.checkpoint.state {
            State::Committing { batches, .. } => {
                self.checkpoint.in_flight = Some(InFlight::Commit);
                Some(ControlWork::Commit(batches.front().expect("a commit has batches").clone()))
            }
            State::Idle | State::WaitRound(_) => None,
        }
    }

    fn is_checkpoint_due(&mut self, volume: &Volume, now: Duration) -> bool {
        let changed = self.durable.len() + self.unflushed.len();
        // What the round under way has captured is in neither, and is to be committed as well.
        let is_nothing_new = changed == 0 && self.round.has_captured_nothing();
        if is_nothing_new && self.limbo.unmapped.is_empty() && self.limbo.journalled.is_empty() {
            self.checkpoint.dirty_since = None;
            // Nothing to commit, but who asked wants a clean volume: what was written over in
            // place is flushed too. A request that waits for a dirty entry keeps asking.
            let is_due = self.checkpoint.is_wanted && volume.is_touched();
            self.checkpoint.is_wanted &= self.has_parked_for_table();
            return is_due;
        }
        let since = *self.checkpoint.dirty_since.get_or_insert(now);
        let waits_for_limbo = self.has_parked_for_reserve() && !self.limbo.is_empty();
        self.checkpoint.is_wanted
            || waits_for_limbo
            || changed >= self.table.capacity() / 2
            || now >= since + self.checkpoint.interval
    }

    /// Turns the durable slots into transactions.
    fn prepare_commit(&mut self, out: &mut Vec<Action>) {
        let updates: Vec<SlotUpdate> = self
            .durable
            .iter()
            .map(|(logical, durable)| SlotUpdate { logical: *logical, slot: durable.slot.clone() })
            .collect();
        let versions = self.durable.iter().map(|(logical, d)| (*logical, d.version)).collect();
        let covers = self.round.durable_seq;
        let mut batches: VecDeque<CommitBatch> = updates
            .chunks(COMMIT_UPDATES_MAX)
            .map(|chunk| CommitBatch { updates: chunk.to_vec(), checkpoint: None })
            .collect();
        self.limbo.committing = std::mem::take(&mut self.limbo.journalled);
        match batches.back_mut() {
            Some(last) => last.checkpoint = Some(covers),
            None => assert!(self.limbo.committing.is_empty(), "an unmapping is a durable slot"),
        }
        let is_empty = batches.is_empty();
        self.checkpoint.state =
            if is_empty { State::Idle } else { State::Committing { batches, versions, covers } };
        if is_empty {
            self.checkpoint.dirty_since = None;
            self.wake_for_table(out);
        }
    }

    pub(super) fn work_done(
        &mut self,
        volume: &Volume,
        done: WorkDone,
        now: Duration,
        out: &mut Vec<Action>,
    ) {
        let asked = self.checkpoint.in_flight.take();
        self.checkpoint.got_no_extents = asked == Some(InFlight::Reserve)
            && matches!(done, WorkDone::PoolFull | WorkDone::Unavailable);
        match (asked, done) {
            // The volume was given up meanwhile: what this answers counts no more. Extents that it
            // brings stay reserved.
            (None, _) if self.is_poisoned() => {}
            (Some(_), WorkDone::Unavailable) => {}
            (Some(InFlight::Reserve), WorkDone::Reserved(runs)) => {
                self.reserve.refill(&runs, now);
                self.wake_for_reserve(out);
            }
            (Some(InFlight::Reserve), WorkDone::PoolFull) => self.pool_is_full(now, out),
            (Some(InFlight::Commit), WorkDone::Committed) => self.batch_committed(volume, out),
            (_, WorkDone::Rejected(why)) => {
                let why = format!("the metadata service refused a commit: {why}");
                self.poison_with(volume, why, out);
            }
            (asked, done) => unreachable!("{done:?} answers {asked:?}"),
        }
    }

    /// First writes fail now, unless extents are on their way back: then a checkpoint goes first.
    fn pool_is_full(&mut self, now: Duration, out: &mut Vec<Action>) {
        self.reserve.pool_is_full(now);
        if self.limbo.is_empty() {
            self.wake_for_reserve(out);
        } else {
            self.want_checkpoint();
        }
    }

    fn batch_committed(&mut self, volume: &Volume, out: &mut Vec<Action>) {
        let State::Committing { batches, .. } = &mut self.checkpoint.state else {
            unreachable!("a commit is answered while committing")
        };
        batches.pop_front();
        if !batches.is_empty() {
            return;
        }
        let state = std::mem::take(&mut self.checkpoint.state);
        let State::Committing { versions, covers, .. } = state else { return };
        for (logical, version) in versions {
            if self.durable.get(&logical).is_some_and(|durable| durable.version == version) {
                self.durable.remove(&logical);
            }
            if let Some(mark) = self.marks.get_mut(&logical) {
                mark.committed = mark.committed.max(version);
            }
            self.free_entry_if_committed(logical);
        }
        self.ring.checkpointed(covers);
        let period = volume.grace.period();
        let freed = std::mem::take(&mut self.limbo.committing);
        self.limbo.drain(period, freed);
        self.checkpoint.dirty_since = None;
        self.stats.checkpoints += 1;
        self.wake_for_table(out);
        self.drain_limbo(volume, out);
    }

    /// Moves unmapped extents that no request can see any more into the reserve, or to those that
    /// are given back.
    fn drain_limbo(&mut self, volume: &Volume, out: &mut Vec<Action>) {
        if self.limbo.draining.is_empty() {
            return;
        }
        let drained = self.limbo.drained(|period| volume.grace.has_passed(period));
        if drained.is_any {
            self.reserve.give(drained.reusable);
            // Also when nothing came of it: who waited for it has to hear that the pool is full.
            self.wake_for_reserve(out);
        }
    }

    pub(super) fn take_reserve(&mut self, count: usize) -> Vec<ExtentAddress> {
        self.reserve.take_up_to(count)
    }

    pub(super) fn give_reserve(&mut self, runs: &[ExtentRun], out: &mut Vec<Action>) {
        self.reserve.give(runs.iter().flat_map(|run| run.iter()));
        self.wake_for_reserve(out);
    }
}
