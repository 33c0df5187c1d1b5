//! A Unix socket with the services of one part of the driver, until SIGTERM.
//!
//! - The socket of a killed driver is replaced; one that a live driver answers on is not, and the
//!   start is refused.
//! - On SIGTERM calls that are under way may end; what they do goes on by itself in any case.
//! - The socket can be opened by root alone.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{info, warn};

/// How long calls may go on after SIGTERM; Kubernetes kills after 30 s.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Why the driver cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another driver serves there.
    #[error("{} is served by another driver: stop it, or give another --endpoint", .0.display())]
    Taken(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {}: see that its directory is there and writable", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// Serving has failed.
    #[error("cannot serve any more")]
    Serve(#[source] tonic::transport::Error),
}

async fn listen(path: &Path) -> Result<UnixListener, ServeError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(ServeError::Taken(path.to_owned()));
    }
    let failed = |source| ServeError::Listen { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let only_root = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, only_root).map_err(failed)?;
    Ok(listener)
}

/// Which file is at a path.
fn socket_id(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The socket cannot be made, or serving fails.
pub async fn serve(path: &Path, services: Routes) -> Result<(), ServeError> {
    let listener = listen(path).await?;
    let own = socket_id(path);
    let mut terminated = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    info!(socket = %path.display(), "serving");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        info!("stopping");
        drop(stop);
    };
    let incoming = UnixListenerStream::new(listener);
    let serving =
        Server::builder().add_routes(services).serve_with_incoming_shutdown(incoming, shutdown);
    let overdue = async {
        // An error is the sender that is gone: the signal has come.
        let _ = stopped.await;
        tokio::time::sleep(STOP_GRACE).await;
    };
    tokio::select! {
        served = serving => served.map_err(ServeError::Serve)?,
        () = overdue => warn!("calls are still under way: they go on without an answer"),
    }
    // A successor may have its own there by now. That it cannot be removed harms nobody.
    if own.is_some() && socket_id(path) == own {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_left_socket_is_replaced_and_a_served_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("csi.sock");
        drop(UnixListener::bind(&path).expect("a socket that is left"));
        let served = listen(&path).await.expect("it is replaced");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = listen(&path).await.expect_err("it is served");
        assert!(matches!(refused, ServeError::Taken(_)), "{refused}");
        drop(served);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_named() {
        let refused = listen(Path::new("/nowhere/csi.sock")).await.expect_err("no directory");
        assert!(refused.to_string().contains("/nowhere/csi.sock"), "{refused}");
    }
}
