//! The volume engine against a naive model: random requests on an array of bytes.
//!
//! LUN I/O ends in random order. At random points the volume is taken over after a kill (dirty
//! table kept), after a loss of the node (journal replayed onto what was committed; the LUNs keep
//! everything here, so what was flushed must be there), or its head layer is sealed, with requests
//! under way; what was sealed never changes again. It grows at any time, and extents are made solid
//! meanwhile. Tearing, lost caches and several volumes are the simulator's part.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lunar_engine::buffer::AlignedBuf;
use lunar_engine::dirty::{DirtyIdentity, DirtyTable, SharedWords, table_words};
use lunar_engine::io::{
    Action, IoError, IoOp, IoRequest, LunDone, LunIo, Part, QueueId, RequestId,
};
use lunar_engine::journal::{
    self, JournalIdentity, JournalRing, LunSet, Recovered, RingPlace, SEQ_CONFIRMED,
};
use lunar_engine::lun::{LunDevice, LunError, LunLayout, LunTable};
use lunar_engine::replay;
use lunar_engine::volume::{
    Chain, Claim, ControlWork, CopyStep, LayerSlots, NoClaim, PrunedSlot, QueueContext, Tuning,
    Volume, VolumeParts, VolumeSpec, WorkDone, blocking, dirty_capacity,
};
use lunar_types::{
    BlockRange, Epoch, ExtentAddress, ExtentRun, ExtentSize, Incarnation, LayerId,
    LogicalBlockSize, LogicalExtent, LunIndex, NodeId, NodeIncarnation, Presence, Slot, SlotPlace,
    VolumeId, VolumeSize,
};
use proptest::prelude::*;

const EXTENT: u64 = 64 << 10;
/// What the volume has at first: its last extent is covered in part.
const VOLUME_BYTES: u64 = 9 * EXTENT + 5 * 4096;
/// What it grows to at the most.
const GROWN_BYTES: u64 = 16 * EXTENT;
const LUN_BYTES: u64 = 16 << 20;
const QUEUES: u16 = 2;
/// What a write brings that comes in during a freeze.
const LATE: u8 = 0xa5;
const FIRST_HEAD: LayerId = LayerId::new(2);

struct MemoryLun(std::cell::RefCell<Vec<u8>>);

impl LunDevice for MemoryLun {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), LunError> {
        buffer.copy_from_slice(&self.0.borrow()[at as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), LunError> {
        self.0.borrow_mut()[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&self) -> Result<(), LunError> {
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        LUN_BYTES
    }

    fn logical_block_bytes(&self) -> u32 {
        512
    }
}

struct Luns(Vec<MemoryLun>);

impl LunSet for Luns {
    fn lun(&self, index: LunIndex) -> Option<&dyn LunDevice> {
        self.0.get(usize::from(index.get())).map(|lun| lun as &dyn LunDevice)
    }
}

/// A stand-in of the metadata service for one volume: a map and a reservation.
#[derive(Default)]
struct Metadata {
    committed: BTreeMap<LogicalExtent, Slot>,
    checkpoint: u64,
    free: BTreeSet<ExtentAddress>,
    held: BTreeSet<ExtentAddress>,
}

impl Metadata {
    fn reserve(&mut self, count: u32) -> WorkDone {
        let taken: Vec<_> = self.free.iter().copied().take(count as usize).collect();
        if taken.is_empty() {
            return WorkDone::PoolFull;
        }
        for at in &taken {
            self.free.remove(at);
            self.held.insert(*at);
        }
        WorkDone::Reserved(taken.into_iter().map(|at| ExtentRun::new(at, 1)).collect())
    }

    fn commit(&mut self, updates: &[replay::SlotUpdate], checkpoint: Option<u64>) {
        for update in updates {
            let before = self.committed.remove(&update.logical).and_then(|slot| slot.extent());
            let after = update.slot.as_ref().and_then(Slot::extent);
            if before != after {
                self.held.extend(before);
                if let Some(at) = after {
                    assert!(self.held.remove(&at), "commit of {at}, which is not reserved");
                }
            }
            if let Some(slot) = &update.slot {
                self.committed.insert(update.logical, slot.clone());
            }
        }
        if let Some(seq) = checkpoint {
            assert!(seq >= self.checkpoint, "a checkpoint never moves back");
            self.checkpoint = seq;
        }
    }
}

/// A slot of a layer with its birth: what a layer has of its own and by merges.
type Born = (LogicalExtent, LayerId, Slot);

/// A layer below the head.
#[derive(Clone)]
struct Sealed {
    id: LayerId,
    slots: Vec<Born>,
}

struct World {
    luns: Luns,
    metadata: Metadata,
    /// The sealed layers, newest first.
    sealed: Vec<Sealed>,
    /// What came into the head by merges.
    parts: Vec<Born>,
    /// What they show: how many layers, and the content.
    snapshots: Vec<(usize, Vec<u8>)>,
    head: LayerId,
    /// The content when nothing was under way last.
    at_rest: Vec<u8>,
    table_memory: Arc<dyn SharedWords>,
    volume: Volume,
    /// What the metadata service says of its size.
    bytes: u64,
    /// An extent whose copy has not begun.
    claim: Option<Claim>,
    contexts: Vec<QueueContext>,
    buffers: HashMap<RequestId, Vec<u8>>,
    pending: Vec<(QueueId, lunar_engine::io::OpId, LunIo)>,
    wakes: BTreeSet<QueueId>,
    done: HashMap<RequestId, Result<(), IoError>>,
    ops: BTreeMap<RequestId, IoOp>,
    logical_block: LogicalBlockSize,
    epoch: u64,
    model: Vec<u8>,
    /// By sector: what may be found after a loss of the node.
    allowed: Vec<BTreeSet<u8>>,
    /// FUA writes under way: sectors and what they hold once durable.
    fua: HashMap<RequestId, (std::ops::Range<usize>, u8)>,
    now: u64,
}

fn size() -> ExtentSize {
    ExtentSize::from_bytes(EXTENT).expect("valid")
}

fn table() -> LunTable {
    let layout = LunLayout::new(size(), LUN_BYTES);
    LunTable::new([(LunIndex::new(0), layout), (LunIndex::new(1), layout)])
}

fn ring_place() -> RingPlace {
    RingPlace::new(vec![ExtentRun::new(ExtentAddress::new(1, 0), 1)], size())
}

fn holder() -> NodeIncarnation {
    NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) }
}

fn journal_identity(epoch: u64, layer: LayerId) -> JournalIdentity {
    let volume = VolumeId::from_u128(1);
    JournalIdentity { volume, layer, epoch: Epoch::new(epoch), writer: holder() }
}

fn dirty_identity(epoch: u64, layer: LayerId) -> DirtyIdentity {
    let JournalIdentity { volume, layer, epoch, writer } = journal_identity(epoch, layer);
    DirtyIdentity { volume, layer, epoch, holder: writer, extent_size: size() }
}

fn spec(logical_block: LogicalBlockSize, bytes: u64) -> VolumeSpec {
    VolumeSpec {
        volume: VolumeId::from_u128(1),
        holder: holder(),
        size: VolumeSize::from_bytes(bytes).expect("valid"),
        extent_size: size(),
        logical_block,
        queue_count: QUEUES,
        luns: table(),
        tuning: Tuning {
            reserve_min: 3,
            reserve_max: 8,
            consolidate_slots: 1,
            ..Tuning::default()
        },
    }
}

fn fresh_memory() -> Arc<dyn SharedWords> {
    let words = table_words(size(), dirty_capacity(&ring_place(), size()));
    let words: Box<[AtomicU64]> = (0..words).map(|_| AtomicU64::new(0)).collect();
    Arc::new(words)
}

/// The chain of these sealed layers, newest first, below a head with these parts.
fn chain(spec: &VolumeSpec, head: LayerId, sealed: &[Sealed], parts: &[Born]) -> Chain {
    let mut chain = Chain::new(spec.size, spec.extent_size, spec.luns.clone()).expect("small");
    let head = Sealed { id: head, slots: parts.to_vec() };
    for layer in sealed.iter().rev().chain([&head]) {
        chain.begin(layer.id).expect("in order");
        for (logical, birth, slot) in &layer.slots {
            chain.put(*logical, *birth, slot.clone()).expect("a sound map");
        }
    }
    chain
}

/// A layer that has data in some blocks, which the model has too.
fn base_layer(id: LayerId, luns: &Luns, model: &mut [u8]) -> Vec<Born> {
    let mut base = Vec::new();
    for (logical, bits) in [(1_u64, 0xffff_u64), (2, 0x0ff0), (4, 0x0001)] {
        let at = ExtentAddress::new(0, 1 + logical);
        let presence = Presence::from_words(size(), &[bits]).expect("16 blocks");
        for block in (0..16_u64).filter(|block| bits >> block & 1 == 1) {
            let bytes = [block as u8 + 1; 4096];
            luns.0[0].write_at(table().byte_of(at) + block * 4096, &bytes).expect("memory");
            let on_volume = (logical * EXTENT + block * 4096) as usize;
            model[on_volume..on_volume + 4096].copy_from_slice(&bytes);
        }
        let slot = Slot { place: SlotPlace::Extent(at), opaque: false, presence };
        base.push((LogicalExtent::new(logical), id, slot));
    }
    base
}

impl World {
    /// A volume over a layer that has data in some blocks; everything else on the LUNs is garbage.
    fn new(logical_block: LogicalBlockSize, with_base: bool) -> Self {
        let garbage = || MemoryLun(std::cell::RefCell::new(vec![0xdb; LUN_BYTES as usize]));
        let luns = Luns(vec![garbage(), garbage()]);
        let mut model = vec![0; VOLUME_BYTES as usize];
        let base_id = LayerId::new(FIRST_HEAD.get() - 1);
        let base = if with_base { base_layer(base_id, &luns, &mut model) } else { Vec::new() };
        let free = (10..200).flat_map(|n| [ExtentAddress::new(0, n), ExtentAddress::new(1, n)]);
        let metadata = Metadata { free: free.collect(), ..Metadata::default() };
        journal::format_ring(&journal_identity(1, FIRST_HEAD), &ring_place(), &table(), &luns)
            .expect("memory does not fail");
        let table_memory = fresh_memory();
        let base = Sealed { id: base_id, slots: base };
        let sealed: Vec<Sealed> = with_base.then_some(base).into_iter().collect();
        let spec = spec(logical_block, VOLUME_BYTES);
        let chain = chain(&spec, FIRST_HEAD, &sealed, &[]);
        let volume = Volume::start(VolumeParts {
            spec,
            chain,
            own: LayerSlots::new(),
            ring: JournalRing::fresh(journal_identity(1, FIRST_HEAD), ring_place()),
            table: DirtyTable::create(
                Arc::clone(&table_memory),
                dirty_identity(1, FIRST_HEAD),
                dirty_capacity(&ring_place(), size()),
            )
            .expect("memory of the right size"),
            predecessor: None,
        })
        .expect("a sound map");
        let contexts = (0..=QUEUES).map(|n| volume.queue(QueueId::new(n))).collect();
        let metadata = Metadata { checkpoint: SEQ_CONFIRMED, ..metadata };
        Self {
            luns,
            metadata,
            sealed,
            parts: Vec::new(),
            snapshots: Vec::new(),
            head: FIRST_HEAD,
            at_rest: model.clone(),
            table_memory,
            volume,
            bytes: VOLUME_BYTES,
            claim: None,
            contexts,
            buffers: HashMap::new(),
            pending: Vec::new(),
            wakes: BTreeSet::new(),
            done: HashMap::new(),
            ops: BTreeMap::new(),
            logical_block,
            epoch: 1,
            allowed: model.chunks(512).map(|sector| BTreeSet::from([sector[0]])).collect(),
            fua: HashMap::new(),
            model,
            now: 0,
        }
    }

    fn run(&mut self, queue: QueueId, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Lun { op, io } => self.pending.push((queue, op, io)),
                Action::ZeroFill { tag, offset, length } => {
                    let buffer = self.buffers.get_mut(&RequestId { queue, tag }).expect("there");
                    buffer[offset as usize..][..length as usize].fill(0);
                }
                Action::Complete { tag, result } => {
                    let before = self.done.insert(RequestId { queue, tag }, result);
                    assert!(before.is_none(), "a request is completed once");
                }
                Action::WakeQueue(queue) => {
                    self.wakes.insert(queue);
                }
                Action::WakeControl => {}
            }
        }
    }

    fn perform(&mut self, queue: QueueId, op: lunar_engine::io::OpId, io: LunIo) {
        let buffer = self.reach_lun(queue, io);
        let done = LunDone { op, result: Ok(()), buffer };
        let mut out = Vec::new();
        self.volume.complete(&mut self.contexts[usize::from(queue.get())], done, &mut out);
        self.run(queue, out);
    }

    /// The LUN's part of an I/O; gives the buffer that the engine wants back.
    fn reach_lun(&mut self, queue: QueueId, io: LunIo) -> Option<AlignedBuf> {
        let lun = &self.luns.0[usize::from(io.lun().get())];
        match io {
            LunIo::Read { at, tag, offset, length, .. } => {
                let buffer = self.buffers.get_mut(&RequestId { queue, tag }).expect("there");
                lun.read_at(at, &mut buffer[offset as usize..][..length as usize]).expect("memory");
            }
            LunIo::Write { at, tag, offset, length, .. } => {
                let buffer = &self.buffers[&RequestId { queue, tag }];
                lun.write_at(at, &buffer[offset as usize..][..length as usize]).expect("memory");
            }
            LunIo::WriteParts { mut at, tag, parts, .. } => {
                for part in parts {
                    let bytes = match &part {
                        Part::Request { offset, length } => {
                            let buffer = &self.buffers[&RequestId { queue, tag }];
                            buffer[*offset as usize..][..*length as usize].to_vec()
                        }
                        Part::Zeros { length } => vec![0; *length as usize],
                        Part::Owned { buffer, offset, length } => {
                            buffer.as_bytes()[*offset as usize..][..*length as usize].to_vec()
                        }
                    };
                    lun.write_at(at, &bytes).expect("memory");
                    at += bytes.len() as u64;
                }
            }
            LunIo::ReadOwned { at, mut buffer, .. } => {
                lun.read_at(at, buffer.as_mut_bytes()).expect("memory");
                return Some(buffer);
            }
            LunIo::WriteOwned { at, buffer, .. } => {
                let _: &AlignedBuf = &buffer;
                lun.write_at(at, buffer.as_bytes()).expect("memory");
            }
            LunIo::Flush { .. } => {}
        }
        None
    }

    /// What a copy had under way when its process or its node died: some of it was never sent.
    fn end_copies(&mut self, pick: &mut impl FnMut(usize) -> usize) {
        for (queue, _, io) in std::mem::take(&mut self.pending) {
            assert_eq!(queue.get(), QUEUES, "the guest's requests have ended");
            if pick(3) > 0 {
                self.reach_lun(queue, io);
            }
        }
    }

    /// Claims an extent, or begins to copy the one that is claimed.
    fn consolidate(&mut self) {
        let now = Duration::from_secs(self.now);
        let claim = match self.claim.take().map_or_else(|| self.volume.claim(now), Ok) {
            Ok(claim) => claim,
            Err(NoClaim::ReserveLow) => return self.control(),
            Err(_) => return,
        };
        let mut out = Vec::new();
        let context = &mut self.contexts[usize::from(QUEUES)];
        match self.volume.start_copy(context, claim, &mut out) {
            CopyStep::Waits(claim) => self.claim = Some(claim),
            CopyStep::Begun | CopyStep::Ended => {}
        }
        self.run(QueueId::new(QUEUES), out);
    }

    fn control(&mut self) {
        let mut out = Vec::new();
        self.now += 1;
        let now = Duration::from_secs(self.now);
        while let Some(work) = self.volume.next_work(now, &mut out) {
            let done = match work {
                ControlWork::Reserve { count } => self.metadata.reserve(count),
                ControlWork::Round => {
                    let queue = &mut self.contexts[usize::from(QUEUES)];
                    blocking::run_round(&self.volume, queue, &self.luns, &mut out);
                    continue;
                }
                ControlWork::Commit(batch) => {
                    self.metadata.commit(&batch.updates, batch.checkpoint);
                    WorkDone::Committed
                }
            };
            self.volume.work_done(done, now, &mut out);
        }
        self.run(QueueId::new(QUEUES), out);
    }

    /// Lets everything that is under way end, LUN I/O in the order that `pick` says.
    fn settle(&mut self, pick: &mut impl FnMut(usize) -> usize) {
        for _ in 0..1000 {
            if let Some(queue) = self.wakes.pop_first() {
                let mut out = Vec::new();
                self.volume.resume(&mut self.contexts[usize::from(queue.get())], &mut out);
                self.run(queue, out);
            } else if !self.pending.is_empty() {
                let (queue, op, io) = self.pending.swap_remove(pick(self.pending.len()));
                self.perform(queue, op, io);
            } else if self.claim.is_some() {
                self.consolidate();
            } else if self.done.len() < self.buffers.len() {
                self.control();
            } else {
                return;
            }
        }
        panic!("requests do not end: {:?}", self.volume.stats());
    }

    fn submit(&mut self, id: RequestId, op: IoOp, buffer: Vec<u8>) {
        self.buffers.insert(id, buffer);
        self.ops.insert(id, op);
        let mut out = Vec::new();
        let context = &mut self.contexts[usize::from(id.queue.get())];
        self.volume.submit(context, IoRequest { id, op }, &mut out);
        self.run(id.queue, out);
    }

    /// `labelled` is the layer that a killed predecessor's table speaks of.
    fn restart(&mut self, ring: JournalRing, labelled: Option<LayerId>) {
        let capacity = dirty_capacity(&ring_place(), size());
        let (table, predecessor) = if let Some(label) = labelled {
            let (memory, identity) =
                (Arc::clone(&self.table_memory), dirty_identity(self.epoch, label));
            let (mut table, dirty) =
                DirtyTable::open(memory, identity, capacity).expect("our table");
            assert_eq!(table.layer(), label);
            let claimed = table.claim(self.head, None).expect("a table of the head");
            assert_eq!(claimed, self.head);
            (table, Some(dirty))
        } else {
            self.table_memory = fresh_memory();
            let identity = dirty_identity(self.epoch, self.head);
            let memory = Arc::clone(&self.table_memory);
            (DirtyTable::create(memory, identity, capacity).expect("right size"), None)
        };
        let spec = spec(self.logical_block, self.bytes);
        let chain = chain(&spec, self.head, &self.sealed, &self.parts);
        let own = self.metadata.committed.iter().map(|(at, slot)| (*at, slot.clone())).collect();
        let parts = VolumeParts { spec, chain, own, ring, table, predecessor };
        self.volume = Volume::start(parts).expect("a sound map");
        self.contexts = (0..=QUEUES).map(|n| self.volume.queue(QueueId::new(n))).collect();
        self.wakes.clear();
        self.claim = None;
    }

    /// The volume grows, with whatever is under way.
    fn grow(&mut self, blocks: u64) {
        let bytes = (self.bytes + blocks * 4096).min(GROWN_BYTES);
        let size = |bytes| VolumeSize::from_bytes(bytes).expect("valid");
        for told in [bytes, self.bytes] {
            let now = self.volume.grow(size(told)).expect("a small map");
            assert_eq!((now, self.volume.size()), (size(bytes), size(bytes)));
        }
        self.bytes = bytes;
        self.model.resize(bytes as usize, 0);
        self.at_rest.resize(bytes as usize, 0);
        self.allowed.resize(bytes as usize / 512, BTreeSet::from([0]));
    }

    /// What these layers show: a walk over their slots by birth, block by block.
    fn content_of(&self, layers: &[Sealed], bytes: usize) -> Vec<u8> {
        let mut content = vec![0; bytes];
        let mut slots: Vec<&Born> = layers.iter().flat_map(|layer| &layer.slots).collect();
        slots.sort_by_key(|(_, birth, _)| std::cmp::Reverse(*birth));
        for (number, block) in content.chunks_mut(4096).enumerate() {
            let (logical, within) = (number as u64 / 16, number as u32 % 16);
            for (_, _, slot) in slots.iter().filter(|(at, ..)| at.get() == logical) {
                if slot.extent().is_some() && slot.presence.contains(within) {
                    let at = slot.extent().expect("just seen");
                    let byte = table().byte_of(at) + u64::from(within) * 4096;
                    let lun = &self.luns.0[usize::from(at.lun.get())];
                    lun.read_at(byte, block).expect("memory");
                    break;
                }
                if slot.extent().is_none() || slot.opaque {
                    break;
                }
            }
        }
        content
    }

    /// Seals the head, as the metadata service does, and checks what it shows.
    fn seal(&mut self) {
        let own = std::mem::take(&mut self.metadata.committed);
        let own = own.into_iter().map(|(at, slot)| (at, self.head, slot));
        let slots = std::mem::take(&mut self.parts).into_iter().chain(own).collect();
        self.sealed.insert(0, Sealed { id: self.head, slots });
        self.metadata.checkpoint = self.volume.last_seq();
        let content = self.content_of(&self.sealed, self.bytes as usize);
        for (n, sector) in content.chunks(512).enumerate() {
            let before_or_after = [self.at_rest[n * 512], self.model[n * 512]];
            assert!(before_or_after.contains(&sector[0]), "sector {n} of the sealed layer");
            assert!(sector.iter().all(|byte| *byte == sector[0]), "sector {n} is torn");
        }
        self.snapshots.push((self.sealed.len(), content));
    }

    /// The newest snapshot is deleted: its layer is merged into the head, which hears of it, or
    /// does not.
    fn merge(&mut self, is_told: bool) {
        if self.sealed.is_empty() {
            return;
        }
        self.snapshots.retain(|(layers, _)| *layers < self.sealed.len());
        self.parts.extend(self.sealed.remove(0).slots);
        if is_told {
            let (parent, mut out) = (self.sealed.first().map(|layer| layer.id), Vec::new());
            self.volume.merged_down_to(self.head, parent, &mut out);
            self.run(QueueId::new(QUEUES), out);
        }
    }

    /// Parts that the committed own slots and parts above them hide go to the holder.
    fn prune(&mut self) {
        self.parts.sort_by_key(|(logical, birth, _)| (*logical, std::cmp::Reverse(*birth)));
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        let mut cover: Option<(LogicalExtent, Presence, bool)> = None;
        for (logical, birth, slot) in std::mem::take(&mut self.parts) {
            if cover.as_ref().is_none_or(|(at, ..)| *at != logical) {
                let own = self.metadata.committed.get(&logical);
                let bits = own.map_or(Presence::empty(size()), |slot| slot.presence.clone());
                let hides = own.is_some_and(|slot| slot.opaque || slot.extent().is_none());
                cover = Some((logical, bits, hides));
            }
            let (_, bits, hides_all) = cover.as_mut().expect("just set");
            let all = (0..16).all(|b| bits.contains(b) || !slot.presence.contains(b));
            let is_opaque = slot.opaque || slot.extent().is_none();
            let is_hidden = *hides_all || bits.is_full() || all && !is_opaque;
            for block in (0..16).filter(|block| slot.presence.contains(*block)) {
                bits.insert(BlockRange::new(block, 1));
            }
            *hides_all |= is_opaque;
            if is_hidden {
                gone.push(PrunedSlot { logical, birth, extent: slot.extent() });
            } else {
                kept.push((logical, birth, slot));
            }
        }
        self.parts = kept;
        self.metadata.held.extend(gone.iter().filter_map(|slot| slot.extent));
        let mut out = Vec::new();
        self.volume.pruned(&gone, &mut out);
        self.run(QueueId::new(QUEUES), out);
    }

    /// Freezes with requests under way, settles and seals. A kill may come before the seal or
    /// between seal and switch. A write of block `late` comes in while the volume is frozen.
    fn snapshot(&mut self, kill: Kill, late: Option<u64>, pick: &mut impl FnMut(usize) -> usize) {
        self.volume.freeze().expect("few generations");
        if let Some(block) = late {
            let op = IoOp::Write { offset: block * 4096, length: 4096, fua: false };
            let id = RequestId { queue: QueueId::new(0), tag: 40 };
            self.submit(id, op, vec![LATE; 4096]);
        }
        self.settle_frozen(pick);
        if kill != Kill::BeforeSeal {
            self.seal();
            self.head = LayerId::new(self.head.get() + 1);
        }
        if let Some(block) = late {
            let range = block as usize * 4096..(block as usize + 1) * 4096;
            self.model[range.clone()].fill(LATE);
            for allowed in &mut self.allowed[range.start / 512..range.end / 512] {
                allowed.insert(LATE);
            }
        }
        if kill == Kill::Never {
            let mut out = Vec::new();
            self.volume.switch(self.head, &mut out);
            self.run(QueueId::new(QUEUES), out);
        } else {
            // The kernel lets a successor start when the dead daemon's I/O has ended.
            while let Some((queue, op, io)) = self.pending.pop() {
                self.perform(queue, op, io);
            }
            let label = self.head.get() - u64::from(kill == Kill::AfterSeal);
            self.take_over(LayerId::new(label));
            self.submit_again();
        }
    }

    fn settle_frozen(&mut self, pick: &mut impl FnMut(usize) -> usize) {
        for _ in 0..1000 {
            if let Some(queue) = self.wakes.pop_first() {
                let mut out = Vec::new();
                self.volume.resume(&mut self.contexts[usize::from(queue.get())], &mut out);
                self.run(queue, out);
            } else if pick(3) == 0 && self.volume.is_settled() {
                return;
            } else if !self.pending.is_empty() {
                let (queue, op, io) = self.pending.swap_remove(pick(self.pending.len()));
                self.perform(queue, op, io);
            } else if self.volume.is_settled() {
                return;
            } else {
                self.control();
            }
        }
        panic!("a frozen volume does not settle: {:?}", self.volume.stats());
    }

    /// The driver gives what was under way to the successor.
    fn submit_again(&mut self) {
        let done = &self.done;
        let again: Vec<_> = self.ops.iter().filter(|(id, _)| !done.contains_key(id)).collect();
        let again: Vec<_> = again.into_iter().map(|(id, op)| (*id, *op)).collect();
        for (id, op) in again {
            let mut out = Vec::new();
            let context = &mut self.contexts[usize::from(id.queue.get())];
            self.volume.submit(context, IoRequest { id, op }, &mut out);
            self.run(id.queue, out);
        }
    }

    fn recover(&self) -> Recovered {
        let image = journal::read(&ring_place(), &table(), &self.luns).expect("memory");
        let id = journal_identity(self.epoch, self.head);
        let blocks = ring_place().blocks();
        journal::recover(&id, None, blocks, image.as_bytes(), self.metadata.checkpoint)
            .expect("sound")
    }

    /// fs-core is killed and its successor takes over.
    fn kill(&mut self) {
        self.take_over(self.head);
    }

    fn take_over(&mut self, label: LayerId) {
        let recovered = self.recover();
        let id = journal_identity(self.epoch, self.head);
        journal::wipe_beyond(&id, &ring_place(), &table(), &self.luns, &recovered).expect("memory");
        let ring = JournalRing::resumed(id, ring_place(), &recovered);
        self.restart(ring, Some(label));
    }

    /// The node is lost and a new owner takes over: flushed data must be there.
    fn lose_node(&mut self) {
        let recovered = self.recover();
        let updates = replay::replay(&recovered.records, &self.metadata.committed, size());
        self.metadata.commit(&updates.expect("our geometry"), None);
        let used: BTreeSet<_> = self.metadata.committed.values().filter_map(Slot::extent).collect();
        let held = std::mem::take(&mut self.metadata.held);
        self.metadata.free.extend(held.into_iter().filter(|at| !used.contains(at)));
        self.epoch += 1;
        self.metadata.checkpoint = SEQ_CONFIRMED;
        let id = journal_identity(self.epoch, self.head);
        journal::format_ring(&id, &ring_place(), &table(), &self.luns).expect("memory");
        self.restart(JournalRing::fresh(id, ring_place()), None);
    }

    fn all_is_durable(&mut self) {
        for (allowed, sector) in self.allowed.iter_mut().zip(self.model.chunks(512)) {
            *allowed = BTreeSet::from([sector[0]]);
        }
    }

    fn read_all(&mut self) -> Vec<u8> {
        let id = RequestId { queue: QueueId::new(0), tag: 0 };
        let length = u32::try_from(self.bytes).expect("small");
        self.submit(id, IoOp::Read { offset: 0, length }, vec![0xee; length as usize]);
        self.settle(&mut |_| 0);
        assert_eq!(self.done.remove(&id), Some(Ok(())));
        self.ops.remove(&id);
        self.buffers.remove(&id).expect("there")
    }
}

#[derive(Clone, Debug)]
enum Do {
    Io {
        kind: u8,
        offset: u64,
        length: u64,
        fill: u8,
    },
    Flush,
    Checkpoint,
    Consolidate,
    Kill,
    LoseNode,
    Snapshot(Kill),
    Merge {
        is_told: bool,
    },
    Prune,
    /// By so many blocks.
    Grow(u64),
}

/// When fs-core is killed around a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kill {
    Never,
    BeforeSeal,
    AfterSeal,
}

fn step() -> impl Strategy<Value = Do> {
    let io = (0..6_u8, 0..GROWN_BYTES / 512, 1..80_u64, 1..=255_u8).prop_map(
        |(kind, offset, length, fill)| Do::Io {
            kind,
            offset: offset * 512,
            length: length * 512,
            fill,
        },
    );
    // Whole extents, which are then written in place without the lock.
    let whole = (0..16_u64, 1..=255_u8).prop_map(|(extent, fill)| Do::Io {
        kind: 1,
        offset: extent * EXTENT,
        length: EXTENT,
        fill,
    });
    prop_oneof![
        12 => io,
        3 => whole,
        2 => Just(Do::Flush),
        1 => Just(Do::Checkpoint),
        4 => Just(Do::Consolidate),
        1 => Just(Do::Kill),
        1 => Just(Do::LoseNode),
        2 => prop_oneof![Just(Kill::Never), Just(Kill::BeforeSeal), Just(Kill::AfterSeal)]
            .prop_map(Do::Snapshot),
        1 => any::<bool>().prop_map(|is_told| Do::Merge { is_told }),
        1 => Just(Do::Prune),
        1 => (1..40_u64).prop_map(Do::Grow),
    ]
}

/// The bytes that a step is about.
fn range_of(step: &Do, world: &World) -> (u64, u64) {
    match step {
        Do::Io { offset, length, .. } => {
            let unit = u64::from(world.logical_block.bytes());
            let offset = offset % world.bytes / unit * unit;
            (offset, (offset + length.next_multiple_of(unit)).min(world.bytes))
        }
        Do::Consolidate => (0, 0),
        _ => (0, world.bytes),
    }
}

/// Runs groups of requests that do not overlap, so that the model knows the outcome.
/// Gives the extents that were made solid since the last crash.
fn check(logical_block: LogicalBlockSize, with_base: bool, steps: &[Do], order: &[u8]) -> u64 {
    let mut world = World::new(logical_block, with_base);
    let mut turn = 0;
    let mut pick = |count: usize| {
        turn += 1;
        usize::from(order[turn % order.len()]) % count
    };
    let mut group: Vec<(u64, u64)> = Vec::new();
    let mut tag = 0;
    for step in steps {
        let (offset, end) = range_of(step, &world);
        // These come with requests under way.
        let goes_on = matches!(step, Do::Snapshot(_) | Do::Merge { .. } | Do::Prune | Do::Grow(_));
        if tag > 20 || !goes_on && group.iter().any(|(from, to)| offset < *to && *from < end) {
            world.settle(&mut pick);
            group.clear();
            tag = 0;
            finish(&mut world);
        }
        let id = RequestId { queue: QueueId::new(tag % QUEUES), tag };
        match step {
            Do::Io { kind, fill, .. } => {
                group.push((offset, end));
                tag += 1;
                io(&mut world, id, *kind, (offset, end), *fill);
            }
            Do::Flush => {
                world.submit(id, IoOp::Flush, Vec::new());
                world.settle(&mut pick);
                finish(&mut world);
                world.all_is_durable();
            }
            Do::Checkpoint => {
                let mut out = Vec::new();
                world.volume.request_checkpoint(&mut out);
                world.control();
            }
            Do::Consolidate => world.consolidate(),
            Do::Kill => {
                world.end_copies(&mut pick);
                world.kill();
                let found = world.read_all();
                assert_same(&found, &world.model, "after a kill");
            }
            Do::LoseNode => {
                world.end_copies(&mut pick);
                lose_node(&mut world);
            }
            Do::Merge { is_told } => world.merge(*is_told),
            Do::Prune => world.prune(),
            Do::Grow(blocks) => world.grow(*blocks),
            Do::Snapshot(kill) => {
                let late = free_block(world.bytes, &group, &mut pick);
                world.snapshot(*kill, late, &mut pick);
                world.settle(&mut pick);
                group.clear();
                tag = 0;
                finish(&mut world);
            }
        }
    }
    world.settle(&mut pick);
    finish(&mut world);
    check_at_the_end(&mut world);
    world.volume.stats().consolidated_extents
}

fn check_at_the_end(world: &mut World) {
    let found = world.read_all();
    assert_same(&found, &world.model, "at the end");
    for (layers, content) in &world.snapshots {
        let below = &world.sealed[world.sealed.len() - layers..];
        assert_same(&world.content_of(below, content.len()), content, "of a snapshot");
    }
}

/// A block that no request of the group touches.
fn free_block(
    bytes: u64,
    group: &[(u64, u64)],
    pick: &mut impl FnMut(usize) -> usize,
) -> Option<u64> {
    let is_free = |block: &u64| {
        let (from, to) = (block * 4096, block * 4096 + 4096);
        group.iter().all(|(begin, end)| to <= *begin || *end <= from)
    };
    let free: Vec<u64> = (0..bytes / 4096).filter(is_free).collect();
    (!free.is_empty()).then(|| free[pick(free.len() * 8) % free.len()])
}

fn io(world: &mut World, id: RequestId, kind: u8, (offset, end): (u64, u64), fill: u8) {
    let length = end - offset;
    let short = u32::try_from(length).expect("small");
    let range = offset as usize..end as usize;
    let op = match kind {
        0 => IoOp::Read { offset, length: short },
        1 | 2 => IoOp::Write { offset, length: short, fua: false },
        3 => IoOp::Write { offset, length: short, fua: true },
        4 => IoOp::Discard { offset, length },
        _ => IoOp::WriteZeroes { offset, length },
    };
    let value = match op {
        IoOp::Write { .. } => Some(fill),
        IoOp::Discard { .. } | IoOp::WriteZeroes { .. } => Some(0),
        IoOp::Read { .. } | IoOp::Flush => None,
    };
    if let Some(value) = value {
        let sectors = range.start / 512..range.end / 512;
        world.model[range].fill(value);
        for allowed in &mut world.allowed[sectors.clone()] {
            allowed.insert(value);
        }
        if kind == 3 {
            world.fua.insert(id, (sectors, value));
        }
    }
    world.submit(id, op, vec![fill; length as usize]);
}

/// Checks and forgets every request that has ended.
fn finish(world: &mut World) {
    for (id, result) in world.done.drain() {
        assert_eq!(result, Ok(()), "{id:?}");
        world.buffers.remove(&id);
        world.ops.remove(&id);
        if let Some((sectors, value)) = world.fua.remove(&id) {
            world.allowed[sectors].fill(BTreeSet::from([value]));
        }
    }
    assert!(world.buffers.is_empty(), "every request has ended");
    world.at_rest.clone_from(&world.model);
}

/// What was flushed survives; what was written since may, with any of the values it had.
fn lose_node(world: &mut World) {
    world.lose_node();
    let found = world.read_all();
    for (n, sector) in found.chunks(512).enumerate() {
        let value = sector[0];
        assert!(sector.iter().all(|byte| *byte == value), "sector {n} is torn");
        let allowed = &world.allowed[n];
        assert!(allowed.contains(&value), "sector {n} holds {value:#x}, not one of {allowed:x?}");
    }
    world.at_rest.clone_from(&found);
    world.model = found;
    world.all_is_durable();
}

fn assert_same(found: &[u8], expected: &[u8], when: &str) {
    let differs = found.chunks(512).zip(expected.chunks(512)).position(|(a, b)| a != b);
    if let Some(sector) = differs {
        let at = sector * 512;
        panic!("sector {sector} {when}: {:#x}, not {:#x}", found[at], expected[at]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_volume_behaves_as_an_array_of_bytes(
        steps in prop::collection::vec(step(), 1..60),
        order in prop::collection::vec(any::<u8>(), 1..20),
        small_blocks in any::<bool>(),
        with_base in any::<bool>(),
    ) {
        let block = if small_blocks { LogicalBlockSize::B512 } else { LogicalBlockSize::B4096 };
        check(block, with_base, &steps, &order);
    }
}

/// One discard fills two blocks of an extent; the end of one must not let a write into the other.
#[test]
fn a_discard_with_two_edges_keeps_writes_out_of_both() {
    let io = |kind, offset, length| Do::Io { kind, offset, length, fill: 1 };
    let steps = [
        io(1, 180_736, 16384),
        io(1, 94_208, 512),
        io(0, 94_720, 512),
        io(4, 78_336, 4096),
        io(1, 251_904, 10_752),
        io(1, 37_888, 40_448),
        Do::Flush,
    ];
    check(LogicalBlockSize::B512, true, &steps, &[251, 21, 15, 1, 88, 0, 0]);
}

/// What was pruned is used again only when the reads that began before have ended.
#[test]
fn a_pruned_extent_waits_for_the_reads_of_before() {
    let mut world = World::new(LogicalBlockSize::B4096, true);
    world.merge(false);
    let of_base = ExtentAddress::new(0, 2);
    let (read, write) = (RequestId { queue: QueueId::new(0), tag: 0 }, 1);
    let write = RequestId { queue: QueueId::new(1), tag: write };
    world.submit(read, IoOp::Read { offset: EXTENT, length: 4096 }, vec![0xee; 4096]);
    let held_back = world.pending.pop().expect("the read is on its way");
    assert_eq!(
        table().byte_of(of_base),
        match &held_back.2 {
            LunIo::Read { at, .. } => *at,
            other => panic!("{other:?}"),
        }
    );
    let length = u32::try_from(EXTENT).expect("small");
    world.model[EXTENT as usize..2 * EXTENT as usize].fill(7);
    let whole = IoOp::Write { offset: EXTENT, length, fua: false };
    world.submit(write, whole, vec![7; EXTENT as usize]);
    world.control();
    while !world.done.contains_key(&write) {
        match world.wakes.pop_first() {
            Some(queue) => {
                let mut out = Vec::new();
                world.volume.resume(&mut world.contexts[usize::from(queue.get())], &mut out);
                world.run(queue, out);
            }
            None => {
                let (queue, op, io) = world.pending.pop().expect("the write is on its way");
                world.perform(queue, op, io);
            }
        }
    }
    let mut out = Vec::new();
    world.volume.request_checkpoint(&mut out);
    world.control();
    world.prune();
    world.control();
    assert!(world.metadata.held.contains(&of_base), "it was pruned");
    let reserve = world.volume.take_reserve(usize::MAX);
    assert!(!reserve.contains(&of_base), "a read of it is under way");
    let (queue, op, io) = held_back;
    world.perform(queue, op, io);
    assert_eq!(world.buffers[&read], [1; 4096], "what was there when it began");
    world.control();
    let reserve = world.volume.take_reserve(usize::MAX);
    assert!(reserve.contains(&of_base), "nobody reads it any more");
}

/// The last extent was covered in part and has become whole: what covered it does not any more.
#[test]
fn a_discard_up_to_the_old_end_spares_what_was_written_beyond_it() {
    let io = |kind, offset, length| Do::Io { kind, offset, length, fill: 7 };
    let (last, old_end) = (9 * EXTENT, VOLUME_BYTES);
    let steps = [
        io(1, last, old_end - last),
        Do::Snapshot(Kill::Never),
        io(1, last, 4096),
        Do::Grow(11),
        io(1, old_end + 8192, 4096),
        io(4, last, old_end - last),
        Do::Kill,
        Do::Flush,
        Do::LoseNode,
    ];
    check(LogicalBlockSize::B4096, true, &steps, &[0]);
}

#[test]
fn nothing_is_served_beyond_the_end_until_the_volume_has_grown() {
    let mut world = World::new(LogicalBlockSize::B4096, false);
    let refused = |world: &mut World, offset| {
        let id = RequestId { queue: QueueId::new(0), tag: 1 };
        world.submit(id, IoOp::Write { offset, length: 4096, fua: false }, vec![3; 4096]);
        world.settle(&mut |_| 0);
        world.buffers.remove(&id);
        world.done.remove(&id).expect("it has ended") == Err(IoError::Invalid)
    };
    assert!(refused(&mut world, VOLUME_BYTES));
    world.grow(1);
    assert!(!refused(&mut world, VOLUME_BYTES));
    assert!(refused(&mut world, VOLUME_BYTES + 4096));
    let limit = lunar_types::VOLUME_EXTENTS_MAX * EXTENT;
    let beyond = VolumeSize::from_bytes(limit + 4096).expect("a size");
    assert!(world.volume.grow(beyond).is_err());
    assert_eq!(world.volume.size().bytes(), VOLUME_BYTES + 4096);
}

/// Copies begin while requests are under way, and go on through snapshots.
#[test]
fn extents_are_made_solid_among_requests_and_snapshots() {
    let io = |kind, offset| Do::Io { kind, offset, length: 4096, fill: 7 };
    let cut = || Do::Snapshot(Kill::Never);
    let mut steps = Vec::new();
    for extent in [1, 2, 4, 7] {
        let first = extent * EXTENT;
        steps.extend([io(1, first + 8192), Do::Flush, Do::Consolidate, Do::Consolidate]);
        steps.extend([io(1, first), Do::Flush, io(1, first + 8 * 4096)]);
        steps.extend([io(4, first + 4096), Do::Consolidate, cut(), io(3, first + 12_288)]);
        steps.extend((0..4).map(|_| Do::Consolidate));
    }
    for block in [LogicalBlockSize::B512, LogicalBlockSize::B4096] {
        let solid = check(block, true, &steps, &[3, 14, 15, 92, 65]);
        assert!(solid >= 4, "{solid} extents were made solid");
    }
}
