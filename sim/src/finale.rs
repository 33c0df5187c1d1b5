//! How a run ends: no more faults, so everything must come to its end and everything must be there.

use lunar_engine::io::IoOp;

use crate::disk::FaultRates;
use crate::oracle::Moment;
use crate::world::{Flow, Stop, World};

/// Bytes of a read of the whole volume.
const CHUNK: u64 = 64 << 10;
/// Steps within which a read ends.
const BOUND: u64 = 20_000;

impl World {
    /// Everything comes to rest; then all content is read, before and after a clean detachment.
    pub(crate) fn finale(&mut self) -> Flow {
        self.is_quiet = true;
        self.is_busy = true;
        self.luns.rates.set(FaultRates::default());
        self.meta.is_up = true;
        self.note_line("the finale begins");
        self.deliver_all()?;
        self.end_sets()?;
        for guest in 0..self.served.len() {
            if self.served[guest].is_some() {
                self.drain(guest)?;
            }
        }
        self.squeeze(false)?;
        self.attach_all()?;
        self.sweep_all()?;
        self.fill_pool()?;
        self.detach_all()?;
        self.attach_all()?;
        self.sweep_all()?;
        self.sweep_snapshots()?;
        self.detach_all()?;
        self.audit("the end")?;
        self.delete_everything()
    }

    /// Everything that the network still holds arrives.
    fn deliver_all(&mut self) -> Flow {
        while self.meta.holds_calls() {
            self.meta.deliver_late(Moment::MAX).map_err(Stop::Failed)?;
        }
        Ok(())
    }

    pub(crate) fn note_line(&self, what: &str) {
        self.trace.line(self.moment, || what.to_owned());
    }

    pub(crate) fn attach_all(&mut self) -> Flow {
        // A poisoned volume is detached first and attached anew.
        for guest in 0..self.served.len() {
            let is_poisoned =
                self.served[guest].as_ref().is_some_and(|s| s.volume.poison().is_some());
            if is_poisoned {
                self.detach(guest)?;
            }
        }
        for _ in 0..200 {
            let idle = self.idle_guests();
            let Some(guest) = idle.first() else { return Ok(()) };
            self.attach(*guest)?;
            self.network_step()?;
        }
        crate::world::failed("the volumes could not be attached at the end")
    }

    fn detach_all(&mut self) -> Flow {
        for guest in 0..self.served.len() {
            if self.served[guest].is_some() {
                self.detach(guest)?;
            }
        }
        Ok(())
    }

    fn sweep_all(&mut self) -> Flow {
        for guest in 0..self.served.len() {
            if self.served[guest].is_some() {
                self.sweep(guest)?;
            }
        }
        Ok(())
    }

    /// Reads a whole volume.
    pub(crate) fn sweep(&mut self, guest: usize) -> Flow {
        let size = self.guests[guest].size.bytes();
        let chunk = CHUNK.max((size / 24).next_multiple_of(CHUNK));
        let mut offset = 0;
        while offset < size {
            let length = chunk.min(size - offset);
            self.request(guest, IoOp::Read { offset, length: length as u32 })?;
            offset += length;
        }
        Ok(())
    }

    /// Puts one request on a tag that is free, or as soon as one is.
    pub(crate) fn request(&mut self, guest: usize, op: IoOp) -> Flow {
        loop {
            let device = self.guests[guest].device.as_ref().expect("it is attached");
            if let Some(slot) = device.free(&mut self.dice) {
                return self.submit(guest, slot, op);
            }
            let has_free = |world: &Self| {
                let device = world.guests[guest].device.as_ref().expect("it is attached");
                device.has_free()
            };
            self.run_until(&format!("a free tag of v{guest}"), BOUND, has_free)?;
        }
    }

    /// The pool fills up: writes end with ENOSPC, and go on when there is space again.
    fn fill_pool(&mut self) -> Flow {
        let Some((guest, _)) = self.served().next() else { return Ok(()) };
        self.squeeze(true)?;
        let extent = self.scenario.extent_size.bytes();
        let extents = self.guests[guest].size.bytes().div_ceil(extent).min(30);
        for n in 0..extents {
            self.request(guest, IoOp::Write { offset: n * extent, length: 4096, fua: false })?;
        }
        self.drain(guest)?;
        self.squeeze(false)?;
        self.clock.advance(self.scenario.tuning.pool_full_retry * 2);
        let now = self.now();
        // The control task hears of the time that has passed.
        let mut out = Vec::new();
        let work = self.serving(guest).volume.next_work(now, &mut out);
        let control = self.serving(guest).queues.len() - 1;
        self.run_actions(guest, control, out)?;
        if let Some(work) = work {
            self.take_work(guest, work)?;
        }
        self.serving(guest).saw_full = false;
        for n in 0..extents {
            self.request(guest, IoOp::Write { offset: n * extent, length: 4096, fua: true })?;
        }
        self.drain(guest)?;
        self.request(guest, IoOp::Flush)?;
        self.drain(guest)?;
        self.sweep(guest)?;
        self.drain(guest)
    }
}
