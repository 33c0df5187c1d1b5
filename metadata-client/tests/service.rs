//! The client against the real service, and against services that fail.

#![allow(missing_docs, reason = "test names are claims")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lunar_metadata::seams::{SystemClock, SystemIds};
use lunar_metadata::server::{Handlers, serve_loopback};
use lunar_metadata::service::{Seams, Service, Settings};
use lunar_metadata::store::{MetaStore, RedbStore, StoreError, Txn};
use lunar_metadata_client::*;
use lunar_proto::domain::*;
use lunar_proto::error::Facts;
use lunar_proto::v1;
use lunar_proto::v1::pools_server::{Pools, PoolsServer};
use lunar_types::*;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Serves a store on an address until the task is stopped.
async fn serve(store: RedbStore, address: &str) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seams = Seams { clock: Arc::new(SystemClock::start()), ids: Arc::new(SystemIds) };
    let service = Service::open(store, seams, Settings::default()).await.expect("it starts");
    let work = Arc::new(Notify::new());
    let service = Arc::new(service);
    let stepping = Arc::clone(&service);
    let handlers = Handlers::new(service, Arc::clone(&work));
    let serving = tokio::spawn(async move {
        tokio::select! {
            ended = serve_loopback(listener, handlers, std::future::pending()) => {
                ended.expect("it serves");
            }
            failure = lunar_metadata::server::run_operations(stepping, work) => {
                panic!("{failure}");
            }
        }
    });
    (address, serving)
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn client(address: SocketAddr) -> MetadataClient {
    MetadataClient::new(&[address.to_string()], Policy::default()).expect("a client")
}

fn pool_request() -> CreatePool {
    let lun = NewLun {
        id: LunId::from_u128(1),
        size: ByteCount::new(1 << 30),
        logical_block_size: LogicalBlockSize::B4096,
    };
    let request = fresh_request_id();
    CreatePool {
        request,
        name: name("p"),
        extent_size: ExtentSize::DEFAULT,
        luns: vec![lun],
        fencing: PoolFencing::None,
    }
}

async fn made_pool_and_volume(client: &MetadataClient) -> (Pool, Volume) {
    let pool = client.create_pool(&pool_request()).await.expect("made");
    let volume = CreateVolume {
        request: fresh_request_id(),
        name: name("v"),
        pool: Selector::Id(pool.id),
        size: VolumeSize::from_bytes(10 << 30).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        over_watermark: false,
    };
    let volume = client.create_volume(&volume).await.expect("made");
    (pool, volume)
}

#[tokio::test]
async fn pools_volumes_and_nodes_are_made_found_and_listed() {
    let (address, _serving) = serve(RedbStore::in_memory(), "127.0.0.1:0").await;
    let client = client(address);
    let cluster = client.cluster().await.expect("answered");
    let (pool, volume) = made_pool_and_volume(&client).await;
    assert_eq!(client.pool(&Selector::Name(name("p"))).await.expect("found"), pool);
    assert_eq!(client.pools().await.expect("listed"), std::slice::from_ref(&pool));
    assert_eq!(client.volume(&Selector::Id(volume.id)).await.expect("found"), volume);
    assert_eq!(client.volumes().await.expect("listed"), std::slice::from_ref(&volume));
    let joined = join(&client).await;
    assert_eq!((joined.cluster, joined.timers), (cluster.id, LeaseTimers::DEFAULT));
    let caller = joined.session;
    let state = client.heartbeat(caller).await.expect("renewed").state;
    assert_eq!(state, NodeState::Active);
    assert_eq!(client.nodes().await.expect("listed").len(), 1);
    let selector = Selector::Name(name("n"));
    assert_eq!(client.node(&selector).await.expect("found").id, caller.node.node);
    let request = fresh_request_id();
    let delete = DeleteVolume { request, volume: Selector::Id(volume.id) };
    client.delete_volume(&delete).await.expect("it begins");
    while client.volume(&Selector::Id(volume.id)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    while !client.operations().await.expect("listed").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.leave(&Leave { request: fresh_request_id(), caller }).await.expect("gone");
}

fn member(volume: VolumeId, cut: NewCut) -> NewMember {
    NewMember { volume: Selector::Id(volume), cut }
}

#[tokio::test]
async fn snapshots_are_cut_cloned_rolled_back_and_deleted() {
    let (address, _serving) = serve(RedbStore::in_memory(), "127.0.0.1:0").await;
    let client = client(address);
    let (_, volume) = made_pool_and_volume(&client).await;
    let cut = CreateSnapshots {
        request: fresh_request_id(),
        members: vec![member(volume.id, NewCut::Snapshot(name("s")))],
        created_unix_seconds: 5,
        fsfreeze: Fsfreeze::Auto,
        over_watermark: false,
        group: None,
    };
    let set = client.create_snapshots(&cut).await.expect("cut");
    assert_eq!(client.create_snapshots(&cut).await.expect("again"), set);
    let snapshot = set.snapshots[0].clone();
    let by_name = Selector::Name(name("s"));
    assert_eq!(client.snapshot(&by_name).await.expect("found"), snapshot);
    for volume in [None, Some(&Selector::Id(volume.id))] {
        assert_eq!(client.snapshots(volume).await.expect("listed"), set.snapshots);
    }
    let clone = CloneVolume {
        request: fresh_request_id(),
        snapshot: by_name.clone(),
        name: name("c"),
        size: None,
        over_watermark: false,
    };
    let clone = client.clone_volume(&clone).await.expect("made");
    assert!(client.snapshots(Some(&Selector::Id(clone.id))).await.expect("listed").is_empty());
    let (request, volume) = (fresh_request_id(), Selector::Id(volume.id));
    let back = RollbackVolume { request, volume, snapshot: by_name.clone() };
    client.rollback_volume(&back).await.expect("back");
    let volume = back.volume.clone();
    let size = VolumeSize::from_bytes(30 << 30).expect("a size");
    let grow = GrowVolume { request: fresh_request_id(), volume, size, over_watermark: false };
    let grown = client.grow_volume(&grow).await.expect("grown");
    assert_eq!((grown.size, client.grow_volume(&grow).await.expect("again")), (size, grown));
    let size = VolumeSize::from_bytes(4096).expect("a size");
    let smaller = GrowVolume { request: fresh_request_id(), size, ..grow };
    let error = client.grow_volume(&smaller).await.expect_err("it would shrink");
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorReason::VolumeWouldShrink));
    let delete = DeleteSnapshot { request: fresh_request_id(), snapshot: by_name.clone() };
    let deleting = client.delete_snapshot(&delete).await.expect("it begins");
    assert_eq!((deleting.id, deleting.state), (snapshot.id, SnapshotState::Deleting));
    let error = client.snapshot(&by_name).await.expect_err("its name is free");
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorReason::SnapshotNotFound));
    while client.snapshot(&Selector::Id(snapshot.id)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let summary = client.fsck(|finding| panic!("{finding:?}")).await.expect("checked");
    assert_eq!((summary.findings, summary.volumes), (0, 2));
}

async fn join(client: &MetadataClient) -> Joined {
    let boot = BootId::from_u128(1);
    let last_session = client.last_session(&name("n")).await.expect("answered");
    let request = fresh_request_id();
    let (name, is_drained) = (name("n"), false);
    let join = Join { request, name, boot, resume: None, is_drained, last_session };
    client.join(&join).await.expect("joined")
}

async fn attach(client: &MetadataClient, volume: VolumeId, caller: NodeSession) -> Attachment {
    let (request, volume) = (fresh_request_id(), Selector::Id(volume));
    let attach = Attach {
        request,
        volume,
        caller,
        understands_layers: true,
        accept_restored: false,
        publication: None,
        for_file_system: false,
    };
    client.attach(&attach).await.expect("granted")
}

const LONG: Duration = Duration::from_secs(20);

/// An attached volume and a set that asks for it.
struct Asked {
    client: MetadataClient,
    caller: NodeSession,
    held: Attachment,
    set: SnapshotSet,
}

async fn asked(address: SocketAddr) -> Asked {
    let client = client(address);
    let (_, volume) = made_pool_and_volume(&client).await;
    let caller = join(&client).await.session;
    let held = attach(&client, volume.id, caller).await;
    let watching = {
        let (client, members) = (client.clone(), vec![]);
        let watch = WatchNode {
            caller,
            structures: vec![],
            members,
            fences: vec![],
            peers: vec![],
            recalls: vec![],
        };
        tokio::spawn(async move { client.watch_node(&watch, LONG).await })
    };
    let create = CreateSnapshots {
        request: fresh_request_id(),
        members: vec![member(volume.id, NewCut::Snapshot(name("s")))],
        created_unix_seconds: 5,
        fsfreeze: Fsfreeze::Never,
        over_watermark: false,
        group: None,
    };
    let set = client.create_snapshots(&create).await.expect("stored");
    assert_eq!(set.state, SetState::Gathering);
    let news = watching.await.expect("no panic").expect("told");
    assert_eq!(news.members.len(), 1);
    assert_eq!((news.members[0].member.set, news.members[0].fsfreeze), (set.id, Fsfreeze::Never));
    Asked { client, caller, held, set }
}

#[tokio::test]
async fn a_holder_that_waits_hears_of_a_set_and_cuts_it() {
    let begun = tokio::time::Instant::now();
    let (address, _serving) = serve(RedbStore::in_memory(), "127.0.0.1:0").await;
    let Asked { client, caller, held, set } = asked(address).await;
    let (set, volume, epoch) = (set.id, held.volume.id, held.epoch);
    let deciding = {
        let client = client.clone();
        tokio::spawn(async move { client.snapshot_set(set, None, LONG).await })
    };
    let ready = MemberReady { caller, set, volume, epoch };
    let progress = client.member_ready(ready, LONG).await.expect("taken down");
    assert_eq!(progress.state, SetState::Pausing);
    let vote = MemberPaused {
        caller,
        set,
        volume,
        epoch,
        last_commit: held.last_commit,
        checkpoint: JournalSeq::new(4),
        next_head: held.next_head,
    };
    let sealed = client.member_paused(&vote, LONG).await.expect("decided");
    assert_eq!(client.member_paused(&vote, LONG).await.expect("again"), sealed);
    let Vote::Sealed(now) = sealed else { panic!("it is alone") };
    assert_eq!((now.head, now.last_commit), (held.next_head, held.last_commit.next()));
    let decided = deciding.await.expect("no panic").expect("told");
    assert_eq!((decided.state, decided.snapshots.len()), (SetState::Sealed, 1));
    let seal = SealLayer {
        request: fresh_request_id(),
        volume,
        epoch,
        caller,
        number: vote.last_commit.next(),
        checkpoint: vote.checkpoint,
        next_head: vote.next_head,
        replay_of: None,
    };
    let found = client.seal_layer(&seal).await.expect("told");
    assert_eq!((found.before, found.now), (true, now));
    let error = client.abort_snapshots(set).await.expect_err("too late");
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorReason::SetDecided));
    let known = WatchNode {
        caller,
        structures: vec![],
        members: vec![],
        fences: vec![],
        peers: vec![],
        recalls: vec![],
    };
    let wait = Duration::from_millis(50);
    assert!(client.watch_node(&known, wait).await.expect("told").members.is_empty());
    assert!(begun.elapsed() < LONG, "no wait lasted to its end");
}

#[tokio::test]
async fn a_member_that_fails_is_told_to_who_waits() {
    let (address, _serving) = serve(RedbStore::in_memory(), "127.0.0.1:0").await;
    let Asked { client, caller, held, set } = asked(address).await;
    let (volume, epoch) = (held.volume.id, held.epoch);
    let waiting = {
        let (client, known) = (client.clone(), Some(SetState::Gathering));
        tokio::spawn(async move { client.snapshot_set(set.id, known, LONG).await })
    };
    let why = name("no-room");
    let failed = MemberFailed { caller, set: set.id, volume, epoch, why: why.clone() };
    for _ in 0..2 {
        let progress = client.member_failed(&failed).await.expect("taken down");
        assert_eq!(progress.state, SetState::Aborted);
    }
    let aborted = waiting.await.expect("no panic").expect("told");
    assert_eq!(aborted.abort, Some(SetAbort { reason: why, volume: Some(volume) }));
    let again = client.abort_snapshots(set.id).await.expect("it is");
    assert_eq!((again.state, again.snapshots.len()), (SetState::Aborted, 0));
}

/// A commit that maps logical extent 4.
fn commit(caller: NodeSession, held: &Attachment, slot: Slot) -> CommitMap {
    CommitMap {
        request: fresh_request_id(),
        caller,
        number: held.last_commit.next(),
        volume: held.volume.id,
        epoch: held.epoch,
        layer: held.volume.head,
        extent_size: held.pool.extent_size,
        updates: vec![SlotUpdate { at: LogicalExtent::new(4), slot: Some(slot) }],
        checkpoint: Some(JournalSeq::new(1)),
        replay_of: None,
    }
}

#[tokio::test]
async fn a_volume_is_attached_written_and_detached() {
    let (address, _serving) = serve(RedbStore::in_memory(), "127.0.0.1:0").await;
    let client = client(address);
    let (pool, volume) = made_pool_and_volume(&client).await;
    let caller = join(&client).await.session;
    let node = caller.node;
    let held = attach(&client, volume.id, caller).await;
    let epoch = held.epoch;
    let resume = ResumeAttachment { volume: volume.id, epoch, caller };
    assert_eq!(client.resume_attachment(resume).await.expect("held"), held);
    assert_eq!(client.attachments(node).await.expect("listed").len(), 1);
    let reserve = ReserveExtents { request: fresh_request_id(), caller, pool: pool.id, count: 3 };
    let runs = client.reserve_extents(&reserve).await.expect("reserved");
    let reserved = client.reservations(node).await.expect("listed");
    assert_eq!(reserved, [PoolReservation { pool: pool.id, runs: runs.clone() }]);
    let slot = Slot::fresh(runs[0].first(), pool.extent_size);
    client.commit_map(&commit(caller, &held, slot.clone())).await.expect("committed");
    let read = ReadLayer { layer: volume.head, from: LogicalExtent::new(0), limit: 9 };
    let page = client.read_layer(read).await.expect("read");
    let (at, own) = (LogicalExtent::new(4), Some(slot));
    assert_eq!(page.entries, [LayerEntry { at, own, parts: vec![] }]);
    let (request, layer) = (fresh_request_id(), volume.head);
    let from = LogicalExtent::new(0);
    let prune = PruneLayer { request, caller, volume: volume.id, epoch, layer, from };
    assert_eq!(client.prune_layer(prune).await.expect("answered"), PrunedParts::default());
    let other = PruneLayer { request: fresh_request_id(), layer: LayerId::new(77), ..prune };
    let error = client.prune_layer(other).await.expect_err("another layer");
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorReason::LayerNotWritable));
    let rest = ExtentRun::new(runs[0].iter().nth(1).expect("three"), 2);
    let request = fresh_request_id();
    let release = ReleaseExtents { request, caller, pool: pool.id, runs: vec![rest] };
    client.release_extents(&release).await.expect("released");
    let status = client.pool_status(&Selector::Id(pool.id)).await.expect("a status");
    assert_eq!(status.usage.allocated_extents, 3);
    let summary = client.fsck(|finding| panic!("{finding:?}")).await.expect("checked");
    assert_eq!((summary.findings, summary.slots), (0, 1));
    let (request, stale_epoch) = (fresh_request_id(), Epoch::new(7));
    let retire = RetireJournal { request, volume: volume.id, epoch, caller, stale_epoch };
    let error = client.retire_journal(&retire).await.expect_err("there is none");
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorReason::JournalNotFound));
    let (request, mode) = (fresh_request_id(), DetachMode::Clean);
    let detach = Detach { request, volume: volume.id, epoch, caller, mode };
    client.detach(&detach).await.expect("detached");
}

#[tokio::test]
async fn a_refusal_has_its_reason_and_facts_and_is_not_repeated() {
    let (address, _serving) = serve(RedbStore::in_memory(), "127.0.0.1:0").await;
    let client = client(address);
    let (pool, _) = made_pool_and_volume(&client).await;
    let error = client.create_pool(&pool_request()).await.expect_err("the name is taken");
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorReason::PoolExists));
    assert_eq!(error.report().expect("a report").facts["pool"], pool.id.to_string());
    let text = error.to_string();
    assert!(text.starts_with("cannot create the pool: a pool named 'p' exists"), "{text}");
    assert!(!error.is_unavailable());
}

#[tokio::test]
async fn a_call_waits_for_a_service_that_starts_late() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = free.local_addr().expect("an address");
    drop(free);
    let client = client(address);
    let asking = tokio::spawn(async move { client.cluster().await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (_, _serving) = serve(RedbStore::in_memory(), &address.to_string()).await;
    asking.await.expect("no panic").expect("answered in the end");
}

#[tokio::test]
async fn a_call_goes_on_after_the_service_was_restarted() {
    let store = RedbStore::in_memory();
    let (address, serving) = serve(store.clone(), "127.0.0.1:0").await;
    let client = client(address);
    let (pool, _) = made_pool_and_volume(&client).await;
    serving.abort();
    drop(serving.await);
    let asking = {
        let client = client.clone();
        tokio::spawn(async move { client.pool(&Selector::Id(pool.id)).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (_, _serving) = serve(store, &address.to_string()).await;
    asking.await.expect("no panic").expect("answered in the end");
}

#[tokio::test]
async fn another_endpoint_is_tried() {
    let dead = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let dead_address = dead.local_addr().expect("an address").to_string();
    drop(dead);
    let (address, _serving) = serve(RedbStore::in_memory(), "127.0.0.1:0").await;
    let endpoints = [dead_address, address.to_string()];
    let client = MetadataClient::new(&endpoints, Policy::default()).expect("a client");
    client.cluster().await.expect("the second answers");
}

fn short() -> Policy {
    let total = Duration::from_millis(400);
    Policy { attempt: Duration::from_millis(150), total, ..Policy::default() }
}

#[tokio::test]
async fn a_service_that_is_not_there_is_named() {
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let client = MetadataClient::new(&[&address], short()).expect("a client");
    let error = client.cluster().await.expect_err("nobody is there");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    let text = error.to_string();
    assert!(text.contains(&address) && text.contains("refused"), "{text}");
    assert!(error.is_unavailable());
}

#[tokio::test]
async fn a_service_that_does_not_answer_is_not_waited_for_longer_than_said() {
    // It takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let client = MetadataClient::new(&[&address], short()).expect("a client");
    let outcome = tokio::time::timeout(Duration::from_secs(5), client.cluster()).await;
    let error = outcome.expect("it gives up").expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("has not answered for 400 ms"), "{error}");
}

#[tokio::test]
async fn damage_that_the_check_finds_is_told() {
    let store = RedbStore::in_memory();
    let (address, _serving) = serve(store.clone(), "127.0.0.1:0").await;
    store
        .transact(|txn| async move {
            txn.set(b"junk", b"junk");
            Ok::<_, StoreError>(())
        })
        .await
        .expect("damaged");
    let mut findings = Vec::new();
    let summary = client(address).fsck(|finding| findings.push(finding)).await;
    assert_eq!(summary.expect("checked").findings, 1);
    assert_eq!(findings[0].kind, "entry-unreadable");
}

/// A service that is busy twice before it answers, and remembers the ids it was asked with.
#[derive(Clone, Default)]
struct Busy {
    asked: Arc<AtomicUsize>,
    ids: Arc<std::sync::Mutex<Vec<String>>>,
}

#[tonic::async_trait]
impl Pools for Busy {
    async fn create_pool(
        &self,
        request: Request<v1::CreatePoolRequest>,
    ) -> Result<Response<v1::Pool>, Status> {
        self.ids.lock().expect("no panic").push(request.into_inner().request_id);
        if self.asked.fetch_add(1, Ordering::Relaxed) < 2 {
            let (reason, message) = (ErrorReason::StoreBusy, "busy".to_owned());
            return Err(ErrorReport { reason, message, facts: Facts::new() }.to_status());
        }
        Ok(Response::new(v1::Pool { pool_id: "no id".to_owned(), ..v1::Pool::default() }))
    }

    async fn add_luns(&self, _: Request<v1::AddLunsRequest>) -> Result<Response<v1::Pool>, Status> {
        let (reason, message) = (ErrorReason::StoreBusy, "busy".to_owned());
        Err(ErrorReport { reason, message, facts: Facts::new() }.to_status())
    }

    async fn get_pool(&self, _: Request<v1::GetPoolRequest>) -> Result<Response<v1::Pool>, Status> {
        Err(Status::internal("broken"))
    }

    async fn set_watermarks(
        &self,
        _: Request<v1::SetWatermarksRequest>,
    ) -> Result<Response<v1::Pool>, Status> {
        Err(Status::internal("broken"))
    }

    async fn list_pools(
        &self,
        _: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        Err(Status::internal("broken"))
    }

    async fn get_pool_status(
        &self,
        _: Request<v1::GetPoolStatusRequest>,
    ) -> Result<Response<v1::PoolStatus>, Status> {
        Err(Status::internal("broken"))
    }
}

async fn busy() -> (Busy, MetadataClient) {
    let busy = Busy::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = PoolsServer::new(busy.clone());
    let router = tonic::transport::Server::builder().add_service(server);
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    (busy, client(address))
}

#[tokio::test]
async fn a_busy_service_is_asked_again_with_the_same_request_id() {
    let (busy, client) = busy().await;
    let request = pool_request();
    let error = client.create_pool(&request).await.expect_err("its answer is no pool");
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    let ids = busy.ids.lock().expect("no panic").clone();
    assert_eq!(ids, vec![request.request.to_string(); 3]);
}

#[tokio::test]
async fn a_service_that_stays_busy_says_so_in_the_end() {
    let (_, client) = busy().await;
    let CreatePool { request, luns, .. } = pool_request();
    let add = AddLuns { request, pool: Selector::Name(name("p")), luns };
    let error = client.with_policy(short()).add_luns(&add).await.expect_err("busy");
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorReason::StoreBusy));
    assert!(error.is_unavailable());
}

#[tokio::test]
async fn a_failure_without_a_reason_is_no_refusal() {
    let (_, client) = busy().await;
    let error = client.pools().await.expect_err("broken");
    assert_eq!(error.kind(), ErrorKind::Failed);
    assert!(error.to_string().contains("broken"), "{error}");
}

/// Passes connections on to an address, and cuts each one when the service has sent so many bytes.
async fn cutting_proxy(to: SocketAddr, bytes: u64) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let cuts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&cuts);
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.expect("a connection");
            let service = tokio::net::TcpStream::connect(to).await.expect("it listens");
            let cuts = Arc::clone(&counted);
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (from_service, mut to_service) = service.into_split();
                let mut some = tokio::io::AsyncReadExt::take(from_service, bytes);
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_service) => {}
                    _ = tokio::io::copy(&mut some, &mut to_client) => {
                        cuts.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    (address, cuts)
}

/// Two snapshots of a volume; every second block of 900 extents was written between them.
async fn two_snapshots(client: &MetadataClient) -> (Snapshot, Snapshot) {
    let (pool, volume) = made_pool_and_volume(client).await;
    let cut = async |snapshot: &str| {
        let cut = CreateSnapshots {
            request: fresh_request_id(),
            members: vec![member(volume.id, NewCut::Snapshot(name(snapshot)))],
            created_unix_seconds: 5,
            fsfreeze: Fsfreeze::Never,
            over_watermark: false,
            group: None,
        };
        client.create_snapshots(&cut).await.expect("cut").snapshots[0].clone()
    };
    let first = cut("first").await;
    let caller = join(client).await.session;
    let held = attach(client, volume.id, caller).await;
    let request = ReserveExtents { request: fresh_request_id(), caller, pool: pool.id, count: 900 };
    let runs = client.reserve_extents(&request).await.expect("there is room");
    let extents = runs.iter().flat_map(|run| run.iter());
    let update = |(at, extent): (u64, ExtentAddress)| {
        let mut slot = Slot::fresh(extent, pool.extent_size);
        (0..4).for_each(|word| slot.presence.set_word(word, 0x5555_5555_5555_5555));
        SlotUpdate { at: LogicalExtent::new(at), slot: Some(slot) }
    };
    let commit = CommitMap {
        request: fresh_request_id(),
        caller,
        number: held.last_commit.next(),
        volume: volume.id,
        epoch: held.epoch,
        layer: held.volume.head,
        extent_size: pool.extent_size,
        updates: (0..).zip(extents).map(update).collect(),
        checkpoint: None,
        replay_of: None,
    };
    client.commit_map(&commit).await.expect("committed");
    let (request, mode) = (fresh_request_id(), DetachMode::Clean);
    let detach = Detach { request, volume: volume.id, epoch: held.epoch, caller, mode };
    client.detach(&detach).await.expect("detached");
    (first, cut("second").await)
}

async fn all(mut runs: DiffRuns) -> Vec<DiffRun> {
    let mut all = Vec::new();
    while let Some(run) = runs.next().await {
        all.push(run.expect("it goes on"));
    }
    assert!(runs.next().await.is_none(), "the end stays the end");
    all
}

#[tokio::test]
async fn differences_come_whole_over_connections_that_break() {
    let (address, _serving) = serve(RedbStore::in_memory(), "127.0.0.1:0").await;
    let direct = client(address);
    let (first, second) = two_snapshots(&direct).await;
    let (from, to) = (Some(Selector::Name(name("first"))), Selector::Name(name("second")));
    let run = |at: u64| DiffRun { offset: at * 8192, length: 4096, kind: DiffKind::Data };
    let expected: Vec<_> = (0..900 * 128).map(run).collect();
    assert!(all(direct.diff_snapshots(from.clone(), to.clone(), 0)).await == expected);
    let (proxy, cuts) = cutting_proxy(address, 300_000).await;
    let broken = client(proxy);
    assert!(all(broken.diff_snapshots(from.clone(), to.clone(), 0)).await == expected);
    assert!(cuts.load(Ordering::Relaxed) > 3, "{cuts:?}");
    let rest = all(broken.diff_snapshots(from, to, 8192 * 1000)).await;
    assert!(rest == expected[1000..]);
    let none = direct.diff_snapshots(Some(Selector::Id(second.id)), Selector::Id(second.id), 0);
    assert_eq!(all(none).await, []);
    let back = direct.diff_snapshots(Some(Selector::Id(second.id)), Selector::Id(first.id), 0);
    assert!(all(back).await.iter().all(|run| run.kind == DiffKind::Zero));
}

#[tokio::test]
async fn names_that_go_to_other_snapshots_are_not_followed() {
    let (address, _serving) = serve(RedbStore::in_memory(), "127.0.0.1:0").await;
    let client = client(address);
    let (first, second) = two_snapshots(&client).await;
    let (from, to) = (Some(Selector::Name(name("first"))), Selector::Name(name("second")));
    // The connection breaks before all is said, and is made again only when more is asked for.
    let (proxy, _) = cutting_proxy(address, 300_000).await;
    let broken = self::client(proxy);
    let mut runs = broken.diff_snapshots(from, to.clone(), 0);
    runs.next().await.expect("there are more").expect("a run");
    let delete = DeleteSnapshot { request: fresh_request_id(), snapshot: to.clone() };
    client.delete_snapshot(&delete).await.expect("it begins");
    let cut = CreateSnapshots {
        request: fresh_request_id(),
        members: vec![member(first.volume, NewCut::Snapshot(name("second")))],
        created_unix_seconds: 5,
        fsfreeze: Fsfreeze::Never,
        over_watermark: false,
        group: None,
    };
    client.create_snapshots(&cut).await.expect("cut");
    let error = loop {
        match runs.next().await.expect("it does not end as if it were whole") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let reasons = [ErrorReason::SnapshotNotReady, ErrorReason::SnapshotNotFound];
    let ErrorKind::Refused(reason) = error.kind() else { panic!("{error}") };
    assert!(reasons.contains(&reason), "{error}");
    assert!(error.to_string().contains(&second.id.to_string()), "{error}");
}
