//! Connections of callers: accepted, handshaken aside so that a slow one delays nobody, and marked with who is at the other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::ca::serving::ServingTls;

/// The longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most handshakes at a time; more wait in the socket's queue.
const HANDSHAKES: usize = 256;
/// The pause after a failed accept, which means that the process is out of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address.
    pub remote: SocketAddr,
    /// Absent on plaintext.
    pub tls: Option<TlsPeer>,
}

/// The other end of TLS.
#[derive(Debug, Clone)]
pub struct TlsPeer {
    /// The one URI of the client's verified certificate, or why it has none; absent if it showed no certificate.
    pub id: Option<Result<String, &'static str>>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    peer: Peer,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    /// Address of the other end.
    pub fn remote(&self) -> SocketAddr {
        self.peer.remote
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// The connections of a listener, until `stop`.
pub fn incoming(
    listener: TcpListener,
    tls: Option<ServingTls>,
    stop: CancellationToken,
) -> impl Stream<Item = io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(64);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                () = sender.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, remote) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            // Small responses would wait for acknowledgements.
            let _ = stream.set_nodelay(true);
            let Some(tls) = &tls else {
                let connection = Connection { io: Io::Plain(stream), peer: Peer { remote, tls: None } };
                if sender.send(Ok(connection)).await.is_err() {
                    return;
                }
                continue;
            };
            let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
            let (sender, config) = (sender.clone(), tls.config());
            tokio::spawn(async move {
                let result = tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
                drop(permit);
                match result {
                    Ok(Ok(stream)) => {
                        let id = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(uri);
                        let peer = Peer { remote, tls: Some(TlsPeer { id }) };
                        // The server may be gone.
                        let _ = sender.send(Ok(Connection { io: Io::Tls(Box::new(stream)), peer })).await;
                    }
                    Ok(Err(error)) => tracing::info!(%remote, %error, "a TLS handshake failed"),
                    Err(_) => tracing::info!(%remote, "a TLS handshake took longer than 10 s"),
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

/// The one URI that a SPIFFE certificate has.
fn uri(certificate: &CertificateDer<'_>) -> Result<String, &'static str> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).map_err(|_| "cannot be read")?;
    let names = parsed.subject_alternative_name().map_err(|_| "has malformed names")?;
    let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri.to_owned()),
        (None, _) => Err("has no SPIFFE id"),
        (Some(_), Some(_)) => Err("has more than one URI"),
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }
}
