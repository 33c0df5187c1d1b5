//! A world in which everything may stop in the middle: LUNs with a volatile cache that tears at
//! sectors, a metadata service that answers late or not at all, kills with requests under way.
//!
//! By sector it keeps every value since the last one that has to be durable: a kill must show
//! the newest, a loss of the node any of them.

mod parts;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lunar_engine::dirty::{DirtyIdentity, DirtyTable, SharedWords, table_words};
use lunar_engine::io::{
    Action, IoError, IoOp, IoRequest, LunDone, LunIo, OpId, Part, QueueId, RequestId,
};
use lunar_engine::journal::{
    self, JournalIdentity, JournalRing, LunSet, Recovered, RingPlace, SEQ_CONFIRMED,
};
use lunar_engine::lun::{LunDevice, LunError, LunLayout, LunTable};
use lunar_engine::replay;
use lunar_engine::volume::{
    Chain, Claim, CommitBatch, ControlWork, CopyStep, LayerSlots, NoClaim, QueueContext, Tuning,
    Volume, VolumeParts, VolumeSpec, WorkDone, dirty_capacity,
};
use lunar_types::{
    Epoch, ExtentAddress, ExtentRun, ExtentSize, Incarnation, LayerId, LogicalBlockSize,
    LogicalExtent, LunIndex, NodeId, NodeIncarnation, Presence, Slot, SlotPlace, VolumeId,
    VolumeSize,
};

use parts::{CachedLun, Luns, Metadata};

pub(crate) const EXTENT: u64 = 64 << 10;
pub(crate) const VOLUME_BYTES: u64 = 3 * EXTENT + 5 * 4096;
const LUN_BYTES: u64 = 10 << 20;
pub(crate) const QUEUES: u16 = 2;

/// A request under way.
struct Pending {
    op: IoOp,
    buffer: Vec<u8>,
    /// What a read has to show; by sector of the volume what a flush has to make durable.
    expected: Vec<usize>,
}

/// How the metadata service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Prompt,
    Lost,
    LostAfterCommit,
}

pub(crate) struct World {
    luns: Luns,
    pub(crate) metadata: Metadata,
    base: LayerSlots,
    memory: Arc<dyn SharedWords>,
    pub(crate) volume: Volume,
    contexts: Vec<QueueContext>,
    /// An extent whose copy has not begun.
    claim: Option<Claim>,
    requests: HashMap<RequestId, Pending>,
    io: Vec<(QueueId, OpId, LunIo)>,
    wakes: BTreeSet<QueueId>,
    pub(crate) done: Vec<(RequestId, Result<(), IoError>)>,
    options: Options,
    epoch: u64,
    history: Vec<Vec<u8>>,
    durable_from: Vec<usize>,
    next_tag: u16,
    now: u64,
    random: u64,
}

fn size() -> ExtentSize {
    ExtentSize::from_bytes(EXTENT).expect("valid")
}

fn table() -> LunTable {
    let layout = LunLayout::new(size(), LUN_BYTES);
    LunTable::new([(LunIndex::new(0), layout), (LunIndex::new(2), layout)])
}

fn ring_place() -> RingPlace {
    RingPlace::new(vec![ExtentRun::new(ExtentAddress::new(2, 0), 1)], size())
}

fn identity(epoch: u64) -> JournalIdentity {
    JournalIdentity {
        volume: VolumeId::from_u128(1),
        layer: LayerId::new(2),
        epoch: Epoch::new(epoch),
        writer: NodeIncarnation { node: NodeId::new(1), incarnation: Incarnation::new(1) },
    }
}

fn dirty_identity(epoch: u64) -> DirtyIdentity {
    let JournalIdentity { volume, layer, epoch, writer } = identity(epoch);
    DirtyIdentity { volume, layer, epoch, holder: writer, extent_size: size() }
}

/// What a world may be asked to be.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) block: LogicalBlockSize,
    /// Whether it stands on a layer with some blocks.
    pub(crate) with_base: bool,
    pub(crate) tuning: Tuning,
    /// Entries of the dirty table.
    pub(crate) capacity: usize,
}

impl Options {
    pub(crate) fn new(block: LogicalBlockSize, with_base: bool) -> Self {
        let tuning =
            Tuning { reserve_min: 2, reserve_max: 2, consolidate_slots: 1, ..Tuning::default() };
        Self { block, with_base, tuning, capacity: dirty_capacity(&ring_place(), size()) }
    }
}

fn parts_of(
    options: Options,
    (own, base): (LayerSlots, &LayerSlots),
    ring: JournalRing,
    table: DirtyTable,
    predecessor: Option<Vec<lunar_engine::dirty::DirtySlot>>,
) -> VolumeParts {
    let spec = VolumeSpec {
        volume: VolumeId::from_u128(1),
        holder: identity(1).writer,
        size: VolumeSize::from_bytes(VOLUME_BYTES).expect("valid"),
        extent_size: size(),
        logical_block: options.block,
        queue_count: QUEUES,
        luns: self::table(),
        tuning: options.tuning,
    };
    let head = identity(1).layer;
    let mut chain = Chain::new(spec.size, size(), spec.luns.clone()).expect("small");
    let below = LayerId::new(head.get() - 1);
    chain.begin(below).expect("the first");
    for (logical, slot) in base {
        chain.put(*logical, below, slot.clone()).expect("a sound map");
    }
    chain.begin(head).expect("above it");
    VolumeParts { spec, chain, own, ring, table, predecessor }
}

fn fresh_memory(capacity: usize) -> Arc<dyn SharedWords> {
    let words: Box<[AtomicU64]> =
        (0..table_words(size(), capacity)).map(|_| AtomicU64::new(0)).collect();
    Arc::new(words)
}

impl World {
    /// A volume, over a layer with some blocks if asked for; all else on the LUNs is garbage.
    pub(crate) fn new(block: LogicalBlockSize, with_base: bool, seed: u64) -> Self {
        Self::with(Options::new(block, with_base), seed)
    }

    pub(crate) fn with(options: Options, seed: u64) -> Self {
        let luns = Luns(vec![CachedLun::new(), CachedLun::new()]);
        let mut history: Vec<Vec<u8>> = (0..VOLUME_BYTES / 512).map(|_| vec![0]).collect();
        let mut base = LayerSlots::new();
        let layers = [(0_u64, 0xffff_u64), (1, 0x0ff0), (3, 0x0001)];
        for (logical, bits) in layers.into_iter().filter(|_| options.with_base) {
            let at = ExtentAddress::new(0, 1 + logical);
            let presence = Presence::from_words(size(), &[bits]).expect("16 blocks");
            for n in (0..16_u64).filter(|n| bits >> n & 1 == 1) {
                let value = n as u8 + 1;
                let byte = table().byte_of(at) + n * 4096;
                luns.0[0].write_at(byte, &[value; 4096]).expect("memory");
                let first = ((logical * EXTENT + n * 4096) / 512) as usize;
                history[first..first + 8].fill(vec![value]);
            }
            let place = SlotPlace::Extent(at);
            base.push((LogicalExtent::new(logical), Slot { place, opaque: false, presence }));
        }
        luns.0[0].flush().expect("memory");
        journal::format_ring(&identity(1), &ring_place(), &table(), &luns).expect("memory");
        let capacity = options.capacity;
        let memory = fresh_memory(capacity);
        let table = DirtyTable::create(Arc::clone(&memory), dirty_identity(1), capacity);
        let layers = (LayerSlots::new(), &base);
        let ring = JournalRing::fresh(identity(1), ring_place());
        let parts = parts_of(options, layers, ring, table.expect("right size"), None);
        let volume = Volume::start(parts).expect("a sound map");
        let contexts = (0..=QUEUES).map(|n| volume.queue(QueueId::new(n))).collect();
        let free = (10..100).flat_map(|n| [ExtentAddress::new(0, n), ExtentAddress::new(2, n)]);
        let free = free.collect();
        Self {
            luns,
            metadata: Metadata { checkpoint: SEQ_CONFIRMED, free, ..Metadata::default() },
            base,
            memory,
            volume,
            contexts,
            claim: None,
            requests: HashMap::new(),
            io: Vec::new(),
            wakes: BTreeSet::new(),
            done: Vec::new(),
            options,
            epoch: 1,
            durable_from: vec![0; history.len()],
            history,
            next_tag: 0,
            now: 0,
            random: seed | 1,
        }
    }

    fn pick(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as usize % below
    }

    fn sectors(op: IoOp) -> std::ops::Range<usize> {
        let (offset, length) = match op {
            IoOp::Read { offset, length } | IoOp::Write { offset, length, .. } => {
                (offset, u64::from(length))
            }
            IoOp::Discard { offset, length } | IoOp::WriteZeroes { offset, length } => {
                (offset, length)
            }
            IoOp::Flush => (0, 0),
        };
        (offset / 512) as usize..((offset + length) / 512) as usize
    }

    fn is_write(op: IoOp) -> bool {
        !matches!(op, IoOp::Read { .. } | IoOp::Flush)
    }

    /// Whether a request would overlap one under way; then the outcome is not defined.
    pub(crate) fn overlaps(&self, op: IoOp) -> bool {
        let new = Self::sectors(op);
        self.requests.values().any(|pending| {
            let old = Self::sectors(pending.op);
            old.start < new.end && new.start < old.end
        })
    }

    pub(crate) fn submit(&mut self, op: IoOp, fill: u8) -> RequestId {
        assert!(!self.overlaps(op), "the outcome is known");
        let id = RequestId { queue: QueueId::new(self.next_tag % QUEUES), tag: self.next_tag };
        self.next_tag += 1;
        let value = if matches!(op, IoOp::Write { .. }) { fill } else { 0 };
        let mut expected = Vec::new();
        if op == IoOp::Flush {
            expected = self.history.iter().map(|values| values.len() - 1).collect();
            for pending in self.requests.values().filter(|pending| Self::is_write(pending.op)) {
                expected[Self::sectors(pending.op)].iter_mut().for_each(|index| *index -= 1);
            }
        }
        for sector in Self::sectors(op).filter(|_| Self::is_write(op)) {
            self.history[sector].push(value);
        }
        let buffer = vec![value; Self::sectors(op).len() * 512];
        self.requests.insert(id, Pending { op, buffer, expected });
        self.send(id);
        id
    }

    fn send(&mut self, id: RequestId) {
        let mut out = Vec::new();
        let op = self.requests[&id].op;
        let context = &mut self.contexts[usize::from(id.queue.get())];
        self.volume.submit(context, IoRequest { id, op }, &mut out);
        self.run(id.queue, out);
    }

    fn run(&mut self, queue: QueueId, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Lun { op, io } => self.io.push((queue, op, io)),
                Action::ZeroFill { tag, offset, length } => {
                    let request = self.requests.get_mut(&RequestId { queue, tag }).expect("there");
                    request.buffer[offset as usize..][..length as usize].fill(0);
                }
                Action::Complete { tag, result } => self.ended(RequestId { queue, tag }, result),
                Action::WakeQueue(queue) => {
                    self.wakes.insert(queue);
                }
                Action::WakeControl => {}
            }
        }
    }

    fn ended(&mut self, id: RequestId, result: Result<(), IoError>) {
        let pending = self.requests.remove(&id).expect("a request is completed once");
        assert!(
            !self.io.iter().any(|(queue, _, io)| *queue == id.queue && tag_of(io) == Some(id.tag)),
            "{id:?} has ended with LUN I/O under way"
        );
        self.done.push((id, result));
        if result.is_err() {
            return;
        }
        let sectors = Self::sectors(pending.op);
        match pending.op {
            IoOp::Read { .. } => {
                for (sector, found) in sectors.zip(pending.buffer.chunks(512)) {
                    let newest = *self.history[sector].last().expect("never empty");
                    assert_eq!(found, [newest; 512], "a read of sector {sector}");
                }
            }
            IoOp::Flush => {
                for (from, index) in self.durable_from.iter_mut().zip(pending.expected) {
                    *from = index.max(*from);
                }
            }
            IoOp::Write { fua: true, .. } => {
                for sector in sectors {
                    self.durable_from[sector] = self.history[sector].len() - 1;
                }
            }
            _ => {}
        }
    }

    fn bytes_of(&self, queue: QueueId, io: &LunIo) -> Option<(u64, Vec<u8>, bool)> {
        let request = |tag: u16| &self.requests[&RequestId { queue, tag }].buffer;
        let cut = |buffer: &[u8], offset: u32, length: u32| {
            buffer[offset as usize..][..length as usize].to_vec()
        };
        match io {
            LunIo::Write { at, tag, offset, length, durable, .. } => {
                Some((*at, cut(request(*tag), *offset, *length), *durable))
            }
            LunIo::WriteParts { at, tag, parts, durable, .. } => {
                let bytes = parts.iter().flat_map(|part| match part {
                    Part::Request { offset, length } => cut(request(*tag), *offset, *length),
                    Part::Zeros { length } => vec![0; *length as usize],
                    Part::Owned { buffer, offset, length } => {
                        cut(buffer.as_bytes(), *offset, *length)
                    }
                });
                Some((*at, bytes.collect(), *durable))
            }
            LunIo::WriteOwned { at, buffer, durable, .. } => {
                Some((*at, buffer.as_bytes().to_vec(), *durable))
            }
            LunIo::Read { .. } | LunIo::ReadOwned { .. } | LunIo::Flush { .. } => None,
        }
    }

    /// Lets the medium see an I/O; with `tears` only some sectors of it.
    fn reach_medium(&mut self, queue: QueueId, io: &LunIo, tears: bool) {
        let Some((at, bytes, durable)) = self.bytes_of(queue, io) else {
            if matches!(io, LunIo::Flush { .. }) && !tears {
                self.luns.lun(io.lun()).expect("there").flush().expect("memory");
            }
            return;
        };
        let mut random = self.pick(usize::MAX) as u64;
        let lun = &self.luns.0[usize::from(io.lun().get()) / 2];
        lun.write(at, &bytes, &mut || {
            random = random.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            !tears || random >> 60 & 3 != 0
        });
        if durable && !tears {
            let range = at as usize / 512..(at as usize + bytes.len()) / 512;
            lun.persist(|sector| range.contains(&sector));
        }
    }

    fn perform(&mut self, index: usize) {
        let (queue, op, io) = self.io.swap_remove(index);
        self.reach_medium(queue, &io, false);
        let mut done = LunDone { op, result: Ok(()), buffer: None };
        let lun = &self.luns.0[usize::from(io.lun().get()) / 2];
        match io {
            LunIo::Read { at, tag, offset, length, .. } => {
                let request = self.requests.get_mut(&RequestId { queue, tag }).expect("there");
                let into = &mut request.buffer[offset as usize..][..length as usize];
                lun.read_at(at, into).expect("memory");
            }
            LunIo::ReadOwned { at, mut buffer, .. } => {
                lun.read_at(at, buffer.as_mut_bytes()).expect("memory");
                done.buffer = Some(buffer);
            }
            _ => {}
        }
        let mut out = Vec::new();
        self.volume.complete(&mut self.contexts[usize::from(queue.get())], done, &mut out);
        self.run(queue, out);
    }

    /// Lets one thing happen that is not the control task's; says whether there was any.
    pub(crate) fn progress(&mut self) -> bool {
        let choices = self.io.len() + self.wakes.len();
        if choices == 0 {
            return false;
        }
        let choice = self.pick(choices);
        if choice < self.io.len() {
            self.perform(choice);
            return true;
        }
        let queue = *self.wakes.iter().nth(choice - self.io.len()).expect("there");
        self.wakes.remove(&queue);
        let mut out = Vec::new();
        self.volume.resume(&mut self.contexts[usize::from(queue.get())], &mut out);
        self.run(queue, out);
        true
    }

    fn answer(&mut self, batch: &CommitBatch, answer: Answer) -> WorkDone {
        if answer != Answer::Lost {
            self.metadata.commit(&batch.updates, batch.checkpoint);
        }
        if answer == Answer::Prompt { WorkDone::Committed } else { WorkDone::Unavailable }
    }

    /// One turn of the control task; says whether there was work.
    pub(crate) fn control(&mut self, answer: Answer) -> bool {
        let mut out = Vec::new();
        self.now += 1;
        let now = Duration::from_secs(self.now);
        let work = self.volume.next_work(now, &mut out);
        let done = match &work {
            None => None,
            Some(ControlWork::Reserve { .. }) if answer != Answer::Prompt => {
                Some(WorkDone::Unavailable)
            }
            Some(ControlWork::Reserve { count }) => Some(self.metadata.reserve(*count)),
            Some(ControlWork::Round) => {
                self.volume.start_round(&mut self.contexts[usize::from(QUEUES)], &mut out);
                None
            }
            Some(ControlWork::Commit(batch)) => Some(self.answer(batch, answer)),
        };
        if let Some(done) = done {
            self.volume.work_done(done, now, &mut out);
        }
        self.run(QueueId::new(QUEUES), out);
        work.is_some()
    }

    /// Lets a queue have done what the engine asks for.
    pub(crate) fn act(&mut self, actions: Vec<Action>) {
        self.run(QueueId::new(QUEUES), actions);
    }

    pub(crate) fn now(&self) -> Duration {
        Duration::from_secs(self.now)
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, seconds: u64) {
        self.now += seconds;
    }

    /// Puts extents into the reserve without a turn of the control task.
    pub(crate) fn fill_reserve(&mut self) {
        let WorkDone::Reserved(runs) = self.metadata.reserve(2) else { panic!("the pool is full") };
        self.volume.give_reserve(&runs, &mut Vec::new());
    }

    /// Claims an extent, or begins to copy the one that is claimed.
    pub(crate) fn consolidate(&mut self) {
        if self.claim.is_none() {
            let _ = self.claim();
        } else {
            self.go_on_with_claim();
        }
    }

    pub(crate) fn claim(&mut self) -> Result<(), NoClaim> {
        self.claim = Some(self.volume.claim(self.now())?);
        Ok(())
    }

    /// Begins to copy what is claimed; says whether the claim waits no more.
    pub(crate) fn go_on_with_claim(&mut self) -> bool {
        let Some(claim) = self.claim.take() else { return true };
        let mut out = Vec::new();
        let control = QueueId::new(QUEUES);
        let context = &mut self.contexts[usize::from(QUEUES)];
        if let CopyStep::Waits(claim) = self.volume.start_copy(context, claim, &mut out) {
            self.claim = Some(claim);
        }
        self.run(control, out);
        self.claim.is_none()
    }

    /// Lets one LUN I/O of a queue end; says whether there was one.
    pub(crate) fn perform_one_of(&mut self, queue: u16) -> bool {
        let index = self.io.iter().position(|(of, _, _)| of.get() == queue);
        if let Some(index) = index {
            self.perform(index);
        }
        index.is_some()
    }

    /// Fails one LUN I/O of a queue.
    pub(crate) fn fail_one_of(&mut self, queue: u16) {
        let index = self.io.iter().position(|(of, _, _)| of.get() == queue);
        let (queue, op, _) = self.io.swap_remove(index.expect("one is under way"));
        let result = Err(LunError::Device { errno: 5 });
        let done = LunDone { op, result, buffer: None };
        let mut out = Vec::new();
        self.volume.complete(&mut self.contexts[usize::from(queue.get())], done, &mut out);
        self.run(queue, out);
    }

    /// Lets everything that is under way end.
    pub(crate) fn settle(&mut self) {
        for _ in 0..5000 {
            if self.requests.is_empty() && self.io.is_empty() && self.claim.is_none() {
                return;
            }
            if !self.progress() {
                self.go_on_with_claim();
                self.control(Answer::Prompt);
            }
        }
        panic!("requests do not end: {:?}", self.volume.stats());
    }

    fn layers(&self) -> (LayerSlots, &LayerSlots) {
        let head = self.metadata.committed.iter().map(|(at, slot)| (*at, slot.clone())).collect();
        (head, &self.base)
    }

    fn recover(&self) -> Recovered {
        let image = journal::read(&ring_place(), &table(), &self.luns).expect("memory");
        let (blocks, checkpoint) = (ring_place().blocks(), self.metadata.checkpoint);
        journal::recover(&identity(self.epoch), None, blocks, image.as_bytes(), checkpoint)
            .expect("nothing was damaged")
    }

    fn start(&mut self, parts: VolumeParts) {
        self.volume = Volume::start(parts).expect("a sound map");
        self.contexts = (0..=QUEUES).map(|n| self.volume.queue(QueueId::new(n))).collect();
        self.claim = None;
        self.io.clear();
        self.wakes.clear();
    }

    /// fs-core is killed: its LUN I/O drains, its successor gets the requests again.
    pub(crate) fn kill(&mut self) {
        while !self.io.is_empty() {
            let index = self.pick(self.io.len());
            let (queue, _, io) = self.io.swap_remove(index);
            self.reach_medium(queue, &io, false);
        }
        let (id, recovered) = (identity(self.epoch), self.recover());
        journal::wipe_beyond(&id, &ring_place(), &table(), &self.luns, &recovered).expect("memory");
        let ring = JournalRing::resumed(id, ring_place(), &recovered);
        let memory = Arc::clone(&self.memory);
        let (table, dirty) =
            DirtyTable::open(memory, dirty_identity(self.epoch), self.options.capacity)
                .expect("our table");
        self.start(parts_of(self.options, self.layers(), ring, table, Some(dirty)));
        let mut again: Vec<RequestId> = self.requests.keys().copied().collect();
        again.sort_unstable();
        again.into_iter().for_each(|id| self.send(id));
    }

    /// The node and the LUNs lose power; another node takes over and reads everything.
    pub(crate) fn lose_node(&mut self) {
        for (queue, _, io) in std::mem::take(&mut self.io) {
            self.reach_medium(queue, &io, true);
        }
        let mut random = self.pick(usize::MAX) as u64;
        for lun in &self.luns.0 {
            lun.lose_power(&mut || {
                random = random.rotate_left(9).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                random >> 61 & 1 != 0
            });
        }
        self.requests.clear();
        let recovered = self.recover();
        let updates = replay::replay(&recovered.records, &self.metadata.committed, size());
        self.metadata.commit(&updates.expect("our geometry"), None);
        let held = std::mem::take(&mut self.metadata.held);
        self.metadata.free.extend(held);
        self.epoch += 1;
        self.metadata.checkpoint = SEQ_CONFIRMED;
        let id = identity(self.epoch);
        journal::format_ring(&id, &ring_place(), &table(), &self.luns).expect("memory");
        let capacity = self.options.capacity;
        self.memory = fresh_memory(capacity);
        let memory = Arc::clone(&self.memory);
        let table = DirtyTable::create(memory, dirty_identity(self.epoch), capacity);
        let ring = JournalRing::fresh(id, ring_place());
        let table = table.expect("right size");
        self.start(parts_of(self.options, self.layers(), ring, table, None));
        self.take_what_is_there();
    }

    fn take_what_is_there(&mut self) {
        let length = u32::try_from(VOLUME_BYTES).expect("small");
        let id = RequestId { queue: QueueId::new(0), tag: u16::MAX };
        let mut out = Vec::new();
        let op = IoOp::Read { offset: 0, length };
        let pending = Pending { op, buffer: vec![0xee; length as usize], expected: Vec::new() };
        self.requests.insert(id, pending);
        self.volume.submit(&mut self.contexts[0], IoRequest { id, op }, &mut out);
        let mut found = vec![0xee; length as usize];
        for action in out {
            match action {
                Action::ZeroFill { offset, length, .. } => {
                    found[offset as usize..][..length as usize].fill(0);
                }
                Action::Lun { op, io } => {
                    let LunIo::Read { lun, at, offset, length, .. } = io else { panic!("{io:?}") };
                    let into = &mut found[offset as usize..][..length as usize];
                    self.luns.lun(lun).expect("there").read_at(at, into).expect("memory");
                    let done = LunDone { op, result: Ok(()), buffer: None };
                    self.volume.complete(&mut self.contexts[0], done, &mut Vec::new());
                }
                _ => {}
            }
        }
        self.requests.remove(&id);
        for (n, sector) in found.chunks(512).enumerate() {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "sector {n} is torn");
            let allowed = &self.history[n][self.durable_from[n]..];
            assert!(allowed.contains(&sector[0]), "sector {n}: {} of {allowed:?}", sector[0]);
            self.history[n] = vec![sector[0]];
            self.durable_from[n] = 0;
        }
    }
}

fn tag_of(io: &LunIo) -> Option<u16> {
    match io {
        LunIo::Read { tag, .. } | LunIo::Write { tag, .. } | LunIo::WriteParts { tag, .. } => {
            Some(*tag)
        }
        _ => None,
    }
}
