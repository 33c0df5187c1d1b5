//! The label: what says that a LUN is ours, which one it is, and how large it was.
//!
//! Two copies, [`LABEL_OFFSET_BYTES`] from the start and from the end: far enough inside that a
//! partition table written by accident hits neither. Bytes: `docs/format/label.md`.
//!
//! Crash order: the head copy is written and flushed before the tail copy. A crash between the
//! two leaves one copy, which is reported as damage and repaired by labelling or
//! [`repair`], never guessed around.

use lunar_types::{ClusterId, LunId};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::buffer::AlignedBuf;
use crate::journal::crc32c;
use crate::lun::{LUN_BYTES_MIN, LunDevice, LunError};

/// Distance of a copy from its end of the LUN.
pub const LABEL_OFFSET_BYTES: u64 = 64 << 10;
/// Size of a copy.
pub const LABEL_BYTES: usize = 4096;

const MAGIC: [u8; 8] = *b"LUNARLUN";
const VERSION: u16 = 1;
const ALIGN: u64 = 4096;

/// Which copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LabelCopy {
    /// Near the start of the LUN.
    Head,
    /// Near its end.
    Tail,
}

impl std::fmt::Display for LabelCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Head => "head",
            Self::Tail => "tail",
        })
    }
}

/// What a label says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label {
    /// The installation that the LUN belongs to.
    pub cluster: ClusterId,
    /// The LUN.
    pub lun: LunId,
    /// Its size when it was labelled, in bytes.
    pub size_bytes: u64,
    /// Its logical block when it was labelled, in bytes.
    pub logical_block_bytes: u32,
}

/// The bytes of one copy.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct LabelBlock {
    magic: [u8; 8],
    version: U16,
    copy: U16,
    logical_block_bytes: U32,
    cluster: [u8; 16],
    lun: [u8; 16],
    size_bytes: U64,
    own_offset: U64,
    reserved: [u8; LABEL_BYTES - 68],
    crc: U32,
}

const _: () = assert!(size_of::<LabelBlock>() == LABEL_BYTES);

/// Why a LUN has no usable label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Neither copy is there.
    #[error("the LUN carries no Lunar label")]
    Unlabelled,
    /// The device is smaller than the label says.
    #[error(
        "LUN {lun} was labelled with {labelled} B but has {size} B now: it shrank, and extents \
         beyond its end are lost; restore its size before using it"
    )]
    Shrank {
        /// The LUN.
        lun: LunId,
        /// Size in the label.
        labelled: u64,
        /// Size now.
        size: u64,
    },
    /// One copy is good, the other is not.
    #[error(
        "the {copy} copy of the label of LUN {lun} at byte {at} is damaged or missing; the other \
         copy is good: check the LUN for foreign writes, then repair the label"
    )]
    CopyDamaged {
        /// The LUN, by its good copy.
        lun: LunId,
        /// The bad copy.
        copy: LabelCopy,
        /// Where it is.
        at: u64,
    },
    /// Both copies are good and differ.
    #[error("the two label copies disagree: head says LUN {head}, tail says LUN {tail}")]
    CopiesDisagree {
        /// LUN in the head copy.
        head: LunId,
        /// LUN in the tail copy.
        tail: LunId,
    },
    /// A copy has our magic but a wrong checksum and the other is no better.
    #[error("both copies of the label are damaged: restore the LUN or label it anew by force")]
    Damaged,
    /// Written by a newer Lunar.
    #[error("the label has format version {found}; this program knows up to {VERSION}: upgrade")]
    NewerVersion {
        /// The version found.
        found: u16,
    },
    /// Too small to be a LUN.
    #[error("a LUN of {size} B is too small: the least is {LUN_BYTES_MIN} B")]
    TooSmall {
        /// Size of the device.
        size: u64,
    },
    /// The device failed.
    #[error("cannot {what} the label")]
    Device {
        /// Read, write or flush.
        what: &'static str,
        /// How.
        #[source]
        error: LunError,
    },
}

enum CopyState {
    Good(Label),
    Damaged,
    Absent,
}

fn tail_offset(size_bytes: u64) -> u64 {
    (size_bytes - LABEL_OFFSET_BYTES) / ALIGN * ALIGN
}

fn encode(label: &Label, copy: LabelCopy) -> (u64, AlignedBuf) {
    let own_offset = match copy {
        LabelCopy::Head => LABEL_OFFSET_BYTES,
        LabelCopy::Tail => tail_offset(label.size_bytes),
    };
    let mut block = LabelBlock {
        magic: MAGIC,
        version: VERSION.into(),
        copy: (copy as u16).into(),
        logical_block_bytes: label.logical_block_bytes.into(),
        cluster: label.cluster.to_bytes(),
        lun: label.lun.to_bytes(),
        size_bytes: label.size_bytes.into(),
        own_offset: own_offset.into(),
        reserved: [0; LABEL_BYTES - 68],
        crc: 0.into(),
    };
    let crc = crc32c(&block.as_bytes()[..LABEL_BYTES - 4]);
    block.crc = crc.into();
    let mut buffer = AlignedBuf::zeroed(1);
    buffer.as_mut_bytes().copy_from_slice(block.as_bytes());
    (own_offset, buffer)
}

fn decode(bytes: &[u8], copy: LabelCopy, at: u64) -> Result<CopyState, LabelError> {
    let block = LabelBlock::ref_from_bytes(bytes).expect("a copy is read whole");
    if block.magic != MAGIC {
        return Ok(CopyState::Absent);
    }
    if block.crc.get() != crc32c(&bytes[..LABEL_BYTES - 4]) {
        return Ok(CopyState::Damaged);
    }
    let found = block.version.get();
    if found > VERSION {
        return Err(LabelError::NewerVersion { found });
    }
    if block.own_offset.get() != at || block.copy.get() != copy as u16 {
        return Ok(CopyState::Damaged);
    }
    Ok(CopyState::Good(Label {
        cluster: ClusterId::from_bytes(block.cluster),
        lun: LunId::from_bytes(block.lun),
        size_bytes: block.size_bytes.get(),
        logical_block_bytes: block.logical_block_bytes.get(),
    }))
}

fn read_copy(device: &dyn LunDevice, copy: LabelCopy, at: u64) -> Result<CopyState, LabelError> {
    let mut buffer = AlignedBuf::zeroed(1);
    device
        .read_at(at, buffer.as_mut_bytes())
        .map_err(|error| LabelError::Device { what: "read", error })?;
    decode(buffer.as_bytes(), copy, at)
}

/// Reads both copies and holds them against each other and against the device.
///
/// A device that grew since it was labelled is fine: its label says how much of it is ours.
///
/// # Errors
/// Everything of [`LabelError`]: only two good and equal copies make a label.
pub fn read(device: &dyn LunDevice) -> Result<Label, LabelError> {
    let size = device.size_bytes();
    if size < LUN_BYTES_MIN {
        return Err(LabelError::TooSmall { size });
    }
    let head = read_copy(device, LabelCopy::Head, LABEL_OFFSET_BYTES)?;
    if let CopyState::Good(Label { lun, size_bytes: labelled, .. }) = head
        && labelled > size
    {
        return Err(LabelError::Shrank { lun, labelled, size });
    }
    let tail_at = match head {
        CopyState::Good(label) => tail_offset(label.size_bytes),
        CopyState::Damaged | CopyState::Absent => tail_offset(size),
    };
    let tail = read_copy(device, LabelCopy::Tail, tail_at)?;
    match (head, tail) {
        (CopyState::Good(head), CopyState::Good(tail)) if head == tail => Ok(head),
        (CopyState::Good(head), CopyState::Good(tail)) => {
            Err(LabelError::CopiesDisagree { head: head.lun, tail: tail.lun })
        }
        (CopyState::Good(label), _) => {
            Err(LabelError::CopyDamaged { lun: label.lun, copy: LabelCopy::Tail, at: tail_at })
        }
        (_, CopyState::Good(label)) => Err(LabelError::CopyDamaged {
            lun: label.lun,
            copy: LabelCopy::Head,
            at: LABEL_OFFSET_BYTES,
        }),
        (CopyState::Absent, CopyState::Absent) => Err(LabelError::Unlabelled),
        _ => Err(LabelError::Damaged),
    }
}

/// Writes both copies, head first, each flushed.
///
/// # Errors
/// When the device is too small or fails.
pub fn write(device: &dyn LunDevice, label: &Label) -> Result<(), LabelError> {
    if label.size_bytes < LUN_BYTES_MIN || device.size_bytes() < label.size_bytes {
        return Err(LabelError::TooSmall { size: device.size_bytes() });
    }
    for copy in [LabelCopy::Head, LabelCopy::Tail] {
        let (at, buffer) = encode(label, copy);
        device
            .write_at(at, buffer.as_bytes())
            .map_err(|error| LabelError::Device { what: "write", error })?;
        device.flush().map_err(|error| LabelError::Device { what: "flush", error })?;
    }
    Ok(())
}

/// Restores a damaged copy from the good one; gives the label.
///
/// # Errors
/// When there is no single good copy to go by, or the device fails.
pub fn repair(device: &dyn LunDevice) -> Result<Label, LabelError> {
    let damaged = match read(device) {
        Ok(label) => return Ok(label),
        Err(LabelError::CopyDamaged { copy, .. }) => copy,
        Err(error) => return Err(error),
    };
    let (copy, at) = match damaged {
        LabelCopy::Tail => (LabelCopy::Head, LABEL_OFFSET_BYTES),
        LabelCopy::Head => (LabelCopy::Tail, tail_offset(device.size_bytes())),
    };
    match read_copy(device, copy, at)? {
        CopyState::Good(label) => write(device, &label).map(|()| label),
        CopyState::Damaged | CopyState::Absent => Err(LabelError::Damaged),
    }
}

/// Wipes both copies, so that the LUN is no longer ours.
///
/// # Errors
/// When the device fails.
pub fn wipe(device: &dyn LunDevice, label: &Label) -> Result<(), LabelError> {
    let zeros = AlignedBuf::zeroed(1);
    for at in [LABEL_OFFSET_BYTES, tail_offset(label.size_bytes)] {
        device
            .write_at(at, zeros.as_bytes())
            .map_err(|error| LabelError::Device { what: "write", error })?;
    }
    device.flush().map_err(|error| LabelError::Device { what: "flush", error })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    struct MemoryLun(RefCell<Vec<u8>>);

    impl LunDevice for MemoryLun {
        fn read_at(&self, at: u64, buffer: &mut [u8]) -> Result<(), LunError> {
            let at = at as usize;
            buffer.copy_from_slice(&self.0.borrow()[at..at + buffer.len()]);
            Ok(())
        }

        fn write_at(&self, at: u64, bytes: &[u8]) -> Result<(), LunError> {
            let at = at as usize;
            self.0.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn flush(&self) -> Result<(), LunError> {
            Ok(())
        }

        fn size_bytes(&self) -> u64 {
            self.0.borrow().len() as u64
        }

        fn logical_block_bytes(&self) -> u32 {
            512
        }
    }

    const SIZE: u64 = 40 << 20;

    fn labelled() -> (MemoryLun, Label) {
        let lun = MemoryLun(RefCell::new(vec![0; SIZE as usize]));
        let label = Label {
            cluster: ClusterId::from_u128(1),
            lun: LunId::from_u128(2),
            size_bytes: SIZE,
            logical_block_bytes: 512,
        };
        write(&lun, &label).expect("memory does not fail");
        (lun, label)
    }

    fn flip(lun: &MemoryLun, at: u64) {
        lun.0.borrow_mut()[at as usize] ^= 1;
    }

    #[test]
    fn a_label_is_read_back() {
        let (lun, label) = labelled();
        assert_eq!(read(&lun), Ok(label));
    }

    #[test]
    fn a_flipped_bit_anywhere_in_a_copy_is_found_and_repaired() {
        for copy in [LabelCopy::Head, LabelCopy::Tail] {
            let at = if copy == LabelCopy::Head { 64 << 10 } else { SIZE - (64 << 10) };
            for byte in [0, 9, 20, 47, 60, 2000, 4093] {
                let (lun, label) = labelled();
                flip(&lun, at + byte);
                let lun_id = label.lun;
                assert_eq!(
                    read(&lun),
                    Err(LabelError::CopyDamaged { lun: lun_id, copy, at }),
                    "byte {byte}"
                );
                assert_eq!(repair(&lun), Ok(label));
                assert_eq!(read(&lun), Ok(label));
            }
        }
    }

    #[test]
    fn a_lun_that_shrank_is_refused_and_one_that_grew_is_not() {
        let (lun, label) = labelled();
        lun.0.borrow_mut().truncate((SIZE - 4096) as usize);
        assert!(matches!(read(&lun), Err(LabelError::Shrank { labelled: SIZE, .. })));
        let (lun, _) = labelled();
        lun.0.borrow_mut().resize(SIZE as usize * 2, 0);
        assert_eq!(read(&lun), Ok(label));
    }

    #[test]
    fn copies_of_different_luns_are_refused() {
        let (lun, label) = labelled();
        let other = Label { lun: LunId::from_u128(3), ..label };
        let (at, buffer) = encode(&other, LabelCopy::Tail);
        lun.write_at(at, buffer.as_bytes()).expect("memory does not fail");
        assert_eq!(
            read(&lun),
            Err(LabelError::CopiesDisagree { head: label.lun, tail: other.lun })
        );
    }

    #[test]
    fn a_bare_lun_a_damaged_one_and_a_tiny_one_are_told_apart() {
        let bare = MemoryLun(RefCell::new(vec![0; SIZE as usize]));
        assert_eq!(read(&bare), Err(LabelError::Unlabelled));
        let (lun, _) = labelled();
        flip(&lun, (64 << 10) + 100);
        flip(&lun, SIZE - (64 << 10) + 100);
        assert_eq!(read(&lun), Err(LabelError::Damaged));
        let tiny = MemoryLun(RefCell::new(vec![0; 1 << 20]));
        assert_eq!(read(&tiny), Err(LabelError::TooSmall { size: 1 << 20 }));
    }

    #[test]
    fn a_wiped_label_is_gone() {
        let (lun, label) = labelled();
        wipe(&lun, &label).expect("memory does not fail");
        assert_eq!(read(&lun), Err(LabelError::Unlabelled));
    }

    #[test]
    fn the_bytes_of_a_label_are_those_of_the_fixture() {
        let label = Label {
            cluster: ClusterId::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            lun: LunId::from_u128(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20),
            size_bytes: SIZE,
            logical_block_bytes: 4096,
        };
        for (copy, name) in [(LabelCopy::Head, "label-head"), (LabelCopy::Tail, "label-tail")] {
            let (at, buffer) = encode(&label, copy);
            crate::golden::assert_golden(&format!("{name}-v1.hex"), buffer.as_bytes());
            let old = crate::golden::load(&format!("{name}-v1.hex"));
            assert!(matches!(decode(&old, copy, at), Ok(CopyState::Good(found)) if found == label));
        }
    }
}
