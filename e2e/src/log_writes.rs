//! The log of the device mapper's target log-writes, and what a volatile cache could have left of
//! it at any moment.
//!
//! The target logs a write once it has completed and a flush of the device has passed, a FUA write
//! as soon as it has completed, a flush after the writes that it covers, and marks in between. In
//! the log, after a super block of one sector, each entry is one sector, followed by its data
//! unless it is a discard. All numbers are little endian; positions and lengths of entries count
//! in sectors of the size that the super block names.
//!
//! A device may stand on the target in two *regions* that have each a cache of their own: a LUN
//! below the split, the disk of the metadata store from there on. A flush belongs to the region
//! that its position lies in, and makes only that region's writes durable. So a metadata commit
//! that came before the flush of what it speaks of is found, although one log orders both.
//!
//! A flush takes the writes that have completed when it reaches the target, of both regions, and
//! they are logged when it ends. So the log says what each flush has covered only if flushes end in
//! the order in which they came: whoever records sees to that. A write that a FUA write to the same
//! place follows, with no flush between them, would be logged in the wrong order, too: neither the
//! engine nor a journalling file system does that.
//!
//! Invariants of the [`Cache`]:
//! - what it gives out as durable a power cut at that moment cannot undo;
//! - what is pending may have become durable in any part, in units of [`UNIT_BYTES`]: writes that
//!   overlap are given out in the order in which they completed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const SUPER_BYTES: usize = 28;
const ENTRY_BYTES: usize = 32;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// What a power cut writes whole or not at all.
pub const UNIT_BYTES: u64 = 4096;
/// Bytes that are copied at once.
const COPY_BYTES: u64 = 1 << 20;
/// What discarded blocks hold after a replay: whatever is read there was never promised.
const DISCARDED: u8 = 0xdd;

/// A log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A device failed.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It is no such log.
    #[error("no log of dm-log-writes of version {VERSION}: magic {magic:#x}, version {version}")]
    Foreign {
        /// What is where its magic number should be.
        magic: u64,
        /// What is where its version should be.
        version: u64,
    },
    /// An entry makes no sense.
    #[error("entry {index} of the log makes no sense: {why}")]
    Damaged {
        /// Its number.
        index: u64,
        /// What is wrong with it.
        why: String,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> LogError {
    let what = what.into();
    move |source| LogError::Io { what, source }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody marked this moment.
    Mark(String),
    /// Something happened to the device: a flush first, if it is one, and then the write.
    Io {
        /// Where on the device, in bytes.
        at: u64,
        /// The cache of the region there was flushed.
        is_flush: bool,
        /// The write, if there was one.
        write: Option<Write>,
        /// The write was durable when it completed.
        is_durable: bool,
    },
}

/// A write to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Where to, in bytes.
    pub to: u64,
    /// How much.
    pub bytes: u64,
    /// Where the data lies in the log; none if it was a discard.
    pub data: Option<u64>,
}

impl Write {
    const fn end(&self) -> u64 {
        self.to + self.bytes
    }

    const fn overlaps(&self, other: &Self) -> bool {
        self.to < other.end() && other.to < self.end()
    }

    /// Its pieces, none of which crosses a border of [`UNIT_BYTES`].
    fn units(self) -> impl Iterator<Item = Self> {
        let mut from = self.to;
        std::iter::from_fn(move || {
            let to = from;
            let end = ((to / UNIT_BYTES + 1) * UNIT_BYTES).min(self.end());
            from = end;
            let data = self.data.map(|data| data + (to - self.to));
            (to < end).then_some(Self { to, bytes: end - to, data })
        })
    }
}

/// A log.
#[derive(Debug)]
pub struct Log {
    file: File,
    entries: u64,
    sector_bytes: u64,
}

fn word(bytes: &[u8], index: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[index * 8..index * 8 + 8]);
    u64::from_le_bytes(word)
}

impl Log {
    /// Reads the super block.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn open(file: File) -> Result<Self, LogError> {
        let mut head = [0; SUPER_BYTES];
        file.read_exact_at(&mut head, 0).map_err(io_error("read the log's super block"))?;
        let (magic, version) = (word(&head, 0), word(&head, 1));
        let sector = u32::from_le_bytes([head[24], head[25], head[26], head[27]]);
        if magic != MAGIC || version != VERSION || ![512, 4096].contains(&sector) {
            return Err(LogError::Foreign { magic, version });
        }
        Ok(Self { file, entries: word(&head, 2), sector_bytes: u64::from(sector) })
    }

    /// How many entries it has.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.entries
    }

    /// Whether it has none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Its entries, in order.
    pub fn events(&self) -> impl Iterator<Item = Result<(u64, Event), LogError>> + '_ {
        let mut at = self.sector_bytes;
        (0..self.entries).map(move |index| {
            let (event, next) = self.event(index, at)?;
            at = next;
            Ok((index, event))
        })
    }

    /// The entry at this place of the log, and where the next one is.
    fn event(&self, index: u64, at: u64) -> Result<(Event, u64), LogError> {
        let mut block = vec![0; usize::try_from(self.sector_bytes).expect("it is small")];
        let read = self.file.read_exact_at(&mut block, at);
        read.map_err(io_error(format!("read entry {index} of the log")))?;
        let [sector, sectors, flags, length] = [0, 1, 2, 3].map(|n| word(&block, n));
        let damaged = |why: &str| LogError::Damaged { index, why: why.to_owned() };
        let data_at = at + self.sector_bytes;
        if flags & MARK != 0 {
            let end =
                usize::try_from(length).ok().and_then(|length| length.checked_add(ENTRY_BYTES));
            let name = end.and_then(|end| block.get(ENTRY_BYTES..end));
            let name = name.ok_or_else(|| damaged("its name is longer than itself"))?;
            return Ok((Event::Mark(String::from_utf8_lossy(name).into_owned()), data_at));
        }
        let bytes = sectors.checked_mul(self.sector_bytes);
        let to = sector.checked_mul(self.sector_bytes);
        let (Some(bytes), Some(to)) = (bytes, to) else {
            return Err(damaged("its numbers are too great"));
        };
        let data = (flags & DISCARD == 0).then_some(data_at);
        let next = if data.is_some() { data_at.checked_add(bytes) } else { Some(data_at) };
        let event = Event::Io {
            at: to,
            is_flush: flags & FLUSH != 0,
            write: (bytes > 0).then_some(Write { to, bytes, data }),
            is_durable: flags & FUA != 0,
        };
        Ok((event, next.ok_or_else(|| damaged("it ends beyond every log"))?))
    }

    /// Writes to a device what these writes have written.
    ///
    /// # Errors
    /// When one of the devices fails.
    pub fn apply(
        &self,
        writes: impl IntoIterator<Item = Write>,
        device: &File,
    ) -> Result<(), LogError> {
        let mut buffer = vec![DISCARDED; usize::try_from(COPY_BYTES).expect("it is small")];
        for write in writes {
            let mut done = 0;
            while done < write.bytes {
                let count = (write.bytes - done).min(COPY_BYTES);
                let piece = &mut buffer[..usize::try_from(count).expect("it is small")];
                match write.data {
                    Some(data) => {
                        let read = self.file.read_exact_at(piece, data + done);
                        read.map_err(io_error(format!("read the log at {}", data + done)))?;
                    }
                    None => piece.fill(DISCARDED),
                }
                let at = write.to + done;
                let written = device.write_all_at(piece, at);
                written.map_err(io_error(format!("write to the replayed device at {at}")))?;
                done += count;
            }
        }
        Ok(())
    }

    /// Passes the entries before `until` through a cache; `durable` gets what becomes durable at
    /// each. Gives what the cache holds then.
    ///
    /// # Errors
    /// When the log is damaged, or `durable` fails.
    pub fn pass(
        &self,
        mut cache: Cache,
        until: u64,
        mut durable: impl FnMut(u64, Vec<Write>) -> Result<(), LogError>,
    ) -> Result<Cache, LogError> {
        for event in self.events() {
            let (index, event) = event?;
            if index >= until {
                break;
            }
            let writes = cache.pass(&event);
            if !writes.is_empty() {
                durable(index, writes)?;
            }
        }
        Ok(cache)
    }
}

/// The volatile caches of the two regions.
#[derive(Clone, Debug)]
pub struct Cache {
    split: u64,
    pending: Vec<Write>,
}

impl Cache {
    /// Caches that are empty, of regions that meet at this byte.
    #[must_use]
    pub const fn new(split: u64) -> Self {
        Self { split, pending: Vec::new() }
    }

    /// Whether a place is in the first region.
    #[must_use]
    pub const fn is_first(&self, at: u64) -> bool {
        at < self.split
    }

    /// What a power cut may or may not have left.
    #[must_use]
    pub fn pending(&self) -> &[Write] {
        &self.pending
    }

    /// Takes an entry; gives what is durable from then on, in order.
    pub fn pass(&mut self, event: &Event) -> Vec<Write> {
        let Event::Io { at, is_flush, write, is_durable } = event else { return Vec::new() };
        let mut durable = Vec::new();
        if *is_flush {
            let (split, is_first) = (self.split, self.is_first(*at));
            durable.extend(self.pending.extract_if(.., |it| (it.to < split) == is_first));
        }
        let Some(write) = write else { return durable };
        if *is_durable {
            // What lies below it is older: put there first, it cannot come to light again.
            durable.extend(self.pending.extract_if(.., |it| it.overlaps(write)));
            durable.push(*write);
        } else {
            self.pending.push(*write);
        }
        durable
    }

    /// What one power cut has left of what is pending: each unit of each write, or not.
    #[must_use]
    pub fn left_by_power_cut(&self, seed: u64) -> Vec<Write> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let units = self.pending.iter().flat_map(|write| write.units());
        units.filter(|_| random.random_bool(0.5)).collect()
    }
}

#[cfg(test)]
mod tests;
