//! Units, ids, epochs, geometry and slots: the plain values every other crate speaks in.
//!
//! Invariants:
//! - a unit is a type: a block index, an extent index and a byte count never mix silently;
//! - a value that exists is valid: constructors check, fields that carry an invariant are private;
//! - nothing here does I/O, knows time, or allocates beyond what the value holds.
//!
//! Deliberately absent: serialisation. On-LUN formats live in `engine`, wire formats in `proto`,
//! stored values in `metadata`; each of them converts explicitly.

mod address;
mod counter_id;
mod freed;
mod geometry;
mod ids;
mod names;
mod presence;
mod registration_key;
mod size;
mod slot;

pub use address::{ExtentAddress, ExtentRun, LogicalExtent, LunIndex, PhysicalExtent};
pub use freed::Freed;
pub use geometry::{
    BLOCK_BYTES, BLOCK_SHIFT, BlockCount, BlockIndex, BlockRange, ExtentSize, ExtentSizeError,
    LUN_DATA_START_BYTES, LUN_DATA_TAIL_BYTES, LogicalBlockSize, LogicalBlockSizeError,
    VOLUME_BYTES_MAX, VOLUME_EXTENTS_MAX, VolumeSize, VolumeSizeError,
};
pub use ids::{
    BootId, ClusterId, CommitNumber, Epoch, FormatToken, IdParseError, Incarnation, JournalSeq,
    LayerId, LunId, NodeId, NodeIncarnation, NodeSession, PoolId, PublicationId, RequestId,
    SessionNumber, SnapshotGroupId, SnapshotId, SnapshotSetId, StructureNumber, VolumeId,
};
pub use names::{Name, NameError};
pub use presence::Presence;
pub use registration_key::{ClusterTag, RegistrationKey};
pub use size::{ByteCount, SizeParseError};
pub use slot::{Slot, SlotPlace};
