//! The two parts of the CSI driver on one machine, and a kubelet's directory for them.

use crate::machine::{Background, Machine, MachineError};
use crate::product::{end, until_ready};
use crate::session::LIMIT;
use lunar_lab::Signal;

/// Where the driver serves.
pub const CONTROLLER_SOCKET: &str = "/run/csi/controller.sock";
/// Where the part of the node serves.
pub const NODE_SOCKET: &str = "/run/csi/node.sock";
/// The directory of kubelet.
pub const KUBELET: &str = "/var/lib/kubelet";
/// What both parts log once they answer.
const READY: &str = "serving";

/// Makes kubelet's directory, whose mounts spread as they do on a host with systemd.
///
/// # Errors
/// When it cannot be made.
pub fn prepare(machine: &dyn Machine) -> Result<(), MachineError> {
    let script = format!(
        "mkdir -p /run/csi {KUBELET}
         mountpoint -q {KUBELET} || mount --bind {KUBELET} {KUBELET}
         mount --make-rshared {KUBELET}"
    );
    machine.sh(&script, LIMIT)?.expect_code(0)?;
    Ok(())
}

/// Both parts of the driver.
pub struct Drivers<'m> {
    machine: &'m dyn Machine,
    controller: Option<Box<dyn Background>>,
    node: Option<Box<dyn Background>>,
}

impl<'m> Drivers<'m> {
    /// Starts both.
    ///
    /// # Errors
    /// When one does not come up; its log is in the message.
    pub fn start(machine: &'m dyn Machine) -> Result<Self, MachineError> {
        prepare(machine)?;
        let mut drivers = Self { machine, controller: None, node: None };
        drivers.start_controller()?;
        drivers.start_node()?;
        Ok(drivers)
    }

    /// Starts the part of the cluster.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_controller(&mut self) -> Result<(), MachineError> {
        let argv = ["csi-driver", "controller", "--endpoint", CONTROLLER_SOCKET];
        let driver = self.controller.insert(self.machine.start(&argv)?);
        until_ready("the controller part of the driver", driver.as_ref(), READY)
    }

    /// Starts the part of the node.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_node(&mut self) -> Result<(), MachineError> {
        let argv = ["csi-driver", "node", "--endpoint", NODE_SOCKET];
        let driver = self.node.insert(self.machine.start(&argv)?);
        until_ready("the node part of the driver", driver.as_ref(), READY)
    }

    /// Kills the part of the cluster on the spot.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_controller(&mut self) -> Result<(), MachineError> {
        end(self.controller.take(), Signal::SIGKILL)
    }

    /// Kills the part of the node on the spot.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_node(&mut self) -> Result<(), MachineError> {
        end(self.node.take(), Signal::SIGKILL)
    }

    /// What both logged, for a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        let log = |driver: &Option<Box<dyn Background>>| {
            driver.as_ref().map_or_else(String::new, |driver| driver.log())
        };
        format!("controller:\n{}\nnode:\n{}", log(&self.controller), log(&self.node))
    }

    /// Forgets both: their machine has lost its power.
    pub fn power_lost(&mut self) {
        self.controller = None;
        self.node = None;
    }
}
