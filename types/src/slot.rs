//! The slot: what one layer says of one logical extent.

use crate::{ExtentAddress, ExtentSize, Presence};

/// Where the data of a slot is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SlotPlace {
    /// On this extent, as far as blocks are present.
    Extent(ExtentAddress),
    /// Nowhere: the whole extent reads as zeros and has no storage.
    Zero,
}

/// What one layer says of one logical extent.
///
/// A block that is present is read from the slot's extent. A block that is absent is read from
/// the layer below, unless the slot is `opaque`: then it reads as zeros. At the bottom absent
/// blocks read as zeros.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Slot {
    /// Where the data is.
    pub place: SlotPlace,
    /// Whether absent blocks read as zeros even where a layer below has data.
    pub opaque: bool,
    /// Which blocks are present; empty for [`SlotPlace::Zero`].
    pub presence: Presence,
}

impl Slot {
    /// A slot on an extent with no block present yet.
    #[must_use]
    pub fn fresh(at: ExtentAddress, size: ExtentSize) -> Self {
        Self { place: SlotPlace::Extent(at), opaque: false, presence: Presence::empty(size) }
    }

    /// The slot that reads as zeros and has no storage.
    #[must_use]
    pub fn zero(size: ExtentSize) -> Self {
        Self { place: SlotPlace::Zero, opaque: true, presence: Presence::empty(size) }
    }

    /// The extent that the slot owns, if it has storage.
    #[must_use]
    pub const fn extent(&self) -> Option<ExtentAddress> {
        match self.place {
            SlotPlace::Extent(at) => Some(at),
            SlotPlace::Zero => None,
        }
    }
}
