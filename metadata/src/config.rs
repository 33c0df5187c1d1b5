//! What an operator may choose: flags, `LUNAR_*` variables, a file; checked once.
//!
//! A flag or variable wins over the file, the file over the default.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use lunar_identity::TlsFiles;
use serde::Deserialize;

/// Where the service listens when nobody says otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7420";
/// How long requests are remembered when nobody says otherwise, in seconds.
const RETENTION_DEFAULT: u64 = 600;
/// Clients send a request again for up to a minute; twice that is the least that makes sense.
const RETENTION_MIN: u64 = 120;
const RETENTION_MAX: u64 = 86_400;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration '{path}' cannot be read")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration '{path}' is malformed: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What and where.
        problem: String,
    },
    /// Nobody says where the store is.
    #[error(
        "no store is named: give --store PATH, LUNAR_METADATA_STORE, or 'store' in the \
         configuration"
    )]
    NoStore,
    /// Not an address.
    #[error("'{text}' is no address to listen on: give for example {LISTEN_DEFAULT}")]
    Listen {
        /// What was given.
        text: String,
    },
    /// Others could reach it without proving who they are.
    #[error(
        "{address} can be reached from other hosts, and without TLS nobody can tell who connects: \
         give --tls-cert, --tls-key and --tls-client-ca, or listen on loopback only, for example \
         {LISTEN_DEFAULT}"
    )]
    NotLoopback {
        /// What was given.
        address: SocketAddr,
    },
    /// Some of the files of TLS, not all.
    #[error(
        "{given} is given without {missing}: TLS needs the certificate, its key, and the \
         authorities that clients are signed by"
    )]
    PartOfTls {
        /// What was given.
        given: &'static str,
        /// What was not.
        missing: &'static str,
    },
    /// Out of bounds.
    #[error("request_retention_seconds = {seconds} is not from {RETENTION_MIN} to {RETENTION_MAX}")]
    Retention {
        /// What was given.
        seconds: u64,
    },
}

/// The configuration file. Unknown fields are refused.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    /// Path of the store. No default.
    store: Option<PathBuf>,
    /// Address and port; without TLS loopback only. Default 127.0.0.1:7420.
    listen: Option<String>,
    /// The service's certificate (PEM). Default: none, no TLS.
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM). Default: none.
    tls_key: Option<PathBuf>,
    /// The authorities that clients are signed by (PEM). Default: none.
    tls_client_ca: Option<PathBuf>,
    /// Seconds, 120 to 86,400. Default 600.
    request_retention_seconds: Option<u64>,
}

/// Flags of `serve`.
#[derive(Args, Debug, Default)]
pub struct ServeFlags {
    /// The store; it is made if there is no file.
    #[arg(long, env = "LUNAR_METADATA_STORE", value_name = "PATH")]
    pub store: Option<PathBuf>,
    /// Address to listen on; without TLS loopback only [default: 127.0.0.1:7420].
    #[arg(long, env = "LUNAR_METADATA_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// The service's certificate in PEM, of the role metadata; read anew when it changes. With the
    /// next two: TLS only, and every client needs a certificate [default: no TLS].
    #[arg(long, env = "LUNAR_METADATA_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert in PEM.
    #[arg(long, env = "LUNAR_METADATA_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The authorities that clients are signed by, in PEM.
    #[arg(long, env = "LUNAR_METADATA_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// How long a request that was carried out is remembered at least [default: 600].
    #[arg(long, env = "LUNAR_METADATA_REQUEST_RETENTION_SECONDS", value_name = "SECONDS")]
    pub request_retention_seconds: Option<u64>,
    /// A TOML file with the same settings: store, listen, tls_cert, tls_key, tls_client_ca,
    /// request_retention_seconds.
    #[arg(long, env = "LUNAR_METADATA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// A configuration that can be used.
#[derive(Debug, PartialEq, Eq)]
pub struct ServeConfig {
    /// Path of the store.
    pub store: PathBuf,
    /// A loopback address, or any with TLS.
    pub listen: SocketAddr,
    /// The files of TLS, if there is TLS.
    pub tls: Option<TlsFiles>,
    /// How long a request is remembered at least.
    pub request_retention: Duration,
}

fn read_file(path: &Path) -> Result<ConfigFile, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| ConfigError::Malformed {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

/// All files of TLS, or none.
fn tls_files(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
) -> Result<Option<TlsFiles>, ConfigError> {
    let flags = [(&cert, "--tls-cert"), (&key, "--tls-key"), (&ca, "--tls-client-ca")];
    let given = flags.iter().find(|(file, _)| file.is_some());
    let missing = flags.iter().find(|(file, _)| file.is_none());
    if let (Some((_, given)), Some((_, missing))) = (given, missing) {
        return Err(ConfigError::PartOfTls { given, missing });
    }
    Ok(cert.zip(key).zip(ca).map(|((cert, key), ca)| TlsFiles { ca, cert, key }))
}

impl ServeFlags {
    /// The configuration of flags, file and defaults together.
    ///
    /// # Errors
    /// The file cannot be read or is malformed, or a value is missing or out of bounds.
    pub fn resolve(self) -> Result<ServeConfig, ConfigError> {
        let file = self.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let store = self.store.or(file.store).ok_or(ConfigError::NoStore)?;
        let text = self.listen.or(file.listen).unwrap_or_else(|| LISTEN_DEFAULT.to_owned());
        let listen: SocketAddr =
            text.parse().map_err(|_| ConfigError::Listen { text: text.clone() })?;
        let tls = tls_files(
            self.tls_cert.or(file.tls_cert),
            self.tls_key.or(file.tls_key),
            self.tls_client_ca.or(file.tls_client_ca),
        )?;
        if tls.is_none() && !listen.ip().is_loopback() {
            return Err(ConfigError::NotLoopback { address: listen });
        }
        let seconds = self.request_retention_seconds.or(file.request_retention_seconds);
        let seconds = seconds.unwrap_or(RETENTION_DEFAULT);
        if !(RETENTION_MIN..=RETENTION_MAX).contains(&seconds) {
            return Err(ConfigError::Retention { seconds });
        }
        Ok(ServeConfig { store, listen, tls, request_retention: Duration::from_secs(seconds) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(store: Option<&str>, listen: Option<&str>) -> ServeFlags {
        ServeFlags {
            store: store.map(PathBuf::from),
            listen: listen.map(str::to_owned),
            ..ServeFlags::default()
        }
    }

    fn with_file(text: &str, flags: ServeFlags) -> Result<ServeConfig, ConfigError> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("service.toml");
        std::fs::write(&path, text).expect("written");
        ServeFlags { config: Some(path), ..flags }.resolve()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let text = "store = '/file'\nrequest_retention_seconds = 300\n";
        let config = with_file(text, flags(None, Some("[::1]:9"))).expect("valid");
        assert_eq!(config.store, Path::new("/file"));
        assert_eq!(config.listen.to_string(), "[::1]:9");
        assert_eq!(config.request_retention, Duration::from_secs(300));
        let config = with_file(text, flags(Some("/flag"), None)).expect("valid");
        assert_eq!(config.store, Path::new("/flag"));
        assert_eq!(config.listen.to_string(), LISTEN_DEFAULT);
    }

    #[test]
    fn tls_is_whole_or_not_at_all_and_opens_other_addresses() {
        let files = "tls_cert = '/c'\ntls_key = '/k'\ntls_client_ca = '/ca'\n";
        let open = || flags(Some("s"), Some("192.0.2.1:7420"));
        let config = with_file(files, open()).expect("valid");
        let [ca, cert, key] = ["/ca", "/c", "/k"].map(PathBuf::from);
        assert_eq!(config.tls, Some(TlsFiles { ca, cert, key }));
        assert_eq!(with_file("", flags(Some("s"), None)).expect("valid").tls, None);
        let part = ServeFlags { tls_key: Some("/k".into()), ..open() }.resolve();
        let said = part.expect_err("a part").to_string();
        assert!(said.contains("--tls-key is given without --tls-cert"), "{said}");
        let said = open().resolve().expect_err("without TLS").to_string();
        assert!(said.contains("--tls-client-ca"), "{said}");
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let message = |config: Result<ServeConfig, ConfigError>| {
            config.expect_err("it is refused").to_string()
        };
        assert!(message(flags(None, None).resolve()).contains("--store PATH"));
        assert!(message(flags(Some("s"), Some("here")).resolve()).contains("'here'"));
        for open in ["0.0.0.0:7420", "192.0.2.1:7420", "[::]:7420"] {
            let text = message(flags(Some("s"), Some(open)).resolve());
            assert!(text.contains("loopback only"), "{text}");
        }
        let text = message(with_file("store = 's'\nlisten_on = 'x'\n", flags(None, None)));
        assert!(text.contains("unknown field") && text.contains("listen_on"), "{text}");
        let text = message(with_file("store = 7\n", flags(None, None)));
        assert!(text.contains("service.toml"), "{text}");
        let text =
            message(with_file("store = 's'\nrequest_retention_seconds = 5\n", flags(None, None)));
        assert!(text.contains("request_retention_seconds = 5"), "{text}");
        let missing = ServeFlags { config: Some("/no/such/file".into()), ..flags(Some("s"), None) };
        assert!(message(missing.resolve()).contains("/no/such/file"));
    }
}
