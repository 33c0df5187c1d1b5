//! A volume as its user sees it: a device with queues and tags, and what the user knows of it.
//!
//! The device is the kernel's: its requests and their buffers outlive a kill of the daemon, and
//! are given to its successor again. A power cut takes device and requests away.

use lunar_engine::io::{IoError, IoOp};
use lunar_engine::lun::LunError;
use lunar_types::{BLOCK_BYTES, LogicalBlockSize, Name, VolumeId, VolumeSize};

use crate::dice::Dice;
use crate::oracle::{Change, Moment, Oracle, Shown};
use crate::stamp::{SECTOR_BYTES, Stamp};

/// What a read buffer holds before the read.
const UNREAD: u8 = 0xee;

/// A request under way.
#[derive(Debug)]
pub struct Request {
    /// What it asks for.
    pub op: IoOp,
    /// Its number, which its data carries.
    pub number: u32,
    /// When it began.
    pub began: Moment,
    /// Its data.
    pub buffer: Vec<u8>,
}

/// The device of an attached volume.
#[derive(Debug)]
pub struct Device {
    /// Requests by queue and tag.
    pub queues: Vec<Vec<Option<Request>>>,
}

/// What a volume's user did and may see.
#[derive(Debug)]
pub struct Guest {
    /// Never given again; stamps carry it.
    pub uid: u32,
    /// Its name, which a later volume may have again.
    pub name: Name,
    /// Its id in the metadata service.
    pub id: VolumeId,
    /// Its size as its user sees it: that of its device.
    pub size: VolumeSize,
    /// Its size as the service has it; the device follows.
    pub granted: VolumeSize,
    /// What its device advertises.
    pub block: LogicalBlockSize,
    /// Whose stamps it may show: its own, and those of what it began as.
    lineage: Vec<u32>,
    /// What nothing tears, in bytes.
    granule: u64,
    oracle: Oracle,
    /// Requests so far.
    requests: u64,
    /// Beginning and end of each change that ended well.
    changes: Vec<(Moment, Moment)>,
    /// While it is attached.
    pub device: Option<Device>,
    /// The host of its device, or of the last one.
    pub host: Option<usize>,
    /// Whether nobody will use it any more.
    pub is_deleted: bool,
    /// Whether its user only reads: it shows what it began as.
    pub is_read_only: bool,
    /// Whether its daemon has said that it takes no more writes, which a kill must not undo.
    pub is_poisoned: bool,
}

/// What a volume showed when it was cut, for ever.
#[derive(Clone, Debug)]
pub struct Cut {
    lineage: Vec<u32>,
    granule: u64,
    oracle: Oracle,
}

impl Cut {
    /// The volume that was cut.
    #[must_use]
    pub fn uid(&self) -> u32 {
        *self.lineage.last().expect("a volume is of its own lineage")
    }

    /// A volume that began as this and only read has shown it: of several contents that were
    /// possible the one that was seen stays.
    pub fn is_seen_as(&mut self, seen: &Self) {
        self.oracle = seen.oracle.first(self.oracle.granules());
    }

    /// Whether both began as the same volume.
    #[must_use]
    pub fn is_related(&self, other: &Self) -> bool {
        self.lineage.iter().any(|uid| other.lineage.contains(uid))
    }

    /// The first byte of a block, if the block cannot show what another cut shows, or zeros if
    /// there is none.
    #[must_use]
    pub fn disagrees(&self, block: u64, other: Option<&Self>) -> Option<u64> {
        let granules = BLOCK_BYTES / self.granule;
        let other = other.map(|other| &other.oracle);
        let mut granules = block * granules..(block + 1) * granules;
        granules.find(|at| !self.oracle.may_agree(*at, other)).map(|at| at * self.granule)
    }
}

/// How a request ended that should have ended otherwise.
pub type Complaint = String;

/// What may go wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Excuses {
    /// LUNs fail now and then.
    pub faults: bool,
    /// The pool was full.
    pub full: bool,
    /// The volume takes no more writes.
    pub poisoned: bool,
}

impl Device {
    /// A device without requests.
    #[must_use]
    pub fn new(queues: u16, depth: u16) -> Self {
        let queue = || (0..depth).map(|_| None).collect();
        Self { queues: (0..queues).map(|_| queue()).collect() }
    }

    /// Requests under way, as queue and tag.
    pub fn busy(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let tags = |(queue, tags): (usize, &'_ Vec<Option<Request>>)| {
            let busy: Vec<_> = (0..tags.len())
                .filter(|tag| tags[*tag].is_some())
                .map(|tag| (queue, tag))
                .collect();
            busy
        };
        self.queues.iter().enumerate().flat_map(tags)
    }

    /// Whether any tag is free.
    #[must_use]
    pub fn has_free(&self) -> bool {
        self.queues.iter().flatten().any(Option::is_none)
    }

    /// Queue and tag that are free.
    pub fn free(&self, dice: &mut Dice) -> Option<(usize, usize)> {
        let has_free = |queue: &usize| self.queues[*queue].iter().any(Option::is_none);
        let queues: Vec<usize> = (0..self.queues.len()).filter(has_free).collect();
        if queues.is_empty() {
            return None;
        }
        let queue = dice.one_of(&queues);
        let tag = self.queues[queue].iter().position(Option::is_none)?;
        Some((queue, tag))
    }

    /// A request that is under way.
    pub fn request(&mut self, queue: usize, tag: u16) -> &mut Request {
        let slot = &mut self.queues[queue][usize::from(tag)];
        slot.as_mut().expect("the engine names requests that are under way")
    }
}

impl Guest {
    /// A new volume on LUNs of this logical block.
    #[must_use]
    pub fn new(
        uid: u32,
        name: Name,
        id: VolumeId,
        size: VolumeSize,
        block: LogicalBlockSize,
        lun_block: LogicalBlockSize,
    ) -> Self {
        let granule = u64::from(block.bytes().min(lun_block.bytes()));
        let oracle = Oracle::new(size.bytes() / granule);
        Self {
            uid,
            name,
            id,
            size,
            granted: size,
            block,
            lineage: vec![uid],
            granule,
            oracle,
            requests: 0,
            changes: Vec::new(),
            device: None,
            host: None,
            is_deleted: false,
            is_read_only: false,
            is_poisoned: false,
        }
    }

    /// What a snapshot shows that is cut now, with nothing under way.
    #[must_use]
    pub fn cut(&self, now: Moment) -> Cut {
        let (lineage, oracle) = (self.lineage.clone(), self.oracle.settled(now));
        Cut { lineage, granule: self.granule, oracle }
    }

    /// A new volume that shows what a snapshot does; blocks beyond that are zeros.
    #[must_use]
    pub fn begun_as(mut self, cut: &Cut) -> Self {
        self.roll_back(cut);
        self
    }

    /// Shows what a snapshot does from now on. It may show its own former stamps again, if the
    /// snapshot does.
    pub fn roll_back(&mut self, cut: &Cut) {
        let granules = self.size.bytes() / self.granule;
        self.oracle = cut.oracle.grown_to(granules);
        self.lineage.clone_from(&cut.lineage);
        if !self.lineage.contains(&self.uid) {
            self.lineage.push(self.uid);
        }
    }

    /// The device is as large as the volume from now on; what is new are zeros.
    pub fn device_has_grown(&mut self, size: VolumeSize) {
        assert!(size >= self.size && size <= self.granted, "a device follows its volume");
        self.size = size;
        self.oracle.grow(size.bytes() / self.granule);
    }

    fn granules(&self, offset: u64, length: u64) -> std::ops::Range<u64> {
        offset / self.granule..(offset + length) / self.granule
    }

    /// Puts a request on the device; its changes may be seen from now on.
    pub fn begin(&mut self, (queue, tag): (usize, usize), op: IoOp, number: u32, now: Moment) {
        let (buffer, change) = match op {
            IoOp::Read { length, .. } => (vec![UNREAD; length as usize], None),
            IoOp::Write { offset, length, .. } => (
                self.data(offset, length, number),
                Some((offset, u64::from(length), Change::Write)),
            ),
            IoOp::Discard { offset, length } | IoOp::WriteZeroes { offset, length } => {
                (Vec::new(), Some((offset, length, Change::Zero)))
            }
            IoOp::Flush => (Vec::new(), None),
        };
        if let Some((offset, length, change)) = change {
            for granule in self.granules(offset, length) {
                self.oracle.begin(granule, number, change, now);
            }
        }
        self.requests += 1;
        let device = self.device.as_mut().expect("requests come from a device");
        device.queues[queue][tag] = Some(Request { op, number, began: now, buffer });
    }

    fn data(&self, offset: u64, length: u32, number: u32) -> Vec<u8> {
        let mut data = vec![0; length as usize];
        let first = offset / SECTOR_BYTES as u64;
        for (sector, bytes) in (first..).zip(data.chunks_exact_mut(SECTOR_BYTES)) {
            Stamp::Written { volume: self.uid, sector, write: number }.fill(bytes);
        }
        data
    }

    /// The engine has ended a request: judges it and frees its tag.
    ///
    /// # Errors
    /// When it must not end like that.
    pub fn end(
        &mut self,
        queue: usize,
        tag: u16,
        result: Result<(), IoError>,
        excuses: Excuses,
        now: Moment,
    ) -> Result<(), Complaint> {
        let device = self.device.as_mut().expect("requests end on a device");
        let slot = device.queues[queue][usize::from(tag)].take();
        let Some(request) = slot else {
            return Err(format!("queue {queue} tag {tag} ended twice, now with {result:?}"));
        };
        if let Err(error) = result
            && !is_excused(error, request.op, excuses)
        {
            return Err(format!("#{} {:?} failed: {error:?}", request.number, request.op));
        }
        let is_ok = result.is_ok();
        if is_ok && !matches!(request.op, IoOp::Read { .. } | IoOp::Flush) {
            self.changes.push((request.began, now));
        }
        match request.op {
            IoOp::Read { offset, .. } if is_ok => self.judge(offset, &request, now),
            IoOp::Read { .. } => Ok(()),
            IoOp::Flush => {
                if is_ok {
                    let horizon = self.horizon();
                    self.oracle.flushed(request.began, horizon);
                }
                Ok(())
            }
            IoOp::Write { offset, length, fua } => {
                self.changed(&request, (offset, u64::from(length)), (is_ok, fua), now);
                Ok(())
            }
            IoOp::Discard { offset, length } | IoOp::WriteZeroes { offset, length } => {
                self.changed(&request, (offset, length), (is_ok, false), now);
                Ok(())
            }
        }
    }

    /// When a change had ended that began after this moment, if that was before the other one:
    /// a cut of this volume at the first moment does not show it.
    #[must_use]
    pub fn changed_between(&self, after: Moment, before: Moment) -> Option<Moment> {
        let left_out = self.changes.iter().filter(|(began, end)| *began > after && *end < before);
        left_out.map(|(_, end)| *end).min()
    }

    /// No read under way began before this.
    fn horizon(&self) -> Moment {
        let requests = self.device.iter().flat_map(|device| device.queues.iter().flatten());
        let reads = requests.flatten().filter(|r| matches!(r.op, IoOp::Read { .. }));
        reads.map(|request| request.began).min().unwrap_or(Moment::MAX)
    }

    fn changed(
        &mut self,
        request: &Request,
        (offset, length): (u64, u64),
        (is_ok, is_durable): (bool, bool),
        now: Moment,
    ) {
        for granule in self.granules(offset, length) {
            self.oracle.end(granule, request.number, is_ok, now);
            if is_ok && is_durable {
                self.oracle.is_durable(granule, request.number);
            }
        }
    }

    fn judge(&mut self, offset: u64, request: &Request, now: Moment) -> Result<(), Complaint> {
        let per_granule = self.granule as usize / SECTOR_BYTES;
        for (n, bytes) in request.buffer.chunks_exact(self.granule as usize).enumerate() {
            let granule = offset / self.granule + n as u64;
            let per_block = BLOCK_BYTES / self.granule;
            let block = granule / per_block * per_block;
            if self.oracle.is_anything_possible(block..block + per_block) {
                continue;
            }
            let first = granule * per_granule as u64;
            let stamps: Vec<Stamp> = bytes.chunks_exact(SECTOR_BYTES).map(Stamp::read).collect();
            let read = || {
                let at = granule * self.granule;
                format!("read #{} of volume v{} shows at byte {at}", request.number, self.uid)
            };
            let shown: Vec<Option<Shown>> = (first..)
                .zip(&stamps)
                .map(|(s, stamp)| Shown::of(*stamp, &self.lineage, s))
                .collect();
            if let Some(strange) = shown.iter().position(Option::is_none) {
                let sector = first + strange as u64;
                return Err(format!("{} (sector {sector}) {}", read(), stamps[strange]));
            }
            if shown.iter().any(|other| *other != shown[0]) {
                let stamps: Vec<String> = stamps.iter().map(ToString::to_string).collect();
                return Err(format!("{} a torn block: {}", read(), stamps.join(", ")));
            }
            let shown = shown[0].expect("none is strange");
            self.oracle.check(granule, shown, request.began, now).map_err(|mismatch| {
                format!(
                    "{} {}, but only {} can be there; history: {}",
                    read(),
                    stamps[0],
                    mismatch.allowed,
                    mismatch.history
                )
            })?;
        }
        Ok(())
    }

    /// The power was cut: the device is gone.
    pub fn power_was_cut(&mut self, now: Moment, are_luns_cut: bool) {
        self.device = None;
        self.is_poisoned = false;
        if are_luns_cut {
            self.oracle.power_was_cut(now);
        } else {
            self.oracle.node_was_lost(now);
        }
    }

    /// A failed flush has dropped what this volume wrote.
    pub fn distrust(&mut self, now: Moment) {
        self.oracle.distrust(now);
    }

    /// A volume that takes no more writes was detached: its device is gone.
    pub fn detached_poisoned(&mut self, now: Moment) {
        self.device = None;
        self.is_poisoned = false;
        self.oracle.trust_again(now);
    }
}

fn is_excused(error: IoError, op: IoOp, excuses: Excuses) -> bool {
    let is_flush = op == IoOp::Flush;
    match error {
        IoError::Lun { error: LunError::Device { .. } | LunError::Short { .. }, .. } => {
            excuses.faults
        }
        IoError::NoSpace => excuses.full && !is_flush && !matches!(op, IoOp::Read { .. }),
        IoError::Poisoned => excuses.poisoned && !matches!(op, IoOp::Read { .. }),
        IoError::Invalid => false,
    }
}

/// What the user of a volume asks for next.
pub fn draw_op(guest: &Guest, extent_bytes: u64, is_wide: bool, dice: &mut Dice) -> IoOp {
    let weights = if is_wide { [80, 10, 1, 1, 1, 1] } else { [38, 26, 8, 10, 10, 4] };
    let kind = dice.weighted(&weights).expect("weights are there");
    let kind = if guest.is_read_only { 1 } else { kind };
    if kind == 2 {
        return IoOp::Flush;
    }
    if is_wide && kind == 0 {
        let extent = guest.requests % guest.size.bytes().div_ceil(extent_bytes);
        return IoOp::Write { offset: extent * extent_bytes, length: 4096, fua: false };
    }
    let (offset, length) = draw_range(guest, extent_bytes, kind >= 4, dice);
    let short = length as u32;
    match kind {
        0 => IoOp::Write { offset, length: short, fua: false },
        1 => IoOp::Read { offset, length: short },
        3 => IoOp::Write { offset, length: short, fua: true },
        4 => IoOp::Discard { offset, length },
        _ => IoOp::WriteZeroes { offset, length },
    }
}

/// A range of logical blocks: often few and at the same places, sometimes whole extents.
fn draw_range(guest: &Guest, extent: u64, may_be_whole: bool, dice: &mut Dice) -> (u64, u64) {
    let size = guest.size.bytes();
    if may_be_whole && dice.chance(500) {
        let first = dice.below(size.div_ceil(extent)) * extent;
        let length = dice.between(1, 3) * extent;
        return (first, length.min(size - first));
    }
    let block = u64::from(guest.block.bytes());
    let (start, room) = if dice.chance(400) {
        (dice.below(size.div_ceil(extent)).min(2) * extent, (extent / 4).min(size))
    } else {
        (0, size)
    };
    let start = start.min(size - block);
    let blocks = (room.min(size - start) / block).max(1);
    let first = dice.below(blocks);
    let most = match dice.below(10) {
        0..=5 => 2,
        6..=8 => 8,
        _ => (extent + extent / 2).min(192 << 10) / block,
    };
    let offset = start + first * block;
    let length = dice.between(1, most) * block;
    (offset, length.min(size - offset))
}
