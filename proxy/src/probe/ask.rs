//! How the application is asked: HTTP, HTTPS without verification, TCP, and gRPC's health service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::header::{ACCEPT, HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use mesh_proto::probe::{Grpc, HttpGet};
use rustls_pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tonic::transport::Endpoint;

use super::{Answer, verify};

/// The most that is read of an answer, as by the kubelet.
const MAX_BODY: usize = 10 << 10;
/// Redirects that are followed, as by the kubelet.
const REDIRECTS: usize = 10;
/// Headers of the kubelet that the application sees unless the probe sets them.
const PASSED: [HeaderName; 2] = [USER_AGENT, ACCEPT];

/// A connection to the application.
///
/// It comes from the address that capture lets through to the application: from any other, a connection of the proxy's to its own pod is taken for one
/// that must come back through the proxy.
async fn connect(address: IpAddr, port: u16) -> Result<TcpStream> {
    let target = SocketAddr::new(address, port);
    let (socket, source) = match address {
        IpAddr::V4(_) => (TcpSocket::new_v4()?, IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6))),
        IpAddr::V6(_) => (TcpSocket::new_v6()?, IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6))),
    };
    // `::6` is there only where capture gave it to the loopback device; elsewhere nothing is captured.
    if let Err(error) = socket.bind(SocketAddr::new(source, 0)) {
        tracing::debug!(%error, "probes come from the pod's own address");
    }
    socket.connect(target).await.with_context(|| format!("cannot connect to {target}"))
}

/// True if the connection opens.
pub(super) async fn tcp(address: IpAddr, port: u16) -> Result<Answer> {
    connect(address, port).await?;
    Ok(Answer::new(StatusCode::OK, "connected\n"))
}

/// Asks by HTTP/1.1, and follows redirects that stay in the pod; one that leads elsewhere counts as success, as for the kubelet.
pub(super) async fn http(address: IpAddr, get: &HttpGet, kubelet: &HeaderMap) -> Result<Answer> {
    let secure = get.scheme == "HTTPS";
    let mut path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    for _ in 0..=REDIRECTS {
        let request = request(address, get, &path, kubelet)?;
        let stream = connect(address, get.port).await?;
        let response = if secure {
            let config = Arc::new(verify::config()?);
            let tls = tokio_rustls::TlsConnector::from(config).connect(ServerName::from(address), stream).await?;
            send(tls, request).await?
        } else {
            send(stream, request).await?
        };
        let (head, body) = response.into_parts();
        match head.headers.get(LOCATION).filter(|_| head.status.is_redirection()) {
            None => {
                let body = Limited::new(body, MAX_BODY).collect().await;
                // A long page is an answer, too.
                return Ok(Answer::new(head.status, body.map(|body| body.to_bytes().to_vec()).unwrap_or_default()));
            }
            Some(location) => match redirect(location, address, &path)? {
                Some(next) => path = next,
                None => return Ok(Answer::new(StatusCode::OK, "redirected elsewhere\n")),
            },
        }
    }
    bail!("more than {REDIRECTS} redirects")
}

/// Where a redirect leads in the pod; `None` if it leads elsewhere.
fn redirect(location: &HeaderValue, address: IpAddr, from: &str) -> Result<Option<String>> {
    let location = location.to_str().context("location")?;
    let uri: Uri = match location.parse() {
        Ok(uri) => uri,
        // Relative to the folder of the page before.
        Err(_) => {
            let folder = from.split('?').next().unwrap_or("/").rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{location}").parse().context("location")?
        }
    };
    let here = uri.host().is_none_or(|host| host.trim_matches(['[', ']']).parse() == Ok(address));
    Ok(here.then(|| uri.path_and_query().map_or("/", |path| path.as_str()).to_owned()))
}

fn request(address: IpAddr, get: &HttpGet, path: &str, kubelet: &HeaderMap) -> Result<Request<Empty<Bytes>>> {
    let mut request = Request::get(path).body(Empty::new()).with_context(|| format!("path `{path}`"))?;
    let headers = request.headers_mut();
    headers.insert(HOST, SocketAddr::new(address, get.port).to_string().parse()?);
    for name in PASSED {
        if let Some(value) = kubelet.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let mut own = HeaderMap::new();
    for header in &get.http_headers {
        let name: HeaderName = header.name.parse().with_context(|| format!("header `{}`", header.name))?;
        own.append(name, header.value.parse().with_context(|| format!("header `{}`", header.name))?);
    }
    for name in own.keys() {
        headers.remove(name);
    }
    headers.extend(own);
    Ok(request)
}

async fn send<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<http::Response<hyper::body::Incoming>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's body, or with the sender.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

/// `grpc.health.v1.HealthCheckRequest`. Source: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is SERVING.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks the standard health service.
pub(super) async fn grpc(address: IpAddr, grpc: &Grpc) -> Result<Answer> {
    let target = SocketAddr::new(address, grpc.port);
    let connector = tower::service_fn(move |_: Uri| async move {
        let stream = connect(target.ip(), target.port()).await.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(TokioIo::new(stream))
    });
    let channel = Endpoint::from_shared(format!("http://{target}"))?.connect_with_connector(connector).await?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await?;
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let question = HealthCheckRequest { service: grpc.service.clone().unwrap_or_default() };
    let answer = client.unary(tonic::Request::new(question), path, codec).await?;
    match answer.into_inner().status {
        1 => Ok(Answer::new(StatusCode::OK, "SERVING\n")),
        status => bail!("the health service says {}", if status == 2 { "NOT_SERVING" } else { "UNKNOWN" }),
    }
}
