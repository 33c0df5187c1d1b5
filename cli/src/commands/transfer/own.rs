//! Volumes that exist for one command: made, attached to this node, and deleted at its end.
//!
//! - Their names say so: `export-<node>-<uuid>` and `import-<node>-<uuid>`, with the node's number.
//! - Commands that have one hold a lock together. Who gets it alone knows that no such command
//!   runs on this node: what is left of killed ones is deleted then.
//! - A device that somebody has open is never detached.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lunar_metadata_client::{ErrorKind, ErrorReason, MetadataClient, fresh_request_id};
use lunar_proto::domain::{DeleteVolume, Selector, Volume, VolumeState};
use lunar_types::{Name, RequestId, VolumeId};
use tokio::time::sleep;

use super::super::{Context, unless};
use crate::daemon::{AttachAs, Daemon};
use crate::error::{CliError, Exit};
use crate::progress::Waiting;

/// How long a device may be looked at by others, such as udev, after it was used.
const DETACH_TRIES: u32 = 50;
const DETACH_PAUSE: Duration = Duration::from_millis(200);
const LOCK_NAME: &str = "lunar-transfer.lock";

const GONE: ErrorKind = ErrorKind::Refused(ErrorReason::VolumeNotFound);

/// What a volume is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    Export,
    Import,
}

impl Purpose {
    const fn word(self) -> &'static str {
        match self {
            Self::Export => "export",
            Self::Import => "import",
        }
    }
}

/// This node, for a command that needs a volume of its own.
pub(super) struct Here {
    pub(super) service: MetadataClient,
    pub(super) daemon: Daemon,
    node: u32,
    /// Held to the end.
    _lock: File,
}

impl Here {
    /// Connects, and deletes what killed commands have left on this node.
    pub(super) async fn start(context: &Context<'_>) -> Result<Self, CliError> {
        let daemon = context.daemon().await?;
        let service = context.service().await?;
        let status = daemon.status().await?;
        let node = status.node.map(|node| node.node).ok_or_else(|| {
            let message = "fs-core of this node has not joined its cluster yet";
            CliError::new(Exit::Unavailable, "NOT_JOINED", message)
                .advise("see that it reaches the metadata service, then try again")
        })?;
        let lock = lock_file(&context.global.socket)?;
        let alone = match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => return Err(no_lock(&context.global.socket, &error)),
        };
        let here = Self { service, daemon, node, _lock: lock };
        if alone {
            here.sweep().await?;
        }
        here._lock.lock_shared().map_err(|error| no_lock(&context.global.socket, &error))?;
        Ok(here)
    }

    /// A name that no other volume has.
    pub(super) fn name(&self, purpose: Purpose) -> Name {
        let name = format!("{}-{}-{}", purpose.word(), self.node, fresh_request_id());
        name.parse().expect("a word, a number and a UUID are a name")
    }

    fn is_own(&self, name: &Name) -> bool {
        [Purpose::Export, Purpose::Import].into_iter().any(|purpose| {
            let begin = format!("{}-{}-", purpose.word(), self.node);
            let rest = name.as_str().strip_prefix(&begin);
            rest.is_some_and(|rest| rest.parse::<RequestId>().is_ok())
        })
    }

    /// Deletes what is left over. What cannot be deleted is told, and is no reason to stop.
    async fn sweep(&self) -> Result<(), CliError> {
        for volume in self.service.volumes().await? {
            if self.is_own(&volume.name)
                && volume.state != VolumeState::Deleting
                && let Err(error) = self.remove(&volume).await
            {
                let name = &volume.name;
                // Without a standard error nobody is told, and the next run tries again.
                let _ = writeln!(
                    std::io::stderr(),
                    "volume '{name}' is left of a killed export or import and stays: {}",
                    error.message
                );
            }
        }
        Ok(())
    }

    /// Attaches a volume and gives its device.
    pub(super) async fn attach(&self, volume: &Volume) -> Result<PathBuf, CliError> {
        let _waiting = Waiting::on(&format!("attaching volume '{}'", volume.name));
        let attachment = self.daemon.attach(&Selector::Id(volume.id), AttachAs::default()).await?;
        Ok(PathBuf::from(attachment.device_path))
    }

    /// Detaches a volume; one that is not attached is fine.
    pub(super) async fn detach(&self, volume: VolumeId) -> Result<(), CliError> {
        let mut tries = 0;
        loop {
            match self.daemon.detach(&Selector::Id(volume), false).await {
                Ok(_) => return Ok(()),
                Err(error) if error.reason == ErrorReason::NotAttached.as_str() => return Ok(()),
                Err(error) if error.exit == Exit::NotFound => return Ok(()),
                Err(error) if error.exit != Exit::Refused || tries == DETACH_TRIES => {
                    return Err(error);
                }
                Err(_) => {
                    tries += 1;
                    sleep(DETACH_PAUSE).await;
                }
            }
        }
    }

    /// Detaches and deletes a volume of this command. Its extents come back in the background.
    pub(super) async fn remove(&self, volume: &Volume) -> Result<(), CliError> {
        self.detach(volume.id).await?;
        let (request, id) = (fresh_request_id(), Selector::Id(volume.id));
        let deleted = self.service.delete_volume(&DeleteVolume { request, volume: id }).await;
        unless(GONE, deleted).map(drop)
    }
}

/// The result of a command and of the removal of its volume; the first error of the two.
pub(super) fn after_removal<T>(
    result: Result<T, CliError>,
    volume: &Volume,
    removed: Result<(), CliError>,
) -> Result<T, CliError> {
    let Err(error) = removed else { return result };
    let name = &volume.name;
    let left = format!("volume '{name}' of this command could not be deleted: {}", error.message);
    let advice = format!(
        "the next export or import on this node deletes it, or 'lunar volume detach {name}' and \
         'lunar volume delete {name}'"
    );
    Err(match result {
        Ok(_) => CliError { message: format!("all is done, but {left}"), advice, ..error },
        Err(first) => {
            let message = format!("{}; {left}", first.message);
            let advice = format!("{}; {advice}", first.advice);
            CliError { message, advice, ..first }
        }
    })
}

fn lock_file(socket: &Path) -> Result<File, CliError> {
    let path = socket.with_file_name(LOCK_NAME);
    let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    opened.map_err(|error| no_lock(socket, &error))
}

fn no_lock(socket: &Path, error: &std::io::Error) -> CliError {
    let path = socket.with_file_name(LOCK_NAME);
    let message = format!("lock {}: {error}", path.display());
    CliError::new(Exit::Failed, "LOCK", message).advise("run this as root, as fs-core runs")
}
