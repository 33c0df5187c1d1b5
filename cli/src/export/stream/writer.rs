//! Writes a stream, chunk by chunk.
//!
//! The writer asserts the order and the bounds that the reader demands: a stream that nobody can
//! import must not come into being.

use std::io::{self, Write};

use super::super::Crc32c;
use super::header::StreamHeader;
use super::resume::Resumed;
use super::{ChunkHead, ChunkKind};

/// A stream that is being written.
#[derive(Debug)]
pub struct StreamWriter<W> {
    output: W,
    header: StreamHeader,
    /// Chunks so far.
    chunks: u64,
    /// The first byte of the volume behind the last chunk.
    behind: u64,
    /// Over the checksums of the header and of all chunks.
    crcs: Crc32c,
}

impl<W: Write> StreamWriter<W> {
    /// Begins a stream in `output`.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn create(mut output: W, header: StreamHeader) -> io::Result<Self> {
        let bytes = header.encode();
        output.write_all(&bytes)?;
        let crcs = over_header(&bytes);
        Ok(Self { output, header, chunks: 0, behind: 0, crcs })
    }

    /// Goes on with a stream that was cut off. `output` stands at [`Resumed::keep_bytes`] and has
    /// nothing behind it: see [`cut`](super::cut).
    #[must_use]
    pub fn resume(output: W, resumed: Resumed) -> Self {
        let Resumed { header, chunks, behind, crcs, .. } = resumed;
        Self { output, header, chunks, behind, crcs }
    }

    /// Writes `bytes` of the volume, which begin at `offset` there.
    ///
    /// # Errors
    /// When they cannot be written.
    ///
    /// # Panics
    /// When the chunk is not in order, not of whole blocks, too long, or beyond the size.
    pub fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).expect("a chunk has at most 1 MiB");
        self.put(ChunkHead { offset, length, kind: ChunkKind::Data }, bytes)
    }

    /// Writes that `length` bytes of the volume from `offset` on are zeros.
    ///
    /// # Errors
    /// When it cannot be written.
    ///
    /// # Panics
    /// As [`data`](Self::data).
    pub fn zero(&mut self, offset: u64, length: u32) -> io::Result<()> {
        self.put(ChunkHead { offset, length, kind: ChunkKind::Zero }, &[])
    }

    fn put(&mut self, head: ChunkHead, data: &[u8]) -> io::Result<()> {
        if let Err(fault) = head.check_place(self.behind, self.header.size.bytes()) {
            panic!("a chunk that nobody could import: {fault}");
        }
        let (bytes, crc) = head.encode(data);
        self.output.write_all(&bytes)?;
        self.output.write_all(data)?;
        self.crcs.update(&crc.to_le_bytes());
        self.chunks += 1;
        self.behind = head.offset + u64::from(head.length);
        Ok(())
    }

    /// The checksum over all checksums so far, as the end chunk has it.
    #[must_use]
    pub fn crc(&self) -> u32 {
        self.crcs.value()
    }

    /// Writes the end chunk and gives the output back, flushed; to make it durable is the caller's.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        let (offset, length) = (self.chunks, self.crcs.value());
        let (bytes, _) = ChunkHead { offset, length, kind: ChunkKind::End }.encode(&[]);
        self.output.write_all(&bytes)?;
        self.output.flush()?;
        Ok(self.output)
    }
}

/// The running checksum behind a header: its own checksum binds the chunks to it.
pub(super) fn over_header(header: &[u8]) -> Crc32c {
    let mut crcs = Crc32c::new();
    crcs.update(&header[header.len() - 4..]);
    crcs
}
