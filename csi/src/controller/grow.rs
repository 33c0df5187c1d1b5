//! Growing, by whoever needs a volume to have a size at least.

use lunar_metadata_client::{ErrorReason, fresh_request_id};
use lunar_proto::domain::{GrowVolume, Selector, Volume};
use lunar_types::VolumeSize;

use super::call::Call;
use super::ids::unless;
use crate::errors::CsiError;

/// The volume with this size, or with more if it has that already or another call was faster.
pub(super) async fn at_least(
    call: &Call,
    volume: Volume,
    size: VolumeSize,
) -> Result<Volume, CsiError> {
    if volume.size >= size {
        return Ok(volume);
    }
    let (request, volume) = (fresh_request_id(), Selector::Id(volume.id));
    let grow = GrowVolume { request, volume: volume.clone(), size, over_watermark: false };
    match unless(ErrorReason::VolumeWouldShrink, call.service().grow_volume(&grow).await)? {
        Some(grown) => Ok(grown),
        None => Ok(call.service().volume(&volume).await?),
    }
}
