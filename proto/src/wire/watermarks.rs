//! Watermarks of pools on the wire.

use super::{Checked, parsed, selector};
use crate::domain::{SetWatermarks, WatermarkLevel, Watermarks};
use crate::error::FieldError;
use crate::v1;

fn percent(field: &str, value: u32) -> Checked<u8> {
    match u8::try_from(value) {
        Ok(percent @ 1..=100) => Ok(percent),
        _ => Err(FieldError::new(field, format_args!("{value} is not from 1 to 100"))),
    }
}

impl TryFrom<v1::Watermarks> for Watermarks {
    type Error = FieldError;

    fn try_from(wire: v1::Watermarks) -> Checked<Self> {
        let marks = Self::new(
            percent("warning_percent", wire.warning_percent)?,
            percent("high_percent", wire.high_percent)?,
            percent("critical_percent", wire.critical_percent)?,
        );
        marks.map_err(|error| FieldError::new("warning_percent", error))
    }
}

impl From<Watermarks> for v1::Watermarks {
    fn from(marks: Watermarks) -> Self {
        Self {
            warning_percent: marks.warning().into(),
            high_percent: marks.high().into(),
            critical_percent: marks.critical().into(),
        }
    }
}

impl TryFrom<v1::SetWatermarksRequest> for SetWatermarks {
    type Error = FieldError;

    fn try_from(wire: v1::SetWatermarksRequest) -> Checked<Self> {
        let percent = |field, value: Option<u32>| value.map(|value| percent(field, value));
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            pool: selector("pool", wire.pool)?,
            warning: percent("warning_percent", wire.warning_percent).transpose()?,
            high: percent("high_percent", wire.high_percent).transpose()?,
            critical: percent("critical_percent", wire.critical_percent).transpose()?,
        })
    }
}

impl From<SetWatermarks> for v1::SetWatermarksRequest {
    fn from(request: SetWatermarks) -> Self {
        Self {
            request_id: request.request.to_string(),
            pool: Some(request.pool.into()),
            warning_percent: request.warning.map(u32::from),
            high_percent: request.high.map(u32::from),
            critical_percent: request.critical.map(u32::from),
        }
    }
}

impl From<WatermarkLevel> for v1::WatermarkLevel {
    fn from(level: WatermarkLevel) -> Self {
        match level {
            WatermarkLevel::Normal => Self::Normal,
            WatermarkLevel::Warning => Self::Warning,
            WatermarkLevel::High => Self::High,
            WatermarkLevel::Critical => Self::Critical,
        }
    }
}
