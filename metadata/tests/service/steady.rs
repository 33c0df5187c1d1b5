//! A volume of which snapshots are taken and deleted all the time.

use std::time::Duration;

use lunar_metadata::seams::block_on;
use lunar_proto::domain::*;

use crate::chains::{Shape, hold, let_go, put};
use crate::world::World;

/// Snapshots that are kept.
const KEPT: usize = 3;
/// Slots of one logical extent that show something: as many as it has blocks. 64 fit into a layer.
const LAYERS_OF_LEFT: usize = 256 / LAYER_PARTS_MAX;

/// Each round writes a few blocks, far apart, so that nothing is hidden for long, and deletes the
/// oldest snapshot. What does not fit into the layer above moves up as soon as there is room.
#[test]
fn a_chain_stays_short_whatever_the_number_of_snapshots() {
    let world = World::new();
    world.pool(4096);
    let volume = world.volume("v").id;
    let mut snapshots = Vec::new();
    let mut deepest = 0;
    for round in 0..280_u32 {
        let held = hold(&world, volume);
        deepest = deepest.max(held.layers.len());
        let block = |n: u32| (round * 97 + n * 41) % 256;
        put(&world, &held, &[(0, Shape::Blocks(block(0), 1)), (7, Shape::Blocks(block(1), 1))]);
        let_go(&world, &held);
        snapshots.push(world.cut(volume, &format!("s{round}")).expect("the chain is not too deep"));
        if snapshots.len() > KEPT {
            world.delete_snapshot(snapshots.remove(0).id).expect("it begins");
        }
        world.settle();
        world.clock.advance(Duration::from_secs(1));
    }
    // The head, what is kept, and what is left of dropped layers.
    let most = 1 + KEPT + LAYERS_OF_LEFT + 2;
    assert!(deepest <= most, "{deepest} layers, {most} are enough");
    world.assert_clean();
    for snapshot in snapshots {
        world.delete_snapshot(snapshot.id).expect("it begins");
    }
    block_on(
        world.service.delete_volume(&DeleteVolume {
            request: world.request(),
            volume: Selector::Id(volume),
        }),
    )
    .expect("it begins");
    world.settle();
    world.assert_clean();
}
