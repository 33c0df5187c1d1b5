//! Where an extent is: in a volume, on a LUN, in a pool.

use std::fmt;

/// Position of an extent from the start of a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogicalExtent(u64);

impl LogicalExtent {
    /// Wraps the raw position.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// The raw position.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LogicalExtent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which LUN of its pool: given at the LUN's joining, never given again in the pool.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LunIndex(u16);

impl LunIndex {
    /// One more than the greatest index: a packed map entry has 10 bits for it.
    pub const LIMIT: u16 = 1024;

    /// The LUN of this index.
    ///
    /// # Panics
    /// At or beyond [`LunIndex::LIMIT`]; input is checked with [`LunIndex::try_new`].
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        assert!(raw < Self::LIMIT, "a pool has fewer than 1,024 LUN indices");
        Self(raw)
    }

    /// The LUN of this index, or nothing beyond the limit.
    #[must_use]
    pub const fn try_new(raw: u16) -> Option<Self> {
        if raw < Self::LIMIT { Some(Self(raw)) } else { None }
    }

    /// The raw index.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for LunIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of an extent in the data area of a LUN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PhysicalExtent(u64);

impl PhysicalExtent {
    /// One more than the greatest position: a packed map entry has 36 bits for it.
    pub const LIMIT: u64 = 1 << 36;

    /// The extent at this position.
    ///
    /// # Panics
    /// At or beyond [`PhysicalExtent::LIMIT`]; input is checked with
    /// [`PhysicalExtent::try_new`].
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        assert!(raw < Self::LIMIT, "a LUN has fewer than 2^36 extents");
        Self(raw)
    }

    /// The extent at this position, or nothing beyond the limit.
    #[must_use]
    pub const fn try_new(raw: u64) -> Option<Self> {
        if raw < Self::LIMIT { Some(Self(raw)) } else { None }
    }

    /// The raw position.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for PhysicalExtent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An extent of a pool: a LUN and a position in its data area.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExtentAddress {
    /// The LUN.
    pub lun: LunIndex,
    /// The position on it.
    pub extent: PhysicalExtent,
}

impl ExtentAddress {
    /// The extent at raw numbers, for tests and fixtures.
    #[must_use]
    pub const fn new(lun: u16, extent: u64) -> Self {
        Self { lun: LunIndex::new(lun), extent: PhysicalExtent::new(extent) }
    }
}

impl fmt::Display for ExtentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lun, self.extent)
    }
}

/// Neighbouring extents of one LUN; never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExtentRun {
    first: ExtentAddress,
    count: u32,
}

impl ExtentRun {
    /// `count` extents from `first` on.
    ///
    /// # Panics
    /// When `count` is zero or the run leaves the address range.
    #[must_use]
    pub const fn new(first: ExtentAddress, count: u32) -> Self {
        assert!(count > 0, "a run holds at least one extent");
        assert!(first.extent.0 + count as u64 <= PhysicalExtent::LIMIT, "a run stays on its LUN");
        Self { first, count }
    }

    /// The first extent.
    #[must_use]
    pub const fn first(self) -> ExtentAddress {
        self.first
    }

    /// How many extents.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// Every extent of the run in order.
    pub fn iter(self) -> impl Iterator<Item = ExtentAddress> {
        let ExtentAddress { lun, extent } = self.first;
        (extent.0..extent.0 + u64::from(self.count))
            .map(move |raw| ExtentAddress { lun, extent: PhysicalExtent(raw) })
    }

    /// Whether the run holds this extent.
    #[must_use]
    pub fn contains(self, at: ExtentAddress) -> bool {
        let first = self.first.extent.0;
        at.lun == self.first.lun && (first..first + u64::from(self.count)).contains(&at.extent.0)
    }
}

impl fmt::Display for ExtentRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.first, self.count)
    }
}
