//! Ranges of keys and how they are read.

/// Every key from `begin` to just before `end`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRange {
    /// The first key that belongs.
    pub begin: Vec<u8>,
    /// The first key that does not.
    pub end: Vec<u8>,
}

impl KeyRange {
    /// The range of one key alone.
    #[must_use]
    pub fn point(key: &[u8]) -> Self {
        Self { begin: key.to_vec(), end: successor(key) }
    }

    /// The range from a key to another.
    #[must_use]
    pub fn new(begin: Vec<u8>, end: Vec<u8>) -> Self {
        Self { begin, end }
    }

    /// Whether the key belongs.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.begin.as_slice() <= key && key < self.end.as_slice()
    }

    /// Whether a key belongs to both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.begin < other.end && other.begin < self.end && !self.is_empty() && !other.is_empty()
    }

    /// Whether no key can belong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.begin >= self.end
    }
}

/// The key right after this one.
#[must_use]
pub(crate) fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = key.to_vec();
    next.push(0);
    next
}

/// From which end a range is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The least key first.
    Forward,
    /// The greatest key first.
    Reverse,
}

/// Whether a later change of what was read makes the commit fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isolation {
    /// It does.
    Serializable,
    /// It does not: what is read is a hint.
    Snapshot,
}

/// A read of a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeRead {
    /// Which keys.
    pub range: KeyRange,
    /// The most keys of the answer.
    pub limit: usize,
    /// From which end.
    pub direction: Direction,
    /// What a later change means.
    pub isolation: Isolation,
}

impl RangeRead {
    /// The first keys of a range, serializable.
    #[must_use]
    pub fn first(range: KeyRange, limit: usize) -> Self {
        Self { range, limit, direction: Direction::Forward, isolation: Isolation::Serializable }
    }

    /// The same read as a hint only.
    #[must_use]
    pub fn as_snapshot(self) -> Self {
        Self { isolation: Isolation::Snapshot, ..self }
    }

    /// The same read from the other end.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { direction: Direction::Reverse, ..self }
    }
}
