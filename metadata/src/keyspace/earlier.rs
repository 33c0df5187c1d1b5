//! The records of volumes and snapshots as earlier versions wrote them.
//!
//! - What was there before the flag of restored ones was not restored.
//! - What was there before the content was kept may have any: it is used, and nobody formats it.

use super::contents::Content;
use super::encoding::{DecodeError, Field};
use super::records::{SnapshotRecord, VolumeRecord};

/// Version 2 ends before the restored flag, version 3 before the content.
pub(super) fn earlier_volume(
    version: u8,
    input: &mut &[u8],
) -> Option<Result<VolumeRecord, DecodeError>> {
    matches!(version, 2 | 3).then(|| {
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
            restored: if version == 2 { false } else { Field::take(input)? },
            content: Content::Used,
            origin: None,
        })
    })
}

/// Version 1 ends before the restored flag, version 2 before the content.
pub(super) fn earlier_snapshot(
    version: u8,
    input: &mut &[u8],
) -> Option<Result<SnapshotRecord, DecodeError>> {
    matches!(version, 1 | 2).then(|| {
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
            restored: if version == 1 { false } else { Field::take(input)? },
            content: Content::Used,
            group: None,
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
            content: Content::Used,
            origin: None,
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
            content: Content::Used,
            group: None,
        }
    }

    /// A record of an earlier version is what the fields that it has say; one byte more is none,
    /// and neither is a later version.
    fn check<R: Record + PartialEq + std::fmt::Debug>(record: &R, missing: &[usize]) {
        let now = record.encode();
        assert_eq!(now[0], R::VERSION);
        for (back, missing) in (1..).zip(missing) {
            let mut bytes = now[..now.len() - missing].to_vec();
            bytes[0] = R::VERSION - back;
            assert_eq!(R::decode(&bytes).as_ref(), Ok(record));
            bytes.push(0);
            assert!(matches!(R::decode(&bytes), Err(DecodeError::Trailing { count: 1, .. })));
            bytes[0] = R::VERSION + 1;
            assert!(matches!(R::decode(&bytes), Err(DecodeError::Version { .. })));
        }
    }

    #[test]
    fn records_of_before_were_not_restored_and_are_used() {
        // The content and no origin, or no group; then the flag.
        check(&volume(), &[2, 3]);
        check(&snapshot(), &[17, 18]);
    }
}
