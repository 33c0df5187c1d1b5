//! Memory that O_DIRECT accepts: whole 4 KiB blocks at addresses that are multiples of 4 KiB.

use lunar_types::BLOCK_BYTES;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; BLOCK_BYTES as usize]);

/// A buffer of whole blocks, aligned to the block.
#[derive(Clone)]
pub struct AlignedBuf {
    pages: Vec<Page>,
}

impl AlignedBuf {
    /// A buffer of `blocks` blocks of zeros.
    #[must_use]
    pub fn zeroed(blocks: usize) -> Self {
        Self { pages: vec![Page([0; BLOCK_BYTES as usize]); blocks] }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.pages.as_bytes()
    }

    /// Its bytes, to change.
    #[must_use]
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        self.pages.as_mut_bytes()
    }

    /// Its length in bytes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.pages.len() * BLOCK_BYTES as usize
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} blocks)", self.pages.len())
    }
}
