//! The command line of `csi-driver`. Every flag is also a LUNAR_* variable.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Where fs-core listens unless told otherwise.
const SOCKET_DEFAULT: &str = "/run/lunar/fs-core.sock";

/// The CSI driver of Lunar.
#[derive(Parser, Debug)]
#[command(name = "csi-driver", version)]
pub struct Cli {
    /// Which part of the driver this is.
    #[command(subcommand)]
    pub part: Part,
}

/// The parts of the driver.
#[derive(Subcommand, Debug)]
pub enum Part {
    /// Serves Controller, GroupController and SnapshotMetadata: once a cluster.
    Controller(ControllerArgs),
    /// Serves Node: on every node, as root.
    Node(NodeArgs),
    /// Asks a driver whether it is ready: for probes of containers.
    Probe(ProbeArgs),
    /// One piece of work of a node: what `node` starts for itself.
    #[command(hide = true)]
    Worker,
}

/// What both parts are told.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The Unix socket on which the driver serves; a left one is replaced.
    #[arg(long, env = "LUNAR_CSI_ENDPOINT", value_name = "PATH", value_parser = socket_path)]
    pub endpoint: PathBuf,
    /// What is logged: a level, or filters such as 'info,lunar_csi=debug'.
    #[arg(long, env = "LUNAR_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Arguments of `csi-driver controller`.
#[derive(Args, Clone, Debug)]
pub struct ControllerArgs {
    /// What both parts are told.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Endpoints of the metadata service: on this host, or over TLS with the three files below.
    #[arg(
        long,
        env = "LUNAR_METADATA",
        value_name = "ENDPOINT",
        default_value = "127.0.0.1:7420",
        value_delimiter = ','
    )]
    pub metadata: Vec<String>,
    /// Claim capabilities that are alpha in CSI 1.12 too, such as GET_SNAPSHOT. The calls are
    /// served in any case.
    #[arg(long, env = "LUNAR_CSI_ALPHA")]
    pub alpha: bool,
    /// Authorities that the metadata service is signed by (PEM); with the next two, TLS.
    #[arg(long, env = "LUNAR_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The own certificate, of the role csi-controller (PEM).
    #[arg(long, env = "LUNAR_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert (PEM).
    #[arg(long, env = "LUNAR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
}

/// Arguments of `csi-driver node`.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// What both parts are told.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// Admin socket of fs-core on this node.
    #[arg(long, env = "LUNAR_SOCKET", value_name = "PATH", default_value = SOCKET_DEFAULT)]
    pub socket: PathBuf,
    /// How often mounted file systems give free space back to the pool, in seconds; 0: never.
    #[arg(long, env = "LUNAR_TRIM_SECONDS", value_name = "SECONDS", default_value_t = 86_400)]
    pub trim_seconds: u64,
    /// The directory of kubelet: no path outside is touched.
    #[arg(
        long,
        env = "LUNAR_KUBELET_ROOT",
        value_name = "PATH",
        default_value = "/var/lib/kubelet"
    )]
    pub kubelet_root: PathBuf,
}

/// Arguments of `csi-driver probe`.
#[derive(Args, Clone, Debug)]
pub struct ProbeArgs {
    /// The Unix socket of the driver.
    #[arg(long, env = "LUNAR_CSI_ENDPOINT", value_name = "PATH", value_parser = socket_path)]
    pub endpoint: PathBuf,
}

/// A path, with `unix:` or `unix://` before it or not, as the sidecars write it.
fn socket_path(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
    let path = PathBuf::from(path.unwrap_or(text));
    match path.is_absolute() {
        true => Ok(path),
        false => Err("a Unix socket by its absolute path, such as /csi/csi.sock".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_given_as_paths_and_as_the_sidecars_write_them() {
        for text in ["/csi/csi.sock", "unix:/csi/csi.sock", "unix:///csi/csi.sock"] {
            assert_eq!(socket_path(text), Ok(PathBuf::from("/csi/csi.sock")), "{text}");
        }
        for text in ["csi.sock", "unix://csi.sock", "tcp://127.0.0.1:1", ""] {
            assert!(socket_path(text).is_err(), "{text}");
        }
    }
}
