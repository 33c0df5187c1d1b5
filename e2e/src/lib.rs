//! End-to-end tests and the demo: the whole product on a real kernel with real ublk.
//!
//! - [`machine`]: where commands run: a virtual machine of the lab, or this host.
//! - [`session`]: runs commands as a person would; the demo shows them.
//! - [`product`]: the two daemons of a node, started, stopped and killed.
//! - [`cluster`]: several nodes, a metadata service and a target with reservations;
//! - [`takeover`]: a node is lost in some way, another takes its volume over, and nothing is stale;
//! - [`lost_node`]: the same as a person wants to see it;
//! - [`stamp`]: what each block of a load says of itself;
//! - [`load`]: a load that can be repeated, and what a device may show of it;
//! - [`recorder`]: that load as a program on a machine;
//! - [`log_writes`]: what a power cut could have left of a recorded device at any moment;
//! - [`csi`]: the CSI driver on a machine;
//! - [`main_job`]: the main job, step by step; both the demo and a test.
//!
//! Deliberately absent: anything that knows the inside of the product. It is used through its
//! programs only.

pub mod cluster;
pub mod csi;
pub mod load;
pub mod log_writes;
pub mod lost_node;
pub mod machine;
pub mod main_job;
pub mod product;
pub mod recorder;
pub mod session;
pub mod stamp;
pub mod takeover;
