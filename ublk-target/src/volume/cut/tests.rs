//! Cuts of a served volume, against a metadata service that answers from a script.

use lunar_engine::journal::SEQ_CONFIRMED;
use lunar_proto::domain::{
    Attachment, Fsfreeze, KnownMember, Layer, LayerSealed, MemberState, SetAbort, SetProgress,
    SlotUpdate,
};
use lunar_types::{
    Epoch, ExtentAddress, Incarnation, LogicalExtent, NodeId, NodeIncarnation, Presence, Slot,
    SnapshotSetId,
};

use super::*;
use crate::metadata::{Grant, MapCommit};
use crate::node::attach::serve;
use crate::reserve::ReserveDesk;
use crate::state::record::{Phase, Record};
use crate::testing::unavailable;
use crate::ublk::DeviceId;
use crate::volume::load::tests::{MiniQueue, World, attachment, give_extents, world};
use crate::volume::served::ServedVolume;

const SET: SnapshotSetId = SnapshotSetId::from_u128(77);
const NEXT: LayerId = LayerId::new(99);
const AFTER_NEXT: LayerId = LayerId::new(120);

/// As in production, but for less waiting.
const LIMITS: CutLimits =
    CutLimits { pause: Duration::from_millis(900), vote_room: Duration::from_millis(400) };

struct Case {
    world: World,
    held: Attachment,
    served: Arc<ServedVolume>,
    control: Control,
    freezer: Freezer,
}

fn progress(state: SetState) -> SetProgress {
    SetProgress { state, abort: None }
}

fn aborted() -> Vote {
    Vote::Aborted(SetAbort { reason: "somebody".parse().expect("a name"), volume: None })
}

fn sealed(last_commit: u64) -> SealedHead {
    let last_commit = CommitNumber::new(last_commit);
    SealedHead { head: NEXT, next_head: AFTER_NEXT, last_commit }
}

fn order() -> OpenMember {
    let member = KnownMember {
        set: SET,
        volume: attachment(1, 2).volume.id,
        set_state: SetState::Gathering,
        state: MemberState::Asked,
    };
    OpenMember { member, epoch: Epoch::new(1), fsfreeze: Fsfreeze::Auto }
}

/// A volume with one block written and nothing committed but its journal.
async fn case() -> Case {
    let world = world();
    let held = attachment(1, 2);
    let loaded = world.loader.fresh(&held).await.expect("loaded");
    let served = serve(loaded, 1).expect("started");
    give_extents(&served.shared.volume);
    MiniQueue::new(&served.shared.volume, &served.luns).write(7, 0x33);
    let metadata = Arc::clone(&world.loader.metadata);
    let desk = Arc::new(ReserveDesk::new(Arc::clone(&metadata)));
    let luns = Arc::clone(&world.loader.luns);
    let mut control = Control::new(Arc::clone(&served), metadata, desk, luns);
    control.limits = LIMITS;
    let record = Record {
        volume: held.volume.id,
        name: "vol".to_owned(),
        epoch: held.epoch,
        holder: NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) },
        device: DeviceId::new(900_001),
        token: 1,
        phase: Phase::Live,
        sharing: crate::state::record::Sharing::Alone,
        publication: None,
        for_file_system: false,
    };
    let freezer = Freezer::new(Arc::clone(&world.loader.state), record);
    world.metadata.expect_ready([Ok(progress(SetState::Pausing))]);
    Case { world, held, served, control, freezer }
}

impl Case {
    fn queue(&self) -> MiniQueue<'_> {
        MiniQueue::new(&self.served.shared.volume, &self.served.luns)
    }

    /// The layers of all commits after the confirmation, and their numbers.
    fn commits(&self) -> Vec<(LayerId, u64)> {
        let commits = self.world.metadata.commits();
        commits[1..].iter().map(|one| (one.layer, one.number.get())).collect()
    }
}

#[tokio::test]
async fn a_sealed_head_is_committed_wholly_and_what_follows_goes_to_the_next() {
    let case = case().await;
    let head = case.held.volume.head;
    case.world.metadata.expect_vote([
        Ok(Vote::Waiting),
        Err(unavailable()),
        Ok(Vote::Sealed(sealed(3))),
    ]);
    assert_eq!(case.control.cut(&order(), &case.freezer).await, CutEnd::Sealed);
    assert_eq!(case.commits(), [(head, 2)]);
    let ballots = case.world.metadata.ballots();
    assert_eq!(ballots.len(), 3);
    assert!(ballots.iter().all(|ballot| *ballot == ballots[0]), "a vote is a fact");
    assert_eq!((ballots[0].last_commit.get(), ballots[0].next_head), (2, NEXT));
    assert!(ballots[0].checkpoint.get() > SEQ_CONFIRMED, "the commit's journal block is covered");

    let mut queue = case.queue();
    assert_eq!(queue.read(7), 0x33);
    queue.write(7, 0x44);
    assert_eq!(queue.read(7), 0x44);
    case.control.settle().await.expect("committed");
    assert_eq!(case.commits(), [(head, 2), (NEXT, 4)], "the seal was number 3");
    assert_eq!(case.control.heads().next, AFTER_NEXT);
    assert!(case.world.metadata.failures().is_empty());
}

#[tokio::test]
async fn an_aborted_set_leaves_the_head_as_it_was() {
    let case = case().await;
    case.world.metadata.expect_vote([Ok(aborted())]);
    assert_eq!(case.control.cut(&order(), &case.freezer).await, CutEnd::Aborted);
    case.queue().write(8, 0x55);
    case.control.settle().await.expect("committed");
    let head = case.held.volume.head;
    assert_eq!(case.commits(), [(head, 2), (head, 3)]);
    assert_eq!(case.control.heads().layer, head);
    assert!(case.world.metadata.failures().is_empty(), "the service knows");
}

#[tokio::test]
async fn a_set_that_is_over_before_anything_pauses_is_no_failure() {
    let case = case().await;
    case.world.metadata.expect_ready([Ok(progress(SetState::Aborted))]);
    let _ = case.world.loader.metadata.member_ready(case.served.facts.grant, SET).await;
    assert_eq!(case.control.cut(&order(), &case.freezer).await, CutEnd::Aborted);
    assert!(case.world.metadata.ballots().is_empty() && case.world.metadata.failures().is_empty());
}

#[tokio::test]
async fn without_a_commit_there_is_no_vote_and_writes_go_on_in_time() {
    let case = case().await;
    case.world.metadata.expect_commit((0..1000).map(|_| Err(unavailable())));
    assert_eq!(case.control.cut(&order(), &case.freezer).await, CutEnd::Aborted);
    assert!(case.world.metadata.ballots().is_empty());
    assert_eq!(case.world.metadata.failures(), ["not-settled-in-time"]);
    case.queue().write(8, 0x55);
    assert_eq!(case.control.heads().layer, case.held.volume.head);
}

#[tokio::test]
async fn without_an_answer_the_volume_goes_on_in_its_next_head_and_commits_after_the_seal() {
    let case = case().await;
    let head = case.held.volume.head;
    assert_eq!(case.control.cut(&order(), &case.freezer).await, CutEnd::Undecided);
    let mut queue = case.queue();
    queue.write(7, 0x66);
    assert_eq!(queue.run(lunar_engine::io::IoOp::Flush), Ok(()), "flushes are acknowledged");
    case.control.settle().await.expect_err("nothing is committed before the seal is known");
    assert_eq!(case.commits(), [(head, 2)]);

    case.world.metadata.expect_seal([Ok(LayerSealed { now: sealed(3), before: true })]);
    case.control.settle().await.expect("committed");
    assert_eq!(case.commits(), [(head, 2), (NEXT, 4)]);
    let seals = case.world.metadata.seals();
    assert!(seals.len() >= 2 && seals.iter().all(|seal| *seal == seals[0]), "one request");
    assert_eq!((seals[0].number.get(), seals[0].next_head), (3, NEXT));
    assert_eq!(seals[0].checkpoint, case.world.metadata.ballots()[0].checkpoint);
    assert_eq!(case.queue().read(7), 0x66);
}

#[tokio::test]
async fn a_set_that_the_last_word_aborts_lets_the_head_go_on() {
    let case = case().await;
    case.world.metadata.expect_failed([Ok(progress(SetState::Aborted))]);
    case.world.metadata.expect_vote([Ok(Vote::Waiting)]);
    assert_eq!(case.control.cut(&order(), &case.freezer).await, CutEnd::Aborted);
    assert_eq!(case.world.metadata.failures(), ["pause-timeout"]);
    assert_eq!(case.control.heads().layer, case.held.volume.head);
}

#[tokio::test]
async fn the_successor_of_a_daemon_that_went_on_seals_first() {
    let Case { world, mut held, served, control, freezer } = case().await;
    assert_eq!(control.cut(&order(), &freezer).await, CutEnd::Undecided);
    MiniQueue::new(&served.shared.volume, &served.luns).write(7, 0x77);
    drop((served, control));

    (held.checkpoint, held.last_commit) = (JournalSeq::new(SEQ_CONFIRMED), CommitNumber::new(2));
    let mut after = held.clone();
    after.volume.head = NEXT;
    after.next_head = AFTER_NEXT;
    after.last_commit = CommitNumber::new(3);
    after.checkpoint = world.metadata.ballots()[0].checkpoint;
    let (id, volume) = (NEXT, held.volume.id);
    after.layers.insert(0, Layer { id, parent: Some(held.volume.head), volume, sealed: false });
    world.metadata.expect_seal([Ok(LayerSealed { now: sealed(3), before: false })]);
    world.metadata.expect_resume([Ok(after.clone())]);
    let loaded = world.loader.resume(&held).await.expect("taken over");
    let seal = world.metadata.seals()[0];
    assert_eq!((seal.number.get(), seal.checkpoint, seal.next_head), (3, after.checkpoint, NEXT));
    assert_eq!(loaded.attachment, after);
    let (volume, luns) = loaded.start(1).expect("started");
    assert_eq!(MiniQueue::new(&volume, &luns).read(7), 0x77);
}

/// The service merges a sealed layer that nothing names as soon as it can: here before the daemon
/// has asked for the chain again.
#[tokio::test]
async fn a_head_that_was_sealed_for_a_replay_and_merged_at_once_still_hides_what_is_below() {
    const BELOW: LayerId = LayerId::new(3);
    let Case { world, held, served, control, freezer } = case().await;
    assert_eq!(control.cut(&order(), &freezer).await, CutEnd::Undecided);
    let mut queue = MiniQueue::new(&served.shared.volume, &served.luns);
    queue.write(9, 0x99);
    assert_eq!(queue.run(lunar_engine::io::IoOp::Flush), Ok(()));
    drop((served, control));

    let (mut later, head) = (attachment(2, 6), held.volume.head);
    later.stale_journals = vec![lunar_proto::domain::StaleJournal {
        epoch: held.epoch,
        node: held.node,
        runs: held.journal,
        checkpoint: JournalSeq::new(SEQ_CONFIRMED),
        next_head: NEXT,
    }];
    later.next_head = LayerId::new(130);
    let layer = |id, parent| Layer { id, parent, volume: held.volume.id, sealed: true };
    later.layers = vec![layer(head, Some(BELOW)), layer(BELOW, None)];
    let size = later.pool.extent_size;
    let mut slot = Slot::fresh(ExtentAddress::new(0, 50), size);
    slot.presence = Presence::full(size);
    let below = MapCommit {
        request: RequestId::from_u128(1),
        grant: Grant { volume: held.volume.id, epoch: held.epoch, node: held.node },
        number: CommitNumber::new(1),
        layer: BELOW,
        extent_size: size,
        updates: vec![SlotUpdate { at: LogicalExtent::new(0), slot: Some(slot) }],
        checkpoint: None,
        replay_of: None,
    };
    world.loader.metadata.commit_map(below).await.expect("there");
    let mut after = later.clone();
    (after.volume.head, after.last_commit) = (NEXT, CommitNumber::new(1));
    after.layers = vec![layer(NEXT, Some(BELOW)), layer(BELOW, None)];
    let now = SealedHead { next_head: later.next_head, ..sealed(1) };
    world.metadata.expect_seal([Ok(LayerSealed { now, before: false })]);
    world.metadata.expect_resume([Ok(after)]);
    let loaded = world.loader.fresh(&later).await.expect("replayed");
    let (volume, luns) = loaded.start(1).expect("started");
    let mut queue = MiniQueue::new(&volume, &luns);
    assert_eq!(
        (queue.read(7), queue.read(9)),
        (0x33, 0x99),
        "what the sealed head has, and the next"
    );
}

#[tokio::test]
async fn flushed_writes_of_an_undecided_head_are_replayed_into_it_after_power_loss() {
    let Case { world, held, served, control, freezer } = case().await;
    assert_eq!(control.cut(&order(), &freezer).await, CutEnd::Undecided);
    let mut queue = MiniQueue::new(&served.shared.volume, &served.luns);
    queue.write(7, 0x88);
    assert_eq!(queue.run(lunar_engine::io::IoOp::Flush), Ok(()));
    queue.write(9, 0x99);
    drop((served, control));

    let mut later = attachment(2, 6);
    later.stale_journals = vec![lunar_proto::domain::StaleJournal {
        epoch: held.epoch,
        node: held.node,
        runs: held.journal,
        checkpoint: JournalSeq::new(SEQ_CONFIRMED),
        next_head: NEXT,
    }];
    later.next_head = LayerId::new(130);
    let mut after = later.clone();
    after.volume.head = NEXT;
    after.last_commit = CommitNumber::new(1);
    let (id, volume) = (NEXT, held.volume.id);
    after.layers.insert(0, Layer { id, parent: Some(held.volume.head), volume, sealed: false });
    let now = SealedHead { next_head: later.next_head, ..sealed(1) };
    world.metadata.expect_seal([Ok(LayerSealed { now, before: false })]);
    world.metadata.expect_resume([Ok(after)]);
    let loaded = world.loader.fresh(&later).await.expect("replayed");
    let seal = world.metadata.seals()[0];
    assert_eq!((seal.replay_of, seal.next_head), (Some(held.epoch), NEXT));
    assert_eq!(seal.checkpoint, world.metadata.ballots()[0].checkpoint);
    let commits = world.metadata.commits();
    let replayed = commits.iter().find(|one| one.replay_of.is_some()).expect("a replay");
    assert_eq!((replayed.layer, replayed.number.get()), (NEXT, 2));
    let (volume, luns) = loaded.start(1).expect("started");
    let mut queue = MiniQueue::new(&volume, &luns);
    assert_eq!((queue.read(7), queue.read(9)), (0x88, 0), "flushed, and not flushed");
}
