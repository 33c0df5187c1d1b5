//! Group snapshots: snapshots of several volumes, cut at one moment and kept as one thing.
//!
//! - A group is a record of the service, found by its name; its members are named by it and their
//!   volume, so that nobody else takes their names.
//! - It is answered when all its members are cut, which is one transaction.
//! - It is deleted as a whole, by a caller who knows all that is in it.

use std::collections::BTreeSet;

use lunar_metadata_client::{ErrorReason, fresh_request_id, unix_seconds};
use lunar_proto::csi;
use lunar_proto::domain::{
    CreateSnapshots, DeleteGroup, Fsfreeze, NewCut, NewMember, SET_MEMBERS_MAX, Selector,
    SnapshotGroup, SnapshotState,
};
use lunar_types::{Name, SnapshotGroupId, SnapshotId, VolumeId};

use super::call::Call;
use super::cut::{Ending, decided, decided_by_id, not_cut};
use super::ids::{find_snapshot, find_volume, id_of, require, shown, unless};
use super::view;
use crate::errors::CsiError;
use crate::naming::{member_name, name_of};
use crate::parameters::{require_no_secrets, require_none};

/// A group that is asked for.
struct Wanted {
    /// As CSI says it.
    asked: String,
    name: Name,
    volumes: BTreeSet<VolumeId>,
}

fn volumes_of(ids: &[String]) -> Result<BTreeSet<VolumeId>, CsiError> {
    if ids.is_empty() {
        return Err(CsiError::invalid("source_volume_ids are missing: name at least one volume"));
    }
    if ids.len() > SET_MEMBERS_MAX {
        let count = ids.len();
        let message = format!("{count} source_volume_ids: the limit is {SET_MEMBERS_MAX}");
        return Err(CsiError::invalid(message));
    }
    let mut volumes = BTreeSet::new();
    for text in ids {
        require("source_volume_ids: an id", text)?;
        let volume = id_of(text)
            .ok_or_else(|| CsiError::not_found(format!("there is no volume {:?}", shown(text))))?;
        if !volumes.insert(volume) {
            let message = format!("source_volume_ids name volume {volume} twice");
            return Err(CsiError::invalid(message));
        }
    }
    Ok(volumes)
}

impl Wanted {
    fn what(&self) -> String {
        format!("cut group snapshot '{}' of {} volumes", self.name, self.volumes.len())
    }

    fn members(&self) -> Result<Vec<NewMember>, CsiError> {
        let member = |volume: &VolumeId| {
            let name = member_name(&self.asked, *volume).map_err(CsiError::invalid)?;
            Ok(NewMember { volume: Selector::Id(*volume), cut: NewCut::Snapshot(name) })
        };
        self.volumes.iter().map(member).collect()
    }

    fn require_same(&self, found: &SnapshotGroup) -> Result<(), CsiError> {
        let of: BTreeSet<VolumeId> = found.snapshots.iter().map(|it| it.volume).collect();
        match of == self.volumes {
            true => Ok(()),
            false => Err(CsiError::exists(format!(
                "group snapshot '{}' is there, and has snapshots of other volumes",
                self.name
            ))),
        }
    }

    fn meanwhile(&self) -> CsiError {
        let name = &self.name;
        CsiError::aborted(format!(
            "group snapshot '{name}' was cut and deleted meanwhile: ask again"
        ))
    }
}

async fn find_group(
    call: &Call,
    group: &Selector<SnapshotGroupId>,
) -> Result<Option<SnapshotGroup>, CsiError> {
    unless(ErrorReason::GroupNotFound, call.service().group(group).await)
}

async fn by_name(call: &Call, wanted: &Wanted) -> Result<Option<SnapshotGroup>, CsiError> {
    find_group(call, &Selector::Name(wanted.name.clone())).await
}

fn is_cut(group: &SnapshotGroup) -> bool {
    group.snapshots.iter().all(|it| it.state == SnapshotState::Ready)
}

/// A group that has the name, when it is cut.
async fn found_and_cut(
    call: &Call,
    wanted: &Wanted,
    found: SnapshotGroup,
) -> Result<SnapshotGroup, CsiError> {
    wanted.require_same(&found)?;
    if is_cut(&found) {
        return Ok(found);
    }
    let ending = decided_by_id(call, found.set).await?;
    match (ending, find_group(call, &Selector::Id(found.id)).await?) {
        (_, Some(found)) if is_cut(&found) => Ok(found),
        (Ending::Aborted(abort), _) => Err(not_cut(&wanted.what(), &abort)),
        (Ending::Sealed, _) => Err(wanted.meanwhile()),
    }
}

async fn cut(call: &Call, wanted: &Wanted) -> Result<SnapshotGroup, CsiError> {
    let create = CreateSnapshots {
        request: fresh_request_id(),
        members: wanted.members()?,
        created_unix_seconds: unix_seconds(),
        fsfreeze: Fsfreeze::Auto,
        over_watermark: false,
        group: Some(wanted.name.clone()),
    };
    let set = call.service().create_snapshots(&create).await;
    let set = match unless(ErrorReason::GroupExists, set) {
        // Another controller was faster; its snapshots are met before its group.
        Ok(None) => None,
        Ok(Some(set)) => Some(set),
        Err(error) if error.code == tonic::Code::AlreadyExists => None,
        Err(error) => return Err(error),
    };
    let Some(set) = set else {
        return match by_name(call, wanted).await? {
            Some(found) => found_and_cut(call, wanted, found).await,
            None => Err(CsiError::exists(format!(
                "cannot {}: there is a snapshot of the name that one of its members would have; \
                 see 'lunar snapshot list'",
                wanted.what()
            ))),
        };
    };
    match decided(call, set).await? {
        Ending::Aborted(abort) => Err(not_cut(&wanted.what(), &abort)),
        Ending::Sealed => {
            let found = by_name(call, wanted).await?.ok_or_else(|| wanted.meanwhile())?;
            found_and_cut(call, wanted, found).await
        }
    }
}

/// Cuts a group, or gives the one that was cut.
pub(super) async fn create_group(
    call: Call,
    asked: csi::CreateVolumeGroupSnapshotRequest,
) -> Result<csi::CreateVolumeGroupSnapshotResponse, CsiError> {
    let name = name_of(&asked.name).map_err(CsiError::invalid)?;
    require_none(&asked.parameters)?;
    require_no_secrets(&asked.secrets)?;
    let volumes = volumes_of(&asked.source_volume_ids)?;
    let wanted = Wanted { asked: asked.name, name, volumes };
    let group = match by_name(&call, &wanted).await? {
        Some(found) => found_and_cut(&call, &wanted, found).await?,
        None => {
            for volume in &wanted.volumes {
                let found = find_volume(&call, &Selector::Id(*volume)).await?;
                let none = || CsiError::not_found(format!("there is no volume {volume}"));
                found.ok_or_else(none)?;
            }
            cut(&call, &wanted).await?
        }
    };
    let group_snapshot = Some(view::group(&group));
    Ok(csi::CreateVolumeGroupSnapshotResponse { group_snapshot })
}

fn mismatch(group: &SnapshotGroup, problem: &str) -> CsiError {
    CsiError::invalid(format!(
        "snapshot_ids do not match group snapshot {}: {problem}; see 'lunar snapshot list'",
        group.id
    ))
}

/// Refuses a caller who knows a snapshot too few of a group, or one that is none of it. One that is
/// not there any more does no harm.
async fn require_members(
    call: &Call,
    group: &SnapshotGroup,
    told: &[String],
) -> Result<(), CsiError> {
    let told_ids: BTreeSet<SnapshotId> = told.iter().filter_map(|text| id_of(text)).collect();
    let members: BTreeSet<SnapshotId> = group.snapshots.iter().map(|it| it.id).collect();
    if let Some(missing) = members.difference(&told_ids).next() {
        return Err(mismatch(group, &format!("{missing} is missing")));
    }
    for other in told_ids.difference(&members) {
        if find_snapshot(call, &Selector::Id(*other)).await?.is_some() {
            return Err(mismatch(group, &format!("{other} is none of it")));
        }
    }
    Ok(())
}

/// Deletes a group with all that is in it; one that is not there is deleted.
pub(super) async fn delete_group(
    call: Call,
    asked: csi::DeleteVolumeGroupSnapshotRequest,
) -> Result<csi::DeleteVolumeGroupSnapshotResponse, CsiError> {
    require("group_snapshot_id", &asked.group_snapshot_id)?;
    let done = csi::DeleteVolumeGroupSnapshotResponse {};
    let Some(id) = id_of(&asked.group_snapshot_id) else { return Ok(done) };
    let Some(found) = find_group(&call, &Selector::Id(id)).await? else { return Ok(done) };
    require_members(&call, &found, &asked.snapshot_ids).await?;
    let delete = DeleteGroup { request: fresh_request_id(), group: Selector::Id(id) };
    unless(ErrorReason::GroupNotFound, call.service().delete_group(&delete).await)?;
    Ok(done)
}

/// A group.
pub(super) async fn get_group(
    call: Call,
    asked: csi::GetVolumeGroupSnapshotRequest,
) -> Result<csi::GetVolumeGroupSnapshotResponse, CsiError> {
    let text = &asked.group_snapshot_id;
    require("group_snapshot_id", text)?;
    let none = || CsiError::not_found(format!("there is no group snapshot {:?}", shown(text)));
    let id = id_of(text).ok_or_else(none)?;
    let found = find_group(&call, &Selector::Id(id)).await?.ok_or_else(none)?;
    if !asked.snapshot_ids.is_empty() {
        require_members(&call, &found, &asked.snapshot_ids).await?;
    }
    if !is_cut(&found) {
        let message = format!("group snapshot {id} is not cut yet: ask again later");
        return Err(CsiError::aborted(message));
    }
    Ok(csi::GetVolumeGroupSnapshotResponse { group_snapshot: Some(view::group(&found)) })
}
