//! LUN I/O under way on a queue's ring.
//!
//! Invariants:
//! - an I/O ends once: after all of its bytes have moved, or after an error; what the device
//!   leaves over is submitted again;
//! - what the kernel reads or writes is kept here until then: owned buffers, gathered parts;
//! - an I/O goes to its LUN through the LUN's gate ([`crate::guard`]): one that may not begin yet,
//!   and one that the array has rejected, wait here and go out when the gate opens; what was read
//!   waits here until it may be given out;
//! - a plain read or write of a request's buffer allocates nothing.
#![allow(unsafe_code, reason = "entries carry addresses of the buffers kept here")]

use std::collections::VecDeque;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};
use lunar_engine::buffer::AlignedBuf;
use lunar_engine::io::{LunDone, LunIo, OpId, Part};
use lunar_engine::lun::LunError;
use lunar_types::LunIndex;

use super::buffers::RequestBuffers;
use super::ring::{Completion, QueueRing};
use crate::guard::{Admission, BootTime, Delivery, ENDED, ReadStamp, Turnstile};

/// Zeros that gathered writes point at, in blocks.
const ZERO_BLOCKS: usize = 16;
/// Most stretches of a gathered write that the kernel takes at once (UIO_MAXIOV).
const STRETCHES_MAX: usize = 1024;
/// The unit in which a device may leave bytes over.
const SECTOR_BYTES: u32 = 512;

/// A stretch of memory, as the kernel takes it in a gathered write.
struct Stretch(libc::iovec);

enum Transfer {
    /// Between the LUN and a stretch of a request's buffer.
    Request { tag: u16, offset: u32 },
    /// Between the LUN and a buffer of the engine.
    Owned(AlignedBuf),
    /// From many stretches; the parts keep what they point to.
    Gathered { stretches: Vec<Stretch>, _keep: Vec<Part> },
    /// No bytes.
    Flush,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromLun,
    ToLun { durable: bool },
}

struct InFlight {
    op: OpId,
    lun: LunIndex,
    at: u64,
    length: u32,
    moved: u32,
    direction: Direction,
    transfer: Transfer,
}

/// Bytes that were moved between a queue and LUNs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LunBytes {
    /// Read from LUNs.
    pub read: u64,
    /// Written to LUNs.
    pub written: u64,
}

/// What was read and may not be given out yet.
struct Unvouched {
    lun: LunIndex,
    stamp: ReadStamp,
    done: LunDone,
}

/// What is under way, and what waits at a gate.
pub struct LunOps {
    slots: Vec<Option<InFlight>>,
    free: Vec<u32>,
    gates: Vec<Option<Arc<Turnstile>>>,
    /// When it was last looked at the clock.
    now: BootTime,
    /// I/O that waits for its gate, by slot.
    held: Vec<u32>,
    unvouched: Vec<Unvouched>,
    /// I/O that a gate has ended, or let go.
    ended: VecDeque<LunDone>,
    zeros: Arc<AlignedBuf>,
    bytes: LunBytes,
}

/// The place of a LUN among the files of a ring: behind the ublk character device.
#[must_use]
pub fn file_of_lun(lun: LunIndex) -> u32 {
    u32::from(lun.get()) + 1
}

impl LunOps {
    /// Nothing under way; room for `expected` without growing.
    #[must_use]
    pub fn new(expected: usize) -> Self {
        Self {
            slots: Vec::with_capacity(expected),
            free: Vec::with_capacity(expected),
            gates: Vec::new(),
            now: BootTime::now(),
            held: Vec::new(),
            unvouched: Vec::new(),
            ended: VecDeque::new(),
            zeros: Arc::new(AlignedBuf::zeroed(ZERO_BLOCKS)),
            bytes: LunBytes::default(),
        }
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len() && self.unvouched.is_empty() && self.ended.is_empty()
    }

    /// From now on I/O on this LUN goes through this turnstile.
    pub fn guard(&mut self, lun: LunIndex, turnstile: Arc<Turnstile>) {
        let at = usize::from(lun.get());
        if self.gates.len() <= at {
            self.gates.resize_with(at + 1, || None);
        }
        self.gates[at] = Some(turnstile);
    }

    /// Looks at the clock: before I/O begins that became possible by a wait.
    pub fn tick(&mut self) {
        self.now = BootTime::now();
    }

    /// An I/O that ended at a gate.
    pub fn take_ended(&mut self) -> Option<LunDone> {
        self.ended.pop_front()
    }

    /// Lets go what waits at gates and may go on by now.
    pub fn retry(&mut self, buffers: &mut RequestBuffers, ring: &mut QueueRing) {
        for slot in std::mem::take(&mut self.held) {
            self.admit(slot, buffers, ring);
        }
        for unvouched in std::mem::take(&mut self.unvouched) {
            let Unvouched { lun, stamp, done } = unvouched;
            let gate = self.gate(lun).expect("only a gate holds what was read");
            match gate.is_deliverable(stamp) {
                Admission::Begin => self.ended.push_back(done),
                Admission::Wait => self.unvouched.push(Unvouched { lun, stamp, done }),
                Admission::Never => self.ended.push_back(LunDone { result: Err(ENDED), ..done }),
            }
        }
    }

    fn gate(&self, lun: LunIndex) -> Option<&Turnstile> {
        self.gates.get(usize::from(lun.get()))?.as_deref()
    }

    /// Begins an I/O, has it wait, or ends it.
    fn admit(&mut self, slot: u32, buffers: &mut RequestBuffers, ring: &mut QueueRing) {
        let lun = self.slots[slot as usize].as_ref().expect("it was put there").lun;
        match self.gate(lun).map_or(Admission::Begin, |gate| gate.enter(self.now)) {
            Admission::Begin => self.submit(slot, buffers, ring),
            Admission::Wait => self.held.push(slot),
            Admission::Never => {
                let done = self.end(slot, Err(ENDED));
                self.ended.push_back(done);
            }
        }
    }

    /// Takes an I/O out that has ended.
    fn end(&mut self, slot: u32, result: Result<(), LunError>) -> LunDone {
        let ended = self.slots[slot as usize].take().expect("only what is there ends");
        self.free.push(slot);
        self.count(&ended);
        let buffer = match (ended.transfer, ended.direction) {
            (Transfer::Owned(buffer), Direction::FromLun) => Some(buffer),
            _ => None,
        };
        LunDone { op: ended.op, result, buffer }
    }

    /// Bytes moved so far.
    #[must_use]
    pub const fn bytes(&self) -> LunBytes {
        self.bytes
    }

    /// Starts an I/O, or has it wait for its gate; its slot comes back as the user data of its
    /// completion. One that a gate has ended comes out of [`LunOps::take_ended`].
    pub fn start(
        &mut self,
        op: OpId,
        io: LunIo,
        buffers: &mut RequestBuffers,
        ring: &mut QueueRing,
    ) {
        let operation = self.in_flight(op, io, buffers);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 I/Os are under way")
        });
        self.slots[slot as usize] = Some(operation);
        self.admit(slot, buffers, ring);
    }

    /// Takes a completion in; gives the end of the I/O, if it is one and may be given out.
    ///
    /// # Panics
    /// When nothing is under way under that number.
    pub fn complete(
        &mut self,
        completion: Completion,
        buffers: &mut RequestBuffers,
        ring: &mut QueueRing,
    ) -> Option<LunDone> {
        let slot = u32::try_from(completion.user_data).expect("slots have 32 bits");
        let operation = self.slots[slot as usize].as_mut().expect("a completion has its I/O");
        let result = match progress(operation, completion.result) {
            Progress::Again => {
                self.submit(slot, buffers, ring);
                return None;
            }
            Progress::Done => Ok(()),
            Progress::Failed(error) => Err(error),
        };
        let (lun, is_read) = (operation.lun, operation.direction == Direction::FromLun);
        let gate = self.gates.get(usize::from(lun.get())).and_then(Option::as_deref);
        let Some(gate) = gate else { return Some(self.end(slot, result)) };
        gate.leave();
        if result.is_err_and(|error| gate.is_conflict(error)) {
            self.admit(slot, buffers, ring);
            return None;
        }
        let delivery = if is_read { gate.delivery(self.now) } else { Delivery::Now };
        let done = self.end(slot, result);
        match delivery {
            Delivery::Now => Some(done),
            Delivery::Later(stamp) => {
                self.unvouched.push(Unvouched { lun, stamp, done });
                None
            }
        }
    }

    fn count(&mut self, ended: &InFlight) {
        let moved = u64::from(ended.moved);
        match ended.direction {
            Direction::FromLun => self.bytes.read += moved,
            Direction::ToLun { .. } => self.bytes.written += moved,
        }
    }

    fn in_flight(&self, op: OpId, io: LunIo, buffers: &mut RequestBuffers) -> InFlight {
        let to_lun = |durable| Direction::ToLun { durable };
        let (lun, at, length, direction, transfer) = match io {
            LunIo::Read { lun, at, tag, offset, length } => {
                (lun, at, length, Direction::FromLun, Transfer::Request { tag, offset })
            }
            LunIo::Write { lun, at, tag, offset, length, durable } => {
                (lun, at, length, to_lun(durable), Transfer::Request { tag, offset })
            }
            LunIo::WriteParts { lun, at, tag, parts, durable } => {
                let length = parts.iter().map(Part::length).sum();
                let stretches = self.stretches(tag, &parts, buffers);
                let transfer = Transfer::Gathered { stretches, _keep: parts };
                (lun, at, length, to_lun(durable), transfer)
            }
            LunIo::ReadOwned { lun, at, buffer } => {
                (lun, at, length_of(&buffer), Direction::FromLun, Transfer::Owned(buffer))
            }
            LunIo::WriteOwned { lun, at, buffer, durable } => {
                (lun, at, length_of(&buffer), to_lun(durable), Transfer::Owned(buffer))
            }
            LunIo::Flush { lun } => (lun, 0, 0, to_lun(false), Transfer::Flush),
        };
        InFlight { op, lun, at, length, moved: 0, direction, transfer }
    }

    fn stretches(&self, tag: u16, parts: &[Part], buffers: &mut RequestBuffers) -> Vec<Stretch> {
        let mut stretches = Vec::with_capacity(parts.len());
        let mut add = |base: *const u8, length: usize| {
            let iov_base = base.cast_mut().cast();
            stretches.push(Stretch(libc::iovec { iov_base, iov_len: length }));
        };
        for part in parts {
            match part {
                Part::Request { offset, length } => {
                    add(buffers.address(tag, *offset, *length), *length as usize);
                }
                Part::Owned { buffer, offset, length } => {
                    let (start, length) = (*offset as usize, *length as usize);
                    add(buffer.as_bytes()[start..start + length].as_ptr(), length);
                }
                Part::Zeros { length } => {
                    let mut left = *length as usize;
                    while left > 0 {
                        let piece = left.min(self.zeros.byte_len());
                        add(self.zeros.as_bytes().as_ptr(), piece);
                        left -= piece;
                    }
                }
            }
        }
        stretches
    }

    /// Submits what is left of an I/O.
    fn submit(&mut self, slot: u32, buffers: &mut RequestBuffers, ring: &mut QueueRing) {
        let operation = self.slots[slot as usize].as_mut().expect("only what is there is started");
        let file = types::Fixed(file_of_lun(operation.lun));
        let entry = entry_of(operation, file, buffers).user_data(slot.into());
        // SAFETY: the entry points into a request buffer, which outlives the ring and which the
        // engine leaves alone until this I/O ends; or into memory kept in `slots` until then, at
        // an address that does not move with the slot.
        unsafe { ring.push(entry) };
    }
}

fn length_of(buffer: &AlignedBuf) -> u32 {
    u32::try_from(buffer.byte_len()).expect("buffers of the engine are far below 4 GiB")
}

fn entry_of(
    operation: &mut InFlight,
    file: types::Fixed,
    buffers: &mut RequestBuffers,
) -> squeue::Entry {
    let (moved, at) = (operation.moved, operation.at + u64::from(operation.moved));
    let left = operation.length - moved;
    let rw_flags = match operation.direction {
        Direction::ToLun { durable: true } => libc::RWF_DSYNC,
        _ => 0,
    };
    let address = match &mut operation.transfer {
        Transfer::Flush => {
            return opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build();
        }
        Transfer::Gathered { stretches, .. } => {
            let count = stretches.len().min(STRETCHES_MAX);
            let first = stretches.as_ptr().cast::<libc::iovec>();
            return opcode::Writev::new(file, first, count as u32)
                .offset(at)
                .rw_flags(rw_flags)
                .build();
        }
        Transfer::Request { tag, offset } => buffers.address(*tag, *offset + moved, left),
        Transfer::Owned(buffer) => buffer.as_mut_bytes()[moved as usize..].as_mut_ptr(),
    };
    match operation.direction {
        Direction::FromLun => opcode::Read::new(file, address, left).offset(at).build(),
        Direction::ToLun { .. } => {
            opcode::Write::new(file, address, left).offset(at).rw_flags(rw_flags).build()
        }
    }
}

enum Progress {
    Again,
    Done,
    Failed(LunError),
}

fn progress(operation: &mut InFlight, result: i32) -> Progress {
    let Ok(moved) = u32::try_from(result) else {
        return match -result {
            libc::EINTR | libc::EAGAIN => Progress::Again,
            errno => Progress::Failed(LunError::Device { errno }),
        };
    };
    assert!(moved <= operation.length - operation.moved, "a device moves no more than asked");
    operation.moved += moved;
    if operation.moved == operation.length {
        return Progress::Done;
    }
    if moved == 0 || !moved.is_multiple_of(SECTOR_BYTES) {
        return Progress::Failed(LunError::Short {
            moved: operation.moved,
            asked: operation.length,
        });
    }
    if let Transfer::Gathered { stretches, .. } = &mut operation.transfer {
        skip(stretches, moved as usize);
    }
    Progress::Again
}

/// Drops the first `bytes` bytes.
fn skip(stretches: &mut Vec<Stretch>, mut bytes: usize) {
    let whole = stretches
        .iter()
        .take_while(|stretch| {
            let is_whole = stretch.0.iov_len <= bytes;
            bytes -= if is_whole { stretch.0.iov_len } else { 0 };
            is_whole
        })
        .count();
    stretches.drain(..whole);
    if bytes > 0 {
        let first = &mut stretches[0].0;
        // SAFETY: fewer bytes than the stretch has are skipped, so the address stays inside it.
        first.iov_base = unsafe { first.iov_base.cast::<u8>().add(bytes) }.cast();
        first.iov_len -= bytes;
    }
}

#[cfg(test)]
mod tests;
