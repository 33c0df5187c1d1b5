//! The client's end: whom it believes to be the metadata service of its cluster.
//!
//! A server is believed when an authority of the client's files has signed its certificate, and
//! the certificate is of the role metadata and of the cluster of the client's own. The host name
//! is not compared: an address may move, a role may not, and no other role makes a server.

use std::sync::Arc;

use lunar_proto::roles::Role;
use lunar_types::ClusterId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::certificate::CertFacts;
use crate::files::{Material, Reloading, TlsFiles};
use crate::{ALPN, TlsError, provider};

/// Believes servers of one cluster.
#[derive(Debug)]
struct ServersOf {
    cluster: ClusterId,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

fn refuse(problem: String) -> Error {
    Error::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(
        std::io::Error::other(problem),
    ))))
}

impl ServersOf {
    fn check_holder(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let facts = CertFacts::of(certificate).map_err(|error| refuse(error.to_string()))?;
        let (name, cluster) = (&facts.name, self.cluster);
        if name.role != Role::Metadata {
            let role = name.role;
            return Err(refuse(format!(
                "the server shows the certificate of {name}, which is of the role {role}, not \
                 metadata: it is no metadata service"
            )));
        }
        if name.cluster != cluster {
            return Err(refuse(format!(
                "the server shows the certificate of {name}, which is not of cluster {cluster}"
            )));
        }
        Ok(())
    }
}

impl ServerCertVerifier for ServersOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // What is not signed by an authority of ours is not read any further.
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        let roots = &self.roots;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
            .or_else(|error| match error {
            // A node's certificate is for clients only; who shows it says so best.
            Error::InvalidCertificate(CertificateError::InvalidPurpose) => {
                self.check_holder(end_entity).and(Err(error))
            }
            Error::InvalidCertificate(CertificateError::InvalidPurposeContext { .. }) => {
                self.check_holder(end_entity).and(Err(error))
            }
            error => Err(error),
        })?;
        self.check_holder(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

struct ClientSide {
    config: Arc<ClientConfig>,
    own: CertFacts,
}

fn make(files: &TlsFiles, material: Material) -> Result<ClientSide, TlsError> {
    let Material { roots, chain, key, own } = material;
    let unusable =
        |error: Error| TlsError::Unusable { path: files.cert.clone(), problem: error.to_string() };
    let verifier = ServersOf { cluster: own.name.cluster, roots, provider: provider() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    // Servers are told apart by their certificates, not by names.
    config.enable_sni = false;
    Ok(ClientSide { config: Arc::new(config), own })
}

/// TLS of a client, which follows its files.
pub struct ClientTls {
    side: Reloading<ClientSide>,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("files", self.side.files()).finish_non_exhaustive()
    }
}

impl ClientTls {
    /// TLS of a client with these files.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        Ok(Self { side: Reloading::load(files, make)? })
    }

    /// The state of the files, which rises with each change, and what a handshake goes by.
    #[must_use]
    pub fn config(&self) -> (u64, Arc<ClientConfig>) {
        let (generation, side) = self.side.current();
        (generation, Arc::clone(&side.config))
    }

    /// The client's own certificate.
    #[must_use]
    pub fn own(&self) -> CertFacts {
        self.side.current().1.own.clone()
    }

    /// Looks at the files, and takes what has changed if it can be used. Says whether it has.
    pub fn look(&self) -> bool {
        self.side.look()
    }
}
