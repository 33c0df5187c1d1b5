//! `csi-driver worker`: one piece of work at a device or a mount, in a process of its own. What
//! hangs there stops one volume, and not the driver.
//!
//! - The order comes as JSON on standard input, and the answer goes as JSON to standard output. A
//!   worker that fails says why there, and ends with [`FAILED`].
//! - It dies with the driver: it asks the kernel for that before it does anything, and does nothing
//!   if the driver has died before it could ask. A tool is what the worker *becomes*, so this holds
//!   for it too.
//! - It has no thread but one, and uses each path once.

pub mod failure;
pub mod mountinfo;
pub mod mounts;
pub mod open_device;
pub mod paths;
pub mod place;
pub mod stats;
pub mod survey;
pub mod tools;
pub mod unmount;
pub mod users;

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};

use self::failure::{Failure, Kind};
use self::mounts::FsMount;
use self::open_device::{OpenDevice, Purpose};
use self::place::PodAccess;
use self::tools::Tool;
use self::unmount::Also;
use super::device::{Device, DeviceNumber};

/// How a worker ends that has failed: no tool ends so.
pub const FAILED: u8 = 113;

/// What a worker is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The process that told it, and has to be there as long as it works.
    pub driver: u32,
    /// The directory of kubelet.
    pub root: PathBuf,
    /// What to do.
    pub work: Work,
}

/// A piece of work. Each has its own answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Work {
    /// Says what is at a path: a [`survey::Survey`].
    Survey {
        /// Where.
        path: String,
        /// Whose other mounts are told; else those of what is there.
        device: Option<DeviceNumber>,
    },
    /// Says where a device is mounted: a list of [`survey::Mounted`].
    Uses(DeviceNumber),
    /// Compares a device with its number, without its noticing: nothing.
    Compare(Device),
    /// Reads the places of a device where something would be found: nothing.
    ReadEnds(Device),
    /// Makes durable what was written to a device: nothing.
    Sync(Device),
    /// Becomes a tool, whose output is the answer.
    Run {
        /// Which.
        tool: Tool,
        /// On what.
        device: Device,
    },
    /// Mounts a file system: nothing.
    Stage {
        /// Where.
        path: String,
        /// Of what.
        device: Device,
        /// How.
        how: FsMount,
    },
    /// Mounts what is staged for a pod: nothing.
    Publish {
        /// Where it is staged.
        staged: String,
        /// Where the pod finds it.
        path: String,
        /// Of what.
        device: Device,
        /// How it is staged.
        how: FsMount,
        /// How the pod gets it.
        access: PodAccess,
    },
    /// Mounts a device node for a pod: nothing.
    PublishNode {
        /// Where.
        path: String,
        /// Which.
        device: Device,
    },
    /// Takes off all mounts at a path: [`unmount::Unmounted`].
    Unmount {
        /// Where.
        path: String,
        /// And what else.
        also: Also,
    },
    /// Says how full it is: [`stats::Stats`].
    Stats {
        /// What is mounted here.
        path: String,
    },
}

/// Reads the order, does the work, tells the answer.
#[must_use]
pub fn run() -> ExitCode {
    let answer = match obey() {
        Ok(answer) => Ok(answer),
        Err(failure) => Err(serde_json::to_vec(&failure).expect("a failure is plain text")),
    };
    let (text, code) = match answer {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(text) => (text, ExitCode::from(FAILED)),
    };
    // A driver that does not read any more has died, and this process is about to.
    match std::io::stdout().write_all(&text) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn obey() -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::internal("ask to die with the driver", error);
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| failed(error.to_string()))?;
    let mut text = Vec::new();
    let read = std::io::stdin().read_to_end(&mut text);
    read.map_err(|error| Failure::internal("read the order", error))?;
    let order: Order = serde_json::from_slice(&text)
        .map_err(|error| Failure::new(Kind::Invalid, format!("this is no order: {error}")))?;
    let driver = i32::try_from(order.driver).ok().and_then(Pid::from_raw);
    if driver.is_none() || getppid() != driver {
        return Err(failed("it has died".to_owned()));
    }
    work(&order.root, order.work)
}

fn told<T: Serialize>(answer: &T) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(answer).map_err(|error| Failure::internal("tell the answer", error))
}

fn work(root: &Path, work: Work) -> Result<Vec<u8>, Failure> {
    match work {
        Work::Survey { path, device } => told(&survey::survey(root, &path, device)?),
        Work::Uses(device) => told(&survey::uses(device)?),
        Work::Compare(device) => {
            OpenDevice::open(&device, Purpose::Identify)?;
            told(&())
        }
        Work::ReadEnds(device) => told(&read_ends(&device)?),
        Work::Sync(device) => {
            let failed = |error| Failure::internal(format!("sync {}", device.path), error);
            told(&OpenDevice::open(&device, Purpose::Change)?.sync().map_err(failed)?)
        }
        Work::Run { tool, device } => Err(become_tool(&tool, &device)),
        Work::Stage { path, device, how } => told(&place::stage(root, &path, &device, &how)?),
        Work::Publish { staged, path, device, how, access } => {
            told(&place::publish(root, &staged, &path, &device, (&how, access))?)
        }
        Work::PublishNode { path, device } => told(&place::publish_node(root, &path, &device)?),
        Work::Unmount { path, also } => told(&unmount::unmount(root, &path, also)?),
        Work::Stats { path } => told(&stats::stats(root, &path)?),
    }
}

fn read_ends(device: &Device) -> Result<(), Failure> {
    let failed = |error| Failure::internal(format!("read {}", device.path), error);
    let size = device.number.size_bytes().map_err(failed)?;
    let gone = || failed(std::io::Error::other("it is gone"));
    OpenDevice::open(device, Purpose::Read)?.read_ends(size.ok_or_else(gone)?).map_err(failed)
}

/// Returns only if it could not become the tool.
fn become_tool(tool: &Tool, device: &Device) -> Failure {
    let prepared = || {
        let purpose = if tool.is_change() { Purpose::Change } else { Purpose::Identify };
        let open = OpenDevice::open(device, purpose)?;
        let failed = |error| Failure::internal(format!("start {}", tool.program()), error);
        open.pass_on().map_err(failed)?;
        Ok((open, tool.command(&device.path)?))
    };
    match prepared() {
        Ok((_open, mut command)) => {
            Failure::internal(format!("start {}", tool.program()), command.exec())
        }
        Err(failure) => failure,
    }
}
