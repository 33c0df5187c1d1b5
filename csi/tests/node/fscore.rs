//! An fs-core that the test plays: it serves volumes by loop devices, keeps what their content may
//! be, and fails, waits and refuses as it is told.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lunar_proto::error::{ErrorReason, ErrorReport, Facts};
use lunar_proto::v1;
use lunar_proto::v1::ContentState;
use lunar_proto::v1::fs_core_server::{FsCore, FsCoreServer};
use lunar_proto::v1::selector::By;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::loops::Loop;

/// A volume that fs-core knows of.
pub(crate) struct Volume {
    pub(crate) device: Arc<Loop>,
    /// The one that may attach it.
    pub(crate) publication: String,
    /// The one under which it is attached; "" is by hand.
    pub(crate) attached: Option<String>,
    pub(crate) content: ContentState,
    pub(crate) token: String,
    pub(crate) state: v1::AttachmentState,
    pub(crate) grows_at_next_attachment: bool,
}

/// What a call does before it does its work.
#[derive(Clone)]
pub(crate) enum Hook {
    /// Fails, as often as it is called.
    Refuse(Status),
    /// Says that it was reached, and waits until it may go on.
    Wait { reached: Arc<Semaphore>, go: Arc<Semaphore> },
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) volumes: HashMap<String, Volume>,
    pub(crate) hooks: HashMap<&'static str, Hook>,
    /// The names of the calls, in their order.
    pub(crate) calls: Vec<&'static str>,
}

#[derive(Clone, Default)]
pub(crate) struct FakeFsCore {
    pub(crate) state: Arc<Mutex<State>>,
}

type Answer<T> = Result<Response<T>, Status>;

pub(crate) fn refusal(reason: ErrorReason) -> Status {
    let message = format!("the test refuses with {reason}");
    ErrorReport { reason, message, facts: Facts::new() }.to_status()
}

/// A refusal that only fs-core knows, and not the metadata service.
fn own_refusal(reason: &str, code: Code, message: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "lunar.storage", HashMap::new());
    Status::with_error_details(code, message, details)
}

impl FakeFsCore {
    pub(crate) fn serve(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).expect("the socket of fs-core");
        let service = FsCoreServer::new(self.clone());
        let incoming = UnixListenerStream::new(listener);
        let served = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(served.serve_with_incoming(incoming));
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("no test panics with it"))
    }

    pub(crate) fn volume<T>(&self, id: &str, act: impl FnOnce(&mut Volume) -> T) -> T {
        self.with(|state| act(state.volumes.get_mut(id).expect("the test has made it")))
    }

    pub(crate) fn hook(&self, call: &'static str, hook: Hook) {
        self.with(|state| state.hooks.insert(call, hook));
    }

    pub(crate) fn unhook(&self) {
        self.with(|state| state.hooks.clear());
    }

    /// Makes a call wait; gives what says that it was reached, and what lets it go on.
    pub(crate) fn hold(&self, call: &'static str) -> (Arc<Semaphore>, Arc<Semaphore>) {
        let (reached, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        self.hook(call, Hook::Wait { reached: Arc::clone(&reached), go: Arc::clone(&go) });
        (reached, go)
    }

    async fn enter(&self, call: &'static str) -> Result<(), Status> {
        let hook = self.with(|state| {
            state.calls.push(call);
            state.hooks.get(call).cloned()
        });
        match hook {
            None => Ok(()),
            Some(Hook::Refuse(status)) => Err(status),
            Some(Hook::Wait { reached, go }) => {
                reached.add_permits(1);
                go.acquire().await.expect("it is never closed").forget();
                Ok(())
            }
        }
    }
}

fn id(selector: Option<v1::Selector>) -> String {
    match selector.and_then(|selector| selector.by) {
        Some(By::Id(id)) => id,
        other => panic!("the driver names volumes by id, and not by {other:?}"),
    }
}

fn told(id: &str, volume: &Volume) -> v1::LocalAttachment {
    v1::LocalAttachment {
        volume_id: id.to_owned(),
        volume_name: format!("volume-{id}"),
        device_path: volume.device.device.clone(),
        device_major: volume.device.number.0,
        device_minor: volume.device.number.1,
        state: volume.state.into(),
        publication_id: volume.attached.clone().unwrap_or_default(),
        grows_at_next_attachment: volume.grows_at_next_attachment,
        ..v1::LocalAttachment::default()
    }
}

impl State {
    fn found(&mut self, id: &str) -> Result<&mut Volume, Status> {
        self.volumes.get_mut(id).ok_or_else(|| refusal(ErrorReason::VolumeNotFound))
    }

    fn attach(&mut self, request: v1::AttachVolumeRequest) -> Result<v1::LocalAttachment, Status> {
        let id = id(request.volume);
        let volume = self.found(&id)?;
        if volume.publication != request.publication_id {
            return Err(refusal(ErrorReason::NotPublished));
        }
        let is_other = volume.attached.as_ref().is_some_and(|by| *by != request.publication_id);
        if is_other {
            let message = "it is attached, and not under the publication that was given";
            let reason = "OTHER_PUBLICATION";
            return Err(own_refusal(reason, Code::FailedPrecondition, message));
        }
        volume.attached = Some(request.publication_id);
        if !request.for_file_system {
            volume.content = ContentState::Used;
        }
        Ok(told(&id, volume))
    }

    fn detach(&mut self, id: &str) -> Result<(), Status> {
        let volume = self.found(id)?;
        if volume.attached.is_none() {
            return Err(refusal(ErrorReason::NotAttached));
        }
        if volume.device.is_claimed() {
            let message = "it is in use: mounted somewhere";
            return Err(own_refusal("VOLUME_IN_USE", Code::FailedPrecondition, message));
        }
        volume.attached = None;
        volume.state = v1::AttachmentState::Live;
        Ok(())
    }
}

#[tonic::async_trait]
impl FsCore for FakeFsCore {
    async fn get_daemon_status(
        &self,
        _: Request<v1::GetDaemonStatusRequest>,
    ) -> Answer<v1::DaemonStatus> {
        self.enter("status").await?;
        Ok(Response::new(v1::DaemonStatus {
            node_name: "node-1".to_owned(),
            cluster_id: "3f0c2a8e-6a53-4d0c-9a55-0f1f4a8b9c01".to_owned(),
            ..v1::DaemonStatus::default()
        }))
    }

    async fn attach_volume(
        &self,
        request: Request<v1::AttachVolumeRequest>,
    ) -> Answer<v1::LocalAttachment> {
        self.enter("attach").await?;
        let told = self.with(|state| state.attach(request.into_inner()))?;
        self.enter("attached").await?;
        Ok(Response::new(told))
    }

    async fn detach_volume(
        &self,
        request: Request<v1::DetachVolumeRequest>,
    ) -> Answer<v1::DetachVolumeResponse> {
        self.enter("detach").await?;
        let request = request.into_inner();
        assert!(!request.force, "the driver never detaches by force");
        self.with(|state| state.detach(&id(request.volume)))?;
        Ok(Response::new(v1::DetachVolumeResponse::default()))
    }

    async fn list_local_attachments(
        &self,
        _: Request<v1::ListLocalAttachmentsRequest>,
    ) -> Answer<v1::ListLocalAttachmentsResponse> {
        self.enter("list").await?;
        let attachments = self.with(|state| {
            let attached = state.volumes.iter().filter(|(_, volume)| volume.attached.is_some());
            attached.map(|(id, volume)| told(id, volume)).collect()
        });
        Ok(Response::new(v1::ListLocalAttachmentsResponse { attachments }))
    }

    async fn get_content(
        &self,
        request: Request<v1::GetContentRequest>,
    ) -> Answer<v1::GetContentResponse> {
        self.enter("content").await?;
        let id = id(request.into_inner().volume);
        let state = self.with(|state| state.found(&id).map(|volume| volume.content))?;
        Ok(Response::new(v1::GetContentResponse { state: state.into() }))
    }

    async fn begin_format(
        &self,
        request: Request<v1::FormatRequest>,
    ) -> Answer<v1::FormatResponse> {
        self.enter("begin").await?;
        let v1::FormatRequest { volume, token } = request.into_inner();
        self.with(|state| {
            let volume = state.found(&id(volume))?;
            if volume.content == ContentState::Used {
                let message = "the volume was used";
                return Err(own_refusal("CONTENT_USED", Code::FailedPrecondition, message));
            }
            volume.content = ContentState::Formatting;
            volume.token = token;
            Ok(())
        })?;
        self.enter("begun").await?;
        Ok(Response::new(v1::FormatResponse {}))
    }

    async fn end_format(&self, request: Request<v1::FormatRequest>) -> Answer<v1::FormatResponse> {
        self.enter("end").await?;
        let v1::FormatRequest { volume, token } = request.into_inner();
        self.with(|state| {
            let volume = state.found(&id(volume))?;
            if volume.content != ContentState::Formatting || volume.token != token {
                let message = "somebody else has begun";
                return Err(own_refusal("OTHER_FORMAT", Code::FailedPrecondition, message));
            }
            volume.content = ContentState::Used;
            Ok(())
        })?;
        self.enter("ended").await?;
        Ok(Response::new(v1::FormatResponse {}))
    }

    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Answer<v1::ProbeResponse> {
        Err(Status::unimplemented("the driver has no use for it"))
    }

    async fn list_local_luns(
        &self,
        _: Request<v1::ListLocalLunsRequest>,
    ) -> Answer<v1::ListLocalLunsResponse> {
        Err(Status::unimplemented("the driver has no use for it"))
    }

    async fn inspect_lun(&self, _: Request<v1::InspectLunRequest>) -> Answer<v1::LocalLun> {
        Err(Status::unimplemented("the driver has no use for it"))
    }

    async fn label_lun(&self, _: Request<v1::LabelLunRequest>) -> Answer<v1::LocalLun> {
        Err(Status::unimplemented("the driver has no use for it"))
    }

    async fn move_volume(&self, _: Request<v1::MoveVolumeRequest>) -> Answer<v1::LocalAttachment> {
        Err(Status::unimplemented("the driver has no use for it"))
    }

    async fn checkpoint_volume(
        &self,
        _: Request<v1::CheckpointVolumeRequest>,
    ) -> Answer<v1::CheckpointVolumeResponse> {
        Err(Status::unimplemented("the driver has no use for it"))
    }

    async fn drain(&self, _: Request<v1::DrainRequest>) -> Answer<v1::DrainResponse> {
        Err(Status::unimplemented("the driver has no use for it"))
    }
}
