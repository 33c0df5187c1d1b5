//! ControllerPublishVolume and ControllerUnpublishVolume: the leave of a node to attach a volume
//! (`docs/csi.md`, *Publications*).
//!
//! - The node is given the publication's id, which is never used again: who comes late with an old
//!   one gets nothing.
//! - An unpublish is answered when no publication is left: the node holds nothing of the volume by
//!   then. Until that it is ABORTED, and says whom it waits for.

use std::collections::HashMap;

use lunar_proto::csi;
use lunar_proto::domain::{LeftPublication, Publication, PublishVolume, Selector, UnpublishVolume};
use lunar_types::{Name, NodeId, VolumeId};

use super::call::Call;
use super::ids::{find_volume, id_of, require, shown, volume_id};
use crate::capability::volume_use;
use crate::errors::CsiError;
use crate::publication::PUBLICATION_KEY;

/// Gives a node the leave to attach a volume.
pub(super) async fn publish(
    call: Call,
    asked: csi::ControllerPublishVolumeRequest,
) -> Result<csi::ControllerPublishVolumeResponse, CsiError> {
    require("volume_id", &asked.volume_id)?;
    require("node_id", &asked.node_id)?;
    let missing = || CsiError::invalid("volume_capability is missing");
    let asked_use = volume_use(asked.volume_capability.as_ref().ok_or_else(missing)?)?;
    let volume = volume_id(&asked.volume_id)?;
    let node: Name = asked.node_id.parse().map_err(|_| {
        CsiError::not_found(format!("there is no node {:?}", shown(&asked.node_id)))
    })?;
    let publish = PublishVolume {
        volume: Selector::Id(volume),
        node: Selector::Name(node),
        mode: asked_use.mode,
        reads_only: asked.readonly || asked_use.reads_only,
    };
    let publication = call.service().publish_volume(&publish).await?;
    let publish_context = HashMap::from([(PUBLICATION_KEY.to_owned(), publication.id.to_string())]);
    Ok(csi::ControllerPublishVolumeResponse { publish_context })
}

/// What is to be taken back; nothing if that is none of ours.
fn asked_back(asked: &csi::ControllerUnpublishVolumeRequest) -> Option<UnpublishVolume> {
    let volume = Selector::Id(id_of::<VolumeId>(&asked.volume_id)?);
    let node: Option<Selector<NodeId>> = match asked.node_id.as_str() {
        "" => None,
        name => Some(Selector::Name(name.parse().ok()?)),
    };
    Some(UnpublishVolume { volume, node, only: Vec::new() })
}

fn still_left(left: &[LeftPublication]) -> CsiError {
    let why: Vec<&str> = left.iter().map(|it| it.why.as_str()).collect();
    CsiError::aborted(format!("the volume is being taken back: {}", why.join("; ")))
}

/// Takes the leave back, and waits until it is.
pub(super) async fn unpublish(
    call: Call,
    asked: csi::ControllerUnpublishVolumeRequest,
) -> Result<csi::ControllerUnpublishVolumeResponse, CsiError> {
    require("volume_id", &asked.volume_id)?;
    let done = csi::ControllerUnpublishVolumeResponse {};
    let Some(request) = asked_back(&asked) else { return Ok(done) };
    // What is published after this look is not meant, however late the request comes.
    let Some(volume) = find_volume(&call, &request.volume).await? else { return Ok(done) };
    let is_meant =
        |it: &&Publication| asked.node_id.is_empty() || it.node_name.as_str() == asked.node_id;
    let only: Vec<_> = volume.publications.iter().filter(is_meant).map(|it| it.id).collect();
    if only.is_empty() {
        return Ok(done);
    }
    let request = UnpublishVolume { only, ..request };
    let mut left: Option<Vec<LeftPublication>> = None;
    while let Some((service, wait)) = call.waiting() {
        let still = service.unpublish_volume(&request, wait).await?;
        if still.is_empty() {
            return Ok(done);
        }
        left = Some(still);
    }
    Err(left.map_or_else(
        || CsiError::unavailable("the call leaves no time to take the volume back: give it more"),
        |left| still_left(&left),
    ))
}
