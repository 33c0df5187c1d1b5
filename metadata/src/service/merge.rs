//! Merging a dropped layer into the only one that stands on it, slot by slot.
//!
//! Invariants:
//! - slots move only upwards, all of a logical extent in one transaction as far as there is room
//!   for them, the youngest first: what is in a layer is older than all that is above it, and
//!   whoever reads a chain from its bottom up misses nothing;
//! - a slot that moves keeps its birth and its value; chains are read in descending order of birth,
//!   so no view changes;
//! - a slot goes only when it is hidden by slots of sealed layers, or by own slots of a head that
//!   nobody holds and no journal is left of. What a holder's own slots hide is moved, and pruned by
//!   the holder: reads of it may be under way;
//! - a commit of a holder neither reads nor writes what a moving step writes: the slots of the
//!   layer below, parts, sums of parts (apart from the layer's record), what is free. Only the last
//!   step writes the record of the layer above;
//! - a layer has at most [`LAYER_PARTS_MAX`] parts at a logical extent; what there is no room for
//!   is left behind, and the merge goes on at the next logical extent.
//!
//! A step goes on where the last one ended: that is in the operation's record, so what was left
//! behind is read once a pass. Slots may come from further below meanwhile, also behind it. So the
//! layer is looked at as a whole before it goes, and a pass that left nothing begins again.

use lunar_proto::domain::{LAYER_PARTS_MAX, LayerEntry, OperationId, ReadLayer};
use lunar_types::{ExtentRun, LayerId, LogicalExtent, SlotPlace, VolumeId};

use super::attachments::oldest_stale;
use super::cover::Cover;
use super::drop_layer::forget_name;
use super::horizon::free_mapped;
use super::layers::{add_parts, count_slot, remove_parts};
use super::read_layer::{downwards, read_own, read_parts, read_window};
use super::waits::Moved;
use crate::error::ServiceError;
use crate::keyspace::{
    AttachmentKey, ChildKey, KeyedTxn, LayerKey, LayerName, LayerPartsKey, LayerRecord, MergePass,
    OperationKey, OperationRecord, PartKey, Present, SlotDigest, SlotKey, SlotValue, VolumeKey,
    parts_of, slots_of,
};
use crate::store::Txn;

/// Slots that one step moves or removes.
const SLOTS_PER_STEP: usize = 400;
/// Parts of the layer above that one step reads.
const PARTS_PER_STEP: usize = 4000;

/// A layer and its record.
pub(super) struct Known {
    pub(super) id: LayerId,
    pub(super) record: LayerRecord,
}

/// A merge of one layer into another, for the length of one step.
struct Merge<'a, T> {
    txn: &'a T,
    operation: OperationRecord,
    id: OperationId,
    below: Known,
    above: Known,
}

/// What a step does, before it is written.
#[derive(Default)]
struct Moves {
    /// Parts that leave the layer below.
    leaving: Vec<(PartKey, SlotValue)>,
    /// Parts that come into the layer above.
    coming: Vec<(PartKey, SlotValue)>,
    /// Extents of slots that are hidden.
    freed: Vec<ExtentRun>,
    /// Whether the layer below has fewer slots.
    is_any: bool,
}

/// Does one step of merging a layer into its only child; says what it has moved.
pub(super) async fn step_merge<T: Txn>(
    txn: &T,
    (id, operation): (OperationId, OperationRecord),
    below: Known,
    into: LayerId,
) -> Result<Option<Moved>, ServiceError> {
    let key = LayerKey { layer: into };
    let record = txn.load_known(&key).await?;
    if record.parent != Some(below.id) || record.pool != below.record.pool {
        let problem = format!("layer {} lists it, and it stands on {:?}", below.id, record.parent);
        return Err(ServiceError::corrupt(format!("{key:?}"), problem));
    }
    let above = Known { id: into, record };
    Merge { txn, operation, id, below, above }.step().await
}

impl<T: Txn> Merge<'_, T> {
    async fn step(mut self) -> Result<Option<Moved>, ServiceError> {
        let pass = self.operation.pass;
        if pass.waits || pass.into != Some(self.above.id) {
            self.operation.pass = MergePass::begin(Some(self.above.id));
        }
        let from = self.operation.pass.from;
        // One logical extent more than the limit always fits.
        let limit = SLOTS_PER_STEP - LAYER_PARTS_MAX;
        let read = ReadLayer { layer: self.below.id, from, limit };
        let (entries, next) = read_window(self.txn, read).await?.into_page(limit);
        if entries.is_empty() {
            self.end_pass().await?;
            return Ok(None);
        }
        self.move_slots(&entries, next).await
    }

    async fn move_slots(
        mut self,
        entries: &[LayerEntry],
        next: Option<LogicalExtent>,
    ) -> Result<Option<Moved>, ServiceError> {
        let own_hide = own_slots_hide(self.txn, &self.above).await?;
        let mut moves = Moves::default();
        let mut parts_read = 0;
        for (index, entry) in entries.iter().enumerate() {
            let above = self.read_above(entry.at, own_hide).await?;
            self.move_extent(entry, &above, &mut moves)?;
            parts_read += above.parts.len();
            let following = entries.get(index + 1).map(|entry| entry.at);
            self.operation.pass.from =
                following.or(next).unwrap_or_else(|| LogicalExtent::new(entry.at.get() + 1));
            if parts_read > PARTS_PER_STEP - LAYER_PARTS_MAX {
                break;
            }
        }
        self.write(moves).await
    }

    /// What the layer above has at a logical extent, as far as it hides.
    async fn read_above(
        &self,
        at: LogicalExtent,
        own_hide: bool,
    ) -> Result<LayerEntry, ServiceError> {
        let layer = self.above.id;
        let own = match own_hide {
            true => read_own(self.txn, layer, at).await?,
            false => None,
        };
        Ok(LayerEntry { at, own, parts: read_parts(self.txn, layer, at).await? })
    }

    /// Decides what becomes of all slots of one logical extent.
    fn move_extent(
        &mut self,
        entry: &LayerEntry,
        above: &LayerEntry,
        moves: &mut Moves,
    ) -> Result<(), ServiceError> {
        let (below, into, at) = (self.below.id, self.above.id, entry.at);
        let highest = downwards(below, entry).next().map(|(birth, _)| birth);
        if above.parts.first().map(|part| part.birth) <= highest && !above.parts.is_empty() {
            let problem = format!("at {at} it has parts as old as those of layer {below} below it");
            return Err(ServiceError::corrupt(format!("layer {into}"), problem));
        }
        let kept = self.kept(entry, above);
        let (moving, staying) = kept.split_at(kept.len().min(LAYER_PARTS_MAX - above.parts.len()));
        self.operation.pass.left += u64::from(!staying.is_empty());
        let leaving = downwards(below, entry).filter(|(birth, _)| !staying.contains(birth));
        for (birth, slot) in leaving {
            moves.is_any = true;
            let value = SlotValue(slot.clone());
            if moving.contains(&birth) {
                moves.coming.push((PartKey { layer: into, at, birth }, value.clone()));
            } else {
                moves.freed.extend(slot.extent().map(|extent| ExtentRun::new(extent, 1)));
            }
            if birth == below {
                let key = SlotKey { layer: below, at };
                count_slot(&mut self.below.record, &key, Some(&value), None)?;
                self.txn.remove(&key);
            } else {
                moves.leaving.push((PartKey { layer: below, at, birth }, value));
            }
        }
        Ok(())
    }

    /// The births of the slots that nothing hides, the youngest first. A ZERO slot at the bottom
    /// says what its absence says too, and what is older is hidden by it.
    fn kept(&self, entry: &LayerEntry, above: &LayerEntry) -> Vec<LayerId> {
        let mut cover = Cover::default();
        downwards(self.above.id, above).for_each(|(_, slot)| cover.add(slot));
        let at_bottom = self.below.record.parent.is_none();
        let mut kept = Vec::new();
        for (birth, slot) in downwards(self.below.id, entry) {
            let needless = at_bottom && slot.place == SlotPlace::Zero;
            if !needless && !cover.hides(slot) {
                kept.push(birth);
            }
            cover.add(slot);
        }
        kept
    }

    async fn write(self, moves: Moves) -> Result<Option<Moved>, ServiceError> {
        let Self { txn, below, above, .. } = &self;
        free_mapped(*txn, below.record.pool, &moves.freed).await?;
        remove_parts(*txn, &LayerPartsKey { layer: below.id }, &moves.leaving).await?;
        add_parts(*txn, &LayerPartsKey { layer: above.id }, &moves.coming).await?;
        txn.put(&LayerKey { layer: below.id }, &below.record);
        txn.put(&OperationKey { operation: self.id }, &self.operation);
        let into = (!moves.coming.is_empty()).then_some(above.id);
        Ok(moves.is_any.then_some(Moved { below: below.id, into }))
    }

    /// Nothing is left from here on: the layer goes, or the next pass begins, at once or later.
    async fn end_pass(mut self) -> Result<(), ServiceError> {
        let layer = self.below.id;
        let is_empty = self.txn.scan(&slots_of(layer), 1).await?.is_empty()
            && self.txn.scan(&parts_of(layer), 1).await?.is_empty();
        if is_empty {
            return self.finish().await;
        }
        let pass = &mut self.operation.pass;
        pass.waits = pass.left > 0;
        pass.from = LogicalExtent::new(0);
        self.txn.put(&OperationKey { operation: self.id }, &self.operation);
        Ok(())
    }

    /// Takes the empty layer out of the chain.
    async fn finish(self) -> Result<(), ServiceError> {
        let Self { txn, below, above, .. } = self;
        let key = LayerKey { layer: below.id };
        let sums = txn.load(&LayerPartsKey { layer: below.id }).await?;
        if below.record.digest != SlotDigest::default()
            || below.record.extents > 0
            || sums.is_some()
        {
            let problem = "it has neither slots nor parts, and counts some".to_owned();
            return Err(ServiceError::corrupt(format!("{key:?}"), problem));
        }
        forget_name(txn, &below.record).await?;
        txn.remove(&key);
        txn.remove(&ChildKey { parent: below.id, child: above.id });
        if let Some(parent) = below.record.parent {
            txn.remove(&ChildKey { parent, child: below.id });
            txn.put(&ChildKey { parent, child: above.id }, &Present {});
        }
        let record = LayerRecord { parent: below.record.parent, ..above.record };
        txn.put(&LayerKey { layer: above.id }, &record);
        if let LayerName::Head(volume) = record.name {
            structure_changed(txn, volume).await?;
        }
        txn.remove(&OperationKey { operation: self.id });
        Ok(())
    }
}

/// The chain below a head is another one: its holder hears of it.
async fn structure_changed<T: Txn>(txn: &T, volume: VolumeId) -> Result<(), ServiceError> {
    let key = VolumeKey { volume };
    let mut record = txn.load_known(&key).await?;
    record.structure = record.structure.next();
    txn.put(&key, &record);
    Ok(())
}

/// Whether the own slots of a layer hide what comes from below. Those of a head do when nobody
/// holds it and nothing waits to be replayed into it: then no read of what they hide is under way.
async fn own_slots_hide<T: Txn>(txn: &T, layer: &Known) -> Result<bool, ServiceError> {
    if layer.record.sealed {
        return Ok(true);
    }
    let LayerName::Head(volume) = layer.record.name else {
        let problem = format!("it is not sealed, and its name is {:?}", layer.record.name);
        return Err(ServiceError::corrupt(format!("layer {}", layer.id), problem));
    };
    Ok(txn.load(&AttachmentKey { volume }).await?.is_none()
        && oldest_stale(txn, volume).await?.is_none())
}
