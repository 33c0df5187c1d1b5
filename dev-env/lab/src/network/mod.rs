//! The networks between machines: their names, addresses and place in a machine.
//!
//! Everything is a function of the network and the machine's number, so host and agent agree
//! without speaking: no DHCP, no discovery, no name server. Addresses are the same in every lab;
//! labs do not collide because the wire is a socket in the lab's own directory (see [`switch`]).

mod switch;
mod wiring;

pub(crate) use wiring::{Plugs, Wiring};

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Kernel command line word with the number of the machine.
pub(crate) const NUMBER_PARAMETER: &str = "lunar.number";
/// Kernel command line word with the names of all machines, in the order of their numbers.
pub(crate) const MACHINES_PARAMETER: &str = "lunar.machines";
/// Kernel command line word with the networks of the machine.
pub(crate) const NETWORKS_PARAMETER: &str = "lunar.networks";

/// Bytes of a packet: jumbo frames, since without KVM each one is dear.
pub(crate) const MTU_BYTES: usize = 9000;

/// A network of the lab. Each is a wire of its own and can be cut for one machine alone.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Between the programs: fs-core, metadata service, whoever asks them.
    Control,
    /// Between initiators and the target.
    Storage,
    /// The second path between initiators and the target; there only with two paths.
    StorageB,
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Control, Self::Storage, Self::StorageB];

    /// Its name, which is also the name of its interface in the machines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Storage => "storage",
            Self::StorageB => "storage-b",
        }
    }

    fn octet(self) -> u8 {
        match self {
            Self::Control => 77,
            Self::Storage => 78,
            Self::StorageB => 79,
        }
    }

    /// The address of the machine with this number.
    pub(crate) fn address(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.octet(), 0, FIRST_HOST + number)
    }

    /// The hardware address of the machine with this number; locally administered.
    pub(crate) fn hardware_address(self, number: u8) -> HardwareAddress {
        HardwareAddress([0x52, 0x54, 0, 0x6c, self.octet(), number])
    }

    /// The name of a machine on this network: its bare name is that of the control network.
    pub(crate) fn host_name(self, machine: &str) -> String {
        match self {
            Self::Control => machine.to_owned(),
            other => format!("{machine}-{other}"),
        }
    }
}

/// Host part of the address of machine 0.
const FIRST_HOST: u8 = 10;

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|network| network.name() == text).ok_or_else(|| {
            format!("{text:?} is no network; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HardwareAddress(pub(crate) [u8; 6]);

impl fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&parts.join(":"))
    }
}

/// What a machine knows of the networks, as it stands on its kernel command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NetworkPlan {
    /// Number of this machine.
    pub(crate) number: u8,
    /// Names of all machines, in the order of their numbers.
    pub(crate) machines: Vec<String>,
    /// The networks that this machine is on.
    pub(crate) networks: Vec<Network>,
}

impl NetworkPlan {
    /// The words for the kernel command line.
    pub(crate) fn kernel_words(&self) -> String {
        let networks: Vec<_> = self.networks.iter().map(|network| network.name()).collect();
        format!(
            "{NUMBER_PARAMETER}={} {MACHINES_PARAMETER}={} {NETWORKS_PARAMETER}={}",
            self.number,
            self.machines.join(","),
            networks.join(",")
        )
    }

    /// Reads what [`NetworkPlan::kernel_words`] has written; `None` for a machine without networks.
    ///
    /// # Errors
    /// When the words are there and make no sense.
    pub(crate) fn from_words(
        word: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let Some(number) = word(NUMBER_PARAMETER) else {
            return Ok(None);
        };
        let number = number.parse().map_err(|_| format!("{NUMBER_PARAMETER}={number}"))?;
        let list = |name| word(name).unwrap_or_default();
        let machines = list(MACHINES_PARAMETER).split(',').map(str::to_owned).collect();
        let networks = list(NETWORKS_PARAMETER);
        let networks = networks.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Some(Self { number, machines, networks }))
    }

    /// The lines of `/etc/hosts` for all machines.
    pub(crate) fn hosts(&self) -> String {
        let mut text = String::new();
        for network in &self.networks {
            for (number, machine) in (0_u8..).zip(&self.machines) {
                let name = network.host_name(machine);
                text += &format!("{} {name}\n", network.address(number));
            }
        }
        text
    }

    /// Commands for `ip -batch` that set up one network.
    ///
    /// The neighbours are permanent: without a question there is no answer to miss, so a cut
    /// network is silence and never "no route to host".
    pub(crate) fn ip_commands(&self, network: Network, interface: &str) -> String {
        let name = network.name();
        let mut text = format!("link set dev {interface} name {name} mtu {MTU_BYTES} up\n");
        text += &format!("addr add {}/24 dev {name}\n", network.address(self.number));
        for (number, _) in (0_u8..).zip(&self.machines) {
            if number != self.number {
                let address = network.address(number);
                let hardware = network.hardware_address(number);
                text += &format!(
                    "neigh replace {address} lladdr {hardware} nud permanent dev {name}\n"
                );
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> NetworkPlan {
        NetworkPlan {
            number: 1,
            machines: ["node0", "node1", "target"].map(str::to_owned).to_vec(),
            networks: vec![Network::Control, Network::Storage],
        }
    }

    #[test]
    fn a_plan_survives_the_kernel_command_line() {
        let words = plan().kernel_words();
        let find = |name: &str| {
            let mut words = words.split_whitespace();
            words.find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
        };
        assert_eq!(NetworkPlan::from_words(find), Ok(Some(plan())));
        assert_eq!(NetworkPlan::from_words(|_| None), Ok(None));
    }

    #[test]
    fn every_machine_has_a_name_and_an_address_on_every_network() {
        let hosts = plan().hosts();
        assert!(hosts.contains("10.77.0.11 node1\n"), "{hosts}");
        assert!(hosts.contains("10.78.0.12 target-storage\n"), "{hosts}");
        assert_eq!(hosts.lines().count(), 6);
    }

    #[test]
    fn a_machine_knows_its_neighbours_for_ever_and_not_itself() {
        let commands = plan().ip_commands(Network::Storage, "eth1");
        assert!(commands.starts_with("link set dev eth1 name storage mtu 9000 up\n"));
        assert!(commands.contains("addr add 10.78.0.11/24 dev storage\n"));
        assert!(commands.contains("neigh replace 10.78.0.12 lladdr 52:54:00:6c:4e:02 nud perm"));
        assert!(!commands.contains("lladdr 52:54:00:6c:4e:01"), "{commands}");
    }

    #[test]
    fn networks_are_named_as_they_are_shown() {
        for network in Network::ALL {
            assert_eq!(network.to_string().parse(), Ok(network));
        }
        assert!("lan".parse::<Network>().unwrap_err().contains("control, storage"));
    }
}
