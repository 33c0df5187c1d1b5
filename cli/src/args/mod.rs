//! What `lunar` understands: the commands, their arguments and their help.
//!
//! - Arguments are typed here; a command never sees a name, size or id that cannot be one.
//! - Every global option is also an environment variable `LUNAR_*`.
//! - Nothing here does anything: `commands` acts, `views` shows.

mod backup;
mod lun;
mod node;
mod pki;
mod pool;
mod select;
mod size;
mod snapshot;
mod transfer;
mod volume;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use lunar_proto::domain::FindingsDigest;

pub use backup::{BackupCommand, HorizonArg, HorizonArgs};
pub use lun::LunCommand;
pub use node::{DrainArgs, ExplainCommand, FenceArgs, NodeCommand};
pub use pki::{InitArgs, IssueArgs, PkiCommand, PkiDirArg, RevokeArgs, RotateArgs, ShowArgs};
pub use pool::PoolCommand;
pub use select::{GroupArg, LunReference, PoolArg, SelectorArg, SnapshotArg, VolumeArg};
pub use snapshot::{
    CreateSnapshotArgs, DiffSnapshotsArgs, FsfreezeArg, GroupMember, SnapshotCommand,
};
pub use transfer::{ExportArgs, ExportFormat, FileArg, ImportArgs, VerifyArgs};
pub use volume::{CloneArgs, DetachArgs, GrowArgs, PublishArgs, UnpublishArgs, VolumeCommand};

/// Where the metadata service listens unless told otherwise.
pub const METADATA_DEFAULT: &str = "127.0.0.1:7420";
/// Where fs-core listens unless told otherwise.
pub const SOCKET_DEFAULT: &str = "/run/lunar/fs-core.sock";

const AFTER_HELP: &str = "\
Names and ids: a pool, volume or snapshot is given by its name, or by its id (a UUID). Write \
name:TEXT for a name that looks like a UUID.

Exit codes:
  0  done
  1  failed
  2  wrong usage: the arguments cannot be what they say
  3  not found: no such pool, volume, snapshot, node or device
  4  refused: the state of an object forbids it
  5  unavailable: a service cannot be reached or did not answer in time
130  interrupted: what was asked for may still be done, see the text";

/// Administers Lunar: thin block volumes on shared LUNs.
///
/// Volumes live in pools, pools consist of labelled LUNs. Commands on LUNs and attachments are
/// carried out by fs-core, the daemon of this node; all others by the metadata service.
#[derive(Parser, Debug)]
#[command(name = "lunar", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct GlobalArgs {
    /// Tables for people or JSON for programs; sizes in JSON are bytes.
    #[arg(short, long, global = true, env = "LUNAR_OUTPUT", value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Endpoint of the metadata service: on this host, or over TLS with the three files below.
    #[arg(
        long,
        global = true,
        env = "LUNAR_METADATA",
        value_name = "ENDPOINT",
        default_value = METADATA_DEFAULT,
        value_parser = parse_endpoint
    )]
    pub metadata: String,
    /// Authorities that the metadata service is signed by (PEM); with the next two, TLS.
    #[arg(long, global = true, env = "LUNAR_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The own certificate (PEM).
    #[arg(long, global = true, env = "LUNAR_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert (PEM).
    #[arg(long, global = true, env = "LUNAR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Admin socket of fs-core on this node.
    #[arg(
        long,
        global = true,
        env = "LUNAR_SOCKET",
        value_name = "PATH",
        default_value = SOCKET_DEFAULT
    )]
    pub socket: PathBuf,
}

/// How results are written.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// For programs; the field names are stable.
    Json,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Check what this host needs, and say how to get what is missing.
    Doctor,
    /// Pools of LUNs.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// LUNs as this node sees them.
    #[command(subcommand)]
    Lun(LunCommand),
    /// Volumes.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Snapshots of volumes.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Nodes of the cluster.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Say why a volume or a node is where it is, and what would move it.
    #[command(subcommand)]
    Explain(ExplainCommand),
    /// Long operations of the metadata service, such as deletions.
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Backups of the metadata.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Certificates: who may do what over TLS.
    #[command(subcommand)]
    Pki(PkiCommand),
    /// Check the metadata: leaked, doubly owned or out-of-range extents, wrong epochs.
    Fsck(FsckArgs),
    /// Write a completion script to the standard output.
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Write the manual pages.
    Man {
        /// Folder for the pages; it is made if it does not exist.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Commands on operations.
#[derive(Subcommand, Debug)]
pub enum OperationCommand {
    /// List the operations that are not finished, and what they wait for.
    List,
}

/// Arguments of `lunar fsck`.
#[derive(Args, Debug)]
pub struct FsckArgs {
    /// Check this store file, with no service running on it, instead of asking the service.
    #[arg(long, value_name = "PATH")]
    pub offline: Option<PathBuf>,
    /// Repair what can be repaired safely: first --dry-run, then --findings with what it told.
    #[arg(long, requires = "how")]
    pub repair: bool,
    /// Tell what would be repaired and what not, and the digest of the findings.
    #[arg(long, requires = "repair", group = "how")]
    pub dry_run: bool,
    /// Repair the findings of this digest; refused when they have changed.
    #[arg(long, requires = "repair", group = "how", value_name = "DIGEST")]
    pub findings: Option<FindingsDigest>,
}

fn parse_endpoint(text: &str) -> Result<String, String> {
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let address = address.unwrap_or(text);
    let uri = format!("http://{address}").parse::<tonic::transport::Uri>();
    let named = |uri: tonic::transport::Uri| {
        uri.host().is_some_and(|host| !host.is_empty()) && uri.port_u16().is_some()
    };
    match uri.is_ok_and(named) {
        true => Ok(text.to_owned()),
        false => Err(format!("an endpoint looks like {METADATA_DEFAULT}")),
    }
}

#[cfg(test)]
mod tests;
