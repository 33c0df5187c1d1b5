//! Becoming a peer of a volume, and ceasing to be one.
//!
//! A peer's first device is started while it owns the volume: the kernel looks for partitions when
//! a device is started, and a device that waits would not answer it.

use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{Attachment, DetachMode, Ownership, OwnershipWish, Selector};
use lunar_proto::error::ErrorReason;
use lunar_types::{Epoch, VolumeId};
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::attach::{GivenBack, blocking, device_error, given_back};
use super::super::detach::{Detached, Force};
use super::super::steps::watched;
use super::super::{Membership, Node, NodeError, Slot, Stage, ViewState};
use super::waiting::Waiting;
use crate::metadata::{MetadataError, Terms};
use crate::state::record::{Phase, Record, Sharing};
use crate::volume::device::{self, StopMode};
use crate::volume::served::grant_of;

/// How long the other node may take to give the volume away, at an attachment or by hand.
const MOVE_LIMIT: Duration = Duration::from_secs(60);
/// How long one call waits at the service.
const WAIT: Duration = Duration::from_secs(5);
/// How long a device that waits may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

impl Node {
    /// Makes this node a peer of a volume, with a device that serves it first.
    pub(in super::super) async fn attach_shared(
        self: &Arc<Self>,
        volume: &Selector<VolumeId>,
        terms: Terms,
        member: &Membership,
    ) -> Result<Arc<Slot>, NodeError> {
        let granting = self.granting.lock().await;
        if let Some(slot) = self.slot(volume) {
            drop(granting);
            return self.served_already(slot, Sharing::Migratable, terms).await;
        }
        let added = self.metadata.add_peer(volume.clone(), member.node, terms);
        let added = watched(&volume.to_string(), "share", added).await;
        self.note_link(&added);
        let shared = added.map_err(|source| NodeError::Metadata {
            what: format!("attach volume {volume}"),
            source,
        })?;
        let mut record = Record {
            volume: shared.id,
            name: shared.name.to_string(),
            epoch: Epoch::default(),
            holder: member.node,
            device: self.next_device()?,
            token: rand::random(),
            phase: Phase::Starting,
            sharing: Sharing::Migratable,
            publication: terms.publication,
            for_file_system: false,
        };
        self.state.save_record(&record)?;
        let slot = Slot::new(&record, Stage::Vacant);
        let stage = Arc::clone(&slot.gate).lock_owned().await;
        self.add_slot(&slot);
        drop(granting);
        let brought = match self.first_grant(&slot, member).await {
            Ok(attachment) => {
                record.epoch = attachment.epoch;
                self.bring_up(&slot, record, &attachment, member).await
            }
            Err(error) => {
                self.undo(&record).await;
                Err(error)
            }
        };
        self.attached(slot, stage, brought)
    }

    async fn first_grant(
        &self,
        slot: &Arc<Slot>,
        member: &Membership,
    ) -> Result<Attachment, NodeError> {
        let begun = Instant::now();
        let mut owner = "nobody".to_owned();
        while begun.elapsed() < MOVE_LIMIT {
            let wish = OwnershipWish::Waiting;
            let asked = self.metadata.request_ownership(slot.volume, member.node, wish, WAIT);
            match asked.await {
                Ok(Ownership::Owned(attachment)) => return Ok(*attachment),
                Ok(Ownership::Waiting(holder)) => owner = format!("node '{}'", holder.node_name),
                Ok(Ownership::Unowned) => {}
                Err(source) => {
                    let what = format!("take volume '{}'", slot.name);
                    return Err(NodeError::Metadata { what, source });
                }
            }
        }
        Err(NodeError::NotMoved { volume: slot.name.clone(), owner, seconds: MOVE_LIMIT.as_secs() })
    }

    /// Takes a volume to this node whose device waits here.
    ///
    /// # Errors
    /// It is not here, not shared, or does not come within a minute.
    pub async fn move_here(&self, volume: &Selector<VolumeId>) -> Result<Arc<Slot>, NodeError> {
        let absent = || NodeError::NotAttachedHere { volume: volume.to_string() };
        let slot = self.slot(volume).ok_or_else(absent)?;
        if slot.view().record.sharing != Sharing::Migratable {
            return Err(NodeError::NotShared { volume: slot.name.clone() });
        }
        let begun = Instant::now();
        let mut is_told = false;
        while begun.elapsed() < MOVE_LIMIT {
            match slot.view().state {
                ViewState::Live | ViewState::Poisoned => return Ok(slot),
                ViewState::Waiting if !is_told => {
                    slot.moved_here.notify_one();
                    is_told = true;
                }
                _ => {}
            }
            tokio::time::sleep(LOOK).await;
        }
        let owner = slot.view().problem.unwrap_or_else(|| "not known".to_owned());
        Err(NodeError::NotMoved { volume: slot.name.clone(), owner, seconds: MOVE_LIMIT.as_secs() })
    }

    /// Detaches a volume whose device waits. With a record in the error its queues have ended.
    pub(in super::super) async fn detach_waiting(
        &self,
        slot: &Arc<Slot>,
        waiting: Waiting,
        force: Force,
    ) -> Result<Detached, (Result<Waiting, Record>, NodeError)> {
        if force == Force::No
            && let Err(error) = super::super::detach::check_unused(&waiting.record).await
        {
            return Err((Ok(waiting), error));
        }
        slot.show(|view| view.state = ViewState::Detaching);
        let mode = match force {
            Force::No => StopMode::IfUnused,
            Force::Yes => StopMode::Always,
        };
        if force == Force::Yes || waiting.shared.held() > 0 {
            // The driver waits for what is under way, and nobody answers that otherwise.
            waiting.shared.fail();
        }
        let id = waiting.record.device;
        let stopping = blocking(move || device::stop(id, mode));
        let stopped = match tokio::time::timeout(STOP_LIMIT, stopping).await {
            Ok(stopped) => stopped.map_err(device_error("stop", &slot.name)),
            Err(_) => Err(super::super::detach::stop_hangs(&waiting.record)),
        };
        if let Err(error) = stopped {
            // Queues that have begun to fail requests are no use any more.
            waiting.ask_no_more();
            let Waiting { record, queues, .. } = waiting;
            blocking(move || queues.stop()).await;
            return Err((Err(record), error));
        }
        waiting.ask_no_more();
        let Waiting { record, queues, .. } = waiting;
        blocking(move || queues.stop()).await;
        self.delete_device(&record).await;
        let is_pending = self.leave_as_peer(&record).await == GivenBack::Pending;
        if is_pending {
            self.keep_leaving(&record);
        } else {
            self.forget(&record);
        }
        self.remove_slot(slot.volume);
        info!(volume = record.name, is_pending, "detached; another node may have it still");
        Ok(Detached { is_pending, is_journal_kept: false })
    }

    /// Ends that this node is a peer, whether or not it owns the volume by a grant of which nobody
    /// here has heard.
    pub(in super::super) async fn leave_as_peer(&self, record: &Record) -> GivenBack {
        let (volume, node) = (record.volume, record.holder);
        let look = OwnershipWish::None;
        let owned = self.metadata.request_ownership(volume, node, look, Duration::ZERO).await;
        match owned {
            Ok(Ownership::Owned(attachment)) => {
                let grant = grant_of(&attachment);
                given_back(grant, self.metadata.detach(grant, DetachMode::KeepJournal).await)
            }
            Ok(Ownership::Waiting(_) | Ownership::Unowned) => {
                left(record, self.metadata.leave_peers(volume, node).await)
            }
            Err(error) => left(record, Err(error)),
        }
    }

    /// Gives up that this node is a peer of a volume of which no slot knows: the answer to an
    /// attachment was lost.
    pub(super) async fn leave_stray(&self, volume: VolumeId, member: &Membership) {
        // An attachment that has its peer and no slot yet is no stray.
        let _granting = self.granting.lock().await;
        let is_kept = self.state.load_records().unwrap_or_default();
        let is_kept = is_kept.iter().any(|record| record.volume == volume);
        if is_kept || self.slot(&Selector::Id(volume)).is_some() {
            return;
        }
        warn!(%volume, "this node is a peer of a volume that nobody here knows of: it leaves");
        let stray = Record {
            volume,
            name: volume.to_string(),
            epoch: Epoch::default(),
            holder: member.node,
            device: crate::ublk::DeviceId::new(u32::MAX),
            token: 0,
            phase: Phase::Leaving,
            sharing: Sharing::Migratable,
            publication: None,
            for_file_system: false,
        };
        self.leave_as_peer(&stray).await;
    }
}

fn left(record: &Record, answer: Result<(), MetadataError>) -> GivenBack {
    match answer {
        Ok(()) => GivenBack::Done,
        Err(error) if error.is_not_ours() || error.reason() == Some(ErrorReason::PeerNotFound) => {
            GivenBack::Done
        }
        Err(error) => {
            warn!(volume = record.name, %error, "this node leaves the volume later");
            GivenBack::Pending
        }
    }
}
