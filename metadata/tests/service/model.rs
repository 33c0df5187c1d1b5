//! Random histories against a naive model: who owns which extent, checked after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lunar_metadata::seams::block_on;
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;
use proptest::prelude::*;

use crate::chains::{chain, entries};
use crate::world::{World, hole, solid};

const NODES: usize = 3;
const VOLUMES: usize = 3;
const SLOTS: u64 = 12;
/// The most that a volume grows to.
const GROWN_SLOTS: u64 = 16;

#[derive(Clone, Debug)]
enum Action {
    Reserve {
        node: usize,
        count: u32,
    },
    Release {
        node: usize,
        pick: usize,
    },
    Attach {
        node: usize,
        volume: usize,
    },
    Detach {
        volume: usize,
        keep: bool,
    },
    Commit {
        volume: usize,
        slots: Vec<(u64, bool)>,
    },
    Replay {
        volume: usize,
        slots: Vec<(u64, bool)>,
        is_sealed: bool,
    },
    Delete {
        volume: usize,
    },
    /// A set; its holders answer so many times, and then no more.
    Cut {
        volumes: BTreeSet<usize>,
        answers: usize,
    },
    /// An engine whose vote was not answered.
    SealAlone {
        volume: usize,
    },
    /// The time of open sets is over.
    Expire,
    Clone {
        snapshot: usize,
        volume: usize,
    },
    RollBack {
        volume: usize,
        snapshot: usize,
    },
    DeleteSnapshot {
        snapshot: usize,
    },
    Grow {
        volume: usize,
        extents: u64,
    },
    Reboot {
        node: usize,
    },
    Fault(Fault),
    Step,
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let slots = || prop::collection::vec((0..GROWN_SLOTS, any::<bool>()), 1..8);
    let fault =
        prop_oneof![Just(Fault::Conflict), Just(Fault::CommittedUnknown), Just(Fault::LostUnknown)];
    prop_oneof![
        3 => (0..NODES, 1..30_u32).prop_map(|(node, count)| Action::Reserve { node, count }),
        1 => (0..NODES, any::<usize>()).prop_map(|(node, pick)| Action::Release { node, pick }),
        4 => (0..NODES, 0..VOLUMES).prop_map(|(node, volume)| Action::Attach { node, volume }),
        1 => (0..VOLUMES, any::<bool>()).prop_map(|(volume, keep)| Action::Detach { volume, keep }),
        6 => (0..VOLUMES, slots()).prop_map(|(volume, slots)| Action::Commit { volume, slots }),
        2 => (0..VOLUMES, slots(), any::<bool>())
            .prop_map(|(volume, slots, is_sealed)| Action::Replay { volume, slots, is_sealed }),
        1 => (0..VOLUMES).prop_map(|volume| Action::Delete { volume }),
        5 => (prop::collection::btree_set(0..VOLUMES, 1..=VOLUMES), 0..12_usize)
            .prop_map(|(volumes, answers)| Action::Cut { volumes, answers }),
        1 => (0..VOLUMES).prop_map(|volume| Action::SealAlone { volume }),
        1 => Just(Action::Expire),
        2 => (any::<usize>(), 0..VOLUMES)
            .prop_map(|(snapshot, volume)| Action::Clone { snapshot, volume }),
        2 => (0..VOLUMES, any::<usize>())
            .prop_map(|(volume, snapshot)| Action::RollBack { volume, snapshot }),
        2 => any::<usize>().prop_map(|snapshot| Action::DeleteSnapshot { snapshot }),
        2 => (0..VOLUMES, SLOTS..=GROWN_SLOTS)
            .prop_map(|(volume, extents)| Action::Grow { volume, extents }),
        1 => (0..NODES).prop_map(|node| Action::Reboot { node }),
        1 => fault.prop_map(Action::Fault),
        2 => Just(Action::Step),
        1 => Just(Action::Restart),
    ]
}

/// Where each logical extent is, or that it is zeros.
type Map = BTreeMap<u64, SlotPlace>;

struct Vol {
    volume: Volume,
    held: Option<Attachment>,
    /// Of its head.
    map: Map,
    /// What the layers below its head show; nothing if there are none.
    below: Option<Map>,
    /// Whether a journal may be left.
    restless: bool,
}

impl Vol {
    fn view(&self) -> Map {
        let mut view = self.below.clone().unwrap_or_default();
        view.extend(&self.map);
        without_zeros(view)
    }

    /// Its head was sealed.
    fn seal(&mut self) {
        self.below = Some(self.view());
        self.map = Map::new();
    }

    /// Whether it can become a member: nobody holds it, or nothing waits to be replayed.
    fn can_be_cut(&self, live: &[NodeIncarnation]) -> bool {
        let held = self.held.as_ref().filter(|held| live.contains(&held.node));
        held.map_or(!self.restless, |held| held.stale_journals.is_empty())
    }
}

/// A map as a view: zeros are not told from what was never written.
fn without_zeros(map: Map) -> Map {
    map.into_iter().filter(|(_, place)| *place != SlotPlace::Zero).collect()
}

/// A snapshot and what it shows for ever.
struct Snap {
    snapshot: Snapshot,
    view: Map,
}

/// The world and what the test believes of it.
struct Model {
    world: World<FaultyStore<RedbStore>>,
    plan: FaultPlan,
    pool: Pool,
    nodes: Vec<NodeSession>,
    /// What each incarnation has reserved; those of gone incarnations come back some time.
    reserved: BTreeMap<NodeIncarnation, BTreeSet<ExtentAddress>>,
    volumes: Vec<Vol>,
    snapshots: Vec<Snap>,
    /// Sets that were left open.
    open: Vec<SnapshotSetId>,
    made: usize,
}

impl Model {
    fn new() -> Self {
        let plan = FaultPlan::default();
        let world = World::on(FaultyStore::new(RedbStore::in_memory(), plan.clone()));
        let pool = world.pool_of("p", ExtentSize::DEFAULT, &[40, 30]);
        let nodes = (0..NODES).map(|node| world.node(&format!("n{node}"))).collect();
        let volumes = (0..VOLUMES).map(|index| fresh_volume(&world, index)).collect();
        Self {
            world,
            plan,
            pool,
            nodes,
            reserved: BTreeMap::new(),
            volumes,
            snapshots: Vec::new(),
            open: Vec::new(),
            made: VOLUMES,
        }
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::Reserve { node, count } => self.reserve(*node, *count),
            Action::Release { node, pick } => self.release(*node, *pick),
            Action::Attach { node, volume } => self.attach(*node, *volume),
            Action::Detach { volume, keep } => self.detach(*volume, *keep),
            Action::Commit { volume, slots } => self.commit(*volume, slots),
            Action::Replay { volume, slots, is_sealed } => {
                self.replay(*volume, slots, *is_sealed);
            }
            Action::Delete { volume } => self.delete(*volume),
            Action::Cut { volumes, answers } => self.cut(volumes, *answers),
            Action::SealAlone { volume } => self.seal_alone(*volume),
            Action::Expire => self.expire(),
            Action::Clone { snapshot, volume } => self.clone_into(*snapshot, *volume),
            Action::RollBack { volume, snapshot } => self.roll_back(*volume, *snapshot),
            Action::DeleteSnapshot { snapshot } => self.delete_snapshot(*snapshot),
            Action::Grow { volume, extents } => self.grow(*volume, *extents),
            Action::Reboot { node } => {
                self.nodes[*node] = self.world.node(&format!("n{node}"));
            }
            Action::Fault(fault) => self.plan.push(*fault),
            Action::Step => {
                block_on(self.world.service.step_operations()).expect("a step");
            }
            Action::Restart => self.world.restart(),
        }
    }

    fn reserve(&mut self, node: usize, count: u32) {
        let node = self.nodes[node];
        match self.world.reserve(node, self.pool.id, count) {
            Ok(runs) => {
                let reserved = self.reserved.entry(node.node).or_default();
                for at in runs.iter().flat_map(|run| run.iter()) {
                    assert!(reserved.insert(at), "{at} was reserved twice");
                }
            }
            Err(error) => assert_eq!(error.kind(), ErrorReason::PoolFull),
        }
    }

    fn release(&mut self, node: usize, pick: usize) {
        let node = self.nodes[node];
        let Some(reserved) = self.reserved.get_mut(&node.node).filter(|it| !it.is_empty()) else {
            return;
        };
        let at = *reserved.iter().nth(pick % reserved.len()).expect("one of them");
        reserved.remove(&at);
        let run = [ExtentRun::new(at, 1)];
        self.world.release(node, self.pool.id, &run).expect("it is reserved");
    }

    fn attach(&mut self, node: usize, volume: usize) {
        let (node, live) = (self.nodes[node], self.live());
        let volume = &mut self.volumes[volume];
        let held_by = volume.held.as_ref().map(|held| held.node);
        match self.world.attach(volume.volume.id, node) {
            Ok(held) => {
                assert!(held_by.is_none_or(|holder| !live.contains(&holder)));
                volume.restless = true;
                volume.held = Some(held);
            }
            Err(error) if error.kind() == ErrorReason::PoolFull => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorReason::VolumeAttached);
                assert!(held_by.is_some_and(|holder| live.contains(&holder)));
            }
        }
    }

    /// The grant of a volume if its holder lives and nothing waits to be replayed.
    fn usable(&self, volume: usize) -> Option<Attachment> {
        let held = self.volumes[volume].held.clone()?;
        self.live().contains(&held.node).then_some(held)
    }

    fn live(&self) -> Vec<NodeIncarnation> {
        self.nodes.iter().map(|session| session.node).collect()
    }

    fn detach(&mut self, volume: usize, keep: bool) {
        let Some(held) = self.usable(volume) else { return };
        let mode = if keep { DetachMode::KeepJournal } else { DetachMode::Clean };
        let detached = self.world.detach(&held, mode);
        if !keep && !held.stale_journals.is_empty() {
            let error = detached.expect_err("journals wait");
            assert_eq!(error.kind(), ErrorReason::StaleJournals);
            return;
        }
        detached.expect("detached");
        let volume = &mut self.volumes[volume];
        (volume.held, volume.restless) = (None, keep);
    }

    fn cut(&mut self, volumes: &BTreeSet<usize>, answers: usize) {
        let members = volumes.iter().map(|index| {
            self.made += 1;
            (self.volumes[*index].volume.id, format!("s{}", self.made))
        });
        let members: Vec<_> = members.collect();
        let asked: Vec<_> = members.iter().map(|(id, name)| (*id, name.as_str())).collect();
        let live = self.live();
        let set = match self.world.cut_set(&asked) {
            Ok(set) => set,
            Err(error) if error.kind() == ErrorReason::VolumeBusy => {
                assert!(self.open.iter().any(|set| self.world.set(*set).state.is_open()));
                return;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorReason::VolumeNotAtRest);
                let can_be_cut = |index: &usize| self.volumes[*index].can_be_cut(&live);
                assert!(!volumes.iter().all(can_be_cut));
                return;
            }
        };
        assert!(volumes.iter().all(|index| self.volumes[*index].can_be_cut(&live)));
        self.answer(volumes, set.id, answers);
        match self.world.set(set.id) {
            SnapshotSet { state: SetState::Sealed, snapshots, .. } => {
                self.was_cut(volumes, snapshots);
            }
            open => {
                assert!(open.state.is_open(), "nothing happened meanwhile");
                self.open.push(open.id);
            }
        }
    }

    /// The holders say that they are ready, then they vote.
    fn answer(&self, volumes: &BTreeSet<usize>, set: SnapshotSetId, answers: usize) {
        let held = volumes.iter().filter_map(|index| self.usable(*index));
        let held: Vec<_> = held.collect();
        for held in held.iter().take(answers) {
            self.world.ready(set, held).expect("taken down");
        }
        for held in held.iter().take(answers.saturating_sub(held.len())) {
            self.world.send_vote(&self.world.vote_of(set, held)).expect("taken down");
        }
    }

    fn was_cut(&mut self, volumes: &BTreeSet<usize>, snapshots: Vec<Snapshot>) {
        for (index, snapshot) in volumes.iter().zip(snapshots) {
            let volume = &mut self.volumes[*index];
            assert_eq!(snapshot.layer, Some(volume.volume.head));
            volume.seal();
            self.snapshots.push(Snap { snapshot, view: volume.below.clone().unwrap_or_default() });
            self.look_again(*index);
        }
    }

    /// The head is another one.
    fn look_again(&mut self, index: usize) {
        let held = self.usable(index).map(|held| self.world.resumed(&held).expect("held"));
        let volume = &mut self.volumes[index];
        volume.volume = volume_again(&self.world, volume.volume.id);
        volume.held = held.or_else(|| volume.held.take());
    }

    fn seal_alone(&mut self, index: usize) {
        let Some(held) = self.usable(index) else { return };
        let sealed = self.world.send_seal(&self.world.seal_of(&held));
        if !held.stale_journals.is_empty() {
            assert_eq!(sealed.expect_err("journals wait").kind(), ErrorReason::StaleJournals);
            return;
        }
        assert!(!sealed.expect("sealed").before);
        self.volumes[index].seal();
        self.look_again(index);
    }

    /// Two looks of the background task with the longest time between them.
    fn expire(&mut self) {
        block_on(self.world.service.step_operations()).expect("a step");
        self.world.clock.advance(Duration::from_secs(30));
        block_on(self.world.service.step_operations()).expect("a step");
        for set in std::mem::take(&mut self.open) {
            assert!(!self.world.set(set).state.is_open());
        }
    }

    /// Puts a clone in the place of a volume, if that can be deleted.
    fn clone_into(&mut self, snapshot: usize, index: usize) {
        if self.snapshots.is_empty() || self.usable(index).is_some() {
            return;
        }
        let Snap { snapshot, view } = &self.snapshots[snapshot % self.snapshots.len()];
        self.made += 1;
        let clone = self.world.clone_of(snapshot.id, &format!("v{}", self.made)).expect("made");
        self.world.delete(self.volumes[index].volume.id).expect("nobody holds it");
        let (held, map, below) = (None, Map::new(), Some(view.clone()));
        self.volumes[index] = Vol { volume: clone, held, map, below, restless: false };
    }

    fn roll_back(&mut self, index: usize, snapshot: usize) {
        if self.snapshots.is_empty() {
            return;
        }
        let Snap { snapshot, view } = &self.snapshots[snapshot % self.snapshots.len()];
        let is_usable = self.usable(index).is_some();
        let volume = &mut self.volumes[index];
        match self.world.roll_back(volume.volume.id, snapshot.id) {
            Ok(rolled) => {
                assert!(!volume.restless && snapshot.volume == rolled.id);
                let below = Some(view.clone());
                (volume.volume, volume.map, volume.below) = (rolled, Map::new(), below);
            }
            Err(error) => match error.kind() {
                ErrorReason::VolumeAttached => assert!(is_usable),
                ErrorReason::StaleJournals => assert!(volume.restless),
                other => {
                    assert_eq!(other, ErrorReason::SnapshotOfOtherVolume);
                    assert_ne!(snapshot.volume, volume.volume.id);
                }
            },
        }
    }

    fn delete_snapshot(&mut self, snapshot: usize) {
        if self.snapshots.is_empty() {
            return;
        }
        let Snap { snapshot, .. } = self.snapshots.swap_remove(snapshot % self.snapshots.len());
        let deleting = self.world.delete_snapshot(snapshot.id).expect("it is Ready");
        assert_eq!(deleting.state, SnapshotState::Deleting);
    }

    fn grow(&mut self, index: usize, extents: u64) {
        let Volume { id, size, .. } = self.volumes[index].volume;
        match self.world.grow(id, extents << 20) {
            Ok(grown) => assert_eq!(grown.size.bytes(), extents << 20),
            Err(error) => {
                assert_eq!(error.kind(), ErrorReason::VolumeWouldShrink);
                assert!(extents << 20 < size.bytes());
            }
        }
        self.look_again(index);
        assert!(self.volumes[index].volume.size >= size);
    }

    /// What a chain shows: all slots are whole, so the youngest counts.
    fn shown(&self, top: LayerId) -> Map {
        let mut slots: BTreeMap<u64, BTreeMap<LayerId, SlotPlace>> = BTreeMap::new();
        for layer in chain(&self.world, top) {
            for entry in entries(&self.world, layer) {
                let slots = slots.entry(entry.at.get()).or_default();
                slots.extend(entry.parts.iter().map(|part| (part.birth, part.slot.place)));
                slots.extend(entry.own.map(|slot| (layer, slot.place)));
            }
        }
        let youngest = |slots: BTreeMap<_, SlotPlace>| slots.into_values().next_back();
        without_zeros(slots.into_iter().filter_map(|(at, it)| Some((at, youngest(it)?))).collect())
    }

    /// Deletes everything: no extent is left.
    fn delete_everything(&mut self) {
        for node in self.live() {
            block_on(self.world.service.declare_fenced(node)).expect("fenced");
        }
        for Snap { snapshot, .. } in &self.snapshots {
            self.world.delete_snapshot(snapshot.id).expect("it is Ready");
        }
        for volume in &self.volumes {
            self.world.delete(volume.volume.id).expect("nobody lives");
        }
        self.world.settle();
        self.world.assert_clean();
        assert_eq!(self.world.status(self.pool.id).usage.allocated_extents, 0);
        assert!(self.world.operations().is_empty());
    }

    /// Updates of these slots with extents of the writer's reservation, and the map after them.
    fn updates(
        &self,
        volume: usize,
        writer: NodeIncarnation,
        slots: &[(u64, bool)],
    ) -> (Vec<SlotUpdate>, Map, BTreeSet<ExtentAddress>) {
        let has_below = self.volumes[volume].below.is_some();
        let mut map = self.volumes[volume].map.clone();
        let mut reserved = self.reserved.get(&writer).cloned().unwrap_or_default();
        let free: Vec<_> = reserved.iter().copied().collect();
        let mut free = free.into_iter();
        let mut updates = BTreeMap::new();
        let extents = self.volumes[volume].volume.size.bytes() >> 20;
        for (at, mapped) in slots {
            if updates.contains_key(at) || *at >= extents {
                continue;
            }
            let extent = if *mapped { free.next() } else { None };
            if let Some(SlotPlace::Extent(old)) = map.remove(at) {
                reserved.insert(old);
            }
            let update = match extent {
                Some(new) => {
                    reserved.remove(&new);
                    solid(*at, new)
                }
                // A head with something below never hides less than before.
                None if has_below => SlotUpdate {
                    at: LogicalExtent::new(*at),
                    slot: Some(Slot::zero(ExtentSize::DEFAULT)),
                },
                None => hole(*at),
            };
            map.extend(update.slot.as_ref().map(|slot| (*at, slot.place)));
            updates.insert(*at, update);
        }
        (updates.into_values().collect(), map, reserved)
    }

    fn commit(&mut self, volume: usize, slots: &[(u64, bool)]) {
        let Some(held) = self.usable(volume) else { return };
        let (updates, map, reserved) = self.updates(volume, held.node, slots);
        let committed = self.world.commit(&held, updates);
        if !held.stale_journals.is_empty() {
            let error = committed.expect_err("journals wait");
            assert_eq!(error.kind(), ErrorReason::StaleJournals);
            return;
        }
        committed.expect("committed");
        self.volumes[volume].map = map;
        self.reserved.insert(held.node, reserved);
    }

    fn replay(&mut self, volume: usize, slots: &[(u64, bool)], is_sealed: bool) {
        let Some(held) = self.usable(volume) else { return };
        let Some(stale) = held.stale_journals.first().cloned() else { return };
        if is_sealed {
            let seal = SealLayer {
                next_head: stale.next_head,
                replay_of: Some(stale.epoch),
                checkpoint: stale.checkpoint,
                ..self.world.seal_of(&held)
            };
            assert!(!self.world.send_seal(&seal).expect("sealed").before);
            self.volumes[volume].seal();
            self.look_again(volume);
        }
        let mut held = self.usable(volume).expect("as before");
        let (updates, map, reserved) = self.updates(volume, stale.node, slots);
        let mut commit = self.world.commit_of(&held, updates);
        commit.replay_of = Some(stale.epoch);
        block_on(self.world.service.commit_map(&commit)).expect("replayed");
        self.world.retire(&held, stale.epoch).expect("retired");
        held.stale_journals.remove(0);
        let volume = &mut self.volumes[volume];
        (volume.map, volume.held) = (map, Some(held));
        self.reserved.insert(stale.node, reserved);
    }

    fn delete(&mut self, index: usize) {
        let id = self.volumes[index].volume.id;
        match self.world.delete(id) {
            Ok(_) => {
                assert!(self.usable(index).is_none());
                self.made += 1;
                self.volumes[index] = fresh_volume(&self.world, self.made);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorReason::VolumeAttached);
                assert!(self.usable(index).is_some());
            }
        }
    }

    fn check(&self) {
        self.world.assert_clean();
        for volume in &self.volumes {
            let own = entries(&self.world, volume.volume.head).into_iter();
            let own = own.filter_map(|entry| Some((entry.at.get(), entry.own?.place)));
            assert_eq!(own.collect::<Map>(), volume.map);
            assert_eq!(self.shown(volume.volume.head), volume.view());
        }
        for Snap { snapshot, view } in &self.snapshots {
            let layer = snapshot.layer.expect("it has one");
            assert_eq!(self.shown(layer), *view, "snapshot {}", snapshot.name);
        }
        for node in &self.live() {
            let page = block_on(self.world.service.reservations(*node, &PageRequest::first()));
            let items = page.expect("a page").items;
            let runs = items.iter().flat_map(|it| it.runs.iter());
            let reserved: BTreeSet<_> = runs.flat_map(|run| run.iter()).collect();
            let expected = self.reserved.get(node).cloned().unwrap_or_default();
            assert_eq!(reserved, expected, "{node}");
        }
    }
}

fn fresh_volume(world: &World<FaultyStore<RedbStore>>, index: usize) -> Vol {
    let volume = world.create(&format!("v{index}"), SLOTS << 20).expect("made");
    Vol { volume, held: None, map: Map::new(), below: None, restless: false }
}

fn volume_again(world: &World<FaultyStore<RedbStore>>, volume: VolumeId) -> Volume {
    block_on(world.service.volume(&Selector::Id(volume))).expect("it is there")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_extent_has_one_owner_through_any_history(
        actions in prop::collection::vec(action(), 1..80)
    ) {
        let mut model = Model::new();
        for action in &actions {
            model.apply(action);
            model.check();
        }
        model.world.settle();
        model.check();
        model.delete_everything();
    }
}
