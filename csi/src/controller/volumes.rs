//! What becomes of a volume after it was made: looked at, validated, grown, deleted.
//!
//! - A volume that is being deleted is not there any more.
//! - A volume never shrinks: one that has the size already, or more, is given as it is, unless that
//!   is above the limit.

use lunar_metadata_client::{ErrorReason, fresh_request_id};
use lunar_proto::csi;
use lunar_proto::csi::validate_volume_capabilities_response::Confirmed;
use lunar_proto::domain::{DeleteVolume, Selector, Volume};
use lunar_types::VolumeId;

use super::call::Call;
use super::create::pool_of;
use super::grow::at_least;
use super::ids::{id_of, require, unless, volume_of};
use super::view;
use crate::capability::{volume_use, volume_uses};
use crate::errors::CsiError;
use crate::paging::{page_error, page_request, told};
use crate::parameters::{VolumeParameters, require_no_mutable};
use crate::sizes::{SizeRange, bytes_of};

/// Deletes a volume; one that is not there is deleted.
pub(super) async fn delete_volume(
    call: Call,
    asked: csi::DeleteVolumeRequest,
) -> Result<csi::DeleteVolumeResponse, CsiError> {
    require("volume_id", &asked.volume_id)?;
    if let Some(id) = id_of::<VolumeId>(&asked.volume_id) {
        let delete = DeleteVolume { request: fresh_request_id(), volume: Selector::Id(id) };
        unless(ErrorReason::VolumeNotFound, call.service().delete_volume(&delete).await)?;
    }
    Ok(csi::DeleteVolumeResponse {})
}

/// Makes a volume larger; the node makes the file system larger after it.
pub(super) async fn expand_volume(
    call: Call,
    asked: csi::ControllerExpandVolumeRequest,
) -> Result<csi::ControllerExpandVolumeResponse, CsiError> {
    require("volume_id", &asked.volume_id)?;
    let range = SizeRange::new(asked.capacity_range.as_ref())?;
    if range.is_empty() {
        return Err(CsiError::invalid("capacity_range is missing: say how large it is to be"));
    }
    asked.volume_capability.as_ref().map(volume_use).transpose()?;
    let volume = volume_of(&call, &asked.volume_id).await?;
    let volume = match range.holds(volume.size) {
        true => volume,
        false => grown(&call, volume, range).await?,
    };
    Ok(csi::ControllerExpandVolumeResponse {
        capacity_bytes: bytes_of(volume.size),
        // Also of a raw block volume: who waits for the node knows that the device has grown.
        node_expansion_required: true,
    })
}

async fn grown(call: &Call, volume: Volume, range: SizeRange) -> Result<Volume, CsiError> {
    let pool = call.service().pool(&Selector::Id(volume.pool)).await?;
    let size = range.choose(Some(volume.size), pool.extent_size)?;
    let volume = at_least(call, volume, size).await?;
    // Another call may have made it larger than this one is content with.
    range.choose(Some(volume.size), pool.extent_size)?;
    Ok(volume)
}

/// Refuses every change: none is known yet.
pub(super) async fn modify_volume(
    call: Call,
    asked: csi::ControllerModifyVolumeRequest,
) -> Result<csi::ControllerModifyVolumeResponse, CsiError> {
    volume_of(&call, &asked.volume_id).await?;
    require_no_mutable(&asked.mutable_parameters)?;
    Ok(csi::ControllerModifyVolumeResponse {})
}

/// A volume, where it is published, and whether anything is the matter with it.
pub(super) async fn get_volume(
    call: Call,
    asked: csi::ControllerGetVolumeRequest,
) -> Result<csi::ControllerGetVolumeResponse, CsiError> {
    let volume = volume_of(&call, &asked.volume_id).await?;
    let status = csi::controller_get_volume_response::VolumeStatus {
        published_node_ids: view::published_nodes(&volume),
        volume_condition: Some(view::condition(&volume)),
    };
    let volume = Some(view::volume(&volume));
    Ok(csi::ControllerGetVolumeResponse { volume, status: Some(status) })
}

fn entry(volume: &Volume) -> csi::list_volumes_response::Entry {
    let status = csi::list_volumes_response::VolumeStatus {
        published_node_ids: view::published_nodes(volume),
        volume_condition: Some(view::condition(volume)),
    };
    let volume = Some(view::volume(volume));
    csi::list_volumes_response::Entry { volume, status: Some(status) }
}

/// A page of the volumes. It is filled up where volumes that are being deleted were left out.
pub(super) async fn list_volumes(
    call: Call,
    asked: csi::ListVolumesRequest,
) -> Result<csi::ListVolumesResponse, CsiError> {
    use lunar_proto::domain::VolumeState::Deleting;
    let mut request = page_request(asked.max_entries, &asked.starting_token)?;
    let mut entries = Vec::new();
    loop {
        let page = call.service().volumes_page(request.clone()).await.map_err(page_error)?;
        let there = page.items.iter().filter(|volume| volume.state != Deleting);
        let before = entries.len();
        entries.extend(there.map(entry));
        request.limit -= entries.len() - before;
        if page.next.is_none() || request.limit == 0 {
            let next_token = told(page.next.as_ref());
            return Ok(csi::ListVolumesResponse { entries, next_token });
        }
        request.token = page.next;
    }
}

/// Why a volume is not what a caller believes; nothing if it is.
async fn objection(
    call: &Call,
    asked: &csi::ValidateVolumeCapabilitiesRequest,
    volume: &Volume,
) -> Result<Option<String>, CsiError> {
    let uses = match volume_uses(&asked.volume_capabilities) {
        Ok(uses) => uses,
        Err(error) => return Ok(Some(error.message)),
    };
    if let Err(error) = require_no_mutable(&asked.mutable_parameters) {
        return Ok(Some(error.message));
    }
    if asked.parameters.is_empty() {
        return Ok(None);
    }
    let parameters = match VolumeParameters::new(&asked.parameters) {
        Ok(parameters) => parameters,
        Err(error) => return Ok(Some(error.message)),
    };
    if let Err(error) = parameters.require_file_system(&uses) {
        return Ok(Some(error.message));
    }
    let pool = match pool_of(call, &parameters.pool).await {
        Err(error) if error.code == tonic::Code::InvalidArgument => return Ok(Some(error.message)),
        pool => pool?,
    };
    let has = volume.logical_block_size;
    Ok(if pool.id != volume.pool {
        Some(format!("it is in pool {}, not in '{}'", volume.pool, pool.name))
    } else if parameters.block_size.is_some_and(|asked| asked != has) {
        Some(format!("its blocks are of {} B", has.bytes()))
    } else {
        None
    })
}

/// Confirms what a volume can be used for: all that is asked, or nothing.
pub(super) async fn validate(
    call: Call,
    asked: csi::ValidateVolumeCapabilitiesRequest,
) -> Result<csi::ValidateVolumeCapabilitiesResponse, CsiError> {
    require("volume_id", &asked.volume_id)?;
    if asked.volume_capabilities.is_empty() {
        return Err(CsiError::invalid("volume_capabilities are missing: give at least one"));
    }
    let volume = volume_of(&call, &asked.volume_id).await?;
    if let Some(message) = objection(&call, &asked, &volume).await? {
        return Ok(csi::ValidateVolumeCapabilitiesResponse { confirmed: None, message });
    }
    let csi::ValidateVolumeCapabilitiesRequest {
        volume_context,
        volume_capabilities,
        parameters,
        mutable_parameters,
        ..
    } = asked;
    let confirmed =
        Confirmed { volume_context, volume_capabilities, parameters, mutable_parameters };
    let (confirmed, message) = (Some(confirmed), String::new());
    Ok(csi::ValidateVolumeCapabilitiesResponse { confirmed, message })
}
