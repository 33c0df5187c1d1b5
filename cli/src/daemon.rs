//! The client of fs-core's admin socket on this node.
//!
//! - One connection a command; every call has a deadline.
//! - Every call fails with what fs-core answers, or with why it does not.
//! - A socket that cannot be opened is told apart: absent, not permitted, nobody listens.

use std::io;
use std::path::Path;
use std::time::Duration;

use lunar_proto::domain::Selector;
use lunar_proto::v1;
use lunar_proto::v1::fs_core_client::FsCoreClient;
use lunar_types::{PublicationId, VolumeId};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::error::{CliError, Exit};

/// For calls that only look.
const QUERY_DEADLINE: Duration = Duration::from_secs(30);
/// For calls that move data first: replay of a journal, the last flush of a device.
const WORK_DEADLINE: Duration = Duration::from_secs(600);

/// How a volume is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AttachAs {
    /// Also one that was restored: it counts as accepted then.
    pub accept_restored: bool,
    /// Another node may have it too.
    pub migratable: bool,
    /// By whose leave; none: by hand.
    pub publication: Option<PublicationId>,
}

/// A connection to fs-core.
#[derive(Clone, Debug)]
pub struct Daemon {
    client: FsCoreClient<Channel>,
}

type Answer<T> = Result<T, CliError>;

impl Daemon {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// When nobody answers there, with the reason and what to do.
    pub async fn connect(path: &Path) -> Answer<Self> {
        // The transport hides why a socket cannot be opened, so it is tried first.
        UnixStream::connect(path).await.map_err(|error| unreachable_socket(path, &error))?;
        let endpoint = Endpoint::from_shared(format!("unix:{}", path.display()));
        let failed = |error: tonic::transport::Error| {
            unreachable_socket(path, &io::Error::other(error.to_string()))
        };
        let channel = endpoint.map_err(failed)?.connect().await.map_err(failed)?;
        Ok(Self { client: FsCoreClient::new(channel) })
    }

    /// What the daemon is and whether it can serve.
    pub async fn status(&self) -> Answer<v1::DaemonStatus> {
        let request = query(v1::GetDaemonStatusRequest {});
        let answer = self.client.clone().get_daemon_status(request).await;
        open("ask fs-core for its status", answer)
    }

    /// What kernel and host offer to the daemon.
    pub async fn probe(&self) -> Answer<v1::ProbeResponse> {
        let answer = self.client.clone().probe(query(v1::ProbeRequest {})).await;
        open("ask fs-core what the host offers", answer)
    }

    /// The block devices that are, or could become, LUNs.
    pub async fn list_luns(&self, all: bool) -> Answer<Vec<v1::LocalLun>> {
        let request = query(v1::ListLocalLunsRequest { all });
        let answer = self.client.clone().list_local_luns(request).await;
        open("list the LUNs of this node", answer).map(|answer| answer.luns)
    }

    /// One block device.
    pub async fn inspect_lun(&self, path: &Path) -> Answer<v1::LocalLun> {
        let request = query(v1::InspectLunRequest { path: path.display().to_string() });
        let answer = self.client.clone().inspect_lun(request).await;
        open(&format!("inspect {}", path.display()), answer)
    }

    /// Labels a device.
    pub async fn label_lun(&self, request: v1::LabelLunRequest) -> Answer<v1::LocalLun> {
        let step = format!("label {}", request.path);
        let answer = self.client.clone().label_lun(work(request)).await;
        open(&step, answer)
    }

    /// Attaches a volume to this node.
    pub async fn attach(
        &self,
        volume: &Selector<VolumeId>,
        AttachAs { accept_restored, migratable, publication }: AttachAs,
    ) -> Answer<v1::LocalAttachment> {
        let wanted = Some(volume.clone().into());
        let request = work(v1::AttachVolumeRequest {
            volume: wanted,
            accept_restored,
            migratable,
            publication_id: publication.map_or_else(String::new, |id| id.to_string()),
            // Whoever is told of the device may write anything to it.
            for_file_system: false,
        });
        let answer = self.client.clone().attach_volume(request).await;
        open(&format!("attach volume {volume}"), answer)
    }

    /// Takes a volume to this node whose device waits here.
    pub async fn move_volume(&self, volume: &Selector<VolumeId>) -> Answer<v1::LocalAttachment> {
        let request = work(v1::MoveVolumeRequest { volume: Some(volume.clone().into()) });
        let answer = self.client.clone().move_volume(request).await;
        open(&format!("move volume {volume} to this node"), answer)
    }

    /// Detaches a volume from this node.
    pub async fn detach(
        &self,
        volume: &Selector<VolumeId>,
        force: bool,
    ) -> Answer<v1::DetachVolumeResponse> {
        let request = work(v1::DetachVolumeRequest { volume: Some(volume.clone().into()), force });
        let answer = self.client.clone().detach_volume(request).await;
        open(&format!("detach volume {volume}"), answer)
    }

    /// Detaches what is attached and not in use.
    pub async fn drain(&self) -> Answer<v1::DrainResponse> {
        let request = work(v1::DrainRequest { force: false });
        let answer = self.client.clone().drain(request).await;
        open("detach what is attached to this node", answer)
    }

    /// What is attached to this node.
    pub async fn attachments(&self) -> Answer<Vec<v1::LocalAttachment>> {
        let request = query(v1::ListLocalAttachmentsRequest {});
        let answer = self.client.clone().list_local_attachments(request).await;
        open("list the attachments of this node", answer).map(|answer| answer.attachments)
    }

    /// Commits what was written to a volume before the call.
    pub async fn checkpoint(&self, volume: &Selector<VolumeId>) -> Answer<()> {
        let request = work(v1::CheckpointVolumeRequest { volume: Some(volume.clone().into()) });
        let answer = self.client.clone().checkpoint_volume(request).await;
        open(&format!("checkpoint volume {volume}"), answer).map(|_| ())
    }
}

fn query<T>(message: T) -> Request<T> {
    with_deadline(message, QUERY_DEADLINE)
}

fn work<T>(message: T) -> Request<T> {
    with_deadline(message, WORK_DEADLINE)
}

fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn open<T>(step: &str, answer: Result<Response<T>, Status>) -> Answer<T> {
    answer.map(Response::into_inner).map_err(|status| CliError::of_status(step, &status))
}

fn unreachable_socket(path: &Path, error: &io::Error) -> CliError {
    let path = path.display();
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "start fs-core on this node, or name its socket with --socket or LUNAR_SOCKET"
        }
        io::ErrorKind::PermissionDenied => "only root may open the socket: run this with sudo",
        io::ErrorKind::ConnectionRefused => {
            "the socket is left over from a daemon that is gone: start fs-core on this node"
        }
        _ => "see whether fs-core runs on this node and what it logs",
    };
    let message = format!("fs-core cannot be reached at {path}: {error}");
    CliError::new(Exit::Unavailable, "DAEMON_UNREACHABLE", message).advise(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn error_at(path: &Path) -> CliError {
        Daemon::connect(path).await.expect_err("nobody listens")
    }

    #[tokio::test]
    async fn absent_socket_and_absent_daemon_are_told_apart() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fs-core.sock");
        let absent = error_at(&path).await;
        drop(tokio::net::UnixListener::bind(&path).expect("binds"));
        let left_over = error_at(&path).await;
        assert_eq!((absent.exit, left_over.exit), (Exit::Unavailable, Exit::Unavailable));
        assert!(absent.message.contains("fs-core.sock"), "{absent}");
        assert!(absent.advice.starts_with("start fs-core"), "{absent}");
        assert!(left_over.advice.starts_with("the socket is left over"), "{left_over}");
    }
}
