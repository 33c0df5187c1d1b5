//! Taking over what a killed predecessor has left.
//!
//! | record says | device | what is done |
//! | --- | --- | --- |
//! | another incarnation | any | removed, loudly: the volume's fate is with others now |
//! | starting | any | removed, grant given back: nothing was written |
//! | live | waits for a successor | taken over: requests go on |
//! | live | stopped or gone | committed from the dirty table, then detached |
//! | stopping | any | stopped for good, committed, detached |
//! | leaving | none | grant given back |
//! | waiting | any | has it wait again; a grant that the predecessor did not hear of goes back |
//! | taking | any | nothing was written: the grant goes back, the device waits again |
//! | releasing | any | as live if the grant is still this node's; otherwise it waits |
//!
//! A volume that cannot be taken over for a reason that may pass (a LUN is away, the metadata
//! service does not answer) is tried again; its requests wait. Devices without a record of ours
//! are never touched.

use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{Attachment, Selector};
use lunar_types::{StructureNumber, VolumeSize};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::attach::{blocking, device_error, grant_of_record, is_same_grant, load_error, serve};
use super::detach::Force;
use super::migration::{Turn, Waiting};
use super::slot::Serving;
use super::steps::watched;
use super::{Membership, Node, NodeError, Slot, Stage, ViewState};
use crate::state::StateError;
use crate::state::record::{Phase, Record};
use crate::ublk::{DeviceInfo, DeviceState};
use crate::volume::device::{self, QueueWork};
use crate::volume::fsfreeze::Freezer;

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_secs(2);
/// How long file systems of a device that serves may take to be thawed.
const THAW_LIMIT: Duration = Duration::from_secs(5);

/// How long the steps of a takeover took: each from the end of the one before.
struct Laps {
    since: Instant,
    steps: String,
}

impl Laps {
    fn begin() -> Self {
        Self { since: Instant::now(), steps: String::new() }
    }

    fn step(&mut self, name: &str) {
        let took = self.since.elapsed();
        self.since += took;
        let gap = if self.steps.is_empty() { "" } else { ", " };
        self.steps += &format!("{gap}{name} {}", took.as_millis());
    }
}

/// How an attempt to take over a volume ended.
pub(super) enum Outcome {
    /// It is served again.
    Served(Serving),
    /// It is loaded, its device is stopped or gone: it is to be detached.
    Headless(Serving),
    /// Its device waits: another node owns the volume, or nobody does.
    Waits(Waiting),
    /// It is not ours any more, or was never used: everything of it was removed.
    Removed,
    /// To be tried again.
    Later(NodeError),
}

impl Node {
    /// Takes over everything that a predecessor has left. What it had reserved is in quarantine
    /// before any volume gets an extent.
    ///
    /// # Errors
    /// When the state directory fails.
    pub async fn recover(self: &Arc<Self>, member: Membership) -> Result<(), StateError> {
        let records = self.state.load_records()?;
        let keep: Vec<_> = records.iter().map(|record| (record.volume, record.epoch)).collect();
        let leftovers = self.state.remove_other_dirty_tables(&keep)?;
        if leftovers > 0 {
            info!(leftovers, "dirty tables of unfinished attachments removed");
        }
        if member.resumed {
            self.quarantine_reserve(&member).await;
            // Of a kill between a grant and its record.
            self.strays.expect(Instant::now());
        }
        let mut taken = Vec::new();
        let pending: Vec<_> =
            records.into_iter().filter(|record| record.phase != Phase::Leaving).collect();
        for record in pending {
            let slot = Slot::new(&record, Stage::Lost(record.clone()));
            self.add_slot(&slot);
            let node = Arc::clone(self);
            let taking = async move { node.take_over_until_done(&slot, member).await };
            taken.push(tokio::spawn(taking));
        }
        let node = Arc::clone(self);
        tokio::spawn(async move {
            for one in taken {
                one.await.expect("taking over neither panics nor is cancelled");
            }
            if member.resumed {
                {
                    // An attachment that has its grant and no slot yet is no stray.
                    let _granting = node.granting.lock().await;
                    node.give_back_strays(&member).await;
                }
                node.lift_quarantine(member).await;
            }
        });
        Ok(())
    }

    async fn quarantine_reserve(&self, member: &Membership) {
        loop {
            match self.metadata.list_reservations(member.node).await {
                Ok(reserved) => return self.desk.quarantine(reserved),
                Err(problem) => warn!(%problem, "cannot read this node's reservations yet"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    pub(super) async fn take_over_until_done(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        member: Membership,
    ) {
        let mut pause = RETRY_MIN;
        let mut thawing = {
            let record = slot.view().record;
            Freezer::new(Arc::clone(&self.state), record).thaw_leftovers()
        };
        loop {
            {
                let mut stage = Arc::clone(&slot.gate).lock_owned().await;
                let Stage::Lost(record) = &*stage else { return };
                let record = record.clone();
                match self.take_over(slot, &record, &member).await {
                    Outcome::Served(serving) => {
                        self.unwarn(&slot.name);
                        if let Some(thawing) = thawing.take() {
                            wait_for_thaw(&serving.record, thawing).await;
                        }
                        *stage = Stage::Serving(serving);
                        return;
                    }
                    Outcome::Headless(serving) => {
                        self.unwarn(&slot.name);
                        slot.show(|view| view.state = ViewState::Detaching);
                        *stage = Stage::Stopped(serving);
                        break;
                    }
                    Outcome::Waits(waiting) => {
                        self.unwarn(&slot.name);
                        *stage = Stage::Waiting(waiting);
                        return;
                    }
                    Outcome::Removed => {
                        *stage = Stage::Vacant;
                        self.remove_slot(slot.volume);
                        return;
                    }
                    Outcome::Later(problem) => {
                        let text = problem.message();
                        self.warn(&slot.name, format!("volume '{}' waits: {text}", slot.name));
                        slot.show(|view| view.problem = Some(text));
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY);
        }
        self.detach_until_done(slot).await;
    }

    async fn detach_until_done(self: &Arc<Self>, slot: &Arc<Slot>) {
        while let Err(problem) = self.detach(&Selector::Id(slot.volume), Force::No).await {
            if matches!(problem, NodeError::NotAttachedHere { .. }) {
                return;
            }
            warn!(volume = slot.name, problem = problem.message(), "not detached yet");
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn take_over(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        record: &Record,
        member: &Membership,
    ) -> Outcome {
        let (begun, mut laps) = (Instant::now(), Laps::begin());
        if record.holder != member.node {
            return self.discard(record, "this node has a new incarnation").await;
        }
        if record.phase == Phase::Starting {
            warn!(volume = record.name, "its attachment was not finished: it is undone");
            self.undo(record).await;
            return Outcome::Removed;
        }
        if let Some(outcome) = self.recover_move(slot, record).await {
            return outcome;
        }
        let attachment = match self.metadata.resume_attachment(grant_of_record(record)).await {
            Ok(attachment) if is_same_grant(&attachment, record) => attachment,
            Ok(_) => return self.discard(record, "the service named another grant").await,
            Err(error) if error.is_not_ours() => {
                return self.discard(record, &error.to_string()).await;
            }
            Err(source) => {
                let what = format!("resume volume '{}'", record.name);
                return Outcome::Later(NodeError::Metadata { what, source });
            }
        };
        laps.step("resume");
        match self.take_over_device(slot, record, (&attachment, member), &mut laps).await {
            Ok(outcome) => {
                let (elapsed_ms, steps_ms) = (begun.elapsed().as_millis(), laps.steps);
                let (volume, epoch) = (&record.name, record.epoch);
                info!(volume, %epoch, elapsed_ms, steps_ms, "taken over");
                outcome
            }
            Err(error) => Outcome::Later(error),
        }
    }

    /// Removes what is left of a volume that is not ours any more.
    pub(super) async fn discard(&self, record: &Record, why: &str) -> Outcome {
        error!(
            volume = record.name, epoch = %record.epoch, device = %record.device, why,
            "a volume of before the restart cannot be taken over: its device is removed, and \
             what was not flushed is lost"
        );
        self.remove_device(record).await;
        self.forget(record);
        Outcome::Removed
    }

    async fn take_over_device(
        &self,
        slot: &Arc<Slot>,
        record: &Record,
        (attachment, member): (&Attachment, &Membership),
        laps: &mut Laps,
    ) -> Result<Outcome, NodeError> {
        let (id, token) = (record.device, record.token);
        let found = blocking(move || device::find(id, token)).await;
        let found = found.map_err(device_error("find", &record.name))?;
        let waiting =
            found.filter(|info| info.state != DeviceState::Dead && is_to_serve(record.phase));
        if waiting.is_some() {
            let draining = blocking(move || device::begin_take_over(id));
            let begun = watched(&record.name, "drain the dead daemon's I/O", draining).await;
            begun.map_err(device_error("take over", &record.name))?;
        } else if found.is_some() {
            let stopped = blocking(move || device::stop(id, device::StopMode::Always)).await;
            stopped.map_err(device_error("stop", &record.name))?;
        }
        laps.step("drain");
        let loader = self.loader(member);
        let loaded = watched(&record.name, "load", loader.resume(attachment)).await;
        let loaded = loaded.map_err(|source| load_error(attachment, source))?;
        self.desk.exempt(attachment.volume.pool, &loaded.used_extents());
        let queues = waiting.map_or(1, |info| info.queues);
        let served = serve(loaded, queues)?;
        laps.step("load");
        match waiting {
            Some(info) => {
                let resumed = self.resume_device(slot, record, &info, served).await;
                laps.step("start");
                resumed
            }
            None => {
                warn!(volume = record.name, device = %id, "its device is gone: it is detached");
                let stopping = Record { phase: Phase::Stopping, ..record.clone() };
                self.state.save_record(&stopping)?;
                Ok(Outcome::Headless(self.go_live(slot, stopping, served, None)))
            }
        }
    }

    async fn resume_device(
        &self,
        slot: &Arc<Slot>,
        record: &Record,
        info: &DeviceInfo,
        served: Arc<crate::volume::served::ServedVolume>,
    ) -> Result<Outcome, NodeError> {
        let info = *info;
        let work = QueueWork::Serve {
            shared: Arc::clone(&served.shared),
            luns: served.luns.clone(),
            owes: slot.owes(),
        };
        let starting = blocking(move || device::finish_take_over(&info, &work));
        let queues = watched(&record.name, "take the device over", starting).await;
        let queues = queues.map_err(device_error("take over", &record.name))?;
        let size = served.facts.size;
        let record = Record { phase: Phase::Live, ..record.clone() };
        self.state.save_record(&record)?;
        let serving = self.go_live(slot, record, served, Some(queues));
        if slot.owes() {
            slot.show(|view| view.turn = Some(Turn::after_kill()));
        }
        self.grow_taken_over(&serving, size).await;
        Ok(Outcome::Served(serving))
    }

    /// A device that serves already may be smaller than its volume, if the predecessor was killed
    /// while it grew. A failure is a warning of the node, and the size is news still.
    pub(super) async fn grow_taken_over(&self, serving: &Serving, size: VolumeSize) {
        if self.grow_served(serving, size).await.is_err() {
            // A volume that has grown has had at least this one.
            serving.served.note_structure(StructureNumber::default());
        }
    }

    /// Gives the predecessor's unused reserve back, once no journal can name it any more.
    async fn lift_quarantine(self: &Arc<Self>, member: Membership) {
        let recovered = self.slots();
        let is_settled = |slot: &Arc<Slot>| {
            let view = slot.view();
            let now = self.slot(&Selector::Id(slot.volume));
            let is_here = now.is_some_and(|now| Arc::ptr_eq(&now, slot));
            let is_committed = view.served.is_some_and(|served| {
                let stats = served.stats();
                stats.checkpoints > 0 || stats.dirty_extents == 0
            });
            !is_here || is_committed || view.state == ViewState::Waiting
        };
        if self.has_left_journals() {
            info!("what was reserved before stays unused until left journals are replayed here");
        }
        // A journal whose leaving could not be noted is left by a record that waits to go.
        let is_any_left = || self.has_left_journals() || !self.pending_detaches().is_empty();
        while is_any_left() || !recovered.iter().all(is_settled) {
            tokio::time::sleep(RETRY).await;
        }
        // A release is tried once: wait for a service that answers.
        while self.metadata.list_reservations(member.node).await.is_err() {
            tokio::time::sleep(RETRY).await;
        }
        self.desk.lift_quarantine(member.node).await;
    }
}

/// Whether a device of a record is taken over, rather than stopped.
const fn is_to_serve(phase: Phase) -> bool {
    // One that was about to be released has everything in the map, and is served on.
    matches!(phase, Phase::Live | Phase::Releasing)
}

/// Waits until what a predecessor had frozen is thawed, now that the device serves.
async fn wait_for_thaw(record: &Record, thawing: JoinHandle<()>) {
    if tokio::time::timeout(THAW_LIMIT, thawing).await.is_err() {
        warn!(volume = record.name, "its file systems are not thawed yet");
    }
}

#[cfg(test)]
mod tests {
    use super::super::attach::tests::node;
    use super::super::detach::tests::serving;
    use super::*;

    #[tokio::test]
    async fn a_size_that_a_device_could_not_take_at_a_takeover_is_told_again() {
        let (_dir, _metadata, node) = node();
        let (_world, _slot, mut serving) = serving(&node).await;
        let known = StructureNumber::new(5);
        serving.served.note_structure(known);
        serving.record.phase = Phase::Stopping;
        node.grow_taken_over(&serving, serving.served.facts.size).await;
        assert_ne!(serving.served.structure(), known);
        assert_eq!(node.warnings().len(), 1);
    }
}
