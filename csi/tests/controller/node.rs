//! A node as the service sees one: it joins, attaches by leave, writes, votes and detaches.

use lunar_metadata::error::ServiceError;
use lunar_metadata::service::Service;
use lunar_metadata::store::RedbStore;
use lunar_metadata_client::fresh_request_id;
use lunar_proto::domain::*;
use lunar_types::*;
use std::sync::Arc;

use crate::world::{World, name};

pub struct Node {
    service: Arc<Service<RedbStore>>,
    pub session: NodeSession,
}

impl Node {
    pub async fn join(world: &World, node: &str) -> Self {
        let service = Arc::clone(&world.service);
        let join = Join {
            is_drained: true,
            request: fresh_request_id(),
            name: name(node),
            boot: BootId::from_u128(fresh_request_id().as_u128()),
            resume: None,
            last_session: SessionNumber::new(0),
        };
        let session = service.join(&join).await.expect("the node joins").session;
        Self { service, session }
    }

    /// Attaches with a publication, or by hand.
    pub async fn attach(
        &self,
        volume: &str,
        publication: Option<&str>,
    ) -> Result<Attachment, ServiceError> {
        let publication = publication.map(|id| id.parse().expect("an id"));
        let attach = Attach {
            request: fresh_request_id(),
            volume: Selector::Id(volume.parse().expect("an id")),
            caller: self.session,
            understands_layers: true,
            accept_restored: false,
            publication,
            for_file_system: false,
        };
        self.service.attach(&attach).await
    }

    pub async fn detach(&self, held: &Attachment) {
        let detach = Detach {
            request: fresh_request_id(),
            volume: held.volume.id,
            epoch: held.epoch,
            caller: self.session,
            mode: DetachMode::Clean,
        };
        self.service.detach(&detach).await.expect("detached");
    }

    /// Says that what a lost holder's journal held is in the map.
    pub async fn retire(&self, held: &Attachment) {
        for stale in &held.stale_journals {
            let retire = RetireJournal {
                request: fresh_request_id(),
                volume: held.volume.id,
                epoch: held.epoch,
                caller: self.session,
                stale_epoch: stale.epoch,
            };
            self.service.retire_journal(&retire).await.expect("retired");
        }
    }

    /// The node is gone, and that is proven.
    pub async fn lose(&self) {
        self.service.declare_fenced(self.session.node).await.expect("fenced");
    }

    /// Reserves extents of a volume's pool.
    pub async fn reserve(&self, held: &Attachment, count: usize) -> Vec<ExtentAddress> {
        let reserve = ReserveExtents {
            request: fresh_request_id(),
            caller: self.session,
            pool: held.pool.id,
            count: u32::try_from(count).expect("few"),
        };
        let runs = self.service.reserve_extents(&reserve).await.expect("there is room");
        runs.iter().flat_map(|run| run.iter()).collect()
    }

    /// Maps these logical extents solidly, each to an extent of its own.
    pub async fn write(&self, held: &Attachment, extents: &[u64]) {
        let fresh = self.reserve(held, extents.len()).await;
        let size = held.pool.extent_size;
        let update = |(at, extent): (&u64, &ExtentAddress)| {
            let mut slot = Slot::fresh(*extent, size);
            slot.presence = Presence::full(size);
            SlotUpdate { at: LogicalExtent::new(*at), slot: Some(slot) }
        };
        let updates = extents.iter().zip(&fresh).map(update).collect();
        let now = self.now(held).await;
        let commit = CommitMap {
            request: fresh_request_id(),
            caller: self.session,
            number: now.last_commit.next(),
            volume: held.volume.id,
            epoch: held.epoch,
            layer: now.volume.head,
            extent_size: size,
            updates,
            checkpoint: None,
            replay_of: None,
        };
        self.service.commit_map(&commit).await.expect("committed");
    }

    async fn now(&self, held: &Attachment) -> Attachment {
        let (volume, epoch, caller) = (held.volume.id, held.epoch, self.session);
        let resume = ResumeAttachment { volume, epoch, caller };
        self.service.resume_attachment(resume).await.expect("still held")
    }

    /// The sets that wait for this node, of a volume that it holds.
    pub async fn asked(&self, held: &Attachment) -> Option<SnapshotSetId> {
        let watch = WatchNode {
            caller: self.session,
            structures: vec![],
            members: vec![],
            fences: vec![],
            peers: vec![],
            recalls: vec![],
        };
        let news = self.service.watch_node(&watch).await.expect("news");
        let of = |it: &&OpenMember| it.member.volume == held.volume.id;
        news.members.iter().find(of).map(|it| it.member.set)
    }

    /// Waits until a set asks for a volume.
    pub async fn when_asked(&self, held: &Attachment) -> SnapshotSetId {
        for _ in 0..500 {
            if let Some(set) = self.asked(held).await {
                return set;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("nobody asks for volume {}", held.volume.id);
    }

    /// Does what a set asks for: ready, paused, cut.
    pub async fn vote(&self, set: SnapshotSetId, held: &Attachment) {
        self.ready(set, held).await;
        self.pause(set, held).await;
    }

    pub async fn ready(&self, set: SnapshotSetId, held: &Attachment) {
        let (volume, epoch, caller) = (held.volume.id, held.epoch, self.session);
        let ready = MemberReady { caller, set, volume, epoch };
        self.service.member_ready(ready).await.expect("ready");
    }

    pub async fn pause(&self, set: SnapshotSetId, held: &Attachment) {
        let (volume, epoch, caller) = (held.volume.id, held.epoch, self.session);
        let now = self.now(held).await;
        let (last_commit, next_head) = (now.last_commit, now.next_head);
        let checkpoint = JournalSeq::new(now.checkpoint.get() + 5);
        let vote = MemberPaused { caller, set, volume, epoch, last_commit, checkpoint, next_head };
        self.service.member_paused(&vote).await.expect("voted");
    }

    /// Says that a volume cannot be cut.
    pub async fn refuse(&self, set: SnapshotSetId, held: &Attachment) {
        let (volume, epoch, caller) = (held.volume.id, held.epoch, self.session);
        let why = name("fsfreeze-failed");
        let failed = MemberFailed { caller, set, volume, epoch, why };
        self.service.member_failed(&failed).await.expect("told");
    }
}
