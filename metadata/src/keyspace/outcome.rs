//! What came of a request, as it is remembered.

use lunar_proto::domain::{LayerSealed, PrunedParts, SealedHead};
use lunar_types::{Epoch, ExtentRun, NodeSession, PoolId, SnapshotId, SnapshotSetId, VolumeId};

use super::encoding::{DecodeError, Field, invalid};
use super::kept::Kept;
use super::records::{SnapshotRecord, VolumeRecord};

/// What came of a request: as much as is needed to give its answer again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done; there is nothing to say.
    Done,
    /// A pool was made or changed.
    Pool(PoolId),
    /// A volume was made or is being deleted.
    Volume(VolumeId),
    /// A node has joined.
    Joined {
        /// As which process of which incarnation.
        session: NodeSession,
        /// Whether it is the former one.
        resumed: bool,
    },
    /// A volume was granted.
    Attached {
        /// The volume.
        volume: VolumeId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Extents were reserved.
    Reserved(Vec<ExtentRun>),
    /// A set of snapshots was stored.
    SnapshotSet(SnapshotSetId),
    /// The deletion of a snapshot began.
    Snapshot(SnapshotId),
    /// A head was sealed without a set.
    Sealed(LayerSealed),
    /// Parts were taken out of a head.
    Pruned(PrunedParts),
    /// The deletion of a volume began, which was this.
    VolumeDeleted(VolumeId, Kept<VolumeRecord>),
    /// The deletion of a snapshot began, which was this.
    SnapshotDeleted(SnapshotId, Kept<SnapshotRecord>),
}

impl Field for Outcome {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Done => 0_u8.put(out),
            Self::Pool(pool) => {
                1_u8.put(out);
                pool.put(out);
            }
            Self::Volume(volume) => {
                2_u8.put(out);
                volume.put(out);
            }
            Self::Joined { session, resumed } => {
                3_u8.put(out);
                session.put(out);
                resumed.put(out);
            }
            Self::Attached { volume, epoch } => {
                4_u8.put(out);
                volume.put(out);
                epoch.put(out);
            }
            Self::Reserved(runs) => {
                5_u8.put(out);
                runs.put(out);
            }
            Self::SnapshotSet(set) => {
                6_u8.put(out);
                set.put(out);
            }
            Self::Snapshot(snapshot) => {
                7_u8.put(out);
                snapshot.put(out);
            }
            Self::Sealed(LayerSealed { now, before }) => {
                8_u8.put(out);
                now.head.put(out);
                now.next_head.put(out);
                now.last_commit.put(out);
                before.put(out);
            }
            Self::Pruned(pruned) => {
                9_u8.put(out);
                pruned.put(out);
            }
            Self::VolumeDeleted(volume, was) => {
                10_u8.put(out);
                volume.put(out);
                was.put(out);
            }
            Self::SnapshotDeleted(snapshot, was) => {
                11_u8.put(out);
                snapshot.put(out);
                was.put(out);
            }
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(match u8::take(input)? {
            0 => Self::Done,
            1 => Self::Pool(Field::take(input)?),
            2 => Self::Volume(Field::take(input)?),
            3 => Self::Joined { session: Field::take(input)?, resumed: Field::take(input)? },
            4 => Self::Attached { volume: Field::take(input)?, epoch: Field::take(input)? },
            5 => Self::Reserved(Field::take(input)?),
            6 => Self::SnapshotSet(Field::take(input)?),
            7 => Self::Snapshot(Field::take(input)?),
            8 => {
                let (head, next_head) = (Field::take(input)?, Field::take(input)?);
                let now = SealedHead { head, next_head, last_commit: Field::take(input)? };
                Self::Sealed(LayerSealed { now, before: Field::take(input)? })
            }
            9 => Self::Pruned(Field::take(input)?),
            10 => Self::VolumeDeleted(Field::take(input)?, Field::take(input)?),
            11 => Self::SnapshotDeleted(Field::take(input)?, Field::take(input)?),
            other => return Err(invalid("outcome", other)),
        })
    }
}
