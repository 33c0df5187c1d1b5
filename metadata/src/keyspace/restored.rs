//! The restored flag in the records of volumes and snapshots, and records of before there was one.

use super::encoding::{DecodeError, Field};
use super::records::{SnapshotRecord, VolumeRecord};

/// A volume of version 2 was not restored.
pub(super) fn earlier_volume(
    version: u8,
    input: &mut &[u8],
) -> Option<Result<VolumeRecord, DecodeError>> {
    (version == 2).then(|| {
        Ok(VolumeRecord {
            name: Field::take(input)?,
            pool: Field::take(input)?,
            size: Field::take(input)?,
            logical_block_size: Field::take(input)?,
            head: Field::take(input)?,
            epoch: Field::take(input)?,
            state: Field::take(input)?,
            structure: Field::take(input)?,
            set: Field::take(input)?,
            restored: false,
        })
    })
}

/// A snapshot of version 1 was not restored.
pub(super) fn earlier_snapshot(
    version: u8,
    input: &mut &[u8],
) -> Option<Result<SnapshotRecord, DecodeError>> {
    (version == 1).then(|| {
        Ok(SnapshotRecord {
            name: Field::take(input)?,
            volume: Field::take(input)?,
            pool: Field::take(input)?,
            layer: Field::take(input)?,
            size: Field::take(input)?,
            logical_block_size: Field::take(input)?,
            set: Field::take(input)?,
            created_unix_seconds: Field::take(input)?,
            state: Field::take(input)?,
            restored: false,
        })
    })
}

#[cfg(test)]
mod tests {
    use lunar_proto::domain::{SnapshotState, VolumeState};
    use lunar_types::{
        Epoch, LayerId, LogicalBlockSize, Name, PoolId, SnapshotSetId, StructureNumber, VolumeId,
        VolumeSize,
    };

    use super::super::encoding::Record;
    use super::*;

    fn name() -> Name {
        "v".parse().expect("a name")
    }

    fn size() -> VolumeSize {
        VolumeSize::from_bytes(1 << 20).expect("a size")
    }

    fn volume() -> VolumeRecord {
        VolumeRecord {
            name: name(),
            pool: PoolId::from_u128(1),
            size: size(),
            logical_block_size: LogicalBlockSize::B4096,
            head: LayerId::new(7),
            epoch: Epoch::new(3),
            state: VolumeState::Ready,
            structure: StructureNumber::new(2),
            set: None,
            restored: false,
        }
    }

    fn snapshot() -> SnapshotRecord {
        SnapshotRecord {
            name: name(),
            volume: VolumeId::from_u128(2),
            pool: PoolId::from_u128(1),
            layer: Some(LayerId::new(6)),
            size: size(),
            logical_block_size: LogicalBlockSize::B4096,
            set: SnapshotSetId::from_u128(4),
            created_unix_seconds: 5,
            state: SnapshotState::Ready,
            restored: false,
        }
    }

    /// A record of the version before is read; one byte more or a later version is not.
    fn check<R: Record + PartialEq + std::fmt::Debug>(record: &R) {
        let mut bytes = record.encode();
        assert_eq!(bytes[0], R::VERSION);
        assert_eq!(bytes.pop(), Some(0), "the flag is the last field");
        bytes[0] = R::VERSION - 1;
        assert_eq!(R::decode(&bytes).as_ref(), Ok(record));
        bytes.push(0);
        assert!(matches!(R::decode(&bytes), Err(DecodeError::Trailing { count: 1, .. })));
        bytes[0] = R::VERSION + 1;
        assert!(matches!(R::decode(&bytes), Err(DecodeError::Version { .. })));
    }

    #[test]
    fn records_of_before_were_not_restored() {
        check(&volume());
        check(&snapshot());
    }
}
