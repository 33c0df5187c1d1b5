//! Moves as far as they go without a device, against a metadata service that answers from a script.

use std::sync::Arc;

use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::{
    DetachMode, Holder, KnownPeer, LeaseTimers, Ownership, OwnershipWish, Selector,
};
use lunar_proto::error::{ErrorReason, ErrorReport, Facts};
use lunar_types::{ClusterId, CommitNumber, Epoch, VolumeId};

use super::super::attach::GivenBack;
use super::super::attach::tests::{HOLDER, node, record};
use super::super::detach::tests::serving;
use super::super::recover::Outcome;
use super::super::{Membership, Node, NodeError, Slot, Stage};
use super::release::Given;
use crate::metadata::{Grant, MetadataError, Release};
use crate::state::record::{Phase, Record, Sharing};
use crate::testing::{FakeMetadata, Said, unavailable};
use crate::volume::load::tests::attachment;

fn refused(reason: ErrorReason) -> MetadataError {
    let message = "so it is".to_owned();
    MetadataError::Refused(ErrorReport { reason, message, facts: Facts::new() })
}

fn elsewhere() -> Ownership {
    let node_name = "node-b".parse().expect("a name");
    let (node, epoch) = (HOLDER, Epoch::new(9));
    Ownership::Waiting(Holder { node, node_name, epoch, live: true, granted_at: 0 })
}

fn owned(epoch: u64) -> Ownership {
    let mut owned = attachment(1, 2);
    owned.epoch = Epoch::new(epoch);
    owned.node = HOLDER;
    Ownership::Owned(Box::new(owned))
}

fn shared(phase: Phase, epoch: u64) -> Record {
    let (epoch, sharing) = (Epoch::new(epoch), Sharing::Migratable);
    Record { phase, epoch, sharing, ..record() }
}

fn member() -> Membership {
    Membership {
        node: HOLDER,
        cluster: ClusterId::from_u128(1),
        timers: LeaseTimers::DEFAULT,
        resumed: true,
        is_joining: false,
    }
}

/// A node that has joined.
fn joined() -> (tempfile::TempDir, Arc<FakeMetadata>, Arc<Node>) {
    let (dir, metadata, node) = node();
    node.open_to_requests(member());
    (dir, metadata, Arc::new(node))
}

#[tokio::test]
async fn who_leaves_gives_back_a_grant_that_nobody_here_has_heard_of() {
    let (_dir, metadata, node) = joined();
    metadata.expect_ownership([
        Ok(owned(7)),
        Ok(elsewhere()),
        Ok(Ownership::Unowned),
        Err(refused(ErrorReason::PeerNotFound)),
        Err(unavailable()),
    ]);
    metadata.expect_leave([Ok(()), Err(unavailable())]);
    let waits = shared(Phase::Waiting, 0);
    let mut ended = Vec::new();
    for _ in 0..5 {
        ended.push(node.leave_as_peer(&waits).await);
    }
    let (done, pending) = (GivenBack::Done, GivenBack::Pending);
    assert_eq!(ended, [done, done, pending, done, pending]);
    assert_eq!(metadata.detached(), [DetachMode::KeepJournal]);
    let left = metadata.said().iter().filter(|said| matches!(said, Said::Leave(_))).count();
    assert_eq!(left, 2);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_told_again_as_the_same_until_it_is_answered() {
    let (_dir, metadata, node) = joined();
    metadata.expect_release_ownership([Err(unavailable()), Err(unavailable()), Ok(())]);
    let release = Release {
        request: fresh_request_id(),
        grant: Grant { volume: record().volume, epoch: Epoch::new(3), node: HOLDER },
        mode: DetachMode::Clean,
        last_commit: CommitNumber::new(4),
    };
    node.tell_released(release).await.expect("answered in the end");
    assert_eq!(
        metadata.said(),
        [Said::Release(release), Said::Release(release), Said::Release(release)]
    );
    metadata.expect_release_ownership([Err(refused(ErrorReason::StaleEpoch))]);
    assert!(node.tell_released(release).await.is_err(), "a refusal is an answer");
}

#[tokio::test]
async fn a_volume_that_takes_no_more_writes_is_kept() {
    let (_dir, metadata, node) = joined();
    let (_world, slot, mut serving) = serving(&node).await;
    serving.record.sharing = Sharing::Migratable;
    serving.control.give_up("a flush failed");
    *slot.gate.lock().await = Stage::Serving(serving);
    let wish = OwnershipWish::Urgent;
    let Given::Kept(why) = node.give_away_once(&slot, wish).await else { panic!("it is kept") };
    assert!(why.contains("a flush failed"), "{why}");
    assert!(matches!(*slot.gate.lock().await, Stage::Serving(_)));
    assert!(metadata.said().is_empty(), "nobody was told anything");
}

#[tokio::test]
async fn a_volume_that_a_node_has_alone_is_not_given_away() {
    let (_dir, _metadata, node) = joined();
    let (_world, slot, serving) = serving(&node).await;
    *slot.gate.lock().await = Stage::Serving(serving);
    let wish = OwnershipWish::Urgent;
    assert!(matches!(node.give_away_once(&slot, wish).await, Given::NotServed));
    assert!(matches!(*slot.gate.lock().await, Stage::Serving(_)));
}

async fn recovered(phase: Phase, answer: Result<Ownership, MetadataError>) -> Option<Outcome> {
    let (_dir, metadata, node) = joined();
    let kept = shared(phase, 3);
    node.state.save_record(&kept).expect("kept");
    let slot = Slot::new(&kept, Stage::Lost(kept.clone()));
    metadata.expect_ownership([answer]);
    let outcome = node.recover_move(&slot, &kept).await;
    let asked = metadata.said().iter().filter(|said| matches!(said, Said::Ask(_))).count();
    assert_eq!(asked > 0, phase != Phase::Live);
    outcome
}

#[tokio::test]
async fn a_release_that_has_not_arrived_is_served_on_and_any_other_move_is_not() {
    assert!(recovered(Phase::Releasing, Ok(owned(3))).await.is_none());
    assert!(recovered(Phase::Live, Ok(owned(3))).await.is_none());
    for (phase, answer) in [
        // Given away, and given back to this node since, which nobody here has heard of.
        (Phase::Releasing, owned(5)),
        (Phase::Releasing, elsewhere()),
        (Phase::Taking, owned(3)),
        (Phase::Waiting, owned(5)),
        (Phase::Waiting, Ownership::Unowned),
    ] {
        // This host has no ublk: the device is looked for, and that fails.
        let outcome = recovered(phase, Ok(answer)).await;
        assert!(matches!(outcome, Some(Outcome::Later(NodeError::Device { .. }))), "{phase:?}");
    }
}

#[tokio::test]
async fn nothing_is_done_to_a_move_while_the_service_is_away() {
    for phase in [Phase::Releasing, Phase::Taking, Phase::Waiting] {
        let outcome = recovered(phase, Err(unavailable())).await;
        assert!(matches!(outcome, Some(Outcome::Later(NodeError::Metadata { .. }))), "{phase:?}");
        for reason in [ErrorReason::NodeFenced, ErrorReason::PeerNotFound] {
            let outcome = recovered(phase, Err(refused(reason))).await;
            assert!(matches!(outcome, Some(Outcome::Removed)), "{phase:?} {reason}");
        }
    }
}

#[tokio::test]
async fn a_peer_that_no_slot_knows_of_leaves() {
    let (_dir, metadata, node) = joined();
    let (kept, stray) = (record().volume, VolumeId::from_u128(0x57A));
    let slot = Slot::new(&shared(Phase::Live, 3), Stage::Vacant);
    node.add_slot(&slot);
    metadata.expect_ownership([Ok(Ownership::Unowned)]);
    let peer = |volume| KnownPeer { volume, wish: OwnershipWish::None };
    node.follow_peers(&[peer(kept), peer(stray)], &member()).await;
    assert!(metadata.said().contains(&Said::Leave(stray)));
    assert!(!metadata.said().contains(&Said::Leave(kept)));
    assert!(node.slot(&Selector::Id(kept)).is_some());
}
