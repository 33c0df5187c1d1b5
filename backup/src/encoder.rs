//! Writing a backup: entries in, whole blocks out.

use super::{
    BACKUP_VERSION, BLOCK_BYTES_MAX, BLOCK_HEAD_BYTES, BackupEnd, BackupHeader, ENTRY_HEAD_BYTES,
    EncodeError, HEADER_BYTES, HEADER_MAGIC, TRAILER_BYTES, TRAILER_MAGIC, chained, checksum,
};

/// Makes the bytes of one backup: those of [`Self::begin`], of each [`Self::push`] that gives
/// some, and of [`Self::finish`], in this order.
pub struct BackupEncoder {
    /// Head and entries of the block that is being filled.
    block: Vec<u8>,
    block_entries: u32,
    last_key: Option<Vec<u8>>,
    sums: u32,
    end: BackupEnd,
}

impl BackupEncoder {
    /// Begins a backup; gives the bytes of its header.
    #[must_use]
    pub fn begin(header: &BackupHeader) -> (Self, Vec<u8>) {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend(HEADER_MAGIC);
        bytes.extend(BACKUP_VERSION.to_le_bytes());
        bytes.extend(header.keyspace_version.to_le_bytes());
        bytes.extend(header.cluster.to_bytes());
        bytes.extend(header.number.to_le_bytes());
        bytes.extend(header.begun.to_le_bytes());
        let sum = checksum(&[&bytes]);
        bytes.extend(sum.to_le_bytes());
        let end = BackupEnd { blocks: 0, entries: 0, bytes: bytes.len() as u64 };
        let (block, sums) = (vec![0; BLOCK_HEAD_BYTES], chained(0, sum));
        (Self { block, block_entries: 0, last_key: None, sums, end }, bytes)
    }

    /// Adds an entry; keys rise strictly. Gives the block before it when that one is full.
    ///
    /// # Errors
    /// See [`EncodeError`]; nothing was added then.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, EncodeError> {
        let number = self.end.entries;
        if self.last_key.as_deref().is_some_and(|last| last >= key) {
            return Err(EncodeError::Order { number });
        }
        let bytes = ENTRY_HEAD_BYTES + key.len() + value.len();
        let too_long = || EncodeError::TooLong { number, key: key.len(), value: value.len() };
        let key_len = u16::try_from(key.len()).map_err(|_| too_long())?;
        if bytes > BLOCK_BYTES_MAX {
            return Err(too_long());
        }
        let value_len = u32::try_from(value.len()).expect("a block is shorter than 4 GiB");
        let is_full = self.block.len() - BLOCK_HEAD_BYTES + bytes > BLOCK_BYTES_MAX;
        let full = is_full.then(|| self.take_block());
        self.block.extend(key_len.to_le_bytes());
        self.block.extend(value_len.to_le_bytes());
        self.block.extend(key);
        self.block.extend(value);
        self.block_entries += 1;
        self.end.entries += 1;
        let last = self.last_key.get_or_insert_default();
        last.clear();
        last.extend(key);
        Ok(full)
    }

    /// The block that is being filled, with its head; the next one begins.
    fn take_block(&mut self) -> Vec<u8> {
        let mut block = std::mem::replace(&mut self.block, vec![0; BLOCK_HEAD_BYTES]);
        let count = std::mem::take(&mut self.block_entries).to_le_bytes();
        let length = u32::try_from(block.len() - BLOCK_HEAD_BYTES).expect("at most 1 MiB");
        let length = length.to_le_bytes();
        let sum = checksum(&[&length, &count, &block[BLOCK_HEAD_BYTES..]]);
        block[..4].copy_from_slice(&length);
        block[4..8].copy_from_slice(&sum.to_le_bytes());
        block[8..BLOCK_HEAD_BYTES].copy_from_slice(&count);
        self.sums = chained(self.sums, sum);
        self.end.blocks += 1;
        self.end.bytes += block.len() as u64;
        block
    }

    /// Ends the backup; gives its last bytes and what it has been in all.
    #[must_use]
    pub fn finish(mut self) -> (Vec<u8>, BackupEnd) {
        let mut bytes = Vec::new();
        if self.block_entries > 0 {
            bytes = self.take_block();
        }
        bytes.reserve_exact(TRAILER_BYTES);
        bytes.extend(TRAILER_MAGIC);
        bytes.extend(self.end.blocks.to_le_bytes());
        bytes.extend(self.end.entries.to_le_bytes());
        bytes.extend(self.sums.to_le_bytes());
        self.end.bytes += TRAILER_BYTES as u64;
        (bytes, self.end)
    }
}
