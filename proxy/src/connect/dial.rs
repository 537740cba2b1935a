//! Making a connection: TCP, TLS, HTTP, within the cluster's connect timeout.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;

use super::io::{Shared, Stream};
use super::{Hold, Want};
use crate::balance::{Address, Cluster, ClusterConfig, Endpoint, Transport};
use crate::http::body::RequestBody;
use crate::http::error::Error;
use crate::listener::socket::tune;
use crate::runtime::LocalExecutor;
use crate::tls::{AlpnUse, TlsInfo};

/// HTTP/2 windows in bytes: a stream's, the connection's. Equal ones could let one slow reader stop all.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);

/// A new HTTP connection.
pub(super) struct Dialed {
    pub(super) sender: Sender,
    pub(super) local: Option<SocketAddr>,
    pub(super) tls: Option<Arc<TlsInfo>>,
    pub(super) socket: Option<Arc<TcpStream>>,
}

pub(super) enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

/// A stream with what is known of it.
#[derive(Debug)]
pub struct Raw {
    /// The stream.
    pub stream: Stream,
    /// Our address.
    pub local: Option<SocketAddr>,
    /// TLS.
    pub tls: Option<Arc<TlsInfo>>,
    socket: Option<Arc<TcpStream>>,
}

/// A stream to the endpoint, TLS included, within the connect timeout.
pub async fn raw(cluster: &Cluster, endpoint: &Endpoint, host: Option<&str>, alpn: AlpnUse) -> Result<Raw, Error> {
    let connecting = connect(cluster, endpoint, host, alpn);
    let connected = timeout(cluster.config.connect_timeout, connecting).await.map_err(|_| Error::ConnectTimeout);
    let connected = connected.flatten();
    cluster.usage.dialed(connected.is_err());
    connected
}

async fn connect(cluster: &Cluster, endpoint: &Endpoint, host: Option<&str>, alpn: AlpnUse) -> Result<Raw, Error> {
    let failed = |error: std::io::Error| Error::Connect(error.to_string().into());
    let address = match &endpoint.spec.address {
        Address::Ip(address) => *address,
        Address::Pipe(path) => {
            let stream = UnixStream::connect(path).await.map_err(failed)?;
            return Ok(Raw { stream: Stream::Unix(stream), local: None, tls: None, socket: None });
        }
        Address::Name(..) => return Err(Error::NoHealthyUpstream(cluster.config.name.clone())),
    };
    let stream = match cluster.config.source {
        // A source of another family than the endpoint's cannot reach it; Envoy leaves it out too.
        Some(source) if source.is_ipv4() == address.is_ipv4() => {
            let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
            socket.bind(source).map_err(failed)?;
            socket.connect(address).await.map_err(failed)?
        }
        _ => TcpStream::connect(address).await.map_err(failed)?,
    };
    tune(&stream);
    keepalive(&stream, &cluster.config);
    let local = stream.local_addr().ok();
    let socket = Arc::new(stream);
    let shared = Shared(socket.clone());
    match &endpoint.transport {
        Transport::Plain => Ok(Raw { stream: Stream::Plain(shared), local, tls: None, socket: Some(socket) }),
        Transport::Tls(tls) => {
            let (stream, info) = tls
                .connect(shared, host, address.ip(), alpn)
                .await
                .map_err(|error| Error::UpstreamTls(error.to_string().into()))?;
            Ok(Raw { stream: Stream::Tls(Box::new(stream)), local, tls: Some(Arc::new(info)), socket: Some(socket) })
        }
    }
}

fn keepalive(stream: &TcpStream, config: &ClusterConfig) {
    let Some((probes, time, interval)) = config.tcp_keepalive else { return };
    let mut keepalive = TcpKeepalive::new();
    if let Some(time) = time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = probes {
        keepalive = keepalive.with_retries(probes);
    }
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, cluster = &*config.name, "cannot set TCP keep-alive");
    }
}

/// A new HTTP connection; `hold` is held for as long as it lives.
pub(super) async fn dial(
    cluster: &Arc<Cluster>,
    endpoint: &Endpoint,
    want: Want,
    host: Option<&str>,
    hold: Hold,
) -> Result<Dialed, Error> {
    let alpn = match want {
        Want::Http1 => AlpnUse::Http1,
        Want::Http2 => AlpnUse::Http2,
        Want::Alpn => AlpnUse::Configured,
    };
    let raw = raw(cluster, endpoint, host, alpn).await?;
    let agreed = raw.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    let http2 = match want {
        Want::Http1 => false,
        Want::Http2 => true,
        Want::Alpn => agreed == Some(b"h2"),
    };
    let io = TokioIo::new(raw.stream);
    let failed = |error: hyper::Error| Error::UpstreamProtocol(error.to_string().into());
    let config = &cluster.config;
    let sender = if http2 {
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(config.windows.0.unwrap_or(WINDOWS.0))
            .initial_connection_window_size(config.windows.1.unwrap_or(WINDOWS.1))
            .max_header_list_size(crate::http::DEFAULT_MAX_HEAD_BYTES)
            .max_send_buf_size(1 << 20);
        if let Some((interval, patience)) = config.http2_keepalive {
            // As Envoy does, whether a request is under way or not: a kept connection that is dead costs the next request.
            builder.keep_alive_interval(interval).keep_alive_timeout(patience).keep_alive_while_idle(true);
        }
        let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
        crate::runtime::spawn(async move {
            let _ = connection.await;
            drop(hold);
        });
        Sender::Http2(sender)
    } else {
        let (sender, connection) =
            http1::Builder::new().preserve_header_case(true).handshake(io).await.map_err(failed)?;
        crate::runtime::spawn(async move {
            let _ = connection.with_upgrades().await;
            drop(hold);
        });
        Sender::Http1(sender)
    };
    Ok(Dialed { sender, local: raw.local, tls: raw.tls, socket: raw.socket })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::xds::decode::{Context, cluster};

    #[tokio::test]
    async fn the_kernel_is_told_how_to_probe() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (options, expected) in [
            ("{}", (false, None)),
            (
                "{tcp_keepalive: {keepalive_probes: 3, keepalive_time: 600, keepalive_interval: 75}}",
                (true, Some((3, 600, 75))),
            ),
            ("{tcp_keepalive: {}}", (true, None)),
        ] {
            let raw = format!("{{name: a, type: STATIC, upstream_connection_options: {options}}}");
            let (config, _) =
                cluster::cluster(&mesh_proto::yaml::from_yaml(&raw).unwrap(), &Context::default()).unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            keepalive(&stream, &config);
            let socket = SockRef::from(&stream);
            assert_eq!(socket.keepalive().unwrap(), expected.0, "{options}");
            if let Some((probes, time, interval)) = expected.1 {
                let found =
                    (socket.tcp_keepalive_retries(), socket.tcp_keepalive_time(), socket.tcp_keepalive_interval());
                let wanted = (probes, Duration::from_secs(time), Duration::from_secs(interval));
                assert_eq!((found.0.unwrap(), found.1.unwrap(), found.2.unwrap()), wanted, "{options}");
            }
        }
    }
}
