//! How a client reaches an endpoint: plaintext on this host, TLS everywhere else.
//!
//! Invariants:
//! - an endpoint has one way for good: TLS never falls back to plaintext;
//! - plaintext goes to this host only, as the service listens;
//! - when the files of TLS change, connections are made anew with what they hold now.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use lunar_identity::ClientTls;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, Error as TlsProblem};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::transport::{EndpointError, Policy};

/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// An endpoint and its connection.
#[derive(Debug)]
pub(crate) struct Target {
    address: String,
    endpoint: Endpoint,
    tls: Option<Arc<ClientTls>>,
    connection: Mutex<Connection>,
}

#[derive(Debug)]
struct Connection {
    channel: Channel,
    /// The state of the files that it was made with.
    generation: u64,
    looked: Instant,
}

/// Whether a host is this one by its name alone.
fn is_this_host(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Target {
    /// The endpoint of this text: `host:port`, with `https://` or `http://` before it or not. With
    /// files of TLS and without a scheme it is TLS.
    pub(crate) fn new(
        text: &str,
        policy: &Policy,
        tls: Option<&Arc<ClientTls>>,
    ) -> Result<Self, EndpointError> {
        let malformed = || EndpointError::Malformed(text.to_owned());
        let (address, tls) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(address), _) => {
                (address, Some(tls.ok_or_else(|| EndpointError::NoFiles(text.to_owned()))?))
            }
            (_, Some(address)) => (address, None),
            (None, None) => (text, tls),
        };
        // The scheme is that of the messages inside: what is around them is our own.
        let uri: Uri = format!("http://{address}").parse().map_err(|_| malformed())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(malformed)?;
        if uri.port_u16().is_none() {
            return Err(malformed());
        }
        if tls.is_none() && !is_this_host(host) {
            return Err(EndpointError::Plaintext(text.to_owned()));
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(policy.connect)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(Duration::from_secs(10)))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5));
        let tls = tls.cloned();
        let connection = Mutex::new(connect(&endpoint, tls.as_ref()));
        Ok(Self { address: address.to_owned(), endpoint, tls, connection })
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The connection, made anew when the files have changed; it connects when it is used.
    pub(crate) fn channel(&self) -> Channel {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tls) = &self.tls {
            if connection.looked.elapsed() >= LOOK_EVERY {
                tls.look();
                connection.looked = Instant::now();
            }
            if tls.config().0 != connection.generation {
                *connection = connect(&self.endpoint, Some(tls));
            }
        }
        connection.channel.clone()
    }

    /// Looks at the files at once, and says whether they hold something else than the connection
    /// was made with.
    pub(crate) fn has_other_files(&self) -> bool {
        let Some(tls) = &self.tls else { return false };
        tls.look();
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        tls.config().0 != connection.generation
    }
}

fn connect(endpoint: &Endpoint, tls: Option<&Arc<ClientTls>>) -> Connection {
    let looked = Instant::now();
    let Some(tls) = tls else {
        return Connection { channel: endpoint.connect_lazy(), generation: 0, looked };
    };
    let generation = tls.config().0;
    let tls = Arc::clone(tls);
    let connector = tower::service_fn(move |uri: Uri| {
        let tls = Arc::clone(&tls);
        async move { secured(&uri, &tls).await.map(TokioIo::new) }
    });
    Connection { channel: endpoint.connect_with_connector_lazy(connector), generation, looked }
}

async fn secured(uri: &Uri, tls: &ClientTls) -> io::Result<Secured> {
    let no_address = || io::Error::other("the endpoint has no host and port");
    let host = uri.host().ok_or_else(no_address)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().ok_or_else(no_address)?;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connected = TlsConnector::from(tls.config().1).connect(name, stream).await;
    Ok(Secured(connected.map_err(explained)?))
}

/// A connection whose errors say what to do.
struct Secured(TlsStream<TcpStream>);

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // What the server thinks of the client's certificate comes with the first bytes.
        Pin::new(&mut self.0).poll_read(cx, buffer).map_err(explained)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// What an error of TLS means for who reads it.
fn explained(error: io::Error) -> io::Error {
    let problem = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsProblem>());
    let Some(problem) = problem else { return error };
    let text = match problem {
        TlsProblem::InvalidMessage(_) => {
            "it speaks no TLS: start it with --tls-cert, --tls-key and --tls-client-ca, or write \
             http:// for a service on this host"
        }
        TlsProblem::AlertReceived(AlertDescription::CertificateExpired) => {
            "the service refuses --tls-cert, which has expired or is not valid yet: lunar pki \
             rotate, and see that the clocks are right"
        }
        TlsProblem::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            "the service refuses --tls-cert: the authority that has signed it is not in the \
             service's --tls-client-ca"
        }
        TlsProblem::AlertReceived(_) => {
            return io::Error::other(format!("the service refuses --tls-cert: {problem}"));
        }
        // The second, when an authority of the same name is trusted.
        TlsProblem::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature,
        ) => "the authority that has signed the service's certificate is not in --tls-ca",
        TlsProblem::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => {
            "the service's certificate has expired or is not valid yet: lunar pki rotate, and see \
             that the clocks are right"
        }
        TlsProblem::InvalidCertificate(CertificateError::Other(other)) => {
            return io::Error::other(other.to_string());
        }
        problem => return io::Error::other(format!("TLS: {problem}")),
    };
    io::Error::other(text)
}
