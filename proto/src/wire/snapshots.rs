//! Snapshots, clones and rollbacks on the wire.

use lunar_types::LayerId;

use super::volumes::volume_size;
use super::{Checked, given, logical_block_size, parsed, selector, told};
use crate::domain::{CloneVolume, DeleteSnapshot, RollbackVolume, Snapshot, SnapshotState};
use crate::error::FieldError;
use crate::v1;

fn snapshot_state(field: &str, raw: i32) -> Checked<SnapshotState> {
    match v1::SnapshotState::try_from(raw) {
        Ok(v1::SnapshotState::Creating) => Ok(SnapshotState::Creating),
        Ok(v1::SnapshotState::Ready) => Ok(SnapshotState::Ready),
        Ok(v1::SnapshotState::Deleting) => Ok(SnapshotState::Deleting),
        Ok(v1::SnapshotState::Unspecified) | Err(_) => {
            Err(FieldError::new(field, format_args!("{raw} is no state of a snapshot")))
        }
    }
}

impl From<SnapshotState> for v1::SnapshotState {
    fn from(state: SnapshotState) -> Self {
        match state {
            SnapshotState::Creating => Self::Creating,
            SnapshotState::Ready => Self::Ready,
            SnapshotState::Deleting => Self::Deleting,
        }
    }
}

impl TryFrom<v1::Snapshot> for Snapshot {
    type Error = FieldError;

    fn try_from(wire: v1::Snapshot) -> Checked<Self> {
        let state = snapshot_state("state", wire.state)?;
        if (wire.layer == 0) != (state == SnapshotState::Creating) {
            let problem = format_args!("{} cannot be of a snapshot in state {state}", wire.layer);
            return Err(FieldError::new("layer", problem));
        }
        Ok(Self {
            id: parsed("snapshot_id", &wire.snapshot_id)?,
            name: parsed("name", &wire.name)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            pool: parsed("pool_id", &wire.pool_id)?,
            layer: (wire.layer > 0).then(|| LayerId::new(wire.layer)),
            size: volume_size("size_bytes", wire.size_bytes)?,
            logical_block_size: logical_block_size("logical_block_size", wire.logical_block_size)?,
            set: parsed("set_id", &wire.set_id)?,
            created_unix_seconds: wire.created_unix_seconds,
            state,
            restored: wire.restored,
            group: given("group_id", &wire.group_id)?,
            owned_extents: wire.owned_extents,
        })
    }
}

impl From<Snapshot> for v1::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            snapshot_id: snapshot.id.to_string(),
            name: snapshot.name.to_string(),
            volume_id: snapshot.volume.to_string(),
            pool_id: snapshot.pool.to_string(),
            layer: snapshot.layer.map_or(0, LayerId::get),
            size_bytes: snapshot.size.bytes(),
            logical_block_size: snapshot.logical_block_size.bytes(),
            set_id: snapshot.set.to_string(),
            created_unix_seconds: snapshot.created_unix_seconds,
            state: v1::SnapshotState::from(snapshot.state).into(),
            restored: snapshot.restored,
            group_id: told(snapshot.group),
            owned_extents: snapshot.owned_extents,
        }
    }
}

impl TryFrom<v1::DeleteSnapshotRequest> for DeleteSnapshot {
    type Error = FieldError;

    fn try_from(wire: v1::DeleteSnapshotRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            snapshot: selector("snapshot", wire.snapshot)?,
        })
    }
}

impl From<DeleteSnapshot> for v1::DeleteSnapshotRequest {
    fn from(request: DeleteSnapshot) -> Self {
        Self { request_id: request.request.to_string(), snapshot: Some(request.snapshot.into()) }
    }
}

impl TryFrom<v1::CloneVolumeRequest> for CloneVolume {
    type Error = FieldError;

    fn try_from(wire: v1::CloneVolumeRequest) -> Checked<Self> {
        let size = (wire.size_bytes > 0).then(|| volume_size("size_bytes", wire.size_bytes));
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            snapshot: selector("snapshot", wire.snapshot)?,
            name: parsed("name", &wire.name)?,
            size: size.transpose()?,
            over_watermark: wire.over_watermark,
        })
    }
}

impl From<CloneVolume> for v1::CloneVolumeRequest {
    fn from(request: CloneVolume) -> Self {
        Self {
            request_id: request.request.to_string(),
            snapshot: Some(request.snapshot.into()),
            name: request.name.to_string(),
            size_bytes: request.size.map_or(0, |size| size.bytes()),
            over_watermark: request.over_watermark,
        }
    }
}

impl TryFrom<v1::RollbackVolumeRequest> for RollbackVolume {
    type Error = FieldError;

    fn try_from(wire: v1::RollbackVolumeRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            volume: selector("volume", wire.volume)?,
            snapshot: selector("snapshot", wire.snapshot)?,
        })
    }
}

impl From<RollbackVolume> for v1::RollbackVolumeRequest {
    fn from(request: RollbackVolume) -> Self {
        Self {
            request_id: request.request.to_string(),
            volume: Some(request.volume.into()),
            snapshot: Some(request.snapshot.into()),
        }
    }
}
