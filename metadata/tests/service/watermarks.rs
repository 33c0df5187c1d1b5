//! Watermarks: what begins in a full pool, what never is refused, and who hears of it.

use std::time::Duration;

use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{World, kind, name, size};

const GIB: u64 = 1 << 30;
const COUNT_AGE: Duration = Duration::from_secs(10);

fn by_name<T>(text: &str) -> Selector<T> {
    Selector::Name(name(text))
}

fn set(world: &World, marks: [Option<u8>; 3]) -> SetWatermarks {
    let [warning, high, critical] = marks;
    SetWatermarks { request: world.request(), pool: by_name("p"), warning, high, critical }
}

fn create(world: &World, volume: &str, over_watermark: bool) -> CreateVolume {
    CreateVolume {
        request: world.request(),
        name: name(volume),
        pool: by_name("p"),
        size: size(GIB),
        logical_block_size: LogicalBlockSize::B4096,
        over_watermark,
    }
}

fn made(world: &World, volume: &str) -> Result<Volume, ServiceError> {
    block_on(world.service.create_volume(&create(world, volume, false)))
}

fn clone_of(world: &World, over_watermark: bool) -> CloneVolume {
    let (request, snapshot) = (world.request(), by_name("s"));
    let name = name(if over_watermark { "c2" } else { "c1" });
    CloneVolume { request, snapshot, name, size: None, over_watermark }
}

fn cut(world: &World, over_watermark: bool) -> CreateSnapshots {
    let members = vec![NewMember { volume: by_name("v"), cut: NewCut::Snapshot(name("t")) }];
    CreateSnapshots {
        request: world.request(),
        members,
        created_unix_seconds: 0,
        fsfreeze: Fsfreeze::Never,
        over_watermark,
        group: None,
    }
}

fn grow(world: &World, over_watermark: bool) -> GrowVolume {
    let (request, volume) = (world.request(), by_name("v"));
    GrowVolume { request, volume, size: size(2 * GIB), over_watermark }
}

/// Reserves so many extents, which may lie apart.
fn reserve(world: &World, pool: &Pool, node: NodeSession, count: u32) -> Vec<ExtentRun> {
    let runs = world.reserve(node, pool.id, count).expect("so many are free");
    assert_eq!(runs.iter().map(|run| run.count()).sum::<u32>(), count);
    runs
}

fn release(world: &World, pool: &Pool, caller: NodeSession, runs: Vec<ExtentRun>) {
    let (request, pool) = (world.request(), pool.id);
    let give = ReleaseExtents { request, caller, pool, runs };
    block_on(world.service.release_extents(&give)).expect("they are reserved");
}

/// A pool of 99 usable extents, a volume `v` and its snapshot `s`; nothing is used.
fn world() -> (World, Pool, NodeSession) {
    let world = World::new();
    let pool = world.pool(100);
    let volume = world.volume("v").id;
    world.cut(volume, "s").expect("cut");
    let node = world.node("n");
    (world, pool, node)
}

#[test]
fn above_the_critical_mark_nothing_begins_unless_one_insists() {
    let (world, pool, node) = world();
    reserve(&world, &pool, node, 94);
    let status = world.status(pool.id);
    assert_eq!((status.fill.used_extents, status.fill.usable_extents), (94, 99));
    assert_eq!(status.level(), WatermarkLevel::High);
    world.clock.advance(COUNT_AGE);
    block_on(world.service.create_volume(&create(&world, "w", false))).expect("below the mark");
    reserve(&world, &pool, node, 1);
    world.clock.advance(COUNT_AGE);
    assert_eq!(world.status(pool.id).level(), WatermarkLevel::Critical);
    let service = &world.service;
    let refused = block_on(service.create_volume(&create(&world, "x", false)));
    let refused = refused.expect_err("95 of 99 are used");
    assert_eq!(refused.kind(), ErrorReason::PoolWatermark);
    assert_eq!(refused.facts()["used_percent"], "95");
    assert_eq!(refused.facts()["critical_percent"], "95");
    assert!(refused.to_string().contains("--over-watermark"), "{refused}");
    let full = ErrorReason::PoolWatermark;
    assert_eq!(kind(block_on(service.clone_volume(&clone_of(&world, false)))), full);
    assert_eq!(kind(block_on(service.create_snapshots(&cut(&world, false)))), full);
    assert_eq!(kind(block_on(service.grow_volume(&grow(&world, false)))), full);
    block_on(service.create_volume(&create(&world, "x", true))).expect("insisted");
    block_on(service.clone_volume(&clone_of(&world, true))).expect("insisted");
    block_on(service.create_snapshots(&cut(&world, true))).expect("insisted");
    block_on(service.grow_volume(&grow(&world, true))).expect("insisted");
    world.assert_clean();
}

#[test]
fn what_runs_and_what_makes_room_is_never_refused() {
    let (world, pool, node) = world();
    reserve(&world, &pool, node, 95);
    world.clock.advance(COUNT_AGE);
    assert_eq!(kind(made(&world, "w")), ErrorReason::PoolWatermark);
    reserve(&world, &pool, node, 3);
    let volume = block_on(world.service.volume(&by_name("v"))).expect("there").id;
    let held = world.attach(volume, node).expect("attached");
    world.detach(&held, DetachMode::Clean).expect("detached");
    let (request, snapshot) = (world.request(), by_name("s"));
    let back = RollbackVolume { request, volume: Selector::Id(volume), snapshot };
    block_on(world.service.rollback_volume(&back)).expect("rolled back");
    let snapshot = block_on(world.service.snapshot(&by_name("s"))).expect("there").id;
    world.delete_snapshot(snapshot).expect("deleted");
    world.delete(volume).expect("deleted");
    world.assert_clean();
}

#[test]
fn a_refusal_is_by_a_fresh_count_and_a_repeated_request_is_never_refused() {
    let (world, pool, node) = world();
    let asked = create(&world, "w", false);
    let volume = block_on(world.service.create_volume(&asked)).expect("made");
    let runs = reserve(&world, &pool, node, 95);
    world.clock.advance(COUNT_AGE);
    assert_eq!(kind(made(&world, "x")), ErrorReason::PoolWatermark);
    let again = block_on(world.service.create_volume(&asked)).expect("it was done before");
    assert_eq!(again.id, volume.id);
    release(&world, &pool, node, runs);
    made(&world, "x").expect("there is room, which no clock has to tell");
}

#[test]
fn watermarks_are_set_one_by_one_and_stay_in_order() {
    let (world, pool, _) = world();
    assert_eq!(pool.watermarks, Watermarks::DEFAULT);
    let set_to = |marks| block_on(world.service.set_watermarks(&set(&world, marks)));
    let found = set_to([None, None, Some(99)]).expect("in order").watermarks;
    assert_eq!(found, Watermarks::new(80, 90, 99).expect("in order"));
    let found = set_to([Some(10), Some(20), Some(30)]).expect("in order").watermarks;
    assert_eq!(found, Watermarks::new(10, 20, 30).expect("in order"));
    for marks in [[Some(21), None, None], [None, Some(31), None], [None, None, Some(101)]] {
        assert_eq!(kind(set_to(marks)), ErrorReason::InvalidField, "{marks:?}");
    }
    assert_eq!(block_on(world.service.pool(&by_name("p"))).expect("there").watermarks, found);
    let nowhere = SetWatermarks { pool: by_name("q"), ..set(&world, [Some(1), None, None]) };
    let refused = block_on(world.service.set_watermarks(&nowhere));
    assert_eq!(kind(refused), ErrorReason::PoolNotFound);
    world.assert_clean();
}

#[test]
fn a_crossing_is_told_once_and_downwards_only_well_below_the_mark() {
    use WatermarkLevel::{Critical, High, Normal, Warning};
    let (world, pool, node) = world();
    let look = || {
        world.clock.advance(COUNT_AGE);
        let crossings = block_on(world.service.watch_watermarks()).expect("counted");
        crossings.into_iter().map(|it| (it.from, it.to)).collect::<Vec<_>>()
    };
    assert_eq!(look(), []);
    let most = reserve(&world, &pool, node, 79);
    let last = reserve(&world, &pool, node, 1);
    assert_eq!(look(), [(Normal, Warning)], "80 of 99 are 80.8 percent");
    assert_eq!(look(), []);
    release(&world, &pool, node, last);
    assert_eq!(look(), [], "79.8 percent");
    let more = reserve(&world, &pool, node, 16);
    assert_eq!(block_on(world.service.watch_watermarks()).expect("too early"), []);
    assert_eq!(look(), [(Warning, Critical)], "95 of 99");
    release(&world, &pool, node, more);
    assert_eq!(look(), [(Critical, Warning)], "79.8 percent");
    let some = reserve(&world, &pool, node, 11);
    assert_eq!(look(), [(Warning, High)], "90 of 99");
    release(&world, &pool, node, some);
    release(&world, &pool, node, most);
    assert_eq!(look(), [(High, Normal)]);
}
