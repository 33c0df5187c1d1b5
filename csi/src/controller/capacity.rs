//! GetCapacity: what is free in a pool, or in all of them.
//!
//! Volumes are thin, so the largest one is not what is free: both are told. A pool above its
//! critical watermark begins nothing new, and has nothing available.

use lunar_proto::csi;
use lunar_proto::domain::{PoolStatus, Selector, WatermarkLevel};
use lunar_types::{BLOCK_BYTES, LogicalBlockSize};

use super::call::Call;
use super::create::pool_of;
use crate::capability::volume_uses;
use crate::errors::CsiError;
use crate::parameters::VolumeParameters;
use crate::sizes::{bytes_of, largest};
use crate::topology::is_met;

fn none() -> csi::GetCapacityResponse {
    csi::GetCapacityResponse { available_capacity: 0, ..csi::GetCapacityResponse::default() }
}

fn available(status: &PoolStatus) -> i64 {
    if status.level() == WatermarkLevel::Critical {
        return 0;
    }
    let free = status.fill.usable_extents.saturating_sub(status.fill.used_extents);
    let bytes = u128::from(free) * u128::from(status.pool.extent_size.bytes());
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

async fn statuses(
    call: &Call,
    parameters: Option<&VolumeParameters>,
) -> Result<Vec<PoolStatus>, CsiError> {
    let pools = match parameters {
        Some(parameters) => vec![pool_of(call, &parameters.pool).await?],
        None => call.service().pools().await?,
    };
    let mut statuses = Vec::with_capacity(pools.len());
    for pool in pools {
        statuses.push(call.service().pool_status(&Selector::Id(pool.id)).await?);
    }
    Ok(statuses)
}

/// What is free for a volume of this class.
pub(super) async fn get_capacity(
    call: Call,
    asked: csi::GetCapacityRequest,
) -> Result<csi::GetCapacityResponse, CsiError> {
    let is_served =
        asked.volume_capabilities.is_empty() || volume_uses(&asked.volume_capabilities).is_ok();
    let parameters = match asked.parameters.is_empty() {
        true => None,
        false => Some(VolumeParameters::new(&asked.parameters)?),
    };
    if !is_served {
        return Ok(none());
    }
    if let Some(topology) = &asked.accessible_topology
        && !is_met(topology, call.service().cluster().await?.id)
    {
        return Ok(none());
    }
    let block_size = parameters.as_ref().and_then(|it| it.block_size);
    let block_size = block_size.unwrap_or(LogicalBlockSize::B4096);
    let statuses = statuses(&call, parameters.as_ref()).await?;
    let fit: Vec<_> =
        statuses.iter().filter(|it| it.pool.logical_block_size <= block_size).collect();
    let most = fit.iter().map(|it| bytes_of(largest(it.pool.extent_size))).max();
    Ok(csi::GetCapacityResponse {
        available_capacity: fit.iter().map(|it| available(it)).fold(0, i64::saturating_add),
        maximum_volume_size: most,
        minimum_volume_size: most.map(|_| i64::try_from(BLOCK_BYTES).expect("4096")),
    })
}
