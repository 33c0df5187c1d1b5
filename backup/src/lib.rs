//! The bytes of a backup of the metadata: what is written and what is believed.
//!
//! The page is `docs/format/backup.md`. No I/O here: [`BackupEncoder`] gives bytes for whoever
//! streams or stores them, [`BackupDecoder`] takes bytes in pieces of any size as they come, and
//! [`BackupReader`] feeds a decoder from a file. Both sides hold one block of 1 MiB at most.
//!
//! Invariants:
//! - every byte is covered by a checksum, or compared with what it must be; entries are handed out
//!   only after the checksum of their block is right, and [`BackupEnd`] only after the trailer is
//!   right and nothing follows;
//! - keys rise strictly, over the whole backup: none is there twice, none was moved;
//! - the trailer's checksum is over those of the header and of all blocks in their order, so blocks
//!   of two backups cannot be put together.
//!
//! Deliberately absent: stores, files, what keys and values mean.

mod decoder;
mod encoder;
mod error;
mod reader;

use lunar_types::ClusterId;

pub use decoder::{BackupDecoder, Block, Part};
pub use encoder::BackupEncoder;
pub use error::{BackupError, EncodeError};
pub use reader::BackupReader;

/// What a backup begins with.
pub const HEADER_MAGIC: [u8; 8] = *b"LUNBKUP1";
/// What its trailer begins with.
pub const TRAILER_MAGIC: [u8; 8] = *b"LUNBKEND";
/// The version of the format.
pub const BACKUP_VERSION: u16 = 1;
/// Bytes of the header, its checksum among them.
pub const HEADER_BYTES: usize = 8 + 2 + 4 + 16 + 8 + 8 + 4;
/// Bytes of a block before its entries.
pub const BLOCK_HEAD_BYTES: usize = 12;
/// Bytes of the entries of a block at most: with its head, a block has 1 MiB.
pub const BLOCK_BYTES_MAX: usize = (1 << 20) - BLOCK_HEAD_BYTES;
/// Bytes of an entry before its key.
const ENTRY_HEAD_BYTES: usize = 6;
/// Bytes of the trailer.
pub const TRAILER_BYTES: usize = 8 + 8 + 8 + 4;

const _: () = assert!(HEADER_BYTES == 50 && TRAILER_BYTES == 28);
// A trailer is no block: its first four bytes, read as a length, are beyond every block.
const _: () = assert!(u32::from_le_bytes(*b"LUNB") as usize > BLOCK_BYTES_MAX);
const _: () = assert!(TRAILER_BYTES > BLOCK_HEAD_BYTES);

/// What a backup is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupHeader {
    /// The version of the layout of the store.
    pub keyspace_version: u32,
    /// The cluster.
    pub cluster: ClusterId,
    /// The backup; rises with every one that is begun.
    pub number: u64,
    /// When it was begun, in seconds since 1970-01-01 UTC.
    pub begun: u64,
}

/// What a backup has been in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupEnd {
    /// Blocks.
    pub blocks: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes, all of them.
    pub bytes: u64,
}

/// The CRC32C of some parts, one after the other.
fn checksum(parts: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for part in parts {
        digest.update(part);
    }
    u32::try_from(digest.finalize()).expect("a CRC32C has 32 bits")
}

/// The checksum over the checksums of header and blocks, with one more.
fn chained(sums: u32, next: u32) -> u32 {
    checksum(&[&sums.to_le_bytes(), &next.to_le_bytes()])
}
