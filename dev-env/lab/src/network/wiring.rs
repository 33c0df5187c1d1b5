//! The host's side of the networks of one lab: its switches, and where each machine is plugged in.

use super::switch::{Port, Switch};
use super::{Network, NetworkPlan};
use crate::error::{LabError, Result};
use crate::qemu::Nic;
use std::path::Path;
use std::sync::Arc;

/// All networks of a lab; without any it is a lab of machines that have `lo` alone.
#[derive(Debug, Default)]
pub(crate) struct Wiring {
    machines: Vec<String>,
    switches: Vec<(Network, Arc<Switch>)>,
}

impl Wiring {
    /// Networks between these machines.
    pub(crate) fn new(networks: &[Network], machines: Vec<String>) -> Self {
        let switches = networks.iter().map(|network| (*network, Arc::default()));
        Self { machines, switches: switches.collect() }
    }

    /// Plugs a machine into all networks, with sockets in its directory.
    pub(crate) fn plug(&self, number: usize, directory: &Path) -> Result<Plugs> {
        if self.switches.is_empty() {
            return Ok(Plugs::default());
        }
        let number = u8::try_from(number).expect("a lab has fewer than 256 machines");
        let mut ports = Vec::new();
        for (network, switch) in &self.switches {
            let socket = directory.join(format!("{network}.sock"));
            let address = network.hardware_address(number);
            ports.push((*network, switch.add_port(address, socket)?));
        }
        let networks = self.switches.iter().map(|(network, _)| *network).collect();
        let plan = NetworkPlan { number, machines: self.machines.clone(), networks };
        Ok(Plugs { plan: Some(plan), ports })
    }

    /// Ends the switches; the machines are off and the sockets still there.
    pub(crate) fn end(&self) {
        for (_, switch) in &self.switches {
            switch.end();
        }
    }
}

/// The plugs of one machine.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plugs {
    pub(crate) plan: Option<NetworkPlan>,
    ports: Vec<(Network, Arc<Port>)>,
}

impl Plugs {
    /// The interfaces that QEMU is to have.
    pub(crate) fn nics(&self) -> Vec<Nic> {
        let number = self.plan.as_ref().map_or(0, |plan| plan.number);
        let nic = |(network, port): &(Network, Arc<Port>)| Nic {
            name: network.name(),
            address: network.hardware_address(number),
            socket: port.socket().to_owned(),
        };
        self.ports.iter().map(nic).collect()
    }

    /// The port on one network.
    pub(crate) fn port(&self, machine: &str, network: Network) -> Result<&Port> {
        let found = self.ports.iter().find(|(other, _)| *other == network);
        found.map(|(_, port)| &**port).ok_or_else(|| LabError::NoNetwork {
            machine: machine.to_owned(),
            network: network.name(),
        })
    }

    /// The networks with cut ports.
    pub(crate) fn cut_networks(&self) -> Vec<Network> {
        let cut = self.ports.iter().filter(|(_, port)| port.is_cut());
        cut.map(|(network, _)| *network).collect()
    }
}
