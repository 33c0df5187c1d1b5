//! Why the node refuses or fails a request, for people and for programs.

use lunar_proto::error::{ErrorReport, Facts};
use tonic::Code;

use crate::lun::inspect::with_causes;
use crate::lun::labelling::LabellingError;
use crate::metadata::MetadataError;
use crate::state::StateError;
use crate::volume::control::CheckpointError;
use crate::volume::device::DeviceError;
use crate::volume::load::LoadError;

/// A request to the node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The metadata service was never reached.
    #[error("this node has not joined its cluster yet: {problem}")]
    NotJoined {
        /// Why not.
        problem: String,
    },
    /// The volume has no slot here.
    #[error("volume {volume} is not attached to this node")]
    NotAttachedHere {
        /// As it was asked for.
        volume: String,
    },
    /// Somebody uses the device.
    #[error(
        "volume '{volume}' is in use: {device} is {holders}; stop using it, or detach with \
         --force and lose what was not written yet"
    )]
    InUse {
        /// The volume.
        volume: String,
        /// Its device.
        device: String,
        /// Who, joined by commas.
        holders: String,
    },
    /// Who uses the device cannot be found out.
    #[error("cannot find out who uses {device}")]
    Holders {
        /// The device.
        device: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is here in another way than it was asked for.
    #[error(
        "volume '{volume}' is attached here already, and the other way: detach it first, then \
         attach it with --migratable, or without"
    )]
    OtherSharing {
        /// The volume.
        volume: String,
    },
    /// It is here, and by another leave than it was asked for with.
    #[error(
        "volume '{volume}' is attached here already, and not under the publication that was given: \
         detach it first"
    )]
    OtherPublication {
        /// The volume.
        volume: String,
    },
    /// It is not attached so that another node may have it too.
    #[error(
        "volume '{volume}' is attached to this node alone, so there is nowhere to move it from: \
         attach it with --migratable on both nodes"
    )]
    NotShared {
        /// The volume.
        volume: String,
    },
    /// The other node does not give it away.
    #[error(
        "volume '{volume}' has not come to this node within {seconds} s; owner: {owner}; \
         'lunar explain volume {volume}' says what it waits for"
    )]
    NotMoved {
        /// The volume.
        volume: String,
        /// Who has it, for people.
        owner: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A volume of a predecessor is not served yet.
    #[error("volume '{volume}' of before the restart is not served yet: {problem}")]
    NotRecovered {
        /// The volume.
        volume: String,
        /// Why not.
        problem: String,
    },
    /// A volume is half detached.
    #[error(
        "volume '{volume}' is stopped, but not detached yet: {problem}; detach it again, or with \
         --force"
    )]
    HalfDetached {
        /// The volume.
        volume: String,
        /// Why not.
        problem: String,
    },
    /// The device does not stop.
    #[error(
        "device {device} of volume '{volume}' has not stopped within {seconds} s: I/O on a LUN \
         hangs; it goes on stopping in the background, detach it again later"
    )]
    StopHangs {
        /// The volume.
        volume: String,
        /// Its device.
        device: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Another change of the volume does not end.
    #[error(
        "another change of volume '{volume}' (a snapshot, an attachment, a takeover) has not ended \
         within {seconds} s: it waits for others, or I/O on a LUN hangs; detach it again later"
    )]
    ChangeHangs {
        /// The volume.
        volume: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The metadata service refused or is away.
    #[error("cannot {what}")]
    Metadata {
        /// Which call.
        what: String,
        /// Why.
        #[source]
        source: MetadataError,
    },
    /// The engine's side failed.
    #[error("cannot attach volume '{volume}'")]
    Load {
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: Box<LoadError>,
    },
    /// The kernel's side failed.
    #[error("cannot {what} the device of volume '{volume}'")]
    Device {
        /// Start, stop, …
        what: &'static str,
        /// The volume.
        volume: String,
        /// Why.
        #[source]
        source: DeviceError,
    },
    /// A checkpoint failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The state directory failed.
    #[error("cannot keep the state of the node")]
    State(#[from] StateError),
    /// A device is not labelled.
    #[error(transparent)]
    Label(#[from] LabellingError),
    /// Devices cannot be listed.
    #[error("cannot list the block devices of this host")]
    List(#[source] std::io::Error),
}

/// Why, for programs: the reason of an `ErrorInfo`, and its gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// Upper case, words joined by `_`.
    pub text: &'static str,
    /// What goes with it.
    pub code: Code,
}

const fn reason(text: &'static str, code: Code) -> Reason {
    Reason { text, code }
}

impl NodeError {
    /// What the metadata service said, where it is the cause.
    #[must_use]
    pub fn metadata(&self) -> Option<&MetadataError> {
        match self {
            Self::Metadata { source, .. }
            | Self::Checkpoint(CheckpointError::Unavailable { source, .. }) => Some(source),
            Self::Load { source, .. } => match &**source {
                LoadError::Metadata { source, .. } => Some(source),
                _ => None,
            },
            _ => None,
        }
    }

    /// The report that the metadata service refused with, where that is the cause.
    #[must_use]
    pub fn refusal(&self) -> Option<&ErrorReport> {
        match self.metadata() {
            Some(MetadataError::Refused(report)) => Some(report),
            _ => None,
        }
    }

    /// Why, for programs; a refusal of the metadata service keeps its own reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotJoined { .. } => reason("METADATA_UNAVAILABLE", Code::Unavailable),
            Self::NotAttachedHere { .. } => reason("NOT_ATTACHED_HERE", Code::NotFound),
            Self::InUse { .. } => reason("VOLUME_IN_USE", Code::FailedPrecondition),
            Self::NotRecovered { .. } => reason("NOT_RECOVERED", Code::FailedPrecondition),
            Self::HalfDetached { .. } => reason("HALF_DETACHED", Code::FailedPrecondition),
            Self::OtherSharing { .. } => reason("ATTACHED_OTHERWISE", Code::FailedPrecondition),
            Self::OtherPublication { .. } => reason("ATTACHED_OTHERWISE", Code::FailedPrecondition),
            Self::NotShared { .. } => reason("NOT_SHARED", Code::FailedPrecondition),
            Self::NotMoved { .. } => reason("NOT_MOVED", Code::DeadlineExceeded),
            Self::ChangeHangs { .. } => reason("CHANGE_HANGS", Code::DeadlineExceeded),
            Self::StopHangs { .. } => reason("IO_HANGS", Code::DeadlineExceeded),
            Self::Metadata { .. } | Self::Checkpoint(CheckpointError::Unavailable { .. }) => {
                reason("METADATA_UNAVAILABLE", Code::Unavailable)
            }
            Self::Checkpoint(CheckpointError::Poisoned { .. }) => {
                reason("VOLUME_POISONED", Code::DataLoss)
            }
            Self::Load { source, .. } => load_reason(source),
            Self::Device { .. } => reason("UBLK_FAILED", Code::Internal),
            Self::State(_) => reason("STATE_DIR_FAILED", Code::Internal),
            Self::Label(LabellingError::Refused { .. } | LabellingError::WrongToken { .. }) => {
                reason("LUN_REFUSED", Code::FailedPrecondition)
            }
            Self::Label(_) => reason("LUN_FAILED", Code::FailedPrecondition),
            Self::Holders { .. } | Self::List(_) => reason("HOST_FAILED", Code::Internal),
        }
    }

    /// The error and its causes in one line.
    #[must_use]
    pub fn message(&self) -> String {
        with_causes(self)
    }

    /// The objects that the error is about, for programs.
    #[must_use]
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        let mut add = |key: &str, value: &str| facts.insert(key.to_owned(), value.to_owned());
        match self {
            Self::InUse { volume, device, holders } => {
                add("volume", volume);
                add("device", device);
                add("holders", holders);
            }
            Self::NotAttachedHere { volume }
            | Self::NotRecovered { volume, .. }
            | Self::HalfDetached { volume, .. }
            | Self::OtherSharing { volume }
            | Self::OtherPublication { volume }
            | Self::NotShared { volume }
            | Self::NotMoved { volume, .. }
            | Self::StopHangs { volume, .. }
            | Self::ChangeHangs { volume, .. }
            | Self::Load { volume, .. }
            | Self::Device { volume, .. } => {
                add("volume", volume);
            }
            Self::Label(LabellingError::Refused { path, force_token, .. }) => {
                add("path", path);
                if let Some(token) = force_token {
                    add("force_foreign", token);
                }
            }
            _ => {}
        }
        facts
    }
}

const fn load_reason(error: &LoadError) -> Reason {
    match error {
        LoadError::Luns { .. } => reason("LUN_FAILED", Code::FailedPrecondition),
        LoadError::Metadata { .. } => reason("METADATA_UNAVAILABLE", Code::Unavailable),
        LoadError::Damaged { .. } | LoadError::Misfit { .. } => {
            reason("JOURNAL_DAMAGED", Code::DataLoss)
        }
        LoadError::Map { .. } => reason("MAP_DAMAGED", Code::DataLoss),
        LoadError::JournalIo { .. } => reason("LUN_FAILED", Code::FailedPrecondition),
        LoadError::Dirty { .. } => reason("STATE_DIR_FAILED", Code::Internal),
        LoadError::NoJournal { .. } => reason("METADATA_MALFORMED", Code::Internal),
    }
}
