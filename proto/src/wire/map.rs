//! Slots, map commits and reservations on the wire.

use lunar_types::{
    CommitNumber, Epoch, ExtentAddress, ExtentSize, Freed, JournalSeq, LogicalExtent, Presence,
    Slot, SlotPlace,
};

use super::volumes::{granted_epoch, layer_id};
use super::{Checked, extent_size, list, nested, parsed, required, to_list};
use crate::domain::{
    COMMIT_UPDATES_MAX, CommitMap, LAYER_PARTS_MAX, LayerEntry, LayerPage, LayerPart,
    PRUNE_PARTS_MAX, PoolReservation, PruneLayer, PrunedPart, PrunedParts, READ_LAYER_MAX,
    RELEASE_EXTENTS_MAX, RELEASE_RUNS_MAX, RESERVE_EXTENTS_MAX, ReadLayer, ReleaseExtents,
    ReserveExtents, SlotUpdate,
};
use crate::error::FieldError;
use crate::v1;

fn presence(size: ExtentSize, full: bool, words: &[u64]) -> Checked<Presence> {
    match (full, words) {
        (true, []) => Ok(Presence::full(size)),
        (true, _) => Err(FieldError::new("presence", "a full slot carries no words")),
        (false, []) => Ok(Presence::empty(size)),
        (false, words) => Presence::from_words(size, words).ok_or_else(|| {
            FieldError::new("presence", format_args!("the words do not fit an extent of {size}"))
        }),
    }
}

/// A slot from the wire; the extent size says how many presence bits it has.
fn slot_from_wire(wire: v1::Slot, size: ExtentSize) -> Checked<Slot> {
    let presence = presence(size, wire.full, &wire.presence)?;
    let place = match required("place", wire.place)? {
        v1::slot::Place::Extent(at) => {
            SlotPlace::Extent(ExtentAddress::try_from(at).map_err(|error| error.within("extent"))?)
        }
        v1::slot::Place::Zero(v1::ZeroPlace {}) if presence.is_empty() => SlotPlace::Zero,
        v1::slot::Place::Zero(v1::ZeroPlace {}) => {
            return Err(FieldError::new("presence", "a ZERO slot has no block present"));
        }
    };
    Ok(Slot { place, opaque: wire.opaque, presence })
}

impl From<Slot> for v1::Slot {
    fn from(slot: Slot) -> Self {
        let full = slot.presence.is_full();
        let bare = full || slot.presence.is_empty();
        let place = match slot.place {
            SlotPlace::Extent(at) => v1::slot::Place::Extent(at.into()),
            SlotPlace::Zero => v1::slot::Place::Zero(v1::ZeroPlace {}),
        };
        let presence = if bare { Vec::new() } else { slot.presence.words().to_vec() };
        Self { place: Some(place), opaque: slot.opaque, full, presence }
    }
}

/// The number of a commit: 0 is before the first.
pub(super) fn commit_number(field: &str, raw: u64) -> Checked<CommitNumber> {
    if raw == 0 { Err(FieldError::missing(field)) } else { Ok(CommitNumber::new(raw)) }
}

fn slot_update(wire: v1::SlotUpdate, size: ExtentSize) -> Checked<SlotUpdate> {
    let slot = wire.slot.map(|slot| slot_from_wire(slot, size)).transpose();
    let slot = slot.map_err(|error| error.within("slot"))?;
    Ok(SlotUpdate { at: LogicalExtent::new(wire.logical_extent), slot })
}

impl TryFrom<v1::CommitMapRequest> for CommitMap {
    type Error = FieldError;

    fn try_from(wire: v1::CommitMapRequest) -> Checked<Self> {
        let size = extent_size("extent_size_bytes", wire.extent_size_bytes)?;
        if wire.updates.len() > COMMIT_UPDATES_MAX {
            let problem = format_args!("{} are beyond {COMMIT_UPDATES_MAX}", wire.updates.len());
            return Err(FieldError::new("updates", problem));
        }
        let update = |(index, update)| {
            slot_update(update, size)
                .map_err(|error: FieldError| error.within(&format!("updates[{index}]")))
        };
        let replay_of = wire.replay_of.map(|epoch| granted_epoch("replay_of", epoch));
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            caller: nested("caller", wire.caller)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            number: commit_number("commit_number", wire.commit_number)?,
            layer: layer_id("layer", wire.layer)?,
            extent_size: size,
            updates: wire.updates.into_iter().enumerate().map(update).collect::<Checked<_>>()?,
            checkpoint: wire.checkpoint_seq.map(JournalSeq::new),
            replay_of: replay_of.transpose()?,
        })
    }
}

impl From<CommitMap> for v1::CommitMapRequest {
    fn from(request: CommitMap) -> Self {
        let update = |update: SlotUpdate| v1::SlotUpdate {
            logical_extent: update.at.get(),
            slot: update.slot.map(Into::into),
        };
        Self {
            request_id: request.request.to_string(),
            caller: Some(request.caller.into()),
            volume_id: request.volume.to_string(),
            epoch: request.epoch.get(),
            layer: request.layer.get(),
            updates: request.updates.into_iter().map(update).collect(),
            checkpoint_seq: request.checkpoint.map(JournalSeq::get),
            replay_of: request.replay_of.map(Epoch::get),
            extent_size_bytes: request.extent_size.bytes(),
            commit_number: request.number.get(),
        }
    }
}

fn read_limit(limit: u32) -> Checked<usize> {
    match limit as usize {
        0 => Ok(READ_LAYER_MAX),
        limit if limit <= READ_LAYER_MAX => Ok(limit),
        limit => {
            let problem = format_args!("{limit} is beyond {READ_LAYER_MAX}");
            Err(FieldError::new("limit", problem))
        }
    }
}

impl TryFrom<v1::ReadLayerRequest> for ReadLayer {
    type Error = FieldError;

    fn try_from(wire: v1::ReadLayerRequest) -> Checked<Self> {
        let limit = read_limit(wire.limit)?;
        let layer = layer_id("layer", wire.layer)?;
        Ok(Self { layer, from: LogicalExtent::new(wire.from), limit })
    }
}

impl From<ReadLayer> for v1::ReadLayerRequest {
    fn from(request: ReadLayer) -> Self {
        Self {
            layer: request.layer.get(),
            from: request.from.get(),
            limit: u32::try_from(request.limit).unwrap_or(u32::MAX),
        }
    }
}

fn layer_part(wire: v1::LayerPart, size: ExtentSize) -> Checked<LayerPart> {
    let birth = layer_id("birth", wire.birth)?;
    let slot = slot_from_wire(required("slot", wire.slot)?, size);
    Ok(LayerPart { birth, slot: slot.map_err(|error| error.within("slot"))? })
}

fn layer_entry(wire: v1::LayerEntry, size: ExtentSize) -> Checked<LayerEntry> {
    let own = wire.own.map(|slot| slot_from_wire(slot, size)).transpose();
    let own = own.map_err(|error| error.within("own"))?;
    let part = |(index, part)| {
        layer_part(part, size).map_err(|error| error.within(&format!("parts[{index}]")))
    };
    let parts: Vec<_> = wire.parts.into_iter().enumerate().map(part).collect::<Checked<_>>()?;
    if parts.len() > LAYER_PARTS_MAX {
        let problem = format_args!("{} are beyond {LAYER_PARTS_MAX}", parts.len());
        return Err(FieldError::new("parts", problem));
    }
    if !parts.is_sorted_by(|below, above| below.birth < above.birth) {
        return Err(FieldError::new("parts", "they are not in ascending order of their births"));
    }
    if own.is_none() && parts.is_empty() {
        return Err(FieldError::new("own", "there is neither an own slot nor a part"));
    }
    Ok(LayerEntry { at: LogicalExtent::new(wire.logical_extent), own, parts })
}

impl TryFrom<v1::ReadLayerResponse> for LayerPage {
    type Error = FieldError;

    fn try_from(wire: v1::ReadLayerResponse) -> Checked<Self> {
        let size = extent_size("extent_size_bytes", wire.extent_size_bytes)?;
        let entry = |(index, entry)| {
            layer_entry(entry, size).map_err(|error| error.within(&format!("entries[{index}]")))
        };
        Ok(Self {
            entries: wire.entries.into_iter().enumerate().map(entry).collect::<Checked<_>>()?,
            next: wire.next.map(LogicalExtent::new),
            extent_size: size,
        })
    }
}

impl From<LayerPage> for v1::ReadLayerResponse {
    fn from(page: LayerPage) -> Self {
        let part = |part: LayerPart| v1::LayerPart {
            birth: part.birth.get(),
            slot: Some(part.slot.into()),
        };
        let entry = |entry: LayerEntry| v1::LayerEntry {
            logical_extent: entry.at.get(),
            own: entry.own.map(Into::into),
            parts: entry.parts.into_iter().map(part).collect(),
        };
        Self {
            entries: page.entries.into_iter().map(entry).collect(),
            next: page.next.map(LogicalExtent::get),
            extent_size_bytes: page.extent_size.bytes(),
        }
    }
}

impl TryFrom<v1::PruneLayerRequest> for PruneLayer {
    type Error = FieldError;

    fn try_from(wire: v1::PruneLayerRequest) -> Checked<Self> {
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            caller: nested("caller", wire.caller)?,
            volume: parsed("volume_id", &wire.volume_id)?,
            epoch: granted_epoch("epoch", wire.epoch)?,
            layer: layer_id("layer", wire.layer)?,
            from: LogicalExtent::new(wire.from),
        })
    }
}

impl From<PruneLayer> for v1::PruneLayerRequest {
    fn from(request: PruneLayer) -> Self {
        Self {
            request_id: request.request.to_string(),
            caller: Some(request.caller.into()),
            volume_id: request.volume.to_string(),
            epoch: request.epoch.get(),
            layer: request.layer.get(),
            from: request.from.get(),
        }
    }
}

impl TryFrom<v1::PrunedPart> for PrunedPart {
    type Error = FieldError;

    fn try_from(wire: v1::PrunedPart) -> Checked<Self> {
        let extent = wire.extent.map(ExtentAddress::try_from).transpose();
        Ok(Self {
            at: LogicalExtent::new(wire.logical_extent),
            birth: layer_id("birth", wire.birth)?,
            extent: extent.map_err(|error| error.within("extent"))?,
        })
    }
}

impl From<PrunedPart> for v1::PrunedPart {
    fn from(part: PrunedPart) -> Self {
        Self {
            logical_extent: part.at.get(),
            birth: part.birth.get(),
            extent: part.extent.map(Into::into),
        }
    }
}

impl TryFrom<v1::PruneLayerResponse> for PrunedParts {
    type Error = FieldError;

    fn try_from(wire: v1::PruneLayerResponse) -> Checked<Self> {
        if wire.parts.len() > PRUNE_PARTS_MAX {
            let problem = format_args!("{} are beyond {PRUNE_PARTS_MAX}", wire.parts.len());
            return Err(FieldError::new("parts", problem));
        }
        let parts: Vec<PrunedPart> = list("parts", wire.parts)?;
        if parts.windows(2).any(|two| (two[0].at, two[0].birth) >= (two[1].at, two[1].birth)) {
            let problem = "they are not in order of logical extent and birth";
            return Err(FieldError::new("parts", problem));
        }
        let next = wire.next.map(LogicalExtent::new);
        Ok(Self { parts, next, freed: freed(wire.give_back_freed) })
    }
}

impl From<PrunedParts> for v1::PruneLayerResponse {
    fn from(pruned: PrunedParts) -> Self {
        Self {
            parts: to_list(pruned.parts),
            next: pruned.next.map(LogicalExtent::get),
            give_back_freed: pruned.freed == Freed::GiveBack,
        }
    }
}

const fn freed(give_back: bool) -> Freed {
    if give_back { Freed::GiveBack } else { Freed::UseAgain }
}

impl From<v1::CommitMapResponse> for Freed {
    fn from(wire: v1::CommitMapResponse) -> Self {
        freed(wire.give_back_freed)
    }
}

impl From<Freed> for v1::CommitMapResponse {
    fn from(freed: Freed) -> Self {
        Self { give_back_freed: freed == Freed::GiveBack }
    }
}

impl TryFrom<v1::ReserveExtentsRequest> for ReserveExtents {
    type Error = FieldError;

    fn try_from(wire: v1::ReserveExtentsRequest) -> Checked<Self> {
        if wire.count == 0 || wire.count > RESERVE_EXTENTS_MAX {
            let problem = format_args!("{} is not from 1 to {RESERVE_EXTENTS_MAX}", wire.count);
            return Err(FieldError::new("count", problem));
        }
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            caller: nested("caller", wire.caller)?,
            pool: parsed("pool_id", &wire.pool_id)?,
            count: wire.count,
        })
    }
}

impl From<ReserveExtents> for v1::ReserveExtentsRequest {
    fn from(request: ReserveExtents) -> Self {
        Self {
            request_id: request.request.to_string(),
            caller: Some(request.caller.into()),
            pool_id: request.pool.to_string(),
            count: request.count,
        }
    }
}

impl TryFrom<v1::ReleaseExtentsRequest> for ReleaseExtents {
    type Error = FieldError;

    fn try_from(wire: v1::ReleaseExtentsRequest) -> Checked<Self> {
        let extents: u64 = wire.runs.iter().map(|run| u64::from(run.count)).sum();
        if wire.runs.len() > RELEASE_RUNS_MAX || extents > RELEASE_EXTENTS_MAX {
            let problem = format_args!(
                "{} runs of {extents} extents are beyond {RELEASE_RUNS_MAX} runs or \
                 {RELEASE_EXTENTS_MAX} extents",
                wire.runs.len()
            );
            return Err(FieldError::new("runs", problem));
        }
        Ok(Self {
            request: parsed("request_id", &wire.request_id)?,
            caller: nested("caller", wire.caller)?,
            pool: parsed("pool_id", &wire.pool_id)?,
            runs: list("runs", wire.runs)?,
        })
    }
}

impl From<ReleaseExtents> for v1::ReleaseExtentsRequest {
    fn from(request: ReleaseExtents) -> Self {
        Self {
            request_id: request.request.to_string(),
            caller: Some(request.caller.into()),
            pool_id: request.pool.to_string(),
            runs: to_list(request.runs),
        }
    }
}

impl TryFrom<v1::PoolReservation> for PoolReservation {
    type Error = FieldError;

    fn try_from(wire: v1::PoolReservation) -> Checked<Self> {
        Ok(Self { pool: parsed("pool_id", &wire.pool_id)?, runs: list("runs", wire.runs)? })
    }
}

impl From<PoolReservation> for v1::PoolReservation {
    fn from(reservation: PoolReservation) -> Self {
        Self { pool_id: reservation.pool.to_string(), runs: to_list(reservation.runs) }
    }
}
