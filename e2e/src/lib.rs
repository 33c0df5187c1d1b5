//! End-to-end tests and the demo: the whole product on a real kernel with real ublk.
//!
//! - [`machine`]: where commands run: a virtual machine of the lab, or this host.
//! - [`session`]: runs commands as a person would; the demo shows them.
//! - [`product`]: the two daemons of a node, started, stopped and killed.
//! - [`log_writes`]: what a power cut could have left of a recorded device at any moment;
//! - [`main_job`]: the main job, step by step; both the demo and a test.
//!
//! Deliberately absent: anything that knows the inside of the product. It is used through its
//! programs only.

pub mod log_writes;
pub mod machine;
pub mod main_job;
pub mod product;
pub mod session;
