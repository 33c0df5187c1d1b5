//! LUNs of this host: opening, telling what they are, finding them, labelling them.
//!
//! - [`open`]: a device or file opened for direct I/O, and what it is like;
//! - [`signature`]: what else is on a device, by `blkid`;
//! - [`inspect`]: what a device is to us;
//! - [`inventory`]: the LUNs of the host, by their id, with all their paths;
//! - [`claims`]: whether I/O of a former process may be under way at LUNs;
//! - [`labelling`]: makes a device a LUN of the cluster;
//! - [`set`]: the open LUNs of a pool.

pub mod claims;
pub mod inspect;
pub mod inventory;
pub mod labelling;
pub mod open;
pub mod set;
pub mod signature;
