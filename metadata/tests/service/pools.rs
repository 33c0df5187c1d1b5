//! Pools, LUNs and their space.

use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{MIB, World, kind, lun, name};

fn create(world: &World, pool: &str, luns: Vec<NewLun>) -> CreatePool {
    let extent_size = ExtentSize::DEFAULT;
    CreatePool {
        request: world.request(),
        name: name(pool),
        extent_size,
        luns,
        fencing: PoolFencing::None,
    }
}

#[test]
fn a_pool_keeps_what_fences_it() {
    let world = World::new();
    let kinds = [PoolFencing::Reservations, PoolFencing::Lease, PoolFencing::None];
    for (id, fencing) in (1..).zip(kinds) {
        let luns = vec![lun(id, 1024 * MIB)];
        let request = CreatePool { fencing, ..create(&world, fencing.as_str(), luns) };
        let pool = block_on(world.service.create_pool(&request)).expect("made");
        let found = block_on(world.service.pool(&Selector::Id(pool.id))).expect("there");
        assert_eq!((pool.fencing, found.fencing), (fencing, fencing));
    }
}

#[test]
fn a_pool_counts_the_extents_between_the_labels() {
    let world = World::new();
    let luns = vec![lun(1, 10 * MIB), lun(2, 10 * MIB + 4096), lun(3, 3 * MIB)];
    let pool = block_on(world.service.create_pool(&create(&world, "p", luns))).expect("made");
    let extents: Vec<_> = pool.luns.iter().map(|lun| lun.data_extents).collect();
    assert_eq!(extents, [8, 8, 1]);
    let indices: Vec<_> = pool.luns.iter().map(|lun| lun.index.get()).collect();
    assert_eq!(indices, [0, 1, 2]);
    let by_name = block_on(world.service.pool(&Selector::Name(name("p"))));
    assert_eq!(by_name.expect("found"), pool);
    assert_eq!(world.status(pool.id).usage.total_extents, 17);
    world.assert_clean();
}

#[test]
fn bad_pools_are_refused() {
    let world = World::new();
    world.pool(8);
    let large = |id| NewLun { logical_block_size: LogicalBlockSize::B4096, ..lun(id, 10 * MIB) };
    let free = block_on(world.service.create_pool(&create(&world, "q", vec![lun(50, 10 * MIB)])));
    free.expect("a second pool");
    let cases = [
        (create(&world, "x", vec![]), ErrorReason::InvalidField),
        (create(&world, "p", vec![lun(1, 10 * MIB)]), ErrorReason::PoolExists),
        (create(&world, "x", vec![lun(1, 10 * MIB), lun(1, 10 * MIB)]), ErrorReason::LunInUse),
        (create(&world, "x", vec![lun(1, 10 * MIB), lun(50, 10 * MIB)]), ErrorReason::LunInUse),
        (create(&world, "x", vec![lun(1, 3 * MIB - 1)]), ErrorReason::InvalidField),
        (create(&world, "x", vec![lun(1, 0)]), ErrorReason::InvalidField),
    ];
    for (request, reason) in cases {
        let refused = kind(block_on(world.service.create_pool(&request)));
        assert_eq!(refused, reason, "{request:?}");
    }
    let add = |luns| AddLuns { request: world.request(), pool: Selector::Name(name("p")), luns };
    let cases = [
        (add(vec![]), ErrorReason::InvalidField),
        (add(vec![lun(50, 10 * MIB)]), ErrorReason::LunInUse),
        (add(vec![lun(60, 10 * MIB), lun(60, 10 * MIB)]), ErrorReason::LunInUse),
        (add(vec![large(61)]), ErrorReason::LunBlockSize),
        (add(vec![lun(62, 10 * MIB), lun(63, MIB)]), ErrorReason::InvalidField),
    ];
    for (request, reason) in cases {
        assert_eq!(kind(block_on(world.service.add_luns(&request))), reason, "{request:?}");
    }
    let unknown = Selector::Name(name("nowhere"));
    assert_eq!(kind(block_on(world.service.pool(&unknown))), ErrorReason::PoolNotFound);
    assert_eq!(world.status(world_pool(&world)).usage.total_extents, 8);
    world.assert_clean();
}

fn world_pool(world: &World) -> PoolId {
    block_on(world.service.pool(&Selector::Name(name("p")))).expect("pool p").id
}

#[test]
fn a_pool_takes_1024_luns_and_no_more() {
    let world = World::new();
    let luns: Vec<_> = (1..=1024).map(|id| lun(id, 3 * MIB)).collect();
    let too_many = [luns.clone(), vec![lun(2000, 3 * MIB)]].concat();
    let refused = kind(block_on(world.service.create_pool(&create(&world, "p", too_many))));
    assert_eq!(refused, ErrorReason::LimitReached);
    block_on(world.service.create_pool(&create(&world, "p", luns))).expect("the limit itself");
    let request = world.request();
    let pool = Selector::Name(name("p"));
    let add = AddLuns { request, pool, luns: vec![lun(2000, 3 * MIB)] };
    assert_eq!(kind(block_on(world.service.add_luns(&add))), ErrorReason::LimitReached);
    world.assert_clean();
}

#[test]
fn a_full_pool_says_so_and_takes_more_after_a_lun_is_added() {
    let world = World::new();
    let pool = world.pool(100);
    let node = world.node("n");
    let runs = world.reserve(node, pool.id, 1024).expect("what is there");
    let got: u32 = runs.iter().map(|run| run.count()).sum();
    assert_eq!(got, 99, "one extent is held back for a journal");
    assert_eq!(kind(world.reserve(node, pool.id, 1)), ErrorReason::PoolFull);
    let usage = world.status(pool.id).usage;
    assert_eq!((usage.allocated_extents, usage.reserved_extents), (99, 99));
    assert_eq!((usage.free_extents(), usage.held_back_extents), (1, 1));

    let (request, luns) = (world.request(), vec![lun(77, 12 * MIB)]);
    let grown = AddLuns { request, pool: Selector::Id(pool.id), luns };
    block_on(world.service.add_luns(&grown)).expect("it grows");
    let more = world.reserve(node, pool.id, 1024).expect("the new LUN");
    assert_eq!(more, [ExtentRun::new(ExtentAddress::new(1, 0), 10)]);
    world.assert_clean();
}

#[test]
fn a_full_pool_can_still_be_attached() {
    let world = World::new();
    let pool = world.pool(128);
    let node = world.node("n");
    let volume = world.volume("v");
    while world.reserve(node, pool.id, 1024).is_ok() {}
    let held = world.attach(volume.id, node).expect("the extents held back");
    let extents: u32 = held.journal.iter().map(|run| run.count()).sum();
    assert_eq!(extents, 2);
    let other = world.volume("w");
    assert_eq!(kind(world.attach(other.id, node)), ErrorReason::PoolFull);
    world.assert_clean();
}

#[test]
fn nodes_begin_in_groups_of_their_own() {
    let world = World::new();
    let pool = world.pool_of("p", ExtentSize::DEFAULT, &[64 * 1024, 64 * 1024]);
    let mut groups = std::collections::BTreeSet::new();
    for node in 0..16 {
        let node = world.node(&format!("n{node}"));
        let at = world.extents(node, pool.id, 8)[0];
        groups.insert((at.lun, at.extent.get() / 1024));
        let next = world.extents(node, pool.id, 8)[0];
        assert_eq!((next.lun, next.extent.get() / 1024), (at.lun, at.extent.get() / 1024));
    }
    assert!(groups.len() >= 14, "{groups:?}");
    world.assert_clean();
}

#[test]
fn pools_are_listed_in_pages() {
    let world = World::new();
    for index in 0..7 {
        world.pool_of(&format!("p{index}"), ExtentSize::DEFAULT, &[4]);
    }
    let (mut request, mut seen) = (PageRequest { limit: 3, token: None }, Vec::new());
    loop {
        let page = block_on(world.service.pools(&request)).expect("a page");
        assert!(page.items.len() <= 3);
        seen.extend(page.items.into_iter().map(|pool| pool.id));
        let Some(next) = page.next else { break };
        request.token = Some(next);
    }
    assert_eq!(seen.len(), 7);
    assert!(seen.is_sorted());
    let foreign = PageRequest { limit: 3, token: PageToken::from_bytes(b"zz".to_vec()) };
    assert_eq!(kind(block_on(world.service.pools(&foreign))), ErrorReason::InvalidField);
}
