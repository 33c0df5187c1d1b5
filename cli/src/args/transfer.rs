//! Arguments of `lunar snapshot export`, `import` and `verify`.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use lunar_types::Name;

use super::select::{PoolArg, SnapshotArg, VolumeArg};

/// A file, or the standard input or output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileArg {
    /// Written `-`.
    Standard,
    /// A path.
    Path(PathBuf),
}

impl FromStr for FileArg {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "-" { Self::Standard } else { Self::Path(PathBuf::from(text)) })
    }
}

impl fmt::Display for FileArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard => f.write_str("-"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

impl FileArg {
    /// The path, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Standard => None,
            Self::Path(path) => Some(path),
        }
    }
}

/// The formats of exports.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExportFormat {
    /// The bytes of the volume in a sparse file.
    Raw,
    /// An image that QEMU reads.
    Qcow2,
    /// For pipes and files; every part has its checksum.
    Stream,
}

impl ExportFormat {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Stream => "stream",
        }
    }
}

/// Arguments of `lunar snapshot export`.
///
/// The file has another name, PATH.partial, until it is whole. Next to a raw or qcow2 file lies its
/// manifest, PATH.lunar, with checksums: keep it with the file, an import needs it.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// The snapshot, by name or id.
    pub snapshot: SnapshotArg,
    /// Only what changed since this snapshot, by name or id.
    #[arg(long, value_name = "SNAPSHOT")]
    pub base: Option<SnapshotArg>,
    /// How the bytes are written.
    #[arg(long, value_enum)]
    pub format: ExportFormat,
    /// The new file; with the format stream, '-' is the standard output.
    #[arg(long, value_name = "PATH")]
    pub to: FileArg,
    /// With --base: the finished export of the base, which a raw export copies what did not change
    /// from, and which is the backing file of a qcow2 export.
    #[arg(long, value_name = "PATH", requires = "base")]
    pub base_file: Option<PathBuf>,
    /// PATH is a block device: write the raw bytes over all that it has, up to the snapshot's size.
    #[arg(long, conflicts_with_all = ["resume", "base"])]
    pub overwrite_device: bool,
    /// Go on with an export to the same file that was broken off; begin anew if there is none.
    #[arg(long)]
    pub resume: bool,
}

/// Arguments of `lunar snapshot import`.
///
/// The content becomes a new volume, which has its name only when all of it was there and right, or
/// is written over the base that a volume still has.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// An export; '-' is a stream on the standard input.
    pub file: FileArg,
    /// Name of the new volume.
    #[arg(requires = "pool", required_unless_present = "onto", conflicts_with = "onto")]
    pub name: Option<Name>,
    /// The pool of the new volume, by name or id.
    #[arg(long, requires = "name", conflicts_with = "onto")]
    pub pool: Option<PoolArg>,
    /// A detached volume, by name or id, that is as the base of this export was.
    #[arg(long, value_name = "VOLUME")]
    pub onto: Option<VolumeArg>,
    /// The file is raw bytes of another program, without a manifest: nothing of it can be checked.
    #[arg(long, conflicts_with = "onto")]
    pub unverified: bool,
    /// Do it although the pool is above its critical watermark.
    #[arg(long)]
    pub over_watermark: bool,
}

/// Arguments of `lunar snapshot verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// An export; '-' is a stream on the standard input.
    pub file: FileArg,
}
