//! A modelled LUN: a medium, a volatile write cache before it, and commands under way.
//!
//! Fault model:
//! - a command is executed some time after it was submitted, in any order, and its completion is
//!   delivered some time after that; a long write may be executed in two steps;
//! - an executed write is visible at once and volatile until a flush that was submitted after the
//!   write's completion was delivered has been executed; any other flush may make it durable too;
//! - a durable write is on the medium when it has been executed; a killed daemon's durable write
//!   may stay volatile, since the flush that makes it durable is a step of its own;
//! - at a power cut each *unit* (the logical block of the LUN) keeps what the medium has, or takes
//!   any one of the volatile or submitted writes to it, independently of all other units;
//! - a failed write may have happened in part; a failed flush, when its failure is told, drops any
//!   part of what it should have made durable of the volume that sent it, for good;
//! - what was never written holds stamps of an earlier tenant.
//!
//! Not modelled: a medium that loses or changes what is durable, except where
//! [`Disk::overwrite_medium`] is called for.

mod blocking;

use std::rc::Rc;

use lunar_engine::lun::LunError;
use lunar_types::BLOCK_BYTES;

use crate::dice::Dice;
use crate::stamp::{SECTOR_BYTES, Stamp};

use blocking::ABANDONED;
pub use blocking::{Luns, OpenLuns};

const PAGE: usize = BLOCK_BYTES as usize;
const SECTORS: usize = PAGE / SECTOR_BYTES;
const ERRNO_EIO: i32 = 5;

/// Who sent a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// The volume.
    pub volume: u32,
    /// The queue of its device.
    pub queue: u16,
}

/// A command.
#[derive(Clone, Debug)]
pub enum DiskIo {
    /// Reads bytes.
    Read {
        /// First byte.
        at: u64,
        /// Bytes.
        length: usize,
    },
    /// Writes bytes.
    Write {
        /// First byte.
        at: u64,
        /// What to write.
        bytes: Rc<[u8]>,
        /// Whether it is on the medium when it completes.
        durable: bool,
    },
    /// Makes writes durable that had completed before.
    Flush {
        /// Only what this queue wrote; for a planted bug.
        only: Option<Source>,
    },
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Names the command, as given to [`Disk::submit`].
    pub id: u64,
    /// Who sent it.
    pub source: Source,
    /// How.
    pub result: Result<(), LunError>,
    /// What a read has read.
    pub data: Vec<u8>,
    /// The volumes whose data a failed flush has dropped.
    pub lost: Vec<u32>,
}

/// What a failing flush may drop when its failure is told.
struct FailedFlush {
    id: u64,
    volume: u32,
    covered: Vec<u64>,
}

/// How often commands fail, in a thousand.
#[derive(Clone, Copy, Default, Debug)]
pub struct FaultRates {
    /// Reads that answer EIO.
    pub read: u64,
    /// Writes that answer EIO.
    pub write: u64,
    /// Flushes that answer EIO.
    pub flush: u64,
    /// Reads and writes that move fewer bytes.
    pub short: u64,
}

struct Page {
    medium: [u8; PAGE],
    visible: [u8; PAGE],
    /// Which write each sector of the medium has.
    medium_seq: [u64; SECTORS],
}

/// A write that was executed and is not known to be durable.
struct Volatile {
    seq: u64,
    command: u64,
    /// When its completion was delivered, in deliveries of this disk.
    delivered: Option<u64>,
    source: Source,
    at: u64,
    bytes: Rc<[u8]>,
}

/// A command that was not executed yet.
struct Command {
    id: u64,
    source: Source,
    io: DiskIo,
    /// Deliveries of this disk before it was submitted.
    submitted_after: u64,
    /// Executions that it lets pass first.
    waits: u64,
}

/// A modelled LUN.
pub struct Disk {
    lun: u16,
    unit: usize,
    pages: Vec<Option<Box<Page>>>,
    volatile: Vec<Volatile>,
    submitted: Vec<Command>,
    executed: Vec<Ended>,
    failed_flushes: Vec<FailedFlush>,
    last_seq: u64,
    deliveries: u64,
}

fn eio() -> LunError {
    LunError::Device { errno: ERRNO_EIO }
}

impl Page {
    fn of_tenant(lun: u16, page: usize) -> Box<Self> {
        let mut medium = [0; PAGE];
        for (n, sector) in medium.chunks_exact_mut(SECTOR_BYTES).enumerate() {
            Stamp::Tenant { lun, sector: (page * SECTORS + n) as u64 }.fill(sector);
        }
        Box::new(Self { medium, visible: medium, medium_seq: [0; SECTORS] })
    }
}

/// The sectors of a stretch of bytes: page, sector in the page, first byte in the stretch.
fn sectors(at: u64, length: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    assert!(at.is_multiple_of(SECTOR_BYTES as u64), "I/O at byte {at} is aligned");
    assert!(length.is_multiple_of(SECTOR_BYTES), "I/O of {length} bytes is aligned");
    let first = at as usize / SECTOR_BYTES;
    (0..length / SECTOR_BYTES).map(move |n| {
        let sector = first + n;
        (sector / SECTORS, sector % SECTORS, n * SECTOR_BYTES)
    })
}

const fn span(sector: usize) -> std::ops::Range<usize> {
    sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES
}

impl Disk {
    /// A LUN of `bytes` bytes that tears at `unit` bytes, full of an earlier tenant's data.
    #[must_use]
    pub fn new(lun: u16, bytes: u64, unit: u32) -> Self {
        assert!(bytes.is_multiple_of(BLOCK_BYTES), "a LUN of whole blocks");
        let pages = (0..bytes / BLOCK_BYTES).map(|_| None).collect();
        Self {
            lun,
            unit: unit as usize,
            pages,
            volatile: Vec::new(),
            submitted: Vec::new(),
            executed: Vec::new(),
            failed_flushes: Vec::new(),
            last_seq: 0,
            deliveries: 0,
        }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages.len() as u64 * BLOCK_BYTES
    }

    /// Its logical block in bytes: what a power cut does not tear.
    #[must_use]
    pub const fn unit(&self) -> usize {
        self.unit
    }

    fn page(&mut self, page: usize) -> &mut Page {
        let lun = self.lun;
        self.pages[page].get_or_insert_with(|| Page::of_tenant(lun, page))
    }

    /// Takes a command in.
    pub fn submit(&mut self, id: u64, source: Source, io: DiskIo) {
        let submitted_after = self.deliveries;
        self.submitted.push(Command { id, source, io, submitted_after, waits: 0 });
    }

    /// Has the command that was taken in last let so many executions pass before its own.
    pub fn delay_last(&mut self, executions: u64) {
        self.submitted.last_mut().expect("a command was just taken in").waits = executions;
    }

    /// Whether a command waits for its execution that reads or writes any of these bytes.
    #[must_use]
    pub fn is_awaited_in(&self, bytes: &std::ops::Range<u64>) -> bool {
        self.submitted.iter().any(|command| {
            let (at, length) = match &command.io {
                DiskIo::Read { at, length } => (*at, *length),
                DiskIo::Write { at, bytes, .. } => (*at, bytes.len()),
                DiskIo::Flush { .. } => return false,
            };
            at < bytes.end && at + length as u64 > bytes.start
        })
    }

    /// How many commands wait for their execution.
    #[must_use]
    pub fn submitted(&self) -> usize {
        self.submitted.len()
    }

    /// How many commands wait for the delivery of their completion.
    #[must_use]
    pub fn executed(&self) -> usize {
        self.executed.len()
    }

    /// Executes one of the submitted commands, or a part of it, or none if all wait.
    pub fn execute_one(&mut self, dice: &mut Dice, faults: FaultRates) {
        let ready = |(index, command): (usize, &Command)| (command.waits == 0).then_some(index);
        let ready: Vec<usize> = self.submitted.iter().enumerate().filter_map(ready).collect();
        for command in &mut self.submitted {
            command.waits = command.waits.saturating_sub(1);
        }
        if ready.is_empty() {
            return;
        }
        let index = dice.one_of(&ready);
        if self.executes_in_two_steps(index, dice) {
            return;
        }
        let Command { id, source, io, submitted_after, .. } = self.submitted.swap_remove(index);
        let mut data = Vec::new();
        let result = match io {
            DiskIo::Read { at, length } => {
                let rates = (faults.read, faults.short);
                let (result, moved) = transfer(length, self.unit, rates, dice);
                data = self.read_visible(at, moved);
                data.resize(length, 0xa5);
                result
            }
            DiskIo::Write { at, bytes, durable } => {
                let rates = (faults.write, faults.short);
                let (result, moved) = transfer(bytes.len(), self.unit, rates, dice);
                let durable = durable && result.is_ok();
                self.write_visible(id, source, at, bytes[..moved].into(), durable);
                result
            }
            DiskIo::Flush { only } => {
                let is_covered = self.covered(submitted_after, only);
                if dice.chance(faults.flush) {
                    let covered = self.volatile.iter().zip(is_covered);
                    let covered = covered.filter(|(_, is)| *is).map(|(write, _)| write.seq);
                    let (volume, covered) = (source.volume, covered.collect());
                    self.failed_flushes.push(FailedFlush { id, volume, covered });
                    Err(eio())
                } else {
                    self.make_durable(&is_covered, dice);
                    Ok(())
                }
            }
        };
        self.executed.push(Ended { id, source, result, data, lost: Vec::new() });
    }

    /// Executes the first part of a long write, now and then.
    fn executes_in_two_steps(&mut self, index: usize, dice: &mut Dice) -> bool {
        let command = &self.submitted[index];
        let (id, source) = (command.id, command.source);
        let DiskIo::Write { at, bytes, durable } = command.io.clone() else { return false };
        let units = bytes.len() / self.unit;
        if units < 2 || !dice.chance(100) {
            return false;
        }
        let done = dice.between(1, units as u64 - 1) as usize * self.unit;
        self.write_visible(id, source, at, bytes[..done].into(), durable);
        let io = DiskIo::Write { at: at + done as u64, bytes: bytes[done..].into(), durable };
        self.submitted[index].io = io;
        true
    }

    /// Delivers the completion of one of the executed commands.
    pub fn deliver_one(&mut self, dice: &mut Dice) -> Ended {
        let mut ended = self.executed.swap_remove(dice.index(self.executed.len()));
        self.deliveries += 1;
        for write in self.volatile.iter_mut().filter(|write| write.command == ended.id) {
            write.delivered = Some(self.deliveries);
        }
        if let Some(index) = self.failed_flushes.iter().position(|flush| flush.id == ended.id) {
            let flush = self.failed_flushes.swap_remove(index);
            ended.lost = self.fail_flush(&flush, dice);
        }
        ended
    }

    fn read_visible(&mut self, at: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        for (page, sector, n) in sectors(at, length) {
            data[n..n + SECTOR_BYTES].copy_from_slice(&self.page(page).visible[span(sector)]);
        }
        data
    }

    fn write_visible(
        &mut self,
        command: u64,
        source: Source,
        at: u64,
        bytes: Rc<[u8]>,
        durable: bool,
    ) {
        self.last_seq += 1;
        let seq = self.last_seq;
        for (page, sector, n) in sectors(at, bytes.len()) {
            let into = &mut self.page(page).visible[span(sector)];
            into.copy_from_slice(&bytes[n..n + SECTOR_BYTES]);
        }
        let write = Volatile { seq, command, delivered: None, source, at, bytes };
        if durable {
            self.persist(&write);
        } else {
            self.volatile.push(write);
        }
    }

    /// Brings a write to the medium, where no later write is there already.
    fn persist(&mut self, write: &Volatile) {
        for (page, sector, n) in sectors(write.at, write.bytes.len()) {
            let page = self.page(page);
            if page.medium_seq[sector] < write.seq {
                page.medium_seq[sector] = write.seq;
                page.medium[span(sector)].copy_from_slice(&write.bytes[n..n + SECTOR_BYTES]);
            }
        }
    }

    fn covered(&self, submitted_after: u64, only: Option<Source>) -> Vec<bool> {
        let is_covered = |write: &Volatile| {
            write.delivered.is_some_and(|at| at <= submitted_after)
                && only.is_none_or(|only| only == write.source)
        };
        self.volatile.iter().map(is_covered).collect()
    }

    /// A flush makes durable what it covers, and anything else as it likes.
    fn make_durable(&mut self, is_covered: &[bool], dice: &mut Dice) {
        let writes = std::mem::take(&mut self.volatile);
        for (write, is_covered) in writes.into_iter().zip(is_covered) {
            if *is_covered || dice.chance(200) {
                self.persist(&write);
            } else {
                self.volatile.push(write);
            }
        }
    }

    /// A failing flush makes some of it durable, keeps some and drops some; says whose it dropped.
    fn fail_flush(&mut self, flush: &FailedFlush, dice: &mut Dice) -> Vec<u32> {
        let mut lost = Vec::new();
        let mut dropped = Vec::new();
        let writes = std::mem::take(&mut self.volatile);
        for write in writes {
            let is_covered =
                flush.covered.contains(&write.seq) && write.source.volume == flush.volume;
            match dice.below(3) {
                0 if is_covered => self.persist(&write),
                1 if is_covered => {
                    lost.push(write.source.volume);
                    dropped.push((write.at, write.bytes.len()));
                }
                _ => self.volatile.push(write),
            }
        }
        for (at, length) in dropped {
            self.restore_visible(at, length);
        }
        lost.sort_unstable();
        lost.dedup();
        lost
    }

    /// Makes visible what the medium and the rest of the cache have.
    fn restore_visible(&mut self, at: u64, length: usize) {
        for (page, sector, _) in sectors(at, length) {
            let start = ((page * SECTORS + sector) * SECTOR_BYTES) as u64;
            let newest = self
                .volatile
                .iter()
                .filter(|w| (w.at..w.at + w.bytes.len() as u64).contains(&start))
                .max_by_key(|write| write.seq)
                .map(|write| (write.seq, Rc::clone(&write.bytes), (start - write.at) as usize));
            let page = self.page(page);
            let range = span(sector);
            match newest {
                Some((seq, bytes, n)) if seq > page.medium_seq[sector] => {
                    page.visible[range].copy_from_slice(&bytes[n..n + SECTOR_BYTES]);
                }
                _ => page.visible[range.clone()].copy_from_slice(&page.medium[range]),
            }
        }
    }

    /// The daemon of these volumes is killed: what it had under way finishes or never starts, and
    /// nobody is told.
    pub fn finish(&mut self, is_of: impl Fn(u32) -> bool, dice: &mut Dice) {
        let mut submitted = self.take_submitted(&is_of);
        dice.shuffle(&mut submitted);
        for command in submitted {
            if dice.chance(250) {
                continue;
            }
            match command.io {
                DiskIo::Read { .. } => {}
                DiskIo::Write { at, bytes, durable } => {
                    let durable = durable && dice.chance(500);
                    self.write_visible(command.id, command.source, at, bytes, durable);
                }
                DiskIo::Flush { .. } => {
                    let covered = self.covered(command.submitted_after, None);
                    self.make_durable(&covered, dice);
                }
            }
        }
        self.nobody_is_told(&is_of);
    }

    /// The node of these volumes loses its power, and the LUN does not: of what was under way any
    /// part is in the cache.
    pub fn abandon(&mut self, is_of: impl Fn(u32) -> bool, dice: &mut Dice) {
        let mut submitted = self.take_submitted(&is_of);
        dice.shuffle(&mut submitted);
        for command in submitted {
            let DiskIo::Write { at, bytes, .. } = command.io else { continue };
            let units_kept = dice.one_of(&[0, 500, 1000]);
            for from in (0..bytes.len()).step_by(self.unit) {
                if dice.chance(units_kept) {
                    let unit = bytes[from..from + self.unit].into();
                    let at = at + from as u64;
                    self.write_visible(command.id, command.source, at, unit, false);
                }
            }
        }
        self.nobody_is_told(&is_of);
    }

    fn take_submitted(&mut self, is_of: &impl Fn(u32) -> bool) -> Vec<Command> {
        let submitted = std::mem::take(&mut self.submitted);
        // What blocking I/O left under way is of a daemon that is gone.
        let is_taken = |one: &Command| one.id == ABANDONED || is_of(one.source.volume);
        let (taken, left) = submitted.into_iter().partition(is_taken);
        self.submitted = left;
        taken
    }

    /// Completions of these volumes go nowhere.
    fn nobody_is_told(&mut self, is_of: &impl Fn(u32) -> bool) {
        self.executed.retain(|ended| !is_of(ended.source.volume));
        self.failed_flushes.retain(|flush| !is_of(flush.volume));
        self.deliveries += 1;
        for write in self.volatile.iter_mut().filter(|write| is_of(write.source.volume)) {
            write.delivered.get_or_insert(self.deliveries);
        }
    }

    /// The power goes: what was volatile or under way survives in any part.
    pub fn cut_power(&mut self, dice: &mut Dice) {
        for command in std::mem::take(&mut self.submitted) {
            if let DiskIo::Write { at, bytes, .. } = command.io {
                self.write_visible(command.id, command.source, at, bytes, false);
            }
        }
        self.executed.clear();
        self.failed_flushes.clear();
        let writes = std::mem::take(&mut self.volatile);
        let (writes_kept, units_kept) =
            dice.one_of(&[(0, 0), (1000, 1000), (500, 1000), (800, 500), (1000, 500)]);
        let mut survivors = Vec::new();
        for write in &writes {
            if !dice.chance(writes_kept) {
                continue;
            }
            let units = (0..write.bytes.len() / self.unit).filter(|_| dice.chance(units_kept));
            survivors.extend(units.map(|unit| (write, unit * self.unit)));
        }
        // Whichever comes last wins: a cache writes back in any order.
        dice.shuffle(&mut survivors);
        for (write, offset) in survivors {
            let bytes = &write.bytes[offset..offset + self.unit];
            self.survive(write.seq, write.at + offset as u64, bytes);
        }
        for write in &writes {
            self.restore_visible(write.at, write.bytes.len());
        }
    }

    /// Brings a unit of a volatile write to the medium, unless what was made durable is newer.
    fn survive(&mut self, seq: u64, at: u64, bytes: &[u8]) {
        for (page, sector, n) in sectors(at, bytes.len()) {
            let page = self.page(page);
            if page.medium_seq[sector] < seq {
                page.medium[span(sector)].copy_from_slice(&bytes[n..n + SECTOR_BYTES]);
            }
        }
    }

    /// What the medium has; for faults that a medium should not have.
    pub fn medium(&mut self, at: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        for (page, sector, n) in sectors(at, length) {
            data[n..n + SECTOR_BYTES].copy_from_slice(&self.page(page).medium[span(sector)]);
        }
        data
    }

    /// Changes the medium behind everybody's back: a lost, misdirected or decayed write. Nothing
    /// else is under way there.
    pub fn overwrite_medium(&mut self, at: u64, bytes: &[u8]) {
        for (page, sector, n) in sectors(at, bytes.len()) {
            let page = self.page(page);
            page.medium[span(sector)].copy_from_slice(&bytes[n..n + SECTOR_BYTES]);
            page.visible[span(sector)].copy_from_slice(&bytes[n..n + SECTOR_BYTES]);
        }
    }
}

/// How a transfer ends, and how many bytes it moves.
fn transfer(
    length: usize,
    unit: usize,
    (failing, short): (u64, u64),
    dice: &mut Dice,
) -> (Result<(), LunError>, usize) {
    let is_failing = dice.chance(failing);
    if !is_failing && !dice.chance(short) {
        return (Ok(()), length);
    }
    let moved = dice.below((length / unit) as u64) as usize * unit;
    if is_failing {
        return (Err(eio()), moved);
    }
    let (moved_bytes, asked) = (moved as u32, length as u32);
    (Err(LunError::Short { moved: moved_bytes, asked }), moved)
}

#[cfg(test)]
mod tests;
