//! Applications that tell what they saw: HTTP/1, h2c, gRPC and TLS on one handler, a TCP echo, and a server that speaks first.
//!
//! Answers are JSON. A request asks for more by its headers:
//!
//! | header | effect |
//! |---|---|
//! | `x-test-status: 503` | answers with that status |
//! | `x-test-delay: 250` | answers that many milliseconds later |
//! | `x-test-reset: 1` | breaks the connection (HTTP/1) or the stream (HTTP/2) instead of answering |
//! | `x-test-fail-first: 2` | the first two requests with the same `x-test-id` are answered with `x-test-status` or 503, or reset |
//! | `x-test-only: v1` | the other headers mean only this version |
//! | `x-test-header: name=value` | adds a response header |
//! | `x-test-grpc-status: 14` | gRPC status, in the trailers |

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::certs::Pair;

/// A running application. It stops, and cuts its connections, when dropped.
#[derive(Debug)]
pub struct App {
    /// HTTP/1, h2c and gRPC.
    pub http: SocketAddr,
    /// Echoes what it is sent, after `NAME VERSION: `.
    pub tcp: SocketAddr,
    /// Greets with `hello from NAME VERSION\n` before it is sent anything, and then echoes.
    pub greeting: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct State {
    name: String,
    version: String,
    /// Requests taken.
    requests: AtomicU64,
    /// Requests being answered now, and the most at once.
    running: AtomicU64,
    most: AtomicU64,
    connections: AtomicU64,
    /// Connections that are open now.
    open: AtomicU64,
    /// Requests by `x-test-id`.
    seen: Mutex<HashMap<String, u64>>,
}

/// What TLS told about a connection.
#[derive(Debug, Clone, Default)]
struct Secure {
    server_name: Option<String>,
    client_certificate: bool,
}

impl App {
    /// Starts one on free ports of the loopback address.
    pub async fn start(name: &str, version: &str) -> Result<Self> {
        let state = Arc::new(State {
            name: name.to_owned(),
            version: version.to_owned(),
            requests: AtomicU64::new(0),
            running: AtomicU64::new(0),
            most: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            seen: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let bind = async || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let (http, tcp, greeting) = (bind().await?, bind().await?, bind().await?);
        let addresses = (http.local_addr()?, tcp.local_addr()?, greeting.local_addr()?);
        let of_http = state.clone();
        tasks.spawn(accept(http, move |stream| serve_http(of_http.clone(), stream, None)));
        for (listener, greets) in [(tcp, false), (greeting, true)] {
            let state = state.clone();
            tasks.spawn(accept(listener, move |stream| serve_tcp(state.clone(), stream, greets)));
        }
        Ok(Self { http: addresses.0, tcp: addresses.1, greeting: addresses.2, state, _tasks: tasks })
    }

    /// Serves the same over TLS on another port; with `client_ca`, clients must show a certificate of it.
    pub async fn serve_tls(&mut self, pair: &Pair, client_ca: Option<&str>) -> Result<SocketAddr> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .context("protocol versions")?;
        let builder = match client_ca {
            Some(ca) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(ca.as_bytes())?)?;
                let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                builder.with_client_cert_verifier(verifier.build()?)
            }
            None => builder.with_no_client_auth(),
        };
        let chain = vec![CertificateDer::from_pem_slice(pair.cert.as_bytes())?];
        let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = self.state.clone();
        self._tasks.spawn(accept(listener, move |stream| {
            let (acceptor, state) = (acceptor.clone(), state.clone());
            async move {
                let stream = acceptor.accept(stream).await?;
                let session = stream.get_ref().1;
                let secure = Secure {
                    server_name: session.server_name().map(str::to_owned),
                    client_certificate: session.peer_certificates().is_some(),
                };
                serve_http(state, stream, Some(secure)).await
            }
        }));
        Ok(address)
    }

    /// Serves the same HTTP at a Unix socket.
    pub fn serve_unix(&mut self, path: &str) -> Result<()> {
        let listener = tokio::net::UnixListener::bind(path).with_context(|| path.to_owned())?;
        let state = self.state.clone();
        self._tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve_http(state.clone(), stream, None));
            }
        });
        Ok(())
    }

    /// Requests that reached it.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Requests that are being answered now.
    pub fn running(&self) -> u64 {
        self.state.running.load(Ordering::SeqCst)
    }

    /// The most requests that were answered at one time.
    pub fn most_at_once(&self) -> u64 {
        self.state.most.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> u64 {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Connections that reached it.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }
}

async fn accept<S, F>(listener: TcpListener, serve: S)
where
    S: Fn(tokio::net::TcpStream) -> F,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    // Those that fail are cut, which is what their peers are meant to see.
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        connections.spawn(serve(stream));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_tcp(state: Arc<State>, mut stream: tokio::net::TcpStream, greets: bool) -> io::Result<()> {
    state.connections.fetch_add(1, Ordering::SeqCst);
    let (name, version) = (&state.name, &state.version);
    if greets {
        stream.write_all(format!("hello from {name} {version}\n").as_bytes()).await?;
    }
    let mut buffer = vec![0; 16 * 1024];
    let mut first = !greets;
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        if std::mem::take(&mut first) {
            stream.write_all(format!("{name} {version}: ").as_bytes()).await?;
        }
        stream.write_all(&buffer[..count]).await?;
    }
}

async fn serve_http<S>(state: Arc<State>, stream: S, secure: Option<Secure>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
    state.open.fetch_add(1, Ordering::SeqCst);
    let _open = Counted(state.clone());
    let service = service_fn(move |request| answer(state.clone(), connection, secure.clone(), request));
    let builder = auto::Builder::new(TokioExecutor::new());
    builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await.map_err(io::Error::other)
}

type Body = BoxBody<Bytes, Infallible>;

/// The request was to be answered by breaking its connection.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("broken on request")
    }
}

impl std::error::Error for Broken {}

/// Counts a connection out, whatever its end.
struct Counted(Arc<State>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Counts a request out, whatever its end.
struct Running<'a>(&'a State);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(
    state: Arc<State>,
    connection: u64,
    secure: Option<Secure>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Broken> {
    state.requests.fetch_add(1, Ordering::SeqCst);
    let running = state.running.fetch_add(1, Ordering::SeqCst) + 1;
    state.most.fetch_max(running, Ordering::SeqCst);
    let _running = Running(&state);
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Broken)?.to_bytes();
    let wishes = Wishes::of(&state, &parts.headers);
    if let Some(delay) = wishes.delay {
        tokio::time::sleep(delay).await;
    }
    if wishes.reset {
        return Err(Broken);
    }
    let authority = parts.uri.authority().map(ToString::to_string);
    let host = parts.headers.get("host").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let seen = json!({
        "app": state.name,
        "version": state.version,
        "connection": connection,
        "method": parts.method.as_str(),
        "path": parts.uri.path_and_query().map(ToString::to_string),
        "authority": authority.or(host),
        "protocol": format!("{:?}", parts.version),
        "headers": headers(&parts.headers),
        "body": String::from_utf8_lossy(&body),
        "server_name": secure.as_ref().and_then(|secure| secure.server_name.clone()),
        "client_certificate": secure.as_ref().map(|secure| secure.client_certificate),
    });
    Ok(respond(&parts.headers, &wishes, &seen))
}

fn respond(headers: &HeaderMap, wishes: &Wishes, seen: &Value) -> Response<Body> {
    let is_grpc = headers.get("content-type").is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let text = seen.to_string();
    let body = if is_grpc {
        let mut frame = vec![0];
        frame.extend((text.len() as u32).to_be_bytes());
        frame.extend(text.as_bytes());
        let mut trailers = HeaderMap::new();
        let status = headers.get("x-test-grpc-status").cloned();
        trailers.insert("grpc-status", status.unwrap_or(HeaderValue::from_static("0")));
        Full::new(Bytes::from(frame)).with_trailers(async move { Some(Ok(trailers)) }).boxed()
    } else {
        Full::new(Bytes::from(text)).boxed()
    };
    let mut response = Response::new(body);
    *response.status_mut() = wishes.status;
    let kind = if is_grpc { "application/grpc" } else { "application/json" };
    response.headers_mut().insert("content-type", HeaderValue::from_static(kind));
    for (name, value) in &wishes.headers {
        response.headers_mut().append(name.clone(), value.clone());
    }
    response
}

fn headers(headers: &HeaderMap) -> Value {
    let mut all = serde_json::Map::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let joined = match all.get(name.as_str()).and_then(Value::as_str) {
            Some(before) => format!("{before},{value}"),
            None => value.into_owned(),
        };
        all.insert(name.to_string(), joined.into());
    }
    all.into()
}

/// What a request asks for.
struct Wishes {
    status: StatusCode,
    delay: Option<Duration>,
    reset: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Wishes {
    fn of(state: &State, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let number = |name: &str| text(name).and_then(|text| text.parse::<u64>().ok());
        let mut wishes = Self { status: StatusCode::OK, delay: None, reset: false, headers: Vec::new() };
        for value in headers.get_all("x-test-header") {
            let pair = value.to_str().ok().and_then(|text| text.split_once('='));
            if let Some((name, value)) = pair
                && let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                wishes.headers.push((name, value));
            }
        }
        if text("x-test-only").is_some_and(|version| version != state.version) {
            return wishes;
        }
        if let Some(first) = number("x-test-fail-first") {
            let mut seen = state.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let count = seen.entry(text("x-test-id").unwrap_or_default().to_owned()).or_default();
            *count += 1;
            if *count > first {
                return wishes;
            }
            wishes.status = StatusCode::SERVICE_UNAVAILABLE;
        }
        if let Some(status) = number("x-test-status").and_then(|status| StatusCode::from_u16(status as u16).ok()) {
            wishes.status = status;
        }
        wishes.delay = number("x-test-delay").map(Duration::from_millis);
        wishes.reset = text("x-test-reset").is_some();
        wishes
    }
}
