//! The daemon's queues: requests in, actions of the engine to the disks, completions back.

use lunar_engine::io::{Action, IoOp, IoRequest, LunDone, LunIo, OpId, Part, QueueId, RequestId};

use crate::disk::{DiskIo, Ended, Source};
use crate::guest::{Excuses, draw_op};
use crate::journal_faults::is_journal;
use crate::planted::Planted;
use crate::world::{Flight, Flow, Stop, Target, World};

impl World {
    /// A user asks for something.
    pub(crate) fn submit_step(&mut self) -> Flow {
        let Some(guest) = self.pick_served(|served| !served.is_draining) else { return Ok(()) };
        let Some(device) = &self.guests[guest].device else { return Ok(()) };
        let Some(slot) = device.free(&mut self.dice) else { return Ok(()) };
        let extent = self.scenario.extent_size.bytes();
        let is_wide = self.scenario.is_wide;
        let op = draw_op(&self.guests[guest], extent, is_wide, &mut self.dice);
        self.submit(guest, slot, op)
    }

    /// Puts a request on a free tag and gives it to the engine.
    pub(crate) fn submit(&mut self, guest: usize, slot: (usize, usize), op: IoOp) -> Flow {
        self.tick()?;
        self.next_number += 1;
        let (number, moment) = (self.next_number, self.moment);
        self.guests[guest].begin(slot, op, number, moment);
        self.trace.line(moment, || format!("v{guest} q{}t{} #{number} {op:?}", slot.0, slot.1));
        self.issue(guest, slot, op)
    }

    /// Gives a request to the engine, for the first time or again after a kill.
    pub(crate) fn issue(&mut self, guest: usize, (queue, tag): (usize, usize), op: IoOp) -> Flow {
        let id = RequestId { queue: QueueId::new(queue as u16), tag: tag as u16 };
        let mut out = Vec::new();
        let served = self.serving(guest);
        served.volume.submit(&mut served.queues[queue], IoRequest { id, op }, &mut out);
        self.run_actions(guest, queue, out)
    }

    pub(crate) fn execute_step(&mut self) -> Flow {
        self.tick()?;
        let luns = std::rc::Rc::clone(&self.luns);
        let mut disks = luns.disks.borrow_mut();
        let weights: Vec<u64> = disks.iter().map(|disk| disk.submitted() as u64).collect();
        let Some(disk) = self.dice.weighted(&weights) else { return Ok(()) };
        disks[disk].execute_one(&mut self.dice, luns.rates.get());
        Ok(())
    }

    pub(crate) fn deliver_step(&mut self) -> Flow {
        self.tick()?;
        let luns = std::rc::Rc::clone(&self.luns);
        let ended = {
            let mut disks = luns.disks.borrow_mut();
            let weights: Vec<u64> = disks.iter().map(|disk| disk.executed() as u64).collect();
            let Some(disk) = self.dice.weighted(&weights) else { return Ok(()) };
            disks[disk].deliver_one(&mut self.dice)
        };
        self.deliver(ended)
    }

    fn deliver(&mut self, ended: Ended) -> Flow {
        let flight = self.flights.remove(&ended.id);
        let flight = flight.ok_or_else(|| Stop::Failed("a command that nobody sent".into()))?;
        let Flight { guest, queue, op, target } = flight;
        for volume in ended.lost {
            let moment = self.moment;
            self.trace.line(moment, || format!("v{volume} loses data by a failed flush"));
            self.guests[volume as usize].distrust(moment);
        }
        self.mark(ended.id ^ op.get());
        let mut buffer = None;
        match target {
            Target::None => {}
            Target::Request(tag, offset) => {
                let device = self.guests[guest].device.as_mut();
                let request = device.expect("it has requests").request(queue, tag);
                let into = offset as usize..offset as usize + ended.data.len();
                request.buffer[into].copy_from_slice(&ended.data);
            }
            Target::Owned(mut owned) => {
                owned.as_mut_bytes().copy_from_slice(&ended.data);
                buffer = Some(owned);
            }
        }
        let done = LunDone { op, result: ended.result, buffer };
        let mut out = Vec::new();
        let served = self.serving(guest);
        served.volume.complete(&mut served.queues[queue], done, &mut out);
        self.run_actions(guest, queue, out)
    }

    pub(crate) fn wake_step(&mut self) -> Flow {
        self.tick()?;
        let Some(guest) = self.pick_served(|served| !served.woken.is_empty()) else {
            return Ok(());
        };
        let woken: Vec<usize> = self.serving(guest).woken.iter().copied().collect();
        let queue = self.dice.one_of(&woken);
        let mut out = Vec::new();
        let served = self.serving(guest);
        served.woken.remove(&queue);
        served.volume.resume(&mut served.queues[queue], &mut out);
        self.run_actions(guest, queue, out)
    }

    pub(crate) fn run_action(&mut self, guest: usize, queue: usize, action: Action) -> Flow {
        match action {
            Action::Lun { op, io } => {
                self.send(guest, queue, op, io);
                Ok(())
            }
            Action::ZeroFill { tag, offset, length } => {
                let device = self.guests[guest].device.as_mut();
                let request = device.expect("it has requests").request(queue, tag);
                request.buffer[offset as usize..(offset + length) as usize].fill(0);
                Ok(())
            }
            Action::Complete { tag, result } => self.end(guest, queue, tag, result),
            Action::WakeQueue(woken) => {
                self.serving(guest).woken.insert(usize::from(woken.get()));
                Ok(())
            }
            Action::WakeControl => {
                self.serving(guest).is_control_woken = true;
                Ok(())
            }
        }
    }

    fn end(
        &mut self,
        guest: usize,
        queue: usize,
        tag: u16,
        result: Result<(), lunar_engine::io::IoError>,
    ) -> Flow {
        let served = self.serving(guest);
        let poisoned = served.volume.poison().is_some();
        let full = served.saw_full;
        self.guests[guest].is_poisoned |= poisoned;
        let rates = self.scenario.faults;
        let faults = rates.read + rates.write + rates.flush + rates.short > 0;
        let excuses = Excuses { faults, full, poisoned };
        let moment = self.moment;
        self.counters.requests += 1;
        self.counters.no_space += u64::from(result == Err(lunar_engine::io::IoError::NoSpace));
        self.trace.line(moment, || format!("v{guest} q{queue}t{tag} ended: {result:?}"));
        self.mark(u64::from(tag) << 1 | u64::from(result.is_ok()));
        self.guests[guest].end(queue, tag, result, excuses, moment).map_err(Stop::Failed)
    }

    /// Sends a command of the engine to its disk.
    fn send(&mut self, guest: usize, queue: usize, op: OpId, io: LunIo) {
        let lun = usize::from(io.lun().get());
        let source = Source { volume: guest as u32, queue: queue as u16 };
        let moment = self.moment;
        self.trace.line(moment, || format!("v{guest} q{queue} {}", describe(&io)));
        let is_journal = matches!(io, LunIo::WriteOwned { durable: true, .. });
        let is_control = queue == self.serving(guest).queues.len() - 1;
        let (io, target) = self.translate(guest, source, is_control, io);
        if let DiskIo::Write { at, bytes, .. } = &io
            && is_journal
        {
            self.counters.long_batches += u64::from(bytes.len() > 4096);
            let ring = &self.rings[&guest];
            self.counters.laps += u64::from(ring.blocks[0] == (lun, *at));
            self.remember_blocks(guest, lun, *at, bytes.len());
        }
        self.next_flight += 1;
        let id = self.next_flight;
        self.flights.insert(id, Flight { guest, queue, op, target });
        let is_slow = self.dice.chance(self.scenario.slow);
        let executions = if is_slow { self.dice.between(20, 1000) } else { 0 };
        let disk = &mut self.luns.disks.borrow_mut()[lun];
        disk.submit(id, source, io);
        disk.delay_last(executions);
    }

    fn translate(
        &mut self,
        guest: usize,
        source: Source,
        is_control: bool,
        io: LunIo,
    ) -> (DiskIo, Target) {
        let queue = usize::from(source.queue);
        let is_durable = |durable: bool| durable && self.planted != Some(Planted::FuaNotDurable);
        match io {
            LunIo::Read { at, tag, offset, length, .. } => {
                let io = DiskIo::Read { at, length: length as usize };
                (io, Target::Request(tag, offset))
            }
            LunIo::ReadOwned { at, buffer, .. } => {
                let io = DiskIo::Read { at, length: buffer.byte_len() };
                (io, Target::Owned(buffer))
            }
            LunIo::Write { at, tag, offset, length, durable, .. } => {
                let durable = is_durable(durable);
                let bytes = self.gather(guest, queue, tag, &[Part::Request { offset, length }]);
                (DiskIo::Write { at, bytes: bytes.into(), durable }, Target::None)
            }
            LunIo::WriteParts { at, tag, parts, durable, .. } => {
                let durable = is_durable(durable);
                let bytes = self.gather(guest, queue, tag, &parts);
                (DiskIo::Write { at, bytes: bytes.into(), durable }, Target::None)
            }
            LunIo::WriteOwned { at, buffer, durable, .. } => {
                let bytes: Vec<u8> = buffer.as_bytes().into();
                let is_lied = self.planted == Some(Planted::CopyNotDurable) && !is_journal(&bytes);
                let durable = durable && !is_lied;
                (DiskIo::Write { at, bytes: bytes.into(), durable }, Target::None)
            }
            LunIo::Flush { .. } => {
                // A flush of nothing: what no queue has written.
                let nobody = Source { queue: u16::MAX, ..source };
                let only = match self.planted {
                    Some(Planted::FlushMissesOtherQueue) => Some(source),
                    Some(Planted::CommitBeforeDataFlush) if is_control => Some(nobody),
                    _ => None,
                };
                (DiskIo::Flush { only }, Target::None)
            }
        }
    }

    /// The bytes of a write.
    fn gather(&mut self, guest: usize, queue: usize, tag: u16, parts: &[Part]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in parts {
            match part {
                Part::Request { offset, length } => {
                    let device = self.guests[guest].device.as_mut();
                    let request = device.expect("it has requests").request(queue, tag);
                    let range = *offset as usize..(offset + length) as usize;
                    bytes.extend_from_slice(&request.buffer[range]);
                }
                Part::Zeros { length } => bytes.resize(bytes.len() + *length as usize, 0),
                Part::Owned { buffer, offset, length } => {
                    let range = *offset as usize..(offset + length) as usize;
                    bytes.extend_from_slice(&buffer.as_bytes()[range]);
                }
            }
        }
        bytes
    }
}

fn describe(io: &LunIo) -> String {
    let lun = io.lun();
    match io {
        LunIo::Read { at, tag, length, .. } => format!("t{tag} reads {length} of {lun}:{at}"),
        LunIo::ReadOwned { at, .. } => format!("reads a rest of {lun}:{at}"),
        LunIo::Write { at, tag, length, durable, .. } => {
            format!(
                "t{tag} writes {length} to {lun}:{at}{}",
                if *durable { " durably" } else { "" }
            )
        }
        LunIo::WriteParts { at, tag, parts, .. } => {
            let length: u32 = parts.iter().map(Part::length).sum();
            format!("t{tag} writes {length} in {} parts to {lun}:{at}", parts.len())
        }
        LunIo::WriteOwned { at, buffer, .. } => {
            let what = if is_journal(buffer.as_bytes()) { "journals" } else { "copies" };
            format!("{what} {} to {lun}:{at}", buffer.byte_len())
        }
        LunIo::Flush { .. } => format!("flushes {lun}"),
    }
}
