//! Writes an image from its first cluster to its last.
//!
//! Order in the file: cluster 0 (left empty), data and second-level tables as they come, the first
//! table, blocks of references, their table; a sync; the header; a sync. Cut off anywhere before
//! the header, the file begins with zeros, and QEMU refuses it.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::{
    BACKING_FORMAT, BACKING_NAME_MAX, CLUSTER_BITS, CLUSTER_BYTES, COPIED, HEADER_BYTES, Image,
    L2_ENTRIES, MAGIC, REFCOUNT_ORDER, REFCOUNTS, VERSION, ZERO,
};

/// Where the tables are, in clusters of the file.
#[derive(Clone, Copy, Debug)]
struct Tables {
    l1: u64,
    refcounts: u64,
    refcount_clusters: u64,
}

/// An image that is being written.
#[derive(Debug)]
pub struct Qcow2Writer<W> {
    output: W,
    image: Image,
    l1: Vec<u64>,
    /// The second-level table that is being filled, and its index in the first.
    l2: Vec<u64>,
    l2_index: usize,
    /// Clusters of the file so far; the next one begins behind them.
    used: u64,
    /// The first byte of the volume behind what was written.
    behind: u64,
}

impl<W: Write + Seek> Qcow2Writer<W> {
    /// Begins an image in `output`, which is empty.
    ///
    /// # Errors
    /// When it cannot be written.
    ///
    /// # Panics
    /// When `output` is not empty.
    pub fn create(mut output: W, image: Image) -> io::Result<Self> {
        assert_eq!(output.seek(SeekFrom::End(0))?, 0, "an image is written into an empty file");
        Ok(Self::over(output, image))
    }

    /// Begins an image in `output`, in which an earlier run may have left a part of it.
    pub fn over(output: W, image: Image) -> Self {
        let l1_entries = image.size.bytes().div_ceil(CLUSTER_BYTES * L2_ENTRIES);
        let l1 = vec![0; usize::try_from(l1_entries).expect("at most 4 Mi entries")];
        let l2 = vec![0; L2_ENTRIES as usize];
        Self { output, image, l1, l2, l2_index: 0, used: 1, behind: 0 }
    }

    /// How many bytes the file has so far.
    pub const fn file_bytes(&self) -> u64 {
        self.used * CLUSTER_BYTES
    }

    /// The file.
    pub const fn output(&self) -> &W {
        &self.output
    }

    /// Writes `bytes` of the volume, which begin at `offset` there.
    ///
    /// # Errors
    /// When they cannot be written.
    ///
    /// # Panics
    /// When they are not in order, not whole clusters (or up to the end), or beyond the size.
    pub fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_place(offset, bytes.len() as u64);
        for (n, cluster) in bytes.chunks(CLUSTER_BYTES as usize).enumerate() {
            self.go_to(offset / CLUSTER_BYTES + n as u64)?;
            let entry = COPIED | self.file_bytes();
            self.append(cluster)?;
            self.set(offset / CLUSTER_BYTES + n as u64, entry);
        }
        Ok(())
    }

    /// Writes that `length` bytes of the volume from `offset` on are zeros.
    ///
    /// # Errors
    /// When a table cannot be written.
    ///
    /// # Panics
    /// As [`data`](Self::data).
    pub fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        self.check_place(offset, length);
        let first = offset / CLUSTER_BYTES;
        for cluster in first..first + length.div_ceil(CLUSTER_BYTES) {
            self.go_to(cluster)?;
            self.set(cluster, ZERO);
        }
        Ok(())
    }

    /// Writes the tables and, behind a sync, the header; `sync` makes durable what was written.
    ///
    /// # Errors
    /// When it cannot be written or made durable: then the file is no image.
    pub fn finish(mut self, mut sync: impl FnMut(&mut W) -> io::Result<()>) -> io::Result<W> {
        self.put_l2()?;
        let l1 = self.used;
        let l1_bytes = big_endian(&self.l1);
        self.append(&l1_bytes)?;
        let (refcounts, refcount_clusters) = self.put_refcounts()?;
        self.output.flush()?;
        sync(&mut self.output)?;

        let header = self.header(Tables { l1, refcounts, refcount_clusters });
        self.output.seek(SeekFrom::Start(0))?;
        self.output.write_all(&header)?;
        self.output.flush()?;
        sync(&mut self.output)?;
        Ok(self.output)
    }

    fn check_place(&mut self, offset: u64, length: u64) {
        let (size, end) = (self.image.size.bytes(), offset + length);
        assert!(length > 0 && end <= size, "{length} B at {offset} of an image of {size} B");
        assert!(offset >= self.behind, "offset {offset} after {} was written", self.behind);
        assert!(
            offset.is_multiple_of(CLUSTER_BYTES)
                && (end.is_multiple_of(CLUSTER_BYTES) || end == size),
            "{length} B at {offset} are no whole clusters"
        );
        self.behind = end;
    }

    /// Writes at the end of the file and fills up the last cluster.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.seek(SeekFrom::Start(self.file_bytes()))?;
        let length = bytes.len() as u64;
        let padding = length.next_multiple_of(CLUSTER_BYTES) - length;
        self.output.write_all(bytes)?;
        self.output.write_all(&vec![0; usize::try_from(padding).expect("less than a cluster")])?;
        self.used += length.div_ceil(CLUSTER_BYTES);
        Ok(())
    }

    /// Makes the second-level table of this cluster of the volume the one that is filled.
    fn go_to(&mut self, cluster: u64) -> io::Result<()> {
        let index = usize::try_from(cluster / L2_ENTRIES).expect("within the first table");
        if index != self.l2_index {
            self.put_l2()?;
            self.l2_index = index;
        }
        Ok(())
    }

    fn set(&mut self, cluster: u64, entry: u64) {
        self.l2[(cluster % L2_ENTRIES) as usize] = entry;
    }

    /// Writes the second-level table, if it has anything, and empties it.
    fn put_l2(&mut self) -> io::Result<()> {
        if self.l2.iter().all(|entry| *entry == 0) {
            return Ok(());
        }
        assert_eq!(self.l1[self.l2_index], 0, "a table is written once");
        self.l1[self.l2_index] = COPIED | self.file_bytes();
        let bytes = big_endian(&self.l2);
        self.append(&bytes)?;
        self.l2.fill(0);
        Ok(())
    }

    /// Writes the references, one for each cluster of the file; where their table begins, and of
    /// how many clusters it is.
    fn put_refcounts(&mut self) -> io::Result<(u64, u64)> {
        let (blocks, table_clusters) = refcount_clusters(self.used);
        let first = self.used;
        let all = first + blocks + table_clusters;
        for block in 0..blocks {
            let counted = REFCOUNTS.min(all - block * REFCOUNTS);
            let bytes = 1_u16.to_be_bytes().repeat(usize::try_from(counted).expect("32 Ki"));
            self.append(&bytes)?;
        }
        let table: Vec<u64> = (first..first + blocks).map(|at| at * CLUSTER_BYTES).collect();
        let begins = self.used;
        self.append(&big_endian(&table))?;
        assert_eq!(self.used, all, "every cluster of the file is counted");
        Ok((begins, table_clusters))
    }

    fn header(&self, tables: Tables) -> Vec<u8> {
        let extensions = self.extensions();
        let name = self.image.backing.as_ref().map_or("", |backing| backing.path.as_str());
        assert!(name.len() <= BACKING_NAME_MAX, "the image was checked when it was made");
        let name_at = match name {
            "" => 0,
            _ => u64::from(HEADER_BYTES) + extensions.len() as u64,
        };
        let l1_entries = u32::try_from(self.l1.len()).expect("at most 4 Mi entries");
        let refcount_clusters = u32::try_from(tables.refcount_clusters).expect("at most 128");
        let name_bytes = u32::try_from(name.len()).expect("at most 1,023");

        let mut bytes = Vec::from(MAGIC);
        bytes.extend(VERSION.to_be_bytes());
        bytes.extend(name_at.to_be_bytes());
        bytes.extend(name_bytes.to_be_bytes());
        bytes.extend(CLUSTER_BITS.to_be_bytes());
        bytes.extend(self.image.size.bytes().to_be_bytes());
        bytes.extend([0; 4]); // no encryption
        bytes.extend(l1_entries.to_be_bytes());
        bytes.extend((tables.l1 * CLUSTER_BYTES).to_be_bytes());
        bytes.extend((tables.refcounts * CLUSTER_BYTES).to_be_bytes());
        bytes.extend(refcount_clusters.to_be_bytes());
        bytes.extend([0; 12]); // no snapshots
        bytes.extend([0; 24]); // no features
        bytes.extend(REFCOUNT_ORDER.to_be_bytes());
        bytes.extend(HEADER_BYTES.to_be_bytes());
        bytes.extend(extensions);
        bytes.extend(name.as_bytes());
        bytes
    }

    fn extensions(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(backing) = &self.image.backing {
            let name = backing.format.name().as_bytes();
            bytes.extend(BACKING_FORMAT.to_be_bytes());
            bytes.extend(u32::try_from(name.len()).expect("a short word").to_be_bytes());
            bytes.extend(name);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        bytes.extend([0; 8]); // the end of the extensions
        bytes
    }
}

impl<W: Read + Write + Seek> Qcow2Writer<W> {
    /// Reads the data that [`data`](Self::data) would write next, as an earlier run has written it
    /// there: `bytes` of the volume, which begin at `offset`. `ahead` clusters of data come before
    /// it that are not taken yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_next(&mut self, offset: u64, ahead: u64, bytes: &mut [u8]) -> io::Result<()> {
        // The table of the volume before comes first; what was written of it is written again.
        self.go_to(offset / CLUSTER_BYTES)?;
        self.output.seek(SeekFrom::Start(self.file_bytes() + ahead * CLUSTER_BYTES))?;
        self.output.read_exact(bytes)
    }

    /// Takes what an earlier run has written as written: as [`data`](Self::data), without bytes.
    ///
    /// # Panics
    /// As [`data`](Self::data), or when nothing of it was read before.
    pub fn take_data(&mut self, offset: u64, length: u64) {
        self.check_place(offset, length);
        let first = offset / CLUSTER_BYTES;
        for cluster in first..first + length.div_ceil(CLUSTER_BYTES) {
            self.check_is_read(cluster);
            self.set(cluster, COPIED | self.file_bytes());
            self.used += 1;
        }
    }

    /// As [`zero`](Self::zero), where an earlier run has said so.
    ///
    /// # Panics
    /// As [`take_data`](Self::take_data).
    pub fn take_zero(&mut self, offset: u64, length: u64) {
        self.check_place(offset, length);
        let first = offset / CLUSTER_BYTES;
        for cluster in first..first + length.div_ceil(CLUSTER_BYTES) {
            self.check_is_read(cluster);
            self.set(cluster, ZERO);
        }
    }

    fn check_is_read(&self, cluster: u64) {
        let index = usize::try_from(cluster / L2_ENTRIES).expect("within the first table");
        assert_eq!(index, self.l2_index, "what is taken was read before");
    }
}

/// How many blocks of references a file needs that has `used` clusters without them, and how many
/// clusters their table: both are counted themselves.
pub(super) fn refcount_clusters(used: u64) -> (u64, u64) {
    let (mut blocks, mut table) = (0, 0);
    loop {
        let next = (used + blocks + table).div_ceil(REFCOUNTS);
        let next_table = next.div_ceil(L2_ENTRIES);
        if (next, next_table) == (blocks, table) {
            return (blocks, table);
        }
        (blocks, table) = (next, next_table);
    }
}

fn big_endian(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}
