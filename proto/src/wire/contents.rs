//! Contents and origins of volumes on the wire.

use super::volumes::granted_epoch;
use super::{Checked, nested, parsed, required};
use crate::domain::{ContentOf, ContentState, FormatContent, Origin};
use crate::error::FieldError;
use crate::v1;

/// What the content of a volume may be.
///
/// # Errors
/// It is no such state.
pub fn content_state(field: &str, raw: i32) -> Result<ContentState, FieldError> {
    match v1::ContentState::try_from(raw) {
        Ok(v1::ContentState::Blank) => Ok(ContentState::Blank),
        Ok(v1::ContentState::Formatting) => Ok(ContentState::Formatting),
        Ok(v1::ContentState::Used) => Ok(ContentState::Used),
        Ok(v1::ContentState::Unspecified) | Err(_) => {
            Err(FieldError::new(field, format_args!("{raw} is no state of a content")))
        }
    }
}

impl From<ContentState> for v1::ContentState {
    fn from(state: ContentState) -> Self {
        match state {
            ContentState::Blank => Self::Blank,
            ContentState::Formatting => Self::Formatting,
            ContentState::Used => Self::Used,
        }
    }
}

impl From<ContentState> for v1::ContentResponse {
    fn from(state: ContentState) -> Self {
        Self { state: v1::ContentState::from(state).into() }
    }
}

impl TryFrom<v1::ContentResponse> for ContentState {
    type Error = FieldError;

    fn try_from(wire: v1::ContentResponse) -> Checked<Self> {
        content_state("state", wire.state)
    }
}

impl TryFrom<v1::Origin> for Origin {
    type Error = FieldError;

    fn try_from(wire: v1::Origin) -> Checked<Self> {
        use v1::origin::Of;
        Ok(match required("of", wire.of)? {
            Of::SnapshotId(id) => Self::Snapshot(parsed("snapshot_id", &id)?),
            Of::VolumeId(id) => Self::Volume(parsed("volume_id", &id)?),
        })
    }
}

impl From<Origin> for v1::Origin {
    fn from(origin: Origin) -> Self {
        use v1::origin::Of;
        Self {
            of: Some(match origin {
                Origin::Snapshot(id) => Of::SnapshotId(id.to_string()),
                Origin::Volume(id) => Of::VolumeId(id.to_string()),
            }),
        }
    }
}

impl TryFrom<v1::ContentRequest> for ContentOf {
    type Error = FieldError;

    fn try_from(wire: v1::ContentRequest) -> Checked<Self> {
        Ok(Self {
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            caller: nested("caller", wire.caller)?,
        })
    }
}

impl From<ContentOf> for v1::ContentRequest {
    fn from(of: ContentOf) -> Self {
        Self {
            volume_id: of.volume.to_string(),
            epoch: of.epoch.get(),
            caller: Some(of.caller.into()),
        }
    }
}

impl TryFrom<v1::FormatContentRequest> for FormatContent {
    type Error = FieldError;

    fn try_from(wire: v1::FormatContentRequest) -> Checked<Self> {
        Ok(Self { of: nested("content", wire.content)?, token: parsed("token", &wire.token)? })
    }
}

impl From<FormatContent> for v1::FormatContentRequest {
    fn from(request: FormatContent) -> Self {
        Self { content: Some(request.of.into()), token: request.token.to_string() }
    }
}
