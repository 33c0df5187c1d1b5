//! The desk against a service that has a given number of extents.

use lunar_proto::error::{ErrorReport, Facts};
use lunar_types::{Incarnation, NodeId};

use super::*;
use crate::testing::{FakeMetadata, unavailable};

const POOL: PoolId = PoolId::from_u128(1);
const NODE: NodeIncarnation =
    NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) };

struct Holder {
    volume: VolumeId,
    extents: Mutex<Vec<ExtentAddress>>,
    starving: bool,
}

impl ReserveHolder for Holder {
    fn volume(&self) -> VolumeId {
        self.volume
    }

    fn pool(&self) -> PoolId {
        POOL
    }

    fn spare(&self) -> u64 {
        self.extents.lock().expect("not poisoned").len() as u64
    }

    fn is_starving(&self) -> bool {
        self.starving
    }

    fn take(&self, count: usize) -> Vec<ExtentAddress> {
        let mut extents = self.extents.lock().expect("not poisoned");
        let keep = extents.len().saturating_sub(count);
        extents.split_off(keep)
    }
}

fn holder(volume: u128, extents: u64, starving: bool) -> Arc<dyn ReserveHolder> {
    let extents = (0..extents).map(|at| ExtentAddress::new(1, at)).collect();
    Arc::new(Holder { volume: VolumeId::from_u128(volume), extents: Mutex::new(extents), starving })
}

fn full() -> MetadataError {
    MetadataError::Refused(ErrorReport {
        reason: ErrorReason::PoolFull,
        message: "pool 'a' is full".to_owned(),
        facts: Facts::new(),
    })
}

fn desk(metadata: &Arc<FakeMetadata>) -> ReserveDesk {
    ReserveDesk::new(Arc::clone(metadata) as Arc<dyn Metadata>)
}

fn run(lun: u16, first: u64, count: u32) -> ExtentRun {
    ExtentRun::new(ExtentAddress::new(lun, first), count)
}

#[tokio::test]
async fn a_large_refill_takes_several_calls_and_what_there_is() {
    let metadata = Arc::new(FakeMetadata::default());
    metadata.expect_reserve([Ok(vec![run(0, 0, 1024)]), Ok(vec![run(0, 1024, 300)]), Err(full())]);
    let asking = holder(1, 0, false);
    let refill = desk(&metadata).refill(NODE, &*asking, 2000).await;
    assert_eq!(refill, Refill::Extents(vec![run(0, 0, 1024), run(0, 1024, 300)]));
    assert_eq!(metadata.reserve_counts(), [1024, 976, 676]);
}

#[tokio::test]
async fn a_full_pool_takes_half_of_the_richest_neighbour_before_it_is_full() {
    let metadata = Arc::new(FakeMetadata::default());
    let desk = desk(&metadata);
    let (asking, poor, rich) = (holder(1, 0, false), holder(2, 3, false), holder(3, 9, false));
    for one in [&asking, &poor, &rich] {
        desk.enlist(one);
    }
    metadata.expect_reserve([Err(full()), Err(full())]);
    let Refill::Extents(runs) = desk.refill(NODE, &*asking, 64).await else {
        panic!("the neighbour had nine")
    };
    assert_eq!((extent_count(&runs), rich.spare(), poor.spare()), (4, 5, 3));
    let content = holder(4, 1, true);
    assert_eq!(desk.refill(NODE, &*content, 64).await, Refill::PoolFull);
}

#[tokio::test]
async fn the_last_extent_goes_only_to_a_request_that_waits() {
    let metadata = Arc::new(FakeMetadata::default());
    let desk = desk(&metadata);
    let neighbour = holder(2, 1, false);
    desk.enlist(&neighbour);
    metadata.expect_reserve([Err(full()), Err(full()), Err(full())]);
    let idle = holder(1, 0, false);
    assert_eq!(desk.refill(NODE, &*idle, 64).await, Refill::PoolFull);
    let starving = holder(3, 0, true);
    assert_eq!(desk.refill(NODE, &*starving, 64).await, Refill::Extents(vec![run(1, 0, 1)]));
    assert_eq!(desk.refill(NODE, &*starving, 64).await, Refill::PoolFull);
}

#[tokio::test]
async fn an_absent_service_is_not_a_full_pool() {
    let metadata = Arc::new(FakeMetadata::default());
    let desk = desk(&metadata);
    let neighbour = holder(2, 100, false);
    desk.enlist(&neighbour);
    metadata.expect_reserve([Err(unavailable())]);
    let starving = holder(1, 0, true);
    let refill = desk.refill(NODE, &*starving, 64).await;
    assert_eq!(refill, Refill::Unavailable(unavailable()));
    assert_eq!(neighbour.spare(), 100);
}

#[tokio::test]
async fn what_no_dirty_table_uses_is_in_quarantine_until_it_is_lifted() {
    let metadata = Arc::new(FakeMetadata::default());
    let desk = desk(&metadata);
    let reserved = vec![PoolReservation { pool: POOL, runs: vec![run(0, 0, 4), run(1, 7, 2)] }];
    let used = BTreeSet::from([ExtentAddress::new(0, 1), ExtentAddress::new(1, 8)]);
    desk.quarantine(reserved);
    desk.exempt(POOL, &used);
    desk.exempt(PoolId::from_u128(9), &used);
    assert_eq!(desk.quarantined(), BTreeMap::from([(POOL, 4)]));
    desk.lift_quarantine(NODE).await;
    assert!(desk.quarantined().is_empty());
    assert_eq!(metadata.released(), [run(0, 0, 1), run(0, 2, 2), run(1, 7, 1)]);
}

#[tokio::test]
async fn what_the_service_hands_out_is_not_in_quarantine_any_more() {
    let metadata = Arc::new(FakeMetadata::default());
    let desk = desk(&metadata);
    desk.quarantine(vec![PoolReservation { pool: POOL, runs: vec![run(0, 0, 8)] }]);
    metadata.expect_reserve([Ok(vec![run(0, 2, 2)])]);
    let asking = holder(1, 0, false);
    assert_eq!(desk.refill(NODE, &*asking, 2).await, Refill::Extents(vec![run(0, 2, 2)]));
    desk.lift_quarantine(NODE).await;
    assert_eq!(metadata.released(), [run(0, 0, 2), run(0, 4, 4)]);
}

#[tokio::test]
async fn a_release_whose_answer_was_lost_is_never_repeated() {
    let metadata = Arc::new(FakeMetadata::default());
    let desk = desk(&metadata);
    desk.quarantine(vec![PoolReservation { pool: POOL, runs: vec![run(0, 0, 4)] }]);
    metadata.expect_release([Err(unavailable())]);
    for _ in 0..2 {
        desk.lift_quarantine(NODE).await;
    }
    assert!(desk.quarantined().is_empty());
    assert_eq!(metadata.released(), [run(0, 0, 4)], "asked for once");
}

#[test]
fn neighbours_are_joined_within_a_lun_only() {
    let extents = [(0, 3), (0, 1), (0, 2), (1, 4), (1, 6)];
    let runs = runs_of(extents.map(|(lun, at)| ExtentAddress::new(lun, at)));
    assert_eq!(runs, [run(0, 1, 3), run(1, 4, 1), run(1, 6, 1)]);
}
