//! The VM lab: boots virtual machines with a kernel that has ublk, gives them shared LUNs, and
//! runs commands in them. End-to-end tests and the demo stand on it, because most build hosts have
//! no ublk.
//!
//! ```no_run
//! use lunar_lab::{Lab, LunSpec};
//!
//! # fn main() -> lunar_lab::Result<()> {
//! let lab = Lab::builder().luns([LunSpec::new(4 << 30)]).programs("target/release").start()?;
//! lab.node(0).exec_ok(&["modprobe", "ublk_drv"])?;
//! lab.node(0).cut()?;
//! lab.node(0).boot()?;
//! lab.down();
//! # Ok(())
//! # }
//! ```
//!
//! Layers, each of which knows only those above it in this list: [`frame`] (bytes), [`message`]
//! (payloads), [`agent`] (inside a machine) and `client` (its peer on the host), `qemu`
//! (arguments), `vm` (one process), [`Node`] (one machine over many boots), [`Lab`].
//!
//! It is lenient in one respect: a power cut kills QEMU and not the host, so a write that was
//! completed but not flushed survives it. Losing those is the simulator's job.

pub mod agent;
mod client;
mod command;
mod error;
pub mod frame;
mod host;
pub mod image;
mod initiator;
mod lab;
mod lun;
pub mod message;
mod monitor;
mod network;
mod node;
mod programs;
mod progress;
mod qemu;
mod run_dir;
mod slots;
pub mod supervisor;
mod target;
mod vm;

pub use command::{COMMAND_LIMIT, Command, Job, Output};
pub use error::{LabError, Result};
pub use initiator::{InitiatorTimeouts, LunPath};
pub use lab::{ACCEL_VARIABLE, Lab, LabBuilder, NODES_MAX};
pub use lun::{BlockStat, LUNS_MAX, Lun, LunSpec};
pub use message::Outcome;
pub use network::Network;
pub use nix::sys::signal::Signal;
pub use node::{Node, NodeState};
pub use programs::AGENT_VARIABLE;
pub use progress::say;
pub use run_dir::{KEEP_VARIABLE, RUN_VARIABLE};
pub use slots::SLOTS_VARIABLE;
pub use target::{
    CommandKind, ScsiStatus, Target, TargetCommand, TargetLog, TargetMark, TargetSpec,
};
pub use vm::REALTIME_VARIABLE;
