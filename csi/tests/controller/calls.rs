//! Requests as the sidecars make them, to be changed by a test, and the calls with them.

use std::time::Duration;

use lunar_proto::csi;
use lunar_proto::csi::volume_capability::access_mode::Mode;
use lunar_proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use lunar_proto::csi::volume_content_source::{SnapshotSource, Type, VolumeSource};
use tonic::{Code, Request, Status};

use crate::world::{Driver, MIB, TANK};

pub type Called<T> = Result<T, Status>;

/// A request of a sidecar that waits so long.
pub fn within<T>(timeout: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

#[allow(clippy::print_stdout, reason = "it is shown with a test that fails")]
pub fn code<T: std::fmt::Debug>(outcome: Called<T>) -> Code {
    let status = outcome.expect_err("it is refused");
    println!("refused: {:?}: {}", status.code(), status.message());
    status.code()
}

pub fn block() -> AccessType {
    AccessType::Block(BlockVolume {})
}

pub fn mount(fs_type: &str) -> AccessType {
    let fs_type = fs_type.to_owned();
    AccessType::Mount(MountVolume { fs_type, ..MountVolume::default() })
}

pub fn capability(access: AccessType, mode: Mode) -> csi::VolumeCapability {
    let access_mode = Some(AccessMode { mode: mode.into() });
    csi::VolumeCapability { access_mode, access_type: Some(access) }
}

pub fn writer() -> csi::VolumeCapability {
    capability(mount("ext4"), Mode::SingleNodeWriter)
}

pub fn migratable() -> csi::VolumeCapability {
    capability(block(), Mode::MultiNodeMultiWriter)
}

pub fn range(required_bytes: i64, limit_bytes: i64) -> Option<csi::CapacityRange> {
    Some(csi::CapacityRange { required_bytes, limit_bytes })
}

pub fn map(of: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub fn of_snapshot(id: &str) -> Option<csi::VolumeContentSource> {
    let source = SnapshotSource { snapshot_id: id.to_owned() };
    Some(csi::VolumeContentSource { r#type: Some(Type::Snapshot(source)) })
}

pub fn of_volume(id: &str) -> Option<csi::VolumeContentSource> {
    let source = VolumeSource { volume_id: id.to_owned() };
    Some(csi::VolumeContentSource { r#type: Some(Type::Volume(source)) })
}

/// A volume of 16 MiB in the tank.
pub fn new_volume(name: &str) -> csi::CreateVolumeRequest {
    csi::CreateVolumeRequest {
        name: name.to_owned(),
        capacity_range: range(16 * MIB, 0),
        volume_capabilities: vec![writer()],
        parameters: map(&[("pool", TANK)]),
        ..csi::CreateVolumeRequest::default()
    }
}

impl Driver {
    pub async fn create(&self, request: csi::CreateVolumeRequest) -> Called<csi::Volume> {
        let answer = self.controller().create_volume(request).await?;
        Ok(answer.into_inner().volume.expect("a volume is told"))
    }

    /// The id of a volume of 16 MiB.
    pub async fn volume(&self, name: &str) -> String {
        self.create(new_volume(name)).await.expect("the volume is made").volume_id
    }

    pub async fn delete(&self, id: &str) -> Called<()> {
        let volume_id = id.to_owned();
        let request = csi::DeleteVolumeRequest { volume_id, ..Default::default() };
        self.controller().delete_volume(request).await.map(drop)
    }

    pub async fn get(&self, id: &str) -> Called<csi::ControllerGetVolumeResponse> {
        let request = csi::ControllerGetVolumeRequest { volume_id: id.to_owned() };
        Ok(self.controller().controller_get_volume(request).await?.into_inner())
    }

    pub async fn expand(&self, id: &str, required: i64, limit: i64) -> Called<i64> {
        let request = csi::ControllerExpandVolumeRequest {
            volume_id: id.to_owned(),
            capacity_range: range(required, limit),
            ..Default::default()
        };
        let answer = self.controller().controller_expand_volume(request).await?.into_inner();
        assert!(answer.node_expansion_required, "the node has to hear of it");
        Ok(answer.capacity_bytes)
    }

    /// The id of the publication.
    pub async fn publish_as(
        &self,
        id: &str,
        node: &str,
        capability: csi::VolumeCapability,
        readonly: bool,
    ) -> Called<String> {
        let request = csi::ControllerPublishVolumeRequest {
            volume_id: id.to_owned(),
            node_id: node.to_owned(),
            volume_capability: Some(capability),
            readonly,
            ..Default::default()
        };
        let answer = self.controller().controller_publish_volume(request).await?.into_inner();
        assert_eq!(answer.publish_context.len(), 1, "nothing else is told");
        Ok(answer.publish_context["publicationId"].clone())
    }

    pub async fn publish(&self, id: &str, node: &str) -> Called<String> {
        self.publish_as(id, node, writer(), false).await
    }

    /// Waits a short time only.
    pub async fn unpublish(&self, id: &str, node: &str) -> Called<()> {
        self.unpublish_within(id, node, Duration::from_millis(1500)).await
    }

    pub async fn unpublish_within(&self, id: &str, node: &str, time: Duration) -> Called<()> {
        let request = csi::ControllerUnpublishVolumeRequest {
            volume_id: id.to_owned(),
            node_id: node.to_owned(),
            ..Default::default()
        };
        self.controller().controller_unpublish_volume(within(time, request)).await.map(drop)
    }

    pub async fn cut_within(
        &self,
        volume: &str,
        name: &str,
        time: Duration,
    ) -> Called<csi::Snapshot> {
        let request = csi::CreateSnapshotRequest {
            source_volume_id: volume.to_owned(),
            name: name.to_owned(),
            ..Default::default()
        };
        let answer = self.controller().create_snapshot(within(time, request)).await?;
        Ok(answer.into_inner().snapshot.expect("a snapshot is told"))
    }

    pub async fn cut(&self, volume: &str, name: &str) -> Called<csi::Snapshot> {
        self.cut_within(volume, name, Duration::from_secs(10)).await
    }

    pub async fn delete_snapshot(&self, id: &str) -> Called<()> {
        let snapshot_id = id.to_owned();
        let request = csi::DeleteSnapshotRequest { snapshot_id, ..Default::default() };
        self.controller().delete_snapshot(request).await.map(drop)
    }

    pub async fn list(&self, max: i32, token: &str) -> Called<csi::ListVolumesResponse> {
        let starting_token = token.to_owned();
        let request = csi::ListVolumesRequest { max_entries: max, starting_token };
        Ok(self.controller().list_volumes(request).await?.into_inner())
    }

    pub async fn snapshots(
        &self,
        request: csi::ListSnapshotsRequest,
    ) -> Called<csi::ListSnapshotsResponse> {
        Ok(self.controller().list_snapshots(request).await?.into_inner())
    }

    pub async fn cut_group(
        &self,
        name: &str,
        volumes: &[&str],
    ) -> Called<csi::VolumeGroupSnapshot> {
        self.cut_group_within(name, volumes, Duration::from_secs(10)).await
    }

    pub async fn cut_group_within(
        &self,
        name: &str,
        volumes: &[&str],
        time: Duration,
    ) -> Called<csi::VolumeGroupSnapshot> {
        let request = new_group(name, volumes);
        let answer = self.groups().create_volume_group_snapshot(within(time, request)).await?;
        Ok(answer.into_inner().group_snapshot.expect("a group is told"))
    }

    pub async fn get_group(&self, id: &str, of: &[String]) -> Called<csi::VolumeGroupSnapshot> {
        let (group_snapshot_id, snapshot_ids) = (id.to_owned(), of.to_vec());
        let request = csi::GetVolumeGroupSnapshotRequest {
            group_snapshot_id,
            snapshot_ids,
            ..Default::default()
        };
        let answer = self.groups().get_volume_group_snapshot(request).await?.into_inner();
        Ok(answer.group_snapshot.expect("a group is told"))
    }

    pub async fn delete_group(&self, id: &str, of: &[String]) -> Called<()> {
        let (group_snapshot_id, snapshot_ids) = (id.to_owned(), of.to_vec());
        let request = csi::DeleteVolumeGroupSnapshotRequest {
            group_snapshot_id,
            snapshot_ids,
            ..Default::default()
        };
        self.groups().delete_volume_group_snapshot(request).await.map(drop)
    }
}

pub fn new_group(name: &str, volumes: &[&str]) -> csi::CreateVolumeGroupSnapshotRequest {
    csi::CreateVolumeGroupSnapshotRequest {
        name: name.to_owned(),
        source_volume_ids: volumes.iter().map(|id| (*id).to_owned()).collect(),
        ..csi::CreateVolumeGroupSnapshotRequest::default()
    }
}

/// The ids of the snapshots of a group.
pub fn ids_of(group: &csi::VolumeGroupSnapshot) -> Vec<String> {
    group.snapshots.iter().map(|it| it.snapshot_id.clone()).collect()
}
