//! An authority, the service behind TLS, and clients of every kind.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use lunar_identity::issue::{Authority, Issued, Order};
use lunar_identity::{ClientTls, ServerTls, TlsFiles};
use lunar_metadata::seams::{SystemClock, SystemIds};
use lunar_metadata::server::{Handlers, serve_tls};
use lunar_metadata::service::{Seams, Service, Settings};
use lunar_metadata::store::RedbStore;
use lunar_metadata_client::{ClientError, MetadataClient, Policy};
use lunar_proto::domain::CertSerial;
use lunar_proto::error::ErrorReason;
use lunar_proto::roles::Role;
use lunar_types::{ClusterId, Name};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

pub const DAY: i64 = 86_400;

pub fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

#[allow(clippy::disallowed_methods, reason = "certificates are valid by the time of day")]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_secs()).expect("a time")
}

/// An authority with its files.
pub struct Pki {
    pub folder: TempDir,
    authority: Authority,
}

impl Pki {
    pub fn new(cluster: ClusterId) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (authority, root) =
            Authority::new(cluster, now() - DAY, now() + 10 * DAY).expect("made");
        std::fs::write(folder.path().join("ca.crt"), &root.certificate).expect("written");
        Self { folder, authority }
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// A certificate that is valid from and until so many seconds from now.
    pub fn order(&self, role: Role, holder: &str, life: (i64, i64)) -> Issued {
        let (not_before, not_after) = (now() + life.0, now() + life.1);
        let order = Order { role, name: name(holder), hosts: vec![], not_before, not_after };
        self.authority.issue(&order).expect("issued")
    }

    pub fn place(&self, stem: &str, issued: &Issued) -> TlsFiles {
        let at = |end: &str| self.folder.path().join(format!("{stem}.{end}"));
        std::fs::write(at("crt"), &issued.certificate).expect("written");
        std::fs::write(at("key"), issued.key.reveal()).expect("written");
        TlsFiles { ca: self.ca(), cert: at("crt"), key: at("key") }
    }

    pub fn issue(&self, role: Role, holder: &str) -> TlsFiles {
        self.place(holder, &self.order(role, holder, (-60, DAY)))
    }
}

/// The service behind TLS.
pub struct World {
    pub pki: Pki,
    pub address: SocketAddr,
    pub tls: Arc<ServerTls>,
    pub service: Arc<Service<RedbStore>>,
}

impl World {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let seams = Seams { clock: Arc::new(SystemClock::start()), ids: Arc::new(SystemIds) };
        let service = Service::open(RedbStore::in_memory(), seams, Settings::default()).await;
        let service = Arc::new(service.expect("it starts"));
        let cluster = service.cluster().id;
        let pki = Pki::new(cluster);
        let tls = ServerTls::load(pki.issue(Role::Metadata, "m1"), cluster).expect("usable");
        let tls = Arc::new(tls);
        let handlers = Handlers::new(Arc::clone(&service), Arc::new(Notify::new()));
        tokio::spawn(serve_tls(listener, Arc::clone(&tls), handlers, std::future::pending()));
        Self { pki, address, tls, service }
    }

    /// A client with the certificate of these files.
    pub fn client(&self, files: TlsFiles) -> MetadataClient {
        client_at(self.address, files)
    }

    pub fn client_of(&self, role: Role, holder: &str) -> MetadataClient {
        self.client(self.pki.issue(role, holder))
    }

    /// A connection that carries any call, to a server that this configuration believes.
    pub async fn channel(&self, config: Arc<ClientConfig>) -> Channel {
        let address = self.address;
        let connector = tower::service_fn(move |_: Uri| {
            let connector = TlsConnector::from(Arc::clone(&config));
            async move {
                let stream = TcpStream::connect(address).await?;
                let name = ServerName::try_from("service").expect("a name");
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an endpoint");
        endpoint.connect_with_connector(connector).await.expect("connected")
    }
}

pub fn client_at(address: SocketAddr, files: TlsFiles) -> MetadataClient {
    let tls = Arc::new(ClientTls::load(files).expect("usable"));
    let endpoint = format!("https://{address}");
    MetadataClient::over(&[endpoint], short(), Some(&tls)).expect("an endpoint")
}

/// A call that fails is told soon.
pub fn short() -> Policy {
    Policy { total: Duration::from_secs(3), ..Policy::default() }
}

/// Why the service has refused a call.
pub fn refusal<T>(outcome: Result<T, ClientError>) -> ErrorReason {
    match outcome {
        Err(ClientError::Refused { report, .. }) => report.reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let through"),
    }
}

/// What a client says that reaches no service.
pub fn unreachable<T>(outcome: Result<T, ClientError>) -> String {
    match outcome {
        Err(ClientError::Unreachable { problem, .. }) => problem,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was let through"),
    }
}

/// The serial number of the certificate in these files.
pub fn serial(files: &TlsFiles) -> CertSerial {
    ClientTls::load(files.clone()).expect("usable").own().serial
}
