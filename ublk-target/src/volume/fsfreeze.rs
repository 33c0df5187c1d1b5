//! Freezing the file systems on a device while it is cut: then they are whole in the snapshot, with
//! no journal to replay.
//!
//! It is done by a process of its own ([`helper`]), never by a thread of the daemon: syncing,
//! freezing and thawing wait for our own device. A daemon that is killed meanwhile could not end
//! before that I/O has, and the I/O would wait for a successor, which cannot start before it has
//! ended.
//!
//! Invariants:
//! - a mark says that file systems may be frozen before the first one is, and until all are thawed;
//!   whoever freezes or thaws holds its lock;
//! - what a helper has frozen it thaws when it is told to, or when the daemon is gone; the
//!   successor of a daemon that was killed with its helper finds the mark and thaws.

mod find;
pub mod helper;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lunar_proto::domain::Fsfreeze;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use self::helper::{Order, Reply, Task};
use crate::process::PROGRAM;
use crate::state::StateDir;
use crate::state::record::Record;

const UNPOISONED: &str = "a panic ends the process";

/// File systems cannot be frozen.
#[derive(Debug, thiserror::Error)]
pub enum FsfreezeError {
    /// There is none, and one was asked for.
    #[error("no file system on {device} is mounted, and --fsfreeze always was asked for")]
    NotMounted {
        /// The device.
        device: String,
    },
    /// It takes too long.
    #[error("the file systems on {device} took more than {seconds} s to {what}")]
    Slow {
        /// The device.
        device: String,
        /// Freeze, or write what is dirty.
        what: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// An earlier snapshot has lost patience, and its freezing or thawing is still under way.
    #[error(
        "the file systems on {device} are still being frozen or thawed for an earlier snapshot; \
         try again when they answer"
    )]
    Busy {
        /// The device.
        device: String,
    },
    /// It was tried, and failed.
    #[error("{why}")]
    Failed {
        /// What failed, on what, and why.
        why: String,
    },
}

/// Freezes the file systems on one device.
#[derive(Clone)]
pub struct Freezer {
    state: Arc<StateDir>,
    record: Record,
}

/// File systems that are frozen until they are thawed.
#[derive(Default)]
pub struct FrozenMounts(Mutex<Option<Helper>>);

/// A process at work.
struct Helper {
    child: Child,
    /// What it freezes it thaws when this is closed.
    stdin: Option<ChildStdin>,
    replies: Lines<BufReader<ChildStdout>>,
}

impl Freezer {
    /// Of the device of this record.
    #[must_use]
    pub const fn new(state: Arc<StateDir>, record: Record) -> Self {
        Self { state, record }
    }

    fn device(&self) -> String {
        self.record.device.block_path()
    }

    fn start(&self, task: Task) -> Result<Helper, FsfreezeError> {
        let mark = self.state.freeze_mark(self.record.volume);
        let order = Order { device: self.record.device.get(), mark, task };
        Helper::start(&order)
    }

    async fn is_mounted(&self) -> Result<bool, FsfreezeError> {
        let device = self.record.device;
        let looked = tokio::task::spawn_blocking(move || find::is_mounted(device)).await;
        looked.expect("it neither panics nor is cancelled").map_err(|error| {
            let device = device.block_path();
            let why = format!("where {device} is mounted cannot be learned: {error}");
            FsfreezeError::Failed { why }
        })
    }

    fn slow(&self, what: &'static str, limit: Duration) -> FsfreezeError {
        FsfreezeError::Slow { device: self.device(), what, seconds: limit.as_secs() }
    }

    /// Has the file systems write what is dirty, so that freezing them does not take long: until it
    /// is written, a file system that freezes lets nobody write.
    ///
    /// # Errors
    /// See [`FsfreezeError`].
    pub async fn sync(&self, how: Fsfreeze, limit: Duration) -> Result<(), FsfreezeError> {
        if how == Fsfreeze::Never || !self.is_mounted().await? {
            return Ok(());
        }
        let mut helper = self.start(Task::Sync)?;
        match tokio::time::timeout(limit, helper.reply()).await {
            Ok(reply) => self.result_of(&reply).map(drop),
            Err(_) => Err(self.slow("write what is dirty", limit)),
        }
    }

    /// Freezes them all, or none.
    ///
    /// # Errors
    /// See [`FsfreezeError`].
    pub async fn freeze(
        &self,
        how: Fsfreeze,
        limit: Duration,
    ) -> Result<Arc<FrozenMounts>, FsfreezeError> {
        if how == Fsfreeze::Never {
            return Ok(Arc::default());
        }
        if !self.is_mounted().await? {
            return match how {
                Fsfreeze::Always => Err(FsfreezeError::NotMounted { device: self.device() }),
                _ => Ok(Arc::default()),
            };
        }
        let must = how == Fsfreeze::Always;
        let mut helper = self.start(Task::Freeze { must })?;
        // It cannot be called off: if it is too late, what it freezes in the end is thawed then.
        let reply = tokio::time::timeout(limit, helper.reply()).await;
        let reply = reply.map_err(|_| self.slow("freeze", limit))?;
        let is_frozen = self.result_of(&reply)?;
        Ok(Arc::new(FrozenMounts(Mutex::new(is_frozen.then_some(helper)))))
    }

    /// Whether anything was done.
    fn result_of(&self, reply: &Reply) -> Result<bool, FsfreezeError> {
        match reply {
            Reply::Done => Ok(true),
            Reply::Nothing => Ok(false),
            Reply::Busy => Err(FsfreezeError::Busy { device: self.device() }),
            Reply::Failed { why } => Err(FsfreezeError::Failed { why: why.clone() }),
        }
    }

    /// Thaws what a killed predecessor may have left frozen, while the device is not served yet.
    /// Nothing if there is none.
    #[must_use]
    pub fn thaw_leftovers(&self) -> Option<JoinHandle<()>> {
        if !self.state.is_marked_frozen(self.record.volume) {
            return None;
        }
        let volume = self.record.name.clone();
        warn!(volume, "thawing file systems that a killed fs-core may have frozen");
        let helper = self.start(Task::Thaw);
        Some(tokio::spawn(async move {
            let problem = match helper {
                Ok(mut helper) => helper.reply().await.problem(),
                Err(error) => Some(error.to_string()),
            };
            match problem {
                None => info!(volume, "thawed"),
                Some(why) => warn!(volume, why, "not thawed: try fsfreeze --unfreeze"),
            }
        }))
    }
}

impl FrozenMounts {
    /// Thaws them, and waits for that; again does nothing.
    pub async fn thaw(&self) {
        let helper = self.0.lock().expect(UNPOISONED).take();
        let Some(mut helper) = helper else { return };
        helper.stdin = None;
        if let Some(why) = helper.reply().await.problem() {
            warn!(why, "file systems stay frozen: thaw them with fsfreeze --unfreeze");
        }
    }
}

impl Helper {
    fn start(order: &Order) -> Result<Self, FsfreezeError> {
        let failed = |why: String| FsfreezeError::Failed { why };
        let order = serde_json::to_string(order).map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(PROGRAM);
        command.arg("fsfreeze-helper").arg(order).process_group(0);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let child = command.spawn();
        let mut child = child.map_err(|error| {
            failed(format!("the process that freezes file systems cannot be started: {error}"))
        })?;
        let stdin = child.stdin.take();
        let replies = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
        Ok(Self { child, stdin, replies })
    }

    /// What it says next.
    async fn reply(&mut self) -> Reply {
        let why = match self.replies.next_line().await {
            Ok(Some(line)) => match serde_json::from_str(&line) {
                Ok(reply) => return reply,
                Err(error) => format!("it said '{line}': {error}"),
            },
            Ok(None) => format!("it ended without a word, {:?}", self.child.try_wait()),
            Err(error) => error.to_string(),
        };
        Reply::Failed { why: format!("the process that freezes file systems has failed: {why}") }
    }
}
