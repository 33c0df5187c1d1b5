//! Freezing the file systems on a device while it is cut: then they are whole in the snapshot, with
//! no journal to replay.
//!
//! Invariants:
//! - a mark says that file systems may be frozen before the first one is, and until all are thawed:
//!   the successor of a killed daemon thaws them;
//! - what is frozen here is thawed here, also when whoever asked for it has lost patience; until
//!   then nobody else freezes file systems of the volume.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lunar_proto::domain::Fsfreeze;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::holders::{Holder, HolderSearch, block_device};
use crate::state::frozen::FreezeMark;
use crate::state::record::Record;
use crate::state::{StateDir, StateError};
use crate::sys;
use crate::ublk::DeviceId;

const THAW_TRIES: u32 = 20;
const THAW_PAUSE: Duration = Duration::from_millis(100);
const UNPOISONED: &str = "a panic ends the process";

/// File systems cannot be frozen.
#[derive(Debug, thiserror::Error)]
pub enum FsfreezeError {
    /// Who uses the device cannot be learned.
    #[error("who uses {device} cannot be learned: {source}")]
    Search {
        /// The device.
        device: String,
        /// Why.
        source: io::Error,
    },
    /// There is none, and one was asked for.
    #[error("no file system on {device} is mounted, and --fsfreeze always was asked for")]
    NotMounted {
        /// The device.
        device: String,
    },
    /// The file system did not freeze.
    #[error("the file system on {} cannot be frozen: {source}", target.display())]
    Freeze {
        /// Where it is mounted.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It takes too long.
    #[error("the file systems on {device} took more than {seconds} s to freeze")]
    Slow {
        /// The device.
        device: String,
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
    /// What is kept for a successor cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A mounted file system.
struct Mounted {
    target: PathBuf,
    root: File,
}

/// Freezes the file systems on one device.
#[derive(Clone)]
pub struct Freezer {
    state: Arc<StateDir>,
    record: Record,
}

/// File systems that are frozen until they are thawed.
#[derive(Default)]
pub struct FrozenMounts(Mutex<Option<Frozen>>);

struct Frozen {
    mounts: Vec<Mounted>,
    mark: FreezeMark,
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

    /// Writes what is dirty in the file systems, so that freezing them does not take long. That it
    /// fails will be seen when they are frozen.
    pub async fn sync(&self, how: Fsfreeze, limit: Duration) {
        if how == Fsfreeze::Never {
            return;
        }
        let device = self.record.device;
        let syncing = tokio::task::spawn_blocking(move || {
            for mounted in find_mounts(device).unwrap_or_default() {
                if let Err(error) = nix::unistd::syncfs(&mounted.root) {
                    warn!(target = %mounted.target.display(), %error, "not synced");
                }
            }
        });
        if tokio::time::timeout(limit, syncing).await.is_err() {
            warn!(device = self.device(), "the file systems have much to write");
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
        let freezer = self.clone();
        let mut freezing = tokio::task::spawn_blocking(move || freezer.freeze_all(how));
        match tokio::time::timeout(limit, &mut freezing).await {
            Ok(frozen) => frozen.expect("freezing neither panics nor is cancelled"),
            Err(_) => {
                // It cannot be called off: what it freezes in the end is thawed then.
                tokio::spawn(async move {
                    if let Ok(Ok(frozen)) = freezing.await {
                        frozen.thaw().await;
                    }
                });
                Err(FsfreezeError::Slow { device: self.device(), seconds: limit.as_secs() })
            }
        }
    }

    fn freeze_all(&self, how: Fsfreeze) -> Result<Arc<FrozenMounts>, FsfreezeError> {
        let found = find_mounts(self.record.device);
        let found =
            found.map_err(|source| FsfreezeError::Search { device: self.device(), source })?;
        if found.is_empty() {
            return match how {
                Fsfreeze::Always => Err(FsfreezeError::NotMounted { device: self.device() }),
                _ => Ok(Arc::default()),
            };
        }
        let Some(mark) = self.state.mark_frozen(self.record.volume)? else {
            return Err(FsfreezeError::Busy { device: self.device() });
        };
        let mut frozen = Frozen { mounts: Vec::new(), mark };
        for mounted in found {
            match sys::freeze_file_system(&mounted.root) {
                Ok(()) => frozen.mounts.push(mounted),
                Err(source) => {
                    if how == Fsfreeze::Auto && is_no_freeze(&source) {
                        info!(target = %mounted.target.display(), %source, "not frozen");
                        continue;
                    }
                    frozen.thaw();
                    return Err(FsfreezeError::Freeze { target: mounted.target, source });
                }
            }
        }
        Ok(Arc::new(FrozenMounts(Mutex::new(Some(frozen)))))
    }

    /// Thaws what a killed predecessor may have left frozen, on a thread of its own: thawing may
    /// write to the device, which is not served yet. Nothing if there is none.
    #[must_use]
    pub fn thaw_leftovers(&self) -> Option<JoinHandle<()>> {
        let Record { device, ref name, volume, .. } = self.record;
        if !self.state.is_marked_frozen(volume) {
            return None;
        }
        warn!(volume = name, "thawing file systems that a killed fs-core may have frozen");
        let (name, state) = (name.clone(), Arc::clone(&self.state));
        Some(tokio::task::spawn_blocking(move || {
            let problem = match (state.mark_frozen(volume), find_mounts(device)) {
                (Ok(Some(mark)), Ok(mounts)) => return Frozen { mounts, mark }.thaw(),
                (Ok(None), _) => return,
                (Err(error), _) => error.to_string(),
                (_, Err(error)) => format!("mounts cannot be found: {error}"),
            };
            warn!(volume = name, problem, "not thawed: try fsfreeze --unfreeze");
        }))
    }
}

impl FrozenMounts {
    /// Thaws them, and waits for that; again does nothing.
    pub async fn thaw(self: &Arc<Self>) {
        let frozen = Arc::clone(self);
        let thawing = tokio::task::spawn_blocking(move || frozen.thaw_now());
        thawing.await.expect("thawing neither panics nor is cancelled");
    }

    fn thaw_now(&self) {
        let frozen = self.0.lock().expect(UNPOISONED).take();
        if let Some(frozen) = frozen {
            frozen.thaw();
        }
    }
}

impl Frozen {
    /// One that cannot be thawed stays marked: a successor tries again.
    fn thaw(self) {
        let still: Vec<_> = self.mounts.iter().filter(|mounted| !thaw_surely(mounted)).collect();
        for mounted in &still {
            let target = mounted.target.display();
            warn!(%target, "the file system stays frozen: thaw it with fsfreeze --unfreeze");
        }
        if still.is_empty()
            && let Err(error) = self.mark.clear()
        {
            warn!(%error, "a successor will thaw again");
        }
    }
}

/// Thaws, again and again; one that is not frozen is thawed.
fn thaw_surely(mounted: &Mounted) -> bool {
    for _ in 0..THAW_TRIES {
        match sys::thaw_file_system(&mounted.root) {
            Ok(()) => return true,
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return true,
            Err(error) => {
                let target = mounted.target.display();
                warn!(%target, %error, "the file system is not thawed yet");
            }
        }
        pause();
    }
    false
}

#[allow(clippy::disallowed_methods, reason = "a thread that only waits for the kernel")]
fn pause() {
    std::thread::sleep(THAW_PAUSE);
}

/// No such operation, or somebody else has frozen it.
fn is_no_freeze(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::EBUSY))
}

/// The file systems on a device and its partitions, each once.
fn find_mounts(device: DeviceId) -> io::Result<Vec<Mounted>> {
    let Some(number) = block_device(Path::new(&device.block_path())) else {
        return Ok(Vec::new());
    };
    let mut found = BTreeMap::new();
    for holder in HolderSearch::of_this_host().find(&device.block_name(), number)? {
        let Holder::Mount { pid, target } = holder else { continue };
        // As that process sees it: it may be another mount namespace.
        let inside = target.strip_prefix("/").unwrap_or(&target);
        let path = Path::new("/proc").join(pid.to_string()).join("root").join(inside);
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOFOLLOW);
        let root = match options.open(&path) {
            Ok(root) => root,
            // The process has ended, or the mount is gone.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let file_system = root.metadata()?.dev();
        found.entry(file_system).or_insert(Mounted { target, root });
    }
    Ok(found.into_values().collect())
}
