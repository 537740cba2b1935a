//! The proxy's own servers: admin on loopback (Envoy's paths), readiness, Prometheus, and the merged metrics of proxy and application.
//!
//! Runs on the control thread. Every answer is computed from shared state; no path touches a request.

mod certs;
mod clusters;
mod dump;
mod stats;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::app::Running;
use crate::bootstrap::ApplicationMetrics;
use crate::logging;
use crate::probe::Probes;

/// The most that is read of the application's metrics, in bytes.
const MAX_METRICS: usize = 64 << 20;
/// How long the application may take to tell its metrics.
const SCRAPE: Duration = Duration::from_secs(5);

/// Which of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Everything.
    Admin,
    /// `/healthz/ready`.
    Status,
    /// `/stats/prometheus` of the proxy.
    Prometheus,
    /// `/stats/prometheus` of proxy and application, and the agent's duties.
    Merged,
}

/// Where the servers really listen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Addresses {
    /// Admin.
    pub admin: Option<SocketAddr>,
    /// Readiness.
    pub status: Option<SocketAddr>,
    /// Metrics of the proxy.
    pub prometheus: Option<SocketAddr>,
    /// Metrics of both.
    pub merged: Option<SocketAddr>,
}

/// Opens a server; it runs until `stop`.
pub async fn serve(
    door: Door,
    address: SocketAddr,
    running: Arc<Running>,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let actual = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, ?door, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (running, stop) = (running.clone(), stop.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = connection(door, stream, running) => {}
                }
            });
        }
    });
    Ok(actual)
}

async fn connection(door: Door, stream: TcpStream, running: Arc<Running>) {
    let local = stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback());
    let service = service_fn(move |request: Request<Incoming>| {
        let running = running.clone();
        async move { Ok::<_, Infallible>(answer(door, local, &request, &running).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(60))
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection");
    }
}

type Answer = Response<Full<Bytes>>;

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response.headers_mut().insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache, max-age=0"));
    response
}

fn text(body: impl Into<Bytes>) -> Answer {
    reply(StatusCode::OK, "text/plain; charset=UTF-8", body)
}

fn refuse(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    reply(status, "text/plain; charset=UTF-8", body)
}

fn json(value: &serde_json::Value) -> Answer {
    let body = serde_json::to_string_pretty(value).unwrap_or_default();
    reply(StatusCode::OK, "application/json", body + "\n")
}

/// Parameters of a query.
#[derive(Debug)]
struct Query(Vec<(String, String)>);

impl Query {
    fn of(query: Option<&str>) -> Self {
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(key, value)| (decode(key), decode(value)))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "false")
    }

    fn wants_json(&self) -> bool {
        self.get("format") == Some("json")
    }
}

const HELP: &str = "admin commands are:
  /: this list
  /certs: certificates in use, with their expiry
  /clusters: clusters and their endpoints (?format=json)
  /config_dump: everything configured (?include_eds, ?resource=KIND)
  /drain_listeners (POST): take no new connections, let those that stand finish
  /help: this list
  /listeners: listeners and their addresses (?format=json)
  /logging (POST): levels of the log (?level=LEVEL, ?paths=MODULE:LEVEL,...)
  /quitquitquit (POST): end the proxy in order
  /ready: 200 when it can serve
  /server_info: version, state, uptime
  /stats: counters in text (?format=json|prometheus, ?filter=REGEX, ?usedonly)
  /stats/prometheus: counters and Istio's metrics for Prometheus
";

/// `local` says that the caller is on this machine, or in this pod.
async fn answer(door: Door, local: bool, request: &Request<Incoming>, running: &Arc<Running>) -> Answer {
    let query = Query::of(request.uri().query());
    let path = request.uri().path();
    let changes = matches!(path, "/quitquitquit" | "/drain_listeners" | "/drain" | "/logging");
    if changes && request.method() != Method::POST {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, format!("{path} changes something; use POST\n"));
    }
    if changes && door == Door::Merged && !local {
        return refuse(StatusCode::FORBIDDEN, format!("{path} is for callers in the pod, by 127.0.0.1\n"));
    }
    if !changes && !matches!(*request.method(), Method::GET | Method::HEAD) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, format!("{path} only tells; use GET\n"));
    }
    match (door, path) {
        (Door::Status | Door::Merged, "/healthz/ready") | (Door::Admin, "/ready") => readiness(running),
        (Door::Admin | Door::Prometheus, "/stats/prometheus") => prometheus(stats::prometheus(running)),
        (Door::Prometheus, "/metrics") => prometheus(stats::prometheus(running)),
        (Door::Merged, "/stats/prometheus" | "/metrics") => merged(running).await,
        (Door::Merged, path) if Probes::is_path(path) => {
            let found = running.bootstrap.probes.answer(path, request.headers()).await;
            reply(found.status, "text/plain; charset=utf-8", found.body)
        }
        (Door::Admin | Door::Merged, "/quitquitquit") => {
            running.quit.cancel();
            text("OK\n")
        }
        (Door::Admin, "/drain_listeners") | (Door::Merged, "/drain") => {
            running.drain.advance(crate::drain::Phase::Draining);
            text("OK\n")
        }
        (Door::Admin, path) => admin(path, &query, running),
        _ => refuse(StatusCode::NOT_FOUND, "not found\n"),
    }
}

fn admin(path: &str, query: &Query, running: &Arc<Running>) -> Answer {
    match path {
        "/" | "/help" => text(HELP),
        "/config_dump" => match dump::config_dump(running, query) {
            Ok(dump) => json(&dump),
            Err(error) => refuse(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        "/clusters" if query.wants_json() => json(&clusters::as_json(running)),
        "/clusters" => text(clusters::as_text(running)),
        "/listeners" => listeners(running, query),
        "/server_info" => json(&server_info(running)),
        "/certs" => json(&certs::certs(running)),
        "/stats" => match stats::stats(running, query) {
            Ok(stats::Shape::Text(body)) => text(body),
            Ok(stats::Shape::Json(value)) => json(&value),
            Ok(stats::Shape::Prometheus(body)) => prometheus(body),
            Err(error) => refuse(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        "/logging" => levels(query),
        _ => refuse(StatusCode::NOT_FOUND, format!("invalid path. {HELP}")),
    }
}

fn readiness(running: &Running) -> Answer {
    if running.is_ready() {
        text("LIVE\n")
    } else {
        refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", state(running)))
    }
}

/// Envoy's words for a server's state.
fn state(running: &Running) -> &'static str {
    if running.drain.phase() != crate::drain::Phase::Running {
        "DRAINING"
    } else if running.is_ready() {
        "LIVE"
    } else {
        "INITIALIZING"
    }
}

fn prometheus(body: String) -> Answer {
    reply(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

async fn merged(running: &Running) -> Answer {
    let mut body = stats::prometheus(running);
    if let Some(application) = &running.bootstrap.application {
        match scrape(application).await {
            Ok(metrics) => {
                if !body.ends_with('\n') {
                    body.push('\n');
                }
                body.push_str(&metrics);
            }
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    port = application.port,
                    "cannot read the application's metrics"
                );
                running
                    .metrics
                    .counter("istio_agent_scrape_failures_total", vec![metrics::Label::new("type", "application")])
                    .increment(1);
            }
        }
    }
    prometheus(body)
}

async fn scrape(application: &ApplicationMetrics) -> anyhow::Result<String> {
    let address = SocketAddr::from(([127, 0, 0, 1], application.port));
    let (status, body) = fetch(address, &application.path, SCRAPE).await?;
    anyhow::ensure!(status.is_success(), "{status}");
    let text = String::from_utf8(body.to_vec())?;
    // The end mark of OpenMetrics must not stand in the middle.
    Ok(text.lines().filter(|line| *line != "# EOF").flat_map(|line| [line, "\n"]).collect())
}

/// One GET on a connection of its own: status and body.
pub async fn fetch(address: SocketAddr, path: &str, patience: Duration) -> anyhow::Result<(StatusCode, Bytes)> {
    let fetching = async {
        let stream = TcpStream::connect(address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::get(path)
            .header(http::header::HOST, address.to_string())
            .header(http::header::ACCEPT, "text/plain")
            .body(Empty::<Bytes>::new())?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_METRICS).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        connection.abort();
        Ok((head.status, body.to_bytes()))
    };
    tokio::time::timeout(patience, fetching).await?
}

fn listeners(running: &Running, query: &Query) -> Answer {
    let bound = running.workers.addresses();
    if query.wants_json() {
        let statuses: Vec<_> = bound
            .iter()
            .map(|(name, address)| {
                serde_json::json!({"name": &**name, "local_address": {"socket_address": {
                    "address": address.ip().to_string(), "port_value": address.port()}}})
            })
            .collect();
        return json(&serde_json::json!({"listener_statuses": statuses}));
    }
    text(bound.iter().map(|(name, address)| format!("{name}::{address}\n")).collect::<String>())
}

fn server_info(running: &Running) -> serde_json::Value {
    let uptime = format!("{}s", running.started.0.elapsed().as_secs());
    let node = mesh_proto::yaml::to_json(&running.bootstrap.node).unwrap_or_default();
    serde_json::json!({
        "version": concat!("ferromesh/", env!("CARGO_PKG_VERSION")),
        "state": state(running),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "command_line_options": {
            "concurrency": running.concurrency,
            "drain_time": format!("{}s", running.bootstrap.drain.as_secs()),
        },
        "node": node,
    })
}

/// `?level=debug`, `?paths=xds:debug,http:info` or `?xds=debug`, as Envoy's loggers are set.
fn levels(query: &Query) -> Answer {
    let mut directives: Vec<String> = Vec::new();
    for (key, value) in &query.0 {
        match key.as_str() {
            "level" => directives.insert(0, value.clone()),
            "paths" => directives.extend(value.split(',').map(|pair| pair.replacen(':', "=", 1))),
            module => directives.push(format!("{module}={value}")),
        }
    }
    let qualified: Vec<String> = directives
        .iter()
        .map(|directive| match directive.split_once('=') {
            Some((module, level)) if !module.contains("::") => format!("mesh_proxy::{module}={level}"),
            _ => directive.clone(),
        })
        .collect();
    if !qualified.is_empty() {
        let mut all = qualified.join(",");
        if !qualified.iter().any(|directive| !directive.contains('=')) {
            all.push_str(",info");
        }
        if let Err(error) = logging::set(&all) {
            return refuse(StatusCode::BAD_REQUEST, format!("{error}\n"));
        }
    }
    text(format!("active loggers:\n  {}\n", logging::current().unwrap_or_else(|| "not ours".to_owned())))
}
