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
use crate::network::Network;
use crate::run_dir::RunDir;
use crate::target::TargetSpec;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
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
    /// Whether there are networks between the machines.
    pub networks: bool,
    /// Names of the machines that are no nodes.
    pub machines: Vec<String>,
    /// Number of LUNs of the target; none without one.
    pub target_luns: usize,
    /// Number of paths to the target.
    pub paths: usize,
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

    fn target(&self) -> Option<TargetSpec> {
        let spec = LunSpec::new(self.lun_bytes);
        let luns = vec![spec; self.target_luns];
        (self.target_luns > 0).then(|| TargetSpec::new(luns).paths(self.paths))
    }
}

/// A request to the supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run a command; input frames follow.
    Exec {
        /// Name of the machine.
        node: String,
        /// The command.
        spec: ExecSpec,
    },
    /// Power a node off at once.
    Cut(String),
    /// Boot a node that is off.
    Boot(String),
    /// Stop the processors of a node.
    Pause(String),
    /// Let the processors of a node go on.
    Resume(String),
    /// Power a node off in order.
    ShutDown(String),
    /// Cut a machine off from a network.
    Partition {
        /// Name of the machine.
        node: String,
        /// The network.
        network: Network,
    },
    /// End a partition.
    Heal {
        /// Name of the machine.
        node: String,
        /// The network.
        network: Network,
    },
    /// Copy a file of the host into a node.
    Push {
        /// Name of the machine.
        node: String,
        /// Absolute path on the host.
        source: PathBuf,
        /// Absolute path in the node.
        target: String,
    },
    /// Send a file of a node.
    Pull {
        /// Name of the machine.
        node: String,
        /// Absolute path in the node.
        source: String,
    },
    /// Send the logs of a node.
    Logs(String),
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
    /// Its address on each network.
    pub addresses: Vec<(Network, Ipv4Addr)>,
    /// The networks that it is cut off from.
    pub partitions: Vec<Network>,
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
    /// Its device, in every node or in the target.
    pub device: String,
    /// Its file on the host.
    pub file: PathBuf,
}
