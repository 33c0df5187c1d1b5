//! Export and import of snapshots: the formats of files, byte by byte, and how bytes are moved
//! between them and a volume.
//!
//! - No service and no daemon is known here: a volume is a [`Source`] or a [`Sink`].
//! - What a reader hands out was checked before, and lies within the size that the file names.
//! - [`place`] alone knows paths.
//!
//! Deliberately absent: which volume it is, and what becomes of it afterwards.

#[cfg(test)]
mod golden;
pub mod image;
pub mod manifest;
pub mod place;
pub mod qcow2;
pub mod raw;
pub mod stream;
#[cfg(test)]
mod tests;
pub mod transfer;
pub mod window;

pub use transfer::{Observer, Sink, Source, TransferError};

/// CRC32C (Castagnoli), as iSCSI, ext4 and btrfs use it, over parts that come one by one.
#[derive(Clone, Debug)]
pub(crate) struct Crc32c(crc_fast::Digest);

impl Crc32c {
    pub(crate) fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn value(&self) -> u32 {
        u32::try_from(self.0.finalize()).expect("CRC32C has 32 bits")
    }

    /// The checksum of `parts`, one behind the other.
    pub(crate) fn of(parts: &[&[u8]]) -> u32 {
        let mut crc = Self::new();
        parts.iter().for_each(|part| crc.update(part));
        crc.value()
    }
}
