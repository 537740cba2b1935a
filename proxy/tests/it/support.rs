//! The harness: starts proxies from bootstraps, applications on ports that the system chooses, and clients.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use mesh_proxy::app::{Options, Proxy};
use mesh_proxy::bootstrap::Bootstrap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// For everything that is awaited: a test that hangs should fail.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A body of an application.
pub type AnyBody = BoxBody<Bytes, Infallible>;

/// A fixed body.
pub fn full(text: impl Into<Bytes>) -> AnyBody {
    Full::new(text.into()).boxed()
}

/// An answer of an application.
pub fn answer(status: u16, text: impl Into<Bytes>) -> Response<AnyBody> {
    let mut response = Response::new(full(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// Starts a proxy with two workers from the text of a bootstrap, and waits until it is ready.
pub async fn proxy(yaml: &str) -> Proxy {
    proxy_with(yaml, 2).await
}

/// The same with so many workers; each has connections of its own.
pub async fn proxy_with(yaml: &str, workers: usize) -> Proxy {
    let bootstrap = Bootstrap::from_yaml(yaml).unwrap_or_else(|error| panic!("{error}\n{yaml}"));
    let proxy = Proxy::start(bootstrap, Options { workers }).await.unwrap();
    within(proxy.ready()).await;
    proxy
}

/// Awaits, but not for ever.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("took too long")
}

/// Asks again until `check` holds.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !check().await {
        assert!(tokio::time::Instant::now() < until, "{what} did not come true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The head of an HTTP bootstrap: one listener `front`, plaintext.
pub struct Front {
    /// Further fields of the connection manager.
    pub manager: String,
    /// Routes, in flow style.
    pub routes: String,
    /// Clusters, in flow style.
    pub clusters: String,
}

impl Front {
    /// Everything goes to one address.
    pub fn to(address: SocketAddr) -> Self {
        Self {
            manager: String::new(),
            routes: "{match: {prefix: /}, route: {cluster: backend}}".into(),
            clusters: cluster("backend", &[address], ""),
        }
    }

    /// Other routes.
    pub fn routes(mut self, routes: &str) -> Self {
        self.routes = routes.into();
        self
    }

    /// Other clusters.
    pub fn clusters(mut self, clusters: &str) -> Self {
        self.clusters = clusters.into();
        self
    }

    /// Further fields of the connection manager, in flow style with a comma after each.
    pub fn manager(mut self, fields: &str) -> Self {
        self.manager = fields.into();
        self
    }

    /// The bootstrap.
    pub fn yaml(&self) -> String {
        format!(
            "{{admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, static_resources: {{listeners: [{}], clusters: [{}]}}}}",
            listener("front", &http_filter(&self.manager, &self.routes)),
            self.clusters
        )
    }

    /// A proxy of it, and where it listens.
    pub async fn start(&self) -> (Proxy, SocketAddr) {
        let proxy = proxy(&self.yaml()).await;
        let address = proxy.listener_addr("front").unwrap();
        (proxy, address)
    }
}

/// A listener on port 0 with one chain of one filter.
pub fn listener(name: &str, filter: &str) -> String {
    format!(
        "{{name: {name}, address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}, filter_chains: [{{filters: [{filter}]}}]}}"
    )
}

/// A connection manager with inline routes.
pub fn http_filter(manager: &str, routes: &str) -> String {
    format!(
        "{{name: http, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: front, {manager} route_config: {{name: inline, virtual_hosts: [{{name: all, domains: ['*'], routes: [{routes}]}}]}}, http_filters: [{ROUTER}]}}}}"
    )
}

/// The router filter.
pub const ROUTER: &str =
    "{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

/// A static cluster; `more` is further fields, each with a comma before.
pub fn cluster(name: &str, addresses: &[SocketAddr], more: &str) -> String {
    let endpoints: Vec<String> = addresses
        .iter()
        .map(|address| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}",
                address.ip(),
                address.port()
            )
        })
        .collect();
    format!(
        "{{name: {name}, type: STATIC, connect_timeout: 2s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{}]}}]}}{more}}}",
        endpoints.join(", ")
    )
}

/// A cluster's field: HTTP/2 to endpoints.
pub const HTTP2: &str = ", typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}";

/// An application that speaks HTTP/1 and HTTP/2, on a port of the system's choice.
pub async fn application<F, R>(handler: F) -> Application
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<AnyBody>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let requests = Arc::new(AtomicUsize::new(0));
    let counts = (connections.clone(), requests.clone());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counts.0.fetch_add(1, Ordering::SeqCst);
            let (handler, requests) = (handler.clone(), counts.1.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    requests.fetch_add(1, Ordering::SeqCst);
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let mut builder = auto::Builder::new(TokioExecutor::new());
                builder.http2().enable_connect_protocol();
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    Application { address, connections, requests }
}

/// A running application.
pub struct Application {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Application {
    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// An application that answers every request with a text.
pub async fn says(text: &'static str) -> Application {
    application(move |_| async move { answer(200, text) }).await
}

/// What came back.
#[derive(Debug)]
pub struct Got {
    /// Status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: String,
    /// Trailers.
    pub trailers: Option<HeaderMap>,
    /// Version.
    pub version: Version,
}

/// Sends a request on a new HTTP/1 connection.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Got {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let got = collect(within(sender.send_request(request)).await.unwrap()).await;
    connection.abort();
    got
}

/// A client of HTTP/2 with prior knowledge.
pub async fn http2(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<AnyBody> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Reads a response whole.
pub async fn collect<B>(response: Response<B>) -> Got
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (head, body) = response.into_parts();
    let body = within(body.collect()).await.unwrap();
    let trailers = body.trailers().cloned();
    Got {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        trailers,
        version: head.version,
    }
}

/// A GET with a `Host`.
pub fn request(path: &str) -> Request<Full<Bytes>> {
    request_of(Method::GET, path, "")
}

/// A request with a body.
pub fn request_of(method: Method, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).header("host", "example.com").body(Full::new(body.into())).unwrap()
}

/// GET on a new connection.
pub async fn get(address: SocketAddr, path: &str) -> Got {
    send(address, request(path)).await
}

/// Writes bytes and reads what comes until the other side closes or nothing comes for a while.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    let _ = tokio::time::timeout(Duration::from_millis(700), stream.read_to_end(&mut all)).await;
    String::from_utf8_lossy(&all).into_owned()
}

/// A counter of the proxy, as `/stats` tells it.
pub async fn stat(proxy: &Proxy, name: &str) -> Option<u64> {
    let all = get(proxy.admin_addr().unwrap(), "/stats").await.body;
    let line = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))?;
    line.parse().ok()
}
