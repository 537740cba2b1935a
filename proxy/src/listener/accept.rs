//! The accept loop of one socket on one worker, and a connection's way to its protocol.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::place::Place;
use super::{ChainProtocol, ConnInfo, Listener, ListenerStats, socket};
use crate::Name;
use crate::detect::{self, prefixed::Prefixed};
use crate::drain::Phase;
use crate::http::serve;
use crate::policy::authz::{AuthzView, Rbac, Verdict};
use crate::snapshot::Snapshot;
use crate::tcp;
use crate::telemetry::record::Record;
use crate::tls::TlsInfo;
use crate::worker::Worker;

/// Longest TLS handshake unless configured.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// A stream from a client.
pub type Plain = Prefixed<TcpStream>;

/// A client's stream, TLS ended or not there.
#[derive(Debug)]
pub enum Downstream {
    /// Plaintext.
    Plain(Plain),
    /// TLS ended here.
    Tls(Box<tokio_rustls::server::TlsStream<Plain>>),
}

/// Accepts until told to stop; then takes what the kernel has queued already, so that no connection is reset.
pub async fn run(worker: Rc<Worker>, listener: Name, socket: TcpListener, stop: CancellationToken) {
    let draining = worker.drain.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            () = stop.cancelled() => break,
            () = draining.reached(Phase::Draining) => break,
        };
        take(&worker, &listener, accepted).await;
    }
    while let Some(accepted) = now_or_never(socket.accept()) {
        take(&worker, &listener, accepted).await;
    }
}

fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

async fn take(worker: &Rc<Worker>, listener: &Name, accepted: io::Result<(TcpStream, SocketAddr)>) {
    match accepted {
        Ok((stream, peer)) => {
            let counted = worker.drain.count();
            let (worker, listener) = (worker.clone(), listener.clone());
            crate::runtime::spawn(async move {
                if let Err(error) = connection(worker, listener, stream, peer).await {
                    tracing::debug!(%error, %peer, "connection closed");
                }
                drop(counted);
            });
        }
        Err(error) => {
            // Out of file descriptors, most likely: accepting again at once would spin.
            tracing::warn!(%error, listener = &**listener, "cannot accept");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn connection(worker: Rc<Worker>, name: Name, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    socket::tune(&stream);
    let snapshot = worker.snapshot();
    let Some(listener) = snapshot.listeners.get(&name) else { return Ok(()) };
    let mut local = stream.local_addr()?;
    let original = if listener.use_original_dst || listener.detect.original_dst {
        socket::original_destination(&stream)
    } else {
        None
    };
    let listener = match original {
        Some(destination) => {
            local = destination;
            if listener.use_original_dst { handed_to(&snapshot, destination).unwrap_or(listener) } else { listener }
        }
        None => listener,
    };
    let listener = listener.clone();
    drop(snapshot);
    let _open = Open::new(&listener);
    let detected = detect::detect(&mut stream, &listener.detect, local.port()).await?;
    let mut conn = ConnInfo {
        id: worker.next_id(),
        listener: listener.name.clone(),
        direction: listener.direction,
        direct_peer: peer,
        peer,
        local,
        local_restored: original.is_some(),
        tls: None,
        server_name: detected.seen.server_name.clone(),
    };
    if let Some((source, destination)) = detected.addresses {
        conn.peer = source;
        conn.local = destination;
        conn.local_restored = true;
    }
    let seen = detected.seen;
    let Some(chain) = listener.chain_for(&conn, &seen).cloned() else {
        let mut record = Record::begin(Rc::new(conn), None);
        record.flags.set(crate::telemetry::record::Flags::NR);
        record.details = Some("filter_chain_not_found".into());
        listener.stats.no_chain.fetch_add(1, Ordering::Relaxed);
        for log in &listener.access_logs {
            log.write(&record);
        }
        return Ok(());
    };
    let stream = Prefixed::new(detected.prefix, stream);
    let stream = match &chain.tls {
        None => Downstream::Plain(stream),
        Some(tls) => {
            let patience = chain.handshake_timeout.unwrap_or(HANDSHAKE);
            let accepted = tokio::time::timeout(patience, Box::pin(tls.accept(stream))).await;
            let accepted = accepted.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "TLS handshake"))?;
            let (stream, info) = accepted.map_err(|error| {
                tls_failed(&conn, &listener, &error.to_string());
                io::Error::other(error)
            })?;
            take_info(&mut conn, info);
            Downstream::Tls(Box::new(stream))
        }
    };
    let place = Place::take(&worker, Rc::new(conn), seen, listener, chain.clone());
    match &chain.protocol {
        ChainProtocol::Http(http) => {
            if let Some(detail) = refused(&chain.rbac, &place.conn) {
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, detail));
            }
            let codec = serve::codec_of(http, &place.conn, place.seen());
            Box::pin(serve::serve(worker, place, codec, stream)).await
        }
        ChainProtocol::Tcp(tcp) => Box::pin(tcp::serve(worker, tcp.clone(), &chain.rbac, &place, stream)).await,
    }
}

/// Counts a connection of a listener for as long as it lives.
struct Open(Arc<ListenerStats>);

impl Open {
    fn new(listener: &Listener) -> Self {
        listener.stats.total.fetch_add(1, Ordering::Relaxed);
        listener.stats.active.fetch_add(1, Ordering::Relaxed);
        Self(listener.stats.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

fn take_info(conn: &mut ConnInfo, info: TlsInfo) {
    conn.server_name = info.server_name.clone().or_else(|| conn.server_name.take());
    conn.tls = Some(Arc::new(info));
}

fn tls_failed(conn: &ConnInfo, listener: &Listener, reason: &str) {
    listener.stats.tls_errors.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(listener = &*listener.name, peer = %conn.direct_peer, reason, "TLS handshake failed");
}

/// The unbound listener that stands for an original destination: by its address, else by its port on the wildcard address.
fn handed_to(snapshot: &Snapshot, destination: SocketAddr) -> Option<&Arc<Listener>> {
    let unbound = || snapshot.listeners.values().filter(|listener| !listener.bind_to_port);
    let stands_for =
        |listener: &Listener, wanted: SocketAddr| listener.addresses.contains(&super::BindAddress::Ip(wanted));
    let wildcard = match destination {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], destination.port())),
        SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], destination.port())),
    };
    unbound()
        .find(|listener| stands_for(listener, destination))
        .or_else(|| unbound().find(|listener| stands_for(listener, wildcard)))
}

/// The first network-level policy that refuses the connection.
pub fn refused(rbac: &[Arc<Rbac>], conn: &ConnInfo) -> Option<String> {
    let view = AuthzView { head: None, conn, remote: conn.peer_ip() };
    rbac.iter().find_map(|rbac| match rbac.check(&view) {
        Verdict::Allow => None,
        Verdict::Deny(detail) => Some(detail.into_owned()),
    })
}

impl Downstream {
    /// Resolves when the socket has something to read. What TLS has read and kept is not counted.
    pub async fn readable(&self) -> io::Result<()> {
        let socket = match self {
            Self::Plain(stream) => stream.get_ref(),
            Self::Tls(stream) => stream.get_ref().0.get_ref(),
        };
        socket.readable().await
    }
}

mod stream {
    //! Reading and writing a client's stream.

    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    use super::Downstream;

    macro_rules! delegate {
        ($self:ident, $stream:ident => $call:expr) => {
            match $self.get_mut() {
                Downstream::Plain($stream) => $call,
                Downstream::Tls($stream) => $call,
            }
        };
    }

    impl AsyncRead for Downstream {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            delegate!(self, stream => Pin::new(stream).poll_read(cx, buf))
        }
    }

    impl AsyncWrite for Downstream {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            delegate!(self, stream => Pin::new(stream).poll_write(cx, buf))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            delegate!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
        }

        fn is_write_vectored(&self) -> bool {
            match self {
                Self::Plain(stream) => stream.is_write_vectored(),
                Self::Tls(stream) => stream.is_write_vectored(),
            }
        }

        fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            delegate!(self, stream => Pin::new(stream).poll_flush(cx))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
        }
    }
}
