//! The process that syncs, freezes and thaws file systems, so that the daemon never waits for its
//! own device. It has nothing of the daemon: no device, no LUN, no memory, no lock but that of the
//! mark.
//!
//! It is told what to do as JSON in its argument, says how that went as JSON, a line each, and goes
//! on to thaw when its standard input ends: when the daemon says so, has lost patience, or is gone.
//!
//! Order: mark made and locked → frozen, one after the other → told → end of input → thawed → mark
//! removed → told. Killed anywhere before that, it leaves the mark to a successor.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::find::{Mounted, file_systems_on};
use crate::sys;
use crate::ublk::DeviceId;

const THAW_TRIES: u32 = 20;
const THAW_PAUSE: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Order {
    /// The number of the device.
    pub device: u32,
    /// The mark of its volume.
    pub mark: PathBuf,
    /// What.
    pub task: Task,
}

/// What to do with the file systems on a device.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Have them write what is dirty.
    Sync,
    /// Freeze them until the end of input.
    Freeze {
        /// One that cannot be frozen is a failure.
        must: bool,
    },
    /// Thaw them; whoever freezes or thaws them now is waited for.
    Thaw,
}

/// How it went.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Well.
    Done,
    /// There is no file system.
    Nothing,
    /// Another process freezes or thaws them.
    Busy,
    /// Not well.
    Failed {
        /// What failed, on what, and why.
        why: String,
    },
}

impl Reply {
    /// Why it is not done.
    #[must_use]
    pub fn problem(self) -> Option<String> {
        match self {
            Self::Done | Self::Nothing => None,
            Self::Busy => Some("another process freezes or thaws".to_owned()),
            Self::Failed { why } => Some(why),
        }
    }
}

/// Does what it is told; the argument is an [`Order`].
#[must_use]
pub fn run(order: &str) -> ExitCode {
    let reply = match serde_json::from_str::<Order>(order) {
        Ok(order) => carry_out(&order),
        Err(error) => Reply::Failed { why: format!("the order cannot be read: {error}") },
    };
    tell(&reply);
    if reply.problem().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The daemon may be gone: then nobody listens.
fn tell(reply: &Reply) {
    let line = serde_json::to_string(reply).expect("plain values");
    let mut out = io::stdout().lock();
    let told = writeln!(out, "{line}").and_then(|()| out.flush());
    if let Err(error) = told {
        info!(%error, line, "nobody listens");
    }
}

fn carry_out(order: &Order) -> Reply {
    let device = DeviceId::new(order.device);
    let done = match order.task {
        Task::Sync => sync(device),
        Task::Freeze { must } => freeze(device, &order.mark, must),
        Task::Thaw => thaw_marked(device, &order.mark),
    };
    done.unwrap_or_else(|why| Reply::Failed { why })
}

fn found_on(device: DeviceId) -> Result<Vec<Mounted>, String> {
    file_systems_on(device)
        .map_err(|error| format!("the mounts of {} cannot be found: {error}", device.block_path()))
}

fn sync(device: DeviceId) -> Result<Reply, String> {
    for Mounted { target, root } in found_on(device)? {
        nix::unistd::syncfs(&root).map_err(|error| {
            format!("the file system on {} cannot be synced: {error}", target.display())
        })?;
    }
    Ok(Reply::Done)
}

fn freeze(device: DeviceId, mark: &Path, must: bool) -> Result<Reply, String> {
    let found = found_on(device)?;
    if found.is_empty() {
        return Ok(Reply::Nothing);
    }
    let Some(mark) = Mark::take(mark, FlockArg::LockExclusiveNonblock)? else {
        return Ok(Reply::Busy);
    };
    let mut frozen = Vec::new();
    let mut failure = None;
    for mounted in found {
        if is_given_up() {
            failure = Some("it took too long".to_owned());
            break;
        }
        match sys::freeze_file_system(&mounted.root) {
            Ok(()) => frozen.push(mounted),
            Err(error) if !must && is_no_freeze(&error) => {
                info!(target = %mounted.target.display(), %error, "not frozen");
            }
            Err(error) => {
                let target = mounted.target.display();
                failure = Some(format!("the file system on {target} cannot be frozen: {error}"));
                break;
            }
        }
    }
    if failure.is_none() {
        tell(&Reply::Done);
        wait_for_the_end_of_input();
    }
    let thawed = thaw(&frozen, mark);
    match failure {
        Some(why) => Err(why),
        None => thawed.map(|()| Reply::Done),
    }
}

fn thaw_marked(device: DeviceId, mark: &Path) -> Result<Reply, String> {
    let mark = Mark::take(mark, FlockArg::LockExclusive)?;
    let mark = mark.ok_or("the mark cannot be locked")?;
    thaw(&found_on(device)?, mark).map(|()| Reply::Done)
}

/// One that cannot be thawed stays marked: a successor tries again.
fn thaw(mounts: &[Mounted], mark: Mark) -> Result<(), String> {
    let still: Vec<String> =
        mounts.iter().filter_map(|mounted| thaw_surely(mounted).err()).collect();
    if !still.is_empty() {
        return Err(still.join("; "));
    }
    mark.remove()
}

/// Thaws, again and again; one that is not frozen is thawed.
fn thaw_surely(mounted: &Mounted) -> Result<(), String> {
    let target = mounted.target.display();
    let mut problem = String::new();
    for _ in 0..THAW_TRIES {
        match sys::thaw_file_system(&mounted.root) {
            Ok(()) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(error) => problem = error.to_string(),
        }
        warn!(%target, problem, "the file system is not thawed yet");
        pause();
    }
    Err(format!("the file system on {target} cannot be thawed: {problem}"))
}

#[allow(clippy::disallowed_methods, reason = "a process that only waits for the kernel")]
fn pause() {
    std::thread::sleep(THAW_PAUSE);
}

/// No such operation, or somebody else has frozen it.
fn is_no_freeze(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EBUSY))
}

fn is_given_up() -> bool {
    let input = io::stdin();
    let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&input), PollFlags::POLLIN)];
    // Nothing is ever sent: whatever happens on it is its end.
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn wait_for_the_end_of_input() {
    let mut rest = Vec::new();
    if let Err(error) = io::stdin().lock().read_to_end(&mut rest) {
        warn!(%error, "the daemon is taken to be gone");
    }
}

/// The mark of a volume, locked.
struct Mark {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Mark {
    /// Nothing if another process has it.
    fn take(path: &Path, how: FlockArg) -> Result<Option<Self>, String> {
        let failed = |error: &dyn std::fmt::Display| {
            format!("the mark {} cannot be made: {error}", path.display())
        };
        loop {
            let file = File::options().create(true).append(true).open(path);
            let file = file.map_err(|error| failed(&error))?;
            let lock = match Flock::lock(file, how) {
                Ok(lock) => lock,
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
                Err((_, error)) => return Err(failed(&error)),
            };
            // Whoever had it may have removed it before we got the lock.
            let here = lock.metadata().map_err(|error| failed(&error))?;
            let is_it = fs::metadata(path).is_ok_and(|there| there.ino() == here.ino());
            if is_it {
                return Ok(Some(Self { path: path.to_owned(), _lock: lock }));
            }
        }
    }

    fn remove(self) -> Result<(), String> {
        crate::state::remove(&self.path).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_one_owner_and_stays_until_it_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("volume");
        let take = |how| Mark::take(&path, how).expect("no error");
        let first = take(FlockArg::LockExclusiveNonblock).expect("nobody has it");
        assert!(take(FlockArg::LockExclusiveNonblock).is_none());
        drop(first);
        assert!(path.exists(), "its owner was killed: a successor thaws");
        let second = take(FlockArg::LockExclusiveNonblock).expect("its owner is gone");
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || Mark::take(&path, FlockArg::LockExclusive).expect("no error").is_some()
        });
        second.remove().expect("removed");
        assert!(waiting.join().expect("no panic"), "the one that was removed is not enough");
        assert!(path.exists());
    }

    #[test]
    fn orders_and_replies_are_read_as_they_were_written() {
        for task in [Task::Sync, Task::Freeze { must: true }, Task::Thaw] {
            let order = Order { device: 3, mark: "/run/lunar/state/frozen/x".into(), task };
            let text = serde_json::to_string(&order).expect("written");
            assert_eq!(serde_json::from_str::<Order>(&text).expect("read"), order);
        }
        for reply in [Reply::Done, Reply::Nothing, Reply::Busy] {
            let text = serde_json::to_string(&reply).expect("written");
            assert_eq!(serde_json::from_str::<Reply>(&text).expect("read"), reply);
        }
        assert_eq!(run("{"), ExitCode::FAILURE);
    }

    #[test]
    fn a_device_that_is_not_there_has_nothing_to_freeze() {
        let dir = tempfile::tempdir().expect("a directory");
        let mark = dir.path().join("volume");
        let order = |task| Order { device: 900_002, mark: mark.clone(), task };
        assert_eq!(carry_out(&order(Task::Freeze { must: true })), Reply::Nothing);
        assert!(!mark.exists(), "nothing was frozen");
        assert_eq!(carry_out(&order(Task::Sync)), Reply::Done);
        File::create(&mark).expect("left by a killed one");
        assert_eq!(carry_out(&order(Task::Thaw)), Reply::Done);
        assert!(!mark.exists());
    }
}
