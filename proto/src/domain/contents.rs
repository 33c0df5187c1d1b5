//! What volumes began as, and what their content may be.

use std::fmt;

use lunar_types::{Epoch, FormatToken, NodeSession, SnapshotId, VolumeId};

/// What the content of a volume may be. It only moves forward, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ContentState {
    /// Nobody has ever written to it.
    Blank,
    /// A file system was about to be made, and nobody has said that it was.
    Formatting,
    /// It has, or may have, content that is not to be formatted.
    Used,
}

impl fmt::Display for ContentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Blank => "blank",
            Self::Formatting => "formatting",
            Self::Used => "used",
        })
    }
}

/// What a volume began as. It may be gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// A snapshot.
    Snapshot(SnapshotId),
    /// A volume, at the moment when it was cut.
    Volume(VolumeId),
}

/// Asks its holder's question about the content of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ContentOf {
    /// The volume.
    pub volume: VolumeId,
    /// Under which grant.
    pub epoch: Epoch,
    /// Who asks.
    pub caller: NodeSession,
}

/// The beginning or the end of an attempt to make a file system.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FormatContent {
    /// Where.
    pub of: ContentOf,
    /// Which attempt.
    pub token: FormatToken,
}
