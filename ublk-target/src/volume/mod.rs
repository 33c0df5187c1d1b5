//! A volume on this node, from grant to return.
//!
//! - [`load`]: the engine's side: LUNs, stale journals, journal, dirty table, map;
//! - [`device`]: the kernel's side: the ublk device and the threads of its queues;
//! - [`control`]: what the volume needs from the metadata service while it serves;
//! - [`served`]: what the parts share.

pub mod control;
pub mod device;
pub mod load;
pub mod served;
