//! The configuration of fs-core: one struct, read from flags, LUNAR_* variables and a TOML file.
//!
//! Invariants:
//! - a flag wins over its variable, a variable over the file, the file over the default;
//! - unknown fields of the file are refused;
//! - a [`Config`] has been validated: whoever holds one need not check again.

use std::path::{Path, PathBuf};

use lunar_metadata_client::{PartOfTls, TlsFiles};
use lunar_types::{Name, NameError};
use serde::Deserialize;

/// Most queues a device may have: more than that only costs memory.
const QUEUES_MAX: u16 = 64;
/// Deepest queue: the engine numbers requests with 12 bits.
const QUEUE_DEPTH_MAX: u16 = 4096;
/// More than any LUN takes beside its guests' I/O.
const CONSOLIDATE_RATE_MAX: u32 = 65_536;
const MAX_IO_BYTES_RANGE: std::ops::RangeInclusive<u32> = (64 << 10)..=(1 << 20);
/// A path of a Unix socket has to fit `sun_path` with its final zero.
const SOCKET_PATH_MAX: usize = 107;

/// What may be set, on the command line, by variable or in the file; absent is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name of this node in the cluster [default: the host name]
    #[arg(long, env = "LUNAR_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Where the metadata service listens: on this host, or over TLS with the three files below
    /// [default: 127.0.0.1:7420]
    #[arg(long, env = "LUNAR_METADATA_ENDPOINT", value_name = "URL")]
    pub metadata_endpoint: Option<String>,
    /// Authorities that the metadata service is signed by, in PEM; with the next two, TLS
    /// [default: no TLS]
    #[arg(long, env = "LUNAR_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The certificate of this node in PEM, read anew when it changes [default: no TLS]
    #[arg(long, env = "LUNAR_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert in PEM [default: no TLS]
    #[arg(long, env = "LUNAR_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Unix socket for the lunar command, mode 0600 [default: /run/lunar/fs-core.sock]
    #[arg(long, env = "LUNAR_ADMIN_SOCKET", value_name = "PATH")]
    pub admin_socket: Option<PathBuf>,
    /// Directory on tmpfs for what has to survive a restart of fs-core, not of the host
    /// [default: /run/lunar/state]
    #[arg(long, env = "LUNAR_STATE_DIR", value_name = "PATH")]
    pub state_dir: Option<PathBuf>,
    /// Accept a state directory that is on no tmpfs; for labs only, it is slow [default: false]
    #[arg(long, env = "LUNAR_LAB_ALLOW_DISK_STATE", value_name = "BOOL",
          num_args = 0..=1, default_missing_value = "true")]
    pub lab_allow_disk_state: Option<bool>,
    /// Look for LUNs among all whole block devices of the host [default: true]
    #[arg(long, env = "LUNAR_SCAN_LUNS", value_name = "BOOL",
          num_args = 0..=1, default_missing_value = "true")]
    pub scan_luns: Option<bool>,
    /// Further LUNs: block devices or regular files; may be repeated [default: none]
    #[arg(long = "lun", env = "LUNAR_LUNS", value_name = "PATH", value_delimiter = ',')]
    #[serde(default)]
    pub luns: Vec<PathBuf>,
    /// Queues a device, 1 to 64 [default: processors, at most 4]
    #[arg(long, env = "LUNAR_QUEUES", value_name = "COUNT")]
    pub queues: Option<u16>,
    /// Requests a queue, 1 to 4096 [default: 128]
    #[arg(long, env = "LUNAR_QUEUE_DEPTH", value_name = "COUNT")]
    pub queue_depth: Option<u16>,
    /// Largest request in bytes, 64 KiB to 1 MiB, a multiple of 4096 [default: 524288]
    #[arg(long, env = "LUNAR_MAX_IO_BYTES", value_name = "BYTES")]
    pub max_io_bytes: Option<u32>,
    /// How much of extents that are read in pieces this node copies to make them whole, in MiB a
    /// second, 0 to 65536; 0 is off [default: 32]
    #[arg(long, env = "LUNAR_CONSOLIDATE_RATE", value_name = "MIB")]
    pub consolidate_rate: Option<u32>,
    /// Detach every volume on SIGTERM instead of leaving the devices to a successor
    /// [default: false]
    #[arg(long, env = "LUNAR_DRAIN_ON_STOP", value_name = "BOOL",
          num_args = 0..=1, default_missing_value = "true")]
    pub drain_on_stop: Option<bool>,
}

/// The validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of this node in the cluster.
    pub node_name: Name,
    /// Where the metadata service listens.
    pub metadata_endpoint: String,
    /// The files of TLS, if the service is reached over it.
    pub tls: Option<TlsFiles>,
    /// The admin socket.
    pub admin_socket: PathBuf,
    /// Directory of the state that survives a restart of the daemon.
    pub state_dir: PathBuf,
    /// Whether that directory may be on a disk.
    pub lab_allow_disk_state: bool,
    /// Whether all whole block devices are looked at.
    pub scan_luns: bool,
    /// Devices and files to look at in any case.
    pub luns: Vec<PathBuf>,
    /// Queues of a device.
    pub queues: u16,
    /// Requests of a queue.
    pub queue_depth: u16,
    /// Bytes of the largest request.
    pub max_io_bytes: u32,
    /// MiB a second that copies may write; 0 is off.
    pub consolidate_rate: u32,
    /// Whether SIGTERM detaches.
    pub drain_on_stop: bool,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration file {} is wrong", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// The host name is no node name and no other was given.
    #[error("the host name {host_name:?} cannot be the node's name: give --node-name")]
    HostName {
        /// The host name.
        host_name: String,
        /// What is odd about it.
        #[source]
        source: NameError,
    },
    /// The node name is odd.
    #[error("--node-name cannot be used")]
    NodeName(#[source] NameError),
    /// A number is outside of its range.
    #[error("{setting} is {value}: it has to be {range}")]
    Range {
        /// Which one.
        setting: &'static str,
        /// What was given.
        value: u64,
        /// What is allowed.
        range: String,
    },
    /// The endpoint is no URL of a kind that is supported.
    #[error("--metadata-endpoint is {0:?}: it has to be like 127.0.0.1:7420 or https://HOST:7420")]
    Endpoint(String),
    /// Some of the files of TLS, not all.
    #[error(transparent)]
    PartOfTls(#[from] PartOfTls),
    /// A path that has to be absolute is not.
    #[error("{setting} is {}: it has to be an absolute path", path.display())]
    RelativePath {
        /// Which one.
        setting: &'static str,
        /// What was given.
        path: PathBuf,
    },
    /// The socket's path does not fit a socket address.
    #[error(
        "--admin-socket is {} bytes long: a socket's path has at most {SOCKET_PATH_MAX}",
        path.as_os_str().len()
    )]
    SocketPath {
        /// What was given.
        path: PathBuf,
    },
}

impl Settings {
    /// The settings in a TOML file.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML or has an unknown field.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source })
    }

    /// These settings, and those of `file` where these are absent.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        Self {
            node_name: self.node_name.or(file.node_name),
            metadata_endpoint: self.metadata_endpoint.or(file.metadata_endpoint),
            tls_ca: self.tls_ca.or(file.tls_ca),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            admin_socket: self.admin_socket.or(file.admin_socket),
            state_dir: self.state_dir.or(file.state_dir),
            lab_allow_disk_state: self.lab_allow_disk_state.or(file.lab_allow_disk_state),
            scan_luns: self.scan_luns.or(file.scan_luns),
            luns: if self.luns.is_empty() { file.luns } else { self.luns },
            queues: self.queues.or(file.queues),
            queue_depth: self.queue_depth.or(file.queue_depth),
            max_io_bytes: self.max_io_bytes.or(file.max_io_bytes),
            consolidate_rate: self.consolidate_rate.or(file.consolidate_rate),
            drain_on_stop: self.drain_on_stop.or(file.drain_on_stop),
        }
    }

    /// The validated configuration; `host` supplies what depends on the machine.
    ///
    /// # Errors
    /// When a setting is outside of what is allowed.
    pub fn validate(self, host: &HostFacts) -> Result<Config, ConfigError> {
        let config = Config {
            node_name: node_name(self.node_name, &host.host_name)?,
            metadata_endpoint: self
                .metadata_endpoint
                .unwrap_or_else(|| "127.0.0.1:7420".to_owned()),
            tls: TlsFiles::all_or_none(self.tls_ca, self.tls_cert, self.tls_key)?,
            admin_socket: self.admin_socket.unwrap_or_else(|| "/run/lunar/fs-core.sock".into()),
            state_dir: self.state_dir.unwrap_or_else(|| "/run/lunar/state".into()),
            lab_allow_disk_state: self.lab_allow_disk_state.unwrap_or(false),
            scan_luns: self.scan_luns.unwrap_or(true),
            luns: self.luns,
            queues: self.queues.unwrap_or_else(|| host.processors.clamp(1, 4)),
            queue_depth: self.queue_depth.unwrap_or(128),
            max_io_bytes: self.max_io_bytes.unwrap_or(512 << 10),
            consolidate_rate: self.consolidate_rate.unwrap_or(32),
            drain_on_stop: self.drain_on_stop.unwrap_or(false),
        };
        config.check()?;
        Ok(config)
    }
}

/// What defaults depend on.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Name of the host.
    pub host_name: String,
    /// Processors that may be used.
    pub processors: u16,
}

fn node_name(given: Option<String>, host_name: &str) -> Result<Name, ConfigError> {
    match given {
        Some(name) => name.parse().map_err(ConfigError::NodeName),
        None => host_name
            .parse()
            .map_err(|source| ConfigError::HostName { host_name: host_name.to_owned(), source }),
    }
}

fn in_range(
    setting: &'static str,
    value: u64,
    range: &std::ops::RangeInclusive<u64>,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    let range = format!("from {} to {}", range.start(), range.end());
    Err(ConfigError::Range { setting, value, range })
}

fn absolute(setting: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.is_absolute() {
        return Ok(());
    }
    Err(ConfigError::RelativePath { setting, path: path.to_owned() })
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        in_range("--queues", self.queues.into(), &(1..=QUEUES_MAX.into()))?;
        in_range("--queue-depth", self.queue_depth.into(), &(1..=QUEUE_DEPTH_MAX.into()))?;
        if !MAX_IO_BYTES_RANGE.contains(&self.max_io_bytes)
            || !self.max_io_bytes.is_multiple_of(4096)
        {
            let range = "a multiple of 4096 from 65536 to 1048576".to_owned();
            let value = self.max_io_bytes.into();
            return Err(ConfigError::Range { setting: "--max-io-bytes", value, range });
        }
        let rates = 0..=CONSOLIDATE_RATE_MAX.into();
        in_range("--consolidate-rate", self.consolidate_rate.into(), &rates)?;
        let endpoint = &self.metadata_endpoint;
        let address = endpoint.split_once("://").map_or(endpoint.as_str(), |(scheme, rest)| {
            if matches!(scheme, "http" | "https") { rest } else { "" }
        });
        if address.is_empty() {
            return Err(ConfigError::Endpoint(endpoint.clone()));
        }
        if let Some(TlsFiles { ca, cert, key }) = &self.tls {
            absolute("--tls-ca", ca)?;
            absolute("--tls-cert", cert)?;
            absolute("--tls-key", key)?;
        }
        absolute("--admin-socket", &self.admin_socket)?;
        absolute("--state-dir", &self.state_dir)?;
        for lun in &self.luns {
            absolute("--lun", lun)?;
        }
        if self.admin_socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(ConfigError::SocketPath { path: self.admin_socket.clone() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts { host_name: "node-a".to_owned(), processors: 16 }
    }

    fn settings(text: &str) -> Settings {
        toml::from_str(text).expect("the text is well-formed")
    }

    #[test]
    fn defaults_are_those_of_the_help_text() {
        let config = Settings::default().validate(&host()).expect("defaults are valid");
        assert_eq!(config.node_name.as_str(), "node-a");
        assert_eq!((config.metadata_endpoint.as_str(), config.tls), ("127.0.0.1:7420", None));
        assert_eq!(config.admin_socket, Path::new("/run/lunar/fs-core.sock"));
        assert_eq!(config.state_dir, Path::new("/run/lunar/state"));
        assert_eq!((config.queues, config.queue_depth, config.max_io_bytes), (4, 128, 512 << 10));
        assert_eq!(config.consolidate_rate, 32);
        assert!(config.scan_luns && !config.lab_allow_disk_state && !config.drain_on_stop);
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let flags = Settings { queues: Some(2), ..Settings::default() };
        let config = flags
            .or(settings("queues = 8\nqueue_depth = 64\nluns = [\"/dev/sdx\"]"))
            .validate(&host())
            .expect("valid");
        assert_eq!((config.queues, config.queue_depth), (2, 64));
        assert_eq!(config.luns, [PathBuf::from("/dev/sdx")]);
    }

    #[test]
    fn unknown_fields_are_refused_by_name() {
        let error = toml::from_str::<Settings>("queue = 8").expect_err("no such field");
        assert!(error.to_string().contains("queue"), "{error}");
    }

    #[test]
    fn odd_values_are_refused_with_the_setting() {
        for (text, setting) in [
            ("queues = 0", "--queues"),
            ("queues = 65", "--queues"),
            ("queue_depth = 5000", "--queue-depth"),
            ("max_io_bytes = 100000", "--max-io-bytes"),
            ("consolidate_rate = 65537", "--consolidate-rate"),
            ("metadata_endpoint = \"ftp://x\"", "--metadata-endpoint"),
            ("tls_key = \"/k\"", "--tls-ca"),
            ("tls_ca = \"/a\"\ntls_cert = \"c\"\ntls_key = \"/k\"", "--tls-cert"),
            ("state_dir = \"state\"", "--state-dir"),
            ("luns = [\"sdb\"]", "--lun"),
            ("node_name = \"a/b\"", "--node-name"),
        ] {
            let error = settings(text).validate(&host()).expect_err(text);
            assert!(error.to_string().contains(setting), "{text}: {error}");
        }
        let long = Settings {
            admin_socket: Some(format!("/{}", "x".repeat(107)).into()),
            ..Settings::default()
        };
        assert!(matches!(long.validate(&host()), Err(ConfigError::SocketPath { .. })));
    }

    #[test]
    fn a_host_name_that_is_no_node_name_asks_for_one() {
        let odd = HostFacts { host_name: "-".to_owned(), processors: 1 };
        let error = Settings::default().validate(&odd).expect_err("odd host name");
        assert!(error.to_string().contains("--node-name"), "{error}");
    }
}
