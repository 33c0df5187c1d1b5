//! Ids of CSI as ids of ours.
//!
//! An id is the text that the driver has told: a UUID in small letters with its dashes. Any other
//! text names nothing.

use lunar_metadata_client::{ClientError, ErrorKind, ErrorReason};
use lunar_proto::domain::{Selector, Snapshot, SnapshotState, Volume, VolumeState};
use lunar_types::{SnapshotId, VolumeId};

use super::call::Call;
use crate::errors::CsiError;
pub(super) use crate::naming::{id_of, shown};

/// Refuses a field that is empty.
pub(super) fn require(field: &str, text: &str) -> Result<(), CsiError> {
    match text.is_empty() {
        true => Err(CsiError::invalid(format!("{field} is missing"))),
        false => Ok(()),
    }
}

fn no_volume(text: &str) -> CsiError {
    CsiError::not_found(format!("there is no volume {:?}", shown(text)))
}

fn no_snapshot(text: &str) -> CsiError {
    CsiError::not_found(format!("there is no snapshot {:?}", shown(text)))
}

/// The id of a volume that has to be there.
pub(super) fn volume_id(text: &str) -> Result<VolumeId, CsiError> {
    require("volume_id", text)?;
    id_of(text).ok_or_else(|| no_volume(text))
}

/// The id of a snapshot that has to be there.
pub(super) fn snapshot_id(field: &str, text: &str) -> Result<SnapshotId, CsiError> {
    require(field, text)?;
    id_of(text).ok_or_else(|| no_snapshot(text))
}

/// An answer, or nothing where the service refuses for this reason.
pub(super) fn unless<T>(
    reason: ErrorReason,
    outcome: Result<T, ClientError>,
) -> Result<Option<T>, CsiError> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::Refused(reason) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A volume, if it is there; one that is being deleted is not.
pub(super) async fn find_volume(
    call: &Call,
    volume: &Selector<VolumeId>,
) -> Result<Option<Volume>, CsiError> {
    let found = call.service().volume(volume).await;
    let found = unless(ErrorReason::VolumeNotFound, found)?;
    Ok(found.filter(|found| found.state != VolumeState::Deleting))
}

/// A volume that has to be there.
pub(super) async fn volume_of(call: &Call, text: &str) -> Result<Volume, CsiError> {
    let id = volume_id(text)?;
    find_volume(call, &Selector::Id(id)).await?.ok_or_else(|| no_volume(text))
}

/// A snapshot, if it is there; one that is being deleted is not.
pub(super) async fn find_snapshot(
    call: &Call,
    snapshot: &Selector<SnapshotId>,
) -> Result<Option<Snapshot>, CsiError> {
    let found = call.service().snapshot(snapshot).await;
    let found = unless(ErrorReason::SnapshotNotFound, found)?;
    Ok(found.filter(|found| found.state != SnapshotState::Deleting))
}

/// A snapshot that has to be there and cut.
pub(super) async fn snapshot_of(
    call: &Call,
    field: &str,
    text: &str,
) -> Result<Snapshot, CsiError> {
    let id = snapshot_id(field, text)?;
    let found = find_snapshot(call, &Selector::Id(id)).await?.ok_or_else(|| no_snapshot(text))?;
    match found.state {
        SnapshotState::Ready => Ok(found),
        SnapshotState::Creating | SnapshotState::Deleting => {
            Err(CsiError::aborted(format!("snapshot {id} is not cut yet: ask again later")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_text_that_was_told_and_no_other_form_of_it() {
        let id = "6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10";
        assert!(id_of::<VolumeId>(id).is_some());
        for other in [
            "6FA1C2D4-0B7E-4A52-9F57-3D1F0C6C2A10",
            "6fa1c2d40b7e4a529f573d1f0c6c2a10",
            "{6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10}",
            "urn:uuid:6fa1c2d4-0b7e-4a52-9f57-3d1f0c6c2a10",
            "pvc-1",
            "",
        ] {
            assert!(id_of::<VolumeId>(other).is_none(), "{other}");
        }
    }
}
