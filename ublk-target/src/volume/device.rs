//! The kernel's side of a volume: its ublk device and the threads of its queues.
//!
//! Invariants:
//! - a device carries the token of its record from the moment it exists;
//! - a device is never used unless the driver granted what recovery needs;
//! - a device that was stopped is deleted, never started again; its number is not used again.

use std::fs::{File, OpenOptions};
use std::io;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tracing::{debug, error, info, warn};

use crate::lun::set::PoolLuns;
use crate::queue::server::{DeviceShared, QueueParts, QueueServer};
use crate::queue::waiting::{WaitingQueue, WaitingShared};
use crate::queue::waker::QueueWaker;
use crate::ublk::params::DeviceShape;
pub use crate::ublk::stop_helper::StopMode;
use crate::ublk::{
    Control, DeviceId, DeviceInfo, DeviceState, NewDevice, UblkError, features, stop_helper,
};

/// How long udev or devtmpfs may take to make a device node.
const NODE_LIMIT: Duration = Duration::from_secs(5);
/// How long what a dead daemon has under way may take to end.
const DRAIN_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);

/// A device cannot be made or taken over.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver refused a command.
    #[error(transparent)]
    Driver(#[from] UblkError),
    /// The driver does not do what we rely on.
    #[error(
        "the ublk driver did not grant {missing} to device {device}: without it a restart of \
         fs-core would lose I/O; use Linux 6.1 or later"
    )]
    Features {
        /// The names of what is missing.
        missing: String,
        /// The device.
        device: DeviceId,
    },
    /// The character device cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// Its path.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The device is not the one that we serve.
    #[error("device {device} is gone, or is not served by this fs-core")]
    NotLive {
        /// The device.
        device: DeviceId,
    },
    /// A queue cannot be made.
    #[error("cannot make queue {queue} of device {device}")]
    Queue {
        /// Which one.
        queue: u16,
        /// The device.
        device: DeviceId,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// I/O of the dead daemon does not end.
    #[error(
        "I/O of the daemon that served device {device} before has not ended within {} s: a LUN \
         hangs", DRAIN_LIMIT.as_secs()
    )]
    Draining {
        /// The device.
        device: DeviceId,
    },
}

/// What the queues of a device do.
#[derive(Clone)]
pub enum QueueWork {
    /// They serve its volume.
    Serve {
        /// What they share.
        shared: Arc<DeviceShared>,
        /// The LUNs of its pool.
        luns: PoolLuns,
        /// Whether a process that was killed has left requests that its engine may have begun.
        owes: bool,
    },
    /// They hold its requests while another node owns the volume.
    Wait(Arc<WaitingShared>),
}

impl QueueWork {
    fn wakers(&self) -> &[QueueWaker] {
        match self {
            Self::Serve { shared, .. } => &shared.wakers,
            Self::Wait(shared) => &shared.wakers,
        }
    }
}

/// The threads of a device's queues.
pub struct QueueThreads {
    work: QueueWork,
    threads: Vec<JoinHandle<()>>,
}

impl QueueThreads {
    /// Has the threads end once nothing is under way, and waits for them. It blocks.
    pub fn stop(self) {
        for waker in self.work.wakers() {
            waker.stop();
        }
        for thread in self.threads {
            thread.join().expect("a queue that panics ends the process");
        }
    }
}

/// Adds a device for a volume. It blocks.
///
/// # Errors
/// With EEXIST in [`DeviceError::Driver`] when the number is taken; when the driver lacks what
/// recovery needs the device is deleted again.
pub fn add(new: &NewDevice, shape: &DeviceShape) -> Result<DeviceInfo, DeviceError> {
    let mut control = Control::open()?;
    let info = control.add(new)?;
    let prepared =
        check_features(&info).and_then(|()| Ok(control.set_params(new.id, &shape.params())?));
    if let Err(error) = prepared {
        control.delete(new.id)?;
        return Err(error);
    }
    debug!(device = %info.id, queues = info.queues, depth = info.queue_depth, "device added");
    Ok(info)
}

fn check_features(info: &DeviceInfo) -> Result<(), DeviceError> {
    let missing = features::names(features::missing(info.flags)).join(", ");
    if missing.is_empty() {
        return Ok(());
    }
    Err(DeviceError::Features { missing, device: info.id })
}

/// Starts a device that was added: afterwards its block device is there. It blocks.
///
/// # Errors
/// When a queue cannot be made or the driver refuses.
pub fn start(info: &DeviceInfo, work: &QueueWork) -> Result<QueueThreads, DeviceError> {
    let mut control = Control::open()?;
    let threads = start_queues(&mut control, info, work)?;
    match control.start(info.id) {
        Ok(()) => Ok(threads),
        Err(error) => {
            threads.stop();
            Err(error.into())
        }
    }
}

/// Begins to take over a device whose queues have ended, with their process or in this one. It
/// blocks until everything that was under way on their rings has ended: only then are journal and
/// dirty table at rest.
///
/// # Errors
/// When the driver refuses, or I/O of the dead daemon hangs.
pub fn begin_take_over(id: DeviceId) -> Result<(), DeviceError> {
    begin_recovery(&mut Control::open()?, id)
}

/// Completes the takeover: afterwards the device's requests flow again. It blocks.
///
/// # Errors
/// When a queue cannot be made or the driver refuses.
pub fn finish_take_over(info: &DeviceInfo, work: &QueueWork) -> Result<QueueThreads, DeviceError> {
    let mut control = Control::open()?;
    let threads = start_queues(&mut control, info, work)?;
    match control.end_recovery(info.id) {
        Ok(()) => Ok(threads),
        Err(error) => {
            threads.stop();
            Err(error.into())
        }
    }
}

fn begin_recovery(control: &mut Control, id: DeviceId) -> Result<(), DeviceError> {
    let mut waited = Duration::ZERO;
    loop {
        match control.start_recovery(id) {
            Ok(()) => return Ok(()),
            Err(error) if error.errno() != Some(libc::EBUSY) => return Err(error.into()),
            Err(_) if waited >= DRAIN_LIMIT => return Err(DeviceError::Draining { device: id }),
            Err(_) => waited += pause(),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the kernel offers nothing to wait on here")]
fn pause() -> Duration {
    std::thread::sleep(POLL);
    POLL
}

fn open_char_device(id: DeviceId) -> Result<File, DeviceError> {
    let path = id.char_path();
    let mut waited = Duration::ZERO;
    loop {
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound && waited < NODE_LIMIT => {
                waited += pause();
            }
            Err(source) => return Err(DeviceError::Open { path, source }),
        }
    }
}

fn start_queues(
    control: &mut Control,
    info: &DeviceInfo,
    work: &QueueWork,
) -> Result<QueueThreads, DeviceError> {
    let char_device = Arc::new(open_char_device(info.id)?);
    let (ready, made) = mpsc::channel();
    let mut all = QueueThreads { work: work.clone(), threads: Vec::new() };
    let mut failure = None;
    for queue in 0..info.queues {
        let start = QueueStart {
            work: work.clone(),
            info: *info,
            queue,
            char_device: Arc::clone(&char_device),
            processors: control.queue_processors(info.id, queue).unwrap_or_default(),
        };
        let ready = ready.clone();
        let spawned = std::thread::Builder::new()
            .name(format!("ublk{}q{queue}", info.id))
            .spawn(move || start.run(ready));
        match spawned {
            Ok(thread) => all.threads.push(thread),
            Err(source) => failure = failure.or(Some((queue, source))),
        }
    }
    drop((ready, char_device));
    for (queue, result) in made {
        failure = failure.or(result.err().map(|source| (queue, source)));
    }
    match failure {
        None => Ok(all),
        Some((queue, source)) => {
            all.stop();
            Err(DeviceError::Queue { queue, device: info.id, source })
        }
    }
}

struct QueueStart {
    work: QueueWork,
    info: DeviceInfo,
    queue: u16,
    char_device: Arc<File>,
    processors: Vec<usize>,
}

/// A queue that was made.
enum Queue {
    Serving(Box<QueueServer>),
    Waiting(Box<WaitingQueue>),
}

impl Queue {
    fn run(&mut self) -> io::Result<()> {
        match self {
            Self::Serving(queue) => queue.run(),
            Self::Waiting(queue) => queue.run(),
        }
    }
}

impl QueueStart {
    /// Tells through `ready` whether the queue is made, then serves.
    fn run(self, ready: mpsc::Sender<(u16, io::Result<()>)>) {
        let (queue, device) = (self.queue, self.info.id);
        bind_to(&self.processors);
        let mut server = match self.make() {
            Ok(server) => server,
            Err(error) => {
                ready.send((queue, Err(error))).expect("the starter waits");
                return;
            }
        };
        ready.send((queue, Ok(()))).expect("the starter waits");
        // The starter waits until every sender is gone.
        drop(ready);
        if let Err(problem) = server.run() {
            error!(%device, queue, %problem, "a queue is broken: fs-core ends, and \
                   its successor takes the requests over");
            std::process::abort();
        }
    }
}

impl QueueStart {
    fn make(self) -> io::Result<Queue> {
        let Self { work, info, queue, char_device, .. } = self;
        let (depth, max_io_bytes) = (info.queue_depth, info.max_io_bytes);
        Ok(match work {
            QueueWork::Serve { shared, luns, owes } => {
                let parts =
                    QueueParts { shared, queue, depth, max_io_bytes, char_device, luns, owes };
                Queue::Serving(Box::new(QueueServer::new(parts)?))
            }
            QueueWork::Wait(shared) => {
                let at = (queue, depth);
                let made = WaitingQueue::new(shared, at, max_io_bytes, &char_device)?;
                Queue::Waiting(Box::new(made))
            }
        })
    }
}

/// Runs this thread where the queue's requests come from; elsewhere it works too, but slower.
fn bind_to(processors: &[usize]) {
    let mut set = CpuSet::new();
    let usable = processors.iter().filter(|processor| set.set(**processor).is_ok()).count();
    if usable == 0 {
        return;
    }
    if let Err(error) = sched_setaffinity(Pid::from_raw(0), &set) {
        debug!(%error, "a queue thread runs on any processor");
    }
}

/// Stops a device: its block device is gone afterwards. It blocks until requests under way have
/// ended.
///
/// # Errors
/// With EBUSY when it is in use and must not be stopped then.
pub fn stop(id: DeviceId, mode: StopMode) -> Result<(), DeviceError> {
    let mut control = Control::open()?;
    let can_ask =
        control.features().unwrap_or(0) & u64::from(libublk::sys::UBLK_F_SAFE_STOP_DEV) != 0;
    let mode = if can_ask { mode } else { StopMode::Always };
    match stop_helper::stop(id, mode) {
        Ok(()) => Ok(()),
        // An earlier attempt whose caller had lost patience may have succeeded meanwhile.
        Err(_) if is_stopped(&mut control, id) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn is_stopped(control: &mut Control, id: DeviceId) -> bool {
    let found = control.info(id);
    found.is_ok_and(|info| info.is_none_or(|info| info.state == DeviceState::Dead))
}

/// Deletes a stopped device. It blocks until nobody has its character device open.
///
/// # Errors
/// When the driver refuses.
pub fn delete(id: DeviceId) -> Result<(), DeviceError> {
    match Control::open()?.delete(id) {
        Err(error) if !matches!(error.errno(), Some(libc::ENODEV | libc::ENOENT)) => {
            Err(error.into())
        }
        _ => {
            info!(device = %id, "device deleted");
            Ok(())
        }
    }
}

/// Removes a device that cannot be served any more: its requests fail. It blocks.
///
/// # Errors
/// When the driver refuses.
pub fn remove(id: DeviceId) -> Result<(), DeviceError> {
    let mut control = Control::open()?;
    if let Err(error) = stop_helper::stop(id, StopMode::Always) {
        warn!(device = %id, %error, "the device was not stopped before it is deleted");
    }
    let is_gone = |error: &UblkError| matches!(error.errno(), Some(libc::ENODEV | libc::ENOENT));
    match control.delete_without_wait(id).or_else(|_| control.delete(id)) {
        Err(error) if !is_gone(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// The device of this number, if it carries this token.
///
/// # Errors
/// When the driver cannot be asked.
pub fn find(id: DeviceId, token: u64) -> Result<Option<DeviceInfo>, DeviceError> {
    let info = Control::open()?.info(id)?;
    Ok(info.filter(|info| info.token == token))
}
