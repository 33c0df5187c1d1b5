//! Giving a volume away: from a device that serves to one that waits.
//!
//! Order: nobody has mounted the device, the service answers and knows the grant → what is dirty is
//! committed, while it serves → its queues take nothing more into the engine, and what was there is
//! answered → all is committed and flushed → the queues end, the driver has every request → what
//! came in between is committed and flushed → record says `releasing` → the service is told →
//! record says `waiting`, the dirty table goes → queues that wait.
//!
//! Up to the end of the queues a failure lets the device serve as before. After that the volume is
//! recovered as from a kill, by its record.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::{DetachMode, Ownership, OwnershipWish};
use lunar_types::Epoch;
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::attach::{blocking, grant_of_record};
use super::super::detach::holders_of;
use super::super::slot::Serving;
use super::super::{Node, Slot, Stage, UNPOISONED, ViewState};
use super::waiting::Waiting;
use crate::holders::Holder;
use crate::lun::inspect::with_causes;
use crate::metadata::{MetadataError, Release};
use crate::reserve::runs_of;
use crate::state::record::{Phase, Record, Sharing};
use crate::volume::control::{CheckpointError, Control};

/// How long requests in the engine may take to be answered, while those that come wait. The device
/// serves on after that.
const REST_LIMIT: Duration = Duration::from_secs(5);
/// How long the last commits may take.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What became of a try to give a volume away.
pub(super) enum Given {
    /// It is not this node's any more.
    Away,
    /// It is recovered: it may be this node's still.
    Lost,
    /// It serves on.
    Kept(String),
    /// Its turn is not over.
    NotYet,
    /// Its device waits: this node has not heard that it owns the volume, or does not own it.
    Waits,
    /// It is not served here, or not yet.
    NotServed,
}

enum Released {
    Waits(Waiting),
    Serves(Box<Serving>, String),
    Lost(Record, String),
}

impl Node {
    /// Gives a volume away that is served here, if its turn is over.
    pub(super) async fn give_away_once(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        wish: OwnershipWish,
    ) -> Given {
        let mut stage = Arc::clone(&slot.gate).lock_owned().await;
        let serving = match std::mem::replace(&mut *stage, Stage::Vacant) {
            Stage::Serving(serving) if serving.record.sharing == Sharing::Migratable => {
                if !is_turn_over(slot, &serving, wish) {
                    *stage = Stage::Serving(serving);
                    return Given::NotYet;
                }
                serving
            }
            other => {
                let is_waiting = matches!(other, Stage::Waiting(_));
                *stage = other;
                return if is_waiting { Given::Waits } else { Given::NotServed };
            }
        };
        match self.release(slot, serving).await {
            Released::Waits(waiting) => {
                *stage = Stage::Waiting(waiting);
                Given::Away
            }
            Released::Serves(serving, why) => {
                *stage = Stage::Serving(*serving);
                Given::Kept(why)
            }
            Released::Lost(record, why) => {
                warn!(volume = slot.name, why, "the move is carried on as after a kill");
                self.lose(slot, &mut stage, record, why);
                Given::Lost
            }
        }
    }

    async fn release(self: &Arc<Self>, slot: &Arc<Slot>, serving: Serving) -> Released {
        let begun = Instant::now();
        if let Err(why) = self.come_to_rest(slot, &serving).await {
            serving.served.shared.want_rest(false);
            return Released::Serves(Box::new(serving), why);
        }
        slot.show(|view| view.state = ViewState::Moving);
        let Serving { record, served, control, mut task, queues } = serving;
        if let Some(queues) = queues {
            blocking(move || queues.stop()).await;
        }
        task.stop().await;
        // Since the last look a copy may have ended, and requests that were owed have come.
        let settled = settle(slot, &control).await;
        control.rest().await;
        if let Err(why) = settled {
            return Released::Lost(record, why);
        }
        if !served.shared.volume.is_clean() {
            return Released::Lost(record, "something was written after the last flush".to_owned());
        }
        let mut spare = served.shared.volume.take_reserve(usize::MAX);
        spare.append(&mut served.shared.volume.take_returned());
        let (pool, spare) = (served.facts.pool, runs_of(spare));
        let last_commit = served.heads.lock().expect("a panic ends the process").last_commit;
        slot.show(|view| view.served = None);
        drop((control, task, served));
        let releasing = Record { phase: Phase::Releasing, ..record.clone() };
        if let Err(error) = self.state.save_record(&releasing) {
            return Released::Lost(record, with_causes(&error));
        }
        let (request, grant) = (fresh_request_id(), grant_of_record(&record));
        let release = Release { request, grant, mode: DetachMode::Clean, last_commit };
        if let Err(problem) = self.tell_released(release).await {
            return Released::Lost(releasing, problem.to_string());
        }
        let elapsed_ms = begun.elapsed().as_millis();
        info!(volume = record.name, epoch = %record.epoch, elapsed_ms, "released");
        let waits = self.wait_again(slot, &releasing).await;
        // They are the node's, under no epoch. If it fails they stay reserved until the next start.
        let _ = self.desk.release(record.holder, pool, spare).await;
        match waits {
            Ok(waiting) => Released::Waits(waiting),
            Err(error) => {
                let waits = Record { phase: Phase::Waiting, epoch: Epoch::default(), ..releasing };
                Released::Lost(waits, error.message())
            }
        }
    }

    /// Brings a device to rest whose volume is in the map wholly then; on an error it serves on.
    async fn come_to_rest(&self, slot: &Slot, serving: &Serving) -> Result<(), String> {
        check_poison(serving)?;
        require_unmounted(&serving.record).await?;
        // While it serves: what is left for the rest is little.
        commit(slot, &serving.control).await?;
        self.require_answer(&serving.record).await?;
        let shared = &serving.served.shared;
        shared.want_rest(true);
        let rested = tokio::time::timeout(REST_LIMIT, shared.rest.is_there()).await;
        rested.map_err(|_| "its requests do not end: a LUN or the pool keeps them".to_owned())?;
        check_poison(serving)?;
        require_unmounted(&serving.record).await?;
        settle(slot, &serving.control).await
    }

    /// Once the queues have ended, nothing is served before the service has answered.
    async fn require_answer(&self, record: &Record) -> Result<(), String> {
        let look = OwnershipWish::None;
        let asked =
            self.metadata.request_ownership(record.volume, record.holder, look, Duration::ZERO);
        match asked.await {
            Ok(Ownership::Owned(attachment)) if attachment.epoch == record.epoch => Ok(()),
            Ok(_) => Err("the metadata service knows another owner".to_owned()),
            Err(problem) => Err(problem.to_string()),
        }
    }

    /// Tells the service of a release until it answers. Nothing else may happen to the volume
    /// meanwhile: whether it is still this node's is not known.
    pub(super) async fn tell_released(&self, release: Release) -> Result<(), MetadataError> {
        let mut pause = RETRY_MIN;
        loop {
            match self.metadata.release_ownership(release).await {
                Err(problem) if problem.is_unavailable() => {
                    let volume = release.grant.volume;
                    warn!(%volume, %problem, "not known whether the volume was given away");
                }
                answer => return answer,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }
}

fn is_turn_over(slot: &Slot, serving: &Serving, wish: OwnershipWish) -> bool {
    let requests = serving.served.shared.requests();
    let is_urgent = wish == OwnershipWish::Urgent;
    slot.view().turn.is_none_or(|turn| turn.is_over(Instant::now(), requests, is_urgent))
}

/// Has everything committed that was written before the call.
async fn commit(slot: &Slot, control: &Arc<Control>) -> Result<(), String> {
    let control = Arc::clone(control);
    within_limit(slot, async move { control.checkpoint().await }).await
}

/// Has everything committed and flushed, once no more requests come in.
async fn settle(slot: &Slot, control: &Arc<Control>) -> Result<(), String> {
    let control = Arc::clone(control);
    within_limit(slot, async move { control.settle().await }).await
}

/// Waits for so long and no longer: a LUN that hangs must not keep the gate of the slot from who
/// detaches by force. What is under way is not cut off, it would go on without us; so there is one
/// at a time.
async fn within_limit(
    slot: &Slot,
    work: impl Future<Output = Result<(), CheckpointError>> + Send + 'static,
) -> Result<(), String> {
    let slow = || "its last changes were not committed in time".to_owned();
    let before = slot.settling.lock().expect(UNPOISONED).take();
    if let Some(before) = before.filter(|before| !before.is_finished()) {
        *slot.settling.lock().expect(UNPOISONED) = Some(before);
        return Err(slow());
    }
    let mut working = tokio::spawn(work);
    match tokio::time::timeout(SETTLE_LIMIT, &mut working).await {
        Ok(settled) => settled
            .expect("a commit neither panics nor is cancelled")
            .map_err(|error| with_causes(&error)),
        Err(_) => {
            *slot.settling.lock().expect(UNPOISONED) = Some(working);
            Err(slow())
        }
    }
}

/// One that takes no more writes keeps what it has: a flush that was set aside would be answered on
/// the other node, for writes that are lost.
fn check_poison(serving: &Serving) -> Result<(), String> {
    match serving.served.shared.volume.poison() {
        Some(why) => Err(format!("it takes no more writes ({why}): detach it here")),
        None => Ok(()),
    }
}

/// The page cache of a file system knows nothing of another node's writes, and its late writes
/// would undo them.
async fn require_unmounted(record: &Record) -> Result<(), String> {
    let id = record.device;
    let found = blocking(move || holders_of(id)).await;
    let found = found.map_err(|error| format!("who uses its device is not known: {error}"))?;
    let stacked: Vec<_> = found
        .into_iter()
        .filter(|holder| !matches!(holder, Holder::Process { .. }))
        .map(|holder| holder.to_string())
        .collect();
    match stacked.is_empty() {
        true => Ok(()),
        false => Err(format!("{} is {}", id.block_path(), stacked.join(", "))),
    }
}
