//! How large a volume is made: CSI's range, in the sizes that a pool can give.
//!
//! Invariants:
//! - a chosen size is at least what is required, at most the limit, a whole number of blocks, not
//!   smaller than what the volume begins with, and not larger than a node can attach;
//! - where there is no such size, the answer is OUT_OF_RANGE and says which bound is in the way.

use lunar_proto::csi;
use lunar_types::{
    BLOCK_BYTES, ByteCount, ExtentSize, VOLUME_BYTES_MAX, VOLUME_EXTENTS_MAX, VolumeSize,
};

use crate::errors::CsiError;

/// The size of a volume of which nothing was said.
pub const DEFAULT_BYTES: u64 = 1 << 30;

/// What a caller says of a size: bytes, checked not to be negative.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SizeRange {
    /// At least so many bytes.
    required: Option<u64>,
    /// At most so many bytes.
    limit: Option<u64>,
}

/// 0 says nothing.
fn bound(name: &str, bytes: i64) -> Result<Option<u64>, CsiError> {
    let bytes = u64::try_from(bytes).map_err(|_| {
        CsiError::invalid(format!("capacity_range.{name} is {bytes}: a size is not negative"))
    })?;
    Ok(Some(bytes).filter(|bytes| *bytes > 0))
}

impl SizeRange {
    /// The range of a request.
    ///
    /// # Errors
    /// A bound is negative, or the limit is less than what is required.
    pub fn new(range: Option<&csi::CapacityRange>) -> Result<Self, CsiError> {
        let Some(range) = range else { return Ok(Self::default()) };
        let required = bound("required_bytes", range.required_bytes)?;
        let limit = bound("limit_bytes", range.limit_bytes)?;
        match (required, limit) {
            (Some(required), Some(limit)) if limit < required => {
                let message = format!(
                    "capacity_range: limit_bytes {limit} is less than required_bytes {required}"
                );
                Err(CsiError::out_of_range(message))
            }
            _ => Ok(Self { required, limit }),
        }
    }

    /// Whether nothing was said.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.required.is_none() && self.limit.is_none()
    }

    /// Whether a volume of this size is what was asked for.
    #[must_use]
    pub fn holds(self, size: VolumeSize) -> bool {
        let bytes = size.bytes();
        self.required.is_none_or(|required| required <= bytes) && self.is_within_limit(size)
    }

    /// Whether a volume of this size is not too large.
    #[must_use]
    pub fn is_within_limit(self, size: VolumeSize) -> bool {
        self.limit.is_none_or(|limit| size.bytes() <= limit)
    }

    /// The size of a volume that begins as `base`, or empty, in a pool with such extents.
    ///
    /// # Errors
    /// No size is right.
    pub fn choose(
        self,
        base: Option<VolumeSize>,
        extent_size: ExtentSize,
    ) -> Result<VolumeSize, CsiError> {
        let unsaid = base.map_or(DEFAULT_BYTES, VolumeSize::bytes);
        let unsaid = self.limit.map_or(unsaid, |limit| limit.min(unsaid));
        let wanted = self.required.unwrap_or(unsaid - unsaid % BLOCK_BYTES).max(BLOCK_BYTES);
        let wanted = wanted.max(base.map_or(0, VolumeSize::bytes));
        let most = largest(extent_size);
        if wanted > most.bytes() {
            let (wanted, most) = (ByteCount::new(wanted), ByteCount::new(most.bytes()));
            return Err(CsiError::out_of_range(format!(
                "capacity_range: {wanted} is more than the {most} that a volume of this pool can \
                 have"
            )));
        }
        // Both are far from where this could overflow, and `most` is a whole number of blocks.
        let bytes = wanted.next_multiple_of(BLOCK_BYTES);
        let size = VolumeSize::from_bytes(bytes).expect("whole blocks, and within the limits");
        if let Some(limit) = self.limit.filter(|limit| *limit < bytes) {
            let why = match base.filter(|base| base.bytes() > limit) {
                Some(_) => "what the volume begins with has that already",
                None => "a size is a whole number of blocks of 4096 B",
            };
            return Err(CsiError::out_of_range(format!(
                "capacity_range: limit_bytes {limit} is less than {bytes}, and {why}"
            )));
        }
        Ok(size)
    }
}

/// The largest volume that a node can attach, in a pool with such extents.
#[must_use]
pub fn largest(extent_size: ExtentSize) -> VolumeSize {
    let bytes = VOLUME_BYTES_MAX.min(VOLUME_EXTENTS_MAX * extent_size.bytes());
    VolumeSize::from_bytes(bytes).expect("extents are whole blocks")
}

/// A size as CSI counts it.
#[must_use]
pub fn bytes_of(size: VolumeSize) -> i64 {
    i64::try_from(size.bytes()).expect("a volume has at most 4 PiB")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;

    const MIB: i64 = 1 << 20;

    fn range(required_bytes: i64, limit_bytes: i64) -> Result<SizeRange, CsiError> {
        SizeRange::new(Some(&csi::CapacityRange { required_bytes, limit_bytes }))
    }

    fn size(bytes: u64) -> VolumeSize {
        VolumeSize::from_bytes(bytes).expect("a size")
    }

    fn chosen(required: i64, limit: i64, base: Option<u64>) -> Result<u64, Code> {
        let range = range(required, limit).map_err(|error| error.code)?;
        let chosen = range.choose(base.map(size), ExtentSize::DEFAULT);
        chosen.map(VolumeSize::bytes).map_err(|error| error.code)
    }

    #[test]
    fn sizes_are_rounded_up_to_blocks_and_never_above_the_limit() {
        assert_eq!(chosen(0, 0, None), Ok(DEFAULT_BYTES));
        assert_eq!(chosen(1, 0, None), Ok(4096));
        assert_eq!(chosen(4097, 0, None), Ok(8192));
        assert_eq!(chosen(4097, 8192, None), Ok(8192));
        assert_eq!(chosen(4097, 8191, None), Err(Code::OutOfRange));
        assert_eq!(chosen(0, 10_000, None), Ok(8192));
        assert_eq!(chosen(0, 4095, None), Err(Code::OutOfRange));
        assert_eq!(chosen(1 << 52, 0, None), Err(Code::OutOfRange));
        assert_eq!(chosen(1 << 47, 0, None), Ok(1 << 47));
        assert_eq!(chosen(i64::MAX, i64::MAX, None), Err(Code::OutOfRange));
    }

    #[test]
    fn a_volume_is_not_smaller_than_what_it_begins_with() {
        let base = Some(8 << 20);
        assert_eq!(chosen(0, 0, base), Ok(8 << 20));
        assert_eq!(chosen(MIB, 0, base), Ok(8 << 20));
        assert_eq!(chosen(9 * MIB + 1, 0, base), Ok((9 << 20) + 4096));
        assert_eq!(chosen(MIB, 2 * MIB, base), Err(Code::OutOfRange));
        assert_eq!(chosen(0, 2 * MIB, base), Err(Code::OutOfRange));
    }

    #[test]
    fn bounds_that_contradict_each_other_or_are_negative_are_refused() {
        assert_eq!(chosen(-1, 0, None), Err(Code::InvalidArgument));
        assert_eq!(chosen(0, -1, None), Err(Code::InvalidArgument));
        assert_eq!(chosen(i64::MIN, i64::MIN, None), Err(Code::InvalidArgument));
        assert_eq!(chosen(2 * MIB, MIB, None), Err(Code::OutOfRange));
    }

    fn bytes() -> impl Strategy<Value = i64> {
        prop_oneof![
            Just(0),
            1..20_000_i64,
            (0..60_u32, -4100..4100_i64).prop_map(|(shift, by)| ((1_i64 << shift) + by).max(0)),
            0..i64::MAX,
        ]
    }

    proptest! {
        #[test]
        fn a_chosen_size_satisfies_all_or_is_out_of_range(
            required in bytes(),
            limit in bytes(),
            blocks in prop::option::of(1..(1_u64 << 20)),
            shift in 16..25_u32,
        ) {
            let extent_size = ExtentSize::from_bytes(1 << shift).expect("a size of extents");
            let base = blocks.map(|blocks| size(blocks * BLOCK_BYTES));
            let outcome = range(required, limit).and_then(|it| it.choose(base, extent_size));
            match outcome {
                Ok(chosen) => {
                    let bytes = chosen.bytes();
                    prop_assert!(bytes % BLOCK_BYTES == 0 && bytes > 0);
                    prop_assert!(i128::from(bytes) >= i128::from(required));
                    prop_assert!(limit == 0 || i128::from(bytes) <= i128::from(limit));
                    prop_assert!(base.is_none_or(|base| base <= chosen));
                    prop_assert!(chosen.extents(extent_size) <= VOLUME_EXTENTS_MAX);
                    prop_assert!(range(required, limit).expect("a range").holds(chosen));
                }
                Err(error) => {
                    prop_assert_eq!(error.code, Code::OutOfRange);
                    // There is none: neither the least size that is large enough, nor any larger.
                    let least = u64::try_from(required).expect("not negative").max(1);
                    let least = least.max(base.map_or(0, VolumeSize::bytes));
                    let least = least.next_multiple_of(BLOCK_BYTES);
                    let limit = if limit == 0 { u64::MAX } else { limit.unsigned_abs() };
                    prop_assert!(least > limit.min(largest(extent_size).bytes()));
                }
            }
        }
    }
}
