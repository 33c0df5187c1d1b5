//! The background process of `lab up`, and how the other `lab` commands speak with it.
//!
//! The supervisor owns the [`Lab`](crate::Lab) and answers on `control.sock` in its directory, one
//! request a connection, in the frames of [`crate::frame`]. When it dies, so do its machines: a
//! directory whose supervisor is gone is litter, never a running lab.

mod client;
mod server;

pub use client::{down, exec, request, start};
pub use server::serve;

use crate::lun::LunSpec;
use crate::message::ExecSpec;
use crate::run_dir::RunDir;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

const CONTROL_SOCKET: &str = "control.sock";
/// What the supervisor prints on its standard output when its nodes are up.
const READY: &str = "ready";

/// Where the control socket of a lab is.
fn control_socket(name: &str) -> PathBuf {
    RunDir::path_of(name).join(CONTROL_SOCKET)
}

/// What `lab up` was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Name of the lab.
    pub name: String,
    /// Number of nodes.
    pub nodes: usize,
    /// Number of LUNs.
    pub luns: usize,
    /// Size of each LUN in bytes.
    pub lun_bytes: u64,
    /// Whether the LUNs have a volatile write cache.
    pub write_cache: bool,
    /// Logical block size of the LUNs in bytes.
    pub logical_block_bytes: u32,
    /// Directories of programs.
    pub programs: Vec<PathBuf>,
    /// Processors of a node.
    pub cpus: u32,
    /// Memory of a node in MiB.
    pub memory_mib: u32,
}

impl Settings {
    fn lun_specs(&self) -> Vec<LunSpec> {
        let spec = LunSpec::new(self.lun_bytes)
            .write_cache(self.write_cache)
            .logical_block_bytes(self.logical_block_bytes);
        vec![spec; self.luns]
    }
}

/// A request to the supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run a command; input frames follow.
    Exec {
        /// Number of the node.
        node: usize,
        /// The command.
        spec: ExecSpec,
    },
    /// Power a node off at once.
    Cut(usize),
    /// Boot a node that is off.
    Boot(usize),
    /// Stop the processors of a node.
    Pause(usize),
    /// Let the processors of a node go on.
    Resume(usize),
    /// Power a node off in order.
    ShutDown(usize),
    /// Copy a file of the host into a node.
    Push {
        /// Number of the node.
        node: usize,
        /// Absolute path on the host.
        source: PathBuf,
        /// Absolute path in the node.
        target: String,
    },
    /// Send a file of a node.
    Pull {
        /// Number of the node.
        node: usize,
        /// Absolute path in the node.
        source: String,
    },
    /// Send the logs of a node.
    Logs(usize),
    /// Send a [`Status`].
    Status,
    /// End the lab.
    Down,
}

/// A lab as `lab status` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Its directory.
    pub directory: PathBuf,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
    /// Its LUNs.
    pub luns: Vec<LunStatus>,
}

/// One node of a [`Status`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// `running`, `paused` or `off`.
    pub state: String,
    /// Its directory with the logs.
    pub directory: PathBuf,
}

/// One LUN of a [`Status`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LunStatus {
    /// Its serial.
    pub serial: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Its device in every node.
    pub device: String,
    /// Its file on the host.
    pub file: PathBuf,
}
