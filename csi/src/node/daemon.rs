//! The client of fs-core's admin socket: the calls that the node service makes.
//!
//! - Every call has a deadline; one that was not answered is UNAVAILABLE, because nobody knows what
//!   it has changed.
//! - Which device serves a volume is what fs-core answers, and is kept nowhere.

use std::path::Path;
use std::time::Duration;

use lunar_proto::v1;
use lunar_proto::v1::fs_core_client::FsCoreClient;
use lunar_proto::v1::selector::By;
use lunar_types::{PublicationId, VolumeId};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::device::{Device, DeviceNumber, Served};
use crate::errors::CsiError;

/// For calls that only look.
const QUERY_DEADLINE: Duration = Duration::from_secs(30);
/// For calls that move data first: replay of a journal, the last flush of a device.
const WORK_DEADLINE: Duration = Duration::from_secs(600);

/// How a volume is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachAs {
    /// By whose leave.
    pub publication: PublicationId,
    /// Another node may have it too.
    pub is_migratable: bool,
    /// The driver asks for its content before it writes to it.
    pub is_for_file_system: bool,
}

/// What a volume's content may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nobody has ever written to it.
    Blank,
    /// A file system was about to be made.
    Formatting,
    /// It is not to be formatted.
    Used,
}

/// An attached volume, as fs-core lists it.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// As fs-core tells it.
    pub told: v1::LocalAttachment,
}

/// fs-core of this node.
#[derive(Clone, Debug)]
pub struct Daemon {
    client: FsCoreClient<Channel>,
}

fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn open<T>(what: &str, answer: Result<Response<T>, Status>) -> Result<T, CsiError> {
    answer.map(Response::into_inner).map_err(|status| CsiError::of_daemon(what, &status))
}

#[expect(clippy::unnecessary_wraps, reason = "the field of a message is optional")]
fn by_id(volume: VolumeId) -> Option<v1::Selector> {
    Some(v1::Selector { by: Some(By::Id(volume.to_string())) })
}

impl Attachment {
    /// The number of its device; nothing while it is not there.
    #[must_use]
    pub fn number(&self) -> Option<DeviceNumber> {
        let number = DeviceNumber { major: self.told.device_major, minor: self.told.device_minor };
        (number != DeviceNumber { major: 0, minor: 0 }).then_some(number)
    }

    /// Whether it was attached under a publication, and not by hand.
    #[must_use]
    pub const fn is_published(&self) -> bool {
        !self.told.publication_id.is_empty()
    }

    /// A flush or commit has failed: it has to be detached and attached again.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.told.state() == v1::AttachmentState::Poisoned
    }

    /// Its detachment was begun and has not ended.
    #[must_use]
    pub fn is_detaching(&self) -> bool {
        self.told.state() == v1::AttachmentState::Detaching
    }

    /// What serves the volume.
    ///
    /// # Errors
    /// UNAVAILABLE while nothing does.
    pub fn served(&self, volume: VolumeId) -> Result<Served, CsiError> {
        use v1::AttachmentState::{Live, Moving, Poisoned, Waiting};
        let v1::LocalAttachment { device_path, problem, .. } = &self.told;
        let state = self.told.state();
        let is_there = matches!(state, Live | Poisoned | Waiting | Moving);
        match self.number() {
            Some(number) if is_there && device_path.starts_with('/') => {
                Ok(Served { volume, device: Device { path: device_path.clone(), number } })
            }
            _ => {
                let state = state.as_str_name();
                let message = format!("volume {volume} is not served yet ({state}): {problem}");
                Err(CsiError::unavailable(message))
            }
        }
    }
}

impl Daemon {
    /// The one behind a socket; it need not be there yet.
    ///
    /// # Errors
    /// The path is none that a socket can have.
    pub fn at(socket: &Path) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
        Ok(Self { client: FsCoreClient::new(endpoint.connect_lazy()) })
    }

    /// Who it is.
    pub async fn status(&self) -> Result<v1::DaemonStatus, CsiError> {
        let request = with_deadline(v1::GetDaemonStatusRequest {}, QUERY_DEADLINE);
        open("ask for the status", self.client.clone().get_daemon_status(request).await)
    }

    /// Attaches a volume; one that is attached so already is answered the same.
    pub async fn attach(&self, volume: VolumeId, how: AttachAs) -> Result<Attachment, CsiError> {
        let message = v1::AttachVolumeRequest {
            volume: by_id(volume),
            accept_restored: false,
            migratable: how.is_migratable,
            publication_id: how.publication.to_string(),
            for_file_system: how.is_for_file_system,
        };
        let request = with_deadline(message, WORK_DEADLINE);
        let told = self.client.clone().attach_volume(request).await;
        let told = open(&format!("attach volume {volume}"), told)?;
        if told.volume_id != volume.to_string() {
            let message = format!("fs-core has answered for volume {} instead", told.volume_id);
            return Err(CsiError::unavailable(format!("cannot attach volume {volume}: {message}")));
        }
        Ok(Attachment { told })
    }

    /// Detaches a volume that nobody uses.
    pub async fn detach(&self, volume: VolumeId) -> Result<(), CsiError> {
        let message = v1::DetachVolumeRequest { volume: by_id(volume), force: false };
        let request = with_deadline(message, WORK_DEADLINE);
        let told = self.client.clone().detach_volume(request).await;
        open(&format!("detach volume {volume}"), told).map(|_| ())
    }

    async fn attachments(&self) -> Result<impl Iterator<Item = Attachment> + use<>, CsiError> {
        let request = with_deadline(v1::ListLocalAttachmentsRequest {}, QUERY_DEADLINE);
        let told = self.client.clone().list_local_attachments(request).await;
        let all = open("list what is attached", told)?.attachments;
        Ok(all.into_iter().map(|told| Attachment { told }))
    }

    /// A volume, if it is attached here.
    pub async fn attachment(&self, volume: VolumeId) -> Result<Option<Attachment>, CsiError> {
        let id = volume.to_string();
        Ok(self.attachments().await?.find(|attachment| attachment.told.volume_id == id))
    }

    /// The volumes that are served here under a publication, with their devices.
    pub async fn published(&self) -> Result<Vec<(VolumeId, Device)>, CsiError> {
        let served = self.attachments().await?.filter_map(|attachment| {
            let volume = attachment.told.volume_id.parse().ok()?;
            let served = attachment.served(volume).ok().filter(|_| attachment.is_published())?;
            Some((volume, served.device))
        });
        Ok(served.collect())
    }

    /// What the content of an attached volume may be.
    pub async fn content(&self, volume: VolumeId) -> Result<Content, CsiError> {
        let message = v1::GetContentRequest { volume: by_id(volume) };
        let request = with_deadline(message, QUERY_DEADLINE);
        let told = self.client.clone().get_content(request).await;
        let what = format!("ask what is on volume {volume}");
        match open(&what, told)?.state() {
            v1::ContentState::Blank => Ok(Content::Blank),
            v1::ContentState::Formatting => Ok(Content::Formatting),
            v1::ContentState::Used => Ok(Content::Used),
            v1::ContentState::Unspecified => {
                let why = "fs-core answers with a state that this driver does not know";
                Err(CsiError::internal(format!("cannot {what}: {why}")))
            }
        }
    }

    /// Says that a file system is about to be made.
    pub async fn begin_format(&self, volume: VolumeId, token: &str) -> Result<(), CsiError> {
        let request = v1::FormatRequest { volume: by_id(volume), token: token.to_owned() };
        let request = with_deadline(request, QUERY_DEADLINE);
        let told = self.client.clone().begin_format(request).await;
        open(&format!("begin to format volume {volume}"), told).map(|_| ())
    }

    /// Says that it was made and is durable.
    pub async fn end_format(&self, volume: VolumeId, token: &str) -> Result<(), CsiError> {
        let request = v1::FormatRequest { volume: by_id(volume), token: token.to_owned() };
        let request = with_deadline(request, QUERY_DEADLINE);
        let told = self.client.clone().end_format(request).await;
        open(&format!("end to format volume {volume}"), told).map(|_| ())
    }
}
