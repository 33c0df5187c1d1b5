//! The presence bitmap: which 4 KiB blocks of an extent hold data of their layer.

use std::fmt;

use crate::{BlockRange, ExtentSize};

/// One bit a block, in 64-bit words, block 0 in bit 0 of word 0.
///
/// Shape: `extent blocks / 64` words, at least one; bits beyond the extent's blocks are zero.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Presence {
    blocks: u32,
    words: Box<[u64]>,
}

/// The bits of `word` that a range covers: the mask for one step of a walk over words.
fn mask_in_word(range: BlockRange, word: u32) -> u64 {
    let low = range.first().max(word * 64) - word * 64;
    let high = range.end().min((word + 1) * 64) - word * 64;
    let count = high - low;
    if count == 64 { u64::MAX } else { ((1 << count) - 1) << low }
}

impl Presence {
    /// How many words a bitmap of this extent size has.
    #[must_use]
    pub const fn word_count(size: ExtentSize) -> usize {
        size.blocks().div_ceil(64) as usize
    }

    /// No block is present.
    #[must_use]
    pub fn empty(size: ExtentSize) -> Self {
        let words = vec![0; Self::word_count(size)].into_boxed_slice();
        Self { blocks: size.blocks(), words }
    }

    /// Every block is present.
    #[must_use]
    pub fn full(size: ExtentSize) -> Self {
        let mut presence = Self::empty(size);
        presence.insert(BlockRange::new(0, size.blocks()));
        presence
    }

    /// The bitmap with these words, or nothing when their number or a bit does not fit.
    #[must_use]
    pub fn from_words(size: ExtentSize, words: &[u64]) -> Option<Self> {
        let blocks = size.blocks();
        let fits = words.len() == Self::word_count(size)
            && (blocks >= 64 || words.iter().all(|word| word >> blocks == 0));
        fits.then(|| Self { blocks, words: words.into() })
    }

    /// The words, block 0 in bit 0 of the first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Blocks of the extent.
    #[must_use]
    pub const fn block_count(&self) -> u32 {
        self.blocks
    }

    /// Sets one whole word, as a journal record carries it.
    ///
    /// # Panics
    /// When the word or one of its bits lies beyond the extent.
    pub fn set_word(&mut self, word: usize, bits: u64) {
        assert!(self.blocks >= 64 || bits >> self.blocks == 0, "no bit beyond the extent");
        self.words[word] = bits;
    }

    /// Whether the block is present.
    #[must_use]
    pub fn contains(&self, block: u32) -> bool {
        assert!(block < self.blocks, "block {block} of an extent of {} blocks", self.blocks);
        self.words[block as usize / 64] >> (block % 64) & 1 == 1
    }

    /// Whether every block of the range is present.
    #[must_use]
    pub fn contains_all(&self, range: BlockRange) -> bool {
        self.words_of(range).all(|(word, mask)| self.words[word] & mask == mask)
    }

    /// Whether any block of the range is present.
    #[must_use]
    pub fn contains_any(&self, range: BlockRange) -> bool {
        self.words_of(range).any(|(word, mask)| self.words[word] & mask != 0)
    }

    /// Marks the range present.
    pub fn insert(&mut self, range: BlockRange) {
        for (word, mask) in self.words_of(range) {
            self.words[word] |= mask;
        }
    }

    /// Marks the range absent.
    pub fn remove(&mut self, range: BlockRange) {
        for (word, mask) in self.words_of(range) {
            self.words[word] &= !mask;
        }
    }

    /// How many blocks are present.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether no block is present.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Whether every block is present.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count() == self.blocks
    }

    /// The indices of the words that a range touches, each with the range's bits in it.
    ///
    /// # Panics
    /// When the range leaves the extent.
    pub fn words_of(&self, range: BlockRange) -> impl Iterator<Item = (usize, u64)> + use<> {
        assert!(range.end() <= self.blocks, "{range:?} in an extent of {} blocks", self.blocks);
        (range.first() / 64..=(range.end() - 1) / 64)
            .map(move |word| (word as usize, mask_in_word(range, word)))
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Presence({}/{})", self.count(), self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(bytes: u64) -> ExtentSize {
        ExtentSize::from_bytes(bytes).expect("a valid extent size")
    }

    #[test]
    fn ranges_set_and_clear_exactly_their_blocks() {
        for extent in [64 << 10, 256 << 10, 1 << 20, 16 << 20] {
            let blocks = size(extent).blocks();
            for (first, count) in [(0, 1), (0, blocks), (blocks - 1, 1), (3, blocks / 2), (7, 9)] {
                let range = BlockRange::new(first, count);
                let mut presence = Presence::empty(size(extent));
                presence.insert(range);
                assert_eq!(presence.count(), count);
                assert!(presence.contains_all(range));
                for block in 0..blocks {
                    assert_eq!(
                        presence.contains(block),
                        (first..first + count).contains(&block),
                        "block {block} of {range:?}"
                    );
                }
                let mut rest = Presence::full(size(extent));
                rest.remove(range);
                assert!(!rest.contains_any(range));
                assert_eq!(rest.count(), blocks - count);
            }
        }
    }

    #[test]
    fn bits_beyond_the_extent_are_refused() {
        assert!(Presence::from_words(size(64 << 10), &[1 << 16]).is_none());
        assert!(Presence::from_words(size(64 << 10), &[0xffff]).is_some_and(|p| p.is_full()));
        assert!(Presence::from_words(size(1 << 20), &[0; 3]).is_none());
    }
}
