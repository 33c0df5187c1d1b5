//! Certificates: who a peer is, TLS that follows its files, and an authority for those without one.
//!
//! - [`certificate`]: what a certificate says of its holder;
//! - [`files`]: certificate, key and trust from files, read again when they change;
//! - [`server`] and [`client`]: the two ends of a connection;
//! - [`issue`]: an authority that signs certificates, for `lunar pki` and for tests.
//!
//! Invariants:
//! - TLS 1.3 only, and both ends prove who they are: there is no mode without a client's
//!   certificate, and no session is resumed, so each connection is checked in full;
//! - a client believes a server by the role in its certificate, never by a host name alone: the
//!   certificate of a node opens no door as a server;
//! - files that cannot be used change nothing: what was read before stays in use.
//!
//! Deliberately absent: sockets, gRPC, the table of who may call what (`proto::roles`).

pub mod certificate;
pub mod client;
pub mod files;
pub mod issue;
pub mod server;

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use certificate::{CertFacts, CertificateError};
pub use client::ClientTls;
pub use files::{PartOfTls, TlsFiles};
pub use server::{Distrust, Peer, ServerTls};

/// What both ends speak: HTTP/2, as gRPC does.
const ALPN: &[u8] = b"h2";

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("'{}' cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("'{}' cannot be used: {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The certificate is for something else.
    #[error("the certificate '{}' is for {found}: {problem}", path.display())]
    OtherHolder {
        /// The file.
        path: PathBuf,
        /// Whom it is for.
        found: String,
        /// Why that does not do.
        problem: String,
    },
}

/// The one set of algorithms.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
