//! Images in the format qcow2, version 3, as QEMU's `docs/interop/qcow2.txt` specifies it.
//!
//! - Clusters of 64 KiB, references of 16 bits, each cluster of the file is used once.
//! - The file grows at its end only; the header comes last, behind everything that it points at,
//!   so that an image that was cut off is no image.
//! - A cluster is data, zeros, or not there; what is not there is the backing file's, or zeros.
//!
//! Deliberately absent: reading what others have written, compression, encryption, snapshots inside
//! the image.

mod image;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use lunar_types::VolumeSize;

pub use image::Qcow2File;
pub use reader::Qcow2Reader;
pub use writer::Qcow2Writer;

/// The unit of an image, in bytes.
pub const CLUSTER_BYTES: u64 = 1 << CLUSTER_BITS;
/// The largest image that QEMU opens with such clusters: its first table has at most 32 MiB.
pub const IMAGE_BYTES_MAX: u64 = L1_ENTRIES_MAX * L2_ENTRIES * CLUSTER_BYTES;

const CLUSTER_BITS: u32 = 16;
const L1_ENTRIES_MAX: u64 = (32 << 20) / 8;
const L2_ENTRIES: u64 = CLUSTER_BYTES / 8;
/// Clusters whose references one block of references counts.
const REFCOUNTS: u64 = CLUSTER_BYTES / 2;
const BACKING_NAME_MAX: usize = 1023;

const MAGIC: [u8; 4] = *b"QFI\xfb";
const VERSION: u32 = 3;
const HEADER_BYTES: u32 = 104;
const REFCOUNT_ORDER: u32 = 4;
/// Type of the header extension that names the format of the backing file.
const BACKING_FORMAT: u32 = 0xe279_2aca;
/// The cluster that an entry points at is used once.
const COPIED: u64 = 1 << 63;
/// The cluster reads as zeros.
const ZERO: u64 = 1;

/// How a backing file is to be read; QEMU refuses to guess.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackingFormat {
    /// The bytes of the volume.
    Raw,
    /// An image.
    Qcow2,
}

impl BackingFormat {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// The file that has what an incremental image has not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backing {
    /// Its path, absolute or from the folder of the image.
    pub path: String,
    /// Its format.
    pub format: BackingFormat,
}

/// What an image shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    size: VolumeSize,
    backing: Option<Backing>,
}

/// An image that qcow2 cannot have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ImageError {
    /// Too large.
    #[error(
        "{bytes} B are too large for qcow2, which takes up to {IMAGE_BYTES_MAX} B: use the format \
         raw or stream"
    )]
    TooLarge {
        /// The size that was asked for.
        bytes: u64,
    },
    /// A name that cannot be written down.
    #[error(
        "the path of the backing file has {length} B, and qcow2 takes 1 to {BACKING_NAME_MAX} B: \
         put it closer to the image"
    )]
    BackingName {
        /// The length of the path.
        length: usize,
    },
}

impl Image {
    /// An image of `size`.
    ///
    /// # Errors
    /// When the format cannot hold it.
    pub fn new(size: VolumeSize, backing: Option<Backing>) -> Result<Self, ImageError> {
        let bytes = size.bytes();
        if bytes > IMAGE_BYTES_MAX {
            return Err(ImageError::TooLarge { bytes });
        }
        match backing.as_ref().map_or(1, |backing| backing.path.len()) {
            1..=BACKING_NAME_MAX => Ok(Self { size, backing }),
            length => Err(ImageError::BackingName { length }),
        }
    }
}
