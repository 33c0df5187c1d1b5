//! The resolved map of an attached volume: one atomic word a logical extent, and slot lists for
//! the extents that one word cannot describe.
//!
//! Invariants:
//! - a solid entry's extent holds every block of its logical extent;
//! - a slot list is ordered head first and ends at its first slot that hides all below;
//! - a slot is owned by the head layer exactly when its generation is the head's.

mod entry;
mod resolved;
mod split;

pub use entry::{Entry, Generation};
pub use resolved::{ResolvedMap, ResolvedMapError};
pub use split::{LayerSlot, Split, SplitArena, SplitIndex};
