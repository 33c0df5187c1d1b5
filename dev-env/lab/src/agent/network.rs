//! The networks of a machine: found by hardware address, named, addressed.

use super::{kernel_parameter, log};
use crate::network::NetworkPlan;
use std::fs;
use std::io::{self, Write};
use std::process::{Command, Stdio};

/// What the kernel command line says of networks; `None` for a machine with `lo` alone.
pub(super) fn plan() -> io::Result<Option<NetworkPlan>> {
    NetworkPlan::from_words(kernel_parameter).map_err(io::Error::other)
}

/// Brings up `lo` and every network of the plan.
pub(super) fn bring_up(plan: Option<&NetworkPlan>) -> io::Result<()> {
    let mut commands = "link set dev lo up\n".to_owned();
    if let Some(plan) = plan {
        let interfaces = interfaces()?;
        for network in &plan.networks {
            let wanted = network.hardware_address(plan.number).to_string();
            let found = interfaces.iter().find(|(_, address)| *address == wanted);
            let Some((interface, _)) = found else {
                let text = format!("no interface {wanted} for the network {network}");
                return Err(io::Error::other(text));
            };
            commands += &plan.ip_commands(*network, interface);
        }
        log(&format!("networks: {:?}", plan.networks));
    }
    run_ip(&commands)
}

/// Kernel name and hardware address of each interface.
fn interfaces() -> io::Result<Vec<(String, String)>> {
    let mut interfaces = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        let name = entry.file_name().to_string_lossy().into_owned();
        interfaces.push((name, address.trim().to_owned()));
    }
    Ok(interfaces)
}

/// Runs all commands in one process: each one costs a boot as much as a disk.
fn run_ip(commands: &str) -> io::Result<()> {
    let mut child =
        Command::new("/usr/sbin/ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(commands.as_bytes())?;
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip -batch: {status}; it was told:\n{commands}")))
}
