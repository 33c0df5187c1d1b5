//! Arguments of `lunar snapshot`.

use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use lunar_proto::domain::{Fsfreeze, SET_MEMBERS_MAX};
use lunar_types::Name;

use super::select::{GroupArg, SnapshotArg, VolumeArg};
use super::transfer::{ExportArgs, ImportArgs, VerifyArgs};

/// Commands on snapshots.
#[derive(Subcommand, Debug)]
pub enum SnapshotCommand {
    /// Cut a snapshot of a volume, or of several volumes at one moment.
    ///
    /// Volumes may be attached and in use: what was written and acknowledged before is in the
    /// snapshot. All members of a group are cut at one moment, or none is.
    Create(CreateSnapshotArgs),
    /// List the snapshots.
    List {
        /// Only those of this volume, by name or id; a volume that is gone by its id.
        #[arg(long)]
        volume: Option<VolumeArg>,
    },
    /// List the groups of snapshots that are kept as one thing.
    Groups,
    /// Delete a group with all its snapshots; the space comes back in the background.
    DeleteGroup {
        /// The group, by name or id.
        #[arg(value_name = "NAME")]
        group: GroupArg,
    },
    /// Show a snapshot.
    Show {
        /// The snapshot, by name or id.
        snapshot: SnapshotArg,
    },
    /// Show what only a snapshot needs, which its deletion returns, and what it shares.
    Usage {
        /// The snapshot, by name or id.
        snapshot: SnapshotArg,
    },
    /// List what differs between two snapshots, or what one has allocated.
    Diff(DiffSnapshotsArgs),
    /// Write what a snapshot has into a file or a pipe. Needs fs-core on this node.
    Export(ExportArgs),
    /// Make a volume of an export, or bring one up to date. Needs fs-core on this node.
    Import(ImportArgs),
    /// Hold an export against its checksums.
    Verify(VerifyArgs),
    /// Delete a snapshot. Volumes that were made of it keep all they have.
    Delete {
        /// The snapshot, by name or id.
        #[arg(value_name = "NAME")]
        snapshot: SnapshotArg,
        /// Return at once; the space comes back in the background.
        #[arg(long)]
        no_wait: bool,
    },
}

/// Arguments of `lunar snapshot create`.
#[derive(Args, Debug)]
pub struct CreateSnapshotArgs {
    /// The volume, by name or id.
    #[arg(required_unless_present = "group", conflicts_with = "group", requires = "name")]
    pub volume: Option<VolumeArg>,
    /// Name of the new snapshot.
    #[arg(conflicts_with = "group")]
    pub name: Option<Name>,
    /// Volumes, each with the name of its snapshot; all are cut at one moment.
    #[arg(long, value_name = "VOLUME=NAME", num_args = 1..=SET_MEMBERS_MAX)]
    pub group: Vec<GroupMember>,
    /// Keep them as a group of this name, to be deleted as one thing.
    #[arg(long = "as", value_name = "NAME", requires = "group")]
    pub group_name: Option<Name>,
    /// Whether file systems on the devices are frozen meanwhile.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub fsfreeze: FsfreezeArg,
    /// Do it although a pool is above its critical watermark.
    #[arg(long)]
    pub over_watermark: bool,
}

impl CreateSnapshotArgs {
    /// The volumes to be cut and the names of their snapshots.
    #[must_use]
    pub fn members(&self) -> Vec<GroupMember> {
        match (&self.volume, &self.name) {
            (Some(volume), Some(name)) => {
                vec![GroupMember { volume: volume.clone(), name: name.clone() }]
            }
            _ => self.group.clone(),
        }
    }
}

/// Arguments of `lunar snapshot diff`.
///
/// The answer comes from the map: it names blocks of 4 KiB that were written or discarded, also
/// where they hold what they held before.
#[derive(Args, Debug)]
#[command(allow_missing_positional = true)]
pub struct DiffSnapshotsArgs {
    /// The first snapshot, by name or id; without one, what the other has allocated is listed.
    pub a: Option<SnapshotArg>,
    /// The second snapshot, by name or id: the list makes the first one the second.
    pub b: SnapshotArg,
}

/// Whether file systems on the devices of a set are frozen while it is cut.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FsfreezeArg {
    /// Where there is one that can be.
    #[default]
    Auto,
    /// Nothing is cut if one cannot be.
    Always,
    /// Never: a mounted file system is as after a power loss.
    Never,
}

impl From<FsfreezeArg> for Fsfreeze {
    fn from(arg: FsfreezeArg) -> Self {
        match arg {
            FsfreezeArg::Auto => Self::Auto,
            FsfreezeArg::Always => Self::Always,
            FsfreezeArg::Never => Self::Never,
        }
    }
}

/// A volume and the name of its snapshot, written `VOLUME=NAME`. Neither can have a `=`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupMember {
    /// The volume.
    pub volume: VolumeArg,
    /// The name.
    pub name: Name,
}

impl FromStr for GroupMember {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (volume, name) = text.split_once('=').ok_or_else(|| {
            format!("'{text}' has no '=': write VOLUME=NAME, such as db=db-monday")
        })?;
        let volume = volume.parse().map_err(|error| format!("the volume: {error}"))?;
        let name = name.parse().map_err(|error| format!("the snapshot: {error}"))?;
        Ok(Self { volume, name })
    }
}
