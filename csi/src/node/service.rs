//! The service Node: calls are checked, their keys taken, and their work done in tasks.
//!
//! - What a call says is checked before anything is done.
//! - The work of a call is a task of its own, which has the keys of its volume and of its paths
//!   until it has ended, whoever waits: a call that is cancelled leaves them taken, and the next
//!   one is ABORTED.
//! - Stats have a key of their own: what asks for them now and then keeps nobody from unmounting.

use std::collections::HashMap;
use std::future::Future;

use lunar_proto::csi::node_server::Node as NodeApi;
use lunar_proto::csi::node_service_capability::Rpc;
use lunar_proto::csi::node_service_capability::Type;
use lunar_proto::csi::node_service_capability::rpc::Type as RpcType;
use lunar_proto::csi::volume_usage::Unit;
use lunar_proto::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest,
    NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest,
    NodePublishVolumeResponse, NodeServiceCapability, NodeStageVolumeRequest,
    NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, Topology, VolumeCapability,
    VolumeCondition, VolumeUsage,
};
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use super::capability::Access;
use super::expand::Wanted;
use super::publish::Publish;
use super::request;
use super::stage::{Node, Stage};
use super::worker::Work;
use super::worker::place::PodAccess;
use super::worker::stats::{Stats, Usage};
use crate::errors::CsiError;
use crate::keyed_lock::KeyedLock;
use crate::topology::CLUSTER_KEY;

/// What the node part can.
const CAPABILITIES: [RpcType; 5] = [
    RpcType::StageUnstageVolume,
    RpcType::GetVolumeStats,
    RpcType::VolumeCondition,
    RpcType::ExpandVolume,
    RpcType::SingleNodeMultiWriter,
];

/// The service.
#[derive(Clone, Debug)]
pub struct NodeService {
    node: Node,
    locks: KeyedLock,
}

impl NodeService {
    /// The service of a node; whoever else works at its volumes has the same locks.
    #[must_use]
    pub const fn new(node: Node, locks: KeyedLock) -> Self {
        Self { node, locks }
    }

    /// Does the work of a call in a task that has these keys.
    async fn work<T, W>(&self, call: &'static str, keys: Vec<String>, work: W) -> Answer<T>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, CsiError>> + Send + 'static,
    {
        let held = self.locks.try_lock(keys).map_err(|key| {
            CsiError::aborted(format!("another call works at {key}: try again when it has ended"))
        });
        let held = held.map_err(|error| logged(call, error))?;
        let task = tokio::spawn(async move {
            let done = work.await;
            drop(held);
            done.map_err(|error| logged(call, error))
        });
        let lost = |error| CsiError::unavailable(format!("the work of {call} was lost: {error}"));
        Ok(Response::new(task.await.map_err(|error| logged(call, lost(error)))??))
    }

    fn path(&self, field: &str, text: &str) -> Result<String, CsiError> {
        request::path(self.node.workers.root(), field, text)
    }

    /// Where a volume is said to be.
    fn place(&self, text: &str) -> Result<String, CsiError> {
        request::place(self.node.workers.root(), text)
    }

    fn stage_of(&self, fields: StageFields<'_>) -> Result<Stage, CsiError> {
        request::named(fields.volume_id)?;
        let path = self.path("staging_target_path", fields.path)?;
        let volume = request::volume(fields.volume_id)?;
        let access = Access::parse(fields.capability)?;
        request::volume_context(fields.volume_context)?;
        let publication = request::publication(fields.publish_context)?;
        Ok(Stage { volume, publication, path, access })
    }

    fn publish_of(&self, request: &NodePublishVolumeRequest) -> Result<Publish, CsiError> {
        request::named(&request.volume_id)?;
        let target = self.path("target_path", &request.target_path)?;
        Access::parse(request.volume_capability.as_ref())?;
        if request.staging_target_path.is_empty() {
            return Err(CsiError::precondition("staging_target_path is missing: stage it first"));
        }
        let stage = self.stage_of(StageFields {
            volume_id: &request.volume_id,
            path: &request.staging_target_path,
            capability: request.volume_capability.as_ref(),
            volume_context: &request.volume_context,
            publish_context: &request.publish_context,
        })?;
        if is_within(&target, &stage.path) || is_within(&stage.path, &target) {
            let message = "target_path and staging_target_path are the same, or one in the other";
            return Err(CsiError::invalid(message));
        }
        let access = if request.readonly { PodAccess::ReadOnly } else { PodAccess::AsStaged };
        Ok(Publish { stage, target, access })
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// What the calls Stage and Publish both say of a stage.
struct StageFields<'a> {
    volume_id: &'a str,
    path: &'a str,
    capability: Option<&'a VolumeCapability>,
    volume_context: &'a HashMap<String, String>,
    publish_context: &'a HashMap<String, String>,
}

fn is_within(path: &str, outer: &str) -> bool {
    std::path::Path::new(path).starts_with(outer)
}

fn logged(call: &'static str, error: CsiError) -> Status {
    match error.code {
        tonic::Code::Aborted => info!(call, code = ?error.code, "{error}"),
        _ => warn!(call, code = ?error.code, "{error}"),
    }
    error.into()
}

/// A condition that holds before any work is done.
fn checked<T>(call: &'static str, given: Result<T, CsiError>) -> Result<T, Status> {
    given.map_err(|error| logged(call, error))
}

fn usage(unit: Unit, usage: Usage) -> VolumeUsage {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    VolumeUsage {
        available: count(usage.available),
        total: count(usage.total),
        used: count(usage.used),
        unit: unit.into(),
    }
}

fn stats_answer(stats: Stats) -> NodeGetVolumeStatsResponse {
    let bytes = stats.bytes.map(|bytes| usage(Unit::Bytes, bytes));
    let inodes = stats.inodes.map(|inodes| usage(Unit::Inodes, inodes));
    let condition = VolumeCondition {
        abnormal: stats.problem.is_some(),
        message: stats.problem.unwrap_or_else(|| "mounted".to_owned()),
    };
    NodeGetVolumeStatsResponse {
        usage: bytes.into_iter().chain(inodes).collect(),
        volume_condition: Some(condition),
    }
}

#[tonic::async_trait]
impl NodeApi for NodeService {
    async fn node_stage_volume(
        &self,
        request: Request<NodeStageVolumeRequest>,
    ) -> Answer<NodeStageVolumeResponse> {
        const CALL: &str = "NodeStageVolume";
        let request = request.into_inner();
        let stage = checked(
            CALL,
            self.stage_of(StageFields {
                volume_id: &request.volume_id,
                path: &request.staging_target_path,
                capability: request.volume_capability.as_ref(),
                volume_context: &request.volume_context,
                publish_context: &request.publish_context,
            }),
        )?;
        let keys = vec![stage.volume.to_string(), stage.path.clone()];
        let node = self.node.clone();
        let work = async move { node.stage(&stage).await.map(|_| NodeStageVolumeResponse {}) };
        self.work(CALL, keys, work).await
    }

    async fn node_unstage_volume(
        &self,
        request: Request<NodeUnstageVolumeRequest>,
    ) -> Answer<NodeUnstageVolumeResponse> {
        const CALL: &str = "NodeUnstageVolume";
        let request = request.into_inner();
        let named = checked(CALL, request::named(&request.volume_id))?;
        let path = self.path("staging_target_path", &request.staging_target_path);
        let path = checked(CALL, path)?;
        let node = self.node.clone();
        let keys = vec![request.volume_id, path.clone()];
        let work =
            async move { node.unstage(named, path).await.map(|()| NodeUnstageVolumeResponse {}) };
        self.work(CALL, keys, work).await
    }

    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Answer<NodePublishVolumeResponse> {
        const CALL: &str = "NodePublishVolume";
        let publish = checked(CALL, self.publish_of(&request.into_inner()))?;
        let stage = &publish.stage;
        let keys = vec![stage.volume.to_string(), stage.path.clone(), publish.target.clone()];
        let node = self.node.clone();
        let work =
            async move { node.publish(&publish).await.map(|()| NodePublishVolumeResponse {}) };
        self.work(CALL, keys, work).await
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Answer<NodeUnpublishVolumeResponse> {
        const CALL: &str = "NodeUnpublishVolume";
        let request = request.into_inner();
        let named = checked(CALL, request::named(&request.volume_id))?;
        let path = checked(CALL, self.path("target_path", &request.target_path))?;
        let node = self.node.clone();
        let keys = vec![request.volume_id, path.clone()];
        let work = async move {
            node.unpublish(named, path).await.map(|()| NodeUnpublishVolumeResponse {})
        };
        self.work(CALL, keys, work).await
    }

    async fn node_get_volume_stats(
        &self,
        request: Request<NodeGetVolumeStatsRequest>,
    ) -> Answer<NodeGetVolumeStatsResponse> {
        const CALL: &str = "NodeGetVolumeStats";
        let request = request.into_inner();
        checked(CALL, request::named(&request.volume_id))?;
        let path = checked(CALL, self.place(&request.volume_path))?;
        checked(CALL, request::volume(&request.volume_id))?;
        if !request.staging_target_path.is_empty() {
            let staging = self.path("staging_target_path", &request.staging_target_path);
            checked(CALL, staging)?;
        }
        let workers = self.node.workers.clone();
        let keys = vec![format!("stats of {path}")];
        let work = async move { workers.ask(Work::Stats { path }).await.map(stats_answer) };
        self.work(CALL, keys, work).await
    }

    async fn node_expand_volume(
        &self,
        request: Request<NodeExpandVolumeRequest>,
    ) -> Answer<NodeExpandVolumeResponse> {
        const CALL: &str = "NodeExpandVolume";
        let request = request.into_inner();
        checked(CALL, request::named(&request.volume_id))?;
        let path = checked(CALL, self.place(&request.volume_path))?;
        if !request.staging_target_path.is_empty() {
            let staging = self.path("staging_target_path", &request.staging_target_path);
            checked(CALL, staging)?;
        }
        if let Some(capability) = &request.volume_capability {
            checked(CALL, Access::parse(Some(capability)))?;
        }
        let wanted = checked(CALL, Wanted::parse(request.capacity_range.as_ref()))?;
        let volume = checked(CALL, request::volume(&request.volume_id))?;
        let node = self.node.clone();
        let keys = vec![request.volume_id, path.clone()];
        let work = async move {
            let size = node.expand(volume, &path, wanted).await?;
            let capacity_bytes = i64::try_from(size).unwrap_or(i64::MAX);
            Ok(NodeExpandVolumeResponse { capacity_bytes })
        };
        self.work(CALL, keys, work).await
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Answer<NodeGetCapabilitiesResponse> {
        let capability = |kind| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: i32::from(kind) })),
        };
        let capabilities = CAPABILITIES.map(capability).to_vec();
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(&self, _: Request<NodeGetInfoRequest>) -> Answer<NodeGetInfoResponse> {
        const CALL: &str = "NodeGetInfo";
        let status = checked(CALL, self.node.daemon.status().await)?;
        // Kubelet asks once: what it hears without the cluster, it would believe for ever.
        if status.node_name.is_empty() || status.cluster_id.is_empty() {
            let why = "fs-core has not joined a cluster yet: see 'lunar doctor'";
            let error = CsiError::unavailable(format!("cannot tell which node this is: {why}"));
            return Err(logged(CALL, error));
        }
        let segments = HashMap::from([(CLUSTER_KEY.to_owned(), status.cluster_id)]);
        Ok(Response::new(NodeGetInfoResponse {
            node_id: status.node_name,
            // fs-core knows no limit of its own.
            max_volumes_per_node: 0,
            accessible_topology: Some(Topology { segments }),
        }))
    }
}
