//! Pools and LUNs on the wire.

use lunar_types::{ByteCount, ExtentSize, LogicalBlockSize};

use super::to_list;
use super::{Checked, extent_size, list, logical_block_size, lun_index, nested, parsed, selector};
use crate::domain::{
    AddLuns, CreatePool, Lun, LunStatus, NewLun, Pool, PoolFill, PoolStatus, ReleaseQuarantine,
    SpaceUsage,
};
use crate::error::FieldError;
use crate::v1;

/// An extent size of which 0 is the default.
fn extent_size_or_default(field: &str, bytes: u64) -> Checked<ExtentSize> {
    if bytes == 0 { Ok(ExtentSize::DEFAULT) } else { extent_size(field, bytes) }
}

/// A logical block size of which 0 is the default.
pub(super) fn block_size_or_default(field: &str, bytes: u32) -> Checked<LogicalBlockSize> {
    if bytes == 0 { Ok(LogicalBlockSize::default()) } else { logical_block_size(field, bytes) }
}

impl TryFrom<v1::NewLun> for NewLun {
    type Error = FieldError;

    fn try_from(wire: v1::NewLun) -> Checked<Self> {
        Ok(Self {
            id: parsed("lun_id", &wire.lun_id)?,
            size: ByteCount::new(wire.size_bytes),
            logical_block_size: logical_block_size("logical_block_size", wire.logical_block_size)?,
        })
    }
}

impl From<NewLun> for v1::NewLun {
    fn from(lun: NewLun) -> Self {
        Self {
            lun_id: lun.id.to_string(),
            size_bytes: lun.size.get(),
            logical_block_size: lun.logical_block_size.bytes(),
        }
    }
}

impl TryFrom<v1::Lun> for Lun {
    type Error = FieldError;

    fn try_from(wire: v1::Lun) -> Checked<Self> {
        Ok(Self {
            id: parsed("lun_id", &wire.lun_id)?,
            index: lun_index("index", wire.index)?,
            size: ByteCount::new(wire.size_bytes),
            logical_block_size: logical_block_size("logical_block_size", wire.logical_block_size)?,
            data_extents: wire.data_extents,
        })
    }
}

impl From<Lun> for v1::Lun {
    fn from(lun: Lun) -> Self {
        Self {
            lun_id: lun.id.to_string(),
            index: u32::from(lun.index.get()),
            size_bytes: lun.size.get(),
            logical_block_size: lun.logical_block_size.bytes(),
            data_extents: lun.data_extents,
        }
    }
}

impl TryFrom<v1::Pool> for Pool {
    type Error = FieldError;

    fn try_from(wire: v1::Pool) -> Checked<Self> {
        let fencing = wire.fencing().try_into()?;
        Ok(Self {
            id: parsed("pool_id", &wire.pool_id)?,
            name: parsed("name", &wire.name)?,
            extent_size: extent_size("extent_size_bytes", wire.extent_size_bytes)?,
            luns: list("luns", wire.luns)?,
            logical_block_size: logical_block_size("logical_block_size", wire.logical_block_size)?,
            watermarks: nested("watermarks", wire.watermarks)?,
            fencing,
        })
    }
}

impl From<Pool> for v1::Pool {
    fn from(pool: Pool) -> Self {
        Self {
            pool_id: pool.id.to_string(),
            name: pool.name.to_string(),
            extent_size_bytes: pool.extent_size.bytes(),
            luns: to_list(pool.luns),
            logical_block_size: pool.logical_block_size.bytes(),
            watermarks: Some(pool.watermarks.into()),
            fencing: v1::PoolFencing::from(pool.fencing).into(),
        }
    }
}

impl TryFrom<v1::CreatePoolRequest> for CreatePool {
    type Error = FieldError;

    fn try_from(wire: v1::CreatePoolRequest) -> Checked<Self> {
        let fencing = wire.fencing().try_into()?;
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            name: parsed("name", &wire.name)?,
            extent_size: extent_size_or_default("extent_size_bytes", wire.extent_size_bytes)?,
            luns: list("luns", wire.luns)?,
            fencing,
        })
    }
}

impl From<CreatePool> for v1::CreatePoolRequest {
    fn from(request: CreatePool) -> Self {
        Self {
            request_id: request.request.to_string(),
            name: request.name.to_string(),
            extent_size_bytes: request.extent_size.bytes(),
            luns: to_list(request.luns),
            fencing: v1::PoolFencing::from(request.fencing).into(),
        }
    }
}

impl TryFrom<v1::AddLunsRequest> for AddLuns {
    type Error = FieldError;

    fn try_from(wire: v1::AddLunsRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            pool: selector("pool", wire.pool)?,
            luns: list("luns", wire.luns)?,
        })
    }
}

impl From<AddLuns> for v1::AddLunsRequest {
    fn from(request: AddLuns) -> Self {
        Self {
            request_id: request.request.to_string(),
            pool: Some(request.pool.into()),
            luns: to_list(request.luns),
        }
    }
}

impl TryFrom<v1::ReleaseQuarantineRequest> for ReleaseQuarantine {
    type Error = FieldError;

    fn try_from(wire: v1::ReleaseQuarantineRequest) -> Checked<Self> {
        Ok(Self { pool: selector("pool", wire.pool)?, confirm: parsed("confirm", &wire.confirm)? })
    }
}

impl From<ReleaseQuarantine> for v1::ReleaseQuarantineRequest {
    fn from(request: ReleaseQuarantine) -> Self {
        Self { pool: Some(request.pool.into()), confirm: request.confirm.to_string() }
    }
}

impl From<v1::SpaceUsage> for SpaceUsage {
    fn from(wire: v1::SpaceUsage) -> Self {
        Self {
            total_extents: wire.total_extents,
            allocated_extents: wire.allocated_extents,
            reserved_extents: wire.reserved_extents,
            journal_extents: wire.journal_extents,
            held_back_extents: wire.held_back_extents,
            quarantined_extents: wire.quarantined_extents,
        }
    }
}

impl From<SpaceUsage> for v1::SpaceUsage {
    fn from(usage: SpaceUsage) -> Self {
        Self {
            total_extents: usage.total_extents,
            allocated_extents: usage.allocated_extents,
            reserved_extents: usage.reserved_extents,
            journal_extents: usage.journal_extents,
            free_extents: usage.free_extents(),
            held_back_extents: usage.held_back_extents,
            quarantined_extents: usage.quarantined_extents,
        }
    }
}

impl TryFrom<v1::LunStatus> for LunStatus {
    type Error = FieldError;

    fn try_from(wire: v1::LunStatus) -> Checked<Self> {
        Ok(Self { lun: nested("lun", wire.lun)?, usage: wire.usage.unwrap_or_default().into() })
    }
}

impl From<LunStatus> for v1::LunStatus {
    fn from(status: LunStatus) -> Self {
        Self { lun: Some(status.lun.into()), usage: Some(status.usage.into()) }
    }
}

impl TryFrom<v1::PoolStatus> for PoolStatus {
    type Error = FieldError;

    fn try_from(wire: v1::PoolStatus) -> Checked<Self> {
        Ok(Self {
            pool: nested("pool", wire.pool)?,
            usage: wire.usage.unwrap_or_default().into(),
            fill: PoolFill { used_extents: wire.used_extents, usable_extents: wire.usable_extents },
            provisioned: ByteCount::new(wire.provisioned_bytes),
            volumes: wire.volumes,
            luns: list("luns", wire.luns)?,
        })
    }
}

impl From<PoolStatus> for v1::PoolStatus {
    fn from(status: PoolStatus) -> Self {
        let level = v1::WatermarkLevel::from(status.level());
        Self {
            pool: Some(status.pool.into()),
            usage: Some(status.usage.into()),
            provisioned_bytes: status.provisioned.get(),
            volumes: status.volumes,
            luns: to_list(status.luns),
            used_extents: status.fill.used_extents,
            usable_extents: status.fill.usable_extents,
            level: level.into(),
        }
    }
}
