//! Chains of layers: slots of any shape, and what a chain shows.

use std::collections::BTreeMap;

use lunar_metadata::keyspace::{KeyedTxn, OperationKey, OperationRecord};
use lunar_metadata::seams::block_on;
use lunar_metadata::service::Step;
use lunar_metadata::store::MetaStore;
use lunar_proto::domain::*;
use lunar_types::*;

use crate::world::World;

pub const SIZE: ExtentSize = ExtentSize::DEFAULT;

/// A slot to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// These blocks: the first and how many.
    Blocks(u32, u32),
    /// These blocks, and zeros elsewhere.
    Opaque(u32, u32),
    Full,
    /// An extent without any block.
    Bare,
    Zero,
}

impl Shape {
    pub fn slot(self, extent: impl FnOnce() -> ExtentAddress) -> Slot {
        if self == Self::Zero {
            return Slot::zero(SIZE);
        }
        let mut slot = Slot::fresh(extent(), SIZE);
        let (first, count) = match self {
            Self::Blocks(first, count) | Self::Opaque(first, count) => (first, count),
            Self::Full => (0, SIZE.blocks()),
            Self::Bare | Self::Zero => (0, 0),
        };
        if count > 0 {
            slot.presence.insert(BlockRange::new(first, count));
        }
        slot.opaque = matches!(self, Self::Opaque(..));
        slot
    }
}

/// Commits slots under a grant, on extents of a fresh reservation.
pub fn put<S: MetaStore>(world: &World<S>, held: &Attachment, slots: &[(u64, Shape)]) {
    let caller = world.caller_of(held);
    for part in slots.chunks(500) {
        let count = part.iter().filter(|(_, shape)| *shape != Shape::Zero).count();
        let extents = match u32::try_from(count).expect("few") {
            0 => Vec::new(),
            count => world.extents(caller, held.pool.id, count),
        };
        let mut extents = extents.into_iter();
        let update = |(at, shape): &(u64, Shape)| SlotUpdate {
            at: LogicalExtent::new(*at),
            slot: Some(shape.slot(|| extents.next().expect("enough"))),
        };
        let updates = part.iter().map(update).collect();
        world.commit(held, updates).expect("mapped");
    }
}

/// Attaches a volume by node `writer`, whose process starts anew on the same boot.
pub fn hold<S: MetaStore>(world: &World<S>, volume: VolumeId) -> Attachment {
    let known = block_on(world.service.node(&Selector::Name("writer".parse().expect("a name"))));
    let resume = known.ok().map(|node| node.incarnation.get());
    let joined = world.join_as("writer", 1, resume).expect("the node joins");
    world.attach(volume, joined.session).expect("granted")
}

/// Ends a grant, and gives back what its node has reserved.
pub fn let_go<S: MetaStore>(world: &World<S>, held: &Attachment) {
    let caller = world.caller_of(held);
    world.detach(held, DetachMode::Clean).expect("detached");
    let first = PageRequest::first();
    let reserved = block_on(world.service.reservations(held.node, &first)).expect("a page");
    for PoolReservation { pool, runs } in reserved.items {
        world.release(caller, pool, &runs).expect("released");
    }
}

/// Writes slots into the head of a volume, which is detached before and after.
pub fn write<S: MetaStore>(world: &World<S>, volume: VolumeId, slots: &[(u64, Shape)]) {
    let held = hold(world, volume);
    put(world, &held, slots);
    let_go(world, &held);
}

/// All that a layer has.
pub fn entries<S: MetaStore>(world: &World<S>, layer: LayerId) -> Vec<LayerEntry> {
    let (mut from, mut entries) = (LogicalExtent::new(0), Vec::new());
    loop {
        let read = ReadLayer { layer, from, limit: 100 };
        let page = block_on(world.service.read_layer(read)).expect("a page");
        entries.extend(page.entries);
        match page.next {
            Some(next) => from = next,
            None => return entries,
        }
    }
}

/// The births of the slots of a layer by logical extent.
pub fn births<S: MetaStore>(world: &World<S>, layer: LayerId) -> BTreeMap<u64, Vec<u64>> {
    let of = |entry: LayerEntry| {
        let own = entry.own.iter().map(|_| layer.get());
        let births = entry.parts.iter().map(|part| part.birth.get()).chain(own).collect();
        (entry.at.get(), births)
    };
    entries(world, layer).into_iter().map(of).collect()
}

/// Slots of a chain by logical extent and birth.
pub type Slots = BTreeMap<u64, BTreeMap<LayerId, Slot>>;

/// Puts what a layer has to the slots of a chain. A birth that is there is the same slot.
pub fn gather(slots: &mut Slots, layer: LayerId, entries: Vec<LayerEntry>) {
    for entry in entries {
        let own = entry.own.into_iter().map(|slot| (layer, slot));
        let parts = entry.parts.into_iter().map(|part| (part.birth, part.slot));
        slots.entry(entry.at.get()).or_default().extend(parts.chain(own));
    }
}

/// The layers of a chain, the lowest first.
pub fn chain<S: MetaStore>(world: &World<S>, top: LayerId) -> Vec<LayerId> {
    let (mut layers, mut next) = (Vec::new(), Some(top));
    while let Some(layer) = next {
        layers.push(layer);
        next = world.layer(layer).expect("it is there").parent;
    }
    layers.reverse();
    layers
}

/// Where each block is read from, none for zeros.
pub type View = BTreeMap<u64, Vec<Option<ExtentAddress>>>;

/// What slots show: of each block the youngest slot that says something of it counts.
pub fn shown(slots: &Slots) -> View {
    let block = |slots: &BTreeMap<LayerId, Slot>, block| {
        let says = |slot: &&Slot| {
            slot.opaque || slot.place == SlotPlace::Zero || slot.presence.contains(block)
        };
        let slot = slots.values().rev().find(says)?;
        if slot.presence.contains(block) { slot.extent() } else { None }
    };
    let extent = |slots: &BTreeMap<LayerId, Slot>| {
        (0..SIZE.blocks()).map(|at| block(slots, at)).collect::<Vec<_>>()
    };
    let view = slots.iter().map(|(at, slots)| (*at, extent(slots)));
    view.filter(|(_, blocks)| blocks.iter().any(Option::is_some)).collect()
}

/// What a chain shows.
pub fn view<S: MetaStore>(world: &World<S>, top: LayerId) -> View {
    let mut slots = Slots::new();
    for layer in chain(world, top) {
        gather(&mut slots, layer, entries(world, layer));
    }
    shown(&slots)
}

/// A request to prune the head of a volume from a logical extent on.
pub fn prune_from<S: MetaStore>(
    world: &World<S>,
    held: &Attachment,
    from: LogicalExtent,
) -> PruneLayer {
    PruneLayer {
        request: world.request(),
        caller: world.caller_of(held),
        volume: held.volume.id,
        epoch: held.epoch,
        layer: held.volume.head,
        from,
    }
}

/// Prunes the whole head, window by window.
pub fn prune<S: MetaStore>(world: &World<S>, held: &Attachment) -> Vec<PrunedPart> {
    let (mut from, mut pruned) = (Some(LogicalExtent::new(0)), Vec::new());
    while let Some(at) = from {
        let request = prune_from(world, held, at);
        let answer = block_on(world.service.prune_layer(&request)).expect("pruned");
        pruned.extend(answer.parts);
        from = answer.next;
    }
    pruned
}

pub fn head<S: MetaStore>(world: &World<S>, volume: VolumeId) -> LayerId {
    block_on(world.service.volume(&Selector::Id(volume))).expect("it is there").head
}

pub fn step<S: MetaStore>(world: &World<S>) -> Step {
    block_on(world.service.step_operations()).expect("a step")
}

/// The record of an operation.
pub fn operation<S: MetaStore>(world: &World<S>, operation: OperationId) -> OperationRecord {
    block_on(async {
        let txn = world.service.store().begin().await.expect("begun");
        txn.load_known(&OperationKey { operation }).await.expect("it is there")
    })
}

/// A chain of one layer for each of these slots, all but the head snapshots.
pub fn tower<S: MetaStore>(
    world: &World<S>,
    volume: VolumeId,
    layers: impl IntoIterator<Item = Vec<(u64, Shape)>>,
) -> Vec<SnapshotId> {
    let cut = |(index, slots): (usize, Vec<(u64, Shape)>)| {
        write(world, volume, &slots);
        world.cut(volume, &format!("s{index}")).expect("cut").id
    };
    layers.into_iter().enumerate().map(cut).collect()
}

/// Deletes a snapshot and runs everything to its end.
pub fn settled<S: MetaStore>(world: &World<S>, snapshot: SnapshotId) {
    world.delete_snapshot(snapshot).expect("it begins");
    world.settle();
    world.assert_clean();
}
