//! Export and import of snapshots: the formats of files, byte by byte.
//!
//! - A format is read and written over `Read` and `Write` alone: no service, no device, no path.
//! - What a reader hands out was checked before, and lies within the size that the file names.
//!
//! Deliberately absent: where the bytes of a snapshot come from and go to.

#[cfg(test)]
mod golden;
pub mod qcow2;
pub mod stream;

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
