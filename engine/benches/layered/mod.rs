//! A volume over sealed layers on a sparse file, with a metadata service that answers at once.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lunar_engine::buffer::AlignedBuf;
use lunar_engine::dirty::{DirtyIdentity, DirtyTable, table_words};
use lunar_engine::io::{Action, IoOp, IoRequest, LunDone, LunIo, QueueId, RequestId};
use lunar_engine::journal::{JournalIdentity, JournalRing, LunSet, RingPlace};
use lunar_engine::lun::{FileLun, LunDevice, LunError, LunLayout, LunTable};
use lunar_engine::volume::{
    Chain, ControlWork, LayerSlots, QueueContext, Tuning, Volume, VolumeParts, VolumeSpec,
    WorkDone, blocking, dirty_capacity,
};
use lunar_types::{
    BlockRange, Epoch, ExtentAddress, ExtentRun, ExtentSize, Incarnation, LayerId,
    LogicalBlockSize, LogicalExtent, LunIndex, NodeId, NodeIncarnation, Presence, Slot, SlotPlace,
    VolumeId, VolumeSize,
};

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 4096;
/// Blocks of an extent.
pub(crate) const BLOCKS: u64 = 256;
/// The first extent that is not the journal's.
const FIRST_DATA: u64 = 8;

/// Visits the numbers of so many bits in an order that is hard to guess, each once.
pub(crate) const fn scattered(n: u64, bits: u32) -> u64 {
    let mask = (1 << bits) - 1;
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
    let n = (n ^ n >> (bits / 2)).wrapping_mul(0xd6e8_feb8_6659_fd93) & mask;
    n ^ n >> (bits / 2)
}

/// What there is at the beginning.
pub(crate) struct Shape {
    /// Layers with data; the head is the last of them if it is the only one, otherwise above them.
    pub(crate) layers: u64,
    /// Extents of the volume, all of them mapped in the lowest layer.
    pub(crate) extents: u64,
    /// Random blocks of each extent that every further layer has.
    pub(crate) writes: u64,
    /// Whether each block has a content of its own; otherwise the file is empty.
    pub(crate) has_content: bool,
}

/// Counts what goes to the file.
pub(crate) struct OneLun {
    file: FileLun,
    written: AtomicU64,
}

impl LunDevice for OneLun {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), LunError> {
        self.file.read_at(at, buffer)
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), LunError> {
        self.written.fetch_add(bytes.len() as u64, std::sync::atomic::Ordering::Relaxed);
        self.file.write_at(at, bytes)
    }

    /// What a flush costs is no matter here.
    fn flush(&self) -> Result<(), LunError> {
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    fn logical_block_bytes(&self) -> u32 {
        self.file.logical_block_bytes()
    }
}

impl LunSet for OneLun {
    fn lun(&self, index: LunIndex) -> Option<&dyn LunDevice> {
        (index.get() == 0).then_some(self as &dyn LunDevice)
    }
}

/// The volume.
pub(crate) struct Bench {
    pub(crate) volume: Volume,
    pub(crate) control: QueueContext,
    pub(crate) lun: OneLun,
    /// Reads and writes of the guest's requests on the LUN.
    pub(crate) lun_ios: u64,
    /// Everything that was written since the volume was made.
    pub(crate) lun_written_bytes: u64,
    queue: QueueContext,
    buffer: AlignedBuf,
    next_free: u64,
}

/// The slots of the layers, the lowest first, and the first extent that is free.
fn layers_of(shape: &Shape) -> (Vec<LayerSlots>, u64) {
    let size = ExtentSize::DEFAULT;
    let mut next = FIRST_DATA;
    let mut layers = Vec::new();
    for layer in 0..shape.layers {
        let has_data = layer == 0 || shape.writes > 0;
        let slots = (0..shape.extents).filter(|_| has_data).map(|extent| {
            let mut presence =
                if layer == 0 { Presence::full(size) } else { Presence::empty(size) };
            for n in 0..if layer == 0 { 0 } else { shape.writes } {
                let number = (layer * shape.extents + extent) * shape.writes + n;
                let block = scattered(number, 40) % BLOCKS;
                presence.insert(BlockRange::new(block as u32, 1));
            }
            let place = SlotPlace::Extent(ExtentAddress::new(0, next));
            next += 1;
            (LogicalExtent::new(extent), Slot { place, opaque: false, presence })
        });
        layers.push(slots.collect());
    }
    (layers, next)
}

/// Gives every block of every slot a content of its own.
fn write_content(lun: &OneLun, table: &LunTable, layers: &[LayerSlots]) {
    let mut extent = AlignedBuf::zeroed(BLOCKS as usize);
    for (layer, slots) in layers.iter().enumerate() {
        for (logical, slot) in slots {
            let at = table.byte_of(slot.extent().expect("each has one"));
            for (n, block) in extent.as_mut_bytes().chunks_mut(BLOCK as usize).enumerate() {
                let stamp = (layer as u64) << 48 | logical.get() << 16 | n as u64;
                block[..8].copy_from_slice(&stamp.to_le_bytes());
            }
            for block in (0..BLOCKS).filter(|block| slot.presence.contains(*block as u32)) {
                let first = (block * BLOCK) as usize;
                let bytes = &extent.as_bytes()[first..first + BLOCK as usize];
                lun.write_at(at + block * BLOCK, bytes).expect("written");
            }
        }
    }
}

impl Bench {
    pub(crate) fn new(shape: Shape) -> Self {
        let size = ExtentSize::DEFAULT;
        let (mut layers, next_free) = layers_of(&shape);
        let lun_bytes = (next_free + 2 * shape.extents + 64) * size.bytes();
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(lun_bytes).expect("sparse");
        let lun = OneLun { file: FileLun::new(file, lun_bytes, 4096), written: AtomicU64::new(0) };
        let luns = LunTable::new([(LunIndex::new(0), LunLayout::new(size, lun_bytes))]);
        if shape.has_content {
            write_content(&lun, &luns, &layers);
        }
        lun.written.store(0, std::sync::atomic::Ordering::Relaxed);
        let own = if layers.len() == 1 { layers.remove(0) } else { LayerSlots::new() };
        let volume = start(&shape, layers, own, luns);
        let spare = u32::try_from(shape.extents + 32).expect("few");
        let run = ExtentRun::new(ExtentAddress::new(0, next_free), spare);
        volume.give_reserve(&[run], &mut Vec::new());
        Self {
            queue: volume.queue(QueueId::new(0)),
            control: volume.control_queue(),
            volume,
            lun,
            lun_ios: 0,
            lun_written_bytes: 0,
            buffer: AlignedBuf::zeroed(BLOCKS as usize),
            next_free: next_free + u64::from(spare),
        }
    }

    /// Reads blocks; gives the first bytes of what was read.
    pub(crate) fn read(&mut self, block: u64, count: u32) -> u64 {
        self.run(IoOp::Read { offset: block * BLOCK, length: count * BLOCK as u32 });
        let bytes = self.buffer.as_bytes();
        u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
    }

    /// Writes a block.
    pub(crate) fn write(&mut self, block: u64) {
        self.run(IoOp::Write { offset: block * BLOCK, length: BLOCK as u32, fua: false });
    }

    /// Makes everything durable.
    pub(crate) fn flush(&mut self) {
        self.run(IoOp::Flush);
    }

    /// Commits everything.
    pub(crate) fn checkpoint(&mut self) {
        self.volume.request_checkpoint(&mut Vec::new());
        self.work();
    }

    /// Does what the control task has to do.
    pub(crate) fn work(&mut self) {
        let mut out = Vec::new();
        while let Some(work) = self.volume.next_work(Duration::ZERO, &mut out) {
            let done = match work {
                ControlWork::Round => {
                    blocking::run_round(&self.volume, &mut self.control, &self.lun, &mut out);
                    continue;
                }
                ControlWork::Commit(_) => WorkDone::Committed,
                ControlWork::Reserve { count } => {
                    let first = ExtentAddress::new(0, self.next_free);
                    self.next_free += u64::from(count);
                    WorkDone::Reserved(vec![ExtentRun::new(first, count)])
                }
            };
            self.volume.work_done(done, Duration::ZERO, &mut out);
        }
        self.lun_written_bytes = self.lun.written.load(std::sync::atomic::Ordering::Relaxed);
    }

    fn run(&mut self, op: IoOp) {
        let id = RequestId { queue: QueueId::new(0), tag: 1 };
        let mut actions = Vec::new();
        self.volume.submit(&mut self.queue, IoRequest { id, op }, &mut actions);
        let mut has_ended = false;
        while let Some(action) = actions.pop() {
            match action {
                Action::Lun { op, io } => {
                    self.lun_ios += 1;
                    self.io(io);
                    let done = LunDone { op, result: Ok(()), buffer: None };
                    self.volume.complete(&mut self.queue, done, &mut actions);
                }
                Action::Complete { result, .. } => {
                    result.expect("a file does not fail");
                    has_ended = true;
                }
                Action::ZeroFill { .. } | Action::WakeControl | Action::WakeQueue(_) => {}
            }
        }
        assert!(has_ended, "a request waits: {:?}", self.volume.stats());
    }

    fn io(&mut self, io: LunIo) {
        let range = |offset: u32, length: u32| offset as usize..(offset + length) as usize;
        let done = match io {
            LunIo::Read { at, offset, length, .. } => {
                let into = &mut self.buffer.as_mut_bytes()[range(offset, length)];
                self.lun.read_at(at, into)
            }
            LunIo::Write { at, offset, length, .. } => {
                self.lun.write_at(at, &self.buffer.as_bytes()[range(offset, length)])
            }
            LunIo::WriteOwned { at, buffer, .. } => self.lun.write_at(at, buffer.as_bytes()),
            LunIo::Flush { .. } => self.lun.flush(),
            LunIo::WriteParts { .. } | LunIo::ReadOwned { .. } => {
                unreachable!("whole blocks are written")
            }
        };
        done.expect("a file does not fail");
    }
}

fn start(shape: &Shape, layers: Vec<LayerSlots>, own: LayerSlots, luns: LunTable) -> Volume {
    let size = ExtentSize::DEFAULT;
    let holder = NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) };
    let head = LayerId::new(layers.len() as u64 + 1);
    let (volume, layer, epoch) = (VolumeId::from_u128(1), head, Epoch::new(1));
    let place = RingPlace::new(vec![ExtentRun::new(ExtentAddress::new(0, 0), 2)], size);
    let capacity = dirty_capacity(&place, size);
    let words: Box<[AtomicU64]> =
        (0..table_words(size, capacity)).map(|_| AtomicU64::new(0)).collect();
    let dirty = DirtyIdentity { volume, layer, epoch, holder, extent_size: size };
    let journal = JournalIdentity { volume, layer, epoch, writer: holder };
    let spec = VolumeSpec {
        volume,
        holder,
        size: VolumeSize::from_bytes(shape.extents * size.bytes()).expect("valid"),
        extent_size: size,
        logical_block: LogicalBlockSize::B4096,
        queue_count: 1,
        luns,
        tuning: Tuning::default(),
    };
    let mut chain = Chain::new(spec.size, size, spec.luns.clone()).expect("it fits");
    for (index, slots) in layers.into_iter().enumerate() {
        let layer = LayerId::new(index as u64 + 1);
        chain.begin(layer).expect("in order");
        for (logical, slot) in slots {
            chain.put(logical, layer, slot).expect("a sound map");
        }
    }
    chain.begin(head).expect("above them");
    let parts = VolumeParts {
        spec,
        chain,
        own,
        ring: JournalRing::fresh(journal, place),
        table: DirtyTable::create(Arc::new(words), dirty, capacity).expect("right size"),
        predecessor: None,
    };
    Volume::start(parts).expect("a sound map")
}
