//! Figures of space on the wire.

use super::{Checked, extent_size, required, selector};
use crate::domain::{Usage, UsageOf};
use crate::error::FieldError;
use crate::v1;

impl TryFrom<v1::GetUsageRequest> for UsageOf {
    type Error = FieldError;

    fn try_from(wire: v1::GetUsageRequest) -> Checked<Self> {
        use v1::get_usage_request::Of;
        Ok(match required("of", wire.of)? {
            Of::Volume(volume) => Self::Volume(selector("volume", Some(volume))?),
            Of::Snapshot(snapshot) => Self::Snapshot(selector("snapshot", Some(snapshot))?),
        })
    }
}

impl From<UsageOf> for v1::GetUsageRequest {
    fn from(of: UsageOf) -> Self {
        use v1::get_usage_request::Of;
        let of = match of {
            UsageOf::Volume(volume) => Of::Volume(volume.into()),
            UsageOf::Snapshot(snapshot) => Of::Snapshot(snapshot.into()),
        };
        Self { of: Some(of) }
    }
}

impl TryFrom<v1::Usage> for Usage {
    type Error = FieldError;

    fn try_from(wire: v1::Usage) -> Checked<Self> {
        let v1::Usage { unique_extents, referenced_extents, reclaimable_extents, .. } = wire;
        if unique_extents > referenced_extents {
            let problem = format_args!("{unique_extents} is more than {referenced_extents} in all");
            return Err(FieldError::new("unique_extents", problem));
        }
        if reclaimable_extents < unique_extents {
            let problem = format_args!("{reclaimable_extents} is less than {unique_extents}");
            return Err(FieldError::new("reclaimable_extents", problem));
        }
        Ok(Self {
            extent_size: extent_size("extent_size_bytes", wire.extent_size_bytes)?,
            owned_extents: wire.owned_extents,
            unique_extents,
            reclaimable_extents,
            referenced_extents,
            is_approximate: wire.is_approximate,
        })
    }
}

impl From<Usage> for v1::Usage {
    fn from(usage: Usage) -> Self {
        Self {
            extent_size_bytes: usage.extent_size.bytes(),
            owned_extents: usage.owned_extents,
            unique_extents: usage.unique_extents,
            reclaimable_extents: usage.reclaimable_extents,
            referenced_extents: usage.referenced_extents,
            is_approximate: usage.is_approximate,
        }
    }
}
