//! Who has no certificate, no TLS, or no end of a handshake.

use std::sync::Arc;
use std::time::Duration;

use lunar_identity::TlsFiles;
use lunar_identity::files::{read_certificates, read_key};
use lunar_metadata_client::{MetadataClient, Policy};
use lunar_proto::roles::Role;
use lunar_proto::v1;
use lunar_proto::v1::admin_client::AdminClient;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::Status;

use crate::world::{World, client_at, short, unreachable};

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Believes every server: what an attacker's client does.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A client's configuration that believes everybody, with the certificate of these files or none.
pub fn credulous(files: Option<&TlsFiles>) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut config = match files {
        None => config.with_no_client_auth(),
        Some(files) => {
            let chain = read_certificates(&files.cert).expect("read");
            let key = read_key(&files.key).expect("read");
            config.with_client_auth_cert(chain, key).expect("usable")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// What the service says to a client that believes everybody.
pub async fn call_over_any_server(world: &World, files: &TlsFiles) -> Status {
    let channel = world.channel(credulous(Some(files))).await;
    let answer = AdminClient::new(channel).get_cluster(v1::GetClusterRequest {}).await;
    answer.expect_err("refused")
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let world = World::start().await;
    let stream = TcpStream::connect(world.address).await.expect("connected");
    let name = ServerName::try_from("service").expect("a name");
    let connector = TlsConnector::from(credulous(None));
    // With TLS 1.3 the client ends first, and hears of the refusal when it reads.
    let refused = match connector.connect(name, stream).await {
        Err(error) => error,
        Ok(mut stream) => {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.expect_err("it is refused")
        }
    };
    assert!(refused.to_string().contains("CertificateRequired"), "{refused}");
}

#[tokio::test]
async fn a_client_without_tls_hears_what_to_do_and_gets_no_answer() {
    let world = World::start().await;
    let endpoint = format!("http://{}", world.address);
    let client = MetadataClient::new(&[endpoint], short()).expect("an endpoint");
    let said = unreachable(client.cluster().await);
    assert!(said.contains("TLS only") && said.contains("https://"), "{said}");
}

#[tokio::test]
async fn a_client_with_tls_hears_that_the_other_end_has_none() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accepted");
            // What a server of HTTP/2 without TLS says first.
            drop(stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await);
            let mut ignored = [0; 4096];
            drop(stream.read(&mut ignored).await);
        }
    });
    let files = world.pki.issue(Role::Admin, "root");
    let said = unreachable(client_at(address, files).cluster().await);
    assert!(said.contains("speaks no TLS"), "{said}");
}

#[tokio::test]
async fn a_node_that_plays_the_service_is_not_believed() {
    let world = World::start().await;
    let files = world.pki.issue(Role::Node, "n1");
    let chain = read_certificates(&files.cert).expect("read");
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, read_key(&files.key).expect("read"))
        .expect("usable");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepted");
            drop(acceptor.accept(stream).await);
        }
    });
    let client = client_at(address, world.pki.issue(Role::Node, "n2"));
    let said = unreachable(client.cluster().await);
    assert!(said.contains("/node/n1") && said.contains("no metadata service"), "{said}");
}

#[tokio::test]
async fn slow_handshakes_keep_nobody_out() {
    let world = World::start().await;
    let mut slow = Vec::new();
    for part in [&[][..], &[0x16], &[0x16, 3, 1, 2, 0]] {
        for _ in 0..50 {
            let mut stream = TcpStream::connect(world.address).await.expect("connected");
            stream.write_all(part).await.expect("written");
            slow.push(stream);
        }
    }
    let client = world.client_of(Role::Admin, "root");
    let quick = client.with_policy(Policy::once(Duration::from_secs(3)));
    quick.cluster().await.expect("served");
    // They are cut off in their time.
    let ended = tokio::time::timeout(Duration::from_secs(15), async {
        for stream in &mut slow {
            let mut rest = Vec::new();
            drop(stream.read_to_end(&mut rest).await);
        }
    });
    ended.await.expect("cut off");
}
