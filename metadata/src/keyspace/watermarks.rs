//! Watermarks in the record of a pool, and pools of before there were any.

use lunar_proto::domain::Watermarks;

use super::encoding::{DecodeError, Field, invalid};
use super::records::PoolRecord;

/// A pool of version 1 has the watermarks that every pool begins with.
pub(super) fn earlier_pool(
    version: u8,
    input: &mut &[u8],
) -> Option<Result<PoolRecord, DecodeError>> {
    (version == 1).then(|| {
        Ok(PoolRecord {
            name: Field::take(input)?,
            extent_size: Field::take(input)?,
            logical_block_size: Field::take(input)?,
            luns: Field::take(input)?,
            watermarks: Watermarks::DEFAULT,
        })
    })
}

impl Field for Watermarks {
    fn put(&self, out: &mut Vec<u8>) {
        for mark in [self.warning(), self.high(), self.critical()] {
            mark.put(out);
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let (warning, high) = (u8::take(input)?, u8::take(input)?);
        let critical = u8::take(input)?;
        let marks = Self::new(warning, high, critical);
        marks.map_err(|_| invalid("watermarks", format_args!("{warning}, {high}, {critical}")))
    }
}

#[cfg(test)]
mod tests {
    use lunar_types::{ExtentSize, LogicalBlockSize};

    use super::super::encoding::Record as _;
    use super::*;

    fn pool(watermarks: Watermarks) -> PoolRecord {
        PoolRecord {
            name: "p".parse().expect("a name"),
            extent_size: ExtentSize::DEFAULT,
            logical_block_size: LogicalBlockSize::B4096,
            luns: 3,
            watermarks,
        }
    }

    #[test]
    fn a_pool_of_version_1_has_the_default_watermarks() {
        let mut bytes = pool(Watermarks::DEFAULT).encode();
        assert_eq!(bytes[0], 2);
        bytes.truncate(bytes.len() - 3);
        bytes[0] = 1;
        assert_eq!(PoolRecord::decode(&bytes), Ok(pool(Watermarks::DEFAULT)));
        bytes.push(80);
        let trailing = DecodeError::Trailing { record: "pool", count: 1 };
        assert_eq!(PoolRecord::decode(&bytes), Err(trailing));
        bytes[0] = 3;
        let unknown = DecodeError::Version { record: "pool", found: 3, known: 2 };
        assert_eq!(PoolRecord::decode(&bytes), Err(unknown));
    }

    #[test]
    fn watermarks_out_of_order_are_not_read() {
        let marks = Watermarks::new(10, 20, 30).expect("in order");
        let mut bytes = pool(marks).encode();
        assert_eq!(PoolRecord::decode(&bytes), Ok(pool(marks)));
        *bytes.last_mut().expect("there are some") = 19;
        assert!(matches!(PoolRecord::decode(&bytes), Err(DecodeError::Invalid { .. })));
    }
}
