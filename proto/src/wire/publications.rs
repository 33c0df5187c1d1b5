//! Publications on the wire.

use lunar_types::NodeId;

use super::{Checked, nested, parsed, selector};
use crate::domain::{
    LeftPublication, Publication, PublicationMode, PublishVolume, Recall, UnpublishVolume,
};
use crate::error::FieldError;
use crate::v1;

fn mode(field: &str, raw: i32) -> Checked<PublicationMode> {
    match v1::PublicationMode::try_from(raw) {
        Ok(v1::PublicationMode::Single) => Ok(PublicationMode::Single),
        Ok(v1::PublicationMode::Migratable) => Ok(PublicationMode::Migratable),
        Ok(v1::PublicationMode::Unspecified) | Err(_) => {
            Err(FieldError::new(field, format_args!("{raw} is no mode of a publication")))
        }
    }
}

impl From<PublicationMode> for v1::PublicationMode {
    fn from(mode: PublicationMode) -> Self {
        match mode {
            PublicationMode::Single => Self::Single,
            PublicationMode::Migratable => Self::Migratable,
        }
    }
}

impl TryFrom<v1::Publication> for Publication {
    type Error = FieldError;

    fn try_from(wire: v1::Publication) -> Checked<Self> {
        let node = u16::try_from(wire.node).ok().filter(|node| *node > 0);
        let node =
            node.ok_or_else(|| FieldError::new("node", format_args!("{} is no node", wire.node)))?;
        Ok(Self {
            id: parsed("publication_id", &wire.publication_id)?,
            node: NodeId::new(node),
            node_name: parsed("node_name", &wire.node_name)?,
            mode: mode("mode", wire.mode)?,
            reads_only: wire.reads_only,
            recalled: wire.recalled,
            since: wire.since_unix_seconds,
        })
    }
}

impl From<Publication> for v1::Publication {
    fn from(publication: Publication) -> Self {
        Self {
            publication_id: publication.id.to_string(),
            node: publication.node.get().into(),
            node_name: publication.node_name.to_string(),
            mode: v1::PublicationMode::from(publication.mode).into(),
            reads_only: publication.reads_only,
            recalled: publication.recalled,
            since_unix_seconds: publication.since,
        }
    }
}

impl TryFrom<v1::Recall> for Recall {
    type Error = FieldError;

    fn try_from(wire: v1::Recall) -> Checked<Self> {
        Ok(Self {
            volume: parsed("volume_id", &wire.volume_id)?,
            publication: parsed("publication_id", &wire.publication_id)?,
        })
    }
}

impl From<Recall> for v1::Recall {
    fn from(recall: Recall) -> Self {
        let (volume_id, publication_id) =
            (recall.volume.to_string(), recall.publication.to_string());
        Self { volume_id, publication_id }
    }
}

impl TryFrom<v1::PublishVolumeRequest> for PublishVolume {
    type Error = FieldError;

    fn try_from(wire: v1::PublishVolumeRequest) -> Checked<Self> {
        Ok(Self {
            volume: selector("volume", wire.volume)?,
            node: selector("node", wire.node)?,
            mode: mode("mode", wire.mode)?,
            reads_only: wire.reads_only,
        })
    }
}

impl From<PublishVolume> for v1::PublishVolumeRequest {
    fn from(request: PublishVolume) -> Self {
        Self {
            volume: Some(request.volume.into()),
            node: Some(request.node.into()),
            mode: v1::PublicationMode::from(request.mode).into(),
            reads_only: request.reads_only,
        }
    }
}

impl TryFrom<v1::UnpublishVolumeRequest> for UnpublishVolume {
    type Error = FieldError;

    fn try_from(wire: v1::UnpublishVolumeRequest) -> Checked<Self> {
        let node = wire.node.map(|node| selector("node", Some(node))).transpose()?;
        let ids = wire.publication_ids.iter().enumerate();
        let only = ids.map(|(index, id)| parsed(&format!("publication_ids[{index}]"), id));
        let only = only.collect::<Result<_, _>>()?;
        Ok(Self { volume: selector("volume", wire.volume)?, node, only })
    }
}

impl From<UnpublishVolume> for v1::UnpublishVolumeRequest {
    /// Without a wait.
    fn from(request: UnpublishVolume) -> Self {
        Self {
            volume: Some(request.volume.into()),
            node: request.node.map(Into::into),
            wait_ms: 0,
            publication_ids: request.only.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<v1::LeftPublication> for LeftPublication {
    type Error = FieldError;

    fn try_from(wire: v1::LeftPublication) -> Checked<Self> {
        Ok(Self { publication: nested("publication", wire.publication)?, why: wire.why })
    }
}

impl From<LeftPublication> for v1::LeftPublication {
    fn from(left: LeftPublication) -> Self {
        Self { publication: Some(left.publication.into()), why: left.why }
    }
}
