//! What a killed predecessor has left of a move, or a move of this process that went wrong.

use std::sync::Arc;
use std::time::Duration;

use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::{Attachment, DetachMode, Ownership, OwnershipWish};
use lunar_proto::error::ErrorReason;
use tracing::warn;

use super::super::attach::GivenBack;
use super::super::recover::Outcome;
use super::super::{Node, NodeError, Slot};
use crate::metadata::{MetadataError, Release};
use crate::state::record::{Phase, Record};
use crate::volume::device::DeviceError;
use crate::volume::served::grant_of;

impl Node {
    /// Recovers a volume that was on its way, or waited; nothing if it is to be served as any.
    pub(in super::super) async fn recover_move(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        record: &Record,
    ) -> Option<Outcome> {
        if !matches!(record.phase, Phase::Waiting | Phase::Taking | Phase::Releasing) {
            return None;
        }
        let look = OwnershipWish::None;
        let asked =
            self.metadata.request_ownership(record.volume, record.holder, look, Duration::ZERO);
        let owned = match asked.await {
            Ok(Ownership::Owned(attachment)) => Some(*attachment),
            Ok(Ownership::Waiting(_) | Ownership::Unowned) => None,
            Err(error) if error.is_not_ours() || is_no_peer(&error) => {
                return Some(self.discard(record, &error.to_string()).await);
            }
            Err(source) => return Some(Outcome::Later(look_failed(record, source))),
        };
        if let Some(owned) = owned {
            if record.phase == Phase::Releasing && owned.epoch == record.epoch {
                // It was not given away: nothing of it was told, or nothing has arrived.
                return None;
            }
            if let Err(error) = self.give_back_unserved(record, &owned).await {
                return Some(Outcome::Later(error));
            }
        }
        Some(match self.wait_again(slot, record).await {
            Ok(waiting) => Outcome::Waits(waiting),
            Err(NodeError::Device { source: DeviceError::NotLive { .. }, .. }) => {
                self.leave_without_device(record).await
            }
            Err(error) => Outcome::Later(error),
        })
    }

    /// Gives a grant back under which nothing was written. The next request asks for it anew.
    async fn give_back_unserved(
        &self,
        record: &Record,
        owned: &Attachment,
    ) -> Result<(), NodeError> {
        let release = |mode| Release {
            request: fresh_request_id(),
            grant: grant_of(owned),
            mode,
            last_commit: owned.last_commit,
        };
        // Its journal is empty, and stays with the volume that way.
        let mut answer = self.metadata.release_ownership(release(DetachMode::Clean)).await;
        let has_stale = |error: &MetadataError| error.reason() == Some(ErrorReason::StaleJournals);
        if answer.as_ref().is_err_and(has_stale) {
            answer = self.metadata.release_ownership(release(DetachMode::KeepJournal)).await;
        }
        match answer {
            Err(error) if !error.is_not_ours() => {
                let what = format!("give volume '{}' back", record.name);
                Err(NodeError::Metadata { what, source: error })
            }
            _ => Ok(()),
        }
    }

    /// Somebody has removed the device: nothing is left to wait for.
    async fn leave_without_device(&self, record: &Record) -> Outcome {
        warn!(volume = record.name, device = %record.device, "its device is gone: it is detached");
        if self.leave_as_peer(record).await == GivenBack::Pending {
            self.keep_leaving(record);
        } else {
            self.forget(record);
        }
        Outcome::Removed
    }
}

fn is_no_peer(error: &MetadataError) -> bool {
    error.reason() == Some(ErrorReason::PeerNotFound)
}

fn look_failed(record: &Record, source: MetadataError) -> NodeError {
    NodeError::Metadata { what: format!("ask who owns volume '{}'", record.name), source }
}
