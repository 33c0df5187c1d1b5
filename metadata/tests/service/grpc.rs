//! Over the wire: every call on a loopback connection, errors with their reason and facts.

use std::sync::Arc;

use lunar_backup::{BackupHeader, BackupReader};
use lunar_metadata::keyspace::{BackupKey, BackupsKey, Key as _};
use lunar_metadata::seams::{SystemClock, SystemIds, block_on};
use lunar_metadata::server::{Handlers, Identity, NodeScope, serve_loopback};
use lunar_metadata::service::{Seams, Service, Settings};
use lunar_metadata::store::{KeyRange, KeyValue, MetaStore as _, RangeRead, RedbStore, Txn as _};
use lunar_proto::domain::*;
use lunar_proto::error::{ErrorReason, ErrorReport};
use lunar_proto::v1;
use lunar_types::*;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::world::name;

struct Served {
    channel: Channel,
    stop: Arc<Notify>,
    serving: tokio::task::JoinHandle<()>,
    service: Arc<Service<RedbStore>>,
}

async fn served() -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let seams = Seams { clock: Arc::new(SystemClock::start()), ids: Arc::new(SystemIds) };
    let store = RedbStore::in_memory();
    let service = Service::open(store, seams, Settings::default()).await.expect("it starts");
    let service = Arc::new(service);
    let handlers = Handlers::new(Arc::clone(&service), Arc::new(Notify::new()));
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let serving = tokio::spawn(async move {
        let stop = async move { stopped.notified().await };
        serve_loopback(listener, handlers, stop).await.expect("it serves");
    });
    let channel = Channel::from_shared(format!("http://{address}")).expect("an address");
    let channel = channel.connect().await.expect("connected");
    Served { channel, stop, serving, service }
}

fn request() -> RequestId {
    use lunar_metadata::seams::RandomIds as _;
    RequestId::from_u128(SystemIds.next())
}

fn report(status: &Status) -> ErrorReport {
    ErrorReport::from_status(status).expect("one of our errors")
}

#[tokio::test]
async fn a_request_in_flight_ends_before_the_service_does() {
    let served = served().await;
    let mut admin = v1::admin_client::AdminClient::new(served.channel.clone());
    let cluster = admin.get_cluster(v1::GetClusterRequest {}).await.expect("answered");
    let cluster = Cluster::try_from(cluster.into_inner()).expect("valid");
    assert_eq!(cluster, served.service.cluster());
    let mut events = admin.fsck(v1::FsckRequest {}).await.expect("it runs").into_inner();
    served.stop.notify_one();
    let event = events.message().await.expect("an event").expect("one");
    let event = FsckEvent::try_from(event).expect("valid");
    assert_eq!(event, FsckEvent::Summary(FsckSummary::default()));
    assert!(events.message().await.expect("the end").is_none());
    drop((admin, served.channel));
    served.serving.await.expect("it stops");
}

#[tokio::test]
async fn a_call_that_waits_ends_with_the_service() {
    let served = served().await;
    let request = Join {
        is_drained: true,
        request: request(),
        name: name("a"),
        boot: BootId::from_u128(1),
        resume: None,
        last_session: SessionNumber::new(0),
    };
    let caller = served.service.join(&request).await.expect("joined").session;
    let mut members = v1::members_client::MembersClient::new(served.channel.clone());
    let watch = WatchNode {
        caller,
        structures: vec![],
        members: vec![],
        fences: vec![],
        peers: vec![],
        recalls: vec![],
    };
    let watch = v1::WatchNodeRequest { wait_ms: 30_000, ..watch.into() };
    let waiting = tokio::spawn(async move { members.watch_node(watch).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "there is no news");
    served.stop.notify_one();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await;
    let news = ended.expect("it does not wait on").expect("no panic").expect("answered");
    assert_eq!(news.into_inner(), v1::WatchNodeResponse::default());
    drop(served.channel);
    served.serving.await.expect("it stops");
}

#[tokio::test]
async fn a_change_by_another_process_is_seen_by_who_waits() {
    let served = served().await;
    let seams = Seams { clock: Arc::new(SystemClock::start()), ids: Arc::new(SystemIds) };
    let store = served.service.store().clone();
    let other = Service::open(store, seams, Settings::default()).await.expect("it starts");
    let lun = NewLun {
        id: LunId::from_u128(1),
        size: ByteCount::new(1 << 30),
        logical_block_size: LogicalBlockSize::B4096,
    };
    let (luns, extent_size) = (vec![lun], ExtentSize::DEFAULT);
    let pool = CreatePool {
        request: request(),
        name: name("p"),
        extent_size,
        luns,
        fencing: PoolFencing::None,
    };
    let pool = Selector::Id(other.create_pool(&pool).await.expect("made").id);
    let volume = CreateVolume {
        request: request(),
        name: name("v"),
        pool,
        size: VolumeSize::from_bytes(1 << 30).expect("a size"),
        logical_block_size: LogicalBlockSize::B4096,
        over_watermark: false,
    };
    let volume = Selector::Id(other.create_volume(&volume).await.expect("made").id);
    let join = Join {
        is_drained: true,
        request: request(),
        name: name("a"),
        boot: BootId::from_u128(1),
        resume: None,
        last_session: SessionNumber::new(0),
    };
    let caller = other.join(&join).await.expect("joined").session;
    let attach = Attach {
        request: request(),
        volume: volume.clone(),
        caller,
        understands_layers: true,
        accept_restored: false,
        publication: None,
        for_file_system: false,
    };
    other.attach(&attach).await.expect("granted");
    let create = CreateSnapshots {
        request: request(),
        members: vec![NewMember { volume, cut: NewCut::Snapshot(name("s")) }],
        created_unix_seconds: 0,
        fsfreeze: Fsfreeze::Auto,
        over_watermark: false,
        group: None,
    };
    let set = other.create_snapshots(&create).await.expect("stored").id;
    let mut snapshots = v1::snapshots_client::SnapshotsClient::new(served.channel.clone());
    let wait = v1::GetSnapshotSetRequest { set_id: set.to_string(), wait_ms: 30_000, known: 0 };
    let waiting = tokio::spawn(async move { snapshots.get_snapshot_set(wait).await });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "it is not decided");
    other.abort_snapshots(set).await.expect("aborted");
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await;
    let set = ended.expect("it is seen").expect("no panic").expect("answered");
    let set = SnapshotSet::try_from(set.into_inner()).expect("valid");
    assert_eq!(set.state, SetState::Aborted);
}

/// A node's identity, as a transport that knows its peer would give it.
fn from_node<T>(node: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let nodes = NodeScope::Only(name(node));
    request.extensions_mut().insert(Identity { admin: false, nodes, actor: "a".to_owned() });
    request
}

fn refusal<T>(outcome: Result<T, Status>) -> ErrorReason {
    report(&outcome.err().expect("it is refused")).reason
}

#[tokio::test]
async fn who_asks_is_told_by_the_connection() {
    use v1::attachments_server::Attachments as _;
    use v1::nodes_server::Nodes as _;
    use v1::pools_server::Pools as _;
    use v1::volumes_server::Volumes as _;
    let Served { service, .. } = served().await;
    let handlers = Handlers::new(service, Arc::new(Notify::new()));
    let join = |node: &str| {
        let (request, boot) = (request(), BootId::from_u128(1));
        let last_session = SessionNumber::new(0);
        v1::JoinRequest::from(Join {
            request,
            name: name(node),
            boot,
            resume: None,
            is_drained: false,
            last_session,
        })
    };
    let nobody = handlers.join(Request::new(join("a"))).await;
    assert_eq!(refusal(nobody), ErrorReason::NoIdentity);
    let other = handlers.join(from_node("b", join("a"))).await;
    assert_eq!(refusal(other), ErrorReason::NotPermitted);
    let joined = handlers.join(from_node("a", join("a"))).await.expect("its own name");
    let caller = joined.into_inner().session;

    let beat = || v1::HeartbeatRequest { caller };
    handlers.heartbeat(from_node("a", beat())).await.expect("its own lease");
    handlers.join(from_node("b", join("b"))).await.expect("another node");
    let foreign = handlers.heartbeat(from_node("b", beat())).await;
    assert_eq!(refusal(foreign), ErrorReason::NotPermitted);
    let attach = v1::AttachRequest { caller, ..v1::AttachRequest::default() };
    let foreign = handlers.attach(from_node("b", attach)).await;
    assert_eq!(refusal(foreign), ErrorReason::NotPermitted);
    let watch = v1::WatchNodeRequest { caller, ..v1::WatchNodeRequest::default() };
    let foreign = v1::members_server::Members::watch_node(&handlers, from_node("b", watch)).await;
    assert_eq!(refusal(foreign), ErrorReason::NotPermitted);
    let abort = v1::AbortSnapshotsRequest { set_id: request().to_string() };
    let abort = v1::snapshots_server::Snapshots::abort_snapshots(&handlers, from_node("a", abort));
    assert_eq!(refusal(abort.await), ErrorReason::NotPermitted);
    let pool = handlers.create_pool(from_node("a", v1::CreatePoolRequest::default())).await;
    assert_eq!(refusal(pool), ErrorReason::NotPermitted);
    let delete = handlers.delete_volume(from_node("a", v1::DeleteVolumeRequest::default()));
    assert_eq!(refusal(delete.await), ErrorReason::NotPermitted);
    let list = handlers.list_pools(Request::new(v1::ListPoolsRequest::default())).await;
    assert_eq!(refusal(list), ErrorReason::NoIdentity);
    handlers.list_pools(from_node("a", v1::ListPoolsRequest::default())).await.expect("a list");
}

#[tokio::test]
async fn bad_fields_and_unknown_objects_have_their_reasons() {
    let served = served().await;
    let mut volumes = v1::volumes_client::VolumesClient::new(served.channel.clone());
    let bad = v1::CreateVolumeRequest {
        request_id: request().to_string(),
        name: "v".to_owned(),
        pool: Some(Selector::<PoolId>::Name(name("p")).into()),
        size_bytes: 4097,
        logical_block_size: 0,
        over_watermark: false,
    };
    let status = volumes.create_volume(bad.clone()).await.expect_err("refused");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(report(&status).facts["field"], "size_bytes");
    assert!(status.message().contains("the next size is 8192 B"), "{}", status.message());
    let unknown = v1::CreateVolumeRequest { size_bytes: 4096, ..bad };
    let status = volumes.create_volume(unknown).await.expect_err("refused");
    assert_eq!(status.code(), tonic::Code::NotFound);
    assert_eq!(report(&status).reason, ErrorReason::PoolNotFound);
}

#[tokio::test]
async fn events_of_a_check_stream_and_a_client_may_go_away() {
    let served = served().await;
    let store = served.service.store().clone();
    tokio::task::spawn_blocking(move || {
        use lunar_metadata::store::StoreError;
        block_on(store.transact(|txn| async move {
            for index in 0..500_u32 {
                txn.set(format!("junk {index}").as_bytes(), b"junk");
            }
            Ok::<_, StoreError>(())
        }))
    })
    .await
    .expect("ran")
    .expect("damaged");
    let mut admin = v1::admin_client::AdminClient::new(served.channel.clone());
    let mut events = admin.fsck(v1::FsckRequest {}).await.expect("it runs").into_inner();
    let first = events.message().await.expect("an event").expect("one");
    assert!(matches!(FsckEvent::try_from(first), Ok(FsckEvent::Finding(_))));
    drop(events);
    let mut events = admin.fsck(v1::FsckRequest {}).await.expect("it runs").into_inner();
    let mut last = None;
    let mut count = 0;
    while let Some(event) = events.message().await.expect("an event") {
        last = Some(FsckEvent::try_from(event).expect("valid"));
        count += 1;
    }
    assert_eq!(count, 501);
    let Some(FsckEvent::Summary(FsckSummary { digest, .. })) = last else { panic!("{last:?}") };
    let summary = FsckSummary { findings: 500, digest, ..FsckSummary::default() };
    assert_eq!(last, Some(FsckEvent::Summary(summary)));
    assert_ne!(digest, FindingsDigest::default());
    let request = v1::RepairRequest { findings_digest: digest.get() };
    let mut events = admin.repair(request).await.expect("it runs").into_inner();
    let first = events.message().await.expect("an event").expect("one");
    // Nothing can be repaired: only the check that follows is told.
    assert!(matches!(FsckEvent::try_from(first), Ok(FsckEvent::Finding(_))));
    let request = v1::RepairRequest { findings_digest: 1 };
    let mut events = admin.repair(request).await.expect("it runs").into_inner();
    let refused = events.message().await.expect_err("the findings are others");
    let report = ErrorReport::from_status(&refused).expect("a report");
    assert_eq!(report.reason, ErrorReason::FindingsChanged);
    assert_eq!(report.facts["findings_found"], digest.to_string());
}

/// The bytes of a backup, as a client gets them.
async fn streamed(served: &Served) -> Vec<u8> {
    let mut admin = v1::admin_client::AdminClient::new(served.channel.clone());
    let mut chunks = admin.backup(v1::BackupRequest {}).await.expect("it runs").into_inner();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.message().await.expect("a chunk") {
        assert!(chunk.data.len() <= 1 << 20, "{} bytes at once", chunk.data.len());
        bytes.extend(chunk.data);
    }
    bytes
}

/// The header and every entry of a backup that is whole.
fn believed(bytes: &[u8]) -> (BackupHeader, Vec<KeyValue>) {
    let mut reader = BackupReader::begin(bytes).expect("a backup");
    let mut entries = Vec::new();
    while let Some(block) = reader.next_block().expect("sound") {
        entries.extend(block.entries().map(|(key, value)| (key.to_vec(), value.to_vec())));
    }
    (*reader.header(), entries)
}

#[tokio::test]
async fn a_backup_has_every_key_of_one_moment() {
    let served = served().await;
    let store = served.service.store().clone();
    let fill = move |from: u32, to: u32| {
        let store = store.clone();
        tokio::task::spawn_blocking(move || {
            use lunar_metadata::store::StoreError;
            let filled = block_on(store.transact(|txn| async move {
                for index in from..to {
                    txn.set(format!("more {index:08}").as_bytes(), &[index as u8; 1500]);
                }
                Ok::<_, StoreError>(())
            }));
            filled.expect("filled");
            let everything = KeyRange::new(Vec::new(), vec![0xFF]);
            let read = RangeRead::first(everything, usize::MAX);
            block_on(async { store.begin().await.expect("begun").get_range(&read).await })
                .expect("all of it")
        })
    };
    for part in 0..5 {
        fill(part * 500, (part + 1) * 500).await.expect("ran");
    }
    let before = fill(2500, 3000).await.expect("ran");
    let mut admin = v1::admin_client::AdminClient::new(served.channel.clone());
    let mut chunks = admin.backup(v1::BackupRequest {}).await.expect("it runs").into_inner();
    let mut bytes = chunks.message().await.expect("a chunk").expect("the header").data;
    // What comes after the backup was begun is not in it.
    fill(3000, 3100).await.expect("ran");
    while let Some(chunk) = chunks.message().await.expect("a chunk") {
        bytes.extend(chunk.data);
    }
    let (header, mut entries) = believed(&bytes);
    assert_eq!((header.number, header.keyspace_version), (1, 3));
    assert_eq!(header.cluster, served.service.cluster().id);
    // The backup knows of itself, and it began after everything else was there.
    let own = [BackupsKey {}.pack(), BackupKey { backup: BackupNumber::new(1) }.pack()];
    entries.retain(|(key, _)| !own.contains(key));
    assert_eq!(entries, before);
    let (second, _) = believed(&streamed(&served).await);
    assert_eq!(second.number, 2);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_backup_that_is_not_complete() {
    let served = served().await;
    let mut admin = v1::admin_client::AdminClient::new(served.channel.clone());
    let chunks = admin.backup(v1::BackupRequest {}).await.expect("it runs").into_inner();
    drop(chunks);
    let backups = admin.list_backups(v1::ListBackupsRequest {}).await.expect("a list");
    let backups = Backups::try_from(backups.into_inner()).expect("valid");
    assert_eq!(backups.newest_complete, None);
    assert_eq!(backups.backups.len(), 1);
    let unknown = admin.backup_done(v1::BackupDoneRequest { number: 7 }).await;
    let status = unknown.expect_err("never begun");
    assert_eq!(report(&status).reason, ErrorReason::BackupNotFound);
    let done = admin.backup_done(v1::BackupDoneRequest { number: 1 }).await.expect("noted");
    assert_eq!(done.into_inner().newest_complete, 1);
}
