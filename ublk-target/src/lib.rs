//! fs-core, the node daemon: serves volumes as ublk devices.

pub mod config;
pub mod holders;
pub mod lun;
pub mod process;
pub mod queue;
mod sys;
pub mod ublk;
