//! Volumes, layers and attachments on the wire.

use lunar_types::{CommitNumber, Epoch, JournalSeq, LayerId, StructureNumber, VolumeSize};

use super::contents::content_state;
use super::map::commit_number;
use super::pools::block_size_or_default;
use super::{Checked, given, list, logical_block_size, nested, parsed, selector, to_list, told};
use crate::domain::{
    Attach, Attachment, AttachmentSummary, CreateVolume, DeleteVolume, Detach, DetachMode,
    GrowVolume, Holder, Layer, LayerSealed, ResumeAttachment, RetireJournal, SealLayer, SealedHead,
    StaleJournal, Volume, VolumeState,
};
use crate::error::FieldError;
use crate::v1;

pub(super) fn volume_size(field: &str, bytes: u64) -> Checked<VolumeSize> {
    VolumeSize::from_bytes(bytes).map_err(|error| FieldError::new(field, error))
}

/// A layer that must be given: 0 is none.
pub(super) fn layer_id(field: &str, raw: u64) -> Checked<LayerId> {
    if raw == 0 { Err(FieldError::missing(field)) } else { Ok(LayerId::new(raw)) }
}

/// The epoch of a grant: 0 is a volume that was never granted.
pub(super) fn granted_epoch(field: &str, raw: u64) -> Checked<Epoch> {
    if raw == 0 { Err(FieldError::missing(field)) } else { Ok(Epoch::new(raw)) }
}

fn volume_state(field: &str, raw: i32) -> Checked<VolumeState> {
    match v1::VolumeState::try_from(raw) {
        Ok(v1::VolumeState::Creating) => Ok(VolumeState::Creating),
        Ok(v1::VolumeState::Ready) => Ok(VolumeState::Ready),
        Ok(v1::VolumeState::Deleting) => Ok(VolumeState::Deleting),
        Ok(v1::VolumeState::Unspecified) | Err(_) => {
            Err(FieldError::new(field, format_args!("{raw} is no state of a volume")))
        }
    }
}

impl From<VolumeState> for v1::VolumeState {
    fn from(state: VolumeState) -> Self {
        match state {
            VolumeState::Creating => Self::Creating,
            VolumeState::Ready => Self::Ready,
            VolumeState::Deleting => Self::Deleting,
        }
    }
}

impl TryFrom<v1::Holder> for Holder {
    type Error = FieldError;

    fn try_from(wire: v1::Holder) -> Checked<Self> {
        Ok(Self {
            node: nested("node", wire.node)?,
            node_name: parsed("node_name", &wire.node_name)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            live: wire.live,
            granted_at: wire.granted_unix_seconds,
        })
    }
}

impl From<Holder> for v1::Holder {
    fn from(holder: Holder) -> Self {
        Self {
            node: Some(holder.node.into()),
            node_name: holder.node_name.to_string(),
            epoch: holder.epoch.get(),
            live: holder.live,
            granted_unix_seconds: holder.granted_at,
        }
    }
}

impl TryFrom<v1::Volume> for Volume {
    type Error = FieldError;

    fn try_from(wire: v1::Volume) -> Checked<Self> {
        Ok(Self {
            id: parsed("volume_id", &wire.volume_id)?,
            name: parsed("name", &wire.name)?,
            pool: parsed("pool_id", &wire.pool_id)?,
            size: volume_size("size_bytes", wire.size_bytes)?,
            logical_block_size: logical_block_size("logical_block_size", wire.logical_block_size)?,
            head: layer_id("head_layer", wire.head_layer)?,
            epoch: Epoch::new(wire.epoch),
            state: volume_state("state", wire.state)?,
            restored: wire.restored,
            holder: wire.holder.map(|holder| nested("holder", Some(holder))).transpose()?,
            mapped_extents: wire.mapped_extents,
            peers: list("peers", wire.peers)?,
            moves: wire.moves,
            publications: list("publications", wire.publications)?,
            content: content_state("content", wire.content)?,
            origin: wire.origin.map(|origin| nested("origin", Some(origin))).transpose()?,
        })
    }
}

impl From<Volume> for v1::Volume {
    fn from(volume: Volume) -> Self {
        Self {
            volume_id: volume.id.to_string(),
            name: volume.name.to_string(),
            pool_id: volume.pool.to_string(),
            size_bytes: volume.size.bytes(),
            logical_block_size: volume.logical_block_size.bytes(),
            head_layer: volume.head.get(),
            epoch: volume.epoch.get(),
            state: v1::VolumeState::from(volume.state).into(),
            restored: volume.restored,
            holder: volume.holder.map(Into::into),
            mapped_extents: volume.mapped_extents,
            peers: to_list(volume.peers),
            moves: volume.moves,
            publications: to_list(volume.publications),
            content: v1::ContentState::from(volume.content).into(),
            origin: volume.origin.map(Into::into),
        }
    }
}

impl TryFrom<v1::Layer> for Layer {
    type Error = FieldError;

    fn try_from(wire: v1::Layer) -> Checked<Self> {
        Ok(Self {
            id: layer_id("layer", wire.layer)?,
            parent: (wire.parent > 0).then(|| LayerId::new(wire.parent)),
            volume: parsed("volume_id", &wire.volume_id)?,
            sealed: wire.sealed,
        })
    }
}

impl From<Layer> for v1::Layer {
    fn from(layer: Layer) -> Self {
        Self {
            layer: layer.id.get(),
            parent: layer.parent.map_or(0, LayerId::get),
            volume_id: layer.volume.to_string(),
            sealed: layer.sealed,
        }
    }
}

impl TryFrom<v1::CreateVolumeRequest> for CreateVolume {
    type Error = FieldError;

    fn try_from(wire: v1::CreateVolumeRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            name: parsed("name", &wire.name)?,
            pool: selector("pool", wire.pool)?,
            size: volume_size("size_bytes", wire.size_bytes)?,
            logical_block_size: block_size_or_default(
                "logical_block_size",
                wire.logical_block_size,
            )?,
            over_watermark: wire.over_watermark,
        })
    }
}

impl From<CreateVolume> for v1::CreateVolumeRequest {
    fn from(request: CreateVolume) -> Self {
        Self {
            request_id: request.request.to_string(),
            name: request.name.to_string(),
            pool: Some(request.pool.into()),
            size_bytes: request.size.bytes(),
            logical_block_size: request.logical_block_size.bytes(),
            over_watermark: request.over_watermark,
        }
    }
}

impl TryFrom<v1::DeleteVolumeRequest> for DeleteVolume {
    type Error = FieldError;

    fn try_from(wire: v1::DeleteVolumeRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            volume: selector("volume", wire.volume)?,
        })
    }
}

impl From<DeleteVolume> for v1::DeleteVolumeRequest {
    fn from(request: DeleteVolume) -> Self {
        Self { request_id: request.request.to_string(), volume: Some(request.volume.into()) }
    }
}

impl TryFrom<v1::GrowVolumeRequest> for GrowVolume {
    type Error = FieldError;

    fn try_from(wire: v1::GrowVolumeRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            volume: selector("volume", wire.volume)?,
            size: volume_size("size_bytes", wire.size_bytes)?,
            over_watermark: wire.over_watermark,
        })
    }
}

impl From<GrowVolume> for v1::GrowVolumeRequest {
    fn from(request: GrowVolume) -> Self {
        Self {
            request_id: request.request.to_string(),
            volume: Some(request.volume.into()),
            size_bytes: request.size.bytes(),
            over_watermark: request.over_watermark,
        }
    }
}

impl TryFrom<v1::AttachRequest> for Attach {
    type Error = FieldError;

    fn try_from(wire: v1::AttachRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            volume: selector("volume", wire.volume)?,
            caller: nested("caller", wire.caller)?,
            understands_layers: wire.understands_layers,
            accept_restored: wire.accept_restored,
            publication: given("publication_id", &wire.publication_id)?,
            for_file_system: wire.for_file_system,
        })
    }
}

impl From<Attach> for v1::AttachRequest {
    fn from(request: Attach) -> Self {
        Self {
            request_id: request.request.to_string(),
            volume: Some(request.volume.into()),
            caller: Some(request.caller.into()),
            understands_layers: request.understands_layers,
            accept_restored: request.accept_restored,
            publication_id: told(request.publication),
            for_file_system: request.for_file_system,
        }
    }
}

impl TryFrom<v1::ResumeAttachmentRequest> for ResumeAttachment {
    type Error = FieldError;

    fn try_from(wire: v1::ResumeAttachmentRequest) -> Checked<Self> {
        Ok(Self {
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            caller: nested("caller", wire.caller)?,
        })
    }
}

impl From<ResumeAttachment> for v1::ResumeAttachmentRequest {
    fn from(request: ResumeAttachment) -> Self {
        Self {
            volume_id: request.volume.to_string(),
            epoch: request.epoch.get(),
            caller: Some(request.caller.into()),
        }
    }
}

impl TryFrom<v1::StaleJournal> for StaleJournal {
    type Error = FieldError;

    fn try_from(wire: v1::StaleJournal) -> Checked<Self> {
        Ok(Self {
            epoch: granted_epoch("epoch", wire.epoch)?,
            node: nested("node", wire.node)?,
            runs: list("runs", wire.runs)?,
            checkpoint: JournalSeq::new(wire.checkpoint_seq),
            next_head: layer_id("next_head", wire.next_head)?,
        })
    }
}

impl From<StaleJournal> for v1::StaleJournal {
    fn from(journal: StaleJournal) -> Self {
        Self {
            epoch: journal.epoch.get(),
            node: Some(journal.node.into()),
            runs: to_list(journal.runs),
            checkpoint_seq: journal.checkpoint.get(),
            next_head: journal.next_head.get(),
        }
    }
}

impl TryFrom<v1::Attachment> for Attachment {
    type Error = FieldError;

    fn try_from(wire: v1::Attachment) -> Checked<Self> {
        Ok(Self {
            volume: nested("volume", wire.volume)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            node: nested("node", wire.node)?,
            layers: list("layers", wire.layers)?,
            pool: nested("pool", wire.pool)?,
            journal: list("journal", wire.journal)?,
            checkpoint: JournalSeq::new(wire.checkpoint_seq),
            stale_journals: list("stale_journals", wire.stale_journals)?,
            last_commit: CommitNumber::new(wire.last_commit),
            next_head: layer_id("next_head", wire.next_head)?,
            structure: StructureNumber::new(wire.structure),
        })
    }
}

impl From<Attachment> for v1::Attachment {
    fn from(attachment: Attachment) -> Self {
        Self {
            volume: Some(attachment.volume.into()),
            epoch: attachment.epoch.get(),
            node: Some(attachment.node.into()),
            layers: to_list(attachment.layers),
            pool: Some(attachment.pool.into()),
            journal: to_list(attachment.journal),
            checkpoint_seq: attachment.checkpoint.get(),
            stale_journals: to_list(attachment.stale_journals),
            last_commit: attachment.last_commit.get(),
            next_head: attachment.next_head.get(),
            structure: attachment.structure.get(),
        }
    }
}

impl TryFrom<v1::SealLayerRequest> for SealLayer {
    type Error = FieldError;

    fn try_from(wire: v1::SealLayerRequest) -> Checked<Self> {
        let replay_of = wire.replay_of.map(|epoch| granted_epoch("replay_of", epoch));
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            caller: nested("caller", wire.caller)?,
            number: commit_number("commit_number", wire.commit_number)?,
            checkpoint: JournalSeq::new(wire.checkpoint_seq),
            next_head: layer_id("next_head", wire.next_head)?,
            replay_of: replay_of.transpose()?,
        })
    }
}

impl From<SealLayer> for v1::SealLayerRequest {
    fn from(request: SealLayer) -> Self {
        Self {
            request_id: request.request.to_string(),
            volume_id: request.volume.to_string(),
            epoch: request.epoch.get(),
            caller: Some(request.caller.into()),
            commit_number: request.number.get(),
            checkpoint_seq: request.checkpoint.get(),
            next_head: request.next_head.get(),
            replay_of: request.replay_of.map(Epoch::get),
        }
    }
}

impl TryFrom<v1::SealedHead> for SealedHead {
    type Error = FieldError;

    fn try_from(wire: v1::SealedHead) -> Checked<Self> {
        Ok(Self {
            head: layer_id("head", wire.head)?,
            next_head: layer_id("next_head", wire.next_head)?,
            last_commit: CommitNumber::new(wire.last_commit),
        })
    }
}

impl From<SealedHead> for v1::SealedHead {
    fn from(now: SealedHead) -> Self {
        let (head, next_head) = (now.head.get(), now.next_head.get());
        Self { head, next_head, last_commit: now.last_commit.get() }
    }
}

impl TryFrom<v1::SealLayerResponse> for LayerSealed {
    type Error = FieldError;

    fn try_from(wire: v1::SealLayerResponse) -> Checked<Self> {
        Ok(Self { now: nested("now", wire.now)?, before: wire.sealed_before })
    }
}

impl From<LayerSealed> for v1::SealLayerResponse {
    fn from(sealed: LayerSealed) -> Self {
        Self { now: Some(sealed.now.into()), sealed_before: sealed.before }
    }
}

pub(super) fn detach_mode(field: &str, raw: i32) -> Checked<DetachMode> {
    match v1::DetachMode::try_from(raw) {
        Ok(v1::DetachMode::Clean) => Ok(DetachMode::Clean),
        Ok(v1::DetachMode::KeepJournal) => Ok(DetachMode::KeepJournal),
        Ok(v1::DetachMode::Unspecified) | Err(_) => {
            Err(FieldError::new(field, format_args!("{raw} is no mode of detaching")))
        }
    }
}

impl From<DetachMode> for v1::DetachMode {
    fn from(mode: DetachMode) -> Self {
        match mode {
            DetachMode::Clean => Self::Clean,
            DetachMode::KeepJournal => Self::KeepJournal,
        }
    }
}

impl TryFrom<v1::DetachRequest> for Detach {
    type Error = FieldError;

    fn try_from(wire: v1::DetachRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            caller: nested("caller", wire.caller)?,
            mode: detach_mode("mode", wire.mode)?,
        })
    }
}

impl From<Detach> for v1::DetachRequest {
    fn from(request: Detach) -> Self {
        Self {
            request_id: request.request.to_string(),
            volume_id: request.volume.to_string(),
            epoch: request.epoch.get(),
            caller: Some(request.caller.into()),
            mode: v1::DetachMode::from(request.mode).into(),
        }
    }
}

impl TryFrom<v1::RetireJournalRequest> for RetireJournal {
    type Error = FieldError;

    fn try_from(wire: v1::RetireJournalRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            caller: nested("caller", wire.caller)?,
            stale_epoch: granted_epoch("stale_epoch", wire.stale_epoch)?,
        })
    }
}

impl From<RetireJournal> for v1::RetireJournalRequest {
    fn from(request: RetireJournal) -> Self {
        Self {
            request_id: request.request.to_string(),
            volume_id: request.volume.to_string(),
            epoch: request.epoch.get(),
            caller: Some(request.caller.into()),
            stale_epoch: request.stale_epoch.get(),
        }
    }
}

impl TryFrom<v1::AttachmentSummary> for AttachmentSummary {
    type Error = FieldError;

    fn try_from(wire: v1::AttachmentSummary) -> Checked<Self> {
        Ok(Self {
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
        })
    }
}

impl From<AttachmentSummary> for v1::AttachmentSummary {
    fn from(summary: AttachmentSummary) -> Self {
        Self { volume_id: summary.volume.to_string(), epoch: summary.epoch.get() }
    }
}
