//! A volume on this node, from grant to return.
//!
//! - [`load`]: the engine's side: LUNs, stale journals, journal, dirty table, map;
//! - `chain`: the map, as the layers have it;
//! - [`device`]: the kernel's side: the ublk device and the threads of its queues;
//! - [`control`]: what the volume needs from the metadata service while it serves;
//! - `pace`: how much was written of late;
//! - [`consolidate`]: makes extents solid that are read in pieces;
//! - `prune`: gives back what a head hides;
//! - `replay`: what earlier users left in their journals;
//! - [`cut`]: a snapshot while it serves;
//! - [`grow`]: a volume that becomes larger while it serves;
//! - [`fsfreeze`]: file systems that stand still meanwhile;
//! - [`served`]: what the parts share.

mod chain;
pub mod consolidate;
pub mod control;
pub mod cut;
pub mod device;
pub mod fsfreeze;
pub mod grow;
pub mod load;
mod pace;
mod prune;
mod replay;
pub mod served;
