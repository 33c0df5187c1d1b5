//! The admin socket: gRPC on a Unix socket that only root can open.
//!
//! - [`service`]: the calls;
//! - [`convert`]: what they answer.

pub mod convert;
pub mod service;

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lunar_proto::v1::fs_core_server::FsCoreServer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::node::Node;

use self::service::AdminService;

/// The socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Something else is at its path.
    #[error("{} is in the way of the admin socket: it is no socket", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be made.
    #[error("cannot listen on the admin socket {}", path.display())]
    Listen {
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It broke.
    #[error("the admin socket failed")]
    Serve(#[source] tonic::transport::Error),
}

/// Listens on the socket, in place of one that a dead daemon has left. The caller holds the lock
/// of the state directory, so no other daemon is listening.
///
/// # Errors
/// When something else is at the path, or the directory cannot be written.
pub fn listen(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |source| AdminError::Listen { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
        Ok(_) => return Err(AdminError::Occupied { path: path.to_owned() }),
        Err(_) => {}
    }
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = listener.map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers calls until the task is dropped.
///
/// # Errors
/// When the socket breaks.
pub async fn serve(listener: UnixListener, node: Arc<Node>) -> Result<(), AdminError> {
    Server::builder()
        .add_service(FsCoreServer::new(AdminService::new(node)))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .map_err(AdminError::Serve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_for_root_only_and_replaces_a_dead_one() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("run/fs-core.sock");
        for _ in 0..2 {
            let listener = listen(&path).expect("listening");
            let mode = std::fs::metadata(&path).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            drop(listener);
        }
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "data").expect("written");
        assert!(matches!(listen(&path), Err(AdminError::Occupied { .. })));
        assert_eq!(std::fs::read(&path).expect("still there"), b"data");
    }
}
