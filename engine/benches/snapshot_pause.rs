//! How long writes wait for a snapshot, by how much of the volume is mapped: from the freeze to the
//! switch, with 100 first writes to flush, journal and commit each time.
//!
//! The LUN is a sparse file that is really flushed; the metadata service answers at once. Prints
//! percentiles and the ratio of the largest volume to the smallest.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![allow(clippy::print_stdout, reason = "its figures are what it is for")]

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use lunar_engine::dirty::{DirtyIdentity, DirtyTable, table_words};
use lunar_engine::io::{Action, IoOp, IoRequest, LunDone, LunIo, QueueId, RequestId};
use lunar_engine::journal::{JournalIdentity, JournalRing, LunSet, RingPlace};
use lunar_engine::lun::{FileLun, LunDevice, LunLayout, LunTable};
use lunar_engine::volume::{
    Chain, ControlWork, QueueContext, Tuning, Volume, VolumeParts, VolumeSpec, WorkDone, blocking,
    dirty_capacity,
};
use lunar_types::{
    Epoch, ExtentAddress, ExtentRun, ExtentSize, Incarnation, LayerId, LogicalBlockSize,
    LogicalExtent, LunIndex, NodeId, NodeIncarnation, Presence, Slot, SlotPlace, VolumeId,
    VolumeSize,
};

const SIZES_GIB: [u64; 3] = [1, 64, 1024];
const CUTS: u32 = 400;
const WRITES: u64 = 100;
const FIRST_DATA: u64 = 8;

struct OneLun(FileLun);

impl LunSet for OneLun {
    fn lun(&self, index: LunIndex) -> Option<&dyn LunDevice> {
        (index.get() == 0).then_some(&self.0 as &dyn LunDevice)
    }
}

struct Case {
    volume: Volume,
    queue: QueueContext,
    control: QueueContext,
    lun: OneLun,
    extents: u64,
    next_free: u64,
    head: LayerId,
}

impl Case {
    /// A volume whose every extent is mapped.
    fn new(gib: u64) -> Self {
        let size = ExtentSize::DEFAULT;
        let extents = (gib << 30) / size.bytes();
        let spare = u64::from(CUTS) * WRITES + 4096;
        let lun_bytes = (extents + spare) * size.bytes();
        let file: File = tempfile::tempfile().expect("a temporary file");
        file.set_len(lun_bytes).expect("sparse");
        let lun = OneLun(FileLun::new(file, lun_bytes, 4096));
        let holder = NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) };
        let (volume, layer, epoch) = (VolumeId::from_u128(1), LayerId::new(1), Epoch::new(1));
        let place = RingPlace::new(vec![ExtentRun::new(ExtentAddress::new(0, 0), 2)], size);
        let capacity = dirty_capacity(&place, size);
        let words: Box<[AtomicU64]> =
            (0..table_words(size, capacity)).map(|_| AtomicU64::new(0)).collect();
        let dirty = DirtyIdentity { volume, layer, epoch, holder, extent_size: size };
        let journal = JournalIdentity { volume, layer, epoch, writer: holder };
        let spec = VolumeSpec {
            volume,
            holder,
            size: VolumeSize::from_bytes(extents * size.bytes()).expect("valid"),
            extent_size: size,
            logical_block: LogicalBlockSize::B4096,
            queue_count: 1,
            luns: LunTable::new([(LunIndex::new(0), LunLayout::new(size, lun_bytes))]),
            tuning: Tuning::default(),
        };
        let mut chain = Chain::new(spec.size, size, spec.luns.clone()).expect("it fits");
        chain.begin(layer).expect("the first");
        let solid = |extent| {
            let place = SlotPlace::Extent(ExtentAddress::new(0, extent + FIRST_DATA));
            let slot = Slot { place, opaque: false, presence: Presence::full(size) };
            (LogicalExtent::new(extent), slot)
        };
        let parts = VolumeParts {
            spec,
            chain,
            own: (0..extents).map(solid).collect(),
            ring: JournalRing::fresh(journal, place),
            table: DirtyTable::create(Arc::new(words), dirty, capacity).expect("right size"),
            predecessor: None,
        };
        let volume = Volume::start(parts).expect("a sound map");
        let (queue, control) = (volume.queue(QueueId::new(0)), volume.control_queue());
        let next_free = extents + FIRST_DATA;
        Self { volume, queue, control, lun, extents, next_free, head: layer }
    }

    /// First writes in the present head, spread over the volume.
    fn write_some(&mut self, round: u64) {
        for n in 0..WRITES {
            let extent = (round * 7919 + n * 104_729) % self.extents;
            let op = IoOp::Write { offset: extent << 20, length: 4096, fua: false };
            let id = RequestId { queue: QueueId::new(0), tag: 1 };
            let mut actions = Vec::new();
            self.volume.submit(&mut self.queue, IoRequest { id, op }, &mut actions);
            while let Some(action) = actions.pop() {
                match action {
                    Action::Lun { op, io: LunIo::Write { at, length, .. } } => {
                        let bytes = vec![7; length as usize];
                        let result = self.lun.0.write_at(at, &bytes);
                        let done = LunDone { op, result, buffer: None };
                        self.volume.complete(&mut self.queue, done, &mut actions);
                    }
                    Action::Complete { result, .. } => result.expect("written"),
                    Action::WakeControl | Action::WakeQueue(_) => {}
                    other => unreachable!("a whole block is written, not {other:?}"),
                }
            }
        }
    }

    fn fill_reserve(&mut self) {
        let first = ExtentAddress::new(0, self.next_free);
        self.next_free += WRITES;
        let run = ExtentRun::new(first, u32::try_from(WRITES).expect("few"));
        self.volume.give_reserve(&[run], &mut Vec::new());
    }

    /// Freeze, settle, switch.
    fn cut(&mut self) -> Duration {
        let begun = Instant::now();
        self.volume.freeze().expect("few cuts");
        while !self.volume.is_settled() {
            let mut out = Vec::new();
            match self.volume.next_work(Duration::ZERO, &mut out) {
                None => {}
                Some(ControlWork::Round) => {
                    blocking::run_round(&self.volume, &mut self.control, &self.lun, &mut out);
                }
                Some(ControlWork::Commit(_)) => {
                    self.volume.work_done(WorkDone::Committed, Duration::ZERO, &mut out);
                }
                Some(ControlWork::Reserve { .. }) => {
                    self.volume.work_done(WorkDone::Unavailable, Duration::ZERO, &mut out);
                }
            }
        }
        self.head = LayerId::new(self.head.get() + 1);
        self.volume.switch(self.head, &mut Vec::new());
        begun.elapsed()
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

fn main() {
    let mut medians = Vec::new();
    for gib in SIZES_GIB {
        let mut case = Case::new(gib);
        let mut pauses = Vec::new();
        for round in 0..CUTS {
            case.fill_reserve();
            case.write_some(u64::from(round));
            pauses.push(case.cut());
        }
        pauses.sort_unstable();
        let [p50, p99] = [50, 99].map(|percent| percentile(&pauses, percent));
        let max = pauses[pauses.len() - 1];
        println!("{gib:>5} GiB mapped: p50 {p50:?}, p99 {p99:?}, max {max:?}, {CUTS} cuts");
        medians.push(p50);
    }
    let ratio = medians[medians.len() - 1].as_secs_f64() / medians[0].as_secs_f64();
    println!("1 TiB against 1 GiB: {ratio:.2} (median)");
}
