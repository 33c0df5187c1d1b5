//! Groups of snapshots on the wire.

use super::{Checked, list, parsed, selector, to_list};
use crate::domain::{DeleteGroup, SnapshotGroup};
use crate::error::FieldError;
use crate::v1;

impl TryFrom<v1::SnapshotGroup> for SnapshotGroup {
    type Error = FieldError;

    fn try_from(wire: v1::SnapshotGroup) -> Checked<Self> {
        Ok(Self {
            id: parsed("group_id", &wire.group_id)?,
            name: parsed("name", &wire.name)?,
            created_unix_seconds: wire.created_unix_seconds,
            snapshots: list("snapshots", wire.snapshots)?,
            set: parsed("set_id", &wire.set_id)?,
        })
    }
}

impl From<SnapshotGroup> for v1::SnapshotGroup {
    fn from(group: SnapshotGroup) -> Self {
        Self {
            group_id: group.id.to_string(),
            name: group.name.to_string(),
            created_unix_seconds: group.created_unix_seconds,
            snapshots: to_list(group.snapshots),
            set_id: group.set.to_string(),
        }
    }
}

impl TryFrom<v1::DeleteGroupRequest> for DeleteGroup {
    type Error = FieldError;

    fn try_from(wire: v1::DeleteGroupRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            group: selector("group", wire.group)?,
        })
    }
}

impl From<DeleteGroup> for v1::DeleteGroupRequest {
    fn from(request: DeleteGroup) -> Self {
        Self { request_id: request.request.to_string(), group: Some(request.group.into()) }
    }
}
