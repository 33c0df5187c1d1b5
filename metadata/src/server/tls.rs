//! Connections over TLS: handshakes beside each other, and files that are followed.
//!
//! Invariants:
//! - nothing is served that has not ended a handshake with a certificate of an authority that is
//!   trusted: a connection without TLS is told so and closed, never served;
//! - a handshake waits for nobody else's: each runs by itself, for ten seconds at most, and when
//!   too many are under way a new connection is closed, the accepting goes on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use lunar_identity::{Peer, ServerTls};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

/// How long a peer may take to prove who it is.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes under way at the same time.
const HANDSHAKES_MAX: usize = 512;
/// Between two looks at the files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// After an accept that failed, which it does when there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long a peer that speaks no TLS may take to hear that.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// The first byte of TLS: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// `INADEQUATE_SECURITY` of HTTP/2 (RFC 9113, 7).
const INADEQUATE_SECURITY: u32 = 0xC;
/// What a client without TLS hears.
const TLS_ONLY: &str =
    "this port speaks TLS only: write https:// and give --tls-ca, --tls-cert and --tls-key";

/// A connection whose peer has proven who it is.
pub(super) struct Secured {
    stream: TlsStream<TcpStream>,
    peer: Arc<Peer>,
}

impl Connected for Secured {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A GOAWAY frame after empty settings: what an HTTP/2 client without TLS can read.
fn goaway(reason: &str) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const KIND: u8 = 7;
    let length = u32::try_from(8 + reason.len()).expect("a reason is short").to_be_bytes();
    let mut frames = SETTINGS.to_vec();
    frames.extend_from_slice(&length[1..]);
    frames.extend_from_slice(&[KIND, 0, 0, 0, 0, 0]);
    frames.extend_from_slice(&0_u32.to_be_bytes());
    frames.extend_from_slice(&INADEQUATE_SECURITY.to_be_bytes());
    frames.extend_from_slice(reason.as_bytes());
    frames
}

/// Tells a peer without TLS what it should do. Nothing that it says is looked at.
async fn send_away(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(&goaway(TLS_ONLY)).await?;
    stream.shutdown().await?;
    // What is unread when a socket is closed makes the kernel throw away what was just sent.
    let mut ignored = [0; 1024];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

async fn handshake(stream: TcpStream, tls: &ServerTls) -> io::Result<Option<Secured>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first[0] != TLS_HANDSHAKE {
        // A peer that does not listen is left.
        drop(timeout(FAREWELL_LIMIT, send_away(stream)).await);
        return Err(io::Error::other("it speaks no TLS"));
    }
    stream.set_nodelay(true)?;
    let (generation, config) = tls.config();
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    // The verifier has required one; without it nobody is let in all the same.
    let peer = ServerTls::peer(chain, generation).map(Arc::new);
    Ok(peer.map(|peer| Secured { stream, peer }))
}

async fn accept_all(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    ready: mpsc::Sender<io::Result<Secured>>,
) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ready.closed() => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection cannot be accepted");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            warn!(%from, "connection closed: {HANDSHAKES_MAX} handshakes are under way");
            continue;
        };
        let (tls, ready) = (Arc::clone(&tls), ready.clone());
        tokio::spawn(async move {
            let outcome = timeout(HANDSHAKE_LIMIT, handshake(stream, &tls)).await;
            drop(permit);
            match outcome {
                // When the service stops, nobody takes it any more.
                Ok(Ok(Some(secured))) => drop(ready.send(Ok(secured)).await),
                Ok(Ok(None)) => debug!(%from, "connection closed before a handshake"),
                Ok(Err(error)) => warn!(%from, %error, "connection refused"),
                Err(_) => warn!(%from, "connection refused: no handshake in {HANDSHAKE_LIMIT:?}"),
            }
        });
    }
}

/// The connections of a listener whose peers have proven who they are.
pub(super) fn secured(
    listener: TcpListener,
    tls: Arc<ServerTls>,
) -> ReceiverStream<io::Result<Secured>> {
    let (ready, connections) = mpsc::channel(HANDSHAKES_MAX);
    tokio::spawn(accept_all(listener, tls, ready));
    ReceiverStream::new(connections)
}

/// Follows the files for ever: every two seconds, and at once on SIGHUP.
pub(super) async fn follow_files(tls: Arc<ServerTls>) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let hung_up = async {
            match &mut hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = ticks.tick() => {}
            () = hung_up => {}
        }
        let tls = Arc::clone(&tls);
        if let Err(panic) = tokio::task::spawn_blocking(move || tls.look()).await {
            warn!(%panic, "the files of TLS were not looked at");
        }
    }
}
