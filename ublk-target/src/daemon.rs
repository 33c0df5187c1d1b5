//! The daemon from start to end.
//!
//! Order of the start: process set-up (in `main`, before any thread) → ublk → state directory and
//! its lock → admin socket → join → what a predecessor has left → requests are let in. The socket
//! answers before the metadata service does, so that a person sees what is being waited for.
//!
//! Order of the end of an incarnation (it was fenced, or is being): no I/O begins → what waits
//! fails → its devices are removed → the program starts anew and joins as another incarnation.
//!
//! Order of a graceful end: checkpoints, then exit with the devices left to a successor; or, if so
//! configured, everything is detached first.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use lunar_proto::domain::PoolFencing;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::admin::{self, AdminError};
use crate::config::Config;
use crate::metadata::Metadata;
use crate::node::detach::Force;
use crate::node::membership::LeaseLost;
use crate::node::{Membership, Node};
use crate::process::{self, ProcessFacts};
use crate::state::node::boot_id;
use crate::state::{Media, StateDir, StateError};

/// How long a killed predecessor may take to be gone.
const LOCK_LIMIT: Duration = Duration::from_secs(30);
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// How long the last checkpoints may take.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(10);
/// The exit code of a daemon whose incarnation was ended by the metadata service.
const EXIT_FENCED: u8 = 3;
const RENEWING: &str = "renewing neither panics nor is cancelled";

/// How long devices may take to be removed when their incarnation is over.
const REMOVAL_LIMIT: Duration = Duration::from_secs(20);

/// How the daemon ended.
#[derive(Debug, Clone, Copy)]
pub enum Ended {
    /// With this exit code.
    Exit(ExitCode),
    /// To start anew in this very process: the incarnation is over, the node is to have another.
    Rejoin,
}

/// The daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The state directory fails.
    #[error(transparent)]
    State(#[from] StateError),
    /// The admin socket fails.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] std::io::Error),
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// When it cannot start, or its socket breaks.
pub async fn run(
    config: Config,
    facts: ProcessFacts,
    metadata: Arc<dyn Metadata>,
) -> Result<Ended, DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let state = open_state(&config).await?;
    let boot = boot_id()?;
    process::drop_inherited_mounts();
    let listener = admin::listen(&config.admin_socket)?;
    let is_drained_on_stop = config.drain_on_stop;
    let node = Arc::new(Node::new(config, facts, state, metadata));
    info!(socket = %node.config.admin_socket.display(), "listening");
    let mut socket = tokio::spawn(admin::serve(listener, Arc::clone(&node)));
    let mut serving = tokio::spawn(serve(Arc::clone(&node), boot));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut socket => {
            ended.expect("the socket's task neither panics nor is cancelled")?;
        }
        ended = &mut serving => {
            let lost = ended.expect("the node's task neither panics nor is cancelled")?;
            return Ok(end_incarnation(&node, lost).await);
        }
    }
    stop(&node, is_drained_on_stop).await;
    remove_socket(&node.config.admin_socket);
    Ok(Ended::Exit(ExitCode::SUCCESS))
}

async fn end_incarnation(node: &Arc<Node>, lost: LeaseLost) -> Ended {
    match lost {
        LeaseLost::Superseded(why) => {
            error!(why, "this process was ended by the metadata service: no more I/O");
            Ended::Exit(ExitCode::from(EXIT_FENCED))
        }
        LeaseLost::Over(why) => {
            error!(why, "this node was fenced: its volumes fail, and it joins again");
            node.authority.end();
            if tokio::time::timeout(REMOVAL_LIMIT, node.remove_devices()).await.is_err() {
                warn!("some devices were not removed in time: the next incarnation does it");
            }
            drained_without_reservations(node).await;
            Ended::Rejoin
        }
    }
}

/// Waits until nothing is under way at LUNs that no array protects: the next incarnation's join
/// says that this one writes nothing there any more. Where there are reservations the array does.
async fn drained_without_reservations(node: &Node) {
    let guards = node.authority.guards();
    for guard in guards.iter().filter(|guard| guard.fencing() != PoolFencing::Reservations) {
        let drained = guard.drained();
        tokio::pin!(drained);
        while tokio::time::timeout(REMOVAL_LIMIT, &mut drained).await.is_err() {
            let (lun, under_way) = (guard.lun(), guard.under_way());
            warn!(%lun, under_way, "waiting for I/O to end before this node joins again");
        }
    }
}

async fn open_state(config: &Config) -> Result<StateDir, StateError> {
    let media = if config.lab_allow_disk_state { Media::Any } else { Media::MemoryOnly };
    let mut waited = Duration::ZERO;
    loop {
        match StateDir::open(&config.state_dir, media) {
            Err(StateError::Locked { .. }) if waited < LOCK_LIMIT => {
                if waited.is_zero() {
                    warn!("waiting for another fs-core to be gone");
                }
                tokio::time::sleep(LOCK_RETRY).await;
                waited += LOCK_RETRY;
            }
            other => return other,
        }
    }
}

async fn serve(node: Arc<Node>, boot: lunar_types::BootId) -> Result<LeaseLost, StateError> {
    let member: Membership = node.join(boot).await?;
    // The lease is kept from here on: what comes next may take longer than it lasts.
    let mut renewing = {
        let node = Arc::clone(&node);
        tokio::spawn(async move { node.renew_lease(member).await })
    };
    tokio::select! {
        lost = &mut renewing => return Ok(lost.expect(RENEWING)),
        prepared = prepare(&node, member) => prepared?,
    }
    Ok(renewing.await.expect(RENEWING))
}

async fn prepare(node: &Arc<Node>, member: Membership) -> Result<(), StateError> {
    node.register(member).await;
    node.recover(member).await?;
    node.open_to_requests(member);
    let returning = Arc::clone(node);
    tokio::spawn(async move { returning.give_back_pending().await });
    tokio::spawn(Arc::clone(node).watch(member));
    Ok(())
}

async fn stop(node: &Arc<Node>, is_drained: bool) {
    if is_drained {
        let (detached, failures) = node.drain(Force::No).await;
        info!(detached, "drained");
        for (volume, error) in failures {
            warn!(volume, error = error.message(), "left to a successor");
        }
    }
    let all = node.checkpoint_all();
    match tokio::time::timeout(CHECKPOINT_LIMIT, all).await {
        Ok(0) => {}
        Ok(failed) => warn!(failed, "volumes without a last checkpoint: a successor has them"),
        Err(_) => warn!("the last checkpoints took too long: a successor goes on"),
    }
    info!(volumes = node.slots().len(), "ending; the devices wait for a successor");
}

fn remove_socket(path: &Path) {
    if let Err(problem) = std::fs::remove_file(path) {
        warn!(path = %path.display(), %problem, "the admin socket stays");
    }
}
