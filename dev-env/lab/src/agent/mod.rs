//! The agent inside a machine: process 1 and the server of the lab's channel.
//!
//! - `lab-agent init` is process 1: it mounts, names the machine, starts `lab-agent serve` and
//!   reaps orphans. When the server ends it powers the machine off, so the host always notices.
//! - `lab-agent serve` answers frames on the virtio-serial port `lunar.agent`.
//!
//! They are two processes because process 1 must wait for any child, which would steal the exit
//! codes of the server's jobs.

mod init;
mod job;
mod network;
mod serve;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Name of the virtio-serial port that carries the frames.
pub const AGENT_PORT: &str = "lunar.agent";
/// Name of the virtio-serial port that takes the agent's log.
pub const LOG_PORT: &str = "lunar.log";
/// Serial of the read-only disk with the programs.
pub const PROGRAMS_SERIAL: &str = "lunar-programs";
/// Serial of the disk that survives a power cut.
pub const DATA_SERIAL: &str = "lunar-data";
/// Where the programs disk is mounted; its `bin` is first in `PATH`.
pub const PROGRAMS_MOUNT: &str = "/opt/lunar";
/// Where the disk that survives a power cut is mounted.
pub const DATA_MOUNT: &str = "/var/lib/lunar";
/// Kernel command line word that names the node.
pub const NODE_PARAMETER: &str = "lunar.node";

/// Kernel command line word with the modules that are loaded before all processors run.
pub const MODULES_PARAMETER: &str = "lunar.modules";

/// Runs the agent; does not return when it is process 1.
pub fn main() -> std::process::ExitCode {
    let role = std::env::args().nth(1);
    let result = match role.as_deref() {
        Some("init") if std::process::id() == 1 => init::run(),
        Some("init") => Err(io::Error::other("init must be process 1 of a lab machine")),
        Some("serve") => serve::run(),
        _ => Err(io::Error::other("usage: lab-agent init|serve (only inside a lab machine)")),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            log(&format!("failed: {error}"));
            std::process::ExitCode::FAILURE
        }
    }
}

/// Writes a line to standard error: the console for `init`, the log port for `serve`.
fn log(text: &str) {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = uptime.split(' ').next().unwrap_or_default();
    // Nobody is left to tell when the log itself cannot be written.
    let _ = writeln!(io::stderr(), "[{seconds:>8}] lab-agent: {text}");
}

/// The device of the virtio-serial port with this name.
fn port_path(name: &str) -> io::Result<PathBuf> {
    for entry in std::fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let found = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim() == name {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::other(format!("the machine has no virtio-serial port {name}")))
}

/// The value of a word `name=value` on the kernel command line.
fn kernel_parameter(name: &str) -> Option<String> {
    let line = std::fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        .map(str::to_owned)
}
