//! Merges that other requests cross: another process commits just before a commit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lunar_metadata::seams::block_on;
use lunar_metadata::service::{Service, Step};
use lunar_metadata::store::{KeyRange, KeyValue, MetaStore, RangeRead, RedbStore, StoreError, Txn};
use lunar_proto::domain::*;
use lunar_types::*;

use crate::chains::*;
use crate::world::World;
use Shape::{Blocks, Full, Opaque, Zero};

type Hook = Box<dyn FnOnce() + Send>;

/// A store on which something else is committed just before a commit.
#[derive(Clone)]
struct RacingStore<S> {
    inner: S,
    race: Arc<Race>,
}

/// What runs before the next commit that writes, and how many of those there were.
#[derive(Default)]
struct Race {
    hook: Mutex<Option<Hook>>,
    commits: AtomicUsize,
}

impl Race {
    fn run_before_next_commit(&self, hook: impl FnOnce() + Send + 'static) {
        *self.hook.lock().expect("whole") = Some(Box::new(hook));
        self.commits.store(0, Ordering::Relaxed);
    }

    /// Commits that were tried since the hook was set; it has run.
    fn commits(&self) -> usize {
        assert!(self.hook.lock().expect("whole").is_none(), "the other request has run");
        self.commits.load(Ordering::Relaxed)
    }
}

impl<S> RacingStore<S> {
    fn new(inner: S, race: Arc<Race>) -> Self {
        Self { inner, race }
    }
}

/// One attempt on a store with races.
struct RacingTxn<T> {
    inner: T,
    race: Arc<Race>,
    wrote: std::sync::atomic::AtomicBool,
}

impl<S: MetaStore> MetaStore for RacingStore<S> {
    type Txn = RacingTxn<S::Txn>;

    async fn begin(&self) -> Result<Self::Txn, StoreError> {
        let inner = self.inner.begin().await?;
        Ok(RacingTxn { inner, race: Arc::clone(&self.race), wrote: false.into() })
    }
}

impl<T: Txn> Txn for RacingTxn<T> {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key).await
    }

    async fn get_range(&self, read: &RangeRead) -> Result<Vec<KeyValue>, StoreError> {
        self.inner.get_range(read).await
    }

    fn set(&self, key: &[u8], value: &[u8]) {
        self.wrote.store(true, Ordering::Relaxed);
        self.inner.set(key, value);
    }

    fn clear(&self, key: &[u8]) {
        self.wrote.store(true, Ordering::Relaxed);
        self.inner.clear(key);
    }

    fn clear_range(&self, range: &KeyRange) {
        self.wrote.store(true, Ordering::Relaxed);
        self.inner.clear_range(range);
    }

    async fn commit(&self) -> Result<(), StoreError> {
        if self.wrote.load(Ordering::Relaxed) {
            self.race.commits.fetch_add(1, Ordering::Relaxed);
            let hook = self.race.hook.lock().expect("whole").take();
            if let Some(hook) = hook {
                hook();
            }
        }
        self.inner.commit().await
    }
}

/// Steps the operations of another process on the same store.
fn step_elsewhere<S: MetaStore>(service: &Service<S>, steps: usize) {
    for _ in 0..steps {
        block_on(service.step_operations()).expect("a step");
    }
}

/// Two processes on one store: the first's commits are raced by the second's requests.
struct Two {
    first: World<RacingStore<RedbStore>>,
    second: Arc<World>,
    race: Arc<Race>,
}

impl Two {
    fn new() -> Self {
        let (store, race) = (RedbStore::in_memory(), Arc::new(Race::default()));
        let first = World::on(RacingStore::new(store.clone(), Arc::clone(&race)));
        let mut second = World::on(store);
        second.ids = Arc::clone(&first.ids);
        second.restart();
        Self { first, second: Arc::new(second), race }
    }

    /// Runs the second's requests just before the first's next commit.
    fn before_commit(&self, requests: impl FnOnce(&World) + Send + 'static) {
        let second = Arc::clone(&self.second);
        self.race.run_before_next_commit(move || requests(&second));
    }
}

#[test]
fn an_attachment_during_a_step_keeps_what_its_own_slots_hide() {
    let two = Two::new();
    let world = &two.second;
    world.pool(100);
    let volume = world.volume("v").id;
    write(world, volume, &[(0, Blocks(0, 4))]);
    let snapshot = world.cut(volume, "s").expect("cut").id;
    write(world, volume, &[(0, Full)]);
    world.delete_snapshot(snapshot).expect("it begins");
    two.before_commit(move |world| {
        world.attach(volume, world.node("other")).expect("granted");
    });
    assert_eq!(step(&two.first), Step::Worked);
    assert_eq!(two.race.commits(), 2, "the step has run again");
    let top = head(world, volume);
    assert_eq!(births(world, top)[&0].len(), 2, "moved: a live head's own slot hides nothing");
    world.assert_clean();
}

#[test]
fn a_seal_during_a_step_makes_it_run_again() {
    // Attack 13: the layer above is sealed and gets a child while it is merged into.
    let two = Two::new();
    let world = &two.second;
    world.pool(100);
    let volume = world.volume("v").id;
    write(world, volume, &[(0, Blocks(0, 4)), (1, Blocks(0, 4))]);
    let snapshot = world.cut(volume, "s").expect("cut").id;
    write(world, volume, &[(0, Full)]);
    let above = head(world, volume);
    let before = view(world, above);
    world.delete_snapshot(snapshot).expect("it begins");
    two.before_commit(move |world| {
        let again = world.cut(volume, "above").expect("cut").id;
        world.clone_of(again, "clone").expect("made");
    });
    assert_eq!(step(&two.first), Step::Worked);
    assert_eq!(two.race.commits(), 2);
    two.first.settle();
    world.assert_clean();
    assert_eq!(view(world, above), before);
    assert_eq!(chain(world, head(world, volume)), [above, head(world, volume)]);
    assert_eq!(births(world, above)[&1], [1]);
    assert_eq!(births(world, above)[&0], [above.get()]);
}

#[test]
fn a_commit_of_the_holder_never_runs_again_because_of_a_moving_step() {
    // Attack 35.
    let two = Two::new();
    let world = &two.second;
    let pool = world.pool(2000);
    let volume = world.volume("v").id;
    let below: Vec<_> = (0..500).map(|at| (at, Blocks(0, 4))).collect();
    write(world, volume, &below);
    let snapshot = world.cut(volume, "s").expect("cut").id;
    let held = hold(world, volume);
    let extents = world.extents(world.caller_of(&held), pool.id, 10);
    world.delete_snapshot(snapshot).expect("it begins");
    let commits = |at: u64, moved| {
        let slot = Blocks(0, 4).slot(|| extents[at as usize]);
        let update = SlotUpdate { at: LogicalExtent::new(at), slot: Some(slot) };
        two.before_commit(|world| assert_eq!(step(world), Step::Worked));
        two.first.commit(&held, vec![update]).expect("mapped");
        assert_eq!(two.race.commits(), moved, "commit at {at}");
        world.assert_clean();
    };
    commits(0, 1);
    commits(1, 1);
    let top = held.volume.head;
    assert_eq!(births(world, top).len(), 500, "two steps have moved all");
    // The last step takes the layer out of the chain and changes the record of the head.
    commits(2, 2);
    assert_eq!(chain(world, top), [top]);
}

#[test]
fn a_step_that_a_commit_crosses_runs_again() {
    let two = Two::new();
    let world = &two.second;
    let pool = world.pool(2000);
    let volume = world.volume("v").id;
    write(world, volume, &[(0, Blocks(0, 4)), (1, Blocks(0, 4))]);
    let snapshot = world.cut(volume, "s").expect("cut").id;
    let held = hold(world, volume);
    let extents = world.extents(world.caller_of(&held), pool.id, 1);
    world.delete_snapshot(snapshot).expect("it begins");
    let top = held.volume.head;
    two.before_commit(move |world| {
        let slot = Full.slot(|| extents[0]);
        let at = LogicalExtent::new(0);
        world.commit(&held, vec![SlotUpdate { at, slot: Some(slot) }]).expect("mapped");
    });
    assert_eq!(step(&two.first), Step::Worked);
    assert_eq!(two.race.commits(), 2);
    two.first.settle();
    assert_eq!(births(world, top)[&0].len(), 2);
    world.assert_clean();
}

#[test]
fn neighbours_that_are_merged_at_once_are_correct_in_any_order() {
    // Attack 12: P into C and C into D, and D hides; steps of both cross in all ways.
    for steps in 0..7 {
        for crossing in 1..5 {
            let two = Two::new();
            let world = &two.second;
            let pool = world.pool(1000);
            let volume = world.volume("v").id;
            let layers = [
                vec![(0, Blocks(0, 4)), (1, Opaque(0, 4)), (2, Full), (3, Blocks(0, 9))],
                vec![(0, Blocks(2, 9)), (1, Blocks(0, 4)), (2, Full), (4, Full)],
                vec![(0, Blocks(1, 2)), (1, Full), (3, Zero), (4, Blocks(0, 1))],
            ];
            let snapshots = tower(world, volume, layers);
            write(world, volume, &[(0, Blocks(20, 1)), (4, Blocks(1, 1))]);
            let top = head(world, volume);
            let before = view(world, top);
            for snapshot in snapshots {
                world.delete_snapshot(snapshot).expect("it begins");
            }
            for _ in 0..steps {
                step(&two.first);
            }
            two.before_commit(move |world| step_elsewhere(&world.service, crossing));
            step(&two.first);
            world.assert_clean();
            assert_eq!(view(world, top), before, "{crossing} after {steps}");
            two.first.settle();
            world.assert_clean();
            assert_eq!(view(world, top), before, "{crossing} after {steps}");
            assert_eq!(chain(world, top), [top]);
            world.delete(volume).expect("it begins");
            two.first.settle();
            assert_eq!(world.status(pool.id).usage.allocated_extents, 0);
        }
    }
}

#[test]
fn an_old_head_that_is_freed_while_its_parent_merges_into_it_leaves_nothing() {
    // Attack 31.
    for steps in 0..5 {
        for crossing in 1..5 {
            let two = Two::new();
            let world = &two.second;
            let pool = world.pool(1000);
            let volume = world.volume("v").id;
            let layer = |_| (0..6).map(|at| (at, Blocks(0, 4))).collect();
            let snapshots = tower(world, volume, (0..2).map(layer));
            write(world, volume, &[(0, Full), (1, Blocks(9, 1))]);
            world.delete_snapshot(snapshots[1]).expect("it begins");
            world.roll_back(volume, snapshots[0]).expect("rolled back");
            for _ in 0..steps {
                step(&two.first);
            }
            two.before_commit(move |world| step_elsewhere(&world.service, crossing));
            // Everything may be done already: then a request of another kind is raced.
            if step(&two.first) == Step::Idle {
                two.first.volume("w");
            }
            two.first.settle();
            world.assert_clean();
            assert!(world.operations().is_empty());
            assert_eq!(world.status(pool.id).usage.allocated_extents, 6, "{crossing}/{steps}");
            let top = head(world, volume);
            assert_eq!(chain(world, top), [LayerId::new(1), top]);
        }
    }
}

#[test]
fn of_two_children_that_go_at_once_the_second_begins_the_merge() {
    // Attack 15: each sees the other, and would leave the fork to it.
    let two = Two::new();
    let world = &two.second;
    let pool = world.pool(1000);
    let volume = world.volume("v").id;
    write(world, volume, &[(0, Full), (1, Full)]);
    let snapshot = world.cut(volume, "s").expect("cut").id;
    let clones = ["c0", "c1"].map(|clone| world.clone_of(snapshot, clone).expect("made").id);
    write(world, clones[0], &[(0, Full)]);
    settled(world, snapshot);
    for clone in clones {
        world.delete(clone).expect("it begins");
    }
    // The heads of both are dropped, then the first is emptied.
    for _ in 0..3 {
        assert_eq!(step(world), Step::Worked);
    }
    let drops = world.operations();
    assert!(drops.iter().all(|it| matches!(it.work, OperationWork::DropLayer(_))), "{drops:?}");
    assert_eq!(drops.len(), 2);
    two.before_commit(|world| step_elsewhere(&world.service, 1));
    assert_eq!(step(&two.first), Step::Worked);
    assert_eq!(two.race.commits(), 2, "both take a child from the fork");
    let [merge] = world.operations().try_into().expect("one operation");
    assert_eq!(merge.work, OperationWork::DropLayer(LayerId::new(1)));
    two.first.settle();
    world.assert_clean();
    let top = head(world, volume);
    assert_eq!(chain(world, top), [top], "the fork was merged into its last child");
    assert_eq!(world.status(pool.id).usage.allocated_extents, 2);
}
