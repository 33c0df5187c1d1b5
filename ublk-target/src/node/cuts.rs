//! Snapshots of volumes that are served here: has each member of an open set cut.
//!
//! Invariants:
//! - a cut is a change of its slot: it neither begins nor goes on beside another one;
//! - a member that is not served here, or under another grant, fails its set at once.

use std::sync::Arc;

use lunar_proto::domain::{KnownMember, MemberState, OpenMember, Selector};
use lunar_types::SnapshotSetId;
use tracing::{info, warn};

use super::attach::grant_of_record;
use super::{Membership, Node, Stage};
use crate::metadata::Grant;
use crate::volume::fsfreeze::Freezer;

impl Node {
    /// Does what there is to do for a member that this process has not heard of yet.
    pub(super) async fn take_up(&self, order: OpenMember, member: Membership) {
        match order.member.state {
            MemberState::Asked => self.cut_member(order, member).await,
            MemberState::Ready | MemberState::Paused => {
                let KnownMember { set, volume, .. } = order.member;
                let grant = Grant { volume, epoch: order.epoch, node: member.node };
                self.fail_member(grant, set, "process-changed").await;
            }
        }
    }

    /// Has a member cut, or says why it is not.
    async fn cut_member(&self, order: OpenMember, member: Membership) {
        let KnownMember { set, volume, .. } = order.member;
        let grant = Grant { volume, epoch: order.epoch, node: member.node };
        let Some(slot) = self.slot(&Selector::Id(volume)) else {
            return self.fail_member(grant, set, "not-served").await;
        };
        let stage = Arc::clone(&slot.gate).lock_owned().await;
        let Stage::Serving(serving) = &*stage else {
            return self.fail_member(grant, set, "not-served").await;
        };
        if grant_of_record(&serving.record) != grant {
            return self.fail_member(grant, set, "other-grant").await;
        }
        info!(volume = slot.name, %set, "a snapshot is asked for");
        let freezer = Freezer::new(Arc::clone(&self.state), serving.record.clone());
        serving.control.cut(&order, &freezer).await;
    }

    async fn fail_member(&self, grant: Grant, set: SnapshotSetId, why: &'static str) {
        warn!(volume = %grant.volume, %set, why, "not cut: the set is aborted");
        if let Err(error) = self.metadata.member_failed(grant, set, why).await {
            warn!(volume = %grant.volume, %set, %error, "the set ends by itself");
        }
    }
}
