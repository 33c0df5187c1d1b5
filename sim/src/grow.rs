//! Volumes that become larger while they are used.
//!
//! The operator asks the service; the daemon hears of it later, adds to its map, serves the new
//! size, and then makes the device larger. Others go on between any two of these, and a crash may
//! fall there. A successor compares the device that it takes over with its volume. What the user
//! must see: nothing is lost, what is new reads as zeros, and no request within the device is
//! refused.

use lunar_metadata::domain::{GrowVolume, ResumeAttachment, Selector};
use lunar_metadata::error::ServiceError;
use lunar_metadata::seams::block_on;
use lunar_types::{BLOCK_BYTES, VolumeSize};

use crate::planted::Planted;
use crate::world::{Flow, Stop, World, failed};

/// Extents that a volume grows by at the most, beyond what it may begin with.
const EXTENTS_MORE: u64 = 4;

impl World {
    /// Some volume is made larger, or its daemon hears of it.
    pub(crate) fn growth_step(&mut self) -> Flow {
        if let Some(guest) = self.pick_growing()
            && self.dice.chance(500)
        {
            return self.follow_growth(guest);
        }
        let is_there = |guest: &usize| !self.guests[*guest].is_deleted;
        let guests: Vec<usize> = (0..self.guests.len()).filter(is_there).collect();
        if guests.is_empty() {
            return Ok(());
        }
        let guest = self.dice.one_of(&guests);
        self.grow_volume(guest)
    }

    /// A served volume whose device is smaller than the service says.
    fn pick_growing(&mut self) -> Option<usize> {
        let is_growing = |guest: &usize| self.guests[*guest].size < self.guests[*guest].granted;
        let growing: Vec<usize> =
            self.served().map(|(guest, _)| guest).filter(is_growing).collect();
        (!growing.is_empty()).then(|| self.dice.one_of(&growing))
    }

    /// The operator asks for a size; one below the volume's is refused.
    fn grow_volume(&mut self, guest: usize) -> Flow {
        let extent = self.scenario.extent_size.bytes();
        let before = self.guests[guest].granted.bytes();
        let most = (self.scenario.volume_extents + EXTENTS_MORE) * extent;
        let more = self.dice.one_of(&[BLOCK_BYTES, extent - before % extent, extent + BLOCK_BYTES]);
        let bytes = match before + more {
            bytes if bytes <= most => bytes,
            _ => before - BLOCK_BYTES,
        };
        let Ok(size) = VolumeSize::from_bytes(bytes) else { return Ok(()) };
        let (request, volume) = (self.meta.fresh_request(), Selector::Id(self.guests[guest].id));
        let grow = GrowVolume { request, volume, size, over_watermark: true };
        match self.until_answered(|service| block_on(service.grow_volume(&grow))) {
            Ok(volume) if volume.size == size && bytes > before => {}
            Err(ServiceError::VolumeWouldShrink { .. }) if bytes < before => return Ok(()),
            other => return failed(format!("v{guest} of {before} B to {bytes} B: {other:?}")),
        }
        self.guests[guest].granted = size;
        self.counters.grown += 1;
        self.note_line(&format!("v{guest} has {bytes} B"));
        if self.served[guest].is_some() && self.dice.chance(500) {
            return self.follow_growth(guest);
        }
        Ok(())
    }

    /// The daemon of a volume has heard of another structure.
    fn follow_growth(&mut self, guest: usize) -> Flow {
        self.acting.push(self.host_of(guest));
        if self.planted == Some(Planted::DeviceGrowsFirst) {
            let size = self.guests[guest].granted;
            self.guests[guest].device_has_grown(size);
            self.meanwhile()?;
        }
        let (epoch, caller) = (self.serving(guest).epoch, self.holder(guest));
        let request = ResumeAttachment { volume: self.guests[guest].id, epoch, caller };
        let held = self.must("a look", |s| block_on(s.resume_attachment(request)))?;
        self.tick()?;
        let grown = self.serving(guest).volume.grow(held.volume.size);
        grown.map_err(|error| Stop::Failed(format!("v{guest} does not grow: {error}")))?;
        self.meanwhile()?;
        self.tick()?;
        self.device_follows(guest);
        self.acting.pop();
        Ok(())
    }

    /// The device gets the size that the engine serves: the last step, which a successor repeats.
    pub(crate) fn device_follows(&mut self, guest: usize) {
        let size = self.serving(guest).volume.size();
        if self.guests[guest].size < size {
            self.note_line(&format!("the device of v{guest} grows to {size}"));
            self.guests[guest].device_has_grown(size);
        }
    }
}
