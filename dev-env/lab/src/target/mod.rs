//! The target: a machine that exports LUNs over iSCSI with persistent reservations.
//!
//! It is Linux's own target (LIO). Each LUN is a disk of the target machine, a file on the host,
//! below a device-mapper device that can hold requests back; reservations are kept over power loss
//! (APTPL) on the machine's data disk.
//!
//! Invariants:
//! - only machines of the lab are let in, each by its own name;
//! - every command that changes a LUN is in the record from before the first login on.

mod log;

pub use log::{CommandKind, ScsiStatus, TargetCommand, TargetLog};

use crate::error::{LabError, Result};
use crate::initiator::{Initiator, InitiatorTimeouts, Portal};
use crate::lun::{Lun, LunSpec};
use crate::network::Network;
use crate::node::Node;
use crate::{Job, Signal};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Name of the target machine.
pub(crate) const TARGET_MACHINE: &str = "target";

/// Kernel modules of the target.
pub(crate) const MODULES: [&str; 4] =
    ["target_core_mod", "target_core_iblock", "iscsi_target_mod", "dm_mod"];

const TARGET_NAME: &str = "iqn.2024-01.storage.lunar.lab:target";
const FABRIC: &str = "/sys/kernel/config/target/iscsi";
const PORT: u16 = 3260;
const SCRIPT: &str = include_str!("export.sh");
/// Where it is in the target machine.
const SCRIPT_FILE: &str = "/run/lunar-lab/export.sh";
/// What may pass between an event in the machine and its line on the host.
const LOG_LIMIT: Duration = Duration::from_secs(60);

/// What the target should be.
#[derive(Debug, Clone)]
#[must_use = "a target is built by the lab's builder"]
pub struct TargetSpec {
    pub(crate) luns: Vec<LunSpec>,
    pub(crate) paths: usize,
    pub(crate) timeouts: InitiatorTimeouts,
}

impl TargetSpec {
    /// A target with these LUNs; serials are `iscsi<index>` unless they are set.
    pub fn new(luns: impl IntoIterator<Item = LunSpec>) -> Self {
        let named = |(index, spec): (usize, LunSpec)| match spec.serial {
            Some(_) => spec,
            None => spec.serial(format!("iscsi{index}")),
        };
        let luns = luns.into_iter().enumerate().map(named).collect();
        Self { luns, paths: 1, timeouts: InitiatorTimeouts::default() }
    }

    /// Sets the number of paths, 1 or 2: the second one is a network of its own
    /// ([`Network::StorageB`]) and gives every node a second device for each LUN.
    pub fn paths(mut self, paths: usize) -> Self {
        self.paths = paths;
        self
    }

    /// Sets what the initiators do when the target is silent.
    pub fn timeouts(mut self, timeouts: InitiatorTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    pub(crate) fn storage_networks(&self) -> Result<&'static [Network]> {
        match self.paths {
            1 => Ok(&[Network::Storage]),
            2 => Ok(&[Network::Storage, Network::StorageB]),
            paths => Err(LabError::Settings(format!("{paths} paths; a target has 1 or 2"))),
        }
    }

    /// What an initiator has to know of a target with this number.
    pub(crate) fn initiator(&self, number: usize, luns: &[Lun]) -> Result<Initiator> {
        let number = u8::try_from(number).expect("a lab has fewer than 256 machines");
        let portal =
            |network: &Network| Portal { network: *network, address: network.address(number) };
        Ok(Initiator {
            target: TARGET_NAME.to_owned(),
            portals: self.storage_networks()?.iter().map(portal).collect(),
            port: PORT,
            luns: luns.iter().map(|lun| (lun.serial.clone(), unit_serial(&lun.serial))).collect(),
            timeouts: self.timeouts,
        })
    }
}

/// The serial in VPD page 0x80: 32 hexadecimal digits, of which LIO makes the NAA name of page
/// 0x83. The same for the same serial, so that a LUN stays itself over reboots of the target.
fn unit_serial(serial: &str) -> String {
    let hash = |seed: u64| {
        serial
            .bytes()
            .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    };
    format!("{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x6c62_272e_07bb_0142))
}

/// A place in the target's record; see [`Target::mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TargetMark(u64);

/// The target of a running lab.
pub struct Target {
    node: Node,
    initiator: Arc<Initiator>,
    clients: Vec<String>,
    luns: Vec<Lun>,
    recorder: Mutex<Recorder>,
    marks: AtomicU64,
}

/// The record over all boots of the target machine.
#[derive(Default)]
struct Recorder {
    /// Records of earlier boots.
    past: String,
    job: Option<Job>,
}

impl Recorder {
    /// Whole lines: the last one may be on its way, or cut off with the machine.
    fn text(&self) -> String {
        let now = self.job.as_ref().map(Job::stdout).unwrap_or_default();
        let end = now.rfind('\n').map_or(0, |newline| newline + 1);
        format!("{}{}", self.past, &now[..end])
    }
}

impl Target {
    pub(crate) fn new(
        node: Node,
        initiator: Arc<Initiator>,
        clients: Vec<String>,
        luns: Vec<Lun>,
    ) -> Self {
        let (recorder, marks) = (Mutex::default(), AtomicU64::new(0));
        Self { node, initiator, clients, luns, recorder, marks }
    }

    /// Its machine; programs may run there as in any other.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its LUNs; [`Lun::device`] is the disk below the LUN, in the target machine.
    pub fn luns(&self) -> &[Lun] {
        &self.luns
    }

    /// Boots the machine and exports its LUNs, with the reservations that it had.
    ///
    /// # Errors
    /// As [`Node::boot`], and when the kernel's target refuses a setting.
    pub fn boot(&self) -> Result<()> {
        self.node.boot()?;
        self.export()
    }

    /// Power off at once; the initiators see a silent target until [`Target::boot`].
    ///
    /// # Errors
    /// When it is off already.
    pub fn cut(&self) -> Result<()> {
        self.node.cut()
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the record, then lets the initiators in.
    pub(crate) fn export(&self) -> Result<()> {
        let mut recorder = self.recorder();
        recorder.past = recorder.text();
        recorder.job = None;
        let portals = self.initiator.portals.iter();
        let portals: Vec<_> = portals.map(|portal| format!("{}:{PORT}", portal.address)).collect();
        let luns = self.initiator.luns.iter();
        let luns: Vec<_> = luns.map(|(serial, unit)| format!("{serial}={unit}")).collect();
        let clients = self.clients.iter();
        let clients: Vec<_> = clients.map(|name| crate::initiator::name_of(name)).collect();
        let export = |step: &str| {
            let command = self.node.command(&["bash", "-euo", "pipefail", SCRIPT_FILE]);
            let command = command.env("STEP", step);
            let command = command.env("TARGET", TARGET_NAME).env("PORTALS", portals.join(" "));
            let command = command.env("LUNS", luns.join(" ")).env("CLIENTS", clients.join(" "));
            command.run_ok().map(|_| ())
        };
        self.node.write_file(SCRIPT_FILE, SCRIPT, 0o644)?;
        export("record")?;
        recorder.job = Some(self.node.spawn(&["cat", "/sys/kernel/tracing/trace_pipe"])?);
        export("luns")
    }

    /// Holds back every request below a LUN, as a hung disk does; they go on with
    /// [`Target::release_lun`]. What is under way ends first.
    ///
    /// # Errors
    /// When the machine is off, or device-mapper refuses.
    pub fn hold_lun(&self, index: usize) -> Result<()> {
        let serial = self.serial(index)?;
        self.node.exec_ok(&["dmsetup", "suspend", "--noflush", "--nolockfs", serial]).map(|_| ())
    }

    /// Ends [`Target::hold_lun`].
    ///
    /// # Errors
    /// When the machine is off, or device-mapper refuses.
    pub fn release_lun(&self, index: usize) -> Result<()> {
        self.node.exec_ok(&["dmsetup", "resume", self.serial(index)?]).map(|_| ())
    }

    /// Shows a LUN to a machine no more, as LUN masking does: its commands are refused, and its
    /// registration there is gone. [`Target::unmask_lun`] shows it again.
    ///
    /// # Errors
    /// When the target is off, or the machine does not see the LUN.
    pub fn mask_lun(&self, index: usize, machine: &str) -> Result<()> {
        let script = format!("rm {}", self.mapped_lun(index, machine)?);
        self.node.sh(&script).map(|_| ())
    }

    /// Ends [`Target::mask_lun`].
    ///
    /// # Errors
    /// When the target is off, or the machine sees the LUN.
    pub fn unmask_lun(&self, index: usize, machine: &str) -> Result<()> {
        let lun = format!("{FABRIC}/{TARGET_NAME}/tpgt_1/lun/lun_{index}");
        let script = format!("ln -s {lun} {}", self.mapped_lun(index, machine)?);
        self.node.sh(&script).map(|_| ())
    }

    fn mapped_lun(&self, index: usize, machine: &str) -> Result<String> {
        let (serial, client) = (self.serial(index)?, crate::initiator::name_of(machine));
        Ok(format!("{FABRIC}/{TARGET_NAME}/tpgt_1/acls/{client}/lun_{index}/{serial}"))
    }

    fn serial(&self, index: usize) -> Result<&str> {
        self.initiator.lun(index).map(|(serial, _)| serial.as_str())
    }

    /// Puts a mark into the record: commands that begin later are after it.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn mark(&self) -> Result<TargetMark> {
        let number = self.marks.fetch_add(1, Ordering::SeqCst) + 1;
        let line = log::mark_line(number);
        self.node.sh(&format!("echo '{line}' >/sys/kernel/tracing/trace_marker"))?;
        Ok(TargetMark(number))
    }

    /// The whole record until now, over all boots of the target.
    ///
    /// # Errors
    /// When the machine is off, or the record does not arrive or has lost events.
    pub fn log(&self) -> Result<TargetLog> {
        let recorder = self.recorder();
        let Some(job) = &recorder.job else {
            return Err(LabError::Record("the target has not been exported".to_owned()));
        };
        // What the kernel recorded before the mark is on the host once the mark is.
        let from = job.stdout_bytes()?;
        let mark = self.mark()?;
        job.wait_for_stdout(from, &log::mark_line(mark.0), LOG_LIMIT)?;
        TargetLog::parse(&recorder.text()).map_err(LabError::Record)
    }

    /// The record of writes (all that changes blocks) that began after a mark.
    ///
    /// # Errors
    /// As [`Target::log`].
    pub fn writes_since(&self, mark: TargetMark) -> Result<Vec<TargetCommand>> {
        let commands = self.commands_since(mark)?;
        Ok(commands.into_iter().filter(|command| command.kind.is_write()).collect())
    }

    /// The record of writes and reservations that began after a mark.
    ///
    /// # Errors
    /// As [`Target::log`].
    pub fn commands_since(&self, mark: TargetMark) -> Result<Vec<TargetCommand>> {
        Ok(self.log()?.since(mark.0))
    }

    /// Ends the recording, for a load whose record nobody reads.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn stop_recording(&self) -> Result<()> {
        match &self.recorder().job {
            Some(job) => job.kill(Signal::SIGKILL),
            None => Ok(()),
        }
    }
}
