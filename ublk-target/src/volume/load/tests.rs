//! Loading from LUN files, against a metadata service that answers from a script.

use std::collections::BTreeMap;
use std::path::PathBuf;

use lunar_engine::buffer::AlignedBuf;
use lunar_engine::io::{Action, IoError, IoOp, IoRequest, LunDone, LunIo, QueueId, RequestId};
use lunar_engine::journal::LunSet;
use lunar_engine::label::{self, Label};
use lunar_engine::lun::LunDevice;
use lunar_engine::volume::QueueContext;
use lunar_proto::domain::{
    Layer, Lun, StaleJournal, Volume as VolumeRow, VolumeState, WatermarkLevel,
};
use lunar_types::{
    ByteCount, CommitNumber, ExtentRun, ExtentSize, Incarnation, LogicalBlockSize, LogicalExtent,
    LunId, LunIndex, NodeId, NodeIncarnation, PoolId, StructureNumber, VolumeId, VolumeSize,
};

use super::*;
use crate::lun::inspect::tests::labelled_file;
use crate::lun::inventory::Search;
use crate::lun::open::{self, Access};
use crate::lun::set::LunOpener;
use crate::reserve::ReserveDesk;
use crate::state::tests::state;
use crate::testing::{FakeMetadata, unavailable};
use crate::volume::consolidate::CopyDesk;
use crate::volume::control::{CheckpointError, Control};

const CLUSTER: ClusterId = ClusterId::from_u128(1);
const LUN_BYTES: u64 = 64 << 20;

pub(crate) struct World {
    pub(crate) metadata: Arc<FakeMetadata>,
    pub(crate) loader: Loader,
    _dir: tempfile::TempDir,
    lun: tempfile::NamedTempFile,
}

fn node(incarnation: u32) -> NodeIncarnation {
    NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(incarnation) }
}

pub(crate) fn world() -> World {
    let lun = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).expect("a file");
    lun.as_file().set_len(LUN_BYTES).expect("sized");
    let device = open::open(lun.path(), Access::Claim).expect("opened");
    let label = Label {
        cluster: CLUSTER,
        lun: LunId::from_u128(7),
        size_bytes: LUN_BYTES,
        logical_block_bytes: device.logical_block_bytes(),
    };
    label::write(&device, &label).expect("labelled");
    let (dir, state) = state();
    let metadata = Arc::new(FakeMetadata::default());
    let paths: Vec<PathBuf> = vec![lun.path().to_owned()];
    let loader = Loader {
        metadata: Arc::clone(&metadata) as Arc<dyn Metadata>,
        luns: Arc::new(LunOpener::new(Search { scan: false, paths }, Arc::default())),
        state: Arc::new(state),
        cluster: CLUSTER,
    };
    World { metadata, loader, _dir: dir, lun }
}

fn pool() -> Pool {
    let size = ExtentSize::DEFAULT;
    Pool {
        id: PoolId::from_u128(3),
        name: "pool".parse().expect("a name"),
        extent_size: size,
        luns: vec![Lun {
            id: LunId::from_u128(7),
            index: LunIndex::new(0),
            size: ByteCount::new(LUN_BYTES),
            logical_block_size: LogicalBlockSize::B512,
            data_extents: size.data_extents(LUN_BYTES),
        }],
        logical_block_size: LogicalBlockSize::B512,
        watermarks: lunar_proto::domain::Watermarks::DEFAULT,
        fencing: lunar_proto::domain::PoolFencing::None,
    }
}

pub(crate) fn attachment(epoch: u64, journal_at: u64) -> Attachment {
    let (id, head) = (VolumeId::from_u128(9), LayerId::new(5));
    let volume = VolumeRow {
        id,
        name: "vol".parse().expect("a name"),
        pool: PoolId::from_u128(3),
        size: VolumeSize::from_bytes(1 << 30).expect("aligned"),
        logical_block_size: LogicalBlockSize::B4096,
        head,
        epoch: Epoch::new(epoch),
        state: VolumeState::Ready,
        restored: false,
        holder: None,
        mapped_extents: 0,
        peers: Vec::new(),
        moves: 0,
        publications: Vec::new(),
        content: lunar_proto::domain::ContentState::Used,
        origin: None,
    };
    Attachment {
        volume,
        epoch: Epoch::new(epoch),
        node: node(1),
        layers: vec![Layer { id: head, parent: None, volume: id, sealed: false }],
        pool: pool(),
        journal: vec![ExtentRun::new(ExtentAddress::new(0, journal_at), 2)],
        checkpoint: JournalSeq::new(0),
        stale_journals: Vec::new(),
        last_commit: CommitNumber::new(0),
        next_head: LayerId::new(99),
        structure: StructureNumber::new(0),
    }
}

/// A queue without a kernel: runs what the engine asks for on the LUN's file, one after the other.
pub(crate) struct MiniQueue<'a> {
    volume: &'a Volume,
    luns: &'a PoolLuns,
    context: QueueContext,
    buffer: AlignedBuf,
}

impl<'a> MiniQueue<'a> {
    pub(crate) fn new(volume: &'a Volume, luns: &'a PoolLuns) -> Self {
        let context = volume.queue(QueueId::new(0));
        Self { volume, luns, context, buffer: AlignedBuf::zeroed(4) }
    }

    fn io(&mut self, io: LunIo) -> Option<AlignedBuf> {
        let device = self.luns.lun(io.lun()).expect("the LUN is open");
        let range = |offset: u32, length: u32| offset as usize..(offset + length) as usize;
        match io {
            LunIo::Flush { .. } => device.flush().expect("flushed"),
            LunIo::Write { at, offset, length, .. } => {
                let bytes = &self.buffer.as_bytes()[range(offset, length)];
                device.write_at(at, bytes).expect("written");
            }
            LunIo::WriteOwned { at, buffer, .. } => {
                device.write_at(at, buffer.as_bytes()).expect("written");
            }
            LunIo::Read { at, offset, length, .. } => {
                let into = &mut self.buffer.as_mut_bytes()[range(offset, length)];
                device.read_at(at, into).expect("read");
            }
            LunIo::ReadOwned { at, mut buffer, .. } => {
                device.read_at(at, buffer.as_mut_bytes()).expect("read");
                return Some(buffer);
            }
            LunIo::WriteParts { .. } => unreachable!("whole blocks are written"),
        }
        None
    }

    pub(crate) fn run(&mut self, op: IoOp) -> Result<(), IoError> {
        let mut actions = Vec::new();
        let id = RequestId { queue: QueueId::new(0), tag: 0 };
        self.volume.submit(&mut self.context, IoRequest { id, op }, &mut actions);
        loop {
            assert!(!actions.is_empty(), "the request waits for something");
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Lun { op, io } => {
                        let buffer = self.io(io);
                        let done = LunDone { op, result: Ok(()), buffer };
                        self.volume.complete(&mut self.context, done, &mut actions);
                    }
                    Action::ZeroFill { offset, length, .. } => {
                        self.buffer.as_mut_bytes()[offset as usize..][..length as usize].fill(0);
                    }
                    Action::Complete { result, .. } => return result,
                    Action::WakeQueue(_) | Action::WakeControl => {}
                }
            }
        }
    }

    pub(crate) fn write(&mut self, block: u64, byte: u8) {
        self.buffer.as_mut_bytes().fill(byte);
        let op = IoOp::Write { offset: block * 4096, length: 4096, fua: false };
        assert_eq!(self.run(op), Ok(()));
    }

    pub(crate) fn read(&mut self, block: u64) -> u8 {
        assert_eq!(self.run(IoOp::Read { offset: block * 4096, length: 4096 }), Ok(()));
        let bytes = &self.buffer.as_bytes()[..4096];
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a block is of one write");
        bytes[0]
    }
}

pub(crate) fn give_extents(volume: &Volume) {
    volume.give_reserve(&[ExtentRun::new(ExtentAddress::new(0, 20), 8)], &mut Vec::new());
}

/// The slots of all commits so far, as the service would have them.
pub(crate) fn committed(world: &World) -> Vec<(LogicalExtent, Slot)> {
    let mut map = BTreeMap::new();
    for update in world.metadata.commits().into_iter().flat_map(|commit| commit.updates) {
        match update.slot {
            Some(slot) => map.insert(update.at, slot),
            None => map.remove(&update.at),
        };
    }
    map.into_iter().collect()
}

#[tokio::test]
async fn what_a_lost_node_flushed_is_replayed_committed_and_retired_before_anything_is_served() {
    let world = world();
    let earlier = attachment(1, 2);
    let loaded = world.loader.fresh(&earlier).await.expect("loaded");
    let (volume, luns) = loaded.start(1).expect("started");
    give_extents(&volume);
    let mut queue = MiniQueue::new(&volume, &luns);
    queue.write(1025, 0xaa);
    assert_eq!(queue.run(IoOp::Flush), Ok(()));
    queue.write(1026, 0xbb);
    drop((volume, luns));
    world.metadata.expect_commit([Ok(())]);

    let mut later = attachment(2, 6);
    later.stale_journals = vec![StaleJournal {
        epoch: Epoch::new(1),
        node: node(1),
        runs: earlier.journal,
        checkpoint: JournalSeq::new(SEQ_CONFIRMED),
        next_head: LayerId::new(99),
    }];
    let loaded = world.loader.fresh(&later).await.expect("replayed");
    assert_eq!(world.metadata.retired(), [Epoch::new(1)]);
    let commits = world.metadata.commits();
    let kinds: Vec<_> = commits.iter().map(|one| (one.replay_of, one.checkpoint)).collect();
    let confirmed = Some(JournalSeq::new(SEQ_CONFIRMED));
    assert_eq!(kinds, [(None, confirmed), (Some(Epoch::new(1)), None), (None, confirmed)]);
    assert_eq!((commits[1].updates.len(), loaded.used_extents().len()), (1, 1));
    let numbers: Vec<_> =
        commits.iter().map(|one| (one.grant.epoch.get(), one.number.get())).collect();
    assert_eq!(numbers, [(1, 1), (2, 1), (2, 2)], "each grant counts its commits, replays too");
    assert_eq!(loaded.attachment.last_commit, CommitNumber::new(2));
    let (volume, luns) = loaded.start(1).expect("started");
    let mut queue = MiniQueue::new(&volume, &luns);
    assert_eq!(queue.read(1025), 0xaa);
    assert_eq!(queue.read(1026), 0, "what was not flushed reads as if never written");
}

/// The quarantine of a restarted node must not give back what the first attempt has mapped.
#[tokio::test]
async fn what_an_attempt_that_failed_has_replayed_counts_as_used_for_the_next_one() {
    let world = world();
    let earlier = attachment(1, 2);
    let loaded = world.loader.fresh(&earlier).await.expect("loaded");
    let (volume, luns) = loaded.start(1).expect("started");
    give_extents(&volume);
    let mut queue = MiniQueue::new(&volume, &luns);
    queue.write(1025, 0xaa);
    assert_eq!(queue.run(IoOp::Flush), Ok(()));
    drop((volume, luns));

    let mut later = attachment(2, 6);
    later.stale_journals = vec![StaleJournal {
        epoch: Epoch::new(1),
        node: node(1),
        runs: earlier.journal,
        checkpoint: JournalSeq::new(SEQ_CONFIRMED),
        next_head: LayerId::new(99),
    }];
    // The replay is committed, and the confirmation of the attempt's own journal fails.
    world.metadata.expect_commit([Ok(()), Err(unavailable())]);
    assert!(world.loader.fresh(&later).await.is_err());
    let mapped: Vec<_> = committed(&world).iter().filter_map(|(_, slot)| slot.extent()).collect();
    assert_eq!(mapped.len(), 1);
    later.last_commit = CommitNumber::new(1);
    let loaded = world.loader.fresh(&later).await.expect("replayed again");
    assert_eq!(loaded.used_extents().into_iter().collect::<Vec<_>>(), mapped);
}

#[tokio::test]
async fn a_journal_that_was_never_confirmed_is_retired_unread() {
    let world = world();
    let mut later = attachment(2, 6);
    later.stale_journals = vec![StaleJournal {
        epoch: Epoch::new(1),
        node: node(1),
        runs: vec![ExtentRun::new(ExtentAddress::new(0, 2), 2)],
        checkpoint: JournalSeq::new(0),
        next_head: LayerId::new(99),
    }];
    world.loader.fresh(&later).await.expect("loaded");
    assert_eq!(world.metadata.retired(), [Epoch::new(1)]);
    assert_eq!(world.metadata.commits().len(), 1, "only the new journal was confirmed");
}

#[tokio::test]
async fn a_killed_daemon_loses_nothing_that_was_completed() {
    let world = world();
    let mut held = attachment(1, 2);
    let loaded = world.loader.fresh(&held).await.expect("loaded");
    let (volume, luns) = loaded.start(1).expect("started");
    give_extents(&volume);
    let mut queue = MiniQueue::new(&volume, &luns);
    queue.write(0, 0x11);
    queue.write(300, 0x22);
    drop((volume, luns));

    held.checkpoint = JournalSeq::new(SEQ_CONFIRMED);
    held.last_commit = CommitNumber::new(41);
    let loaded = world.loader.resume(&held).await.expect("taken over");
    assert_eq!(loaded.attachment.last_commit, held.last_commit, "a successor goes on from there");
    assert_eq!(loaded.used_extents().len(), 2);
    let (volume, luns) = loaded.start(2).expect("started");
    let mut queue = MiniQueue::new(&volume, &luns);
    assert_eq!((queue.read(0), queue.read(300), queue.read(1)), (0x11, 0x22, 0));
}

#[tokio::test]
async fn settling_commits_what_is_dirty_and_the_same_commit_carries_the_same_request() {
    let world = world();
    let held = attachment(1, 2);
    let loaded = world.loader.fresh(&held).await.expect("loaded");
    let served = crate::node::attach::serve(loaded, 1).expect("started");
    let volume = Arc::clone(&served.shared.volume);
    give_extents(&volume);
    MiniQueue::new(&volume, &served.luns).write(7, 0x33);
    let desk = Arc::new(ReserveDesk::new(Arc::clone(&world.loader.metadata)));
    let (metadata, luns) = (Arc::clone(&world.loader.metadata), Arc::clone(&world.loader.luns));
    let control = Control::new(Arc::clone(&served), metadata, desk, luns);
    world.metadata.expect_commit([Err(unavailable()), Ok(())]);
    world.metadata.expect_reserve((0..4).map(|_| Err(unavailable())));

    assert!(matches!(control.settle().await, Err(CheckpointError::Unavailable { .. })));
    while let Err(error) = control.settle().await {
        assert!(matches!(error, CheckpointError::Unavailable { .. }), "{error}");
    }
    let commits = world.metadata.commits();
    let tried = &commits[1..];
    assert_eq!(tried.len(), 2, "one that failed, one that succeeded");
    assert_eq!(tried[0], tried[1]);
    assert_eq!(tried[0].number, CommitNumber::new(2), "the confirmation was the first");
    assert_eq!(served.heads.lock().expect("not poisoned").last_commit, CommitNumber::new(2));
    let slots = committed(&world);
    assert_eq!(slots.len(), 1);
    assert_eq!(slots[0].0, LogicalExtent::new(0));
    assert_eq!((served.stats().dirty_extents, served.stats().checkpoints), (0, 1));
}

#[tokio::test]
async fn extents_on_a_lun_that_was_added_to_the_pool_are_used_without_another_attach() {
    let world = world();
    let mut held = attachment(1, 2);
    let loaded = world.loader.fresh(&held).await.expect("loaded");
    let served = crate::node::attach::serve(loaded, 1).expect("started");
    let added = labelled_file(CLUSTER, 8);
    let paths = vec![world.lun.path().to_owned(), added.path().to_owned()];
    let opener = Arc::new(LunOpener::new(Search { scan: false, paths }, Arc::default()));
    let desk = Arc::new(ReserveDesk::new(Arc::clone(&world.loader.metadata)));
    let metadata = Arc::clone(&world.loader.metadata);
    let control = Control::new(Arc::clone(&served), metadata, desk, opener);
    let first_of_new = ExtentAddress::new(1, 3);
    let run = ExtentRun::new(first_of_new, 4);

    let volume = Arc::clone(&served.shared.volume);
    world.metadata.expect_reserve([Ok(vec![run]), Err(unavailable())]);
    world.metadata.expect_resume([Err(unavailable())]);
    let _ = control.settle().await;
    assert_eq!(world.metadata.released(), [run], "a LUN that is not known is not used");
    assert_eq!(volume.stats().reserve_extents, 0);

    held.pool.luns.push(Lun {
        id: LunId::from_u128(8),
        index: LunIndex::new(1),
        ..held.pool.luns[0]
    });
    tokio::time::sleep(volume.spec().tuning.pool_full_retry).await;
    world.metadata.expect_reserve([Ok(vec![run]), Err(unavailable())]);
    world.metadata.expect_resume([Ok(held)]);
    let _ = control.settle().await;
    assert_eq!(volume.stats().reserve_extents, 4);
    let mut queue = MiniQueue::new(&volume, &served.luns);
    queue.write(0, 0x77);
    assert_eq!((queue.read(0), queue.run(IoOp::Flush)), (0x77, Ok(())));
    let at = served.luns.table().byte_of(first_of_new);
    let mut on_lun = AlignedBuf::zeroed(1);
    let lun = served.luns.lun(LunIndex::new(1)).expect("open");
    lun.read_at(at, on_lun.as_mut_bytes()).expect("read");
    assert!(on_lun.as_bytes().iter().all(|byte| *byte == 0x77));
}

#[tokio::test]
async fn what_a_release_without_an_answer_gave_back_is_not_used_again() {
    let world = world();
    let held = attachment(1, 2);
    let loaded = world.loader.fresh(&held).await.expect("loaded");
    let served = crate::node::attach::serve(loaded, 1).expect("started");
    let volume = Arc::clone(&served.shared.volume);
    volume.give_reserve(&[ExtentRun::new(ExtentAddress::new(0, 4), 56)], &mut Vec::new());
    let most = u64::from(volume.spec().tuning.reserve_max);
    assert!(volume.stats().reserve_extents > most * 2, "far more than it needs");
    let desk = Arc::new(ReserveDesk::new(Arc::clone(&world.loader.metadata)));
    let (metadata, luns) = (Arc::clone(&world.loader.metadata), Arc::clone(&world.loader.luns));
    let control = Control::new(Arc::clone(&served), metadata, desk, luns);
    world.metadata.expect_release([Err(unavailable())]);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(async move { control.run(stopped).await });
    while world.metadata.released().is_empty() {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.expect("it ends");
    assert_eq!(volume.stats().reserve_extents, most);
}

/// The pool is nearly full at first: nothing is copied then.
#[tokio::test]
async fn an_extent_that_is_read_in_pieces_is_made_whole_and_committed() {
    let world = world();
    let loaded = world.loader.fresh(&attachment(1, 2)).await.expect("loaded");
    let served = crate::node::attach::serve(loaded, 1).expect("started");
    let volume = Arc::clone(&served.shared.volume);
    volume.give_reserve(&[ExtentRun::new(ExtentAddress::new(0, 4), 40)], &mut Vec::new());
    let mut queue = MiniQueue::new(&volume, &served.luns);
    queue.write(0, 0x11);
    queue.write(2, 0x22);
    for _ in 0..volume.spec().tuning.consolidate_reads {
        assert_eq!(queue.run(IoOp::Read { offset: 0, length: 4 * 4096 }), Ok(()));
    }
    let stats = volume.stats();
    assert_eq!((stats.split_reads, stats.split_read_ios), (16, 32));

    let metadata = || Arc::clone(&world.loader.metadata);
    let luns = Arc::clone(&world.loader.luns);
    let desk = Arc::new(ReserveDesk::new(metadata()));
    let mut control = Control::new(Arc::clone(&served), metadata(), desk, luns);
    world.metadata.expect_levels([Ok(WatermarkLevel::High), Ok(WatermarkLevel::Warning)]);
    control.copies = Some(Arc::new(CopyDesk::new(metadata(), 32 << 20)));
    control.consolidate().await;
    assert_eq!(volume.stats().consolidated_bytes, 0, "the pool is above its high watermark");

    control.copies = Some(Arc::new(CopyDesk::new(metadata(), 32 << 20)));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let control = Arc::new(control);
    let running = Arc::clone(&control);
    let running = tokio::spawn(async move { running.run(stopped).await });
    while volume.stats().consolidated_extents == 0 {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.expect("it ends");
    control.settle().await.expect("committed");
    let slots = committed(&world);
    assert!(slots.len() == 1 && slots[0].1.presence.is_full(), "{slots:?}");
    let blocks = [0, 1, 2, 255].map(|block| queue.read(block));
    assert_eq!(blocks, [0x11, 0, 0x22, 0]);
    assert_eq!(volume.stats().split_reads, 16, "nothing is read in pieces any more");
}

#[tokio::test]
async fn a_volume_never_starts_without_every_lun_of_its_pool() {
    let world = world();
    let mut held = attachment(1, 2);
    held.pool.luns.push(Lun {
        id: LunId::from_u128(8),
        index: LunIndex::new(1),
        ..held.pool.luns[0]
    });
    let Err(error) = world.loader.fresh(&held).await else { panic!("a LUN is missing") };
    assert!(matches!(error, LoadError::Luns { .. }), "{error}");
    assert!(world.metadata.commits().is_empty(), "nothing was confirmed");
}

#[test]
fn a_small_pool_is_not_reserved_whole() {
    let small = tuning(&pool());
    assert_eq!((small.reserve_min, small.reserve_max), (RESERVE_LEAST, RESERVE_LEAST));
    let mut large = pool();
    large.luns[0].data_extents = 1 << 30;
    assert_eq!(tuning(&large).reserve_max, Tuning::default().reserve_max);
}
