//! A metadata service on a loopback port, pools in it, and drivers that use it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lunar_identity::{ServerTls, TlsFiles};
use lunar_metadata::fsck::Flow;
use lunar_metadata::seams::{SystemClock, SystemIds};
use lunar_metadata::server::{Handlers, run_operations, serve_loopback, serve_tls};
use lunar_metadata::service::{Seams, Service, Settings};
use lunar_metadata::store::RedbStore;
use lunar_metadata_client::fresh_request_id;
use lunar_proto::csi::controller_client::ControllerClient;
use lunar_proto::csi::group_controller_client::GroupControllerClient;
use lunar_proto::csi::snapshot_metadata_client::SnapshotMetadataClient;
use lunar_proto::domain::*;
use lunar_types::*;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

pub const MIB: i64 = 1 << 20;
pub const GIB: i64 = 1 << 30;

/// The pool that volumes are made in: extents of 1 MiB, blocks of 512 B.
pub const TANK: &str = "tank";
/// Another pool: extents of 64 KiB, blocks of 4096 B.
pub const POND: &str = "pond";

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

/// The service, while it serves.
struct Serving {
    stop: Arc<Notify>,
    task: JoinHandle<()>,
}

pub struct World {
    pub service: Arc<Service<RedbStore>>,
    work: Arc<Notify>,
    port: u16,
    serving: Option<Serving>,
    folder: TempDir,
}

/// A driver that runs; it is killed when this is dropped.
pub struct Driver {
    child: Child,
    pub socket: PathBuf,
    channel: Channel,
}

impl World {
    pub async fn start() -> Self {
        let world = Self::start_idle().await;
        tokio::spawn(run_operations(Arc::clone(&world.service), Arc::clone(&world.work)));
        world
    }

    /// The same, in which nothing that is being deleted ever goes away.
    pub async fn start_idle() -> Self {
        let seams = Seams { clock: Arc::new(SystemClock::start()), ids: Arc::new(SystemIds) };
        let service = Service::open(RedbStore::in_memory(), seams, Settings::default()).await;
        let service = Arc::new(service.expect("it starts"));
        let (work, folder) = (Arc::new(Notify::new()), tempfile::tempdir().expect("a folder"));
        let mut world = Self { service, work, port: 0, serving: None, folder };
        world.serve().await;
        world.pool(TANK, ExtentSize::DEFAULT, LogicalBlockSize::B512).await;
        let small = ExtentSize::from_bytes(64 << 10).expect("a size");
        world.pool(POND, small, LogicalBlockSize::B4096).await;
        world
    }

    /// Begins to serve, on the port of before if there was one.
    pub async fn serve(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.expect("a port");
        self.port = listener.local_addr().expect("bound").port();
        let handlers = Handlers::new(Arc::clone(&self.service), Arc::clone(&self.work));
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let stop = async move { stopped.notified().await };
            serve_loopback(listener, handlers, stop).await.expect("it serves");
        });
        self.serving = Some(Serving { stop, task });
    }

    /// Serves over TLS as well, and gives its endpoint.
    pub async fn serve_over_tls(&self, files: TlsFiles) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let tls = ServerTls::load(files, self.service.cluster().id).expect("usable");
        let handlers = Handlers::new(Arc::clone(&self.service), Arc::clone(&self.work));
        tokio::spawn(serve_tls(listener, Arc::new(tls), handlers, std::future::pending()));
        format!("https://127.0.0.1:{port}")
    }

    /// Where a driver's socket of this name is.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Goes away, with every connection.
    pub async fn go_away(&mut self) {
        let Serving { stop, task } = self.serving.take().expect("it serves");
        stop.notify_one();
        let ended = tokio::time::timeout(Duration::from_secs(10), task).await;
        ended.expect("every connection is closed").expect("no panic");
    }

    async fn pool(&self, pool: &str, extent_size: ExtentSize, block: LogicalBlockSize) -> Pool {
        let lun = NewLun {
            id: LunId::from_u128(fresh_request_id().as_u128()),
            size: ByteCount::new(8 << 30),
            logical_block_size: block,
        };
        let create = CreatePool {
            request: fresh_request_id(),
            name: name(pool),
            extent_size,
            luns: vec![lun],
            fencing: PoolFencing::None,
        };
        self.service.create_pool(&create).await.expect("the pool is made")
    }

    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A driver of this service, on a socket of this name.
    pub async fn driver(&self, socket: &str) -> Driver {
        Driver::start(self.socket(socket), &self.endpoint()).await
    }

    /// Every volume that is not being deleted.
    pub async fn volumes(&self) -> Vec<Volume> {
        let page = self.service.volumes(&PageRequest::first()).await.expect("a list");
        page.items.into_iter().filter(|it| it.state != VolumeState::Deleting).collect()
    }

    pub async fn volume(&self, id: &str) -> Volume {
        let id = Selector::Id(id.parse().expect("an id"));
        self.service.volume(&id).await.expect("it is there")
    }

    /// Every snapshot, whatever its state.
    pub async fn all_snapshots(&self) -> Vec<Snapshot> {
        self.service.snapshots(None, &PageRequest::first()).await.expect("a list").items
    }

    /// What the check finds.
    pub async fn assert_clean(&self) {
        let mut findings = Vec::new();
        let mut sink = |event| {
            if let FsckEvent::Finding(finding) = event {
                findings.push(finding);
            }
            Flow::Continue
        };
        self.service.fsck(&mut sink).await.expect("the check runs");
        assert!(findings.is_empty(), "{findings:#?}");
    }
}

impl Driver {
    pub async fn start(socket: PathBuf, endpoint: &str) -> Self {
        Self::start_with(socket, endpoint, None).await
    }

    /// The same, over TLS if there are files.
    pub async fn start_with(socket: PathBuf, endpoint: &str, tls: Option<&TlsFiles>) -> Self {
        let files = tls.map(|TlsFiles { ca, cert, key }| {
            [("--tls-ca", ca), ("--tls-cert", cert), ("--tls-key", key)]
        });
        let child = Command::new(env!("CARGO_BIN_EXE_csi-driver"))
            .args(["controller", "--metadata", endpoint, "--log", "error", "--endpoint"])
            .arg(&socket)
            .args(files.iter().flatten().flat_map(|(flag, path)| [Path::new(flag), path.as_path()]))
            .stdin(Stdio::null())
            .spawn()
            .expect("the driver starts");
        for _ in 0..1000 {
            if UnixStream::connect(&socket).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()));
        let channel = endpoint.expect("a socket").connect().await.expect("the driver serves");
        Self { child, socket, channel }
    }

    pub fn controller(&self) -> ControllerClient<Channel> {
        ControllerClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    pub fn snapshot_metadata(&self) -> SnapshotMetadataClient<Channel> {
        SnapshotMetadataClient::new(self.channel.clone())
    }

    pub fn groups(&self) -> GroupControllerClient<Channel> {
        GroupControllerClient::new(self.channel.clone())
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// SIGKILL, in the middle of whatever it does.
    pub fn kill(mut self) -> PathBuf {
        self.child.kill().expect("it is killed");
        self.child.wait().expect("it has ended");
        self.socket.clone()
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked").is_none()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
