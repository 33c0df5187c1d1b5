//! `lunar pki`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use lunar_proto::domain::CertSerial;
use lunar_proto::roles::Role;
use lunar_types::{ClusterId, Name};

/// Where the authority lives unless told otherwise.
const PKI_DIR_DEFAULT: &str = "/etc/lunar/pki";
/// Days that an authority is valid: ten years.
const AUTHORITY_DAYS: u32 = 3653;
/// Days that a certificate is valid.
const CERTIFICATE_DAYS: u32 = 365;
/// With fewer days left, a certificate is issued anew.
const ROTATE_BELOW_DAYS: u32 = 30;

/// Commands on certificates: an authority for those who have none, and revocation.
#[derive(Subcommand, Debug)]
pub enum PkiCommand {
    /// Make an authority for a cluster: ca.crt for everybody, ca.key for nobody else.
    Init(InitArgs),
    /// Issue a certificate with a new key: NAME.crt and NAME.key.
    Issue(IssueArgs),
    /// Issue certificates anew that end soon, for the same holders, in the same files. Services and
    /// nodes take them without a restart.
    Rotate(RotateArgs),
    /// Refuse a certificate from now on, on open connections too. There is no way back: issue
    /// another one.
    Revoke(RevokeArgs),
    /// List the certificates that are refused.
    Revoked,
    /// Show whom certificates are for, their serial numbers, and how long they are valid.
    Show(ShowArgs),
}

/// The folder of the authority.
#[derive(Args, Clone, Debug)]
pub struct PkiDirArg {
    /// Folder of the authority and of what it issues.
    #[arg(long, env = "LUNAR_PKI_DIR", value_name = "DIR", default_value = PKI_DIR_DEFAULT)]
    pub dir: PathBuf,
}

/// How long something is valid.
fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=36_500)
}

/// Arguments of `lunar pki init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Id of the cluster, as the metadata service logs it at its start and 'lunar doctor' shows it.
    #[arg(long, value_name = "ID")]
    pub cluster: ClusterId,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see there")]
    pub at: PkiDirArg,
    /// Days that it is valid.
    #[arg(long, default_value_t = AUTHORITY_DAYS, value_parser = days())]
    pub days: u32,
}

/// Arguments of `lunar pki issue`.
#[derive(Args, Debug)]
pub struct IssueArgs {
    /// node, csi-controller, fencer, admin, or metadata for the service itself.
    #[arg(long)]
    pub role: Role,
    /// Whose it is; of a node or fencer its node name.
    #[arg(long)]
    pub name: Name,
    /// A DNS name of the holder, for other programs: Lunar looks at the role; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub dns: Vec<String>,
    /// An address of the holder, for other programs; may be repeated.
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Vec<IpAddr>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see there")]
    pub at: PkiDirArg,
    /// Days that it is valid, at most as long as its authority.
    #[arg(long, default_value_t = CERTIFICATE_DAYS, value_parser = days())]
    pub days: u32,
    /// Replace files that exist.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `lunar pki rotate`.
#[derive(Args, Debug)]
pub struct RotateArgs {
    /// Names of the files without .crt [default: every certificate of the folder].
    pub names: Vec<Name>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "see there")]
    pub at: PkiDirArg,
    /// Issue anew what has fewer days left.
    #[arg(long, value_name = "DAYS", default_value_t = ROTATE_BELOW_DAYS)]
    pub below: u32,
    /// Issue anew whatever is left.
    #[arg(long, conflicts_with = "below")]
    pub now: bool,
    /// Days that the new ones are valid [default: as many as the old ones].
    #[arg(long, value_parser = days())]
    pub days: Option<u32>,
}

/// Arguments of `lunar pki revoke`.
#[derive(Args, Debug)]
pub struct RevokeArgs {
    /// Serial number, as 'lunar pki show' prints it.
    #[arg(required_unless_present = "cert", conflicts_with = "cert")]
    pub serial: Option<CertSerial>,
    /// Take the serial number from this certificate.
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Why, for those who read the list.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Arguments of `lunar pki show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Certificates in PEM.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}
