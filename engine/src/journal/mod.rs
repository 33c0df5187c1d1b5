//! The journal: slots that are durable on a LUN but not yet committed to the metadata service.
//!
//! - [`mod@format`]: blocks of self-certifying sectors; a torn block is told from a damaged one.
//! - [`ring`]: where the next batch goes and what it supersedes.
//! - [`recovery`]: the longest chain that was acknowledged, or an error that names the damage.

pub mod format;
pub mod recovery;
pub mod ring;

pub use format::{JournalIdentity, Record};
pub use recovery::{JournalDamage, Recovered, recover};
pub use ring::{JournalRing, RingPlace};

use crate::buffer::AlignedBuf;
use crate::lun::{LunDevice, LunError, LunTable};
use lunar_types::{BLOCK_BYTES, LunIndex};

/// Checkpoint sequence number of a journal that was formatted and confirmed.
pub const SEQ_CONFIRMED: u64 = 1;
/// Sequence number of the first block that carries records.
pub const SEQ_FIRST: u64 = 2;

/// CRC32C (Castagnoli), as iSCSI, ext4 and btrfs use it.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes);
    u32::try_from(crc).expect("CRC32C has 32 bits")
}

/// Access to the LUNs of a pool, for reading and formatting journals.
pub trait LunSet {
    /// The open LUN of this index, if this node has it.
    fn lun(&self, index: LunIndex) -> Option<&dyn LunDevice>;
}

/// A journal could not be read or formatted.
#[derive(Debug, thiserror::Error)]
pub enum JournalIoError {
    /// A LUN of the journal is not open here.
    #[error("LUN {0} holds the journal but is not visible on this node")]
    LunMissing(LunIndex),
    /// The device failed.
    #[error("cannot {what} the journal on LUN {lun} at byte {at}")]
    Device {
        /// Read, write or flush.
        what: &'static str,
        /// The LUN.
        lun: LunIndex,
        /// Where.
        at: u64,
        /// How.
        #[source]
        error: LunError,
    },
}

fn device(luns: &dyn LunSet, lun: LunIndex) -> Result<&dyn LunDevice, JournalIoError> {
    luns.lun(lun).ok_or(JournalIoError::LunMissing(lun))
}

/// Reads the whole ring, block by block in order of positions.
///
/// # Errors
/// When a LUN is missing or fails.
pub fn read(
    place: &RingPlace,
    table: &LunTable,
    luns: &dyn LunSet,
) -> Result<AlignedBuf, JournalIoError> {
    let mut image = AlignedBuf::zeroed(place.blocks() as usize);
    let mut done = 0;
    for (lun, at, blocks) in place.stretches(table) {
        let bytes = blocks as usize * BLOCK_BYTES as usize;
        let into = &mut image.as_mut_bytes()[done..done + bytes];
        device(luns, lun)?.read_at(at, into).map_err(|error| JournalIoError::Device {
            what: "read",
            lun,
            at,
            error,
        })?;
        done += bytes;
    }
    Ok(image)
}

/// Writes valid empty blocks over the whole ring and flushes them.
///
/// Crash order: the ring belongs to a new epoch and is not confirmed yet, so a crash in the middle
/// leaves a journal that nobody reads.
///
/// # Errors
/// When a LUN is missing or fails.
pub fn format_ring(
    identity: &JournalIdentity,
    place: &RingPlace,
    table: &LunTable,
    luns: &dyn LunSet,
) -> Result<(), JournalIoError> {
    let mut position = 0;
    for (lun, at, blocks) in place.stretches(table) {
        let mut image = AlignedBuf::zeroed(blocks as usize);
        for block in image.as_mut_bytes().chunks_exact_mut(BLOCK_BYTES as usize) {
            format::encode_empty(identity, place.blocks(), position, block);
            position += 1;
        }
        let lun_device = device(luns, lun)?;
        let failed = |what| move |error| JournalIoError::Device { what, lun, at, error };
        lun_device.write_at(at, image.as_bytes()).map_err(failed("format"))?;
        lun_device.flush().map_err(failed("flush"))?;
    }
    Ok(())
}

/// Wipes the blocks of an unacknowledged batch that lie beyond the chain, before the same epoch
/// appends again.
///
/// Crash order: only blocks that no chain includes are wiped, so a crash in between changes
/// nothing that counts.
///
/// # Errors
/// When a LUN is missing or fails.
pub fn wipe_beyond(
    identity: &JournalIdentity,
    place: &RingPlace,
    table: &LunTable,
    luns: &dyn LunSet,
    recovered: &Recovered,
) -> Result<(), JournalIoError> {
    for seq in &recovered.beyond {
        let position = place.position_of(*seq);
        let (lun, at, _) = place.locate(position, table);
        let mut block = AlignedBuf::zeroed(1);
        format::encode_empty(identity, place.blocks(), position, block.as_mut_bytes());
        let failed = |what| move |error| JournalIoError::Device { what, lun, at, error };
        let lun_device = device(luns, lun)?;
        lun_device.write_at(at, block.as_bytes()).map_err(failed("wipe"))?;
        lun_device.flush().map_err(failed("flush"))?;
    }
    Ok(())
}
