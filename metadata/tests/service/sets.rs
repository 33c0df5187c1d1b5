//! Sets of snapshots over attached and detached volumes: gathered, paused, cut, aborted.

use lunar_metadata::keyspace::{KeyedTxn, LayerName, VolumeKey};
use lunar_metadata::seams::block_on;
use lunar_metadata::store::{Fault, FaultPlan, FaultyStore, MetaStore, RedbStore, StoreError};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

use crate::world::{World, hole, kind, name, solid};

/// A volume on each of two nodes, and one that nobody holds.
pub struct Two<S = RedbStore> {
    pub world: World<S>,
    pub a: Attachment,
    pub b: Attachment,
    pub idle: Volume,
}

impl Two {
    pub fn new() -> Self {
        Self::on(World::new())
    }
}

impl<S: MetaStore> Two<S> {
    pub fn on(world: World<S>) -> Self {
        let pool = world.pool(200);
        let held = |node: &str, volume: &str| {
            let caller = world.join_as(node, 7, None).expect("joined").session;
            let held = world.attach(world.volume(volume).id, caller).expect("granted");
            let extents = world.extents(caller, pool.id, 4);
            world.commit(&held, vec![solid(0, extents[0])]).expect("mapped");
            held
        };
        let (a, b) = (held("a", "va"), held("b", "vb"));
        let idle = world.volume("idle");
        Self { world, a, b, idle }
    }

    /// A set of all three.
    pub fn open(&self) -> SnapshotSetId {
        let members = [(self.a.volume.id, "sa"), (self.idle.id, "si"), (self.b.volume.id, "sb")];
        let set = self.world.cut_set(&members).expect("stored");
        assert_eq!((set.state, set.abort), (SetState::Gathering, None));
        set.id
    }

    /// The same, when both holders are ready.
    pub fn pausing(&self) -> SnapshotSetId {
        let set = self.open();
        assert_eq!(self.world.ready(set, &self.a).expect("taken down"), SetState::Gathering);
        assert_eq!(self.world.ready(set, &self.b).expect("taken down"), SetState::Pausing);
        set
    }

    pub fn vote(&self, set: SnapshotSetId, held: &Attachment) -> Vote {
        self.world.send_vote(&self.world.vote_of(set, held)).expect("taken down")
    }

    pub fn members(&self, held: &Attachment) -> Vec<OpenMember> {
        let caller = self.world.caller_of(held);
        let watch = WatchNode {
            caller,
            structures: vec![],
            members: vec![],
            fences: vec![],
            peers: vec![],
            recalls: vec![],
        };
        block_on(self.world.service.watch_node(&watch)).expect("told").members
    }

    /// Nothing of a set is left but its outcome, and its names are free.
    pub fn assert_aborted(&self, set: SnapshotSetId, reason: &str) {
        let set = self.world.set(set);
        assert_eq!(set.state, SetState::Aborted);
        assert_eq!(set.abort.expect("it has a reason").reason, name(reason));
        assert!(set.snapshots.is_empty());
        assert!(set.members.iter().all(|it| it.state.is_none() && it.node.is_none()));
        for snapshot in ["sa", "si", "sb"] {
            let found = block_on(self.world.service.snapshot(&Selector::Name(name(snapshot))));
            assert_eq!(kind(found), ErrorReason::SnapshotNotFound);
        }
        self.world.assert_clean();
    }

    fn head(&self, volume: VolumeId) -> LayerId {
        block_on(self.world.service.volume(&Selector::Id(volume))).expect("there").head
    }
}

#[test]
fn all_members_are_cut_by_the_transaction_of_the_last_vote() {
    let case = Two::new();
    let (world, a, b) = (&case.world, &case.a, &case.b);
    let set = case.open();
    let shown = world.set(set);
    let states: Vec<_> = shown.members.iter().map(|member| member.state).collect();
    use MemberState::{Asked, Paused, Ready};
    assert_eq!(states, [Some(Asked), Some(Paused), Some(Asked)]);
    assert_eq!(shown.members[0].node, Some(a.node));
    assert!(shown.snapshots.iter().all(|it| it.state == SnapshotState::Creating));
    world.assert_clean();
    let heads = [a.volume.head, case.idle.head, b.volume.head];

    world.ready(set, a).expect("taken down");
    let [member] = case.members(a).try_into().expect("one");
    assert_eq!((member.member.state, member.member.set_state), (Ready, SetState::Gathering));
    assert_eq!((member.epoch, member.member.volume), (a.epoch, a.volume.id));
    world.ready(set, b).expect("taken down");
    assert_eq!(case.members(a)[0].member.set_state, SetState::Pausing);
    assert_eq!(case.vote(set, a), Vote::Waiting);
    let now = [a.volume.id, case.idle.id, b.volume.id].map(|volume| case.head(volume));
    assert_eq!(now, heads, "nothing is cut before the last vote");
    world.assert_clean();

    let vote = world.vote_of(set, b);
    let Vote::Sealed(sealed) = world.send_vote(&vote).expect("decided") else {
        panic!("all have voted")
    };
    assert_eq!(sealed.head, b.next_head);
    assert_eq!(sealed.last_commit, vote.last_commit.next());
    let shown = world.set(set);
    let layers: Vec<_> = shown.snapshots.iter().map(|snapshot| snapshot.layer).collect();
    assert_eq!((shown.state, layers), (SetState::Sealed, heads.map(Some).to_vec()));
    let owned: Vec<_> = shown.snapshots.iter().map(|snapshot| snapshot.owned_extents).collect();
    assert_eq!(owned, [1, 0, 1]);
    let after = world.resumed(b).expect("held");
    assert_eq!(after.volume.head, b.next_head);
    assert_eq!((after.next_head, after.checkpoint), (sealed.next_head, vote.checkpoint));
    assert!(after.next_head > after.volume.head);
    assert!(case.members(a).is_empty() && case.members(b).is_empty());
    world.assert_clean();
}

#[test]
fn a_late_commit_of_the_old_head_is_refused_after_the_cut() {
    let case = Two::new();
    let world = &case.world;
    let late = world.commit_of(&case.a, vec![hole(0)]);
    let set = case.pausing();
    case.vote(set, &case.a);
    case.vote(set, &case.b);
    let send = |commit: &CommitMap| block_on(world.service.commit_map(commit));
    assert_eq!(kind(send(&late)), ErrorReason::CommitOutOfOrder);
    let number = late.number.next();
    let renumbered = CommitMap { number, request: world.request(), ..late };
    assert_eq!(kind(send(&renumbered)), ErrorReason::LayerNotWritable);
    let on_top = world.resumed(&case.a).expect("held");
    world.commit(&on_top, vec![hole(0)]).expect("the new head is written");
    assert_eq!(world.map(case.a.volume.head).len(), 1, "the snapshot stays");
    world.assert_clean();
}

/// A whole cut, with something done before each call and each call sent twice.
fn cut_with<S: MetaStore>(case: &mut Two<S>, between: &mut impl FnMut(&mut World<S>)) {
    between(&mut case.world);
    let members = [(case.a.volume.id, "sa"), (case.idle.id, "si"), (case.b.volume.id, "sb")];
    let set = case.world.cut_set(&members).expect("stored").id;
    for _ in 0..2 {
        for held in [&case.a, &case.b] {
            between(&mut case.world);
            case.world.ready(set, held).expect("taken down");
        }
    }
    let votes = [&case.a, &case.b].map(|held| case.world.vote_of(set, held));
    for _ in 0..2 {
        for vote in &votes {
            between(&mut case.world);
            case.world.send_vote(vote).expect("taken down");
            case.world.assert_clean();
        }
    }
    for vote in &votes {
        let Vote::Sealed(now) = case.world.send_vote(vote).expect("told") else { panic!("sealed") };
        assert_eq!((now.head, now.last_commit), (vote.next_head, vote.last_commit.next()));
    }
    for held in [&case.a, &case.b] {
        assert_eq!(case.world.ready(set, held).expect("told"), SetState::Sealed);
        assert_eq!(case.world.fail(set, held).expect("told").state, SetState::Sealed);
    }
    assert_eq!(kind(block_on(case.world.service.abort_snapshots(set))), ErrorReason::SetDecided);
    assert_eq!(case.world.set(set).snapshots.len(), 3);
    case.world.assert_clean();
}

/// While members of several nodes pause, a restart aborts: the new process does not know how long.
#[test]
fn a_restart_of_the_service_before_or_after_the_pause_changes_nothing() {
    let mut case = Two::new();
    let mut call = 0;
    let mut restart = |world: &mut World| {
        call += 1;
        // All are ready after the third look, and the set is decided after the seventh.
        if !(4..=7).contains(&call) {
            world.restart();
        }
    };
    cut_with(&mut case, &mut restart);
    assert_eq!(call, 9);
}

#[test]
fn a_fault_at_every_commit_of_a_cut_changes_nothing() {
    for fault in [Fault::Conflict, Fault::CommittedUnknown, Fault::LostUnknown] {
        let plan = FaultPlan::default();
        let store = FaultyStore::new(RedbStore::in_memory(), plan.clone());
        let mut case = Two::on(World::on(store));
        let mut before_each_commit = |_: &mut World<_>| {
            if plan.remaining() == 0 {
                plan.push(fault);
            }
        };
        cut_with(&mut case, &mut before_each_commit);
        assert_eq!(plan.remaining(), 1, "the last calls are repeated and write nothing");
    }
}

type Change = (&'static str, fn(&Two));

/// What takes from a set what its members were asked for, and the reason that it gives. Of some
/// the service learns only from the last vote.
const CHANGES: &[Change] = &[
    ("member-changed", |case| {
        let successor = case.world.join_as("a", 7, Some(1)).expect("resumed");
        assert!(successor.resumed);
    }),
    ("member-changed", |case| {
        block_on(case.world.service.declare_fenced(case.a.node)).expect("fenced");
        case.world.join_as("a", 8, None).expect("another boot");
    }),
    ("member-changed", |case| {
        block_on(case.world.service.declare_fenced(case.a.node)).expect("fenced");
    }),
    ("member-changed", |case| {
        let held = &case.a;
        case.world.commit(held, vec![hole(0)]).expect("it pauses no more");
    }),
    ("volume-detached", |case| {
        case.world.detach(&case.a, DetachMode::Clean).expect("detached");
    }),
    ("volume-detached", |case| {
        case.world.detach(&case.a, DetachMode::KeepJournal).expect("detached");
    }),
    ("volume-attached", |case| {
        let boot = case.world.boot_as("a", 8);
        case.world.attach(case.a.volume.id, boot).expect("taken over");
    }),
    ("volume-attached", |case| {
        let node = case.world.node("c");
        case.world.attach(case.idle.id, node).expect("granted");
    }),
    ("volume-deleted", |case| {
        case.world.delete(case.idle.id).expect("it begins");
    }),
    ("volume-deleted", |case| {
        block_on(case.world.service.declare_fenced(case.a.node)).expect("fenced");
        case.world.delete(case.a.volume.id).expect("it begins");
    }),
    ("volume-rolled-back", |case| {
        let snapshot = Selector::Name(name("before"));
        let snapshot = block_on(case.world.service.snapshot(&snapshot)).expect("cut before");
        case.world.roll_back(case.idle.id, snapshot.id).expect("back");
    }),
    ("sealed-without-the-set", |case| {
        let seal = case.world.seal_of(&case.a);
        case.world.send_seal(&seal).expect("sealed");
    }),
    ("abort-asked", |case| {
        let set = case.members(&case.b)[0].member.set;
        let set = block_on(case.world.service.abort_snapshots(set)).expect("aborted");
        assert_eq!(block_on(case.world.service.abort_snapshots(set.id)).expect("again"), set);
    }),
    ("warm-up-failed", |case| {
        let set = case.members(&case.b)[0].member.set;
        let failed = case.world.fail(set, &case.a).expect("taken down");
        assert_eq!(failed.state, SetState::Aborted);
        assert_eq!(failed.abort.expect("a reason").volume, Some(case.a.volume.id));
        assert_eq!(case.world.fail(set, &case.b).expect("told").state, SetState::Aborted);
    }),
];

#[test]
fn a_member_that_changed_after_its_vote_aborts_the_set() {
    for (index, (reason, change)) in CHANGES.iter().enumerate() {
        let case = Two::new();
        case.world.cut(case.idle.id, "before").expect("cut");
        let set = case.pausing();
        assert_eq!(case.vote(set, &case.a), Vote::Waiting);
        let head = case.head(case.b.volume.id);
        change(&case);
        case.world.assert_clean();
        let Vote::Aborted(abort) = case.vote(set, &case.b) else { panic!("change {index}") };
        assert_eq!(abort.reason, name(reason), "change {index}");
        case.assert_aborted(set, reason);
        assert_eq!(case.head(case.b.volume.id), head, "nobody is cut");
        let Vote::Aborted(_) = case.vote(set, &case.b) else { panic!("it stays so") };
        case.world.cut_set(&[(case.b.volume.id, "sb")]).expect("the volume is free");
        case.world.settle();
        case.world.assert_clean();
    }
}

#[test]
fn a_member_that_changed_before_the_barrier_aborts_the_set() {
    for (index, (reason, change)) in CHANGES.iter().enumerate() {
        if index == 3 {
            // Writes go on while a set is gathered.
            continue;
        }
        let case = Two::new();
        case.world.cut(case.idle.id, "before").expect("cut");
        let set = case.open();
        case.world.ready(set, &case.a).expect("taken down");
        change(&case);
        let state = case.world.ready(set, &case.b).expect("told");
        assert_eq!(state, SetState::Aborted, "change {index}");
        case.assert_aborted(set, reason);
    }
}

#[test]
fn a_successor_does_not_stand_in_for_the_process_that_was_ready_or_has_voted() {
    for voted in [false, true] {
        let case = Two::new();
        let set = if voted { case.pausing() } else { case.open() };
        case.world.ready(set, &case.a).expect("taken down");
        if voted {
            assert_eq!(case.vote(set, &case.a), Vote::Waiting);
        }
        case.world.join_as("a", 7, Some(1)).expect("resumed");
        let [found] = case.members(&case.a).try_into().expect("the successor finds it");
        assert_ne!(found.member.state, MemberState::Asked);
        if voted {
            let Vote::Aborted(abort) = case.vote(set, &case.a) else { panic!("aborted") };
            assert_eq!(abort.reason, name("process-changed"));
        } else {
            assert_eq!(case.world.ready(set, &case.a).expect("told"), SetState::Aborted);
        }
        case.assert_aborted(set, "process-changed");
    }
}

#[test]
fn a_process_that_joins_after_the_cut_finds_the_next_head() {
    let case = Two::new();
    let set = case.pausing();
    let late = case.world.vote_of(set, &case.a);
    case.world.send_vote(&late).expect("taken down");
    case.vote(set, &case.b);
    case.world.join_as("a", 7, Some(1)).expect("resumed");
    let found = case.world.resumed(&case.a).expect("held");
    assert_eq!(found.volume.head, case.a.next_head);
    assert_eq!((found.checkpoint, found.last_commit), (late.checkpoint, late.last_commit.next()));
    assert_eq!(kind(case.world.send_vote(&late)), ErrorReason::StaleSession);
    case.world.commit(&found, vec![hole(0)]).expect("it goes on");
    case.world.assert_clean();
}

#[test]
fn a_vote_says_what_its_grant_is_or_is_refused() {
    let case = Two::new();
    let world = &case.world;
    let set = case.open();
    let vote = world.vote_of(set, &case.a);
    assert_eq!(kind(world.send_vote(&vote)), ErrorReason::InvalidField, "it is Gathering");
    world.ready(set, &case.a).expect("taken down");
    world.ready(set, &case.b).expect("taken down");
    let checkpoint = JournalSeq::new(9);
    let commit = CommitMap { checkpoint: Some(checkpoint), ..world.commit_of(&case.a, vec![]) };
    block_on(world.service.commit_map(&commit)).expect("settled");
    let vote = world.vote_of(set, &case.a);
    let ghost = SnapshotSetId::from_u128(5);
    let other = world.cut_set(&[(world.volume("w").id, "w")]).expect("sealed").id;
    let cases = [
        (MemberPaused { set: ghost, ..vote }, ErrorReason::SetNotFound),
        (MemberPaused { set: other, ..vote }, ErrorReason::InvalidField),
        (MemberPaused { epoch: Epoch::new(9), ..vote }, ErrorReason::StaleEpoch),
        (MemberPaused { volume: case.idle.id, ..vote }, ErrorReason::NotAttached),
        (
            MemberPaused { last_commit: vote.last_commit.next(), ..vote },
            ErrorReason::CommitOutOfOrder,
        ),
        (MemberPaused { next_head: case.b.next_head, ..vote }, ErrorReason::NextHeadMismatch),
        (MemberPaused { next_head: case.a.volume.head, ..vote }, ErrorReason::NextHeadMismatch),
        (
            MemberPaused { checkpoint: JournalSeq::new(8), ..vote },
            ErrorReason::CheckpointRegression,
        ),
    ];
    for (bad, reason) in cases {
        assert_eq!(kind(world.send_vote(&bad)), reason, "{bad:?}");
    }
    assert_eq!(world.send_vote(&vote).expect("taken down"), Vote::Waiting);
    let other = MemberPaused { checkpoint: JournalSeq::new(99), ..vote };
    assert_eq!(kind(world.send_vote(&other)), ErrorReason::InvalidField, "one vote a process");
    let Vote::Sealed(_) = case.vote(set, &case.b) else { panic!("all have voted") };
    assert_eq!(world.resumed(&case.a).expect("held").checkpoint, vote.checkpoint);
    world.assert_clean();
}

#[test]
fn a_volume_is_in_one_open_set_and_an_old_vote_fits_no_other() {
    let case = Two::new();
    let world = &case.world;
    let set = case.pausing();
    for volume in [case.a.volume.id, case.idle.id] {
        let busy = world.cut_set(&[(volume, "other")]).expect_err("it is busy");
        assert_eq!(busy.kind(), ErrorReason::VolumeBusy);
        assert_eq!(busy.facts()["set"], set.to_string());
    }
    let vote = world.vote_of(set, &case.a);
    world.send_vote(&vote).expect("taken down");
    case.vote(set, &case.b);
    let second = world.cut_set(&[(case.a.volume.id, "second")]).expect("stored").id;
    assert_eq!(world.ready(second, &case.a).expect("alone"), SetState::Pausing);
    let late = MemberPaused { set: second, ..vote };
    assert_eq!(kind(world.send_vote(&late)), ErrorReason::NextHeadMismatch);
    let now = world.vote_of(second, &case.a);
    let late = MemberPaused { next_head: now.next_head, ..late };
    assert_eq!(kind(world.send_vote(&late)), ErrorReason::CommitOutOfOrder);
    let Vote::Sealed(_) = world.send_vote(&now).expect("decided") else { panic!("alone") };
    assert_eq!(kind(world.send_vote(&vote)), ErrorReason::NextHeadMismatch, "two seals ago");
    world.assert_clean();
}

#[test]
fn what_cannot_be_cut_is_refused_and_leaves_nothing() {
    let case = Two::new();
    let world = &case.world;
    world.cut(case.idle.id, "taken").expect("cut");
    let (a, idle) = (case.a.volume.id, case.idle.id);
    let twice = world.cut_set(&[(a, "x"), (idle, "y"), (a, "z")]).expect_err("twice");
    assert_eq!(twice.facts()["field"], "members[2].volume");
    let same_name = world.cut_set(&[(a, "x"), (idle, "x")]);
    assert_eq!(kind(same_name), ErrorReason::SnapshotExists);
    let taken = world.cut_set(&[(a, "x"), (idle, "taken")]);
    assert_eq!(kind(taken), ErrorReason::SnapshotExists);
    assert_eq!(kind(world.cut_set(&[])), ErrorReason::InvalidField);
    let many = vec![(a, "x"); SET_MEMBERS_MAX + 1];
    assert_eq!(kind(world.cut_set(&many)), ErrorReason::LimitReached);
    let unknown = world.cut_set(&[(VolumeId::from_u128(3), "x")]);
    assert_eq!(kind(unknown), ErrorReason::VolumeNotFound);
    let clones = ["c", "c"].map(|clone| NewCut::Clone(name(clone)));
    let members = [a, idle].into_iter().zip(clones);
    let members = members.map(|(id, cut)| NewMember { volume: Selector::Id(id), cut });
    let request = CreateSnapshots {
        request: world.request(),
        members: members.collect(),
        created_unix_seconds: 0,
        fsfreeze: Fsfreeze::Auto,
        over_watermark: false,
        group: None,
    };
    let refused = block_on(world.service.create_snapshots(&request));
    assert_eq!(kind(refused), ErrorReason::InvalidField);
    assert!(case.members(&case.a).is_empty());
    world.assert_clean();
}

#[test]
fn the_largest_set_is_cut_by_one_transaction() {
    let world = World::new();
    world.pool(400);
    let node = world.node("a");
    let held: Vec<_> = (0..SET_MEMBERS_MAX)
        .map(|index| {
            let volume = world.volume(&format!("v{index}")).id;
            world.attach(volume, node).expect("granted")
        })
        .collect();
    let names: Vec<_> = (0..SET_MEMBERS_MAX).map(|index| format!("s{index}")).collect();
    let members = held.iter().zip(&names).map(|(held, name)| (held.volume.id, name.as_str()));
    let set = world.cut_set(&members.collect::<Vec<_>>()).expect("stored").id;
    for held in &held {
        world.ready(set, held).expect("taken down");
    }
    for held in &held {
        world.send_vote(&world.vote_of(set, held)).expect("taken down");
    }
    let sealed = world.set(set);
    assert_eq!((sealed.state, sealed.snapshots.len()), (SetState::Sealed, SET_MEMBERS_MAX));
    world.assert_clean();
}

fn clone_set<S: MetaStore>(world: &World<S>, volume: VolumeId) -> SnapshotSet {
    let cut = NewCut::Clone(name("copy"));
    let request = CreateSnapshots {
        request: world.request(),
        members: vec![NewMember { volume: Selector::Id(volume), cut }],
        created_unix_seconds: 0,
        fsfreeze: Fsfreeze::Never,
        over_watermark: false,
        group: None,
    };
    let set = block_on(world.service.create_snapshots(&request)).expect("stored");
    let again = block_on(world.service.create_snapshots(&request)).expect("again");
    assert_eq!(again, set);
    assert_eq!(set.fsfreeze, Fsfreeze::Never);
    set
}

#[test]
fn a_volume_is_cloned_without_a_snapshot_attached_or_not() {
    let case = Two::new();
    let world = &case.world;
    let set = clone_set(world, case.idle.id);
    assert_eq!((set.state, set.snapshots.len()), (SetState::Sealed, 0));
    let idle = block_on(world.service.volume(&Selector::Name(name("copy")))).expect("made");
    assert_eq!(world.layer(idle.head).expect("made").parent, Some(case.idle.head));
    let sealed = world.layer(case.idle.head).expect("sealed");
    assert!(sealed.sealed && sealed.name == LayerName::Nameless);
    assert!(world.operations().is_empty(), "it is a fork");
    world.assert_clean();
    world.delete(idle.id).expect("it begins");
    world.settle();

    let set = clone_set(world, case.a.volume.id).id;
    let early = block_on(world.service.volume(&Selector::Name(name("copy"))));
    assert_eq!(kind(early), ErrorReason::VolumeNotFound, "not before the cut");
    world.ready(set, &case.a).expect("taken down");
    let Vote::Sealed(_) = case.vote(set, &case.a) else { panic!("alone") };
    let clone = block_on(world.service.volume(&Selector::Name(name("copy")))).expect("made");
    let CutAs::Clone { volume, .. } = &world.set(set).members[0].cut else { panic!("a clone") };
    assert_eq!((clone.id, clone.size), (*volume, case.a.volume.size));
    assert_eq!(world.layer(clone.head).expect("made").parent, Some(case.a.volume.head));
    world.settle();
    world.assert_clean();
}

#[test]
fn a_name_that_was_taken_meanwhile_aborts_the_clone() {
    let case = Two::new();
    let set = clone_set(&case.world, case.a.volume.id).id;
    case.world.ready(set, &case.a).expect("taken down");
    case.world.volume("copy");
    let Vote::Aborted(abort) = case.vote(set, &case.a) else { panic!("the name is taken") };
    assert_eq!(abort.reason, name("clone-name-taken"));
    assert_eq!(case.head(case.a.volume.id), case.a.volume.head);
    case.world.assert_clean();
}

#[test]
fn a_snapshot_that_is_not_cut_yet_is_neither_deleted_nor_used() {
    let case = Two::new();
    let set = case.world.set(case.open());
    let snapshot = &set.snapshots[0];
    assert_eq!((snapshot.layer, snapshot.owned_extents), (None, 0));
    let refused = ErrorReason::SnapshotNotReady;
    assert_eq!(kind(case.world.delete_snapshot(snapshot.id)), refused);
    assert_eq!(kind(case.world.clone_of(snapshot.id, "c")), refused);
    case.world.assert_clean();
}

#[test]
fn a_node_hears_of_another_structure_of_what_it_holds() {
    let case = Two::new();
    let volume = case.a.volume.id;
    let watch = |held: &Attachment, structure| {
        let caller = case.world.caller_of(held);
        let structures = vec![ChangedStructure { volume, structure }];
        let watch = WatchNode {
            caller,
            structures,
            members: vec![],
            fences: vec![],
            peers: vec![],
            recalls: vec![],
        };
        block_on(case.world.service.watch_node(&watch)).expect("told").structures
    };
    let known = case.a.structure;
    assert!(watch(&case.a, known).is_empty());
    let key = &VolumeKey { volume };
    let changed = case.world.service.store().transact(|txn| async move {
        let mut record = txn.load(key).await.expect("read").expect("there");
        record.structure = record.structure.next();
        txn.put(key, &record);
        Ok::<_, StoreError>(())
    });
    block_on(changed).expect("changed");
    let told = watch(&case.a, known);
    assert_eq!(told, [ChangedStructure { volume, structure: known.next() }]);
    assert!(watch(&case.a, known.next()).is_empty());
    assert!(watch(&case.b, known).is_empty(), "it does not hold the volume");
    assert_eq!(case.world.resumed(&case.a).expect("held").structure, known.next());
}
