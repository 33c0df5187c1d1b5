//! A block device of this node that is read or written from one end to the other.
//!
//! - It is opened for nobody else (`O_EXCL`) and past the page cache (`O_DIRECT`): nothing that is
//!   mounted from it, and nothing old in memory, comes in between.
//! - Buffers begin at a multiple of 4 KiB; offsets and lengths are whole blocks.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use lunar_types::BLOCK_BYTES;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};

use crate::export::{Sink, Source};

const ALIGNMENT: usize = BLOCK_BYTES as usize;

/// Bytes that begin at a multiple of 4 KiB.
#[derive(Debug)]
pub struct AlignedBuffer {
    bytes: Vec<u8>,
    begin: usize,
    length: usize,
}

impl AlignedBuffer {
    /// So many zeros.
    #[must_use]
    pub fn new(length: usize) -> Self {
        let bytes = vec![0; length + ALIGNMENT];
        let begin = bytes.as_ptr().align_offset(ALIGNMENT);
        assert!(begin < ALIGNMENT, "a byte can be placed anywhere");
        Self { bytes, begin, length }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.begin..self.begin + self.length]
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.begin..self.begin + self.length]
    }
}

/// What is done with a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It is read.
    Read,
    /// It is read and written.
    Write,
}

/// An open device.
#[derive(Debug)]
pub struct BlockDevice {
    file: File,
    buffer: AlignedBuffer,
}

const BUFFER_BYTES: usize = 1 << 20;

impl BlockDevice {
    /// Opens the device at `path`.
    ///
    /// # Errors
    /// When it cannot be opened; `ResourceBusy` where somebody else has it.
    pub fn open(path: &Path, access: Access) -> io::Result<Self> {
        let is_device = path.metadata()?.file_type().is_block_device();
        // A file in its place has no other users to be kept out, and may not know O_DIRECT.
        let flags = if is_device { OFlag::O_EXCL | OFlag::O_DIRECT } else { OFlag::empty() };
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::Write)
            .custom_flags(flags.bits())
            .open(path)?;
        Ok(Self { file, buffer: AlignedBuffer::new(BUFFER_BYTES) })
    }

    /// How many bytes it has.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn size_bytes(&mut self) -> io::Result<u64> {
        self.file.seek(SeekFrom::End(0))
    }

    /// Makes everything durable that was written.
    ///
    /// # Errors
    /// When the device says so: then nothing that was written may be relied on.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

impl Source for BlockDevice {
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        if bytes.as_ptr().align_offset(ALIGNMENT) == 0 {
            return self.file.read_exact_at(bytes, offset);
        }
        for (n, part) in bytes.chunks_mut(BUFFER_BYTES).enumerate() {
            let buffer = &mut self.buffer[..part.len()];
            self.file.read_exact_at(buffer, offset + (n * BUFFER_BYTES) as u64)?;
            part.copy_from_slice(buffer);
        }
        Ok(())
    }
}

impl Sink for BlockDevice {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        for (n, part) in bytes.chunks(BUFFER_BYTES).enumerate() {
            let buffer = &mut self.buffer[..part.len()];
            buffer.copy_from_slice(part);
            self.file.write_all_at(buffer, offset + (n * BUFFER_BYTES) as u64)?;
        }
        Ok(())
    }

    fn zero(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let (offset, length) = (
            i64::try_from(offset).map_err(io::Error::other)?,
            i64::try_from(length).map_err(io::Error::other)?,
        );
        let zero =
            |how| fallocate(&self.file, how | FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, length);
        // The first gives the space back where the device can; the second writes zeros if it must.
        match zero(FallocateFlags::FALLOC_FL_PUNCH_HOLE) {
            Err(Errno::EOPNOTSUPP) => zero(FallocateFlags::FALLOC_FL_ZERO_RANGE),
            done => done,
        }
        .map_err(io::Error::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_zeros_are_zeros() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        file.as_file().set_len(4 << 20).expect("its length");
        let mut device = BlockDevice::open(file.path(), Access::Write).expect("opens");
        let bytes: Vec<u8> = (0..2 << 20).map(|n: u32| (n % 251) as u8 | 1).collect();
        device.write_at(4096, &bytes).expect("written");
        device.zero(8192, 4096).expect("zeroed");
        device.sync().expect("durable");
        assert_eq!(device.size_bytes().expect("told"), 4 << 20);
        let mut read = vec![0; bytes.len()];
        device.read_at(4096, &mut read).expect("read");
        assert_eq!(read[..4096], bytes[..4096]);
        assert!(read[4096..8192].iter().all(|byte| *byte == 0));
        assert_eq!(read[8192..], bytes[8192..]);
        let mut aligned = AlignedBuffer::new(8192);
        device.read_at(4096, &mut aligned).expect("read");
        assert_eq!(aligned[..], read[..8192]);
    }
}
