//! A node: a directory of kubelet on a shared tmpfs, an fs-core that is played, loop devices, and
//! the driver as the program that it is.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lunar_csi::node::worker::mountinfo::{self, Mount};
use lunar_csi::publication::PUBLICATION_KEY;
use lunar_proto::csi::node_client::NodeClient;
use lunar_proto::csi::volume_capability::access_mode::Mode;
use lunar_proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use lunar_proto::csi::{
    CapacityRange, NodeExpandVolumeRequest, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse,
    NodePublishVolumeRequest, NodeStageVolumeRequest, NodeUnpublishVolumeRequest,
    NodeUnstageVolumeRequest, VolumeCapability,
};
use lunar_proto::v1::{AttachmentState, ContentState};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::fscore::{FakeFsCore, Volume};
use crate::loops::Loop;

pub(crate) const MIB: u64 = 1 << 20;

/// How a volume is wanted by a pod.
#[derive(Clone)]
pub(crate) struct Wanted {
    /// None: the device.
    pub(crate) fs_type: Option<&'static str>,
    pub(crate) flags: Vec<&'static str>,
    pub(crate) mode: Mode,
    pub(crate) readonly: bool,
}

pub(crate) fn wanted(fs_type: &'static str) -> Wanted {
    let mode = Mode::SingleNodeMultiWriter;
    Wanted { fs_type: Some(fs_type), flags: Vec::new(), mode, readonly: false }
}

pub(crate) fn wanted_block() -> Wanted {
    Wanted { fs_type: None, ..wanted("") }
}

impl Wanted {
    pub(crate) fn readonly(self) -> Self {
        Self { readonly: true, ..self }
    }

    pub(crate) fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    pub(crate) fn flags(self, flags: &[&'static str]) -> Self {
        Self { flags: flags.to_vec(), ..self }
    }

    pub(crate) fn capability(&self) -> VolumeCapability {
        let access_type = match self.fs_type {
            None => AccessType::Block(BlockVolume {}),
            Some(fs_type) => AccessType::Mount(MountVolume {
                fs_type: fs_type.to_owned(),
                mount_flags: self.flags.iter().map(|flag| (*flag).to_owned()).collect(),
                volume_mount_group: String::new(),
            }),
        };
        let access_mode = Some(AccessMode { mode: self.mode.into() });
        VolumeCapability { access_type: Some(access_type), access_mode }
    }
}

/// A volume and where kubelet wants it.
#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) id: String,
    pub(crate) publication: String,
    pub(crate) device: Arc<Loop>,
    pub(crate) staging: String,
    pub(crate) target: String,
}

impl Claim {
    pub(crate) fn context(&self) -> HashMap<String, String> {
        HashMap::from([(PUBLICATION_KEY.to_owned(), self.publication.clone())])
    }

    pub(crate) fn stage_request(&self, wanted: &Wanted) -> NodeStageVolumeRequest {
        NodeStageVolumeRequest {
            volume_id: self.id.clone(),
            publish_context: self.context(),
            staging_target_path: self.staging.clone(),
            volume_capability: Some(wanted.capability()),
            ..NodeStageVolumeRequest::default()
        }
    }

    pub(crate) fn publish_request(&self, wanted: &Wanted) -> NodePublishVolumeRequest {
        NodePublishVolumeRequest {
            volume_id: self.id.clone(),
            publish_context: self.context(),
            staging_target_path: self.staging.clone(),
            target_path: self.target.clone(),
            volume_capability: Some(wanted.capability()),
            readonly: wanted.readonly,
            ..NodePublishVolumeRequest::default()
        }
    }

    pub(crate) fn unstage_request(&self) -> NodeUnstageVolumeRequest {
        let (volume_id, staging_target_path) = (self.id.clone(), self.staging.clone());
        NodeUnstageVolumeRequest { volume_id, staging_target_path }
    }

    pub(crate) fn unpublish_request(&self) -> NodeUnpublishVolumeRequest {
        let (volume_id, target_path) = (self.id.clone(), self.target.clone());
        NodeUnpublishVolumeRequest { volume_id, target_path }
    }

    /// The same volume for another pod.
    pub(crate) fn at_target(&self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self.clone() }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        Path::new(&self.target).join(name)
    }
}

pub(crate) struct World {
    pub(crate) fscore: FakeFsCore,
    pub(crate) root: PathBuf,
    /// As the driver and kubelet are told it: perhaps by a symlink.
    given: PathBuf,
    driver: Child,
    /// How often the driver trims, from its next start on.
    pub(crate) trim_seconds: u64,
    client: NodeClient<Channel>,
    // The last to go: the devices are files in it.
    pub(crate) folder: TempDir,
}

/// Gives this thread, and what it starts, mounts of its own.
fn leave_namespace() {
    let left = unshare(CloneFlags::CLONE_NEWNS);
    left.expect("these tests mount file systems: run them as root");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).expect("mounts of its own");
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_root(MountPropagationFlags::SHARED).await
    }

    pub(crate) async fn with_root(propagation: MountPropagationFlags) -> Self {
        Self::with(propagation, "kubelet").await
    }

    /// The directory of kubelet is given by a symlink of the host.
    pub(crate) async fn by_symlink() -> Self {
        Self::with(MountPropagationFlags::SHARED, "link").await
    }

    async fn with(propagation: MountPropagationFlags, name: &str) -> Self {
        leave_namespace();
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("kubelet");
        std::fs::create_dir_all(&root).expect("made");
        std::fs::create_dir_all(folder.path().join("bin")).expect("made");
        mount("tmpfs", &root, "tmpfs", MountFlags::empty(), None).expect("a tmpfs");
        mount_change(&root, propagation).expect("its propagation");
        std::os::unix::fs::symlink("kubelet", folder.path().join("link")).expect("made");
        let given = folder.path().join(name);
        let fscore = FakeFsCore::default();
        fscore.serve(&folder.path().join("fs-core.sock"));
        let driver = start(folder.path(), &given, 0);
        let client = connect(&folder.path().join("csi.sock")).await;
        Self { fscore, root, given, driver, trim_seconds: 0, client, folder }
    }

    /// A blank volume that fs-core may attach, and the directories that kubelet makes for it.
    pub(crate) fn volume(&self, mib: u64) -> Claim {
        let id = Uuid::new_v4().to_string();
        let device = Arc::new(Loop::new(self.folder.path(), &id, mib * MIB));
        let publication = Uuid::new_v4().to_string();
        let volume = Volume {
            device: Arc::clone(&device),
            publication: publication.clone(),
            attached: None,
            content: ContentState::Blank,
            token: String::new(),
            state: AttachmentState::Live,
            grows_at_next_attachment: false,
        };
        self.fscore.with(|state| state.volumes.insert(id.clone(), volume));
        let staging = self.given.join("plugins").join(&id).join("globalmount");
        std::fs::create_dir_all(&staging).expect("made");
        let target = self.pod(&id, "pod-1");
        Claim { id, publication, device, staging: staging.display().to_string(), target }
    }

    /// A target path of a pod, in a directory that is there.
    pub(crate) fn pod(&self, id: &str, pod: &str) -> String {
        let volume = self.given.join("pods").join(pod).join("volumes").join(id);
        std::fs::create_dir_all(&volume).expect("made");
        volume.join("mount").display().to_string()
    }

    pub(crate) fn client(&self) -> NodeClient<Channel> {
        self.client.clone()
    }

    pub(crate) async fn stage(&self, claim: &Claim, wanted: &Wanted) -> Result<(), Status> {
        self.client().node_stage_volume(claim.stage_request(wanted)).await.map(|_| ())
    }

    pub(crate) async fn publish(&self, claim: &Claim, wanted: &Wanted) -> Result<(), Status> {
        self.client().node_publish_volume(claim.publish_request(wanted)).await.map(|_| ())
    }

    pub(crate) async fn unpublish(&self, claim: &Claim) -> Result<(), Status> {
        self.client().node_unpublish_volume(claim.unpublish_request()).await.map(|_| ())
    }

    pub(crate) async fn unstage(&self, claim: &Claim) -> Result<(), Status> {
        self.client().node_unstage_volume(claim.unstage_request()).await.map(|_| ())
    }

    pub(crate) async fn stats(
        &self,
        claim: &Claim,
        path: &str,
    ) -> Result<NodeGetVolumeStatsResponse, Status> {
        let request = NodeGetVolumeStatsRequest {
            volume_id: claim.id.clone(),
            volume_path: path.to_owned(),
            staging_target_path: claim.staging.clone(),
        };
        Ok(self.client().node_get_volume_stats(request).await?.into_inner())
    }

    pub(crate) async fn expand(&self, claim: &Claim, bytes: u64) -> Result<i64, Status> {
        let required_bytes = i64::try_from(bytes).expect("small");
        let request = NodeExpandVolumeRequest {
            volume_id: claim.id.clone(),
            volume_path: claim.target.clone(),
            staging_target_path: claim.staging.clone(),
            capacity_range: Some(CapacityRange { required_bytes, limit_bytes: 0 }),
            ..NodeExpandVolumeRequest::default()
        };
        Ok(self.client().node_expand_volume(request).await?.into_inner().capacity_bytes)
    }

    /// The mounts of this namespace beneath the directory of kubelet.
    pub(crate) fn mounts(&self) -> Vec<Mount> {
        let root = format!("{}/", self.root.display());
        let table = mountinfo::read().expect("the mount table");
        table.into_iter().filter(|mount| mount.point.starts_with(&root)).collect()
    }

    pub(crate) fn mounts_at(&self, path: &str) -> Vec<Mount> {
        let rest = Path::new(path).strip_prefix(&self.given).expect("it is beneath the root");
        let point = self.root.join(rest).display().to_string();
        self.mounts().into_iter().filter(|mount| mount.point == point).collect()
    }

    pub(crate) fn is_attached(&self, claim: &Claim) -> bool {
        self.fscore.volume(&claim.id, |volume| volume.attached.is_some())
    }

    pub(crate) fn content(&self, claim: &Claim) -> ContentState {
        self.fscore.volume(&claim.id, |volume| volume.content)
    }

    /// What is left when nobody has the volume any more: nothing.
    pub(crate) fn assert_clean(&self, claim: &Claim) {
        let mounts = self.mounts();
        let left: Vec<_> = mounts.iter().filter(|mount| mount.point.contains(&claim.id)).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!Path::new(&claim.target).exists(), "{} is left", claim.target);
        assert!(!self.is_attached(claim), "it is still attached");
        assert!(!claim.device.is_claimed(), "somebody has its device");
    }

    /// A program that the driver finds before the real one.
    pub(crate) fn tool(&self, name: &str, script: &str) {
        let path = self.folder.path().join("bin").join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("its mode");
    }

    pub(crate) fn no_tool(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join("bin").join(name)).expect("it was there");
    }

    /// Kills the driver, as the kernel does, and starts another one.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.kill();
        self.restart().await;
    }

    pub(crate) async fn restart(&mut self) {
        // A worker that had just been forked has the socket until it has become itself, or died.
        let socket = self.folder.path().join("csi.sock");
        while UnixStream::connect(&socket).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.driver = start(self.folder.path(), &self.given, self.trim_seconds);
        self.client = connect(&self.folder.path().join("csi.sock")).await;
    }

    pub(crate) fn kill(&mut self) {
        self.driver.kill().expect("killed");
        self.driver.wait().expect("ended");
    }

    /// What the driver has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("driver.log")).expect("a log")
    }

    pub(crate) fn is_driver_alive(&mut self) -> bool {
        self.driver.try_wait().expect("asked").is_none()
    }
}

#[expect(clippy::print_stdout, reason = "the log of the driver, where a test has failed")]
impl Drop for World {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("driver.log"));
            println!("the driver said:\n{}", log.unwrap_or_default());
        }
        // Its mounts go with the namespace; the loop devices need them gone to go as well.
        for mount in self.mounts().iter().rev() {
            let _ = rustix::mount::unmount(&*mount.point, rustix::mount::UnmountFlags::DETACH);
        }
        let _ = rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::DETACH);
    }
}

fn start(folder: &Path, root: &Path, trim_seconds: u64) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("driver.log"));
    let path = std::env::var("PATH").unwrap_or_default();
    let started = Command::new(env!("CARGO_BIN_EXE_csi-driver"))
        .arg("node")
        .arg("--endpoint")
        .arg(folder.join("csi.sock"))
        .arg("--socket")
        .arg(folder.join("fs-core.sock"))
        .arg("--kubelet-root")
        .arg(root)
        .args(["--trim-seconds", &trim_seconds.to_string()])
        .env("PATH", format!("{}:{path}", folder.join("bin").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.expect("a log"))
        .spawn();
    started.expect("the driver starts")
}

async fn connect(socket: &Path) -> NodeClient<Channel> {
    let is_there = async {
        while UnixStream::connect(socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), is_there).await.expect("the driver serves");
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).expect("a path");
    NodeClient::new(endpoint.connect().await.expect("the driver answers"))
}

/// The code of a call that has to fail.
pub(crate) fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.expect_err("it has to be refused").code()
}

pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), wait).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}
