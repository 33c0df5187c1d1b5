//! Arguments of `lunar pool`.

use clap::{Subcommand, value_parser};
use lunar_proto::domain::PoolFencing;
use lunar_types::{ExtentSize, Name};

use super::select::{LunReference, PoolArg};
use super::size::parse_extent_size;

/// Commands on pools.
#[derive(Subcommand, Debug)]
pub enum PoolCommand {
    /// Make a pool of LUNs that are labelled already.
    Create {
        /// Name of the new pool.
        name: Name,
        /// LUNs of the pool: device paths of this node, or LUN ids.
        #[arg(required = true, value_name = "LUN")]
        luns: Vec<LunReference>,
        /// Unit of allocation: a power of two from 64KiB to 16MiB, fixed for the pool.
        #[arg(
            long,
            value_name = "SIZE",
            default_value_t = ExtentSize::DEFAULT,
            value_parser = parse_extent_size
        )]
        extent_size: ExtentSize,
        /// What keeps a lost node from writing: reservations, lease or none.
        ///
        /// reservations: the array rejects its writes, volumes are taken over by themselves; the
        /// default where every LUN has them. lease: the node stops by itself, and a machine that
        /// was paused can write after it wakes. none: nothing is taken over without an operator.
        #[arg(long, value_name = "KIND")]
        fencing: Option<PoolFencing>,
    },
    /// Add labelled LUNs to a pool: all of them or none.
    AddLun {
        /// The pool, by name or id.
        pool: PoolArg,
        /// LUNs to add: device paths of this node, or LUN ids.
        #[arg(required = true, value_name = "LUN")]
        luns: Vec<LunReference>,
    },
    /// List the pools.
    List,
    /// Free the extents that a repair or a restore has put into quarantine.
    ///
    /// Nothing may write to them any more: every fs-core that ran when they leaked must have ended,
    /// or its node must have lost its access to the LUNs. After a restore this certifies, for the
    /// whole cluster, that no fs-core of before runs; until then no volume can be attached.
    ReleaseQuarantine {
        /// The pool, by name or id.
        pool: PoolArg,
        /// The name of the pool once more: what is released can be written by other volumes.
        #[arg(long, value_name = "NAME")]
        confirm: Name,
    },
    /// Show or set at which percentages the levels of a pool begin.
    ///
    /// From the critical one on, new volumes, clones and snapshots, and growth, are refused unless
    /// --over-watermark is given. What runs is never refused anything by a watermark.
    Watermarks {
        /// The pool, by name or id.
        pool: PoolArg,
        /// Somebody should look at it.
        #[arg(long, value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=100))]
        warning: Option<u8>,
        /// Space has to be made, or a LUN added.
        #[arg(long, value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=100))]
        high: Option<u8>,
        /// Nothing new begins in it.
        #[arg(long, value_name = "PERCENT", value_parser = value_parser!(u8).range(1..=100))]
        critical: Option<u8>,
    },
    /// Show how full pools are, in all and on each LUN.
    Status {
        /// The pool, by name or id; every pool if none is given.
        pool: Option<PoolArg>,
    },
}
