//! Grants and what is kept of them, against a metadata service that answers from a script.

use lunar_proto::domain::{LeaseTimers, NodeState, PoolReservation, Renewed};
use lunar_proto::error::{ErrorReport, Facts};
use lunar_types::{
    BootId, ClusterId, Epoch, ExtentAddress, ExtentRun, Incarnation, NodeId, NodeIncarnation,
    PoolId, VolumeSize,
};

use super::super::membership::LeaseLost;
use super::*;
use crate::config::{HostFacts, Settings};
use crate::process::ProcessFacts;
use crate::state::node::NodeState as KeptState;
use crate::state::tests::state;
use crate::testing::{FakeMetadata, unavailable};
use crate::volume::load::tests::{attachment, world};

pub(crate) const HOLDER: NodeIncarnation =
    NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(2) };

pub(crate) fn node() -> (tempfile::TempDir, Arc<FakeMetadata>, Node) {
    let (dir, state) = state();
    let metadata = Arc::new(FakeMetadata::default());
    let host = HostFacts { host_name: "node-a".to_owned(), processors: 2 };
    let config = Settings::default().validate(&host).expect("defaults are valid");
    let facts = ProcessFacts { memory_lock_problem: None, oom_score_adj: 0 };
    let node = Node::new(config, facts, state, Arc::clone(&metadata) as _);
    node.kept.lock().expect("not poisoned").node = Some(KeptState {
        boot: BootId::from_u128(1),
        cluster: ClusterId::from_u128(1),
        node: HOLDER,
        left_journals: Vec::new(),
        next_device: 900_000,
    });
    (dir, metadata, node)
}

pub(crate) fn record() -> Record {
    Record {
        volume: VolumeId::from_u128(7),
        name: "data".to_owned(),
        epoch: Epoch::new(3),
        holder: HOLDER,
        device: DeviceId::new(900_000),
        token: 1,
        phase: Phase::Starting,
        sharing: Sharing::Alone,
        publication: None,
        for_file_system: false,
    }
}

#[tokio::test]
async fn a_grant_with_stale_journals_is_given_back_with_them() {
    let (_dir, metadata, node) = node();
    let stale = MetadataError::Refused(ErrorReport {
        reason: ErrorReason::StaleJournals,
        message: "epoch 2 waits to be replayed".to_owned(),
        facts: Facts::new(),
    });
    metadata.expect_detach([Err(stale), Ok(())]);
    let grant = grant_of_record(&record());
    assert_eq!(node.give_back_unused(grant).await, GivenBack::Done);
    assert_eq!(metadata.detached(), [DetachMode::Clean, DetachMode::KeepJournal]);
}

#[tokio::test]
async fn a_process_that_was_taken_over_stops_as_for_a_lost_lease() {
    let (_dir, metadata, node) = node();
    let soon = Duration::from_millis(1);
    let timers = LeaseTimers { renew: soon, ..LeaseTimers::DEFAULT };
    let renewed = Renewed { state: NodeState::Active, timers, lun_generation: 1 };
    let reasons =
        [ErrorReason::StaleSession, ErrorReason::NodeFenced, ErrorReason::RestoreNotCertified];
    for reason in reasons {
        let message = "a later fs-core process of this node has taken over".to_owned();
        let report = ErrorReport { reason, message, facts: Facts::new() };
        let lost = MetadataError::Refused(report);
        metadata.expect_heartbeat([Ok(renewed), Err(unavailable()), Ok(renewed), Err(lost)]);
        let member = Membership {
            node: HOLDER,
            cluster: ClusterId::from_u128(1),
            timers,
            resumed: false,
            is_joining: false,
        };
        let is_over = reason == ErrorReason::NodeFenced;
        let why = match node.renew_lease(member).await {
            LeaseLost::Over(why) if is_over => why,
            LeaseLost::Superseded(why) if !is_over => why,
            other => panic!("{reason}: {other:?}"),
        };
        assert!(why.contains("has taken over"), "{why}");
        assert_eq!(metadata.heartbeats_left(), 0);
    }
}

#[tokio::test]
async fn a_grant_that_cannot_be_given_back_now_is_kept_until_it_can() {
    let (_dir, metadata, node) = node();
    node.state.save_record(&record()).expect("saved");
    metadata.expect_detach([Err(unavailable())]);
    node.undo(&record()).await;
    let pending = node.pending_detaches();
    assert_eq!(pending, [Record { phase: Phase::Leaving, ..record() }]);
    node.undo(&record()).await;
    assert!(node.pending_detaches().is_empty());
}

#[tokio::test]
async fn a_device_has_the_size_of_the_attachment_that_loading_has_left() {
    let (_dir, _metadata, node) = node();
    let world = world();
    let granted = attachment(1, 2);
    let mut loaded = world.loader.fresh(&granted).await.expect("loaded");
    // As a look-up after the seal of a replay finds it, when the volume has grown since the grant.
    let grown = VolumeSize::from_bytes(granted.volume.size.bytes() * 2).expect("aligned");
    loaded.attachment.volume.size = grown;
    let shape = node.device_shape(&loaded);
    let served = serve(loaded, 1).expect("started");
    assert_eq!((shape.size, served.facts.size), (grown, grown));
}

/// The epochs of volume 7 that an attachment replays, when epochs 3 and 4 were left here; gives
/// what goes back to the service when the quarantine ends.
async fn released_after(replayed: &[u64]) -> Vec<ExtentRun> {
    let (_dir, metadata, node) = node();
    let runs = vec![ExtentRun::new(ExtentAddress::new(0, 5), 3)];
    node.desk.quarantine(vec![PoolReservation { pool: PoolId::from_u128(1), runs }]);
    for epoch in [3, 4] {
        let grant = Grant { volume: record().volume, epoch: Epoch::new(epoch), node: HOLDER };
        node.note_journal_left(grant).expect("kept");
    }
    let replayed = replayed.iter().copied().map(Epoch::new).collect();
    node.note_replayed(record().volume, &replayed).expect("kept");
    assert!(!node.has_left_journals());
    node.desk.lift_quarantine(HOLDER).await;
    metadata.released()
}

#[tokio::test]
async fn quarantine_is_given_back_only_if_every_left_journal_was_replayed_here() {
    let all = [ExtentRun::new(ExtentAddress::new(0, 5), 3)];
    assert_eq!(released_after(&[3, 4]).await, all);
    assert_eq!(released_after(&[2, 3, 4, 5]).await, all);
    // Another node has replayed one or both: what they named may be anybody's by now.
    assert_eq!(released_after(&[4]).await, []);
    assert_eq!(released_after(&[]).await, []);
}
