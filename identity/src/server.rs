//! The server's end: which clients are let in, and whether they still may be.
//!
//! A connection is checked in full when it is made. Later changes of trust reach connections that
//! are open through [`ServerTls::still_trusts`], which whoever serves asks with each call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lunar_proto::roles::Role;
use lunar_types::ClusterId;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use crate::certificate::{CertFacts, CertificateError};
use crate::files::{Material, Reloading, TlsFiles};
use crate::{ALPN, TlsError, provider};

/// Why a peer that was let in may not go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Distrust {
    /// Its certificate does not say who it is.
    #[error("the certificate cannot be used: {0}")]
    Nameless(#[from] CertificateError),
    /// Its time is over, or has not come.
    #[error("the certificate is not valid now: issue another one")]
    OutOfTime,
    /// Who signed it is trusted no more.
    #[error("who signed the certificate is not trusted any more: issue another one")]
    Authority,
}

/// The other end of a connection, by the certificate that it has proven to own.
#[derive(Debug)]
pub struct Peer {
    chain: Vec<CertificateDer<'static>>,
    facts: Result<CertFacts, CertificateError>,
    /// Under which state of the files its certificate was verified last.
    generation: AtomicU64,
}

impl Peer {
    /// Who it is, as its certificate says.
    ///
    /// # Errors
    /// The certificate does not say it.
    pub const fn facts(&self) -> &Result<CertFacts, CertificateError> {
        &self.facts
    }
}

struct ServerSide {
    config: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    own: CertFacts,
}

/// TLS of a server, which follows its files.
pub struct ServerTls {
    side: Reloading<ServerSide>,
}

fn make(files: &TlsFiles, cluster: ClusterId, material: Material) -> Result<ServerSide, TlsError> {
    let Material { roots, chain, key, own } = material;
    let other = |problem: &str| TlsError::OtherHolder {
        path: files.cert.clone(),
        found: own.name.to_string(),
        problem: problem.to_owned(),
    };
    if own.name.role != Role::Metadata {
        return Err(other("a server needs the role metadata: lunar pki issue --role metadata"));
    }
    if own.name.cluster != cluster {
        return Err(other(&format!(
            "this is cluster {cluster}, and clients would not believe that: issue a certificate \
             for it, see lunar pki init --cluster"
        )));
    }
    let usable = |error: &dyn std::fmt::Display| TlsError::Unusable {
        path: files.ca.clone(),
        problem: error.to_string(),
    };
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| usable(&error))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| usable(&error))?
        .with_client_cert_verifier(Arc::clone(&verifier));
    let mut config = config.with_single_cert(chain, key).map_err(|error| TlsError::Unusable {
        path: files.cert.clone(),
        problem: error.to_string(),
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would not be verified: neither its time nor who signed it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(ServerSide { config: Arc::new(config), verifier, own })
}

impl ServerTls {
    /// TLS of the metadata service of a cluster, with these files.
    ///
    /// # Errors
    /// They cannot be used, or the certificate is not for a server of this cluster.
    pub fn load(files: TlsFiles, cluster: ClusterId) -> Result<Self, TlsError> {
        let make = move |files: &TlsFiles, material| make(files, cluster, material);
        Ok(Self { side: Reloading::load(files, make)? })
    }

    /// What a handshake that begins now goes by.
    #[must_use]
    pub fn config(&self) -> (u64, Arc<ServerConfig>) {
        let (generation, side) = self.side.current();
        (generation, Arc::clone(&side.config))
    }

    /// The server's own certificate.
    #[must_use]
    pub fn own(&self) -> CertFacts {
        self.side.current().1.own.clone()
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        self.side.files()
    }

    /// Looks at the files, and takes what has changed if it can be used. Says whether it has.
    pub fn look(&self) -> bool {
        self.side.look()
    }

    /// The peer whose certificates a handshake under this state of the files has verified.
    #[must_use]
    pub fn peer(chain: &[CertificateDer<'_>], generation: u64) -> Option<Peer> {
        let facts = CertFacts::of(chain.first()?);
        let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
        Some(Peer { chain, facts, generation: AtomicU64::new(generation) })
    }

    /// Who a peer is, if its certificate is still good at this time, in seconds since 1970.
    ///
    /// # Errors
    /// It is not.
    pub fn still_trusts<'a>(&self, peer: &'a Peer, now: u64) -> Result<&'a CertFacts, Distrust> {
        let facts = peer.facts.as_ref().map_err(|error| Distrust::Nameless(error.clone()))?;
        if !facts.is_valid_at(now.cast_signed()) {
            return Err(Distrust::OutOfTime);
        }
        let (generation, side) = self.side.current();
        if peer.generation.load(Ordering::Relaxed) != generation {
            let (own, between) = peer.chain.split_first().ok_or(Distrust::Authority)?;
            let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
            let verified = side.verifier.verify_client_cert(own, between, now);
            verified.map_err(|_| Distrust::Authority)?;
            peer.generation.store(generation, Ordering::Relaxed);
        }
        Ok(facts)
    }
}
