//! fs-core, the node daemon: serves volumes as ublk devices.

pub mod admin;
pub mod config;
pub mod daemon;
pub mod fencing;
pub mod guard;
pub mod holders;
pub mod lun;
pub mod metadata;
pub mod node;
pub mod probe;
pub mod process;
pub mod queue;
pub mod reservation;
pub mod reserve;
pub mod state;
mod sys;
pub mod ublk;
pub mod volume;

#[cfg(test)]
mod testing;
