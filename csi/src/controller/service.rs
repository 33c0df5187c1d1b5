//! The services of CSI: each call, with the key that it has to itself.

use std::pin::Pin;

use lunar_proto::csi;
use lunar_proto::csi::controller_server::Controller as ControllerCalls;
use lunar_proto::csi::controller_service_capability::rpc::Type as Rpc;
use lunar_proto::csi::controller_service_capability::{Rpc as RpcCapability, Type};
use lunar_proto::csi::group_controller_server::GroupController;
use lunar_proto::csi::group_controller_service_capability::rpc::Type as GroupRpc;
use lunar_proto::csi::group_controller_service_capability::{
    Rpc as GroupRpcCapability, Type as GroupType,
};
use lunar_proto::csi::snapshot_metadata_server::SnapshotMetadata;
use lunar_proto::csi::{BlockMetadata, BlockMetadataType, ControllerServiceCapability};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::call::{Answer, Controller};
use super::changed_blocks::{Asked, Ranges};
use super::{capacity, create, groups, publish, snapshots, volumes};

/// Messages of a stream that wait for a slow client.
const MESSAGES_WAITING: usize = 4;

/// What the controller can.
const CAN: [Rpc; 14] = [
    Rpc::CreateDeleteVolume,
    Rpc::PublishUnpublishVolume,
    Rpc::ListVolumes,
    Rpc::GetCapacity,
    Rpc::CreateDeleteSnapshot,
    Rpc::ListSnapshots,
    Rpc::CloneVolume,
    Rpc::PublishReadonly,
    Rpc::ExpandVolume,
    Rpc::ListVolumesPublishedNodes,
    Rpc::VolumeCondition,
    Rpc::GetVolume,
    Rpc::SingleNodeMultiWriter,
    Rpc::ModifyVolume,
];
/// What it can too, and claims when it is told to: alpha in CSI 1.12, so that not everybody who
/// asks knows the words.
const CAN_ALPHA: [Rpc; 1] = [Rpc::GetSnapshot];

fn capability(rpc: Rpc) -> ControllerServiceCapability {
    let rpc = RpcCapability { r#type: rpc.into() };
    ControllerServiceCapability { r#type: Some(Type::Rpc(rpc)) }
}

fn of_volume(id: &str) -> String {
    format!("volume {id}")
}

/// Nodes have their publications apart: that of one may be awaited while another one comes.
fn of_publication(volume: &str, node: &str) -> String {
    format!("volume {volume} at node '{node}'")
}

#[tonic::async_trait]
impl ControllerCalls for Controller {
    async fn create_volume(
        &self,
        request: Request<csi::CreateVolumeRequest>,
    ) -> Answer<csi::CreateVolumeResponse> {
        let key = format!("the volume of name {:?}", request.get_ref().name);
        self.work(request, key, create::create_volume).await
    }

    async fn delete_volume(
        &self,
        request: Request<csi::DeleteVolumeRequest>,
    ) -> Answer<csi::DeleteVolumeResponse> {
        let key = of_volume(&request.get_ref().volume_id);
        self.work(request, key, volumes::delete_volume).await
    }

    async fn controller_publish_volume(
        &self,
        request: Request<csi::ControllerPublishVolumeRequest>,
    ) -> Answer<csi::ControllerPublishVolumeResponse> {
        let asked = request.get_ref();
        let key = of_publication(&asked.volume_id, &asked.node_id);
        self.work(request, key, publish::publish).await
    }

    async fn controller_unpublish_volume(
        &self,
        request: Request<csi::ControllerUnpublishVolumeRequest>,
    ) -> Answer<csi::ControllerUnpublishVolumeResponse> {
        let asked = request.get_ref();
        let key = of_publication(&asked.volume_id, &asked.node_id);
        self.work(request, key, publish::unpublish).await
    }

    async fn validate_volume_capabilities(
        &self,
        request: Request<csi::ValidateVolumeCapabilitiesRequest>,
    ) -> Answer<csi::ValidateVolumeCapabilitiesResponse> {
        self.look(request, volumes::validate).await
    }

    async fn list_volumes(
        &self,
        request: Request<csi::ListVolumesRequest>,
    ) -> Answer<csi::ListVolumesResponse> {
        self.look(request, volumes::list_volumes).await
    }

    async fn get_capacity(
        &self,
        request: Request<csi::GetCapacityRequest>,
    ) -> Answer<csi::GetCapacityResponse> {
        self.look(request, capacity::get_capacity).await
    }

    async fn controller_get_capabilities(
        &self,
        _: Request<csi::ControllerGetCapabilitiesRequest>,
    ) -> Answer<csi::ControllerGetCapabilitiesResponse> {
        let alpha: &[Rpc] = if self.claims_alpha() { &CAN_ALPHA } else { &[] };
        let capabilities = CAN.iter().chain(alpha).map(|rpc| capability(*rpc)).collect();
        Ok(Response::new(csi::ControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn create_snapshot(
        &self,
        request: Request<csi::CreateSnapshotRequest>,
    ) -> Answer<csi::CreateSnapshotResponse> {
        let key = format!("the snapshot of name {:?}", request.get_ref().name);
        self.work(request, key, snapshots::create_snapshot).await
    }

    async fn delete_snapshot(
        &self,
        request: Request<csi::DeleteSnapshotRequest>,
    ) -> Answer<csi::DeleteSnapshotResponse> {
        let key = format!("snapshot {}", request.get_ref().snapshot_id);
        self.work(request, key, snapshots::delete_snapshot).await
    }

    async fn list_snapshots(
        &self,
        request: Request<csi::ListSnapshotsRequest>,
    ) -> Answer<csi::ListSnapshotsResponse> {
        self.look(request, snapshots::list_snapshots).await
    }

    async fn get_snapshot(
        &self,
        request: Request<csi::GetSnapshotRequest>,
    ) -> Answer<csi::GetSnapshotResponse> {
        self.look(request, snapshots::get_snapshot).await
    }

    async fn controller_expand_volume(
        &self,
        request: Request<csi::ControllerExpandVolumeRequest>,
    ) -> Answer<csi::ControllerExpandVolumeResponse> {
        let key = of_volume(&request.get_ref().volume_id);
        self.work(request, key, volumes::expand_volume).await
    }

    async fn controller_get_volume(
        &self,
        request: Request<csi::ControllerGetVolumeRequest>,
    ) -> Answer<csi::ControllerGetVolumeResponse> {
        self.look(request, volumes::get_volume).await
    }

    async fn controller_modify_volume(
        &self,
        request: Request<csi::ControllerModifyVolumeRequest>,
    ) -> Answer<csi::ControllerModifyVolumeResponse> {
        self.look(request, volumes::modify_volume).await
    }
}

#[tonic::async_trait]
impl GroupController for Controller {
    async fn group_controller_get_capabilities(
        &self,
        _: Request<csi::GroupControllerGetCapabilitiesRequest>,
    ) -> Answer<csi::GroupControllerGetCapabilitiesResponse> {
        let rpc =
            GroupRpcCapability { r#type: GroupRpc::CreateDeleteGetVolumeGroupSnapshot.into() };
        let can = csi::GroupControllerServiceCapability { r#type: Some(GroupType::Rpc(rpc)) };
        let capabilities = vec![can];
        Ok(Response::new(csi::GroupControllerGetCapabilitiesResponse { capabilities }))
    }

    async fn create_volume_group_snapshot(
        &self,
        request: Request<csi::CreateVolumeGroupSnapshotRequest>,
    ) -> Answer<csi::CreateVolumeGroupSnapshotResponse> {
        let key = format!("the group snapshot of name {:?}", request.get_ref().name);
        self.work(request, key, groups::create_group).await
    }

    async fn delete_volume_group_snapshot(
        &self,
        request: Request<csi::DeleteVolumeGroupSnapshotRequest>,
    ) -> Answer<csi::DeleteVolumeGroupSnapshotResponse> {
        let key = format!("group snapshot {}", request.get_ref().group_snapshot_id);
        self.work(request, key, groups::delete_group).await
    }

    async fn get_volume_group_snapshot(
        &self,
        request: Request<csi::GetVolumeGroupSnapshotRequest>,
    ) -> Answer<csi::GetVolumeGroupSnapshotResponse> {
        self.look(request, groups::get_group).await
    }
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Ranges as messages. There is always one, which tells the size.
async fn streamed<T: Send + 'static>(
    mut ranges: Ranges,
    message: impl Fn(i64, Vec<BlockMetadata>) -> T + Send + 'static,
) -> Answer<Messages<T>> {
    let capacity = ranges.capacity;
    let first = ranges.next().await?.unwrap_or_default();
    let (sender, waiting) = mpsc::channel(MESSAGES_WAITING);
    tokio::spawn(async move {
        let mut next = Ok(Some(first));
        loop {
            let told = match next {
                Ok(Some(found)) => Ok(message(capacity, found)),
                Ok(None) => return,
                Err(error) => Err(Status::from(error)),
            };
            let is_last = told.is_err();
            // A client that has gone wants no more.
            if sender.send(told).await.is_err() || is_last {
                return;
            }
            next = ranges.next().await;
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
}

fn kind() -> i32 {
    BlockMetadataType::VariableLength.into()
}

#[tonic::async_trait]
impl SnapshotMetadata for Controller {
    type GetMetadataAllocatedStream = Messages<csi::GetMetadataAllocatedResponse>;
    type GetMetadataDeltaStream = Messages<csi::GetMetadataDeltaResponse>;

    async fn get_metadata_allocated(
        &self,
        request: Request<csi::GetMetadataAllocatedRequest>,
    ) -> Answer<Self::GetMetadataAllocatedStream> {
        let call = self.begin(&request);
        let asked = request.get_ref();
        let asked = Asked {
            base: None,
            target: ("snapshot_id", &asked.snapshot_id),
            starting_offset: asked.starting_offset,
            max_results: asked.max_results,
        };
        let ranges = Ranges::open(&call, &asked).await?;
        streamed(ranges, |volume_capacity_bytes, block_metadata| {
            let block_metadata_type = kind();
            csi::GetMetadataAllocatedResponse {
                block_metadata_type,
                volume_capacity_bytes,
                block_metadata,
            }
        })
        .await
    }

    async fn get_metadata_delta(
        &self,
        request: Request<csi::GetMetadataDeltaRequest>,
    ) -> Answer<Self::GetMetadataDeltaStream> {
        let call = self.begin(&request);
        let asked = request.get_ref();
        let asked = Asked {
            base: Some(&asked.base_snapshot_id),
            target: ("target_snapshot_id", &asked.target_snapshot_id),
            starting_offset: asked.starting_offset,
            max_results: asked.max_results,
        };
        let ranges = Ranges::open(&call, &asked).await?;
        streamed(ranges, |volume_capacity_bytes, block_metadata| {
            let block_metadata_type = kind();
            csi::GetMetadataDeltaResponse {
                block_metadata_type,
                volume_capacity_bytes,
                block_metadata,
            }
        })
        .await
    }
}
