//! A volume of solid extents, for the benchmark and the allocation count of the hot path.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use lunar_engine::dirty::{DirtyIdentity, DirtyTable, table_words};
use lunar_engine::io::{Action, IoOp, IoRequest, LunDone, QueueId, RequestId};
use lunar_engine::journal::{JournalIdentity, JournalRing, RingPlace};
use lunar_engine::lun::{LunLayout, LunTable};
use lunar_engine::volume::{
    Chain, QueueContext, Tuning, Volume, VolumeParts, VolumeSpec, dirty_capacity,
};
use lunar_types::{
    Epoch, ExtentAddress, ExtentRun, ExtentSize, Incarnation, LayerId, LogicalBlockSize,
    LogicalExtent, LunIndex, NodeId, NodeIncarnation, Presence, Slot, SlotPlace, VolumeId,
    VolumeSize,
};

/// Extents of the volume: 16 GiB, so that the map does not sit in the nearest cache.
pub(super) const EXTENTS: u64 = 16 << 10;

/// A volume whose every extent is solid and owned, and one queue of it.
pub(super) struct Hits {
    volume: Volume,
    queue: QueueContext,
    actions: Vec<Action>,
}

fn solid_slot(extent: u64) -> (LogicalExtent, Slot) {
    let presence = Presence::full(ExtentSize::DEFAULT);
    let place = SlotPlace::Extent(ExtentAddress::new(0, extent + 8));
    (LogicalExtent::new(extent), Slot { place, opaque: false, presence })
}

impl Hits {
    /// The volume.
    pub(super) fn new() -> Self {
        let size = ExtentSize::DEFAULT;
        let holder = NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) };
        let (volume, layer, epoch) = (VolumeId::from_u128(1), LayerId::new(1), Epoch::new(1));
        let layout = LunLayout::new(size, (EXTENTS + 64) << 20);
        let place = RingPlace::new(vec![ExtentRun::new(ExtentAddress::new(0, 0), 2)], size);
        let capacity = dirty_capacity(&place, size);
        let words: Box<[AtomicU64]> =
            (0..table_words(size, capacity)).map(|_| AtomicU64::new(0)).collect();
        let dirty = DirtyIdentity { volume, layer, epoch, holder, extent_size: size };
        let journal = JournalIdentity { volume, layer, epoch, writer: holder };
        let spec = VolumeSpec {
            volume,
            holder,
            size: VolumeSize::from_bytes(EXTENTS << 20).expect("valid"),
            extent_size: size,
            logical_block: LogicalBlockSize::B4096,
            queue_count: 1,
            luns: LunTable::new([(LunIndex::new(0), layout)]),
            tuning: Tuning::default(),
        };
        let mut chain = Chain::new(spec.size, size, spec.luns.clone()).expect("small");
        chain.begin(layer).expect("the first");
        let parts = VolumeParts {
            spec,
            chain,
            own: (0..EXTENTS).map(solid_slot).collect(),
            ring: JournalRing::fresh(journal, place),
            table: DirtyTable::create(Arc::new(words), dirty, capacity).expect("right size"),
            predecessor: None,
        };
        let volume = Volume::start(parts).expect("a sound map");
        let queue = volume.queue(QueueId::new(0));
        Self { volume, queue, actions: Vec::with_capacity(8) }
    }

    /// Submits a 4 KiB read of an extent, up to the LUN I/O, and ends it.
    pub(super) fn read(&mut self, extent: u64) {
        self.run(IoOp::Read { offset: (extent << 20) + 8192, length: 4096 });
    }

    /// Submits a 4 KiB write of an extent, up to the LUN I/O, and ends it.
    pub(super) fn write(&mut self, extent: u64) {
        self.run(IoOp::Write { offset: (extent << 20) + 8192, length: 4096, fua: false });
    }

    fn run(&mut self, op: IoOp) {
        let id = RequestId { queue: QueueId::new(0), tag: 7 };
        self.volume.submit(&mut self.queue, IoRequest { id, op }, &mut self.actions);
        let Some(Action::Lun { op, .. }) = self.actions.pop() else {
            unreachable!("a hit is one LUN I/O")
        };
        let done = LunDone { op, result: Ok(()), buffer: None };
        self.volume.complete(&mut self.queue, done, &mut self.actions);
        assert!(matches!(self.actions.pop(), Some(Action::Complete { result: Ok(()), .. })));
    }
}
