//! Arguments of `lunar node` and `lunar explain`.

use std::time::Duration;

use clap::{Args, Subcommand};
use lunar_types::Name;

use super::select::VolumeArg;

/// Commands on nodes.
#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List the nodes of the cluster with their newest incarnation.
    List,
    /// Cut a node off from every LUN with reservations, and keep it out until it is unfenced.
    ///
    /// What it holds can be attached elsewhere when it is cut off. Its own fs-core, if it runs,
    /// fails the I/O of its volumes. Recorded in the audit.
    Fence(FenceArgs),
    /// Let a node join again that was fenced by hand. Recorded in the audit.
    Unfence {
        /// Name of the node.
        node: Name,
    },
    /// Have a node get no volume any more, and wait until it holds none.
    ///
    /// On the node itself, its fs-core detaches what is not in use. Elsewhere, or for what is in
    /// use, detach the volumes there; the command says which are left.
    Drain(DrainArgs),
    /// Let a node that was drained have volumes again.
    Undrain {
        /// Name of the node.
        node: Name,
    },
    /// List the fences that are under way, and what they wait for.
    Fences,
    /// List what operators have overridden: who, when, what and why.
    Audit,
}

/// Arguments of `lunar node fence`.
#[derive(Args, Debug)]
pub struct FenceArgs {
    /// Name of the node.
    pub node: Name,
    /// Why, for the audit; at most 200 bytes.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        required_if_eq("certified_powered_off", "true")
    )]
    pub reason: String,
    /// Take your word that the machine is off, instead of a proof by the array.
    ///
    /// If it is not off, two nodes write to the same blocks and the data is lost. Needs --confirm
    /// and --reason; refused while the node renews its lease.
    #[arg(long, requires = "confirm")]
    pub certified_powered_off: bool,
    /// The name of the node once more.
    #[arg(long, value_name = "NODE", requires = "certified_powered_off")]
    pub confirm: Option<Name>,
}

/// Arguments of `lunar node drain`.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// Name of the node.
    pub node: Name,
    /// How long to wait until it holds nothing.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = parse_seconds)]
    pub timeout: Duration,
}

/// What `lunar explain` is asked about.
#[derive(Subcommand, Debug)]
pub enum ExplainCommand {
    /// Who holds a volume under which epoch, since when, what it waits for, and what would help.
    Volume {
        /// The volume, by name or id.
        volume: VolumeArg,
    },
    /// What Kubernetes says of a claim, and the same of the volume that it is bound to.
    ///
    /// Asks Kubernetes through kubectl, with the rights that it has here.
    Pvc {
        /// Name of the PersistentVolumeClaim.
        claim: String,
        /// Its namespace; otherwise that of kubectl's context.
        #[arg(long, short = 'n', value_name = "NAMESPACE")]
        namespace: Option<String>,
    },
    /// Where a node is in its life, what keeps it from the next step, and what would help.
    Node {
        /// Name of the node.
        node: Name,
    },
}

pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u64>().ok().filter(|seconds| (1..=86_400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("'{text}' is not from 1 to 86400"))
}
