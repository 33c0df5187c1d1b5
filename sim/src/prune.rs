//! A daemon hears what was merged into its volume's head, and gives back what the head hides.

use lunar_engine::volume::PrunedSlot;
use lunar_metadata::domain::{PruneLayer, PrunedParts, ResumeAttachment};
use lunar_metadata::seams::block_on;
use lunar_types::{ExtentAddress, LogicalExtent};

use crate::calls::Call;
use crate::planted::Planted;
use crate::world::{Flow, PendingCall, World};

impl World {
    /// What lies below the head is asked for, now and then, and heard of some time later.
    pub(crate) fn hear_of_merges(&mut self, guest: usize) -> Flow {
        if self.dice.chance(850) {
            return Ok(());
        }
        if let Some((head, parent)) = self.serving(guest).chain_news.take() {
            let is_late = self.planted == Some(Planted::LateOwnershipNotice);
            let mut out = Vec::new();
            let served = self.serving(guest);
            let head = if is_late { served.layer } else { head };
            served.volume.merged_down_to(head, parent, &mut out);
            let control = served.queues.len() - 1;
            self.counters.chain_news += 1;
            return self.run_actions(guest, control, out);
        }
        if self.meta.is_up {
            let (volume, caller) = (self.guests[guest].id, self.holder(guest));
            let request = ResumeAttachment { volume, epoch: self.serving(guest).epoch, caller };
            // A late copy of a detachment may have come before.
            if let Ok(attachment) = block_on(self.meta.service().resume_attachment(request)) {
                let parent = attachment.layers.first().and_then(|head| head.parent);
                self.serving(guest).chain_news = Some((attachment.volume.head, parent));
            }
        }
        Ok(())
    }

    /// Asks for a page, now and then; one whose answer was lost is asked for again.
    pub(crate) fn prune_now_and_then(&mut self, guest: usize) {
        let is_asked = self.serving(guest).last_prune.is_some() || self.dice.chance(150);
        if !is_asked || self.serving(guest).voting {
            return;
        }
        let from = match self.serving(guest).volume.size().extents(self.scenario.extent_size) {
            extents if self.dice.chance(300) => self.dice.below(extents),
            _ => 0,
        };
        let (request, caller) = (self.meta.fresh_request(), self.holder(guest));
        let volume = self.guests[guest].id;
        let served = self.serving(guest);
        let fresh = PruneLayer {
            request,
            caller,
            volume,
            epoch: served.epoch,
            layer: served.layer,
            from: LogicalExtent::new(from),
        };
        let prune = *served.last_prune.get_or_insert(fresh);
        served.call = Some(PendingCall { call: Call::Prune(prune), answer: None });
    }

    /// The service has taken slots out of the head.
    pub(crate) fn pruned(&mut self, guest: usize, pruned: &PrunedParts) -> Flow {
        self.counters.pruned += pruned.parts.len() as u64;
        let slots = pruned.parts.iter().map(|part| PrunedSlot {
            logical: part.at,
            birth: part.birth,
            extent: part.extent,
        });
        let mut slots: Vec<PrunedSlot> = slots.collect();
        let is_early = self.planted == Some(Planted::PruneWithoutGrace);
        let mut out = Vec::new();
        let served = self.serving(guest);
        let mut early: Vec<ExtentAddress> = Vec::new();
        if is_early {
            early.extend(slots.iter_mut().filter_map(|slot| slot.extent.take()));
            // They are the next to be used.
            early.extend(served.volume.take_reserve(usize::MAX));
        }
        served.last_prune = None;
        served.volume.pruned(&slots, &mut out);
        let control = served.queues.len() - 1;
        self.run_actions(guest, control, out)?;
        self.give(guest, &early)?;
        if pruned.parts.is_empty() { Ok(()) } else { self.audit("a prune") }
    }
}
