//! Volumes that another node may have too: one of the two owns the volume, the other one's device
//! waits. See `docs/migration.md`.
//!
//! - [`turn`]: how long an owner keeps the volume;
//! - `wishes`: what the other nodes want of the volumes that are owned here;
//! - `release`: from a device that serves to one that waits;
//! - `waiting`: a device that waits, and what it waits for;
//! - `take`: from a device that waits to one that serves;
//! - `recover`: moves that were cut off;
//! - `share`: how a node becomes a peer, and ceases to be one.
//!
//! Invariants (M1 to M6 there):
//! - a device that waits reaches no LUN, and nothing of the volume is open for it;
//! - from the first word of a release to its answer nothing is served;
//! - what goes wrong between two states is recovered as what a killed predecessor has left: the
//!   record says how far it came, and no second way leads out;
//! - a device that was started is not removed by a move that fails.

mod recover;
mod release;
mod share;
mod take;
pub mod turn;
mod waiting;
mod wishes;

pub use turn::Turn;
pub use waiting::Waiting;
pub(super) use wishes::Wishes;

#[cfg(test)]
mod tests;
