//! The format `stream`, version 1: a snapshot, or its difference to another one, for pipes and
//! files. `docs/format/export.md` has the bytes.
//!
//! - Chunks come in ascending order and never overlap; each lies within the size of the header.
//! - Every byte is under a checksum, and the end chunk speaks of all chunks and of the header: a
//!   chunk that is missing, doubled, moved or of another stream is found.
//! - A stream without its end chunk is no stream: whoever reads one knows at its end, not before,
//!   that it has everything.
//! - A stream that was cut off goes on behind its last chunk that holds ([`scan`]).

mod fault;
mod header;
mod reader;
mod resume;
#[cfg(test)]
mod tests;
mod writer;

use lunar_types::BLOCK_BYTES;

pub use fault::{StreamError, StreamFault};
pub use header::{HEADER_BYTES, StreamHeader};
pub use reader::StreamReader;
pub(super) use reader::read_up_to;
pub use resume::{Found, Resumed, cut, scan};
pub use writer::StreamWriter;

use super::Crc32c;

/// The bytes before the data of a chunk.
pub const CHUNK_HEAD_BYTES: usize = 20;
/// The most that one chunk speaks of, in bytes.
pub const CHUNK_BYTES_MAX: u32 = 1 << 20;

const CRC_AT: usize = 16;

/// A part of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chunk<'a> {
    /// The bytes from `offset` on.
    Data {
        /// The first byte in the volume.
        offset: u64,
        /// What is there: whole blocks, at most [`CHUNK_BYTES_MAX`].
        bytes: &'a [u8],
    },
    /// Zeros from `offset` on.
    Zero {
        /// The first byte in the volume.
        offset: u64,
        /// How many: whole blocks, at most [`CHUNK_BYTES_MAX`].
        length: u32,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ChunkKind {
    Data = 1,
    Zero = 2,
    End = 3,
}

/// What stands before the data of a chunk. The end chunk has the number of chunks as its offset,
/// and the checksum over all checksums as its length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ChunkHead {
    offset: u64,
    length: u32,
    kind: ChunkKind,
}

impl ChunkHead {
    /// The bytes of the head, and the checksum that they end with: of the head and of `data`.
    fn encode(self, data: &[u8]) -> ([u8; CHUNK_HEAD_BYTES], u32) {
        let mut bytes = [0; CHUNK_HEAD_BYTES];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12] = self.kind as u8;
        let crc = Crc32c::of(&[&bytes[..CRC_AT], data]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// The head in these bytes; its checksum is not looked at, because the data has to come first.
    fn decode(bytes: &[u8; CHUNK_HEAD_BYTES]) -> Result<Self, StreamFault> {
        let kind = match bytes[12] {
            1 => ChunkKind::Data,
            2 => ChunkKind::Zero,
            3 => ChunkKind::End,
            other => return Err(StreamFault::Chunk(format!("its kind is {other}"))),
        };
        if bytes[13..CRC_AT] != [0; 3] {
            return Err(StreamFault::Chunk("its reserved bytes are not zero".to_owned()));
        }
        Ok(Self { offset: u64_at(bytes, 0), length: u32_at(bytes, 8), kind })
    }

    /// Whether a chunk of data or zeros may stand here: the last one ended at `behind`.
    fn check_place(self, behind: u64, size: u64) -> Result<(), StreamFault> {
        let (offset, length) = (self.offset, u64::from(self.length));
        let wrong = if length == 0 || self.length > CHUNK_BYTES_MAX {
            format!("its length of {length} B is not from 1 to {CHUNK_BYTES_MAX} B")
        } else if !offset.is_multiple_of(BLOCK_BYTES) || !length.is_multiple_of(BLOCK_BYTES) {
            format!("{length} B at offset {offset} are no whole blocks of {BLOCK_BYTES} B")
        } else if offset < behind {
            format!("it begins at offset {offset}, and the chunk before it ends at {behind}")
        } else if offset.checked_add(length).is_none_or(|end| end > size) {
            format!("{length} B at offset {offset} go beyond the size of {size} B")
        } else {
            return Ok(());
        };
        Err(StreamFault::Chunk(wrong))
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
