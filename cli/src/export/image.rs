//! Files of bytes, window by window: how they are written, gone on with, and read back.
//!
//! Crash order: the bytes of a window go to the file, then its record to the manifest. A kill
//! leaves records of whole windows; a power cut may leave a record whose bytes never reached the
//! disk, and its checksum tells. Whoever goes on reads back every window that has a record, keeps
//! those up to the first that does not hold, and throws all behind it away. That is no help after a
//! sync that failed: the kernel may show bytes that are on no disk. Then nothing is kept.

use std::fs::File;
use std::io;

use lunar_types::VolumeSize;

use super::manifest::{Manifest, Sum};
use super::window::Window;

/// A file that is being written.
pub trait ImageWriter {
    /// Writes the clusters of a window; `bytes` are those of the whole window.
    ///
    /// # Errors
    /// When they cannot be written.
    fn put(&mut self, window: &Window, bytes: &[u8]) -> io::Result<()>;

    /// Reads what an earlier run has put there, into the bytes of the whole window.
    ///
    /// # Errors
    /// When it cannot be read; the end of the file is an error too.
    fn read_back(&mut self, window: &Window, bytes: &mut [u8]) -> io::Result<()>;

    /// Takes what was read back for put.
    fn accept(&mut self, window: &Window);

    /// Throws away all behind what was accepted.
    ///
    /// # Errors
    /// When the file cannot be cut.
    fn cut(&mut self) -> io::Result<()>;

    /// Completes the file and makes it durable.
    ///
    /// # Errors
    /// When it cannot be written or made durable.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A finished file that is read.
pub trait ImageReader {
    /// Reads the data of a window into the bytes of the whole window.
    ///
    /// # Errors
    /// When it cannot be read, or the file does not have it.
    fn read(&mut self, window: &Window, bytes: &mut [u8]) -> io::Result<()>;

    /// Whether the file has what the windows name and nothing else; `buffer` is as large as a
    /// window.
    ///
    /// # Errors
    /// When it cannot be read, or differs: an error of the kind `InvalidData` that says where.
    fn check_rest(&mut self, sums: &[Sum], buffer: &mut [u8]) -> io::Result<()>;
}

/// Takes back what an earlier run has written; how many windows of the manifest hold.
///
/// # Errors
/// When the file cannot be read or cut.
pub fn take_back(
    image: &mut dyn ImageWriter,
    manifest: &Manifest,
    bytes: &mut [u8],
) -> io::Result<usize> {
    let size = manifest.header.of.size;
    let mut kept = 0;
    for sum in &manifest.sums {
        match image.read_back(&sum.window, bytes) {
            Ok(()) if holds(sum, size, bytes) => image.accept(&sum.window),
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error),
        }
        kept += 1;
    }
    image.cut()?;
    Ok(kept)
}

/// Whether the data in the bytes of a window is what the record says.
#[must_use]
pub fn holds(sum: &Sum, size: VolumeSize, bytes: &[u8]) -> bool {
    sum.window.crc(size, bytes) == sum.crc
}

/// A sync that failed: what was written may be lost although it can still be read.
#[derive(Debug, thiserror::Error)]
#[error("make it durable: {0}")]
pub struct NotDurable(io::Error);

/// Makes durable what was written.
///
/// # Errors
/// [`NotDurable`], in an error of the same kind.
pub fn sync(file: &File) -> io::Result<()> {
    file.sync_all().map_err(|error| io::Error::new(error.kind(), NotDurable(error)))
}

/// Whether a sync failed.
#[must_use]
pub fn is_not_durable(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<NotDurable>())
}

pub(super) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_sync_is_told_from_a_failed_write() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let failed = io::Error::new(full().kind(), NotDurable(full()));
        assert!(is_not_durable(&failed) && !is_not_durable(&full()));
        assert_eq!(failed.kind(), io::ErrorKind::StorageFull);
        assert!(failed.to_string().starts_with("make it durable: "), "{failed}");
    }
}
