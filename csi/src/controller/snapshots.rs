//! Snapshots: cut, looked at, listed, deleted.
//!
//! - A snapshot is answered when it is cut. One that a killed call has asked for is found by its
//!   name, and waited for by its set.
//! - One that is being cut or deleted is in no list.
//! - One of a group is deleted with its group, and not alone: callers are told the group's id,
//!   which says so by the specification.

use lunar_metadata_client::{ErrorReason, fresh_request_id, unix_seconds};
use lunar_proto::csi;
use lunar_proto::domain::{
    CreateSnapshots, DeleteSnapshot, Fsfreeze, NewCut, NewMember, Selector, Snapshot, SnapshotState,
};
use lunar_types::{Name, SnapshotId, VolumeId};

use super::call::Call;
use super::cut::{Ending, decided, decided_by_id, not_cut};
use super::ids::{find_snapshot, find_volume, id_of, require, shown, snapshot_of, unless};
use super::view;
use crate::errors::CsiError;
use crate::naming::name_of;
use crate::paging::{page_error, page_request, told};
use crate::parameters::{require_no_secrets, require_none};

/// A snapshot that is asked for.
struct Wanted {
    name: Name,
    volume: VolumeId,
}

impl Wanted {
    fn what(&self) -> String {
        format!("cut snapshot '{}' of volume {}", self.name, self.volume)
    }

    /// Refuses a snapshot of the name that was cut of another volume, or is one of several.
    fn require_same(&self, found: &Snapshot) -> Result<(), CsiError> {
        let name = &self.name;
        if found.volume != self.volume {
            return Err(CsiError::exists(format!(
                "snapshot '{name}' is there, and was cut of volume {}, not of {}",
                found.volume, self.volume
            )));
        }
        match found.group {
            None => Ok(()),
            Some(group) => {
                let message = format!("snapshot '{name}' is there, and is part of group {group}");
                Err(CsiError::exists(message))
            }
        }
    }
}

/// A snapshot that has the name, when it is cut.
async fn found_and_cut(
    call: &Call,
    wanted: &Wanted,
    found: Snapshot,
) -> Result<Snapshot, CsiError> {
    wanted.require_same(&found)?;
    if found.state == SnapshotState::Ready {
        return Ok(found);
    }
    let ending = decided_by_id(call, found.set).await?;
    match (ending, find_snapshot(call, &Selector::Id(found.id)).await?) {
        (_, Some(found)) if found.state == SnapshotState::Ready => Ok(found),
        (Ending::Aborted(abort), _) => Err(not_cut(&wanted.what(), &abort)),
        (Ending::Sealed, _) => Err(meanwhile(wanted)),
    }
}

fn meanwhile(wanted: &Wanted) -> CsiError {
    let name = &wanted.name;
    CsiError::aborted(format!("snapshot '{name}' was cut and deleted meanwhile: ask again"))
}

async fn cut(call: &Call, wanted: &Wanted) -> Result<Snapshot, CsiError> {
    let cut = NewCut::Snapshot(wanted.name.clone());
    let create = CreateSnapshots {
        request: fresh_request_id(),
        members: vec![NewMember { volume: Selector::Id(wanted.volume), cut }],
        created_unix_seconds: unix_seconds(),
        fsfreeze: Fsfreeze::Auto,
        over_watermark: false,
        group: None,
    };
    let set = call.service().create_snapshots(&create).await;
    let by_name = Selector::Name(wanted.name.clone());
    let Some(set) = unless(ErrorReason::SnapshotExists, set)? else {
        // Another controller was faster.
        let found = find_snapshot(call, &by_name).await?.ok_or_else(|| meanwhile(wanted))?;
        return found_and_cut(call, wanted, found).await;
    };
    match decided(call, set).await? {
        Ending::Aborted(abort) => Err(not_cut(&wanted.what(), &abort)),
        Ending::Sealed => {
            let found = find_snapshot(call, &by_name).await?.ok_or_else(|| meanwhile(wanted))?;
            found_and_cut(call, wanted, found).await
        }
    }
}

/// Cuts a snapshot, or gives the one that was cut.
pub(super) async fn create_snapshot(
    call: Call,
    asked: csi::CreateSnapshotRequest,
) -> Result<csi::CreateSnapshotResponse, CsiError> {
    let name = name_of(&asked.name).map_err(CsiError::invalid)?;
    require("source_volume_id", &asked.source_volume_id)?;
    require_none(&asked.parameters)?;
    require_no_secrets(&asked.secrets)?;
    let source = &asked.source_volume_id;
    let no_volume = || CsiError::not_found(format!("there is no volume {:?}", shown(source)));
    let volume = id_of(source).ok_or_else(no_volume)?;
    let wanted = Wanted { name, volume };
    let snapshot = match find_snapshot(&call, &Selector::Name(wanted.name.clone())).await? {
        Some(found) => found_and_cut(&call, &wanted, found).await?,
        None => {
            find_volume(&call, &Selector::Id(volume)).await?.ok_or_else(no_volume)?;
            cut(&call, &wanted).await?
        }
    };
    Ok(csi::CreateSnapshotResponse { snapshot: Some(view::snapshot(&snapshot)) })
}

/// Deletes a snapshot; one that is not there is deleted.
pub(super) async fn delete_snapshot(
    call: Call,
    asked: csi::DeleteSnapshotRequest,
) -> Result<csi::DeleteSnapshotResponse, CsiError> {
    require("snapshot_id", &asked.snapshot_id)?;
    if let Some(id) = id_of::<SnapshotId>(&asked.snapshot_id) {
        let found = find_snapshot(&call, &Selector::Id(id)).await?;
        if let Some(group) = found.and_then(|found| found.group) {
            return Err(CsiError::invalid(format!(
                "snapshot {id} is part of group snapshot {group}: delete that"
            )));
        }
        let delete = DeleteSnapshot { request: fresh_request_id(), snapshot: Selector::Id(id) };
        unless(ErrorReason::SnapshotNotFound, call.service().delete_snapshot(&delete).await)?;
    }
    Ok(csi::DeleteSnapshotResponse {})
}

/// A snapshot.
pub(super) async fn get_snapshot(
    call: Call,
    asked: csi::GetSnapshotRequest,
) -> Result<csi::GetSnapshotResponse, CsiError> {
    let snapshot = snapshot_of(&call, "snapshot_id", &asked.snapshot_id).await?;
    Ok(csi::GetSnapshotResponse { snapshot: Some(view::snapshot(&snapshot)) })
}

/// Which snapshots are listed.
enum Filter {
    All,
    Volume(VolumeId),
    One(SnapshotId, Option<VolumeId>),
    /// What was asked for cannot be there.
    Nothing,
}

fn filter_of(asked: &csi::ListSnapshotsRequest) -> Filter {
    let (volume, snapshot) = (&asked.source_volume_id, &asked.snapshot_id);
    let (of, one) = (id_of(volume), id_of(snapshot));
    if (of.is_none() && !volume.is_empty()) || (one.is_none() && !snapshot.is_empty()) {
        return Filter::Nothing;
    }
    match (one, of) {
        (None, None) => Filter::All,
        (None, Some(volume)) => Filter::Volume(volume),
        (Some(snapshot), volume) => Filter::One(snapshot, volume),
    }
}

fn entry(snapshot: &Snapshot) -> csi::list_snapshots_response::Entry {
    csi::list_snapshots_response::Entry { snapshot: Some(view::snapshot(snapshot)) }
}

/// A page of the snapshots: all, those of a volume, or one.
pub(super) async fn list_snapshots(
    call: Call,
    asked: csi::ListSnapshotsRequest,
) -> Result<csi::ListSnapshotsResponse, CsiError> {
    let mut request = page_request(asked.max_entries, &asked.starting_token)?;
    let volume = match filter_of(&asked) {
        Filter::All => None,
        Filter::Volume(volume) => Some(Selector::Id(volume)),
        Filter::One(snapshot, volume) => return list_one(&call, snapshot, volume).await,
        Filter::Nothing => return Ok(csi::ListSnapshotsResponse::default()),
    };
    let mut entries = Vec::new();
    loop {
        let page = call.service().snapshots_page(volume.as_ref(), request.clone()).await;
        let page = page.map_err(page_error)?;
        let cut = page.items.iter().filter(|it| it.state == SnapshotState::Ready);
        let before = entries.len();
        entries.extend(cut.map(entry));
        request.limit -= entries.len() - before;
        if page.next.is_none() || request.limit == 0 {
            let next_token = told(page.next.as_ref());
            return Ok(csi::ListSnapshotsResponse { entries, next_token });
        }
        request.token = page.next;
    }
}

async fn list_one(
    call: &Call,
    snapshot: SnapshotId,
    volume: Option<VolumeId>,
) -> Result<csi::ListSnapshotsResponse, CsiError> {
    let found = find_snapshot(call, &Selector::Id(snapshot)).await?;
    let found = found.filter(|found| {
        found.state == SnapshotState::Ready && volume.is_none_or(|volume| volume == found.volume)
    });
    let entries = found.iter().map(entry).collect();
    Ok(csi::ListSnapshotsResponse { entries, ..csi::ListSnapshotsResponse::default() })
}
