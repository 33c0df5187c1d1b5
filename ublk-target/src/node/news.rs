//! Hears from the metadata service what there is to do for this node: members of open sets, volumes
//! whose chain or size has changed, victims that it is to cut off, volumes that another node
//! wants, and what it is to give back.
//!
//! Invariants:
//! - a member is taken up once, however often it is told;
//! - a member that a process before this one has readied, or voted for, fails its set at once:
//!   nobody here can carry its cut on, and other snapshots of its volumes wait for the set;
//! - what could not be done is told again, after a while: nothing is asked without a pause.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::KnownMember;
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
                if taken.insert(key_of(&order.member)) {
                    let (node, order) = (Arc::clone(&self), *order);
                    tokio::spawn(async move { node.take_up(order, member).await });
                }
            }
            self.follow_orders(&news.fences);
            known.fences.clone_from(&news.fences);
            self.follow_recalls(&news.recalls);
            known.recalls.clone_from(&news.recalls);
            self.follow_peers(&news.peers, &member).await;
            known.peers.clone_from(&news.peers);
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

#[cfg(test)]
mod tests {
    use lunar_proto::domain::{Fsfreeze, LeaseTimers, MemberState, NodeNews, OpenMember, SetState};
    use lunar_types::{ClusterId, Epoch};

    use super::super::attach::tests::{HOLDER, node};
    use super::*;

    fn news(state: MemberState, set_state: SetState) -> NodeNews {
        let volume = VolumeId::from_u128(7);
        let set = SnapshotSetId::from_u128(if state == MemberState::Ready { 1 } else { 2 });
        let member = KnownMember { set, volume, set_state, state };
        let order = OpenMember { member, epoch: Epoch::new(3), fsfreeze: Fsfreeze::Auto };
        NodeNews {
            members: vec![order],
            structures: Vec::new(),
            fences: Vec::new(),
            peers: Vec::new(),
            recalls: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_member_that_another_process_has_readied_or_voted_for_fails_once() {
        let (_dir, metadata, node) = node();
        let (ready, paused) = (MemberState::Ready, MemberState::Paused);
        let (gathering, pausing) = (SetState::Gathering, SetState::Pausing);
        metadata.expect_news([
            news(ready, gathering),
            news(ready, gathering),
            news(paused, pausing),
            news(paused, pausing),
        ]);
        let member = Membership {
            node: HOLDER,
            cluster: ClusterId::from_u128(1),
            timers: LeaseTimers::DEFAULT,
            resumed: true,
            is_joining: false,
        };
        // It ends with the news: after those the service does not answer.
        let watching = Arc::new(node).watch(member);
        let _ = tokio::time::timeout(RETRY / 2, watching).await;
        assert_eq!(metadata.failures(), ["process-changed"; 2]);
    }
}
