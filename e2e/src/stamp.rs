//! What each block of a load says of itself: which write it is of which volume, and under which
//! grant it was made.
//!
//! | bytes | hold |
//! | --- | --- |
//! | 0..8 | magic |
//! | 8..24 | the volume |
//! | 24..32 | the block |
//! | 32..40 | the sequence |
//! | 40..48 | the epoch |
//! | 48..4092 | the same six words again and again, each time turned by a bit more |
//! | 4092..4096 | CRC-32C of everything before it |
//!
//! Numbers are little-endian; the volume has the order of a UUID. Every sector differs from that of
//! any other write, so a block that is made of two writes fails its checksum.

use lunar_types::{BlockIndex, Epoch, VolumeId, counter_id};

/// Bytes of a stamped block.
pub const STAMPED_BYTES: usize = 4096;

const MAGIC: u64 = 0x4c55_4e41_5253_5450;
const CRC_AT: usize = STAMPED_BYTES - 4;
/// Words of the head: magic, volume (two), block, sequence, epoch.
const HEAD: usize = 6;

counter_id!(
    /// Which write of a load it is: rises with every write to the volume, whoever owns it.
    Sequence,
    u64
);

/// What a block says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The volume that was written to.
    pub volume: VolumeId,
    /// Where.
    pub block: BlockIndex,
    /// Which write it is.
    pub sequence: Sequence,
    /// Of the grant under which it was made.
    pub epoch: Epoch,
}

/// A block carries no stamp that holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StampError {
    /// It begins with something else.
    #[error("no load has written it: it begins with {0:02x?}")]
    Foreign([u8; 16]),
    /// Its checksum does not fit.
    #[error(
        "it is torn: it begins with write {} to block {} under epoch {}, and its checksum does \
         not fit",
        _0.sequence, _0.block.get(), _0.epoch
    )]
    Torn(Stamp),
}

impl Stamp {
    /// Makes this block the stamp's.
    pub fn fill(&self, block: &mut [u8; STAMPED_BYTES]) {
        let volume = self.volume.to_bytes();
        let half = |n: usize| le_word(&volume[n * 8..]);
        let (at, sequence, epoch) = (self.block.get(), self.sequence.get(), self.epoch.get());
        let head = [MAGIC, half(0), half(1), at, sequence, epoch];
        for (n, chunk) in block.chunks_exact_mut(8).enumerate() {
            let turned = head[n % HEAD].rotate_left((n / HEAD) as u32 % 64);
            chunk.copy_from_slice(&turned.to_le_bytes());
        }
        let crc = crc32c(&block[..CRC_AT]);
        block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    }

    /// The stamp of a block; none if the block is blank, as what was never written is.
    ///
    /// # Errors
    /// When it holds something else, or parts of several writes.
    pub fn read(block: &[u8; STAMPED_BYTES]) -> Result<Option<Self>, StampError> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let word = |n: usize| le_word(&block[n * 8..]);
        if word(0) != MAGIC {
            let first = block.first_chunk().expect("a block is longer than that");
            return Err(StampError::Foreign(*first));
        }
        let volume = block[8..].first_chunk().expect("a block is longer than that");
        let stamp = Self {
            volume: VolumeId::from_bytes(*volume),
            block: BlockIndex::new(word(3)),
            sequence: Sequence::new(word(4)),
            epoch: Epoch::new(word(5)),
        };
        match crc32c(&block[..CRC_AT]).to_le_bytes() == block[CRC_AT..] {
            true => Ok(Some(stamp)),
            false => Err(StampError::Torn(stamp)),
        }
    }
}

fn le_word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(*bytes.first_chunk().expect("the words are within the block"))
}

fn crc32c(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc).expect("this checksum has 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        volume: VolumeId::from_u128(0x6fa1_c2d4_0b7e_4a52_9f57_3d1f_0c6c_2a10),
        block: BlockIndex::new(19_999),
        sequence: Sequence::new(481),
        epoch: Epoch::new(3),
    };

    fn filled(stamp: &Stamp) -> [u8; STAMPED_BYTES] {
        let mut block = [0xee; STAMPED_BYTES];
        stamp.fill(&mut block);
        block
    }

    #[test]
    fn what_was_filled_in_is_read_back_and_a_blank_block_has_none() {
        let block = filled(&STAMP);
        assert_eq!(Stamp::read(&block), Ok(Some(STAMP)));
        assert_eq!(Stamp::read(&[0; STAMPED_BYTES]), Ok(None));
        assert_eq!(block[8..24], STAMP.volume.to_bytes(), "as a UUID is written");
        assert_eq!(block[40..48], [3, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_block_of_two_writes_is_torn_wherever_it_is_cut() {
        let (old, new) = (filled(&STAMP), filled(&Stamp { epoch: Epoch::new(4), ..STAMP }));
        for cut in (512..STAMPED_BYTES).step_by(512) {
            for (head, tail) in [(&old, &new), (&new, &old)] {
                let mut mixed = *head;
                mixed[cut..].copy_from_slice(&tail[cut..]);
                assert!(matches!(Stamp::read(&mixed), Err(StampError::Torn(_))), "{cut}");
            }
        }
    }

    #[test]
    fn a_sector_that_is_lost_or_a_bit_that_is_wrong_is_found() {
        let block = filled(&STAMP);
        for sector in 1..8 {
            let mut lost = block;
            lost[sector * 512..][..512].fill(0);
            assert_eq!(Stamp::read(&lost), Err(StampError::Torn(STAMP)));
        }
        for at in [8, 24, 32, 40, 2000, CRC_AT] {
            let mut wrong = block;
            wrong[at] ^= 1;
            assert!(matches!(Stamp::read(&wrong), Err(StampError::Torn(_))), "{at}");
        }
        let mut foreign = block;
        foreign[..512].fill(0);
        assert_eq!(Stamp::read(&foreign), Err(StampError::Foreign([0; 16])));
    }
}
