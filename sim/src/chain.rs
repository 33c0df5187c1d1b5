//! A daemon reads what its volume stands on: page by page, the lowest layer first, while
//! everything else goes on. Merges go on too: two layers may be read at two moments.

use std::collections::BTreeMap;

use lunar_engine::volume::{Chain, LayerSlots, LoadedMap, StartError};
use lunar_metadata::domain::{Attachment, LayerPage};
use lunar_metadata::error::ServiceError;
use lunar_types::{ExtentSize, LayerId, LogicalExtent, Presence, Slot};

use crate::planted::Planted;
use crate::world::{Flow, Stop, World};

/// A slot of a layer, as the service tells it.
struct Told {
    at: LogicalExtent,
    birth: LayerId,
    slot: Slot,
    /// It was written into the layer itself.
    is_own: bool,
}

/// What a layer has: at each logical extent the parts, the oldest first, then the own slot.
struct ToldLayer {
    layer: LayerId,
    slots: Vec<Told>,
}

impl World {
    /// The map of a head.
    pub(crate) fn read_chain(&mut self, attachment: &Attachment) -> Flow<LoadedMap> {
        let head = attachment.volume.head;
        let mut layers: Vec<LayerId> = attachment.layers.iter().map(|layer| layer.id).collect();
        if self.planted != Some(Planted::ChainReadTopDown) {
            layers.reverse();
        }
        let mut told = Vec::new();
        for layer in layers {
            let slots = self.read_told(layer, layer != head)?;
            told.push(ToldLayer { layer, slots });
        }
        told.sort_by_key(|one| one.layer);
        self.lie_of(&mut told);
        let (size, table) = (attachment.volume.size, self.lun_table(attachment));
        let misfit = |error| Stop::Failed(format!("the map makes no sense: {error}"));
        let mut chain = Chain::new(size, self.scenario.extent_size, table).map_err(misfit)?;
        let mut own = LayerSlots::new();
        for ToldLayer { layer, slots } in told {
            chain.begin(layer).map_err(misfit)?;
            for Told { at, birth, slot, is_own } in slots {
                if is_own && layer == head {
                    own.push((at, slot));
                } else {
                    chain.put(at, birth, slot).map_err(misfit)?;
                }
            }
        }
        Ok(LoadedMap::new(chain, own))
    }

    /// What a layer has, page by page.
    fn read_told(&mut self, layer: LayerId, may_be_gone: bool) -> Flow<Vec<Told>> {
        let mut told = Vec::new();
        let mut from = Some(LogicalExtent::new(0));
        while let Some(first) = from {
            let Some(page) = self.page_of(layer, first, may_be_gone)? else { break };
            for entry in page.entries {
                let at = entry.at;
                told.extend(entry.parts.into_iter().map(|part| Told {
                    at,
                    birth: part.birth,
                    slot: part.slot,
                    is_own: false,
                }));
                let own = entry.own.map(|slot| Told { at, birth: layer, slot, is_own: true });
                told.extend(own);
            }
            from = page.next;
        }
        Ok(told)
    }

    /// The planted bugs of a load.
    fn lie_of(&self, told: &mut [ToldLayer]) {
        match self.planted {
            Some(Planted::OrderByArrival) => told.iter_mut().for_each(youngest_lowest),
            Some(Planted::OpaqueLostInMerge) => told.iter_mut().for_each(lose_opaque),
            Some(Planted::HiddenSlotForgotten) => {
                forget_hidden(told, self.scenario.extent_size);
            }
            _ => {}
        }
    }

    /// A page; none if the layer is gone and may be.
    fn page_of(
        &mut self,
        layer: LayerId,
        from: LogicalExtent,
        may_be_gone: bool,
    ) -> Flow<Option<LayerPage>> {
        let limit = self.ready_to_read()?;
        match self.meta.read_layer(layer, from, limit) {
            Ok(page) => Ok(Some(page)),
            Err(ServiceError::LayerNotFound { .. }) if may_be_gone => Ok(None),
            Err(error) => Err(Stop::Failed(format!("the map cannot be read: {error}"))),
        }
    }

    /// Waits for the service, which goes on with its own work now and then; how many slots to ask
    /// for.
    fn ready_to_read(&mut self) -> Flow<usize> {
        self.tick()?;
        if self.meta.is_up && self.dice.chance(300) {
            for _ in 0..self.dice.between(1, 8) {
                self.step_operations()?;
            }
        }
        let limit = self.dice.one_of(&[1, 7, 1000]);
        while !self.meta.is_up {
            self.network_step()?;
            self.meanwhile()?;
        }
        Ok(limit)
    }
}

/// The planted bug: what a sealed head has is taken to be of the layer that is second in the chain
/// now.
pub(crate) fn seal_as_told(map: LoadedMap, now: &Attachment) -> Result<LoadedMap, StartError> {
    let (mut chain, own) = map.into_parts();
    let second = now.layers.get(1).map(|layer| layer.id).unwrap_or_default();
    for (at, slot) in own {
        chain.put(at, second, slot)?;
    }
    chain.begin(now.volume.head)?;
    Ok(LoadedMap::new(chain, []))
}

/// The planted bug: parts lie as they came when the younger snapshots were deleted first.
fn youngest_lowest(layer: &mut ToldLayer) {
    for parts in
        layer.slots.chunk_by_mut(|one, other| one.at == other.at && !one.is_own && !other.is_own)
    {
        let births: Vec<LayerId> = parts.iter().map(|part| part.birth).collect();
        for (part, birth) in parts.iter_mut().zip(births.into_iter().rev()) {
            part.birth = birth;
        }
    }
}

/// The planted bug: a part shows what is below it wherever it has no block.
fn lose_opaque(layer: &mut ToldLayer) {
    layer.slots.retain(|told| told.is_own || told.slot.extent().is_some());
    for told in layer.slots.iter_mut().filter(|told| !told.is_own) {
        told.slot.opaque = false;
    }
}

/// The planted bug: what is covered block by block is left out, though nothing above is full or
/// opaque.
fn forget_hidden(told: &mut [ToldLayer], size: ExtentSize) {
    let mut above: BTreeMap<LogicalExtent, Presence> = BTreeMap::new();
    for layer in told.iter_mut().rev() {
        let mut kept = Vec::new();
        for told in std::mem::take(&mut layer.slots).into_iter().rev() {
            let covered = above.entry(told.at).or_insert_with(|| Presence::empty(size));
            let is_hidden = !told.slot.opaque && !covered.is_full() && is_within(&told, covered);
            for (index, word) in told.slot.presence.words().iter().enumerate() {
                covered.set_word(index, covered.words()[index] | word);
            }
            if !is_hidden {
                kept.push(told);
            }
        }
        kept.reverse();
        layer.slots = kept;
    }
}

fn is_within(told: &Told, covered: &Presence) -> bool {
    let words = told.slot.presence.words().iter().zip(covered.words());
    !told.slot.presence.is_empty() && words.into_iter().all(|(own, above)| own & !above == 0)
}
