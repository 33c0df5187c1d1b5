//! The first 64 bytes of a stream: whose bytes follow, and against which base.

use lunar_types::{LogicalBlockSize, SnapshotId, VolumeSize};

use super::super::Crc32c;
use super::fault::StreamFault;
use super::{u32_at, u64_at};

/// The length of the header.
pub const HEADER_BYTES: usize = 64;
/// The version that is written and read.
pub(super) const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"LUNXPORT";
const CRC_AT: usize = 60;

/// What a stream is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamHeader {
    /// The snapshot that the reader has at the end.
    pub snapshot: SnapshotId,
    /// The snapshot that the reader must have before. Nothing: the stream is whole, and what no
    /// chunk names is zeros.
    pub base: Option<SnapshotId>,
    /// The size of the snapshot.
    pub size: VolumeSize,
    /// The logical block size of its volume.
    pub logical_block: LogicalBlockSize,
}

impl StreamHeader {
    /// The bytes of the header.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let base = self.base.map_or([0; 16], SnapshotId::to_bytes);
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.logical_block.bytes().to_le_bytes());
        bytes[16..32].copy_from_slice(&self.snapshot.to_bytes());
        bytes[32..48].copy_from_slice(&base);
        bytes[48..56].copy_from_slice(&self.size.bytes().to_le_bytes());
        let crc = Crc32c::of(&[&bytes[..CRC_AT]]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header in these bytes.
    ///
    /// # Errors
    /// When they are of something else, of another version, damaged, or say what cannot be.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, StreamFault> {
        if bytes[..8] != MAGIC {
            return Err(StreamFault::NotAStream);
        }
        // Before the checksum: another version may keep it elsewhere.
        let found = u16::from_le_bytes([bytes[8], bytes[9]]);
        if found != VERSION {
            return Err(StreamFault::OtherVersion { found });
        }
        let (stored, computed) = (u32_at(bytes, CRC_AT), Crc32c::of(&[&bytes[..CRC_AT]]));
        if stored != computed {
            return Err(StreamFault::HeaderChecksum { stored, computed });
        }
        if bytes[10..12] != [0; 2] || bytes[56..CRC_AT] != [0; 4] {
            return Err(StreamFault::Header("its reserved bytes are not zero".to_owned()));
        }
        Self::decode_fields(bytes)
    }

    pub(in super::super) fn decode_fields(bytes: &[u8; HEADER_BYTES]) -> Result<Self, StreamFault> {
        let id_at = |at: usize| {
            SnapshotId::from_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
        };
        let nothing = SnapshotId::from_u128(0);
        let (snapshot, base) = (id_at(16), id_at(32));
        if snapshot == nothing {
            return Err(StreamFault::Header("it names no snapshot".to_owned()));
        }
        if snapshot == base {
            return Err(StreamFault::Header(format!("snapshot {snapshot} is its own base")));
        }
        Ok(Self {
            snapshot,
            base: (base != nothing).then_some(base),
            size: VolumeSize::from_bytes(u64_at(bytes, 48))
                .map_err(|error| StreamFault::Header(error.to_string()))?,
            logical_block: LogicalBlockSize::from_bytes(u64::from(u32_at(bytes, 12)))
                .map_err(|error| StreamFault::Header(error.to_string()))?,
        })
    }

    /// Whether this is the header of what is `wanted`; if not, what differs.
    pub(super) fn check_is(&self, wanted: &Self) -> Result<(), StreamFault> {
        let base = |header: &Self| {
            header.base.map_or_else(|| "no base".to_owned(), |base| format!("base {base}"))
        };
        if self == wanted {
            return Ok(());
        }
        Err(StreamFault::OtherExport(format!(
            "it has snapshot {}, {}, {} B in blocks of {} B; wanted is snapshot {}, {}, {} B in \
             blocks of {} B",
            self.snapshot,
            base(self),
            self.size.bytes(),
            self.logical_block.bytes(),
            wanted.snapshot,
            base(wanted),
            wanted.size.bytes(),
            wanted.logical_block.bytes(),
        )))
    }
}
