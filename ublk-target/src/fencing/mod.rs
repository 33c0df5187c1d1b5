//! This node's part in fencing: it keeps itself registered at LUNs, and cuts others off.
//!
//! [`Station`] is one LUN at which the incarnation registers; `fencer` is what it does to others
//! there. The design is [docs/fencing.md](../../../docs/fencing.md), whose invariants F1 to F10 are
//! named here.

mod fencer;
mod station;

#[cfg(test)]
mod tests;

pub use station::{Station, StationError, StationParts};
