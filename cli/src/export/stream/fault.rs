//! What can be wrong with a stream, where, and what to do about it.

use std::fmt;
use std::io;

use super::header::VERSION;

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum StreamFault {
    /// It begins with other bytes.
    #[error("this is no export of a snapshot: it does not begin with LUNXPORT")]
    NotAStream,
    /// Another version of the format.
    #[error("the format version is {found}; this program reads version {VERSION}")]
    OtherVersion {
        /// The version of the stream.
        found: u16,
    },
    /// The header is damaged.
    #[error(
        "the header is damaged: its checksum is {stored:#010x}, its bytes have {computed:#010x}"
    )]
    HeaderChecksum {
        /// What the header says.
        stored: u32,
        /// What it should say.
        computed: u32,
    },
    /// The header says what cannot be.
    #[error("the header cannot be: {0}")]
    Header(String),
    /// It ends too early.
    #[error("the stream ends in {0}")]
    Truncated(&'static str),
    /// A chunk is damaged.
    #[error(
        "the chunk is damaged: its checksum is {stored:#010x}, its bytes have {computed:#010x}"
    )]
    ChunkChecksum {
        /// What the chunk says.
        stored: u32,
        /// What it should say.
        computed: u32,
    },
    /// A chunk says what cannot be.
    #[error("the chunk cannot be: {0}")]
    Chunk(String),
    /// Chunks are missing or too many.
    #[error("the end speaks of {said} chunks, {found} were there")]
    EndCount {
        /// What the end chunk says.
        said: u64,
        /// How many there were.
        found: u64,
    },
    /// Chunks were exchanged.
    #[error(
        "the chunks are not those of this stream: the end has {stored:#010x}, they {computed:#010x}"
    )]
    EndChecksum {
        /// What the end chunk says.
        stored: u32,
        /// What the chunks have.
        computed: u32,
    },
    /// Something follows the end chunk.
    #[error("something follows the end of the stream")]
    TrailingBytes,
    /// The stream was read on behind a fault.
    #[error("the stream was found damaged before")]
    Broken,
    /// The file is of another snapshot, or another base.
    #[error("the file is another export: {0}")]
    OtherExport(String),
    /// It could not be read.
    #[error("read: {0}")]
    Io(#[from] io::Error),
}

/// A fault and where it is.
#[derive(Debug)]
pub struct StreamError {
    /// The byte of the stream at which what is faulty begins.
    pub at: u64,
    /// What is wrong.
    pub fault: StreamFault,
}

impl StreamError {
    pub(super) const fn new(at: u64, fault: StreamFault) -> Self {
        Self { at, fault }
    }

    /// What to do about it.
    #[must_use]
    pub const fn advice(&self) -> &'static str {
        match self.fault {
            StreamFault::NotAStream => "name a file that was exported with --format stream",
            StreamFault::OtherVersion { .. } => "use the version of lunar that wrote it, or newer",
            StreamFault::HeaderChecksum { .. } | StreamFault::Header(_) => {
                "take another copy of the file, or export the snapshot again"
            }
            StreamFault::Truncated(_)
            | StreamFault::ChunkChecksum { .. }
            | StreamFault::Chunk(_)
            | StreamFault::Broken => {
                "take another copy of the file, or complete it: export again with --resume"
            }
            StreamFault::EndCount { .. } | StreamFault::EndChecksum { .. } => {
                "parts of the file were lost or mixed up: export the snapshot again"
            }
            StreamFault::TrailingBytes => {
                "import each stream by itself; if it was one, export the snapshot again"
            }
            StreamFault::OtherExport(_) => {
                "name the file of this export, or a new one without --resume"
            }
            StreamFault::Io(_) => "look at the device or the program that the stream comes from",
        }
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {} of the stream: {}", self.at, self.fault)
    }
}

impl std::error::Error for StreamError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.fault)
    }
}
