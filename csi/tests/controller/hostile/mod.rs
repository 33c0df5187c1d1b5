//! What no sidecar should send: every row has its code, nothing is made or changed by it, and the
//! driver lives.

mod creations;
mod others;

use lunar_proto::csi;
use tonic::{Code, Status};

use crate::node::Node;
use crate::world::*;

/// An id that nothing has.
const NOBODY: &str = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";

/// One hostile call.
struct Row {
    what: String,
    call: Call,
    expected: Code,
}

/// A call with its request.
enum Call {
    Create(csi::CreateVolumeRequest),
    Delete(csi::DeleteVolumeRequest),
    Publish(csi::ControllerPublishVolumeRequest),
    Unpublish(csi::ControllerUnpublishVolumeRequest),
    Validate(csi::ValidateVolumeCapabilitiesRequest),
    List(csi::ListVolumesRequest),
    Capacity(csi::GetCapacityRequest),
    Cut(csi::CreateSnapshotRequest),
    DeleteSnapshot(csi::DeleteSnapshotRequest),
    ListSnapshots(csi::ListSnapshotsRequest),
    GetSnapshot(csi::GetSnapshotRequest),
    Expand(csi::ControllerExpandVolumeRequest),
    Get(csi::ControllerGetVolumeRequest),
    Modify(csi::ControllerModifyVolumeRequest),
    Allocated(csi::GetMetadataAllocatedRequest),
    Delta(csi::GetMetadataDeltaRequest),
}

impl Call {
    async fn send(self, driver: &Driver) -> Result<(), Status> {
        let (mut it, mut metadata) = (driver.controller(), driver.snapshot_metadata());
        match self {
            Self::Create(request) => it.create_volume(request).await.map(drop),
            Self::Delete(request) => it.delete_volume(request).await.map(drop),
            Self::Publish(request) => it.controller_publish_volume(request).await.map(drop),
            Self::Unpublish(request) => it.controller_unpublish_volume(request).await.map(drop),
            Self::Validate(request) => it.validate_volume_capabilities(request).await.map(drop),
            Self::List(request) => it.list_volumes(request).await.map(drop),
            Self::Capacity(request) => it.get_capacity(request).await.map(drop),
            Self::Cut(request) => it.create_snapshot(request).await.map(drop),
            Self::DeleteSnapshot(request) => it.delete_snapshot(request).await.map(drop),
            Self::ListSnapshots(request) => it.list_snapshots(request).await.map(drop),
            Self::GetSnapshot(request) => it.get_snapshot(request).await.map(drop),
            Self::Expand(request) => it.controller_expand_volume(request).await.map(drop),
            Self::Get(request) => it.controller_get_volume(request).await.map(drop),
            Self::Modify(request) => it.controller_modify_volume(request).await.map(drop),
            Self::Allocated(request) => metadata.get_metadata_allocated(request).await.map(drop),
            Self::Delta(request) => metadata.get_metadata_delta(request).await.map(drop),
        }
    }
}

fn row(what: impl std::fmt::Display, call: Call, expected: Code) -> Row {
    Row { what: what.to_string().chars().take(80).collect(), call, expected }
}

/// What there is: a volume, its snapshot, a node.
struct Known {
    volume: String,
    snapshot: String,
}

/// Everything that a hostile call could change.
async fn state(world: &World) -> String {
    let mut volumes = world.service.volumes(&lunar_proto::domain::PageRequest::first()).await;
    let volumes = &mut volumes.as_mut().expect("a list").items;
    format!("{volumes:?} {:?}", world.all_snapshots().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_calls_have_their_code_and_change_nothing() {
    let world = World::start().await;
    let mut driver = world.driver("s").await;
    Node::join(&world, "a").await;
    let volume = driver.volume("there").await;
    let snapshot = driver.cut(&volume, "snap").await.expect("cut").snapshot_id;
    let known = Known { volume, snapshot };
    let before = state(&world).await;
    let rows = [creations::rows(&known), others::rows(&known)].concat_rows();
    let count = rows.len();
    assert!(count >= 540, "only {count} rows");
    let mut wrong = Vec::new();
    for Row { what, call, expected } in rows {
        let status = call.send(&driver).await.err();
        let code = status.as_ref().map_or(Code::Ok, Status::code);
        if code != expected {
            wrong.push(format!("{what}: {code:?}, not {expected:?}: {status:?}"));
        }
        if let Some(status) = status {
            assert!(!status.message().is_empty(), "{what}: it says why");
            assert!(status.message().len() < 4096, "{what}: it does not repeat what it was sent");
            assert!(!status.message().contains("hush"), "{what}: no secret is told");
        }
        assert_eq!(state(&world).await, before, "{what}: it has changed something");
        assert!(driver.is_alive(), "{what}: the driver has died");
    }
    assert!(wrong.is_empty(), "{count} rows, of which wrong:\n{}", wrong.join("\n"));
}

trait ConcatRows {
    fn concat_rows(self) -> Vec<Row>;
}

impl<const N: usize> ConcatRows for [Vec<Row>; N] {
    fn concat_rows(self) -> Vec<Row> {
        self.into_iter().flatten().collect()
    }
}
