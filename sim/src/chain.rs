//! A daemon reads what its volume stands on: page by page, the lowest layer first, while
//! everything else goes on.

use lunar_engine::volume::{Chain, LayerSlots};
use lunar_metadata::domain::{Attachment, LayerPage};
use lunar_metadata::error::ServiceError;
use lunar_types::{LayerId, LogicalExtent};

use crate::world::{Flow, Stop, World};

impl World {
    /// What is below the head's own slots, and those.
    pub(crate) fn read_chain(&mut self, attachment: &Attachment) -> Flow<(Chain, LayerSlots)> {
        let (size, table) = (attachment.volume.size, self.lun_table(attachment));
        let misfit = |error| Stop::Failed(format!("the map makes no sense: {error}"));
        let mut chain = Chain::new(size, self.scenario.extent_size, table).map_err(misfit)?;
        let mut own = LayerSlots::new();
        let head = attachment.volume.head;
        for layer in attachment.layers.iter().rev().map(|layer| layer.id) {
            chain.begin(layer).map_err(misfit)?;
            let mut from = Some(LogicalExtent::new(0));
            while let Some(first) = from {
                let Some(page) = self.page_of(layer, first, layer != head)? else { break };
                for entry in page.entries {
                    for part in entry.parts {
                        chain.put(entry.at, part.birth, part.slot).map_err(misfit)?;
                    }
                    match entry.own {
                        Some(slot) if layer == head => own.push((entry.at, slot)),
                        Some(slot) => chain.put(entry.at, layer, slot).map_err(misfit)?,
                        None => {}
                    }
                }
                from = page.next;
            }
        }
        Ok((chain, own))
    }

    /// The slots that were written into the head itself.
    pub(crate) fn read_own(&mut self, head: LayerId) -> Flow<LayerSlots> {
        let limit = self.ready_to_read()?;
        let slots = self.meta.own_slots(head, limit);
        slots.map_err(|error| Stop::Failed(format!("the map cannot be read: {error}")))
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

    /// Waits for the service; how many slots to ask for.
    fn ready_to_read(&mut self) -> Flow<usize> {
        self.tick()?;
        let limit = self.dice.one_of(&[1, 7, 1000]);
        while !self.meta.is_up {
            self.network_step()?;
            self.meanwhile()?;
        }
        Ok(limit)
    }
}
