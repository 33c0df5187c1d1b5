//! The two daemons of a node: started, stopped and killed.

use std::time::Duration;

use lunar_lab::Signal;

use crate::machine::{Background, Machine, MachineError};
use crate::session::wait_until;

/// Starts and stops within this, on an emulated processor too.
const LIMIT: Duration = Duration::from_secs(60);
/// What the daemons log once they answer. To ask them costs a second in the lab each time.
const METADATA_READY: &str = " serving ";
const FS_CORE_READY: &str = "requests are let in";

/// Where the product keeps what it keeps.
#[derive(Clone, Debug)]
pub struct Places {
    /// The store of the metadata service.
    pub store: String,
    /// Further LUNs for fs-core: files, where there are no devices.
    pub luns: Vec<String>,
    /// Whether fs-core looks for LUNs among all devices.
    pub scan: bool,
}

impl Default for Places {
    fn default() -> Self {
        Self { store: "/var/lib/lunar/metadata.redb".to_owned(), luns: Vec::new(), scan: true }
    }
}

/// metadata-service and fs-core on one machine.
pub struct Product<'m> {
    machine: &'m dyn Machine,
    places: Places,
    metadata: Option<Box<dyn Background>>,
    fs_core: Option<Box<dyn Background>>,
}

impl<'m> Product<'m> {
    /// Starts both and waits until each says that it answers.
    ///
    /// # Errors
    /// When one does not come up; its log is in the message.
    pub fn start(machine: &'m dyn Machine, places: Places) -> Result<Self, MachineError> {
        let mut product = Self { machine, places, metadata: None, fs_core: None };
        product.start_metadata()?;
        product.start_fs_core()?;
        Ok(product)
    }

    /// Starts the metadata service.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_metadata(&mut self) -> Result<(), MachineError> {
        let argv = ["metadata-service", "serve", "--store", &self.places.store];
        let daemon = self.metadata.insert(self.machine.start(&argv)?);
        until_ready("the metadata service", daemon.as_ref(), METADATA_READY)
    }

    /// Starts fs-core.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_fs_core(&mut self) -> Result<(), MachineError> {
        let mut argv = vec!["fs-core", "serve"];
        if !self.places.scan {
            argv.push("--scan-luns=false");
        }
        for lun in &self.places.luns {
            argv.extend(["--lun", lun]);
        }
        let daemon = self.fs_core.insert(self.machine.start(&argv)?);
        until_ready("fs-core", daemon.as_ref(), FS_CORE_READY)
    }

    /// Stops the metadata service as an init system would.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_metadata(&mut self) -> Result<(), MachineError> {
        end(self.metadata.take(), Signal::SIGTERM)
    }

    /// Stops fs-core as an init system would; devices wait for its successor.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop_fs_core(&mut self) -> Result<(), MachineError> {
        end(self.fs_core.take(), Signal::SIGTERM)
    }

    /// Kills fs-core on the spot.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_fs_core(&mut self) -> Result<(), MachineError> {
        end(self.fs_core.take(), Signal::SIGKILL)
    }

    /// Kills the metadata service on the spot.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill_metadata(&mut self) -> Result<(), MachineError> {
        end(self.metadata.take(), Signal::SIGKILL)
    }

    /// What both logged, for a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        let log = |daemon: &Option<Box<dyn Background>>| {
            daemon.as_ref().map_or_else(String::new, |daemon| daemon.log())
        };
        format!("metadata-service:\n{}\nfs-core:\n{}", log(&self.metadata), log(&self.fs_core))
    }

    /// Forgets both: their machine has lost its power.
    pub fn power_lost(&mut self) {
        self.metadata = None;
        self.fs_core = None;
    }
}

pub(crate) fn until_ready(
    what: &str,
    daemon: &dyn Background,
    line: &str,
) -> Result<(), MachineError> {
    let answers = || Ok(daemon.log().contains(line));
    wait_until(&format!("{what} answers"), LIMIT, answers).map_err(|error| with_log(error, daemon))
}

fn with_log(error: MachineError, daemon: &dyn Background) -> MachineError {
    MachineError::Unexpected(format!("{error}; its log:\n{}", daemon.log()))
}

pub(crate) fn end(daemon: Option<Box<dyn Background>>, signal: Signal) -> Result<(), MachineError> {
    let Some(mut daemon) = daemon else { return Ok(()) };
    daemon.signal(signal)?;
    daemon.wait(LIMIT).map_err(|error| with_log(error, daemon.as_ref()))
}
