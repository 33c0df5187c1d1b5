//! The initiators: how the machines get at the LUNs of the lab's target.
//!
//! open-iscsi with a static record for each portal: no discovery, nothing that outlives a boot.
//! Nothing makes device links in the machines, so LUNs are found by their name in sysfs.

use crate::command::Command;
use crate::error::{LabError, Result};
use crate::network::Network;
use crate::node::Node;
use crate::progress::{now, pause};
use std::net::Ipv4Addr;
use std::time::Duration;

/// Kernel modules of an initiator.
pub(crate) const MODULES: [&str; 2] = ["iscsi_tcp", "sd_mod"];

const SCRIPT: &str = include_str!("initiator.sh");
/// Where it is in a machine that has connected since its boot.
const SCRIPT_FILE: &str = "/run/lunar-lab/initiator.sh";
/// From a login to the devices of all LUNs.
const DEVICES_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(200);
/// Digits of the unit serial that LIO puts into the NAA name, after its own company id.
const NAA_DIGITS: usize = 25;

/// The iSCSI name of a machine.
pub(crate) fn name_of(machine: &str) -> String {
    format!("iqn.2024-01.storage.lunar.lab:{machine}")
}

/// What an initiator does when its target is silent. Whole seconds.
///
/// The initiator asks an idle target every `noop_interval` for a sign of life and gives up the
/// connection after `noop_timeout` without one. From then on requests wait for a new connection
/// for `replacement`; then they fail with EIO, and so do all later ones, at once, until the target
/// is back. So requests hang for at most the sum of the three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitiatorTimeouts {
    /// Between two questions to a target that is silent; 0 asks never: requests hang for ever.
    pub noop_interval: Duration,
    /// How long an answer may take.
    pub noop_timeout: Duration,
    /// How long requests wait for a new connection.
    pub replacement: Duration,
}

impl Default for InitiatorTimeouts {
    /// 3 s, 5 s and 10 s.
    fn default() -> Self {
        Self {
            noop_interval: Duration::from_secs(3),
            noop_timeout: Duration::from_secs(5),
            replacement: Duration::from_secs(10),
        }
    }
}

/// What an initiator has to know of the target.
#[derive(Debug, Clone)]
pub(crate) struct Initiator {
    pub(crate) target: String,
    pub(crate) portals: Vec<Portal>,
    pub(crate) port: u16,
    /// Serial and unit serial of each LUN.
    pub(crate) luns: Vec<(String, String)>,
    pub(crate) timeouts: InitiatorTimeouts,
}

/// An address of the target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portal {
    pub(crate) network: Network,
    pub(crate) address: Ipv4Addr,
}

/// A device of a node behind which there is a LUN of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LunPath {
    /// The network that it goes over.
    pub network: Network,
    /// The device, for example `/dev/sda`; another one after each login.
    pub device: String,
}

impl Initiator {
    pub(crate) fn lun(&self, index: usize) -> Result<&(String, String)> {
        let count = self.luns.len();
        self.luns.get(index).ok_or_else(|| {
            LabError::Settings(format!("there is no LUN {index}: the target has {count}"))
        })
    }

    fn configuration(&self) -> String {
        let InitiatorTimeouts { noop_interval, noop_timeout, replacement } = self.timeouts;
        format!(
            "node.startup = manual\n\
             node.session.scan = auto\n\
             node.session.timeo.replacement_timeout = {}\n\
             node.session.initial_login_retry_max = 4\n\
             node.conn[0].timeo.login_timeout = 5\n\
             node.conn[0].timeo.logout_timeout = 5\n\
             node.conn[0].timeo.noop_out_interval = {}\n\
             node.conn[0].timeo.noop_out_timeout = {}\n\
             node.session.err_timeo.abort_timeout = 5\n\
             node.session.err_timeo.lu_reset_timeout = 10\n\
             node.session.err_timeo.tgt_reset_timeout = 10\n\
             node.session.cmds_max = 128\n\
             node.session.queue_depth = 32\n",
            replacement.as_secs(),
            noop_interval.as_secs(),
            noop_timeout.as_secs(),
        )
    }

    /// The paths of one LUN among the lines that `initiator.sh` prints for all devices.
    fn paths(&self, unit: &str, listing: &str) -> Vec<LunPath> {
        let mut paths: Vec<LunPath> = listing
            .lines()
            .filter_map(|line| {
                let [name, address, device] = line.split(' ').collect::<Vec<_>>()[..] else {
                    return None;
                };
                let address: Ipv4Addr = address.parse().ok()?;
                let portal = self.portals.iter().find(|portal| portal.address == address)?;
                let ours = name.strip_prefix("naa.6001405")? == &unit[..NAA_DIGITS];
                let device = device.to_owned();
                ours.then_some(LunPath { network: portal.network, device })
            })
            .collect();
        paths.sort_by_key(|path| path.network);
        paths
    }
}

impl Node {
    fn initiator(&self) -> Result<&Initiator> {
        self.initiator.as_deref().ok_or_else(|| {
            LabError::Settings(format!("{}: the lab has no target to connect to", self.name()))
        })
    }

    /// Logs in at the target over every path and waits for the devices of all LUNs. A lab does so
    /// when it starts; a test does after [`Node::boot`].
    ///
    /// Links are made as udev would: `/dev/disk/by-id/scsi-<serial>` for a LUN (its first path) and
    /// `/dev/disk/by-path/<network>-<serial>` for each path.
    ///
    /// # Errors
    /// When the lab has no target, or the target does not let it in or shows too few LUNs.
    pub fn connect_luns(&self) -> Result<()> {
        let initiator = self.initiator()?;
        self.write_file("/etc/iscsi/iscsid.conf", initiator.configuration(), 0o600)?;
        let portals = initiator.portals.iter();
        let portals: Vec<_> =
            portals.map(|portal| format!("{}:{}", portal.address, initiator.port)).collect();
        self.write_file(SCRIPT_FILE, SCRIPT, 0o644)?;
        let login = self.step("login").env("TARGET", &initiator.target);
        login.env("PORTALS", portals.join(" ")).run_ok()?;
        let deadline = now() + DEVICES_LIMIT;
        loop {
            let listing = self.list_devices()?;
            let luns = initiator.luns.iter();
            let luns: Vec<_> = luns
                .map(|(serial, unit)| (serial.as_str(), initiator.paths(unit, &listing)))
                .collect();
            if luns.iter().all(|(_, paths)| paths.len() == initiator.portals.len()) {
                return self.link_devices(&luns);
            }
            if now() > deadline {
                let what = format!("a login at the target: it shows {luns:?}; devices: {listing}");
                let node = self.name().to_owned();
                return Err(LabError::NoAnswer { node, what, limit: DEVICES_LIMIT });
            }
            pause(POLL);
        }
    }

    fn list_devices(&self) -> Result<String> {
        Ok(self.step("list").run_ok()?.stdout_text())
    }

    fn step(&self, step: &str) -> Command<'_> {
        self.command(&["bash", "-euo", "pipefail", SCRIPT_FILE]).env("STEP", step)
    }

    fn link_devices(&self, luns: &[(&str, Vec<LunPath>)]) -> Result<()> {
        let mut script = "mkdir -p /dev/disk/by-id /dev/disk/by-path\n".to_owned();
        for (serial, paths) in luns {
            for (index, LunPath { network, device }) in paths.iter().enumerate() {
                let link = format!("/dev/disk/by-path/{network}-{serial}");
                script += &format!("ln -sfn {device} {link}\n");
                if index == 0 {
                    script += &format!("ln -sfn {device} /dev/disk/by-id/scsi-{serial}\n");
                }
            }
        }
        self.sh(&script).map(|_| ())
    }

    /// The devices of a LUN of the target, one for each path, in the order of the networks.
    ///
    /// # Errors
    /// When the lab has no target or no such LUN, or the machine is off or has not connected.
    pub fn lun_paths(&self, index: usize) -> Result<Vec<LunPath>> {
        let initiator = self.initiator()?;
        let (_, unit) = initiator.lun(index)?;
        Ok(initiator.paths(unit, &self.list_devices()?))
    }

    /// The device of a LUN of the target, over its first path.
    ///
    /// # Errors
    /// As [`Node::lun_paths`], and when the node does not see the LUN.
    pub fn lun_path(&self, index: usize) -> Result<String> {
        let first = self.lun_paths(index)?.into_iter().next();
        first.map(|path| path.device).ok_or_else(|| {
            let node = self.name();
            LabError::Settings(format!("{node} does not see LUN {index}: call connect_luns first"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_by_name_and_told_apart_by_address() {
        let portal = |network: Network| Portal { network, address: network.address(2) };
        let unit = "0123456789abcdef0123456789abcdef";
        let initiator = Initiator {
            target: "iqn.x".to_owned(),
            portals: vec![portal(Network::Storage), portal(Network::StorageB)],
            port: 3260,
            luns: vec![("iscsi0".to_owned(), unit.to_owned())],
            timeouts: InitiatorTimeouts::default(),
        };
        let listing = "naa.60014050123456789abcdef012345678 10.79.0.12 /dev/sdb\n\
                       naa.60014050123456789abcdef012345678 10.78.0.12 /dev/sda\n\
                       naa.6001405ffffffffffffffffffffffff 10.78.0.12 /dev/sdc\n\
                       naa.60014050123456789abcdef012345678 - /dev/sdd\n";
        let devices: Vec<_> = initiator.paths(unit, listing);
        let devices: Vec<_> = devices.iter().map(|path| path.device.as_str()).collect();
        assert_eq!(devices, ["/dev/sda", "/dev/sdb"]);
        assert!(initiator.lun(1).unwrap_err().to_string().contains("the target has 1"));
    }
}
