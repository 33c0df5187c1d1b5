//! Snapshots of volumes that are served here: hears of open sets, and has each member cut.
//!
//! Invariants:
//! - a cut is a change of its slot: it neither begins nor goes on beside another one;
//! - a member that is not served here, or under another grant, fails its set at once;
//! - a member is taken up once, however often it is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{KnownMember, MemberState, OpenMember, Selector};
use lunar_types::{SnapshotSetId, VolumeId};
use tracing::{info, warn};

use super::attach::grant_of_record;
use super::{Membership, Node, Stage};
use crate::metadata::{Grant, Known};
use crate::volume::fsfreeze::Freezer;

/// Between two tries while the metadata service is away.
const RETRY: Duration = Duration::from_secs(1);

impl Node {
    /// Takes part in snapshots, for as long as the daemon runs.
    pub async fn take_part_in_cuts(self: Arc<Self>, member: Membership) {
        let mut known = Known::default();
        let mut taken: BTreeSet<(SnapshotSetId, VolumeId)> = BTreeSet::new();
        loop {
            let news = match self.metadata.watch(member.node, known.clone()).await {
                Ok(news) => news,
                Err(problem) => {
                    tracing::debug!(%problem, "not known what there is to do");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let open: BTreeSet<_> = news.members.iter().map(|it| key_of(&it.member)).collect();
            taken.retain(|one| open.contains(one));
            for order in &news.members {
                if order.member.state == MemberState::Asked && taken.insert(key_of(&order.member)) {
                    let (node, order) = (Arc::clone(&self), *order);
                    tokio::spawn(async move { node.cut_member(order, member).await });
                }
            }
            known.members = news.members.iter().map(|it| it.member).collect();
        }
    }

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

const fn key_of(member: &KnownMember) -> (SnapshotSetId, VolumeId) {
    (member.set, member.volume)
}
