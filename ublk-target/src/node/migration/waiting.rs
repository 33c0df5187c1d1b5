//! A device that waits while another node owns its volume.

use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{Ownership, OwnershipWish};
use lunar_proto::error::ErrorReason;
use lunar_types::Epoch;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::super::attach::{blocking, device_error};
use super::super::{Node, NodeError, Slot, Stage, ViewState};
use crate::queue::waiting::WaitingShared;
use crate::state::record::{Phase, Record};
use crate::ublk::{DeviceInfo, DeviceState};
use crate::volume::device::{self, DeviceError, QueueThreads, QueueWork, StopMode};

/// How long one call waits at the service.
const WAIT: Duration = Duration::from_secs(5);
/// Before the service is asked again that did not answer, or refused.
const RETRY: Duration = Duration::from_secs(1);
/// The longest pause of a node that was given the volume and could not serve it.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What became of asking for a volume.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// The device waits no more.
    Ended,
    /// It was not asked for, and is not this node's.
    NotOwned,
}

/// A device that waits.
pub struct Waiting {
    /// What is kept of it.
    pub record: Record,
    /// The device.
    pub info: DeviceInfo,
    /// What its queues share.
    pub shared: Arc<WaitingShared>,
    /// The threads of its queues.
    pub queues: QueueThreads,
    task: JoinHandle<()>,
}

impl Waiting {
    /// Ends the asking. The caller holds the gate of the slot, without which the task changes
    /// nothing; what it was granted meanwhile is found by who asks.
    pub fn ask_no_more(&self) {
        self.task.abort();
    }
}

impl Node {
    /// Has a device wait whose queues have ended, here or with a process that was killed.
    pub(in super::super) async fn wait_again(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        record: &Record,
    ) -> Result<Waiting, NodeError> {
        let ended = record.epoch;
        let record = Record { phase: Phase::Waiting, epoch: Epoch::default(), ..record.clone() };
        self.state.save_record(&record)?;
        if let Err(error) = self.state.remove_dirty_table(record.volume, ended) {
            warn!(volume = record.name, %error, "a leftover stays in the state directory");
        }
        let (id, token) = (record.device, record.token);
        let found = blocking(move || device::find(id, token)).await;
        let found = found.map_err(device_error("find", &record.name))?;
        let info = found.filter(|info| info.state != DeviceState::Dead);
        let gone = DeviceError::NotLive { device: id };
        let info = info.ok_or_else(|| device_error("find", &record.name)(gone))?;
        let made = WaitingShared::new(info.queues).map_err(|source| {
            let of_queue = DeviceError::Queue { queue: 0, device: id, source };
            device_error("make queues for", &record.name)(of_queue)
        });
        let shared = Arc::new(made?);
        let work = QueueWork::Wait(Arc::clone(&shared));
        let waiting = blocking(move || {
            device::begin_take_over(id)?;
            device::finish_take_over(&info, &work)
        });
        let queues = waiting.await.map_err(device_error("have wait", &record.name))?;
        slot.show(|view| {
            view.state = ViewState::Waiting;
            view.problem = None;
            view.record = record.clone();
            view.served = None;
            view.waiting = Some(Arc::clone(&shared));
        });
        forget_permits(slot).await;
        let task = {
            let (node, slot, shared) = (Arc::clone(self), Arc::clone(slot), Arc::clone(&shared));
            tokio::spawn(async move { node.want(&slot, &shared).await })
        };
        info!(volume = record.name, "its device waits");
        Ok(Waiting { record, info, shared, queues, task })
    }

    /// Waits until the volume is wanted here, then asks until it is this node's: who has asked once
    /// may have been given it, whatever he wants since.
    async fn want(self: &Arc<Self>, slot: &Arc<Slot>, shared: &Arc<WaitingShared>) {
        let mut pause = slot.backoff().min(BACKOFF_MAX);
        loop {
            let asked = async {
                tokio::time::sleep(std::mem::take(&mut pause)).await;
                shared.is_asked().await;
            };
            let wish = tokio::select! {
                () = asked => OwnershipWish::Waiting,
                () = slot.moved_here.notified() => OwnershipWish::Urgent,
                () = slot.is_said_to_own.notified() => OwnershipWish::None,
            };
            if self.ask_for(slot, wish).await == Asked::Ended {
                return;
            }
        }
    }

    /// Asks for the volume until it is this node's, or whether it is, until that is known.
    async fn ask_for(self: &Arc<Self>, slot: &Arc<Slot>, mut wish: OwnershipWish) -> Asked {
        let holder = slot.view().record.holder;
        loop {
            let wait = if wish == OwnershipWish::None { Duration::ZERO } else { WAIT };
            let asked = self.metadata.request_ownership(slot.volume, holder, wish, wait);
            let answer = tokio::select! {
                answer = asked => answer,
                () = slot.moved_here.notified() => {
                    wish = OwnershipWish::Urgent;
                    continue;
                }
            };
            self.note_link(&answer);
            let problem = match answer {
                Ok(Ownership::Owned(attachment)) => {
                    self.take_owned(slot, &attachment).await;
                    return Asked::Ended;
                }
                Ok(_) if wish == OwnershipWish::None => return Asked::NotOwned,
                Ok(Ownership::Waiting(owner)) => {
                    let name = owner.node_name;
                    format!("node '{name}' owns it under epoch {}", owner.epoch)
                }
                Ok(Ownership::Unowned) => "the other node gets it first".to_owned(),
                Err(error) if is_no_peer(error.reason()) => {
                    self.desert(slot);
                    return Asked::Ended;
                }
                Err(error) => {
                    warn!(volume = slot.name, %error, "not asked for yet");
                    tokio::time::sleep(RETRY).await;
                    error.to_string()
                }
            };
            slot.show(|view| view.problem = Some(problem));
        }
    }

    /// Ends a device that waits for a volume of which this node is no peer any more.
    fn desert(self: &Arc<Self>, slot: &Arc<Slot>) {
        let node = Arc::clone(self);
        let slot = Arc::clone(slot);
        // On a task of its own: it ends the one that asks.
        tokio::spawn(async move {
            let mut stage = Arc::clone(&slot.gate).lock_owned().await;
            match std::mem::replace(&mut *stage, Stage::Vacant) {
                Stage::Waiting(waiting) => {
                    warn!(volume = slot.name, "taken off this node: its device is removed");
                    node.end_waiting(&slot, waiting).await;
                }
                other => *stage = other,
            }
        });
    }

    /// The same, if the service says so when it is asked.
    pub(super) async fn end_if_deserted(self: &Arc<Self>, slot: &Arc<Slot>) {
        let view = slot.view();
        if view.state != ViewState::Waiting {
            return;
        }
        let (look, holder) = (OwnershipWish::None, view.record.holder);
        let asked = self.metadata.request_ownership(slot.volume, holder, look, Duration::ZERO);
        if matches!(asked.await, Err(error) if is_no_peer(error.reason())) {
            self.desert(slot);
        }
    }

    /// Removes a device that waits, and forgets it.
    async fn end_waiting(&self, slot: &Arc<Slot>, waiting: Waiting) {
        waiting.ask_no_more();
        let Waiting { record, shared, queues, .. } = waiting;
        shared.fail();
        let id = record.device;
        if let Err(error) = blocking(move || device::stop(id, StopMode::Always)).await {
            warn!(volume = record.name, %error, "the device was not stopped before it is deleted");
        }
        // Deleting may wait for the character device, which they have open.
        blocking(move || queues.stop()).await;
        self.delete_device(&record).await;
        self.forget(&record);
        self.remove_slot(slot.volume);
    }
}

/// What was wanted of the wait before this one is over.
async fn forget_permits(slot: &Slot) {
    for permit in [&slot.moved_here, &slot.is_said_to_own] {
        tokio::select! {
            biased;
            () = permit.notified() => {}
            () = std::future::ready(()) => {}
        }
    }
}

const fn is_no_peer(reason: Option<ErrorReason>) -> bool {
    matches!(reason, Some(ErrorReason::PeerNotFound | ErrorReason::VolumeNotFound))
}
