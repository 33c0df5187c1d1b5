//! Over the wire: every call on a loopback connection, errors with their reason and facts.

use std::sync::Arc;

use lunar_metadata::seams::{SystemClock, SystemIds, block_on};
use lunar_metadata::server::{Handlers, serve_loopback};
use lunar_metadata::service::{Seams, Service, Settings};
use lunar_metadata::store::RedbStore;
use lunar_proto::domain::*;
use lunar_proto::error::{ErrorReason, ErrorReport};
use lunar_proto::v1;
use lunar_types::*;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::Status;
use tonic::transport::Channel;

use crate::world::{lun, name, size, solid};

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
async fn a_volume_lives_and_dies_over_the_wire() {
    let served = served().await;
    let channel = || served.channel.clone();
    let mut admin = v1::admin_client::AdminClient::new(channel());
    let cluster = admin.get_cluster(v1::GetClusterRequest {}).await.expect("answered");
    let cluster = Cluster::try_from(cluster.into_inner()).expect("valid");
    assert_eq!(cluster, served.service.cluster());

    let mut pools = v1::pools_client::PoolsClient::new(channel());
    let create = CreatePool {
        request: request(),
        name: name("p"),
        extent_size: ExtentSize::DEFAULT,
        luns: vec![lun(1, 1 << 30)],
    };
    let pool = pools.create_pool(v1::CreatePoolRequest::from(create)).await.expect("made");
    let pool = Pool::try_from(pool.into_inner()).expect("valid");

    let mut volumes = v1::volumes_client::VolumesClient::new(channel());
    let create = CreateVolume {
        request: request(),
        name: name("v"),
        pool: Selector::Name(name("p")),
        size: size(10 << 30),
        logical_block_size: LogicalBlockSize::B512,
    };
    let volume = volumes.create_volume(v1::CreateVolumeRequest::from(create)).await.expect("made");
    let volume = Volume::try_from(volume.into_inner()).expect("valid");

    let mut nodes = v1::nodes_client::NodesClient::new(channel());
    let boot = BootId::from_u128(3);
    let join = Join { request: request(), name: name("n"), boot, resume: None };
    let joined = nodes.join(v1::JoinRequest::from(join)).await.expect("joined");
    let joined = Joined::try_from(joined.into_inner()).expect("valid");
    assert_eq!((joined.cluster, joined.timers), (cluster.id, LeaseTimers::DEFAULT));
    let node = joined.node;
    let beat = v1::HeartbeatRequest { node: Some(node.into()) };
    let state = nodes.heartbeat(beat).await.expect("it lives").into_inner().state();
    assert_eq!(state, v1::NodeState::Active);

    let mut attachments = v1::attachments_client::AttachmentsClient::new(channel());
    let attach = Attach { request: request(), volume: Selector::Id(volume.id), node };
    let held = attachments.attach(v1::AttachRequest::from(attach)).await.expect("granted");
    let held = Attachment::try_from(held.into_inner()).expect("valid");
    assert_eq!(held.pool, pool);

    let mut reservations = v1::reservations_client::ReservationsClient::new(channel());
    let reserve = ReserveExtents { request: request(), node, pool: pool.id, count: 4 };
    let runs = reservations.reserve_extents(v1::ReserveExtentsRequest::from(reserve)).await;
    let runs = runs.expect("reserved").into_inner().runs;
    let runs: Vec<ExtentRun> = lunar_proto::wire::list("runs", runs).expect("valid");
    let extents: Vec<_> = runs.iter().flat_map(|run| run.iter()).collect();

    let mut map = v1::map_client::MapClient::new(channel());
    let commit = CommitMap {
        request: request(),
        node,
        volume: volume.id,
        epoch: held.epoch,
        layer: volume.head,
        extent_size: pool.extent_size,
        updates: vec![solid(7, extents[0])],
        checkpoint: Some(JournalSeq::new(1)),
        replay_of: None,
    };
    map.commit_map(v1::CommitMapRequest::from(commit)).await.expect("committed");
    let read = ReadMap { layer: volume.head, from: LogicalExtent::new(0), limit: 10 };
    let page = map.read_map(v1::ReadMapRequest::from(read)).await.expect("read");
    let page = MapPage::try_from(page.into_inner()).expect("valid");
    assert_eq!(page.entries.len(), 1);
    assert_eq!(page.entries[0].slot.extent(), Some(extents[0]));

    let status = v1::GetPoolStatusRequest { pool: Some(Selector::Id(pool.id).into()) };
    let status = pools.get_pool_status(status).await.expect("a status").into_inner();
    let status = PoolStatus::try_from(status).expect("valid");
    assert_eq!((status.usage.allocated_extents, status.usage.reserved_extents), (6, 3));

    let delete = || DeleteVolume { request: request(), volume: Selector::Id(volume.id) };
    let refused = volumes.delete_volume(v1::DeleteVolumeRequest::from(delete())).await;
    let refused = report(&refused.expect_err("it is attached"));
    assert_eq!(refused.reason, ErrorReason::VolumeAttached);
    assert_eq!(refused.facts["node_name"], "n");
    let (volume_id, epoch) = (volume.id, held.epoch);
    let mode = DetachMode::Clean;
    let detach = Detach { request: request(), volume: volume_id, epoch, node, mode };
    attachments.detach(v1::DetachRequest::from(detach)).await.expect("detached");
    let deleted = volumes.delete_volume(v1::DeleteVolumeRequest::from(delete())).await;
    let deleted = deleted.expect("it begins").into_inner();
    assert_eq!(deleted.state(), v1::VolumeState::Deleting);

    let mut events = admin.fsck(v1::FsckRequest {}).await.expect("it runs").into_inner();
    let event = events.message().await.expect("an event").expect("one");
    let event = FsckEvent::try_from(event).expect("valid");
    assert!(matches!(event, FsckEvent::Summary(FsckSummary { findings: 0, pools: 1, .. })));
    assert!(events.message().await.expect("the end").is_none());
    drop((admin, pools, volumes, nodes, attachments, reservations, map));
    served.stop.notify_one();
    served.serving.await.expect("it stops");
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
        use lunar_metadata::store::{MetaStore as _, StoreError, Txn as _};
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
    let summary = FsckSummary { findings: 500, ..FsckSummary::default() };
    assert_eq!(last, Some(FsckEvent::Summary(summary)));
}
