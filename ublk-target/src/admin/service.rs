//! The calls of the admin socket.

use std::path::PathBuf;
use std::sync::Arc;

use lunar_proto::domain::Selector;
use lunar_proto::error::FieldError;
use lunar_proto::v1::fs_core_server::FsCore;
use lunar_proto::{v1, wire};
use lunar_types::{FormatToken, LunId, VolumeId};
use tonic::{Request, Response, Status};

use super::convert;
use crate::lun::inspect::inspect;
use crate::lun::inventory::{Depth, find_luns, unit_facts};
use crate::lun::labelling::{LabelOptions, label_device};
use crate::metadata::Terms;
use crate::node::detach::Force;
use crate::node::{Node, NodeError};
use crate::probe;
use crate::reservation::device::has_reservations;
use crate::state::record::Sharing;

/// Answers the calls.
pub struct AdminService {
    node: Arc<Node>,
}

impl AdminService {
    /// Answers for this node.
    #[must_use]
    pub const fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    async fn inspect_path(&self, path: PathBuf) -> v1::LocalLun {
        let cluster = self.node.cluster();
        blocking(move || {
            let unit = unit_facts(&path, std::path::Path::new("/sys/dev/block"));
            v1::LocalLun {
                wwid: unit.wwid.unwrap_or_default(),
                model: unit.model.unwrap_or_default(),
                has_reservations: has_reservations(&path),
                ..convert::inspected(&inspect(&path, cluster))
            }
        })
        .await
    }
}

type Answer<T> = Result<Response<T>, Status>;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("it neither panics nor is cancelled")
}

fn failed(error: NodeError) -> Status {
    convert::status(&error)
}

fn volume(selector: Option<v1::Selector>) -> Result<Selector<VolumeId>, Status> {
    Ok(wire::selector("volume", selector)?)
}

fn format_of(
    request: Request<v1::FormatRequest>,
) -> Result<(Selector<VolumeId>, FormatToken), Status> {
    let v1::FormatRequest { volume: asked, token } = request.into_inner();
    Ok((volume(asked)?, wire::parsed("token", &token)?))
}

fn device_path(path: &str) -> Result<PathBuf, Status> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(FieldError::new("path", "has to be absolute, such as /dev/sdb").into())
}

const fn force(is_forced: bool) -> Force {
    if is_forced { Force::Yes } else { Force::No }
}

#[tonic::async_trait]
impl FsCore for AdminService {
    async fn get_daemon_status(
        &self,
        _: Request<v1::GetDaemonStatusRequest>,
    ) -> Answer<v1::DaemonStatus> {
        let node = &self.node;
        let member = node.member().ok();
        let problem = node.link_problem();
        Ok(Response::new(v1::DaemonStatus {
            node_name: node.config.node_name.to_string(),
            node: member.map(|member| member.node.into()),
            cluster_id: node.cluster().map(|cluster| cluster.to_string()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            metadata_endpoint: node.config.metadata_endpoint.clone(),
            metadata_reachable: problem.is_none(),
            metadata_problem: problem.unwrap_or_default(),
            attachments: u32::try_from(node.slots().len()).unwrap_or(u32::MAX),
            pending_detaches: u32::try_from(node.pending_detaches().len()).unwrap_or(u32::MAX),
            reserves: node.reserves(),
            warnings: node.warnings(),
        }))
    }

    async fn probe(&self, _: Request<v1::ProbeRequest>) -> Answer<v1::ProbeResponse> {
        let node = Arc::clone(&self.node);
        Ok(Response::new(blocking(move || probe::probe(&node.process, &node.state)).await))
    }

    async fn list_local_luns(
        &self,
        request: Request<v1::ListLocalLunsRequest>,
    ) -> Answer<v1::ListLocalLunsResponse> {
        let (search, cluster) = (self.node.luns.search().clone(), self.node.cluster());
        let find = move || {
            let found = find_luns(&search, cluster, Depth::Signatures)?;
            let told = found.iter().map(|lun| v1::LocalLun {
                has_reservations: has_reservations(&lun.inspected.path),
                ..convert::local_lun(lun)
            });
            Ok::<Vec<_>, std::io::Error>(told.collect())
        };
        let found = blocking(find).await.map_err(|source| failed(NodeError::List(source)))?;
        let is_all = request.into_inner().all;
        let luns = found.into_iter().filter(|lun| {
            let is_plain = matches!(
                lun.state(),
                v1::LunState::ForeignSignature | v1::LunState::TooSmall | v1::LunState::Unreadable
            );
            is_all || !is_plain
        });
        Ok(Response::new(v1::ListLocalLunsResponse { luns: luns.collect() }))
    }

    async fn inspect_lun(&self, request: Request<v1::InspectLunRequest>) -> Answer<v1::LocalLun> {
        let path = device_path(&request.into_inner().path)?;
        Ok(Response::new(self.inspect_path(path).await))
    }

    async fn label_lun(&self, request: Request<v1::LabelLunRequest>) -> Answer<v1::LocalLun> {
        let request = request.into_inner();
        let path = device_path(&request.path)?;
        let cluster = self.node.member().map_err(failed)?.cluster;
        let options = LabelOptions { force_foreign: request.force_foreign, repair: request.repair };
        let lun = LunId::from_u128(uuid::Uuid::new_v4().as_u128());
        let device = path.clone();
        let labelled = blocking(move || label_device(&device, cluster, lun, &options)).await;
        labelled.map_err(|error| failed(error.into()))?;
        Ok(Response::new(self.inspect_path(path).await))
    }

    async fn attach_volume(
        &self,
        request: Request<v1::AttachVolumeRequest>,
    ) -> Answer<v1::LocalAttachment> {
        let request = request.into_inner();
        let sharing = if request.migratable { Sharing::Migratable } else { Sharing::Alone };
        let publication = wire::given("publication_id", &request.publication_id)?;
        let v1::AttachVolumeRequest { accept_restored, for_file_system, .. } = request;
        if for_file_system && sharing == Sharing::Migratable {
            let problem = "a file system is on one node alone: leave migratable out";
            return Err(FieldError::new("for_file_system", problem).into());
        }
        let terms = Terms { accept_restored, publication, for_file_system };
        let attached = self.node.attach(volume(request.volume)?, sharing, terms).await;
        let slot = attached.map_err(failed)?;
        Ok(Response::new(convert::attachment(&slot.view())))
    }

    async fn move_volume(
        &self,
        request: Request<v1::MoveVolumeRequest>,
    ) -> Answer<v1::LocalAttachment> {
        let volume = volume(request.into_inner().volume)?;
        let slot = self.node.move_here(&volume).await.map_err(failed)?;
        Ok(Response::new(convert::attachment(&slot.view())))
    }

    async fn detach_volume(
        &self,
        request: Request<v1::DetachVolumeRequest>,
    ) -> Answer<v1::DetachVolumeResponse> {
        let request = request.into_inner();
        let volume = volume(request.volume)?;
        let detached = self.node.detach(&volume, force(request.force)).await.map_err(failed)?;
        Ok(Response::new(v1::DetachVolumeResponse {
            pending: detached.is_pending,
            journal_kept: detached.is_journal_kept,
        }))
    }

    async fn list_local_attachments(
        &self,
        _: Request<v1::ListLocalAttachmentsRequest>,
    ) -> Answer<v1::ListLocalAttachmentsResponse> {
        let slots = self.node.slots();
        let attachments = slots.iter().map(|slot| convert::attachment(&slot.view())).collect();
        Ok(Response::new(v1::ListLocalAttachmentsResponse { attachments }))
    }

    async fn checkpoint_volume(
        &self,
        request: Request<v1::CheckpointVolumeRequest>,
    ) -> Answer<v1::CheckpointVolumeResponse> {
        let volume = volume(request.into_inner().volume)?;
        self.node.checkpoint(&volume).await.map_err(failed)?;
        Ok(Response::new(v1::CheckpointVolumeResponse {}))
    }

    async fn get_content(
        &self,
        request: Request<v1::GetContentRequest>,
    ) -> Answer<v1::GetContentResponse> {
        let volume = volume(request.into_inner().volume)?;
        let state = self.node.content(&volume).await.map_err(failed)?;
        Ok(Response::new(v1::GetContentResponse { state: v1::ContentState::from(state).into() }))
    }

    async fn begin_format(
        &self,
        request: Request<v1::FormatRequest>,
    ) -> Answer<v1::FormatResponse> {
        let (volume, token) = format_of(request)?;
        self.node.begin_format(&volume, token).await.map_err(failed)?;
        Ok(Response::new(v1::FormatResponse {}))
    }

    async fn end_format(&self, request: Request<v1::FormatRequest>) -> Answer<v1::FormatResponse> {
        let (volume, token) = format_of(request)?;
        self.node.end_format(&volume, token).await.map_err(failed)?;
        Ok(Response::new(v1::FormatResponse {}))
    }

    async fn drain(&self, request: Request<v1::DrainRequest>) -> Answer<v1::DrainResponse> {
        let (detached, failures) = self.node.drain(force(request.into_inner().force)).await;
        let failures = failures
            .into_iter()
            .map(|(volume_name, error)| v1::DrainFailure { volume_name, message: error.message() });
        Ok(Response::new(v1::DrainResponse { detached, failures: failures.collect() }))
    }
}
