//! A small cluster in memory: service, clock and ids under the test's control.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lunar_metadata::error::ServiceError;
use lunar_metadata::fsck::Flow;
use lunar_metadata::keyspace::{
    AttachmentKey, AttachmentRecord, KeyedTxn, LayerKey, LayerRecord, NodeAttachmentKey,
    NodeStaleJournalKey, Present, StaleJournalKey, StaleJournalRecord,
};
use lunar_metadata::seams::{Clock, RandomIds, block_on};
use lunar_metadata::service::{Seams, Service, Settings, Step};
use lunar_metadata::store::{MetaStore, RedbStore};
use lunar_proto::domain::*;
use lunar_proto::error::ErrorReason;
use lunar_types::*;

pub const MIB: u64 = 1 << 20;

/// A clock that stands still until it is moved.
#[derive(Default)]
pub struct ManualClock {
    millis: AtomicU64,
}

impl ManualClock {
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).expect("a short time");
        self.millis.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

/// Ids that count up.
#[derive(Default)]
pub struct CountingIds {
    last: AtomicU64,
}

impl RandomIds for CountingIds {
    fn next(&self) -> u128 {
        u128::from(self.last.fetch_add(1, Ordering::Relaxed) + 1) << 64
    }
}

/// An own slot of a layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapEntry {
    pub at: LogicalExtent,
    pub slot: Slot,
}

pub struct World<S = RedbStore> {
    pub service: Service<S>,
    pub clock: Arc<ManualClock>,
    pub ids: Arc<CountingIds>,
}

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

pub fn size(bytes: u64) -> VolumeSize {
    VolumeSize::from_bytes(bytes).expect("a size")
}

pub fn lun(id: u128, bytes: u64) -> NewLun {
    NewLun {
        id: LunId::from_u128(id),
        size: ByteCount::new(bytes),
        logical_block_size: LogicalBlockSize::B512,
    }
}

/// The reason of a failure.
pub fn kind<T: std::fmt::Debug>(result: Result<T, ServiceError>) -> ErrorReason {
    result.expect_err("the request is refused").kind()
}

impl World {
    pub fn new() -> Self {
        Self::on(RedbStore::in_memory())
    }
}

impl<S: MetaStore> World<S> {
    pub fn on(store: S) -> Self {
        let (clock, ids) = (Arc::new(ManualClock::default()), Arc::new(CountingIds::default()));
        let seams = Seams { clock: clock.clone(), ids: ids.clone() };
        let service = block_on(Service::open(store, seams, Settings::default()));
        Self { service: service.expect("the service starts"), clock, ids }
    }

    /// The service ends and starts again on the same store.
    pub fn restart(&mut self)
    where
        S: Clone,
    {
        let seams = Seams { clock: self.clock.clone(), ids: self.ids.clone() };
        let store = self.service.store().clone();
        let service = block_on(Service::open(store, seams, Settings::default()));
        self.service = service.expect("the service starts again");
    }

    pub fn request(&self) -> RequestId {
        RequestId::from_u128(self.ids.next())
    }

    /// A pool `p` of one LUN with this many extents of 1 MiB.
    pub fn pool(&self, extents: u64) -> Pool {
        self.pool_of("p", ExtentSize::DEFAULT, &[extents])
    }

    /// A pool of LUNs with these numbers of extents.
    pub fn pool_of(&self, pool: &str, extent_size: ExtentSize, extents: &[u64]) -> Pool {
        self.fenced_pool(pool, extent_size, extents, PoolFencing::None)
    }

    /// The same, fenced so.
    pub fn fenced_pool(
        &self,
        pool: &str,
        extent_size: ExtentSize,
        extents: &[u64],
        fencing: PoolFencing,
    ) -> Pool {
        let new_lun = |count: &u64| lun(self.ids.next(), 2 * MIB + count * extent_size.bytes());
        let luns = extents.iter().map(new_lun).collect();
        let request =
            CreatePool { request: self.request(), name: name(pool), extent_size, luns, fencing };
        block_on(self.service.create_pool(&request)).expect("the pool is made")
    }

    pub fn create(&self, volume: &str, bytes: u64) -> Result<Volume, ServiceError> {
        self.create_in("p", volume, bytes)
    }

    pub fn create_in(&self, pool: &str, volume: &str, bytes: u64) -> Result<Volume, ServiceError> {
        block_on(self.service.create_volume(&CreateVolume {
            request: self.request(),
            name: name(volume),
            pool: Selector::Name(name(pool)),
            size: size(bytes),
            logical_block_size: LogicalBlockSize::B4096,
            over_watermark: true,
        }))
    }

    /// A volume of 1 GiB in pool `p`.
    pub fn volume(&self, volume: &str) -> Volume {
        self.create(volume, 1 << 30).expect("the volume is made")
    }

    /// A join by a process that has just started: it knows the last session.
    pub fn join_of(&self, node: &str, boot: u128, resume: Option<u32>) -> Join {
        let known = block_on(self.service.node(&Selector::Name(name(node))));
        Join {
            is_drained: true,
            request: self.request(),
            name: name(node),
            boot: BootId::from_u128(boot),
            resume: resume.map(Incarnation::new),
            last_session: known.map_or(SessionNumber::new(0), |node| node.session),
        }
    }

    pub fn join_as(
        &self,
        node: &str,
        boot: u128,
        resume: Option<u32>,
    ) -> Result<Joined, ServiceError> {
        block_on(self.service.join(&self.join_of(node, boot, resume)))
    }

    /// A node on a fresh boot, when its former one has been silent for long enough.
    pub fn node(&self, node: &str) -> NodeSession {
        self.boot_as(node, self.ids.next())
    }

    /// The same on this boot.
    pub fn boot_as(&self, node: &str, boot: u128) -> NodeSession {
        match self.join_as(node, boot, None) {
            Err(ServiceError::NodeAlive { wait, .. }) => {
                self.clock.advance(wait);
                self.join_as(node, boot, None).expect("the node joins").session
            }
            joined => joined.expect("the node joins").session,
        }
    }

    pub fn attach(
        &self,
        volume: VolumeId,
        caller: NodeSession,
    ) -> Result<Attachment, ServiceError> {
        let request = self.request();
        let volume = Selector::Id(volume);
        let attach = Attach {
            request,
            volume,
            caller,
            understands_layers: true,
            accept_restored: false,
            publication: None,
            for_file_system: false,
        };
        block_on(self.service.attach(&attach))
    }

    /// The process that joined last for the node of a grant, speaking for the holder.
    pub fn caller_of(&self, held: &Attachment) -> NodeSession {
        let node = block_on(self.service.node(&Selector::Id(held.node.node))).expect("known");
        NodeSession { node: held.node, number: node.session }
    }

    pub fn detach(&self, held: &Attachment, mode: DetachMode) -> Result<(), ServiceError> {
        let (volume, epoch, caller) = (held.volume.id, held.epoch, self.caller_of(held));
        let request = self.request();
        block_on(self.service.detach(&Detach { request, volume, epoch, caller, mode }))
    }

    /// Makes a grant a stale journal behind the service's back, whether it was confirmed or not:
    /// as services of before did with every grant that was taken over.
    pub fn park(&self, held: &Attachment) {
        let (volume, epoch) = (held.volume.id, held.epoch);
        let NodeIncarnation { node, incarnation } = held.node;
        let park = self.service.store().transact(|txn| async move {
            let record = txn.load_known(&AttachmentKey { volume }).await?;
            let AttachmentRecord { node: writer, checkpoint, journal, next_head, .. } = record;
            txn.remove(&AttachmentKey { volume });
            txn.remove(&NodeAttachmentKey { node, incarnation, volume });
            let stale = StaleJournalRecord { node: writer, checkpoint, journal, next_head };
            txn.put(&StaleJournalKey { volume, epoch }, &stale);
            txn.put(&NodeStaleJournalKey { node, incarnation, volume, epoch }, &Present {});
            Ok::<_, ServiceError>(())
        });
        block_on(park).expect("parked");
    }

    pub fn retire(&self, held: &Attachment, stale_epoch: Epoch) -> Result<(), ServiceError> {
        let (volume, epoch, caller) = (held.volume.id, held.epoch, self.caller_of(held));
        let request = self.request();
        block_on(self.service.retire_journal(&RetireJournal {
            request,
            volume,
            epoch,
            caller,
            stale_epoch,
        }))
    }

    pub fn delete(&self, volume: VolumeId) -> Result<Volume, ServiceError> {
        let request = self.request();
        let volume = Selector::Id(volume);
        block_on(self.service.delete_volume(&DeleteVolume { request, volume }))
    }

    /// The record of a layer.
    pub fn layer(&self, layer: LayerId) -> Option<LayerRecord> {
        block_on(async {
            let txn = self.service.store().begin().await.expect("begun");
            txn.load(&LayerKey { layer }).await.expect("it can be read")
        })
    }

    /// Asks for a set of snapshots of these names, however full the pool is.
    pub fn cut_set(&self, members: &[(VolumeId, &str)]) -> Result<SnapshotSet, ServiceError> {
        let member = |(volume, snapshot): &(VolumeId, &str)| NewMember {
            volume: Selector::Id(*volume),
            cut: NewCut::Snapshot(name(snapshot)),
        };
        block_on(self.service.create_snapshots(&CreateSnapshots {
            request: self.request(),
            members: members.iter().map(member).collect(),
            created_unix_seconds: 77,
            fsfreeze: Fsfreeze::Auto,
            over_watermark: true,
            group: None,
        }))
    }

    /// The snapshot of a volume that nobody holds.
    pub fn cut(&self, volume: VolumeId, snapshot: &str) -> Result<Snapshot, ServiceError> {
        self.cut_set(&[(volume, snapshot)]).map(|set| {
            assert_eq!(set.state, SetState::Sealed, "nobody is to be asked");
            let [snapshot] = set.snapshots.as_slice() else { panic!("one member") };
            snapshot.clone()
        })
    }

    pub fn clone_of(&self, snapshot: SnapshotId, volume: &str) -> Result<Volume, ServiceError> {
        block_on(self.service.clone_volume(&CloneVolume {
            request: self.request(),
            snapshot: Selector::Id(snapshot),
            name: name(volume),
            size: None,
            over_watermark: true,
        }))
    }

    pub fn roll_back(
        &self,
        volume: VolumeId,
        snapshot: SnapshotId,
    ) -> Result<Volume, ServiceError> {
        let (volume, snapshot) = (Selector::Id(volume), Selector::Id(snapshot));
        let request = self.request();
        block_on(self.service.rollback_volume(&RollbackVolume { request, volume, snapshot }))
    }

    pub fn grow(&self, volume: VolumeId, bytes: u64) -> Result<Volume, ServiceError> {
        let (request, volume) = (self.request(), Selector::Id(volume));
        block_on(self.service.grow_volume(&GrowVolume {
            request,
            volume,
            size: size(bytes),
            over_watermark: true,
        }))
    }

    pub fn delete_snapshot(&self, snapshot: SnapshotId) -> Result<Snapshot, ServiceError> {
        let (request, snapshot) = (self.request(), Selector::Id(snapshot));
        block_on(self.service.delete_snapshot(&DeleteSnapshot { request, snapshot }))
    }

    pub fn operations(&self) -> Vec<Operation> {
        block_on(self.service.operations(&PageRequest::first())).expect("a list").items
    }

    pub fn reserve(
        &self,
        caller: NodeSession,
        pool: PoolId,
        count: u32,
    ) -> Result<Vec<ExtentRun>, ServiceError> {
        let request = self.request();
        block_on(self.service.reserve_extents(&ReserveExtents { request, caller, pool, count }))
    }

    /// Single extents of a fresh reservation.
    pub fn extents(&self, caller: NodeSession, pool: PoolId, count: u32) -> Vec<ExtentAddress> {
        let runs = self.reserve(caller, pool, count).expect("there is room");
        runs.iter().flat_map(|run| run.iter()).collect()
    }

    pub fn release(
        &self,
        caller: NodeSession,
        pool: PoolId,
        runs: &[ExtentRun],
    ) -> Result<(), ServiceError> {
        let request = self.request();
        let runs = runs.to_vec();
        block_on(self.service.release_extents(&ReleaseExtents { request, caller, pool, runs }))
    }

    /// The number that the next commit under a grant has; 1 if the grant is over.
    pub fn next_number(&self, held: &Attachment) -> CommitNumber {
        let caller = self.caller_of(held);
        let resume = ResumeAttachment { volume: held.volume.id, epoch: held.epoch, caller };
        let facts = block_on(self.service.resume_attachment(resume));
        facts.map_or(CommitNumber::new(0), |facts| facts.last_commit).next()
    }

    /// The next commit under a grant, of these slots, to be changed by the test.
    pub fn commit_of(&self, held: &Attachment, updates: Vec<SlotUpdate>) -> CommitMap {
        CommitMap {
            request: self.request(),
            caller: self.caller_of(held),
            number: self.next_number(held),
            volume: held.volume.id,
            epoch: held.epoch,
            layer: held.volume.head,
            extent_size: held.pool.extent_size,
            updates,
            checkpoint: None,
            replay_of: None,
        }
    }

    pub fn commit(&self, held: &Attachment, updates: Vec<SlotUpdate>) -> Result<(), ServiceError> {
        block_on(self.service.commit_map(&self.commit_of(held, updates))).map(|_| ())
    }

    /// A grant as it is now.
    pub fn resumed(&self, held: &Attachment) -> Result<Attachment, ServiceError> {
        let (volume, epoch, caller) = (held.volume.id, held.epoch, self.caller_of(held));
        block_on(self.service.resume_attachment(ResumeAttachment { volume, epoch, caller }))
    }

    pub fn ready(&self, set: SnapshotSetId, held: &Attachment) -> Result<SetState, ServiceError> {
        let (volume, epoch, caller) = (held.volume.id, held.epoch, self.caller_of(held));
        let ready = MemberReady { caller, set, volume, epoch };
        block_on(self.service.member_ready(ready)).map(|progress| progress.state)
    }

    pub fn fail(&self, set: SnapshotSetId, held: &Attachment) -> Result<SetProgress, ServiceError> {
        let (volume, epoch, caller) = (held.volume.id, held.epoch, self.caller_of(held));
        let why = name("warm-up-failed");
        block_on(self.service.member_failed(&MemberFailed { caller, set, volume, epoch, why }))
    }

    /// The vote of the process that joined last, of the grant as it is now.
    pub fn vote_of(&self, set: SnapshotSetId, held: &Attachment) -> MemberPaused {
        let (volume, epoch, caller) = (held.volume.id, held.epoch, self.caller_of(held));
        let now = self.resumed(held).unwrap_or_else(|_| held.clone());
        let (last_commit, next_head) = (now.last_commit, now.next_head);
        let checkpoint = JournalSeq::new(now.checkpoint.get() + 5);
        MemberPaused { caller, set, volume, epoch, last_commit, checkpoint, next_head }
    }

    pub fn send_vote(&self, vote: &MemberPaused) -> Result<Vote, ServiceError> {
        block_on(self.service.member_paused(vote))
    }

    pub fn set(&self, set: SnapshotSetId) -> SnapshotSet {
        block_on(self.service.snapshot_set(set)).expect("it is there")
    }

    /// The next seal of a grant as it is now.
    pub fn seal_of(&self, held: &Attachment) -> SealLayer {
        let now = self.resumed(held).unwrap_or_else(|_| held.clone());
        SealLayer {
            request: self.request(),
            volume: held.volume.id,
            epoch: held.epoch,
            caller: self.caller_of(held),
            number: now.last_commit.next(),
            checkpoint: now.checkpoint,
            next_head: now.next_head,
            replay_of: None,
        }
    }

    pub fn send_seal(&self, seal: &SealLayer) -> Result<LayerSealed, ServiceError> {
        block_on(self.service.seal_layer(seal))
    }

    /// Runs every operation to its end.
    pub fn settle(&self) {
        for _ in 0..10_000 {
            if block_on(self.service.step_operations()).expect("a step") == Step::Idle {
                return;
            }
        }
        panic!("the operations do not end");
    }

    pub fn status_of(&self, pool: &str) -> PoolStatus {
        block_on(self.service.pool_status(&Selector::Name(name(pool)))).expect("a status")
    }

    pub fn status(&self, pool: PoolId) -> PoolStatus {
        block_on(self.service.pool_status(&Selector::Id(pool))).expect("a status")
    }

    pub fn findings(&self) -> Vec<FsckFinding> {
        let mut findings = Vec::new();
        let mut sink = |event| {
            if let FsckEvent::Finding(finding) = event {
                findings.push(finding);
            }
            Flow::Continue
        };
        block_on(self.service.fsck(&mut sink)).expect("the check runs");
        findings
    }

    pub fn assert_clean(&self) {
        let findings = self.findings();
        assert!(findings.is_empty(), "{findings:#?}");
    }

    /// The own slots of a layer.
    pub fn map(&self, layer: LayerId) -> Vec<MapEntry> {
        let (mut from, mut entries) = (LogicalExtent::new(0), Vec::new());
        loop {
            let read = ReadLayer { layer, from, limit: 7 };
            let page = block_on(self.service.read_layer(read)).expect("a page");
            let own = |entry: LayerEntry| entry.own.map(|slot| MapEntry { at: entry.at, slot });
            entries.extend(page.entries.into_iter().filter_map(own));
            match page.next {
                Some(next) => from = next,
                None => return entries,
            }
        }
    }
}

/// An update that maps a logical extent solidly.
pub fn solid(at: u64, extent: ExtentAddress) -> SlotUpdate {
    let size = ExtentSize::DEFAULT;
    let mut slot = Slot::fresh(extent, size);
    slot.presence = Presence::full(size);
    SlotUpdate { at: LogicalExtent::new(at), slot: Some(slot) }
}

/// An update that unmaps a logical extent.
pub fn hole(at: u64) -> SlotUpdate {
    SlotUpdate { at: LogicalExtent::new(at), slot: None }
}

/// A node that holds a volume, and has ten extents reserved of its pool.
pub struct Held {
    pub world: World,
    pub pool: Pool,
    pub node: NodeSession,
    pub held: Attachment,
    pub extents: Vec<ExtentAddress>,
}

impl Held {
    /// By the first process of a node on this boot.
    pub fn since_boot(boot: u128) -> Self {
        let world = World::new();
        let pool = world.pool(100);
        let volume = world.volume("v");
        let node = world.join_as("a", boot, None).expect("joined").session;
        let held = world.attach(volume.id, node).expect("granted");
        let extents = world.extents(node, pool.id, 10);
        Self { world, pool, node, held, extents }
    }
}
