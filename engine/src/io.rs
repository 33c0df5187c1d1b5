//! What comes in and what goes out: requests of a block device, and the actions they lead to.
//!
//! The driver runs the actions in the order given, on the ring of the queue that it called the
//! engine for. It owns the request buffers; the engine names them by tag.

use std::sync::Arc;

use lunar_types::LunIndex;

use crate::buffer::AlignedBuf;
use crate::lun::LunError;

/// A queue of the block device; one thread drives it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId(u16);

impl QueueId {
    /// The queue of this number.
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A request under way: its queue and its tag there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId {
    /// The queue.
    pub queue: QueueId,
    /// The tag; below the depth of the queue.
    pub tag: u16,
}

/// What a request asks for; offsets and lengths in bytes, multiples of the logical block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoOp {
    /// Read into the request's buffer.
    Read {
        /// First byte on the volume.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Write from the request's buffer.
    Write {
        /// First byte on the volume.
        offset: u64,
        /// Bytes.
        length: u32,
        /// Whether it completes only when durable.
        fua: bool,
    },
    /// Make every completed write durable.
    Flush,
    /// The data is no longer needed; reads as zeros afterwards.
    Discard {
        /// First byte on the volume.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Must read as zeros afterwards.
    WriteZeroes {
        /// First byte on the volume.
        offset: u64,
        /// Bytes.
        length: u64,
    },
}

/// A request of the block device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoRequest {
    /// Which one.
    pub id: RequestId,
    /// What it asks for.
    pub op: IoOp,
}

/// A LUN I/O under way; fits 62 bits, the two top bits are the driver's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(u64);

impl OpId {
    pub(crate) const fn from_raw(raw: u64) -> Self {
        assert!(raw >> 62 == 0, "the two top bits are the driver's");
        Self(raw)
    }

    /// The number to carry through a completion queue.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The id of a number that came back from a completion queue.
    #[must_use]
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }
}

/// One stretch of bytes of a gathered write.
#[derive(Clone, Debug)]
pub enum Part {
    /// From the request's own buffer.
    Request {
        /// First byte in the buffer.
        offset: u32,
        /// Bytes.
        length: u32,
    },
    /// Zeros.
    Zeros {
        /// Bytes.
        length: u32,
    },
    /// From a buffer of the engine.
    Owned {
        /// The buffer.
        buffer: Arc<AlignedBuf>,
        /// First byte in the buffer.
        offset: u32,
        /// Bytes.
        length: u32,
    },
}

impl Part {
    /// Its length in bytes.
    #[must_use]
    pub const fn length(&self) -> u32 {
        match self {
            Self::Request { length, .. } | Self::Zeros { length } | Self::Owned { length, .. } => {
                *length
            }
        }
    }
}

/// One I/O on a LUN.
#[derive(Clone, Debug)]
pub enum LunIo {
    /// Read into the buffer of request `tag`.
    Read {
        /// The LUN.
        lun: LunIndex,
        /// First byte on the LUN.
        at: u64,
        /// Whose buffer.
        tag: u16,
        /// First byte in the buffer.
        offset: u32,
        /// Bytes.
        length: u32,
    },
    /// Write from the buffer of request `tag`.
    Write {
        /// The LUN.
        lun: LunIndex,
        /// First byte on the LUN.
        at: u64,
        /// Whose buffer.
        tag: u16,
        /// First byte in the buffer.
        offset: u32,
        /// Bytes.
        length: u32,
        /// Whether it completes only when durable (`RWF_DSYNC`).
        durable: bool,
    },
    /// Gathered write.
    WriteParts {
        /// The LUN.
        lun: LunIndex,
        /// First byte on the LUN.
        at: u64,
        /// The request whose buffer [`Part::Request`] names.
        tag: u16,
        /// What to write, in order.
        parts: Vec<Part>,
        /// Whether it completes only when durable (`RWF_DSYNC`).
        durable: bool,
    },
    /// Read into a buffer of the engine, which the driver gives back with the completion.
    ReadOwned {
        /// The LUN.
        lun: LunIndex,
        /// First byte on the LUN.
        at: u64,
        /// The whole of it is filled.
        buffer: AlignedBuf,
    },
    /// Write the whole of a buffer of the engine.
    WriteOwned {
        /// The LUN.
        lun: LunIndex,
        /// First byte on the LUN.
        at: u64,
        /// The whole of it is written.
        buffer: AlignedBuf,
        /// Whether it completes only when durable (`RWF_DSYNC`).
        durable: bool,
    },
    /// Make every completed write on the LUN durable.
    Flush {
        /// The LUN.
        lun: LunIndex,
    },
}

impl LunIo {
    /// The LUN it goes to.
    #[must_use]
    pub const fn lun(&self) -> LunIndex {
        match self {
            Self::Read { lun, .. }
            | Self::Write { lun, .. }
            | Self::WriteParts { lun, .. }
            | Self::ReadOwned { lun, .. }
            | Self::WriteOwned { lun, .. }
            | Self::Flush { lun } => *lun,
        }
    }
}

/// A LUN I/O has ended.
#[derive(Debug)]
pub struct LunDone {
    /// Which one.
    pub op: OpId,
    /// How it ended; a short transfer is an error.
    pub result: Result<(), LunError>,
    /// The buffer of a [`LunIo::ReadOwned`], filled.
    pub buffer: Option<AlignedBuf>,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Action {
    /// Start this I/O on the ring of the queue that was called for.
    Lun {
        /// Comes back with the completion.
        op: OpId,
        /// What to do.
        io: LunIo,
    },
    /// Fill a stretch of a request's buffer with zeros.
    ZeroFill {
        /// Whose buffer.
        tag: u16,
        /// First byte in the buffer.
        offset: u32,
        /// Bytes.
        length: u32,
    },
    /// The request of this tag on the queue that was called for has ended.
    Complete {
        /// Which one.
        tag: u16,
        /// How.
        result: Result<(), IoError>,
    },
    /// Have the thread of another queue call [`crate::volume::Volume::resume`].
    WakeQueue(QueueId),
    /// Have the control task call [`crate::volume::Volume::next_work`].
    WakeControl,
}

/// Why a request failed; [`IoError::errno`] is what the block device is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The LUN failed.
    #[error("LUN {lun} failed")]
    Lun {
        /// Which one.
        lun: LunIndex,
        /// How.
        #[source]
        error: LunError,
    },
    /// The pool is full.
    #[error("the pool has no free extent")]
    NoSpace,
    /// An earlier flush or commit failed: nothing can be promised until the volume is recovered.
    #[error("the volume takes no writes since a flush or commit failed; detach and attach it")]
    Poisoned,
    /// The request leaves the volume or is not aligned to its logical block.
    #[error("the request leaves the volume or is not aligned to its logical block")]
    Invalid,
}

impl IoError {
    /// The positive errno for the block device.
    #[must_use]
    pub const fn errno(&self) -> i32 {
        const EIO: i32 = 5;
        const EINVAL: i32 = 22;
        const ENOSPC: i32 = 28;
        match self {
            Self::Lun { .. } | Self::Poisoned => EIO,
            Self::NoSpace => ENOSPC,
            Self::Invalid => EINVAL,
        }
    }
}
