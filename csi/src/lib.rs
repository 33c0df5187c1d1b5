//! The CSI driver of Lunar: Kubernetes' volumes as volumes, publications and attachments of Lunar.
//! Its design is `docs/csi.md`.
//!
//! - `controller` runs once a cluster and speaks to the metadata service alone, `node` runs on
//!   every node and speaks to the admin socket of fs-core. Neither serves I/O: both may be killed
//!   and replaced while pods read and write.
//! - Every call may be repeated, cancelled and late: what it has done is found again, and never
//!   done twice.
//!
//! Deliberately absent: extents, ublk, io_uring. The driver knows volumes and devices.

pub mod args;
pub mod capability;
pub mod controller;
pub mod errors;
pub mod file_system;
pub mod identity;
pub mod keyed_lock;
pub mod naming;
pub mod node;
pub mod paging;
pub mod parameters;
pub mod probe;
pub mod publication;
pub mod server;
pub mod sizes;
pub mod topology;
