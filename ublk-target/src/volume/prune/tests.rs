//! Prunes of a served volume, against a metadata service that answers from a script.

use std::sync::Arc;

use lunar_proto::domain::{Layer, PrunedParts};
use lunar_types::{ExtentAddress, ExtentRun, Freed};

use super::*;
use crate::node::attach::serve;
use crate::reserve::ReserveDesk;
use crate::testing::unavailable;
use crate::volume::load::tests::{World, attachment, world};

struct Case {
    world: World,
    held: Attachment,
    control: Control,
}

const BELOW: LayerId = LayerId::new(1);

/// A volume with a sealed layer below its head.
async fn case() -> Case {
    let world = world();
    let mut held = attachment(1, 2);
    let (id, pool) = (held.volume.id, held.volume.head);
    held.layers = vec![
        Layer { id: pool, parent: Some(BELOW), volume: id, sealed: false },
        Layer { id: BELOW, parent: None, volume: id, sealed: true },
    ];
    let loaded = world.loader.fresh(&held).await.expect("loaded");
    let served = serve(loaded, 1).expect("started");
    let metadata = Arc::clone(&world.loader.metadata);
    let desk = Arc::new(ReserveDesk::new(Arc::clone(&metadata)));
    let luns = Arc::clone(&world.loader.luns);
    let control = Control::new(served, metadata, desk, luns);
    Case { world, held, control }
}

fn pruned(extents: &[u64], next: Option<u64>) -> PrunedParts {
    let part = |extent: &u64| PrunedPart {
        at: LogicalExtent::new(*extent),
        birth: BELOW,
        extent: Some(ExtentAddress::new(0, *extent)),
    };
    let (parts, next) = (extents.iter().map(part).collect(), next.map(LogicalExtent::new));
    PrunedParts { parts, next, ..PrunedParts::default() }
}

#[tokio::test]
async fn what_is_pruned_page_by_page_comes_into_the_reserve() {
    let case = case().await;
    case.world.metadata.expect_prune([Ok(pruned(&[30, 31], Some(40))), Ok(pruned(&[40], None))]);
    case.control.prune_locked(PAUSE).await;
    let prunes = case.world.metadata.prunes();
    let froms: Vec<u64> = prunes.iter().map(|prune| prune.from.get()).collect();
    assert_eq!(froms, [0, 40]);
    assert!(prunes.iter().all(|prune| prune.layer == case.held.volume.head));
    assert_ne!(prunes[0].request, prunes[1].request, "each page has its key");
    let volume = &case.control.served.shared.volume;
    let mut out = Vec::new();
    volume.next_work(Duration::from_secs(1), &mut out);
    assert_eq!(volume.stats().reserve_extents, 3, "nothing reads them");
}

#[tokio::test]
async fn what_a_backup_may_name_is_released_and_not_used_again() {
    let case = case().await;
    let freed = Freed::GiveBack;
    let held = PrunedParts { freed, ..pruned(&[30, 31], None) };
    case.world.metadata.expect_prune([Ok(held)]);
    case.control.prune_locked(PAUSE).await;
    let volume = &case.control.served.shared.volume;
    let mut out = Vec::new();
    volume.next_work(Duration::from_secs(1), &mut out);
    assert_eq!(volume.stats().reserve_extents, 0);
    case.control.trim_reserve().await;
    assert_eq!(case.world.metadata.released(), [ExtentRun::new(ExtentAddress::new(0, 30), 2)]);
    case.control.trim_reserve().await;
    assert_eq!(case.world.metadata.released().len(), 1, "once");
}

#[tokio::test]
async fn a_page_without_an_answer_is_asked_for_again_under_its_key() {
    let case = case().await;
    case.world.metadata.expect_prune([Err(unavailable()), Ok(pruned(&[30], None))]);
    case.control.prune_locked(PAUSE).await;
    case.control.prune_locked(PAUSE).await;
    let prunes = case.world.metadata.prunes();
    assert_eq!(prunes.len(), 2);
    assert_eq!(prunes[0], prunes[1]);
}

#[tokio::test]
async fn one_look_a_minute_and_only_when_something_became_hidden() {
    let case = case().await;
    case.world.metadata.expect_prune([Ok(pruned(&[], None)), Ok(pruned(&[], None))]);
    case.control.prune_locked(PAUSE).await;
    case.control.prune_locked(Duration::ZERO).await;
    assert_eq!(case.world.metadata.prunes().len(), 1, "nothing became hidden");
    // A merge into the head has ended: what it hides may be given back.
    let mut held = case.held.clone();
    held.layers.truncate(1);
    held.layers[0].parent = None;
    case.control.follow(&held);
    case.control.prune_locked(PAUSE).await;
    assert_eq!(case.world.metadata.prunes().len(), 1, "not so soon");
    case.control.prune_locked(Duration::ZERO).await;
    assert_eq!(case.world.metadata.prunes().len(), 2);
    case.control.follow(&held);
    case.control.prune_locked(Duration::ZERO).await;
    assert_eq!(case.world.metadata.prunes().len(), 2, "that was known");
}
