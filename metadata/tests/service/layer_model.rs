//! Random histories of writes, snapshots, clones, rollbacks, deletions, merges and prunes against
//! what each view must show, block by block.
//!
//! The test plays the engine: it keeps the list of slots that it has loaded, overwrites what it
//! owns in place, and reads through its list although merges go on below it. Stamps stand for the
//! content of blocks. Whatever nobody owns is overwritten after each step, as another volume
//! would. So a slot too few, too many, in the wrong order or freed too early shows other stamps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_metadata::keyspace::{KeyedTxn, LayerKey, TypedRange};
use lunar_metadata::seams::block_on;
use lunar_metadata::service::Step;
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, MetaStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;
use proptest::prelude::*;

use crate::chains::{chain, entries, prune};
use crate::diffs::diff;
use crate::world::{World, kind, name};

const VOLUMES: usize = 3;
const EXTENTS: usize = 3;
const BLOCKS: usize = 16;
const VOLUME_BYTES: u64 = (EXTENTS as u64) << 16;
/// What a block holds that nobody owns.
const FOREIGN: u32 = u32::MAX;

type Stamps = [u32; BLOCKS];
type View = [Stamps; EXTENTS];

#[derive(Clone, Debug)]
enum Action {
    Write { volume: usize, at: usize, first: u32, count: u32 },
    Discard { volume: usize, at: usize, first: u32, count: u32 },
    DiscardWhole { volume: usize, at: usize },
    Read { volume: usize, at: usize },
    Prune { volume: usize },
    Hear { volume: usize },
    Detach { volume: usize },
    Cut { volume: usize },
    Clone { snapshot: usize, volume: usize },
    RollBack { volume: usize, snapshot: usize },
    DeleteSnapshot { snapshot: usize },
    Delete { volume: usize },
    Reboot,
    Steps(usize),
    TenMinutes,
    Fault(Fault),
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let volume = || 0..VOLUMES;
    let blocks = || {
        let some = (0..BLOCKS as u32).prop_flat_map(|first| (Just(first), 1..=16 - first));
        prop_oneof![3 => some, 1 => Just((0, 16))]
    };
    let place = move || (volume(), 0..EXTENTS, blocks());
    let fault =
        prop_oneof![Just(Fault::Conflict), Just(Fault::CommittedUnknown), Just(Fault::LostUnknown)];
    prop_oneof![
        12 => place()
            .prop_map(|(volume, at, (first, count))| Action::Write { volume, at, first, count }),
        2 => place()
            .prop_map(|(volume, at, (first, count))| Action::Discard { volume, at, first, count }),
        3 => (volume(), 0..EXTENTS).prop_map(|(volume, at)| Action::DiscardWhole { volume, at }),
        3 => (volume(), 0..EXTENTS).prop_map(|(volume, at)| Action::Read { volume, at }),
        3 => volume().prop_map(|volume| Action::Prune { volume }),
        2 => volume().prop_map(|volume| Action::Hear { volume }),
        2 => volume().prop_map(|volume| Action::Detach { volume }),
        6 => volume().prop_map(|volume| Action::Cut { volume }),
        2 => (any::<usize>(), volume())
            .prop_map(|(snapshot, volume)| Action::Clone { snapshot, volume }),
        2 => (volume(), any::<usize>())
            .prop_map(|(volume, snapshot)| Action::RollBack { volume, snapshot }),
        6 => any::<usize>().prop_map(|snapshot| Action::DeleteSnapshot { snapshot }),
        1 => volume().prop_map(|volume| Action::Delete { volume }),
        1 => Just(Action::Reboot),
        8 => (1..5_usize).prop_map(Action::Steps),
        1 => Just(Action::TenMinutes),
        1 => fault.prop_map(Action::Fault),
        1 => Just(Action::Restart),
    ]
}

/// Slots of one logical extent by their birth.
type List = BTreeMap<LayerId, Slot>;

/// What an engine has loaded.
struct Engine {
    held: Attachment,
    lists: [List; EXTENTS],
    /// It overwrites slots of later births in place.
    parent: LayerId,
    /// Something lies below, or did since it was loaded.
    has_below: bool,
}

/// A read that is under way: where it reads, and what it may return.
struct Read {
    at: usize,
    sources: Vec<Option<(ExtentAddress, usize)>>,
    allowed: Vec<BTreeSet<u32>>,
}

struct Vol {
    volume: VolumeId,
    view: View,
    engine: Option<Engine>,
    reads: Vec<Read>,
}

struct Snap {
    id: SnapshotId,
    layer: LayerId,
    origin: VolumeId,
    view: View,
}

struct Model {
    world: World<FaultyStore<RedbStore>>,
    plan: FaultPlan,
    pool: PoolId,
    node: NodeSession,
    /// Reserved, and nothing reads them any more.
    free: Vec<ExtentAddress>,
    disk: BTreeMap<ExtentAddress, Stamps>,
    volumes: Vec<Vol>,
    snapshots: Vec<Snap>,
    made: u32,
}

/// The slot that says something of a block, the youngest first.
fn source(list: &List, block: usize) -> Option<(LayerId, ExtentAddress)> {
    let block = u32::try_from(block).expect("few");
    let says =
        |slot: &Slot| slot.opaque || slot.place == SlotPlace::Zero || slot.presence.contains(block);
    let (birth, slot) = list.iter().rev().find(|(_, slot)| says(slot))?;
    if slot.presence.contains(block) { Some((*birth, slot.extent()?)) } else { None }
}

impl Model {
    fn new() -> Self {
        let plan = FaultPlan::default();
        let world = World::on(FaultyStore::new(RedbStore::in_memory(), plan.clone()));
        let size = ExtentSize::from_bytes(64 << 10).expect("a size");
        let pool = world.pool_of("p", size, &[600]).id;
        let node = world.node("a");
        let (volumes, snapshots, disk) = (Vec::new(), Vec::new(), BTreeMap::new());
        let free = Vec::new();
        let mut model = Self { world, plan, pool, node, free, disk, volumes, snapshots, made: 0 };
        model.volumes = (0..VOLUMES).map(|_| model.fresh()).collect();
        model
    }

    fn stamp(&mut self) -> u32 {
        self.made += 1;
        self.made
    }

    fn fresh(&mut self) -> Vol {
        let name = format!("v{}", self.stamp());
        let volume = self.world.create(&name, VOLUME_BYTES).expect("made").id;
        Vol { volume, view: [[0; BLOCKS]; EXTENTS], engine: None, reads: Vec::new() }
    }

    fn apply(&mut self, action: &Action) {
        match *action {
            Action::Write { volume, at, first, count } => {
                let stamp = self.stamp();
                self.write(volume, at, first, count, stamp);
            }
            Action::Discard { volume, at, first, count } => {
                self.discard(volume, at, first, count);
            }
            Action::DiscardWhole { volume, at } => self.discard_whole(volume, at),
            Action::Read { volume, at } => self.begin_read(volume, at),
            Action::Prune { volume } => self.prune(volume),
            Action::Hear { volume } => self.hear(volume),
            Action::Detach { volume } => self.detach(volume),
            Action::Cut { volume } => self.cut(volume),
            Action::Clone { snapshot, volume } => self.clone_into(snapshot, volume),
            Action::RollBack { volume, snapshot } => self.roll_back(volume, snapshot),
            Action::DeleteSnapshot { snapshot } if !self.snapshots.is_empty() => {
                let snap = self.snapshots.swap_remove(snapshot % self.snapshots.len());
                self.world.delete_snapshot(snap.id).expect("it is Ready");
            }
            Action::DeleteSnapshot { .. } => {}
            Action::Delete { volume } => {
                self.detach(volume);
                self.world.delete(self.volumes[volume].volume).expect("nobody holds it");
                self.volumes[volume] = self.fresh();
            }
            Action::Reboot => self.reboot(),
            Action::Steps(count) => self.steps(count),
            Action::TenMinutes => self.world.clock.advance(Duration::from_secs(600)),
            Action::Fault(fault) => self.plan.push(fault),
            Action::Restart => self.world.restart(),
        }
    }

    fn steps(&self, count: usize) {
        for _ in 0..count {
            block_on(self.world.service.step_operations()).expect("a step");
        }
    }

    fn reboot(&mut self) {
        self.node = self.world.node("a");
        self.free.clear();
        for volume in &mut self.volumes {
            volume.engine = None;
            volume.reads.clear();
        }
    }

    /// The engine of a volume, loaded if it is not, the lowest layer first.
    fn load(&mut self, volume: usize) {
        if self.volumes[volume].engine.is_some() {
            return;
        }
        let id = self.volumes[volume].volume;
        let mut held = self.world.attach(id, self.node).expect("granted");
        for stale in std::mem::take(&mut held.stale_journals) {
            self.world.retire(&held, stale.epoch).expect("retired");
        }
        let lists = self.lists(held.volume.head);
        let below = held.layers.get(1).map(|layer| layer.id);
        let head = held.volume.head;
        let has_parts = lists.iter().any(|list| list.keys().any(|birth| *birth != head));
        let (parent, has_below) = (below.unwrap_or_default(), below.is_some() || has_parts);
        self.volumes[volume].engine = Some(Engine { held, lists, parent, has_below });
    }

    /// What the service says of a chain.
    fn lists(&self, top: LayerId) -> [List; EXTENTS] {
        let mut lists = [const { List::new() }; EXTENTS];
        for layer in chain(&self.world, top) {
            for entry in entries(&self.world, layer) {
                let at = usize::try_from(entry.at.get()).expect("few");
                lists[at].extend(entry.parts.into_iter().map(|part| (part.birth, part.slot)));
                lists[at].extend(entry.own.map(|slot| (layer, slot)));
            }
        }
        lists
    }

    fn take_extent(&mut self) -> Option<ExtentAddress> {
        if self.free.is_empty() {
            let runs = self.world.reserve(self.node, self.pool, 8).ok()?;
            self.free.extend(runs.iter().flat_map(|run| run.iter()));
        }
        let extent = self.free.pop()?;
        assert_eq!(
            self.disk.insert(extent, [FOREIGN; BLOCKS]).unwrap_or([FOREIGN; 16])[0],
            FOREIGN
        );
        Some(extent)
    }

    fn write(&mut self, volume: usize, at: usize, first: u32, count: u32, stamp: u32) {
        self.load(volume);
        let engine = self.volumes[volume].engine.as_ref().expect("loaded");
        let (head, parent) = (engine.held.volume.head, engine.parent);
        let list = &engine.lists[at];
        let blocks = first as usize..(first + count) as usize;
        let owned = |block| source(list, block).filter(|(birth, _)| *birth > parent);
        let in_place: Vec<_> = blocks.clone().map(|block| (block, owned(block))).collect();
        let missing: Vec<_> =
            in_place.iter().filter(|(_, to)| to.is_none()).map(|(block, _)| *block).collect();
        let mut own = list.get(&head).cloned();
        if !missing.is_empty() {
            let is_zero = own.as_ref().is_some_and(|own| own.place == SlotPlace::Zero);
            let mut slot = match own.filter(|_| !is_zero) {
                Some(own) => own,
                None => {
                    let Some(extent) = self.take_extent() else { return };
                    let size = ExtentSize::from_bytes(64 << 10).expect("a size");
                    Slot { opaque: is_zero, ..Slot::fresh(extent, size) }
                }
            };
            let extent = slot.extent().expect("it has one");
            for block in missing {
                slot.presence.insert(BlockRange::new(u32::try_from(block).expect("few"), 1));
                self.disk.get_mut(&extent).expect("known")[block] = stamp;
            }
            own = Some(slot);
            self.commit(volume, at, own);
        }
        for (block, to) in in_place {
            if let Some((_, extent)) = to {
                self.disk.get_mut(&extent).expect("known")[block] = stamp;
            }
        }
        self.has_written(volume, at, blocks, stamp);
    }

    fn has_written(
        &mut self,
        volume: usize,
        at: usize,
        blocks: std::ops::Range<usize>,
        stamp: u32,
    ) {
        let volume = &mut self.volumes[volume];
        for block in blocks {
            volume.view[at][block] = stamp;
            for read in volume.reads.iter_mut().filter(|read| read.at == at) {
                read.allowed[block].insert(stamp);
            }
        }
    }

    /// Commits an own slot, which replaces what is in the engine's list.
    fn commit(&mut self, volume: usize, at: usize, slot: Option<Slot>) {
        let engine = self.volumes[volume].engine.as_mut().expect("loaded");
        let head = engine.held.volume.head;
        let old = match slot.clone() {
            Some(slot) => engine.lists[at].insert(head, slot),
            None => engine.lists[at].remove(&head),
        };
        let update = SlotUpdate { at: LogicalExtent::new(at as u64), slot: slot.clone() };
        self.world.commit(&engine.held, vec![update]).expect("committed");
        let unmapped = old.and_then(|old| old.extent());
        let kept = slot.and_then(|slot| slot.extent());
        if let Some(extent) = unmapped.filter(|extent| Some(*extent) != kept) {
            self.end_grace(volume, [extent]);
        }
    }

    /// Extents are free when the reads that were under way have ended.
    fn end_grace(&mut self, volume: usize, extents: impl IntoIterator<Item = ExtentAddress>) {
        self.check_reads();
        self.volumes[volume].reads.clear();
        for extent in extents {
            self.disk.insert(extent, [FOREIGN; BLOCKS]);
            self.free.push(extent);
        }
    }

    fn discard(&mut self, volume: usize, at: usize, first: u32, count: u32) {
        self.load(volume);
        let engine = self.volumes[volume].engine.as_ref().expect("loaded");
        if engine.has_below {
            // Single blocks are zeroed by writing.
            return self.write(volume, at, first, count, 0);
        }
        let own = engine.lists[at].get(&engine.held.volume.head).cloned();
        if let Some(mut slot) = own.filter(|slot| slot.place != SlotPlace::Zero) {
            slot.presence.remove(BlockRange::new(first, count));
            self.has_written(volume, at, first as usize..(first + count) as usize, 0);
            self.commit(volume, at, Some(slot));
        }
    }

    fn discard_whole(&mut self, volume: usize, at: usize) {
        self.load(volume);
        let engine = self.volumes[volume].engine.as_ref().expect("loaded");
        let size = engine.held.pool.extent_size;
        let slot = engine.has_below.then(|| Slot::zero(size));
        self.has_written(volume, at, 0..BLOCKS, 0);
        self.commit(volume, at, slot);
    }

    fn begin_read(&mut self, volume: usize, at: usize) {
        let volume = &mut self.volumes[volume];
        let Some(engine) = &volume.engine else { return };
        let list = &engine.lists[at];
        let from = |block| source(list, block).map(|(_, extent)| (extent, block));
        let sources = (0..BLOCKS).map(from).collect();
        let allowed = volume.view[at].iter().map(|stamp| [*stamp].into()).collect();
        volume.reads.push(Read { at, sources, allowed });
    }

    fn prune(&mut self, volume: usize) {
        let Some(engine) = self.volumes[volume].engine.as_mut() else { return };
        let pruned = prune(&self.world, &engine.held);
        for part in &pruned {
            let list = &mut engine.lists[usize::try_from(part.at.get()).expect("few")];
            // It may have come into the head after the load, but it was in the chain.
            assert!(list.remove(&part.birth).is_some(), "{part:?} was in the list");
        }
        self.end_grace(volume, pruned.iter().filter_map(|part| part.extent));
    }

    /// The holder hears of another structure: it owns what was born above the head's parent.
    fn hear(&mut self, volume: usize) {
        let Some(engine) = self.volumes[volume].engine.as_mut() else { return };
        let caller = self.world.caller_of(&engine.held);
        let (volume, epoch) = (engine.held.volume.id, engine.held.epoch);
        let asked = ResumeAttachment { volume, epoch, caller };
        let facts = block_on(self.world.service.resume_attachment(asked)).expect("held");
        assert_eq!(facts.volume.head, engine.held.volume.head);
        engine.parent = facts.layers.get(1).map(|layer| layer.id).unwrap_or_default();
    }

    fn detach(&mut self, volume: usize) {
        // What a journal of a gone holder may hold is taken over first.
        self.load(volume);
        self.end_grace(volume, []);
        let engine = self.volumes[volume].engine.take().expect("loaded");
        self.world.detach(&engine.held, DetachMode::Clean).expect("detached");
    }

    fn cut(&mut self, volume: usize) {
        self.detach(volume);
        let name = format!("s{}", self.stamp());
        let Vol { volume, view, .. } = &self.volumes[volume];
        let snapshot = self.world.cut(*volume, &name).expect("at rest");
        let (layer, origin) = (snapshot.layer.expect("it has one"), *volume);
        self.snapshots.push(Snap { id: snapshot.id, layer, origin, view: *view });
    }

    fn clone_into(&mut self, snapshot: usize, index: usize) {
        if self.snapshots.is_empty() {
            return;
        }
        self.detach(index);
        let name = format!("v{}", self.stamp());
        let snap = &self.snapshots[snapshot % self.snapshots.len()];
        let volume = self.world.clone_of(snap.id, &name).expect("made").id;
        self.world.delete(self.volumes[index].volume).expect("nobody holds it");
        let (engine, reads) = (None, Vec::new());
        self.volumes[index] = Vol { volume, view: snap.view, engine, reads };
    }

    fn roll_back(&mut self, index: usize, snapshot: usize) {
        if self.snapshots.is_empty() {
            return;
        }
        self.detach(index);
        let snap = &self.snapshots[snapshot % self.snapshots.len()];
        let volume = &mut self.volumes[index];
        match self.world.roll_back(volume.volume, snap.id) {
            Ok(_) => volume.view = snap.view,
            Err(error) => {
                assert_eq!(error.kind(), ErrorReason::SnapshotOfOtherVolume);
                assert_ne!(snap.origin, volume.volume);
            }
        }
    }

    /// Every layer that is there.
    fn layers(&self) -> Vec<LayerId> {
        block_on(async {
            let txn = self.world.service.store().begin().await.expect("begun");
            let all = txn.scan(&TypedRange::<LayerKey>::table(), 10_000).await.expect("read");
            all.into_iter().map(|(key, _)| key.layer).collect()
        })
    }

    /// Whatever nobody owns is somebody else's, who writes to it.
    fn overwrite_what_nobody_owns(&mut self) {
        let mut owned: BTreeSet<_> = self.free.iter().copied().collect();
        for layer in self.layers() {
            for entry in entries(&self.world, layer) {
                let parts = entry.parts.iter().map(|part| &part.slot);
                owned.extend(parts.chain(&entry.own).filter_map(Slot::extent));
            }
        }
        for (extent, stamps) in &mut self.disk {
            if !owned.contains(extent) {
                *stamps = [FOREIGN; BLOCKS];
            }
        }
    }

    fn read(&self, lists: &[List; EXTENTS]) -> View {
        std::array::from_fn(|at| {
            std::array::from_fn(|block| {
                source(&lists[at], block).map_or(0, |(_, extent)| self.disk[&extent][block])
            })
        })
    }

    fn check_reads(&self) {
        for volume in &self.volumes {
            for read in &volume.reads {
                for (block, from) in read.sources.iter().enumerate() {
                    let stamp = from.map_or(0, |(extent, block)| self.disk[&extent][block]);
                    assert!(
                        read.allowed[block].contains(&stamp),
                        "a read under way of volume {} returns {stamp} for block {block} of {}",
                        volume.volume,
                        read.at
                    );
                }
            }
        }
    }

    fn check(&mut self) {
        self.world.assert_clean();
        self.overwrite_what_nobody_owns();
        self.check_reads();
        for Vol { volume, view, engine, .. } in &self.volumes {
            let found = block_on(self.world.service.volume(&Selector::Id(*volume)));
            let head = found.expect("it is there").head;
            assert_eq!(self.read(&self.lists(head)), *view, "volume {volume}");
            if let Some(engine) = engine {
                assert_eq!(self.read(&engine.lists), *view, "engine of volume {volume}");
            }
        }
        for Snap { id, layer, view, .. } in &self.snapshots {
            assert_eq!(self.read(&self.lists(*layer)), *view, "snapshot {id}");
        }
        self.check_diffs();
        let node = self.node.node;
        let page = block_on(self.world.service.reservations(node, &PageRequest::first()));
        let runs = page.expect("a page").items.into_iter().flat_map(|pool| pool.runs);
        let reserved: BTreeSet<_> = runs.flat_map(|run| run.iter().collect::<Vec<_>>()).collect();
        assert_eq!(reserved, self.free.iter().copied().collect());
    }

    /// Replaying what differs over one snapshot gives the other, and a block is named only if the
    /// two show it from different places.
    fn check_diffs(&self) {
        let count = self.snapshots.len();
        let Some(one) = self.snapshots.get(self.made as usize % count.max(1)) else { return };
        for to in &self.snapshots {
            self.check_diff(None, to);
            self.check_diff(Some(one), to);
        }
    }

    fn check_diff(&self, from: Option<&Snap>, to: &Snap) {
        let below = |snap: &Snap| chain(&self.world, snap.layer);
        let is_related = |from| below(from).iter().any(|layer| below(to).contains(layer));
        let runs = diff(&self.world, from.map(|from| from.id), to.id);
        if from.is_some_and(|from| !is_related(from)) {
            return assert_eq!(kind(runs), ErrorReason::SnapshotsUnrelated);
        }
        let mut view = from.map_or([[0; BLOCKS]; EXTENTS], |from| from.view);
        let mut named = BTreeMap::new();
        for run in runs.expect("both are Ready") {
            let blocks = run.offset / BLOCK_BYTES..run.end() / BLOCK_BYTES;
            for block in blocks.map(|block| usize::try_from(block).expect("few")) {
                let (at, block) = (block / BLOCKS, block % BLOCKS);
                view[at][block] = match run.kind {
                    DiffKind::Data => to.view[at][block],
                    DiffKind::Zero => 0,
                };
                assert_eq!(named.insert((at, block), run.kind), None, "named twice");
            }
        }
        assert_eq!(view, to.view, "replayed over {:?}", from.map(|from| from.id));
        let lists = |snap: &Snap| self.lists(snap.layer);
        let (old, new) = (from.map(lists).unwrap_or_default(), lists(to));
        for (at, block) in (0..EXTENTS).flat_map(|at| (0..BLOCKS).map(move |block| (at, block))) {
            let (old, new) = (source(&old[at], block), source(&new[at], block));
            let kind = if new.is_some() { DiffKind::Data } else { DiffKind::Zero };
            let expected = (old != new).then_some(kind);
            assert_eq!(named.get(&(at, block)).copied(), expected, "block {block} of {at}");
        }
    }

    fn usage(&self, of: &UsageOf) -> Usage {
        block_on(self.world.service.usage(of)).expect("it is there")
    }

    /// Extents that a layer has.
    fn owned_by(&self, layer: LayerId) -> BTreeSet<ExtentAddress> {
        let slots = entries(&self.world, layer).into_iter().flat_map(|entry| {
            entry.parts.into_iter().map(|part| part.slot).chain(entry.own).collect::<Vec<_>>()
        });
        slots.filter_map(|slot| slot.extent()).collect()
    }

    /// Figures against what each block of a view is read from.
    fn check_usage(&self) {
        let heads = self.volumes.iter().map(|volume| {
            let by_id = Selector::Id(volume.volume);
            let head = block_on(self.world.service.volume(&by_id)).expect("it is there").head;
            (UsageOf::Volume(by_id), head)
        });
        let cuts = self.snapshots.iter();
        let cuts = cuts.map(|snap| (UsageOf::Snapshot(Selector::Id(snap.id)), snap.layer));
        for (of, layer) in heads.chain(cuts) {
            let (usage, mut referenced) = (self.usage(&of), self.owned_by(layer));
            assert_eq!(usage.owned_extents, referenced.len() as u64, "{of:?}");
            for list in self.lists(layer) {
                let shown = (0..BLOCKS).filter_map(|block| source(&list, block));
                referenced.extend(shown.map(|(_, extent)| extent));
            }
            assert_eq!(usage.referenced_extents, referenced.len() as u64, "{of:?}");
            if matches!(of, UsageOf::Volume(_)) {
                assert_eq!(usage.unique_extents, usage.owned_extents, "{of:?}");
            }
            assert!(usage.unique_extents <= usage.owned_extents);
        }
    }

    /// What of a layer's extents, and of all, is free when all that a deletion has begun is over.
    fn returned(&self, layer: LayerId, delete: impl FnOnce()) -> (u64, u64) {
        let all = || -> BTreeSet<_> {
            self.layers().into_iter().flat_map(|layer| self.owned_by(layer)).collect()
        };
        let (own, before) = (self.owned_by(layer), all());
        delete();
        self.settle();
        let after = all();
        let gone = |of: &BTreeSet<_>| of.difference(&after).count() as u64;
        (gone(&own), gone(&before))
    }

    /// What the service says that a deletion returns, of the layer itself and in all.
    fn told(&self, of: &UsageOf) -> (u64, u64) {
        let usage = self.usage(of);
        let Usage { unique_extents, reclaimable_extents, is_approximate, .. } = usage;
        assert!(!is_approximate, "nothing is under way");
        (unique_extents, reclaimable_extents)
    }

    /// Every operation to its end: no list is as long as the limit, so nothing waits.
    fn settle(&self) {
        self.world.settle();
        assert!(self.world.operations().is_empty());
    }

    fn delete_everything(&mut self) {
        for volume in 0..VOLUMES {
            self.detach(volume);
        }
        block_on(self.world.service.declare_fenced(self.node.node)).expect("fenced");
        self.settle();
        // What each deletion returns is what was said before. Volumes and snapshots take turns.
        let mut snapshots = self.snapshots.iter();
        for (volume, vol) in self.volumes.iter().enumerate() {
            let is_last = volume + 1 == VOLUMES;
            let count = if is_last { usize::MAX } else { self.snapshots.len() / VOLUMES };
            for snap in snapshots.by_ref().take(count) {
                let said = self.told(&UsageOf::Snapshot(Selector::Id(snap.id)));
                let delete = || {
                    self.world.delete_snapshot(snap.id).expect("it is Ready");
                };
                assert_eq!(self.returned(snap.layer, delete), said, "snapshot {}", snap.id);
            }
            let by_id = Selector::Id(vol.volume);
            let head = block_on(self.world.service.volume(&by_id)).expect("it is there").head;
            let said = self.told(&UsageOf::Volume(by_id));
            let delete = || {
                self.world.delete(vol.volume).expect("nobody holds it");
            };
            assert_eq!(self.returned(head, delete), said, "volume {}", vol.volume);
        }
        self.world.assert_clean();
        let found = block_on(self.world.service.pool_status(&Selector::Name(name("p"))));
        assert_eq!(found.expect("a status").usage.allocated_extents, 0);
        assert_eq!(self.layers(), []);
        assert_eq!(block_on(self.world.service.step_operations()).expect("a step"), Step::Idle);
    }
}

/// How many histories: more with `LUNAR_LAYER_CASES`.
fn cases() -> u32 {
    let asked = std::env::var("LUNAR_LAYER_CASES").ok();
    asked.map_or(60, |cases| cases.parse().expect("a number of cases"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn no_merge_and_no_prune_changes_what_anything_shows(
        actions in prop::collection::vec(action(), 1..100)
    ) {
        let mut model = Model::new();
        for action in &actions {
            model.apply(action);
            model.check();
            if model.made.is_multiple_of(4) {
                model.check_usage();
            }
        }
        model.settle();
        model.check();
        model.check_usage();
        model.delete_everything();
    }
}
