//! Arguments of `lunar volume`.

use std::time::Duration;

use clap::{Args, Subcommand};
use lunar_types::{LogicalBlockSize, Name, PublicationId, VolumeSize};

use super::node::parse_seconds;
use super::select::{PoolArg, SnapshotArg, VolumeArg};
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
        /// Do it although the pool is above its critical watermark.
        #[arg(long)]
        over_watermark: bool,
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
    /// Show what only a volume needs, which its deletion returns, and what it shares.
    Usage {
        /// The volume, by name or id.
        volume: VolumeArg,
    },
    /// Attach a volume to this node as a block device.
    Attach {
        /// The volume, by name or id.
        volume: VolumeArg,
        /// Attach it although it came back with a backup of the metadata: what was written since is
        /// there in part. It counts as accepted from then on.
        #[arg(long)]
        accept_restored: bool,
        /// Another node may have it too, so that a virtual machine can be moved while it runs: for
        /// raw block devices that are used with O_DIRECT, never for mounted file systems.
        ///
        /// One of the two nodes owns the volume at a time; the first request on the other one
        /// moves it there.
        #[arg(long, conflicts_with = "force")]
        migratable: bool,
        /// Attach it by the leave of this publication, as 'lunar volume publish' shows it: a volume
        /// that is published is attached in no other way.
        #[arg(long, value_name = "ID")]
        publication: Option<PublicationId>,
        /// If another node holds it, have that node fenced, and attach the volume when it is.
        ///
        /// Everything that the other node holds is lost to it, not this volume alone. Recorded in
        /// the audit.
        #[arg(long)]
        force: bool,
        /// How long to wait for a holder that is being fenced, or that is silent.
        #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
        wait: Option<Duration>,
    },
    /// Detach a volume from this node. Refused while its device is open or mounted.
    Detach(DetachArgs),
    /// Move a volume to this node that is attached with --migratable, and that the other node
    /// owns.
    Move {
        /// The volume, by name or id.
        volume: VolumeArg,
    },
    /// Give a node the leave to attach a volume, and no other one. Kubernetes does so by itself.
    Publish(PublishArgs),
    /// Take back that nodes may attach a volume. A node that has it detaches it by force, and what
    /// uses it there gets I/O errors.
    Unpublish(UnpublishArgs),
    /// Delete a volume and everything in it. Refused while it is attached.
    Delete {
        /// The volume, by name or id.
        volume: VolumeArg,
        /// Return at once; the space comes back in the background.
        #[arg(long)]
        no_wait: bool,
    },
    /// Make a volume that begins as a snapshot, or as another volume is now. No data is copied.
    Clone(CloneArgs),
    /// Make a volume larger, attached or not. It never becomes smaller.
    ///
    /// A device of it grows while it is in use. If it is on this node, the command waits for that.
    Grow(GrowArgs),
    /// Give a detached volume the content of one of its snapshots. All snapshots stay.
    ///
    /// What was written since the volume's last snapshot is lost.
    Rollback {
        /// The volume, by name or id.
        volume: VolumeArg,
        /// The snapshot, by name or id.
        snapshot: SnapshotArg,
        /// The volume is attached to this node: detach it first, and attach it again.
        #[arg(long)]
        reattach: bool,
    },
    /// Show where the data of a volume's head layer is, as far as it is committed.
    ///
    /// The head has what was written since the volume's last snapshot, and what was merged into
    /// it.
    Map {
        /// The volume, by name or id.
        volume: VolumeArg,
        /// Let fs-core of this node commit what is written first.
        #[arg(long)]
        checkpoint: bool,
    },
}

/// Arguments of `lunar volume publish`.
#[derive(Args, Debug)]
pub struct PublishArgs {
    /// The volume, by name or id.
    pub volume: VolumeArg,
    /// The node, by name.
    #[arg(long)]
    pub node: Name,
    /// Another node may have it too, as in 'lunar volume attach --migratable'.
    #[arg(long)]
    pub migratable: bool,
    /// Say that nothing is to be written there. It is shown, and enforced by who mounts it.
    #[arg(long)]
    pub reads_only: bool,
}

/// Arguments of `lunar volume unpublish`.
#[derive(Args, Debug)]
pub struct UnpublishArgs {
    /// The volume, by name or id.
    pub volume: VolumeArg,
    /// Of this node, by name; without it, of every one.
    #[arg(long)]
    pub node: Option<Name>,
    /// How long to wait for nodes that have to detach it, or to be fenced, first: 90 if nothing is
    /// said.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub wait: Option<Duration>,
}

/// Arguments of `lunar volume clone`.
#[derive(Args, Debug)]
pub struct CloneArgs {
    /// The snapshot, by name or id; with --of-volume, the volume.
    pub source: SnapshotArg,
    /// Name of the new volume.
    pub name: Name,
    /// Size of the new volume, at least the snapshot's; the snapshot's if none is given.
    #[arg(long, value_parser = parse_volume_size, conflicts_with = "of_volume")]
    pub size: Option<VolumeSize>,
    /// SOURCE is a volume, attached or not: the clone begins as it is now, without a snapshot.
    #[arg(long)]
    pub of_volume: bool,
    /// Do it although the pool is above its critical watermark.
    #[arg(long)]
    pub over_watermark: bool,
}

/// Arguments of `lunar volume grow`.
#[derive(Args, Debug)]
pub struct GrowArgs {
    /// The volume, by name or id.
    pub volume: VolumeArg,
    /// Its new size such as 20GiB: a multiple of 4KiB. The size that it has changes nothing.
    #[arg(value_parser = parse_volume_size)]
    pub size: VolumeSize,
    /// The volume is mounted on this node: have its ext4 or xfs file system grow too.
    #[arg(long)]
    pub fs: bool,
    /// Do it although the pool is above its critical watermark.
    #[arg(long)]
    pub over_watermark: bool,
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
    /// Take another node off a volume that is attached with --migratable, by its name: it is lost,
    /// and does not own the volume.
    #[arg(long, value_name = "NODE", conflicts_with = "force")]
    pub peer: Option<Name>,
}
