//! Reads a stream and hands out only chunks that hold.

use std::io::{self, Read};

use super::super::Crc32c;
use super::fault::{StreamError, StreamFault};
use super::header::{HEADER_BYTES, StreamHeader};
use super::writer::over_header;
use super::{CHUNK_HEAD_BYTES, CRC_AT, Chunk, ChunkHead, ChunkKind, u32_at};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Chunks,
    Ended,
    Broken,
}

/// A stream that is being read.
#[derive(Debug)]
pub struct StreamReader<R> {
    input: R,
    header: StreamHeader,
    state: State,
    /// The byte of the stream at which the next chunk begins.
    pub(super) at: u64,
    pub(super) chunks: u64,
    /// The first byte of the volume behind the last chunk.
    pub(super) behind: u64,
    pub(super) crcs: Crc32c,
    data: Vec<u8>,
}

impl<R: Read> StreamReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// As [`StreamHeader::decode`], or when the input is too short or cannot be read.
    pub fn open(mut input: R) -> Result<Self, StreamError> {
        let mut bytes = [0; HEADER_BYTES];
        let header = read_whole(&mut input, &mut bytes, "its header")
            .and_then(|()| StreamHeader::decode(&bytes))
            .map_err(|fault| StreamError::new(0, fault))?;
        Ok(Self {
            input,
            header,
            state: State::Chunks,
            at: HEADER_BYTES as u64,
            chunks: 0,
            behind: 0,
            crcs: over_header(&bytes),
            data: Vec::new(),
        })
    }

    /// What the stream is of.
    pub const fn header(&self) -> &StreamHeader {
        &self.header
    }

    /// The checksum over all checksums so far: at the end, that of the end chunk.
    pub fn crc(&self) -> u32 {
        self.crcs.value()
    }

    /// The next chunk; nothing once the end chunk was read, was right, and nothing follows it.
    ///
    /// # Errors
    /// When the chunk is damaged, cannot be, or cannot be read; from then on always.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk<'_>>, StreamError> {
        let at = self.at;
        let head = match self.state {
            State::Ended => return Ok(None),
            State::Broken => return Err(StreamError::new(at, StreamFault::Broken)),
            State::Chunks => self.read_chunk().map_err(|fault| {
                self.state = State::Broken;
                StreamError::new(at, fault)
            })?,
        };
        let offset = head.offset;
        Ok(match head.kind {
            ChunkKind::Data => Some(Chunk::Data { offset, bytes: &self.data }),
            ChunkKind::Zero => Some(Chunk::Zero { offset, length: head.length }),
            ChunkKind::End => None,
        })
    }

    /// Reads a chunk and its data, and goes behind it when all of it holds.
    fn read_chunk(&mut self) -> Result<ChunkHead, StreamFault> {
        let mut bytes = [0; CHUNK_HEAD_BYTES];
        read_whole(&mut self.input, &mut bytes, "the head of a chunk, or before its end chunk")?;
        let head = ChunkHead::decode(&bytes)?;
        if head.kind != ChunkKind::End {
            // Before the data: a length that cannot be must not be read or allocated.
            head.check_place(self.behind, self.header.size.bytes())?;
        }
        let data_bytes = if head.kind == ChunkKind::Data { head.length as usize } else { 0 };
        self.data.resize(data_bytes, 0);
        read_whole(&mut self.input, &mut self.data, "the data of a chunk")?;
        let computed = Crc32c::of(&[&bytes[..CRC_AT], &self.data]);
        let stored = u32_at(&bytes, CRC_AT);
        if stored != computed {
            return Err(StreamFault::ChunkChecksum { stored, computed });
        }
        match head.kind {
            ChunkKind::End => self.end(head)?,
            ChunkKind::Data | ChunkKind::Zero => {
                self.crcs.update(&stored.to_le_bytes());
                self.chunks += 1;
                self.behind = head.offset + u64::from(head.length);
                self.at += (CHUNK_HEAD_BYTES + data_bytes) as u64;
            }
        }
        Ok(head)
    }

    fn end(&mut self, head: ChunkHead) -> Result<(), StreamFault> {
        let (said, found) = (head.offset, self.chunks);
        if said != found {
            return Err(StreamFault::EndCount { said, found });
        }
        let (stored, computed) = (head.length, self.crcs.value());
        if stored != computed {
            return Err(StreamFault::EndChecksum { stored, computed });
        }
        if read_up_to(&mut self.input, &mut [0])? != 0 {
            return Err(StreamFault::TrailingBytes);
        }
        self.state = State::Ended;
        Ok(())
    }
}

fn read_whole(
    input: &mut impl Read,
    buffer: &mut [u8],
    what: &'static str,
) -> Result<(), StreamFault> {
    if read_up_to(input, buffer)? < buffer.len() {
        return Err(StreamFault::Truncated(what));
    }
    Ok(())
}

/// Fills the buffer, or as much of it as there is before the end; how much that was.
pub(in super::super) fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
