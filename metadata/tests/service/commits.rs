//! Commits of the map: what is checked, and where extents go.

use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{Held, MapEntry, World, hole, kind, solid};

fn case() -> Held {
    Held::since_boot(1)
}

impl Held {
    fn reserved(&self) -> Vec<ExtentAddress> {
        let page = block_on(self.world.service.reservations(self.node.node, &PageRequest::first()));
        let runs = page.expect("a page").items.into_iter().flat_map(|it| it.runs);
        runs.flat_map(|run| run.iter().collect::<Vec<_>>()).collect()
    }

    fn send(&self, commit: &CommitMap) -> Result<(), ServiceError> {
        block_on(self.world.service.commit_map(commit)).map(|_| ())
    }
}

#[test]
fn extents_move_between_the_reservation_and_the_map() {
    let case = case();
    let (world, e) = (&case.world, &case.extents);
    world.commit(&case.held, vec![solid(0, e[0]), solid(5, e[1])]).expect("mapped");
    assert_eq!(case.reserved(), e[2..]);
    world.assert_clean();
    world.commit(&case.held, vec![solid(0, e[2]), hole(5), hole(6)]).expect("replaced, unmapped");
    let mut expected = [&e[..2], &e[3..]].concat();
    expected.sort();
    assert_eq!(case.reserved(), expected);
    let map = world.map(case.held.volume.head);
    let places: Vec<_> = map.iter().map(|it| (it.at.get(), it.slot.extent())).collect();
    assert_eq!(places, [(0, Some(e[2]))]);
    world.assert_clean();
    let volume = block_on(world.service.volume(&Selector::Id(case.held.volume.id)));
    assert_eq!(volume.expect("there").mapped_extents, 1);
}

#[test]
fn one_commit_may_swap_extents_in_any_order() {
    let case = case();
    let (world, e) = (&case.world, &case.extents);
    world.commit(&case.held, vec![solid(0, e[0]), solid(1, e[1])]).expect("mapped");
    world.commit(&case.held, vec![solid(0, e[1]), solid(1, e[0])]).expect("swapped");
    world.commit(&case.held, vec![hole(0), solid(7, e[1])]).expect("moved");
    world.assert_clean();
    assert_eq!(case.reserved(), e[2..]);
}

#[test]
fn zero_slots_have_no_storage() {
    let case = case();
    let (world, e) = (&case.world, &case.extents);
    let zero =
        SlotUpdate { at: LogicalExtent::new(0), slot: Some(Slot::zero(case.pool.extent_size)) };
    world.commit(&case.held, vec![solid(0, e[0])]).expect("mapped");
    world.commit(&case.held, vec![zero.clone()]).expect("zeroed");
    assert_eq!(case.reserved(), *e);
    let map = world.map(case.held.volume.head);
    assert_eq!(map, [MapEntry { at: zero.at, slot: zero.slot.expect("a slot") }]);
    world.assert_clean();
}

#[test]
fn the_same_slots_committed_again_move_nothing() {
    let case = case();
    let e = &case.extents;
    let mut commit = case.world.commit_of(&case.held, vec![solid(0, e[0]), hole(3)]);
    commit.checkpoint = Some(JournalSeq::new(4));
    for _ in 0..3 {
        case.send(&commit).expect("committed");
        (commit.request, commit.number) = (case.world.request(), commit.number.next());
        case.world.assert_clean();
    }
    let (volume, epoch) = (case.held.volume.id, case.held.epoch);
    let facts = ResumeAttachment { volume, epoch, caller: case.node };
    let facts = block_on(case.world.service.resume_attachment(facts)).expect("held");
    assert_eq!(facts.checkpoint, JournalSeq::new(4));
}

#[test]
fn bad_commits_are_refused_and_change_nothing() {
    let case = case();
    let (world, e) = (&case.world, &case.extents);
    world.commit(&case.held, vec![solid(0, e[0])]).expect("mapped");
    let before = (world.map(case.held.volume.head), case.reserved());
    let free = ExtentAddress::new(0, 90);
    let beyond = ExtentAddress::new(0, 5000);
    let no_lun = ExtentAddress::new(9, 0);
    let journal = case.held.journal[0].first();
    let mut odd = solid(1, e[1]);
    let small = ExtentSize::from_bytes(64 << 10).expect("a size");
    odd.slot.as_mut().expect("a slot").presence = Presence::full(small);
    let mut zero = solid(1, e[1]);
    zero.slot.as_mut().expect("a slot").place = SlotPlace::Zero;
    let end = case.held.volume.size.extents(case.pool.extent_size);
    let cases = [
        (vec![solid(1, free)], ErrorReason::ExtentNotReserved),
        (vec![solid(1, beyond)], ErrorReason::ExtentNotReserved),
        (vec![solid(1, no_lun)], ErrorReason::ExtentNotReserved),
        (vec![solid(1, journal)], ErrorReason::ExtentNotReserved),
        (vec![solid(1, e[0])], ErrorReason::ExtentNotReserved),
        (vec![solid(1, e[1]), solid(2, e[1])], ErrorReason::ExtentNotReserved),
        (vec![solid(1, e[1]), hole(1)], ErrorReason::InvalidField),
        (vec![odd], ErrorReason::InvalidField),
        (vec![zero], ErrorReason::InvalidField),
        (vec![solid(end, e[1])], ErrorReason::InvalidField),
        ((0..1001).map(hole).collect(), ErrorReason::InvalidField),
    ];
    for (updates, reason) in cases {
        let text = format!("{:?}", updates.first());
        assert_eq!(kind(world.commit(&case.held, updates)), reason, "{text}");
    }
    let good = || world.commit_of(&case.held, vec![solid(1, e[1])]);
    let mut cases: Vec<(CommitMap, ErrorReason)> = Vec::new();
    cases.push((CommitMap { epoch: Epoch::new(9), ..good() }, ErrorReason::StaleEpoch));
    let other = world.node("b");
    cases.push((CommitMap { caller: other, ..good() }, ErrorReason::StaleEpoch));
    cases.push((CommitMap { layer: LayerId::new(99), ..good() }, ErrorReason::LayerNotWritable));
    let unknown = VolumeId::from_u128(1);
    cases.push((CommitMap { volume: unknown, ..good() }, ErrorReason::VolumeNotFound));
    let size_off = ExtentSize::from_bytes(2 << 20).expect("a size");
    let updates = vec![hole(1)];
    cases.push((CommitMap { extent_size: size_off, updates, ..good() }, ErrorReason::InvalidField));
    cases.push((
        CommitMap { replay_of: Some(Epoch::new(1)), ..good() },
        ErrorReason::JournalNotFound,
    ));
    for (commit, reason) in cases {
        assert_eq!(kind(case.send(&commit)), reason, "{commit:?}");
    }
    assert_eq!((world.map(case.held.volume.head), case.reserved()), before);
    world.assert_clean();
}

#[test]
fn a_checkpoint_never_falls() {
    let case = case();
    let at = |seq| {
        let checkpoint = Some(JournalSeq::new(seq));
        CommitMap { checkpoint, ..case.world.commit_of(&case.held, vec![]) }
    };
    case.send(&at(5)).expect("forward");
    case.send(&at(5)).expect("the same");
    assert_eq!(kind(case.send(&at(4))), ErrorReason::CheckpointRegression);
    case.send(&at(6)).expect("forward");
}

#[test]
fn a_stale_epoch_commit_is_rejected() {
    let case = case();
    case.world.detach(&case.held, DetachMode::Clean).expect("detached");
    let again = case.world.attach(case.held.volume.id, case.node).expect("granted");
    assert_eq!(again.epoch, Epoch::new(2));
    let late = case.world.commit(&case.held, vec![solid(0, case.extents[0])]);
    let error = late.expect_err("the grant is over");
    assert_eq!(error.kind(), ErrorReason::StaleEpoch);
    let facts = error.facts();
    assert_eq!((facts["epoch_held"].as_str(), facts["epoch_given"].as_str()), ("2", "1"));
}

#[test]
fn only_reserved_extents_are_released() {
    let case = case();
    let (world, e) = (&case.world, &case.extents);
    let pool = case.pool.id;
    world.commit(&case.held, vec![solid(0, e[0])]).expect("mapped");
    let run = |at| ExtentRun::new(at, 1);
    for runs in [
        vec![run(e[0])],
        vec![run(e[1]), run(e[1])],
        vec![run(ExtentAddress::new(0, 90))],
        vec![run(ExtentAddress::new(3, 0))],
        vec![run(case.held.journal[0].first())],
    ] {
        let refused = world.release(case.node, pool, &runs);
        assert_eq!(kind(refused), ErrorReason::ExtentNotReserved, "{runs:?}");
    }
    let other = world.node("b");
    let refused = world.release(other, pool, &[run(e[1])]);
    assert_eq!(kind(refused), ErrorReason::ExtentNotReserved);
    let many = vec![run(e[1]); 1025];
    assert_eq!(kind(world.release(case.node, pool, &many)), ErrorReason::InvalidField);
    let unknown = PoolId::from_u128(1);
    let refused = world.release(case.node, unknown, &[run(e[1])]);
    assert_eq!(kind(refused), ErrorReason::PoolNotFound);
    world.release(case.node, pool, &[run(e[1]), run(e[3])]).expect("released");
    assert_eq!(case.reserved().len(), 7);
    world.assert_clean();
    for count in [0, 1025] {
        assert_eq!(kind(world.reserve(case.node, pool, count)), ErrorReason::InvalidField);
    }
}

#[test]
fn the_largest_commit_fits_a_transaction() {
    let world = World::new();
    let extent = ExtentSize::from_bytes(16 << 20).expect("a size");
    // 1,000 extents, each in a group of its own, and as many again to replace them.
    let pool = world.pool_of("p", extent, &[1024 * 1024, 1024 * 1024]);
    let volume = world.create("v", 1 << 40).expect("made");
    let node = world.node("a");
    let held = world.attach(volume.id, node).expect("granted");
    let mut spread = Vec::new();
    for _ in 0..2 {
        let mut apart = Vec::new();
        while apart.len() < 1000 {
            let runs = world.reserve(node, pool.id, 1024).expect("there is room");
            apart.push(runs[0].first());
        }
        spread.push(apart);
    }
    let mut mixed = Presence::empty(extent);
    for block in (0..extent.blocks()).step_by(2) {
        mixed.insert(BlockRange::new(block, 1));
    }
    for extents in &spread {
        let slot = |at| Slot { presence: mixed.clone(), ..Slot::fresh(at, extent) };
        let updates = (0..).zip(extents).map(|(at, extent)| SlotUpdate {
            at: LogicalExtent::new(at),
            slot: Some(slot(*extent)),
        });
        world.commit(&held, updates.collect()).expect("it fits");
    }
    assert_eq!(world.map(volume.head).len(), 1000);
    world.assert_clean();
}

#[test]
fn a_layer_is_read_in_pages_from_anywhere() {
    let case = case();
    let e = &case.extents;
    let updates = (0..10).map(|at| solid(at * 3, e[at as usize])).collect();
    case.world.commit(&case.held, updates).expect("mapped");
    let layer = case.held.volume.head;
    let read = |from, limit| {
        let read = ReadLayer { layer, from: LogicalExtent::new(from), limit };
        let page = block_on(case.world.service.read_layer(read)).expect("a page");
        let at: Vec<_> = page.entries.iter().map(|entry| entry.at.get()).collect();
        (at, page.next.map(LogicalExtent::get))
    };
    assert_eq!(read(0, 4), (vec![0, 3, 6, 9], Some(12)));
    assert_eq!(read(12, 4), (vec![12, 15, 18, 21], Some(24)));
    assert_eq!(read(24, 4), (vec![24, 27], None));
    assert_eq!(read(25, 1000), (vec![27], None));
    assert_eq!(read(28, 1000), (vec![], None));
    let missing = ReadLayer { layer: LayerId::new(99), from: LogicalExtent::new(0), limit: 1 };
    let refused = block_on(case.world.service.read_layer(missing));
    assert_eq!(kind(refused), ErrorReason::LayerNotFound);
}
