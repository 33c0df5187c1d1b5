//! Where a stream that was cut off goes on.
//!
//! A kill or a power cut leaves chunks that hold, then anything. The content of a snapshot never
//! changes, so what follows the last chunk that holds is written anew, and the chunks before it
//! are those of a stream that was never cut off.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use super::super::Crc32c;
use super::fault::{StreamError, StreamFault};
use super::header::{HEADER_BYTES, StreamHeader};
use super::reader::{StreamReader, read_up_to};

/// What there is of a stream.
#[derive(Debug)]
pub enum Found {
    /// Nothing, or not even the whole header: begin anew.
    Nothing,
    /// Chunks, without the end chunk.
    Part(Resumed),
    /// All of it, and all of it holds; the checksum over all.
    Whole(u32),
}

/// A stream that was cut off, up to its last chunk that holds.
#[derive(Clone, Debug)]
pub struct Resumed {
    pub(super) header: StreamHeader,
    pub(super) chunks: u64,
    pub(super) behind: u64,
    pub(super) crcs: Crc32c,
    keep_bytes: u64,
}

impl Resumed {
    /// How many bytes of the file stay.
    #[must_use]
    pub const fn keep_bytes(&self) -> u64 {
        self.keep_bytes
    }

    /// The byte of the volume from which on the differences are wanted.
    #[must_use]
    pub const fn next_offset(&self) -> u64 {
        self.behind
    }
}

/// Reads what there is of the stream that begins with the header `wanted`.
///
/// # Errors
/// When the file is of something else, its end chunk contradicts its chunks, something follows its
/// end, or it cannot be read. Then nothing of it may be overwritten.
pub fn scan(mut input: impl Read, wanted: &StreamHeader) -> Result<Found, StreamError> {
    let mut begin = [0; HEADER_BYTES];
    let length = read_up_to(&mut input, &mut begin)
        .map_err(|error| StreamError::new(0, StreamFault::Io(error)))?;
    if length < HEADER_BYTES && wanted.encode().starts_with(&begin[..length]) {
        return Ok(Found::Nothing);
    }
    let mut reader = StreamReader::open((&begin[..length]).chain(input))?;
    reader.header().check_is(wanted).map_err(|fault| StreamError::new(0, fault))?;
    let error = loop {
        match reader.next_chunk() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Found::Whole(reader.crc())),
            Err(error) => break error,
        }
    };
    if is_cut(&error.fault) { Ok(Found::Part(resumed(&reader))) } else { Err(error) }
}

/// Takes off what is not kept, and goes there.
///
/// # Errors
/// When the file cannot be cut.
pub fn cut(file: &mut File, resumed: &Resumed) -> io::Result<()> {
    file.set_len(resumed.keep_bytes)?;
    file.seek(SeekFrom::Start(resumed.keep_bytes)).map(|_| ())
}

/// Whether a kill or a power cut leaves this: every chunk before it holds.
const fn is_cut(fault: &StreamFault) -> bool {
    matches!(
        fault,
        StreamFault::Truncated(_) | StreamFault::ChunkChecksum { .. } | StreamFault::Chunk(_)
    )
}

fn resumed<R: Read>(reader: &StreamReader<R>) -> Resumed {
    Resumed {
        header: *reader.header(),
        chunks: reader.chunks,
        behind: reader.behind,
        crcs: reader.crcs.clone(),
        keep_bytes: reader.at,
    }
}
