//! What `lunar snapshot export`, `import` and `verify` share: volumes of their own, the end by
//! Ctrl-C, and errors as a person reads them.

pub(super) mod export;
pub(super) mod import;
mod opened;
mod own;
mod target;
pub(super) mod verify;
mod work;

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use crate::error::{CliError, Exit};
use crate::export::TransferError;
use crate::export::place::PlaceError;

/// Who sends a signal twice within this time, as timeout(1) does, means one.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// Whether the person who waits wants it to end.
#[derive(Clone, Debug, Default)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens for Ctrl-C and SIGTERM. The second one, a moment later, ends the program at once.
    fn on_signals() -> Self {
        let stop = Self::default();
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let Ok(mut signals) = signal(kind) else { continue };
            let asked = stop.clone();
            tokio::spawn(async move {
                if signals.recv().await.is_none() {
                    return;
                }
                asked.ask();
                sleep(ONE_SIGNAL).await;
                let Ok(mut signals) = signal(kind) else { return };
                if signals.recv().await.is_some() {
                    asked.ask();
                }
            });
        }
        stop
    }

    /// Asks for the end. The second time the program ends here.
    fn ask(&self) {
        if self.0.swap(true, Ordering::Relaxed) {
            std::process::exit(Exit::Interrupted as i32);
        }
    }

    fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails when it is asked for.
    fn check(&self, step: &str) -> Result<(), CliError> {
        match self.is_asked() {
            true => Err(interrupted(step)),
            false => Ok(()),
        }
    }

    /// Counts what was moved and ends where it is asked for.
    fn observer(&self, counter: Arc<AtomicU64>) -> impl FnMut(u64) -> ControlFlow<()> + Send {
        let stop = self.clone();
        move |moved| {
            counter.fetch_add(moved, Ordering::Relaxed);
            match stop.is_asked() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        }
    }
}

fn interrupted(step: &str) -> CliError {
    CliError::new(Exit::Interrupted, "INTERRUPTED", format!("{step}: it was interrupted"))
}

/// Runs what reads and writes files on a thread of its own.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            let message = format!("the thread that moves the data ended: {error}");
            Err(CliError::new(Exit::Failed, "RUNTIME", message))
        }
    }
}

const ROOM: &str = "make room where the file is; a file system with smaller files takes a stream";

fn is_full(problem: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(problem.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// An export or import that failed in the middle.
fn transfer_failed(step: &str, error: &TransferError) -> CliError {
    let failed = |reason: &str, advice: &str| {
        CliError::new(Exit::Failed, reason, format!("{step}: {error}")).advise(advice)
    };
    match error {
        TransferError::Interrupted => interrupted(step),
        error if error.is_not_durable() => failed(
            "TARGET_NOT_DURABLE",
            "see to the file system of the target; nothing of the file can be relied on, so \
             --resume begins anew",
        ),
        TransferError::WriteFile(problem) | TransferError::WriteManifest(problem)
            if is_full(problem) =>
        {
            failed("TARGET_FULL", ROOM)
        }
        TransferError::WriteFile(_) | TransferError::WriteManifest(_) => {
            failed("TARGET", "see to the file system or the program that the export goes to")
        }
        TransferError::ReadVolume { .. } => {
            failed("VOLUME_READ", "see what fs-core logs, and whether its LUNs are there")
        }
        TransferError::WriteVolume { problem, .. } if is_full(problem) => {
            failed("POOL_FULL", "see 'lunar pool status' and make room in the pool")
        }
        TransferError::WriteVolume { .. } => {
            failed("VOLUME_WRITE", "see what fs-core logs, and whether its LUNs are there")
        }
        TransferError::Stream(stream) => failed("EXPORT_DAMAGED", stream.advice()),
        TransferError::WindowChecksum { .. } => {
            failed("EXPORT_DAMAGED", "take another copy of the file, or export the snapshot again")
        }
        TransferError::ReadFile(problem) => match problem.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => failed(
                "EXPORT_DAMAGED",
                "take another copy of the file and its manifest, or export the snapshot again; an \
                 image that another program has written goes through 'qemu-img convert -O raw' and \
                 'lunar snapshot import --unverified'",
            ),
            _ => failed("SOURCE_READ", "see to the file system that the export is on"),
        },
    }
}

/// A place that cannot be written.
fn place_failed(step: &str, error: &PlaceError) -> CliError {
    let (exit, reason, advice) = match error {
        PlaceError::Exists { .. } => {
            (Exit::Refused, "TARGET_EXISTS", "name another file, or remove this one")
        }
        PlaceError::Unfinished { .. } => (
            Exit::Refused,
            "TARGET_UNFINISHED",
            "go on with it by --resume, or remove it and its manifest",
        ),
        PlaceError::Busy { .. } => (Exit::Refused, "TARGET_BUSY", "wait for it to end"),
        PlaceError::Io { problem, .. } if is_full(problem) => (Exit::Failed, "TARGET_FULL", ROOM),
        PlaceError::Io { .. } => (Exit::Failed, "TARGET", "see to the folder of the file"),
    };
    CliError::new(exit, reason, format!("{step}: {error}")).advise(advice)
}

fn usage(step: &str, why: &str, advice: &str) -> CliError {
    CliError::new(Exit::Usage, "INVALID_ARGUMENT", format!("{step}: {why}")).advise(advice)
}
