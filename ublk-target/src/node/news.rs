//! Hears from the metadata service what there is to do for this node: members of open sets, and
//! volumes whose chain or size has changed.
//!
//! Invariants:
//! - a member is taken up once, however often it is told;
//! - what could not be done is told again, after a while: nothing is asked without a pause.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::{KnownMember, MemberState};
use lunar_types::{SnapshotSetId, VolumeId};

use super::structures::Failed;
use super::{Membership, Node};
use crate::metadata::Known;

/// Between two tries while the metadata service is away, or something could not be done.
const RETRY: Duration = Duration::from_secs(1);

impl Node {
    /// Does what there is to do, for as long as the daemon runs.
    pub async fn watch(self: Arc<Self>, member: Membership) {
        let (mut known, mut failed) = (Known::default(), Failed::default());
        let mut taken: BTreeSet<(SnapshotSetId, VolumeId)> = BTreeSet::new();
        loop {
            known.structures = self.structures(&mut failed);
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
            if !self.follow(&news.structures, &mut failed).await {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

const fn key_of(member: &KnownMember) -> (SnapshotSetId, VolumeId) {
    (member.set, member.volume)
}
