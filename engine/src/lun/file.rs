//! A LUN behind an open file: block device or regular file, for blocking I/O.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{LunDevice, LunError};

const ERRNO_EIO: i32 = 5;

/// An open file or block device; with O_DIRECT the buffers must be aligned to the block.
#[derive(Debug)]
pub struct FileLun {
    file: File,
    size_bytes: u64,
    logical_block_bytes: u32,
}

impl FileLun {
    /// Wraps an open device whose size and logical block the caller has asked for.
    #[must_use]
    pub const fn new(file: File, size_bytes: u64, logical_block_bytes: u32) -> Self {
        Self { file, size_bytes, logical_block_bytes }
    }

    /// The open file.
    #[must_use]
    pub const fn file(&self) -> &File {
        &self.file
    }
}

fn device_error(error: &io::Error) -> LunError {
    LunError::Device { errno: error.raw_os_error().unwrap_or(ERRNO_EIO) }
}

impl LunDevice for FileLun {
    fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), LunError> {
        self.file.read_exact_at(buffer, at).map_err(|error| device_error(&error))
    }

    fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), LunError> {
        self.file.write_all_at(bytes, at).map_err(|error| device_error(&error))
    }

    fn flush(&self) -> Result<(), LunError> {
        self.file.sync_data().map_err(|error| device_error(&error))
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn logical_block_bytes(&self) -> u32 {
        self.logical_block_bytes
    }
}
