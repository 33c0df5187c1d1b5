//! Arguments of `lunar lun`.

use std::path::PathBuf;

use clap::Subcommand;

use super::select::LunReference;

/// Commands on LUNs, carried out by fs-core on this node.
#[derive(Subcommand, Debug)]
pub enum LunCommand {
    /// Label a device as a LUN of this cluster.
    ///
    /// A device that carries anything else, such as a file system, a partition table, LVM or the
    /// label of another cluster, is refused. A device that this cluster has labelled already is
    /// left as it is.
    Label {
        /// The device, such as /dev/sdb.
        path: PathBuf,
        /// Destroy the foreign content that has this UUID, which `lunar lun status` shows; the
        /// kind where it has no UUID.
        #[arg(long, value_name = "UUID")]
        force_foreign: Option<String>,
        /// Write a damaged copy of our own label anew from the good one.
        #[arg(long, conflicts_with = "force_foreign")]
        repair: bool,
    },
    /// List the LUNs that this node sees.
    List {
        /// Also devices with foreign content.
        #[arg(long)]
        all: bool,
    },
    /// Show label, content, pool and problems of a LUN.
    Status {
        /// The device path or LUN id; every LUN if none is given.
        lun: Option<LunReference>,
    },
}
