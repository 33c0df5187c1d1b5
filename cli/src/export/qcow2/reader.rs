//! Reads images that [`Qcow2Writer`](super::Qcow2Writer) has written, and refuses all others.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use lunar_proto::domain::DiffKind;
use lunar_types::VolumeSize;

use super::super::image::{ImageReader, invalid};
use super::super::manifest::Sum;
use super::super::window::{Clusters, WINDOW_CLUSTERS, Window};
use super::{
    BACKING_FORMAT, CLUSTER_BITS, CLUSTER_BYTES, COPIED, HEADER_BYTES, L2_ENTRIES, MAGIC,
    REFCOUNT_ORDER, VERSION, ZERO,
};

/// Windows that one second-level table speaks of.
const TABLE_WINDOWS: u64 = L2_ENTRIES / WINDOW_CLUSTERS as u64;

/// An image that is read.
#[derive(Debug)]
pub struct Qcow2Reader {
    file: File,
    size: VolumeSize,
    l1: Vec<u64>,
    /// The second-level table that was read last, and its index.
    l2: Option<(usize, Vec<u64>)>,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn not_ours(what: &str) -> io::Error {
    invalid(format!("it is no image that this program has written: {what}"))
}

/// Whether the header is one that the writer makes; the place of the first table.
fn check_header(header: &[u8], size: VolumeSize) -> io::Result<u64> {
    let plain = [
        (header[..4] == MAGIC, "it does not begin with QFI"),
        (be32(header, 4) == VERSION, "its version is another"),
        (be32(header, 20) == CLUSTER_BITS, "its clusters are not of 64 KiB"),
        (be64(header, 24) == size.bytes(), "its size is not that of the manifest"),
        (be32(header, 32) == 0, "it is encrypted"),
        (be32(header, 60) == 0, "it has snapshots of its own"),
        (header[72..96].iter().all(|byte| *byte == 0), "it uses features"),
        (be32(header, 96) == REFCOUNT_ORDER, "its references have another width"),
        (be32(header, 100) == HEADER_BYTES, "its header has another length"),
        (matches!(be32(header, 104), 0 | BACKING_FORMAT), "it has other extensions"),
    ];
    if let Some((_, what)) = plain.into_iter().find(|(holds, _)| !holds) {
        return Err(not_ours(what));
    }
    let entries = size.bytes().div_ceil(CLUSTER_BYTES * L2_ENTRIES);
    if u64::from(be32(header, 36)) != entries {
        return Err(not_ours("its first table has another length"));
    }
    Ok(be64(header, 40))
}

impl Qcow2Reader {
    /// Reads the header and the first table of an image of a volume of `size`.
    ///
    /// # Errors
    /// When it is no image of that size that the writer has made (`InvalidData`), or cannot be
    /// read.
    pub fn open(file: File, size: VolumeSize) -> io::Result<Self> {
        let mut header = [0; 112];
        file.read_exact_at(&mut header, 0)?;
        let place = check_header(&header, size)?;
        let entries = size.bytes().div_ceil(CLUSTER_BYTES * L2_ENTRIES);
        let l1 = read_words(&file, place, entries)?;
        Ok(Self { file, size, l1, l2: None })
    }

    /// The second-level table of this index; nothing where there is none.
    fn table(&mut self, index: usize) -> io::Result<Option<&[u64]>> {
        let entry = *self.l1.get(index).ok_or_else(|| not_ours("a window is beyond its table"))?;
        if entry == 0 {
            return Ok(None);
        }
        if self.l2.as_ref().is_none_or(|(held, _)| *held != index) {
            let table = read_words(&self.file, place_of(entry)?, L2_ENTRIES)?;
            self.l2 = Some((index, table));
        }
        Ok(self.l2.as_ref().map(|(_, table)| table.as_slice()))
    }

    /// What the tables say of a window.
    fn clusters(&mut self, index: u64) -> io::Result<Clusters> {
        let at = usize::try_from(index / TABLE_WINDOWS).map_err(io::Error::other)?;
        let first = (index % TABLE_WINDOWS) as usize * WINDOW_CLUSTERS as usize;
        let mut clusters = Clusters::default();
        let Some(table) = self.table(at)? else { return Ok(clusters) };
        for (bit, entry) in table[first..first + WINDOW_CLUSTERS as usize].iter().enumerate() {
            match *entry {
                0 => {}
                ZERO => clusters.zero |= 1 << bit,
                entry => {
                    place_of(entry)?;
                    clusters.data |= 1 << bit;
                }
            }
        }
        Ok(clusters)
    }
}

/// Where an entry points.
fn place_of(entry: u64) -> io::Result<u64> {
    let place = entry & !COPIED;
    let plain = entry & COPIED != 0 && place.is_multiple_of(CLUSTER_BYTES) && place >> 56 == 0;
    plain.then_some(place).ok_or_else(|| not_ours("a cluster is compressed, shared or displaced"))
}

fn read_words(file: &File, place: u64, count: u64) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; usize::try_from(count * 8).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, place)?;
    Ok((0..bytes.len()).step_by(8).map(|at| be64(&bytes, at)).collect())
}

impl ImageReader for Qcow2Reader {
    fn read(&mut self, window: &Window, bytes: &mut [u8]) -> io::Result<()> {
        let found = self.clusters(window.index)?;
        if found != window.clusters {
            let Window { index, .. } = window;
            return Err(invalid(format!("window {index} is not as its manifest has it")));
        }
        let at = usize::try_from(window.index / TABLE_WINDOWS).map_err(io::Error::other)?;
        for span in window.spans(DiffKind::Data, self.size) {
            for (n, part) in bytes[span.place()].chunks_mut(CLUSTER_BYTES as usize).enumerate() {
                let cluster = span.offset / CLUSTER_BYTES + n as u64;
                let table = self.table(at)?.ok_or_else(|| not_ours("a table is gone"))?;
                let place = place_of(table[(cluster % L2_ENTRIES) as usize])?;
                self.file.read_exact_at(part, place)?;
            }
        }
        Ok(())
    }

    fn check_rest(&mut self, sums: &[Sum], _: &mut [u8]) -> io::Result<()> {
        let there = |at: &usize| self.l1[*at] != 0;
        let tables: Vec<_> = (0..self.l1.len()).filter(there).collect();
        for table in tables {
            let first = table as u64 * TABLE_WINDOWS;
            for index in first..first + TABLE_WINDOWS {
                let known = sums.binary_search_by_key(&index, |sum| sum.window.index).is_ok();
                if !known && self.clusters(index)? != Clusters::default() {
                    return Err(invalid(format!("window {index} has what its manifest lacks")));
                }
            }
        }
        Ok(())
    }
}
