//! The ublk driver as fs-core uses it: control commands, device parameters, features.
//!
//! Only the protocol of the `libublk` crate is used, its structures and numbers. Its control and
//! queue types are not: they hide errors (EBUSY counts as success), keep files of their own
//! outside of our state directory, and bind a ring to a thread. See
//! `docs/decisions/0011-own-rings-for-ublk.md`.

pub mod control;
pub mod features;
pub mod params;
pub mod stop_helper;

pub use control::{Control, DeviceId, DeviceInfo, DeviceState, NewDevice, UblkError};
