//! `lunar volume grow`: when the new size takes effect, and where.

use serde::Serialize;

use super::size;
use super::volume::{AttachmentView, VolumeView};
use crate::file_system::{FileSystem, Mounted};
use crate::output::Report;

/// What becomes of the device of a volume that has grown.
#[derive(Debug)]
pub enum DeviceGrowth {
    /// There is none; the next one has the new size.
    AtAttachment,
    /// The device on this node has the new size.
    Done(Box<AttachmentView>),
    /// The device on this node keeps its size: the driver cannot change it.
    AtNextAttachment(Box<AttachmentView>),
    /// Another node makes its device larger.
    OnOtherNode {
        /// Its name.
        node: String,
    },
    /// fs-core of this node, which may be the holder, could not be asked.
    Unknown {
        /// Why not.
        problem: String,
    },
}

impl DeviceGrowth {
    const fn word(&self) -> &'static str {
        match self {
            Self::Done(_) => "now",
            Self::AtAttachment | Self::AtNextAttachment(_) => "at-next-attachment",
            Self::OnOtherNode { .. } => "on-other-node",
            Self::Unknown { .. } => "unknown",
        }
    }

    fn to_text(&self, name: &str) -> String {
        match self {
            Self::AtAttachment => {
                "no live node holds it: its next attachment has the new size\n".to_owned()
            }
            Self::Done(attachment) => format!("so has its device {}\n", attachment.device_path),
            Self::AtNextAttachment(attachment) => format!(
                "its device {} keeps {}: this kernel's ublk driver lacks UPDATE_SIZE; detach the \
                 volume and attach it again to get the new size\n",
                attachment.device_path,
                size(attachment.size_bytes)
            ),
            Self::OnOtherNode { node } => format!(
                "node '{node}' holds it and makes its device larger when it hears of it: see \
                 'lunar volume show {name}' there\n"
            ),
            Self::Unknown { problem } => {
                format!("whether its device has the new size is not known: {problem}\n")
            }
        }
    }

    fn into_attachment(self) -> Option<AttachmentView> {
        match self {
            Self::Done(attachment) | Self::AtNextAttachment(attachment) => Some(*attachment),
            Self::AtAttachment | Self::OnOtherNode { .. } | Self::Unknown { .. } => None,
        }
    }
}

/// A file system that has grown.
#[derive(Serialize, Debug)]
struct FileSystemView {
    kind: FileSystem,
    mount_point: String,
}

/// `lunar volume grow`.
#[derive(Serialize, Debug)]
pub struct GrowView {
    #[serde(flatten)]
    volume: VolumeView,
    /// When a device has the new size.
    takes_effect: &'static str,
    /// The device on this node.
    attachment: Option<AttachmentView>,
    /// What was grown by `--fs`.
    file_system: Option<FileSystemView>,
    #[serde(skip)]
    text: String,
}

impl GrowView {
    /// A volume that has grown, its device, and the file system that has grown with it.
    #[must_use]
    pub fn new(volume: VolumeView, growth: DeviceGrowth, mounted: Option<&Mounted>) -> Self {
        let mut text = format!("volume '{}' has {}\n", volume.name, size(volume.size_bytes));
        text += &growth.to_text(&volume.name);
        if let Some(Mounted { file_system, mount_point, .. }) = mounted {
            text += &format!("{} on {mount_point} has grown to it\n", file_system.name());
        }
        let file_system = mounted.map(|mounted| FileSystemView {
            kind: mounted.file_system,
            mount_point: mounted.mount_point.clone(),
        });
        let (takes_effect, attachment) = (growth.word(), growth.into_attachment());
        Self { volume, takes_effect, attachment, file_system, text }
    }
}

impl Report for GrowView {
    fn to_text(&self) -> String {
        self.text.clone()
    }
}
