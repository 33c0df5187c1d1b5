//! What differs between two snapshots, as runs of bytes.

use std::fmt;

use lunar_types::SnapshotId;

use super::Selector;

/// What the second of two snapshots has where it differs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DiffKind {
    /// Blocks that it has; they may hold zeros.
    Data,
    /// Blocks that it does not have, and the first one does: they read as zeros.
    Zero,
}

impl fmt::Display for DiffKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "data",
            Self::Zero => "zero",
        })
    }
}

/// A run of bytes, of whole blocks, that differs in one way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DiffRun {
    /// The first byte.
    pub offset: u64,
    /// How many bytes; never 0.
    pub length: u64,
    /// What is there.
    pub kind: DiffKind,
}

impl DiffRun {
    /// The first byte behind it.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.offset + self.length
    }

    /// Takes the next run into this one if it goes on where this one ends; whether it did.
    #[must_use]
    pub fn join(&mut self, next: Self) -> bool {
        let joins = self.end() == next.offset && self.kind == next.kind;
        self.length += if joins { next.length } else { 0 };
        joins
    }
}

/// Asks what differs between two snapshots.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DiffSnapshots {
    /// The first snapshot. Nothing: what the second one has allocated is listed.
    pub from: Option<Selector<SnapshotId>>,
    /// The second snapshot.
    pub to: Selector<SnapshotId>,
    /// Nothing before this offset in bytes is wanted.
    pub start: u64,
}

/// A part of the differences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiffPage {
    /// Runs in order of their offset.
    pub runs: Vec<DiffRun>,
    /// All before this offset is said; never 0. Nothing: all is said.
    pub next: Option<u64>,
}
