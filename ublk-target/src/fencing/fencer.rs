//! Cuts a victim off from a LUN: the array takes its key away and aborts its commands.
//!
//! Invariants (F4):
//! - an attempt is begun at the service before anything is done, and ended under its number;
//! - a proof is given after the LUN has shown the own key, the reservation, and not the victim's
//!   key, in one look that began after the abort had returned;
//! - an abort that has returned is not believed of a SCSI unit: it is reset, which ends what is
//!   under way whoever sent it (attack 25). NVMe has no such command, and its abort is believed;
//! - a key that is gone without an abort or reset that was seen to its end proves nothing: what
//!   the array had taken from the victim has [`DRAIN`] to end.

use std::time::Duration;

use lunar_proto::domain::{FenceOrder, FenceProof, NodeState};
use lunar_types::RegistrationKey;
use tracing::{info, warn};

use super::{Station, StationError};
use crate::reservation::{ArrayError, Finding, Sight};

/// How long what an array has taken may take to end: D of the design.
pub(super) const DRAIN: Duration = Duration::from_secs(15);

impl Station {
    /// Carries out an order for this LUN; says what becomes of the victim.
    ///
    /// # Errors
    /// See [`StationError`]; another attempt may be made, here or elsewhere.
    pub async fn carry_out(&self, order: FenceOrder) -> Result<NodeState, StationError> {
        let FenceOrder { victim, lun } = order;
        let node = self.parts.node;
        let attempt = self.parts.metadata.begin_fence_lun(node, order).await?;
        info!(%victim, %lun, attempt = attempt.number, "cutting it off");
        let proof = self.cut_off(order, attempt.was_confirmed).await?;
        let ended = (attempt.number, proof);
        let state = self.parts.metadata.end_fence_lun(node, order, ended).await?;
        info!(%victim, %lun, %proof, %state, "cut off");
        Ok(state)
    }

    async fn cut_off(
        &self,
        order: FenceOrder,
        was_confirmed: bool,
    ) -> Result<FenceProof, StationError> {
        let (own, key) = (self.own, RegistrationKey::of(self.parts.cluster, order.victim));
        if self.standing_look().await?.count(key) > 0 {
            self.ask(move |array| array.preempt_and_abort(own, key)).await?;
            if self.has_ended(order).await {
                self.require_gone(order, key).await?;
                return Ok(FenceProof::Aborted);
            }
        } else if !was_confirmed {
            return Ok(FenceProof::NeverRegistered);
        }
        let FenceOrder { victim, lun } = order;
        info!(%victim, %lun, "its key is gone: waiting for its commands");
        tokio::time::sleep(DRAIN).await;
        self.require_gone(order, key).await?;
        Ok(FenceProof::Waited)
    }

    /// Whether what the array had taken from a victim has ended, now that its abort has returned.
    async fn has_ended(&self, order: FenceOrder) -> bool {
        let FenceOrder { victim, lun } = order;
        match self.ask(|array| array.reset()).await {
            Ok(()) | Err(ArrayError::Unsupported { .. }) => true,
            Err(problem) => {
                warn!(%victim, %lun, %problem, "its commands may not have ended");
                false
            }
        }
    }

    /// What the LUN shows, if this node stands there as it should.
    async fn standing_look(&self) -> Result<Sight, StationError> {
        let sight = self.look().await?;
        match sight.standing(self.own) {
            Finding::Ready => Ok(sight),
            finding => Err(StationError::Finding(finding)),
        }
    }

    async fn require_gone(
        &self,
        order: FenceOrder,
        key: RegistrationKey,
    ) -> Result<(), StationError> {
        match self.standing_look().await?.count(key) {
            0 => Ok(()),
            _ => Err(StationError::StillThere(order.victim)),
        }
    }
}
