//! The LUNs of a sweep: what is on their media, and the writes that a power cut may lose.
//!
//! Invariants:
//! - a write is volatile from its submission on, until it ends if it is durable by itself, and
//!   else until a flush that was sent after its end has ended;
//! - images share their pages: a copy costs a pointer for each page that was ever written.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use lunar_engine::journal::LunSet;
use lunar_engine::lun::{LunDevice, LunError};
use lunar_types::{BLOCK_BYTES, LunIndex};

use super::record::Recorder;
use crate::stamp::{SECTOR_BYTES, Stamp};

const PAGE: usize = BLOCK_BYTES as usize;
/// Sectors of a block.
pub(super) const SECTORS: u32 = (PAGE / SECTOR_BYTES) as u32;

/// Spreads the bits of a number.
pub(super) const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (x ^ (x >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (x >> 32)
}

/// The sectors of a write, one bit each.
pub(super) type SectorMask = u128;

/// A mask of the first sectors.
pub(super) const fn first_sectors(count: u32) -> SectorMask {
    if count >= SectorMask::BITS { SectorMask::MAX } else { (1 << count) - 1 }
}

struct Page {
    bytes: [u8; PAGE],
    /// Found when it is asked for first: what a recovery writes is never told apart.
    hash: OnceCell<u64>,
}

impl Page {
    fn new(bytes: [u8; PAGE]) -> Rc<Self> {
        Rc::new(Self { bytes, hash: OnceCell::new() })
    }

    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            let words = self.bytes.chunks_exact(8);
            let word = |chunk: &[u8]| u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
            mix(words.fold(7, |sum: u64, chunk| sum.rotate_left(23) ^ mix(word(chunk))))
        })
    }

    /// What an earlier tenant left there.
    fn of_tenant(lun: u16, page: u64) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        for (n, sector) in bytes.chunks_exact_mut(SECTOR_BYTES).enumerate() {
            Stamp::Tenant { lun, sector: page * u64::from(SECTORS) + n as u64 }.fill(sector);
        }
        bytes
    }
}

/// The content of all LUNs.
#[derive(Clone, Default)]
pub(super) struct Image(BTreeMap<(u16, u64), Rc<Page>>);

impl Image {
    /// A number that follows from everything that was ever written.
    pub(super) fn hash(&self) -> u64 {
        let page = |((lun, page), content): (&(u16, u64), &Rc<Page>)| {
            mix(content.hash() ^ mix(*page << 16 | u64::from(*lun)))
        };
        self.0.iter().map(page).fold(0, u64::wrapping_add)
    }

    /// Reads whole sectors.
    pub(super) fn read(&self, lun: u16, at: u64, into: &mut [u8]) {
        let (mut at, mut into) = (at, into);
        while !into.is_empty() {
            let (page, within) = (at / BLOCK_BYTES, (at % BLOCK_BYTES) as usize);
            let length = (PAGE - within).min(into.len());
            let (now, rest) = into.split_at_mut(length);
            match self.0.get(&(lun, page)) {
                Some(content) => now.copy_from_slice(&content.bytes[within..within + length]),
                None => now.copy_from_slice(&Page::of_tenant(lun, page)[within..within + length]),
            }
            (at, into) = (at + length as u64, rest);
        }
    }

    /// Writes those sectors of `bytes` that the mask has.
    pub(super) fn write(&mut self, lun: u16, at: u64, bytes: &[u8], mask: SectorMask) {
        let (mut done, mut sector) = (0, 0);
        while done < bytes.len() {
            let at = at + done as u64;
            let (page, within) = (at / BLOCK_BYTES, (at % BLOCK_BYTES) as usize);
            let length = (PAGE - within).min(bytes.len() - done);
            let sectors = (length / SECTOR_BYTES) as u32;
            let part = mask >> sector & first_sectors(sectors);
            if part != 0 {
                let before = self.0.get(&(lun, page));
                let mut content =
                    before.map_or_else(|| Page::of_tenant(lun, page), |page| page.bytes);
                for n in (0..sectors as usize).filter(|n| part >> n & 1 == 1) {
                    let from = done + n * SECTOR_BYTES;
                    content[within + n * SECTOR_BYTES..][..SECTOR_BYTES]
                        .copy_from_slice(&bytes[from..from + SECTOR_BYTES]);
                }
                self.0.insert((lun, page), Page::new(content));
            }
            done += length;
            sector += sectors;
        }
    }
}

/// A write that a power cut may lose.
#[derive(Clone)]
pub(super) struct Write {
    pub(super) id: u64,
    /// The queue that sent it.
    pub(super) queue: u16,
    pub(super) lun: u16,
    pub(super) at: u64,
    pub(super) bytes: Rc<[u8]>,
    /// The sectors that no durable write has replaced since.
    pub(super) live: SectorMask,
    /// Whether it is of a journal.
    pub(super) is_journal: bool,
    /// Whether its end was told.
    pub(super) is_done: bool,
    is_durable: bool,
}

impl Write {
    /// Its sectors.
    pub(super) fn sectors(&self) -> u32 {
        (self.bytes.len() / SECTOR_BYTES) as u32
    }

    /// Brings some of its sectors to an image.
    pub(super) fn apply(&self, image: &mut Image, mask: SectorMask) {
        image.write(self.lun, self.at, &self.bytes, mask & self.live);
    }
}

/// All LUNs, and who is told of each change.
#[derive(Default)]
pub(super) struct Medium {
    /// What no power cut takes away.
    pub(super) durable: Image,
    /// What a reader sees.
    visible: Image,
    /// In the order of their submission.
    pub(super) volatile: Vec<Write>,
    last_id: u64,
    /// Sizes of the LUNs in bytes.
    sizes: Vec<u64>,
    recorder: Option<Rc<RefCell<Recorder>>>,
}

impl Medium {
    /// LUNs of these sizes with this content.
    pub(super) fn new(
        image: Image,
        sizes: Vec<u64>,
        recorder: Option<Rc<RefCell<Recorder>>>,
    ) -> Self {
        let (durable, visible) = (image.clone(), image);
        Self { durable, visible, volatile: Vec::new(), last_id: 0, sizes, recorder }
    }

    /// Tells what there is now.
    pub(super) fn mark(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.borrow_mut().mark(self);
        }
    }

    pub(super) fn read(&self, lun: u16, at: u64, into: &mut [u8]) {
        self.visible.read(lun, at, into);
    }

    /// A write is sent.
    pub(super) fn submit(
        &mut self,
        (queue, is_journal, is_durable): (u16, bool, bool),
        lun: u16,
        at: u64,
        bytes: Rc<[u8]>,
    ) -> u64 {
        assert!(at + bytes.len() as u64 <= self.sizes[usize::from(lun)], "beyond LUN {lun}");
        self.last_id += 1;
        let live = first_sectors((bytes.len() / SECTOR_BYTES) as u32);
        assert!(bytes.len() / SECTOR_BYTES <= SectorMask::BITS as usize, "a write fits a mask");
        self.visible.write(lun, at, &bytes, live);
        let id = self.last_id;
        let write =
            Write { id, queue, lun, at, bytes, live, is_journal, is_done: false, is_durable };
        self.volatile.push(write);
        self.mark();
        id
    }

    /// The end of a write is told.
    pub(super) fn complete(&mut self, id: u64) {
        let index = self.volatile.iter().position(|write| write.id == id);
        let index = index.expect("nothing makes a write durable before its end");
        self.volatile[index].is_done = true;
        if self.volatile[index].is_durable {
            let write = self.volatile.remove(index);
            write.apply(&mut self.durable, write.live);
            self.volatile.iter_mut().filter(|older| older.id < id).for_each(|older| {
                older.live &= !overlap(older, &write);
            });
            self.volatile.retain(|write| write.live != 0);
        }
        self.mark();
    }

    /// What a flush that is sent now covers: only what this queue has sent, if one is named.
    pub(super) fn covered(&self, lun: u16, only: Option<u16>) -> Vec<u64> {
        let is_covered = |write: &&Write| {
            write.is_done && write.lun == lun && only.is_none_or(|queue| queue == write.queue)
        };
        self.volatile.iter().filter(is_covered).map(|write| write.id).collect()
    }

    /// The end of a flush that covers these is told.
    pub(super) fn flushed(&mut self, covered: &[u64]) {
        let writes = std::mem::take(&mut self.volatile);
        for write in writes {
            if covered.contains(&write.id) {
                write.apply(&mut self.durable, write.live);
            } else {
                self.volatile.push(write);
            }
        }
        self.mark();
    }
}

/// The sectors of `older` that `newer` writes too.
fn overlap(older: &Write, newer: &Write) -> SectorMask {
    if older.lun != newer.lun {
        return 0;
    }
    let is_in = |n: &u32| {
        let at = older.at + u64::from(*n) * SECTOR_BYTES as u64;
        (newer.at..newer.at + newer.bytes.len() as u64).contains(&at)
    };
    (0..older.sectors()).filter(is_in).fold(0, |mask, n| mask | 1 << n)
}

/// The LUNs for blocking I/O of journals.
pub(super) struct OpenLuns(Vec<OpenLun>);

struct OpenLun {
    medium: Rc<RefCell<Medium>>,
    lun: u16,
}

/// The queue of blocking I/O, in writes.
const BLOCKING: u16 = u16::MAX;

impl OpenLuns {
    /// Opens all.
    pub(super) fn new(medium: &Rc<RefCell<Medium>>) -> Self {
        let count = medium.borrow().sizes.len() as u16;
        let open = |lun| OpenLun { medium: Rc::clone(medium), lun };
        Self((0..count).map(open).collect())
    }
}

impl LunSet for OpenLuns {
    fn lun(&self, index: LunIndex) -> Option<&dyn LunDevice> {
        let handle = self.0.get(usize::from(index.get()))?;
        Some(handle)
    }
}

impl LunDevice for OpenLun {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), LunError> {
        self.medium.borrow().read(self.lun, at, buffer);
        Ok(())
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), LunError> {
        let mut medium = self.medium.borrow_mut();
        let id = medium.submit((BLOCKING, true, false), self.lun, at, bytes.into());
        medium.complete(id);
        Ok(())
    }

    fn flush(&self) -> Result<(), LunError> {
        let mut medium = self.medium.borrow_mut();
        let covered = medium.covered(self.lun, None);
        medium.flushed(&covered);
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.medium.borrow().sizes[usize::from(self.lun)]
    }

    fn logical_block_bytes(&self) -> u32 {
        SECTOR_BYTES as u32
    }
}
