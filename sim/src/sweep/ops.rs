//! The operations of a sweep: what each does to the volume, and what it promises.
//!
//! Adding one is a variant of [`Op`], a row of [`Op::TABLE`] and its function.

use lunar_engine::io::IoOp;
use lunar_engine::volume::{CopyStep, NoClaim};
use lunar_metadata::domain::{
    CloneVolume, CreatePool, CreateVolume, DeleteSnapshot, DeleteVolume, Detach, DetachMode,
    GrowVolume, NewLun, PoolFencing, ReleaseExtents, ResumeAttachment, RollbackVolume, Selector,
};
use lunar_metadata::seams::block_on;
use lunar_types::{ByteCount, ExtentRun, LunId, Name, VolumeSize};

use super::control::NOW;
use super::medium::Image;
use super::model::Expected;
use super::node::{Node, Outcome, told};
use super::record::Pending;
use super::shape::{self, EXTENT_SECTORS, EXTENTS, SECTORS};
use super::store::StoreImage;
use crate::planted::Planted;
use crate::stamp::SECTOR_BYTES;

/// An operation of a sweep.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, clap::ValueEnum)]
pub enum Op {
    /// Two writes of parts of blocks: within an extent, and over the border of two; of a volume
    /// that has grown a third one, over its old end.
    Write,
    /// A durable write into blocks that a snapshot shares.
    Fua,
    /// Everything written so far is promised.
    Flush,
    /// Less than an extent, a whole extent or the whole volume.
    Discard,
    /// Over a border, most of an extent, or blocks of an extent that may be a hole.
    WriteZeroes,
    /// A snapshot of the volume while it is served.
    Snapshot,
    /// The same, but the vote never reaches the service: the volume goes on undecided.
    VoteLost,
    /// The same, but the answer to the vote does not come back.
    AnswerLost,
    /// A volume made of the newest snapshot.
    Clone,
    /// The volume is detached, goes back to the newest snapshot, and is attached again.
    Rollback,
    /// The volume becomes an extent larger, and its daemon hears of it.
    Grow,
    /// The newest snapshot or clone is deleted, and the service merges and frees.
    Delete,
    /// The volume is read, and one extent that is read in pieces is made solid.
    Consolidate,
    /// Everything dirty is committed.
    Checkpoint,
}

/// How an operation is carried out; the number is its place in the sequence.
type Run = fn(&mut Node, u64) -> Outcome;

impl Op {
    /// Every operation and what it does.
    const TABLE: [(Self, Run); 14] = [
        (Self::Write, write),
        (Self::Fua, fua),
        (Self::Flush, |node, _| node.flush()),
        (Self::Discard, discard),
        (Self::WriteZeroes, write_zeroes),
        (Self::Snapshot, |node, _| node.cut(super::cut::Vote::Answered)),
        (Self::VoteLost, |node, _| node.cut(super::cut::Vote::Lost)),
        (Self::AnswerLost, |node, _| node.cut(super::cut::Vote::AnswerLost)),
        (Self::Clone, |node, _| node.clone_newest()),
        (Self::Rollback, |node, _| node.roll_back()),
        (Self::Grow, |node, _| node.grow()),
        (Self::Delete, |node, _| node.delete_newest()),
        (Self::Consolidate, |node, _| node.consolidate()),
        (Self::Checkpoint, |node, _| node.checkpoint_all()),
    ];

    /// Every operation.
    pub fn all() -> impl Iterator<Item = Self> + Clone {
        Self::TABLE.iter().map(|(op, _)| *op)
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.expect("every operation can be asked for").get_name().to_owned()
    }

    /// Carries it out as the one of this place in a sequence.
    pub(super) fn run(self, node: &mut Node, step: usize) -> Outcome {
        let row = Self::TABLE.iter().find(|(op, _)| *op == self);
        let (_, run) = row.expect("the table has every operation");
        run(node, step as u64)?;
        if node.serving.is_some() { node.run_control() } else { Ok(()) }
    }
}

/// What was made and can be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Made {
    Snapshot(String),
    Clone(String),
}

fn name(text: &str) -> Name {
    text.parse().expect("a valid name")
}

/// The name of the volume.
pub(super) fn volume_name() -> Name {
    name("volume")
}

/// The name of the pool.
pub(super) fn pool_name() -> Name {
    name("pool")
}

const fn byte(sector: u64) -> u64 {
    sector * SECTOR_BYTES as u64
}

fn write_of(from: u64, count: u64, fua: bool) -> IoOp {
    IoOp::Write { offset: byte(from), length: byte(count) as u32, fua }
}

fn write(node: &mut Node, step: u64) -> Outcome {
    node.change(0, write_of(20 + 3 * step, 16, false))?;
    node.change(1, write_of(2 * EXTENT_SECTORS - 6 - step, 9 + 5 * step, false))?;
    if node.sure().sectors() == SECTORS {
        return Ok(());
    }
    node.change(0, write_of(SECTORS as u64 - 5, 14, false))
}

fn fua(node: &mut Node, step: u64) -> Outcome {
    node.change(1, write_of(EXTENT_SECTORS + 36 + 2 * step, 10, true))
}

fn discard(node: &mut Node, step: u64) -> Outcome {
    let (from, count) =
        [(18, 32), (EXTENT_SECTORS, EXTENT_SECTORS), (0, SECTORS as u64)][step as usize];
    node.change(0, IoOp::Discard { offset: byte(from), length: byte(count) })
}

fn write_zeroes(node: &mut Node, step: u64) -> Outcome {
    let (from, count) = [
        (EXTENT_SECTORS - 10, 22),
        (EXTENT_SECTORS + 2, EXTENT_SECTORS - 5),
        (2 * EXTENT_SECTORS, 40),
    ][step as usize];
    node.change(1, IoOp::WriteZeroes { offset: byte(from), length: byte(count) })
}

/// The sectors that a request changes.
fn changed(op: IoOp) -> (u64, u64) {
    let sector = |bytes: u64| bytes / SECTOR_BYTES as u64;
    match op {
        IoOp::Write { offset, length, .. } => (sector(offset), sector(length.into())),
        IoOp::Discard { offset, length } | IoOp::WriteZeroes { offset, length } => {
            (sector(offset), sector(length))
        }
        IoOp::Read { .. } | IoOp::Flush => (0, 0),
    }
}

impl Node {
    /// What every sequence begins with: an extent that is partly the head's, one that is the
    /// snapshot's, and a hole.
    pub(super) fn base(planted: Option<Planted>) -> Outcome<Self> {
        let mut node = Self::new((Image::default(), StoreImage::default(), 0), planted, true)?;
        node.make_cluster()?;
        node.join(None)?;
        node.attach()?;
        node.change(0, write_of(0, 64, false))?;
        node.change(1, write_of(EXTENT_SECTORS, EXTENT_SECTORS, false))?;
        node.cut(super::cut::Vote::Answered)?;
        node.change(0, write_of(16, 12, false))?;
        node.flush()?;
        node.checkpoint_all()?;
        node.run_control()?;
        node.recorder.borrow_mut().is_on = true;
        node.mark();
        Ok(node)
    }

    fn make_cluster(&mut self) -> Outcome {
        let lun = |(index, bytes): (usize, u64)| NewLun {
            id: LunId::from_u128(index as u128 + 1),
            size: ByteCount::new(bytes),
            logical_block_size: shape::logical_block(),
        };
        let luns = shape::lun_sizes().into_iter().enumerate().map(lun).collect();
        let (request, extent_size) = (self.fresh_request(), shape::extent_size());
        let pool = CreatePool {
            request,
            name: pool_name(),
            extent_size,
            luns,
            fencing: PoolFencing::None,
        };
        self.call("a pool", |service| block_on(service.create_pool(&pool)))?;
        let volume = CreateVolume {
            request: self.fresh_request(),
            name: volume_name(),
            pool: Selector::Name(pool_name()),
            size: shape::volume_size(),
            logical_block_size: shape::logical_block(),
            over_watermark: true,
        };
        assert_eq!(shape::volume_size().extents(extent_size), EXTENTS, "as the design says");
        self.call("a volume", |service| block_on(service.create_volume(&volume)))?;
        Ok(())
    }

    /// What there has to be, between two calls.
    pub(super) fn sure(&self) -> Expected {
        self.recorder.borrow().sure()
    }

    /// What there has to be from now on.
    pub(super) fn expect(&self, expected: Expected) {
        self.recorder.borrow_mut().expect(expected);
        self.mark();
    }

    /// A request that changes something.
    fn change(&mut self, queue: u16, op: IoOp) -> Outcome {
        let (from, count) = changed(op);
        let is_write = matches!(op, IoOp::Write { .. });
        self.last_write += u32::from(is_write);
        let write = if is_write { self.last_write } else { 0 };
        let mut expected = self.sure();
        expected.begin(from, count, write);
        self.carry_out(Pending { queue, op, write }, expected.clone())?;
        if matches!(op, IoOp::Write { fua: true, .. }) {
            expected.promise(from, count);
        }
        self.expect(expected);
        Ok(())
    }

    fn flush(&mut self) -> Outcome {
        let mut expected = self.sure();
        let pending = Pending { queue: 0, op: IoOp::Flush, write: 0 };
        self.carry_out(pending, expected.clone())?;
        expected.promise_all();
        self.expect(expected);
        Ok(())
    }

    /// A request from its beginning to its end; a crash in it finds it under way.
    fn carry_out(&mut self, pending: Pending, meanwhile: Expected) -> Outcome {
        self.recorder.borrow_mut().pending = Some(pending);
        self.expect(meanwhile);
        self.request(pending)?;
        self.recorder.borrow_mut().pending = None;
        Ok(())
    }

    fn checkpoint_all(&mut self) -> Outcome {
        self.seal_if_undecided()?;
        self.checkpoint()
    }

    /// The newest snapshot, if there is one.
    fn newest_snapshot(&self) -> Option<String> {
        self.made.iter().rev().find_map(|made| match made {
            Made::Snapshot(name) => Some(name.clone()),
            Made::Clone(_) => None,
        })
    }

    fn clone_newest(&mut self) -> Outcome {
        let Some(snapshot) = self.newest_snapshot() else { return Ok(()) };
        self.last_made += 1;
        let clone = format!("c{}", self.last_made);
        let request = CloneVolume {
            request: self.fresh_request(),
            snapshot: Selector::Name(name(&snapshot)),
            name: name(&clone),
            size: None,
            over_watermark: true,
        };
        let mut after = self.sure();
        let content = after.content(&snapshot);
        after.add(&clone, content);
        let made = Made::Clone(clone);
        self.changing_call("a clone", after, |s| block_on(s.clone_volume(&request)))?;
        self.made.push(made);
        Ok(())
    }

    /// The service first, then the engine: a crash between them leaves an attachment whose size
    /// the successor serves.
    fn grow(&mut self) -> Outcome {
        let mut after = self.sure();
        after.grow(EXTENT_SECTORS as usize);
        let bytes = byte(after.sectors() as u64);
        let (request, volume) = (self.fresh_request(), Selector::Name(volume_name()));
        let size = told("a size", VolumeSize::from_bytes(bytes))?;
        let grow = GrowVolume { request, volume, size, over_watermark: true };
        self.changing_call("a growth", after, |s| block_on(s.grow_volume(&grow)))?;
        let (volume, caller) = (self.volume_id()?, self.caller());
        let request = ResumeAttachment { volume, epoch: self.serving().epoch, caller };
        let held = self.call("a look", |s| block_on(s.resume_attachment(request)))?;
        let served = told("the engine", self.serving().engine.grow(held.volume.size))?;
        if served == size { Ok(()) } else { Err(format!("{served} is served, not {size}")) }
    }

    /// One step of the consolidator, as fs-core takes it: not while it is undecided which layer
    /// is the head.
    fn consolidate(&mut self) -> Outcome {
        self.seal_if_undecided()?;
        self.read_volume()?;
        let claim = match self.serving().engine.claim(NOW) {
            Ok(claim) => claim,
            Err(NoClaim::NothingDue) => return Ok(()),
            Err(refusal) => return Err(format!("nothing can be claimed: {refusal}")),
        };
        let logical = claim.logical;
        let mut out = Vec::new();
        let serving = self.serving();
        let queue = &mut serving.queues[usize::from(shape::QUEUES)];
        let before = serving.engine.stats().consolidated_extents;
        let step = serving.engine.start_copy(queue, claim, &mut out);
        self.run(usize::from(shape::QUEUES), out)?;
        let copied = self.serving().engine.stats().consolidated_extents - before;
        match (step, copied) {
            (CopyStep::Begun, 1) => Ok(()),
            (step, copied) => Err(format!("extent {logical}: {step:?}, {copied} copied")),
        }
    }

    fn roll_back(&mut self) -> Outcome {
        let Some(snapshot) = self.newest_snapshot() else { return Ok(()) };
        self.checkpoint_all()?;
        self.detach()?;
        let request = RollbackVolume {
            request: self.fresh_request(),
            volume: Selector::Name(volume_name()),
            snapshot: Selector::Name(name(&snapshot)),
        };
        let mut after = self.sure();
        let content = after.content(&snapshot);
        after.roll_back(&content);
        self.changing_call("a rollback", after, |s| block_on(s.rollback_volume(&request)))?;
        self.run_operations()?;
        self.attach()
    }

    /// Gives the volume back, with everything committed.
    fn detach(&mut self) -> Outcome {
        let volume = self.volume_id()?;
        let (caller, pool) = (self.caller(), self.pool()?);
        let serving = self.serving.take().ok_or("the volume is not served")?;
        let reserve = serving.engine.take_reserve(usize::MAX);
        let runs = reserve.iter().map(|at| ExtentRun::new(*at, 1)).collect();
        let release = ReleaseExtents { request: self.fresh_request(), caller, pool, runs };
        self.call("a release", |service| block_on(service.release_extents(&release)))?;
        let detach = Detach {
            request: self.fresh_request(),
            volume,
            epoch: serving.epoch,
            caller,
            mode: DetachMode::Clean,
        };
        let mut after = self.sure();
        after.promise_all();
        self.changing_call("a detachment", after, |service| block_on(service.detach(&detach)))?;
        self.recorder.borrow_mut().tables.clear();
        Ok(())
    }

    fn delete_newest(&mut self) -> Outcome {
        let Some(made) = self.made.pop() else { return Ok(()) };
        let request = self.fresh_request();
        let mut after = self.sure();
        match &made {
            Made::Snapshot(snapshot) => {
                after.remove(snapshot);
                let snapshot = Selector::Name(name(snapshot));
                let delete = DeleteSnapshot { request, snapshot };
                let call = "the deletion of a snapshot";
                self.changing_call(call, after, |s| block_on(s.delete_snapshot(&delete)))?;
            }
            Made::Clone(clone) => {
                after.remove(clone);
                let volume = Selector::Name(name(clone));
                let delete = DeleteVolume { request, volume };
                let call = "the deletion of a clone";
                self.changing_call(call, after, |s| block_on(s.delete_volume(&delete)))?;
            }
        }
        self.run_operations()?;
        Ok(())
    }
}
