//! A stand-in for fs-core on a Unix socket: canned LUNs, attachments that come and go, and errors
//! as fs-core sends them. It holds no data and serves no device.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use lunar_proto::error::{ErrorReason, ErrorReport, Facts};
use lunar_proto::v1;
use lunar_proto::v1::fs_core_server::{FsCore, FsCoreServer};
use lunar_types::VolumeId;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// The id that the double gives to the volume of every name; one that is given by id has that.
pub(crate) const VOLUME_ID: &str = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";

/// The number of its node.
pub(crate) const NODE: v1::NodeIncarnation = v1::NodeIncarnation { node: 7, incarnation: 1 };

type Answer<T> = Result<Response<T>, Status>;

/// What the double answers.
#[derive(Default)]
pub(crate) struct Script {
    /// The devices of the node.
    pub(crate) luns: Vec<v1::LocalLun>,
    /// The names of volumes that do not exist.
    pub(crate) unknown: Vec<String>,
    /// The device of what is attached from now on; a name of one that is not there if empty.
    pub(crate) device: Mutex<String>,
    /// Held by a test that wants attachments to wait.
    pub(crate) gate: Mutex<()>,
    /// The names of volumes that were attached although they were restored, in their order.
    pub(crate) accepted: Mutex<Vec<String>>,
    /// What is attached.
    pub(crate) attached: Mutex<Vec<v1::LocalAttachment>>,
}

/// A running double, and `lunar` told to use it.
pub(crate) struct Double {
    folder: TempDir,
    _runtime: Runtime,
}

impl Double {
    /// Starts a double with this script, which may be changed meanwhile where it has a lock.
    pub(crate) fn start(script: impl Into<Arc<Script>>) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let listener = {
            let _in_runtime = runtime.enter();
            UnixListener::bind(folder.path().join("s")).expect("binds")
        };
        let service = FsCoreServer::new(Served(script.into()));
        let incoming = UnixListenerStream::new(listener);
        runtime.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        Self { folder, _runtime: runtime }
    }

    /// The path of its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// Runs `lunar` against this double and the metadata service at `endpoint`.
    pub(crate) fn lunar(&self, endpoint: &str, line: &str) -> Output {
        lunar(endpoint, &self.socket(), line)
    }
}

/// `lunar` with the words of a line, to be run.
pub(crate) fn command(endpoint: &str, socket: &std::path::Path, line: &str) -> Command {
    let mut lunar = Command::new(env!("CARGO_BIN_EXE_lunar"));
    lunar.env("LUNAR_METADATA", endpoint).env("LUNAR_SOCKET", socket).env_remove("LUNAR_OUTPUT");
    lunar.args(line.split_whitespace());
    lunar
}

/// Runs `lunar` with the words of a line.
pub(crate) fn lunar(endpoint: &str, socket: &std::path::Path, line: &str) -> Output {
    command(endpoint, socket, line).output().expect("lunar runs")
}

struct Served(Arc<Script>);

fn report(reason: ErrorReason, message: String) -> Status {
    ErrorReport { reason, message, facts: Facts::new() }.to_status()
}

impl Served {
    fn name_of(&self, selector: Option<v1::Selector>) -> Result<String, Status> {
        let by = selector.and_then(|selector| selector.by);
        let by = by.ok_or_else(|| Status::invalid_argument("no volume"))?;
        let (v1::selector::By::Id(name) | v1::selector::By::Name(name)) = by;
        match self.0.unknown.contains(&name) {
            true => {
                Err(report(ErrorReason::VolumeNotFound, format!("volume '{name}' does not exist")))
            }
            false => Ok(name),
        }
    }

    fn attached(&self) -> std::sync::MutexGuard<'_, Vec<v1::LocalAttachment>> {
        self.0.attached.lock().expect("no test panics with the lock")
    }
}

#[tonic::async_trait]
impl FsCore for Served {
    async fn get_daemon_status(
        &self,
        _: Request<v1::GetDaemonStatusRequest>,
    ) -> Answer<v1::DaemonStatus> {
        let (node_name, node) = ("n1".to_owned(), Some(NODE));
        Ok(Response::new(v1::DaemonStatus { node_name, node, ..v1::DaemonStatus::default() }))
    }

    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Answer<v1::ProbeResponse> {
        Ok(Response::new(v1::ProbeResponse { ublk_present: true, ..v1::ProbeResponse::default() }))
    }

    async fn list_local_luns(
        &self,
        _: Request<v1::ListLocalLunsRequest>,
    ) -> Answer<v1::ListLocalLunsResponse> {
        Ok(Response::new(v1::ListLocalLunsResponse { luns: self.0.luns.clone() }))
    }

    async fn inspect_lun(&self, request: Request<v1::InspectLunRequest>) -> Answer<v1::LocalLun> {
        let path = request.into_inner().path;
        let lun = self.0.luns.iter().find(|lun| lun.path == path);
        let absent = || Status::not_found(format!("{path} does not exist"));
        lun.cloned().map(Response::new).ok_or_else(absent)
    }

    async fn label_lun(&self, request: Request<v1::LabelLunRequest>) -> Answer<v1::LocalLun> {
        let request = request.into_inner();
        let inspected = v1::InspectLunRequest { path: request.path.clone() };
        let lun = self.inspect_lun(Request::new(inspected)).await?.into_inner();
        let uuid = lun.signatures.first().map(|found| found.uuid.clone());
        match uuid == request.force_foreign {
            true => Ok(Response::new(lun)),
            false => {
                let message =
                    format!("{} carries {}: {}", lun.path, uuid.unwrap_or_default(), "no");
                Err(Status::failed_precondition(message))
            }
        }
    }

    async fn attach_volume(
        &self,
        request: Request<v1::AttachVolumeRequest>,
    ) -> Answer<v1::LocalAttachment> {
        let v1::AttachVolumeRequest {
            volume,
            accept_restored,
            migratable,
            publication_id,
            for_file_system,
        } = request.into_inner();
        assert!(!for_file_system, "what is attached by hand is used");
        let volume_name = self.name_of(volume)?;
        if accept_restored {
            self.0.accepted.lock().expect("no test panics with the lock").push(volume_name.clone());
        }
        let id = volume_name.parse::<VolumeId>();
        drop(self.0.gate.lock());
        let device = self.0.device.lock().expect("no test panics with the lock").clone();
        let attachment = v1::LocalAttachment {
            volume_id: id.map_or_else(|_| VOLUME_ID.to_owned(), |id| id.to_string()),
            volume_name,
            device_path: if device.is_empty() { "/dev/ublkb7".to_owned() } else { device },
            state: v1::AttachmentState::Live.into(),
            migratable,
            publication_id,
            ..v1::LocalAttachment::default()
        };
        self.attached().push(attachment.clone());
        Ok(Response::new(attachment))
    }

    async fn move_volume(
        &self,
        request: Request<v1::MoveVolumeRequest>,
    ) -> Answer<v1::LocalAttachment> {
        let name = self.name_of(request.into_inner().volume)?;
        let attached = self.attached();
        let found = attached.iter().find(|attached| attached.volume_name == name);
        match found {
            Some(found) if found.migratable => Ok(Response::new(found.clone())),
            _ => Err(Status::failed_precondition(format!("volume '{name}' is here alone"))),
        }
    }

    async fn detach_volume(
        &self,
        request: Request<v1::DetachVolumeRequest>,
    ) -> Answer<v1::DetachVolumeResponse> {
        let request = request.into_inner();
        let name = self.name_of(request.volume)?;
        let mut attached = self.attached();
        let Some(at) = attached.iter().position(|attached| attached.volume_name == name) else {
            let message = format!("volume '{name}' is not attached here");
            return Err(report(ErrorReason::NotAttached, message));
        };
        attached.remove(at);
        let pending = request.force;
        Ok(Response::new(v1::DetachVolumeResponse { pending, journal_kept: pending }))
    }

    async fn list_local_attachments(
        &self,
        _: Request<v1::ListLocalAttachmentsRequest>,
    ) -> Answer<v1::ListLocalAttachmentsResponse> {
        let attachments = self.attached().clone();
        Ok(Response::new(v1::ListLocalAttachmentsResponse { attachments }))
    }

    async fn checkpoint_volume(
        &self,
        request: Request<v1::CheckpointVolumeRequest>,
    ) -> Answer<v1::CheckpointVolumeResponse> {
        self.name_of(request.into_inner().volume)?;
        Ok(Response::new(v1::CheckpointVolumeResponse {}))
    }

    async fn get_content(
        &self,
        request: Request<v1::GetContentRequest>,
    ) -> Answer<v1::GetContentResponse> {
        self.name_of(request.into_inner().volume)?;
        let state = v1::ContentState::Used.into();
        Ok(Response::new(v1::GetContentResponse { state }))
    }

    async fn begin_format(&self, _: Request<v1::FormatRequest>) -> Answer<v1::FormatResponse> {
        Err(report(ErrorReason::ContentUsed, "the volume was used".to_owned()))
    }

    async fn end_format(&self, _: Request<v1::FormatRequest>) -> Answer<v1::FormatResponse> {
        Ok(Response::new(v1::FormatResponse {}))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Answer<v1::DrainResponse> {
        Ok(Response::new(v1::DrainResponse::default()))
    }
}
