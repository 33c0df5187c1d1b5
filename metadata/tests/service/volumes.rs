//! Volumes: making, finding, listing.

use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{World, kind, name, size};

#[test]
fn a_volume_is_found_by_id_and_by_name() {
    let world = World::new();
    let pool = world.pool(8);
    let volume = world.volume("db");
    assert_eq!((volume.pool, volume.state), (pool.id, VolumeState::Ready));
    assert_eq!((volume.epoch, volume.holder.clone()), (Epoch::default(), None));
    for selector in [Selector::Id(volume.id), Selector::Name(name("db"))] {
        assert_eq!(block_on(world.service.volume(&selector)).expect("found"), volume);
    }
    let status = world.status(pool.id);
    assert_eq!((status.volumes, status.provisioned.get()), (1, 1 << 30));
    world.assert_clean();
}

#[test]
fn bad_volumes_are_refused() {
    let world = World::new();
    world.pool(8);
    world.volume("taken");
    assert_eq!(kind(world.create("taken", 4096)), ErrorReason::VolumeExists);
    let request = |pool: &str| CreateVolume {
        request: world.request(),
        name: name("v"),
        pool: Selector::Name(name(pool)),
        size: size(4096),
        logical_block_size: LogicalBlockSize::B4096,
        over_watermark: false,
    };
    let nowhere = block_on(world.service.create_volume(&request("nowhere")));
    assert_eq!(kind(nowhere), ErrorReason::PoolNotFound);
    let missing = Selector::Id(VolumeId::from_u128(1));
    assert_eq!(kind(block_on(world.service.volume(&missing))), ErrorReason::VolumeNotFound);
    let missing = Selector::Name(name("v"));
    assert_eq!(kind(block_on(world.service.volume(&missing))), ErrorReason::VolumeNotFound);
    assert_eq!(kind(world.delete(VolumeId::from_u128(1))), ErrorReason::VolumeNotFound);
    world.assert_clean();
}

#[test]
fn small_logical_blocks_need_luns_that_have_them() {
    let world = World::new();
    let lun = NewLun {
        id: LunId::from_u128(9),
        size: ByteCount::new(1 << 30),
        logical_block_size: LogicalBlockSize::B4096,
    };
    let pool = CreatePool {
        request: world.request(),
        name: name("p"),
        extent_size: ExtentSize::DEFAULT,
        luns: vec![lun],
        fencing: PoolFencing::None,
    };
    block_on(world.service.create_pool(&pool)).expect("made");
    let mut request = CreateVolume {
        request: world.request(),
        name: name("v"),
        pool: Selector::Name(name("p")),
        size: size(4096),
        logical_block_size: LogicalBlockSize::B512,
        over_watermark: false,
    };
    let refused = block_on(world.service.create_volume(&request));
    assert_eq!(kind(refused), ErrorReason::LunBlockSize);
    request.logical_block_size = LogicalBlockSize::B4096;
    block_on(world.service.create_volume(&request)).expect("4 KiB blocks fit");
}

#[test]
fn the_largest_volume_can_be_made_in_a_small_pool_and_no_larger_one() {
    let world = World::new();
    world.pool(8);
    let most = VOLUME_EXTENTS_MAX << 20;
    let volume = world.create("huge", most).expect("it is thin");
    assert_eq!(volume.size.bytes(), most);
    let refused = world.create("w", most + 4096).expect_err("no map could hold it");
    assert_eq!(refused.kind(), ErrorReason::VolumeTooLarge);
    assert!(refused.to_string().contains("larger extents"), "{refused}");
    let snapshot = world.cut(volume.id, "s").expect("cut").id;
    let larger = CloneVolume {
        request: world.request(),
        snapshot: Selector::Id(snapshot),
        name: name("c"),
        size: Some(size(most + 4096)),
        over_watermark: false,
    };
    let refused = block_on(world.service.clone_volume(&larger));
    assert_eq!(kind(refused), ErrorReason::VolumeTooLarge);
    assert_eq!(world.clone_of(snapshot, "c").expect("as large as the snapshot").size.bytes(), most);
    world.assert_clean();
}

#[test]
fn volumes_are_listed_in_pages() {
    let world = World::new();
    world.pool(8);
    let mut made: Vec<_> = (0..25).map(|n| world.volume(&format!("v{n}")).id).collect();
    made.sort();
    let (mut request, mut seen) = (PageRequest { limit: 10, token: None }, Vec::new());
    loop {
        let page = block_on(world.service.volumes(&request)).expect("a page");
        seen.extend(page.items.into_iter().map(|volume| volume.id));
        let Some(next) = page.next else { break };
        request.token = Some(next);
    }
    assert_eq!(seen, made);
}
