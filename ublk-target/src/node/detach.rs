//! Detaching: from a live device to a returned grant.
//!
//! Order: nobody uses the device → what is dirty is committed, while the device still serves →
//! device stopped → the rest committed → queues ended → reserve given back → device deleted →
//! grant given back → state removed. A kill anywhere in between is carried on by the next daemon.
//!
//! Forced, each step is bounded in time and what cannot be committed is journalled: the next
//! attachment replays it. Only what was never flushed can be lost then.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{DetachMode, Selector};
use lunar_types::{Epoch, PublicationId, VolumeId};
use tokio::sync::OwnedMutexGuard;
use tracing::{info, warn};

use super::attach::{GivenBack, blocking, device_error, grant_of_record};
use super::slot::Serving;
use super::{Node, NodeError, Slot, Stage, ViewState};
use crate::holders::{HolderSearch, block_device};
use crate::lun::inspect::with_causes;
use crate::reserve::runs_of;
use crate::state::record::{Phase, Record, Sharing};
use crate::ublk::DeviceId;
use crate::volume::control::CheckpointError;
use crate::volume::device::{self, DeviceError, StopMode};

/// How long a device may take to stop, and how long a forced detachment waits for another change.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long a forced stop waits before requests that wait for the metadata service are failed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the last commits may take when the metadata service answers.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);
/// How long the last commits may take when detaching is forced.
const FORCED_SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// How hard to detach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Refuse rather than lose anything.
    No,
    /// Detach although the device is in use, the metadata service is away or a LUN is gone.
    Yes,
}

/// What is left of a detached volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Detached {
    /// The metadata service still has to hear of it.
    pub is_pending: bool,
    /// The journal was kept for the next attachment to replay.
    pub is_journal_kept: bool,
}

impl Node {
    /// Detaches a volume.
    ///
    /// # Errors
    /// When it is in use or cannot be committed; the volume is then still served, or, past the
    /// stop of its device, waits for the next attempt.
    pub async fn detach(
        self: &Arc<Self>,
        volume: &Selector<VolumeId>,
        force: Force,
    ) -> Result<Detached, NodeError> {
        let slot = self
            .slot(volume)
            .ok_or_else(|| NodeError::NotAttachedHere { volume: volume.to_string() })?;
        let node = Arc::clone(self);
        // On a task of its own: a caller that goes away must not leave it half done.
        let detached =
            tokio::spawn(async move { node.detach_slot(&slot, force, STOP_LIMIT).await });
        detached.await.expect("detaching neither panics nor is cancelled")
    }

    async fn detach_slot(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        force: Force,
        gate_limit: Duration,
    ) -> Result<Detached, NodeError> {
        let stage = match force {
            Force::No => Arc::clone(&slot.gate).lock_owned().await,
            Force::Yes => take_gate(slot, gate_limit).await?,
        };
        self.detach_stage(slot, stage, force).await
    }

    /// Detaches a volume by force if it was attached under this publication; nothing, if it is
    /// gone or was not.
    ///
    /// # Errors
    /// As [`Node::detach`], and while it is not recovered.
    pub(super) async fn detach_recalled(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        publication: PublicationId,
    ) -> Result<Option<Detached>, NodeError> {
        let stage = take_gate(slot, STOP_LIMIT).await?;
        let record = match &*stage {
            Stage::Vacant => return Ok(None),
            Stage::Serving(serving) | Stage::Stopped(serving) => &serving.record,
            Stage::Waiting(waiting) => &waiting.record,
            Stage::Lost(record) => record,
        };
        if record.publication != Some(publication) {
            return Ok(None);
        }
        if let Stage::Lost(_) = &*stage {
            let problem = slot.view().problem.unwrap_or_default();
            return Err(NodeError::NotRecovered { volume: slot.name.clone(), problem });
        }
        self.detach_stage(slot, stage, Force::Yes).await.map(Some)
    }

    async fn detach_stage(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        mut stage: OwnedMutexGuard<Stage>,
        force: Force,
    ) -> Result<Detached, NodeError> {
        loop {
            match std::mem::replace(&mut *stage, Stage::Vacant) {
                Stage::Vacant => {
                    return Err(NodeError::NotAttachedHere { volume: slot.name.clone() });
                }
                Stage::Serving(mut serving) => {
                    let stopped = self.stop_serving(slot, &mut serving, force).await;
                    if let Err(error) = stopped {
                        *stage = Stage::Serving(serving);
                        return Err(error);
                    }
                    *stage = Stage::Stopped(serving);
                }
                Stage::Stopped(mut serving) => match self.quiet(slot, &mut serving, force).await {
                    Ok(mode) => return self.leave(slot, serving, mode).await,
                    Err(error) => {
                        slot.show(|view| view.problem = Some(error.message()));
                        *stage = Stage::Stopped(serving);
                        return Err(error);
                    }
                },
                Stage::Waiting(waiting) => {
                    return match self.detach_waiting(slot, waiting, force).await {
                        Ok(detached) => Ok(detached),
                        Err((Ok(waiting), error)) => {
                            *stage = Stage::Waiting(waiting);
                            Err(error)
                        }
                        Err((Err(record), error)) => {
                            self.lose(slot, &mut stage, record, error.message());
                            Err(error)
                        }
                    };
                }
                Stage::Lost(record) if force == Force::Yes => {
                    return Ok(self.give_up_lost(slot, &record).await);
                }
                Stage::Lost(record) => {
                    *stage = Stage::Lost(record);
                    let problem = slot.view().problem.unwrap_or_default();
                    return Err(NodeError::NotRecovered { volume: slot.name.clone(), problem });
                }
            }
        }
    }

    /// From a live device to a stopped one; on an error the device serves as before.
    async fn stop_serving(
        &self,
        slot: &Arc<Slot>,
        serving: &mut Serving,
        force: Force,
    ) -> Result<(), NodeError> {
        if force == Force::No {
            check_unused(&serving.record).await?;
            match serving.control.checkpoint().await {
                Ok(()) | Err(CheckpointError::Poisoned { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if force == Force::Yes {
            // What is completed by now is in the journal, even if nothing can be committed later.
            let control = Arc::clone(&serving.control);
            let round = tokio::spawn(async move { control.round().await });
            let _ = tokio::time::timeout(PATIENCE, round).await;
        }
        let before = std::mem::replace(&mut serving.record.phase, Phase::Stopping);
        if let Err(error) = self.state.save_record(&serving.record) {
            serving.record.phase = before;
            return Err(error.into());
        }
        slot.show(|view| view.state = ViewState::Detaching);
        let stopped = self.stop_device(serving, force).await;
        if let Err(error) = &stopped {
            self.note_not_stopped(slot, serving, before, error);
        }
        stopped
    }

    /// Puts the record back if the device goes on serving: a successor that read `stopping` would
    /// stop it under whoever has begun to use it since.
    fn note_not_stopped(
        &self,
        slot: &Arc<Slot>,
        serving: &mut Serving,
        before: Phase,
        error: &NodeError,
    ) {
        let serves_on = match error {
            // The driver may still be at it.
            NodeError::StopHangs { .. } => false,
            NodeError::InUse { .. } => true,
            // This attempt has stopped nothing; an earlier one may still be under way.
            _ => before == Phase::Live,
        };
        if !serves_on {
            return;
        }
        serving.record.phase = Phase::Live;
        slot.show(|view| view.state = ViewState::Live);
        if let Err(error) = self.state.save_record(&serving.record) {
            warn!(volume = slot.name, %error, "its record says that it is to be stopped");
        }
    }

    async fn stop_device(&self, serving: &Serving, force: Force) -> Result<(), NodeError> {
        let id = serving.record.device;
        let mode = if force == Force::Yes { StopMode::Always } else { StopMode::IfUnused };
        let mut stopping = Box::pin(blocking(move || device::stop(id, mode)));
        let mut stopped = tokio::time::timeout(PATIENCE, &mut stopping).await;
        if stopped.is_err() && force == Force::Yes {
            serving.control.give_up("detached by force");
        }
        if stopped.is_err() {
            stopped = tokio::time::timeout(STOP_LIMIT - PATIENCE, &mut stopping).await;
        }
        let volume = serving.record.name.clone();
        match stopped {
            Ok(Ok(())) => Ok(()),
            Ok(Err(DeviceError::Driver(error))) if error.errno() == Some(libc::EBUSY) => {
                check_unused(&serving.record).await?;
                let holders = "open in a process that was too short-lived to be named".to_owned();
                Err(NodeError::InUse { volume, device: id.block_path(), holders })
            }
            Ok(Err(source)) => Err(device_error("stop", &volume)(source)),
            Err(_) => Err(stop_hangs(&serving.record)),
        }
    }

    /// Settles the volume, and has nothing of it under way afterwards: others may get the journal's
    /// extents once the grant is returned.
    async fn quiet(
        &self,
        slot: &Arc<Slot>,
        serving: &mut Serving,
        force: Force,
    ) -> Result<DetachMode, NodeError> {
        let mode = self.settle(slot, serving, force).await?;
        if mode == DetachMode::KeepJournal {
            // A flush of it may hang now and come back later: no journal write may follow.
            serving.control.give_up("detached with its journal kept");
        }
        let rest = async {
            serving.task.stop().await;
            serving.control.rest().await;
        };
        let rested = tokio::time::timeout(STOP_LIMIT, rest).await;
        rested.map(|()| mode).map_err(|_| stop_hangs(&serving.record))
    }

    /// Commits what is dirty, or makes sure that the journal has it.
    async fn settle(
        &self,
        slot: &Arc<Slot>,
        serving: &Serving,
        force: Force,
    ) -> Result<DetachMode, NodeError> {
        let limit = if force == Force::Yes { FORCED_SETTLE_LIMIT } else { SETTLE_LIMIT };
        // On a task of its own: a commit or a round that is cut off would go on without us.
        let control = Arc::clone(&serving.control);
        let settling = tokio::spawn(async move { control.settle().await });
        let settled = tokio::time::timeout(limit, settling).await;
        let settled = settled.map(|ended| ended.expect("settling neither panics nor is cancelled"));
        let problem = match settled {
            Ok(Ok(())) => return Ok(DetachMode::Clean),
            Ok(Err(error)) => {
                let is_poisoned = matches!(error, CheckpointError::Poisoned { .. });
                if force == Force::No && !is_poisoned {
                    return Err(error.into());
                }
                with_causes(&error)
            }
            Err(_) if force == Force::No => {
                let problem = "its last changes were not committed in time".to_owned();
                return Err(NodeError::HalfDetached { volume: slot.name.clone(), problem });
            }
            Err(_) => "its last changes were not committed in time".to_owned(),
        };
        warn!(volume = slot.name, problem, "the journal is kept for the next attachment");
        Ok(DetachMode::KeepJournal)
    }

    /// From a settled volume to a vacant slot.
    async fn leave(
        &self,
        slot: &Arc<Slot>,
        serving: Serving,
        mode: DetachMode,
    ) -> Result<Detached, NodeError> {
        let Serving { record, served, control, task, queues } = serving;
        drop((control, task));
        let mut spare = served.shared.volume.take_reserve(usize::MAX);
        spare.append(&mut served.shared.volume.take_returned());
        let pool = served.facts.pool;
        slot.show(|view| view.served = None);
        drop(served);
        if let Some(queues) = queues {
            blocking(move || queues.stop()).await;
        }
        if mode == DetachMode::Clean {
            // If it fails the extents stay reserved until the next start: nothing is lost.
            let _ = self.desk.release(record.holder, pool, runs_of(spare)).await;
        }
        self.delete_device(&record).await;
        Ok(self.return_grant(slot, &record, mode).await)
    }

    pub(super) async fn delete_device(&self, record: &Record) {
        let id = record.device;
        let limit = STOP_LIMIT;
        match tokio::time::timeout(limit, blocking(move || device::delete(id))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let about = format!("device {id}");
                let why = with_causes(&error);
                self.warn(&about, format!("{about} of volume '{}' stays: {why}", record.name));
            }
            Err(_) => {
                let about = format!("device {id}");
                let path = id.char_path();
                self.warn(&about, format!("{about} is not deleted yet: {path} is still open"));
            }
        }
    }

    async fn return_grant(&self, slot: &Arc<Slot>, record: &Record, mode: DetachMode) -> Detached {
        let grant = grant_of_record(record);
        let is_journal_kept = mode == DetachMode::KeepJournal;
        let given_back = if is_moving(record) {
            self.leave_as_peer(record).await
        } else if is_journal_kept {
            self.leave_journal(grant).await
        } else {
            self.give_back_unused(grant).await
        };
        let is_pending = given_back == GivenBack::Pending;
        if is_pending {
            self.keep_leaving(record);
        } else {
            self.forget(record);
        }
        self.remove_slot(slot.volume);
        info!(volume = record.name, epoch = %record.epoch, is_pending, is_journal_kept, "detached");
        Detached { is_pending, is_journal_kept }
    }

    /// Keeps the record of a grant that is still to be given back, and nothing else.
    pub(super) fn keep_leaving(&self, record: &Record) {
        // Of one that was moving nothing is left but to be a peer no more.
        let epoch = if is_moving(record) { Epoch::default() } else { record.epoch };
        let leaving = Record { phase: Phase::Leaving, epoch, ..record.clone() };
        if let Err(error) = self.state.save_record(&leaving) {
            warn!(volume = record.name, %error, "the grant is given back at the next start");
        }
        if let Err(error) = self.state.remove_dirty_table(record.volume, record.epoch) {
            warn!(volume = record.name, %error, "a leftover stays in the state directory");
        }
    }

    /// Removes what a predecessor has left and could not be taken over; its journal is kept.
    async fn give_up_lost(&self, slot: &Arc<Slot>, record: &Record) -> Detached {
        self.remove_device(record).await;
        self.unwarn(&slot.name);
        self.return_grant(slot, record, DetachMode::KeepJournal).await
    }

    /// Gives back the grants that could not be given back before, for ever.
    pub async fn give_back_pending(&self) {
        const PAUSE: Duration = Duration::from_secs(5);
        loop {
            tokio::time::sleep(PAUSE).await;
            self.look_for_strays().await;
            for record in self.pending_detaches() {
                let _granting = self.granting.lock().await;
                if !self.pending_detaches().contains(&record) {
                    continue;
                }
                let given_back = match record.epoch == Epoch::default() {
                    true => self.leave_as_peer(&record).await,
                    false => self.leave_journal(grant_of_record(&record)).await,
                };
                if given_back == GivenBack::Done {
                    self.forget(&record);
                    info!(volume = record.name, "the metadata service knows of the detachment now");
                }
            }
        }
    }

    /// Grants that are still to be given back.
    #[must_use]
    pub fn pending_detaches(&self) -> Vec<Record> {
        let records = self.state.load_records().unwrap_or_default();
        let served: BTreeSet<_> = self.slots().iter().map(|slot| slot.volume).collect();
        let is_pending =
            |record: &Record| record.phase == Phase::Leaving && !served.contains(&record.volume);
        records.into_iter().filter(is_pending).collect()
    }

    /// Detaches everything; says what did not work.
    pub async fn drain(self: &Arc<Self>, force: Force) -> (u32, Vec<(String, NodeError)>) {
        let mut detached = 0;
        let mut failures = Vec::new();
        for slot in self.slots() {
            match self.detach(&Selector::Id(slot.volume), force).await {
                Ok(_) => detached += 1,
                Err(NodeError::NotAttachedHere { .. }) => {}
                Err(error) => failures.push((slot.name.clone(), error)),
            }
        }
        (detached, failures)
    }
}

/// The gate of a slot that is to be detached by force. A change that does not come to its end is
/// not cut off: what it has under way with a LUN would go on without it.
async fn take_gate(slot: &Arc<Slot>, limit: Duration) -> Result<OwnedMutexGuard<Stage>, NodeError> {
    let taken = tokio::time::timeout(limit, Arc::clone(&slot.gate).lock_owned()).await;
    let (volume, seconds) = (slot.name.clone(), limit.as_secs());
    taken.map_err(|_| NodeError::ChangeHangs { volume, seconds })
}

/// Whether the volume may have been given away already, or was not served under its epoch.
fn is_moving(record: &Record) -> bool {
    let is_settled = matches!(record.phase, Phase::Live | Phase::Stopping | Phase::Leaving);
    record.sharing == Sharing::Migratable && !is_settled
}

pub(super) fn stop_hangs(record: &Record) -> NodeError {
    NodeError::StopHangs {
        volume: record.name.clone(),
        device: record.device.block_path(),
        seconds: STOP_LIMIT.as_secs(),
    }
}

pub(super) async fn check_unused(record: &Record) -> Result<(), NodeError> {
    let (id, volume) = (record.device, record.name.clone());
    let found = blocking(move || holders_of(id)).await;
    let device = id.block_path();
    let holders = found.map_err(|source| NodeError::Holders { device: device.clone(), source })?;
    if holders.is_empty() {
        return Ok(());
    }
    let holders = holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(NodeError::InUse { volume, device, holders })
}

pub(super) fn holders_of(id: DeviceId) -> std::io::Result<Vec<crate::holders::Holder>> {
    let Some(number) = block_device(std::path::Path::new(&id.block_path())) else {
        return Ok(Vec::new());
    };
    HolderSearch::of_this_host().find(&id.block_name(), number)
}

#[cfg(test)]
pub(super) mod tests;
