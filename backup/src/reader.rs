//! Reading a backup from a file, or from whatever else can be read.

use std::io::{self, Read};
use std::ops::Range;

use super::{BackupDecoder, BackupEnd, BackupError, BackupHeader, Block, Part};

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;

/// Reads one backup, block by block.
pub struct BackupReader<R> {
    source: Source<R>,
    header: BackupHeader,
}

/// A decoder with the bytes for it.
struct Source<R> {
    input: R,
    decoder: BackupDecoder,
    buffer: Vec<u8>,
    /// What of the buffer was not taken yet.
    unread: Range<usize>,
    /// Bytes that were read.
    offset: u64,
}

impl<R: Read> Source<R> {
    /// The next part; none at the end of the input.
    fn next_part(&mut self) -> Result<Option<Part>, BackupError> {
        loop {
            let mut bytes = &self.buffer[self.unread.clone()];
            let part = self.decoder.next_part(&mut bytes)?;
            self.unread.start = self.unread.end - bytes.len();
            if part.is_some() || !self.refill()? {
                return Ok(part);
            }
        }
    }

    /// Reads more; says whether there was any.
    fn refill(&mut self) -> Result<bool, BackupError> {
        let count = loop {
            match self.input.read(&mut self.buffer) {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(BackupError::Io { offset: self.offset, source }),
            }
        };
        self.unread = 0..count;
        self.offset += count as u64;
        Ok(count > 0)
    }
}

impl<R: Read> BackupReader<R> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// See [`BackupError`].
    pub fn begin(input: R) -> Result<Self, BackupError> {
        let (decoder, buffer) = (BackupDecoder::new(), vec![0; READ_BYTES]);
        let mut source = Source { input, decoder, buffer, unread: 0..0, offset: 0 };
        match source.next_part()? {
            Some(Part::Header(header)) => Ok(Self { source, header }),
            Some(_) => unreachable!("the first part of a backup is its header"),
            None => {
                source.decoder.end()?;
                unreachable!("a backup without a header is not whole")
            }
        }
    }

    /// What the backup is of.
    pub const fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// The next entries; none when the backup was whole and nothing follows it.
    ///
    /// # Errors
    /// See [`BackupError`].
    ///
    /// # Panics
    /// When it is called after an error.
    pub fn next_block(&mut self) -> Result<Option<Block>, BackupError> {
        loop {
            match self.source.next_part()? {
                Some(Part::Block(block)) => return Ok(Some(block)),
                Some(Part::Trailer(_)) => {}
                Some(Part::Header(_)) => unreachable!("the header was the first part"),
                None => return self.source.decoder.end().map(|_| None),
            }
        }
    }

    /// What the backup was in all, after its last block.
    ///
    /// # Errors
    /// It was not read to its end, or is not whole.
    pub fn end(&self) -> Result<BackupEnd, BackupError> {
        self.source.decoder.end()
    }
}
