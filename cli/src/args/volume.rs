//! Arguments of `lunar volume`.

use clap::{Args, Subcommand};
use lunar_types::{LogicalBlockSize, Name, VolumeSize};

use super::select::{PoolArg, VolumeArg};
use super::size::{parse_logical_block_size, parse_volume_size};

/// Commands on volumes.
#[derive(Subcommand, Debug)]
pub enum VolumeCommand {
    /// Make a thin volume. It takes no space before something is written.
    Create {
        /// Name of the new volume.
        name: Name,
        /// The pool, by name or id.
        #[arg(long)]
        pool: PoolArg,
        /// Size such as 10GiB: a multiple of 4KiB, at most 4PiB. It may exceed the pool.
        #[arg(long, value_parser = parse_volume_size)]
        size: VolumeSize,
        /// What its device advertises: 512 or 4096. 512 only where every LUN allows it.
        #[arg(
            long,
            value_name = "BYTES",
            default_value = "4096",
            value_parser = parse_logical_block_size
        )]
        logical_block_size: LogicalBlockSize,
    },
    /// List the volumes.
    List {
        /// Only those of this pool, by name or id.
        #[arg(long)]
        pool: Option<PoolArg>,
    },
    /// Show a volume, who holds it and, if it is this node, its device and counters.
    Show {
        /// The volume, by name or id.
        volume: VolumeArg,
    },
    /// Attach a volume to this node as a block device.
    Attach {
        /// The volume, by name or id.
        volume: VolumeArg,
    },
    /// Detach a volume from this node. Refused while its device is open or mounted.
    Detach(DetachArgs),
    /// Delete a volume and everything in it. Refused while it is attached.
    Delete {
        /// The volume, by name or id.
        volume: VolumeArg,
        /// Return at once; the space comes back in the background.
        #[arg(long)]
        no_wait: bool,
    },
    /// Show where the data of a volume is, as far as it is committed.
    Map {
        /// The volume, by name or id.
        volume: VolumeArg,
        /// Let fs-core of this node commit what is written first.
        #[arg(long)]
        checkpoint: bool,
    },
}

/// Arguments of `lunar volume detach`.
#[derive(Args, Debug)]
pub struct DetachArgs {
    /// The volume, by name or id.
    pub volume: VolumeArg,
    /// Detach although the device is in use, the metadata service is away or a LUN is gone.
    ///
    /// Who still writes gets I/O errors. Nothing that was flushed is lost.
    #[arg(long)]
    pub force: bool,
}
