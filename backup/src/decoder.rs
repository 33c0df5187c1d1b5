//! Reading a backup as its bytes come: nothing is believed before its checksum is right.

use lunar_types::ClusterId;

use super::{
    BACKUP_VERSION, BLOCK_BYTES_MAX, BLOCK_HEAD_BYTES, BackupEnd, BackupError, BackupHeader,
    ENTRY_HEAD_BYTES, HEADER_BYTES, HEADER_MAGIC, TRAILER_BYTES, TRAILER_MAGIC, chained, checksum,
};

/// The entries of a block, in the order of their keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// Checked: entries from the beginning to the end.
    bytes: Vec<u8>,
}

impl Block {
    /// Each key with its value.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || take_entry(&mut rest))
    }
}

/// A part of a backup that can be believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// What it is of: the first part.
    Header(BackupHeader),
    /// Some of its entries.
    Block(Block),
    /// The trailer: everything was there. Whether something follows, [`BackupDecoder::end`]
    /// says.
    Trailer(BackupEnd),
}

/// What the bytes that are waited for are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Awaited {
    Header,
    /// The head of a block, or the first bytes of the trailer.
    Head,
    Entries {
        head: [u8; BLOCK_HEAD_BYTES],
        bytes: usize,
    },
    Trailer,
    Nothing,
}

impl Awaited {
    /// How many there have to be together.
    const fn bytes(self) -> usize {
        match self {
            Self::Header => HEADER_BYTES,
            Self::Head => BLOCK_HEAD_BYTES,
            Self::Entries { bytes, .. } => bytes,
            Self::Trailer => TRAILER_BYTES,
            Self::Nothing => 0,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Header => "the header",
            Self::Head => "a block or the trailer",
            Self::Entries { .. } => "a block",
            Self::Trailer | Self::Nothing => "the trailer",
        }
    }
}

/// Checks one backup that comes in pieces of any size.
pub struct BackupDecoder {
    awaited: Awaited,
    /// The bytes that have come of what is waited for.
    buffer: Vec<u8>,
    /// Where what is waited for, or its block, begins.
    offset: u64,
    last_key: Option<Vec<u8>>,
    sums: u32,
    blocks: u64,
    entries: u64,
    has_failed: bool,
}

impl Default for BackupDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes the first bytes of a slice that is long enough.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (first, rest) = bytes.split_first_chunk::<N>().expect("the length was checked");
    *bytes = rest;
    *first
}

/// Takes an entry; none if it is not whole.
fn take_entry<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (head, mut body) = rest.split_first_chunk::<ENTRY_HEAD_BYTES>()?;
    let mut head = &head[..];
    let key = usize::from(u16::from_le_bytes(take(&mut head)));
    let value = u32::from_le_bytes(take(&mut head)) as usize;
    let key = body.split_off(..key)?;
    let value = body.split_off(..value)?;
    *rest = body;
    Some((key, value))
}

fn header_of(bytes: &[u8]) -> Result<(BackupHeader, u32), BackupError> {
    let (checked, mut stored) = bytes.split_at(HEADER_BYTES - 4);
    let sum = checksum(&[checked]);
    if sum != u32::from_le_bytes(take(&mut stored)) {
        return Err(BackupError::Checksum { offset: 0, of: "the header" });
    }
    let mut fields = &checked[HEADER_MAGIC.len()..];
    let version = u16::from_le_bytes(take(&mut fields));
    if version != BACKUP_VERSION {
        return Err(BackupError::Version { found: version });
    }
    let header = BackupHeader {
        keyspace_version: u32::from_le_bytes(take(&mut fields)),
        cluster: ClusterId::from_bytes(take(&mut fields)),
        number: u64::from_le_bytes(take(&mut fields)),
        begun: u64::from_le_bytes(take(&mut fields)),
    };
    Ok((header, sum))
}

impl BackupDecoder {
    /// At the beginning of a backup.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            awaited: Awaited::Header,
            buffer: Vec::new(),
            offset: 0,
            last_key: None,
            sums: 0,
            blocks: 0,
            entries: 0,
            has_failed: false,
        }
    }

    /// Takes bytes from the front of `input` until a part is whole or none are left; `None` when
    /// more have to come.
    ///
    /// # Errors
    /// See [`BackupError`].
    ///
    /// # Panics
    /// When it is called after an error.
    pub fn next_part(&mut self, input: &mut &[u8]) -> Result<Option<Part>, BackupError> {
        assert!(!self.has_failed, "a backup that was refused is not read on");
        let outcome = self.advance(input);
        self.has_failed = outcome.is_err();
        outcome
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Option<Part>, BackupError> {
        while !input.is_empty() {
            if self.awaited == Awaited::Nothing {
                let problem = "something follows the trailer";
                return Err(BackupError::Malformed { offset: self.offset, problem });
            }
            let wanted = self.awaited.bytes() - self.buffer.len();
            let taken = input.split_off(..wanted.min(input.len())).expect("at most its length");
            self.buffer.extend_from_slice(taken);
            self.check_magic()?;
            if self.buffer.len() == self.awaited.bytes()
                && let Some(part) = self.whole()?
            {
                return Ok(Some(part));
            }
        }
        Ok(None)
    }

    /// Refuses something else early, before it is waited for more of it.
    fn check_magic(&self) -> Result<(), BackupError> {
        let length = self.buffer.len().min(HEADER_MAGIC.len());
        match self.awaited {
            Awaited::Header if self.buffer[..length] != HEADER_MAGIC[..length] => {
                Err(BackupError::NotABackup)
            }
            _ => Ok(()),
        }
    }

    /// What was waited for is there.
    fn whole(&mut self) -> Result<Option<Part>, BackupError> {
        match self.awaited {
            Awaited::Header => self.header().map(Some),
            Awaited::Head => self.head().map(|()| None),
            Awaited::Entries { head, .. } => self.block(&head).map(Some),
            Awaited::Trailer => self.trailer().map(Some),
            Awaited::Nothing => Ok(None),
        }
    }

    fn header(&mut self) -> Result<Part, BackupError> {
        let (header, sum) = header_of(&self.buffer)?;
        self.buffer.clear();
        self.offset = HEADER_BYTES as u64;
        self.sums = chained(0, sum);
        self.awaited = Awaited::Head;
        Ok(Part::Header(header))
    }

    fn head(&mut self) -> Result<(), BackupError> {
        if self.buffer.starts_with(&TRAILER_MAGIC) {
            self.awaited = Awaited::Trailer;
            return Ok(());
        }
        let head: [u8; BLOCK_HEAD_BYTES] = take(&mut &self.buffer[..]);
        let bytes = u32::from_le_bytes(take(&mut &head[..])) as usize;
        if bytes == 0 || bytes > BLOCK_BYTES_MAX {
            let problem = "there is neither a block nor the trailer";
            return Err(BackupError::Malformed { offset: self.offset, problem });
        }
        self.buffer = Vec::with_capacity(bytes);
        self.awaited = Awaited::Entries { head, bytes };
        Ok(())
    }

    fn block(&mut self, head: &[u8; BLOCK_HEAD_BYTES]) -> Result<Part, BackupError> {
        let mut fields = &head[..];
        let length: [u8; 4] = take(&mut fields);
        let stored = u32::from_le_bytes(take(&mut fields));
        let count: [u8; 4] = take(&mut fields);
        let bytes = std::mem::take(&mut self.buffer);
        if checksum(&[&length, &count, &bytes]) != stored {
            return Err(BackupError::Checksum { offset: self.offset, of: "a block" });
        }
        self.check_entries(&bytes, u32::from_le_bytes(count))?;
        self.offset += (BLOCK_HEAD_BYTES + bytes.len()) as u64;
        self.sums = chained(self.sums, stored);
        self.blocks += 1;
        self.awaited = Awaited::Head;
        Ok(Part::Block(Block { bytes }))
    }

    /// Checks the entries of a block whose checksum is right.
    fn check_entries(&mut self, bytes: &[u8], count: u32) -> Result<(), BackupError> {
        let offset = self.offset;
        let malformed = |problem| BackupError::Malformed { offset, problem };
        let (mut rest, mut found) = (bytes, 0);
        let mut last = self.last_key.as_deref();
        while !rest.is_empty() {
            let entry = take_entry(&mut rest);
            let (key, _) = entry.ok_or(malformed("an entry of the block is cut off"))?;
            if last.is_some_and(|last| last >= key) {
                return Err(malformed("keys of the block do not rise"));
            }
            last = Some(key);
            found += 1;
        }
        if found != u64::from(count) {
            return Err(malformed("the block has another number of entries than it says"));
        }
        self.last_key = last.map(<[u8]>::to_vec);
        self.entries += found;
        Ok(())
    }

    fn trailer(&mut self) -> Result<Part, BackupError> {
        let (offset, buffer) = (self.offset, std::mem::take(&mut self.buffer));
        let mut fields = &buffer[TRAILER_MAGIC.len()..];
        let blocks = u64::from_le_bytes(take(&mut fields));
        let entries = u64::from_le_bytes(take(&mut fields));
        if (blocks, entries) != (self.blocks, self.entries) {
            let problem = "the trailer counts other blocks or entries than there were";
            return Err(BackupError::Malformed { offset, problem });
        }
        if u32::from_le_bytes(take(&mut fields)) != self.sums {
            return Err(BackupError::Checksum { offset, of: "the trailer" });
        }
        self.offset += TRAILER_BYTES as u64;
        self.awaited = Awaited::Nothing;
        Ok(Part::Trailer(BackupEnd { blocks, entries, bytes: self.offset }))
    }

    /// The bytes that were given are all: the backup is whole, and nothing follows it.
    ///
    /// # Errors
    /// It ends too early.
    ///
    /// # Panics
    /// When it is called after an error.
    pub fn end(&self) -> Result<BackupEnd, BackupError> {
        assert!(!self.has_failed, "a backup that was refused is not read on");
        let (blocks, entries, bytes) = (self.blocks, self.entries, self.offset);
        if self.awaited == Awaited::Nothing {
            return Ok(BackupEnd { blocks, entries, bytes });
        }
        let head = match self.awaited {
            Awaited::Entries { .. } => BLOCK_HEAD_BYTES,
            _ => 0,
        };
        let offset = bytes + (head + self.buffer.len()) as u64;
        if offset == 0 {
            return Err(BackupError::NotABackup);
        }
        Err(BackupError::Truncated { offset, within: self.awaited.name() })
    }
}
