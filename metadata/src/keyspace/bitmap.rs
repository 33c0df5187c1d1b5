//! Allocation groups: 1,024 extents of a LUN, one bit each.

use lunar_types::{ExtentAddress, ExtentRun, LunIndex, PhysicalExtent};

use super::encoding::{DecodeError, Record, take_bytes};

/// Extents of an allocation group.
pub const GROUP_EXTENTS: u64 = 1024;
const WORDS: usize = (GROUP_EXTENTS / 64) as usize;

/// Which group of a LUN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupIndex(u32);

impl GroupIndex {
    /// The group of this number.
    ///
    /// # Panics
    /// When it lies beyond the last extent that a LUN can have.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        assert!((raw as u64) < PhysicalExtent::LIMIT / GROUP_EXTENTS, "a LUN has 2^26 groups");
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The group that holds an extent, and the extent's bit in it.
    #[must_use]
    pub const fn of(extent: PhysicalExtent) -> (Self, u32) {
        let raw = extent.get();
        (Self((raw / GROUP_EXTENTS) as u32), (raw % GROUP_EXTENTS) as u32)
    }

    /// The extent of a bit of this group.
    #[must_use]
    pub const fn extent(self, bit: u32) -> PhysicalExtent {
        PhysicalExtent::new(self.0 as u64 * GROUP_EXTENTS + bit as u64)
    }
}

/// Until when extents of the quarantine are held back: until a backup is complete that was begun
/// after the one of this number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QuarantineStamp(u64);

impl QuarantineStamp {
    /// Until an operator releases them.
    pub const BY_HAND: Self = Self(u64::MAX);

    /// Wraps the raw number.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// 1,024 bits, bit 0 in bit 0 of the first word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bitmap {
    words: [u64; WORDS],
}

impl Bitmap {
    /// No bit.
    pub const EMPTY: Self = Self { words: [0; WORDS] };

    /// The first `count` bits.
    #[must_use]
    pub fn first(count: u64) -> Self {
        let word = |index: usize| match count.saturating_sub(index as u64 * 64) {
            bits @ 0..64 => (1 << bits) - 1,
            _ => u64::MAX,
        };
        Self { words: std::array::from_fn(word) }
    }

    /// Whether no bit is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// How many bits are set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether the bit is set.
    #[must_use]
    pub const fn contains(&self, bit: u32) -> bool {
        self.words[bit as usize / 64] >> (bit % 64) & 1 == 1
    }

    /// Sets the bit; says whether it was clear before.
    pub const fn insert(&mut self, bit: u32) -> bool {
        let fresh = !self.contains(bit);
        self.words[bit as usize / 64] |= 1 << (bit % 64);
        fresh
    }

    /// Clears the bit; says whether it was set before.
    pub const fn remove(&mut self, bit: u32) -> bool {
        let present = self.contains(bit);
        self.words[bit as usize / 64] &= !(1 << (bit % 64));
        present
    }

    /// The bits that are in both.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self { words: std::array::from_fn(|index| self.words[index] & other.words[index]) }
    }

    /// The bits that are in one of them.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self { words: std::array::from_fn(|index| self.words[index] | other.words[index]) }
    }

    /// The bits that are in this one only.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self { words: std::array::from_fn(|index| self.words[index] & !other.words[index]) }
    }

    /// The bits that are set, from the first on.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..WORDS as u32).flat_map(|index| {
            let mut word = self.words[index as usize];
            std::iter::from_fn(move || {
                let bit = (word != 0).then(|| word.trailing_zeros())?;
                word &= word - 1;
                Some(index * 64 + bit)
            })
        })
    }

    /// The lowest `most` bits of the set.
    #[must_use]
    pub fn lowest(&self, most: usize) -> Self {
        let mut lowest = Self::EMPTY;
        for bit in self.iter().take(most) {
            lowest.insert(bit);
        }
        lowest
    }
}

impl Record for Bitmap {
    const NAME: &'static str = "group bitmap";

    fn put_fields(&self, out: &mut Vec<u8>) {
        out.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn take_fields(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let bytes = take_bytes(input, WORDS * 8, "group bitmap")?;
        let word = |index: usize| {
            let at = index * 8;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        Ok(Self { words: std::array::from_fn(word) })
    }
}

/// The runs that the bits of a group make on a LUN, appended to `runs` and joined where they meet.
pub fn runs_of(lun: LunIndex, group: GroupIndex, bits: &Bitmap, runs: &mut Vec<ExtentRun>) {
    for bit in bits.iter() {
        let at = ExtentAddress { lun, extent: group.extent(bit) };
        match runs.last_mut() {
            Some(last) if continues(*last, at) => {
                *last = ExtentRun::new(last.first(), last.count() + 1);
            }
            _ => runs.push(ExtentRun::new(at, 1)),
        }
    }
}

fn continues(run: ExtentRun, at: ExtentAddress) -> bool {
    let first = run.first();
    first.lun == at.lun && first.extent.get() + u64::from(run.count()) == at.extent.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_set_cleared_and_listed() {
        let mut bitmap = Bitmap::EMPTY;
        for bit in [0, 63, 64, 700, 1023] {
            assert!(bitmap.insert(bit));
            assert!(!bitmap.insert(bit));
        }
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), [0, 63, 64, 700, 1023]);
        assert_eq!(bitmap.lowest(2).iter().collect::<Vec<_>>(), [0, 63]);
        assert!(bitmap.remove(63) && !bitmap.remove(63));
        assert_eq!(bitmap.count(), 4);
        assert_eq!(Bitmap::decode(&bitmap.encode()), Ok(bitmap));
    }

    #[test]
    fn the_first_bits_are_exactly_that_many() {
        for count in [0, 1, 63, 64, 65, 1000, 1023, 1024, 5000] {
            assert_eq!(u64::from(Bitmap::first(count).count()), count.min(1024), "{count}");
        }
    }

    #[test]
    fn runs_join_across_groups_of_one_lun() {
        let lun = LunIndex::new(1);
        let mut runs = Vec::new();
        let mut tail = Bitmap::EMPTY;
        tail.insert(5);
        tail.insert(1023);
        runs_of(lun, GroupIndex::new(0), &tail, &mut runs);
        runs_of(lun, GroupIndex::new(1), &Bitmap::first(2), &mut runs);
        let run = |first, count| ExtentRun::new(ExtentAddress::new(1, first), count);
        assert_eq!(runs, [run(5, 1), run(1023, 3)]);
    }
}
